"""One partition, start to finish: read, compute block by block, write, leave a receipt."""

from __future__ import annotations

import pickle
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.clusters.checks import essential_versions, version_problems, worker_address
from stabdask.errors import UnfitWorkerError
from stabdask.fields.storage import open_field_cached
from stabdask.kernels.eig import kernel_name
from stabdask.kernels.machine import machine_text
from stabdask.runs.block import BlockTimes, compute_block
from stabdask.runs.job import Job, RunSpec
from stabdask.runs.receipts import Receipt, write_receipt
from stabdask.runs.shapes import empty_arrays
from stabdask.runs.store import field_path, package_versions, write_partition
from stabdask.schema import VARIABLES, Status

__all__ = ["PartitionTask", "make_task", "run_partition", "run_task"]


@dataclass(frozen=True)
class PartitionTask:
    """All a worker needs for one partition; small, because data and field are opened by path.

    Attributes
    ----------
    store
        Path of the store, which also holds the field.
    spec
        What the run computes.
    partition
        Its number.
    attempt
        Which try this is.
    rows
        The partition's expression: the pickled Dask graph of just the chunks it needs, and their keys. Bytes,
        so that the scheduler does not take it apart; a graph of whole chunks, so that workers need not load
        dask.array, which takes them as long as a small run.
    skip
        Rows of the first of those chunks that belong to the partition before.
    model_codes
        ``(cell,)`` clusters of the field.
    label_codes
        ``(cell,)`` labels of the atlas.
    audited
        ``(cell,)``: whose iterated modes are compared with a dense spectrum.
    columns
        Positions of the field's genes in the atlas, or None.
    names
        ``(cell,)`` names, for messages.
    """

    store: str
    spec: RunSpec
    partition: int
    attempt: int
    rows: bytes
    skip: int
    model_codes: npt.NDArray[np.int32]
    label_codes: npt.NDArray[np.int32]
    audited: npt.NDArray[np.bool_]
    columns: npt.NDArray[np.intp] | None
    names: npt.NDArray[Any]


def make_task(job: Job, store: Path, partition: int, *, attempt: int = 1) -> PartitionTask:
    """Return the task of one partition."""
    import cloudpickle

    start, stop = job.spec.bounds(partition)
    graph, keys, skip = job.row_graph.rows(start, stop)
    names = job.cell_names
    return PartitionTask(
        store=str(store.absolute()),
        spec=job.spec,
        partition=partition,
        attempt=attempt,
        rows=cloudpickle.dumps((graph, keys)),
        skip=skip,
        model_codes=job.model_codes[start:stop],
        label_codes=job.label_codes[start:stop],
        audited=job.audited[start:stop],
        columns=job.columns,
        names=names[start:stop],
    )


def run_task(versions: Mapping[str, str | None], task: bytes) -> Receipt:
    """Do `run_partition` in a worker that may have joined after the others were checked.

    `task` is pickled, because a worker with another version might not even understand it.

    Raises
    ------
    UnfitWorkerError
        If versions here are not those of the client, or the store is not to be seen; the partition is none the worse.
    """
    host = socket.gethostname()
    problems = version_problems(essential_versions(), versions, f"the worker on {host}")
    if not problems:
        made: PartitionTask = pickle.loads(task)  # noqa: S301 - made by the client, which may run code here anyway
        if field_path(made.store).exists():
            return run_partition(made)
        problems = [f"the worker on {host} does not see the store at {made.store}"]
    error = UnfitWorkerError(
        f"{'; '.join(problems)}; it joined after the others were checked. Start workers from the environment of the "
        "client, where the file systems of the client are mounted"
    )
    error.worker = worker_address()
    raise error


