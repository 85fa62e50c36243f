"""Ctrl-C, SIGTERM and SIGHUP end a command in order; a second one ends it at once.

A scheduler of batch jobs sends SIGTERM a while before it kills, a terminal that closes sends SIGHUP.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = ["EXIT_INTERRUPTED", "Interrupts", "interruptible", "leave"]

EXIT_INTERRUPTED = 130
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """Turns the first signal into `KeyboardInterrupt`; what comes later ends a program at once."""

    def __init__(self, *, is_program: bool) -> None:
        self.received: list[str] = []
        self._is_program = is_program

    def handle(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        self.received.append(signal.Signals(number).name)
        if len(self.received) == 1:
            raise KeyboardInterrupt
        if self._is_program:
            # Workers watch the process that started them, and end with it.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nstabdask: stopped at once\n")
            os._exit(EXIT_INTERRUPTED)

    def message(self, *, resumable: bool) -> str:
        """Return what to say once the command has ended."""
        by = f" by {self.received[0]}" if self.received else ""
        resumes = "; what is finished is kept, the same command resumes" if resumable else ""
        return f"interrupted{by}{resumes}"


def leave(code: int) -> NoReturn:
    """End this process without what libraries have planned for its end, which expects all that began to be whole.

    A cluster that was interrupted while it started cannot be closed, say. Its workers end with this process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


@contextmanager
def interruptible(*, is_program: bool) -> Iterator[Interrupts]:
    """Handle signals in the block, but for those that are ignored already, as nohup and shells do.

    Parameters
    ----------
    is_program
        Whether the process ends with the block: nothing can interrupt it afterwards then. Otherwise the handlers from
        before are put back.
    """
    interrupts = Interrupts(is_program=is_program)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, interrupts.handle)
    try:
        yield interrupts
    finally:
        for number in ours:
            # On the way out of an interrupted program, one more signal ends it at once; of a finished one, none does.
            if not is_program:
                signal.signal(number, before[number])
            elif not interrupts.received:
                signal.signal(number, signal.SIG_IGN)
