"""Krylov-Schur iteration on a batch of operators at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, to_host
from stabdask.kernels.krylov_basis import Basis
from stabdask.kernels.krylov_operator import BatchedOperator, Cells
from stabdask.kernels.krylov_projected import Ritz, closed_count, restart_basis, ritz, select_closed
from stabdask.kernels.krylov_records import Found, Plan

__all__ = ["complete_projection", "krylov_schur"]


def krylov_schur(
    operator: BatchedOperator,
    cells: Cells,
    start: XArray,
    plan: Plan,
    norms: npt.NDArray[np.float64],
    *,
    ceiling: npt.NDArray[np.float64] | None = None,
) -> Iterator[Found]:
    """Iterate on matrices larger than `Plan.solved_completely`, and yield each with those that are done when it is.

    Parameters
    ----------
    operator
        Normalized operators.
    cells
        ``(n,)``: which of them.
    start
        ``(n, k)``: unit vectors on the active coordinates, in the precision to work in.
    plan
        How to.
    norms
        ``(n,)``: the Frobenius norms.
    ceiling
        ``(n,)``: matrices without a Ritz value right of this are done, converged or not.

    Yields
    ------
    Found
        The members of `cells`, in groups; those that did not converge within the plan in the last.
    """
    if not len(cells):
        return
    state = Basis(operator, cells, start, plan.subspace, careful=False)
    floor = norms / np.sqrt(np.maximum(operator.sizes[cells], 1))
    ceiling = np.full(len(cells), -np.inf) if ceiling is None else ceiling
    accuracy = 1e-10 if start.dtype == np.float64 else 1e-6
    first = n_products = 0
    while True:
        m = plan.subspace
        state.expand(first, m)
        n_products += m - first
        projected = to_host(state.H).astype(np.float64)
        found = ritz(projected[:, :m], projected[:, m])
        done = ~found.solved | (found.values[:, 0].real <= ceiling) | _converged(found, plan, floor)
        done |= n_products + m - plan.keep > plan.max_products
        if done.any():
            yield _leading(state, projected[done, :m], found.take(done), done, plan, accuracy, n_products)
        if done.all():
            return
        floor, ceiling = floor[~done], ceiling[~done]
        plan = plan.after(n_products)
        _restart(state, projected[~done], found.take(~done), ~done, plan, accuracy)
        first = plan.keep


def _converged(found: Ritz, plan: Plan, floor: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which matrices have all wanted pairs converged, and the next one not about to overtake them."""
    count = closed_count(found.values, plan.modes)[:, None]
    position = np.arange(found.values.shape[1])
    limit = plan.tolerance * np.maximum(np.abs(found.values), floor[:, None])
    last = np.take_along_axis(found.values.real, count - 1, axis=1)
    # It may yet move by its residual, at the very worst times its condition number.
    settled = found.values.real + found.residual <= last
    good = np.where(position < count, found.residual <= limit, settled | (position > count))
    return np.asarray(good.all(axis=1))


def _restart(
    state: Basis,
    projected: npt.NDArray[np.float64],
    found: Ritz,
    rows: npt.NDArray[np.bool_],
    plan: Plan,
    accuracy: float,
) -> None:
    """Shrink to the subspace of the rightmost Ritz values (Stewart 2001), those of the matrices marked."""
    m, keep = projected.shape[2], plan.keep
    xp = state.operator.xp
    basis, reduced = restart_basis(projected[:, :m], found, select_closed(found.values, keep), accuracy)
    coupling = (projected[:, m, None, :] @ basis)[:, 0]
    whole = np.zeros((len(rows), m, keep), dtype=basis.dtype)
    whole[rows] = basis
    kept = xp.concatenate([_rotate(xp, whole, state.V[:, :m]), state.V[:, m, None]], axis=1)
    state.restart(rows, kept, plan.subspace)
    state.H[:, :keep, :keep] = xp.asarray(reduced.astype(state.H.dtype))
    state.H[:, keep, :keep] = xp.asarray(coupling.astype(state.H.dtype))


def _leading(
    state: Basis,
    projected: npt.NDArray[np.float64],
    found: Ritz,
    rows: npt.NDArray[np.bool_],
    plan: Plan,
    accuracy: float,
    n_products: int,
) -> Found:
    """Return the wanted Ritz vectors of the matrices marked."""
    xp = state.operator.xp
    basis, _ = restart_basis(projected, found, select_closed(found.values, plan.returned), accuracy)
    V = state.V[xp.asarray(np.flatnonzero(rows)), : projected.shape[2]]
    count = closed_count(found.values, plan.modes)
    width = plan.modes + 1
    values, kept = found.values[:, : plan.keep], found.vectors[:, :, : plan.keep]
    late = np.arange(plan.keep) >= count[:, None]
    following = kept * (late & (values.imag >= 0))[:, None, :]
    reach = np.where(late, values.real + found.residual[:, : plan.keep], -np.inf)
    return Found(
        cells=state.cells[rows],
        basis=_rotate(xp, basis, V),
        beyond=_rotate(xp, (following.real + following.imag).sum(axis=2, keepdims=True), V)[:, 0],
        values=values[:, :width],
        coordinates=np.swapaxes(basis, 1, 2) @ kept[:, :, :width],
        count=np.where(found.solved, count, 0),
        n_products=np.full(len(basis), n_products),
        reach=reach.max(axis=1),
    )


def _rotate(xp: Any, basis: npt.NDArray[np.float64], V: XArray) -> XArray:
    """Return ``(n, p, k)``: U^T V for `basis` U of ``(n, m, p)`` and V of ``(n, m, k)``."""
    return xp.matmul(xp.asarray(np.ascontiguousarray(np.swapaxes(basis, 1, 2)).astype(V.dtype)), V)


def complete_projection(
    operator: BatchedOperator, cells: Cells, start: XArray, modes: int
) -> Iterator[Found]:
    """Solve small matrices exactly, on a basis of all their coordinates.

    Parameters
    ----------
    operator
        Normalized operators.
    cells
        ``(n,)``: which of them, none of size 0.
    start
        ``(n, k)`` float64 unit vectors on the active coordinates.
    modes
        Number of rightmost eigenvalues wanted.

    Yields
    ------
    Found
        The members of `cells`, those of one size together.
    """
    sizes = operator.sizes[cells]
    state = Basis(operator, cells, start, int(sizes.max()), careful=True)
    state.expand(0, int(sizes.max()))
    projected = to_host(state.H)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        found = ritz(projected[rows, :size, :size], np.zeros((len(rows), size)))
        others = np.arange(size) >= closed_count(found.values, modes)[:, None]
        yield Found(
            cells=cells[rows],
            basis=state.V[operator.xp.asarray(rows), :size],
            beyond=operator.xp.zeros((len(rows), operator.k)),
            values=found.values[:, : modes + 1],
            coordinates=found.vectors[:, :, : modes + 1],
            count=np.where(found.solved, closed_count(found.values, modes), 0),
            n_products=np.full(len(rows), size),
            reach=np.where(others, found.values.real, -np.inf).max(axis=1),
        )
