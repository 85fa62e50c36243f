"""From receipts and arrays to the numbers of the live page; page and JSON show the same ones. No Dask, no Bokeh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.quantiles import Counts, count_rounded, merge_counts, quantiles_of_counts
from stabdask.runs.receipts import Receipt
from stabdask.schema import named_counts

__all__ = [
    "DECADES",
    "MOST_SQUARES",
    "QUANTILES",
    "ClusterRow",
    "LiveStatus",
    "Progressed",
    "RunModel",
    "Squares",
    "Told",
    "Workers",
    "live_status",
    "squares",
    "told_runs",
]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the spectral abscissa in each cluster."""
DECADES = tuple(range(-17, 1))
"""Powers of ten between which residuals are counted."""
MOST_SQUARES = 4096
"""Squares of the map; of more partitions each stands for several."""
_RECENT_S = 60.0
_STATES = ("running", "finished", "failed", "stopped")

Floats = npt.NDArray[np.float64]


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
    for token, values in (metadata.items() if isinstance(metadata, dict) else ()):
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


@dataclass(frozen=True)
class ClusterRow:
    """The spectral abscissa in one cluster so far.

    Attributes
    ----------
    name
        Of the cluster.
    n_cells, n_done
        Cells in all and with a result that could be read.
    n_values
        Of these, cells whose abscissa is a number.
    n_positive
        Of these, cells with an abscissa above 0.
    lowest, quantiles, highest
        Of the abscissa: extremes, and `QUANTILES`; None without values. Units: 1/time.
    """

    name: str
    n_cells: int
    n_done: int
    n_values: int
    n_positive: int
    lowest: float | None
    quantiles: tuple[float, ...] | None
    highest: float | None


@dataclass(frozen=True)
class Progressed:
    """What has been read from the store of a run; a new one after each look.

    Attributes
    ----------
    visible
        Whether the scheduler sees the store; None before the first look has ended.
    problems
        Sentences on what could not be read.
    done
        ``(partition,)``: whether it has a receipt.
    n_cells_done, n_unread
        Cells in those, and how many of these have results that could not be read.
    status_counts
        Cells by status code.
    clusters
        Abscissae by cluster; empty where the run computes none.
    residuals
        ``(len(DECADES) + 1,)``: cells by decade of their residual, below the first, between, from the last on.
    n_residuals
        Cells with a residual that is a number.
    peak_worker_bytes
        Largest resident memory of any worker.
    backend
        Eigensolver backend.
    landings
        Times, on the clock of the page, and cells done by then.
    look_s
        How long the last look at the store took.
    """

    done: npt.NDArray[np.bool_]
    visible: bool | None = None
    problems: tuple[str, ...] = ()
    n_cells_done: int = 0
    n_unread: int = 0
    status_counts: Mapping[int, int] = field(default_factory=dict)
    clusters: tuple[ClusterRow, ...] = ()
    residuals: tuple[int, ...] = (0,) * (len(DECADES) + 1)
    n_residuals: int = 0
    peak_worker_bytes: int = 0
    backend: str = ""
    landings: tuple[tuple[float, int], ...] = ()
    look_s: float = 0.0


