"""Summaries over groups of cells, out of core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.groups import Groups, group_cells, label_names, require_labels
from stabdask.analysis.quantiles import RELATIVE_ERROR
from stabdask.analysis.spectra import blockwise_spectrum, cell_clusters
from stabdask.analysis.statistics import Columns, in_memory, one_pass
from stabdask.errors import InputError, UsageError
from stabdask.schema import SCALARS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PER_GROUP", "QUANTILES", "STATISTICS", "extremes", "quantile_name", "summarize"]

QUANTILES: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a summary if none are asked for."""


def quantile_name(quantile: float) -> str:
    """Return the name of a quantile in a summary.

    Examples
    --------
    >>> [quantile_name(q) for q in (0.05, 0.5, 0.975, 1)]
    ['q05', 'median', 'q97.5', 'q100']
    """
    if quantile == 0.5:
        return "median"
    percent = f"{round(100 * quantile, 10):.10f}".rstrip("0").rstrip(".")
    return "q" + (percent if percent.partition(".")[0][1:] else f"0{percent}")


STATISTICS: tuple[str, ...] = ("count", "mean", "std", "min", *map(quantile_name, QUANTILES), "max")
"""Statistics of a summary if no other quantiles are asked for; std is that of the population (ddof = 0)."""


def summarize(
    ds: xr.Dataset,
    *,
    by: str | Sequence[str] = "cluster",
    quantiles: Sequence[float] = QUANTILES,
    memory: int | str = "2GB",
) -> xr.Dataset:
    """Summarize every scalar and every element per group of cells.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    by
        ``"cluster"``, or any other label ``(cell,)`` of `ds`: one brought along from ``obs`` (batch, time), or added
        as a coordinate or variable. Several labels make a group of each of their combinations.
    quantiles
        Between 0 and 1; named ``"q05"``, ``"q97.5"``, and ``"median"`` for 0.5. Linear between order statistics.
    memory
        How much the scalars and elements of a Dataset on Dask may take in memory, in bytes or as ``"2GB"`` (that of
        16 million cells with 15 quantities). If they take less they are loaded together; the peak is about what they
        take and 80 bytes a cell. If they take more, nothing is loaded whole but the groups (20 bytes a cell), and
        quantiles are those of values rounded to 11 significant bits: each order statistic has a relative error of
        at most 2^-11, 0.05 %.

    Returns
    -------
    xarray.Dataset
        One variable per quantity, ``(group, statistic)`` (elements also by ``pair``), in the units of the
        quantity; with two labels ``(group, other group, statistic)``. The dimensions of groups are named like
        the labels, in the order of the annotation's categories where it has one, else sorted. Statistics are
        ``count``, ``mean``, ``std`` (of the population, ddof = 0), ``min``, the quantiles and ``max``. NaN and
        uncomputed values are left out, ``count`` says how many were used; a combination of labels that no cell
        has counts 0 and is NaN. Each variable has the attributes ``quantile_method`` (``"exact"``, or what was done
        instead) and ``quantile_relative_error``.

        Per group, also ``n_cells``, ``n_computed`` (fewer where results are not complete), ``n_failed``,
        ``failed_fraction`` (of all its cells) and
        ``unstable_fraction``: of the cells whose number of unstable modes is known, those that have one. Cells
        without a label are in no group.

    Raises
    ------
    MissingKeyError
        If there is no such label.
    InputError
        If clusters of `ds` were selected or reordered, or a label has more values than groups make sense of.
    UsageError
        If a quantile is not between 0 and 1, or one or a label is named twice.

    Notes
    -----
    All variables of a block are computed once, together; vectors and spectra are not touched. A label that is itself
    to be computed (a lazy variable) takes a pass of its own where `memory` is exceeded.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(["A"], W=[[4.0]], gamma=1.0, threshold=1.0, exponent=2.0)
    >>> adata = anndata.AnnData(np.array([[1.0], [0.5], [3.0]]))
    >>> adata.var_names = ["A"]
    >>> table = sd.summarize(sd.stability(sd.open_cells(adata), field))
    >>> float(table["spectral_abscissa"].sel(cluster="all", statistic="max").round(2))
    1.56
    >>> float(table["unstable_fraction"].sel(cluster="all").round(2))
    0.67
    """
    wanted = label_names(by)
    statistics = _statistic_names(quantiles)
    # A count that cells are grouped by says nothing about its own groups.
    names = [name for name in (*SCALARS, "element") if name in ds and name not in wanted]
    require_labels(ds, wanted)
    _check_label_names(wanted, names, ds)
    bound = _parse_bytes(memory)
    ds = ds[_needed(ds, names, wanted)]
    lazy = [name for name in ds.variables if ds[name].chunks is not None]
    streams = bool(lazy) and sum(ds[name].nbytes for name in ds.data_vars) > bound
    if not streams and lazy:
        # All at once: the tasks of a lazy Dataset compute every variable together.
        ds = ds.compute()
    groups = group_cells(ds, wanted)
    columns = (one_pass if streams else in_memory)(ds, names, groups, tuple(quantiles))
    return _labelled(ds, names, groups, columns, statistics, exact=not streams)


