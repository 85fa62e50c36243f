"""The Jacobians of a Hopfield field as cores, lifts and closed forms (no genes x genes array per cell)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization
from stabdask.fields.hill import HillParameters
from stabdask.kernels.arrays import XArray, array_module, to_host
from stabdask.kernels.eig import EigResult, Vectors
from stabdask.kernels.scaled import ScaledSystem, active_members, eig_scaled, gather_cores

if TYPE_CHECKING:
    from stabdask.fields.hopfield_cluster import HopfieldCluster
    from stabdask.kernels.krylov_operator import BatchedOperator

__all__ = ["ClusterModel", "HopfieldLinearization"]

_CANCELLATION = 1e-8
"""Below this ratio of the difference to its terms, the rotational norm is recomputed without cancellation."""


_SPARSE = 0.15
"""Below this share of entries that are not zero, a sparse product is quicker than a dense one."""
_SPEED_CELLS = 64


def _sparse_or_dense(weights: npt.NDArray[np.floating[Any]]) -> Any:
    import scipy.sparse

    share = np.count_nonzero(weights) / max(1, weights.size)
    return (
        scipy.sparse.csr_array(weights, dtype=np.float64) if share < _SPARSE else weights.astype(np.float64)
    )


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
    def drive(self) -> Any:
        """W for products: on the host in double precision, sparse where most of it is zero."""
        # On a GPU a second W in double precision would take twice the memory; products widen this one as they go.
        return _sparse_or_dense(self.weights) if isinstance(self.weights, np.ndarray) else self.weights


class HopfieldLinearization(Linearization):
    """Jacobians ``W diag(phi') - diag(gamma)`` of cells of one cluster.

    With R the active regulators of a cell, the core is ``W[R, R] diag(phi'_R) - diag(gamma_R)`` and every
    other gene i contributes the eigenvalue -gamma_i.
    """

    def __init__(
        self, model: ClusterModel, x: npt.NDArray[Any], *, on_device: ClusterModel | None = None
    ) -> None:
        """Linearize at `x`, an array of NumPy, or of CuPy beside the model `on_device`.

        What methods return is on the host, but for eigenvalues and vectors, which stay where they are computed.
        """
        self._model = model
        self._here = here = model if on_device is None else on_device
        self._x = x
        self._xp = array_module(x)
        expression = x[:, here.regulators].astype(np.float64)
        self._activation, self._slope = here.hill.evaluate(expression)
        self._near = here.hill.near_switch(expression)
        self._own_here = self._slope != 0
        self._own = to_host(self._own_here)
        self.active = np.zeros((len(x), model.n_union), dtype=bool)
        self.active[:, model.columns] = self._own

    @cached_property
    def _host_slope(self) -> Array:
        return to_host(self._slope)

    def _rows(self, cells: Index) -> XArray:
        """Return `cells` where this linearization is."""
        return self._xp.asarray(cells)

    def cores(self, cells: Index) -> Array:
        """Return zero-padded cores; see `Linearization.cores`."""
        return gather_cores(self._model.system, self._host_slope[cells])[0]

    def solve(
        self, cells: Index, *, modes: int | None, vectors: Vectors, dtype: str, backend: str
    ) -> EigResult:
        """Return eigenvalues and vectors; see `Linearization.solve`. For eigenvalues no core is formed.

        On a GPU no core is formed for vectors either, and eigenvalues and vectors stay there.
        """
        if self._xp is not np:
            return self._solve_on_device(cells, modes, vectors, dtype)
        if vectors == "none":
            return eig_scaled(self._model.system, self._slope[cells], dtype=dtype, backend=backend)
        return super().solve(cells, modes=modes, vectors=vectors, dtype=dtype, backend=backend)

    def _solve_on_device(self, cells: Index, modes: int | None, vectors: Vectors, dtype: str) -> EigResult:
        from stabdask.kernels import cuda

        here = self._here
        found = cuda.solve_scaled_on_device(
            here.core_weights,
            here.gamma[here.regulators],
            self._slope[self._rows(cells)],
            modes=modes,
            vectors=vectors,
            dtype=dtype,
        )
        status = to_host(found.status)
        cuda.refuse_gaps(status)
        return replace(
            found,
            condition=None if found.condition is None else to_host(found.condition),
            residual=to_host(found.residual),
            trace_defect=to_host(found.trace_defect),
            status=status,
        )

    def operator(self, cells: Index) -> BatchedOperator:
        """Return products ``W (phi' o v) - gamma o v`` on the active regulators; see `Linearization.operator`.

        Vectors have a component for each regulator of the cluster, zero where it is not active.
        """
        from stabdask.kernels.krylov_operator import ScaledOperator

        here, rows = self._here, self._rows(cells)
        return ScaledOperator(
            here.core_weights, self._slope[rows], here.gamma[here.regulators], self._own_here[rows]
        )

    def core_vectors(self, cells: Index, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the components of active regulators; see `Linearization.core_vectors`."""
        members, real = active_members(self._own[cells])
        taken = np.take_along_axis(vectors, members[:, None, :], axis=2)
        return np.where(real[:, None, :], taken, 0.0).astype(vectors.dtype, copy=False)

    def lift_right(
        self, cells: Index, values: XArray, vectors: XArray
    ) -> tuple[XArray, npt.NDArray[np.bool_]]:
        """Lift right eigenvectors: x_R = u, x_i = (sum_j W_ij phi'_j u_j) / (lambda + gamma_i) elsewhere."""
        here, xp, rows = self._here, self._xp, self._rows(cells)
        values, vectors = xp.asarray(values), xp.asarray(vectors)
        on_core = self._scatter(rows, vectors)
        driven = on_core * self._slope[rows][:, None, :]
        n_cells, n_modes, n_regulators = driven.shape
        n_genes = len(here.gamma)
        if not n_modes:
            return xp.zeros((n_cells, 0, n_genes), dtype=vectors.dtype), np.zeros(n_cells, dtype=bool)
        # No -1 in these shapes: there may be no regulators.
        flat = driven.reshape(n_cells * n_modes, n_regulators)
        weights = here.weights.T.astype(flat.real.dtype)
        push = (flat.real @ weights + 1j * (flat.imag @ weights)).reshape(n_cells, n_modes, n_genes)
        gap = values[:, :, None] + here.gamma
        # Values past the size of a core are NaN.
        sizes = xp.abs(values)
        largest = xp.where(xp.isnan(sizes), 0.0, sizes).max(axis=1)
        scale = largest[:, None, None] + xp.abs(here.gamma)
        clash = xp.abs(gap) <= 4 * np.finfo(values.real.dtype).eps * scale
        own = self._own_here[rows]
        in_core = xp.zeros((n_cells, n_genes), dtype=bool)
        in_core[:, here.regulators] = own
        clash &= ~in_core[:, None, :] & (push != 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            lifted = xp.where(push == 0, 0.0, push / gap)
        # Where lambda = -gamma_i the eigenvector collapses onto gene i: the limit of the quotient.
        collapsed = clash.any(axis=2)
        if bool(collapsed.any()):
            lifted = xp.where(collapsed[:, :, None], xp.where(clash, push, 0.0), lifted)
        # Basic indexing of genes by one array, so that the regulator axis stays last.
        at_regulators = lifted[:, :, here.regulators]
        kept = xp.where(collapsed[:, :, None], 0.0, on_core)
        lifted[:, :, here.regulators] = xp.where(own[:, None, :], kept, at_regulators)
        return lifted.astype(vectors.dtype, copy=False), to_host(collapsed.any(axis=1))

    def lift_left(self, cells: Index, vectors: XArray) -> XArray:
        """Lift left eigenvectors: the core's on R, zero elsewhere."""
        here, xp = self._here, self._xp
        vectors = xp.asarray(vectors)
        out = xp.zeros((*vectors.shape[:2], len(here.gamma)), dtype=vectors.dtype)
        out[:, :, here.regulators] = self._scatter(self._rows(cells), vectors)
        return out

    def _scatter(self, rows: XArray, vectors: XArray) -> XArray:
        """Put vectors over a core's members ``(cell, mode, k)`` onto all regulators of the cluster."""
        xp, own = self._xp, self._own_here[rows]
        if not vectors.shape[2]:
            return xp.zeros((*vectors.shape[:2], own.shape[1]), dtype=vectors.dtype)
        # A regulator's place among the members; any place will do for those that are none.
        place = xp.maximum(xp.cumsum(own.astype(np.int64), axis=1) - 1, 0)
        taken = xp.take_along_axis(vectors, place[:, None, :], axis=2)
        return xp.where(own[:, None, :], taken, 0.0).astype(vectors.dtype, copy=False)

    def rest_leading(self) -> Array:
        """Return the two largest -gamma outside the core; see `Linearization.rest_leading`."""
        model = self._model
        values = -model.gamma[model.regulators]
        order = np.argsort(-values, kind="stable")
        # One past the end is true for every cell: no regulator is left, and the value is -inf.
        inactive = np.ones((len(self._own), len(order) + 1), dtype=bool)
        np.logical_not(self._own[:, order], out=inactive[:, :-1])
        descending = np.append(values[order], -np.inf)
        leading = np.full((len(inactive), 4), -np.inf)
        leading[:, : min(2, model.rest.size)] = model.rest[:2]
        for column in (2, 3):
            first = inactive.argmax(axis=1)
            leading[:, column] = descending[first]
            inactive[np.arange(len(first)), np.minimum(first, len(order) - 1)] = False
        leading.sort(axis=1)
        return leading[:, :1:-1]

    def rest_counts(self, tolerance: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Count the signs of -gamma outside the core; see `Linearization.rest_counts`."""
        model = self._model
        values = -model.gamma[model.regulators]

        def count(own: npt.NDArray[np.bool_], rest: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
            inactive = own.sum() - np.count_nonzero(self._own[:, own], axis=1)
            return np.asarray(inactive + rest.sum(), dtype=np.intp)

        return (
            count(values > tolerance, model.rest > tolerance),
            count(values < -tolerance, model.rest < -tolerance),
        )

    def trace(self) -> Array:
        """Return sum_j W_jj phi'_j - sum_j gamma_j."""
        driven = to_host(self._slope @ self._xp.diagonal(self._here.core_weights))
        trace: Array = driven - self._model.gamma.sum()
        return trace

    def rotational_norm(self) -> Array:
        """Return |(J - J^T)/2| from sqrt(0.5 [sum_j phi'_j^2 |W_:j|^2 - phi'^T (W o W^T) phi']).

        The two terms cancel for a nearly symmetric Jacobian; such cells are recomputed entry by entry.
        """
        model, here, slope = self._model, self._here, self._slope
        squares = to_host(slope**2 @ here.column_norms)
        crossed = to_host(self._xp.einsum("cj,cj->c", slope @ here.symmetric, slope))
        difference = squares - crossed
        out: Array = np.sqrt(0.5 * np.maximum(difference, 0.0))
        for cell in np.flatnonzero(difference < _CANCELLATION * squares):
            own = to_host(slope[cell])
            scaled = model.core_weights * own
            inner = 0.25 * np.sum((scaled - scaled.T) ** 2)
            out[cell] = np.sqrt(inner + 0.5 * (own**2 @ model.outside_norms))
        return out

    def speed(self) -> Array:
        """Return |W phi - gamma x + I|."""
        xp, speed = self._xp, np.empty(len(self._x))
        step = _SPEED_CELLS if xp is np else max(1, len(speed))
        for first in range(0, len(speed), step):
            cells = slice(first, first + step)
            velocity = self._velocity(cells)
            speed[cells] = to_host(xp.sqrt(xp.einsum("gc,gc->c", velocity, velocity)))
        return speed

    def _velocity(self, cells: slice) -> XArray:
        """Return the velocity of some cells, ``(gene, cell)``: on a CPU, while they are few it stays in the cache."""
        here, xp = self._here, self._xp
        activation = xp.ascontiguousarray(self._activation[cells].T)
        velocity = xp.asarray(here.drive @ activation)
        velocity -= here.gamma[:, None] * self._x[cells].T
        velocity += here.bias[:, None]
        return velocity

    def elements(self, effectors: Index, regulators: Index) -> Array:
        """Return W_ij phi'_j - [i = j] gamma_i."""
        model = self._model
        position = np.searchsorted(model.regulators, regulators)
        known = position < len(model.regulators)
        position = np.where(known, position, 0)
        if len(model.regulators):
            known &= model.regulators[position] == regulators
        out = np.zeros((len(self._x), len(effectors)))
        columns = position[known]
        slope = to_host(self._slope[:, self._rows(columns)])
        out[:, known] = model.weights[effectors[known], columns].astype(np.float64) * slope
        same = effectors == regulators
        out[:, same] -= model.gamma[effectors[same]]
        # A weight times no slope is a plain zero, whatever the sign of the weight.
        return out + 0.0

    def near_switch_count(self) -> npt.NDArray[np.intp]:
        """Count regulators at a switch of their activation."""
        return to_host(self._near.sum(axis=1)).astype(np.intp)