class RunModel:
    """Adds up the partitions of one run as they land; see `Progressed`.

    Parameters
    ----------
    n_partitions
        Of the run.
    labels
        Names of clusters.
    n_cells
        ``(cluster,)``: cells of each.
    with_abscissa
        Whether the run computes the abscissa.
    backend
        Eigensolver backend.
    """

    def __init__(
        self,
        n_partitions: int,
        labels: Sequence[str] = (),
        n_cells: Sequence[int] = (),
        *,
        with_abscissa: bool = True,
        backend: str = "",
    ) -> None:
        n = len(labels)
        self._labels, self._n_cells = tuple(labels), tuple(int(count) for count in n_cells)
        self._with_abscissa, self._backend = with_abscissa, backend
        self._done = np.zeros(n_partitions, bool)
        self._n_cells_done = 0
        self._status: Counter[int] = Counter()
        self._peak = 0
        self._landings: list[tuple[float, int]] = []
        empty = np.empty(0, np.int64)
        self._counts = Counts(empty, empty)
        self._n_read, self._n_values, self._n_positive = (np.zeros(n, np.int64) for _ in range(3))
        self._lowest, self._highest = np.full(n, np.inf), np.full(n, -np.inf)
        self._residuals = np.zeros(len(DECADES) + 1, np.int64)

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """``(partition,)``: whether it has landed."""
        return self._done

    def land(self, receipts: Sequence[Receipt], now: float) -> None:
        """Count partitions that are there since `now`."""
        new = [receipt for receipt in receipts if not self._done[receipt.partition]]
        for receipt in new:
            self._done[receipt.partition] = True
            self._n_cells_done += receipt.n_cells
            self._status.update(receipt.status_counts)
            self._peak = max(self._peak, receipt.peak_bytes)
        if new:
            self._landings.append((now, self._n_cells_done))

    def add_values(
        self, codes: npt.NDArray[np.integer], abscissa: Floats | None, residual: Floats | None
    ) -> None:
        """Add results of cells.

        Parameters
        ----------
        codes
            ``(cell,)``: their clusters, -1 for none.
        abscissa, residual
            ``(cell,)``, None where the run has none.
        """
        n = len(self._labels)
        labelled = codes >= 0
        self._n_read += np.bincount(codes[labelled], minlength=n)
        if abscissa is not None and n:
            kept = labelled & ~np.isnan(abscissa)
            values, groups = abscissa[kept].astype(np.float64), codes[kept]
            self._n_values += np.bincount(groups, minlength=n)
            self._n_positive += np.bincount(groups[values > 0], minlength=n)
            np.minimum.at(self._lowest, groups, values)
            np.maximum.at(self._highest, groups, values)
            self._counts = merge_counts([self._counts, count_rounded(values, groups)])
        if residual is not None:
            found = residual[~np.isnan(residual)].astype(np.float64)
            places = np.searchsorted(10.0 ** np.array(DECADES, dtype=float), found, side="right")
            self._residuals += np.bincount(places, minlength=len(DECADES) + 1)

    def progressed(
        self, *, visible: bool | None, problems: Sequence[str] = (), n_unread: int = 0, look_s: float = 0.0
    ) -> Progressed:
        """Return the numbers so far."""
        return Progressed(
            visible=visible,
            problems=tuple(problems),
            done=self._done.copy(),
            n_cells_done=self._n_cells_done,
            n_unread=n_unread,
            status_counts=dict(sorted(self._status.items())),
            clusters=self._rows() if self._with_abscissa else (),
            residuals=tuple(self._residuals.tolist()),
            n_residuals=int(self._residuals.sum()),
            peak_worker_bytes=self._peak,
            backend=self._backend,
            landings=tuple(self._landings),
            look_s=look_s,
        )

    def _rows(self) -> tuple[ClusterRow, ...]:
        found = quantiles_of_counts(self._counts, len(self._labels), QUANTILES)
        rows = []
        for i, name in enumerate(self._labels):
            some = self._n_values[i] > 0
            # Quantiles come from rounded values, extremes do not.
            inner = np.clip(found[i], self._lowest[i], self._highest[i]) if some else found[i]
            rows.append(
                ClusterRow(
                    name=name,
                    n_cells=self._n_cells[i],
                    n_done=int(self._n_read[i]),
                    n_values=int(self._n_values[i]),
                    n_positive=int(self._n_positive[i]),
                    lowest=float(self._lowest[i]) if some else None,
                    quantiles=tuple(inner.tolist()) if some else None,
                    highest=float(self._highest[i]) if some else None,
                )
            )
        return tuple(rows)


@dataclass(frozen=True)
class Squares:
    """The map: squares of `per_square` partitions each, the last one perhaps of fewer; tuples are ``(square,)``."""

    per_square: int
    n: tuple[int, ...]
    done: tuple[int, ...]
    running: tuple[int, ...]
    failed: tuple[int, ...]


