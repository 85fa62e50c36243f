"""Checks of what every layer may be given: arrays and clients that live on a cluster."""

from __future__ import annotations

from typing import Any

from stabdask.errors import UsageError

__all__ = ["refuse_asynchronous", "refuse_persisted"]


def refuse_persisted(state: Any) -> None:
    """Refuse a Dask array that lives in the memory of a cluster, which tasks of our own cannot carry.

    Raises
    ------
    UsageError
        If it was persisted on a cluster.
    """
    # Looked for before Dask optimizes the graph, which leaves such data out.
    if any(type(value).__name__ == "Future" for value in dict(state.__dask_graph__()).values()):
        raise UsageError(
            "the expression was persisted on a cluster; pass the cells as open_cells returned them"
        )


def refuse_asynchronous(client: Any) -> None:
    """Refuse a Dask client whose methods are coroutines; None, for no client, is none.

    Raises
    ------
    UsageError
        If it is one.
    """
    if client is not None and client.asynchronous:
        raise UsageError("the client is asynchronous; expected one made with asynchronous=False")
