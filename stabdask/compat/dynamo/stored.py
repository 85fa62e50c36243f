"""What `jacobian` and `sensitivity`, here or in dynamo, left in `uns`, read back with care."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.cells import cell_positions
from stabdask.compat.dynamo.genes import chosen_genes, positions
from stabdask.compat.memory import refuse_memory
from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.base import Index

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["StoredElements", "get_jacobian", "read_stored"]

_CHECKED_CELLS = 64
_CHECKED_AXES = 200


@dataclass(frozen=True)
class StoredElements:
    """Elements between genes, or between axes where there are no others.

    Attributes
    ----------
    values
        ``(effector, regulator, cell)``, as stored: not to be changed.
    effectors, regulators
        Names of genes; none where elements are between axes.
    cells
        Positions in the AnnData.
    """

    values: npt.NDArray[Any]
    effectors: npt.NDArray[np.str_]
    regulators: npt.NDArray[np.str_]
    cells: Index

    @property
    def between_genes(self) -> bool:
        """Whether elements are between genes, not between axes."""
        return len(self.effectors) > 0


def read_stored(adata: AnnData, key: str, name: str) -> StoredElements:
    """Return what is in ``uns[key]``.

    Parameters
    ----------
    adata
        Whose cells it must belong to.
    key
        Such as ``"jacobian_pca"``.
    name
        ``"jacobian"`` or ``"sensitivity"``.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    InputError
        If it is of other cells than those the AnnData has.
    """
    if key not in adata.uns:
        hint = near_misses(key, [str(k) for k in adata.uns], noun="keys")
        raise MissingKeyError(f"no {key!r} in uns of the AnnData; run {name} first, or: {hint}")
    stored = adata.uns[key]
    missing = [part for part in (name, "cell_idx") if part not in stored]
    if missing:
        raise MissingKeyError(f"uns[{key!r}] has no {missing[0]!r}; expected what {name} leaves there")
    over_axes = np.asarray(stored[name])
    cells = _cells_of(adata, key, stored["cell_idx"], over_axes.shape[-1])
    _refuse_other_cells(adata, key, name, over_axes, cells)
    between = stored.get(f"{name}_gene")
    if between is None:
        none = np.zeros(0, dtype=np.str_)
        return StoredElements(over_axes, none, none, cells)
    values = np.asarray(between)
    names = {part: np.asarray([str(gene) for gene in stored[part]]) for part in ("effectors", "regulators")}
    shape = (len(names["effectors"]), len(names["regulators"]), len(cells))
    if values.shape == shape[2:] and shape[:2] == (1, 1):
        values = values.reshape(shape)
    if values.shape != shape:
        raise InputError(f"{name}_gene in uns[{key!r}] has shape {values.shape}; expected {shape}")
    return StoredElements(values, names["effectors"], names["regulators"], cells)


def _cells_of(adata: AnnData, key: str, cell_idx: Any, n_cells: int) -> Index:
    try:
        cells = cell_positions(adata, cell_idx)
    except InputError as error:
        raise InputError(_other_cells(adata, key, str(error))) from error
    if len(cells) != n_cells:
        raise InputError(
            _other_cells(adata, key, f"cell_idx has {len(cells):,} cells, its matrices {n_cells:,}")
        )
    return cells


def _refuse_other_cells(
    adata: AnnData, key: str, name: str, matrices: npt.NDArray[Any], cells: Index
) -> None:
    """Raise if determinants of what is stored are not those that `obs`, which follows subsets, has for its cells."""
    column = key.replace(name, f"{name}_det", 1)
    if column not in adata.obs or matrices.ndim != 3 or len(matrices) > _CHECKED_AXES:
        return
    some = np.unique(np.linspace(0, len(cells) - 1, _CHECKED_CELLS).astype(np.intp))
    noted = adata.obs[column].to_numpy(dtype=np.float64)[cells[some]]
    with np.errstate(all="ignore"):
        found = np.linalg.det(np.moveaxis(matrices[:, :, some], -1, 0))
    known = np.isfinite(noted) & np.isfinite(found)
    # Near a singular matrix a determinant has few digits: what counts is whether most agree.
    apart = np.abs(noted - found)[known] > 1e-3 * np.abs(found[known])
    if known.any() and apart.mean() > 0.5:
        raise InputError(
            _other_cells(
                adata, key, f"its determinants are not those in obs[{column!r}]: was a subset taken since?"
            )
        )


def _other_cells(adata: AnnData, key: str, why: str) -> str:
    return f"uns[{key!r}] is not of the {adata.n_obs:,} cells of this AnnData ({why}); compute it again"


def get_jacobian(
    adata: AnnData, regulators: Any, effectors: Any, jkey: str = "jacobian", j_basis: str | None = "pca"
) -> pd.DataFrame:
    """Return stored elements as a table with a row for each cell.

    Parameters
    ----------
    adata
        With what `jacobian` leaves, here or in dynamo.
    regulators, effectors
        Genes among those stored; if one is None, it is as the other, and all if both are.
    jkey
        ``"jacobian"`` or ``"sensitivity"``.
    j_basis
        Name of the embedding; None for a field over genes.

    Returns
    -------
    pandas.DataFrame
        Rows are cells by name; columns are ``"<regulator>-><effector>_jacobian"``, all effectors of the first
        regulator first, float64. Where no elements between genes are stored, those between axes, from ``pca_0`` on.

    Raises
    ------
    MissingKeyError
        If nothing is stored.
    InputError
        If it is of other cells, or has none of the genes.
    MemoryBudgetError
        If the table is larger than the memory available.
    """
    import pandas as pd

    name = jkey.split("_")[-1]
    key = f"{jkey}_{j_basis}" if j_basis else jkey
    stored = read_stored(adata, key, name)
    values = stored.values
    if not stored.between_genes:
        names = [f"{j_basis}_{axis}" for axis in range(len(values))]
        if len(values) == adata.n_vars:
            names = [str(gene) for gene in adata.var_names]
        sources = targets = names
    else:
        if regulators is None and effectors is None:
            regulators, effectors = stored.regulators.tolist(), stored.effectors.tolist()
        sources = chosen_genes(
            adata, effectors if regulators is None else regulators, stored.regulators, "regulators"
        )
        targets = chosen_genes(
            adata, regulators if effectors is None else effectors, stored.effectors, "effectors"
        )
        rows, columns = positions(targets, stored.effectors), positions(sources, stored.regulators)
        values = values[rows[:, None], columns]
    refuse_memory(
        2 * 8 * values.size,
        f"a table of {len(sources) * len(targets):,} elements of {len(stored.cells):,} cells",
        "ask for fewer genes",
    )
    table = values.transpose(2, 1, 0).reshape(len(stored.cells), -1).astype(np.float64)
    heads = [f"{source}->{target}_jacobian" for source in sources for target in targets]
    return pd.DataFrame(table, index=adata.obs_names[stored.cells], columns=heads)
