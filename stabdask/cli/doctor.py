"""`doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.cli.common import add_json, print_json
from stabdask.errors import BackendUnavailableError

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

_TYPICAL_CORE = 100


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser(
        "doctor",
        help="check this machine: versions, backends, scratch space",
        description="Say what this machine has: versions of packages, eigensolver backends, GPUs, whether a folder is "
        "fit to write to, and how to install what is missing.",
    )
    doctor.add_argument("--scratch", type=Path, default=Path(), help="folder to check for writing (here)")
    add_json(doctor)
    doctor.set_defaults(execute=_doctor)


def examine(scratch: Path) -> dict[str, Any]:
    """Return what this machine has, as JSON-ready values."""
    import psutil

    from stabdask.kernels.eig import backends, eig
    from stabdask.kernels.machine import cpu_count

    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "n_cores": cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "versions": {name: _version(name) for name in _PACKAGES},
        "backends": list(backends()),
        "default_backend": eig(np.zeros((1, _TYPICAL_CORE, _TYPICAL_CORE))).backend,
        "lanes": _lanes(),
        "gpu": _gpu(),
        "nvrtc": _nvrtc(),
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


def _lanes() -> dict[str, Any] | None:
    """Return what the compiled CPU kernel says of itself, or None if this stabdask has none."""
    name = "stabdask.kernels.lanes"
    out: dict[str, Any] = {"built": False, "instruction_set": None, "why_not": None}
    try:
        lanes = importlib.import_module(name)
        out["built"] = bool(lanes.available())
        if out["built"]:
            out["instruction_set"] = str(lanes.instruction_set())
        else:
            out["why_not"] = str(lanes.why_not())
    except (ImportError, AttributeError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        out["why_not"] = f"{type(error).__name__}: {error}"
    except BackendUnavailableError as error:
        out["why_not"] = str(error)
    return out


def _gpu() -> dict[str, Any]:
    """Return the GPUs that are here, and what of the software for them is."""
    from stabdask.clusters import gpu_cluster_problem
    from stabdask.kernels.device import import_problem, survey_gpus

    found = survey_gpus(free_memory=True)
    return {
        "devices": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "capability": "{}.{}".format(*gpu.capability),
                "memory_bytes": gpu.memory_bytes,
                "free_bytes": gpu.free_bytes,
                "n_multiprocessors": gpu.n_multiprocessors,
            }
            for gpu in found.gpus
        ],
        "why_not": found.why_not,
        "driver": found.driver,
        "cuda_driver": found.cuda_driver,
        "cuda_runtime": found.cuda_runtime,
        "cupy": found.cupy,
        "dask_cuda": {"version": _version("dask-cuda"), "why_not": gpu_cluster_problem()},
        "rmm": {"version": _rmm_version(), "why_not": _dotted("rmm", import_problem("rmm"))},
    }


def _rmm_version() -> str | None:
    return next(filter(None, map(_version, ("rmm-cu13", "rmm-cu12", "rmm"))), None)


def _dotted(name: str, problem: str | None) -> str | None:
    return None if problem is None else f"{name} {problem}"


def _nvrtc() -> dict[str, Any]:
    """Return the compiler of CUDA source that would be used."""
    from stabdask.kernels.nvrtc import load_nvrtc

    try:
        compiler = load_nvrtc()
    except BackendUnavailableError as error:
        return {"version": None, "library": None, "why_not": str(error)}
    return {"version": "{}.{}".format(*compiler.version), "library": compiler.path, "why_not": None}


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
    from stabdask.sizes import format_bytes

    scratch = found["scratch"]
    missing = [name for name, have in found["versions"].items() if have is None]
    lines = [
        f"python       {found['python']} on {found['machine']}, {found['n_cores']} cores, "
        f"{format_bytes(found['memory_bytes'])}",
        f"packages     {', '.join(f'{name} {have}' for name, have in found['versions'].items() if have)}",
        f"backends     {', '.join(found['backends'])}; 'auto' is {found['default_backend']}",
        *_lanes_lines(found["lanes"]),
        *_gpu_lines(found["gpu"]),
        _nvrtc_line(found["nvrtc"]),
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


def _lanes_lines(lanes: dict[str, Any] | None) -> list[str]:
    if lanes is None:
        return []
    if lanes["why_not"] is None:
        return [f"CPU kernel   lanes ({lanes['instruction_set']})"]
    state = "cannot be used" if lanes["built"] else "not built"
    return [f"CPU kernel   lanes {state}: {lanes['why_not']}; LAPACK is used"]


def _gpu_lines(gpu: dict[str, Any]) -> list[str]:
    from stabdask.kernels.device import GPU_INSTALL_HINT
    from stabdask.sizes import format_bytes

    if not gpu["devices"]:
        hint = "" if gpu["cupy"] else f"; for GPUs {GPU_INSTALL_HINT}"
        return [f"GPUs         none: {gpu['why_not']}{hint}"]
    lines = []
    for one in gpu["devices"]:
        free = "" if one["free_bytes"] is None else f"{format_bytes(one['free_bytes'])} free of "
        lines.append(
            f"GPU {one['index']:<8} {one['name']}, {free}{format_bytes(one['memory_bytes'])}, compute capability "
            f"{one['capability']}, {one['n_multiprocessors']} multiprocessors"
        )
    driver = gpu["driver"] or "of unknown version"
    parts = (
        f"driver {driver} for CUDA {gpu['cuda_driver']}",
        f"CuPy {gpu['cupy']} with CUDA {gpu['cuda_runtime']}",
        gpu["dask_cuda"]["why_not"] or f"dask-cuda {gpu['dask_cuda']['version']}",
        gpu["rmm"]["why_not"] or f"rmm {gpu['rmm']['version']}",
    )
    return [*lines, f"CUDA         {'; '.join(parts)}"]


def _nvrtc_line(nvrtc: dict[str, Any]) -> str:
    return f"NVRTC        {nvrtc['why_not'] or nvrtc['version'] + ' in ' + nvrtc['library']}"
