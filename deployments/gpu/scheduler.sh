#!/usr/bin/env bash
# The scheduler of a cluster of several machines, on one of them:
#     scheduler.sh FOLDER
# FOLDER is on a disk that all machines share, and holds tls/ (deployments/make-certificates.sh FOLDER/tls). Where it
# listens is written to FOLDER/scheduler.json. The dashboard listens on loopback: ssh -L 8787:127.0.0.1:8787 THIS_MACHINE,
# then http://127.0.0.1:8787/stabdask shows how far a run is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deployments/gpu/settings.sh
source "$here/settings.sh"

[ $# -eq 1 ] || fail "usage: scheduler.sh FOLDER"
folder=$(cd "$1" && pwd)
need dask "activate the environment that stabdask is installed in"
use_tls "$folder/tls"
where=()
[ -z "${INTERFACE:-}" ] || where=(--interface "$INTERFACE")
exec dask scheduler --protocol tls --port "${PORT:-8786}" "${where[@]}" \
    --scheduler-file "$folder/scheduler.json" --dashboard-address "127.0.0.1:${DASHBOARD_PORT:-8787}" \
    --preload stabdask.live.preload
