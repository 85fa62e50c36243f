"""Covariance matrices that are there already, from memory, Dask or Zarr, into tiles."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked.tiles import Tiles
from stabdask.analysis.network.blocked.workers import Step, Workers
from stabdask.analysis.network.checks import WORST_ASYMMETRY, Array, not_finite, not_symmetric, numbers
from stabdask.errors import InputError, UsageError

__all__ = ["Source", "given_covariance"]

_WHAT = "the covariance matrix"


class _Facts(NamedTuple):
    n_bad: int
    first_bad: tuple[int, int] | None
    largest: float
    difference: float
    where: tuple[int, int]
    diagonal: Array | None


class Source:
    """A matrix that parts are read from.

    Parameters
    ----------
    sigma
        Dask array, Zarr array, or anything NumPy takes for a matrix (also one that is mapped from a file).

    Raises
    ------
    InputError
        If it is not square, of at least one gene and of real numbers.
    UsageError
        If it was persisted on a cluster.
    """

    def __init__(self, sigma: Any) -> None:
        self.is_lazy = hasattr(sigma, "__dask_graph__")
        self.is_here = not self.is_lazy and type(sigma).__module__.partition(".")[0] != "zarr"
        self.matrix = sigma
        if self.is_here and not isinstance(sigma, np.ndarray):
            self.matrix = numbers(sigma, _WHAT)
        shape, dtype = tuple(self.matrix.shape), np.dtype(self.matrix.dtype)
        if dtype.kind not in "biuf":
            raise InputError(f"{_WHAT} has entries of type {dtype}; expected real numbers, in a dense array")
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise InputError(f"{_WHAT} has the shape {shape}; expected (gene, gene), at least one")
        if self.is_lazy and any(
            type(value).__name__ == "Future" for value in dict(sigma.__dask_graph__()).values()
        ):
            raise UsageError(f"{_WHAT} was persisted on a cluster; pass it as it was before")

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.matrix.shape[0])

    def part(self, rows: slice, columns: slice) -> _Part:
        """Return what reads a part of it, on whichever worker."""
        return _Part(self.matrix[rows, columns] if self.is_lazy else self.matrix, rows, columns)


class _Part:
    """A part of a matrix. Not a dataclass: Dask would compute what is in one before the task that reads it."""

    def __init__(self, matrix: Any, rows: slice, columns: slice) -> None:
        self.matrix: Any = matrix
        self.graph: dict[Any, Any] | None = None
        self.where = rows, columns
        if hasattr(matrix, "__dask_graph__"):
            from dask.base import optimize

            (small,) = optimize(matrix.rechunk(-1))
            self.graph, self.key = dict(small.__dask_graph__()), small.__dask_keys__()[0][0]
            self.matrix = None

    def read(self) -> Array:
        if self.graph is not None:
            from dask.local import get_sync

            return np.asarray(get_sync(self.graph, self.key), dtype=np.float64)
        return np.asarray(self.matrix[self.where], dtype=np.float64)


def given_covariance(source: Source, names: npt.NDArray[np.str_], sigma: Tiles, workers: Workers) -> Array:
    """Write a covariance matrix into tiles and return its diagonal.

    Raises
    ------
    InputError
        If it is not finite and symmetric up to rounding.
    """
    grid = sigma.create().grid
    if source.is_here:
        # It is in this process: no worker would gain from having it sent.
        workers = Workers(None, workers.at_once)
    steps = {}
    for i, j in grid.lower():
        ahead, mirrored = source.part(grid.cut(i), grid.cut(j)), source.part(grid.cut(j), grid.cut(i))
        steps[i, j] = Step(partial(_take, ahead, mirrored, sigma, i, j))
    found = workers.run(steps)
    bad = [facts for facts in found.values() if facts.first_bad is not None]
    if bad:
        first = min(facts.first_bad for facts in bad if facts.first_bad is not None)
        raise not_finite(
            _WHAT, sum(facts.n_bad for facts in bad), (str(names[first[0]]), str(names[first[1]]))
        )
    largest = max(facts.largest for facts in found.values())
    worst = max(found.values(), key=lambda facts: facts.difference)
    if worst.difference > WORST_ASYMMETRY * largest:
        i, j = worst.where
        raise not_symmetric(_WHAT, worst.difference, (str(names[i]), str(names[j])), largest)
    blocks = [found[i, i].diagonal for i in range(grid.n_tiles)]
    return np.concatenate([block for block in blocks if block is not None])


def _take(ahead: _Part, mirrored: _Part, sigma: Tiles, i: int, j: int) -> _Facts:
    rows, columns = sigma.grid.cut(i).start, sigma.grid.cut(j).start
    a = np.array(ahead.read())
    b = a.T.copy() if i == j else mirrored.read().T
    n_bad, first = 0, None
    for values, flipped in ((a, False), (b, True)):
        places = np.argwhere(~np.isfinite(values))
        if not len(places) or (flipped and i == j):
            continue
        n_bad += len(places)
        positions = places + np.array([rows, columns])
        found = min((int(c), int(r)) if flipped else (int(r), int(c)) for r, c in positions)
        first = found if first is None else min(first, found)
    if first is not None:
        return _Facts(n_bad, first, 0.0, 0.0, (0, 0), None)
    largest = float(max(np.abs(a).max(), np.abs(b).max()))
    gap = np.abs(a - b)
    place = np.unravel_index(int(gap.argmax()), gap.shape)
    difference = float(gap[place])
    a += b
    a *= 0.5
    sigma.write(i, j, a)
    diagonal = np.diagonal(a).copy() if i == j else None
    return _Facts(0, None, largest, difference, (rows + int(place[0]), columns + int(place[1])), diagonal)
