"""Edges and statistics of a network in tiles: what `edges` and `statistics` give, one row of tiles at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked.tiles import Tiles
from stabdask.analysis.network.blocked.workers import Step, Workers
from stabdask.analysis.network.checks import Array
from stabdask.analysis.network.edges import check_share, check_top
from stabdask.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["correlations_of", "edges_of", "statistics_of"]

Positions = npt.NDArray[np.intp]


class _Found(NamedTuple):
    first: Positions
    second: Positions
    values: Array


def correlations_of(theta: Tiles, scale: Array, i: int, j: int) -> Array:
    """Return a tile of partial correlations, with ones on the diagonal.

    Parameters
    ----------
    theta
        The precision matrix.
    scale
        ``(gene,)`` ``1 / sqrt(Theta_ii)``.
    i, j
        Which tile.
    """
    rho = theta.read(i, j)
    # One product of scales, as for a matrix in memory: the same to the last bit.
    rho *= -np.multiply.outer(scale[theta.grid.cut(i)], scale[theta.grid.cut(j)])
    np.clip(rho, -1.0, 1.0, out=rho)
    rho += 0.0  # no negative zeros
    if i == j:
        np.fill_diagonal(rho, 1.0)
    return rho


def edges_of(
    theta: Tiles,
    scale: Array,
    names: npt.NDArray[np.str_],
    workers: Workers,
    *,
    threshold: float | None,
    top: int | None,
) -> pd.DataFrame:
    """Return the strongest edges, as `edges` does; see `BlockedPrecision.edges`."""
    import pandas as pd

    if (threshold is None) == (top is None):
        raise UsageError(
            f"{'nothing' if top is None else 'threshold and top'} chooses the edges; expected one of threshold and top"
        )
    if threshold is not None:
        check_share("threshold", threshold)
    if top is not None:
        check_top(top)
    steps = {
        (i, j): Step(partial(_strongest, theta, scale, i, j, threshold, top)) for i, j in theta.grid.lower()
    }
    parts = list(workers.run(steps).values())
    every = _Found(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    kept = _first(every, top)
    return pd.DataFrame(
        {
            "gene_a": names[kept.first],
            "gene_b": names[kept.second],
            "partial_correlation": kept.values,
        }
    )


def statistics_of(theta: Tiles, scale: Array, workers: Workers, threshold: float) -> dict[str, float]:
    """Return what a network is like as a whole, as `statistics` does."""
    check_share("threshold", threshold)
    steps = {(i, j): Step(partial(_sizes, theta, scale, i, j, threshold)) for i, j in theta.grid.lower()}
    parts = list(workers.run(steps).values())
    n = theta.grid.n_genes
    n_pairs, strong = n * (n - 1) // 2, sum(part[0] for part in parts)
    nan = float("nan")
    return {
        "n_genes": n,
        "n_pairs": n_pairs,
        "n_strong": strong,
        "density": strong / n_pairs if n_pairs else nan,
        "mean_absolute": sum(part[1] for part in parts) / n_pairs if n_pairs else nan,
        "max_absolute": max(part[2] for part in parts) if n_pairs else nan,
    }


def _strongest(
    theta: Tiles, scale: Array, i: int, j: int, threshold: float | None, top: int | None
) -> _Found:
    """Return the edges of a tile that may be among those asked for; the first gene comes before the second."""
    rho = correlations_of(theta, scale, i, j)
    size = np.abs(rho)
    if i == j:
        size[np.triu_indices_from(size)] = -1.0
    if threshold is None:
        assert top is not None
        # The size of the last that is wanted; those that tie with it stay in, for their order is decided later.
        threshold = 0.0 if size.size <= top else float(np.partition(size.ravel(), -top)[-top])
    second, first = np.nonzero(size >= max(threshold, 0.0))
    # Below the diagonal, rows are the later genes.
    values = rho[second, first]
    found = _Found(first + theta.grid.cut(j).start, second + theta.grid.cut(i).start, values)
    return _first(found, top)


def _first(found: _Found, top: int | None) -> _Found:
    """Return the strongest edges, ties in the order of genes."""
    kept = np.lexsort((found.second, found.first, -np.abs(found.values)))[:top]
    return _Found(found.first[kept], found.second[kept], found.values[kept])


def _sizes(theta: Tiles, scale: Array, i: int, j: int, threshold: float) -> tuple[int, float, float]:
    size = np.abs(correlations_of(theta, scale, i, j))
    if i == j:
        size = size[np.tril_indices_from(size, k=-1)]
    if not size.size:
        return 0, 0.0, 0.0
    return int((size >= threshold).sum()), float(size.sum()), float(size.max())
