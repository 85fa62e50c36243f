"""Warnings that point to the caller's own line, and options that nothing knows."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from stabdask.errors import StabdaskWarning, UsageError, near_misses

__all__ = ["refuse_unknown", "say", "some"]

_SHOWN = 5


def say(message: str) -> None:
    """Warn, at the line that called into this package from outside."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("stabdask."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, StabdaskWarning, stacklevel=level)


def some(names: list[str]) -> str:
    """Return the first names of a list, quoted, and how many more there are.

    Examples
    --------
    >>> some(["a", "b"]), some(list("abcdefg"))
    ("'a', 'b'", "'a', 'b', 'c', 'd', 'e' and 2 more")
    """
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def refuse_unknown(function: Callable[..., Any], options: Mapping[str, object]) -> None:
    """Raise if there are `options`: those that `function` has not got, where dynamo passes any on.

    Raises
    ------
    UsageError
        With a near miss.
    """
    for name in options:
        known = [key for key, p in inspect.signature(function).parameters.items() if p.kind != p.VAR_KEYWORD]
        raise UsageError(f"{function.__name__} has no option {name!r}; {near_misses(name, known)}")
