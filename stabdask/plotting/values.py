"""What figures show: numbers and labels of cells, read once, with their names, units, order and colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.plotting.style import palette
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Groups",
    "Numbers",
    "cluster_colors",
    "is_label",
    "is_number",
    "label_names",
    "load",
    "number_names",
    "read_groups",
    "read_numbers",
    "select_groups",
    "with_units",
]

_SIGNED = frozenset(("spectral_abscissa", "trace", "logabsdet", "det_sign", "reactivity"))
_BOUNDARY = frozenset(("spectral_abscissa", "reactivity"))
_MOST_GROUPS = 200


@dataclass(frozen=True)
class Numbers:
    """One number per cell.

    Attributes
    ----------
    values
        ``(cell,)`` float64, NaN for none.
    label
        What an axis says: name and units.
    signed
        Whether 0 parts two kinds of value.
    boundary
        Whether that is worth seeing even where all values are on one side: the boundary of stability.
    whole
        Whether values are whole numbers.
    """

    values: npt.NDArray[np.float64]
    label: str
    signed: bool
    boundary: bool
    whole: bool = False

    def shows_zero(self, low: float, high: float) -> bool:
        """Return whether a scale from `low` to `high` should have 0 in it."""
        return self.signed and (self.boundary or (low - (high - low) <= 0.0 <= high + (high - low)))


@dataclass(frozen=True)
class Groups:
    """One label per cell: `codes` ``(cell,)`` number the `labels`, -1 for none; `colors` of the labels."""

    codes: npt.NDArray[np.intp]
    labels: list[str]
    colors: list[str]


def with_units(label: str, units: str | None) -> str:
    """Return a label with its units; "1" is none.

    Examples
    --------
    >>> with_units("speed", "expression/time"), with_units("number of unstable modes", "1")
    ('speed (expression/time)', 'number of unstable modes')
    """
    return label if units in (None, "", "1") else f"{label} ({units})"


def load(
    ds: xr.Dataset, *, numbers: Sequence[str] = (), labels: Sequence[str] = (), others: Sequence[str] = ()
) -> xr.Dataset:
    """Return numbers of cells, labels, and other variables where there are any of that name, in memory.

    All at once: the tasks of a lazy Dataset compute every variable together.

    Raises
    ------
    MissingKeyError
        If there is no such number or label.
    """
    for name in numbers:
        if not is_number(ds, name):
            known = near_misses(name, number_names(ds), noun="numbers")
            raise MissingKeyError(f"no number {name!r} for cells; {known}")
    for name in labels:
        if not is_label(ds, name):
            known = near_misses(name, label_names(ds), noun="labels")
            raise MissingKeyError(f"no label {name!r} for cells; {known}")
    pairs = _pairs(ds)
    positions = [pairs.index(n) for n in dict.fromkeys(numbers) if n not in ds.variables and n in pairs]
    wanted = [name for name in (*numbers, *labels, *others) if name in ds.variables and name not in ds.dims]
    lazy = ds[sorted(set(wanted))]
    if positions:
        lazy = lazy.assign(element=ds["element"].isel(pair=positions))
    for name in ("cell", "cluster_code", "cluster", "cell_cluster"):
        if name in ds.variables and name not in lazy.variables:
            lazy = lazy.assign_coords({name: ds[name]})
    loaded = lazy.compute()
    if {"cluster", "cluster_code"} <= set(loaded.variables):
        cell_clusters(loaded)  # refuses results of which clusters, not cells, were selected
    return loaded


def is_number(ds: xr.Dataset, name: str) -> bool:
    """Return whether cells have a number of that name: a scalar, an annotation, or an element by its pair."""
    if name in ds.variables:
        return ds[name].dims == ("cell",) and ds[name].dtype.kind in "fiub"
    return name in _pairs(ds)


def is_label(ds: xr.Dataset, name: str) -> bool:
    """Return whether cells have a label of that name."""
    return name == "cluster" or (name in ds.variables and ds[name].dims == ("cell",) and name != "cell")


def number_names(ds: xr.Dataset) -> list[str]:
    """Return what `is_number` is true for."""
    names = [str(name) for name in ds.variables if name != "cluster_code"]
    return [name for name in names if is_number(ds, name)] + _pairs(ds)


def label_names(ds: xr.Dataset) -> list[str]:
    """Return the labels of cells that are no numbers, those of clusters first."""
    names = [str(name) for name in ds.variables if is_label(ds, str(name)) and not is_number(ds, str(name))]
    return ["cluster", *(name for name in names if name not in ("cluster", "cell_cluster"))]


def read_numbers(ds: xr.Dataset, name: str) -> Numbers:
    """Return a number of every cell, from what `load` returned."""
    if name in ds.variables:
        values, attrs = ds[name].to_numpy().astype(np.float64), ds[name].attrs
        if name in VARIABLES and VARIABLES[name].kind == "count":
            values[values < 0] = np.nan
        values[~np.isfinite(values)] = np.nan
        label = with_units(str(attrs.get("long_name", name)), attrs.get("units"))
        return Numbers(values, label, name in _SIGNED, name in _BOUNDARY, ds[name].dtype.kind in "iub")
    element = ds["element"].isel(pair=_pairs(ds).index(name))
    values = element.to_numpy().astype(np.float64)
    effector, regulator = (str(element[part].item()) for part in ("effector", "pair_regulator"))
    units = element.attrs.get("units", VARIABLES["element"].units)
    return Numbers(values, with_units(f"J[{effector}, {regulator}]", units), True, True)


def read_groups(ds: xr.Dataset, by: str) -> Groups:
    """Return the clusters or another label of every cell, from what `load` returned.

    Labels come in the order of the clusters of the field, or of the categories of the annotation, else sorted.

    Raises
    ------
    UsageError
        If there are too many different ones to be labels.
    """
    if by in ("cluster", "cell_cluster"):
        numbers, names = cell_clusters(ds)
        clusters = [str(name) for name in names]
        return Groups(numbers, clusters, cluster_colors(ds, clusters))
    import pandas as pd

    values, attrs = ds[by].to_numpy(), ds[by].attrs
    codes: npt.NDArray[np.intp] = np.empty(len(values), dtype=np.intp)
    order = attrs.get("labels")
    if order is None:
        codes[:], found = pd.factorize(values, sort=True)
        labels = [str(label) for label in found]
    else:
        labels = [str(label) for label in order]
        positions = {label: position for position, label in reversed(list(enumerate(labels)))}
        codes[:] = pd.Series(values).map(positions).fillna(-1).to_numpy(dtype=np.intp)
    if len(labels) > _MOST_GROUPS:
        raise UsageError(
            f"{by!r} has {len(labels):,} different values; expected a label of at most {_MOST_GROUPS}"
        )
    return Groups(codes, labels, _colors(attrs, len(labels)))


def select_groups(split: Groups, groups: Sequence[str] | None) -> Groups:
    """Return chosen groups alone, in their order, with the colors they had."""
    if groups is None:
        return split
    if isinstance(groups, str):
        raise UsageError(f"groups={groups!r}; expected a sequence of labels")
    for label in groups:
        if label not in split.labels:
            raise MissingKeyError(
                f"no group {label!r}; {near_misses(str(label), split.labels, noun='groups')}"
            )
    places = [split.labels.index(label) for label in dict.fromkeys(groups)]
    renumbered = np.full(len(split.labels) + 1, -1, dtype=np.intp)
    renumbered[places] = np.arange(len(places))
    return Groups(
        renumbered[split.codes],
        [split.labels[place] for place in places],
        [split.colors[place] for place in places],
    )


def cluster_colors(ds: xr.Dataset, labels: Sequence[str]) -> list[str]:
    """Return the color of every cluster: that of the atlas where known."""
    return _colors(ds["cluster"].attrs, len(labels))


def _colors(attrs: Any, n: int) -> list[str]:
    known = attrs.get("colors")
    return [str(color) for color in known] if known is not None and len(known) == n else palette(n)


def _pairs(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in np.atleast_1d(ds["pair"].to_numpy())] if "element" in ds else []
