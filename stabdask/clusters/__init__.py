"""Dask clusters for a run: on this host, on SLURM, on Kubernetes, or one that runs already."""

from stabdask.clusters.local import (
    gpu_client,
    gpu_cluster_problem,
    local_client,
    start_early,
    worker_gpus,
)
from stabdask.clusters.presets import cluster

__all__ = [
    "cluster",
    "gpu_client",
    "gpu_cluster_problem",
    "local_client",
    "start_early",
    "worker_gpus",
]
