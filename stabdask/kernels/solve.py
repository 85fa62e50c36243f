"""Linear systems of a batch, of which some may be singular."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, array_module

__all__ = ["solve_or_nan"]


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
