"""`run`: the durable job: partitions on workers, receipts, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from stabdask.errors import OutputError, RunFailedError, StabdaskError, StoreMismatchError, UsageError
from stabdask.files import Place, place_of, sweep_beside
from stabdask.runs.announce import announced
from stabdask.runs.differences import differences, touch_hint
from stabdask.runs.executors import open_executor
from stabdask.runs.handle import RunHandle
from stabdask.runs.job import Job, prepare
from stabdask.runs.losses import failure_hint
from stabdask.runs.partition import PartitionTask, make_task
from stabdask.runs.plan import gpu_request, plan_job
from stabdask.runs.progress import Progress, ProgressDisplay, progress_display
from stabdask.runs.receipts import Receipt, mend_receipt_folder, read_receipts, store_lock, sweep_leftovers
from stabdask.runs.repair import backend_of_receipts, check_field, on_disk, repair_attributes, repair_store
from stabdask.runs.run_report import RunReport, make_report
from stabdask.runs.shares import Partitions, chosen_partitions
from stabdask.runs.sizing import block_bytes
from stabdask.runs.store import create_store, read_request, read_spec
from stabdask.runs.watch import Watch
from stabdask.sizes import format_bytes

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from stabdask.fields.base import Field

__all__ = ["finished_partitions", "make_or_match", "run", "run_job", "with_recorded_backend"]


@overload
def run(
    cells: xr.Dataset, field: Field, store: str | Path, *, wait: Literal[True] = True, **options: Any
) -> RunReport: ...
@overload
def run(
    cells: xr.Dataset, field: Field, store: str | Path, *, wait: Literal[False], **options: Any
) -> RunHandle: ...
@overload
def run(
    cells: xr.Dataset, field: Field, store: str | Path, *, wait: bool, **options: Any
) -> RunReport | RunHandle: ...
def run(
    cells: xr.Dataset,
    field: Field,
    store: str | Path,
    *,
    wait: bool = True,
    client: Client | None = None,
    memory: int | str | None = None,
    workers: int | None = None,
    gpu: bool = False,
    partitions: Partitions = None,
    progress: bool | Callable[[Progress], None] = True,
    dashboard: bool = True,
    lock: bool = True,
    repair: bool = False,
    missing_cluster: str = "error",
    partition_cells: int | None = None,
    request: Mapping[str, Any] | None = None,
    **options: Any,
) -> RunReport | RunHandle:
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
        Path of the Zarr store to make or to resume, or its address in a bucket (``s3://bucket/out.zarr``).
    wait
        False returns once workers are there, with a handle of the run, which goes on in the background.
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
        Compute only these partitions, in this order, or those of a `stabdask.Share`. Several such calls may write to
        one store at the same time, on any hosts; `stabdask.finalize` then says whether all is there.
    progress
        True for a bar in a notebook or on stderr (lines now and then, where that is no terminal), or a function called
        with a `Progress`.
    dashboard
        Whether to serve Dask's dashboard and the live page on loopback (only without `client`).
    lock
        Keep other runs from writing to the store. False is for file systems without locks, where you make sure
        that nothing else does; leftovers of killed writers are not swept then.
    repair
        First look for damage: the checksums of all finished partitions, their receipts, and what the store holds
        beside results. What is damaged is computed or written again, and named in the report.
    missing_cluster, partition_cells
        See `stabdask.runs.job.prepare`.
    request
        JSON-ready values recorded in the attributes of a store that is made: how the command line finds its input
        again.
    **options
        See `stabdask.stability`.

    Returns
    -------
    RunReport or RunHandle
        With ``wait=False`` a handle, whose `wait` returns the report.

    Raises
    ------
    InputError
        If cells and field do not fit together; nothing has been written unless the message names a cell that
        only a full look at a large atlas could find.
    StoreMismatchError
        If the store belongs to another run.
    StoreLockedError
        If another run is writing to it, or has taken it over (in a bucket).
    DamagedStoreError
        If what a run needs of the store is damaged; the message says what to do.
    OutputError
        If the store cannot be written, for want of room say; what is finished is kept.
    RunFailedError
        If partitions failed; what was finished is kept.
    UnfitWorkerError
        If workers of the client have other versions than this process, or do not see store and atlas.
    BackendUnavailableError
        If the backend or, with `gpu`, what it takes to use a GPU is missing; nothing has been written.
    """
    n_gpus, options = gpu_request(options, gpu=gpu, workers=workers, client=client)
    options = with_recorded_backend(options, place_of(store), repair=repair)
    job = prepare(cells, field, missing_cluster=missing_cluster, partition_cells=partition_cells, **options)
    work = partial(
        run_job,
        job,
        store,
        client=client,
        memory=memory,
        workers=workers,
        n_gpus=n_gpus,
        partitions=partitions,
        progress=progress,
        dashboard=dashboard,
        lock=lock,
        repair=repair,
        request=request,
    )
    return work() if wait else RunHandle(str(store), lambda watch: work(watch=watch), job.spec.n_cells)


