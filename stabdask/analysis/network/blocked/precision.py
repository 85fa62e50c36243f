"""A precision matrix in tiles on disk, for gene counts whose matrices exceed the memory of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked import building
from stabdask.analysis.network.blocked.inverting import changed, finish
from stabdask.analysis.network.blocked.pairs import correlations_of, edges_of, statistics_of
from stabdask.analysis.network.blocked.plan import plan
from stabdask.analysis.network.blocked.receipt import (
    locked,
    read_receipt,
    remove_others,
    write_receipt,
)
from stabdask.analysis.network.blocked.solver import probed
from stabdask.analysis.network.blocked.stored import StoredMatrices
from stabdask.analysis.network.blocked.workers import Workers
from stabdask.analysis.network.checks import Array, loadings
from stabdask.analysis.network.inverse_pair import DRIFT_TOLERANCE
from stabdask.analysis.network.precision import Change, PrecisionMatrix
from stabdask.errors import MemoryBudgetError
from stabdask.files import new_directory
from stabdask.sizes import format_bytes

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd
    import xarray as xr

__all__ = ["BlockedPrecision"]


class BlockedPrecision(StoredMatrices):
    """The inverse Theta of a covariance matrix Sigma of genes, both in tiles on disk.

    Make one with `from_cells` or `from_covariance`, or `open` one. Each step of any computation is a Dask task that
    reads a few tiles and writes one, so that memory does not grow with the number of genes. Results are those of
    `PrecisionMatrix` to rounding; their bits depend on the size of the tiles (which `plan` chooses by the number of
    genes and the memory), not on workers, threads or blocks of the atlas.

    Of both matrices the tiles on and below the diagonal are stored, as arrays ``sigma`` and ``theta`` of a Zarr group;
    above it Zarr reads NaN, and `theta` and `sigma` here are whole. A change is written beside what is there and counts
    from the moment that it is complete: one that is killed leaves the matrix as it was. Dask arrays taken before a
    change are of tiles that are gone after it: take them again.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.TemporaryDirectory()
    >>> sigma = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    >>> blocked = BlockedPrecision.from_covariance(sigma, folder.name + "/p.zarr", ["A", "B", "C"], tile=2)
    >>> blocked.theta.compute().round(2) + 0.0
    array([[ 0.75, -0.5 ,  0.25],
           [-0.5 ,  1.  , -0.5 ],
           [ 0.25, -0.5 ,  0.75]])
    >>> blocked.edges(top=1).round(3)
      gene_a gene_b  partial_correlation
    0      A      B                0.577
    >>> blocked.update(np.array([1.0, 0.0, 0.0]))
    >>> blocked.history[-1].path
    'low rank'
    >>> folder.cleanup()
    """

    @classmethod
    def from_cells(
        cls,
        cells: xr.Dataset,
        path: str | Path,
        *,
        memory: int | str = "4GB",
        shrinkage: Literal["none", "fixed", "ledoit-wolf"] = "none",
        amount: float | None = None,
        missing: Literal["error", "skip"] = "error",
        tile: int | None = None,
        client: Any = None,
        drift_tolerance: float = DRIFT_TOLERANCE,
        overwrite: bool = False,
    ) -> BlockedPrecision:
        """Invert the covariance matrix of cells, shrunk first if asked to, in as many passes as memory needs.

        Parameters
        ----------
        cells
            From `stabdask.open_cells`.
        path
            Where to write it: a folder that appears when all is done, or not at all.
        memory
            Budget of each process that works, bytes or e.g. ``"4GB"``.
        shrinkage, amount
            As for `PrecisionMatrix.from_moments`.
        missing
            What to do with cells that are not finite: ``"error"``, or ``"skip"``, which counts them.
        tile
            Genes in a tile, see `plan`.
        client
            Client of a Dask cluster whose workers have the file system of `path`; without one, the threads of this
            process.
        drift_tolerance
            As for `PrecisionMatrix.from_covariance`.
        overwrite
            Whether to replace what is at `path`.

        Raises
        ------
        MemoryBudgetError
            If the budget is too small; the message names the least that works.
        NotPositiveDefiniteError
            If the matrix has no inverse, as without shrinkage for no more cells than genes; the message names a gene
            that those before it determine.
        InputError
            If cells are not finite, names of genes repeat, or a gene does not vary.
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        OutputError
            If the disk has too little room, or cannot be written.
        UsageError
            If an option has no possible value.
        """
        building.check_options(shrinkage, amount, missing, drift_tolerance)
        planned = plan(cells, memory, shrinkage, tile=tile, client=client)
        workers = Workers(client, planned.n_at_once)
        with new_directory(Path(path), overwrite=overwrite) as folder:
            building.require_room(folder, planned.disk_peak_bytes)
            made = building.from_cells(
                folder, cells, planned, workers, shrinkage=shrinkage, amount=amount, missing=missing
            )
            finish(folder, made, planned.n_passes, drift_tolerance, workers)
        return cls.open(path, memory=memory, client=client)

    @classmethod
    def from_covariance(
        cls,
        sigma: Any,
        path: str | Path,
        genes: Sequence[str] | npt.NDArray[Any] | None = None,
        *,
        memory: int | str = "4GB",
        tile: int | None = None,
        client: Any = None,
        drift_tolerance: float = DRIFT_TOLERANCE,
        overwrite: bool = False,
    ) -> BlockedPrecision:
        """Invert a covariance matrix.

        Parameters
        ----------
        sigma
            ``(gene, gene)`` Dask array, Zarr array, or anything NumPy takes for a matrix, such as one that is mapped
            from a file. It is read tile by tile.
        genes
            Names, all different; positions if not given.
        path, memory, tile, client, drift_tolerance, overwrite
            As for `from_cells`.

        Raises
        ------
        NotPositiveDefiniteError, MemoryBudgetError, StoreMismatchError, OutputError, UsageError
            As `from_cells`.
        InputError
            If it is not square, symmetric and finite, a gene does not vary, or names do not match.
        """
        building.check_options("none", None, "error", drift_tolerance)
        source, names = building.source_and_names(sigma, genes)
        planned = plan(source.n_genes, memory, tile=tile, client=client)
        workers = Workers(client, planned.n_at_once)
        with new_directory(Path(path), overwrite=overwrite) as folder:
            building.require_room(folder, planned.disk_peak_bytes)
            made = building.from_covariance(folder, source, names, planned.tile, workers)
            finish(folder, made, 0, drift_tolerance, workers)
        return cls.open(path, memory=memory, client=client)

    @classmethod
    def open(cls, path: str | Path, *, memory: int | str = "4GB", client: Any = None) -> BlockedPrecision:
        """Open one that is there; only small things are read.

        Parameters
        ----------
        path
            Of `from_cells` or `from_covariance`.
        memory, client
            For what is computed with it later, as for `from_cells`.

        Raises
        ------
        MissingFileError
            If there is none.
        DamagedStoreError
            If tiles are missing, or it contradicts itself. What a tile holds is checked when it is read; `probe` reads
            all.
        """
        path = building.require_blocked(path)
        return cls(path, read_receipt(path), memory, client)

    def probe(self) -> float:
        """Return ``max |Theta Sigma z - z|`` over fixed vectors z of -1 and 1; all tiles are read.

        Raises
        ------
        DamagedStoreError
            If a tile is not what was written.
        """
        return probed(self._sigma, self._theta, self._diagonals[0], self._workers()).probe

    def partial_correlations(self) -> da.Array:
        """Return partial correlations ``(gene, gene)``, a lazy Dask array: undirected, and not causal."""
        scale = self._scale()
        return building.lazy(self._theta, lambda i, j: correlations_of(self._theta, scale, i, j))

    def edges(self, *, threshold: float | None = None, top: int | None = None) -> pd.DataFrame:
        """Return the strongest edges, tile by tile; the table that `edges` makes of all partial correlations.

        Parameters
        ----------
        threshold
            Keep edges with ``|rho|`` of at least this.
        top
            Keep that many with the largest ``|rho|``. Exactly one of both is given.

        Raises
        ------
        UsageError
            If not exactly one is given, or it has no possible value.
        """
        return edges_of(
            self._theta, self._scale(), self._genes, self._workers(), threshold=threshold, top=top
        )

    def statistics(self, threshold: float = 0.1) -> dict[str, float]:
        """Return what the network is like as a whole, as `statistics` does, tile by tile.

        Raises
        ------
        UsageError
            If `threshold` is not from 0 to 1.
        """
        return statistics_of(self._theta, self._scale(), self._workers(), threshold)

    def update(self, X: npt.ArrayLike) -> None:
        """Add ``X X^T`` to Sigma: new pathways, or whatever else varies in addition.

        A rank beyond a quarter of the genes, or beyond a tile, is added to Sigma, which is then inverted from scratch.

        Parameters
        ----------
        X
            ``(gene, d)`` loadings, or ``(gene,)``.

        Raises
        ------
        InputError
            If it does not have a row for each gene, or is not finite.
        StoreLockedError
            If another process is changing it.
        """
        self._change("update", X, 1)

    def downdate(self, X: npt.ArrayLike) -> None:
        """Take ``X X^T`` away from Sigma.

        Parameters
        ----------
        X
            ``(gene, d)`` loadings, or ``(gene,)``.

        Raises
        ------
        NotPositiveDefiniteError
            If what is left is no covariance matrix with an inverse; nothing has changed then.
        InputError, StoreLockedError
            As `update`.
        """
        self._change("downdate", X, -1)

    def copy(
        self,
        path: str | Path,
        *,
        update: npt.ArrayLike | None = None,
        downdate: npt.ArrayLike | None = None,
        overwrite: bool = False,
    ) -> BlockedPrecision:
        """Copy it to a new folder, which appears whole, and changed where that is asked for, or not at all.

        Parameters
        ----------
        path
            Of the copy.
        update, downdate
            As for the methods of these names, of the copy.
        overwrite
            Whether to replace what is at `path`.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        NotPositiveDefiniteError, InputError, StoreLockedError
            As `update` and `downdate`.
        """
        with new_directory(Path(path), overwrite=overwrite) as folder:
            with locked(self._path):
                building.copy(self._path, folder, read_receipt(self._path))
            other = BlockedPrecision.open(folder, memory=self._memory, client=self._client)
            if update is not None:
                other.update(update)
            if downdate is not None:
                other.downdate(downdate)
        return BlockedPrecision.open(path, memory=self._memory, client=self._client)

    def to_precision_matrix(self) -> PrecisionMatrix:
        """Return it in memory, inverted there; changes since it was made are in Sigma.

        Raises
        ------
        MemoryBudgetError
            If it does not fit in this machine.
        """
        needed = building.conversion_bytes(len(self._genes))
        there = building.available_bytes()
        if needed > there:
            raise MemoryBudgetError(
                f"{len(self._genes):,} genes take {format_bytes(needed)} in memory, and {format_bytes(there)} are "
                "available; go on with tiles, or take fewer genes"
            )
        sigma = self.sigma.compute()
        return PrecisionMatrix(
            sigma,
            genes=self._genes,
            cells=self.cells,
            amount=self.amount,
            drift_tolerance=self._receipt.drift_tolerance,
        )

    def _scale(self) -> Array:
        found: Array = 1.0 / np.sqrt(self._diagonals[1])
        return found

    def _change(self, operation: str, X: npt.ArrayLike, sign: int) -> None:
        columns = loadings(X, len(self._genes), "X")
        with locked(self._path):
            # Another process may have changed it since it was opened here.
            self._load(read_receipt(self._path))
            remove_others(self._path, self._receipt)
            before = self._receipt
            if not columns.shape[1]:
                change = Change(operation, 0, "low rank", before.probe, False)
                after = replace(before, history=(*before.history, change))
            else:
                building.require_room(self._path, 5 * self._sigma.n_bytes)
                try:
                    after = changed(
                        self._path,
                        (self._sigma, self._theta),
                        self._diagonals[0],
                        self._genes,
                        before,
                        operation,
                        columns,
                        sign,
                        self._workers(),
                    )
                except BaseException:
                    remove_others(self._path, before)
                    raise
            write_receipt(self._path, after)
            self._load(after)
            remove_others(self._path, after)
