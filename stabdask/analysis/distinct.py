"""Which of many zeros of a field are one and the same, and which are points of a line of zeros."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stabdask.analysis.roots import Outcome, find_roots
from stabdask.analysis.search import ContinuedField, SearchScales
from stabdask.fields.base import Field

__all__ = ["distinct_rows", "groups_of_zeros", "is_isolated", "join_continua"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

_HALVINGS = 3
_MOST_JOINED, _MOST_PARTS = 500, 20
_PROBE = 1e-2
"""Of the spread of the data: how far along the null direction a singular zero is probed."""


def distinct_rows(rows: Array) -> tuple[Array, Index]:
    """Return the different rows in lexicographic order, and how often each is there.

    Examples
    --------
    >>> import numpy as np
    >>> distinct_rows(np.array([[2.0, 1.0], [1.0, 3.0], [2.0, 1.0]]))
    (array([[1., 3.], [2., 1.]]), array([1, 2]))
    """
    if not len(rows):
        return rows, np.zeros(0, dtype=np.intp)
    # Adding 0 makes -0 and 0 one.
    ordered = (rows + 0.0)[np.lexsort(rows.T[::-1])]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    return ordered[starts], np.diff(np.append(starts, len(rows)))


def groups_of_zeros(location: Array, error: Array, tolerance: float) -> Index:
    """Return the number of the group of each zero, ``(zero,)``: those nearer than `tolerance` to one are one with it.

    Parameters
    ----------
    location
        ``(zero, axis)``.
    error
        ``(zero,)`` how far off each may be: added to `tolerance` three times over.
    tolerance
        Distance.

    Returns
    -------
    numpy.ndarray
        Numbers from 0; the most exact zero of a group is the first to be looked at, so that the order of the zeros
        plays no part.
    """
    order = np.lexsort((*location.T[::-1], error))
    groups = np.full(len(location), -1, dtype=np.intp)
    n_groups = 0
    while len(order):
        first, others = order[0], order
        distance = np.sqrt(np.square(location[others] - location[first]).sum(axis=1))
        same = distance <= tolerance + 3.0 * (error[others] + error[first])
        same[0] = True
        groups[others[same]] = n_groups
        n_groups += 1
        order = others[~same]
    return groups


def is_isolated(field: Field, cluster: int, location: Array, scales: SearchScales) -> Mask:
    """Return which zeros with a singular Jacobian have no others beside them, ``(zero,)``.

    From a step along its null direction, Newton's iteration comes back to an isolated zero; on a line of zeros it stays
    there.
    """
    search = ContinuedField(field, cluster, scales)
    with np.errstate(all="ignore"):
        direction = search.null_directions(location)
        known = np.isfinite(direction).all(axis=1)
        direction[~known] = 0.0
        isolated = np.ones(len(location), dtype=bool)
        for side in (_PROBE, -_PROBE):
            probe = np.maximum(location + side * direction, search.floor)
            found = find_roots(field, cluster, probe, scales)
            gone = np.sqrt(np.square((found.location - location) / scales.state).sum(axis=1))
            isolated &= ~((found.outcome == Outcome.CONVERGED) & (gone > 0.5 * _PROBE))
    return np.asarray(isolated | ~known)


def join_continua(field: Field, cluster: int, location: Array, scales: SearchScales) -> Index:
    """Return numbers of groups of zeros that are not isolated: those that other zeros lead between belong together.

    Parameters
    ----------
    field, cluster
        The field and the number of a cluster of it.
    location
        ``(zero, axis)``.
    scales
        From `stabdask.analysis.search.search_scales`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial.distance import pdist, squareform

    if not len(location):
        return np.zeros(0, dtype=np.intp)
    # Neighbors along a line need not be looked at each: the more there are, the coarser.
    near = _PROBE * scales.spread
    groups = groups_of_zeros(location, np.zeros(len(location)), near)
    while groups.max() >= _MOST_JOINED:
        near *= 2.0
        groups = groups_of_zeros(location, np.zeros(len(location)), near)
    some = location[np.unique(groups, return_index=True)[1]] / scales.state
    tree = coo_array(minimum_spanning_tree(squareform(pdist(some))))
    numbers = np.zeros(len(some), dtype=np.intp)
    pairs = np.stack([tree.row, tree.col], axis=1).astype(np.intp)
    edges = np.zeros((0, 2), dtype=np.intp)
    while len(pairs):
        joined = _connected(field, cluster, some[pairs] * scales.state, scales)
        edges = np.concatenate([edges, pairs[joined]])
        graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(some), len(some)))
        n_parts, numbers = connected_components(graph, directed=False)
        # Lines that run side by side are nearer to each other than far parts of one: look at all pairs of parts.
        pairs = _nearest_pairs(some, numbers) if joined.any() and 1 < n_parts <= _MOST_PARTS else pairs[:0]
    return np.asarray(numbers[groups], dtype=np.intp)


def _connected(field: Field, cluster: int, ends: Array, scales: SearchScales) -> Mask:
    """Return whether zeros lead from one to the other, for each pair ``(pair, 2, axis)``.

    There has to be a zero near the middle between the two, and between each of them and it, and so on.
    """
    path, joined = ends, np.ones(len(ends), dtype=bool)
    for _ in range(_HALVINGS):
        middle = 0.5 * (path[:, 1:] + path[:, :-1])
        found = find_roots(field, cluster, middle.reshape(-1, middle.shape[2]), scales)
        zeros = found.location.reshape(middle.shape)
        away = np.sqrt(np.square((zeros - middle) / scales.state).sum(axis=2))
        apart = np.sqrt(np.square((path[:, 1:] - path[:, :-1]) / scales.state).sum(axis=2))
        known = found.outcome.reshape(away.shape) == Outcome.CONVERGED
        joined &= (known & (away <= 0.25 * apart)).all(axis=1)
        longer = np.empty((len(path), 2 * path.shape[1] - 1, path.shape[2]))
        longer[:, ::2], longer[:, 1::2] = path, zeros
        path = longer
    return joined


def _nearest_pairs(points: Array, numbers: Index) -> Index:
    """Return the two points that are nearest to each other, for each two of the groups, ``(pair, 2)``."""
    from scipy.spatial.distance import cdist

    parts = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    pairs = []
    for position, first in enumerate(parts):
        for second in parts[position + 1 :]:
            distance = cdist(points[first], points[second])
            i, j = np.unravel_index(distance.argmin(), distance.shape)
            pairs.append((first[i], second[j]))
    return np.asarray(pairs, dtype=np.intp)
