"""Rows of a Dask array in blocks of whole rows, as graphs that tasks carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["RowGraph", "Rows"]


class Rows(NamedTuple):
    """Some rows.

    Attributes
    ----------
    graph
        The part of the Dask graph that computes the blocks which hold them.
    keys
        Of those blocks, in their order.
    skip
        Rows of the first block that come before.
    """

    graph: dict[Any, Any]
    keys: list[Any]
    skip: int


class RowGraph:
    """The graph of a whole array, optimized once: to cut rows from it takes as long as they have blocks.

    Parameters
    ----------
    x
        In blocks of whole rows.

    Examples
    --------
    >>> import dask.array as da
    >>> rows = RowGraph(da.zeros((10, 2), chunks=(4, 2))).rows(5, 9)
    >>> len(rows.keys), rows.skip
    (2, 1)
    """

    def __init__(self, x: da.Array) -> None:
        from dask.base import optimize

        (whole,) = optimize(x)
        self._graph = dict(whole.__dask_graph__())
        self._keys = [key[0] for key in whole.__dask_keys__()]
        self._ends = np.cumsum(x.chunks[0])

    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows from `start` up to `stop`, at least one."""
        from dask.optimization import cull

        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        keys = self._keys[first : last + 1]
        graph, _ = cull(self._graph, keys)
        return Rows(graph, keys, int(start - (self._ends[first - 1] if first else 0)))
