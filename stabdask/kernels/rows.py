"""Rows of the expression of cells: which are finite, and those wanted copied together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels import lanes

__all__ = ["finite_rows", "take_rows"]

Index = npt.NDArray[np.intp]


def finite_rows(x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows of `x` hold no NaN and no infinity, ``(row,)``, without a temporary of its size."""
    if x.dtype.kind != "f" or not x.shape[1]:
        return np.ones(len(x), dtype=bool)
    # NaN goes through both minimum and maximum; infinities are one of them.
    finite: npt.NDArray[np.bool_] = np.isfinite(x.min(axis=1)) & np.isfinite(x.max(axis=1))
    return finite


def take_rows(
    pieces: Sequence[npt.NDArray[Any]], rows: Index, columns: Index | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """Copy rows out of pieces of a matrix; joining the pieces first would be a copy more.

    Parameters
    ----------
    pieces
        Blocks of rows, ``(row, column)`` each, that follow one another.
    rows
        Which rows of all of them, ascending.
    columns
        Which columns, in which order; all if None.

    Returns
    -------
    x
        ``(len(rows), column)``.
    finite
        ``(len(rows),)``: which of them hold no NaN and no infinity.
    lowest
        ``(len(rows),)``: the least number of each that is finite; infinity where there are no columns.

    Examples
    --------
    >>> import numpy as np
    >>> pieces = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, np.nan]])]
    >>> x, finite, lowest = take_rows(pieces, np.array([0, 2]), np.array([1]))
    >>> x.ravel().tolist(), finite.tolist(), lowest[finite].tolist()
    ([2.0, nan], [True, False], [2.0])
    """
    dtype = np.result_type(*pieces)
    x = np.empty((len(rows), pieces[0].shape[1] if columns is None else len(columns)), dtype=dtype)
    finite = np.empty(len(rows), dtype=bool)
    lowest = np.empty(len(rows), dtype=dtype if dtype.kind == "f" else np.float64)
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])
    cuts = np.searchsorted(rows, starts)
    for piece, start, first, last in zip(pieces, starts, cuts, cuts[1:], strict=False):
        own = slice(first, last)
        if dtype in (np.float32, np.float64) and piece.dtype == dtype and lanes.available():
            lanes.take_rows(piece, rows[own] - start, columns, x[own], finite[own], lowest[own])
        else:
            taken = piece[rows[own] - start]
            x[own] = taken if columns is None else taken[:, columns]
            finite[own] = finite_rows(x[own])
            lowest[own] = x[own].min(axis=1) if x.shape[1] else np.inf
    return x, finite, lowest
