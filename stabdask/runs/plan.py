"""`plan`: what a run will take, before it starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any

from stabdask.clusters import worker_gpus
from stabdask.errors import MemoryBudgetError, UsageError
from stabdask.fields.base import Field
from stabdask.kernels.device import require_gpus
from stabdask.kernels.machine import cpu_count
from stabdask.rich import Rich
from stabdask.runs.estimates import rehearse
from stabdask.runs.job import Job, prepare
from stabdask.runs.sizing import block_bytes, output_bytes, sums_bytes, task_bytes
from stabdask.runs.store import count_files
from stabdask.sizes import bytes_hint, format_bytes, parse_memory

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Plan", "format_seconds", "gpu_request", "plan", "plan_job"]

_CLIENT_BYTES = 300 * 2**20
"""Resident memory of the process that runs client, scheduler and dashboard."""
_WORKER_BYTES = 240 * 2**20
"""Resident memory of an idle worker with everything imported, and of its share of helper processes."""
_GPU_WORKER_BYTES = 700 * 2**20
"""The same with CuPy, dask-cuda and a CUDA context: an estimate that no machine with a GPU has confirmed."""
_FILES_BESIDE = 60
"""Names, labels, parameters and the copy of the field, two or so each."""
_START_S = 3.0
"""From the command line to the first partition, and from the last to the report."""


@dataclass(frozen=True)
class Plan(Rich):
    """What a run will take.

    Attributes
    ----------
    n_cells, n_genes, n_regulators, largest_core
        Size of the problem.
    n_partitions, partition_cells, block_cells
        How it is cut.
    n_workers
        Worker processes.
    n_gpus
        GPUs they use, one each; 0 for a run on cores.
    memory_bytes
        The budget for the whole process tree, or None if none was given.
    peak_bytes
        Estimated peak resident memory of the whole process tree.
    worker_peak_bytes
        Estimated peak of one worker.
    worker_limit_bytes
        What a worker may take before it is restarted: its share of the budget.
    input_bytes
        Expression that will be read, dense.
    output_bytes
        Results before compression.
    stored_bytes
        Estimated size of the store, from compressing the results of a few cells; None without a look at the time.
    n_files
        Files the store will hold, within a few tens.
    seconds
        Estimated wall time, from reading, computing and compressing a few cells of this atlas now.
    backend
        Eigensolver backend.
    space
        What the field is over, in words.
    block_bytes
        Of the results, bytes of each quantity between chosen effectors and regulators.
    """

    n_cells: int
    n_genes: int
    n_regulators: int
    largest_core: int
    n_partitions: int
    partition_cells: int
    block_cells: int
    n_workers: int
    n_gpus: int
    memory_bytes: int | None
    peak_bytes: int
    worker_peak_bytes: int
    worker_limit_bytes: int
    input_bytes: int
    output_bytes: int
    stored_bytes: int | None
    n_files: int
    seconds: float
    backend: str
    space: str = ""
    block_bytes: dict[str, int] = dataclass_field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        budget = "" if self.memory_bytes is None else f" of {format_bytes(self.memory_bytes)} allowed"
        gpus = f" on {self.n_gpus} GPU(s)" if self.n_gpus else ""
        stored = (
            "" if self.stored_bytes is None else f", about {format_bytes(self.stored_bytes)} in the store"
        )
        blocks = [
            f"  of which   {format_bytes(n_bytes)} for {name} (10^{math.log10(max(1, n_bytes)):.1f} bytes)"
            for name, n_bytes in self.block_bytes.items()
        ]
        return "\n".join(
            (
                f"cells        {self.n_cells:,} x {self.space}, cores up to {self.largest_core} x "
                f"{self.largest_core} ({self.backend})",
                f"partitions   {self.n_partitions:,} of {self.partition_cells:,} cells, in blocks of "
                f"{self.block_cells:,}",
                f"workers      {self.n_workers}{gpus}, at most {format_bytes(self.worker_peak_bytes)} each",
                f"memory       {format_bytes(self.peak_bytes)}{budget}, all processes together",
                f"reads        {format_bytes(self.input_bytes)}",
                f"writes       {format_bytes(self.output_bytes)} before compression{stored}, {self.n_files:,} files",
                *blocks,
                f"time         about {format_seconds(self.seconds)}",
            )
        )


def plan(
    cells: xr.Dataset,
    field: Field,
    *,
    memory: int | str | None = None,
    workers: int | None = None,
    gpu: bool = False,
    **options: Any,
) -> Plan:
    """Work out what a run would take, without writing anything.

    Parameters
    ----------
    cells, field
        As for `stabdask.run`.
    memory
        Budget for the whole process tree, bytes or e.g. ``"4GB"``.
    workers
        Worker processes, 0 for this process alone; as many as there are cores and the budget allows, if not
        given.
    gpu
        As for `stabdask.run`; the estimated time then comes from the first GPU.
    **options
        As for `stabdask.stability`.

    Returns
    -------
    Plan

    Raises
    ------
    MemoryBudgetError
        If the budget is too small; the message says the least that works.
    BackendUnavailableError
        If a GPU was asked for and cannot be used.
    """
    n_gpus, options = gpu_request(options, gpu=gpu, workers=workers)
    job = prepare(cells, field, **options)
    return plan_job(job, memory=memory, workers=workers, n_gpus=n_gpus, timed=True)


def gpu_request(
    options: dict[str, Any], *, gpu: bool, workers: int | None, client: object = None
) -> tuple[int, dict[str, Any]]:
    """Return how many GPUs a run may use (0 without `gpu`), and its options with the backend that this implies.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU, or no dask-cuda to start workers with.
    UsageError
        If more workers are asked for than there are GPUs, or a client has workers already.
    """
    if not gpu:
        return 0, options
    if client is not None:
        raise UsageError("gpu starts workers; with a client, which has its own, give backend='cuda' instead")
    n_gpus = len(require_gpus()[:1] if workers == 0 else worker_gpus())
    if workers is not None and workers > n_gpus:
        raise UsageError(f"workers={workers}, but {n_gpus} GPU(s) are visible; expected one per GPU at most")
    named = options.get("backend", "auto")
    return n_gpus, {**options, "backend": "auto:cuda" if named == "auto" else named}


def plan_job(
    job: Job,
    *,
    memory: int | str | None = None,
    workers: int | None = None,
    n_gpus: int = 0,
    timed: bool = False,
    most_workers: int | None = None,
) -> Plan:
    """Work out what a checked job would take; see `plan`.

    No more than `most_workers` are planned unless more are asked for: a call that computes some partitions only.
    Without `timed` no cell is solved, so that this process leaves GPUs alone; the seconds are NaN then.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"workers={workers}; expected 0 (this process) or more")
    spec, field = job.spec, job.field
    budget = None if memory is None else parse_memory(memory)
    n_labels = len(spec.labels)
    task = task_bytes(job.expression, field, spec.options, spec.partition_cells, spec.block_cells, n_labels)
    idle = _GPU_WORKER_BYTES if n_gpus else _WORKER_BYTES
    per_worker = task + (idle - _WORKER_BYTES if workers == 0 else idle)
    # Names, codes and annotations of all cells are held by the client, these as values and as codes.
    annotations = sum(annotation.values.nbytes for annotation in job.annotations)
    client = _CLIENT_BYTES + 200 * spec.n_cells + 3 * annotations
    least_workers = max(1, workers or 1)
    useful = spec.n_partitions if most_workers is None else max(1, min(most_workers, spec.n_partitions))
    wanted = min(n_gpus or cpu_count(), useful) if workers is None else workers
    if budget is not None:
        affordable = (budget - client) // per_worker
        if affordable < least_workers:
            least = client + least_workers * per_worker
            fewer = f", or {format_bytes(client + per_worker)} with one worker" if least_workers > 1 else ""
            raise MemoryBudgetError(
                f"a memory budget of {format_bytes(budget)} is too small{bytes_hint(memory)}; the least that works is "
                f"{format_bytes(least)} for {least_workers} worker(s){fewer} (client and scheduler "
                f"{format_bytes(client)}, each worker {format_bytes(per_worker)})"
            )
        wanted = min(wanted, int(affordable))
    stored = output_bytes(field, spec.options) * spec.n_cells + annotations
    stored += sums_bytes(field, spec.options, n_labels) * spec.n_partitions
    cell = rehearse(job, on_gpu=n_gpus > 0) if timed else None
    # More workers than cores share them.
    at_once = max(1, wanted) if n_gpus else max(1, min(wanted, cpu_count()))
    return Plan(
        n_cells=spec.n_cells,
        n_genes=spec.n_genes,
        n_regulators=len(field.regulator_index),
        largest_core=field.largest_core,
        n_partitions=spec.n_partitions,
        partition_cells=spec.partition_cells,
        block_cells=spec.block_cells,
        n_workers=wanted,
        n_gpus=min(n_gpus, max(1, wanted)),
        memory_bytes=budget,
        peak_bytes=client + max(1, wanted) * per_worker,
        worker_peak_bytes=per_worker,
        worker_limit_bytes=0 if budget is None else (budget - client) // max(1, wanted),
        input_bytes=int(job.expression.nbytes),
        output_bytes=stored,
        stored_bytes=None if cell is None else int(cell.stored_bytes * spec.n_cells) + annotations,
        n_files=count_files(spec, field) + _FILES_BESIDE,
        seconds=math.nan if cell is None else cell.seconds * spec.n_cells / at_once + _START_S,
        backend=spec.options.backend,
        space=field.space,
        block_bytes=block_bytes(field, spec.options, spec.n_cells),
    )


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it.

    Examples
    --------
    >>> format_seconds(75), format_seconds(7322)
    ('1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
