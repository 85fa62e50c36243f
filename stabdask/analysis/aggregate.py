"""Summaries over groups of cells, out of core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import blockwise_spectrum, cell_clusters, complete_values
from stabdask.errors import MissingKeyError, near_misses
from stabdask.schema import SCALARS, VARIABLES, Status

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STATISTICS", "extremes", "summarize"]

STATISTICS: tuple[str, ...] = ("count", "mean", "std", "min", "median", "max")
"""Statistics of a summary; std is that of the population (ddof = 0)."""


def summarize(ds: xr.Dataset, *, by: str = "cluster") -> xr.Dataset:
    """Summarize every scalar and every element per group of cells.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    by
        ``"cluster"``, or any other label ``(cell,)`` that was added to `ds` as a coordinate or variable.

    Returns
    -------
    xarray.Dataset
        One variable per quantity, ``(group, statistic)`` (elements also by ``pair``), in the units of the
        quantity, with the group's dimension named like `by`; and ``n_cells`` and ``n_failed`` per group. NaN
        and uncomputed values are left out, ``count`` says how many were used. Cells without a label are in no
        group.

    Raises
    ------
    MissingKeyError
        If there is no such label.
    InputError
        If clusters of `ds` were selected or reordered.

    Notes
    -----
    All scalars and elements are held in memory, 8 bytes a cell for each; vectors and spectra are not touched.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(["A"], W=[[4.0]], gamma=1.0, threshold=1.0, exponent=2.0)
    >>> adata = anndata.AnnData(np.array([[1.0], [0.5], [3.0]]))
    >>> adata.var_names = ["A"]
    >>> table = sd.summarize(sd.stability(sd.open_cells(adata), field))
    >>> float(table["spectral_abscissa"].sel(cluster="all", statistic="max").round(2))
    1.56
    """
    import xarray as xr

    codes, groups = _groups(ds, by)
    names = [name for name in (*SCALARS, "element") if name in ds]
    # All at once: the tasks of a lazy Dataset compute every variable together.
    ds = ds[[name for name in (*names, "status") if name in ds]].compute()
    out: dict[str, Any] = {}
    for name in names:
        dims = ds[name].dims[1:]
        array = ds[name].to_numpy().astype(np.float64)
        if VARIABLES[name].kind == "count":
            array = np.where(array < 0, np.nan, array)
        out[name] = ((by, "statistic", *dims), _statistics(array, codes, len(groups)), dict(ds[name].attrs))
    grouped = np.bincount(codes[codes >= 0], minlength=len(groups))
    out["n_cells"] = ((by,), grouped, {"long_name": "number of cells", "units": "1"})
    if "status" in ds:
        status = ds["status"].to_numpy()
        failing = [code for code in Status if code.failed]
        failed = codes[np.isin(status, failing) & (codes >= 0)]
        out["n_failed"] = (
            (by,),
            np.bincount(failed, minlength=len(groups)),
            {"long_name": "number of cells with a failed status", "units": "1"},
        )
    coords: dict[str, Any] = {by: groups, "statistic": np.asarray(STATISTICS, dtype=object)}
    coords |= {name: ds[name] for name in ("pair", "effector", "pair_regulator") if name in ds.coords}
    return xr.Dataset(out, coords=coords)


def _groups(ds: xr.Dataset, by: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Return the number of each cell's group, -1 for none, and the labels of the groups."""
    if by == "cluster":
        return cell_clusters(ds)
    if by not in ds.variables or ds[by].dims != ("cell",):
        labels = [str(name) for name in ds.variables if ds[name].dims == ("cell",)]
        raise MissingKeyError(
            f"no label {by!r} for cells; {near_misses(by, ['cluster', *labels], noun='labels')}"
        )
    import pandas as pd

    codes, found = pd.factorize(ds[by].to_numpy(), sort=True)
    return codes.astype(np.intp), np.asarray(found)


def _statistics(
    values: npt.NDArray[np.float64], codes: npt.NDArray[np.intp], n_groups: int
) -> npt.NDArray[np.float64]:
    """Return ``(group, statistic, ...)`` for values ``(cell, ...)``."""
    import flox

    kept = codes >= 0
    flat = np.moveaxis(values[kept], 0, -1)
    out = np.full((n_groups, len(STATISTICS), *values.shape[1:]), np.nan)
    if not kept.any():
        out[:, 0] = 0
        return out
    for position, statistic in enumerate(STATISTICS):
        function = statistic if statistic == "count" else f"nan{statistic}"
        result = flox.groupby_reduce(
            flat,
            codes[kept],
            func=function,
            expected_groups=np.arange(n_groups),
            fill_value=0 if statistic == "count" else np.nan,
        )[0]
        out[:, position] = np.moveaxis(np.asarray(result, dtype=np.float64), -1, 0)
    return out


def extremes(ds: xr.Dataset) -> xr.Dataset:
    """Return, per cluster, the largest and smallest real parts over all complete spectra, and their cells.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`, with ``spectrum="full"``.

    Returns
    -------
    xarray.Dataset
        ``largest`` and ``smallest(cluster)``: the eigenvalues, complex, 1/time; ``largest_cell`` and
        ``smallest_cell(cluster)``: names of the cells that have them. NaN and "" for a cluster without spectra.

    Raises
    ------
    MissingKeyError, InputError
        As `stabdask.complete_spectrum`.
    """
    import xarray as xr

    ends = np.asarray(blockwise_spectrum(ds, _ends, n_columns=2).compute())
    codes, names = cell_clusters(ds)[0], ds["cell"].to_numpy()
    n = ds.sizes["cluster"]
    values = np.full((2, n), complex(np.nan, np.nan), dtype=ends.dtype)
    cells = np.full((2, n), "", dtype=object)
    for cluster in range(n):
        members = np.flatnonzero((codes == cluster) & np.isfinite(ends[:, 0].real))
        if not len(members):
            continue
        for side, pick in enumerate((np.argmax, np.argmin)):
            cell = members[int(pick(ends[members, side].real))]
            values[side, cluster], cells[side, cluster] = ends[cell, side], names[cell]
    attrs = {"units": "1/time"}
    return xr.Dataset(
        {
            "largest": ("cluster", values[0], {"long_name": "eigenvalue of largest real part", **attrs}),
            "smallest": ("cluster", values[1], {"long_name": "eigenvalue of smallest real part", **attrs}),
            "largest_cell": ("cluster", cells[0], {"long_name": "cell that has it"}),
            "smallest_cell": ("cluster", cells[1], {"long_name": "cell that has it"}),
        },
        coords={"cluster": ds["cluster"]},
    )


def _ends(*blocks: npt.NDArray[Any], **tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the eigenvalues of largest and of smallest real part of each cell, ``(cell, 2)``."""
    values = complete_values(*blocks, **tables)
    missing = np.isnan(values.real)
    first = np.where(missing, -np.inf, values.real).argmax(axis=1)
    last = np.where(missing, np.inf, values.real).argmin(axis=1)
    rows = np.arange(len(values))
    return np.stack([values[rows, first], values[rows, last]], axis=1)
