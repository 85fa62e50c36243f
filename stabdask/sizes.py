"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

from stabdask.errors import UsageError

__all__ = ["bytes_hint", "format_bytes", "parse_memory"]

_LEAST = 1_000_000
"""Bytes below which a budget was meant to be something else."""


def parse_memory(memory: int | str) -> int:
    """Return a number of bytes from ``4e9``, ``"4GB"`` or ``"4GiB"``.

    Raises
    ------
    UsageError
        If it is none of these, or not positive.

    Examples
    --------
    >>> parse_memory("4GB")
    4000000000
    """
    from dask.utils import parse_bytes

    try:
        value = int(parse_bytes(memory))
    except ValueError as error:
        raise UsageError(f"memory {memory!r} is no size; expected e.g. '4GB' or '3.5GiB'") from error
    if value <= 0:
        raise UsageError(f"memory {memory!r} is not positive; expected e.g. '4GB'")
    return value


def bytes_hint(memory: int | str | None) -> str:
    """Return what to say of a budget in which a unit was left out, "" of any other.

    Examples
    --------
    >>> bytes_hint("4"), bytes_hint(2048), bytes_hint("4GB")
    (" ('4' is 4 bytes: did you mean '4GB'?)", " (2048 is 2,048 bytes: did you mean '2048MB'?)", '')
    """
    if memory is None or (value := parse_memory(memory)) >= _LEAST:
        return ""
    number = str(memory).strip()
    meant = f"{number}{'GB' if value < 1000 else 'MB'}" if number.isdigit() else "4GB"
    return f" ({memory!r} is {value:,} bytes: did you mean {meant!r}?)"


def format_bytes(n_bytes: float) -> str:
    """Return a size in decimal units.

    Examples
    --------
    >>> format_bytes(3_210_000_000)
    '3.21 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{int(n_bytes)} B"
