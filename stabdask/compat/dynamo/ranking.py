"""dynamo's rankings of genes, and of pairs of genes, by the mean elements of groups of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.cells import group_of_cells
from stabdask.compat.dynamo.notes import refuse_unknown, say
from stabdask.compat.dynamo.stored import StoredElements, read_stored
from stabdask.errors import InputError, UsageError
from stabdask.fields.base import Array, Index

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["rank_jacobian_genes", "rank_sensitivity_genes"]

_MODES = ("full reg", "full eff", "reg", "eff", "int", "switch")
_BYTES = 32 * 2**20


def rank_jacobian_genes(
    adata: AnnData,
    groups: Any = None,
    jkey: str = "jacobian_pca",
    abs: bool = False,
    mode: str = "full reg",
    exclude_diagonal: bool = False,
    normalize: bool = False,
    return_df: bool = False,
    output_values: bool = True,
    order: int = -1,
    **kwargs: Any,
) -> pd.DataFrame | dict[Any, pd.DataFrame] | None:
    """Rank genes, or pairs of genes, by their mean elements of the Jacobian in each group of cells.

    Parameters
    ----------
    adata
        With what `jacobian` leaves, here or in dynamo; it is not changed but for the result.
    groups
        Column of `obs`, or a label for each cell; all cells are one group, ``"all"``, if not given.
    jkey
        Key in `uns`.
    abs
        Whether to take absolute values before the mean.
    mode
        ``"full reg"``: regulators of each effector; ``"full eff"``: effectors of each regulator; ``"reg"``, ``"eff"``:
        regulators, effectors by their mean over all of the other; ``"int"``: pairs of effector and regulator;
        ``"switch"``: pairs of genes that inhibit each other, by the mean product of their two elements where both are
        negative, among genes that are both effector and regulator.
    exclude_diagonal
        Whether to leave out the effect of a gene on itself.
    normalize
        Whether to divide each element by its largest absolute value over cells first.
    return_df
        Whether to return the result; otherwise it is put into ``uns[mode]``.
    output_values
        Whether there is a column ``<name>_values`` beside each column of names.
    order
        -1 for the largest first, 1 for the smallest.

    Returns
    -------
    pandas.DataFrame, dict or None
        With the two full modes a dict of tables by group, with a column for each effector (regulator). Else one table
        with a column for each group. Groups are in the order of their first cells, ties in the order of `var`. Where
        columns have unlike numbers of genes, shorter ones end with empty names and NaN.

    Raises
    ------
    MissingKeyError
        If there is no such result or column.
    InputError
        If the result has no elements between genes, or is of other cells.
    UsageError
        If there is no such mode or order.
    """
    refuse_unknown(rank_jacobian_genes, kwargs)
    mode = _mode(mode)
    if mode == "switch" and abs:
        raise UsageError("mode='switch' is of negative elements, and abs=True leaves none; leave it out")
    stored = _between_genes(read_stored(adata, jkey, "jacobian"), jkey)
    ranked = _rank(adata, stored, groups, abs, mode, exclude_diagonal, normalize, output_values, order)
    if return_df:
        return ranked
    adata.uns[mode] = ranked
    return None


def rank_sensitivity_genes(
    adata: AnnData,
    groups: Any = None,
    skey: str = "sensitivity_pca",
    abs: bool = False,
    mode: str = "full reg",
    exclude_diagonal: bool = False,
    output_values: bool = False,
    order: int = -1,
    **kwargs: Any,
) -> pd.DataFrame | dict[Any, pd.DataFrame]:
    """Rank genes, or pairs of genes, by their mean sensitivities in each group of cells.

    Parameters
    ----------
    adata
        With what `sensitivity` leaves, here or in dynamo.
    skey
        Key in `uns`.
    groups, abs, mode, exclude_diagonal, output_values, order
        See `rank_jacobian_genes`; there is no mode ``"switch"``.

    Returns
    -------
    pandas.DataFrame or dict
        See `rank_jacobian_genes`.

    Raises
    ------
    MissingKeyError, InputError, UsageError
        See `rank_jacobian_genes`.
    """
    refuse_unknown(rank_sensitivity_genes, kwargs)
    mode = _mode(mode)
    if mode == "switch":
        raise UsageError("mode='switch' is of Jacobians; use rank_jacobian_genes")
    stored = _between_genes(read_stored(adata, skey, "sensitivity"), skey)
    return _rank(adata, stored, groups, abs, mode, exclude_diagonal, False, output_values, order)


def _mode(mode: str) -> str:
    found = str(mode).replace("_", " ")
    if found not in _MODES:
        raise UsageError(f"mode={mode!r}; expected one of {', '.join(map(repr, _MODES))}")
    return found


def _between_genes(stored: StoredElements, key: str) -> StoredElements:
    if not stored.between_genes:
        raise InputError(
            f"uns[{key!r}] has no elements between genes; compute it with regulators= and effectors="
        )
    return stored


def _rank(
    adata: AnnData,
    stored: StoredElements,
    groups: Any,
    absolute: bool,
    mode: str,
    exclude_diagonal: bool,
    normalize: bool,
    output_values: bool,
    order: int,
) -> pd.DataFrame | dict[Any, pd.DataFrame]:
    if order not in (-1, 1):
        raise UsageError(f"order={order!r}; expected -1 for the largest first, or 1 for the smallest")
    if mode == "switch":
        stored = _both_ways(stored)
    means = _group_means(adata, stored, groups, absolute, normalize, mode == "switch")
    effectors, regulators = (names.astype(object) for names in (stored.effectors, stored.regulators))
    own = effectors[:, None] == regulators[None, :]
    if exclude_diagonal:
        means = {label: np.where(own, np.nan, mean) for label, mean in means.items()}
    table = partial(_table, order=order, dtype=stored.values.dtype if output_values else None)
    if mode == "full reg":
        return {label: table(zip(effectors, mean, strict=True), regulators) for label, mean in means.items()}
    if mode == "full eff":
        return {
            label: table(zip(regulators, mean.T, strict=True), effectors) for label, mean in means.items()
        }
    if mode in ("reg", "eff"):
        axis, names = (0, regulators) if mode == "reg" else (1, effectors)
        return table(((label, _mean_without_nan(mean, axis)) for label, mean in means.items()), names)
    pairs = np.empty(own.shape, dtype=object)
    pairs[...] = effectors[:, None] + " - " + regulators[None, :]
    return table(((label, mean.ravel()) for label, mean in means.items()), pairs.ravel())


def _table(
    columns: Iterable[tuple[Any, Array]],
    names: npt.NDArray[Any],
    *,
    order: int,
    dtype: np.dtype[Any] | None,
) -> pd.DataFrame:
    """Return the ranked names of each column, and their values where a `dtype` for them is given."""
    import pandas as pd

    ranked = [(name, values, _ranks(values, order)) for name, values in columns]
    longest = max((len(kept) for _, _, kept in ranked), default=0)
    found: dict[Any, Any] = {}
    for name, values, kept in ranked:
        short = longest - len(kept)
        # Names that are not strings cannot be written to files.
        found[name] = np.concatenate([names[kept], np.full(short, "", dtype=object)])
        if dtype is not None:
            found[f"{name}_values"] = np.concatenate([values[kept], np.full(short, np.nan)]).astype(dtype)
    return pd.DataFrame(found)


def _both_ways(stored: StoredElements) -> StoredElements:
    """Return the elements among genes that are both effector and regulator, in one order."""
    if np.array_equal(stored.effectors, stored.regulators):
        return stored
    both = stored.effectors[np.isin(stored.effectors, stored.regulators)]
    n_left_out = len(np.union1d(stored.effectors, stored.regulators)) - len(both)
    if not len(both):
        raise InputError(
            "no gene is both effector and regulator, so none can inhibit each other; compute the Jacobian with the "
            "same genes as both"
        )
    say(f"{n_left_out:,} genes that are not both effector and regulator are left out of mode='switch'")
    rows = np.asarray([int(np.flatnonzero(stored.effectors == gene)[0]) for gene in both])
    columns = np.asarray([int(np.flatnonzero(stored.regulators == gene)[0]) for gene in both])
    return StoredElements(stored.values[rows[:, None], columns], both, both, stored.cells)


def _group_means(
    adata: AnnData, stored: StoredElements, groups: Any, absolute: bool, normalize: bool, switch: bool
) -> dict[Any, Array]:
    """Return the mean elements of each group, a few cells at a time; what is stored stays as it is."""
    values = stored.values
    codes, labels = _codes(adata, groups, stored.cells)
    largest = _largest(values) if normalize else None
    sums = np.zeros((len(labels), *values.shape[:2]))
    counts = np.zeros(len(labels), dtype=np.intp)
    n_bad = 0
    for cells in _batches(values):
        block = values[:, :, cells].astype(np.float64)
        if absolute:
            np.abs(block, out=block)
        if largest is not None:
            block = np.divide(block, largest, out=np.zeros_like(block), where=largest > 0)
        if switch:
            back = block.transpose(1, 0, 2)
            block = np.where((block < 0) & (back < 0), block * back, 0.0)
        finite = np.isfinite(block).all(axis=(0, 1))
        n_bad += int((~finite).sum())
        for code in np.unique(codes[cells]):
            own = (codes[cells] == code) & finite
            if code >= 0:
                sums[code] += block[:, :, own].sum(axis=2)
                counts[code] += int(own.sum())
    n_unlabelled = int((codes < 0).sum())
    if n_bad or n_unlabelled:
        say(
            f"{n_unlabelled:,} cells without a label and {n_bad:,} with elements that are not finite are in no mean"
        )
    with np.errstate(invalid="ignore"):
        return {label: sums[code] / counts[code] for code, label in enumerate(labels)}


def _codes(adata: AnnData, groups: Any, cells: Index) -> tuple[npt.NDArray[np.intp], list[Any]]:
    """Return the group of each stored cell as a number, -1 for none, and the labels, the first found first."""
    import pandas as pd

    if groups is None:
        return np.zeros(len(cells), dtype=np.intp), ["all"]
    codes, labels = pd.factorize(group_of_cells(adata, groups)[cells])
    if not len(labels):
        raise InputError("no cell has a label of a group; expected a column of obs with labels")
    return codes.astype(np.intp), list(labels)


def _batches(values: npt.NDArray[Any]) -> Iterator[slice]:
    n_effectors, n_regulators, n_cells = values.shape
    step = max(1, _BYTES // (8 * max(1, n_effectors * n_regulators)))
    for first in range(0, n_cells, step):
        yield slice(first, first + step)


def _largest(values: npt.NDArray[Any]) -> Array:
    """Return the largest absolute value of each element over cells, ``(effector, regulator, 1)``."""
    largest = np.zeros(values.shape[:2])
    for cells in _batches(values):
        block = np.nan_to_num(np.abs(values[:, :, cells]), nan=0.0, posinf=0.0)
        np.maximum(largest, block.max(axis=2), out=largest)
    return largest[:, :, None]


def _mean_without_nan(values: Array, axis: int) -> Array:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)
    return mean


def _ranks(values: Array, order: int) -> Index:
    """Return where values that are not NaN are, in order; of equal ones the first first."""
    known = np.flatnonzero(~np.isnan(values))
    return np.asarray(known[np.argsort(values[known] if order == 1 else -values[known], kind="stable")])
