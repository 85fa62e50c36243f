"""Fixed points as the Dataset users see: names, units, meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.fixed_points import ClusterPoints
from stabdask.analysis.roots import Outcome
from stabdask.fields.base import Field, Index

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.runs.fixed_point_starts import ClusterStarts

__all__ = ["FIXED_POINT_ATTRS", "label_fixed_points"]

_POINT = ("fixed_point",)
_STROGATZ = "Strogatz 2015, Nonlinear Dynamics and Chaos, 5.2 and 6.3"

FIXED_POINT_ATTRS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "location": (
        ("fixed_point", "axis"), "expression", "location",
        "State at which the velocity is zero.",
    ),
    "eigenvalue": (
        ("fixed_point", "mode"), "1/time", "eigenvalues",
        "Complete spectrum of the Jacobian in canonical order: real part descending, then imaginary part descending.",
    ),
    "type": (
        _POINT, "1", "type",
        "attractor: every mode decays. repeller: every mode grows. saddle: some do, others do not. non-hyperbolic: "
        "some real part is zero within the tolerance, and linear terms do not decide. unknown: no spectrum was found.",
    ),
    "form": (
        _POINT, "1", "form",
        "spiral: the leading mode, that with the largest real part, oscillates. node: it does not.",
    ),
    "index": (
        _POINT, "1", "number of growing modes",
        "Number of eigenvalues with real part above the tolerance; -1 without a spectrum.",
    ),
    "abscissa": (
        _POINT, "1/time", "spectral abscissa", "Largest real part: the rate at which the leading mode grows.",
    ),
    "frequency": (
        _POINT, "rad/time", "frequency of the leading mode",
        "Absolute imaginary part of the leading mode: 0 if it does not oscillate.",
    ),
    "n_starts": (
        _POINT, "1", "starts that led there",
        "Number of starts from which Newton's iteration came here. Not a basin of attraction: Newton's iteration goes "
        "to saddles and repellers as well. Few: another one like it is easily missed.",
    ),
    "residual": (
        _POINT, "1", "relative residual",
        "Largest component of the velocity over the sum of the absolute values of its terms, or their mean over the "
        "data where that is larger.",
    ),
    "speed": (
        _POINT, "expression/time", "speed",
        "Norm of the velocity that is left; of an equilibrium of the boundary, that which the boundary stops.",
    ),
    "location_error": (
        _POINT, "expression", "error of the location",
        "Length of the Newton step that is left, with rounding: about how far the zero may be from the location.",
    ),
    "near_switch": (
        _POINT, "1", "at a switch of an activation",
        "Whether a regulator is within a relative 1e-6 of the point where its two-component activation switches, where "
        "velocity and Jacobian jump.",
    ),
    "isolated": (
        _POINT, "1", "isolated",
        "False where the point is one of a line or surface of zeros, which is reported once.",
    ),
    "held_count": (
        _POINT, "1", "axes held at the boundary",
        "Number of genes at zero expression that the field would push below it. 0 for fixed points; more for "
        "equilibria of the boundary, where they were asked for.",
    ),
    "distance": (
        _POINT, "expression", "distance to cells",
        "Distance to the cell of the cluster that is the n_neighbors-th nearest.",
    ),
    "distance_limit": (
        _POINT, "expression", "usual distance between cells",
        "The quantile of that distance from cell to cell in the cluster.",
    ),
    "inside": (
        _POINT, "1", "inside the data",
        "Whether the distance is not beyond the limit. Outside, the field is extrapolated, and the data says nothing "
        "about the point.",
    ),
    "start_count": (
        ("searched", "outcome"), "1", "where starts led to",
        "Number of starts in each cluster that led to a fixed point (converged), to an equilibrium of the boundary "
        "(boundary), to the edge of the region searched (left), to where the field has faded out (faded), nowhere "
        "(stalled), or were not finite (not_finite).",
    ),
}  # fmt: skip
"""Of each variable: dimensions, units, long_name, description."""

_WITH_CELLS = ("distance", "distance_limit", "inside")


def label_fixed_points(
    field: Field,
    searched: Sequence[ClusterStarts],
    results: Sequence[tuple[ClusterPoints | None, Index]],
    options: dict[str, Any],
    *,
    with_cells: bool,
) -> xr.Dataset:
    """Return the points of all clusters searched as one Dataset; see `stabdask.fixed_points`."""
    import xarray as xr

    names = [field.clusters[one.cluster] for one in searched]
    found = [(name, points) for name, (points, _) in zip(names, results, strict=True) if points is not None]
    n_axes = len(field.axes)

    def joined(name: str, empty: Any) -> Any:
        return np.concatenate([empty, *(getattr(points, name) for _, points in found)])

    eigenvalue = joined("eigenvalue", np.zeros((0, n_axes), dtype=np.complex128))
    columns: dict[str, Any] = {
        "location": joined("location", np.zeros((0, n_axes))),
        "eigenvalue": eigenvalue,
        "type": joined("type", np.zeros(0, dtype="<U1")).astype(object),
        "form": joined("form", np.zeros(0, dtype="<U1")).astype(object),
        "index": joined("index", np.zeros(0, dtype=np.int64)),
        "abscissa": eigenvalue[:, 0].real.copy(),
        "frequency": np.abs(eigenvalue[:, 0].imag),
        "n_starts": joined("n_starts", np.zeros(0, dtype=np.int64)),
        "residual": joined("residual", np.zeros(0)),
        "speed": joined("speed", np.zeros(0)),
        "location_error": joined("error", np.zeros(0)),
        "near_switch": joined("near_switch", np.zeros(0, dtype=bool)),
        "isolated": joined("isolated", np.zeros(0, dtype=bool)),
        "held_count": joined("held", np.zeros(0, dtype=np.int64)),
    }
    if with_cells:
        columns["distance"] = joined("distance", np.zeros(0))
        limits = [np.full(len(points.n_starts), points.distance_limit) for _, points in found]
        columns["distance_limit"] = np.concatenate([np.zeros(0), *limits])
        columns["inside"] = columns["distance"] <= columns["distance_limit"]
    columns["start_count"] = np.stack([counts for _, counts in results])
    of_genes = np.array_equal(field.axes, field.genes)
    data = {}
    for name, values in columns.items():
        dims, units, long_name, description = FIXED_POINT_ATTRS[name]
        if not of_genes:
            units = units.replace("expression", "state")
        attrs = {"long_name": long_name, "units": units, "description": description}
        data[name] = (dims, values, {**attrs, "references": _STROGATZ} if name in ("type", "form") else attrs)
    labels = np.asarray(
        [name for name, points in found for _ in range(len(points.n_starts))], dtype=object
    ).reshape(-1)
    kept = {name: value for name, value in options.items() if value is not None}
    return xr.Dataset(
        data,
        coords={
            "fixed_point": np.arange(len(labels)),
            "cluster": (_POINT, labels, {"long_name": "cluster whose parameters the field has"}),
            "axis": field.axes.astype(object),
            "mode": np.arange(n_axes),
            "searched": np.asarray(names, dtype=object),
            "outcome": np.asarray([outcome.name.lower() for outcome in Outcome], dtype=object),
        },
        attrs={
            "field": field.fingerprint,
            **{name: int(value) if isinstance(value, bool) else value for name, value in kept.items()},
        },
    )
