"""What the client told the scheduler of its runs, and what the scheduler knows of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Told", "Workers", "told_runs"]

_STATES = ("running", "finished", "failed", "stopped")


@dataclass(frozen=True)
class Told:
    """What the client told of a run.

    Attributes
    ----------
    token
        Of the call.
    store, fingerprint
        Where it writes, and what.
    n_cells, n_partitions
        In the store.
    n_cells_before, n_cells_todo
        Cells that had receipts when it began, and cells it computes.
    state
        ``"running"``, ``"finished"``, ``"failed"``, ``"stopped"``; ``"lost"`` where the client has gone without a word.
    failures
        Kind of error by partition that failed for good.
    seconds
        From its first to its last partition, once it has ended.
    """

    token: str
    store: str
    fingerprint: str
    n_cells: int
    n_partitions: int
    n_cells_before: int
    n_cells_todo: int
    state: str
    failures: dict[int, str]
    seconds: float | None

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.state == "running"


def told_runs(metadata: Any, clients: Sequence[str] | Mapping[str, Any]) -> list[Told]:
    """Return the runs in a scheduler's metadata, oldest first; what is none, or was cut short, is passed over.

    Parameters
    ----------
    metadata
        What is there under `stabdask.runs.announce.RUNS`.
    clients
        Names of the clients that are connected.
    """
    found = []
    for token, values in metadata.items() if isinstance(metadata, dict) else ():
        try:
            state = str(values["state"])
            if state == "running" and values["client"] not in clients:
                state = "lost"
            told = Told(
                token=str(token),
                store=str(values["store"]),
                fingerprint=str(values["fingerprint"]),
                n_cells=int(values["n_cells"]),
                n_partitions=int(values["n_partitions"]),
                n_cells_before=int(values["n_cells_before"]),
                n_cells_todo=int(values["n_cells_todo"]),
                state=state if state in (*_STATES, "lost") else "stopped",
                failures={int(number): str(kind) for number, kind in values["failures"].items()},
                seconds=None if values.get("seconds") is None else float(values["seconds"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if told.n_partitions > 0:
            found.append(told)
    return found


@dataclass(frozen=True)
class Workers:
    """What the scheduler knows of workers now; bytes are 0 where there is nothing of the kind.

    Attributes
    ----------
    n, n_threads
        Workers and their threads.
    memory_bytes, memory_limit_bytes
        Resident memory of all of them, and the limit, 0 without one.
    fullest
        Memory of the worker that is nearest its limit, as a fraction of it.
    gpu_bytes, gpu_total_bytes
        Memory of GPUs.
    running
        Partitions that are being computed, by fingerprint[:8].
    """

    n: int = 0
    n_threads: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    fullest: float | None = None
    gpu_bytes: int = 0
    gpu_total_bytes: int = 0
    running: Mapping[str, frozenset[int]] = field(default_factory=dict)
