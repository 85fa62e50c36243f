"""Co-moments of an atlas: one pass over its blocks, in stretches that do not depend on the workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.groups import cell_label_names, group_cells
from stabdask.analysis.network.moment_checks import check_dtype, checked_genes, not_finite
from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.sums import Accumulator, Sums, joined, slab_rows
from stabdask.checks import refuse_asynchronous, refuse_persisted
from stabdask.errors import (
    InputError,
    MemoryBudgetError,
    MissingKeyError,
    StabdaskWarning,
    UsageError,
    near_misses,
)
from stabdask.kernels.arrays import XArray
from stabdask.kernels.cuda_modules import on_gpu
from stabdask.kernels.device import require_gpus
from stabdask.kernels.rows import finite_rows
from stabdask.kernels.threads import single_threaded_blas
from stabdask.row_blocks import RowGraph

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = ["Stretch", "expression_blocks", "moments_of_cells", "named_error"]

Codes = npt.NDArray[np.intp]

_STRETCHES = 256
_STRETCH_CELLS = 8_192
_STRETCH_CELLS_OF_LABEL = 2_048
_SAME_BLOCK_CELLS = 1_024
_GPU_THREADS = 2
"""Of this process that share a GPU: one reads while the other's slab is multiplied."""


class NotFiniteError(InputError):
    """A cell that is not finite, at the position that is the only argument."""

    def __str__(self) -> str:
        return f"the expression of cell number {self.args[0]:,} is not finite"


class Stretch:
    """Some cells that follow each other: the Dask graph of the blocks that hold them.

    Not a dataclass: Dask would take one apart, and compute all blocks before the task that walks them.
    """

    def __init__(self, rows: RowGraph, start: int, stop: int, codes: Codes) -> None:
        self.graph, self.keys, self.skip = rows.rows(start, stop)
        self.start, self.stop = start, stop
        self.codes = codes[start:stop]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[Any], Codes]]:
        """Yield position of the first cell, cells and codes of one block after the other."""
        from dask.local import get_sync

        begin, skip = self.start, self.skip
        for key in self.keys:
            block = get_sync(self.graph, key)[skip : skip + self.stop - begin]
            block = np.asarray(block.toarray() if hasattr(block, "toarray") else block)
            skip = 0
            yield begin, block, self.codes[begin - self.start :][: len(block)]
            begin += len(block)


@dataclass
class Collected:
    """Sums and skipped cells of every label, of some stretches."""

    sums: list[Sums]
    n_skipped: npt.NDArray[np.int64]


