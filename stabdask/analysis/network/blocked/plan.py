"""What a precision matrix will take, before anything is computed: in memory, or in tiles on disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.network.blocked.tiles import Grid
from stabdask.analysis.network.blocked.workers import worker_threads
from stabdask.analysis.network.shrinkage import SHRINKAGES
from stabdask.errors import InputError, MemoryBudgetError, UsageError, near_misses
from stabdask.rich import Rich
from stabdask.sizes import bytes_hint, format_bytes, parse_memory

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["NetworkPlan", "plan", "slab_rows"]

_PROCESS_BYTES = 256 * 2**20
"""Resident memory of a process with everything imported."""
_COPIES = 10
"""Matrices that the way from cells to edges in memory takes at its peak, as measured."""
_STEP_TILES = 7
"""Tiles that a step holds: its result, two that it reads, a product, and what Zarr holds while it reads one."""
_STEPS_WANTED = 4
"""Tiles are as large as lets that many steps into memory at once."""
_LARGEST_TILE = 2_048
_SMALLEST_TILE = 256
_ROWS_OF_TILES = 8
"""At least so many, where tiles can be smaller, so that there is work for several workers."""
_MULTIPLE = 64
_SLAB_ENTRIES = 2**22
_BLOCK_CELLS = 1_024
"""Cells in a block of an atlas that is not known yet."""


@dataclass(frozen=True)
class NetworkPlan(Rich):
    """What a precision matrix will take.

    Attributes
    ----------
    n_genes, n_cells
        Size of the problem; cells are None where only genes are known.
    memory_bytes
        The budget of each process that works.
    in_memory
        Whether `PrecisionMatrix` fits in it: everything below is of the blocked way, which is for where it does not.
    in_memory_bytes
        What that takes at its peak, from cells to edges.
    tile
        Genes in a tile.
    n_tiles
        Tiles stored of each matrix, on and below the diagonal.
    n_passes
        Over the cells; 0 where a covariance matrix is given. One is for the means, in each other some of the
        co-moments are summed.
    n_at_once
        Steps at once in each process.
    peak_bytes
        Most memory of each process.
    disk_bytes
        What stays on disk: Sigma and Theta, a triangle of each.
    disk_peak_bytes
        What is on disk at most while they are made.
    n_cell_steps, panel_tiles
        Tasks that sum co-moments at the same time in a process, and how many tiles each of them holds.
    """

    n_genes: int
    n_cells: int | None
    memory_bytes: int
    in_memory: bool
    in_memory_bytes: int
    tile: int
    n_tiles: int
    n_passes: int
    n_at_once: int
    peak_bytes: int
    disk_bytes: int
    disk_peak_bytes: int
    n_cell_steps: int
    panel_tiles: int

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        cells = "" if self.n_cells is None else f", {self.n_cells:,} cells"
        budget = format_bytes(self.memory_bytes)
        lines = [
            f"network      {self.n_genes:,} genes{cells}",
            f"in memory    {format_bytes(self.in_memory_bytes)}, which "
            f"{'fits' if self.in_memory else 'does not fit'} in {budget}",
        ]
        if not self.in_memory:
            passes = f"{self.n_passes:,} over the cells" if self.n_passes else "none over cells"
            lines += [
                f"blocked      {self.n_tiles:,} tiles of {self.tile:,} x {self.tile:,} genes",
                f"passes       {passes}",
                f"memory       {format_bytes(self.peak_bytes)} of {budget} allowed, each process, "
                f"{self.n_at_once:,} steps at once",
                f"disk         {format_bytes(self.disk_bytes)}, at most {format_bytes(self.disk_peak_bytes)} meanwhile",
            ]
        return "\n".join(lines)


def plan(
    genes_or_cells: int | xr.Dataset,
    memory: int | str = "4GB",
    shrinkage: str = "none",
    *,
    tile: int | None = None,
    client: Any = None,
) -> NetworkPlan:
    """Work out whether a precision matrix fits in memory, and what it takes in tiles where it does not.

    Parameters
    ----------
    genes_or_cells
        Number of genes, or cells from `stabdask.open_cells`.
    memory
        Budget of each process that works, bytes or e.g. ``"4GB"``.
    shrinkage
        ``"none"``, ``"fixed"`` or ``"ledoit-wolf"``: all take the same, but without shrinkage there have to be more
        cells than genes.
    tile
        Genes in a tile; from memory and number of genes if not given. Not the workers: the bits of a matrix depend on
        its tiles.
    client
        Client of a Dask cluster; without one, the threads of this process.

    Raises
    ------
    MemoryBudgetError
        If the budget is too small also for tiles; the message names the least that works.
    InputError
        If there are no genes, or no more cells than genes and no shrinkage.
    UsageError
        If an option has no possible value.

    Examples
    --------
    >>> found = plan(40_000, memory="2GB")
    >>> found.in_memory, found.tile, found.disk_bytes // 10**9
    (False, 2048, 14)
    >>> plan(2_000).in_memory
    True
    """
    n_genes, n_cells, block_bytes = _size(genes_or_cells)
    budget = parse_memory(memory)
    _check_options(shrinkage, tile, n_cells, n_genes)
    threads = worker_threads(client)
    least = _least(n_genes, block_bytes, tile)
    if budget < least:
        raise MemoryBudgetError(
            f"memory={format_bytes(budget)} is too little for {n_genes:,} genes, also in tiles{bytes_hint(memory)}; "
            "expected at least "
            f"{math.ceil(least / 1e6) / 1e3:g}GB for each process"
        )
    free = budget - _PROCESS_BYTES
    grid = Grid(n_genes, tile or _chosen_tile(n_genes, free, block_bytes))
    step = _STEP_TILES * 8 * grid.tile**2
    at_once = min(max(threads), free // step)
    n_tiles = grid.n_tiles * (grid.n_tiles + 1) // 2
    fixed = _pass_bytes(n_genes, block_bytes)
    one = 8 * grid.tile**2
    cell_steps = min(max(threads), max(1, free // (fixed + 2 * one)))
    total = sum(min(cell_steps, n) for n in threads)
    # One tile more than the sums is for products.
    panel = max(1, min((free // cell_steps - fixed) // one - 1, -(-n_tiles // total)))
    n_panels = -(-n_tiles // panel)
    disk = 2 * one * n_tiles
    in_memory = _COPIES * 8 * n_genes**2 + _PROCESS_BYTES
    peak = _PROCESS_BYTES + max(at_once * step, min(cell_steps, n_panels) * (fixed + (panel + 1) * one))
    return NetworkPlan(
        n_genes=n_genes,
        n_cells=n_cells,
        memory_bytes=budget,
        in_memory=in_memory <= budget,
        in_memory_bytes=in_memory,
        tile=grid.tile,
        n_tiles=n_tiles,
        n_passes=1 + n_panels,
        n_at_once=int(at_once),
        peak_bytes=int(peak),
        disk_bytes=disk,
        disk_peak_bytes=disk // 2 * 3,
        n_cell_steps=int(cell_steps),
        panel_tiles=int(panel),
    )


def slab_rows(n_genes: int) -> int:
    """Return how many cells are multiplied at once; it depends on the number of genes alone, and so do the bits.

    Examples
    --------
    >>> slab_rows(100), slab_rows(6_000), slab_rows(60_000)
    (8192, 699, 256)
    """
    return int(np.clip(_SLAB_ENTRIES // n_genes, 256, 8_192))


def _size(genes_or_cells: int | xr.Dataset) -> tuple[int, int | None, int]:
    """Return numbers of genes and cells, and bytes of the largest block of cells with a dense copy of it."""
    if isinstance(genes_or_cells, int | np.integer) and not isinstance(genes_or_cells, bool):
        if genes_or_cells < 1:
            raise InputError(f"{genes_or_cells} genes; expected at least one")
        return int(genes_or_cells), None, _BLOCK_CELLS * int(genes_or_cells) * 8
    from stabdask.analysis.network.cell_moments import expression_blocks

    if isinstance(genes_or_cells, bool) or not hasattr(genes_or_cells, "variables"):
        raise UsageError(f"{genes_or_cells!r}; expected a number of genes, or cells from open_cells")
    x, genes = expression_blocks(genes_or_cells)
    return len(genes), int(x.shape[0]), max(x.chunks[0]) * len(genes) * 2 * x.dtype.itemsize


def _check_options(shrinkage: str, tile: int | None, n_cells: int | None, n_genes: int) -> None:
    if shrinkage not in SHRINKAGES:
        hint = near_misses(str(shrinkage), SHRINKAGES, noun="methods")
        raise UsageError(f"shrinkage={shrinkage!r} is not known; {hint}")
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 1):
        raise UsageError(f"tile={tile!r}; expected how many genes a tile has, 1 or more")
    if n_cells is not None and n_cells <= n_genes and shrinkage == "none":
        raise too_few_cells(n_cells, n_genes)


def too_few_cells(n_cells: int, n_genes: int) -> InputError:
    """Return the error about a covariance matrix that cannot have an inverse."""
    from stabdask.errors import NotPositiveDefiniteError

    return NotPositiveDefiniteError(
        f"the covariance of {n_cells:,} cells and {n_genes:,} genes has no inverse: its smallest eigenvalue is 0; "
        "take shrinkage='ledoit-wolf', more cells or fewer genes"
    )


def _chosen_tile(n_genes: int, free: int, block_bytes: int) -> int:
    """Return the size of tiles: large, for what is read and written goes down with it, but several of them."""
    tile = math.isqrt(free // (_STEPS_WANTED * _STEP_TILES * 8))
    tile = min(tile, math.isqrt(max(1, free - _pass_bytes(n_genes, block_bytes)) // 16), _LARGEST_TILE)
    tile = min(tile, max(_SMALLEST_TILE, -(-n_genes // _ROWS_OF_TILES)))
    return max(1, min(n_genes, max(_MULTIPLE, tile // _MULTIPLE * _MULTIPLE)))


def _pass_bytes(n_genes: int, block_bytes: int) -> int:
    """Return the bytes that one walk over the cells takes, without what it sums."""
    return block_bytes + 8 * n_genes * (slab_rows(n_genes) + 4)


def _least(n_genes: int, block_bytes: int, tile: int | None) -> int:
    one = 8 * min(n_genes, tile or _MULTIPLE) ** 2
    return _PROCESS_BYTES + max(_STEP_TILES * one, _pass_bytes(n_genes, block_bytes) + 2 * one)
