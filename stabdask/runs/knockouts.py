"""`knockouts`: the stability of cells without one regulator, or two, on Dask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.knockouts import Knockouts
from stabdask.atlas.sampling import sample_clusters
from stabdask.checks import refuse_asynchronous
from stabdask.errors import MemoryBudgetError, MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Field, Index
from stabdask.runs.job import prepare
from stabdask.runs.knockout_results import cell_bytes, label_knockouts
from stabdask.runs.knockout_tasks import compute_knockouts
from stabdask.sizes import bytes_hint, format_bytes, parse_memory

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

__all__ = ["knockouts"]


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
    memory: int | str | None = None,
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
        is predicted to first order. The others are NaN and -1. Cells are read twice then, to predict and to solve.
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
    memory
        What the results may take in this process, bytes or e.g. ``"4GB"``; what is available now if not given. They
        take 20 bytes for each cell and knockout, and 13 for each cell, whether solved or not.
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
    MemoryBudgetError
        If the results would not fit in `memory`; nothing has been computed then.
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
    refuse_asynchronous(client)
    if n_cells is not None:
        cells = sample_clusters(cells, n_cells, seed=seed)
    _check_memory(int(getattr(cells, "sizes", {}).get("cell", 0)), len(chosen.names), memory)
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
    arrays = compute_knockouts(job, chosen, screen if screened else None, client)
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


def _check_memory(n_cells: int, n_knockouts: int, memory: int | str | None) -> None:
    """Raise where the results would take more than `memory`, or than is available."""
    import psutil

    allowed = int(psutil.virtual_memory().available) if memory is None else parse_memory(memory)
    each = cell_bytes(n_knockouts)
    if n_cells * each <= allowed:
        return
    there = "are available" if memory is None else "are allowed by memory="
    fit = allowed // each
    cure = (
        f"{fit:,} cells would fit: draw some of each cluster with n_cells=, remove fewer genes with regulators= or "
        "pairs="
        if fit
        else "not one cell would fit: remove fewer genes with regulators= or pairs="
    )
    raise MemoryBudgetError(
        f"the results of {n_knockouts:,} knockouts in {n_cells:,} cells take {format_bytes(n_cells * each)} of memory, "
        f"and {format_bytes(allowed)} {there}{bytes_hint(memory)}; {cure}, or allow more with memory= (screen= spares "
        "time, no memory)"
    )


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
    return list(dict.fromkeys(_position(field, name) for name in names))


def _pair_positions(field: Field, pairs: Sequence[tuple[str, str]]) -> Index:
    if isinstance(pairs, str) or not isinstance(pairs, Sequence | np.ndarray) or not len(pairs):
        raise UsageError(f"pairs={pairs!r}; expected a sequence of pairs of gene names, at least one")
    found: dict[frozenset[int], tuple[int, int]] = {}
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2:
            raise UsageError(f"pair {pair!r}; expected two gene names")
        first, second = (_position(field, name) for name in pair)
        if first == second:
            raise UsageError(f"pair {tuple(map(str, pair))} names a gene twice; expected two genes")
        found.setdefault(frozenset((first, second)), (first, second))
    return np.asarray(list(found.values()), dtype=np.intp)


def _position(field: Field, name: object) -> int:
    position = field.gene_positions.get(str(name))
    if position is None:
        known = field.regulators.tolist()
        hint = near_misses(str(name), known, noun="regulators")
        raise MissingKeyError(f"gene {str(name)!r} to knock out is not in the field; {hint}")
    return position
