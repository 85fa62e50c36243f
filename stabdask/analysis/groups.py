"""Groups of cells: by cluster, by any other label, or by several labels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MAX_GROUPS", "Groups", "cell_label_names", "group_cells", "label_names", "require_labels"]

_MOST_NUMBERS = 200
"""Different values up to which a number is taken for a label, as days are."""
MAX_GROUPS = 100_000
"""Most groups of a summary: more is a number that was taken for a label."""


@dataclass(frozen=True)
class Groups:
    """Which group every cell is in.

    Attributes
    ----------
    names
        Names of the labels.
    labels
        For each name its labels, in the order of the groups.
    codes
        ``(cell,)`` number of the group, counting through `labels` with the last varying fastest; -1 for a cell
        that lacks one of the labels.
    attrs
        For each name the xarray attributes of its labels.
    """

    names: tuple[str, ...]
    labels: tuple[npt.NDArray[Any], ...]
    codes: npt.NDArray[np.intp]
    attrs: tuple[dict[str, Any], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return how many labels there are of each name."""
        return tuple(len(labels) for labels in self.labels)

    @property
    def n_groups(self) -> int:
        """Return the number of combinations of labels, with and without cells."""
        return int(np.prod(self.shape, dtype=np.int64))


def label_names(by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in `by`, one or several.

    Raises
    ------
    UsageError
        If there is none, or one twice.
    """
    names = (by,) if isinstance(by, str) else tuple(by)
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"by={by!r}; expected the name of a label or several, e.g. 'cluster' or ['cluster', 'batch']"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"by={list(names)} names a label twice")
    return names


def cell_label_names(ds: xr.Dataset) -> list[str]:
    """Return what cells can be grouped by: annotations first, then other coordinates, then variables."""
    own = [str(name) for name in ds.variables if ds[name].dims == ("cell",)]
    hidden = {"cell", "cluster_code", "cell_cluster"}
    rank = {
        name: 0 if "annotation" in ds[name].attrs else 1 if name in ds.coords else 2
        for name in own
        if name not in hidden
    }
    return ["cluster", *sorted(rank, key=rank.__getitem__)]


def require_labels(ds: xr.Dataset, names: Sequence[str]) -> None:
    """Raise unless cells can be grouped by all of `names`.

    Raises
    ------
    MissingKeyError
        If there is no such label.
    """
    for name in names:
        if name != "cluster" and (name not in ds.variables or ds[name].dims != ("cell",)):
            raise MissingKeyError(
                f"no label {name!r} for cells; {near_misses(name, cell_label_names(ds), noun='labels')}"
            )


def group_cells(ds: xr.Dataset, by: str | Sequence[str]) -> Groups:
    """Return the groups that one label or several make.

    Labels come in the order of ``attrs["labels"]`` where the annotation has it (those that no cell has
    included), clusters in the order of ``cluster``, all others sorted. A cell without a label (NaN, None) is in
    no group.

    Raises
    ------
    MissingKeyError
        If there is no such label.
    InputError
        If clusters of `ds` were selected or reordered, or the labels make more than `MAX_GROUPS` groups.
    UsageError
        If `by` names no label, or one twice.
    """
    names = label_names(by)
    require_labels(ds, names)
    if "cluster" not in names and {"cluster", "cluster_code"} <= set(ds.variables):
        cell_clusters(ds)  # refuses results of which clusters, not cells, were selected
    codes = np.zeros(ds.sizes.get("cell", 0), dtype=np.intp)
    labels: list[npt.NDArray[Any]] = []
    attrs: list[dict[str, Any]] = []
    n_groups = 1
    for name in names:
        own, found, about = _one_label(ds, name)
        n_groups *= len(found)
        if n_groups > MAX_GROUPS:
            make = "makes" if len(names) == 1 else "make"
            raise InputError(
                f"{' and '.join(map(repr, names))} {make} {n_groups:,} groups; expected at most {MAX_GROUPS:,}: choose "
                "a label, or bin a number first, e.g. "
                "ds.assign_coords(stage=('cell', pandas.cut(time, 5).astype(str)))"
            )
        codes = np.where((codes < 0) | (own < 0), -1, codes * len(found) + own)
        labels.append(found)
        attrs.append(about)
    return Groups(names, tuple(labels), codes, tuple(attrs))


def _one_label(ds: xr.Dataset, name: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any], dict[str, Any]]:
    """Return the number of each cell's label, -1 for none; the labels; and their attributes."""
    if name == "cluster":
        codes, found = cell_clusters(ds)
        return codes, found, dict(ds["cluster"].attrs)
    import pandas as pd

    values = ds[name].to_numpy()
    if values.dtype.kind in "UST":
        values = values.astype(object)
    try:
        codes, found = pd.factorize(values, sort=True)
    except TypeError as error:
        raise InputError(
            f"the values of label {name!r} cannot be ordered ({error}); make them text"
        ) from error
    found = np.asarray(found)
    if found.dtype.kind == "f" and len(found) > _MOST_NUMBERS:
        raise InputError(
            f"{name!r} is a number with {len(found):,} different values, too many to group cells by; bin it first, "
            f"e.g. ds.assign_coords(stage=('cell', pandas.cut(ds[{name!r}], 5).astype(str)))"
        )
    if name in VARIABLES and VARIABLES[name].kind == "count":
        unknown = int(np.searchsorted(found, 0))  # negative counts mean "not computed"
        codes, found = np.maximum(codes - unknown, -1), found[unknown:]
    attrs = dict(ds[name].attrs)
    order = attrs.get("labels")
    if attrs.get("annotation") != "label" or not isinstance(order, list | tuple | np.ndarray):
        return codes.astype(np.intp), found, attrs
    listed = list(dict.fromkeys(str(label) for label in order))
    more = [label for label in found.tolist() if label not in set(listed)]
    if more:
        # Labels that were changed since: the colors no longer go with them.
        attrs = {key: value for key, value in attrs.items() if key not in ("labels", "colors")}
    position = {label: number for number, label in enumerate([*listed, *more])}
    moved = np.asarray([*(position[label] for label in found.tolist()), -1], dtype=np.intp)
    return moved[codes], np.asarray([*listed, *more], dtype=object), attrs
