#!/bin/bash
# A run as an array job: no scheduler process, no network between the jobs, only a file system they share.
#
#     STORE=/scratch/me/out.zarr TASKS=20 bash array.sh \
#         /data/atlas.h5ad --field /data/model.h5sch --layer M_t --cluster-key cell_type
#
# Submits three jobs and prints their numbers:
#   init      checks everything and makes the store, which remembers all arguments
#   tasks     an array of TASKS jobs, each computing its share of the partitions (after init, if that went well)
#   finalize  says whether every partition is there, and prints the report (after all tasks, however they went)
#
# Submitting again with the same arguments resumes: what has a receipt is not computed again.
#
# Where (SLURM reads these by itself): SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_QOS.
# How much:
#   TASKS           array tasks (10)
#   CPUS            cores of each task, one worker process on each (4)
#   MEMORY_PER_CPU  megabytes for each core (3000)
#   GRES            e.g. gpu:1 for tasks with a GPU, which then computes (none); see array_gpu.sh
# What:
#   STORE           where the results go; all nodes have to see it, and the atlas, at the same path
#   STABDASK        the command (stabdask), e.g. /home/me/venv/bin/stabdask
#   SETUP           file to source in each job before that, e.g. with 'module load' lines (none)
#   LOGS            folder for what the jobs say (stabdask-logs)
set -euo pipefail

: "${STORE:?set STORE to where the results go}"
TASKS=${TASKS:-10}
CPUS=${CPUS:-4}
MEMORY_PER_CPU=${MEMORY_PER_CPU:-3000}
GRES=${GRES:-}
STABDASK=${STABDASK:-stabdask}
LOGS=${LOGS:-stabdask-logs}
[ -z "${SETUP:-}" ] || . "$SETUP"

on_gpu=()
[ -z "$GRES" ] || on_gpu=(--gpu)

case "${1:-}" in
@init)
    shift
    exec "$STABDASK" init "$@" --store "$STORE" "${on_gpu[@]}"
    ;;
@task)
    # A GPU task has one worker for each of its GPUs, any other one for each core, in the one process if it has one core.
    workers=()
    [ -n "$GRES" ] || workers=(--workers $((CPUS > 1 ? CPUS : 0)))
    exec "$STABDASK" run --store "$STORE" --task "$SLURM_ARRAY_TASK_ID" --n-tasks "$TASKS" \
        "${workers[@]}" "${on_gpu[@]}" --memory "$((CPUS * MEMORY_PER_CPU))MiB" --no-dashboard --quiet
    ;;
@finalize)
    exec "$STABDASK" finalize --store "$STORE"
    ;;
esac

mkdir -p "$LOGS"
export STORE TASKS CPUS MEMORY_PER_CPU GRES STABDASK LOGS SETUP="${SETUP:-}"
submit=(sbatch --parsable --export=ALL)
small=(--cpus-per-task=1 --mem="$MEMORY_PER_CPU")
gres=()
[ -z "$GRES" ] || gres=(--gres="$GRES")

init=$("${submit[@]}" --job-name=stabdask-init --output="$LOGS/init-%j.out" "${small[@]}" "${gres[@]}" "$0" @init "$@")
# A task that is preempted, or whose node fails, is queued again, and goes on where it was.
tasks=$("${submit[@]}" --job-name=stabdask-task --output="$LOGS/task-%A_%a.out" --array="0-$((TASKS - 1))" --requeue \
    --cpus-per-task="$CPUS" --mem-per-cpu="$MEMORY_PER_CPU" "${gres[@]}" \
    --dependency="afterok:$init" --kill-on-invalid-dep=yes "$0" @task)
finalize=$("${submit[@]}" --job-name=stabdask-finalize --output="$LOGS/finalize-%j.out" "${small[@]}" \
    --dependency="afterany:$tasks" "$0" @finalize)
echo "init $init tasks $tasks finalize $finalize"
