"""Linear systems, many small ones at a time: solved, or said to be singular, or solved with damping."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["solve_damped", "solve_or_nan"]

Array = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-8
"""Columns count in damping with at least this share of the largest: one of zeros would not be damped at all."""


def solve_or_nan(matrices: Array, b: Array) -> Array:
    """Solve ``A x = b`` for each matrix of a batch.

    Parameters
    ----------
    matrices
        ``(batch, k, k)``.
    b
        ``(batch, k)``.

    Returns
    -------
    numpy.ndarray
        ``(batch, k)``; a row of NaN where the matrix is singular to the last bit, or it or its solution is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> solve_or_nan(np.array([[[2.0]], [[0.0]]]), np.array([[1.0], [1.0]]))
    array([[0.5],
           [nan]])
    """
    try:
        out: Array = np.asarray(np.linalg.solve(matrices, b[:, :, None])[:, :, 0], dtype=np.float64)
    except np.linalg.LinAlgError:
        # One singular matrix fails the call for all; such batches are few.
        out = np.full(b.shape, np.nan)
        for number, (matrix, side) in enumerate(zip(matrices, b, strict=True)):
            try:
                out[number] = np.linalg.solve(matrix, side)
            except np.linalg.LinAlgError:
                continue
    out[~np.isfinite(out).all(axis=1)] = np.nan
    return out


def solve_damped(matrices: Array, b: Array, damping: Array, weights: Array | None = None) -> Array:
    """Minimize ``|w o (A x - b)|^2 + damping |D x|^2`` for each matrix of a batch (Levenberg 1944, Marquardt 1963).

    D holds the norms of the columns of ``diag(w) A``, so that the units of x do not matter. Solved as the augmented
    system ``[[a I, A], [A^T, -a I]]`` with a^2 the damping, whose condition is not the square of that of A (Bjorck
    1996).

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
    solved = solve_or_nan(system, np.concatenate([side, np.zeros_like(side)], axis=1))
    return np.asarray(solved[:, k:] / norms)
