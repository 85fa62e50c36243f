#!/usr/bin/env bash
# One run on the GPUs of this machine, all of them or those in CUDA_VISIBLE_DEVICES:
#     one-node.sh atlas.h5ad --field model.h5sch --store out.zarr --layer M_t --cluster-key cell_type
# Arguments are those of 'stabdask run'. The same line again resumes. Scheduler, workers and dashboard listen on loopback.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deployments/gpu/settings.sh
source "$here/settings.sh"

[ $# -gt 0 ] || fail "usage: one-node.sh ATLAS --field MODEL --store STORE [more of 'stabdask run --help']"
need stabdask "activate the environment it is installed in: pip install 'stabdask[cuda13]'"
n_gpus=$(visible_gpus)
stabdask doctor --scratch "${SCRATCH:-.}" >&2 || fail "'stabdask doctor' finds this machine wanting; see above"
# Each worker takes its memory from an RMM pool, where RMM is installed, which stabdask sizes and says.
exec stabdask run "$@" --gpu --workers "${N_WORKERS:-$n_gpus}"