def run_partition(task: PartitionTask) -> Receipt:
    """Compute and write one partition and return its receipt, which is written last.

    Raises
    ------
    InputError
        If expression is outside the domain of the field.
    OutputError
        If the store cannot be written.
    """
    begin = time.perf_counter()
    spec = task.spec
    start, stop = spec.bounds(task.partition)
    field = open_field_cached(str(field_path(task.store)), spec.field)
    out = empty_arrays(spec.options, field, stop - start, n_labels=len(spec.labels))
    times = BlockTimes()
    halvings = _gpu_halvings(spec)
    read_s = 0.0  # spent waiting for input; it is read one chunk ahead
    graph, keys = pickle.loads(task.rows)  # noqa: S301 - made by make_task, never read from a file
    reader = _blocks(graph, keys, slice(task.skip, task.skip + stop - start), spec.block_cells)
    while True:
        before = time.perf_counter()
        block = next(reader, None)
        read_s += time.perf_counter() - before
        if block is None:
            break
        first, pieces = block
        cells = slice(first, first + sum(len(piece) for piece in pieces))
        compute_block(
            pieces,
            task.model_codes[cells],
            field,
            spec.options,
            labels=task.label_codes[cells],
            columns=task.columns,
            cells=task.names[cells],
            audited=task.audited[cells],
            times=times,
            out={
                name: values if VARIABLES[name].per_partition else values[cells]
                for name, values in out.items()
            },
        )
    before = time.perf_counter()
    checksums = write_partition(task.store, spec, task.partition, out)
    seconds = asdict(times) | {"read_s": read_s, "write_s": time.perf_counter() - before}
    codes, counts = np.unique(out["status"], return_counts=True)
    receipt = Receipt(
        fingerprint=spec.fingerprint,
        partition=task.partition,
        start=start,
        stop=stop,
        attempt=task.attempt,
        backend=spec.options.backend,
        seconds={**seconds, "total_s": time.perf_counter() - begin},
        peak_bytes=peak_bytes(),
        status_counts={int(Status(c)): int(n) for c, n in zip(codes, counts, strict=True)},
        n_near_switch=_count_positive(out.get("near_switch_count")),
        n_gpu_halvings=_gpu_halvings(spec) - halvings,
        audit=_audit_counts(out),
        checksums=checksums,
        versions=package_versions(),
        hardware=machine_text(),
        kernel=kernel_name("cuda" if spec.options.on_gpu else spec.options.backend),
    )
    write_receipt(task.store, receipt)
    return receipt


def _blocks(
    graph: dict[Any, Any], keys: list[Any], rows: slice, block_cells: int
) -> Iterator[tuple[int, list[npt.NDArray[Any]]]]:
    """Yield the first row and the pieces of blocks of `block_cells`, computing each chunk once, one chunk ahead.

    `rows` of all chunks are those wanted; first rows are counted from there.
    """
    pieces: list[npt.NDArray[Any]] = []
    first = held = 0
    skip, left = rows.start, rows.stop - rows.start
    for whole in _chunks(graph, keys):
        chunk = whole[skip : skip + left]
        skip, left = 0, left - len(chunk)
        begin = 0
        while begin < len(chunk):
            piece = chunk[begin : begin + block_cells - held]
            pieces.append(piece)
            begin += len(piece)
            held += len(piece)
            if held == block_cells:
                yield first, pieces
                first, held, pieces = first + held, 0, []
        del chunk, whole
    if held:
        yield first, pieces


def _chunks(graph: dict[Any, Any], keys: list[Any]) -> Iterator[npt.NDArray[Any]]:
    """Compute the chunks in turn; while one is worked on, the next is read in a thread."""
    from dask.local import get_sync

    with ThreadPoolExecutor(1, thread_name_prefix="stabdask-read") as reader:
        ahead: Future[Any] | None = None
        for number in range(len(keys)):
            current = ahead or reader.submit(get_sync, graph, keys[number])
            ahead = reader.submit(get_sync, graph, keys[number + 1]) if number + 1 < len(keys) else None
            yield np.asarray(current.result())
            del current


def _count_positive(counts: npt.NDArray[Any] | None) -> int:
    return 0 if counts is None else int((counts > 0).sum())


def _gpu_halvings(spec: RunSpec) -> int:
    """Return how often this process has halved a batch for want of GPU memory."""
    if not spec.options.on_gpu:
        return 0
    from stabdask.kernels import cuda

    return cuda.halvings()


def _audit_counts(out: dict[str, npt.NDArray[Any]]) -> dict[str, float]:
    """Return how many cells were audited, modes missed, and the worst difference; empty without an audit."""
    if "audit_missed" not in out:
        return {}
    done = out["audit_missed"] >= 0
    return {
        "n_cells": int(done.sum()),
        "n_missed": int(out["audit_missed"][done].sum()),
        "worst_difference": float(np.fmax.reduce(out["audit_difference"], initial=0.0)),
    }


def peak_bytes() -> int:
    """Return the largest resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
