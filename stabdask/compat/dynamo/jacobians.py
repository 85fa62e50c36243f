"""dynamo's `jacobian`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.cells import chosen_cells
from stabdask.compat.dynamo.fits import Fit, Rows, compute_cells, empty_results, open_fit, suffixed
from stabdask.compat.dynamo.genes import gene_lists, positions
from stabdask.compat.dynamo.notes import refuse_unknown
from stabdask.compat.memory import refuse_memory
from stabdask.fields.base import Index
from stabdask.fields.rkhs_linear import RKHSLinearization

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["INSTEAD", "by_cell", "determinants", "jacobian", "keep_per_cell"]

INSTEAD = (
    "use stabdask.run(cells, field, path, effectors=..., regulators=...), which streams them to a store, or give fewer "
    "cells or genes"
)


def jacobian(
    adata: AnnData,
    regulators: Any = None,
    effectors: Any = None,
    cell_idx: Any = None,
    sampling: str | None = None,
    sample_ncells: int = 1000,
    basis: str | None = "pca",
    Qkey: str = "PCs",
    vector_field_class: Any = None,
    method: str = "analytical",
    store_in_adata: bool = True,
    cores: int | None = 1,
    **kwargs: Any,
) -> AnnData | dict[str, Any]:
    """Compute the Jacobian of a vector field at cells, and its elements between genes.

    Parameters
    ----------
    adata
        With a vector field of dynamo in ``uns["VecFld_<basis>"]`` and the cells in ``obsm["X_<basis>"]``: where it is
        evaluated.
    regulators, effectors
        Genes in the columns and rows of ``jacobian_gene``: names, one name, or the name of a boolean column of `var`.
        If one is not given, it is as the other; if neither is, no elements between genes are computed. Names that the
        field does not have are left out, with a warning.
    cell_idx
        Cells: their numbers, names or flags. All if not given, or as `sampling` says.
    sampling
        ``"random"``, ``"velocity"``, ``"trn"`` or ``"kmeans"``: see `stabdask.sample`. ``"all"`` is as None.
    sample_ncells
        How many cells to sample.
    basis
        Name of the embedding; None for a field over genes, ``uns["VecFld"]``, evaluated at the cells it was fitted to.
    Qkey
        Key of the loadings in `uns` or `varm`.
    vector_field_class
        Another field: an object with ``func`` and ``get_Jacobian``, one whose ``vf_dict`` (or a dict that) has
        ``X_ctrl``, ``C`` and ``beta``, or an `RKHSField`.
    method
        ``"analytical"``; ``"numerical"`` takes central differences of the velocity; ``"parallel"`` is as the first.
    store_in_adata
        Whether to write results to `adata`; otherwise they are returned, and `adata` stays as it is.
    cores
        Threads; None for as many as there are cores. BLAS has one thread in each, so numbers do not depend on it.

    Returns
    -------
    anndata.AnnData or dict
        `adata` with ``uns["jacobian_<basis>"]`` and ``obs["jacobian_det_<basis>"]`` (NaN for cells that were not asked
        for), or what would be that entry of `uns`: ``jacobian`` (axis, axis, cell), float64, 1/time, ``[i, j]`` is
        dv_i/dx_j; ``cell_idx``; and between genes ``jacobian_gene`` (effector, regulator, cell), float32, 1/time, for a
        single pair (cell,), float64, with ``regulators`` and ``effectors`` in the order of `var`. NaN for cells whose
        coordinates are not finite.

    Raises
    ------
    MissingKeyError
        If there is no such field, embedding or cell.
    InputError
        If none of the genes is in the field, its axes are no linear map of genes, or a sample is larger than the data.
    MemoryBudgetError
        If the result is larger than the memory available.
    UsageError
        If an option has an impossible value, or is not known.

    References
    ----------
    Qiu et al. (2022). Mapping transcriptomic vector fields of single cells. Cell 185:690.

    Examples
    --------
    One control point at the origin.

    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(
    ...     obsm={"X_umap": np.array([[1.0, 1.0], [0.0, 0.0]])},
    ...     uns={"VecFld_umap": {"X_ctrl": np.zeros((1, 2)), "C": np.array([[1.0, 2.0]]), "beta": 0.5}})
    >>> jacobian(adata, basis="umap", store_in_adata=False)["jacobian"][:, :, 0].round(4)
    array([[-0.3679, -0.3679],
           [-0.7358, -0.7358]])
    """
    refuse_unknown(jacobian, kwargs)
    fit = open_fit(
        adata,
        basis=basis,
        Qkey=None if regulators is None and effectors is None else Qkey,
        given=vector_field_class,
        method=method,
    )
    genes = gene_lists(adata, regulators, effectors, fit.genes)
    cells = chosen_cells(adata, fit, cell_idx, sampling, sample_ncells)
    cores_of_axes, between = _compute(fit, cells, genes, cores)
    found: dict[str, Any] = {"jacobian": by_cell(cores_of_axes[0]), "cell_idx": cells}
    if genes is not None:
        assert between is not None
        found["jacobian_gene"] = by_cell(between)
        found["regulators"], found["effectors"] = genes
    if not store_in_adata:
        return found
    keep_per_cell(adata, suffixed("jacobian_det", basis), cells, cores_of_axes[1])
    adata.uns[suffixed("jacobian", basis)] = found
    return adata


def _compute(
    fit: Fit, cells: Index, genes: tuple[list[str], list[str]] | None, cores: int | None
) -> tuple[tuple[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any] | None]:
    """Return Jacobians ``(cell, axis, axis)`` and their determinants, and blocks ``(cell, effector, regulator)``."""
    d = fit.n_axes
    n_regulators, n_effectors = (0, 0) if genes is None else (len(genes[0]), len(genes[1]))
    single = n_regulators == n_effectors == 1
    dtype = np.dtype(np.float64 if single else np.float32)
    elements = n_regulators * n_effectors
    shown = "" if genes is None else f", and {n_effectors:,} x {n_regulators:,} elements between genes,"
    refuse_memory(
        len(cells) * (8 * d * d + dtype.itemsize * elements),
        f"Jacobians of {len(cells):,} cells over {d:,} x {d:,} axes{shown}",
        INSTEAD,
    )
    whole = empty_results(fit, cells, d, d)
    determinant = empty_results(fit, cells)
    between = None if genes is None else empty_results(fit, cells, n_effectors, n_regulators, dtype=dtype)
    columns, rows_of = (
        (np.zeros(0, np.intp),) * 2
        if genes is None or fit.genes is None
        else (positions(names, fit.genes) for names in genes)
    )

    def work(rows: Rows, linear: RKHSLinearization) -> None:
        every = np.arange(len(linear.sizes))
        whole[rows] = linear.cores(every)
        determinant[rows] = determinants(linear)
        if between is not None:
            between[rows] = linear.block(every, rows_of, columns)

    compute_cells(fit, cells, work, cores=cores, bytes_per_cell=16 * elements + 16 * d * n_regulators)
    return (whole, determinant), between if not single or between is None else between[:, 0, 0]


def determinants(linear: RKHSLinearization) -> npt.NDArray[np.float64]:
    """Return det J over the axes, ``(cell,)``."""
    logs, signs = linear.core_determinant()
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float64] = signs * np.exp(logs)
    return found


def by_cell(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view with cells last, where dynamo has them; in memory those of a cell stay together."""
    return np.moveaxis(values, 0, -1)


def keep_per_cell(adata: AnnData, key: str, cells: Index, values: npt.NDArray[Any]) -> None:
    """Set a column of `obs`, NaN for cells that are not among `cells`."""
    column = np.full(adata.n_obs, np.nan)
    column[cells] = values
    adata.obs[key] = column
