"""Covariances of cells in tiles: a pass for the means, and others for as many tiles as memory holds at once.

Cells are centered on their mean over the whole atlas before they are multiplied, so that nothing is lost where the
mean is large beside the spread. They are multiplied in slabs of a fixed number of cells, tile by tile: bits depend on
the size of tiles, not on which of them are summed in the same pass, nor on blocks of the atlas or workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked.plan import slab_rows, too_few_cells
from stabdask.analysis.network.blocked.tiles import Tiles
from stabdask.analysis.network.blocked.workers import Step, Workers
from stabdask.analysis.network.cell_changes import Cells
from stabdask.analysis.network.cell_moments import Stretch, expression_blocks, named_error
from stabdask.analysis.network.checks import Array
from stabdask.analysis.network.shrinkage import estimated_amount
from stabdask.errors import InputError, UsageError
from stabdask.kernels.rows import finite_rows
from stabdask.row_blocks import RowGraph

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = ["FromCells", "cell_covariance"]

_STRETCH_CELLS = 8_192
_STRETCHES = 256


class FromCells(NamedTuple):
    """What is known of cells besides their covariance."""

    cells: Cells
    amount: float
    n_skipped: int
    diagonal: Array


class _Means(NamedTuple):
    n_cells: int
    mean: Array
    n_skipped: int
    first_bad: int | None


class _Panel(NamedTuple):
    diagonals: dict[int, Array]
    squares: list[float]
    fourth: float | None
    finite: bool


def cell_covariance(
    cells: xr.Dataset,
    comoment: Tiles,
    sigma: Tiles,
    workers: Workers,
    *,
    shrinkage: str,
    amount: float | None,
    missing: str,
    cell_steps: int,
    panel_tiles: int,
) -> FromCells:
    """Write the covariance of cells, shrunk, into `sigma`, with sums of products in `comoment` on the way.

    Raises
    ------
    NotPositiveDefiniteError
        If there are no more cells than genes, and no shrinkage.
    InputError
        If a cell is not finite and not to be skipped, there are fewer than two, or sums overflow.
    UsageError
        If the cells were persisted on a cluster.
    """
    x, genes = expression_blocks(cells)
    if any(type(value).__name__ == "Future" for value in dict(x.__dask_graph__()).values()):
        raise UsageError(
            "the expression was persisted on a cluster; pass the cells as open_cells returned them"
        )
    means = _means(cells, x, workers, cell_steps, skip=missing == "skip")
    n, n_genes = means.n_cells, len(genes)
    if n < 2:
        raise InputError(f"{n:,} cells of {n_genes:,} genes have no covariance; expected at least 2")
    if shrinkage == "none" and n <= n_genes:
        raise too_few_cells(n, n_genes)
    comoment.create()
    places = list(comoment.grid.lower())
    panels = [places[start : start + panel_tiles] for start in range(0, len(places), panel_tiles)]
    every = Stretch(RowGraph(x), 0, x.shape[0], np.zeros(x.shape[0], dtype=np.intp))
    fourth = shrinkage == "ledoit-wolf"
    # Fourth powers are of all genes at once: one of the passes sums them.
    steps = {
        number: Step(partial(_sum_panel, every, means.mean, comoment, own, fourth and number == 0))
        for number, own in enumerate(panels)
    }
    found = [panel for _, panel in sorted(workers.run(steps, at_once=cell_steps).items())]
    if not all(panel.finite for panel in found):
        raise InputError(
            "the expression is finite, but sums of its powers are not: values above about 1e70 cannot be summed to "
            "the fourth power; rescale the expression"
        )
    blocks = {i: block for panel in found for i, block in panel.diagonals.items()}
    diagonal = np.concatenate([blocks[i] for i in range(len(blocks))])
    used = float(amount or 0.0)
    if fourth:
        squares = sum(square for panel in found for square in panel.squares) / n**2
        assert found[0].fourth is not None
        used = estimated_amount(n, diagonal / n, squares, found[0].fourth)
    ddof = 0 if fourth else 1
    scale = (1.0 - used) / (n - ddof)
    ridge = used * float(diagonal.mean()) / (n - ddof)
    sigma.create()
    workers.run({(i, j): Step(partial(_shrink, comoment, sigma, i, j, scale, ridge)) for i, j in places})
    return FromCells(
        Cells(float(n), means.mean, float(ddof)), used, means.n_skipped, diagonal * scale + ridge
    )


def _means(cells: xr.Dataset, x: da.Array, workers: Workers, at_once: int, *, skip: bool) -> _Means:
    n_cells, n_genes = x.shape
    length = max(_STRETCH_CELLS, -(-n_cells // _STRETCHES))
    rows, codes = RowGraph(x), np.zeros(n_cells, dtype=np.intp)
    steps = {
        start: Step(partial(_mean, Stretch(rows, start, min(start + length, n_cells), codes), n_genes))
        for start in range(0, n_cells, length)
    }
    found = [part for _, part in sorted(workers.run(steps, at_once=at_once).items())]
    bad = [part.first_bad for part in found if part.first_bad is not None]
    if bad and not skip:
        raise named_error(cells, min(bad))
    total: _Means = found[0]
    for part in found[1:]:
        count = total.n_cells + part.n_cells
        step = part.mean - total.mean if total.n_cells and part.n_cells else np.zeros(n_genes)
        mean = (total.mean if total.n_cells else part.mean) + step * (part.n_cells / max(1, count))
        total = _Means(count, mean, total.n_skipped + part.n_skipped, None)
    return total


class _Slabs:
    """The finite cells of a stretch in slabs of a fixed number, however they were cut into blocks.

    Each slab is in the same memory; the caller may change it.
    """

    def __init__(self, stretch: Stretch, n_genes: int) -> None:
        self.stretch, self.n_genes = stretch, n_genes
        self.n_skipped, self.first_bad = 0, -1

    def __iter__(self) -> Iterator[Array]:
        n_cells = self.stretch.stop - self.stretch.start
        slab = np.empty((min(slab_rows(self.n_genes), n_cells), self.n_genes))
        filled = 0
        for start, block, _ in self.stretch.blocks():
            rows, begin = self._finite(start, block), 0
            while begin < len(rows):
                piece = rows[begin : begin + len(slab) - filled]
                slab[filled : filled + len(piece)] = piece
                filled, begin = filled + len(piece), begin + len(piece)
                if filled == len(slab):
                    yield slab
                    filled = 0
        if filled:
            yield slab[:filled]

    def _finite(self, start: int, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        finite = finite_rows(block)
        if finite.all():
            return block
        if not self.n_skipped:
            self.first_bad = start + int(np.argmin(finite))
        self.n_skipped += int((~finite).sum())
        return block[finite]


def _mean(stretch: Stretch, n_genes: int) -> _Means:
    """Return the mean of some cells: about the first of them, so that a gene that does not vary has its value."""
    slabs = _Slabs(stretch, n_genes)
    first, total, count = None, np.zeros(n_genes), 0
    for x in slabs:
        first = x[0].copy() if first is None else first
        x -= first
        total += x.sum(axis=0)
        count += len(x)
    mean = total if first is None else first + total / count
    return _Means(count, mean, slabs.n_skipped, slabs.first_bad if slabs.n_skipped else None)


def _sum_panel(stretch: Stretch, mean: Array, out: Tiles, own: list[tuple[int, int]], fourth: bool) -> _Panel:
    """Sum the products of all finite cells that belong to some tiles, and write these."""
    grid = out.grid
    sums = {(i, j): np.zeros((grid.size(i), grid.size(j))) for i, j in own}
    work = np.empty(grid.tile**2)
    powers = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for x in _Slabs(stretch, len(mean)):
            x -= mean
            for (i, j), total in sums.items():
                product = work[: total.size].reshape(total.shape)
                np.matmul(x[:, grid.cut(i)].T, x[:, grid.cut(j)], out=product)
                total += product
            if fourth:
                squares = np.einsum("cg,cg->c", x, x)
                powers += float(squares @ squares)
        weights = {place: 1 if place[0] == place[1] else 2 for place in sums}
        squared = [weights[place] * float(np.vdot(total, total)) for place, total in sums.items()]
    finite = bool(np.isfinite(squared).all() and np.isfinite(powers))
    if finite:
        for (i, j), total in sums.items():
            out.write(i, j, total)
    diagonals = {i: np.diagonal(total).copy() for (i, j), total in sums.items() if i == j}
    return _Panel(diagonals, squared, powers if fourth else None, finite)


def _shrink(comoment: Tiles, sigma: Tiles, i: int, j: int, scale: float, ridge: float) -> None:
    values = comoment.read(i, j)
    values *= scale
    if i == j:
        values += np.tril(values, -1).T - np.triu(values, 1)  # symmetric to the last bit
        values[np.diag_indices_from(values)] += ridge
    sigma.write(i, j, values)
