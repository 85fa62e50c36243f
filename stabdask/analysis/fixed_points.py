"""What fixed points are: their spectra, their types, and whether they lie among the cells."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.distinct import groups_of_zeros, is_isolated, join_continua
from stabdask.analysis.roots import Outcome, Roots
from stabdask.analysis.search import SearchScales
from stabdask.fields.base import Field, Linearization
from stabdask.kernels.results import canonical_order

__all__ = ["ClusterPoints", "classify", "complete_spectra", "describe_points", "neighbor_distances"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.str_]

_RELATIVE = 1e-6
"""Of the largest eigenvalue of a point: real parts within it have no sign unless the caller says so."""
_SINGULAR = 1e-6


@dataclass(frozen=True)
class ClusterPoints:
    """The fixed points of one cluster, those that most starts led to first.

    Attributes
    ----------
    location
        ``(point, axis)``.
    eigenvalue
        ``(point, mode)`` complete spectra in canonical order.
    type, form, index
        ``(point,)``: see `classify`.
    residual, error, speed
        ``(point,)``: relative residual, distance to the zero, norm of the velocity.
    n_starts
        ``(point,)`` how many starts led there.
    near_switch, isolated
        ``(point,)``: whether an activation is at a switch; whether no other zeros lie beside it.
    held
        ``(point,)`` axes held at the floor (boundary points).
    distance
        ``(point,)`` distance to the nearest cells, NaN without cells.
    distance_limit
        Up to which a point lies among the cells.
    """

    location: Array
    eigenvalue: npt.NDArray[np.complex128]
    type: Labels
    form: Labels
    index: Index
    residual: Array
    error: Array
    speed: Array
    n_starts: Index
    near_switch: Mask
    isolated: Mask
    held: Index
    distance: Array
    distance_limit: float

    def take(self, rows: Index) -> ClusterPoints:
        """Return some of the points."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        limit = values.pop("distance_limit")
        return ClusterPoints(**{name: v[rows] for name, v in values.items()}, distance_limit=limit)


def describe_points(
    field: Field,
    cluster: int,
    roots: Roots,
    weights: Index,
    scales: SearchScales,
    *,
    cells: Array | None,
    tolerance: float | None = None,
    merge_distance: float = 1e-5,
    n_neighbors: int = 5,
    quantile: float = 0.99,
    boundary: bool = False,
) -> ClusterPoints:
    """Return the distinct fixed points that starts led to.

    Parameters
    ----------
    field, cluster
        The field and the number of a cluster of it.
    roots
        Where starts led to.
    weights
        ``(start,)`` how many starts each of them stands for.
    scales
        From `stabdask.analysis.search.search_scales`.
    cells
        ``(cell, axis)`` cells of the cluster, or None.
    tolerance
        See `classify`.
    merge_distance
        Of the spread of the data: zeros nearer than that are one.
    n_neighbors, quantile
        See `neighbor_distances`.
    boundary
        Whether boundary points are among them.

    Returns
    -------
    ClusterPoints
    """
    wanted = roots.outcome == Outcome.CONVERGED
    if boundary:
        wanted |= roots.outcome == Outcome.BOUNDARY
    roots, weights = roots.take(wanted), weights[wanted]
    groups = groups_of_zeros(roots.location, roots.error, merge_distance * scales.spread)
    roots, weights = _representatives(roots, weights, groups)
    part = field.linearize(roots.location, cluster)
    values = complete_spectra(field, cluster, part)
    size = np.abs(values)
    singular = (size.min(axis=1, initial=np.inf) <= _SINGULAR * size.max(axis=1, initial=0.0)) & (
        roots.held == 0
    )
    isolated = np.ones(len(weights), dtype=bool)
    if singular.any():
        rows = np.flatnonzero(singular)
        isolated[rows] = is_isolated(field, cluster, roots.location[rows], scales)
        loose = np.flatnonzero(~isolated)
        groups = np.arange(len(weights))
        groups[loose] = len(weights) + join_continua(field, cluster, roots.location[loose], scales)
        kept, weights = _first_of_groups(weights, groups)
        roots, isolated, values = roots.take(kept), isolated[kept], values[kept]
        part = field.linearize(roots.location, cluster)
    distance, limit = np.full(len(weights), np.nan), float("nan")
    if cells is not None:
        distance, limit = neighbor_distances(
            roots.location, cells, n_neighbors=n_neighbors, quantile=quantile
        )
    kind, form, index = classify(values, tolerance)
    points = ClusterPoints(
        location=roots.location,
        eigenvalue=values,
        type=kind,
        form=form,
        index=index,
        residual=roots.residual,
        error=roots.error,
        speed=part.speed(),
        n_starts=weights,
        near_switch=part.near_switch_count() > 0,
        isolated=isolated,
        held=roots.held,
        distance=distance,
        distance_limit=limit,
    )
    return points.take(np.lexsort((*roots.location.T[::-1], -weights)))


def _representatives(roots: Roots, weights: Index, groups: Index) -> tuple[Roots, Index]:
    """Return the most exact zero of each group, and how many starts led to the group."""
    order = np.lexsort((*roots.location.T[::-1], roots.error))
    kept, totals = _first_of_groups(weights[order], groups[order])
    return roots.take(order[kept]), totals


