"""An AnnData with a fit of scHopfield as a field and blocks of cells, and how the blocks are computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stabdask.errors import (
    InputError,
    MissingKeyError,
    StabdaskWarning,
    UsageError,
    near_misses,
)
from stabdask.fields.base import Index
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.parameter_source import AnnDataSource
from stabdask.fields.schopfield import read_schopfield, used_genes
from stabdask.kernels.machine import cpu_count

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "FittedCells",
    "backend_for",
    "compute_cells",
    "open_fitted_cells",
    "warn_about",
    "worker_count",
]

_BLOCK_CELLS = 1024


@dataclass(frozen=True)
class FittedCells:
    """Cells of an AnnData and the field that was fitted to them.

    Attributes
    ----------
    field
        Over the genes used, for the clusters that have cells.
    columns
        Positions of the field's genes in the AnnData.
    codes
        ``(cell,)`` numbers of clusters of the field, -1 for a cell without a label.
    names
        ``(cell,)`` for messages.
    expression
        ``(cell, gene of the AnnData)``, dense or CSR.
    flat_at_zero
        Whether no expression means no slope, also for Hill exponents of 1 and below (as scHopfield has it).
    """

    field: HopfieldField
    columns: Index
    codes: npt.NDArray[np.int32]
    names: npt.NDArray[Any]
    expression: Any
    flat_at_zero: bool

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self, block_cells: int = _BLOCK_CELLS) -> Iterator[Index]:
        """Yield the positions of cells, some of one cluster at a time; cells without a label are left out."""
        for cluster in range(len(self.field.clusters)):
            rows = np.flatnonzero(self.codes == cluster)
            for first in range(0, len(rows), block_cells):
                yield rows[first : first + block_cells]

    def block(self, rows: Index) -> npt.NDArray[Any]:
        """Return the expression of cells of one cluster, ``(cell, gene of the field)``."""
        taken = self.expression[rows]
        x: npt.NDArray[Any] = taken.toarray() if sparse.issparse(taken) else taken
        if len(self.columns) < x.shape[1]:
            x = x[:, self.columns]
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        if self.flat_at_zero and len(rows):
            p = self.field.parameters[int(self.codes[rows[0]])]
            steep = p.regulators[p.hill.exponent[p.regulators] <= 1]
            if len(steep):
                # Slopes at the largest number there is are zero too.
                x = x.astype(np.float64)
                x[:, steep] = np.where(x[:, steep] == 0, np.finfo(np.float64).max, x[:, steep])
        return x


def open_fitted_cells(
    adata: AnnData,
    *,
    spliced_key: str,
    degradation_key: str,
    cluster_key: str,
    activation: str,
    genes: Sequence[str] | None = None,
) -> FittedCells:
    """Read what a Jacobian needs from an AnnData.

    Parameters
    ----------
    adata
        With a fit of scHopfield.
    spliced_key
        Layer with the expression.
    degradation_key
        Column of `var` for clusters without a ``gamma_<cluster>``.
    cluster_key
        Column of `obs` with cluster labels.
    activation
        ``"fitted"`` or ``"single"``: see `stabdask.fields.schopfield.read_schopfield`.
    genes
        The field of these alone; of all that are used if not given.

    Raises
    ------
    MissingKeyError
        If a layer, column or parameter is missing.
    InputError
        If there is nothing to compute, or a parameter or the layer is no good.
    """
    if activation not in ("fitted", "single"):
        raise UsageError(f"activation={activation!r}; expected 'fitted' or 'single'")
    if spliced_key not in adata.layers:
        hint = near_misses(spliced_key, adata.layers.keys(), noun="layers")
        raise MissingKeyError(f"no layer {spliced_key!r} in the AnnData; {hint}")
    labels, numbers = _labels(adata, cluster_key)
    source = AnnDataSource(adata)
    field = read_schopfield(
        source, clusters=labels, degradation_key=degradation_key, activation=activation, genes=genes
    )
    used = used_genes(source)
    if genes is not None:
        used = used & np.isin(source.genes, field.genes)
    lookup = np.asarray([*(field.cluster_number(label) for label in labels), -1], dtype=np.int32)
    return FittedCells(
        field=field,
        columns=np.flatnonzero(used),
        codes=lookup[numbers],
        names=np.asarray(adata.obs_names, dtype=object),
        expression=_expression(adata.layers[spliced_key], spliced_key),
        flat_at_zero=activation == "single",
    )


def cluster_column(adata: AnnData, cluster_key: str) -> Any:
    """Return the column of cluster labels.

    Raises
    ------
    MissingKeyError
        If there is none.
    """
    if cluster_key not in adata.obs:
        hint = near_misses(cluster_key, adata.obs.columns, noun="columns")
        raise MissingKeyError(f"no column {cluster_key!r} in obs of the AnnData; {hint}")
    return adata.obs[cluster_key]


def _labels(adata: AnnData, cluster_key: str) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Return the labels that cells have, as strings, and per cell the number of its label, -1 for none."""
    import pandas as pd

    numbers, found = pd.factorize(cluster_column(adata, cluster_key).to_numpy(dtype=object))
    # Labels of different types may read alike: 1 and "1" name the same parameters.
    texts = [str(label) for label in found]
    labels = list(dict.fromkeys(texts))
    if not labels:
        raise InputError(
            f"no cell has a label in obs[{cluster_key!r}]; expected the clusters that the model was fitted for"
        )
    lookup = np.asarray([*(labels.index(text) for text in texts), -1], dtype=np.intp)
    return labels, lookup[numbers]