def run_job(
    job: Job,
    store: str | Path,
    *,
    client: Client | None = None,
    memory: int | str | None = None,
    workers: int | None = None,
    n_gpus: int = 0,
    partitions: Partitions = None,
    progress: bool | Callable[[Progress], None] = True,
    dashboard: bool = True,
    lock: bool = True,
    repair: bool = False,
    request: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> RunReport:
    """Run a checked job, on the first `n_gpus` GPUs of this host if there are any; see `run`.

    `watch` is told of its progress and may stop it: the report then is of what is finished.
    """
    begin = time.monotonic()
    path = place_of(store)
    spec = job.spec
    order = chosen_partitions(partitions, spec.n_partitions)
    shared = partitions is not None and not repair
    if client is not None and (memory is not None or workers is not None):
        raise UsageError(
            "memory and workers are those of the client's cluster; expected neither beside client"
        )
    plan = None
    if client is None:
        plan = plan_job(job, memory=memory, workers=workers, n_gpus=n_gpus, most_workers=len(order))
    rewritten = make_or_match(path, job, request, repair=repair, lock=lock)
    show = progress_display() if progress is True else (progress or None)
    found = None
    with store_lock(path, shared=shared, lock=lock) as check_lock:
        sweeps = lock and not shared
        if sweeps:
            sweep_leftovers(path)
        if repair:
            found = repair_store(on_disk(path), job, metadata=rewritten)
            if isinstance(show, ProgressDisplay):
                show.message(str(found))
        check_field(path, job.spec.field)
        receipts = read_receipts(path, spec.fingerprint)
        todo = [number for number in order if number not in receipts]
        n_workers = 0
        n_new = 0
        if todo:
            shown = [display for display in (watch.show if watch else None, show) if display]
            tally = _Tally(receipts, spec.n_cells, begin, shown)
            with open_executor(client, plan, show, dashboard, path, _input_paths(job)) as executor:
                tally.start()
                if watch is not None:
                    watch.dashboard = executor.dashboard
                    watch.started.set()
                with announced(executor, path, spec, set(receipts), todo, watch):
                    for receipt in executor.map(_tasks(job, path, todo), watch):
                        tally.add(receipt)
                        check_lock()
                failures, n_workers = executor.failures, executor.n_workers
            n_new = tally.n_new
            if sweeps:  # what a worker left behind that was killed in the middle of a file
                sweep_leftovers(path)
            if failures:
                raise _failed(failures, path)
    seconds = time.monotonic() - begin
    return make_report(path, spec, receipts, len(todo), n_workers, n_new, seconds, locked=lock, repair=found)


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
    path = place_of(store)
    _, options = gpu_request(options, gpu=gpu, workers=workers)
    options = with_recorded_backend(options, path)
    job = prepare(cells, field, missing_cluster=missing_cluster, partition_cells=partition_cells, **options)
    if not path.exists():
        path.check_writable()
        return None
    _match(path, job, command_line=True)
    return len(read_receipts(path, job.spec.fingerprint))


def with_recorded_backend(options: dict[str, Any], path: Place, *, repair: bool = False) -> dict[str, Any]:
    """Let a run that is resumed use the backend it began with, whatever this machine would choose today."""
    if options.get("backend", "auto") != "auto" or not path.exists():
        return options
    try:
        return {**options, "backend": read_spec(path).options.backend}
    except StabdaskError:
        # What is wrong with the store is said where it is opened.
        backend = backend_of_receipts(on_disk(path)) if repair else None
        return options if backend is None else {**options, "backend": backend}


def make_or_match(
    path: Place,
    job: Job,
    request: Mapping[str, Any] | None = None,
    *,
    repair: bool = False,
    lock: bool = True,
) -> dict[str, str]:
    """Make the store if there is none; refuse one that belongs to another run. Return what was repaired, and why."""
    rewritten: dict[str, str] = {}
    if not path.exists():
        path.check_writable()
        if path.local is not None:
            sweep_beside(path.local)
        _refuse_without_room(path, job)
        create_store(path, job, request)
    elif repair:
        rewritten = repair_attributes(on_disk(path), job, request, lock=lock)
    _match(path, job, command_line=request is not None)
    if repair and mend_receipt_folder(on_disk(path)):
        rewritten["receipts"] = "its description is not that of the run"
    return rewritten


def _refuse_without_room(path: Place, job: Job) -> None:
    """Refuse results between chosen genes that the disk cannot hold: they hardly compress, unlike others."""
    needed = sum(block_bytes(job.field, job.spec.options, job.spec.n_cells).values())
    free = path.free_bytes()
    if free is not None and needed > free:
        raise OutputError(
            f"what is asked for between {len(job.spec.options.effectors):,} effectors and "
            f"{len(job.spec.options.regulators):,} regulators takes {format_bytes(needed)}, and "
            f"{format_bytes(free)} are free where {path} is to be; choose fewer genes, means by cluster (quantity "
            "'jacobian_mean' or 'response_mean'), or another disk"
        )


def _match(path: Place, job: Job, *, command_line: bool) -> None:
    """Refuse a store that belongs to another run."""
    there = read_spec(path)
    if there.fingerprint != job.spec.fingerprint:
        shown = differences(there, job.spec, command_line=command_line)
        more = f"; and {len(shown) - 6} more" if len(shown) > 6 else ""
        again = "" if read_request(path) is None else f": 'stabdask run --store {path}'"
        raise StoreMismatchError(
            f"{path} belongs to another run: {'; '.join(shown[:6])}{more}. Nothing was changed: choose another "
            f"store, or repeat the run it belongs to{again}{touch_hint(there, job.spec)}"
        )


def _input_paths(job: Job) -> list[str]:
    """Return the files of the atlas that workers read, where it is in files."""
    paths = [str(source.get("path", "")) for source in job.spec.cells["sources"]]
    return [path for path in paths if path and "://" not in path]


def _tasks(job: Job, path: Place, todo: list[int]) -> Iterator[PartitionTask]:
    for number in todo:
        yield make_task(job, path, number)


class _Tally:
    """Counts cells as receipts come in, and shows them."""

    def __init__(
        self,
        receipts: dict[int, Receipt],
        n_cells: int,
        begin: float,
        shown: list[Callable[[Progress], None]],
    ) -> None:
        self.receipts = receipts
        self.n_cells = n_cells
        self.n_new = 0
        self._begin = begin
        self._shown = shown

    def start(self) -> None:
        self._begin = time.monotonic()
        self._publish()

    def add(self, receipt: Receipt) -> None:
        self.receipts[receipt.partition] = receipt
        self.n_new += receipt.n_cells
        self._publish()

    def _publish(self) -> None:
        if not self._shown:
            return
        progress = Progress(
            n_done=sum(receipt.n_cells for receipt in self.receipts.values()),
            n_cells=self.n_cells,
            n_new=self.n_new,
            n_failed=sum(receipt.n_failed for receipt in self.receipts.values()),
            seconds=time.monotonic() - self._begin,
        )
        for show in self._shown:
            show(progress)


def _failed(failures: dict[int, str], path: Place) -> RunFailedError:
    number, reason = next(iter(failures.items()))
    count = "1 partition" if len(failures) == 1 else f"{len(failures):,} partitions"
    return RunFailedError(
        f"{count} failed, number {number} with {reason}{failure_hint(reason)}. What was finished "
        f"is kept in {path}; run the same command again to try the rest"
    )
