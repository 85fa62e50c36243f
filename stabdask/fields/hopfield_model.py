"""What the parameters of one cluster of a Hopfield field imply for every cell of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index
from stabdask.fields.hill import HillParameters
from stabdask.kernels.scaled import ScaledSystem

if TYPE_CHECKING:
    from stabdask.fields.hopfield_cluster import HopfieldCluster

__all__ = ["ClusterModel"]

_SPARSE = 0.15
"""Below this share of entries that are not zero, a sparse product is quicker than a dense one."""


@dataclass(frozen=True)
class ClusterModel:
    """What one cluster's parameters imply for every cell of it.

    Attributes
    ----------
    n_union
        Number of regulators of the field (over all clusters).
    columns
        ``(r,)`` positions of this cluster's regulators among the field's.
    regulators, weights, gamma, bias, hill
        As in `HopfieldCluster`, with `hill` for the regulators only.
    core_weights
        ``(r, r)``: W restricted to regulators.
    system
        What the cores of all cells have in common.
    column_norms
        ``(r,)``: sum over effectors of W_ij^2; `outside_norms` the same over genes that do not regulate.
    symmetric
        ``(r, r)``: W_RR o W_RR^T.
    rest
        Eigenvalues -gamma of the genes that do not regulate, descending.
    """

    n_union: int
    columns: Index
    regulators: Index
    weights: npt.NDArray[np.floating[Any]]
    gamma: Array
    bias: Array
    hill: HillParameters
    core_weights: Array
    system: ScaledSystem
    column_norms: Array
    outside_norms: Array
    symmetric: Array
    rest: Array

    @classmethod
    def of(cls, p: HopfieldCluster, union: Index) -> ClusterModel:
        """Derive the model of a cluster from its parameters and the field's regulators."""
        core = p.weights[p.regulators].astype(np.float64)
        norms = np.einsum("ij,ij->j", p.weights, p.weights, dtype=np.float64)
        outside = np.ones(len(p.gamma), dtype=bool)
        outside[p.regulators] = False
        rows = p.weights[outside]
        return cls(
            n_union=len(union),
            columns=np.searchsorted(union, p.regulators),
            regulators=p.regulators,
            weights=p.weights,
            gamma=p.gamma,
            bias=p.bias,
            hill=p.hill.take(p.regulators),
            core_weights=core,
            system=ScaledSystem.of(core, p.gamma[p.regulators]),
            column_norms=norms,
            outside_norms=np.einsum("ij,ij->j", rows, rows, dtype=np.float64),
            symmetric=core * core.T,
            rest=np.sort(-p.gamma[outside])[::-1],
        )

    def on_device(self, cupy: Any) -> ClusterModel:
        """Return the model with what cells are computed from on the current GPU, W in its own precision.

        What is looked at once a cluster (`columns`, `system`, `outside_norms`, `rest`) stays on the host.
        """
        moved = ("regulators", "weights", "gamma", "bias", "core_weights", "column_norms", "symmetric")
        arrays = {name: cupy.asarray(getattr(self, name)) for name in moved}
        return replace(self, **arrays, hill=self.hill.on_device(cupy))

    @cached_property
    def steep_regulators(self) -> Index:
        """Regulators with n < 1, whose slope without expression is infinite."""
        return self.regulators[self.hill.infinite_slope_at_zero()]

    @cached_property
    def drive(self) -> Any:
        """W for products: on the host in double precision, sparse where most of it is zero."""
        if self.has_sparse_drive:
            import scipy.sparse

            return scipy.sparse.csr_array(self.weights, dtype=np.float64)
        # On a GPU a second W in double precision would take twice the memory; products widen this one as they go.
        return self.weights.astype(np.float64) if isinstance(self.weights, np.ndarray) else self.weights

    @cached_property
    def has_sparse_drive(self) -> bool:
        """Whether `drive` is a sparse array by rows."""
        if not isinstance(self.weights, np.ndarray):
            return False
        return bool(np.count_nonzero(self.weights) < _SPARSE * max(1, self.weights.size))

    @cached_property
    def mutual_pairs(self) -> tuple[Index, Index, Array] | None:
        """Where `symmetric` is not zero, on and above its diagonal: rows, columns and entries, halves counted twice.

        None where these are so many that a product with the whole matrix is quicker.
        """
        if not isinstance(self.symmetric, np.ndarray):
            return None
        rows, columns = np.nonzero(np.triu(self.symmetric))
        if len(rows) > len(self.symmetric):
            return None
        return rows, columns, np.where(rows == columns, 1.0, 2.0) * self.symmetric[rows, columns]

    @cached_property
    def absolute_drive(self) -> Any:
        """|W| for products on the host."""
        return abs(self.drive)
