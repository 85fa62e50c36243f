"""Responses by cluster: their means, and how far they can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import MissingKeyError
from stabdask.schema import Status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["response_means", "response_quality"]


def response_means(ds: xr.Dataset) -> xr.DataArray:
    """Return responses as means over the cells of each cluster that can be trusted, lazily.

    Parameters
    ----------
    ds
        Results with the quantity ``"response_mean"``; or ``"response"``, of which the means are taken in one pass.

    Returns
    -------
    xarray.DataArray
        ``(cluster, block_effector, block_regulator)``, with the coordinate ``response_cells (cluster)``, how many cells
        each is of; NaN where that is 0.

    Raises
    ------
    MissingKeyError
        If `ds` holds neither.
    InputError
        If clusters were selected, so that cells cannot be told by theirs.
    """
    import xarray as xr

    if "response_mean" in ds:
        known: xr.DataArray = ds["response_mean"].assign_coords(response_cells=ds["response_cells"])
        return known
    if "response" not in ds:
        raise MissingKeyError(
            "the results hold no responses; run with quantities=['default', 'response_mean'] (--quantities "
            "default,response_mean), effectors and regulators"
        )
    codes, labels = cell_clusters(ds)
    trusted = ds["response_status"].to_numpy() == Status.OK
    member = (codes == np.arange(len(labels))[:, None]) & trusted
    cells = xr.DataArray(member.sum(axis=1), dims="cluster")
    values = ds["response"].where(xr.DataArray(trusted, dims="cell"), 0.0)
    sums = xr.dot(xr.DataArray(member, dims=("cluster", "cell")), values.astype(np.float64), dim="cell")
    mean: xr.DataArray = (sums / cells.where(cells > 0)).assign_coords(
        cluster=ds["cluster"], response_cells=cells
    )
    mean.attrs = dict(ds["response"].attrs)
    return mean


def response_quality(ds: xr.Dataset) -> pd.DataFrame:
    """Return how far the responses of each cluster can be trusted.

    Parameters
    ----------
    ds
        Results with the quantity ``"response"`` or ``"response_mean"``.

    Returns
    -------
    pandas.DataFrame
        One row a cluster: ``cluster``; ``n_cells`` whose responses were computed; ``condition``, the median condition
        number of what was inverted; ``n_inaccurate``, cells with fewer than three digits, and ``n_singular``, cells
        without responses, both left out of means.

    Raises
    ------
    MissingKeyError
        If `ds` lacks what it needs.
    InputError
        If clusters were selected, so that cells cannot be told by theirs.
    """
    import pandas as pd

    for name in ("response_status", "response_condition"):
        if name not in ds:
            raise MissingKeyError(f"the results hold no {name!r}; expected those of a run with responses")
    codes, labels = cell_clusters(ds)
    status, condition = (ds[name].to_numpy() for name in ("response_status", "response_condition"))
    computed = np.isin(status, (Status.OK, Status.INACCURATE, Status.SINGULAR))
    rows = []
    for code, label in enumerate(labels):
        own = computed & (codes == code)
        rows.append(
            {
                "cluster": label,
                "n_cells": int(own.sum()),
                "condition": float(np.median(condition[own])) if own.any() else np.nan,
                "n_inaccurate": int((status[own] == Status.INACCURATE).sum()),
                "n_singular": int((status[own] == Status.SINGULAR).sum()),
            }
        )
    return pd.DataFrame(rows, columns=["cluster", "n_cells", "condition", "n_inaccurate", "n_singular"])
