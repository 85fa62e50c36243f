"""Which cells a call is about, and where they are in the space of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.notes import some
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Index

if TYPE_CHECKING:
    from anndata import AnnData

    from stabdask.compat.dynamo.fits import Fit

__all__ = ["cell_positions", "chosen_cells", "group_of_cells"]


def chosen_cells(adata: AnnData, fit: Fit, cells: Any, sampling: str | None, n_sampled: int) -> Index:
    """Return the positions of the cells asked for, or of a sample; of all if neither is given.

    Raises
    ------
    InputError
        If a sample is larger than the data.
    UsageError
        If there is no such way of sampling.
    """
    if cells is not None:
        return cell_positions(adata, cells)
    if sampling is None or sampling == "all":
        return np.arange(adata.n_obs)
    from stabdask.compat.dynamo.samples import sampled_cells

    return sampled_cells(fit, n_sampled, sampling)


def cell_positions(adata: AnnData, cells: Any) -> Index:
    """Return the positions of cells given by number, by name or as flags, in the order given.

    Raises
    ------
    MissingKeyError
        If there is no cell of a name.
    InputError
        If a number is out of range, or there are not as many flags as cells.
    UsageError
        If `cells` are none of the three.
    """
    n = int(adata.n_obs)
    values = np.asarray(cells.to_numpy() if hasattr(cells, "to_numpy") else cells)
    if values.ndim == 0:
        values = values[None]
    if values.ndim != 1 or not len(values):
        raise UsageError(f"cell_idx has shape {values.shape}; expected numbers, names or flags of cells")
    if values.dtype.kind == "b":
        if len(values) != n:
            raise InputError(f"cell_idx has {len(values):,} flags for {n:,} cells; expected one for each")
        return np.flatnonzero(values)
    if values.dtype.kind in "iu":
        out = values.astype(np.intp)
        if out.min() < -n or out.max() >= n:
            raise InputError(
                f"cell_idx runs from {out.min():,} to {out.max():,}; expected numbers of the {n:,} cells, from 0"
            )
        return np.where(out < 0, out + n, out)
    if values.dtype.kind not in "OUST" or not all(isinstance(value, str) for value in values.tolist()):
        raise UsageError(f"cell_idx holds {values[0]!r}; expected numbers, names or flags of cells")
    return _positions_of_names(adata, [str(value) for value in values])


def _positions_of_names(adata: AnnData, names: list[str]) -> Index:
    index = adata.obs_names
    if not index.is_unique:
        raise InputError(
            "names of cells repeat, so cell_idx cannot be names; give numbers, or call adata.obs_names_make_unique()"
        )
    found = np.asarray(index.get_indexer(names), dtype=np.intp)
    missing = [name for name, place in zip(names, found, strict=True) if place < 0]
    if missing:
        hint = near_misses(missing[0], [str(name) for name in index[:100_000]], noun="cells")
        raise MissingKeyError(f"no cell {some(missing)} in obs_names; {hint}")
    return found


def group_of_cells(adata: AnnData, groups: Any) -> npt.NDArray[Any]:
    """Return the label of every cell: of a column of `obs`, or as given.

    Raises
    ------
    MissingKeyError
        If there is no such column.
    InputError
        If there are not as many labels as cells.
    """
    if isinstance(groups, str):
        if groups not in adata.obs.columns:
            hint = near_misses(groups, adata.obs.columns, noun="columns")
            raise MissingKeyError(f"no column {groups!r} in obs of the AnnData; {hint}")
        return np.asarray(adata.obs[groups].to_numpy(dtype=object))
    labels = np.asarray(groups, dtype=object)
    if labels.shape != (adata.n_obs,):
        raise InputError(
            f"groups have shape {labels.shape}; expected a label for each of {adata.n_obs:,} cells"
        )
    return labels
