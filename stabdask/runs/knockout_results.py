"""Knockouts as the Dataset users see: names, units, meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.annotations import attach_annotations
from stabdask.runs.annotations import cluster_colors
from stabdask.runs.labels import label_results
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.analysis.knockouts import Knockouts
    from stabdask.runs.job import Job

__all__ = ["KNOCKOUT_ATTRS", "cell_bytes", "empty_knockouts", "label_knockouts"]

_BOTH = ("cell", "knockout")

KNOCKOUT_ATTRS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "knockout_abscissa": (
        _BOTH, "1/time", "spectral abscissa without the gene",
        "Largest real part over the complete spectrum of the Jacobian of all other genes, at the same state. NaN where "
        "it was not computed.",
    ),
    "knockout_unstable_count": (
        _BOTH, "1", "unstable directions without the gene",
        "Number of eigenvalues of that Jacobian with real part above the tolerance. -1 where it was not computed.",
    ),
    "predicted_shift": (
        _BOTH, "1/time", "predicted shift of the spectral abscissa",
        "Change of the spectral abscissa to first order as the edges of the gene go: "
        "-Re((2 (lambda - C_gg) + C_gg + gamma_g) p_g) of the leading mode, with its participation factor p_g. 0 where "
        "a gene outside the core leads. NaN for a defective mode.",
    ),
    "abscissa": (
        ("cell",), "1/time", "spectral abscissa",
        "Largest real part over the complete spectrum, with all genes.",
    ),
    "unstable_count": (
        ("cell",), "1", "unstable directions",
        "Number of eigenvalues with real part above the tolerance, with all genes.",
    ),
}  # fmt: skip
"""Of each variable: dimensions, units, long_name, description."""

_COUNTS = ("knockout_unstable_count", "unstable_count")


def empty_knockouts(n_cells: int, n_knockouts: int) -> dict[str, npt.NDArray[Any]]:
    """Return an array for every variable, filled with what says that nothing was computed."""
    sizes = {"cell": n_cells, "knockout": n_knockouts}
    out: dict[str, npt.NDArray[Any]] = {}
    for name, (dims, *_) in KNOCKOUT_ATTRS.items():
        shape = tuple(sizes[dim] for dim in dims)
        out[name] = np.full(shape, -1, dtype=np.int32) if name in _COUNTS else np.full(shape, np.nan)
    out["status"] = VARIABLES["status"].empty((n_cells,))
    return out


def cell_bytes(n_knockouts: int) -> int:
    """Return the bytes that the results of one cell take."""
    return sum(values.nbytes for values in empty_knockouts(1, n_knockouts).values())


def label_knockouts(
    job: Job, knockouts: Knockouts, arrays: dict[str, npt.NDArray[Any]], options: dict[str, Any]
) -> xr.Dataset:
    """Return the arrays of all cells as one Dataset; see `stabdask.knockouts`."""
    import xarray as xr

    data: dict[str, Any] = {}
    for name, (dims, units, long_name, description) in KNOCKOUT_ATTRS.items():
        attrs = {"long_name": long_name, "units": units, "description": description}
        data[name] = (dims, arrays[name], attrs)
    data["status"] = ("cell", arrays["status"], dict(VARIABLES["status"].attrs))
    data["cluster_code"] = ("cell", job.label_codes, {"long_name": "cluster of the cell"})
    labels = job.spec.labels
    pair: dict[str, Any] = {}
    if knockouts.order == 2:
        genes = job.field.genes[knockouts.genes].astype(object)
        pair = {name: ("knockout", genes[:, part]) for part, name in enumerate(("gene_a", "gene_b"))}
    ds = xr.Dataset(
        data,
        coords={
            "cell": job.cell_names.astype(object),
            "knockout": np.asarray(knockouts.names, dtype=object),
            "cluster": ("cluster", np.asarray(labels, dtype=object), cluster_colors(job.cells, labels)),
            **pair,
        },
        attrs={"field": job.field.fingerprint, **options},
    )
    return attach_annotations(label_results(ds), job.annotations)
