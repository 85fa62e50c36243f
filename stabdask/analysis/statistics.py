"""Statistics of many columns per group of cells: in memory, or in one pass over Dask blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.groups import Groups
from stabdask.analysis.quantiles import between, count_rounded, merge_counts, quantiles_of_counts
from stabdask.schema import VARIABLES, Status

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MOMENTS", "Columns", "in_memory", "one_pass"]

MOMENTS: tuple[str, ...] = ("count", "nanmean", "nanstd", "nanmin", "nanmax")
"""What is computed beside quantiles, by their names in flox, in this order."""

_BATCH_VALUES = 8_000_000
"""Values of one call in memory: bounds the working set whatever the number of elements."""

_SUMS = {"unstable_count": ("unstable", "known"), "status": ("failed", "computed")}
"""For variables that flags come from: the sum of the flags, and of how many cells they are known."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Columns of numbers of cells, and the statistics of each.

    Attributes
    ----------
    moments
        ``(moment, column, group)``.
    quantiles
        ``(column, group, quantile)``.
    unstable, known, failed, computed
        ``(group,)`` numbers of cells that have an unstable mode, whose number of unstable modes is known, that have a
        failed status, and that have any, not being still to come; None where `ds` does not say.
    """

    moments: Floats
    quantiles: Floats
    unstable: Floats | None
    known: Floats | None
    failed: Floats | None
    computed: Floats | None


def as_float(values: npt.NDArray[Any], *, is_count: bool) -> Floats:
    """Return values as float64, NaN for counts that mean "not computed"."""
    out = values.astype(np.float64)
    if is_count:
        out[out < 0] = np.nan
    return out


def is_unstable(counts: Floats) -> Floats:
    """Return 1 for cells with an unstable mode, 0 for those without, NaN where that is not known."""
    return np.where(np.isnan(counts), np.nan, counts > 0)


def is_failed(status: npt.NDArray[Any]) -> Floats:
    """Return 1 for cells with a failed status, 0 for others, NaN for those still to be computed."""
    failed = np.isin(status, [code for code in Status if code.failed])
    return np.where(status == Status.NOT_COMPUTED, np.nan, failed)


def _flags(name: str, values: npt.NDArray[Any]) -> Floats:
    return is_failed(values) if name == "status" else is_unstable(as_float(values, is_count=True))


def in_memory(ds: xr.Dataset, names: Sequence[str], groups: Groups, quantiles: Sequence[float]) -> Columns:
    """Return the statistics of variables that are in memory, quantiles exact."""
    # Sorted once: whatever is done by group is then done to slices.
    codes, n = groups.codes.astype(np.int32), groups.n_groups
    kept = np.argsort(codes, kind="stable")[int((codes < 0).sum()) :]
    codes = codes[kept]
    parts = [_reduced(values[:, kept], codes, n, quantiles) for values in _batches(ds, names)]
    sums: dict[str, Floats | None] = dict.fromkeys((*_SUMS["unstable_count"], *_SUMS["status"]))
    for name in (name for name in _SUMS if name in ds):
        flags = _flags(name, ds[name].to_numpy()[kept])
        known = ~np.isnan(flags)
        values = _sums(codes[known], flags[known], n), _sums(codes[known], np.ones(int(known.sum())), n)
        sums |= dict(zip(_SUMS[name], values, strict=True))
    moments, exact = zip(*parts, strict=True) if parts else ((), ())
    return Columns(
        moments=np.concatenate([np.empty((len(MOMENTS), 0, n)), *moments], axis=1),
        quantiles=np.concatenate([np.empty((0, n, len(quantiles))), *exact], axis=0),
        **sums,
    )


def _sums(codes: npt.NDArray[np.int32], values: Floats, n_groups: int) -> Floats:
    return np.bincount(codes, values, minlength=n_groups).astype(np.float64)


def _batches(ds: xr.Dataset, names: Sequence[str]) -> Iterator[Floats]:
    """Give the columns of each variable, ``(column, cell)``, a few at a time."""
    for name in names:
        values = ds[name].to_numpy()
        values = values[:, None] if values.ndim == 1 else values
        step = max(1, _BATCH_VALUES // max(1, len(values)))
        for begin in range(0, values.shape[1], step):
            yield as_float(values[:, begin : begin + step].T, is_count=VARIABLES[name].kind == "count")


def _reduced(
    values: Floats, codes: npt.NDArray[np.int32], n_groups: int, quantiles: Sequence[float]
) -> tuple[Floats, Floats]:
    """Return moments ``(moment, column, group)`` and quantiles ``(column, group, quantile)`` for ascending codes."""
    import flox

    moments = np.full((len(MOMENTS), len(values), n_groups), np.nan)
    moments[0] = 0
    exact = np.full((len(values), n_groups, len(quantiles)), np.nan)
    if not len(codes):
        return moments, exact
    # Infinite values (the logarithm of a determinant that is 0) have no standard deviation: NaN, and no warning.
    with np.errstate(invalid="ignore"):
        for position, function in enumerate(MOMENTS):
            moments[position] = flox.groupby_reduce(values, codes, **_how(function, n_groups))[0]
        if not quantiles:
            return moments, exact
        found = flox.groupby_reduce(
            values, codes, **_how("nanquantile", n_groups), finalize_kwargs={"q": list(quantiles)}
        )[0]
    exact = np.moveaxis(np.asarray(found), 0, -1)
    # Between two infinite values there is nothing to interpolate, and NumPy's formula gives NaN.
    for column, group in np.argwhere(np.isnan(exact).any(axis=-1) & (moments[0] > 0)):
        own = np.sort(values[column, (codes == group) & ~np.isnan(values[column])])
        rank = np.asarray(quantiles) * (len(own) - 1)
        below = np.floor(rank).astype(np.intp)
        above = np.minimum(below + 1, len(own) - 1)
        exact[column, group] = between(own[below], own[above], rank - below)
    return moments, exact


def _how(function: str, n_groups: int) -> dict[str, Any]:
    """Return the arguments of flox; a range of groups spares it looking for them."""
    import pandas as pd

    return {
        "func": function,
        "expected_groups": pd.RangeIndex(n_groups),
        "fill_value": 0 if function in ("count", "nansum") else np.nan,
    }


def one_pass(ds: xr.Dataset, names: Sequence[str], groups: Groups, quantiles: Sequence[float]) -> Columns:
    """Return the statistics of variables on Dask, quantiles to `RELATIVE_ERROR`, never holding them whole.

    All are computed together, so that every task of a lazy Dataset runs once.
    """
    import dask.array as da
    import flox
    from dask.base import compute

    if not (groups.codes >= 0).any():
        nobody = replace(groups, codes=groups.codes[:0])
        return in_memory(ds.isel(cell=slice(0)), names, nobody, quantiles)
    table, n_flags = _table(ds, names)
    n = groups.n_groups
    codes = da.from_array(groups.codes.astype(np.int32), chunks=table.chunks[1])
    lazy: list[Any] = [
        flox.groupby_reduce(table[n_flags:], codes, method="map-reduce", **_how(function, n))[0]
        for function in MOMENTS
    ]
    # Which flags are known, and their sums.
    lazy += [
        flox.groupby_reduce(table[:n_flags], codes, method="map-reduce", **_how(function, n))[0]
        for function in ("count", "nansum")
        if n_flags
    ]
    if quantiles:
        counted = da.blockwise(
            _count_columns,
            "c",
            table[n_flags:],
            "qc",
            codes,
            "c",
            concatenate=True,
            adjust_chunks={"c": 1},
            dtype=object,
            meta=np.empty(0, dtype=object),
        )
        finish = partial(_finish, n_groups=n, quantiles=tuple(quantiles))
        lazy.append(
            da.reduction(
                counted,
                chunk=_pass_on,
                combine=_merge_columns,
                aggregate=finish,
                axis=0,
                concatenate=False,
                dtype=object,
                meta=np.empty((), dtype=object),
            )
        )
    results = list(compute(*lazy))
    exact = np.full((table.shape[0] - n_flags, n, len(quantiles)), np.nan)
    if quantiles:
        exact = results.pop().item()
    sums: dict[str, Floats | None] = dict.fromkeys((*_SUMS["unstable_count"], *_SUMS["status"]))
    if n_flags:
        known, total = results[-2:]
        for row, name in enumerate(name for name in _SUMS if name in ds):
            values = (np.asarray(array[row], dtype=np.float64) for array in (total, known))
            sums |= dict(zip(_SUMS[name], values, strict=True))
    moments = np.stack([np.asarray(result, dtype=np.float64) for result in results[: len(MOMENTS)]])
    low, high = moments[3][..., None], moments[4][..., None]
    return Columns(moments=moments, quantiles=np.clip(exact, low, high), **sums)


def _table(ds: xr.Dataset, names: Sequence[str]) -> tuple[Any, int]:
    """Return a Dask array ``(column, cell)`` of the flags and of all columns, and the number of flags."""
    import dask.array as da

    flags = [name for name in _SUMS if name in ds]
    rows = next(
        (da.asarray(ds[name].data).chunks[0] for name in (*names, *flags) if ds[name].chunks is not None),
        ds.sizes["cell"],
    )
    arguments: list[Any] = []
    for number, name in enumerate((*flags, *names)):
        data = ds[name].data
        data = data if isinstance(data, da.Array) else da.from_array(data, chunks=-1)
        arguments += [data.rechunk({0: rows, **dict.fromkeys(range(1, data.ndim), -1)})]
        arguments += [("c", f"p{number}")[: data.ndim]]
    n_columns = len(flags) + sum(int(np.prod(ds[name].shape[1:], dtype=np.int64)) for name in names)
    table = da.blockwise(
        _stacked,
        "qc",
        *arguments,
        flags=tuple(flags),
        counts=tuple(VARIABLES[name].kind == "count" for name in names),
        concatenate=True,
        new_axes={"q": n_columns},
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return table, len(flags)


def _stacked(*blocks: npt.NDArray[Any], flags: tuple[str, ...], counts: tuple[bool, ...]) -> Floats:
    """Return the flags and columns of one block, ``(column, cell)``."""
    rows = []
    for name, block in zip(flags, blocks, strict=False):
        rows.append(_flags(name, block)[None])
    for block, is_count in zip(blocks[len(flags) :], counts, strict=True):
        rows.append(as_float(block.reshape(len(block), -1).T, is_count=is_count))
    return np.concatenate(rows)


def _count_columns(table: Floats, codes: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    out = np.empty(1, dtype=object)
    out[0] = [count_rounded(column, codes) for column in table]
    return out


def _pass_on(block: npt.NDArray[Any], axis: Any, keepdims: bool) -> npt.NDArray[Any]:
    return block


def _merge_columns(blocks: Any, axis: Any, keepdims: bool) -> npt.NDArray[Any]:
    """Add up the counts of blocks, column by column."""
    parts = [block.reshape(-1)[0] for block in _flat(blocks)]
    out = np.empty(1, dtype=object)
    out[0] = [merge_counts(columns) for columns in zip(*parts, strict=True)]
    return out


def _finish(
    blocks: Any, axis: Any, keepdims: bool, *, n_groups: int, quantiles: tuple[float, ...]
) -> npt.NDArray[Any]:
    """Return the quantiles of all columns as one object, whose shape Dask need not know."""
    columns = _merge_columns(blocks, axis, keepdims)[0]
    out = np.empty((), dtype=object)
    values = [quantiles_of_counts(column, n_groups, quantiles) for column in columns]
    out[()] = np.stack(values) if values else np.empty((0, n_groups, len(quantiles)))
    return out


def _flat(blocks: Any) -> list[npt.NDArray[Any]]:
    return [one for block in blocks for one in _flat(block)] if isinstance(blocks, list) else [blocks]
