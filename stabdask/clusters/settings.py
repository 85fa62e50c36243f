"""Settings of Dask that suit runs, and how workers get them that this process does not start itself."""

from __future__ import annotations

from typing import Any

from stabdask.schema import PLUGINS_VARIABLE, plugin_names

__all__ = ["SETTINGS", "remote_environment", "worker_environment"]

SETTINGS: dict[str, Any] = {
    # A partition is computed where it is and writes its own results: nothing to steal or to spill.
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.allowed-failures": 3,
    # A worker that no longer answers is replaced within two minutes (Dask's default: ten). Kernels and reading leave
    # its event loop free, so that it answers however long a partition takes.
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.comm.retry.count": 3,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Dask samples what workers do, and how quick event loops are, for its dashboard: at its defaults, 10 and 20 ms,
    # that takes 4 % of a worker's time.
    "distributed.worker.profile.interval": "100ms",
    "distributed.admin.tick.interval": "200ms",
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


def worker_environment() -> dict[str, str]:
    """Return the environment variables that worker processes start with."""
    return {name: str(value) for name, value in SETTINGS["distributed.nanny.pre-spawn-environ"].items()}


def remote_environment() -> dict[str, str]:
    """Return `worker_environment` and the other settings as variables, for processes that others start elsewhere.

    Examples
    --------
    >>> found = remote_environment()
    >>> found["OMP_NUM_THREADS"], found["DASK_DISTRIBUTED__WORKER__MEMORY__SPILL"]
    ('1', 'False')
    """
    settings = {
        "DASK_" + name.upper().replace(".", "__").replace("-", "_"): str(value)
        for name, value in SETTINGS.items()
        if not isinstance(value, dict)
    }
    plugins = {PLUGINS_VARIABLE: ",".join(plugin_names())} if plugin_names() else {}
    return {**worker_environment(), **settings, **plugins}
