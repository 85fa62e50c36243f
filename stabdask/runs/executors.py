"""What computes the partitions of a run: a cluster, one worker process after another, or this process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stabdask.checks import refuse_asynchronous
from stabdask.clusters import gpu_client, local_client
from stabdask.clusters.checks import await_worker, check_paths, check_versions, essential_versions
from stabdask.clusters.dashboard import dashboard_text, dashboard_url
from stabdask.errors import StabdaskError, UnfitWorkerError
from stabdask.files import Place
from stabdask.runs.announce import TASK_PREFIX, Announcement
from stabdask.runs.losses import out_of_memory, scheduler_needed
from stabdask.runs.partition import PartitionTask, run_partition, run_task
from stabdask.runs.plan import Plan
from stabdask.runs.progress import ProgressDisplay
from stabdask.runs.receipts import Receipt, receipt_folder
from stabdask.runs.watch import Watch

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Here", "OnCluster", "open_executor"]

_TRIES = 3
_ASK_S = 1.0
_LOOK_S = 0.05
"""How often to look for what is finished, where a run may be told to stop; workers have more to do meanwhile."""
_MOST_REFUSERS = 20
"""Workers that join and do not fit, before it is taken that none will."""
_MOST_WAITING = 10_000


@dataclass
class Here:
    """Computes partitions one after the other in this process."""

    n_workers: int = 0
    dashboard: str | None = None
    failures: dict[int, str] = field(default_factory=dict)
    client: None = None

    def map(self, tasks: Iterator[PartitionTask], watch: Watch | None = None) -> Iterator[Receipt]:
        """Give the receipts of `tasks`, in their order, until `watch` says to stop."""
        for task in tasks:
            if watch is not None and watch.stopping:
                return
            receipt = self._run(task)
            if receipt is not None:
                yield receipt

    def _run(self, task: PartitionTask) -> Receipt | None:
        try:
            return run_partition(task)
        except MemoryError as error:
            if not out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        # The traceback, which held the arrays, is gone; others may have given back memory meanwhile.
        if task.attempt < _TRIES:
            return self._run(replace(task, attempt=task.attempt + 1))
        self.failures[task.partition] = reason
        return None


class OnCluster:
    """Keeps a cluster busy with a window of partitions, so that any number of them can be waiting."""

    def __init__(self, client: Client, say: Callable[[str], None] | None = None) -> None:
        self.client = client
        self.failures: dict[int, str] = {}
        self.announcement: Announcement | None = None
        self.n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        self._waiting, self._asked_again = 0, 0.0
        self._say = say
        self._n_refusals = 0
        self._refusers: set[str] = set()
        self._versions = dict(essential_versions())

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard of the cluster, or None if it has none."""
        with scheduler_needed(self.client):
            return dashboard_url(self.client)

    def map(self, tasks: Iterator[PartitionTask], watch: Watch | None = None) -> Iterator[Receipt]:
        """Give the receipts of `tasks` as they come, until `watch` says to stop; `failures` has what fails for good.

        Raises
        ------
        RunFailedError
            If the scheduler no longer answers.
        """
        with scheduler_needed(self.client):
            yield from self._map(tasks, watch)

    def _map(self, tasks: Iterator[PartitionTask], watch: Watch | None) -> Iterator[Receipt]:
        from distributed import as_completed

        running: dict[Any, PartitionTask] = {}
        completed = as_completed(loop=self.client.loop)  # not that of whatever client is the default
        try:
            self._fill(tasks, running, completed)
            while running:
                while watch is not None and not completed.has_ready():
                    if watch.wait_to_stop(_LOOK_S):
                        return
                future = next(completed)
                task = running.pop(future)
                error = future.exception()
                if error is None:
                    yield future.result()
                else:
                    self._handle(task, error, running, completed)
                future.release()
                self._fill(tasks, running, completed)
        finally:
            if running:
                with suppress(OSError):  # no scheduler, no tasks
                    self.client.cancel(list(running), force=True)

    def _fill(
        self, tasks: Iterator[PartitionTask], running: dict[Any, PartitionTask], completed: Any
    ) -> None:
        while len(running) < self._window() and (task := next(tasks, None)) is not None:
            self._submit(task, running, completed)

    def _window(self) -> int:
        """Return how many partitions may be waiting; workers come and go, so that it is asked for every second."""
        if time.monotonic() >= self._asked_again:
            threads = self.client.nthreads()
            self.n_workers = max(self.n_workers, len(threads))
            self._waiting = min(_MOST_WAITING, 2 * max(1, sum(threads.values()), self._most_workers()))
            self._asked_again = time.monotonic() + _ASK_S
        return self._waiting

    def _most_workers(self) -> int:
        """Return how many workers a cluster may grow to that grows with the tasks that wait."""
        adaptive = getattr(getattr(self.client, "cluster", None), "_adaptive", None)
        return int(min(getattr(adaptive, "maximum", None) or 0, _MOST_WAITING))

    def _submit(self, task: PartitionTask, running: dict[Any, PartitionTask], completed: Any) -> None:
        future = self.client.submit(
            run_task,
            self._versions,
            pickle.dumps(task),
            key=f"{TASK_PREFIX}-{task.spec.fingerprint[:8]}-{task.partition}-{task.attempt}-{self._n_refusals}",
            pure=False,
        )
        running[future] = task
        completed.add(future)

    def _handle(
        self, task: PartitionTask, error: BaseException, running: dict[Any, PartitionTask], completed: Any
    ) -> None:
        if isinstance(error, UnfitWorkerError) and error.worker:
            self._dismiss(error)
            self._submit(task, running, completed)
            return
        # What does not get better by itself; a bucket that did not answer one worker may answer another. A future is
        # cancelled when the scheduler has gone, or by someone else.
        final = isinstance(error, StabdaskError) and not isinstance(error, ConnectionError)
        if final or self.client.status != "running":
            if self.announcement is not None and self.client.status == "running":
                self.announcement.failed(task.partition, type(error).__name__)
            raise error
        if task.attempt < _TRIES and type(error).__name__ != "KilledWorker":
            self._submit(replace(task, attempt=task.attempt + 1), running, completed)
            return
        reason = f"{type(error).__name__}: {error}"
        self.failures[task.partition] = reason
        if self.announcement is not None:
            self.announcement.failed(task.partition, reason)

    def _dismiss(self, error: UnfitWorkerError) -> None:
        """Send a worker away that refused a partition, which is another worker's then; not if no other is left."""
        self._n_refusals += 1
        self._refusers.add(error.worker)
        there = self.client.nthreads()
        if len(self._refusers) > _MOST_REFUSERS or not there.keys() - {error.worker}:
            raise error
        if error.worker in there:
            if self._say is not None:
                self._say(f"dismissed    {error}")
            self.client.retire_workers([error.worker], close_workers=True)


