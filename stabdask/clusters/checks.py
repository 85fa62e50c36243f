"""Whether scheduler and workers can do the work of this process: versions of packages, and files they have to see."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.errors import StabdaskWarning, UnfitWorkerError
from stabdask.schema import plugin_names

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "await_worker",
    "check_paths",
    "check_versions",
    "essential_versions",
    "version_problems",
    "worker_address",
]

_SAME = ("stabdask", "zarr", "dask", "distributed", "cloudpickle")
_SCHEDULER_NEEDS = ("python", "dask", "distributed", "cloudpickle")
_MOST_SHOWN = 6
_VISIBLE_S = 30.0
"""How long a file may take to show on another host: network file systems remember that it was not there."""


@cache
def essential_versions() -> Mapping[str, str | None]:
    """Return the versions, in this process, of what client and workers have to agree on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*_SAME, "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["plugins"] = ",".join(plugin_names()) or None
    return found


def version_problems(
    theirs: Mapping[str, str | None], ours: Mapping[str, str | None], who: str, only: Iterable[str] = ()
) -> list[str]:
    """Return sentences on versions that differ where they must not: those of `who` and ours.

    Python by its minor version, NumPy by its major, `stabdask`, Zarr, Dask, distributed and cloudpickle entirely, and
    plugins (``STABDASK_PLUGINS``) by name.

    Examples
    --------
    >>> version_problems({"python": "3.11.4", "zarr": "3.0.1"}, {"python": "3.11.9", "zarr": "3.1.6"}, "n1", ["zarr"])
    ['n1 has zarr 3.0.1, this process 3.1.6']
    """
    wanted = tuple(only) or ("python", *_SAME, "numpy", "plugins")
    parts = {"python": 2, "numpy": 1}
    problems = []
    for name in wanted:
        there, here = theirs.get(name), ours.get(name)
        if there is None or here is None:
            same = there == here
        else:
            same = there.split(".")[: parts.get(name)] == here.split(".")[: parts.get(name)]
        if not same:
            problems.append(
                f"{who} has {'no ' + name if there is None else f'{name} {there}'}, this process {here}"
            )
    return problems


def await_worker(client: Client, say: Callable[[str], None] | None = None) -> None:
    """Return as soon as a worker is there; a task waits for it, so that clusters that grow with work start one."""
    if client.nthreads():
        return
    first = client.submit(os.getpid, key=f"stabdask-first-{uuid.uuid4().hex}", pure=False)
    try:
        if say is not None and not _done_within(first, 2.0):
            say("waiting      for the first worker (in a queue, squeue says why)")
        first.result()
    finally:
        first.release()


def _done_within(future: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not future.done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(future.done())


def check_versions(client: Client) -> None:
    """Refuse a cluster whose software is not that of this process.

    Raises
    ------
    UnfitWorkerError
        If versions differ that have to agree; the message says whose, which, and what to do.

    Warns
    -----
    StabdaskWarning
        If only NumPy or SciPy differ, and so perhaps the last bits of results.
    """
    ours = essential_versions()
    found: Any = client.get_versions(check=False, packages=[*_SAME, "numpy", "scipy"])
    hosts = _answers(client, socket.gethostname)
    problems = version_problems(_packages(found["scheduler"]), ours, "the scheduler", _SCHEDULER_NEEDS)
    numerics = set()
    for address, answer in found["workers"].items():
        theirs = _packages(answer)
        who = f"the worker {address} on {hosts.get(address, 'an unknown host')}"
        problems += version_problems(theirs, ours, who, ("python", *_SAME, "numpy"))
        numerics |= {
            f"{name} {theirs.get(name)}" for name in ("numpy", "scipy") if theirs.get(name) != ours[name]
        }
    if not problems:
        for address, names in _answers(client, plugin_names).items():
            theirs = {"plugins": ",".join(names) or None}
            who = f"the worker {address} on {hosts.get(address, 'an unknown host')}"
            problems += version_problems(theirs, ours, who, ["plugins"])
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        raise UnfitWorkerError(
            f"{'; '.join(problems[:_MOST_SHOWN])}{more}. Expected the same everywhere: start scheduler and workers "
            "from the environment of this process, or install there what this process has"
        )
    if numerics:
        warnings.warn(
            f"workers have {', '.join(sorted(numerics))}, this process numpy {ours['numpy']} and scipy "
            f"{ours['scipy']}: results may differ in the last bits from those of other runs",
            StabdaskWarning,
            stacklevel=2,
        )


def _answers(client: Client, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return what `function` returns on every worker; of those that end meanwhile, nothing.

    One that comes in their place is looked at when it is given a partition.
    """
    found = client.run(function, *arguments, on_error="return")
    for answer in found.values():
        if isinstance(answer, BaseException) and not isinstance(answer, OSError):
            raise answer
    return {address: answer for address, answer in found.items() if not isinstance(answer, OSError)}


def _packages(answer: Any) -> dict[str, str | None]:
    packages = dict((answer or {}).get("packages", {}))
    # Dask tells of Python as 3.11.4.final.0.
    if packages.get("python"):
        packages["python"] = ".".join(packages["python"].split(".")[:3])
    return packages


def check_paths(client: Client, folder: Path | None, inputs: Iterable[str]) -> None:
    """Refuse workers that do not see a folder of the store, by a file put there for them, or files of the input.

    There is no `folder` where the store is not on a disk.

    Raises
    ------
    UnfitWorkerError
        If some do not; the message says which hosts, and what.
    """
    token = uuid.uuid4().hex
    # Named as temporary files are, which are swept if this process dies here.
    probe = None if folder is None else folder.absolute() / f".probe.{token}.tmp"
    try:
        if probe is not None:
            probe.write_text(token)
        answers = _answers(client, _look, probe and str(probe), token, list(inputs), _VISIBLE_S)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)
    problems = [f"the worker {address} {answer}" for address, answer in answers.items() if answer]
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        raise UnfitWorkerError(
            f"{'; '.join(problems[:_MOST_SHOWN])}{more}. Expected store and atlas at the same paths on all hosts: put "
            "them on a file system that all of them mount"
        )


def worker_address() -> str:
    """Return the address of the worker that runs the task at hand."""
    from distributed import get_worker

    return str(get_worker().address)


async def _look(probe: str | None, token: str, inputs: list[str], patience_s: float) -> str:
    """Return what this worker does not see, empty if nothing; a coroutine, so that waiting does not stop it."""
    host = socket.gethostname()
    deadline = time.monotonic() + patience_s
    while probe is not None:
        try:
            if Path(probe).read_text() == token:
                break
        except OSError:
            pass
        if time.monotonic() > deadline or not Path(probe).parent.is_dir():
            return f"on {host} does not see the store at {Path(probe).parent.parent}"
        await asyncio.sleep(0.5)
    if probe is not None and not os.access(Path(probe).parent, os.W_OK | os.X_OK):
        return f"on {host} may not write to the store at {Path(probe).parent.parent}"
    unseen = [path for path in inputs if not os.access(path, os.R_OK)]
    return f"on {host} does not see {unseen[0]}, or may not read it" if unseen else ""