def squares(
    done: npt.NDArray[np.bool_], running: Sequence[int], failed: Sequence[int], *, most: int = MOST_SQUARES
) -> Squares:
    """Count partitions by square.

    Examples
    --------
    >>> squares(np.array([True, True, False, False, False]), [2], [4], most=2)
    Squares(per_square=3, n=(3, 2), done=(2, 0), running=(1, 0), failed=(0, 1))
    """
    per_square = max(1, -(-len(done) // most))
    n = -(-len(done) // per_square)

    def count(numbers: npt.ArrayLike) -> tuple[int, ...]:
        found = np.asarray(numbers, np.int64) // per_square
        return tuple(np.bincount(found, minlength=n).tolist())

    return Squares(
        per_square, count(np.arange(len(done))), count(np.flatnonzero(done)), count(running), count(failed)
    )


@dataclass(frozen=True)
class LiveStatus:
    """Everything the page and its JSON show of one run; see notebooks/live_page.md.

    Attributes
    ----------
    told, progressed, workers
        What it is made of.
    seconds
        Since the run began, or how long it took.
    n_new
        Cells that landed in it.
    cells_per_s, recent_cells_per_s
        In all of it, and in its last minute; None before the first partition lands.
    seconds_left
        At `cells_per_s`; None before the first partition lands and after the end.
    running, failed
        Partitions that are being computed, and those that failed for good.
    squares
        The map.
    """

    told: Told
    progressed: Progressed
    workers: Workers
    seconds: float
    n_new: int
    cells_per_s: float | None
    recent_cells_per_s: float | None
    seconds_left: float | None
    running: tuple[int, ...]
    failed: tuple[int, ...]
    squares: Squares

    @property
    def n_partitions_done(self) -> int:
        """Partitions with a receipt."""
        return int(self.progressed.done.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        told, progressed, workers = self.told, self.progressed, self.workers
        return {
            "run": {
                "token": told.token,
                "store": told.store,
                "fingerprint": told.fingerprint,
                "backend": progressed.backend,
                "state": told.state,
                "seconds": self.seconds,
                "cells_per_s": self.cells_per_s,
                "recent_cells_per_s": self.recent_cells_per_s,
                "seconds_left": self.seconds_left,
            },
            "source": {
                "visible": progressed.visible,
                "problems": list(progressed.problems),
                "look_s": progressed.look_s,
                "n_cells_unread": progressed.n_unread,
            },
            "cells": {
                "n": told.n_cells,
                "done": progressed.n_cells_done,
                "done_before": told.n_cells_before,
                "done_now": self.n_new,
            },
            "partitions": {
                "n": told.n_partitions,
                "done": self.n_partitions_done,
                "running": list(self.running),
                "failed": {str(number): told.failures[number] for number in self.failed},
            },
            "map": {
                "partitions_per_square": self.squares.per_square,
                "done": list(self.squares.done),
                "running": list(self.squares.running),
                "failed": list(self.squares.failed),
            },
            "status": named_counts(progressed.status_counts),
            "residual": {
                "decades": list(DECADES),
                "counts": list(progressed.residuals),
                "n": progressed.n_residuals,
            },
            "spectral_abscissa": {
                "quantiles": list(QUANTILES),
                "clusters": [
                    {
                        "name": row.name,
                        "n": row.n_cells,
                        "done": row.n_done,
                        "values": row.n_values,
                        "above_zero": row.n_positive,
                        "lowest": row.lowest,
                        "quantiles": row.quantiles and list(row.quantiles),
                        "highest": row.highest,
                    }
                    for row in progressed.clusters
                ],
            },
            "workers": {
                "n": workers.n,
                "threads": workers.n_threads,
                "memory_bytes": workers.memory_bytes,
                "memory_limit_bytes": workers.memory_limit_bytes,
                "fullest": workers.fullest,
                "peak_worker_bytes": progressed.peak_worker_bytes,
                "gpu_memory_bytes": workers.gpu_bytes,
                "gpu_memory_total_bytes": workers.gpu_total_bytes,
            },
        }


def live_status(
    told: Told, progressed: Progressed, workers: Workers, *, began: float, now: float
) -> LiveStatus:
    """Bring together what the client told, what the store holds and what workers do.

    Parameters
    ----------
    told, progressed, workers
        The three.
    began, now
        When the run was first heard of, and the time, both on the clock that `Progressed.landings` are on; of a run that
        has ended, its end.
    """
    seconds = max(0.0, now - began) if told.seconds is None else told.seconds
    n_new = min(max(0, progressed.n_cells_done - told.n_cells_before), told.n_cells_todo)
    rate = n_new / seconds if n_new and seconds > 0 else None
    left = None
    if told.running and rate is not None:
        left = (told.n_cells_todo - n_new) / rate
    done = progressed.done
    running = sorted(
        number
        for number in workers.running.get(told.fingerprint[:8], ())
        if told.running and number < len(done) and not done[number]
    )
    failed = sorted(number for number in told.failures if 0 <= number < len(done) and not done[number])
    return LiveStatus(
        told=told,
        progressed=progressed,
        workers=workers,
        seconds=seconds,
        n_new=n_new,
        cells_per_s=rate,
        recent_cells_per_s=_recent_rate(told, progressed, began, now) if rate is not None else None,
        seconds_left=left,
        running=tuple(running),
        failed=tuple(failed),
        squares=squares(done, running, failed),
    )


def _recent_rate(told: Told, progressed: Progressed, began: float, now: float) -> float | None:
    """Return cells per second of the last minute, or of the whole run where that is shorter."""
    since = max(began, now - _RECENT_S)
    before = told.n_cells_before
    for moment, n_cells in progressed.landings:
        if moment <= since:
            before = max(before, n_cells)
    return max(0, progressed.n_cells_done - before) / (now - since) if now > since else None
