"""Co-moments of cells: what covariances are made of, in a form that can be added up and taken apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocks import block_sums
from stabdask.analysis.network.moment_checks import (
    check_missing,
    check_numbers,
    check_rest,
    check_same,
    check_same_genes,
    check_shapes,
    checked_genes,
    whole_number,
)
from stabdask.analysis.network.sums import Sums, joined, without
from stabdask.errors import InputError, StabdaskWarning

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CoMoments"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class CoMoments:
    """Number, mean and co-moments of cells.

    Co-moments of two sets of cells add up to those of both (``+``), and those of some cells can be taken away again
    (``-``); both are exact to rounding, whatever the order. No cells at all are the identity.

    Parameters
    ----------
    count
        Number of cells.
    mean
        ``(gene,)``, in the units of the expression; zero without cells.
    comoment
        ``(gene, gene)`` sum over cells of ``(x - mean)(x - mean)^T``, in units of the expression squared.
    genes
        Names of the genes, all different; their numbers if not given.
    third
        ``(gene,)`` sum over cells of ``|x - mean|^2 (x - mean)``, or None.
    fourth
        Sum over cells of ``|x - mean|^4``, or None. Ledoit-Wolf shrinkage needs it, and `third` keeps it when means
        change; both are there or none.
    n_skipped
        Cells that were left out because their expression is not finite.

    Raises
    ------
    InputError
        If shapes do not fit, names repeat, numbers are not finite, or the co-moments are not symmetric.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]])
    >>> moments = CoMoments.of(x[:2], ["A", "B"]) + CoMoments.of(x[2:], ["A", "B"])
    >>> moments.count, moments.mean.tolist()
    (3, [2.0, 4.0])
    >>> moments.covariance().tolist()
    [[4.0, 7.0], [7.0, 13.0]]
    >>> (moments - CoMoments.of(x[2:], ["A", "B"])).mean.tolist()
    [1.0, 2.0]
    """

    count: int
    mean: Array
    comoment: Array
    genes: npt.NDArray[np.str_]
    third: Array | None = None
    fourth: float | None = None
    n_skipped: int = 0

    def __init__(
        self,
        count: int,
        mean: npt.ArrayLike,
        comoment: npt.ArrayLike,
        genes: Sequence[str] | npt.NDArray[Any] | None = None,
        *,
        third: npt.ArrayLike | None = None,
        fourth: float | None = None,
        n_skipped: int = 0,
    ) -> None:
        sums = Sums(
            count=whole_number(count, "count"),
            mean=np.array(mean, dtype=np.float64),
            comoment=np.array(comoment, dtype=np.float64),
            third=None if third is None else np.array(third, dtype=np.float64),
            fourth=None if fourth is None else float(fourth),
        )
        check_shapes(sums)
        names = checked_genes(genes, len(sums.mean))
        check_numbers(sums, names)
        # To the last bit, so that everything made of them is.
        sums.comoment = (sums.comoment + sums.comoment.T) / 2
        self._fill(sums, names, whole_number(n_skipped, "n_skipped"))

    def _fill(self, sums: Sums, genes: npt.NDArray[np.str_], n_skipped: int) -> None:
        for name, value in {**vars(sums), "genes": genes, "n_skipped": n_skipped}.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    @classmethod
    def from_sums(cls, sums: Sums, genes: npt.NDArray[np.str_], *, n_skipped: int = 0) -> CoMoments:
        """Return the co-moments of sums that were just computed; `genes` is from `checked_genes`.

        Raises
        ------
        InputError
            If numbers overflowed.
        """
        finite = np.isfinite(sums.mean).all() and np.isfinite(np.diagonal(sums.comoment)).all()
        if not finite or not np.isfinite(0.0 if sums.fourth is None else sums.fourth):
            raise InputError(
                "the expression is finite, but sums of its powers are not: values above about 1e70 cannot be summed to "
                "the fourth power; rescale the expression"
            )
        constant = np.diagonal(sums.comoment) == 0
        if sums.comoment[constant].any():
            # Squares of less than 1e-162 are nothing, and so is what goes with them.
            sums.comoment = np.where(constant | constant[:, None], 0.0, sums.comoment)
        out = cls.__new__(cls)
        out._fill(sums, genes, n_skipped)
        return out

    @classmethod
    def empty(cls, genes: Sequence[str] | npt.NDArray[Any], *, fourth: bool = True) -> CoMoments:
        """Return the co-moments of no cells.

        Parameters
        ----------
        genes
            Names of the genes.
        fourth
            Whether sums of third and fourth order are kept.
        """
        names = checked_genes(genes, len(genes))
        return cls.from_sums(Sums.empty(len(names), fourth=fourth), names)

    @classmethod
    def of(
        cls,
        x: Any,
        genes: Sequence[str] | npt.NDArray[Any] | None = None,
        *,
        fourth: bool = True,
        missing: Literal["error", "skip"] = "error",
    ) -> CoMoments:
        """Return the co-moments of cells in memory.

        Parameters
        ----------
        x
            ``(cell, gene)`` expression: an array, or a SciPy sparse matrix, which is never made dense as a whole.
        genes
            Names of the columns; their numbers if not given.
        fourth
            Whether to keep what Ledoit-Wolf shrinkage needs, for about a percent of the time.
        missing
            What to do with cells that are not finite: ``"error"``, or ``"skip"``, which counts them.

        Raises
        ------
        InputError
            If `x` has no two dimensions, holds no real numbers, names do not fit, or a cell is not finite.

        Notes
        -----
        Dense cells are centered a slab at a time, on one of them and then on the mean of the slab, and multiplied by
        BLAS; sparse ones are not where under 5 % of their entries are stored, but for genes that are zero in less than
        half of the cells. A gene that does not vary has exactly no variance.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy import sparse
        >>> x = np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
        >>> moments = CoMoments.of(sparse.csr_array(x))
        >>> moments.mean.tolist(), moments.comoment.tolist()
        ([1.0, 1.0], [[6.0, 0.0], [0.0, 2.0]])
        """
        check_missing(missing)
        if hasattr(x, "__dask_graph__"):
            raise InputError("the cells are a Dask array; use CoMoments.from_cells(sd.open_cells(...))")
        sums, n_skipped = block_sums(x, fourth=fourth, skip=missing == "skip")
        return cls.from_sums(sums, checked_genes(genes, len(sums.mean)), n_skipped=n_skipped)

    @overload
    @staticmethod
    def from_cells(
        cells: xr.Dataset,
        by: None = None,
        *,
        client: Any = None,
        fourth: bool = True,
        missing: Literal["error", "skip"] = "error",
        gpu: bool = False,
    ) -> CoMoments: ...

    @overload
    @staticmethod
    def from_cells(
        cells: xr.Dataset,
        by: str,
        *,
        client: Any = None,
        fourth: bool = True,
        missing: Literal["error", "skip"] = "error",
        gpu: bool = False,
    ) -> dict[Any, CoMoments]: ...

    @staticmethod
    def from_cells(
        cells: xr.Dataset,
        by: str | None = None,
        *,
        client: Any = None,
        fourth: bool = True,
        missing: Literal["error", "skip"] = "error",
        gpu: bool = False,
    ) -> CoMoments | dict[Any, CoMoments]:
        """Return the co-moments of the cells of an atlas, in one pass over it, out of core.

        Parameters
        ----------
        cells
            From `stabdask.open_cells`: expression over genes, or coordinates over axes.
        by
            Label of cells, such as ``"cluster"``: co-moments for each of its values, in the same pass.
        client
            Client of a Dask cluster; without one, the threads of this process, or the scheduler that Dask is set to.
        fourth
            Whether to keep what Ledoit-Wolf shrinkage needs.
        missing
            What to do with cells whose expression is not finite: ``"error"``, or ``"skip"``, which counts them.
        gpu
            Whether to multiply on the GPU: of this process, or each worker's. Its last bits are others.

        Returns
        -------
        CoMoments or dict
            With `by`, a dict of co-moments by label, in the order of the labels; those that no cell has are left out.

        Raises
        ------
        InputError
            If the expression of a cell is not finite (the message names the first one), the cells have no label, or
            names of genes repeat.
        MissingKeyError
            If there is no such label, or no expression.
        MemoryBudgetError
            If one co-moment matrix for every label does not fit in memory twice, or in that of the GPU.
        BackendUnavailableError, GpuError
            If there is no GPU to use, or it fails.
        UsageError
            If `missing` is not known, the client is asynchronous, or the cells were persisted on a cluster.

        Notes
        -----
        The atlas is cut into at most 256 stretches, each walked block by block by one task. It holds a block, one slab
        of cells and one co-moment matrix for every label, and one more matrix; stretches are then added up pairwise.
        How the atlas is cut depends on its size and its labels alone, and BLAS works on one thread: the bits are the
        same whatever the workers, and however the atlas is cut into blocks.

        Examples
        --------
        >>> import anndata, numpy as np, stabdask as sd
        >>> adata = anndata.AnnData(np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]]))
        >>> adata.obs["state"] = ["a", "a", "b"]
        >>> moments = CoMoments.from_cells(sd.open_cells(adata, cluster_key="state"), by="cluster")
        >>> {label: (own.count, own.mean.tolist()) for label, own in moments.items()}
        {'a': (2, [1.0, 2.0]), 'b': (1, [5.0, 5.0])}
        """
        from stabdask.analysis.network.cell_moments import moments_of_cells

        check_missing(missing)
        return moments_of_cells(cells, by, client=client, fourth=fourth, missing=missing, gpu=gpu)

    def __repr__(self) -> str:
        return f"CoMoments({self.count:,} cells, {len(self.genes):,} genes)"

    @property
    def sums(self) -> Sums:
        """The sums, of which the arrays are not to be changed."""
        return Sums(self.count, self.mean, self.comoment, self.third, self.fourth)

    def merge(self, other: CoMoments) -> CoMoments:
        """Return the co-moments of the cells of both; ``a + b`` is the same.

        Sums of third and fourth order are kept where both have them.

        Raises
        ------
        InputError
            If the genes differ; the message names the first difference.

        References
        ----------
        Chan, Golub & LeVeque 1983, The American Statistician 37(3), 242-247.
        """
        check_same_genes(self.genes, other.genes)
        sums = joined(self.sums, other.sums)
        if self.fourth is None or other.fourth is None:
            sums = Sums(sums.count, sums.mean, sums.comoment, None, None)
        return CoMoments.from_sums(sums, self.genes, n_skipped=self.n_skipped + other.n_skipped)

    def __add__(self, other: object) -> CoMoments:
        return self.merge(other) if isinstance(other, CoMoments) else NotImplemented

    def __radd__(self, other: object) -> CoMoments:
        # What sum() starts with.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: object) -> CoMoments:
        return self.remove(other) if isinstance(other, CoMoments) else NotImplemented

    def remove(self, other: CoMoments) -> CoMoments:
        """Return the co-moments of the cells that are not in `other`; ``a - b`` is the same.

        Sums of third and fourth order are kept where both have them.

        Raises
        ------
        InputError
            If the genes differ, or the cells of `other` cannot all have been among these: they are more, or what is
            left is no sum of squares.

        Notes
        -----
        What is left is exact to rounding of what was there: where the cells that are taken away made up nearly all of a
        variance, few digits are left of the rest; a gene of which less than 4e-15 is left does not vary any more. The
        check leaves a relative 1e-8 for rounding.
        """
        check_same_genes(self.genes, other.genes)
        if other.count > self.count:
            raise InputError(
                f"{other.count:,} cells cannot be taken from {self.count:,}; expected co-moments of cells that are "
                "among them"
            )
        keeps = self.fourth is not None and other.fourth is not None
        if not other.count:
            rest = Sums(
                self.count, self.mean, self.comoment, *((self.third, self.fourth) if keeps else (None, None))
            )
        elif other.count == self.count:
            check_same(self.sums, other.sums, self.genes)
            rest = Sums.empty(len(self.genes), fourth=keeps)
        else:
            rest = without(self.sums, other.sums)
            rest.third, rest.fourth = (rest.third, rest.fourth) if keeps else (None, None)
            check_rest(rest, self.sums, self.genes)
        n_skipped = max(0, self.n_skipped - other.n_skipped)
        return CoMoments.from_sums(rest, self.genes, n_skipped=n_skipped)

    def covariance(self, ddof: int = 1) -> Array:
        """Return the covariance of genes over cells, ``(gene, gene)``, in units of the expression squared.

        Parameters
        ----------
        ddof
            The sum of products is divided by the number of cells minus this.

        Raises
        ------
        InputError
            If there are not more than `ddof` cells.
        """
        divisor = self.count - whole_number(ddof, "ddof")
        if divisor <= 0:
            raise InputError(
                f"{self.count:,} cells have no covariance with ddof={ddof}; expected at least {ddof + 1}"
            )
        return self.comoment / divisor

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """``(gene,)``: whether the gene does not vary at all."""
        zero: npt.NDArray[np.bool_] = np.diagonal(self.comoment) == 0
        return zero

    def correlation(self) -> Array:
        """Return the Pearson correlation of genes over cells, ``(gene, gene)``, with ones on the diagonal.

        NaN in the rows and columns of genes that do not vary, the diagonal included; a warning counts them.

        Raises
        ------
        InputError
            If there are fewer than two cells.
        """
        if self.count < 2:
            raise InputError(f"{self.count:,} cells have no correlation; expected at least 2")
        constant = self.constant
        if constant.any():
            shown = ", ".join(repr(str(gene)) for gene in self.genes[constant][:5])
            warnings.warn(
                f"{int(constant.sum()):,} of {len(constant):,} genes do not vary ({shown}"
                f"{', ...' if constant.sum() > 5 else ''}): their correlations are NaN; leave them out",
                StabdaskWarning,
                stacklevel=2,
            )
        root = np.sqrt(np.where(constant, np.nan, np.diagonal(self.comoment)))
        # Divided twice: the product of two small roots may be nothing.
        out = self.comoment / root / root[:, None]
        np.clip(out, -1.0, 1.0, out=out)
        out[np.arange(len(root)), np.arange(len(root))] = np.where(constant, np.nan, 1.0)
        # Which of the two divisions came first is a matter of rounding.
        return (out + out.T) / 2

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path | str:
        """Write to a new Zarr group at `path`, which appears whole or not at all.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        """
        from stabdask.analysis.network.moment_files import save_moments

        return save_moments(self, path, overwrite=overwrite)

    @staticmethod
    def open(path: str | Path) -> CoMoments:
        """Open co-moments written by `save`.

        Raises
        ------
        MissingFileError
            If there are none at `path`.
        DamagedStoreError
            If what is there differs from what was written.
        """
        from stabdask.analysis.network.moment_files import open_moments

        return open_moments(path)
