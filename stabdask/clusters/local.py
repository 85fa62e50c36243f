"""Dask clusters on this host: workers on its cores or one on each of its GPUs."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stabdask.clusters.dashboard import dashboard_address, note_dashboard, page_settings
from stabdask.clusters.security import is_loopback, temporary_security
from stabdask.clusters.settings import SETTINGS, worker_environment
from stabdask.errors import BackendUnavailableError, ClusterError, UsageError
from stabdask.kernels.device import GPU_INSTALL_HINT, Gpu, import_problem, require_gpus

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "gpu_client",
    "gpu_cluster_problem",
    "local_client",
    "start_early",
    "worker_gpus",
]

_POOL_BYTES = 2**30
"""First size of a worker's RMM pool, which grows when more is needed: a GPU may be shared."""

_START_S = 10.0
"""How long workers on GPUs may still take to report once the cluster says that it has started."""

_PRELOADED = (
    "distributed",
    "distributed.nanny",
    "distributed.worker",
    "stabdask.runs.partition",
    "scipy.sparse",
    "zarr",
    "h5py",
)
_started_early = False
_EARLY = {"distributed.worker.multiprocessing-method": "forkserver"}


def start_early() -> None:
    """Begin what worker processes of `local_client` will be forked from, while this process does other things.

    One server process imports what workers need, on another core; they then start at once. It begins with the
    environment that workers are to have. For programs of their own (the command line): in a process that has
    started other servers or workers already, nothing changes.
    """
    import multiprocessing
    from multiprocessing import forkserver

    global _started_early
    if _started_early or os.name != "posix":
        return
    environment = worker_environment()
    # Import what this process imports, not a package that happens to lie in the current folder.
    environment["PYTHONSAFEPATH"] = "1"
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
        with _interrupts_ignored():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    _started_early = True


@contextmanager
def local_client(
    *,
    n_workers: int,
    memory_limit: int | None,
    dashboard: bool = True,
    host: str = "127.0.0.1",
    adaptive: tuple[int, int] | None = None,
    default: bool = True,
) -> Iterator[Client]:
    """Start worker processes on this host and give a client of them; all end with the block.

    Each worker has one thread, and BLAS in it too.

    Parameters
    ----------
    n_workers
        Number of worker processes.
    memory_limit
        Bytes per worker at which Dask restarts it; Dask's default if None.
    dashboard
        Whether to serve Dask's dashboard and the live page on loopback, at port 8787 if that is free.
    host
        Address that scheduler and workers listen at. If it is not loopback, only clients with the certificate of
        this cluster, made for it, can connect.
    adaptive
        Fewest and most workers, started and ended as there is work, in place of `n_workers`.
    default
        Whether whatever else is computed with Dask meanwhile goes to these workers too.

    Raises
    ------
    UsageError
        In a worker process, which imports the script that starts it.
    ClusterError
        If the worker processes do not start.
    """
    import dask
    from distributed import Client, LocalCluster

    _refuse_while_imported()
    how = _listening(memory_limit, dashboard, host)
    with dask.config.set(SETTINGS | page_settings(dashboard) | (_EARLY if _started_early else {})):
        try:
            cluster = LocalCluster(n_workers=adaptive[0] if adaptive else n_workers, processes=True, **how)
        except RuntimeError as error:  # of its nannies
            raise ClusterError(f"the worker processes did not start ({error}); {_GUARD}") from error
        with cluster, Client(cluster, set_as_default=default) as client:
            if adaptive is not None:
                cluster.adapt(minimum=adaptive[0], maximum=adaptive[1])
            client.register_plugin(_quiet_end(), name="stabdask-quiet-end")
            note_dashboard(client, dashboard)
            yield client


_GUARD = (
    "in a script, put what starts them under if __name__ == '__main__':, because each imports the script; "
    "workers=0 computes in one process"
)


def _refuse_while_imported() -> None:
    """Raise in a process that is being started and imports the main module for that, as it would start others.

    Raises
    ------
    UsageError
        If this is one.
    """
    import multiprocessing

    # What multiprocessing itself goes by.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            f"a worker process that imports this script would start workers of its own; {_GUARD}"
        )


