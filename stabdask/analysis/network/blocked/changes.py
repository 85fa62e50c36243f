"""Changes of low rank, tile by tile, from one generation of a matrix to the next."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from stabdask.analysis.network.blocked.tiles import Columns, Tiles
from stabdask.analysis.network.blocked.workers import Step, Workers
from stabdask.analysis.network.checks import Array

__all__ = ["LARGEST_SHARE", "change_sigma", "change_theta"]

LARGEST_SHARE = 0.25
"""A change of a rank beyond that share of the genes, or beyond a tile, is made by inverting from scratch."""

_LEAST_PIVOT = 1e-8
"""As for matrices in memory: a smaller one, or one larger than its reciprocal, would lose more than eight digits."""


class _Root(NamedTuple):
    factor: Array
    growth: float


def change_sigma(before: Tiles, after: Tiles, X: Columns, sign: int, workers: Workers) -> None:
    """Write ``Sigma + sign X X^T`` into `after`."""
    after.create()
    workers.run(
        {(i, j): Step(partial(_add, before, after, X, i, j, float(sign))) for i, j in after.grid.lower()}
    )


def change_theta(before: Tiles, after: Tiles, X: Columns, sign: int, workers: Workers) -> float | None:
    """Write ``(S + sign X X^T)^-1`` into `after`, by the identity of Sherman, Morrison and Woodbury.

    Returns
    -------
    float or None
        By how much the logarithm of the determinant of S has grown. None, with nothing written, where the result
        would lose more than eight digits, or S has no inverse any more.
    """
    grid = before.grid
    product = Columns(after.folder, "product", grid, X.d).create()
    narrow = Columns(after.folder, "narrow", grid, X.d).create()
    rows = range(grid.n_tiles)
    workers.run({i: Step(partial(_multiply, before, X, product, i)) for i in rows})
    root = workers.run({0: Step(partial(_root, X, product, sign))})[0]
    if root is None:
        return None
    workers.run({i: Step(partial(_narrow, product, narrow, root.factor, i)) for i in rows})
    after.create()
    workers.run(
        {(i, j): Step(partial(_add, before, after, narrow, i, j, -float(sign))) for i, j in grid.lower()}
    )
    return float(root.growth)


def _add(before: Tiles, after: Tiles, columns: Columns, i: int, j: int, sign: float) -> None:
    total = before.read(i, j)
    product = np.empty_like(total)
    for piece in columns.pieces:
        left = columns.read(i, piece)
        right = left if i == j else columns.read(j, piece)
        np.matmul(left, right.T, out=product)
        product *= sign
        total += product
    after.write(i, j, total)


def _multiply(matrix: Tiles, X: Columns, out: Columns, i: int) -> None:
    for piece in X.pieces:
        total = np.zeros((matrix.grid.size(i), piece.stop - piece.start))
        for j in range(matrix.grid.n_tiles):
            total += matrix.read(i, j) @ X.read(j, piece)
        out.write(i, piece, total)


def _root(X: Columns, product: Columns, sign: int) -> _Root | None:
    """Return the Cholesky factor of ``I + sign X^T P X``, or None where it would lose too many digits."""
    small = np.zeros((X.d, X.d))
    (piece,) = X.pieces
    for i in range(X.grid.n_tiles):
        small += X.read(i, piece).T @ product.read(i, piece)
    small = np.eye(X.d) + (sign / 2) * (small + small.T)
    factor, failed = lapack.dpotrf(small, lower=1, clean=1)
    pivots = np.diagonal(factor) ** 2
    least = max(_LEAST_PIVOT, 8 * X.d * float(np.finfo(np.float64).eps))
    if failed or not pivots.min() > least or pivots.max() * _LEAST_PIVOT > 1:
        return None
    return _Root(factor, float(np.log(pivots).sum()))


def _narrow(product: Columns, narrow: Columns, factor: Array, i: int) -> None:
    (piece,) = product.pieces
    narrow.write(i, piece, blas.dtrsm(1.0, factor, product.read(i, piece), side=1, lower=1, trans_a=1))
