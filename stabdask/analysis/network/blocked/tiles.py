"""Square matrices of genes in tiles on disk: one Zarr chunk each, read and written whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.analysis.network.checks import Array
from stabdask.errors import DamagedStoreError
from stabdask.files import fsync_directory, fsync_file

__all__ = ["Columns", "Grid", "Tiles"]


class Grid:
    """How a matrix of `n_genes` is cut into tiles of `tile` genes, of which the last may be smaller.

    Examples
    --------
    >>> grid = Grid(10, 4)
    >>> grid.n_tiles, grid.chunks
    (3, (4, 4, 2))
    >>> list(grid.lower())
    [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    """

    def __init__(self, n_genes: int, tile: int) -> None:
        self.n_genes, self.tile = n_genes, min(tile, n_genes)
        self.n_tiles = -(-n_genes // self.tile)

    def cut(self, i: int) -> slice:
        """Return the genes of row `i` of tiles."""
        return slice(i * self.tile, min((i + 1) * self.tile, self.n_genes))

    def size(self, i: int) -> int:
        """Return how many genes row `i` of tiles has."""
        return min(self.tile, self.n_genes - i * self.tile)

    def lower(self) -> Iterator[tuple[int, int]]:
        """Yield the tiles on and below the diagonal, row by row."""
        for i in range(self.n_tiles):
            for j in range(i + 1):
                yield i, j

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sizes of the rows of tiles."""
        return tuple(self.size(i) for i in range(self.n_tiles))


class _OnDisk:
    """A Zarr array that is opened when first used, in whichever process that is."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._array: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_array": None}

    @property
    def path(self) -> Path:
        """Folder of the array."""
        return self.folder / self.name

    @property
    def array(self) -> Any:
        """The Zarr array.

        Raises
        ------
        DamagedStoreError
            If it cannot be opened.
        """
        if self._array is None:
            import zarr

            try:
                self._array = zarr.open_array(str(self.path), mode="r+")
            except Exception as error:  # damage can make Zarr raise anything
                raise DamagedStoreError(
                    f"{self.path} cannot be opened ({type(error).__name__}: {error}): the matrix was changed or moved "
                    "since, or is damaged; open it again, or make it anew"
                ) from error
        return self._array

    def _create(self, shape: tuple[int, ...], chunks: tuple[int, ...], dims: tuple[str, ...]) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec

        # Digits of matrices do not compress. What is not written is NaN, which no tile has.
        self._array = zarr.create_array(
            str(self.path),
            shape=shape,
            chunks=chunks,
            dtype="float64",
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],
            dimension_names=dims,
            zarr_format=3,
        )

    def _read(self, *where: slice) -> Array:
        try:
            values: Array = self.array[where]
        except DamagedStoreError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # a checksum that does not match, a chunk cut short, a disk that fails
            raise self._damaged(f"cannot be read ({type(error).__name__}: {error})", where) from error
        # The smallest of numbers with a NaN among them is NaN: no array of flags is made.
        if values.size and np.isnan(values.min()):
            raise self._damaged("is missing, or holds NaN", where)
        return values

    def _write(self, values: Array, *where: slice, keep: bool) -> None:
        self.array[where] = values
        if keep:
            chunks = self.array.chunks
            places = [str(cut.start // size) for cut, size in zip(where, chunks, strict=True)]
            file = self.path.joinpath("c", *places)
            fsync_file(file)
            fsync_directory(file.parent)

    def _damaged(self, what: str, where: tuple[slice, ...]) -> DamagedStoreError:
        genes = " and ".join(f"{cut.start:,} to {cut.stop - 1:,}" for cut in where)
        return DamagedStoreError(
            f"the part of {self.path} for numbers {genes} {what}; the matrix was changed since (open it again), or is "
            "damaged (make it anew)"
        )


class Tiles(_OnDisk):
    """A symmetric or lower triangular matrix, of which the tiles on and below the diagonal are stored.

    Parameters
    ----------
    folder
        Of a Zarr group, on a file system that all workers have.
    name
        Of the array in it.
    grid
        How it is cut.
    keep
        Whether each tile is forced to disk, as results are.
    """

    def __init__(self, folder: Path, name: str, grid: Grid, *, keep: bool = False) -> None:
        super().__init__(folder, name)
        self.grid, self.keep = grid, keep

    def create(self) -> Tiles:
        """Make the array, empty, and return this."""
        n, tile = self.grid.n_genes, self.grid.tile
        self._create((n, n), (tile, tile), ("gene", "gene_b"))
        return self

    def read(self, i: int, j: int) -> Array:
        """Return a tile, which the caller may change.

        Above the diagonal, it is the transpose of the one that mirrors it.

        Raises
        ------
        DamagedStoreError
            If it is not there, or is not what was written.
        """
        if j > i:
            return self.read(j, i).T
        return self._read(self.grid.cut(i), self.grid.cut(j))

    def write(self, i: int, j: int, values: Array) -> None:
        """Write a tile on or below the diagonal."""
        self._write(values, self.grid.cut(i), self.grid.cut(j), keep=self.keep)

    def missing(self) -> list[tuple[int, int]]:
        """Return the tiles of which there is no file."""
        folder = self.path / "c"
        return [(i, j) for i, j in self.grid.lower() if not (folder / str(i) / str(j)).is_file()]

    @property
    def n_bytes(self) -> int:
        """Bytes on disk of all tiles."""
        return 8 * self.grid.tile**2 * self.grid.n_tiles * (self.grid.n_tiles + 1) // 2


class Columns(_OnDisk):
    """A few vectors over all genes, ``(gene, d)``, cut by rows as the tiles are and into pieces of at most a tile."""

    def __init__(self, folder: Path, name: str, grid: Grid, d: int) -> None:
        super().__init__(folder, name)
        self.grid, self.d = grid, d
        self.width = max(1, min(d, grid.tile))

    def create(self) -> Columns:
        """Make the array, empty, and return this."""
        self._create((self.grid.n_genes, self.d), (self.grid.tile, self.width), ("gene", "column"))
        return self

    @property
    def pieces(self) -> list[slice]:
        """The pieces, by columns."""
        return [slice(start, min(start + self.width, self.d)) for start in range(0, self.d, self.width)]

    def read(self, i: int, piece: slice) -> Array:
        """Return the rows of genes of row `i` of tiles, of one piece."""
        return self._read(self.grid.cut(i), piece)

    def write(self, i: int, piece: slice, values: Array) -> None:
        """Write these."""
        self._write(values, self.grid.cut(i), piece, keep=False)
