"""How long a run will take and how large its store will be, from doing all of it to a few of its cells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.runs.block import compute_block
from stabdask.runs.job import Job
from stabdask.runs.shapes import empty_arrays
from stabdask.runs.store import array_checksum, create_arrays
from stabdask.schema import VARIABLES

__all__ = ["Rehearsal", "rehearse"]

_FEWEST_CELLS = 8
_LONG_ENOUGH_S = 0.3
"""What is timed takes at least this long, or is a whole block."""
_GPU_CELLS = 1024
"""A GPU shows its speed on a full batch only."""
_WRITTEN_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Rehearsal:
    """What a cell takes.

    Attributes
    ----------
    read_s, compute_s, write_s
        Seconds of one core: reading its expression (from wherever it came from just now), computing it, and
        compressing its results with their checksums. Forcing them to disk is not in it.
    stored_bytes
        Of its results, compressed.
    """

    read_s: float
    compute_s: float
    write_s: float
    stored_bytes: float

    @property
    def seconds(self) -> float:
        """Seconds of one core, all together."""
        return self.read_s + self.compute_s + self.write_s


def rehearse(job: Job, *, on_gpu: bool = False) -> Rehearsal:
    """Compute and compress the cells that the look before a run kept, as a worker would.

    Parameters
    ----------
    job
        A checked job.
    on_gpu
        Whether cells are computed on a GPU.

    Returns
    -------
    Rehearsal
    """
    n_sample, most = len(job.sample.rows), job.spec.block_cells
    _compute(
        job, np.arange(min(n_sample, most, _FEWEST_CELLS))
    )  # what is loaded or compiled at the first call
    compute_s = 0.0
    for rows in _growing(n_sample, most, _GPU_CELLS if on_gpu else _FEWEST_CELLS):
        begin = time.perf_counter()
        _compute(job, rows)
        elapsed = time.perf_counter() - begin
        compute_s = elapsed / len(rows)
        if elapsed >= _LONG_ENOUGH_S:
            break
    write_s, stored = _written(job, _compute(job, np.arange(min(n_sample, most))))
    return Rehearsal(job.sample.read_s, compute_s, write_s, stored)


def _growing(n_sample: int, most: int, first: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield positions in a sample, more each time; where it has too few, some of them again."""
    n = min(first, most)
    while True:
        spread = np.linspace(0, n_sample - 1, min(n, n_sample)).astype(np.intp)
        yield np.resize(spread, n)
        if n == most:
            return
        n = min(4 * n, most)


def _compute(job: Job, rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[np.generic]]:
    cells = job.sample.rows[rows]
    out = empty_arrays(job.spec.options, job.field, len(rows), n_labels=len(job.spec.labels))
    return compute_block(
        job.sample.expression[rows],
        job.model_codes[cells],
        job.field,
        job.spec.options,
        labels=job.label_codes[cells],
        columns=job.columns,
        out=out,
    )


def _written(job: Job, arrays: dict[str, npt.NDArray[np.generic]]) -> tuple[float, float]:
    """Return the seconds of writing the results of a cell into memory, and the bytes they take there."""
    from numcodecs import blosc

    spec = job.spec
    blosc.use_threads = False
    n_cells = len(next(values for name, values in arrays.items() if not VARIABLES[name].per_partition))
    group = _in_memory(job, n_cells)
    stored = 0.0
    for name, values in arrays.items():
        group[name][...] = values
        # One set of sums for every partition, one row for every cell.
        n_owners = spec.partition_cells if VARIABLES[name].per_partition else n_cells
        stored += group[name].nbytes_stored() / n_owners
    # For the time, as many rows as a partition has: each array has costs of its own.
    row_bytes = sum(v.nbytes for name, v in arrays.items() if not VARIABLES[name].per_partition) / n_cells
    n_rows = int(max(1, min(spec.partition_cells, _WRITTEN_BYTES / max(1.0, row_bytes))))
    whole = {
        name: values if VARIABLES[name].per_partition else values[np.arange(n_rows) % n_cells]
        for name, values in arrays.items()
    }
    group = _in_memory(job, n_rows)
    targets = {name: group[name] for name in whole}
    begin = time.perf_counter()
    for name, values in whole.items():
        targets[name][...] = values
        array_checksum(values)
    return (time.perf_counter() - begin) / n_rows, stored


def _in_memory(job: Job, n_cells: int) -> Any:
    """Return the arrays of a store of one partition, in memory."""
    import zarr

    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=3)
    create_arrays(group, replace(job.spec, n_cells=n_cells, partition_cells=n_cells), job.field)
    return group
