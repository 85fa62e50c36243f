"""Largest eigenvalues of batches of real symmetric matrices known by their products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, to_host

__all__ = ["BASIS_BYTES", "DENSE_ORDER", "largest_eigenvalues", "matrices_at_once"]

BASIS_BYTES = 8 * 2**20
"""Bases of the matrices that are best iterated on together: what stays in a cache."""
DENSE_ORDER = 2_048
"""Up to this order, a matrix whose largest eigenvalue is not found is worth a dense solver."""
_BASIS = 32
_FIRST, _STEPS = 8, 4
"""Steps before the first look at what has converged, and between looks."""
_KEPT = 10
_RESTARTS = 60
_NOTHING = 16 * float(np.finfo(np.float64).eps)
_SEED = 20_260
"""Of the first vector, the same in every call: results do not depend on what was called before."""

Product = Callable[[XArray, npt.NDArray[np.intp]], XArray]


def matrices_at_once(n: int) -> int:
    """Return how many matrices of order `n` to pass to `largest_eigenvalues` at a time.

    Examples
    --------
    >>> matrices_at_once(2_000)
    16
    """
    return max(1, BASIS_BYTES // (8 * _BASIS * max(1, n)))


def largest_eigenvalues(
    product: Product,
    *,
    batch: int,
    n: int,
    scale: npt.NDArray[np.float64],
    tolerance: float = 1e-8,
    xp: Any = np,
) -> npt.NDArray[np.float64]:
    """Return the largest eigenvalue of each matrix of a batch by Lanczos iteration with thick restarts.

    Parameters
    ----------
    product
        ``product(x, members)`` with x ``(len(members), n)`` returns ``H x``, one vector for each matrix of `members`.
    batch, n
        Number of matrices and their order.
    scale
        ``(batch,)``: an upper bound on the norm of each matrix.
    tolerance
        Iteration ends where the residual ``|H y - mu y|`` is below this times `scale`. The error of mu is at most as
        large, and of the order of its square where the next eigenvalue is apart.
    xp
        Array module that `product` works with.

    Returns
    -------
    ``(batch,)`` on the host: NaN where the iteration does not converge, or `scale` is not finite.

    Notes
    -----
    All vectors are kept orthogonal to the whole basis, and the projection is taken from the products themselves, so
    that restarting needs no recurrence of its own. Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22:602.

    Examples
    --------
    >>> import numpy as np
    >>> H = np.diag(np.arange(40.0))[None]
    >>> values = largest_eigenvalues(
    ...     lambda x, members: np.einsum("bij,bj->bi", H[members], x), batch=1, n=40, scale=np.array([39.0]))
    >>> values.round(6)
    array([39.])
    """
    values = np.full(batch, np.nan)
    size = min(_BASIS, n)
    members = np.flatnonzero(np.isfinite(scale))
    if not n or not len(members):
        return values
    first = np.random.Generator(np.random.PCG64(_SEED)).standard_normal(n)
    basis = xp.zeros((len(members), size, n))
    basis[:, 0] = xp.asarray(first / np.linalg.norm(first))
    projected = np.zeros((len(members), size, size))
    filled = 0
    for _ in range(_RESTARTS):
        for stop in (*range(max(filled, _FIRST) + _STEPS, size, _STEPS), size):
            residual, norm = _extend(product, basis, projected, members, range(filled, stop), scale, xp)
            theta, rotation = np.linalg.eigh(projected[:, :stop, :stop])
            left_over = norm * np.abs(rotation[:, -1, -1])
            done = (left_over <= tolerance * scale[members]) | (stop == n)
            values[members[done]] = theta[done, -1]
            if done.all():
                return values
            if done.any():
                going = np.flatnonzero(~done)
                rows = xp.asarray(going)
                members, basis, projected, residual = (
                    members[going],
                    basis[rows],
                    projected[going],
                    residual[rows],
                )
                theta, rotation = theta[going], rotation[going]
            filled = stop
            if stop < size:
                basis[:, stop] = residual
        filled = min(_KEPT, size - 1)
        ritz = xp.asarray(rotation[:, :, ::-1][:, :, :filled])
        start = xp.matmul(xp.swapaxes(ritz, 1, 2), basis)
        basis = xp.zeros((len(members), size, n))
        basis[:, :filled] = start
        basis[:, filled] = residual
        projected = np.zeros((len(members), size, size))
        diagonal = np.arange(filled)
        projected[:, diagonal, diagonal] = theta[:, ::-1][:, :filled]
    return values


def _extend(
    product: Product,
    basis: XArray,
    projected: npt.NDArray[np.float64],
    members: npt.NDArray[np.intp],
    steps: range,
    scale: npt.NDArray[np.float64],
    xp: Any,
) -> tuple[XArray, npt.NDArray[np.float64]]:
    """Multiply with the vectors `steps` of the basis, the first of which is there; return the next and its norm.

    ``projected`` becomes ``V H V^T`` for the rows V of the basis. Where a basis spans an invariant subspace, which
    from a random start holds the largest eigenvalue, the vectors that follow are zero and the norm too; they stand in
    ``projected`` as eigenvalues below all others.
    """
    nothing = _NOTHING * scale[members]
    residual, norm = basis[:, 0], np.zeros(len(members))
    ended = np.zeros(len(members), dtype=bool)
    for step in steps:
        y = product(basis[:, step], members)
        known = basis[:, : step + 1]
        along = xp.matmul(known, y[:, :, None])
        y = y - xp.matmul(xp.swapaxes(along, 1, 2), known)[:, 0]
        # Once more: what rounding left of the first subtraction.
        again = xp.matmul(known, y[:, :, None])
        y = y - xp.matmul(xp.swapaxes(again, 1, 2), known)[:, 0]
        column = to_host((along + again)[:, :, 0])
        projected[:, : step + 1, step] = column
        projected[:, step, : step + 1] = column
        projected[ended, step, step] = -2.0 * scale[members[ended]] - 1.0
        norm = to_host(xp.sqrt(xp.einsum("bn,bn->b", y, y)))
        ended |= norm <= nothing
        norm = np.where(ended, 0.0, norm)
        with np.errstate(divide="ignore"):
            inverse = np.where(ended, 0.0, 1.0 / norm)
        residual = y * xp.asarray(inverse)[:, None]
        if step + 1 < steps.stop:
            basis[:, step + 1] = residual
    return residual, norm
