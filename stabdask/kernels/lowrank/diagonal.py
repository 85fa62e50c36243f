"""Batches of matrices ``A = diag(D) + U V^T`` with diagonals of their own and factors in common.

All that is solved is the ``(d, d)`` capacitance matrix ``K = I + V^T D^-1 U``. A matrix that cannot be solved this
way is a status and NaN, not an exception: the rest of the batch is right. Arrays may be NumPy's or CuPy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stabdask.errors import InputError
from stabdask.kernels.arrays import XArray, array_module
from stabdask.kernels.solve import solve_or_nan
from stabdask.schema.status import Status

__all__ = ["LowRankBatch", "inverse", "logdet", "solve"]

_WORST_CONDITION = 1e14
"""Of the capacitance: beyond it hardly a digit is left."""


@dataclass(frozen=True)
class LowRankBatch:
    """What came of a batch.

    Attributes
    ----------
    values
        What was asked for, one per matrix; NaN where `status` is not 0.
    sign
        ``(batch,)`` signs of the determinants; only from `logdet`, else None.
    condition
        ``(batch,)`` by how much rounding errors of K grow in its inverse: the largest row sum of
        ``|K^-1| (I + |V^T D^-1 U|)``, which counts what cancels in K and does not depend on the scales of columns
        (after Skeel [1]_); infinite where singular.
    status
        ``(batch,)`` uint8: 0 fine; 2 singular, or so near (a condition above 1e14, or a zero in the diagonal, by
        which this formula divides); 3 something is NaN or infinite.
    """

    values: XArray
    sign: XArray | None
    condition: XArray
    status: XArray


def solve(D: XArray, U: XArray, V: XArray, b: XArray) -> LowRankBatch:
    """Solve ``(diag(D) + U V^T) x = b`` for each row of D.

    Parameters
    ----------
    D
        ``(batch, n)``.
    U, V
        ``(n, d)``, the same for all.
    b
        ``(batch, n)``, or ``(batch, n, m)``.

    Returns
    -------
    LowRankBatch
        `values` in the shape of `b`.

    Raises
    ------
    InputError
        If shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> solve(np.array([[1.0, 2.0]]), np.ones((2, 1)), np.ones((2, 1)), np.array([[3.0, 4.0]])).values
    array([[1., 1.]])
    """
    D, U, V = _checked(D, U, V)
    xp = array_module(D)
    right = xp.asarray(b, dtype=np.float64)
    batch, n = D.shape
    if right.ndim not in (2, 3) or right.shape[:2] != (batch, n):
        raise InputError(f"b has the shape {right.shape}; expected ({batch}, {n}) or ({batch}, {n}, m)")
    sides = right[:, :, None] if right.ndim == 2 else right
    with np.errstate(all="ignore"):
        K, reciprocal = _capacitance(D, U, V)
        of_capacitance, condition = _inverted(K)
        scaled = reciprocal[:, :, None] * sides
        x = scaled - reciprocal[:, :, None] * (U @ (of_capacitance @ (V.T @ scaled)))
    finite = xp.isfinite(sides).all(axis=(1, 2))
    return _result(x.reshape(right.shape), None, condition, D, U, V, finite)


def inverse(D: XArray, U: XArray, V: XArray) -> LowRankBatch:
    """Return ``(diag(D) + U V^T)^-1`` for each row of D, dense.

    Parameters
    ----------
    D
        ``(batch, n)``.
    U, V
        ``(n, d)``.

    Returns
    -------
    LowRankBatch
        `values` is ``(batch, n, n)``.

    Raises
    ------
    InputError
        If shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> inverse(np.ones((1, 2)), np.array([[1.0], [0.0]]), np.array([[1.0], [0.0]])).values + 0.0
    array([[[0.5, 0. ],
            [0. , 1. ]]])
    """
    D, U, V = _checked(D, U, V)
    xp = array_module(D)
    with np.errstate(all="ignore"):
        K, reciprocal = _capacitance(D, U, V)
        of_capacitance, condition = _inverted(K)
        left = reciprocal[:, :, None] * (U @ of_capacitance)
        dense = -(left @ V.T) * reciprocal[:, None, :]
    places = xp.arange(D.shape[1])
    dense[:, places, places] += reciprocal
    return _result(dense, None, condition, D, U, V, xp.ones(len(D), dtype=bool))


def logdet(D: XArray, U: XArray, V: XArray) -> LowRankBatch:
    """Return signs of determinants and the logarithms of their absolute values, for each row of D.

    ``det(diag(D) + U V^T) = det(I + V^T D^-1 U) prod(D)``.

    Parameters
    ----------
    D
        ``(batch, n)``.
    U, V
        ``(n, d)``.

    Returns
    -------
    LowRankBatch
        `values` is ``(batch,)``, and so is `sign`.

    Raises
    ------
    InputError
        If shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> found = logdet(np.array([[2.0, -3.0]]), np.zeros((2, 1)), np.zeros((2, 1)))
    >>> found.sign, np.exp(found.values).round(12)
    (array([-1.]), array([6.]))
    """
    D, U, V = _checked(D, U, V)
    xp = array_module(D)
    with np.errstate(all="ignore"):
        K, _ = _capacitance(D, U, V)
        _, condition = _inverted(K)
        sign, log = xp.linalg.slogdet(K)
        values = xp.log(xp.abs(D)).sum(axis=1) + log
        signs = xp.sign(D).prod(axis=1) * sign
    return _result(values, signs, condition, D, U, V, xp.ones(len(D), dtype=bool))


def _checked(D: Any, U: Any, V: Any) -> tuple[XArray, XArray, XArray]:
    xp = array_module(D) if hasattr(D, "dtype") else np
    D, U, V = (xp.asarray(array, dtype=np.float64) for array in (D, U, V))
    if D.ndim != 2:
        raise InputError(f"D has the shape {D.shape}; expected (batch, n): a diagonal for each matrix")
    if U.ndim != 2 or U.shape != V.shape or len(U) != D.shape[1]:
        raise InputError(
            f"U has the shape {U.shape} and V {V.shape}; expected the same ({D.shape[1]}, d) of both, "
            f"for D of shape {D.shape}"
        )
    return D, U, V


def _capacitance(D: XArray, U: XArray, V: XArray) -> tuple[XArray, XArray]:
    """Return K `(batch, d, d)` and 1 / D."""
    xp = array_module(D)
    (batch, n), d = D.shape, U.shape[1]
    reciprocal = 1.0 / D
    if d <= batch:
        # One product for the whole batch; its second factor is as large as d/batch of the other way's.
        products = (V[:, :, None] * U[:, None, :]).reshape(n, d * d)
        K = (reciprocal @ products).reshape(batch, d, d)
    else:
        K = (V.T * reciprocal[:, None, :]) @ U
    return K + xp.eye(d), reciprocal


def _inverted(K: XArray) -> tuple[XArray, XArray]:
    """Return K^-1, NaN where singular, and its condition."""
    xp = array_module(K)
    batch, d, _ = K.shape
    if d == 0:
        return K, xp.ones(batch)
    found = solve_or_nan(K, xp.eye(d))
    identity = xp.eye(d)
    terms = identity + xp.abs(K - identity)
    condition = (xp.abs(found) @ terms).sum(axis=2).max(axis=1)
    return found, xp.where(xp.isnan(condition), np.inf, condition)


def _result(
    values: XArray, sign: XArray | None, condition: XArray, D: XArray, U: XArray, V: XArray, finite: XArray
) -> LowRankBatch:
    xp = array_module(D)
    finite = finite & xp.isfinite(D).all(axis=1) & xp.isfinite(U).all() & xp.isfinite(V).all()
    # Infinities of an overflow are no result either.
    solved = xp.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    fine = solved & (condition <= _WORST_CONDITION) & (D != 0).all(axis=1)
    status = xp.where(fine, int(Status.OK), int(Status.INACCURATE))
    status = xp.where(finite, status, int(Status.NON_FINITE_INPUT)).astype(np.uint8)
    bad = status != int(Status.OK)
    values[bad] = np.nan
    if sign is not None:
        sign[bad] = np.nan
    return LowRankBatch(values, sign, xp.where(finite, condition, np.nan), status)