@contextmanager
def open_executor(
    client: Client | None, plan: Plan | None, show: Any, dashboard: bool, store: Place, inputs: list[str]
) -> Iterator[Here | OnCluster]:
    """Give what computes partitions: the caller's cluster, one on this host, or this process.

    Raises
    ------
    UnfitWorkerError
        If workers of the caller's cluster have other versions than this process, or do not see `store` or `inputs`.
    """
    if client is None and plan is not None and plan.n_workers == 0:
        yield Here()
        return
    refuse_asynchronous(client)
    say = show.message if isinstance(show, ProgressDisplay) else None
    if client is not None:
        await_worker(client, say)
        check_versions(client)
        # A bucket is the same for all of them; whether one may read it shows when it does.
        check_paths(client, receipt_folder(store).local, inputs)
        yield OnCluster(client, say)
        return
    assert plan is not None
    limit = None if plan.memory_bytes is None else plan.worker_limit_bytes
    # Others of this process may compute meanwhile, but not on these workers, which end with the run.
    how: Any = {
        "n_workers": plan.n_workers,
        "memory_limit": limit,
        "dashboard": dashboard,
        "default": False,
    }
    context: Any = gpu_client(**how, say=say) if plan.n_gpus else local_client(**how)
    with context as active:
        text = dashboard_text(active)
        if say is not None and text:
            say(f"dashboard    {text}")
        yield OnCluster(active, say)