def _statistic_names(quantiles: Sequence[float]) -> list[str]:
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise UsageError(f"quantile {quantile!r}; expected numbers from 0 to 1, e.g. (0.05, 0.5, 0.95)")
    if len({quantile_name(quantile) for quantile in quantiles}) < len(quantiles):
        raise UsageError(f"quantiles={list(quantiles)} names one twice")
    return ["count", "mean", "std", "min", *map(quantile_name, quantiles), "max"]


def _parse_bytes(memory: int | str) -> int:
    from dask.utils import parse_bytes

    try:
        value = int(parse_bytes(memory))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"memory={memory!r} is no size; expected a number of bytes or e.g. '2GB'") from error
    if value < 0:
        raise UsageError(f"memory={memory!r}; expected 0 or more")
    return value


PER_GROUP = ("n_cells", "n_computed", "n_failed", "failed_fraction", "unstable_fraction")
"""What a summary says of a group, whatever the quantity."""


def _check_label_names(wanted: Sequence[str], names: Sequence[str], ds: xr.Dataset) -> None:
    """Raise if a label has the name of something else in the summary."""
    taken = {"statistic", *PER_GROUP, *(str(dim) for name in names for dim in ds[name].dims[1:])}
    for name in wanted:
        if name in taken:
            raise InputError(
                f"label {name!r} has the name of a part of the summary; rename it, e.g. "
                f"ds.rename({{{name!r}: {name + '_label'!r}}})"
            )


