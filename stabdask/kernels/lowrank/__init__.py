"""Matrices that change by few rows and columns: inverses, factors, diagonals plus low rank."""

from stabdask.kernels.lowrank.choice import crossover
from stabdask.kernels.lowrank.diagonal import LowRankBatch, inverse, logdet, solve
from stabdask.kernels.lowrank.factors import cholesky_downdate, cholesky_update
from stabdask.kernels.lowrank.symmetric import (
    invert_definite,
    mirror,
    narrow_threads,
    sherman_morrison,
    triangle_product,
    update_triangle,
    woodbury_update,
)

__all__ = [
    "LowRankBatch",
    "cholesky_downdate",
    "cholesky_update",
    "crossover",
    "inverse",
    "invert_definite",
    "logdet",
    "mirror",
    "narrow_threads",
    "sherman_morrison",
    "solve",
    "triangle_product",
    "update_triangle",
    "woodbury_update",
]
