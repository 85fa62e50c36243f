"""The numbers that the live page and its JSON show of one run: one object, which feeds both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.live.model import DECADES, QUANTILES, Progressed
from stabdask.live.told import Told, Workers
from stabdask.schema import named_counts

__all__ = ["MOST_SQUARES", "LiveStatus", "Squares", "live_status", "squares"]

MOST_SQUARES = 4096
"""Squares of the map; of more partitions each stands for several."""
_RECENT_S = 60.0


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
                        "lowest": _json(row.lowest),
                        "quantiles": row.quantiles and [_json(value) for value in row.quantiles],
                        "highest": _json(row.highest),
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


def _json(value: float | None) -> float | None:
    """Return a number, None where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None


def live_status(
    told: Told, progressed: Progressed, workers: Workers, *, began: float, now: float
) -> LiveStatus:
    """Bring together what the client told, what the store holds and what workers do.

    Parameters
    ----------
    told, progressed, workers
        The three.
    began, now
        When the run was first heard of, and the time, both on the clock that `Progressed.landings` are on; of a run
        that has ended, its end.
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
