"""dynamo's `sensitivity`: how a push on one gene reaches others, each gene's own response taken as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.compat.dynamo.cells import chosen_cells
from stabdask.compat.dynamo.fits import Fit, Rows, compute_cells, empty_results, open_fit, suffixed
from stabdask.compat.dynamo.genes import gene_lists, positions
from stabdask.compat.dynamo.jacobians import INSTEAD, by_cell, keep_per_cell
from stabdask.compat.dynamo.notes import refuse_unknown
from stabdask.compat.memory import refuse_memory
from stabdask.errors import UsageError
from stabdask.fields.base import Index
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.runs.between import dynamo_sensitivities

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["sensitivity"]

_PROJECTIONS = ("from_jacobian", "direct")


def sensitivity(
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
    projection_method: str = "from_jacobian",
    store_in_adata: bool = True,
    cores: int | None = 1,
    **kwargs: Any,
) -> AnnData | dict[str, Any]:
    """Compute dynamo's sensitivity matrices ``S = (I - J)^-1 diag(1 / diag((I - J)^-1))``.

    Parameters
    ----------
    adata, regulators, effectors, cell_idx, sampling, sample_ncells, basis, Qkey, vector_field_class, method, cores
        See `jacobian`.
    projection_method
        ``"from_jacobian"``: between genes, of the Jacobian between all regulators and effectors, which then are both.
        ``"direct"``: ``Q_eff S Q_reg^T`` of S over axes.
    store_in_adata
        Whether to write results to `adata`; otherwise they are returned, and `adata` stays as it is.

    Returns
    -------
    anndata.AnnData or dict
        `adata` with ``uns["sensitivity_<basis>"]`` and ``obs["sensitivity_det_<basis>"]``, or what would be that entry
        of `uns`: ``sensitivity`` (axis, axis, cell), float64, without unit; ``cell_idx``; and between genes
        ``sensitivity_gene`` (effector, regulator, cell), float32 (with ``"direct"`` for a single pair (cell,),
        float64), with ``regulators`` and ``effectors``. NaN where I - J is singular.

    Raises
    ------
    MissingKeyError, InputError, MemoryBudgetError, UsageError
        See `jacobian`.

    Notes
    -----
    I - J weighs a Jacobian against one per unit of time, so S changes with the unit. What a cell's state does under a
    sustained push is ``-J^-1``, the quantity ``response`` of `stabdask.run`.

    References
    ----------
    Qiu et al. (2022). Mapping transcriptomic vector fields of single cells. Cell 185:690.
    """
    refuse_unknown(sensitivity, kwargs)
    if projection_method not in _PROJECTIONS:
        raise UsageError(f"projection_method={projection_method!r}; expected 'from_jacobian' or 'direct'")
    fit = open_fit(
        adata,
        basis=basis,
        Qkey=None if regulators is None and effectors is None else Qkey,
        given=vector_field_class,
        method=method,
    )
    genes = gene_lists(adata, regulators, effectors, fit.genes)
    if genes is not None and projection_method == "from_jacobian":
        union = gene_lists(adata, [*genes[0], *genes[1]], None, fit.genes)
        assert union is not None
        genes = union
    cells = chosen_cells(adata, fit, cell_idx, sampling, sample_ncells)
    found, determinant = _compute(fit, cells, genes, cores, direct=projection_method == "direct")
    if not store_in_adata:
        return found
    keep_per_cell(adata, suffixed("sensitivity_det", basis), cells, determinant)
    adata.uns[suffixed("sensitivity", basis)] = found
    return adata


def _compute(
    fit: Fit, cells: Index, genes: tuple[list[str], list[str]] | None, cores: int | None, *, direct: bool
) -> tuple[dict[str, Any], Any]:
    """Return what is stored, and the determinants of S over axes."""
    d = fit.n_axes
    n_regulators, n_effectors = (0, 0) if genes is None else (len(genes[0]), len(genes[1]))
    single = direct and n_regulators == n_effectors == 1
    dtype = np.dtype(np.float64 if single else np.float32)
    elements = n_regulators * n_effectors
    refuse_memory(
        len(cells) * (8 * d * d + dtype.itemsize * elements),
        f"sensitivities of {len(cells):,} cells over {d:,} x {d:,} axes and {n_effectors:,} x {n_regulators:,} genes",
        INSTEAD.replace("path,", "path, quantities=['dynamo_sensitivity'],"),
    )
    whole, determinant = empty_results(fit, cells, d, d), empty_results(fit, cells)
    between = empty_results(fit, cells, n_effectors, n_regulators, dtype=dtype)
    columns = rows_of = np.zeros(0, dtype=np.intp)
    if genes is not None and fit.genes is not None:
        columns, rows_of = (positions(names, fit.genes) for names in genes)

    def work(rows: Rows, linear: RKHSLinearization) -> None:
        every = np.arange(len(linear.sizes))
        S = dynamo_sensitivities(linear.cores(every).astype(np.float64))
        whole[rows] = S
        determinant[rows] = np.linalg.det(S)
        if genes is None:
            return
        if direct:
            left, right = (
                (np.eye(d)[of] if fit.loadings is None else fit.loadings[of]) for of in (rows_of, columns)
            )
            between[rows] = left @ S @ right.T
        else:
            between[rows] = dynamo_sensitivities(linear.block(every, rows_of, columns))

    compute_cells(fit, cells, work, cores=cores, bytes_per_cell=48 * elements + 24 * d * d)
    found: dict[str, Any] = {"sensitivity": by_cell(whole), "cell_idx": cells}
    if genes is not None:
        found["sensitivity_gene"] = by_cell(between[:, 0, 0] if single else between)
        found["regulators"], found["effectors"] = genes
    return found, determinant
