"""What is said where a run loses its scheduler, or a partition its memory."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stabdask.errors import RunFailedError, StabdaskError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["failure_hint", "out_of_memory", "scheduler_needed"]

_CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


@contextmanager
def scheduler_needed(client: Client) -> Iterator[None]:
    """Turn what Dask raises in the block once the scheduler is gone into an error that says so.

    Raises
    ------
    RunFailedError
        If the scheduler no longer answers.
    """
    try:
        yield
    except StabdaskError:
        raise
    # Connections end in OSError, futures in a cancellation, and a client that has closed in others.
    except (OSError, RuntimeError, *_CANCELLED) as error:
        if isinstance(error, RuntimeError) and client.status == "running":
            raise
        address = client.scheduler.address if client.scheduler is not None else "its address"
        raise RunFailedError(
            f"the scheduler at {address} no longer answers ({type(error).__name__}: {error}). What is finished is "
            "kept: start a cluster again and run the same command again"
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether a partition failed for want of memory, other than by a budget that was too small."""
    return isinstance(error, MemoryError) and not isinstance(error, StabdaskError)


def failure_hint(reason: str) -> str:
    """Return what to do about partitions that failed with `reason`, empty where nothing is known."""
    # A partition is not cut in halves: products of other numbers of rows differ in their last bits, and results
    # would depend on the memory of a machine.
    advice = (
        "give a larger --memory or fewer --workers, or begin another store with fewer --partition-cells (in this one "
        "blocks keep their size, on which the last bits of results depend)"
    )
    if "KilledWorker" in reason:
        return f"; a worker that is killed again and again has usually run out of memory: {advice}"
    return f"; memory ran out: {advice}" if "MemoryError" in reason else ""
