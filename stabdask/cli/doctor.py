"""`doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stabdask.cli.common import add_json, print_json

__all__ = ["add_commands", "examine"]

_PACKAGES = (
    "stabdask", "numpy", "scipy", "dask", "distributed", "zarr", "anndata", "xarray", "flox", "h5py",
    "pandas", "bokeh", "matplotlib",
)  # fmt: skip
_OPTIONAL = (
    ("cupy", "cuda13", "GPU kernels"),
    ("dask_cuda", "cuda13", "one worker per GPU"),
    ("dask_jobqueue", "slurm", "SLURM clusters"),
    ("dask_kubernetes", "kubernetes", "Kubernetes clusters"),
    ("obstore", "s3", "object storage"),
    ("jupyterlab", "notebooks", "notebooks"),
)


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser("doctor", help="check this machine: versions, backends, scratch space")
    doctor.add_argument("--scratch", type=Path, default=Path(), help="folder to check for writing (here)")
    add_json(doctor)
    doctor.set_defaults(execute=_doctor)


def examine(scratch: Path) -> dict[str, Any]:
    """Return what this machine has, as JSON-ready values."""
    import psutil

    from stabdask.clusters import cpu_count
    from stabdask.kernels.eig import BACKENDS, resolve_backend

    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "n_cores": cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "versions": {name: _version(name) for name in _PACKAGES},
        "backends": list(BACKENDS),
        "default_backend": resolve_backend("auto"),
        "optional": {
            name: {
                "installed": find_spec(name) is not None,
                "for": purpose,
                "install": f'pip install "stabdask[{extra}]"',
            }
            for name, extra, purpose in _OPTIONAL
        },
        "scratch": _scratch(scratch),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _scratch(folder: Path) -> dict[str, Any]:
    """Try what a store needs of a folder: write, fsync, rename, lock."""
    out: dict[str, Any] = {"folder": str(folder.resolve()), "ok": True, "problem": ""}
    step = "make a folder"
    try:
        with tempfile.TemporaryDirectory(prefix=".stabdask-doctor-", dir=folder) as name:
            first, second = Path(name) / "a", Path(name) / "b"
            step = "write and fsync a file"
            with first.open("wb") as stream:
                stream.write(b"stabdask")
                stream.flush()
                os.fsync(stream.fileno())
            step = "rename a file over another"
            second.write_bytes(b"old")
            first.replace(second)
            if second.read_bytes() != b"stabdask":
                raise OSError("the rename lost the contents")
            step = "lock a file (flock)"
            with second.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        usage = os.statvfs(folder)
        out["free_bytes"] = usage.f_bavail * usage.f_frsize
    except OSError as error:
        out |= {"ok": False, "problem": f"cannot {step}: {error.strerror or error}"}
    return out


def _doctor(options: argparse.Namespace) -> int:
    found = examine(options.scratch)
    if options.json:
        print_json(found)
    else:
        print(_text(found))
    return 0 if found["scratch"]["ok"] and all(found["versions"].values()) else 3


def _text(found: dict[str, Any]) -> str:
    from stabdask.runs.plan import format_bytes

    scratch = found["scratch"]
    missing = [name for name, have in found["versions"].items() if have is None]
    lines = [
        f"python       {found['python']} on {found['machine']}, {found['n_cores']} cores, "
        f"{format_bytes(found['memory_bytes'])}",
        f"packages     {', '.join(f'{name} {have}' for name, have in found['versions'].items() if have)}",
        f"backends     {', '.join(found['backends'])}; 'auto' is {found['default_backend']}",
    ]
    if missing:
        lines.append(f"missing      {', '.join(missing)}: reinstall with pip install stabdask")
    if scratch["ok"]:
        free = format_bytes(scratch["free_bytes"])
        lines.append(f"scratch      {scratch['folder']}: write, fsync, rename and lock work; {free} free")
    else:
        lines.append(
            f"scratch      {scratch['folder']}: {scratch['problem']}; stores need another folder (--scratch to try one)"
        )
    lines.append("optional")
    for name, item in found["optional"].items():
        state = "installed" if item["installed"] else f"not installed: {item['install']}"
        lines.append(f"  {name:<16} {item['for']:<22} {state}")
    return "\n".join(lines)
