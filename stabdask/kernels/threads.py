"""BLAS on one thread while a kernel runs.

Many small matrices go fastest when every worker thread solves its own and BLAS adds no threads of its own;
one thread also makes the results independent of the number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]

_lock = threading.Lock()
_depth = 0
_libraries: list[Any] | None = None
_first_found: list[int | None] = []


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold every BLAS of this process to one thread.

    For most BLAS libraries the limit is a property of the process, so overlapping uses from several threads
    are counted: the first sets it and the last restores what was there before. For MKL, and for OpenBLAS on
    OpenMP, each thread has a limit of its own, which each use sets and restores.
    """
    global _depth
    with _lock:
        libraries = _blas_libraries()
        found = [library.num_threads for library in libraries]
        if _depth == 0:
            _first_found[:] = found
        for library in libraries:
            _set(library, 1)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            for library, own, first in zip(libraries, found, _first_found, strict=True):
                if _is_per_thread(library):
                    _set(library, own)
                elif _depth == 0:
                    _set(library, first)


def _blas_libraries() -> list[Any]:
    global _libraries
    if _libraries is None:
        controllers = ThreadpoolController().lib_controllers
        _libraries = [library for library in controllers if library.user_api == "blas"]
    return _libraries


def _is_per_thread(library: Any) -> bool:
    return library.internal_api == "mkl" or getattr(library, "threading_layer", None) == "openmp"


def _set(library: Any, n_threads: int | None) -> None:
    if n_threads is None:
        return
    # From 3.8 on threadpoolctl heeds one thread of a process, the first that set a limit, and silently
    # ignores the others. Here every thread may come first or last, under a lock: none keeps that right.
    clear = getattr(library, "clear_controlling_thread", lambda **_: None)
    clear(force=True)
    library.set_num_threads(n_threads)
    clear(force=True)
