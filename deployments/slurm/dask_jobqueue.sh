#!/bin/bash
# A run whose workers are SLURM jobs that come and go, with progress and a dashboard; this job runs the client and the
# scheduler, and submits the others:
#
#     STORE=/scratch/me/out.zarr CLUSTER=cluster.yaml WORKERS=20 sbatch dask_jobqueue.sh \
#         /data/atlas.h5ad --field /data/model.h5sch --layer M_t --cluster-key cell_type
#
# Submit it again with the same arguments to resume. Its time limit is that of the whole run; workers have their own.
#   WORKERS   how many (4), or ADAPTIVE=0:50 for as many as there is work for
#   CLUSTER   file with what a worker job needs (slurm: one core, 4 GB, one hour); see cluster.yaml, cluster_gpu.yaml
#   STABDASK, SETUP   as in array.sh
#SBATCH --job-name=stabdask-client
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --output=stabdask-client-%j.out
set -euo pipefail

: "${STORE:?set STORE to where the results go}"
[ -z "${SETUP:-}" ] || . "$SETUP"
if [ -n "${ADAPTIVE:-}" ]; then size=(--adaptive "$ADAPTIVE"); else size=(--workers "${WORKERS:-4}"); fi

# exec: what SLURM sends this job reaches stabdask, which ends its workers and says that it can be resumed.
exec "${STABDASK:-stabdask}" run "$@" --store "$STORE" --cluster "${CLUSTER:-slurm}" "${size[@]}"
