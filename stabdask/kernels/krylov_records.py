"""What the parts of the Krylov-Schur iteration hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray
from stabdask.kernels.krylov_operator import Cells

__all__ = ["Found", "Plan", "Rows"]


@dataclass(frozen=True)
class Plan:
    """How a batch is worked on.

    Attributes
    ----------
    modes
        Number of rightmost eigenvalues wanted.
    subspace
        Largest dimension m of a Krylov space; even.
    keep
        Dimension that survives a restart; even.
    tolerance
        A Ritz pair has converged when its residual is at most this times the larger of the modulus of its
        value and the root mean square singular value ``|C|_F / sqrt(size)``.
    max_products
        Number of products with each matrix after which it is given up.
    patience
        Number of products after which what has not converged goes on in a subspace of twice the size.
    """

    modes: int
    subspace: int
    keep: int
    tolerance: float
    max_products: int
    patience: int

    @property
    def returned(self) -> int:
        """Dimension of the subspaces returned: even, and room for the other half of a last pair."""
        return (self.modes + 2) // 2 * 2

    def after(self, n_products: int) -> Plan:
        """Return the plan to go on with."""
        if n_products < self.patience:
            return self
        never = self.max_products + 1
        return replace(self, subspace=2 * self.subspace, keep=2 * self.keep, patience=never)

    @property
    def solved_completely(self) -> int:
        """Size up to which a matrix is solved completely: larger ones have room for every subspace."""
        return 2 * self.subspace


_ON_DEVICE = ("basis", "beyond")


@dataclass(frozen=True)
class Rows:
    """Arrays with one entry a matrix: of NumPy, but for `basis` and `beyond`, of an array module ``xp``."""

    def take(self, xp: Any, rows: npt.NDArray[np.bool_]) -> Self:
        """Return the entries of the matrices marked in `rows`."""
        names = [f.name for f in fields(self)]
        where = dict.fromkeys(_ON_DEVICE, xp.asarray(np.flatnonzero(rows)))
        return replace(self, **{name: getattr(self, name)[where.get(name, rows)] for name in names})

    @classmethod
    def join(cls, xp: Any, parts: Sequence[Self]) -> Self:
        """Return the entries of all `parts`."""
        if len(parts) == 1:
            return parts[0]
        module = dict.fromkeys(_ON_DEVICE, xp)
        names = [f.name for f in fields(cls)]
        return cls(**{n: module.get(n, np).concatenate([getattr(part, n) for part in parts]) for n in names})


@dataclass(frozen=True)
class Found(Rows):
    """Approximate eigenvectors of some matrices of a batch, as coordinates in a subspace of each.

    Attributes
    ----------
    cells
        ``(n,)``: which matrices.
    basis
        ``(n, p, k)``: orthonormal rows that span the subspaces, in working precision.
    values
        ``(n, w)`` complex NumPy: Ritz values in pair order.
    coordinates
        ``(n, p, w)`` complex NumPy: eigenvector i is ``coordinates[:, :, i]`` on the rows of `basis`.
    count
        ``(n,)``: how many of the w columns mean something: `modes`, or less if a matrix is smaller, and the
        other half of a last pair; 0 where the projection could not be solved.
    n_products
        ``(n,)``: products with each matrix.
    reach
        ``(n,)``: the largest sum of real part and residual of the Ritz values next in order.
    beyond
        ``(n, k)``: a sum of the Ritz vectors next in order, for who wants to go on with them.
    """

    cells: Cells
    basis: XArray
    beyond: XArray
    values: npt.NDArray[np.complex128]
    coordinates: npt.NDArray[np.complex128]
    count: npt.NDArray[np.intp]
    n_products: npt.NDArray[np.intp]
    reach: npt.NDArray[np.float64]
