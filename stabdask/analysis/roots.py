"""Zeros of a velocity field by damped Newton iterations from many starts at once.

Newton's step is taken as far as it lowers the size of the velocity (Armijo 1966; Dennis & Schnabel 1996, chapter 6);
where it does not, a step of Levenberg and Marquardt is. Where nothing does, the search goes on down the flow of the
field (pseudo-transient continuation, Kelley & Keyes 1998), which leads to attractors however far.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from stabdask.analysis.search import ContinuedField, Here, SearchScales, jacobian_norms
from stabdask.fields.base import Field, Index

__all__ = ["Outcome", "Roots", "batch_starts", "find_roots"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ARMIJO = 1e-4
_BACKTRACKS = 6
_BATCH_BYTES = 64 * 2**20
_DAMPED_TRIES = 4
_FIRST_DAMPING, _LEAST_DAMPING = 1e-2, 1e-14
_KICKS = 3
_MOST_STARTS = 256
_PATIENCE = 12
"""Iterations after which the size of the velocity must have fallen by a tenth."""
_UNCERTAIN = 1e-3
"""Of the spread of the data: a zero less certain than that is not located."""
_VANISHING = 1e-6
"""Of the largest Jacobian and the terms of the velocity in the data: where both are below it, the field has faded."""


class Outcome(IntEnum):
    """Where a start led to."""

    CONVERGED = 0
    """A fixed point."""
    BOUNDARY = 1
    """A point of the boundary of the field's domain where the field points outwards: not a fixed point."""
    LEFT = 2
    """The edge of the region searched."""
    FADED = 3
    """A place where the field and its Jacobian vanish together, as Gaussian kernels do far from the data."""
    STALLED = 4
    """Nowhere: the velocity stopped falling, or the iterations ran out."""
    NOT_FINITE = 5
    """Nowhere: the start has NaN or infinite entries."""


@dataclass(frozen=True)
class Roots:
    """Where starts led to.

    Attributes
    ----------
    location
        ``(start, axis)`` where the iteration ended.
    outcome
        ``(start,)`` codes of `Outcome`.
    residual
        ``(start,)`` largest component of the velocity, relative to its terms; NaN for what did not converge.
    error
        ``(start,)`` about how far the zero may be from `location`: the length of the Newton step that is left, with
        rounding.
    held
        ``(start,)`` how many axes are at the floor of a boundary point, where the field points below it.
    """

    location: Array
    outcome: npt.NDArray[np.uint8]
    residual: Array
    error: Array
    held: Index

    @classmethod
    def concatenate(cls, parts: list[Roots]) -> Roots:
        """Return the roots of several batches as one."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, rows: npt.NDArray[np.integer] | Mask) -> Roots:
        """Return those of some starts."""
        return Roots(*(getattr(self, f.name)[rows] for f in fields(self)))


def batch_starts(field: Field) -> int:
    """Return how many starts of `field` go on together, so that their matrices take at most 64 MB."""
    return int(np.clip(_BATCH_BYTES // (32 * max(1, field.largest_core) ** 2), 1, _MOST_STARTS))


def find_roots(
    field: Field,
    cluster: int,
    starts: Array,
    scales: SearchScales,
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
    batch: int | None = None,
) -> Roots:
    """Follow Newton's iteration from every start, many at a time.

    Parameters
    ----------
    field, cluster
        The field and the number of a cluster of it.
    starts
        ``(start, axis)``.
    scales
        From `stabdask.analysis.search.search_scales`.
    tolerance
        Relative residual at which a velocity counts as zero; steps are taken while it falls further.
    max_iterations
        Iterations before a start is given up.
    batch
        Starts in a batch; see `batch_starts`. It changes rounding alone.

    Returns
    -------
    Roots

    Notes
    -----
    A location counts as a zero if

    - each component of the velocity is below `tolerance` times the sum of the absolute values of its terms there, or
      their mean over the data where that is larger,
    - and the same holds with the terms there alone, or Newton's step from there is as good as nothing,
    - and that step is short beside the spread of the data, also for a velocity that is off by the rounding of its
      terms: the zero is located,
    - and the field is there: the terms of the velocity and the Jacobian are not both a millionth of those of the data.

    The velocity of Gaussian kernels becomes as small as one likes far from all of them. But its terms do so just as
    fast, Newton's step points further out, and the Jacobian goes with them: none of that is a zero.
    """
    search = ContinuedField(field, cluster, scales)
    step = batch_starts(field) if batch is None else batch
    parts = [
        _find_batch(search, starts[first : first + step], tolerance, max_iterations)
        for first in range(0, max(1, len(starts)), step)
    ]
    return Roots.concatenate(parts)


def _find_batch(search: ContinuedField, starts: Array, tolerance: float, max_iterations: int) -> Roots:
    n, scales = len(starts), search.scales
    x = np.array(starts, dtype=np.float64)
    outcome = np.full(n, Outcome.STALLED, dtype=np.uint8)
    finite = np.isfinite(x).all(axis=1)
    outcome[~finite] = Outcome.NOT_FINITE
    x[finite] = np.clip(x[finite], scales.lower, scales.upper)
    damping, before = np.full(n, _FIRST_DAMPING), np.full(n, np.inf)
    kicks = np.zeros(n, dtype=np.intp)
    active = np.flatnonzero(finite)
    # What overflows has an infinite merit, and no step is taken there.
    with np.errstate(all="ignore"):
        for iteration in range(max_iterations + 1):
            if not len(active):
                break
            here = search.at(x[active])
            done = search.is_zero(here, tolerance)
            outcome[active[done]] = Outcome.CONVERGED
            if iteration == max_iterations or done.all():
                break
            active, here = active[~done], here.take(~done)
            moved, found = _line_search(search, here)
            _damped_search(search, here, moved, found, damping, active)
            if iteration % _PATIENCE == 0:
                moved &= here.merit <= 0.9 * before[active]
                before[active] = here.merit
            kicked = ~moved & (kicks[active] < _KICKS)
            if kicked.any():
                found[kicked] = _kick(search, here.take(kicked), kicks[active[kicked]])
                kicked &= np.isfinite(found).all(axis=1)
                kicks[active[kicked]] += 1
                before[active[kicked]] = np.inf
            going = moved | kicked
            x[active[going]] = found[going]
            active = active[going]
        return _finish(search, x, outcome, tolerance)


def _line_search(search: ContinuedField, here: Here) -> tuple[Mask, Array]:
    """Go along Newton's step until the velocity has fallen enough; return where it did, and the states after it."""
    found = here.x.copy()
    moved = np.zeros(len(found), dtype=bool)
    rows = np.flatnonzero(np.isfinite(here.step).all(axis=1))
    share = np.ones(len(rows))
    for _ in range(_BACKTRACKS):
        if not len(rows):
            break
        start = here.merit[rows]
        trial = search.stepped(here.x[rows], share[:, None] * here.step[rows])
        merit = search.merit(trial)
        # Along Newton's step, the square falls at twice its own rate at first.
        better = merit <= (1.0 - 2.0 * _ARMIJO * share) * start
        found[rows[better]] = trial[better]
        moved[rows[better]] = True
        # Next the least of the parabola with that slope through both ends, within bounds.
        parabola = share**2 * start / (merit - start + 2.0 * share * start)
        parabola = np.where(np.isfinite(parabola), parabola, 0.0)
        share = np.clip(parabola, 0.1 * share, 0.5 * share)[~better]
        rows = rows[~better]
    return moved, found


