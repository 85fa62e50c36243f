"""Where a search for fixed points starts from: cells of every cluster, drawn at random, and states that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.alignment import axis_columns, warn_if_all_are_one
from stabdask.atlas.cells import cell_names, cell_state, cluster_codes
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Field

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

__all__ = ["ClusterStarts", "gather_starts"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_REFERENCE_CELLS = 2000
"""Cells of a cluster that distances are measured to."""


@dataclass(frozen=True)
class ClusterStarts:
    """What is known of a cluster before its search.

    Attributes
    ----------
    cluster
        Its number in the field.
    starts
        ``(start, axis)`` finite states.
    n_not_finite
        Starts left out for NaN or infinite entries.
    cells
        ``(cell, axis)`` finite states of a sample of its cells, or None without cells.
    """

    cluster: int
    starts: Array
    n_not_finite: int
    cells: Array | None


def gather_starts(
    field: Field,
    cells: xr.Dataset | None,
    *,
    starts: npt.ArrayLike | None,
    n_starts: int,
    seed: int,
    cluster: str | Sequence[str] | None,
    client: Client | None,
) -> list[ClusterStarts]:
    """Return where to start from in each cluster searched; see `stabdask.fixed_points` for the parameters."""
    if not isinstance(field, Field):
        raise UsageError(
            f"field is a {type(field).__name__}; expected a Field, e.g. from stabdask.read_field"
        )
    for name, value in (("n_starts", n_starts), ("seed", seed)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise UsageError(f"{name}={value!r}; expected a whole number of at least 0")
    given = _checked_starts(field, starts)
    if cells is None:
        if starts is None:
            raise UsageError("there is nothing to start from; give cells, or states as starts=")
        return [
            _with_given(field, number, None, given) for number in _clusters(field, cluster, field.clusters)
        ]
    if not n_starts and not len(given):
        raise UsageError("n_starts=0 and no starts; expected at least one cell or state to start from")
    members = _members(field, cells, cluster)
    if cluster is None:
        warn_if_all_are_one(cells, field, stacklevel=3)
    state = cell_state(cells)
    columns = axis_columns(cells, field)
    drawn = {
        number: np.random.default_rng([seed, *field.clusters[number].encode()]).permutation(rows)
        for number, rows in members.items()
    }
    read = max(n_starts, _REFERENCE_CELLS)
    wanted = np.unique(np.concatenate([np.zeros(0, np.intp), *(rows[:read] for rows in drawn.values())]))
    values = _read(state, wanted, client)
    values = values if columns is None else values[:, columns]
    names = cell_names(cells)[wanted]
    place = np.full(len(cells["cluster"]), -1, dtype=np.intp)
    place[wanted] = np.arange(len(wanted))
    out = []
    for number, rows in drawn.items():
        own, reference = (place[np.sort(rows[:n])] for n in (n_starts, _REFERENCE_CELLS))
        near = values[reference][np.isfinite(values[reference]).all(axis=1)]
        out.append(
            _with_given(field, number, near, np.concatenate([values[own], given]), [*names[own]], len(given))
        )
    return out


def _with_given(
    field: Field,
    number: int,
    cells: Array | None,
    states: Array,
    names: Sequence[Any] = (),
    n_given: int | None = None,
) -> ClusterStarts:
    labels = np.asarray(
        [*names, *(f"starts[{i}]" for i in range(len(states) if n_given is None else n_given))], dtype=object
    )
    finite = np.isfinite(states).all(axis=1)
    if finite.any():
        field.check_expression(states[finite], number, labels[finite])
    return ClusterStarts(number, states[finite], int((~finite).sum()), cells)


def _checked_starts(field: Field, starts: npt.ArrayLike | None) -> Array:
    n_axes = len(field.axes)
    if starts is None:
        return np.zeros((0, n_axes))
    try:
        given = np.asarray(starts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"starts are no numbers ({error}); expected an array (start, axis)") from None
    if given.shape == (n_axes,) and given.ndim == 1:
        given = given[None]
    if given.ndim != 2 or given.shape[1] != n_axes:
        raise InputError(f"starts have shape {np.shape(starts)}; expected (starts, {n_axes}), as field.axes")
    return given


def _clusters(field: Field, cluster: str | Sequence[str] | None, default: Sequence[str]) -> list[int]:
    """Return the numbers of the clusters asked for, ascending."""
    labels = default if cluster is None else [cluster] if isinstance(cluster, str) else list(cluster)
    if not labels:
        raise UsageError("cluster=[]; expected at least one label, or None for all")
    return sorted({field.cluster_number(str(label)) for label in labels})


def _members(field: Field, cells: xr.Dataset, cluster: str | Sequence[str] | None) -> dict[int, Index]:
    """Return the cells of each cluster searched."""
    if "cluster" not in getattr(cells, "variables", {}):
        raise MissingKeyError("the cells have no variable 'cluster'; expected a Dataset from open_cells")
    codes, labels = cluster_codes(cells)
    everything = np.arange(len(codes))
    rows = {label: np.flatnonzero(codes == code) for code, label in enumerate(labels)}
    if "all" in field.clusters and "all" not in rows:
        rows["all"] = everything
    known = [label for label in field.clusters if label in rows]
    labelled = [label for label in known if label in labels]
    if not known:
        hint = near_misses(labels[0] if labels else "", field.clusters, noun="clusters of the field")
        raise MissingKeyError(f"no cell is in a cluster of the field; {hint}")
    numbers = _clusters(field, cluster, labelled or known)
    for number in numbers:
        label = field.clusters[number]
        if label not in rows:
            raise MissingKeyError(
                f"no cell is in cluster {label!r}; {near_misses(label, labels, noun='clusters of the cells')}"
            )
    return {number: rows[field.clusters[number]] for number in numbers}


def _read(state: xr.DataArray, rows: Index, client: Client | None) -> Array:
    """Return the states of some cells, ``(len(rows), axis)``; each block is read once."""
    from dask.base import compute, is_dask_collection

    data = state.data[rows]
    if is_dask_collection(data):
        # A future of the client's, or computed by threads here.
        data = (
            client.compute(data, sync=True) if client is not None else compute(data, scheduler="threads")[0]
        )
    values = np.asarray(data)
    if values.dtype.kind not in "fiub":
        raise InputError(f"the cells have dtype {values.dtype}; expected numbers")
    return values.astype(np.float64)