_LEFT_TO_THE_CLIENT = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to every process in it: the client ends workers in order."""


def _quiet_end() -> Any:
    """Return a plugin for workers, also for those that replace others: the client ends them, and alone speaks."""
    from distributed import WorkerPlugin

    class QuietEnd(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            # Called by the main thread of a worker, where alone signals can be handled.
            for number in _LEFT_TO_THE_CLIENT:
                signal.signal(number, signal.SIG_IGN)
            # A scheduler that is ended by an interrupt leaves workers in the middle of a heartbeat.
            logging.getLogger("distributed.worker").addFilter(
                lambda record: "heartbeat" not in str(record.msg)
            )

    return QuietEnd()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore what a terminal sends, so that processes started in the block do from the beginning."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where signals cannot be handled
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _LEFT_TO_THE_CLIENT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def gpu_client(
    *,
    n_workers: int,
    memory_limit: int | None,
    dashboard: bool = True,
    say: Callable[[str], None] | None = None,
    default: bool = True,
) -> Iterator[Client]:
    """Start one worker process on each GPU of this host and give a client of them; all end with the block.

    As `local_client`, with dask-cuda, which gives each worker its own GPU and the cores nearest to it. Workers
    take GPU memory from an RMM pool where RMM is installed, else from CuPy's own pool.

    Parameters
    ----------
    n_workers
        Number of worker processes, at most one per GPU; the first GPUs are used.
    memory_limit
        Bytes of host memory per worker at which Dask restarts it; Dask's default if None.
    dashboard
        Whether to serve Dask's dashboard and the live page, at port 8787 if that is free.
    say
        Called with a line about the GPUs and the pool chosen.
    default
        As in `local_client`.

    Raises
    ------
    BackendUnavailableError
        If GPU, CuPy or dask-cuda are missing, or the workers do not start.
    """
    gpus = worker_gpus()[:n_workers]
    import dask
    from distributed import Client

    pool, said = _memory_pool(gpus)
    with dask.config.set(SETTINGS | page_settings(dashboard)):
        cluster = _cuda_cluster(n_workers, {**pool, **_listening(memory_limit, dashboard)})
        with cluster, Client(cluster, set_as_default=default) as client:
            _wait_for_workers(client, n_workers)
            client.register_plugin(_quiet_end(), name="stabdask-quiet-end")
            note_dashboard(client, dashboard)
            if say is not None:
                say(f"GPUs         {_names(gpus)}; one worker each; memory from {said}")
            yield client


def worker_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that workers can be started on.

    Raises
    ------
    BackendUnavailableError
        If GPU, CuPy or dask-cuda are missing; the message says what was found and what to install.
    """
    gpus = require_gpus()
    problem = gpu_cluster_problem()
    if problem is not None:
        raise BackendUnavailableError(
            f"{len(gpus)} GPU(s) are here, but workers cannot be started on them: {problem}; expected dask-cuda with "
            f"the extra for your CUDA: {GPU_INSTALL_HINT}. Without dask-cuda, 0 workers use one GPU in this process"
        )
    return gpus


def gpu_cluster_problem() -> str | None:
    """Return why dask-cuda cannot start workers here, or None if it can."""
    problem = import_problem("dask_cuda")
    if problem is not None:
        return f"dask-cuda {problem}"
    try:
        importlib.import_module("pynvml").nvmlInit()
    except Exception as error:  # NVML has a class for each of its errors, and none in common with ImportError
        return f"dask-cuda asks NVML about GPUs, which fails with {type(error).__name__}: {error}"
    return None


def _listening(memory_limit: int | None, dashboard: bool, host: str = "127.0.0.1") -> dict[str, Any]:
    """Return what every cluster on this host is started with."""
    protected = (
        {"protocol": "tcp"}
        if is_loopback(host)
        else {
            "protocol": "tls",
            "security": temporary_security(),
            # Scheduler and workers serve metrics without authentication, at their own address unless told otherwise.
            "worker_dashboard_address": "127.0.0.1:0",
        }
    )
    return {
        "threads_per_worker": 1,
        "host": host,
        **protected,
        "dashboard_address": dashboard_address(dashboard),
        "scheduler_kwargs": {"dashboard": dashboard},
        "memory_limit": memory_limit if memory_limit is not None else "auto",
        "silence_logs": "ERROR",
    }


def _cuda_cluster(n_workers: int, options: dict[str, Any]) -> Any:
    try:
        return importlib.import_module("dask_cuda").LocalCUDACluster(n_workers=n_workers, **options)
    except Exception as error:  # of CUDA, NVML, RMM or Dask
        raise BackendUnavailableError(
            f"dask-cuda could not start {n_workers} GPU worker(s): {type(error).__name__}: {error}; 'stabdask doctor' "
            "shows what is here"
        ) from error


def _wait_for_workers(client: Client, n_workers: int) -> None:
    """Make sure that all workers are there: a cluster whose workers fail to start is otherwise waited for forever."""
    try:
        client.wait_for_workers(n_workers, timeout=_START_S)
    except TimeoutError as error:
        raise BackendUnavailableError(
            f"{len(client.nthreads())} of {n_workers} GPU worker(s) started; expected all of them. Their own errors "
            "are above; a GPU that is full or in exclusive use by another process is a common reason"
        ) from error


def _memory_pool(gpus: Sequence[Gpu]) -> tuple[dict[str, Any], str]:
    """Return dask-cuda's options for an RMM pool where RMM is installed, and the choice in words."""
    problem = import_problem("rmm")
    if problem is not None:
        return {}, f"CuPy's own pool (rmm {problem})"
    size = min(_POOL_BYTES, *(gpu.memory_bytes // 4 for gpu in gpus)) // 256 * 256
    options = {"rmm_pool_size": size, "rmm_allocator_external_lib_list": ["cupy"]}
    return options, f"an RMM pool of {size / 1e9:.3g} GB at first"


def _names(gpus: Sequence[Gpu]) -> str:
    """Return the names of GPUs with their numbers, e.g. ``2 x NVIDIA A100, 1 x NVIDIA T4``."""
    names = [gpu.name for gpu in gpus]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
