"""What a run in the background tells, and how it is told to stop."""

from __future__ import annotations

import threading

from stabdask.runs.progress import Progress

__all__ = ["Watch"]


class Watch:
    """What a run tells those who watch it, from whatever thread it is in, and whether it is to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.started = threading.Event()
        """Set once its workers are there: all that can be refused has been."""
        self.dashboard: str | None = None
        self.latest: Progress | None = None

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Let the run stop as soon as it can."""
        self._stop.set()

    def wait_to_stop(self, seconds: float) -> bool:
        """Wait until the run is to stop, for some seconds at most, and return whether it is."""
        return self._stop.wait(seconds)

    def show(self, progress: Progress) -> None:
        """Take a snapshot."""
        self.latest = progress
