"""Nodes that stand for many points: neural gas, and k-means, in mini-batches.

A batch of presentations is compared with all nodes by one product of matrices. Nodes stand still within a batch; then
each moves as far as the presentations, one after the other, would have moved it together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from stabdask.kernels.threads import single_threaded_blas

__all__ = ["N_PRESENTATIONS", "draw_weighted", "kmeans_centers", "topology_nodes"]

Array = npt.NDArray[Any]
Index = npt.NDArray[np.intp]

N_PRESENTATIONS = 200
"""Presentations per node; more different points than this per node are of no use."""

_RANGE = (0.2, 0.01)
"""The neighborhood in ranks: at first this times the number of nodes, in the end this."""

_STEP = (0.3, 0.05)

_LEFT_OUT = 0.01
"""Share of a presentation's pull, the sum of exp(-rank / range), that is left out: that on nodes of high rank."""

_NODES_PER_SHOWN = 2
"""Half as many presentations as there are nodes make a batch: most nodes are the nearest of none or one of them."""

_STRIP_ENTRIES = 2**18
_FEWEST_ROWS = 128
_SPARSE = 16
"""Sums over a batch skip zeros where fewer than one of so many entries is none."""

_INDEX_BITS = 14
"""Bits of a float32 that may hold the number of a node: nine of its significand are left to rank distances by."""

_LOOKED = 256
_NOISE = 0.01
"""Rounding of distances to the nearest node, relative to them, up to which they are computed in float32."""

_KMEANS_PRESENTATIONS = 100
_KMEANS_FEWEST = 20_000
_KMEANS_BATCH = 64
_SEEDING_POINTS = 20
_SEEDING_SHARE = 4


