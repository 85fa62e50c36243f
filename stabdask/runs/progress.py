"""Progress of a run: a bar on a terminal, a line now and then in a log; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from stabdask.runs.plan import format_seconds

__all__ = ["Progress", "ProgressWriter"]

_LOG_EVERY_S = 10.0
_WIDTH = 28


@dataclass(frozen=True)
class Progress:
    """A snapshot of a run.

    Attributes
    ----------
    n_done, n_cells
        Cells finished, by earlier attempts too, and in all.
    n_new
        Cells finished by this run.
    n_failed
        Cells with a failed status.
    seconds
        Since this run started.
    """

    n_done: int
    n_cells: int
    n_new: int
    n_failed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Cells per second in this run."""
        return self.n_new / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left, or None before the first partition is done."""
        return (self.n_cells - self.n_done) / self.rate if self.n_new else None

    def __str__(self) -> str:
        share = self.n_done / self.n_cells if self.n_cells else 1.0
        left = "" if self.seconds_left is None else f", {format_seconds(self.seconds_left)} left"
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        return (
            f"{share:4.0%}  {self.n_done:,} of {self.n_cells:,} cells, {self.rate:,.0f} cells/s{left}{failed}"
        )


class ProgressWriter:
    """Writes snapshots to a stream (stderr): one line rewritten on a terminal, new lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._last = -_LOG_EVERY_S
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""
        done = progress.n_done >= progress.n_cells
        if self._terminal:
            filled = round(_WIDTH * progress.n_done / max(1, progress.n_cells))
            line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {progress}"
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if done else ""))
            self._width = len(line)
        elif done or self._clock() - self._last >= _LOG_EVERY_S:
            self._stream.write(f"{progress}\n")
            self._last = self._clock()
        self._stream.flush()

    def message(self, text: str) -> None:
        """Write a line of text."""
        self._stream.write(text + "\n")
        self._stream.flush()
