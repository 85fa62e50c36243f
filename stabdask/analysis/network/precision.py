"""A precision matrix that follows its covariance matrix through changes of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network import cell_changes
from stabdask.analysis.network.cell_changes import CellChange, Cells
from stabdask.analysis.network.checks import Array, gene_names, loadings, numbers, symmetric, variances
from stabdask.analysis.network.edges import partial_correlations
from stabdask.analysis.network.inverse_pair import DRIFT_TOLERANCE, InversePair
from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.shrinkage import shrink
from stabdask.errors import InputError, NotPositiveDefiniteError, UsageError
from stabdask.kernels.lowrank import mirror

__all__ = ["Change", "PrecisionMatrix"]


class Change(NamedTuple):
    """One entry of `PrecisionMatrix.history`."""

    operation: str
    """The method that was called."""
    rank: int
    """Of the change."""
    path: str
    """``"low rank"``, or ``"direct"`` where the matrix was inverted from scratch."""
    probe: float
    """``max |Theta Sigma z - z|`` after it."""
    refactorized: bool
    """Whether the probe had drifted, and Theta was computed anew from Sigma for that."""


class PrecisionMatrix:
    """The inverse Theta of a covariance matrix Sigma of genes, which changes with it.

    Make one with `from_covariance` or `from_moments`. A change of rank d costs O(n^2 d) instead of the O(n^3) of an
    inversion (Sherman-Morrison-Woodbury [1]_); from a rank on, measured on each machine, it is inverted from
    scratch, and `history` says which was done. Either way gives the same up to rounding. After each change Theta
    Sigma is applied to two fixed vectors; where that has drifted from them, Theta is computed anew from Sigma
    (`n_refactorizations` counts).

    An error in a change leaves everything as it was, but for rounding errors of many changes that have made Sigma
    singular: Theta is NaN from then on, and the message says so.

    References
    ----------
    .. [1] Hager 1989, Updating the inverse of a matrix, SIAM Review 31(2), 221-239.

    Examples
    --------
    >>> import numpy as np
    >>> precision = PrecisionMatrix.from_covariance(np.eye(2), genes=["A", "B"])
    >>> precision.update(np.array([[1.0], [1.0]]))
    >>> precision.partial_correlations()
    array([[1. , 0.5],
           [0.5, 1. ]])
    """

    def __init__(
        self,
        sigma: npt.ArrayLike,
        *,
        genes: Sequence[str] | npt.NDArray[Any] | None = None,
        cells: Cells | None = None,
        amount: float = 0.0,
        drift_tolerance: float = DRIFT_TOLERANCE,
        crossover: float | None = None,
    ) -> None:
        matrix = symmetric(sigma, "the covariance matrix", genes)
        self._genes = gene_names(genes, len(matrix))
        variances(matrix, self._genes)
        self._pair = InversePair(matrix, drift_tolerance=drift_tolerance, crossover=crossover)
        self._cells, self._amount = cells, amount
        self._history: list[Change] = []

    def __repr__(self) -> str:
        shrunk = f", shrunk by {self._amount:.3g}" if self._amount else ""
        n = len(self._history)
        changed = f", {n:,} change{'s' if n != 1 else ''}" if n else ""
        return f"PrecisionMatrix({len(self._genes):,} genes{shrunk}{changed})"

    @classmethod
    def from_covariance(
        cls,
        sigma: npt.ArrayLike,
        genes: Sequence[str] | npt.NDArray[Any] | None = None,
        *,
        drift_tolerance: float = DRIFT_TOLERANCE,
        crossover: float | None = None,
    ) -> PrecisionMatrix:
        """Invert a covariance matrix.

        Parameters
        ----------
        sigma
            ``(gene, gene)`` symmetric positive definite, in squared units of expression.
        genes
            Names, all different; positions if not given.
        drift_tolerance
            How far ``Theta Sigma z`` may be from z before Theta is computed anew (or ten times as far as it was after
            the inversion, if that is more).
        crossover
            The rank of a change, as a share of the genes, from which the matrix is inverted from scratch; measured
            if not given.

        Raises
        ------
        NotPositiveDefiniteError
            If it has eigenvalues that are not positive; the message gives the smallest.
        InputError
            If it is not square, symmetric and finite, a gene does not vary, or names do not match.

        Examples
        --------
        >>> PrecisionMatrix.from_covariance([[4.0]]).theta
        array([[0.25]])
        """
        return cls(sigma, genes=genes, drift_tolerance=drift_tolerance, crossover=crossover)

    @classmethod
    def from_moments(
        cls,
        moments: CoMoments,
        shrinkage: Literal["none", "fixed", "ledoit-wolf"] = "none",
        amount: float | None = None,
        *,
        drift_tolerance: float = DRIFT_TOLERANCE,
        crossover: float | None = None,
    ) -> PrecisionMatrix:
        """Invert the covariance matrix of cells, shrunk first if asked to.

        Parameters
        ----------
        moments
            `CoMoments` of the cells.
        shrinkage
            ``"none"``, ``"fixed"`` or ``"ledoit-wolf"``, see `shrink`.
        amount
            For ``"fixed"``, from 0 to 1.
        drift_tolerance, crossover
            See `from_covariance`.

        Raises
        ------
        NotPositiveDefiniteError
            If the matrix is singular, as it is without shrinkage for no more cells than genes.
        InputError
            As `from_covariance`.

        Notes
        -----
        Cells that are added or removed later leave the amount of shrinkage as it is here, also that of Ledoit and
        Wolf: for one that follows them, make another from merged moments.
        """
        sigma, found = shrink(moments, method=shrinkage, amount=amount)
        # Shrinkage toward mu I leaves the trace alone, so that it tells what the co-moment was divided by.
        trace = float(np.trace(sigma))
        divisor = float(np.trace(moments.comoment)) / trace if trace > 0 else float(moments.count)
        count = float(moments.count)
        mean = np.array(moments.mean, dtype=np.float64)
        cells = Cells(count, mean, float(round(count - divisor)))
        try:
            return cls(
                sigma,
                genes=moments.genes,
                cells=cells,
                amount=float(found),
                drift_tolerance=drift_tolerance,
                crossover=crossover,
            )
        except NotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(
                f"the covariance of {count:g} cells and {len(mean):,} genes, shrunk by {float(found):g}, "
                "has no inverse: "
                f"{error}; take shrinkage='ledoit-wolf', more cells or fewer genes"
            ) from error

    @property
    def genes(self) -> npt.NDArray[np.str_]:
        """Names ``(gene,)``."""
        return self._genes.copy()

    @property
    def theta(self) -> Array:
        """The precision matrix ``(gene, gene)``, symmetric, a copy; in inverse squared units of expression."""
        return mirror(self._pair.theta).copy(order="F")

    @property
    def sigma(self) -> Array:
        """The covariance matrix ``(gene, gene)``, symmetric, a copy; in squared units of expression."""
        return mirror(self._pair.sigma).copy(order="F")

    @property
    def logdet(self) -> float:
        """Logarithm of the determinant of Sigma; that of Theta is its negative."""
        return self._pair.logdet

    @property
    def cholesky(self) -> Array:
        """Lower Cholesky factor ``(gene, gene)`` of Sigma, a copy; computed when first asked for after a change."""
        return self._pair.cholesky().copy(order="F")

    @property
    def cells(self) -> Cells | None:
        """The number of cells and their mean, or None where it was made from a covariance matrix."""
        return self._cells

    @property
    def amount(self) -> float:
        """How much the covariance of cells is shrunk toward a multiple of the identity, from 0 to 1."""
        return self._amount

    @property
    def history(self) -> tuple[Change, ...]:
        """What has been done to it, change by change."""
        return tuple(self._history)

    @property
    def n_refactorizations(self) -> int:
        """How often Theta has been computed anew because it had drifted."""
        return self._pair.n_refactorizations

    def partial_correlations(self) -> Array:
        """Return partial correlations ``(gene, gene)``, see `partial_correlations`: undirected, and not causal."""
        return partial_correlations(mirror(self._pair.theta))

    def probe(self) -> float:
        """Return ``max |Theta Sigma z - z|`` over fixed vectors z of -1 and 1."""
        return self._pair.probe()

    def update(self, X: npt.ArrayLike) -> None:
        """Add ``X X^T`` to Sigma: new pathways, or whatever else varies in addition.

        Parameters
        ----------
        X
            ``(gene, d)`` loadings, or ``(gene,)``.

        Raises
        ------
        InputError
            If it does not have a row for each gene, or is not finite.
        """
        self._change("update", loadings(X, len(self._genes), "X"))

    def downdate(self, X: npt.ArrayLike) -> None:
        """Take ``X X^T`` away from Sigma.

        Parameters
        ----------
        X
            ``(gene, d)`` loadings, or ``(gene,)``.

        Raises
        ------
        NotPositiveDefiniteError
            If what is left is no covariance matrix with an inverse; the message gives its smallest eigenvalue.
        InputError
            As `update`.
        """
        self._change("downdate", loadings(X, len(self._genes), "X"), sign=-1)

    def rank_one(self, u: npt.ArrayLike, v: npt.ArrayLike | None = None) -> None:
        """Add ``u v^T`` to Sigma.

        Parameters
        ----------
        u
            ``(gene,)``.
        v
            ``(gene,)``, a multiple of u, also a negative one; u itself if not given.

        Raises
        ------
        NotPositiveDefiniteError
            As `downdate`, for a negative multiple.
        InputError
            If v is no multiple of u: the sum would not be symmetric.
        """
        left = loadings(u, len(self._genes), "u")
        right = left if v is None else loadings(v, len(self._genes), "v")
        if left.shape[1] != 1 or right.shape[1] != 1:
            raise InputError(
                f"u has {left.shape[1]} columns and v {right.shape[1]}; expected one vector each"
            )
        place = int(np.abs(left).argmax())
        factor = float(right[place, 0] / left[place, 0]) if left[place, 0] else 0.0
        off = float(np.abs(right - factor * left).max())
        if off > 1e-12 * float(np.abs(right).max()):
            raise InputError(
                f"v differs from a multiple of u by {off:.3g}; expected v = c u, as otherwise Sigma + u v^T is not "
                "symmetric; kernels.lowrank.sherman_morrison inverts such matrices"
            )
        self._change("rank_one", np.sqrt(abs(factor)) * left, sign=-1 if factor < 0 else 1)

    def add_cells(self, x: npt.ArrayLike, weight: float = 1.0) -> None:
        """Add cells to those that Sigma is the covariance of, the shift of the mean included.

        Parameters
        ----------
        x
            ``(cell, gene)`` expression, or ``(gene,)`` for one.
        weight
            Of each; 1 is that of a cell as in `from_moments`.

        Raises
        ------
        InputError
            If it was not made from moments, shapes do not match, or something is not finite.

        Notes
        -----
        The rank of the change is the number of cells. With shrinkage the multiple of the identity changes too, which
        is not of low rank: Sigma is exact then too, and Theta is computed from scratch.
        """
        cells, rows = self._cell_rows(x, weight)
        if len(rows):
            self._change_cells("add_cells", cell_changes.added(cells, rows, weight), 1)

    def remove_cells(self, x: npt.ArrayLike, weight: float = 1.0) -> None:
        """Remove cells from those that Sigma is the covariance of; the reverse of `add_cells`.

        Parameters
        ----------
        x
            ``(cell, gene)``, expression as it was when they were added.
        weight
            Of each, as it is now: factors of `forget` since then included.

        Raises
        ------
        NotPositiveDefiniteError
            If the rest has a covariance without an inverse, or the cells were not among them.
        InputError
            As `add_cells`, and if too few are left.
        """
        cells, rows = self._cell_rows(x, weight)
        if len(rows):
            self._change_cells("remove_cells", cell_changes.removed(cells, rows, weight), -1)

    def forget(self, factor: float) -> None:
        """Let what has been seen so far count less.

        Parameters
        ----------
        factor
            Above 0, at most 1. Made from moments, all weights of cells are multiplied by it (Sigma hardly changes,
            but cells added later count more); made from a covariance matrix, Sigma is.

        Raises
        ------
        UsageError
            If it is out of that range, or leaves too little weight.
        """
        if not 0 < factor <= 1:
            raise UsageError(f"factor={factor!r}; expected a number above 0 and at most 1")
        if self._cells is None:
            self._change("forget", np.zeros((len(self._genes), 0), order="F"), scale=float(factor))
        else:
            self._change_cells("forget", cell_changes.forgotten(self._cells, float(factor)), 1)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path | str:
        """Write it to a new Zarr group, which appears whole or not at all.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        """
        from stabdask.analysis.network.precision_storage import save

        return save(self, path, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | Path) -> PrecisionMatrix:
        """Open one written by `save`, with its history.

        Raises
        ------
        MissingFileError
            If there is none.
        DamagedStoreError
            If its parts contradict each other.
        """
        from stabdask.analysis.network.precision_storage import open_saved

        return open_saved(path)

    def _cell_rows(self, x: npt.ArrayLike, weight: float) -> tuple[Cells, Array]:
        if self._cells is None:
            raise InputError(
                "this precision matrix knows no cells: it was made from a covariance matrix; make it with "
                "from_moments, "
                "or use update and downdate"
            )
        if not (np.isfinite(weight) and weight > 0):
            raise UsageError(f"weight={weight!r}; expected a positive number")
        rows = np.atleast_2d(numbers(x, "the expression of cells"))
        if rows.ndim != 2 or rows.shape[1] != len(self._genes):
            raise InputError(f"cells have the shape {np.shape(x)}; expected (cell, {len(self._genes)})")
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise InputError(f"cell {bad} has expression that is NaN or infinite; leave such cells out")
        return self._cells, rows

    def _change_cells(self, operation: str, change: CellChange, sign: int) -> None:
        scale, columns, cells = change
        # Shrunk by a, Sigma = (1 - a) S + a tr(S)/G I: what is added to S adds to both terms.
        ridge = sign * self._amount * float((columns**2).sum()) / len(columns)
        kept = columns if self._amount == 0 else columns * np.sqrt(1.0 - self._amount)
        self._change(operation, kept, sign=sign, scale=scale, ridge=ridge)
        self._cells = cells

    def _change(
        self, operation: str, X: Array, *, sign: int = 1, scale: float = 1.0, ridge: float = 0.0
    ) -> None:
        done = self._pair.change(operation, X, sign=sign, scale=scale, ridge=ridge)
        self._history.append(Change(operation, X.shape[1], *done))