def _damped_search(
    search: ContinuedField, here: Here, moved: Mask, found: Array, damping: Array, active: Index
) -> None:
    """Do for states that have not `moved` what damped steps can; the damping of their starts is kept up to date."""
    for _ in range(_DAMPED_TRIES):
        behind = ~moved
        if not behind.any():
            return
        part, level = here.take(behind), damping[active[behind]]
        trial = search.stepped(part.x, search.damped_step(part, level))
        better = search.merit(trial) < (1.0 - _ARMIJO) * part.merit
        rows = np.flatnonzero(behind)
        found[rows[better]] = trial[better]
        moved[rows[better]] = True
        damping[active[rows]] = np.where(better, np.maximum(0.1 * level, _LEAST_DAMPING), 10.0 * level)


def _kick(search: ContinuedField, here: Here, kicks: Index) -> Array:
    """Return where to go on from where no step lowers the velocity.

    First down the flow of the field. After that by the whole of Newton's step, uphill: over a jump of the velocity, or
    out of a hollow without a zero.
    """
    x = search.stepped(here.x, here.step)
    first = kicks == 0
    if first.any():
        x[first] = search.flow(here.x[first])
    return x


def _finish(search: ContinuedField, x: Array, outcome: npt.NDArray[np.uint8], tolerance: float) -> Roots:
    """Polish what converged, bring it back into the domain, and see whether it is still a zero there."""
    residual, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    held = np.zeros(len(x), dtype=np.intp)

    def measure(rows: Index, states: Array) -> Here:
        here = search.at(states)
        residual[rows] = search.residuals(here)[0]
        error[rows] = search.location_errors(here)
        return here

    rows = np.flatnonzero(outcome == Outcome.CONVERGED)
    if len(rows):
        polished = search.polish(x[rows])
        x[rows] = np.maximum(polished, search.floor)
        here = measure(rows, x[rows])
        norms = jacobian_norms(search.field, search.cluster, here.part)
        faded = (norms <= _VANISHING * search.scales.jacobian) & (search.level(here.scale) <= _VANISHING)
        below = polished < search.floor
        boundary = ~(residual[rows] <= tolerance) & below.any(axis=1)
        if boundary.any():
            measure(rows[boundary], polished[boundary])
        held[rows[boundary]] = below[boundary].sum(axis=1)
        outcome[rows[boundary]] = Outcome.BOUNDARY
        located = (error[rows] <= _UNCERTAIN * search.scales.spread) & (residual[rows] <= tolerance)
        outcome[rows[~located]] = Outcome.STALLED
        outcome[rows[faded]] = Outcome.FADED
    ended = np.flatnonzero(outcome == Outcome.STALLED)
    outcome[ended[search.at_edge(x[ended])]] = Outcome.LEFT
    return Roots(x, outcome, residual, error, held)
