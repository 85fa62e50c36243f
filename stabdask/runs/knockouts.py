"""`knockouts`: the stability of cells without one regulator, or two, on Dask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.knockouts import Knockouts, predict_shifts, solve_knockouts
from stabdask.atlas.sampling import sample_clusters
from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Field, Index, Linearization
from stabdask.kernels.threads import single_threaded_blas
from stabdask.runs.block import SKIPPED, finite_rows
from stabdask.runs.job import Job, prepare
from stabdask.runs.knockout_results import empty_knockouts, label_knockouts
from stabdask.schema import Status

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

__all__ = ["knockouts"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_TASK_CORES = 2**13
"""Cores that a task solves, about: some tenths of a second, so that many workers share a sample of cells."""
_MOST_CELLS = 1024
_FEWEST_CELLS = 16


@dataclass(frozen=True)
class _Work:
    """What all tasks have in common."""

    knockouts: Knockouts
    columns: Index | None
    tolerance: float
    dtype: str
    backend: str


@dataclass(frozen=True)
class _Cells:
    """The cells of a task: numbers of their clusters in the field, of their labels, and their names."""

    model_codes: npt.NDArray[np.int32]
    label_codes: npt.NDArray[np.int32]
    names: npt.NDArray[Any]


def knockouts(
    cells: xr.Dataset,
    field: Field,
    *,
    regulators: Sequence[str] | None = None,
    order: int = 1,
    pairs: Sequence[tuple[str, str]] | None = None,
    screen: int | None = None,
    n_cells: int | None = None,
    seed: int = 0,
    missing_cluster: str = "error",
    tolerance: float = 0.0,
    dtype: str = "float64",
    backend: str = "auto",
    client: Client | None = None,
) -> xr.Dataset:
    """Compute the stability of cells without each of some genes, exactly.

    Without gene g, the Jacobian of a cell is that of all other genes: row g and column g are gone. For the core of the
    cell, which holds all of the spectrum that is not a mere -gamma, that is a principal submatrix; all of them are
    solved in batches. What is not computed is the state that the cell would move to: eigenvalues are those of the same
    cell with the gene taken out of the network.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    field
        From `stabdask.read_field`: a Hopfield field, or one over genes.
    regulators
        Genes to remove; all regulators of the field if not given.
    order
        1: one gene at a time. 2: all pairs of `regulators`.
    pairs
        Pairs of genes to remove, instead of `regulators` and `order`.
    screen
        Solve only this many knockouts of each cluster exactly: those with the largest absolute mean of the shift that
        is predicted to first order. The others are NaN and -1.
    n_cells
        Cells of each cluster, drawn at random; all if not given.
    seed
        Of the draw: same seed, same cells.
    missing_cluster
        ``"error"``, ``"skip"`` or ``"W_<cluster>"``: see `stabdask.runs.job.prepare`.
    tolerance
        Real parts above this, in 1/time, count as unstable.
    dtype, backend
        Of the eigensolver; as in `stabdask.stability`.
    client
        A Dask client whose workers compute; threads of this process if not given. The result does not depend on it.

    Returns
    -------
    xarray.Dataset
        Computed, in memory, with dimensions ``cell`` and ``knockout`` (``"GATA1"``, or ``"GATA1+GATA2"`` for a pair,
        whose genes are the coordinates ``gene_a`` and ``gene_b``):
        `knockout_abscissa` and `knockout_unstable_count`, `predicted_shift`; for each cell `abscissa` and
        `unstable_count` with all genes, and `status`: see their ``attrs["description"]``. A cell that cannot be
        computed has a status and NaN. ``cell_cluster(cell)`` and what was brought along from the atlas are
        coordinates. ``attrs`` has the options, with ``screen`` where some knockouts were left out.

    Raises
    ------
    UsageError
        If an option makes no sense, or the field has no genes to remove.
    MissingKeyError
        If the field has no such gene, or no parameters for a cluster of the cells.
    InputError
        If cells and field do not fit together.

    See Also
    --------
    stabdask.rank_knockouts : Which knockouts stabilize or destabilize each cluster.
    stabdask.driver_edges : Sensitivity to single edges.

    Notes
    -----
    Where a gene is not in the core of a cell (its activation is flat there, or it regulates nothing), all that changes
    is that its own -gamma is gone from the spectrum: nothing is solved. Of a pair of which one is in the core, the core
    is that of the one alone, solved once.

    `predicted_shift` follows from the participation factors p of the leading mode [1]_. Removing the edges of gene g is
    the change dC = -(row g and column g of the core C without the diagonal, and W_gg phi'_g = C_gg + gamma_g on it), so
    that to first order ``d lambda = y^H dC x / (y^H x) = -(2 (lambda - C_gg) + C_gg + gamma_g) p_g``; without the last
    two terms for a field without a network. A knockout is no small change: the prediction says what to look at, not
    what comes out. Above all, it knows nothing of the mode that leads once this one is gone.

    References
    ----------
    .. [1] Perez-Arriaga, Verghese & Schweppe (1982). Selective modal analysis with applications to electric power
       systems, part I. IEEE Transactions on Power Apparatus and Systems 101:3117-3125.

    Examples
    --------
    A toggle switch of A and B, whose saddle is unstable as long as both are there; C only follows.

    >>> import anndata, numpy as np, stabdask as sd
    >>> W = [[0.0, -4.0, 0.0], [-4.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B", "C"], W=W, gamma=[1.0, 1.0, 0.5], bias=4.0, threshold=1.0, exponent=2.0)
    >>> adata = anndata.AnnData(np.array([[1.379, 1.379, 1.0]]))
    >>> adata.var_names = ["A", "B", "C"]
    >>> ds = sd.knockouts(sd.open_cells(adata), field, regulators=["A", "B", "C"])
    >>> ds["abscissa"].values.round(2), ds["knockout_abscissa"].values.round(2)
    (array([0.31]), array([[-0.5 , -0.5 ,  0.31]]))
    """
    if not isinstance(field, Field):
        raise UsageError(
            f"field is a {type(field).__name__}; expected a Field, e.g. from stabdask.read_field"
        )
    reason = field.why_not("knockout")
    if reason is not None:
        raise UsageError(f"knockouts cannot be had of this {type(field).__name__}: {reason}")
    chosen = _chosen(field, regulators, order, pairs)
    _check_count("screen", screen, 1)
    _check_count("n_cells", n_cells, 1)
    if n_cells is not None:
        cells = sample_clusters(cells, n_cells, seed=seed)
    job = prepare(
        cells,
        field,
        missing_cluster=missing_cluster,
        quantities=["unstable_count"],
        tolerance=tolerance,
        dtype=dtype,
        backend=backend,
    )
    screened = screen is not None and screen < len(chosen.names)
    arrays = _compute(job, chosen, screen if screened else None, client)
    used: dict[str, Any] = {
        "order": chosen.order,
        "tolerance": job.spec.options.tolerance,
        "dtype": job.spec.options.dtype,
        "backend": job.spec.options.backend,
    }
    if n_cells is not None:
        used |= {"n_cells": int(n_cells), "seed": int(seed)}
    if screened:
        used |= {
            "screen": screen,
            "screened": f"of {len(chosen.names):,} knockouts the {screen:,} of each cluster with the largest absolute "
            "mean of predicted_shift were solved; the others are NaN and -1",
        }
    return label_knockouts(job, chosen, arrays, used)


def _check_count(name: str, value: object, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value!r}; expected a whole number, at least {least}, or None")


def _chosen(
    field: Field,
    regulators: Sequence[str] | None,
    order: int,
    pairs: Sequence[tuple[str, str]] | None,
) -> Knockouts:
    """Return what to remove, checked."""
    if order not in (1, 2) or isinstance(order, bool):
        raise UsageError(f"order={order!r}; expected 1, for single genes, or 2, for pairs")
    if pairs is not None:
        if regulators is not None:
            raise UsageError("regulators and pairs were both given; expected one of them")
        genes = _pair_positions(field, pairs)
    else:
        single = _positions(field, regulators)
        genes = (
            np.asarray(list(combinations(single, 2)), dtype=np.intp).reshape(-1, 2)
            if order == 2
            else np.asarray(single, dtype=np.intp)[:, None]
        )
    if not len(genes):
        raise UsageError(
            f"there is nothing to remove: {field.space}, and knockouts of order {genes.shape[1]}; expected at least "
            f"{genes.shape[1]} regulators"
        )
    if field.n_genes <= genes.shape[1]:
        raise UsageError(
            f"nothing is left of a field of {field.n_genes:,} genes without {genes.shape[1]}; expected more genes"
        )
    return Knockouts.of(field, genes)


def _positions(field: Field, names: Sequence[str] | None) -> list[int]:
    """Return the positions of genes, each once, in the order given."""
    if names is None:
        return [int(position) for position in field.regulator_index]
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray) or not len(names):
        raise UsageError(f"regulators={names!r}; expected a sequence of gene names, at least one")
    where = {str(gene): position for position, gene in enumerate(field.genes)}
    return list(dict.fromkeys(_position(field, where, name) for name in names))


def _pair_positions(field: Field, pairs: Sequence[tuple[str, str]]) -> Index:
    if isinstance(pairs, str) or not isinstance(pairs, Sequence | np.ndarray) or not len(pairs):
        raise UsageError(f"pairs={pairs!r}; expected a sequence of pairs of gene names, at least one")
    where = {str(gene): position for position, gene in enumerate(field.genes)}
    found: dict[frozenset[int], tuple[int, int]] = {}
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2:
            raise UsageError(f"pair {pair!r}; expected two gene names")
        first, second = (_position(field, where, name) for name in pair)
        if first == second:
            raise UsageError(f"pair {tuple(map(str, pair))} names a gene twice; expected two genes")
        found.setdefault(frozenset((first, second)), (first, second))
    return np.asarray(list(found.values()), dtype=np.intp)


def _position(field: Field, where: dict[str, int], name: object) -> int:
    if str(name) not in where:
        known = field.regulators.tolist()
        hint = near_misses(str(name), known, noun="regulators")
        raise MissingKeyError(f"gene {str(name)!r} to knock out is not in the field; {hint}")
    return where[str(name)]


def _compute(
    job: Job, chosen: Knockouts, screen: int | None, client: Client | None
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of all cells."""
    from dask.base import compute
    from dask.delayed import delayed

    options = job.spec.options
    work = delayed(_Work(chosen, job.columns, options.tolerance, options.dtype, options.backend))
    model = delayed(job.field, name=f"field-{job.field.fingerprint}", pure=True)
    # Of the atlas and the knockouts alone, so that results do not depend on workers.
    rows = int(np.clip(_TASK_CORES // len(chosen.names), _FEWEST_CELLS, _MOST_CELLS))
    expression = job.expression.rechunk({0: min(rows, max(job.expression.chunks[0])), 1: -1})
    blocks = expression.to_delayed()[:, 0]
    stops, names = np.cumsum(expression.chunks[0]), job.cell_names
    parts = []
    for stop, size, block in zip(stops, expression.chunks[0], blocks, strict=True):
        cut = slice(int(stop) - size, int(stop))
        parts.append((block, _Cells(job.model_codes[cut], job.label_codes[cut], names[cut])))
    shifts = [delayed(_predict)(block, some, model, work) for block, some in parts]
    solved: Any = None
    if screen is not None:
        sums = [
            delayed(_sums)(shift, some.label_codes, len(job.spec.labels))
            for (_, some), shift in zip(parts, shifts, strict=True)
        ]
        solved = delayed(_most_promising)(sums, screen)
    tasks = [
        delayed(_solve)(block, some, shift, solved, model, work)
        for (block, some), shift in zip(parts, shifts, strict=True)
    ]
    # A client computes a list of its own accord; `compute` takes what it is to compute one by one.
    found: Sequence[dict[str, npt.NDArray[Any]]] = (
        compute(*tasks, scheduler="threads") if client is None else client.compute(tasks, sync=True)
    )
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _clusters(
    block: npt.NDArray[Any], some: _Cells, field: Field, work: _Work
) -> Iterator[tuple[int, Index, Linearization]]:
    """Yield the number of each cluster of a block, its finite cells, and their linearization."""
    codes = some.model_codes
    for cluster in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero(codes == cluster)
        x = block[rows]
        if work.columns is not None:
            x = x[:, work.columns]
        finite = finite_rows(x)
        rows, x = rows[finite], x[finite]
        if len(rows):
            field.check_expression(x, int(cluster), some.names[rows])
            yield int(cluster), rows, field.linearize(x, int(cluster), dtype=work.dtype)


def _predict(block: npt.NDArray[Any], some: _Cells, field: Field, work: _Work) -> Array:
    """Return predicted shifts of the cells of a block, NaN for those that cannot be computed."""
    shifts = np.full((len(block), len(work.knockouts.names)), np.nan)
    with single_threaded_blas():
        for cluster, rows, linear in _clusters(block, some, field, work):
            shifts[rows] = predict_shifts(
                linear, field, cluster, work.knockouts, dtype=work.dtype, backend=work.backend
            )
    return shifts


def _sums(shifts: Array, labels: npt.NDArray[np.int32], n_labels: int) -> Array:
    """Return the sum of predicted shifts and how many there are, ``(2, label, knockout)``."""
    sums = np.zeros((2, n_labels, shifts.shape[1]))
    known = labels >= 0
    np.add.at(sums[0], labels[known], np.nan_to_num(shifts[known], nan=0.0))
    np.add.at(sums[1], labels[known], ~np.isnan(shifts[known]))
    return sums


def _most_promising(sums: Sequence[Array], screen: int) -> Flags:
    """Return which knockouts to solve in each cluster, ``(label, knockout)``: the largest mean predicted shifts."""
    total, counts = np.sum(sums, axis=0)
    # Of equal ones, the first.
    order = np.argsort(-np.abs(total) / np.maximum(counts, 1), axis=1, kind="stable")[:, :screen]
    solved = np.zeros(total.shape, dtype=bool)
    np.put_along_axis(solved, order, True, axis=1)
    return solved


def _solve(
    block: npt.NDArray[Any], some: _Cells, shifts: Array, solved: Flags | None, field: Field, work: _Work
) -> dict[str, npt.NDArray[Any]]:
    """Return all variables of the cells of a block."""
    out = empty_knockouts(len(block), len(work.knockouts.names))
    out["predicted_shift"] = shifts
    out["status"][:] = Status.NON_FINITE_INPUT
    out["status"][some.model_codes == SKIPPED] = Status.NO_MODEL
    with single_threaded_blas():
        for cluster, rows, linear in _clusters(block, some, field, work):
            asked = (
                np.ones((len(rows), len(work.knockouts.names)), dtype=bool)
                if solved is None
                else solved[some.label_codes[rows]]
            )
            found = solve_knockouts(
                linear,
                field,
                cluster,
                work.knockouts,
                asked,
                tolerance=work.tolerance,
                dtype=work.dtype,
                backend=work.backend,
            )
            for name, values in vars(found).items():
                out[name][rows] = values
    return out
