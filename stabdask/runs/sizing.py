"""How many cells go into a block and a partition, and what a partition takes in memory and on disk.

Sizes depend on the data, the field and the options alone, never on workers or memory, so that the bytes of a
store do not either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stabdask.fields.base import Field
from stabdask.kernels.lanczos import BASIS_BYTES as REACTIVITY_BYTES
from stabdask.kernels.lanczos import DENSE_ORDER
from stabdask.runs.between import BETWEEN_BYTES
from stabdask.runs.calculus import ALONG_PATH
from stabdask.runs.modes import EDGE_BYTES
from stabdask.runs.options import Options
from stabdask.runs.shapes import batch_cells, output_shapes
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["block_and_partition", "block_bytes", "chunk_cells", "output_bytes", "sums_bytes", "task_bytes"]

_BLOCK_BYTES = 96 * 2**20
_PARTITION_BYTES = 64 * 2**20
_CHUNK_BYTES = 16 * 2**20
_MOST_CELLS = 8192
_FEWEST_CELLS = 128
_PARTITIONS_WANTED = 32
_GATHER_BYTES = 24 * 2**20
"""Cores that are formed a few megabytes at a time, with temporaries."""
_LANES_BYTES = 5 * 64
"""Bytes of the compiled solver per entry of the largest core: five matrices, one cache line an entry."""

_PATH_COPIES = 5
"""Vectors over all axes that a cell has while its velocity, acceleration and curvature are worked out."""


def output_bytes(field: Field, options: Options) -> int:
    """Return the bytes one cell takes in memory, over all variables that have an entry for each."""
    return _bytes(field, options, per_partition=False)


def sums_bytes(field: Field, options: Options, n_labels: int) -> int:
    """Return the bytes that sums over the cells of a partition take, for `n_labels` cluster labels."""
    return _bytes(field, options, per_partition=True, n_labels=n_labels)


def block_bytes(field: Field, options: Options, n_cells: int) -> dict[str, int]:
    """Return the bytes of each quantity that every cell has between chosen effectors and regulators."""
    names = [
        name
        for name in options.variables()
        if VARIABLES[name].dims[-2:] == ("block_effector", "block_regulator")
    ]
    shapes = output_shapes(options, field, n_cells)
    return {
        name: int(np.prod(shapes[name], dtype=np.int64)) * VARIABLES[name].dtype(options.dtype).itemsize
        for name in names
        if not VARIABLES[name].per_partition
    }


def _bytes(field: Field, options: Options, *, per_partition: bool, n_labels: int = 0) -> int:
    shapes = output_shapes(options, field, 1, n_labels=n_labels)
    return int(
        sum(
            np.prod(shape, dtype=np.int64) * VARIABLES[name].dtype(options.dtype).itemsize
            for name, shape in shapes.items()
            if VARIABLES[name].per_partition == per_partition
        )
    )


def block_and_partition(
    expression: da.Array, field: Field, options: Options, partition_cells: int | None
) -> tuple[int, int]:
    """Return the cells in a block and in a partition.

    A partition is a power-of-two number of chunks of the input where they are regular: small enough to be lost
    without regret, large enough for the store's own. A block is some of its chunks (at most half of them for a CPU,
    so that the next are read meanwhile), or an equal part of one.
    """
    n_cells = expression.shape[0]
    out = output_bytes(field, options)
    working = out + field.cell_bytes(expression.dtype.itemsize)
    most = max(1, _BLOCK_BYTES // working)
    limit = max(1, min(_PARTITION_BYTES // out, _MOST_CELLS))
    target = _power_of_two(min(max(n_cells // _PARTITIONS_WANTED, _FEWEST_CELLS), limit))
    if partition_cells is not None:
        return min(partition_cells, most), partition_cells
    chunks = expression.chunks[0]
    chunk = int(chunks[0])
    regular = len(chunks) > 1 and len(set(chunks[:-1])) == 1 and chunks[-1] <= chunk
    if not regular or chunk > limit:
        return min(_power_of_two(most), target), target
    n_chunks = _power_of_two(max(1, target // chunk))
    # A GPU has work for all cells of a partition at once.
    joined = min(most // chunk, n_chunks if options.on_gpu else n_chunks // 2)
    block = chunk * _power_of_two(joined) if joined > 1 else -(-chunk // -(-chunk // most))
    return block, chunk * n_chunks


def chunk_cells(partition_cells: int, row_bytes: int) -> int:
    """Return how many cells a Zarr chunk holds: a divisor of the partition, of at most 16 MB if it can be."""
    rows = partition_cells
    while rows * row_bytes > _CHUNK_BYTES and rows % 2 == 0:
        rows //= 2
    if rows * row_bytes > 4 * _CHUNK_BYTES:
        divisors = [d for d in range(1, rows) if rows % d == 0 and d * row_bytes <= _CHUNK_BYTES]
        rows = divisors[-1] if divisors else 1
    return rows


def task_bytes(
    expression: da.Array, field: Field, options: Options, partition_cells: int, block: int, n_labels: int = 1
) -> int:
    """Return the memory one partition takes in a worker at its peak, beyond what an idle worker holds."""
    n_genes = expression.shape[1]
    chunk = max(expression.chunks[0]) * n_genes * expression.dtype.itemsize
    out = output_bytes(field, options)
    k = max(1, field.largest_core)
    batch = min(batch_cells(options, field), block)
    solver = _GATHER_BYTES + _LANES_BYTES * (k + 2) ** 2
    if options.iterates:
        from stabdask.runs.leading import BASIS_BYTES, leading_batch_cells

        batch = leading_batch_cells(options, field)
        # Bases in two precisions for a while, and one dense core of an audited cell with LAPACK's copies.
        cores = int(1.5 * BASIS_BYTES) + 6 * 8 * k * k
    elif options.solved_vectors == "none":
        # Cores are solved a few megabytes at a time, or never formed.
        cores = solver + batch * 8 * (4 * len(field.regulator_index) * (not options.whole_cores) + 6 * k)
    else:
        cores = solver + 12 * batch * k * k * 8
    lifted = batch * options.vector_modes(field) * field.n_genes * 16
    vectors = 0 if options.solved_vectors == "none" else 5 * lifted
    if "reactivity" in options.quantities:
        # Bases of an iteration, or one dense matrix that it does not find the eigenvalue of, and copies.
        dense = 4 * 8 * field.n_genes**2 if field.n_genes <= DENSE_ORDER else 0
        vectors = max(vectors, 3 * REACTIVITY_BYTES, dense)
    if "sensitivity" in options.quantities:
        vectors += 3 * max(EDGE_BYTES, 8 * len(field.regulator_index) ** 2)
    closed = block * field.cell_bytes(expression.dtype.itemsize)
    if ALONG_PATH & set(options.quantities):
        closed += block * _PATH_COPIES * 8 * len(field.axes)
    # Whole cores are kept while they are solved; others are formed for it.
    solved = closed + cores + vectors if options.whole_cores else max(closed, cores + vectors)
    solved += _between_bytes(options)
    # The chunk is held while it is made dense and cut, and so are those that make up a block; results are held
    # once more while they are written.
    joined = max(0, block - max(expression.chunks[0])) * n_genes * expression.dtype.itemsize
    return int(
        2 * (chunk + joined)
        + solved
        + block * out
        + partition_cells * out * 1.5
        # Compressed for the store, and three products of matrices of that size on the way.
        + 2 * sums_bytes(field, options, n_labels)
        + field.n_bytes
    )


def _between_bytes(options: Options) -> int:
    """Return what quantities between chosen genes take on the way: at least those of one cell, in several copies."""
    found = 0
    if options.effectors:
        copies = 8 if {"jacobian_mean", "response_mean"} & set(options.quantities) else 5
        found = copies * max(BETWEEN_BYTES, 8 * len(options.effectors) * len(options.regulators))
    if "dynamo_sensitivity" in options.quantities:
        # Inverses are of all genes that are either; of these it is half as many that are worked on together.
        n_genes = len({*options.effectors, *options.regulators})
        found = max(found, 6 * max(BETWEEN_BYTES // 2, 8 * n_genes**2))
    return found


def _power_of_two(n: int) -> int:
    return 1 << (max(1, n).bit_length() - 1)
