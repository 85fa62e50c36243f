#!/usr/bin/env bash
# The workers of one machine of several, one on each of its GPUs, all of them or those in CUDA_VISIBLE_DEVICES:
#     workers.sh FOLDER
# FOLDER is that of scheduler.sh. RMM_POOL_SIZE sets the first size of each worker's pool (1GiB); empty, there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deployments/gpu/settings.sh
source "$here/settings.sh"

[ $# -eq 1 ] || fail "usage: workers.sh FOLDER"
folder=$(cd "$1" && pwd)
need dask "activate the environment that stabdask is installed in: pip install 'stabdask[cuda13]'"
use_tls "$folder/tls"
n_gpus=$(visible_gpus)
for ((waited = 0; ; waited++)); do
    [ ! -s "$folder/scheduler.json" ] || break
    [ "$waited" -lt "${PATIENCE_S:-120}" ] || fail "no $folder/scheduler.json after $waited s; is scheduler.sh running?"
    sleep 1
done
options=(--scheduler-file "$folder/scheduler.json" --protocol tls --nthreads 1 --no-dashboard --death-timeout 120
    --local-directory "${TMPDIR:-/tmp}")
[ -z "${INTERFACE:-}" ] || options+=(--interface "$INTERFACE")
[ -z "${MEMORY_LIMIT:-}" ] || options+=(--memory-limit "$MEMORY_LIMIT")
pool=${RMM_POOL_SIZE-1GiB}
[ -z "$pool" ] || options+=(--rmm-pool-size "$pool" --set-rmm-allocator-for-libs cupy)
say "$n_gpus workers for $folder/scheduler.json"
exec dask cuda worker "${options[@]}"
