"""From which rank on an inversion from scratch is faster than an update: measured once in each process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from scipy.linalg import blas

from stabdask.kernels.lowrank.symmetric import invert_definite, update_triangle
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["crossover"]

_ORDER = 384
_SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
_REPEATS = 3
_lock = threading.Lock()
_measured: list[float] = []


def crossover() -> float:
    """Return the rank of a change, as a share of the order n, from which direct inversion is the faster.

    Returns
    -------
    float
        From 0.1 to 1, measured in about a tenth of a second at the first call. Both ways give the same up to
        rounding, so only times depend on it.

    Notes
    -----
    An update takes about ``3 n^2 d`` operations and an inversion ``n^3``, all in products of matrices where d is
    large: their ratio hardly depends on n.

    Examples
    --------
    >>> 0.1 <= crossover() <= 1
    True
    """
    with _lock:
        if not _measured:
            # On one thread: several would wait for whatever else runs beside, some of the ways more than others.
            with single_threaded_blas():
                _measured.append(_measure())
    return _measured[0]


def _measure() -> float:
    stream = np.random.Generator(np.random.PCG64(_ORDER))
    X = np.asfortranarray(stream.standard_normal((_ORDER, _ORDER)))
    matrix = blas.dsyrk(1.0 / _ORDER, X, beta=1.0, c=np.eye(_ORDER, order="F"), lower=1)
    direct = _seconds(lambda: invert_definite(matrix))
    inverse, _ = invert_definite(matrix)
    for share in _SHARES:
        some = X[:, : int(share * _ORDER)]
        if _seconds(lambda some=some: update_triangle(inverse.copy(order="F"), some)) >= direct:  # type: ignore[misc]
            return share
    return 1.0


def _seconds(work: Callable[[], object]) -> float:
    best = np.inf
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return float(best)
