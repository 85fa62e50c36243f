"""A run that goes on in the background, and what one can ask of it meanwhile."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stabdask.errors import RunTimeoutError
from stabdask.rich import Rich, card
from stabdask.runs.progress import Progress
from stabdask.runs.results import open_results
from stabdask.runs.run_report import RunReport
from stabdask.runs.watch import Watch

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RunHandle"]

_END_S = 30.0
"""How long a process that ends waits for its runs to stop."""


class RunHandle(Rich):
    """A run in the background; from ``stabdask.run(..., wait=False)``.

    It goes on in a thread of this process, and ends with the process: what is finished then is kept in the store. In a
    ``with`` block, the end of the block cancels what is left of it.

    Attributes
    ----------
    store
        Where the results are to be.
    """

    _title = "Run in the background"

    def __init__(self, store: str, work: Callable[[Watch], RunReport], n_cells: int) -> None:
        """Start `work` and return once nothing stands in its way; what it refuses is raised here."""
        self.store = store
        self._n_cells = n_cells
        self._watch = Watch()
        self._report: RunReport | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name="stabdask-run", daemon=True)
        self._thread.start()
        _running.add(self)
        try:
            while self._thread.is_alive() and not self._watch.started.wait(0.05):
                pass
        except BaseException:  # an interrupt
            self._watch.stop()
            raise
        if not self._watch.started.is_set():
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _run(self, work: Callable[[Watch], RunReport]) -> None:
        try:
            self._report = work(self._watch)
        except BaseException as error:  # handed on to whoever waits
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it still goes on."""
        return self._thread.is_alive()

    @property
    def state(self) -> str:
        """``"running"``, ``"stopping"``, ``"done"``, ``"cancelled"`` or ``"failed"``."""
        if self.running:
            return "stopping" if self._watch.stopping else "running"
        if self._error is not None:
            return "failed"
        return "done" if self._report is not None and self._report.complete else "cancelled"

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard of its workers, None while or where there is none."""
        return self._watch.dashboard

    def progress(self) -> Progress:
        """Return how far it is."""
        return self._watch.latest or Progress(0, self._n_cells, 0, 0, 0.0)

    def wait(self, timeout: float | None = None) -> RunReport:
        """Wait for its end; an interrupt (Ctrl-C) ends the waiting, not the run.

        Parameters
        ----------
        timeout
            Seconds to wait at most.

        Returns
        -------
        RunReport
            Its `complete` is False for a run that was cancelled.

        Raises
        ------
        RunTimeoutError
            If it still goes on by then.
        StabdaskError
            Whatever the run ended with; see `stabdask.run`.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.running:
            left = 1.0 if end is None else end - time.monotonic()
            if left <= 0:
                raise RunTimeoutError(
                    f"the run into {self.store} still goes on after {timeout:g} s ({self.progress()}); wait again, "
                    "or cancel() it: what is finished is kept"
                )
            self._thread.join(min(left, 1.0))  # by the second, so that an interrupt is noticed
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def cancel(self) -> None:
        """Stop it and wait until it has; nothing that is finished is lost, and running it again resumes.

        Partitions that workers are in the middle of are given up; those of a cluster of yours may still finish theirs.
        """
        self._watch.stop()
        while self.running:
            self._thread.join(1.0)

    def results(self) -> xr.Dataset:
        """Return what there is so far, as `stabdask.open_results` does: cells still to come hold NaN and status 255.

        Call it again for what has been finished since.

        Warns
        -----
        StabdaskWarning
            While partitions are missing.
        """
        return open_results(self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"RunHandle({self.store!r}, {self.state}: {str(self.progress()).strip()})"

    def _rich_text(self) -> str:
        lines = [
            f"store        {self.store}",
            f"state        {self.state}",
            f"cells        {str(self.progress()).strip()}",
        ]
        if self.dashboard and self.running:
            lines.append(f"dashboard    {self.dashboard}")
        if self._error is not None:
            lines.append(f"error        {type(self._error).__name__}: {self._error}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return card(self._title, self._rich_text(), share=self.progress().share)


_running: weakref.WeakSet[RunHandle] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop what still runs when the process ends, so that its workers end in order too."""
    going = [handle for handle in _running if handle.running]
    for handle in going:
        handle._watch.stop()
    end = time.monotonic() + _END_S
    for handle in going:
        handle._thread.join(max(0.0, end - time.monotonic()))
