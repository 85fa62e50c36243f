"""Dask clusters for a run: on this host, on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["cpu_count", "dashboard_url", "local_client"]

_DASHBOARD_PORT = 8787


def cpu_count() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local_client(*, n_workers: int, memory_limit: int | None, dashboard: bool = True) -> Iterator[Client]:
    """Start worker processes on this host and give a client of them; all end with the block.

    Scheduler, workers and dashboard listen on loopback only. Each worker has one thread, and BLAS in it too.

    Parameters
    ----------
    n_workers
        Number of worker processes.
    memory_limit
        Bytes per worker at which Dask restarts it; Dask's default if None.
    dashboard
        Whether to serve Dask's dashboard, at port 8787 if that is free.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # A partition is computed where it is and writes its own results: nothing to steal or to spill.
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.allowed-failures": 3,
        "distributed.comm.retry.count": 3,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.nanny.pre-spawn-environ": {
            "OMP_NUM_THREADS": 1,
            "OPENBLAS_NUM_THREADS": 1,
            "MKL_NUM_THREADS": 1,
            # Keep freed memory for the next batch. Dask's default gives it back at once, and mapping it anew
            # each time takes as long as the work itself (tests/benchmarks/bench_malloc.py).
            "MALLOC_TRIM_THRESHOLD_": 512 * 2**20,
            "MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
            "MALLOC_ARENA_MAX": 1,
        },
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_free_port(_DASHBOARD_PORT)}" if dashboard else None,
            memory_limit=memory_limit if memory_limit is not None else "auto",
            silence_logs="ERROR",
        )
        with cluster, Client(cluster) as client:
            yield client


def dashboard_url(client: Client) -> str | None:
    """Return the address of the dashboard of a client's cluster, or None if it has none."""
    link = getattr(client, "dashboard_link", None)
    return str(link) if link and ":0/" not in str(link) else None


def _free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there on loopback, else 0 (any)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted
