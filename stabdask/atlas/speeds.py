"""Speeds of all cells in a field, |v(x)|, computed block by block on Dask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.cells import cell_names, cell_state, cluster_codes
from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.base import Array, Field
from stabdask.kernels.threads import single_threaded_blas

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["cell_speeds"]

Index = npt.NDArray[np.intp]


def cell_speeds(cells: xr.Dataset, field: Field, *, missing_cluster: str = "error") -> Array:
    """Return the speed of every cell, ``(cell,)``, in units of the field's velocity.

    NaN for cells whose state is not finite, that have no cluster label, or whose cluster is left out.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    field
        The velocity field.
    missing_cluster
        Of cells whose cluster the field has no parameters for: ``"error"``, ``"skip"`` or ``"W_<cluster>"``.

    Raises
    ------
    MissingKeyError
        If the cells lack genes of the field, or the field a cluster of the cells.
    InputError
        If the state of a cell is out of the field's domain.
    """
    import dask.array as da
    from dask.base import compute
    from dask.delayed import delayed

    state = cell_state(cells)
    codes, labels = cluster_codes(cells)
    numbers = np.asarray([*_cluster_numbers(labels, field, missing_cluster), -1])[codes]
    columns = _columns(state, field)
    x = state.data if isinstance(state.data, da.Array) else da.from_array(state.data, chunks=(1024, -1))
    if len(x.chunks[1]) > 1:
        x = x.rechunk({1: -1})
    names = cell_names(cells)
    model = delayed(field, name=f"field-{field.fingerprint}", pure=True)
    task = delayed(_block_speeds)
    stops = np.cumsum(x.chunks[0])
    parts = []
    for stop, n_cells, block in zip(stops, x.chunks[0], x.to_delayed()[:, 0], strict=True):
        cut = slice(int(stop) - n_cells, int(stop))
        parts.append(task(block, numbers[cut], names[cut], model, columns))
    speeds: Array = np.concatenate(compute(*parts))
    return speeds


def _block_speeds(
    block: npt.NDArray[Any],
    numbers: npt.NDArray[np.integer[Any]],
    names: npt.NDArray[Any],
    field: Field,
    columns: Index | None,
) -> Array:
    speeds = np.full(len(block), np.nan)
    with single_threaded_blas():
        for cluster in np.unique(numbers[numbers >= 0]):
            rows = np.flatnonzero(numbers == cluster)
            x = block[rows] if columns is None else block[rows][:, columns]
            finite = np.isfinite(x).all(axis=1)
            rows, x = rows[finite], x[finite]
            if len(rows):
                field.check_expression(x, int(cluster), names[rows])
                speeds[rows] = field.linearize(x, int(cluster)).speed()
    return speeds


def _columns(state: xr.DataArray, field: Field) -> Index | None:
    """Return where the axes of the field (its genes) are among those of the cells, None if they are the same."""
    dim = str(state.dims[1])
    if dim not in state.coords:
        if state.shape[1] == len(field.axes):
            return None
        raise InputError(f"the cells have {state.shape[1]} axes without names; expected {len(field.axes)}")
    names, wanted = [str(name) for name in state[dim].to_numpy()], field.axes.tolist()
    if names == wanted:
        return None
    where = {name: position for position, name in enumerate(names)}
    missing = [name for name in wanted if name not in where]
    if missing:
        noun, where_to = (
            ("genes", "the layer of the fit") if field.obsm is None else ("axes", f"obsm={field.obsm!r}")
        )
        raise MissingKeyError(
            f"the cells lack {len(missing):,} of the {len(wanted):,} {noun} of the field, such as {missing[0]!r}; "
            f"{near_misses(missing[0], names, noun=f'names of the {dim}')}. Open the cells with {where_to}"
        )
    return np.asarray([where[name] for name in wanted], dtype=np.intp)


def _cluster_numbers(labels: Sequence[str], field: Field, missing_cluster: str) -> list[int]:
    """Return the number of the field's cluster for each label of the cells, -1 where cells are left out."""
    models = [field.model_of(label) for label in labels]
    unknown = [label for label, model in zip(labels, models, strict=True) if model is None]
    instead = -1
    if unknown and missing_cluster == "error":
        hint = near_misses(unknown[0], field.clusters, noun="clusters of the field")
        raise MissingKeyError(
            f"the field has no parameters for cluster {unknown[0]!r} of the cells; {hint}. Choose another cluster key, "
            "or missing_cluster='skip' to draw none of those cells, or 'W_<cluster>' to use another one's parameters"
        )
    if missing_cluster not in ("error", "skip"):
        choices = ("error", "skip", *(f"W_{label}" for label in field.clusters))
        if missing_cluster not in choices:
            hint = near_misses(str(missing_cluster), choices, noun="choices")
            raise MissingKeyError(f"missing_cluster={missing_cluster!r} is not possible; {hint}")
        instead = field.cluster_number(missing_cluster.removeprefix("W_"))
    return [instead if model is None else field.cluster_number(model) for model in models]
