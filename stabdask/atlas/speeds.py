"""Speeds of all cells in a field, |v(x)|, computed block by block on Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.alignment import axis_columns, cluster_models
from stabdask.atlas.cells import cell_names, cell_state, cluster_codes
from stabdask.fields.base import Array, Field
from stabdask.fields.by_cluster import by_cluster
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
    models = cluster_models(labels, field, missing_cluster)
    numbers = np.asarray([*(-1 if model is None else field.cluster_number(model) for model in models), -1])[
        codes
    ]
    columns = axis_columns(cells, field)
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
        for some in by_cluster(block, numbers, columns):
            if len(some.rows):
                some.check(field, names)
                speeds[some.rows] = field.linearize(some.x, some.cluster).speed()
    return speeds
