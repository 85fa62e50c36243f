"""Cells that stand for nodes: each node gets a cell of its own, the nearest that no nearer node has.

Nodes propose to their nearest cells, nearest first, and a cell keeps the nearest of the nodes that propose to it: the
outcome is that of taking the closest of all pairs of a node and a cell, then the closest of the pairs left, and so on
(deferred acceptance, Gale & Shapley 1962). It takes no more than the few nearest cells of each node, found in one pass
over the cells; a further pass is made for the nodes that all of these refused.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stabdask.atlas.coordinates import Coordinates
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["nearest_unused"]

Index = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Lists = tuple[Floats, Index]

_LISTED = 16
"""Nearest cells of a node that are looked up at first; four times as many in each further pass."""

_GROWTH = 4
_MOST_LISTED = 2**22
_TILE_NODES = 512
_PAIR_ENTRIES = 2**20
_FAR = 1e30
"""Squared distance, in squares of that between nodes, of cells that are too far for numbers to tell how far."""


def nearest_unused(coordinates: Coordinates, usable: npt.NDArray[np.bool_], nodes: Floats) -> Index:
    """Return a cell for each node, ``(node,)``, all of them different.

    Parameters
    ----------
    coordinates
        Those of all cells.
    usable
        ``(cell,)``: which cells may be chosen; at least as many as there are nodes, all with finite coordinates.
    nodes
        ``(node, axis)``.
    """
    center = nodes.mean(axis=0)
    scale = float(np.abs(nodes - center).max()) or 1.0
    scaled = (nodes - center) / scale
    matching = _Matching(len(nodes), usable)
    pending: Index = np.arange(len(nodes))
    listed = _LISTED
    with single_threaded_blas():
        while len(pending):
            some, others = np.split(pending, [max(1, _MOST_LISTED // listed)])
            lists = _nearest_cells(coordinates, matching.distance, scaled[some], listed, center, scale)
            pending = np.concatenate([others, matching.propose(some, lists)])
            listed *= _GROWTH
    cells = np.flatnonzero(matching.node >= 0)
    chosen = np.empty(len(nodes), dtype=np.intp)
    chosen[matching.node[cells]] = cells
    return chosen


class _Matching:
    """Who holds which cell, and whom nodes would propose to next.

    Attributes
    ----------
    node, distance
        ``(cell,)``: the node that holds a cell, -1 for none, and its squared distance, which a node that wants the
        cell has to be below: infinite for a free cell, minus infinity for one that may not be chosen.
    """

    def __init__(self, n_nodes: int, usable: npt.NDArray[np.bool_]) -> None:
        self.node: Index = np.full(len(usable), -1, dtype=np.intp)
        self.distance: Floats = np.where(usable, np.inf, -np.inf)
        # The lists of all nodes one behind the other; a node that was displaced goes on where it left its own.
        self._listed_distance: Floats = np.empty(0)
        self._listed_cell: Index = np.empty(0, dtype=np.intp)
        self._next: Index = np.zeros(n_nodes, dtype=np.intp)
        self._stop: Index = np.zeros(n_nodes, dtype=np.intp)

    def propose(self, nodes: Index, lists: Lists) -> Index:
        """Let nodes propose down their new `lists` and return those that came to the end of one, ascending."""
        distance, cell = lists
        kept = np.isfinite(distance)
        ends = len(self._listed_cell) + np.cumsum(kept.sum(axis=1))
        self._next[nodes], self._stop[nodes] = ends - kept.sum(axis=1), ends
        self._listed_distance = np.concatenate([self._listed_distance, distance[kept]])
        self._listed_cell = np.concatenate([self._listed_cell, cell[kept]])
        ended: list[Index] = []
        while len(nodes):
            more = self._next[nodes] < self._stop[nodes]
            ended.append(nodes[~more])
            nodes = self._round(nodes[more])
        return np.sort(np.concatenate(ended)) if ended else nodes

    def _round(self, nodes: Index) -> Index:
        """Let each of `nodes` propose once and return those that have no cell then."""
        places = self._next[nodes]
        self._next[nodes] += 1
        cell, distance = self._listed_cell[places], self._listed_distance[places]
        order = np.lexsort((nodes, distance, cell))
        first = np.diff(cell[order], prepend=-1) > 0
        best = order[first]
        best = best[distance[best] < self.distance[cell[best]]]
        taken = cell[best]
        displaced = self.node[taken]
        self.node[taken], self.distance[taken] = nodes[best], distance[best]
        refused = np.delete(nodes, best)
        return np.concatenate([refused, displaced[displaced >= 0]])


def _nearest_cells(
    coordinates: Coordinates, limit: Floats, nodes: Floats, n: int, center: Floats, scale: float
) -> Lists:
    """Return squared distances and positions of the `n` nearest cells of each node, nearest first.

    Only cells nearer than their `limit` count; where there are fewer than `n`, distances are infinite. A product of
    matrices in single precision, lowered by what rounding may have added, says which pairs are worth computing.
    """
    n_nodes, n_axes = nodes.shape
    lists = np.full((n_nodes, n), np.inf), np.zeros((n_nodes, n), dtype=np.intp)
    # Sums of n_axes + 2 products of rounded numbers; twice what these can be off, relative to the squared norms.
    slack = (n_axes + 8) * float(np.finfo(np.float32).eps)
    node_norm = np.square(nodes).sum(axis=1)
    left = np.column_stack([-2.0 * nodes, (1 - slack) * node_norm, np.ones(n_nodes)]).astype(np.float32)
    for start, strip in coordinates.strips():
        with np.errstate(over="ignore", invalid="ignore"):
            cells = (strip - center) / scale
            norm = np.square(cells).sum(axis=1)
        far = ~(norm < _FAR)  # NaN is far too
        cells[far], norm[far] = 0.0, _FAR
        right = np.column_stack([cells, np.ones(len(cells)), (1 - slack) * norm]).astype(np.float32)
        cells[far] = np.inf
        strip_limit = limit[start : start + len(strip)]
        limited = not np.isposinf(strip_limit).all()
        for begin in range(0, n_nodes, _TILE_NODES):
            tile = slice(begin, begin + _TILE_NODES)
            bound = left[tile] @ right.T
            if limited:
                bound[bound >= strip_limit] = np.inf
            pairs = _worth_computing(
                bound, lists[0][tile, -1], n, 2 * slack * node_norm[tile], 2 * slack * norm
            )
            if len(pairs[0]):
                distance = _squared_distances(nodes[tile], cells, pairs)
                near = distance < strip_limit[pairs[1]]
                row, column = pairs[0][near], pairs[1][near]
                _merge((lists[0][tile], lists[1][tile]), row, distance[near], start + column)
    return lists


def _worth_computing(
    bound: npt.NDArray[np.float32], last: Floats, n: int, node_slack: Floats, cell_slack: Floats
) -> tuple[Index, Index]:
    """Return the pairs of which the second may be one of the `n` nearest of the first.

    Parameters
    ----------
    bound
        ``(node, cell)``: no distance is below it; none is above it by more than `node_slack` and `cell_slack`.
    last
        ``(node,)``: the largest distance in the node's list, infinite while that is not full.
    """
    row = np.flatnonzero(bound.min(axis=1) < last)
    near, limit = bound[row], last[row]
    empty = np.isinf(limit)
    if n < near.shape[1] and empty.any():
        above = near[empty] + node_slack[row[empty], None] + cell_slack
        limit[empty] = np.nextafter(np.partition(above, n - 1, axis=1)[:, n - 1], np.inf)
    place, column = np.nonzero(near < limit[:, None])
    return row[place], column


def _squared_distances(nodes: Floats, cells: Floats, pairs: tuple[Index, Index]) -> Floats:
    """Return the squared distance of each pair; the same for cells that are the same, wherever they are."""
    out = np.empty(len(pairs[0]))
    for begin in range(0, len(out), step := max(1, _PAIR_ENTRIES // nodes.shape[1])):
        part = slice(begin, begin + step)
        out[part] = np.square(nodes[pairs[0][part]] - cells[pairs[1][part]]).sum(axis=1)
    return np.minimum(out, _FAR)


def _merge(lists: Lists, row: Index, distance: Floats, cell: Index) -> None:
    """Put cells into the lists of the nodes `row`, in place, where they are nearer than some listed."""
    n = lists[0].shape[1]
    changed, row = np.unique(row, return_inverse=True)
    # Of equally near cells the first in the atlas comes first.
    all_rows = np.concatenate([np.repeat(np.arange(len(changed)), n), row])
    all_distances = np.concatenate([lists[0][changed].ravel(), distance])
    all_cells = np.concatenate([lists[1][changed].ravel(), cell])
    order = np.lexsort((all_cells, all_distances, all_rows))
    counts = np.bincount(all_rows)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    order = order[np.arange(len(order)) - first < n]
    lists[0][changed] = all_distances[order].reshape(-1, n)
    lists[1][changed] = all_cells[order].reshape(-1, n)
