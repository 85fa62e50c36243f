"""Arguments that say which Dask cluster computes a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stabdask.errors import UsageError

__all__ = ["add_cluster_arguments", "check_cluster_arguments", "cluster_client", "computes_on_gpus"]

_NAMES = (
    "jobs",
    "adaptive",
    "walltime",
    "worker_memory",
    "queue",
    "account",
    "interface",
    "tls_ca",
    "tls_cert",
    "tls_key",
)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --cluster and what goes with it."""
    group = parser.add_argument_group("a Dask cluster of its own (--workers says how many workers)")
    group.add_argument(
        "--cluster",
        metavar="WHAT",
        help="local, cuda, slurm or kubernetes; a FILE.yaml with 'kind: slurm' and further options; or the address "
        "of a scheduler, tls://HOST:PORT or tcp://127.0.0.1:PORT",
    )
    group.add_argument("--jobs", type=int, help="SLURM jobs, each with one worker unless the file says more")
    group.add_argument(
        "--adaptive", metavar="MIN:MAX", help="workers that come and go with the work, e.g. 0:50"
    )
    group.add_argument("--walltime", metavar="TIME", help="of a SLURM job, e.g. 02:00:00 (01:00:00)")
    group.add_argument("--worker-memory", metavar="SIZE", help="of each worker, e.g. 4GB")
    group.add_argument("--queue", help="SLURM partition for the jobs")
    group.add_argument("--account", help="SLURM account")
    group.add_argument(
        "--interface", metavar="NAME", help="network interface of scheduler and workers, e.g. ib0"
    )
    group.add_argument("--tls-ca", metavar="FILE", help="certificate of the authority, for a tls:// address")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate of this client")
    group.add_argument("--tls-key", metavar="FILE", help="its key")
    group.add_argument(
        "--insecure-tcp",
        action="store_true",
        help="allow plain connections beyond this host, over which anyone who can reach them runs code as you",
    )


def check_cluster_arguments(options: argparse.Namespace) -> None:
    """Refuse arguments of clusters without --cluster, and with it those that it takes the place of.

    Raises
    ------
    UsageError
        If there are such.
    """
    stray = [name for name in _NAMES if getattr(options, name) is not None]
    if options.insecure_tcp:
        stray.append("insecure_tcp")
    if options.cluster is None:
        if stray:
            raise UsageError(f"{_flag(stray[0])} is of a cluster; give --cluster too, e.g. --cluster slurm")
        return
    if options.memory is not None:
        raise UsageError("--memory is of a run without --cluster; give --worker-memory, of each worker")
    if options.gpu:
        raise UsageError(
            "--gpu is of a run without --cluster; give --cluster cuda, or --backend cuda with another"
        )
    if options.workers == 0:
        raise UsageError("--workers 0 computes in this process, without a cluster; leave --cluster out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def computes_on_gpus(options: argparse.Namespace) -> bool:
    """Return whether the cluster is one of GPUs, which implies their backend where none is named."""
    from stabdask.clusters.options import cluster_request

    return options.cluster is not None and cluster_request(options.cluster, {}).kind == "cuda"


@contextmanager
def cluster_client(options: argparse.Namespace) -> Iterator[Any]:
    """Give a client of the cluster that the arguments name, None without --cluster."""
    if options.cluster is None:
        yield None
        return
    from stabdask.clusters.presets import cluster

    given: dict[str, Any] = {name: getattr(options, name) for name in (*_NAMES, "workers")}
    if options.insecure_tcp:
        given["insecure_tcp"] = True
    if options.no_dashboard:
        given["dashboard"] = False
    what = options.cluster
    with cluster(
        Path(what) if "://" not in what else what, say=None if options.quiet else _say, **given
    ) as client:
        yield client


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
