"""The rightmost eigenvalues of many large matrices at once, from products with vectors alone.

Krylov-Schur iteration (Stewart 2001; the implicitly restarted Arnoldi method of Sorensen 1992 in a form that
restarts stably) runs on all matrices of a batch in step. Cells of one cluster share W, so that a step of all of
them is one matrix product. Matrices that have converged leave it.

Where the tolerance allows, the iteration runs in single precision. Eigenvalues and residuals always come from
products in double precision at the end, and what does not hold there is iterated on in double precision.

References
----------
- D. C. Sorensen, Implicit application of polynomial filters in a k-step Arnoldi method, SIAM J. Matrix Anal.
  Appl. 13 (1992), 357-385.
- G. W. Stewart, A Krylov-Schur algorithm for large eigenproblems, SIAM J. Matrix Anal. Appl. 23 (2001), 601-614.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import UsageError
from stabdask.kernels.arrays import XArray
from stabdask.kernels.krylov_basis import start_vectors
from stabdask.kernels.krylov_confirm import confirm
from stabdask.kernels.krylov_engine import complete_projection, krylov_schur
from stabdask.kernels.krylov_operator import BatchedOperator, Cells, Normalized, ScaledOperator, Transposed
from stabdask.kernels.krylov_pairs import Pairs, evaluate
from stabdask.kernels.krylov_records import Found, Plan
from stabdask.kernels.krylov_result import LeadingResult, ResultBuilder
from stabdask.kernels.results import Vectors

__all__ = ["BatchedOperator", "LeadingResult", "ScaledOperator", "leading_eigenvalues"]

_SINGLE_TOLERANCE = 8e-7
"""Tolerances from here on up are within the reach of single precision."""

_SINGLE_ERROR = 2e-7
"""Part of the tolerance left to the rounding errors of single precision, which the iteration does not see."""

_LARGE = 2000
"""Matrices of this size on are iterated on in larger subspaces."""

_FINEST = 1e-12
"""Tolerances below this are taken as this: it is what double precision delivers."""


def leading_eigenvalues(
    operator: BatchedOperator,
    *,
    modes: int,
    tolerance: float,
    max_products: int | None = None,
    subspace: int | None = None,
    start: XArray | None = None,
    vectors: Vectors = "none",
    confirm_modes: bool = True,
) -> LeadingResult:
    """Return the rightmost eigenvalues of every matrix of a batch.

    Starting vectors are a fixed function of position. The result for one matrix does not depend on the others
    in its batch beyond rounding (matrix products of another shape round differently), but for `start`, where
    that was made from another batch.

    Parameters
    ----------
    operator
        The matrices, on NumPy or CuPy arrays.
    modes
        Number of eigenvalues wanted of each, at least 1.
    tolerance
        Largest residual ``|C u - lambda u|`` of what counts as converged, relative to the larger of
        ``abs(lambda)`` and ``|C| / sqrt(size)``, which never exceeds the spectral norm of C.
    max_products
        Products with each matrix after which it is given up; 4 k, and at least 2,000, if not given.
    subspace
        Dimension of the Krylov spaces; chosen from `modes` and k if not given. What takes long to converge
        goes on in spaces of twice the dimension; matrices no larger than that are solved completely.
    start
        ``(k,)``: the `start` of an earlier result for similar matrices, such as other cells of a cluster.
    vectors
        ``"none"``, ``"right"`` or ``"both"``; left vectors take a second iteration, with the transposes.
    confirm_modes
        Whether to look for eigenvalues missed (further copies of a repeated one, for instance) by a short
        iteration from another start. Without it no count is certain.

    Returns
    -------
    LeadingResult
        A matrix that is not finite or does not converge has a status and NaN; its neighbors are not affected.

    Raises
    ------
    UsageError
        If an option makes no sense.

    Notes
    -----
    Residuals are certain; that nothing right of the eigenvalues returned was overlooked is not, as in every
    method of this kind. The iteration goes on until the next Ritz value can no longer overtake the last one
    returned by its residual, and then looks for more from another start. What may still be missing lies close
    to the last eigenvalue returned, or is one of several copies near the edge of the others, or belongs to a
    matrix so far from normal (chains of defective eigenvalues) that its eigenvalues are ill determined.

    BLAS threads are the caller's: see `stabdask.kernels.threads.single_threaded_blas`.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> operator = ScaledOperator(weights, np.ones((1, 2)), np.ones(2), np.ones((1, 2), dtype=bool))
    >>> leading_eigenvalues(operator, modes=2, tolerance=1e-8).eigenvalues
    array([[-1.+1.j, -1.-1.j]])
    """
    plan = _plan(operator.k, modes, tolerance, max_products, subspace)
    if vectors not in ("none", "right", "both"):
        raise UsageError(f"vectors={vectors!r}; expected 'none', 'right' or 'both'")
    normalized = Normalized(operator)
    if start is not None:
        if start.shape != (operator.k,):
            raise UsageError(f"start has shape {start.shape}; expected ({operator.k},)")
        start = normalized.xp.asarray(start)
        if not bool(normalized.xp.isfinite(start).all()):
            raise UsageError("start holds NaN or infinity; expected the start of an earlier result")
    norms, finite = normalized.norms, normalized.finite
    out = ResultBuilder(normalized, plan, vectors)
    # Overflow and NaN are met on purpose, and looked for afterwards.
    with np.errstate(all="ignore"):
        for pairs, sure in _solve(normalized, plan, norms, finite, start, confirm_modes):
            out.write(pairs, sure)
        if vectors == "both":
            # One mode more, so that a near tie at the end does not leave a right vector without its left one.
            wider = replace(plan, modes=plan.modes + 1)
            for pairs, _ in _solve(Transposed(normalized), wider, norms, finite, None, False):
                out.write_left(pairs)
    return out.result()


def _plan(k: int, modes: int, tolerance: float, max_products: int | None, subspace: int | None) -> Plan:
    """Return how to work, from what was asked for."""
    if isinstance(modes, bool) or not isinstance(modes, int | np.integer) or modes < 1:
        raise UsageError(f"modes={modes!r}; expected a whole number, at least 1")
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance={tolerance!r}; expected a number between 0 and 1")
    # Larger subspaces save products, smaller ones projected problems; products weigh more as k grows.
    keep = _even(max(12, 1.2 * modes + 10) + (0 if k < _LARGE else 8))
    chosen = _even(2.8 * keep)
    if subspace is not None:
        least = _even(modes + 2) + 4
        if subspace < least:
            raise UsageError(f"subspace={subspace}; expected at least {least} for {modes} modes")
        chosen = subspace // 2 * 2
        keep = max(min(keep, _even(chosen / 2.8)), _even(modes + 2))
    budget = max(2000, 4 * k) if max_products is None else max_products
    if budget < 1:
        raise UsageError(f"max_products={max_products}; expected at least 1")
    return Plan(int(modes), chosen, keep, max(float(tolerance), _FINEST), int(budget), 10 * chosen)


def _even(number: float) -> int:
    return 2 * math.ceil(number / 2)


def _solve(
    operator: Normalized | Transposed,
    plan: Plan,
    norms: npt.NDArray[np.float64],
    finite: npt.NDArray[np.bool_],
    start: XArray | None,
    confirm_modes: bool,
) -> Iterator[tuple[Pairs, bool]]:
    """Yield the leading pairs of all finite matrices in groups, with whether they are confirmed."""
    sizes = operator.sizes
    small = np.flatnonzero(finite & (sizes > 0) & (sizes <= plan.solved_completely))
    large = np.flatnonzero(finite & (sizes > plan.solved_completely))
    if len(small):
        begin = start_vectors(operator, small, 0, np.dtype(np.float64))
        for found in complete_projection(operator, small, begin, plan.modes):
            yield evaluate(operator, found, norms, plan.tolerance), True
    if not len(large):
        return
    single = plan.tolerance >= _SINGLE_TOLERANCE
    for pairs, precision in _iterate(operator, large, plan, norms, start, single=single):
        good = pairs.accepted
        if not confirm_modes or not good.any():
            yield pairs, False
            continue
        if not good.all():
            yield pairs.take(operator.xp, ~good), False
        yield from confirm(operator, pairs.take(operator.xp, good), plan, norms, precision)


def _iterate(
    operator: BatchedOperator,
    cells: Cells,
    plan: Plan,
    norms: npt.NDArray[np.float64],
    start: XArray | None,
    *,
    single: bool,
) -> Iterator[tuple[Pairs, np.dtype[Any]]]:
    """Yield the leading pairs of large matrices and the precision they took: single, where that will do."""
    xp = operator.xp
    spent = np.zeros(len(cells), dtype=np.intp)
    if single:
        begin = start_vectors(operator, cells, 0, np.dtype(np.float32), start)
        strict = replace(plan, tolerance=plan.tolerance - _SINGLE_ERROR)
        found = Found.join(xp, list(krylov_schur(operator, cells, begin, strict, norms[cells])))
        pairs = evaluate(operator, found, norms, plan.tolerance)
        final = pairs.accepted | (pairs.n_products + plan.subspace > plan.max_products)
        if final.any():
            yield pairs.take(xp, final), begin.dtype
        if final.all():
            return
        pairs = pairs.take(xp, ~final)
        cells, spent = pairs.cells, pairs.n_products
        start = _sum_of_vectors(xp, pairs)
    begin = start_vectors(operator, cells, 0, np.dtype(np.float64), start)
    rest = replace(plan, max_products=plan.max_products - int(spent.min()))
    found = Found.join(xp, list(krylov_schur(operator, cells, begin, rest, norms[cells])))
    # Matrices come back in the order they finished in.
    before = np.zeros(operator.batch, dtype=np.intp)
    before[cells] = spent
    found = replace(found, n_products=found.n_products + before[found.cells])
    yield evaluate(operator, found, norms, plan.tolerance), begin.dtype


def _sum_of_vectors(xp: Any, pairs: Pairs) -> XArray:
    """Return ``(n, k)``: real and imaginary parts of what was found, summed; zeros where it is no number."""
    vectors = pairs.vectors(xp)
    total = (vectors.real + vectors.imag).sum(axis=1)
    return xp.where(xp.isfinite(total).all(axis=1)[:, None], total, 0.0)
