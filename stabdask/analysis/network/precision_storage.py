"""Precision matrices as Zarr groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.network.cell_changes import Cells
from stabdask.analysis.network.saved import SavedKind
from stabdask.errors import DamagedStoreError
from stabdask.files import read_names, write_array, write_names

if TYPE_CHECKING:
    from stabdask.analysis.network.precision import PrecisionMatrix

__all__ = ["open_saved", "save"]

_PRECISION = SavedKind("stabdask_network", "precision", "precision matrix", "PrecisionMatrix.save")


def save(precision: PrecisionMatrix, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `precision` to a new Zarr group at `path`; see `PrecisionMatrix.save`."""
    path = Path(path)
    pair, cells = precision._pair, precision.cells
    with _PRECISION.new_group(path, overwrite=overwrite) as group:
        attrs: dict[str, Any] = {
            "logdet": pair.logdet,
            "amount": precision.amount,
            "drift_tolerance": pair.drift_tolerance,
            "crossover": pair.crossover,
            "n_refactorizations": pair.n_refactorizations,
            "history": [list(change) for change in precision.history],
        }
        if cells is not None:
            attrs |= {"count": float(cells.count), "ddof": float(cells.ddof)}
            write_array(group, "mean", cells.mean, ("gene",))
        group.attrs.update(attrs)
        write_names(group, "gene", precision.genes.tolist(), "gene")
        write_array(group, "sigma", np.ascontiguousarray(precision.sigma), ("gene", "gene_b"))
        write_array(group, "theta", np.ascontiguousarray(precision.theta), ("gene", "gene_b"))
    return path


def open_saved(path: str | Path) -> PrecisionMatrix:
    """Open what `save` wrote; see `PrecisionMatrix.open`."""
    group = _PRECISION.open(path)
    with _PRECISION.reading(path):
        precision, intact = _read(group)
    if not intact:
        raise DamagedStoreError(
            f"theta at {path} is not the inverse of sigma there: they differ by {precision.probe():.3g} on "
            "the probes; write it again"
        )
    return precision


def _read(group: Any) -> tuple[PrecisionMatrix, bool]:
    """Return what was saved, and whether theta is the inverse of sigma still."""
    from stabdask.analysis.network.precision import Change, PrecisionMatrix

    attrs = dict(group.attrs)
    cells = None
    if "mean" in group:
        cells = Cells(float(attrs["count"]), group["mean"][...], float(attrs["ddof"]))
    sigma, theta = (np.asfortranarray(group[name][...]) for name in ("sigma", "theta"))
    crossover = attrs["crossover"]
    precision = PrecisionMatrix(
        sigma,
        genes=read_names(group, "gene"),
        cells=cells,
        amount=float(attrs["amount"]),
        drift_tolerance=float(attrs["drift_tolerance"]),
        crossover=None if crossover is None else float(crossover),
    )
    if theta.shape != sigma.shape or (cells is not None and cells.mean.shape != sigma.shape[:1]):
        raise ValueError(f"theta has the shape {theta.shape} and sigma {sigma.shape}")
    fresh = precision.probe()
    # Not the inverse just computed: what is opened goes on with the bits it was saved with.
    precision._pair.restore(theta, float(attrs["logdet"]), int(attrs["n_refactorizations"]))
    precision._history.extend(
        Change(str(name), int(rank), str(way), float(probe), bool(again))
        for name, rank, way, probe, again in attrs["history"]
    )
    limit = 100.0 * max(precision._pair.drift_tolerance, fresh)
    return precision, precision.probe() <= limit
