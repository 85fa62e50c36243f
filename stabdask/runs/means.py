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
        and ``sensitivity_std (cluster, core_effector, regulator)``, or ``axis_sensitivity_mean`` and
        ``axis_jacobian_mean (cluster, axis_effector, axis)``, ``driver_cells (cluster, vector_mode)``, the cells they
        are of, and ``leading_cells (cluster)``; ``jacobian_mean``, ``jacobian_abs_mean`` and ``switch_mean (cluster,
        block_effector, block_regulator)`` and ``jacobian_cells (cluster)``, the cells these are of; ``response_mean``
        and ``response_abs_mean`` likewise, and ``response_cells``: where `ds` has their sums. The
        standard deviation is that of the population (ddof 0). NaN for clusters without such cells; ``switch_mean`` also
        for genes that are not both effector and regulator. What partitions that are missing would add is left out.
    """
    out = _block_means(ds, "jacobian", "the Jacobian") | _block_means(ds, "response", "responses")
    if "driver_cells" in ds:
        out |= _driver_means(ds)
    dropped = [name for name in VARIABLES if VARIABLES[name].per_partition and name in ds]
    return ds.drop_vars(dropped).assign(out) if dropped else ds


def _driver_means(ds: xr.Dataset) -> dict[str, Any]:
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
    for name in ("axis_sensitivity", "axis_jacobian"):
        if f"{name}_sum" in ds:
            n = count.isel(vector_mode=slice(1)).sum("vector_mode")
            out[f"{name}_mean"] = _mean(ds, f"{name}_sum", computed, n, counted_by="driver_cells")
    return out


def _block_means(ds: xr.Dataset, kind: str, words: str) -> dict[str, Any]:
    """Return means over the cells of each cluster of elements of a kind between chosen genes."""
    counted_by = f"{kind}_cells"
    if counted_by not in ds:
        return {}
    cells = ds[counted_by]
    computed = cells >= 0
    count = cells.where(computed, 0).sum("partition").astype(np.int64)
    count.attrs = {
        **VARIABLES[counted_by].attrs,
        "description": f"Number of cells in the means of {words}.",
    }
    out: dict[str, Any] = {counted_by: count}
    effectors, regulators = ds["block_effector"], ds["block_regulator"]
    mutual = effectors.isin(regulators.to_numpy()) & regulators.isin(effectors.to_numpy())
    for name in (kind, f"{kind}_abs", *(["switch"] if kind == "jacobian" else [])):
        if f"{name}_sum" in ds:
            mean = _mean(ds, f"{name}_sum", computed, count, counted_by=counted_by)
            out[f"{name}_mean"] = mean.where(mutual) if name.startswith("switch") else mean
    return out


def _mean(
    ds: xr.Dataset, name: str, computed: xr.DataArray, n: xr.DataArray, *, counted_by: str
) -> xr.DataArray:
    # Only what was not computed is left out: a sum that is not finite shows in the mean.
    mean = ds[name].where(computed, 0.0).sum("partition", skipna=False) / n.where(n > 0)
    attrs = VARIABLES[name].attrs
    long_name = attrs["long_name"].replace("sum of", "mean of")
    mean.attrs = {
        **attrs,
        "long_name": long_name,
        "description": f"Mean over the cells counted by {counted_by}.",
    }
    return mean
