"""Folders of blocked precision matrices: how they are made, opened and read."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked.covariance import Source, given_covariance
from stabdask.analysis.network.blocked.moments import cell_covariance
from stabdask.analysis.network.blocked.plan import NetworkPlan
from stabdask.analysis.network.blocked.receipt import Receipt
from stabdask.analysis.network.blocked.tiles import Grid, Tiles
from stabdask.analysis.network.blocked.workers import Workers
from stabdask.analysis.network.cell_changes import Cells
from stabdask.analysis.network.checks import Array, gene_names
from stabdask.analysis.network.moment_checks import check_missing
from stabdask.analysis.network.shrinkage import check_shrinkage
from stabdask.errors import (
    DamagedStoreError,
    InputError,
    MissingFileError,
    NotPositiveDefiniteError,
    OutputError,
    UsageError,
)
from stabdask.files import existing_path, open_group, read_names, write_array, write_names
from stabdask.sizes import format_bytes

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = [
    "Made",
    "available_bytes",
    "check_options",
    "conversion_bytes",
    "copy",
    "discard",
    "from_cells",
    "from_covariance",
    "generation",
    "is_blocked",
    "lazy",
    "new_generation",
    "read_diagonals",
    "read_names_and_mean",
    "require_blocked",
    "require_positive",
    "require_room",
    "source_and_names",
    "write_diagonals",
]

_KIND = "stabdask_network"
_BLOCKED = "blocked precision"
_VERSION = 1
_FIRST = "generation_1"
_CONVERSION_COPIES = 7
"""Matrices that the conversion to one in memory takes at its peak."""


class Made(NamedTuple):
    """A covariance matrix in tiles, in a folder that has no receipt yet."""

    sigma: Tiles
    names: npt.NDArray[np.str_]
    diagonal: Array
    cells: Cells | None
    amount: float
    n_skipped: int


def check_options(shrinkage: str, amount: float | None, missing: str, drift_tolerance: float) -> None:
    """Raise unless options have possible values.

    Raises
    ------
    UsageError
        If one has not.
    """
    check_shrinkage(shrinkage, amount)
    check_missing(missing)
    if not drift_tolerance > 0:
        raise UsageError(f"drift_tolerance={drift_tolerance!r}; expected a positive number, such as 1e-10")


def source_and_names(
    sigma: Any, genes: Sequence[str] | npt.NDArray[Any] | None
) -> tuple[Source, npt.NDArray[np.str_]]:
    """Return what a covariance matrix is read from, and names of its genes."""
    source = Source(sigma)
    return source, gene_names(genes, source.n_genes)


def require_room(folder: Path, n_bytes: int) -> None:
    """Raise unless the disk has room.

    Raises
    ------
    OutputError
        If it has not.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OutputError(
            f"the tiles take {format_bytes(n_bytes)} at most, and the disk of {folder.parent} has "
            f"{format_bytes(free)} left; choose another path, or make room"
        )


def from_cells(
    folder: Path,
    cells: xr.Dataset,
    planned: NetworkPlan,
    workers: Workers,
    *,
    shrinkage: str,
    amount: float | None,
    missing: str,
) -> Made:
    """Write the covariance of cells into a new folder."""
    from stabdask.analysis.network.cell_moments import expression_blocks

    _, genes = expression_blocks(cells)
    group = _new_group(folder, genes)
    grid = Grid(len(genes), planned.tile)
    sigma = Tiles(folder.absolute() / _FIRST, "sigma", grid, keep=True)
    comoment = Tiles(folder.absolute() / _FIRST, "comoment", grid)
    found = cell_covariance(
        cells,
        comoment,
        sigma,
        workers,
        shrinkage=shrinkage,
        amount=amount,
        missing=missing,
        cell_steps=planned.n_cell_steps,
        panel_tiles=planned.panel_tiles,
    )
    discard(comoment)
    write_array(group, "mean", found.cells.mean, ("gene",))
    return Made(sigma, genes, found.diagonal, found.cells, found.amount, found.n_skipped)


def from_covariance(
    folder: Path, source: Source, names: npt.NDArray[np.str_], tile: int, workers: Workers
) -> Made:
    """Write a covariance matrix into a new folder."""
    _new_group(folder, names)
    sigma = Tiles(folder.absolute() / _FIRST, "sigma", Grid(len(names), tile), keep=True)
    diagonal = given_covariance(source, names, sigma, workers)
    return Made(sigma, names, diagonal, None, 0.0, 0)


def _new_group(folder: Path, names: npt.NDArray[np.str_]) -> Any:
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    group.attrs.update({_KIND: _BLOCKED, "format_version": _VERSION, "triangle": "lower"})
    write_names(group, "gene", names.tolist(), "gene")
    group.create_group(_FIRST)
    return group


def discard(tiles: Tiles) -> None:
    """Remove a matrix from disk."""
    tiles._array = None
    shutil.rmtree(tiles.path, ignore_errors=True)


def is_blocked(path: str | Path) -> bool:
    """Return whether there is a blocked precision matrix."""
    try:
        return bool(open_group(path).attrs.get(_KIND) == _BLOCKED)
    except MissingFileError:
        return False


def require_blocked(path: str | Path) -> Path:
    """Return the absolute path of a blocked precision matrix.

    Raises
    ------
    MissingFileError
        If there is none.
    InputError
        If another version of stabdask wrote it.
    """
    path = existing_path(path, "blocked precision matrix").absolute()
    attrs = open_group(path).attrs
    if attrs.get(_KIND) != _BLOCKED:
        there = "" if attrs.get(_KIND) is None else f", but {attrs[_KIND]!r}"
        raise MissingFileError(
            f"{path} holds no blocked precision matrix{there}; make one with BlockedPrecision.from_cells or "
            "from_covariance"
        )
    version = attrs.get("format_version")
    if version != _VERSION:
        raise InputError(
            f"{path} holds a blocked precision matrix of format {version!r}; this version reads format {_VERSION}: "
            "make it anew, or update stabdask"
        )
    return path


