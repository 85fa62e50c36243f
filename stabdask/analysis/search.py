"""A velocity field as a search for its zeros sees it: continued beyond its domain, measured by scales of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field, Index, Linearization

__all__ = ["ContinuedField", "Here", "SearchScales", "jacobian_norms", "search_scales"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_FLOW_STEPS = 40
_LEAST_DAMPING = 1e-14
_LOWEST_LEVEL = 1e-2
"""The size of the velocity is measured by its terms where these are up to so much smaller than in the data."""
_POLISH = 40
_SCALE_CELLS = 256
_SHORT_STEP = 1e-6
_SHORTENINGS = 20
_SMALL_TERMS = 1e-3
_TINY_STEP = 1e-9
"""Of the spread of the data: a step this small is at a zero, whatever the terms of the velocity are there."""


@dataclass(frozen=True)
class SearchScales:
    """What a search measures steps and velocities by, for one cluster.

    Attributes
    ----------
    state
        ``(axis,)`` spread of the data: its standard deviation, or its size where it has none.
    velocity
        ``(axis,)`` mean sum of the absolute values of the terms of the velocity.
    jacobian
        Largest Frobenius norm of a Jacobian.
    lower, upper
        ``(axis,)`` the region searched.
    """

    state: Array
    velocity: Array
    jacobian: float
    lower: Array
    upper: Array

    @property
    def spread(self) -> float:
        """Root mean square distance of the data from its mean."""
        return float(np.sqrt((self.state**2).sum()))


def search_scales(field: Field, cluster: int, points: Array, *, margin: float = 0.5) -> SearchScales:
    """Return the scales of a search from the states of cells.

    Parameters
    ----------
    field, cluster
        The field and the number of a cluster of it.
    points
        ``(point, axis)`` finite states, at least one.
    margin
        The region searched is the box around `points`, wider by this share of its width on both sides, and the box
        that the field itself says all its fixed points are in, where it does.

    Returns
    -------
    SearchScales
    """
    lowest, highest = points.min(axis=0), points.max(axis=0)
    state, size = points.std(axis=0), np.abs(points).max(axis=0)
    least = 1e-6 * (size.max(initial=0.0) or 1.0)
    # Axes along which the data does not vary are measured by their size.
    state = np.where(state > least, state, np.maximum(size, least))
    width = np.maximum(highest - lowest, state)
    lower, upper = lowest - margin * width, highest + margin * width
    known = field.fixed_point_bounds(cluster)
    lower = np.where(np.isfinite(known[0]), np.minimum(lowest, known[0]), lower)
    upper = np.where(np.isfinite(known[1]), np.maximum(highest, known[1]), upper)
    some = points[np.unique(np.linspace(0, len(points) - 1, _SCALE_CELLS).astype(np.intp))]
    part = field.linearize(np.maximum(some, field.floor(cluster)), cluster)
    return SearchScales(
        state=state,
        velocity=part.velocity_scale().mean(axis=0),
        jacobian=float(jacobian_norms(field, cluster, part).max()),
        lower=lower,
        upper=upper,
    )


@dataclass(frozen=True)
class Here:
    """The field at some states.

    Attributes
    ----------
    part, rows
        A linearization, and which of its rows these are.
    x, velocity, scale, step
        ``(state, axis)``: the states, their velocity, the sum of the absolute values of its terms, Newton's step.
    merit
        ``(state,)``: see `ContinuedField.merit`.
    """

    part: Linearization
    rows: Index
    x: Array
    velocity: Array
    scale: Array
    step: Array
    merit: Array

    def take(self, mask: Mask) -> Here:
        """Return some of the states."""
        return Here(
            self.part,
            self.rows[mask],
            self.x[mask],
            self.velocity[mask],
            self.scale[mask],
            self.step[mask],
            self.merit[mask],
        )


class ContinuedField:
    """The field of one cluster, continued below its floor by ``v(floor) + rest (x - floor)``.

    There activations stay what they are at the floor, and axes decay with the eigenvalues they have outside the core.
    An iteration may so pass below zero expression and come back; a zero found there is none of the field.
    """

    def __init__(self, field: Field, cluster: int, scales: SearchScales) -> None:
        self.field, self.cluster, self.scales = field, cluster, scales
        self.floor = field.floor(cluster)
        self._bounded = bool(np.isfinite(self.floor).any())
        self._rest = field.rest_eigenvalues(cluster) if self._bounded else np.zeros(0)
        self._weights = 1.0 / np.maximum(scales.velocity, 1e-12 * (scales.velocity.max(initial=0.0) or 1.0))
        if field.largest_core < len(field.axes):
            # What regulates nothing follows the others: Newton's step settles it, however large its velocity is.
            follows = field.rest_eigenvalues(cluster) != 0
            follows[field.regulator_index] = False
            self._weights[follows] = 0.0
        width = scales.upper - scales.lower
        self._longest = 0.5 * np.where(width > 0, width, 1.0)
        known = field.fixed_point_bounds(cluster)
        # Expression decays: a field with a floor grows without limit away from it, and does not fade out.
        self._fades = not self._bounded
        self._open = ~np.isfinite(known[0]), ~np.isfinite(known[1])

    def _evaluate(self, x: Array) -> tuple[Linearization, Array, Array]:
        """Return the linearization at `x` or the floor, the velocity, and how far `x` is below the floor."""
        inner = np.maximum(x, self.floor)
        part = self.field.linearize(inner, self.cluster)
        velocity, below = part.velocity(), x - inner
        return part, velocity + self._rest * below if self._bounded else velocity, below

    def at(self, x: Array) -> Here:
        """Return all there is to know at finite states, ``(state, axis)``."""
        part, velocity, below = self._evaluate(x)
        scale = part.velocity_scale()
        if self._bounded:
            scale = scale + np.abs(self._rest * below)
        rows = np.arange(len(x))
        step = part.solve_jacobian(rows, -velocity)
        return Here(part, rows, x, velocity, scale, step, self._merit_of(part, velocity))

    def merit(self, x: Array) -> Array:
        """Return half the square of the velocity in units of its usual terms, ``(state,)``; infinite where unknown.

        Where a field fades out, its velocity falls without a zero near: it is measured by its terms there, so that a
        search is not drawn away from the data.
        """
        finite = np.isfinite(x).all(axis=1)
        out = np.full(len(x), np.inf)
        if finite.any():
            part, velocity, _ = self._evaluate(x[finite])
            out[finite] = self._merit_of(part, velocity)
        return out

    def _merit_of(self, part: Linearization, velocity: Array) -> Array:
        merit = 0.5 * np.square(velocity * self._weights).sum(axis=1)
        if self._fades:
            merit /= self.level(part.velocity_scale()).clip(min=_LOWEST_LEVEL) ** 2
        return np.asarray(np.where(np.isfinite(merit), merit, np.inf))

    def level(self, scale: Array) -> Array:
        """Return how large the terms of the velocity are beside those in the data, at most 1."""
        usual = self.scales.velocity
        level: Array = np.where(usual > 0, scale / usual, 0.0).max(axis=1, initial=0.0).clip(max=1.0)
        return level

    def residuals(self, here: Here) -> tuple[Array, Array]:
        """Return the largest component of the velocity by its terms there or in the data, and by those there alone."""
        usual, size = self.scales.velocity, np.abs(here.velocity)
        alone = np.maximum(here.scale, _SMALL_TERMS * self.level(here.scale)[:, None] * usual)

        def largest(terms: Array) -> Array:
            ratio = np.where(size == 0, 0.0, size / terms)
            return np.asarray(np.where(np.isnan(ratio), np.inf, ratio).max(axis=1, initial=0.0))

        return largest(np.maximum(here.scale, usual)), largest(alone)

    def is_zero(self, here: Here, tolerance: float) -> Mask:
        """Return which states are zeros, as far as residuals tell; see `stabdask.analysis.roots.find_roots`."""
        usual, alone = self.residuals(here)
        tiny = (np.abs(here.step) <= _TINY_STEP * self.scales.state).all(axis=1)
        return np.asarray((usual <= tolerance) & ((alone <= tolerance) | tiny))

    def stepped(self, x: Array, step: Array) -> Array:
        """Return where a step leads, made no longer than half the region searched, and not out of it."""
        excess = (np.abs(step) / self._longest).max(axis=1, initial=1.0)
        return np.asarray(np.clip(x + step / excess[:, None], self.scales.lower, self.scales.upper))

    def at_edge(self, x: Array) -> Mask:
        """Return which states are at an edge of the region searched beyond which fixed points may be."""
        lower, upper = self._open
        out: Mask = (lower & (x <= self.scales.lower)) | (upper & (x >= self.scales.upper))
        return np.asarray(out.any(axis=1))

    def damped_step(self, here: Here, damping: Array) -> Array:
        """Return Levenberg and Marquardt's step."""
        weights = np.broadcast_to(self._weights, here.velocity.shape)
        return here.part.solve_jacobian(here.rows, -here.velocity, damping=damping, weights=weights)

    def flow(self, x: Array) -> Array:
        """Follow the field by implicit Euler steps, each twice as long as the one before (Kelley & Keyes 1998)."""
        x, rows = x.copy(), np.arange(len(x))
        for number in range(_FLOW_STEPS):
            shift = np.full(len(x), self.scales.jacobian * 0.5**number)
            part, velocity, _ = self._evaluate(x)
            there = self.stepped(x, part.solve_jacobian(rows, -velocity, shift=shift))
            known = np.isfinite(there).all(axis=1)
            x[known] = there[known]
        return x

    def null_directions(self, x: Array) -> Array:
        """Return unit vectors that the Jacobians at `x` take to nearly 0, in units of the spread of each axis."""
        part, _, _ = self._evaluate(x)
        shift = np.full(len(x), 1e-10 * self.scales.jacobian)
        # Inverse iteration from a vector that is orthogonal to hardly anything.
        vectors = np.random.default_rng(0).normal(size=len(self.floor)) * self.scales.state
        vectors = np.tile(vectors, (len(x), 1))
        for _ in range(2):
            vectors = part.solve_jacobian(np.arange(len(x)), vectors, shift=shift)
            vectors /= np.sqrt(np.square(vectors / self.scales.state).sum(axis=1, keepdims=True))
        return vectors

    def last_step(self, here: Here) -> Array:
        """Return Newton's step; where it is long, without its part along directions in which nothing changes.

        On a line of zeros, rounding alone decides how far Newton's step goes along it.
        """
        step = here.step.copy()
        length = np.sqrt(np.square(step / self.scales.state).sum(axis=1))
        doubtful: Mask = np.asarray(~(length <= _SHORT_STEP))
        if doubtful.any():
            least = np.full(int(doubtful.sum()), _LEAST_DAMPING)
            step[doubtful] = self.damped_step(here.take(doubtful), least)
        return step

    def location_errors(self, here: Here) -> Array:
        """Return about how far zeros may be from the states, ``(state,)``.

        That is Newton's step for the velocity there with the rounding of its terms added to it. Where that is long, as
        at a double zero, it is as much of it as leaves the velocity within rounding.
        """
        eps = np.finfo(np.float64).eps
        velocity = here.velocity + np.copysign(eps * here.scale, here.velocity)
        step = here.part.solve_jacobian(here.rows, -velocity)
        step = self.last_step(replace(here, velocity=velocity, step=step))
        least = self.residuals(here)[0] + 4.0 * eps
        rows = np.flatnonzero(np.sqrt(np.square(step / self.scales.state).sum(axis=1)) > _SHORT_STEP)
        for _ in range(_SHORTENINGS):
            if not len(rows):
                break
            sides = [self.residuals(self.at(here.x[rows] + sign * step[rows]))[0] for sign in (1.0, -1.0)]
            rows = rows[~(np.minimum(*sides) <= least[rows])]
            step[rows] *= 0.25
        return np.asarray(np.sqrt(np.square(step).sum(axis=1)))

    def polish(self, x: Array) -> Array:
        """Return zeros as exact as rounding lets them be: steps are taken while they halve the residual."""
        x, rows = x.copy(), np.arange(len(x))
        here = self.at(x)
        best = self.residuals(here)[0]
        for _ in range(_POLISH):
            trial = x[rows] + self.last_step(here)
            usable = np.isfinite(trial).all(axis=1) & (best > 0)
            rows, trial, best = rows[usable], trial[usable], best[usable]
            if not len(rows):
                break
            here = self.at(trial)
            residual = self.residuals(here)[0]
            better = residual < 0.5 * best
            x[rows[better]] = trial[better]
            rows, best, here = rows[better], residual[better], here.take(better)
        return x


def jacobian_norms(field: Field, cluster: int, part: Linearization) -> Array:
    """Return the Frobenius norm of each Jacobian, ``(cell,)``."""
    squares = part.squares_beyond_rest()
    if (part.sizes < len(field.axes)).any():
        rest = field.rest_eigenvalues(cluster)
        outside = np.ones((len(part.active), len(rest)), dtype=bool)
        outside[:, field.regulator_index] = ~part.active
        squares = squares + outside @ rest**2
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
