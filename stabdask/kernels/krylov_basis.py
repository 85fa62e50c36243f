"""Krylov bases of a batch of operators: where they start, and how they grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, to_host
from stabdask.kernels.krylov_operator import BatchedOperator, Cells

__all__ = ["Basis", "hashed_vector", "start_vectors"]

_SECOND_PASS = 0.7
"""A vector that orthogonalization leaves less of than this is orthogonalized again.

Errors grow by up to the inverse of this in every step: at 0.3 some bases lose their orthogonality altogether.
"""


def hashed_vector(k: int, salt: int) -> npt.NDArray[np.float64]:
    """Return ``(k,)`` numbers in (-1, 1) that look random and are a function of position and `salt` alone.

    They are SplitMix64 (Steele, Lea and Flood 2014) of the two.
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, k + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(salt) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    unit = ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return 2.0 * unit - 1.0


def start_vectors(
    operator: BatchedOperator,
    cells: Cells,
    salt: int,
    dtype: np.dtype[Any],
    prefer: XArray | None = None,
    random_part: float = 0.05,
) -> XArray:
    """Return ``(n, k)``: unit vectors on the active coordinates to start from.

    Parameters
    ----------
    operator, cells
        Whose.
    salt
        Which of the vectors that look random.
    dtype
        Precision.
    prefer
        ``(n, k)`` or ``(k,)``: vectors to lean to.
    random_part
        How much of a random vector is added to those, because a start without a part in some eigenvector
        never finds it.
    """
    xp = operator.xp
    anything = xp.asarray(hashed_vector(operator.k, salt))
    start = _unit(xp, operator.restrict(xp.tile(anything, (len(cells), 1)), cells))
    if prefer is not None:
        leaning = xp.tile(prefer, (len(cells), 1)) if prefer.ndim == 1 else prefer
        leaning = _unit(xp, operator.restrict(leaning.astype(np.float64), cells))
        start = _unit(xp, leaning + random_part * start)
    return start.astype(dtype)


class Basis:
    """Orthonormal bases ``V (n, m + 1, k)`` and projections ``H (n, m + 1, m)`` while they grow.

    In rows of V, as kept here, ``C V_m^T = V_{m+1}^T H``.
    """

    def __init__(
        self, operator: BatchedOperator, cells: Cells, start: XArray, subspace: int, *, careful: bool
    ) -> None:
        xp = operator.xp
        self.operator = operator
        self.cells = cells
        self._sizes = xp.asarray(operator.sizes[cells])
        self._careful = careful
        self._diagonal = xp.zeros(len(cells), dtype=start.dtype)
        self.V = xp.zeros((len(cells), subspace + 1, operator.k), dtype=start.dtype)
        self.H = xp.zeros((len(cells), subspace + 1, subspace), dtype=start.dtype)
        self.V[:, 0] = start
        self._negligible = 16 * float(np.finfo(start.dtype).eps)

    def expand(self, first: int, last: int) -> None:
        """Take columns `first` to `last` - 1 of H and the rows of V that follow them."""
        for j in range(first, last):
            image = self.operator.apply(self.V[:, j], self.cells)
            overlap, image, norm = self._orthogonalize(image, j + 1)
            self.H[:, : j + 1, j] = overlap
            self._append(image, norm, j)

    def _append(self, image: XArray, norm: XArray, j: int) -> None:
        """Set row j + 1 of V, to something new where the Krylov space is exhausted."""
        xp = self.operator.xp
        # The operators are normalized: what is left of a product in an invariant subspace is rounding.
        ended = (norm <= self._negligible) | (self._sizes <= j + 1)
        self.H[:, j + 1, j] = xp.where(ended, 0.0, norm)
        xp.divide(image, xp.where(ended, 1.0, norm)[:, None], out=self.V[:, j + 1])
        stopped = np.flatnonzero(to_host(ended))
        if len(stopped):
            self._restart_random(stopped, j)

    def _restart_random(self, rows: Cells, j: int) -> None:
        """Continue with a vector orthogonal to all before; with zeros where there is none left."""
        xp = self.operator.xp
        where = xp.asarray(rows)
        fresh = xp.asarray(hashed_vector(self.operator.k, 1000 + j).astype(self.V.dtype))
        fresh = self.operator.restrict(xp.tile(fresh, (len(rows), 1)), self.cells[rows])
        V = self.V[where, : j + 1]
        for _ in range(3):
            fresh = fresh / xp.maximum(_norms(xp, fresh), np.finfo(self.V.dtype).tiny)[:, None]
            fresh = fresh - _combine(xp, _overlaps(xp, V, fresh), V)
        norm = _norms(xp, fresh)
        room = xp.asarray(self.operator.sizes[self.cells[rows]] > j + 1) & (norm > 0.5)
        self.V[where, j + 1] = xp.where(room[:, None], fresh / xp.where(room, norm, 1.0)[:, None], 0.0)

    def _orthogonalize(self, image: XArray, count: int) -> tuple[XArray, XArray, XArray]:
        """Classical Gram-Schmidt against the first `count` rows, again where little is left (Daniel et al. 1976).

        The multiple of the last row that the diagonal of the matrix amounts to on average is taken off first.
        Otherwise it would often be most of the vector, and cost most vectors the second pass.
        """
        xp = self.operator.xp
        V = self.V[:, :count]
        image -= self._diagonal[:, None] * V[:, -1]
        overlap = _overlaps(xp, V, image)
        image -= _combine(xp, overlap, V)
        norm = _norms(xp, image)
        before = xp.hypot(norm, _norms(xp, overlap))
        again = norm < (2.0 if self._careful else _SECOND_PASS) * before
        if bool(again.any()):
            # Matrices that need no second pass get none, so that no result depends on its neighbors.
            more = _overlaps(xp, V, image) * again[:, None]
            image -= _combine(xp, more, V)
            overlap += more
            norm = _norms(xp, image)
        overlap[:, -1] += self._diagonal
        if count == 1:
            # The quotient of a random vector: about the mean of the diagonal.
            self._diagonal = overlap[:, 0]
        return overlap, image, norm

    def restart(self, rows: npt.NDArray[np.bool_], begin: XArray, subspace: int) -> None:
        """Go on with the matrices marked, from the rows `begin` of all of them, in bases of another size; clear H.

        Those that are done take no part in products any more. No basis is copied: what follows overwrites it.
        """
        where = self.operator.xp.asarray(np.flatnonzero(rows))
        self.cells = self.cells[rows]
        n = len(self.cells)
        if self.V.shape[1] == subspace + 1:
            self.V = self.V[:n]
        else:
            self.V = self.operator.xp.zeros((n, subspace + 1, self.V.shape[2]), dtype=self.V.dtype)
        self.V[:, : begin.shape[1]] = begin[where]
        self.H = self.operator.xp.zeros((n, subspace + 1, subspace), dtype=self.H.dtype)
        self._sizes, self._diagonal = self._sizes[where], self._diagonal[where]


def _norms(xp: Any, x: XArray) -> XArray:
    return xp.sqrt(xp.einsum("ck,ck->c", x, x))


def _overlaps(xp: Any, V: XArray, x: XArray) -> XArray:
    return xp.matmul(V, x[:, :, None])[:, :, 0]


def _combine(xp: Any, weights: XArray, V: XArray) -> XArray:
    return xp.matmul(weights[:, None, :], V)[:, 0]


def _unit(xp: Any, x: XArray) -> XArray:
    norm = _norms(xp, x)
    return x / xp.where(norm > 0, norm, 1.0)[:, None]