def read_names_and_mean(path: Path) -> tuple[npt.NDArray[np.str_], Array | None]:
    """Return names of genes, and the mean of cells where there are some.

    Raises
    ------
    DamagedStoreError
        If they cannot be read.
    """
    group = open_group(path)
    try:
        return read_names(group, "gene"), group["mean"][...] if "mean" in group else None
    except Exception as error:  # damage can make Zarr or a codec raise anything
        raise _damaged(path, error) from error


def generation(path: Path, receipt: Receipt, grid: Grid) -> tuple[Tiles, Tiles]:
    """Return Sigma and Theta of the generation that counts.

    Raises
    ------
    DamagedStoreError
        If they do not have the tiles that the receipt tells of.
    """
    found = tuple(Tiles(path / receipt.folder, name, grid, keep=True) for name in ("sigma", "theta"))
    n, tile = grid.n_genes, grid.tile
    for tiles in found:
        if tiles.array.shape != (n, n) or tiles.array.chunks != (tile, tile):
            raise DamagedStoreError(
                f"{tiles.path} has the shape {tiles.array.shape} in chunks of {tiles.array.chunks}; expected "
                f"({n}, {n}) in chunks of ({tile}, {tile}); make the matrix anew"
            )
        missing = tiles.missing()
        if missing:
            raise DamagedStoreError(
                f"{len(missing):,} tiles of {tiles.path} are missing, the first at {missing[0]}; make the matrix anew"
            )
    sigma, theta = found
    return sigma, theta


def new_generation(path: Path, receipt: Receipt, grid: Grid) -> tuple[Tiles, Tiles]:
    """Make the folder of a generation, and return its Sigma and Theta, which are yet to be made."""
    open_group(path, mode="r+").create_group(receipt.folder)
    folder = path / receipt.folder
    return Tiles(folder, "sigma", grid, keep=True), Tiles(folder, "theta", grid, keep=True)


def write_diagonals(folder: Path, sigma: Array, theta: Array) -> None:
    """Write the diagonals of both matrices of a generation."""
    group = open_group(folder, mode="r+")
    write_array(group, "sigma_diagonal", sigma, ("gene",))
    write_array(group, "theta_diagonal", theta, ("gene",))


def read_diagonals(path: Path, receipt: Receipt, n_genes: int) -> tuple[Array, Array]:
    """Read the diagonals of both matrices.

    Raises
    ------
    DamagedStoreError
        If they are not there, or not positive.
    """
    try:
        group = open_group(path / receipt.folder)
        sigma, theta = (np.asarray(group[name][...]) for name in ("sigma_diagonal", "theta_diagonal"))
    except Exception as error:  # damage can make Zarr or a codec raise anything
        raise _damaged(path, error) from error
    if sigma.shape != (n_genes,) or theta.shape != (n_genes,) or not ((sigma > 0) & (theta > 0)).all():
        raise DamagedStoreError(
            f"the diagonals of the matrices at {path} are not {n_genes:,} positive numbers; make them anew"
        )
    return sigma, theta


def require_positive(diagonal: Array, names: npt.NDArray[np.str_]) -> None:
    """Raise unless every gene has a variance left.

    Raises
    ------
    NotPositiveDefiniteError
        If one has not.
    """
    if not (diagonal > 0).all():
        worst = int(diagonal.argmin())
        raise NotPositiveDefiniteError(
            f"the variance of gene {names[worst]} would be {diagonal[worst]:.3g}; take away less: only what has been "
            "added before"
        )


def copy(store: Path, folder: Path, receipt: Receipt) -> None:
    """Copy the generation that counts, and what goes with it."""
    for path in store.iterdir():
        if path.is_dir() and path.name.startswith("generation_") and path.name != receipt.folder:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.name != "lock":
            shutil.copy2(path, folder / path.name)


def conversion_bytes(n_genes: int) -> int:
    """Return the memory that the conversion to a matrix in memory takes."""
    return _CONVERSION_COPIES * 8 * n_genes**2


def available_bytes() -> int:
    """Return how much memory this machine has left."""
    import psutil

    return int(psutil.virtual_memory().available)


def lazy(tiles: Tiles, read: Callable[[int, int], Array] | None = None) -> da.Array:
    """Return a matrix as a Dask array of its tiles, both triangles.

    Parameters
    ----------
    tiles
        Where it is.
    read
        Returns a tile, on or below the diagonal; that of the matrix itself if not given.
    """
    import dask.array as da

    chunks = (tiles.grid.chunks, tiles.grid.chunks)
    # A name of its own: what is at the same path later may be another matrix.
    name = f"{tiles.name}-{uuid.uuid4().hex}"
    found: da.Array = da.map_blocks(
        _block, read or tiles.read, chunks=chunks, dtype=np.float64, meta=np.empty((0, 0)), name=name
    )
    return found


def _block(read: Callable[[int, int], Array], block_id: tuple[int, int]) -> Array:
    i, j = block_id
    if i >= j:
        return read(i, j)
    mirrored: Array = read(j, i).T
    return mirrored


def _damaged(path: Path, error: Exception) -> DamagedStoreError:
    return DamagedStoreError(
        f"the matrix at {path} cannot be read ({type(error).__name__}: {error}); make it anew"
    )
