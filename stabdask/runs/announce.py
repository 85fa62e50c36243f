"""What a client tells the scheduler of a run, for the live page: which store it writes to, and how it ended.

Progress itself is not told: whoever wants it reads the receipts in the store.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from stabdask.clusters.dashboard import METADATA
from stabdask.errors import RunFailedError, StabdaskError
from stabdask.files import Place
from stabdask.runs.job import RunSpec
from stabdask.runs.losses import scheduler_needed
from stabdask.runs.watch import Watch

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["RUNS", "TASK_PREFIX", "Announcement", "announced"]

RUNS = [METADATA, "runs"]
"""Where in the scheduler's metadata runs are, by a token of each call."""
TASK_PREFIX = "partition"
"""First part of the keys of tasks: ``partition-FINGERPRINT[:8]-NUMBER-...``."""

_LAST_WORD_S = 5.0
"""How long the last word of a run may take: a scheduler that does not answer keeps nobody from ending."""


class Announcement:
    """One call that computes partitions, as the scheduler knows it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keys = [*RUNS, uuid.uuid4().hex[:12]]
        self._failures: dict[str, str] = {}
        self._begin = time.monotonic()

    def start(self, path: Place, spec: RunSpec, done: set[int], todo: list[int]) -> None:
        """Tell which store is written to, and what is in it already (`done`) and to be computed (`todo`)."""
        with scheduler_needed(self._client):
            self._client.set_metadata(
                self._keys,
                {
                    "store": str(path.absolute()),
                    "fingerprint": spec.fingerprint,
                    "n_cells": spec.n_cells,
                    "n_partitions": spec.n_partitions,
                    "n_cells_before": _n_cells(spec, done),
                    "n_cells_todo": _n_cells(spec, todo),
                    "state": "running",
                    "failures": {},
                    "client": self._client.id,
                },
            )

    def failed(self, partition: int, reason: str) -> None:
        """Tell that a partition failed for good, and of what kind the error was.

        What else the error says stays with the client: it may name files.
        """
        self._failures[str(partition)] = reason.partition(":")[0]
        self._client.set_metadata([*self._keys, "failures"], dict(self._failures))

    @property
    def has_failures(self) -> bool:
        """Whether a partition has failed for good."""
        return bool(self._failures)

    def end(self, state: str) -> None:
        """Tell how it ended; whatever hinders that, the run itself is over."""
        scheduler: Any = self._client.scheduler
        if scheduler is None or self._client.status != "running":  # nobody is there to be told
            return
        for key, value in (("seconds", time.monotonic() - self._begin), ("state", state)):
            with suppress(OSError, RuntimeError, RunFailedError), scheduler_needed(self._client):
                self._client.sync(
                    scheduler.set_metadata,
                    keys=[*self._keys, key],
                    value=value,
                    callback_timeout=_LAST_WORD_S,
                )


@contextmanager
def announced(
    executor: Any, path: Place, spec: RunSpec, done: set[int], todo: list[int], watch: Watch | None
) -> Iterator[None]:
    """Announce the partitions that an executor with a cluster computes in the block, and how that ended.

    States are ``"running"``, then ``"finished"``, ``"failed"`` where partitions failed for good, or one ended the block
    with its error, or ``"stopped"`` where `watch` or something else did.

    Raises
    ------
    RunFailedError
        If the scheduler no longer answers at the start.
    """
    if executor.client is None:
        yield
        return
    announcement = Announcement(executor.client)
    announcement.start(path, spec, done, todo)
    executor.announcement = announcement
    state = "stopped"
    try:
        yield
        if watch is None or not watch.stopping:
            state = "failed" if executor.failures else "finished"
    except StabdaskError:
        state = "failed" if announcement.has_failures else "stopped"
        raise
    finally:
        announcement.end(state)


def _n_cells(spec: RunSpec, partitions: set[int] | list[int]) -> int:
    return sum(stop - start for start, stop in map(spec.bounds, partitions))
