#!/bin/sh
# Start a SLURM of two nodes on this host and try the submissions in deployments/slurm on it; takes root on a Debian
# (packages that lack are installed with apt-get) and about five minutes. Needs: pip install ".[test,slurm]"
exec "${PYTHON:-python3}" -m pytest -m slurm -n 0 -s "$(dirname "$0")" "$@"
