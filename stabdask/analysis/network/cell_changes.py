"""What adding, removing and forgetting cells does to a covariance matrix: a scale and a change of low rank.

For n cells of mean m and co-moment C = sum (x - m)(x - m)^T, covariance C / (n - ddof), and d more cells of weight w
in the rows of Y = x - m, of mean y, Chan, Golub & LeVeque (1983) give

    C' = C + w Y^T (I - w 11^T / n') Y        n' = n + w d, m' = m + w d y / n'

The matrix in the middle has the root I - k 11^T with (1 - k d)^2 = 1 - w d / n' = n / n': so C grows by Z Z^T with
Z = sqrt(w) Y^T (I - k 11^T), of rank d, the shift of the mean included. Removing d cells turns signs:

    C' = C - w Y^T (I + w 11^T / n') Y        n' = n - w d, m' = m - w d y / n',  (1 + k d)^2 = n / n'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stabdask.analysis.network.checks import Array
from stabdask.errors import InputError, UsageError

__all__ = ["CellChange", "Cells", "added", "forgotten", "removed"]


@dataclass(frozen=True)
class Cells:
    """The cells that a covariance matrix is of: their number or total weight, mean ``(gene,)``, and divisor."""

    count: float
    mean: Array
    ddof: float


class CellChange(NamedTuple):
    """``Sigma' = scale Sigma + sign columns columns^T``, and the cells after it."""

    scale: float
    columns: Array
    cells: Cells


def added(cells: Cells, x: Array, weight: float) -> CellChange:
    """Return what adding cells does.

    Parameters
    ----------
    cells
        Those before.
    x
        ``(cell, gene)``, at least one.
    weight
        Of each of them.
    """
    Y, mean, d = *_shifted(cells, x), len(x)
    count = cells.count + weight * d
    k = (1.0 - np.sqrt(cells.count / count)) / d
    after = Cells(count, cells.mean + (weight * d / count) * mean, cells.ddof)
    return _change(cells, after, Y - k * d * mean, weight)


def removed(cells: Cells, x: Array, weight: float) -> CellChange:
    """Return what removing cells does; parameters as for `added`.

    Raises
    ------
    InputError
        If too few would be left for a covariance.
    """
    Y, mean, d = *_shifted(cells, x), len(x)
    count = cells.count - weight * d
    if count <= cells.ddof or count <= 0:
        raise InputError(
            f"removing {d:,} of {cells.count:g} cells leaves {count:g}; expected more than {max(cells.ddof, 0.0):g}"
        )
    k = (np.sqrt(cells.count / count) - 1.0) / d
    after = Cells(count, cells.mean - (weight * d / count) * mean, cells.ddof)
    return _change(cells, after, Y + k * d * mean, weight)


def forgotten(cells: Cells, factor: float) -> CellChange:
    """Return what multiplying all weights by `factor` does: the mean stays, later cells count more.

    Raises
    ------
    UsageError
        If too little weight would be left for a covariance.
    """
    after = Cells(cells.count * factor, cells.mean, cells.ddof)
    if after.count <= max(cells.ddof, 0.0):
        raise UsageError(
            f"factor={factor:g} leaves cells that weigh {after.count:g}; expected more than {max(cells.ddof, 0.0):g}"
        )
    scale = factor * (cells.count - cells.ddof) / (after.count - cells.ddof)
    return CellChange(scale, np.zeros((len(cells.mean), 0), order="F"), after)


def _shifted(cells: Cells, x: Array) -> tuple[Array, Array]:
    """Return the cells about the mean, `(cell, gene)`, and the mean of that."""
    Y = x - cells.mean
    return Y, Y.mean(axis=0)


def _change(before: Cells, after: Cells, rows: Array, weight: float) -> CellChange:
    divisor = after.count - after.ddof
    scale = (before.count - before.ddof) / divisor
    return CellChange(scale, np.asfortranarray(rows.T * np.sqrt(weight / divisor)), after)
