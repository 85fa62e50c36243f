"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

from stabdask.errors import UsageError

__all__ = ["format_bytes", "parse_memory"]


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