def _first_of_groups(weights: Index, groups: Index) -> tuple[Index, Index]:
    numbers, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    totals = np.zeros(len(numbers), dtype=np.intp)
    np.add.at(totals, inverse, weights)
    return first.astype(np.intp), totals


def complete_spectra(field: Field, cluster: int, part: Linearization) -> npt.NDArray[np.complex128]:
    """Return all eigenvalues of every Jacobian in canonical order, ``(cell, axis)``; NaN where they were not found."""
    n_cells, n_axes = len(part.active), len(field.axes)
    out = np.full((n_cells, n_axes), complex(np.nan, np.nan))
    if not n_cells:
        return out
    found = part.solve(np.arange(n_cells), modes=0, vectors="none", dtype="float64", backend="lapack")
    sizes = part.sizes
    rest = field.rest_eigenvalues(cluster) if (sizes < n_axes).any() else np.zeros(0)
    for cell in np.flatnonzero(found.status == 0):
        size = sizes[cell]
        out[cell, :size] = found.eigenvalues[cell, :size]
        if size < n_axes:
            outside = np.ones(n_axes, dtype=bool)
            outside[field.regulator_index[part.active[cell]]] = False
            out[cell, size:] = rest[outside]
    return np.take_along_axis(out, canonical_order(out), axis=1)


def classify(
    eigenvalue: npt.NDArray[np.complex128], tolerance: float | None = None
) -> tuple[Labels, Labels, Index]:
    """Return what kind of fixed points have these spectra (Strogatz 2015, chapters 5 and 6).

    Parameters
    ----------
    eigenvalue
        ``(point, mode)`` complete spectra in canonical order.
    tolerance
        Real parts within plus or minus this (1/time) have no sign; a millionth of the largest eigenvalue of the point
        if not given.

    Returns
    -------
    type
        ``(point,)``: ``"attractor"`` if every mode decays, ``"repeller"`` if every mode grows, ``"saddle"`` if some do
        and others do not, ``"non-hyperbolic"`` if some real part is zero within the tolerance: the linear terms do not
        decide; ``"unknown"`` without a spectrum.
    form
        ``(point,)``: ``"spiral"`` if the leading mode (that with the largest real part) oscillates, else ``"node"``;
        ``""`` without a spectrum.
    index
        ``(point,)``: how many modes grow; -1 without a spectrum.

    Examples
    --------
    >>> import numpy as np
    >>> classify(np.array([[-1, -2], [1, -2], [0.5 + 1j, 0.5 - 1j], [0, -1]], dtype=complex))
    (array(['attractor', 'saddle', 'repeller', 'non-hyperbolic'], dtype='<U14'),
     array(['node', 'node', 'spiral', 'node'], dtype='<U6'), array([0, 1, 2, 0]))
    """
    size = np.abs(eigenvalue).max(axis=1, initial=0.0)
    limit = (_RELATIVE * size if tolerance is None else np.full(len(size), tolerance))[:, None]
    real = eigenvalue.real
    known = np.isfinite(real).all(axis=1)
    grows, decays = (real > limit).sum(axis=1), (real < -limit).sum(axis=1)
    n_modes = eigenvalue.shape[1]
    kind = np.select(
        [~known, grows + decays < n_modes, grows == 0, decays == 0],
        ["unknown", "non-hyperbolic", "attractor", "repeller"],
        "saddle",
    )
    leading = eigenvalue[:, :1]
    turns = (np.abs(leading.imag) > _RELATIVE * size[:, None]).any(axis=1)
    form = np.select([~known, turns], ["", "spiral"], "node")
    return kind.astype("<U14"), form.astype("<U6"), np.where(known, grows, -1).astype(np.intp)


def neighbor_distances(
    points: Array, cells: Array, *, n_neighbors: int = 5, quantile: float = 0.99
) -> tuple[Array, float]:
    """Return how far points are from the nearest cells, and how far cells are from each other.

    Parameters
    ----------
    points
        ``(point, axis)``.
    cells
        ``(cell, axis)``.
    n_neighbors
        Which neighbor to measure to: the fifth nearest cell, by default, so that one outlier makes no neighborhood.
        The last, where there are fewer.
    quantile
        Of the same distance of cells from other cells.

    Returns
    -------
    distance
        ``(point,)``; NaN if there are no cells.
    limit
        That quantile; NaN with fewer than two cells.
    """
    from scipy.spatial.distance import cdist

    if not len(cells):
        return np.full(len(points), np.nan), float("nan")
    center = cells.mean(axis=0)
    cells, points = cells - center, points - center
    nearest = min(n_neighbors, max(1, len(cells) - 1)) - 1
    distance = np.partition(cdist(points, cells), nearest, axis=1)[:, nearest]
    if len(cells) < 2:
        return distance, float("nan")
    # As products of matrices: far quicker, and rounding is far below any distance that matters here.
    norms = np.einsum("ij,ij->i", cells, cells)
    own = np.empty(len(cells))
    for first in range(0, len(cells), 256):
        rows = np.arange(first, min(first + 256, len(cells)))
        squares = norms[rows, None] + norms - 2.0 * (cells[rows] @ cells.T)
        squares[np.arange(len(rows)), rows] = np.inf
        own[rows] = np.sqrt(np.maximum(np.partition(squares, nearest, axis=1)[:, nearest], 0.0))
    return distance, float(np.quantile(own, quantile))
