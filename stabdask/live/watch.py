"""Watches the runs of a scheduler: stores from threads of their own, so that none can keep the scheduler waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stabdask.live.model import Progressed
from stabdask.live.reading import StoreReader
from stabdask.live.status import LiveStatus, live_status
from stabdask.live.told import Told, Workers, told_runs
from stabdask.runs.announce import RUNS, TASK_PREFIX

__all__ = ["Live", "Watch", "workers_of"]

_DISK_S, _BUCKET_S, _MOST_S = 1.0, 5.0, 60.0
_SHARE = 20
"""The next look at a store waits so many times as long as the last one took: looking takes 5 % of a core at most."""
_SILENT_S = 10.0
_MOST_RUNS = 20
_LAST_LOOKS = 3

Reader = Callable[[Told], StoreReader]


class Watch:
    """Looks at the store of one run, in a thread that ends a little after the run.

    Parameters
    ----------
    told
        What the client told of it.
    make_reader
        Returns what looks.
    """

    def __init__(self, told: Told, make_reader: Reader = StoreReader) -> None:
        self.told = told
        self.began = time.monotonic()
        self.ended: float | None = None
        self.progressed = Progressed(done=np.zeros(told.n_partitions, bool))
        self._make_reader = make_reader
        self._looking_since: float | None = None
        self._wake = threading.Event()
        self._stopped = False
        # Of a store that never answers the thread never ends; the process may.
        self._thread = threading.Thread(target=self._look_on, name=f"stabdask-live-{told.token}", daemon=True)
        self._thread.start()

    def hear(self, told: Told) -> None:
        """Take note of what the client tells now."""
        if self.told.running and not told.running:
            self.ended = time.monotonic()
        changed = told.state != self.told.state
        self.told = told
        if changed:
            self._wake.set()

    def stop(self) -> None:
        """Let the thread end without another look."""
        self._stopped = True
        self._wake.set()

    def status(self, workers: Workers) -> LiveStatus:
        """Return the numbers now."""
        now = self.ended or time.monotonic()
        return live_status(self.told, self._seen(), workers, began=self.began, now=now)

    def _seen(self) -> Progressed:
        since, progressed = self._looking_since, self.progressed
        silent = 0.0 if since is None else time.monotonic() - since
        if silent < _SILENT_S:
            return progressed
        from dataclasses import replace

        text = f"the store at {self.told.store} has not answered for {silent:.0f} s; what is shown is older"
        return replace(progressed, problems=(text, *progressed.problems))

    def _look_on(self) -> None:
        reader: StoreReader | None = None
        n_last = 0
        while not self._stopped:
            over = not self.told.running
            before = int(self.progressed.done.sum())
            begin = self._looking_since = time.monotonic()
            try:
                reader = reader or self._make_reader(self.told)
                for progressed in reader.looks():
                    self.progressed = progressed
                    self._looking_since = time.monotonic()
            except Exception as error:  # nothing may end the thread without a word on the page
                text = f"the scheduler cannot read the store at {self.told.store} ({type(error).__name__})"
                self.progressed = Progressed(
                    done=np.zeros(self.told.n_partitions, bool), visible=False, problems=(text,)
                )
            self._looking_since = None
            took = time.monotonic() - begin
            if over:
                n_last += 1
                quiet = int(self.progressed.done.sum()) == before and not self.progressed.problems
                if quiet or n_last >= _LAST_LOOKS:
                    return
            least = _BUCKET_S if reader is not None and reader.in_bucket else _DISK_S
            self._wake.clear()
            if over == (not self.told.running):  # not heard of its end meanwhile
                self._wake.wait(min(_MOST_S, max(least, _SHARE * took)))


class Live:
    """The runs of one scheduler. Its methods are called on the scheduler's event loop, and never wait.

    Parameters
    ----------
    scheduler
        A `distributed.Scheduler`.
    make_reader
        Returns what looks at the store of a run.
    """

    def __init__(self, scheduler: Any, make_reader: Reader = StoreReader) -> None:
        self._scheduler = scheduler
        self._make_reader = make_reader
        self._watches: dict[str, Watch] = {}
        self._dropped: set[str] = set()
        self._cached: tuple[float, str | None, LiveStatus | None] = (-1.0, None, None)

    def tick(self) -> None:
        """Take note of new runs and of what clients tell of old ones."""
        found: Any = self._scheduler.task_metadata
        for key in RUNS:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        for told in told_runs(found, self._scheduler.clients):
            if told.token in self._dropped:
                continue
            watch = self._watches.get(told.token)
            if watch is None:
                self._watches[told.token] = Watch(told, self._make_reader)
            elif watch.told != told:
                watch.hear(told)
        while len(self._watches) > _MOST_RUNS:
            oldest = next(iter(self._watches))
            self._dropped.add(oldest)
            self._watches.pop(oldest).stop()

    def status(self, token: str | None = None) -> LiveStatus | None:
        """Return the numbers of a run, the newest if none is named; None if there is no such run."""
        if token is None:
            token = next(reversed(self._watches), None)
        watch = None if token is None else self._watches.get(token)
        if watch is None:
            return None
        now = time.monotonic()
        moment, cached, status = self._cached
        # However many look at the page, numbers are brought together twice a second.
        if cached != token or now - moment > 0.5:
            status = watch.status(workers_of(self._scheduler))
            self._cached = (now, token, status)
        return status

    @property
    def n_workers(self) -> int:
        """Workers there are."""
        return len(self._scheduler.workers)

    def runs(self) -> list[Told]:
        """Return what was told of the runs, newest first."""
        return [watch.told for watch in reversed(self._watches.values())]

    def to_dict(self, token: str | None = None) -> dict[str, Any] | None:
        """Return the JSON-ready values of a run and a list of all; None if there is no run of that token."""
        status = self.status(token)
        if status is None and token is not None:
            return None
        runs = [{"token": told.token, "store": told.store, "state": told.state} for told in self.runs()]
        if status is not None:
            return {**status.to_dict(), "runs": runs}
        return {"run": None, "workers": {"n": self.n_workers}, "runs": runs}

    def close(self) -> None:
        """Let all threads end."""
        for watch in self._watches.values():
            watch.stop()


def workers_of(scheduler: Any) -> Workers:
    """Return what a scheduler knows of its workers now.

    A worker is at what it named in its last heartbeat, as far as that is not finished, then at what it was sent first.
    """
    n_threads = memory = limit = gpu = gpu_total = 0
    fullest: float | None = None
    running: dict[str, set[int]] = {}
    for worker in scheduler.workers.values():
        n_threads += worker.nthreads
        used = int(worker.memory.process)
        memory += used
        if worker.memory_limit:
            limit += worker.memory_limit
            fullest = max(fullest or 0.0, used / worker.memory_limit)
        gpu += max(0, int(worker.metrics.get("gpu_memory_used") or 0))
        gpu_total += max(0, int(worker.metrics.get("gpu-memory-total") or 0))
        named = [task for task in worker.executing if task in worker.processing]
        others = [task for task in worker.processing if task not in worker.executing]
        for task in [*named, *others][: worker.nthreads]:
            prefix, _, rest = str(task.key).partition("-")
            parts = rest.split("-")
            if prefix == TASK_PREFIX and len(parts) > 1 and parts[1].isdigit():
                running.setdefault(parts[0], set()).add(int(parts[1]))
    return Workers(
        n=len(scheduler.workers),
        n_threads=n_threads,
        memory_bytes=memory,
        memory_limit_bytes=limit,
        fullest=fullest,
        gpu_bytes=gpu,
        gpu_total_bytes=gpu_total,
        running={name: frozenset(numbers) for name, numbers in running.items()},
    )
