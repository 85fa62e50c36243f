"""Linear systems, many small ones at a time: solved, or said to be singular, or solved with damping."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, array_module, to_host

__all__ = ["inverse_or_nan", "solve_damped", "solve_or_nan"]

Array = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-8
"""Columns count in damping with at least this share of the largest: one of zeros would not be damped at all."""


def solve_or_nan(matrices: XArray, right: XArray) -> XArray:
    """Solve ``A X = B`` for every matrix of a batch.

    Parameters
    ----------
    matrices
        ``(batch, n, n)``.
    right
        ``(batch, n, m)`` or ``(n, m)``, the same for all.

    Returns
    -------
    array
        ``(batch, n, m)``; NaN for a matrix that is exactly singular or not finite.

    Examples
    --------
    >>> solve_or_nan(np.array([[[2.0]], [[0.0]]]), np.ones((1, 1))).ravel()
    array([0.5, nan])
    """
    xp = array_module(matrices)
    right = xp.broadcast_to(right, (len(matrices), *right.shape[-2:]))
    if not matrices.size:
        return xp.zeros(right.shape, dtype=np.result_type(matrices.dtype, right.dtype))
    try:
        with np.errstate(all="ignore"):
            found = xp.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        return np.stack([_solve_one(a, b) for a, b in zip(matrices, right, strict=True)])
    # A GPU raises nothing for a singular matrix: there infinities tell.
    finite = xp.isfinite(found).all(axis=(1, 2))
    return xp.where(finite[:, None, None], found, np.nan)


def _solve_one(matrix: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        with np.errstate(all="ignore"):
            found = np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full(right.shape, np.nan, dtype=np.result_type(matrix.dtype, right.dtype))
    return found if np.isfinite(found).all() else np.full_like(found, np.nan)


def inverse_or_nan(matrices: XArray) -> tuple[XArray, npt.NDArray[np.float64]]:
    """Invert every matrix of a batch, and say how well it is conditioned.

    Parameters
    ----------
    matrices
        ``(batch, n, n)``.

    Returns
    -------
    inverse
        ``(batch, n, n)``; NaN for a matrix that is exactly singular or not finite.
    condition
        ``(batch,)``, on the host: ``|A|_1 |A^-1|_1``, at least 1; infinite where there is no inverse.

    Examples
    --------
    >>> inverse, condition = inverse_or_nan(np.array([[[2.0, 0.0], [0.0, 0.5]], [[1.0, 1.0], [1.0, 1.0]]]))
    >>> condition
    array([ 4., inf])
    """
    xp, n = array_module(matrices), matrices.shape[1]
    inverse = solve_or_nan(matrices, xp.eye(n, dtype=matrices.dtype))
    if not n:
        return inverse, np.ones(len(matrices))
    norms = [to_host(xp.abs(each).sum(axis=1).max(axis=1)).astype(np.float64) for each in (matrices, inverse)]
    with np.errstate(over="ignore", invalid="ignore"):
        condition = norms[0] * norms[1]
    return inverse, np.where(np.isnan(condition), np.inf, condition)


def solve_damped(matrices: Array, b: Array, damping: Array, weights: Array | None = None) -> Array:
    """Minimize ``|w o (A x - b)|^2 + damping |D x|^2`` for each matrix of a batch (Levenberg 1944, Marquardt 1963).

    D holds the norms of the columns of ``diag(w) A``, so that the units of x do not matter. Solved as the augmented
    system ``[[a I, A], [A^T, -a I]]`` with a^2 the damping, whose condition is not that of A squared (Bjorck 1996).

    Parameters
    ----------
    matrices
        ``(batch, k, k)``.
    b
        ``(batch, k)``.
    damping
        ``(batch,)`` positive.
    weights
        ``(batch, k)`` w, positive; ones if not given.

    Returns
    -------
    numpy.ndarray
        ``(batch, k)``; a row of NaN where an entry is not finite. A component is 0 where its column is.

    Examples
    --------
    >>> import numpy as np
    >>> solve_damped(np.array([[[1.0, 0.0], [0.0, 0.0]]]), np.array([[1.0, 1.0]]), np.array([1e-6])).round(3) + 0.0
    array([[1., 0.]])
    """
    batch, k, _ = matrices.shape
    scaled, side = (matrices, b) if weights is None else (matrices * weights[:, :, None], b * weights)
    norms = np.sqrt(np.einsum("bij,bij->bj", scaled, scaled))
    norms = np.maximum(norms, _LEAST_SHARE * norms.max(axis=1, initial=0.0, keepdims=True))
    norms[norms == 0] = 1.0
    scaled = scaled / norms[:, None, :]
    system = np.zeros((batch, 2 * k, 2 * k))
    first, second = np.arange(k), np.arange(k, 2 * k)
    root = np.sqrt(np.asarray(damping))[:, None]
    system[:, first, first] = root
    system[:, :k, k:] = scaled
    system[:, k:, :k] = scaled.transpose(0, 2, 1)
    system[:, second, second] = -root
    right = np.concatenate([side, np.zeros_like(side)], axis=1)
    solved = solve_or_nan(system, right[:, :, None])[:, :, 0]
    return np.asarray(solved[:, k:] / norms)
