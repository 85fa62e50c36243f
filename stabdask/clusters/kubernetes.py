"""Workers as pods, through the operator of dask-kubernetes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stabdask.clusters.dashboard import PRELOAD
from stabdask.clusters.options import ClusterRequest
from stabdask.clusters.settings import SETTINGS, remote_environment
from stabdask.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["kubernetes_client", "kubernetes_spec"]

_MEMORY_BYTES = 4 * 10**9
_NAME = "stabdask"


def kubernetes_spec(
    request: ClusterRequest, make_cluster_spec: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Return the DaskCluster resource: workers of one thread and one core, and the scheduler, which has the live page.

    Raises
    ------
    UsageError
        If no image is named.
    """
    if not request.get("image"):
        raise UsageError("a cluster on Kubernetes needs an image with this version of stabdask; give image")
    memory = request.get("worker_memory", _MEMORY_BYTES)
    amounts = {"cpu": "1", "memory": str(memory)}
    least = request.get("adaptive", (request.get("workers", 1),))[0]
    spec = make_cluster_spec(
        name=request.get("name", _NAME),
        image=request.get("image"),
        n_workers=least,
        resources={"requests": amounts, "limits": dict(amounts)},
        env={**remote_environment(), **request.get("env", {})},
        worker_command=["dask", "worker", "--nthreads", "1", "--memory-limit", str(memory)],
    )
    for container in spec["spec"]["scheduler"]["spec"]["containers"]:
        container["args"] = [*container["args"], "--preload", PRELOAD]
    if request.get("gpus"):
        for container in spec["spec"]["worker"]["spec"]["containers"]:
            resources = copy.deepcopy(container["resources"])  # the scheduler's is the same object
            resources["limits"]["nvidia.com/gpu"] = str(request.get("gpus"))
            container["resources"] = resources
    return spec


@contextmanager
def kubernetes_client(request: ClusterRequest, say: Callable[[str], None] | None) -> Iterator[Client]:
    """Make a DaskCluster in Kubernetes and connect to it through a forwarded port; it is deleted with the block.

    Raises
    ------
    ClusterError
        If dask-kubernetes is not here, or Kubernetes does not do it.
    UsageError
        If plain connections inside Kubernetes were not explicitly allowed.
    """
    if not request.get("insecure_tcp"):
        raise UsageError(
            "pods of dask-kubernetes talk to each other over plain TCP, and its dashboards ask nobody who they are: "
            "what runs beside them could run code as them; where a NetworkPolicy keeps other pods away, or "
            "nobody else is, say --insecure-tcp (insecure_tcp=True). This process comes in by TLS, by the API server"
        )
    try:
        operator = importlib.import_module("dask_kubernetes.operator")
    except ImportError as error:
        raise ClusterError(
            f'workers on Kubernetes need dask-kubernetes ({error}); pip install "stabdask[kubernetes]"'
        ) from error
    import dask
    from distributed import Client

    spec = kubernetes_spec(request, operator.make_cluster_spec)
    where = {"namespace": request.get("namespace")} if request.get("namespace") else {}
    with dask.config.set(SETTINGS):
        try:
            cluster = operator.KubeCluster(custom_cluster_spec=spec, quiet=True, **where)
        except Exception as error:  # of the API server, the client library, or the operator
            raise ClusterError(
                f"the cluster could not be made in Kubernetes: {type(error).__name__}: {error}; is the operator of "
                "dask-kubernetes installed there, and may you make DaskClusters?"
            ) from error
        with cluster, Client(cluster) as client:
            if request.get("adaptive"):
                least, most = request.get("adaptive")
                cluster.adapt(minimum=least, maximum=most)
            if say is not None:
                say(f"Kubernetes   DaskCluster {spec['metadata']['name']} of {request.get('image')}")
            yield client
