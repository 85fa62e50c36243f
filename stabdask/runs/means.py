"""Means over the cells of a cluster, from the sums that every partition leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["merge_sums"]

_MEANS = {
    "participation": "participation factors (real part)",
    "sensitivity": "sensitivity of the leading mode to edges",
}


def merge_sums(ds: xr.Dataset) -> xr.Dataset:
    """Replace sums by partition with means and standard deviations over the cells of each cluster, lazily.

    Returns
    -------
    xarray.Dataset
        With ``participation_mean`` and ``participation_std (cluster, vector_mode, regulator)``, ``sensitivity_mean``
        and ``sensitivity_std (cluster, core_effector, regulator)``, ``driver_cells (cluster, vector_mode)``, the cells
        they are of, and ``leading_cells (cluster)``, where `ds` has their sums. The standard deviation is that of the
        population (ddof 0). NaN for clusters without such cells. What partitions that are missing would add is left
        out.
    """
    if "driver_cells" not in ds:
        return ds
    cells = ds["driver_cells"]
    count = cells.where(cells >= 0, 0).sum("partition").astype(np.int64)
    count.attrs = dict(VARIABLES["driver_cells"].attrs)
    count.attrs["description"] = "Number of cells in the means of drivers, by mode."
    leading = ds["leading_cells"]
    computed = leading >= 0
    leading = leading.where(computed, 0).sum("partition").astype(np.int64)
    leading.attrs = {**VARIABLES["leading_cells"].attrs, "description": "Number of cells whose core leads."}
    out: dict[str, Any] = {"driver_cells": count, "leading_cells": leading}
    for name, long_name in _MEANS.items():
        if f"{name}_sum" not in ds:
            continue
        # A slice, because without any regulator there is no mode.
        n = count if name == "participation" else count.isel(vector_mode=slice(1)).sum("vector_mode")
        n = n.where(n > 0)
        # Only what was not computed is left out: a sum that is not finite shows in the mean.
        sums, squares = (
            ds[f"{name}_{kind}"].where(computed, 0.0).sum("partition", skipna=False)
            for kind in ("sum", "squares")
        )
        mean = sums / n
        variance = squares / n - mean**2
        # Rounding may leave a little less than nothing.
        std = variance.where((variance > 0) | variance.isnull(), 0.0) ** 0.5
        attrs = VARIABLES[f"{name}_sum"].attrs
        for kind, values in (("mean", mean), ("std", std)):
            values.attrs = {**attrs, "long_name": f"{kind} of {long_name}"}
            values.attrs["description"] = f"{kind} over the cells counted by driver_cells."
            out[f"{name}_{kind}"] = values
    dropped = [name for name in VARIABLES if VARIABLES[name].per_partition and name in ds]
    return ds.drop_vars(dropped).assign(out)