def _expression(layer: Any, key: str) -> Any:
    if hasattr(layer, "to_memory"):
        layer = layer.to_memory()
    if hasattr(layer, "compute"):
        layer = layer.compute()
    layer = layer.tocsr() if sparse.issparse(layer) else np.asarray(layer)
    if layer.dtype.kind not in "fiub":
        raise InputError(f"layer {key!r} of the AnnData has dtype {layer.dtype}; expected numbers")
    return layer


def compute_cells(
    cells: FittedCells,
    compute: Callable[[FittedCells, Index], npt.NDArray[np.bool_]],
    *,
    n_threads: int,
    block_cells: int = _BLOCK_CELLS,
) -> npt.NDArray[np.bool_]:
    """Call ``compute(cells, rows)`` for blocks of cells, in threads; it returns which of them have a result.

    Returns
    -------
    numpy.ndarray
        ``(cell,)``: which cells have a result.
    """
    done = np.zeros(len(cells), dtype=bool)
    blocks = list(cells.blocks(block_cells))
    for number in range(len(cells.field.clusters)):
        cells.field.model(number)  # once, not once in each thread
    one = partial(compute, cells)
    if n_threads == 1 or len(blocks) < 2:
        results = map(one, blocks)
        for rows, found in zip(blocks, results, strict=True):
            done[rows] = found
        return done
    with ThreadPoolExecutor(min(n_threads, len(blocks))) as pool:
        try:
            for rows, found in zip(blocks, pool.map(one, blocks), strict=True):
                done[rows] = found
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def worker_count(n_jobs: int | None) -> int:
    """Return how many threads `n_jobs` means, as joblib counts: -1 is all cores, -2 all but one.

    Raises
    ------
    UsageError
        If it is 0 or no whole number.

    Examples
    --------
    >>> worker_count(3), worker_count(None)
    (3, 1)
    """
    if n_jobs is None:
        return 1
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int | np.integer) or n_jobs == 0:
        raise UsageError(f"n_jobs={n_jobs!r}; expected a number of threads, or -1 for all cores")
    return int(n_jobs) if n_jobs > 0 else max(1, cpu_count() + 1 + int(n_jobs))


def backend_for(device: str, *, stacklevel: int = 3) -> str:
    """Return the eigensolver backend for scHopfield's `device`; a warning says if there is no GPU.

    Raises
    ------
    UsageError
        If it is neither ``"cpu"`` nor ``"cuda"``.
    """
    if device == "cpu":
        return "auto"
    if device != "cuda":
        raise UsageError(
            f"device={device!r}; expected 'cpu' or 'cuda' (which of several GPUs is chosen with CUDA_VISIBLE_DEVICES)"
        )
    from stabdask.kernels import cuda

    problem = cuda.why_not()
    if problem is None:
        return "cuda"
    warnings.warn(
        f"device='cuda', but no GPU can be used here ({problem}); computing on the CPU",
        StabdaskWarning,
        stacklevel=stacklevel,
    )
    return "auto"


def warn_about(cells: FittedCells, done: npt.NDArray[np.bool_], result: str, *, stacklevel: int = 3) -> None:
    """Warn of cells without a result, by reason."""
    unlabelled = int((cells.codes < 0).sum())
    failed = int((~done).sum()) - unlabelled
    parts = []
    if unlabelled:
        parts.append(f"{unlabelled:,} without a cluster label")
    if failed:
        first = cells.names[np.flatnonzero(~done & (cells.codes >= 0))[0]]
        parts.append(
            f"{failed:,} with expression that is not finite or without convergence ({first!r} first)"
        )
    if parts:
        warnings.warn(
            f"{int((~done).sum()):,} of {len(cells):,} cells have no {result}: {' and '.join(parts)}; theirs are NaN",
            StabdaskWarning,
            stacklevel=stacklevel,
        )
