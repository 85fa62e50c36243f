"""`Cluster`: what was asked for, started and closed with a block or by hand."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from stabdask.clusters.dashboard import dashboard_text
from stabdask.clusters.options import ClusterRequest
from stabdask.rich import Rich

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Cluster", "Say"]

Say = Callable[[str], None] | None
"""What is called with lines about a cluster."""


class Cluster(Rich):
    """A Dask cluster, from `stabdask.cluster`: for a ``with`` block, or to `start` and `close` in cells of a notebook.

    Nothing runs before it is entered or started, and nothing that it started outlives it: what nobody closed is closed
    when Python ends.

    Parameters
    ----------
    request
        What was asked for.
    say
        Called with lines about what was started and where its dashboard is.
    opener
        Gives the context of a client of what was asked for.

    Examples
    --------
    >>> import stabdask as sd
    >>> cluster = sd.cluster("local", workers=2)
    >>> cluster
    Cluster(local, not started)
    >>> client = cluster.start()  # doctest: +SKIP
    >>> report = sd.run(cells, field, "out.zarr", client=client)  # doctest: +SKIP
    >>> cluster.close()  # doctest: +SKIP
    """

    _title = "Cluster"

    def __init__(
        self,
        request: ClusterRequest,
        say: Say,
        opener: Callable[[ClusterRequest, Say], AbstractContextManager[Client]],
    ) -> None:
        self._request, self._say, self._opener = request, say, opener
        self._client: Client | None = None
        self._open = ExitStack()

    def start(self) -> Client:
        """Start the cluster, or connect to it, and return a client; the same one if that was done before.

        Raises
        ------
        ClusterError
            If it cannot be started or reached.
        BackendUnavailableError
            If ``"cuda"`` lacks GPUs or what it takes to use them.
        """
        if self._client is None:
            self._client = self._open.enter_context(self._opener(self._request, self._say))
            atexit.register(self.close)
            text = dashboard_text(self._client)
            if self._say is not None and text is not None:
                self._say(f"dashboard    {text}")
        return self._client

    def close(self) -> None:
        """End what was started; does nothing where that was done before. It can be started again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Client:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        atexit.unregister(self.close)
        self._client = None
        self._open.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        if self._client is None:
            return f"Cluster({self._request.kind}, not started)"
        return f"Cluster({self._request.kind}, {_address(self._client)})"

    def _rich_text(self) -> str:
        if self._client is None:
            return f"kind         {self._request.kind}\nstate        not started; start() gives a client"
        lines = [f"kind         {self._request.kind}", f"scheduler    {_address(self._client)}"]
        text = dashboard_text(self._client)
        return "\n".join([*lines, *([] if text is None else [f"dashboard    {text}"])])


def _address(client: Client) -> str:
    return "closed" if client.scheduler is None else str(client.scheduler.address)
