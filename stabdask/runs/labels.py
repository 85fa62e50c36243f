"""Labels on results: what turns arrays of a store or of a lazy computation into the Dataset users see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stabdask.runs.means import merge_sums

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["label_results"]


def label_results(ds: xr.Dataset) -> xr.Dataset:
    """Give a Dataset its means over clusters and its coordinates: modes from 0, and the cluster label of every cell.

    ``cell_cluster(cell)`` holds labels, NaN for a cell without one: it cannot be called ``cluster``, which is
    the dimension of the labels.
    """
    ds = merge_sums(ds)
    labels = np.asarray([*ds["cluster"].to_numpy().tolist(), np.nan], dtype=object)
    coords = {"cell_cluster": ("cell", labels[ds["cluster_code"].to_numpy()])}
    for dim in ("mode", "vector_mode", "edge_rank"):
        if dim in ds.dims:
            coords[dim] = (dim, np.arange(ds.sizes[dim]))
    return ds.assign_coords(coords)
