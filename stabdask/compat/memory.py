"""What is too large to be held in memory is refused before it is computed."""

from __future__ import annotations

from stabdask.errors import MemoryBudgetError

__all__ = ["refuse_memory"]


def refuse_memory(n_bytes: int, what: str, instead: str) -> None:
    """Raise if `n_bytes` are more than the memory available now.

    Raises
    ------
    MemoryBudgetError
        With `what` would take them, and what to do `instead`.
    """
    import psutil

    available = int(psutil.virtual_memory().available)
    if n_bytes > available:
        raise MemoryBudgetError(
            f"{what} take {n_bytes / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB of memory are available; {instead}"
        )
