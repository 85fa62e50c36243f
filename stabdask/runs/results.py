"""`open_results`: a store as a lazy Dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stabdask.errors import StabdaskWarning
from stabdask.files import place_of
from stabdask.runs.annotations import name_annotations
from stabdask.runs.job import RunSpec
from stabdask.runs.labels import label_results
from stabdask.runs.parameters import NAMED
from stabdask.runs.receipts import read_receipts
from stabdask.runs.store import read_spec
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_results"]


def open_results(path: str | Path) -> xr.Dataset:
    """Open the store of a run as a lazy Dataset.

    Parameters
    ----------
    path
        The store, or its address in a bucket (``s3://bucket/out.zarr``).

    Returns
    -------
    xarray.Dataset
        Variables of `stabdask.schema.VARIABLES` on Dask, in the store's chunks, with the coordinates ``cell``,
        ``cell_cluster(cell)``, ``gene``, ``regulator``, ``cluster``, ``mode`` and, where a variable has them, ``pair``,
        ``axis`` and ``block_effector`` and ``block_regulator``; in place of sums by partition, means over the cells of
        clusters (see `stabdask.runs.means.merge_sums`). What was brought
        along from the atlas (see `stabdask.open_cells`) is there too: labels and numbers as coordinates, embeddings as
        variables, colors of the clusters in ``ds["cluster"].attrs["colors"]`` where they were known. Its
        attributes say how it was made; ``complete`` is False while partitions are missing, whose cells hold NaN
        and status 255. That is so for partitions that are finished later, too: open the store again to see them.

    Raises
    ------
    MissingFileError
        If there is no store.
    StoreMismatchError
        If it is no stabdask store or of another format version.

    Warns
    -----
    StabdaskWarning
        If partitions are missing.
    """
    import xarray as xr

    spec = read_spec(path)
    finished = read_receipts(path, spec.fingerprint)
    n_missing = spec.n_partitions - len(finished)
    if n_missing:
        warnings.warn(
            f"{path} is not complete: {n_missing:,} of {spec.n_partitions:,} partitions are missing (NaN, status "
            "255); run the same command again to compute them",
            StabdaskWarning,
            stacklevel=2,
        )
    store, group = place_of(path).group_address()
    opened = name_annotations(xr.open_zarr(store, group=group, consolidated=False))
    order = [name for name in VARIABLES if name in opened.variables]
    # Sorted, because a folder lists its arrays in any order.
    ds = opened[[*order, *sorted(str(name) for name in opened.data_vars if name not in order)]]
    # Names as ordinary strings: what pandas and xarray group and select by. Also of dimensions that no variable has.
    names = {name: opened[name].astype(object).compute() for name in NAMED if name in opened.variables}
    ds = ds.assign_coords(names)
    for name in ("cluster_code", "degradation", "loading"):
        if name in ds:
            ds[name] = ds[name].compute()
    ds.attrs["complete"] = n_missing == 0
    if n_missing:
        ds = _only_finished(ds, spec, finished)
    ds = label_results(ds)
    ds.encoding["source"] = str(place_of(path))
    return ds


def _only_finished(ds: xr.Dataset, spec: RunSpec, finished: Iterable[int]) -> xr.Dataset:
    """Hide what has no receipt: parts of partitions that are being written, now or by the time they are read."""
    import xarray as xr

    partitions = np.zeros(spec.n_partitions, dtype=bool)
    partitions[list(finished)] = True
    cells = np.repeat(partitions, spec.partition_cells)[: spec.n_cells]
    masks = {
        "partition": xr.DataArray(partitions, dims="partition"),
        "cell": xr.DataArray(cells, dims="cell"),
    }
    hidden = {}
    for name, values in ds.data_vars.items():
        variable = VARIABLES.get(str(name))
        if variable is not None and variable.dims[0] in masks:
            nothing = np.asarray(variable.fill).astype(values.dtype)
            hidden[name] = values.where(masks[variable.dims[0]], nothing)
    return ds.assign(hidden)
