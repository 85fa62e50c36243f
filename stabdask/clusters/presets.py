"""`cluster`: a Dask cluster by name, by file or by address, with the settings that runs need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.clusters.kubernetes import kubernetes_client
from stabdask.clusters.local import gpu_client, local_client, worker_gpus
from stabdask.clusters.opened import Cluster, Say
from stabdask.clusters.options import ClusterRequest, cluster_request
from stabdask.clusters.security import address_security
from stabdask.clusters.slurm import slurm_client
from stabdask.errors import ClusterError, UsageError
from stabdask.kernels.machine import cpu_count

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["cluster", "open_request"]

_CONNECT_S = 30


def cluster(what: str | Path, *, say: Say = None, **options: Any) -> Cluster:
    """Return a Dask cluster to start, or to connect to: with a ``with`` block, or with its `start` and `close`.

    Workers have one thread each, BLAS in them too, and the settings of Dask and of memory allocation that suit runs.
    What other hosts can reach is protected by TLS with certificates made for this cluster alone; dashboards are
    served on loopback only.

    Parameters
    ----------
    what
        ``"local"``, processes on this host; ``"cuda"``, one on each of its GPUs; ``"slurm"``, jobs of SLURM (extra
        ``slurm``); ``"kubernetes"``, pods (extra ``kubernetes``); a file that ends in ``.yaml``, with the `kind` and
        options; or the address of a scheduler, ``tls://HOST:PORT`` or, on this host, ``tcp://127.0.0.1:PORT``.
    say
        Called with lines about what was started and where its dashboard is.
    workers, jobs, adaptive
        How many workers; how many jobs (SLURM); or ``"MIN:MAX"`` workers, as there is work.
    worker_memory
        Of each worker, e.g. ``"4GB"``.
    host
        Address that scheduler and workers listen at (local); that the scheduler does (SLURM).
    walltime, queue, account, job_options, processes, interface, prologue, python, log_folder, shared_folder
        Of jobs of SLURM: time limit, e.g. ``"02:00:00"``, partition, account, further options of sbatch as a list
        (``["--gres=gpu:1"]``), worker processes in a job, network interface, lines of shell before workers start, their
        Python, and folders for what jobs say and for certificates, which all hosts have to see (``~/.cache/stabdask``).
        Workers end themselves some minutes before the limit, and new jobs take their place.
    image, name, namespace, env, gpus
        Of pods.
    tls_ca, tls_cert, tls_key
        Files to connect to a ``tls://`` address with; Dask's configuration if not given.
    insecure_tcp
        Allow plain connections beyond this host.
    dashboard
        Whether to serve Dask's dashboard and the live page of runs (local, cuda, SLURM).

    Returns
    -------
    Cluster
        What a ``with`` block gives, and its `start` returns, is a `distributed.Client`. What was started ends with the
        block or with `close`.

    Raises
    ------
    UsageError
        If an option does not exist or is impossible, or a plain connection was not explicitly allowed.
    ClusterError
        As it is started, if it cannot be started or reached.
    BackendUnavailableError
        As it is started, if ``"cuda"`` lacks GPUs or what it takes to use them.

    Examples
    --------
    >>> with cluster("local", workers=1, dashboard=False) as client:  # doctest: +SKIP
    ...     sd.run(cells, field, "out.zarr", client=client)

    In a notebook, one cell starts it and another closes it:

    >>> workers = cluster("local", workers=1)
    >>> client = workers.start()  # doctest: +SKIP
    >>> workers.close()
    """
    return Cluster(cluster_request(what, options), say, open_request)


@contextmanager
def open_request(request: ClusterRequest, say: Say) -> Iterator[Client]:
    """Give a client of what was asked for; see `cluster`."""
    openers = {"slurm": slurm_client, "kubernetes": kubernetes_client, "address": _connected}
    opener = openers.get(request.kind, _on_this_host)
    with opener(request, say) as client:
        yield client


@contextmanager
def _on_this_host(request: ClusterRequest, say: Say) -> Iterator[Client]:
    how = {"memory_limit": request.get("worker_memory"), "dashboard": request.get("dashboard", True)}
    if request.kind == "cuda":
        n_gpus = len(worker_gpus())
        if request.get("workers", 1) > n_gpus:
            raise UsageError(
                f"workers={request.get('workers')}, but {n_gpus} GPU(s) are visible; expected one per GPU at most"
            )
        context = gpu_client(n_workers=request.get("workers", n_gpus), **how, say=say)
    else:
        context = local_client(
            n_workers=request.get("workers", cpu_count()),
            host=request.get("host", "127.0.0.1"),
            adaptive=request.get("adaptive"),
            **how,
        )
    with context as client:
        yield client


@contextmanager
def _connected(request: ClusterRequest, say: Say) -> Iterator[Client]:
    from distributed import Client

    address = request.get("address")
    security = address_security(
        address,
        ca=request.get("tls_ca"),
        cert=request.get("tls_cert"),
        key=request.get("tls_key"),
        insecure_tcp=request.get("insecure_tcp", False),
    )
    how = {"security": security, "timeout": _CONNECT_S}
    try:
        # A client that fails leaves itself behind as what Dask computes with, unless told not to.
        with Client(address, set_as_default=False, **how):
            pass
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"cannot connect to {address}: {error}; is a scheduler listening there, with certificates of the same "
            "authority?"
        ) from error
    with Client(address, **how) as client:
        yield client
