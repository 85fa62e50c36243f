"""BLAS on one thread while a kernel runs.

Many small matrices go fastest when every worker thread solves its own and BLAS adds no threads of its own;
one thread also makes the results independent of the number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]

_lock = threading.Lock()
_depth = 0
_controller: ThreadpoolController | None = None
_limiter: object | None = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold every BLAS of this process to one thread.

    The limit is a property of the process, so overlapping uses from several threads are counted: the first
    sets it and the last restores what was there before.
    """
    global _depth, _controller, _limiter
    with _lock:
        if _depth == 0:
            if _controller is None:
                _controller = ThreadpoolController()
            _limiter = _controller.limit(limits=1, user_api="blas")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _limiter.restore_original_limits()  # type: ignore[union-attr, attr-defined]
                _limiter = None
