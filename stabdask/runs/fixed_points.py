"""`fixed_points`: where a fitted field stands still, found from many cells at once, on Dask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.distinct import distinct_rows
from stabdask.analysis.fixed_points import ClusterPoints, describe_points
from stabdask.analysis.roots import Outcome, Roots, batch_starts, find_roots
from stabdask.analysis.search import SearchScales, search_scales
from stabdask.checks import refuse_asynchronous
from stabdask.errors import UsageError
from stabdask.fields.base import Field
from stabdask.kernels.threads import single_threaded_blas
from stabdask.runs.fixed_point_results import label_fixed_points
from stabdask.runs.fixed_point_starts import ClusterStarts, gather_starts

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

__all__ = ["fixed_points"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Options:
    tolerance: float | None
    residual_tolerance: float
    merge_distance: float
    n_neighbors: int
    quantile: float
    margin: float
    max_iterations: int
    boundary: bool

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        for name, good, expected in (
            ("tolerance", self.tolerance is None or self.tolerance >= 0, "at least 0, or None"),
            ("residual_tolerance", 0 < self.residual_tolerance < 1e-3, "more than 0 and less than 1e-3"),
            ("merge_distance", 0 <= self.merge_distance < 1, "0 to 1"),
            ("n_neighbors", self.n_neighbors >= 1, "at least 1"),
            ("quantile", 0 < self.quantile <= 1, "more than 0 and at most 1"),
            ("margin", 0 <= self.margin < np.inf, "at least 0"),
            ("max_iterations", self.max_iterations >= 1, "at least 1"),
        ):
            if not good:
                raise UsageError(f"{name}={getattr(self, name)!r}; expected {expected}")


def fixed_points(
    field: Field,
    cells: xr.Dataset | None = None,
    *,
    starts: npt.ArrayLike | None = None,
    n_starts: int = 1000,
    seed: int = 0,
    cluster: str | Sequence[str] | None = None,
    tolerance: float | None = None,
    residual_tolerance: float = 1e-10,
    merge_distance: float = 1e-5,
    n_neighbors: int = 5,
    quantile: float = 0.99,
    margin: float = 0.5,
    max_iterations: int = 100,
    boundary: bool = False,
    client: Client | None = None,
) -> xr.Dataset:
    """Find the fixed points of a velocity field, with their spectra and types.

    At a fixed point, v(x) = 0, the eigenvalues of the Jacobian mean what textbooks say: whether a small displacement
    decays or grows for good, and along which directions [1]_. Newton's iteration [2]_ goes from many cells at once;
    what it ends at is checked, counted, and described once.

    Parameters
    ----------
    field
        From `stabdask.read_field`.
    cells
        From `stabdask.open_cells`: where to start from, and the data that fixed points are inside or outside of.
    starts
        ``(start, axis)`` further states to start from, in every cluster searched; without `cells`, the only ones. The
        axes are those of the field (``field.axes``: for Hopfield fields the genes).
    n_starts
        Cells of each cluster to start from, drawn at random; all where there are fewer.
    seed
        Of the draw. Each cluster has a draw of its own: it does not depend on which others are searched.
    cluster
        Which clusters of the field to search, as its parameters may differ between them; those that cells have, or
        all without cells, if not given. For a field with no cluster but ``"all"``, all cells are of it; so they are for
        the cluster ``"all"`` of any field, where no cell is labelled so.
    tolerance
        Real parts within plus or minus this (1/time) have no sign: a point with such a mode is non-hyperbolic. A
        millionth of the largest eigenvalue of the point if not given.
    residual_tolerance
        Each component of the velocity of a fixed point is below this times the sum of the absolute values of its terms
        (their mean over the data where that is larger).
    merge_distance
        Of the spread of the data: fixed points nearer than this are one.
    n_neighbors, quantile
        A fixed point is inside the data if the distance to its `n_neighbors`-th nearest cell is not beyond the
        `quantile` of that distance from cell to cell, both among at most 2,000 cells of its cluster drawn at random.
    margin
        The region searched is the box around the cells and starts, wider by this share of its width on both sides; for
        a Hopfield field also the box in which all its fixed points are bound to be.
    max_iterations
        Iterations before a start is given up.
    boundary
        Whether to report points of the boundary, too, where the field would push expressions that are 0 below it and
        all else stands still. They are no fixed points of the field, but equilibria where expression stops at 0;
        `held_count` says at how many genes.
    client
        A Dask client whose workers search; threads of this process if not given. The result does not depend on it.

    Returns
    -------
    xarray.Dataset
        Dimensions ``fixed_point``, ``axis`` and ``mode``: `location`, `eigenvalue` (complete, in canonical order),
        `type`, `form`, `index`, `abscissa`, `frequency`, `residual`, `speed`, `location_error`, `n_starts`, `cluster`,
        `near_switch`, `isolated`, `held_count`, and with `cells`, `distance`, `distance_limit` and `inside`: see their
        ``attrs["description"]``. ``start_count(searched, outcome)`` says where starts led to in every cluster. Fixed
        points are in the order of clusters of the field, then of `n_starts`, then of their coordinates. None found is
        no error: ``sizes["fixed_point"]`` is 0, and `start_count` says why.

    Raises
    ------
    UsageError
        If there is nothing to start from, or an option makes no sense.
    InputError
        If states have another number of axes than the field, or are out of its domain (negative expression).
    MissingKeyError
        If the field has no such cluster, or no cells of it.

    See Also
    --------
    stabdask.fixed_point_table : The result as a table.
    stabdask.pl.fixed_points : The result as a figure.

    Notes
    -----
    *None invented.* The velocity of an RKHS field falls to 0 far from all its control points, so a solver that only
    asks for a small velocity finds "fixed points" out there. Here a zero must be one beside the terms that make up the
    velocity at the same place, its position must be certain to a thousandth of the spread of the data, the Jacobian
    and these terms must not both have faded to a millionth of what they are in the data, and the search does not leave
    the region of the data. What is left and lies away from the cells is a zero of the field as fitted, and `inside` is
    False: the data says nothing about it.

    *Two-component activations* jump where they switch. Where the velocity jumps across 0 there is no fixed point, and
    none is reported; one beside a switch is marked `near_switch`.

    *Zeros that are not isolated* (a gene that neither decays nor is regulated, say) are reported once per line or
    surface, at one of their points, with `isolated` False and the type non-hyperbolic.

    *No proof of absence.* A fixed point that no start led to is not found. More starts find more, and how many starts
    led to each says how easily it is missed.

    References
    ----------
    .. [1] Strogatz (2015). Nonlinear Dynamics and Chaos, 2nd edition, chapters 5 and 6. Westview Press.
    .. [2] Dennis & Schnabel (1996). Numerical Methods for Unconstrained Optimization and Nonlinear Equations,
       chapter 6. SIAM.

    Examples
    --------
    A toggle switch, two genes that repress each other: two attractors, and the saddle between them.

    >>> import numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[0.0, -4.0], [-4.0, 0.0]], gamma=1.0, bias=4.0, threshold=1.0, exponent=2.0)
    >>> fps = sd.fixed_points(field, starts=np.random.default_rng(0).uniform(0, 4, (50, 2)))
    >>> sd.fixed_point_table(fps)[["type", "form", "index", "abscissa", "A", "B"]].round(3).sort_values("A")
            type  form  index  abscissa      A      B
    2  attractor  node      0    -0.500  0.268  3.732
    0     saddle  node      1     0.311  1.379  1.379
    1  attractor  node      0    -0.500  3.732  0.268
    """
    from dask.base import compute
    from dask.delayed import delayed

    refuse_asynchronous(client)
    options = _Options(
        tolerance, residual_tolerance, merge_distance, n_neighbors, quantile, margin, max_iterations, boundary
    )
    options.check()
    searched = gather_starts(
        field, cells, starts=starts, n_starts=n_starts, seed=seed, cluster=cluster, client=client
    )
    model = delayed(field, name=f"field-{field.fingerprint}", pure=True)
    step = batch_starts(field)
    found = []
    for one in searched:
        states, weights = distinct_rows(one.starts)
        shared = delayed(_scales)(model, one.cluster, states, one.cells, margin)
        parts = [
            delayed(_search)(model, one.cluster, states[first : first + step], shared, options)
            for first in range(0, len(states), step)
        ]
        found.append(delayed(_describe)(model, one, parts, weights, shared, options))
    # A client computes a list of its own accord; `compute` takes what it is to compute one by one.
    results = compute(*found, scheduler="threads") if client is None else client.compute(found, sync=True)
    options_used: dict[str, Any] = {"n_starts": n_starts, "seed": seed, **vars(options)}
    return label_fixed_points(field, searched, list(results), options_used, with_cells=cells is not None)


def _scales(
    field: Field, cluster: int, states: Array, cells: Array | None, margin: float
) -> SearchScales | None:
    points = states if cells is None else distinct_rows(np.concatenate([states, cells]))[0]
    if not len(points):
        return None
    with single_threaded_blas():
        return search_scales(field, cluster, points, margin=margin)


def _search(field: Field, cluster: int, states: Array, scales: SearchScales, options: _Options) -> Roots:
    with single_threaded_blas():
        return find_roots(
            field,
            cluster,
            states,
            scales,
            tolerance=options.residual_tolerance,
            max_iterations=options.max_iterations,
        )


def _describe(
    field: Field,
    one: ClusterStarts,
    parts: list[Roots],
    weights: npt.NDArray[np.intp],
    scales: SearchScales | None,
    options: _Options,
) -> tuple[ClusterPoints | None, npt.NDArray[np.intp]]:
    """Return the points of a cluster, and how many starts had each outcome."""
    counts = np.zeros(len(Outcome), dtype=np.intp)
    counts[Outcome.NOT_FINITE] = one.n_not_finite
    if scales is None or not parts:
        return None, counts
    roots = Roots.concatenate(parts)
    np.add.at(counts, roots.outcome, weights)
    with single_threaded_blas():
        points = describe_points(
            field,
            one.cluster,
            roots,
            weights,
            scales,
            cells=one.cells,
            tolerance=options.tolerance,
            merge_distance=options.merge_distance,
            n_neighbors=options.n_neighbors,
            quantile=options.quantile,
            boundary=options.boundary,
        )
    return points, counts
