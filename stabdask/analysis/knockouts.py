"""Spectra of cells with genes removed from the network: exactly, and to first order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Field, Index, Linearization
from stabdask.kernels.arrays import to_host
from stabdask.schema import Status

__all__ = ["KnockoutSpectra", "Knockouts", "predict_shifts", "solve_knockouts"]

_BATCH_BYTES = 32 * 2**20
"""Cores that are solved together."""
_MOST_CORES = 4096

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Knockouts:
    """Genes, or pairs of genes, to remove.

    Attributes
    ----------
    names
        Of each knockout, such as ``"GATA1"`` or ``"GATA1+GATA2"``.
    genes
        ``(knockout, order)`` positions in the field's genes.
    regulators
        ``(knockout, order)`` their positions in the field's regulators; -1 for a gene that regulates nowhere.
    """

    names: tuple[str, ...]
    genes: Index
    regulators: Index

    @classmethod
    def of(cls, field: Field, genes: Index) -> Knockouts:
        """Return the knockouts of `genes` ``(knockout, order)``, positions in the genes of the field."""
        place = np.full(field.n_genes, -1, dtype=np.intp)
        place[field.regulator_index] = np.arange(len(field.regulator_index))
        names = tuple("+".join(str(field.genes[gene]) for gene in row) for row in genes)
        return cls(names, genes, place[genes])

    @property
    def order(self) -> int:
        """How many genes are removed at once."""
        return int(self.genes.shape[1])


@dataclass(frozen=True)
class KnockoutSpectra:
    """What is read off the spectra of cells, as they are and without genes.

    Attributes
    ----------
    abscissa
        ``(cell,)`` largest real part over the complete spectrum, 1/time; NaN where the solver failed.
    unstable_count
        ``(cell,)`` eigenvalues above the tolerance; -1 where the solver failed.
    knockout_abscissa, knockout_unstable_count
        ``(cell, knockout)`` the same without the genes; NaN and -1 also where it was not asked for.
    status
        ``(cell,)`` codes of `stabdask.schema.Status`: of the cell itself, or the first that was not OK among its
        knockouts.
    """

    abscissa: Array
    unstable_count: npt.NDArray[np.int32]
    knockout_abscissa: Array
    knockout_unstable_count: npt.NDArray[np.int32]
    status: npt.NDArray[np.uint8]


def solve_knockouts(
    linear: Linearization,
    field: Field,
    cluster: int,
    knockouts: Knockouts,
    asked: Flags,
    *,
    tolerance: float,
    dtype: str,
    backend: str,
) -> KnockoutSpectra:
    """Return spectral abscissas and unstable counts of cells of one cluster, as they are and without genes.

    Without a gene, the Jacobian is that of all others: its row and its column are gone, and so is its own eigenvalue.
    Where the gene is in the core of the cell, a principal submatrix of the core is solved. Where it is not, the rest of
    the spectrum stays as it is, and nothing has to be solved.

    Parameters
    ----------
    linear
        The linearization of the cells.
    field, cluster
        The field, and the number of the cluster whose parameters the cells have.
    knockouts
        What to remove.
    asked
        ``(cell, knockout)``: what to solve.
    tolerance
        Real parts above this, in 1/time, count as unstable.
    dtype, backend
        Of the eigensolver; see `stabdask.kernels.eig.eig`.

    Returns
    -------
    KnockoutSpectra
    """
    order, n_regulators = knockouts.order, linear.active.shape[1]
    active = _active(linear, knockouts)
    # Of what is removed, only what is in the core of the cell makes a matrix of its own.
    removed = np.sort(np.where(active, knockouts.regulators, -1), axis=2) + 1
    digits = (n_regulators + 1) ** np.arange(order, dtype=np.int64)[::-1]
    n_cells, stride = len(active), (n_regulators + 1) ** order
    own = np.arange(n_cells, dtype=np.int64) * stride
    keys = own[:, None] + removed @ digits
    wanted, place = np.unique(np.concatenate([own, keys[asked]]), return_inverse=True)
    cells = (wanted // stride).astype(np.intp)
    taken = (wanted % stride)[:, None] // digits % (n_regulators + 1) - 1
    top, above, codes = _solve_cores(linear, cells, taken, tolerance, dtype, backend)
    leading, outside = _outside_core(linear, field, cluster, knockouts, active, tolerance)

    abscissa = np.maximum(top[place[:n_cells]], linear.rest_leading()[:, 0])
    counts = above[place[:n_cells]] + linear.rest_counts(tolerance)[0]
    counts = np.where(np.isnan(abscissa), -1, counts)
    theirs = np.full(asked.shape, np.nan)
    theirs[asked] = np.maximum(top[place[n_cells:]], leading[asked])
    their_counts = np.full(asked.shape, -1, dtype=np.int32)
    their_counts[asked] = above[place[n_cells:]] + outside[asked]
    their_counts[np.isnan(theirs)] = -1
    return KnockoutSpectra(
        abscissa=abscissa,
        unstable_count=counts.astype(np.int32),
        knockout_abscissa=theirs,
        knockout_unstable_count=their_counts,
        status=_cell_status(codes, cells, place[:n_cells]),
    )


def _active(linear: Linearization, knockouts: Knockouts) -> Flags:
    """Return which of the genes removed are in the core of each cell, ``(cell, knockout, order)``."""
    # A last column for genes that regulate nowhere.
    none = np.zeros((len(linear.active), 1), dtype=bool)
    found: Flags = np.concatenate([linear.active, none], axis=1)[:, knockouts.regulators]
    return found


def _solve_cores(
    linear: Linearization, cells: Index, taken: Index, tolerance: float, dtype: str, backend: str
) -> tuple[Array, Index, npt.NDArray[np.uint8]]:
    """Return the largest real part, the number above the tolerance, and the status of cores without `taken`.

    `taken` is ``(core, order)``, positions of regulators, -1 for none. Of no matrix at all, the largest is -inf.
    """
    sizes = linear.sizes[cells] - (taken >= 0).sum(axis=1)
    # Cores of similar size go together: little padding.
    by_size = np.argsort(sizes, kind="stable")
    n_regulators = linear.active.shape[1]
    step = max(1, min(_MOST_CORES, _BATCH_BYTES // (16 * max(1, n_regulators) ** 2)))
    top, above = np.full(len(cells), -np.inf), np.zeros(len(cells), dtype=np.intp)
    status = np.full(len(cells), Status.OK, dtype=np.uint8)
    for first in range(0, len(cells), step):
        part = by_size[first : first + step]
        without = np.zeros((len(part), n_regulators + 1), dtype=bool)
        without[np.arange(len(part))[:, None], taken[part]] = True
        result = linear.solve_without(cells[part], without[:, :-1], dtype=dtype, backend=backend)
        real = to_host(result.eigenvalues).real.astype(np.float64)
        past = np.arange(real.shape[1]) >= sizes[part, None]
        # NaN is kept within a core: what was not found is not taken for what is not there.
        top[part] = np.where(past, -np.inf, real).max(axis=1, initial=-np.inf)
        above[part] = (real > tolerance).sum(axis=1)
        status[part] = result.status
    return top, above, status


def _outside_core(
    linear: Linearization,
    field: Field,
    cluster: int,
    knockouts: Knockouts,
    active: Flags,
    tolerance: float,
) -> tuple[Array, Index]:
    """Return the largest eigenvalue outside the core, and how many are above the tolerance, without the genes removed.

    Both are ``(cell, knockout)``; -inf where nothing is left outside the core.
    """
    shape = active.shape[:2]
    if field.whole_cores:
        return np.full(shape, -np.inf), np.zeros(shape, dtype=np.intp)
    own = field.rest_eigenvalues(cluster)
    counts = linear.rest_counts(tolerance)[0][:, None] - ((own[knockouts.genes] > tolerance) & ~active).sum(
        axis=2
    )
    # With as many genes removed as `order`, one of the first `order` + 1 is left.
    n_looked = knockouts.order + 1
    never = np.setdiff1d(np.arange(field.n_genes), field.regulator_index)
    never = never[np.argsort(-own[never], kind="stable")[:n_looked]]
    candidates = np.concatenate([field.regulator_index, never])
    descending = np.argsort(-own[candidates], kind="stable")
    outside = np.ones((shape[0], len(candidates) + 1), dtype=bool)
    outside[:, : len(field.regulator_index)] = ~linear.active
    # The one past the end is there for every cell: nothing is left, and the value is -inf.
    outside[:, :-1] = outside[:, :-1][:, descending]
    genes = np.append(candidates[descending], -1)
    values = np.append(own[candidates[descending]], -np.inf)
    leading = np.full(shape, -np.inf)
    for _ in range(n_looked):
        first = outside.argmax(axis=1)
        kept = (knockouts.genes[None] != genes[first, None, None]).all(axis=2)
        leading = np.where(kept, np.maximum(leading, values[first, None]), leading)
        outside[np.arange(shape[0]), np.minimum(first, len(candidates) - 1)] = False
    return leading, counts


def _cell_status(codes: npt.NDArray[np.uint8], cells: Index, own: Index) -> npt.NDArray[np.uint8]:
    """Return the status of each cell: its own, or of the first of its cores that has another than OK."""
    status = codes[own].copy()
    bad = np.flatnonzero(codes != Status.OK)[::-1]
    worst = np.zeros(len(own), dtype=np.uint8)
    worst[cells[bad]] = codes[bad]
    return np.where(status == Status.OK, worst, status).astype(np.uint8)


def predict_shifts(
    linear: Linearization,
    field: Field,
    cluster: int,
    knockouts: Knockouts,
    *,
    dtype: str,
    backend: str,
) -> Array:
    """Return by how much each knockout moves the spectral abscissa to first order, ``(cell, knockout)``, 1/time.

    With right and left vectors x and y of the leading mode of the core C, a small change dC moves its eigenvalue by
    ``y^H dC x / (y^H x)``. Removing gene g takes all of its edges. Of those to and from other genes, dC is minus row g
    and minus column g of C, without the diagonal; as ``C x = lambda x`` and ``y^H C = lambda y^H``, both sums are
    ``(lambda - C_gg) p_g`` with the participation factor ``p_g = conj(y_g) x_g / (y^H x)``. That to itself is
    ``C_gg + gamma_g``: ::

        d lambda = -2 (lambda - C_gg) p_g - (C_gg + gamma_g) p_g

    The last term is what a mode of a gene that activates itself goes by. A field without a network has no gamma to tell
    from that edge, and no last term. Of a pair g, h it is the sum of both, plus the two edges between them, which would
    count twice: ``(conj(y_g) C_gh x_h + conj(y_h) C_hg x_g) / (y^H x)``.

    Parameters
    ----------
    linear, field, cluster, knockouts, dtype, backend
        As in `solve_knockouts`.

    Returns
    -------
    numpy.ndarray
        Real parts. 0 where a gene outside the core sets the abscissa: no edge moves its -gamma. NaN where the mode is
        defective (``y^H x = 0``), or the solver failed.
    """
    k, n_cells = max(1, field.largest_core), len(linear.active)
    positions = field.regulator_index
    diagonal = linear.elements(positions, positions)
    loops = 0.0 if field.whole_cores else diagonal - field.rest_eigenvalues(cluster)[positions]
    # What 2 (lambda - C_gg), and C_gg + gamma_g, add up to without the eigenvalue.
    known = loops - 2.0 * diagonal
    rest = linear.rest_leading()[:, 0]
    between = _weights_between(linear, field, cluster, knockouts)
    shifts = np.zeros((n_cells, len(knockouts.names)))
    step = max(1, min(_MOST_CORES, _BATCH_BYTES // (40 * k * k)))
    has_core = np.flatnonzero(linear.sizes > 0)
    for first in range(0, len(has_core), step):
        cells = has_core[first : first + step]
        found = linear.solve(cells, modes=1, vectors="both", dtype=dtype, backend=backend)
        assert found.right is not None
        assert found.left is not None
        value = to_host(found.eigenvalues)[:, :1].astype(np.complex128)
        shares = linear.participation(cells, found.right, found.left)[:, 0]
        single = -((2.0 * value + known[cells]) * shares).real
        # A last column for genes that regulate nowhere: no edge leaves them, and none of a mode of the core comes in.
        padded = np.concatenate([single, np.zeros((len(cells), 1))], axis=1)
        moved = padded[:, knockouts.regulators].sum(axis=2)
        if between is not None:
            effect, cause = linear.edge_factors(cells, found.right[:, 0], found.left[:, 0])
            moved += _mutual(effect, cause, between, cells, knockouts)
        moved[found.status == Status.DEFECTIVE] = np.nan
        leads = value.real >= rest[cells, None]
        shifts[cells] = np.where(leads | np.isnan(value.real), moved, 0.0)
    return shifts


def _weights_between(
    linear: Linearization, field: Field, cluster: int, knockouts: Knockouts
) -> tuple[Array, Array] | None:
    """Return the edges from the second to the first gene of each pair and back; None for knockouts of one gene.

    ``(1 or cell, knockout)``, in the units that `Linearization.edge_factors` go with; 0 from genes that regulate
    nowhere.
    """
    if knockouts.order == 1:
        return None
    g, h = knockouts.regulators.T
    if field.whole_cores:
        first, second = knockouts.genes.T
        return linear.elements(first, second), linear.elements(second, first)
    # A last row and column for genes that regulate nowhere.
    weights = np.pad(field.regulator_weights(cluster), (0, 1))
    return weights[g, h][None], weights[h, g][None]


def _mutual(
    effect: npt.NDArray[np.complex128],
    cause: npt.NDArray[np.complex128],
    between: tuple[Array, Array],
    cells: Index,
    knockouts: Knockouts,
) -> Array:
    """Return what the edges between the genes of pairs give to the leading mode, ``(len(cells), knockout)``."""
    g, h = knockouts.regulators.T
    # Of a gene that regulates nowhere, -1, any component will do: no edge has a weight.
    to_g, to_h = (weights if len(weights) == 1 else weights[cells] for weights in between)
    given = effect[:, g] * to_g * cause[:, h] + effect[:, h] * to_h * cause[:, g]
    return np.asarray(given.real, dtype=np.float64)