def _needed(ds: xr.Dataset, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the variables to read: quantities, what fractions and clusters are made of, and labels."""
    own = [*names, "unstable_count", "status", "cluster_code", "cluster", *wanted]
    return [name for name in dict.fromkeys(own) if name in ds.variables]


def _labelled(
    ds: xr.Dataset,
    names: Sequence[str],
    groups: Groups,
    columns: Columns,
    statistics: list[str],
    *,
    exact: bool,
) -> xr.Dataset:
    """Return the statistics as a Dataset with the dimensions of the groups."""
    import xarray as xr

    count, mean, std, least, most = columns.moments
    # (column, group, statistic)
    values = np.concatenate(
        [np.stack([count, mean, std, least], axis=-1), columns.quantiles, most[..., None]], axis=-1
    )
    method: dict[str, Any] = {"quantile_method": "exact", "quantile_relative_error": 0.0}
    if not exact:
        method = {
            "quantile_method": "counts of values rounded to 11 significant bits; each order statistic has a relative "
            "error of at most 2^-11",
            "quantile_relative_error": RELATIVE_ERROR,
        }
    out: dict[str, Any] = {}
    begin = 0
    for name in names:
        dims, shape = ds[name].dims[1:], ds[name].shape[1:]
        stop = begin + int(np.prod(shape, dtype=np.int64))
        # The columns of an element go last.
        table = np.moveaxis(values[begin:stop], 0, -1).reshape((*groups.shape, len(statistics), *shape))
        out[name] = ((*groups.names, "statistic", *dims), table, {**ds[name].attrs, **method})
        begin = stop
    out |= _per_group(groups, columns)
    coords: dict[str, Any] = {
        name: (name, labels, attrs)
        for name, labels, attrs in zip(groups.names, groups.labels, groups.attrs, strict=True)
    }
    coords["statistic"] = np.asarray(statistics, dtype=object)
    coords |= {name: ds[name] for name in ("pair", "effector", "pair_regulator") if name in ds.coords}
    return xr.Dataset(out, coords=coords)


def _per_group(groups: Groups, columns: Columns) -> dict[str, Any]:
    def put(values: npt.NDArray[Any], long_name: str) -> Any:
        return groups.names, values.reshape(groups.shape), {"long_name": long_name, "units": "1"}

    n_cells = np.bincount(groups.codes[groups.codes >= 0], minlength=groups.n_groups)
    out = {"n_cells": put(n_cells, "number of cells")}
    if columns.computed is not None:
        n_computed = np.rint(columns.computed).astype(np.int64)
        out["n_computed"] = put(n_computed, "number of cells that are computed")
    with np.errstate(invalid="ignore"):
        if columns.failed is not None:
            out["n_failed"] = put(
                np.rint(columns.failed).astype(np.int64), "number of cells with a failed status"
            )
            out["failed_fraction"] = put(columns.failed / n_cells, "fraction of cells with a failed status")
        if columns.unstable is not None and columns.known is not None:
            out["unstable_fraction"] = put(
                columns.unstable / columns.known,
                "fraction of cells with an unstable mode, of those whose number of unstable modes is known",
            )
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
        ``smallest_cell(cluster)``: names of the cells that have them; ``largest_speed`` and
        ``smallest_speed(cluster)``: their speed, if `ds` has it. NaN and "" for a cluster without spectra.

    Raises
    ------
    MissingKeyError, InputError
        As `stabdask.complete_spectrum`.
    """
    import xarray as xr
    from dask.base import compute

    speed = ds["speed"].data if "speed" in ds else np.full(ds.sizes["cell"], np.nan)
    # Together: the tasks of a lazy Dataset compute every variable at once.
    ends, speeds = map(np.asarray, compute(blockwise_spectrum(ds, _ends, n_columns=2), speed))
    codes, names = cell_clusters(ds)[0], ds["cell"].to_numpy()
    n = ds.sizes["cluster"]
    values = np.full((2, n), complex(np.nan, np.nan), dtype=ends.dtype)
    cells = np.full((2, n), "", dtype=object)
    fast = np.full((2, n), np.nan)
    for cluster in range(n):
        members = np.flatnonzero((codes == cluster) & np.isfinite(ends[:, 0].real))
        if not len(members):
            continue
        for side, pick in enumerate((np.argmax, np.argmin)):
            cell = members[int(pick(ends[members, side].real))]
            values[side, cluster], cells[side, cluster] = ends[cell, side], names[cell]
            fast[side, cluster] = speeds[cell]
    attrs = {"units": "1/time"}
    table = xr.Dataset(
        {
            "largest": ("cluster", values[0], {"long_name": "eigenvalue of largest real part", **attrs}),
            "smallest": ("cluster", values[1], {"long_name": "eigenvalue of smallest real part", **attrs}),
            "largest_cell": ("cluster", cells[0], {"long_name": "cell that has it"}),
            "smallest_cell": ("cluster", cells[1], {"long_name": "cell that has it"}),
        },
        coords={"cluster": ds["cluster"]},
    )
    if "speed" in ds:
        about = {
            "long_name": "speed of that cell",
            "units": ds["speed"].attrs.get("units", "expression/time"),
        }
        table["largest_speed"], table["smallest_speed"] = (("cluster", side, about) for side in fast)
    return table


def _ends(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the eigenvalues of largest and of smallest real part of each cell, ``(cell, 2)``."""
    missing = np.isnan(values.real)
    first = np.where(missing, -np.inf, values.real).argmax(axis=1)
    last = np.where(missing, np.inf, values.real).argmin(axis=1)
    rows = np.arange(len(values))
    return np.stack([values[rows, first], values[rows, last]], axis=1)
