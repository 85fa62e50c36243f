"""Spectra, elements and rotational parts of the Jacobians of an AnnData, under scHopfield's keys."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import complete_values, in_canonical_order
from stabdask.compat.memory import refuse_memory
from stabdask.compat.schopfield.cells import (
    FittedCells,
    backend_for,
    compute_cells,
    open_fitted_cells,
    warn_about,
    worker_count,
)
from stabdask.compat.schopfield.storage import EIGENVALUES, EIGENVECTORS, read_eigenvalues
from stabdask.compat.schopfield.vectors import fill_vectors, vector_block_cells
from stabdask.errors import MissingKeyError, UsageError
from stabdask.fields.base import Index
from stabdask.kernels.eig import canonical_order
from stabdask.runs.block import compute_block
from stabdask.runs.options import Options, make_options

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "compute_jacobian_elements",
    "compute_jacobian_stats",
    "compute_jacobians",
    "compute_rotational_part",
]

_SOLVED_CELLS, _GPU_CELLS = 128, 8192
_STAT_CELLS = 1024


def compute_jacobians(
    adata: AnnData,
    spliced_key: str = "Ms",
    degradation_key: str = "gamma",
    cluster_key: str = "cell_type",
    compute_eigenvectors: bool = False,
    device: str = "cpu",
    n_jobs: int | None = -1,
    copy: bool = False,
    *,
    activation: str = "fitted",
) -> AnnData | None:
    """Compute all eigenvalues of the Jacobian of every cell, and all its right eigenvectors on request.

    Parameters
    ----------
    adata
        With a fit of scHopfield.
    spliced_key
        Layer with the expression.
    degradation_key
        Column of `var` with degradation rates, for clusters without a ``gamma_<cluster>``.
    cluster_key
        Column of `obs` with cluster labels.
    compute_eigenvectors
        Whether to compute the eigenvectors too: 8 bytes x cells x genes x genes.
    device
        ``"cpu"`` or ``"cuda"``.
    n_jobs
        Number of threads; -1 for all cores.
    copy
        Change and return a copy, and leave `adata` alone.
    activation
        ``"fitted"`` for the Jacobian of the activation as fitted, whose two components switch; ``"single"``
        for that of its first component alone, which is what scHopfield computes.

    Returns
    -------
    anndata.AnnData or None
        The copy, if asked for. Set are ``obsm["jacobian_eigenvalues"]``, ``(cell, gene used)`` complex64, 1/time,
        in canonical order (real part descending, then imaginary part descending), and with eigenvectors
        ``uns["jacobian_eigenvectors_temp"]["data"]``, ``(cell, gene, mode)`` complex64 of unit 2-norm: column m
        belongs to eigenvalue m. NaN for cells that cannot be computed, which a warning counts.

    Raises
    ------
    MissingKeyError
        If a layer, a column or the parameters of a cluster are missing.
    InputError
        If expression or parameters are out of their domain.
    MemoryBudgetError
        If the result is larger than the memory available.
    UsageError
        If `device`, `n_jobs` or `activation` has an impossible value.

    Examples
    --------
    A toggle switch halfway between its states, and in one of them.

    >>> import anndata, numpy as np, pandas as pd, stabdask as sd
    >>> adata = anndata.AnnData(
    ...     obs=pd.DataFrame({"cell_type": ["all", "all"]}, index=["middle", "state"]),
    ...     var=pd.DataFrame(index=["A", "B"]),
    ...     layers={"Ms": np.array([[1.625, 1.625], [2.979, 0.017]])})
    >>> sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0
    ... ).to_anndata(adata)
    >>> compute_jacobians(adata)
    >>> adata.obsm["jacobian_eigenvalues"].real.round(2)
    array([[-0.57, -2.73],
           [-2.92, -3.  ]], dtype=float32)
    """
    n_threads, backend = worker_count(n_jobs), backend_for(device)
    cells = open_fitted_cells(
        adata,
        spliced_key=spliced_key,
        degradation_key=degradation_key,
        cluster_key=cluster_key,
        activation=activation,
    )
    n_cells, n_genes = len(cells), cells.field.n_genes
    _refuse_large(n_cells, n_genes, compute_eigenvectors)
    options = make_options(
        cells.field,
        quantities=(),
        modes=max(1, cells.field.largest_core),
        vectors="right" if compute_eigenvectors else "none",
        backend=backend,
    )
    values = np.full((n_cells, n_genes), complex(np.nan, np.nan), dtype=np.complex64)
    vectors = np.zeros((n_cells, n_genes, n_genes), dtype=np.complex64) if compute_eigenvectors else None
    done = compute_cells(
        cells,
        partial(_solve, options=options, values=values, vectors=vectors),
        n_threads=1 if options.on_gpu else n_threads,
        block_cells=_block_cells(cells, options),
    )
    if vectors is not None:
        vectors[~done] = complex(np.nan, np.nan)
    warn_about(cells, done, "eigenvalues")
    target = adata.copy() if copy else adata
    target.obsm[EIGENVALUES] = values
    # Vectors of an earlier call would not belong to these eigenvalues.
    target.uns.pop(EIGENVECTORS, None)
    if vectors is not None:
        target.uns[EIGENVECTORS] = {"data": vectors}
    return target if copy else None


def _block_cells(cells: FittedCells, options: Options) -> int:
    """Return how many cells to solve together: few enough to share among threads, or to hold their vectors."""
    if options.vectors != "none":
        return vector_block_cells(cells.field)
    return _GPU_CELLS if options.on_gpu else _SOLVED_CELLS


def _refuse_large(n_cells: int, n_genes: int, with_vectors: bool) -> None:
    per_cell = 8 * n_genes * (n_genes + 1 if with_vectors else 1)
    refuse_memory(
        n_cells * per_cell,
        f"{'eigenvectors' if with_vectors else 'eigenvalues'} of {n_cells:,} cells x {n_genes:,} genes",
        "use stabdask.run"
        + ("(..., vectors='right', modes=10)" if with_vectors else "")
        + ", which writes cores and lifts to a store on disk, or fewer cells",
    )


def _solve(
    cells: FittedCells,
    rows: Index,
    *,
    options: Options,
    values: npt.NDArray[np.complex64],
    vectors: npt.NDArray[np.complex64] | None,
) -> npt.NDArray[np.bool_]:
    """Fill the eigenvalues, and eigenvectors if wanted, of some cells of one cluster."""
    field, codes = cells.field, cells.codes[rows]
    out = compute_block(cells.block(rows), codes, field, options, cells=cells.names[rows])
    # By gene: the k-th active regulator has the k-th eigenvalue of the core, every other gene its own.
    by_gene = complete_values(
        out["eigenvalue"],
        out["active"],
        codes,
        degradation=np.stack([p.gamma for p in field.parameters]),
        regulator_index=field.regulator_index,
    ).astype(np.complex64)
    values[rows] = in_canonical_order(by_gene)
    done = np.asarray(~np.isnan(by_gene.real).any(axis=1))
    if vectors is not None:
        order = canonical_order(by_gene)
        own = np.zeros(by_gene.shape, dtype=bool)
        own[:, field.regulator_index] = out["active"] == 1
        fill_vectors(vectors, rows[done], order[done], own[done], out["right_vector"][done])
    return done


def compute_jacobian_stats(
    adata: AnnData, filename: str | Path | None = None, store_in_obs: bool = True, copy: bool = False
) -> AnnData | None:
    """Summarize the eigenvalues of every cell in columns of `obs`.

    Parameters
    ----------
    adata
        With ``obsm["jacobian_eigenvalues"]``, in any order along its second axis.
    filename
        Written by `save_jacobians`: where to read the eigenvalues if `adata` has none.
    store_in_obs
        Whether to set the columns; otherwise the eigenvalues are only checked.
    copy
        Change and return a copy, and leave `adata` alone.

    Returns
    -------
    anndata.AnnData or None
        The copy, if asked for. Columns set: ``jacobian_eig1_real`` and ``jacobian_eig1_imag`` (the leading
        eigenvalue: largest real part, then largest imaginary part), ``jacobian_leading_real`` (its real part),
        ``jacobian_trace`` (sum of real parts), float32, 1/time, NaN for a cell without a spectrum;
        ``jacobian_positive_evals`` and ``jacobian_negative_evals`` (how many real parts are above and below 0),
        int64, -1 for a cell without a spectrum.

    Raises
    ------
    MissingKeyError
        If there are no eigenvalues and no `filename`.
    MissingFileError, InputError
        If the file is not there, or does not fit `adata`.
    """
    if EIGENVALUES in adata.obsm:
        values = np.asarray(adata.obsm[EIGENVALUES])
    elif filename is not None:
        values = read_eigenvalues(filename, adata.n_obs)
    else:
        raise MissingKeyError(
            f"no {EIGENVALUES!r} in obsm of the AnnData; run compute_jacobians first, or give filename="
        )
    target = adata.copy() if copy else adata
    if store_in_obs:
        for name, column in _stats(values).items():
            target.obs[name] = column
    return target if copy else None


def _stats(values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    n_cells = len(values)
    leading = np.empty(n_cells, dtype=values.dtype)
    trace = np.empty(n_cells)
    counts = np.empty((2, n_cells), dtype=np.int64)
    for first in range(0, n_cells, _STAT_CELLS):
        rows = slice(first, first + _STAT_CELLS)
        block = values[rows]
        real = block.real
        missing = np.isnan(real).any(axis=1)
        top = np.where(real == real.max(axis=1, keepdims=True), block.imag, -np.inf).argmax(axis=1)
        leading[rows] = np.where(missing, complex(np.nan, np.nan), block[np.arange(len(block)), top])
        trace[rows] = real.sum(axis=1, dtype=np.float64)
        counts[0, rows] = np.where(missing, -1, (real > 0).sum(axis=1))
        counts[1, rows] = np.where(missing, -1, (real < 0).sum(axis=1))
    return {
        "jacobian_eig1_real": leading.real.astype(np.float32),
        "jacobian_eig1_imag": leading.imag.astype(np.float32),
        "jacobian_leading_real": leading.real.astype(np.float32),
        "jacobian_positive_evals": counts[0],
        "jacobian_negative_evals": counts[1],
        "jacobian_trace": trace.astype(np.float32),
    }


def compute_jacobian_elements(
    adata: AnnData,
    gene_pairs: Sequence[tuple[str, str]],
    spliced_key: str = "Ms",
    degradation_key: str = "gamma",
    cluster_key: str = "cell_type",
    device: str = "cpu",
    store_in_obs: bool = True,
    copy: bool = False,
    *,
    activation: str = "fitted",
) -> AnnData | None:
    """Compute elements J[i, j] = d(dx_i/dt)/dx_j of the Jacobian of every cell.

    Parameters
    ----------
    adata, spliced_key, degradation_key, cluster_key, device, copy, activation
        See `compute_jacobians`.
    gene_pairs
        (effector i, regulator j) names of genes.
    store_in_obs
        Whether to set the columns; otherwise the elements are computed and dropped, which checks the input.

    Returns
    -------
    anndata.AnnData or None
        The copy, if asked for. Set are ``obs["jacobian_df_<i>_dx_<j>"]``, float32, 1/time; NaN for a cell that
        cannot be computed.

    Raises
    ------
    MissingKeyError
        If a gene is not in the fit, or anything else is missing that `compute_jacobians` needs.
    InputError, UsageError
        See `compute_jacobians`.
    """
    backend = backend_for(device)
    # An element needs the parameters of its two genes alone.
    cells = open_fitted_cells(
        adata,
        spliced_key=spliced_key,
        degradation_key=degradation_key,
        cluster_key=cluster_key,
        activation=activation,
        genes=_genes_of(gene_pairs) or None,
    )
    options = make_options(cells.field, spectrum="none", quantities=(), elements=gene_pairs, backend=backend)
    values = np.full((len(cells), len(options.elements)), np.nan, dtype=np.float32)
    done = compute_cells(
        cells, partial(_closed_form, options=options, name="element", out=values), n_threads=1
    )
    warn_about(cells, done, "elements")
    target = adata.copy() if copy else adata
    if store_in_obs:
        for number, (effector, regulator) in enumerate(options.elements):
            target.obs[f"jacobian_df_{effector}_dx_{regulator}"] = values[:, number]
    return target if copy else None


def _genes_of(gene_pairs: Sequence[tuple[str, str]]) -> list[str]:
    if isinstance(gene_pairs, str):
        raise UsageError(f"gene_pairs={gene_pairs!r}; expected a sequence of (effector, regulator) pairs")
    genes: dict[str, None] = {}
    for pair in gene_pairs:
        if isinstance(pair, str) or not isinstance(pair, Sized) or len(pair) != 2:
            raise UsageError(f"gene pair {pair!r}; expected an (effector, regulator) pair of gene names")
        genes |= dict.fromkeys(str(gene) for gene in pair)
    return list(genes)


def compute_rotational_part(
    adata: AnnData,
    spliced_key: str = "Ms",
    degradation_key: str = "gamma",
    cluster_key: str = "cell_type",
    device: str = "cpu",
    copy: bool = False,
    *,
    activation: str = "fitted",
) -> AnnData | None:
    """Compute the Frobenius norm of the antisymmetric part (J - J^T)/2 of the Jacobian of every cell.

    Parameters
    ----------
    adata, spliced_key, degradation_key, cluster_key, device, copy, activation
        See `compute_jacobians`.

    Returns
    -------
    anndata.AnnData or None
        The copy, if asked for. Set is ``obs["jacobian_rotational"]``, float32, 1/time; NaN for a cell that
        cannot be computed.

    Raises
    ------
    MissingKeyError, InputError, UsageError
        See `compute_jacobians`.
    """
    backend = backend_for(device)
    cells = open_fitted_cells(
        adata,
        spliced_key=spliced_key,
        degradation_key=degradation_key,
        cluster_key=cluster_key,
        activation=activation,
    )
    options = make_options(cells.field, spectrum="none", quantities=("rotational_norm",), backend=backend)
    values = np.full(len(cells), np.nan, dtype=np.float32)
    done = compute_cells(
        cells, partial(_closed_form, options=options, name="rotational_norm", out=values), n_threads=1
    )
    warn_about(cells, done, "rotational part")
    target = adata.copy() if copy else adata
    target.obs["jacobian_rotational"] = values
    return target if copy else None


def _closed_form(
    cells: FittedCells, rows: Index, *, options: Options, name: str, out: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Fill what needs no eigenvalues for some cells of one cluster."""
    result = compute_block(
        cells.block(rows), cells.codes[rows], cells.field, options, cells=cells.names[rows]
    )
    if name in result:
        out[rows] = result[name]
    return np.asarray(result["status"] == 0)
