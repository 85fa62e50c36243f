"""Whether something lies right of what an iteration found: a second iteration without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray
from stabdask.kernels.krylov_basis import start_vectors
from stabdask.kernels.krylov_engine import krylov_schur
from stabdask.kernels.krylov_operator import BatchedOperator, Cells, Wrapper
from stabdask.kernels.krylov_pairs import Pairs, evaluate, orthonormal_rows, orthonormal_span, project
from stabdask.kernels.krylov_records import Found, Plan

__all__ = ["confirm"]

_SUBSPACE, _KEEP = 24, 8
"""Smaller subspaces overlook more: with 16, one in five of the repeated eigenvalues tried, with 24 one in twenty.

(Repeated 2 to 4 times, 6 to 50 % right of the edge of the others; those near the edge are the hard ones.)
"""


class _Deflated(Wrapper):
    """``C - shift Q^T Q``: the eigenvalues that belong to the rows of Q moved left by `shift`, the rest as they are.

    (Wielandt's deflation with Schur vectors; Saad 2011, section 4.2.)
    """

    def __init__(
        self, inner: BatchedOperator, cells: Cells, rows: XArray, shift: npt.NDArray[np.float64]
    ) -> None:
        super().__init__(inner)
        self._rows = rows
        self._shift = shift
        self._position = np.zeros(inner.batch, dtype=np.intp)
        self._position[cells] = np.arange(len(cells))
        self._bound: tuple[Cells, XArray, XArray] | None = None

    def apply(self, x: XArray, cells: Cells) -> XArray:
        return self._deflate(self.inner.apply(x, cells), x, cells)

    def apply_transpose(self, x: XArray, cells: Cells) -> XArray:
        return self._deflate(self.inner.apply_transpose(x, cells), x, cells)

    def _deflate(self, image: XArray, x: XArray, cells: Cells) -> XArray:
        xp = self.xp
        if self._bound is None or self._bound[0] is not cells:
            position = xp.asarray(self._position[cells])
            shift = xp.asarray(self._shift[self._position[cells]])
            self._bound = cells, self._rows[position].astype(x.dtype), shift[:, None].astype(x.dtype)
        _, rows, shift = self._bound
        overlap = xp.matmul(rows, x[:, :, None])[:, :, 0] * shift
        return image - xp.matmul(overlap[:, None, :], rows)[:, 0]


def confirm(
    operator: BatchedOperator, pairs: Pairs, plan: Plan, norms: npt.NDArray[np.float64], dtype: np.dtype[Any]
) -> list[tuple[Pairs, bool]]:
    """Look right of the last pair of each matrix from another start, and take in what is found there.

    An iteration that grows from one vector sees one copy of a repeated eigenvalue, and nothing that its start
    has no part in. So the pairs found are deflated and a short iteration starts from another vector: without a
    Ritz value right of the last pair the matrix is confirmed. Otherwise that value is iterated to convergence,
    joins the others, and the question is asked again.

    Parameters
    ----------
    operator
        Normalized operators.
    pairs
        Converged pairs of matrices larger than the subspace.
    plan
        That of the first iteration.
    norms
        ``(batch,)``: Frobenius norms.
    dtype
        Precision to work in.

    Returns
    -------
    list
        The matrices in groups, with whether they are confirmed.
    """
    xp = operator.xp
    out: list[tuple[Pairs, bool]] = []
    for turn in range(plan.modes + 1):
        grown = []
        for known, found, deflated in _look_right(operator, pairs, plan, norms, dtype, turn):
            clear = (found.count > 0) & (found.values[:, 0].real <= _ceiling(known))
            if clear.any():
                out.append((known.take(xp, clear), True))
            if clear.all():
                continue
            known = known.take(xp, ~clear)
            new = evaluate(deflated, found.take(xp, ~clear), norms, plan.tolerance)
            good = new.accepted
            if not good.all():
                out.append((known.take(xp, ~good), False))
            if good.any():
                grown.append(_joined(operator, known.take(xp, good), new.take(xp, good), plan, norms))
        if not grown:
            return out
        pairs = Pairs.join(xp, grown)
        lost = ~pairs.accepted
        if lost.any():
            out.append((pairs.take(xp, lost), False))
            pairs = pairs.take(xp, ~lost)
        if not len(pairs.cells):
            return out
    return [*out, (pairs, False)]


def _ceiling(pairs: Pairs) -> npt.NDArray[np.float64]:
    """Return the real part of the last pair of each matrix, and its uncertainty on top."""
    last = np.where(pairs.present, pairs.values.real, np.inf).min(axis=1)
    return np.asarray(last + np.where(pairs.present, pairs.limit, 0.0).max(axis=1))


def _look_right(
    operator: BatchedOperator,
    pairs: Pairs,
    plan: Plan,
    norms: npt.NDArray[np.float64],
    dtype: np.dtype[Any],
    turn: int,
) -> Iterator[tuple[Pairs, Found, BatchedOperator]]:
    """Yield matrices, what their deflated selves have rightmost, and these."""
    xp, cells = operator.xp, pairs.cells
    real = pairs.values.real
    width = norms[cells] / np.sqrt(operator.sizes[cells])
    first = np.where(pairs.present, real, -np.inf).max(axis=1)
    last = np.where(pairs.present, real, np.inf).min(axis=1)
    deflated = _Deflated(operator, cells, orthonormal_span(xp, pairs), first - last + 4.0 * width)
    start = start_vectors(operator, cells, 1 + turn, dtype, pairs.beyond, random_part=1.0)
    small = replace(plan, modes=1, subspace=min(_SUBSPACE, plan.subspace), keep=min(_KEEP, plan.keep))
    for found in krylov_schur(deflated, cells, start, small, norms[cells], ceiling=_ceiling(pairs)):
        known = pairs.take(xp, np.isin(cells, found.cells))
        yield replace(known, n_products=known.n_products + found.n_products), found, deflated


def _joined(
    operator: BatchedOperator, known: Pairs, new: Pairs, plan: Plan, norms: npt.NDArray[np.float64]
) -> Pairs:
    """Return the rightmost pairs in the sum of the invariant subspaces of two sets of pairs.

    The eigenvectors of the deflated matrix are not those of the matrix, but together with what was deflated
    they span an invariant subspace of it.
    """
    xp = operator.xp
    first, second = orthonormal_span(xp, known), orthonormal_span(xp, new)
    for _ in range(2):
        second = second - xp.matmul(xp.matmul(second, xp.swapaxes(first, 1, 2)), first)
        second = orthonormal_rows(xp, second, new.present)
    basis = xp.concatenate([first, second], axis=1)
    present = np.concatenate([known.present, new.present], axis=1)
    found = project(operator, basis, present, plan.modes, new)
    found = replace(found, n_products=found.n_products + known.n_products)
    return evaluate(operator, found, norms, plan.tolerance)
