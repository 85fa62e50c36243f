"""What is read off a blocked precision matrix on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked import building
from stabdask.analysis.network.blocked.plan import plan
from stabdask.analysis.network.blocked.receipt import Receipt
from stabdask.analysis.network.blocked.tiles import Grid
from stabdask.analysis.network.blocked.workers import Workers
from stabdask.analysis.network.cell_changes import Cells
from stabdask.analysis.network.precision import Change

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["StoredMatrices"]


class StoredMatrices:
    """Sigma and Theta in tiles, and the facts of their receipt; see `BlockedPrecision`."""

    def __init__(self, path: Path, receipt: Receipt, memory: int | str, client: Any) -> None:
        self._path, self._memory, self._client = path, memory, client
        self._genes, self._mean = building.read_names_and_mean(path)
        self._load(receipt)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def genes(self) -> npt.NDArray[np.str_]:
        """Names ``(gene,)``."""
        return self._genes.copy()

    @property
    def tile(self) -> int:
        """Genes in a tile."""
        return self._sigma.grid.tile

    @property
    def theta(self) -> da.Array:
        """The precision matrix ``(gene, gene)``, both triangles, a lazy Dask array of tiles."""
        return building.lazy(self._theta)

    @property
    def sigma(self) -> da.Array:
        """The covariance matrix ``(gene, gene)``, both triangles, a lazy Dask array of tiles."""
        return building.lazy(self._sigma)

    @property
    def logdet(self) -> float:
        """Logarithm of the determinant of Sigma; that of Theta is its negative."""
        return self._receipt.logdet

    @property
    def cells(self) -> Cells | None:
        """The number of cells and their mean, or None where it was made from a covariance matrix."""
        count, ddof = self._receipt.count, self._receipt.ddof
        if count is None or ddof is None or self._mean is None:
            return None
        return Cells(count, self._mean.copy(), ddof)

    @property
    def amount(self) -> float:
        """How much the covariance of cells is shrunk toward a multiple of the identity, from 0 to 1."""
        return self._receipt.amount

    @property
    def n_skipped(self) -> int:
        """Cells that were left out because their expression is not finite."""
        return self._receipt.n_skipped

    @property
    def n_passes(self) -> int:
        """Passes over the cells that it took."""
        return self._receipt.n_passes

    @property
    def n_refactorizations(self) -> int:
        """How often Theta has been computed anew because it had drifted."""
        return self._receipt.n_refactorizations

    @property
    def history(self) -> tuple[Change, ...]:
        """What has been done to it, change by change."""
        return self._receipt.history

    @property
    def recorded_probe(self) -> float:
        """``max |Theta Sigma z - z|`` as it was after the last change, or when it was made."""
        return self._receipt.probe

    def __repr__(self) -> str:
        return f"BlockedPrecision({len(self._genes):,} genes, tiles of {self.tile:,}, {str(self._path)!r})"

    def _load(self, receipt: Receipt) -> None:
        grid = Grid(receipt.n_genes, receipt.tile)
        sigma, theta = building.generation(self._path, receipt, grid)
        self._diagonals = building.read_diagonals(self._path, receipt, len(self._genes))
        self._receipt, self._sigma, self._theta = receipt, sigma, theta

    def _workers(self) -> Workers:
        planned = plan(len(self._genes), self._memory, tile=self.tile, client=self._client)
        return Workers(self._client, planned.n_at_once)
