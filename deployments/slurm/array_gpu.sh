#!/bin/bash
# As array.sh, with one GPU for each task, which computes everything. Jobs of a partition with GPUs, e.g.
#
#     SBATCH_PARTITION=gpu STORE=/scratch/me/out.zarr TASKS=4 bash array_gpu.sh \
#         /data/atlas.h5ad --field /data/model.h5sch --layer M_t --cluster-key cell_type
#
# GRES (gpu:1), CPUS (2) and MEMORY_PER_CPU (8000) have other defaults here; all else is as in array.sh.
# stabdask needs its extra cuda12 or cuda13. The init job asks for a GPU too: it checks that one can be used.
# Results differ from those of CPUs in the last bits: a store begun on GPUs is finished on GPUs.
set -euo pipefail
export GRES=${GRES:-gpu:1} CPUS=${CPUS:-2} MEMORY_PER_CPU=${MEMORY_PER_CPU:-8000}
exec bash "$(dirname "$0")/array.sh" "$@"
