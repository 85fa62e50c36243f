"""Up to which order the compiled solver is faster than LAPACK: measured once on each machine, and remembered.

The figures are kept in ``stabdask/calibration.json`` of the user's cache folder (``$XDG_CACHE_HOME``, or
``~/.cache``); where that cannot be written they are measured again in the next process. A run records what came of
them, so that its bytes do not depend on a later measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.errors import OutputError
from stabdask.files import write_atomically
from stabdask.kernels import lanes, lapack
from stabdask.kernels.machine import processor_name
from stabdask.kernels.results import Results, Vectors
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["cache_path", "crossover", "machine_key"]

_ORDERS = (32, 100, 200, 300, 450, 650, 900)
_REPEATS = 2
_LAPACK_MATRICES = 2
_PROBED_MODES = 10
_lock = threading.Lock()
_measured: dict[str, dict[str, float]] = {}


def crossover(largest: int, *, dtype: np.dtype[Any], vectors: Vectors) -> int | None:
    """Return the order above which LAPACK is the faster on this machine, or None if it is not up to `largest`.

    Parameters
    ----------
    largest
        Orders above it are not measured.
    dtype
        ``float32`` or ``float64``.
    vectors
        Whether eigenvectors are wanted too: that moves the crossover.

    Returns
    -------
    int or None
        One of a few orders from 0 (LAPACK is always faster) to 900 (beyond which nothing is measured).
    """
    task = f"{dtype}-{'values' if vectors == 'none' else 'vectors'}"
    limit = 0
    with _lock:
        for order in _ORDERS:
            if _gain(task, order, dtype, vectors) < 1:
                return limit
            limit = order
            if order >= largest:
                return None
    return limit


def _gain(task: str, order: int, dtype: np.dtype[Any], vectors: Vectors) -> float:
    """Return how many times faster the compiled solver is than LAPACK at `order`, measured if not known."""
    if not _measured:
        _measured.update(_read())
    known = _measured.setdefault(task, {})
    if str(order) not in known:
        known[str(order)] = _measure(order, dtype, vectors)
        _write(_measured)
    return known[str(order)]


def _measure(order: int, dtype: np.dtype[Any], vectors: Vectors) -> float:
    # As many matrices as the widest register has lanes, so that none is empty.
    count = 64 // dtype.itemsize
    stream = np.random.Generator(np.random.PCG64(order))
    cores = stream.standard_normal((count, order, order)).astype(dtype) / np.sqrt(order)
    best = {"lanes": np.inf, "lapack": np.inf}
    for _ in range(_REPEATS):
        for name, some in (("lanes", cores), ("lapack", cores[:_LAPACK_MATRICES])):
            sizes = np.full(len(some), order, dtype=np.int64)
            out = Results(len(some), order, min(_PROBED_MODES, order), vectors, dtype)
            begin = time.perf_counter()
            if name == "lanes":
                lanes.solve(some, sizes, out)
            else:
                with single_threaded_blas():
                    lapack.solve(some, sizes, out)
            best[name] = min(best[name], (time.perf_counter() - begin) / len(some))
    return float(best["lapack"] / best["lanes"])


def machine_key() -> str:
    """Return what the figures hold for: this processor, with these versions of what was measured."""
    import stabdask

    parts = (
        processor_name(),
        lanes.instruction_set(),
        np.__version__,
        stabdask.__version__,
        platform.machine(),
    )
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def cache_path() -> Path:
    """Return the file the figures are kept in."""
    folder = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(folder) / "stabdask" / "calibration.json"


def _read() -> dict[str, dict[str, float]]:
    try:
        stored = json.loads(cache_path().read_text(encoding="utf-8"))
        tasks = stored[machine_key()]
        return {
            str(task): {str(order): float(gain) for order, gain in gains.items() if float(gain) > 0}
            for task, gains in tasks.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(measured: dict[str, dict[str, float]]) -> None:
    path = cache_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = {}
        others = stored if isinstance(stored, dict) else {}
        write_atomically(path, json.dumps(others | {machine_key(): measured}, indent=1).encode())
    except (OSError, OutputError):
        return
