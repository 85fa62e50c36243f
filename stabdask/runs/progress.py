"""Progress of a run: a bar on a terminal or in a notebook, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from stabdask.rich import card
from stabdask.runs.plan import format_seconds

__all__ = ["NotebookDisplay", "Progress", "ProgressDisplay", "ProgressWriter", "progress_display"]

_LOG_EVERY_S = 10.0
_DRAW_EVERY_S = 0.25
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
    def share(self) -> float:
        """Share of the cells that are finished."""
        return self.n_done / self.n_cells if self.n_cells else 1.0

    @property
    def rate(self) -> float:
        """Cells per second in this run."""
        return self.n_new / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left, or None before the first partition is done."""
        return (self.n_cells - self.n_done) / self.rate if self.n_new else None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {format_seconds(self.seconds_left)} left"
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        return f"{self.share:4.0%}  {self.n_done:,} of {self.n_cells:,} cells, {self.rate:,.0f} cells/s{left}{failed}"


class ProgressDisplay(ABC):
    """What shows snapshots of a run, and lines of text about it."""

    @abstractmethod
    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""

    @abstractmethod
    def message(self, text: str) -> None:
        """Show a line of text."""


def progress_display() -> ProgressDisplay:
    """Return what suits where this runs: a notebook shows HTML, all else has stderr."""
    return NotebookDisplay() if _in_notebook() else ProgressWriter()


class ProgressWriter(ProgressDisplay):
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
            filled = round(_WIDTH * progress.share)
            line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {progress}"
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if done else ""))
            self._width = 0 if done else len(line)
        elif done or self._clock() - self._last >= _LOG_EVERY_S:
            self._stream.write(f"{progress}\n")
            self._last = self._clock()
        self._stream.flush()

    def message(self, text: str) -> None:
        """Write a line of text, below a bar that is being rewritten."""
        self._stream.write(("\n" if self._width else "") + text + "\n")
        self._width = 0
        self._stream.flush()


class NotebookDisplay(ProgressDisplay):
    """Shows snapshots as a bar in the output of a notebook's cell, with the lines of text below it.

    Any thread may call it; what is shown is drawn again four times a second at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._handle: Any = None
        self._last = -_DRAW_EVERY_S
        self._messages: list[str] = []
        self._progress: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""
        with self._lock:
            self._progress = progress
            if progress.n_done >= progress.n_cells or self._clock() - self._last >= _DRAW_EVERY_S:
                self._draw()

    def message(self, text: str) -> None:
        """Show a line of text."""
        with self._lock:
            self._messages.append(text)
            self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        lines = [] if self._progress is None else [f"cells        {self._progress}"]
        share = None if self._progress is None else self._progress.share
        text = "\n".join(lines + [line for said in self._messages for line in said.splitlines()])
        shown = HTML(card("stabdask", text, share=share))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)
        self._last = self._clock()


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