def topology_nodes(points: Array, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return nodes placed by the neural-gas algorithm.

    ``200 n`` points are presented. Each pulls every node towards itself by ``step * exp(-rank / range)`` of the way,
    where the nearest node has rank 0, the next 1, and so on. From the first presentation to the last, step falls
    geometrically from 0.3 to 0.05 and range from 0.2 n to 0.01.

    Parameters
    ----------
    points
        ``(point, axis)``, finite.
    n
        Number of nodes, at most that of the points, from which they start.
    rng
        Draws the first nodes and the presentations.

    Returns
    -------
    numpy.ndarray
        ``(n, axis)``, in the units of the points.

    References
    ----------
    Martinetz & Schulten 1994, Neural Networks 7(3), 507-522; the schedule is that of Qiu et al. 2022, Cell 185(4).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> points = np.concatenate([rng.normal(1, 0.1, (500, 1)), rng.normal(5, 0.1, (500, 1))])
    >>> nodes = topology_nodes(points, 2, rng)
    >>> np.sort(nodes.ravel()).round(1).tolist()
    [1.0, 5.0]
    """
    first = rng.choice(len(points), n, replace=False, shuffle=False)
    scaled = _Scaled.of(points, n)
    nodes = scaled.rows[first, : scaled.n_axes].copy()
    n_shown = N_PRESENTATIONS * n
    with single_threaded_blas():
        for begin in range(0, n_shown, size := max(1, n // _NODES_PER_SHOWN)):
            shown = rng.integers(len(points), size=min(size, n_shown - begin))
            # The middle of the batch stands for it.
            done = (begin + (len(shown) + 1) / 2) / n_shown
            reach = _RANGE[0] * n * (_RANGE[1] / (_RANGE[0] * n)) ** done
            step = _STEP[0] * (_STEP[1] / _STEP[0]) ** done
            n_pulled = min(n, max(1, int(np.ceil(-reach * np.log(_LEFT_OUT)))))
            pull = step * np.exp(-np.arange(n_pulled) / reach)
            # Pulls a, b, ... one after the other leave (1-a)(1-b)... of the way. How much of it is whose depends on
            # their order, which is random: each gets what its logarithm is of the sum of logarithms.
            _move(nodes, scaled, shown, -np.log1p(-pull))
    return scaled.points(nodes)


def kmeans_centers(points: Array, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return centers placed by mini-batch k-means.

    They start as points drawn with probability proportional to the squared distance to the nearest one drawn before
    (k-means++), some of them at a time. Then 100 n points, at least 20,000, are presented: in batches, each center
    moves to the mean of all presentations it was the nearest of.

    Parameters
    ----------
    points
        ``(point, axis)``, finite.
    n
        Number of centers, at most that of the points.
    rng
        Draws first centers and presentations.

    Returns
    -------
    numpy.ndarray
        ``(n, axis)``, in the units of the points.

    References
    ----------
    Arthur & Vassilvitskii 2007, SODA, 1027-1035; Sculley 2010, WWW, 1177-1178.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> points = np.concatenate([rng.normal(1, 0.1, (500, 1)), rng.normal(5, 0.1, (500, 1))])
    >>> np.sort(kmeans_centers(points, 2, rng).ravel()).round(1).tolist()
    [1.0, 5.0]
    """
    among: Index = np.arange(len(points))
    if len(points) > _SEEDING_POINTS * n:
        among = np.sort(rng.choice(len(points), _SEEDING_POINTS * n, replace=False, shuffle=False))
    scaled = _Scaled.of(points, n)
    with single_threaded_blas():
        centers = scaled.rows[_spread(scaled, among, n, rng), : scaled.n_axes].copy()
        counts = np.zeros(n)
        n_left = max(_KMEANS_PRESENTATIONS * n, _KMEANS_FEWEST)
        while n_left:
            shown = rng.integers(len(points), size=min(max(n, _KMEANS_BATCH), n_left))
            n_left -= len(shown)
            right = scaled.against(centers)
            sums = np.zeros((n, scaled.n_axes + 1))
            for rows in scaled.strips(shown, n):
                nearest = (rows @ right).argmin(axis=1)
                sums += _sums_of(rows[:, :-1], nearest[:, None], np.ones(1), n)
            hit = np.flatnonzero(sums[:, -1])
            counts[hit] += sums[hit, -1]
            mean = sums[hit, :-1] / sums[hit, -1:]
            centers[hit] += (sums[hit, -1] / counts[hit])[:, None] * (mean - centers[hit])
    return scaled.points(centers)


def draw_weighted(weights: npt.NDArray[np.float64], n: int, rng: np.random.Generator) -> Index:
    """Draw `n` items one after the other without replacement, each time with probability proportional to weight.

    The items with the smallest of exponentially distributed waiting times, whose rates are the weights, are such a
    draw exactly; so one pass suffices.

    Parameters
    ----------
    weights
        ``(item,)``, of which at least `n` are positive and finite; no other item is drawn.
    n
        How many.
    rng
        Draws a waiting time for every item.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` items, ascending.

    References
    ----------
    Efraimidis & Spirakis 2006, Information Processing Letters 97(5), 181-185.

    Examples
    --------
    >>> draw_weighted(np.array([0.0, 2.0, 1e-300, np.nan, 5.0]), 3, np.random.default_rng(0)).tolist()
    [1, 2, 4]
    """
    waits = rng.standard_exponential(len(weights))
    items = np.flatnonzero((weights > 0) & np.isfinite(weights))
    with np.errstate(divide="ignore"):
        # Logarithms, because a quotient of small weights would be infinite.
        order = np.log(waits[items]) - np.log(weights[items])
    taken = items if n >= len(items) else items[np.argpartition(order, n - 1)[:n]]
    return np.sort(taken)


@dataclass(frozen=True)
class _Scaled:
    """Points moved to their mean and scaled to at most 1, with two columns that make distances one product.

    Attributes
    ----------
    rows
        ``(point, axis + 2)``: coordinates, 1, squared norm.
    size, center, spread
        Points are ``size * (center + spread * coordinates)``; of two steps, so that no number is too large.
    """

    rows: Array
    size: float
    center: npt.NDArray[np.float64]
    spread: float

    @classmethod
    def of(cls, points: Array, n: int) -> _Scaled:
        """Prepare `points` for `n` nodes."""
        n_points, n_axes = points.shape
        step = max(1, _STRIP_ENTRIES // n_axes)
        parts = [slice(begin, begin + step) for begin in range(0, n_points, step)]
        size = max(abs(float(points.max())), abs(float(points.min()))) or 1.0
        # Means of numbers below 1: their sum cannot overflow.
        center = (
            np.sum([(points[part] / size).sum(axis=0, dtype=np.float64) for part in parts], axis=0) / n_points
        )
        spread = max(float(np.abs(points[part] / size - center).max()) for part in parts) or 1.0
        bare = cls(np.empty((0, n_axes + 2)), size, center, spread)
        rows = np.empty((n_points, n_axes + 2), dtype=bare._precision(points, n))
        for part in parts:
            rows[part, :n_axes] = bare._scaled(points[part])
            rows[part, n_axes] = 1.0
            rows[part, n_axes + 1] = np.square(rows[part, :n_axes]).sum(axis=1)
        return cls(rows, size, center, spread)

    def _scaled(self, points: Array) -> npt.NDArray[np.float64]:
        return np.asarray((points / self.size - self.center) / self.spread, dtype=np.float64)

    def _precision(self, points: Array, n: int) -> type[Any]:
        """Return float32 where it tells near nodes apart, else float64.

        Distances are made of squared norms, which is what their rounding is relative to; and of some bits.
        """
        if n > 2**_INDEX_BITS:
            return np.float64
        looked = self._scaled(points[_evenly(len(points), _LOOKED)])
        nearest = np.full(len(looked), np.inf)
        like_nodes = _evenly(len(points), n)
        for begin in range(0, len(like_nodes), _LOOKED):
            others = self._scaled(points[like_nodes[begin : begin + _LOOKED]])
            distance = cdist(looked, others, "sqeuclidean")
            nearest = np.minimum(nearest, np.where(distance > 0, distance, np.inf).min(axis=1))
        noise = 4 * np.finfo(np.float32).eps * np.square(looked).sum(axis=1).max()
        return np.float32 if noise < _NOISE * np.median(nearest) else np.float64

    @property
    def n_axes(self) -> int:
        return len(self.center)

    def against(self, nodes: Array) -> Array:
        """Return what `rows` are multiplied with for squared distances to nodes."""
        out = np.empty((self.n_axes + 2, len(nodes)), dtype=self.rows.dtype)
        np.multiply(nodes.T, -2.0, out=out[:-2])
        out[-2] = np.square(nodes).sum(axis=1)
        out[-1] = 1.0
        return out

    def strips(self, shown: Index, n_nodes: int) -> Iterator[Array]:
        """Yield the rows `shown` so many at a time that their distances stay in the cache."""
        for begin in range(0, len(shown), step := max(_FEWEST_ROWS, _STRIP_ENTRIES // n_nodes)):
            yield self.rows[shown[begin : begin + step]]

    def points(self, nodes: Array) -> npt.NDArray[np.float64]:
        """Return nodes in the units of the points."""
        return self.size * (self.center + self.spread * nodes.astype(np.float64))


def _evenly(n_points: int, n: int) -> Index:
    return np.linspace(0, n_points - 1, min(n, n_points)).astype(np.intp)


def _move(nodes: Array, scaled: _Scaled, shown: Index, pull: npt.NDArray[np.float64]) -> None:
    """Move nodes in place; presentations pull the nearest node by ``pull[0]``, the next by ``pull[1]`` ..."""
    n, n_pulled = len(nodes), len(pull)
    right, sums = scaled.against(nodes), np.zeros((n, scaled.n_axes + 1))
    for rows in scaled.strips(shown, n):
        distance = rows @ right
        ranked = distance.argmin(axis=1)[:, None] if n_pulled == 1 else _nearest(distance, n_pulled)
        sums += _sums_of(rows[:, :-1], ranked, pull, n)
    hit = np.flatnonzero(sums[:, -1])
    total = sums[hit, -1:]
    nodes[hit] += -np.expm1(-total) * (sums[hit, :-1] / total - nodes[hit])


def _nearest(distance: Array, n: int) -> Array:
    """Return the columns of the `n` smallest entries of each row, smallest first; `distance` is used up.

    The bits of a number that are the least significant are replaced by its column. Bits of positive floating-point
    numbers order as integers, which are sorted several at a time; the columns come along. (What rounding made
    negative comes before all positive numbers too.)
    """
    n_nodes = distance.shape[1]
    keys: npt.NDArray[Any] = distance.view(np.int32 if distance.dtype == np.float32 else np.int64)
    mask: Any = keys.dtype.type((1 << max(1, (n_nodes - 1).bit_length())) - 1)
    keys &= ~mask
    keys |= np.arange(n_nodes, dtype=keys.dtype)
    if n < n_nodes:
        keys.partition(n - 1, axis=1)
    keys = keys[:, :n]
    keys.sort(axis=1)
    ranked: Array = keys & mask
    return ranked


def _sums_of(rows: Array, ranked: Array, weights: npt.NDArray[np.float64], n_nodes: int) -> Array:
    """Return, by node, the sum of rows times the weight of the rank the node has for them."""
    n_rows, n_ranks = ranked.shape
    if n_ranks * _SPARSE > n_nodes:
        dense = np.zeros((n_rows, n_nodes), dtype=rows.dtype)
        dense.reshape(-1)[ranked + (np.arange(n_rows) * n_nodes)[:, None]] = weights
        sums: Array = dense.T @ rows
        return sums
    from scipy.sparse import csr_array

    entries = np.tile(weights.astype(rows.dtype), n_rows), ranked.ravel(), np.arange(n_rows + 1) * n_ranks
    sums = np.asarray(csr_array(entries, shape=(n_rows, n_nodes)).T @ rows)
    return sums  # noqa: RET504 - typed above


def _spread(scaled: _Scaled, among: Index, n: int, rng: np.random.Generator) -> Index:
    """Return `n` of the points `among`, drawn far from one another.

    A quarter as many as there are already are drawn at a time, so that there are few passes over the points.
    """
    chosen = rng.integers(len(among), size=1)
    nearest = np.full(len(among), np.inf)
    newest = chosen
    while len(chosen) < n:
        right = scaled.against(scaled.rows[among[newest], : scaled.n_axes])
        begin = 0
        for rows in scaled.strips(among, len(newest)):
            part = slice(begin, begin + len(rows))
            nearest[part] = np.minimum(nearest[part], (rows @ right).min(axis=1))
            begin += len(rows)
        nearest[chosen] = 0.0
        n_more = min(max(1, len(chosen) // _SEEDING_SHARE), n - len(chosen))
        far = int((nearest > 0).sum())
        newest = draw_weighted(nearest, min(n_more, far), rng) if far else np.empty(0, dtype=np.intp)
        if far < n_more:  # all others coincide with chosen ones
            free = np.setdiff1d(np.arange(len(among)), np.concatenate([chosen, newest]))
            newest = np.concatenate([newest, rng.choice(free, n_more - len(newest), replace=False)])
        chosen = np.concatenate([chosen, newest])
    return among[chosen]
