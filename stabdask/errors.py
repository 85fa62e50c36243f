"""Every error stabdask raises, in one tree.

Each class is also a standard exception, so callers may catch either. A message says what was found, what
was expected and what to do next. All are picklable, because they travel from Dask workers to the client.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "OVERWRITE",
    "BackendUnavailableError",
    "ClusterError",
    "DamagedStoreError",
    "GpuError",
    "InputError",
    "MemoryBudgetError",
    "MissingFileError",
    "MissingKeyError",
    "NotPositiveDefiniteError",
    "OutputError",
    "RunFailedError",
    "RunTimeoutError",
    "SingularMatrixError",
    "StabdaskError",
    "StabdaskWarning",
    "StoreLockedError",
    "StoreMismatchError",
    "UnfitWorkerError",
    "UnreachableInputError",
    "UnreachableOutputError",
    "UsageError",
    "near_misses",
]


OVERWRITE = "ask to overwrite (--overwrite, overwrite=True)"
"""How to go on where something exists that would be replaced."""


class StabdaskError(Exception):
    """Base of every stabdask error; `exit_code` is what the command line returns for it."""

    exit_code = 3


class UsageError(StabdaskError, ValueError):
    """An option has a value that no input could make valid."""

    exit_code = 2


class InputError(StabdaskError, ValueError):
    """Cells or a field that cannot be computed with."""


class MissingKeyError(InputError, KeyError):
    """A layer, column, gene or parameter that the input does not have."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingFileError(InputError, FileNotFoundError):
    """An input path where nothing is."""

    # Of two built-in bases the one with more state has to make the object, also for unpicklers that look
    # for the first (tblib, which distributed uses).
    __new__ = FileNotFoundError.__new__  # type: ignore[assignment]


class MemoryBudgetError(InputError, MemoryError):
    """A memory budget too small for the job; the message names the least that works."""


class SingularMatrixError(InputError, ArithmeticError):
    """A matrix that has no inverse, or none that its entries determine to any digit."""


class NotPositiveDefiniteError(InputError, ArithmeticError):
    """A matrix that is no covariance matrix with an inverse; the message says its smallest eigenvalue."""


class UnreachableInputError(InputError, ConnectionError):
    """A bucket that could not be read from though it was asked again and again; later it may answer."""

    # As for MissingFileError.
    __new__ = ConnectionError.__new__  # type: ignore[assignment]


class OutputError(StabdaskError, OSError):
    """The output location cannot be written."""


class UnreachableOutputError(OutputError, ConnectionError):
    """A bucket that could not be written to though it was asked again and again; later it may answer."""


class StoreMismatchError(StabdaskError, FileExistsError):
    """A store that exists and belongs to another run, or is no stabdask store."""

    exit_code = 5


class DamagedStoreError(StabdaskError, ValueError):
    """A store whose contents contradict its own receipts."""

    exit_code = 5


class StoreLockedError(StabdaskError, BlockingIOError):
    """Another run is writing to the same store."""

    exit_code = 5


class BackendUnavailableError(StabdaskError, RuntimeError):
    """A requested eigensolver backend, or a library that a request needs, that this machine does not have."""

    exit_code = 2


class ClusterError(StabdaskError, RuntimeError):
    """A Dask cluster that cannot be started, reached or used."""


class UnfitWorkerError(ClusterError):
    """A scheduler or workers that cannot do this run's work: other versions of packages, or files they do not see.

    Attributes
    ----------
    worker
        Address of the worker that refused a partition, empty otherwise.
    """

    worker: str = ""


class GpuError(StabdaskError, RuntimeError):
    """A GPU that failed while it computed; nothing that it was working on has been returned."""

    exit_code = 1


class RunFailedError(StabdaskError, RuntimeError):
    """Partitions that could not be finished; what was finished is kept and resumes."""

    exit_code = 1


class RunTimeoutError(StabdaskError, TimeoutError):
    """A run that still goes on after the time one was ready to wait for it."""


class StabdaskWarning(UserWarning):
    """Something a careful reader would want to know, though the result is right."""


def near_misses(name: str, options: Iterable[str], *, noun: str = "options") -> str:
    """Return a sentence suggesting what `name` may have meant.

    Parameters
    ----------
    name
        What was asked for.
    options
        What exists.
    noun
        Plural word for the options, used when nothing is close.

    Returns
    -------
    str
        ``"did you mean 'M_t'?"`` when something is close, else a listing of what exists.

    Examples
    --------
    >>> near_misses("Mt", ["M_t", "velocity"])
    "did you mean 'M_t'?"
    >>> near_misses("zzz", ["M_t", "velocity"], noun="layers")
    "layers present: 'M_t', 'velocity'"
    """
    known = [str(option) for option in options]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    folded = [option for option in known if option.casefold() == name.casefold()]
    close = list(dict.fromkeys(folded + close))
    if close:
        return "did you mean " + " or ".join(repr(option) for option in close) + "?"
    if not known:
        return f"there are no {noun}"
    shown = ", ".join(repr(option) for option in known[:8])
    more = f" and {len(known) - 8:,} more" if len(known) > 8 else ""
    return f"{noun} present: {shown}{more}"