def moments_of_cells(
    cells: xr.Dataset, by: str | None, *, client: Any, fourth: bool, missing: str, gpu: bool
) -> CoMoments | dict[Any, CoMoments]:
    """Return what `CoMoments.from_cells` does."""
    from dask.delayed import delayed

    refuse_asynchronous(client)
    x, genes = expression_blocks(cells)
    refuse_persisted(x)
    codes, labels = _labels(cells, by)
    if client is None:
        if gpu:
            require_gpus()
        _check_memory(len(genes), len(labels))
    n_cells = x.shape[0]
    least = max(_STRETCH_CELLS, _STRETCH_CELLS_OF_LABEL * len(labels), -(-n_cells // _STRETCHES))
    rows_of = RowGraph(x)
    stretches = [
        Stretch(rows_of, start, min(start + least, n_cells), codes) for start in range(0, n_cells, least)
    ]
    rows = min(n_cells, slab_rows(len(genes), len(labels)))
    collect, join = delayed(_collect, pure=False), delayed(_join, pure=False)
    parts = [
        collect(stretch, len(genes), len(labels), rows, fourth, missing == "skip", gpu)
        for stretch in stretches
    ]
    while len(parts) > 1:
        parts = [join(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    try:
        (total,) = _computed(parts, client, n_threads=_GPU_THREADS if gpu else None)
    except NotFiniteError as error:
        # Of stretches that are walked at the same time, the one that failed first need not be the first.
        before = [s for s in stretches if s.start <= int(error.args[0])]
        find = delayed(_first_not_finite, pure=False)
        found = [
            position for position in _computed([find(s) for s in before], client) if position is not None
        ]
        raise named_error(cells, min([int(error.args[0]), *found])) from None
    made = [
        CoMoments.from_sums(sums, genes, n_skipped=int(skipped))
        for sums, skipped in zip(total.sums, total.n_skipped, strict=True)
    ]
    return made[0] if by is None else dict(zip(labels, made, strict=True))


def _check_memory(n_genes: int, n_labels: int) -> None:
    """Raise where the result, and as much beside it, cannot fit in this machine.

    Raises
    ------
    MemoryBudgetError
        If they do not.
    """
    import psutil

    needed = 8 * n_genes**2 * (2 * n_labels + 1)
    there = int(psutil.virtual_memory().available)
    if needed > there:
        sets = "" if n_labels == 1 else f" for each of {n_labels:,} labels"
        raise MemoryBudgetError(
            f"co-moments of {n_genes:,} genes{sets} take at least {needed / 1e9:,.1f} GB, and {there / 1e9:,.1f} GB "
            "are available; choose genes with open_cells(genes=...), or a label with fewer values"
        )


def _collect(
    stretch: Stretch, n_genes: int, n_labels: int, rows: int, fourth: bool, skip: bool, gpu: bool
) -> Collected:
    n_skipped = np.zeros(n_labels, dtype=np.int64)
    with single_threaded_blas(), _memory_for_products(n_genes, n_labels, gpu) as work:
        own = [Accumulator(n_genes, fourth=fourth, rows=rows, work=work) for _ in range(n_labels)]
        for begin, block, codes in stretch.blocks():
            used = codes >= 0
            finite = finite_rows(block)
            bad = np.flatnonzero(used & ~finite)
            if len(bad):
                if not skip:
                    raise NotFiniteError(begin + int(bad[0]))
                n_skipped += np.bincount(codes[bad], minlength=n_labels)
                used &= finite
            for label in np.unique(codes[used]):
                members = used & (codes == label)
                own[label].add(block if members.all() else block[members])
        return Collected([one.result() for one in own], n_skipped)


@contextmanager
def _memory_for_products(n_genes: int, n_labels: int, gpu: bool) -> Iterator[XArray]:
    """Give what `Accumulator` multiplies in: memory of the host, or of the GPU, whose errors are put into words."""
    if not gpu:
        yield np.empty((n_genes, n_genes))
        return
    sets = "" if n_labels == 1 else f" for each of {n_labels:,} labels"
    with on_gpu(
        f"one co-moment matrix of {n_genes:,} genes{sets}",
        "choose genes with open_cells(genes=...), a label with fewer values, or gpu=False",
    ) as cupy:
        yield cupy.empty((n_genes, n_genes))


def _join(a: Collected, b: Collected) -> Collected:
    with single_threaded_blas():
        sums = [joined(one, other) for one, other in zip(a.sums, b.sums, strict=True)]
    return Collected(sums, a.n_skipped + b.n_skipped)


def _first_not_finite(stretch: Stretch) -> int | None:
    for begin, block, codes in stretch.blocks():
        bad = np.flatnonzero((codes >= 0) & ~finite_rows(block))
        if len(bad):
            return begin + int(bad[0])
    return None


def _computed(parts: list[Any], client: Any, n_threads: int | None = None) -> list[Any]:
    from dask import config
    from dask.base import compute

    if client is not None:
        return list(client.compute(parts, sync=True))
    with config.set({} if n_threads is None else {"num_workers": n_threads}):
        return list(compute(*parts))


def named_error(cells: xr.Dataset, position: int) -> InputError:
    """Return the error about the cell at `position`, which is not finite."""
    n_cells = cells.sizes["cell"]
    name = repr(str(cells["cell"].to_numpy()[position])) + ", " if "cell" in cells.coords else ""
    return not_finite(f"{name}number {position:,} of {n_cells:,}", "cell")


def expression_blocks(cells: xr.Dataset) -> tuple[da.Array, npt.NDArray[np.str_]]:
    """Return the expression (or coordinates) in blocks of whole rows, and the names of genes (or axes)."""
    import dask.array as da

    for name in ("expression", "coordinates"):
        if name in getattr(cells, "variables", {}):
            state = cells[name]
            break
    else:
        raise MissingKeyError(
            "the cells have neither 'expression' nor 'coordinates'; expected a Dataset from open_cells"
        )
    if state.ndim != 2 or state.dims[0] != "cell":
        raise InputError(f"{name} of the cells has dimensions {state.dims}; expected ('cell', 'gene')")
    if not state.shape[0] or not state.shape[1]:
        raise InputError(
            f"{name} of the cells has shape {state.shape}; expected at least one cell and one gene"
        )
    check_dtype(state.dtype)
    dim = str(state.dims[1])
    genes = checked_genes(cells[dim].to_numpy() if dim in cells.coords else None, state.shape[1])
    if not isinstance(state.data, da.Array):
        return da.from_array(np.asarray(state.data), chunks=(_SAME_BLOCK_CELLS, -1)), genes
    return state.data.rechunk({1: -1}) if len(state.data.chunks[1]) > 1 else state.data, genes


def _labels(cells: xr.Dataset, by: str | None) -> tuple[Codes, list[Any]]:
    """Return the number of every cell's label, -1 for none, and the labels that cells have."""
    import xarray as xr

    if by is None:
        return np.zeros(cells.sizes["cell"], dtype=np.intp), [None]
    if not isinstance(by, str):
        raise UsageError(f"by={by!r}; expected the name of one label, e.g. 'cluster'")
    if by not in cells.variables or cells[by].dims != ("cell",):
        known = [name for name in cell_label_names(cells) if name in cells.variables]
        raise MissingKeyError(f"no label {by!r} for cells; {near_misses(by, known, noun='labels')}")
    attrs = {**cells[by].attrs, "annotation": "label"} if by == "cluster" else cells[by].attrs
    values = xr.Dataset({"label": ("cell", cells[by].to_numpy(), attrs)})
    groups = group_cells(values, "label")
    present = np.unique(groups.codes[groups.codes >= 0])
    if not len(present):
        raise InputError(f"no cell has a label in {by!r}; expected at least one")
    n_left_out = int((groups.codes < 0).sum())
    if n_left_out:
        warnings.warn(
            f"{n_left_out:,} of {len(groups.codes):,} cells have no label in {by!r}: they are left out",
            StabdaskWarning,
            stacklevel=4,
        )
    position = np.full(groups.n_groups + 1, -1, dtype=np.intp)
    position[present] = np.arange(len(present))
    return position[groups.codes], groups.labels[0][present].tolist()
