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

_MOST_JOINED = 500
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
    """Return numbers of groups of zeros that are not isolated: those with another zero midway belong together.

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
    some = location[np.unique(groups, return_index=True)[1]]
    n = len(some)
    tree = coo_array(minimum_spanning_tree(squareform(pdist(some / scales.state))))
    middle = 0.5 * (some[tree.row] + some[tree.col])
    found = find_roots(field, cluster, middle, scales)
    away = np.sqrt(np.square((found.location - middle) / scales.state).sum(axis=1))
    joined = (found.outcome == Outcome.CONVERGED) & (away <= 0.5 * tree.data)
    graph = coo_array((np.ones(joined.sum()), (tree.row[joined], tree.col[joined])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1][groups], dtype=np.intp)
