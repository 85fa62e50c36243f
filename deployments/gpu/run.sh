#!/usr/bin/env bash
# One run on a cluster of several machines, from any of them:
#     run.sh FOLDER atlas.h5ad --field model.h5sch --store out.zarr --layer M_t --cluster-key cell_type
# FOLDER is that of scheduler.sh; the rest are arguments of 'stabdask run', whose paths all machines must see.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deployments/gpu/settings.sh
source "$here/settings.sh"

[ $# -gt 1 ] || fail "usage: run.sh FOLDER ATLAS --field MODEL --store STORE [more of 'stabdask run --help']"
folder=$(cd "$1" && pwd)
shift
need stabdask "activate the environment it is installed in"
need python3 "stabdask needs it too"
use_tls "$folder/tls"
[ -s "$folder/scheduler.json" ] || fail "no $folder/scheduler.json; is scheduler.sh running?"
address=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$folder/scheduler.json")
exec stabdask run "$@" --backend "${BACKEND:-cuda}" --cluster "$address"
