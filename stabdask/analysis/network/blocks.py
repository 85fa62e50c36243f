"""Sums over the cells of one block in memory, dense or sparse."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabdask.analysis.network.moment_checks import check_dtype, not_finite
from stabdask.analysis.network.sums import Sums, dense_sums, sparse_sums
from stabdask.errors import InputError
from stabdask.kernels.rows import finite_rows

__all__ = ["block_sums"]


def block_sums(x: Any, *, fourth: bool, skip: bool) -> tuple[Sums, int]:
    """Return the sums over the cells of a block, and how many cells were skipped.

    Parameters
    ----------
    x
        ``(cell, gene)`` array or SciPy sparse matrix.
    fourth
        Whether to keep the sums of third and fourth order.
    skip
        Whether to leave out cells that are not finite.

    Raises
    ------
    InputError
        If `x` has no two dimensions, holds no real numbers, or a cell is not finite and not to be skipped.
    """
    from scipy import sparse

    is_sparse = sparse.issparse(x)
    if not is_sparse:
        if isinstance(x, np.ma.MaskedArray):
            raise InputError(
                "the cells are a masked array; fill it, e.g. with x.filled(numpy.nan) and missing='skip'"
            )
        x = np.asarray(x)
    if x.ndim != 2:
        raise InputError(f"the cells have shape {x.shape}; expected (cell, gene)")
    check_dtype(x.dtype)
    if is_sparse:
        x = sparse.csr_array(x)
        if not x.has_canonical_format:
            x = x.copy()  # the caller's stays as it is
            x.sum_duplicates()
        finite = np.ones(x.shape[0], dtype=bool)
        bad = np.flatnonzero(~np.isfinite(x.data))
        finite[np.searchsorted(x.indptr, bad, side="right") - 1] = False
    else:
        finite = finite_rows(x)
    if not finite.all():
        if not skip:
            raise not_finite(f"number {int(np.argmin(finite)):,} of {len(finite):,}", "row")
        x = x[finite]
    return (sparse_sums if is_sparse else dense_sums)(x, fourth=fourth), int((~finite).sum())
