"""`run`: the durable job: partitions on workers, receipts, resume."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.errors import (
    DamagedStoreError,
    MissingFileError,
    OutputError,
    RunFailedError,
    StabdaskError,
    StoreMismatchError,
    UsageError,
)
from stabdask.fields.storage import open_field_cached
from stabdask.files import sweep_beside
from stabdask.runs.executors import open_executor
from stabdask.runs.job import Job, RunSpec, prepare
from stabdask.runs.losses import failure_hint
from stabdask.runs.partition import PartitionTask, make_task
from stabdask.runs.plan import format_bytes, gpu_request, plan_job
from stabdask.runs.progress import Progress, ProgressWriter
from stabdask.runs.receipts import Receipt, mend_receipt_folder, read_receipts, store_lock, sweep_leftovers
from stabdask.runs.repair import Repair, backend_of_receipts, repair_attributes, repair_store
from stabdask.runs.run_report import RunReport, make_report
from stabdask.runs.sizing import block_bytes
from stabdask.runs.store import create_store, field_path, read_spec, writable

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from stabdask.fields.base import Field

__all__ = ["finished_partitions", "run", "run_job"]


def run(
    cells: xr.Dataset,
    field: Field,
    store: str | Path,
    *,
    client: Client | None = None,
    memory: int | str | None = None,
    workers: int | None = None,
    gpu: bool = False,
    partitions: Sequence[int] | None = None,
    progress: bool | Callable[[Progress], None] = True,
    dashboard: bool = True,
    repair: bool = False,
    missing_cluster: str = "error",
    partition_cells: int | None = None,
    **options: Any,
) -> RunReport:
    """Compute the stability of every cell into a durable store.

    Running the same call again resumes: partitions with a receipt are not computed again. A store that belongs
    to another run is refused, never overwritten.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    field
        From `stabdask.read_field`.
    store
        Path of the Zarr store to make or to resume.
    client
        A `distributed.Client`; worker processes on this host if not given.
    memory
        Budget for all processes together (only without `client`), in bytes or e.g. ``"4GB"``.
    workers
        Worker processes (only without `client`); 0 computes in this process.
    gpu
        One worker per GPU of this host (only without `client`); implies backend ``"cuda"``, or ``"krylov:cuda"`` for
        leading modes of large cores, if none is named.
    partitions
        Compute only these partitions, in this order.
    progress
        True for a bar on stderr, or a function called with a `Progress`.
    dashboard
        Whether to serve Dask's dashboard on loopback (only without `client`).
    repair
        First look for damage: the checksums of all finished partitions, their receipts, and what the store holds
        beside results. What is damaged is computed or written again, and named in the report.
    missing_cluster, partition_cells
        See `stabdask.runs.job.prepare`.
    **options
        See `stabdask.stability`.

    Returns
    -------
    RunReport

    Raises
    ------
    InputError
        If cells and field do not fit together; nothing has been written unless the message names a cell that
        only a full look at a large atlas could find.
    StoreMismatchError
        If the store belongs to another run.
    StoreLockedError
        If another run is writing to it.
    DamagedStoreError
        If what a run needs of the store is damaged; the message says what to do.
    OutputError
        If the store cannot be written, for want of room say.
    RunFailedError
        If partitions failed; what was finished is kept.
    BackendUnavailableError
        If the backend or, with `gpu`, what it takes to use a GPU is missing; nothing has been written.
    """
    n_gpus, options = gpu_request(options, gpu=gpu, workers=workers, client=client)
    options = _with_recorded_backend(options, Path(store), repair=repair)
    job = prepare(cells, field, missing_cluster=missing_cluster, partition_cells=partition_cells, **options)
    return run_job(
        job,
        store,
        client=client,
        memory=memory,
        workers=workers,
        n_gpus=n_gpus,
        partitions=partitions,
        progress=progress,
        dashboard=dashboard,
        repair=repair,
    )


def run_job(
    job: Job,
    store: str | Path,
    *,
    client: Client | None = None,
    memory: int | str | None = None,
    workers: int | None = None,
    n_gpus: int = 0,
    partitions: Sequence[int] | None = None,
    progress: bool | Callable[[Progress], None] = True,
    dashboard: bool = True,
    repair: bool = False,
) -> RunReport:
    """Run a checked job, on the first `n_gpus` GPUs of this host if there are any; see `run`."""
    begin = time.monotonic()
    path = Path(store)
    spec = job.spec
    order = _order(partitions, spec.n_partitions)
    if client is not None and (memory is not None or workers is not None):
        raise UsageError(
            "memory and workers are those of the client's cluster; expected neither beside client"
        )
    plan = plan_job(job, memory=memory, workers=workers, n_gpus=n_gpus) if client is None else None
    show = ProgressWriter() if progress is True else (progress or None)
    rewritten = _make_or_match(path, job, repair=repair)
    with store_lock(path):
        sweep_leftovers(path)
        found = repair_store(path, job, metadata=rewritten) if repair else Repair()
        if repair and isinstance(show, ProgressWriter):
            show.message(str(found))
        _check_field(path, job)
        receipts = read_receipts(path, spec.fingerprint)
        todo = [number for number in order if number not in receipts]
        n_workers = 0
        n_new = 0
        if todo:
            tally = _Tally(receipts, spec.n_cells, begin, show)
            with open_executor(client, plan, show, dashboard) as executor:
                n_workers = executor.n_workers
                tally.start()
                for receipt in executor.map(_tasks(job, path, todo)):
                    tally.add(receipt)
                failures = executor.failures
            n_new = tally.n_new
            # What a worker left behind that was killed in the middle of a file.
            sweep_leftovers(path)
            if failures:
                raise _failed(failures, path)
    return make_report(path, job, receipts, len(todo), n_workers, n_new, time.monotonic() - begin, found)


def finished_partitions(
    cells: xr.Dataset,
    field: Field,
    store: str | Path,
    *,
    workers: int | None = None,
    gpu: bool = False,
    missing_cluster: str = "error",
    partition_cells: int | None = None,
    **options: Any,
) -> int | None:
    """Return how many partitions of a run are in a store already, None if there is no store; see `run`.

    Raises
    ------
    StoreMismatchError
        If the store belongs to another run.
    OutputError
        If there is none, and it could not be made there.
    """
    path = Path(store)
    _, options = gpu_request(options, gpu=gpu, workers=workers)
    options = _with_recorded_backend(options, path)
    job = prepare(cells, field, missing_cluster=missing_cluster, partition_cells=partition_cells, **options)
    if not path.exists():
        writable(path.parent)
        return None
    _match(path, job)
    return len(read_receipts(path, job.spec.fingerprint))


def _with_recorded_backend(options: dict[str, Any], path: Path, *, repair: bool = False) -> dict[str, Any]:
    """Let a run that is resumed use the backend it began with, whatever this machine would choose today."""
    if options.get("backend", "auto") != "auto" or not path.exists():
        return options
    try:
        return {**options, "backend": read_spec(path).options.backend}
    except StabdaskError:
        # What is wrong with the store is said where it is opened.
        backend = backend_of_receipts(path) if repair else None
        return options if backend is None else {**options, "backend": backend}


def _order(partitions: Sequence[int] | None, n_partitions: int) -> list[int]:
    if partitions is None:
        return list(range(n_partitions))
    order = list(dict.fromkeys(int(number) for number in partitions))
    wrong = [number for number in order if not 0 <= number < n_partitions]
    if wrong:
        raise UsageError(f"partition {wrong[0]} does not exist; expected 0 to {n_partitions - 1}")
    return order


def _make_or_match(path: Path, job: Job, *, repair: bool) -> dict[str, str]:
    """Make the store if there is none; refuse one that belongs to another run. Return what was repaired, and why."""
    rewritten: dict[str, str] = {}
    if not path.exists():
        writable(path.parent)
        sweep_beside(path)
        _refuse_without_room(path, job)
        create_store(path, job)
    elif repair:
        rewritten = repair_attributes(path, job)
    _match(path, job)
    if repair and mend_receipt_folder(path):
        rewritten["receipts"] = "its description is not that of the run"
    return rewritten


def _check_field(path: Path, job: Job) -> None:
    """Refuse a damaged copy of the field before workers stumble over it."""
    # What this process read in an earlier run says nothing of what is on disk now.
    open_field_cached.cache_clear()
    try:
        open_field_cached(str(field_path(path)), job.spec.field)
    except (DamagedStoreError, MissingFileError) as error:
        raise DamagedStoreError(
            f"{error}, or run the same command with --repair (repair=True), which does so"
        ) from error


def _refuse_without_room(path: Path, job: Job) -> None:
    """Refuse results between chosen genes that the disk cannot hold: they hardly compress, unlike others."""
    needed = sum(block_bytes(job.field, job.spec.options, job.spec.n_cells).values())
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"what is asked for between {len(job.spec.options.effectors):,} effectors and "
            f"{len(job.spec.options.regulators):,} regulators takes {format_bytes(needed)}, and "
            f"{format_bytes(free)} are free in {folder}; choose fewer genes, means by cluster (quantity "
            "'jacobian_mean' or 'response_mean'), or another disk"
        )


def _match(path: Path, job: Job) -> None:
    """Refuse a store that belongs to another run."""
    there = read_spec(path)
    if there.fingerprint != job.spec.fingerprint:
        shown = there.differences(job.spec)
        more = f"; and {len(shown) - 6} more" if len(shown) > 6 else ""
        raise StoreMismatchError(
            f"{path} belongs to another run: {'; '.join(shown[:6])}{more}. Nothing was changed: choose another "
            f"store, or repeat the run it belongs to{_touch_hint(there, job.spec)}"
        )


def _touch_hint(there: RunSpec, here: RunSpec) -> str:
    """Return how to go on with files that differ in nothing but their time: of a large atlas not all is compared."""
    if not all(".modified_ns is " in line for line in there.differences(here)):
        return ""
    pairs = zip(there.cells["sources"], here.cells["sources"], strict=True)
    lines = [
        f"touch -d @{old['modified_ns'] // 10**9}.{old['modified_ns'] % 10**9:09d} '{new['path']}'"
        for old, new in pairs
        if old.get("modified_ns") != new.get("modified_ns")
    ]
    return (
        ". Of an atlas of this size only a sample is compared, so that the time of the file counts; if it is the same "
        f"file, copied or touched, give its time back: {'; '.join(lines)}"
    )


def _tasks(job: Job, path: Path, todo: list[int]) -> Iterator[PartitionTask]:
    for number in todo:
        yield make_task(job, path, number)


class _Tally:
    """Counts cells as receipts come in, and shows them."""

    def __init__(
        self,
        receipts: dict[int, Receipt],
        n_cells: int,
        begin: float,
        show: Callable[[Progress], None] | None,
    ) -> None:
        self.receipts = receipts
        self.n_cells = n_cells
        self.n_new = 0
        self._begin = begin
        self._show = show

    def start(self) -> None:
        self._begin = time.monotonic()
        self._publish()

    def add(self, receipt: Receipt) -> None:
        self.receipts[receipt.partition] = receipt
        self.n_new += receipt.n_cells
        self._publish()

    def _publish(self) -> None:
        if self._show is not None:
            self._show(
                Progress(
                    n_done=sum(receipt.n_cells for receipt in self.receipts.values()),
                    n_cells=self.n_cells,
                    n_new=self.n_new,
                    n_failed=sum(receipt.n_failed for receipt in self.receipts.values()),
                    seconds=time.monotonic() - self._begin,
                )
            )


def _failed(failures: dict[int, str], path: Path) -> RunFailedError:
    number, reason = next(iter(failures.items()))
    return RunFailedError(
        f"{len(failures):,} partitions failed, number {number} with {reason}{failure_hint(reason)}. What was "
        f"finished is kept in {path}; run the same command again to try the rest"
    )
