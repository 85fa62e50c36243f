"""The Jacobians of a Hopfield field as cores, lifts and closed forms (no genes x genes array per cell)."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization
from stabdask.fields.hopfield_model import ClusterModel
from stabdask.fields.hopfield_response import block_response
from stabdask.kernels import lanes
from stabdask.kernels.arrays import XArray, array_module, to_host
from stabdask.kernels.eig import EigResult, Vectors
from stabdask.kernels.scaled import active_members, eig_scaled, gather_cores

if TYPE_CHECKING:
    from stabdask.kernels.krylov_operator import BatchedOperator

__all__ = ["HopfieldLinearization"]

_CANCELLATION = 1e-8
"""Below this ratio of the difference to its terms, the rotational norm is recomputed without cancellation."""
_SPEED_CELLS = 64


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
        expression = x.take(here.regulators, axis=1).astype(np.float64)
        self._activation, self._slope, self._near = here.hill.evaluate_and_count(expression)
        self._own_here = self._slope != 0
        self._own = to_host(self._own_here)
        self.active = np.zeros((len(x), model.n_union), dtype=bool)
        self.active[:, model.columns] = self._own

    @cached_property
    def _host_slope(self) -> Array:
        return to_host(self._slope)

    @cached_property
    def _own_numbers(self) -> Array:
        """``(cell, regulator of the cluster)``: 1.0 where it is active, for products of matrices."""
        return self._own.astype(np.float64)

    @cached_property
    def _driven_squares(self) -> Array:
        """Squared norm of W diag(phi') of each cell."""
        return to_host(self._slope**2 @ self._here.column_norms)

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

    def solve_without(
        self, cells: Index, without: npt.NDArray[np.bool_], *, dtype: str, backend: str
    ) -> EigResult:
        """Return eigenvalues without some regulators; see `Linearization.solve_without`. No core is formed.

        A regulator whose activation has no slope is in no core: that is all there is to removing it.
        """
        slope = np.where(without[:, self._model.columns], 0.0, self._host_slope[cells])
        return eig_scaled(self._model.system, slope, dtype=dtype, backend=backend)

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
        return cuda.numbers_to_host(found)

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
            return xp.zeros((n_cells, 0, n_genes), dtype=vectors.dtype), np.zeros((n_cells, 0), dtype=bool)
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
        return lifted.astype(vectors.dtype, copy=False), to_host(collapsed)

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
        leading = np.full((len(self._own), 4), -np.inf)
        leading[:, : min(2, model.rest.size)] = model.rest[:2]
        # Few regulators, if any, can be among the first two of all.
        matter = np.flatnonzero(values > (model.rest[1] if model.rest.size > 1 else -np.inf))
        order = matter[np.argsort(-values[matter], kind="stable")]
        # One past the end is true for every cell: no regulator is left, and the value is -inf.
        inactive = np.ones((len(self._own), len(order) + 1), dtype=bool)
        np.logical_not(self._own[:, order], out=inactive[:, :-1])
        descending = np.append(values[order], -np.inf)
        for column in (2, 3) if len(order) else ():
            first = inactive.argmax(axis=1)
            leading[:, column] = descending[first]
            inactive[np.arange(len(first)), np.minimum(first, len(order) - 1)] = False
        leading.sort(axis=1)
        return leading[:, :1:-1]

    def rest_counts(self, tolerance: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Count the signs of -gamma outside the core; see `Linearization.rest_counts`."""
        model = self._model
        values = -model.gamma[model.regulators]
        own = np.stack([values > tolerance, values < -tolerance])
        rest = np.stack([model.rest > tolerance, model.rest < -tolerance])
        # Small integers come out exact.
        inactive = own.sum(axis=1)[:, None] - own.astype(np.float64) @ self._own_numbers.T
        above, below = (inactive + rest.sum(axis=1)[:, None]).astype(np.intp)
        return above, below

    def rest_determinant(self) -> tuple[Array, Array]:
        """Return the product of -gamma outside the core; see `Linearization.rest_determinant`."""
        model = self._model
        own = model.gamma[model.regulators]
        zero = own == 0
        terms = np.stack([np.log(np.where(zero, 1.0, np.abs(own))), own > 0, zero])
        # All regulators, less those of the core.
        logs, negative, zeros = terms.sum(axis=1)[:, None] - terms @ self._own_numbers.T
        logs += np.log(np.abs(model.rest[model.rest != 0])).sum()
        negative += np.count_nonzero(model.rest < 0)
        vanishes = zeros + np.count_nonzero(model.rest == 0) > 0
        return np.where(vanishes, -np.inf, logs), np.where(vanishes, 0.0, 1.0 - 2.0 * (negative % 2))

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
        squares = self._driven_squares
        if here.mutual_pairs is None:
            crossed = to_host(self._xp.einsum("cj,cj->c", slope @ here.symmetric, slope))
        else:
            rows, columns, products = here.mutual_pairs
            crossed = (slope.take(rows, axis=1) * slope.take(columns, axis=1)) @ products
        difference = squares - crossed
        out: Array = np.sqrt(0.5 * np.maximum(difference, 0.0))
        for cell in np.flatnonzero(difference < _CANCELLATION * squares):
            own = to_host(slope[cell])
            scaled = model.core_weights * own
            inner = 0.25 * np.sum((scaled - scaled.T) ** 2)
            out[cell] = np.sqrt(inner + 0.5 * (own**2 @ model.outside_norms))
        return out

    def squares_beyond_rest(self) -> Array:
        """Return sum_j phi'_j^2 |W_:j|^2 - 2 sum_j gamma_j W_jj phi'_j + sum of gamma_j^2 over the core."""
        model, here, slope = self._model, self._here, self._slope
        own = model.gamma[model.regulators]
        loops = here.gamma[here.regulators] * self._xp.diagonal(here.core_weights)
        driven = self._driven_squares - 2.0 * to_host(slope @ loops)
        squares: Array = driven + self._own_numbers @ own**2
        return squares

    def reactivity(self) -> Array:
        """Return the largest eigenvalue of (J + J^T)/2, from products with W and with its transpose.

        Iteration does not end where rates span many orders of magnitude and crowd at the top: such cells are solved
        densely, or are NaN where that takes too much memory.
        """
        from stabdask.kernels.lanczos import DENSE_ORDER, largest_eigenvalues, matrices_at_once

        model, n = self._model, len(self._model.gamma)
        bound = np.sqrt(self._driven_squares) + np.abs(model.gamma).max(initial=0.0)
        values = np.empty(len(bound))
        step = matrices_at_once(n)
        for first in range(0, len(bound), step):
            cells = np.arange(first, min(first + step, len(bound)))
            values[cells] = largest_eigenvalues(
                partial(self._symmetric_product, cells),
                batch=len(cells),
                n=n,
                scale=bound[cells],
                xp=self._xp,
            )
        if n <= DENSE_ORDER:
            for cell in np.flatnonzero(np.isnan(values) & np.isfinite(bound)):
                values[cell] = self._dense_reactivity(int(cell))
        return values

    def _dense_reactivity(self, cell: int) -> float:
        from scipy.linalg import eigh

        model, n = self._model, len(self._model.gamma)
        half = np.zeros((n, n))
        half[:, model.regulators] = 0.5 * self._host_slope[cell] * model.weights
        symmetric = half + half.T
        symmetric[np.arange(n), np.arange(n)] -= model.gamma
        top = eigh(symmetric, eigvals_only=True, subset_by_index=(n - 1, n - 1), overwrite_a=True)
        return float(top[0])

    def _symmetric_product(self, cells: Index, x: XArray, members: Index) -> XArray:
        """Return (J + J^T)/2 x for some of `cells`, one vector each, ``(len(members), gene)``."""
        here, xp = self._here, self._xp
        slope = self._slope[self._rows(cells[members])]
        regulators = x[:, here.regulators]
        y = xp.ascontiguousarray((here.drive @ xp.ascontiguousarray((slope * regulators).T)).T)
        y[:, here.regulators] += slope * (here.drive.T @ xp.ascontiguousarray(x.T)).T
        return 0.5 * y - here.gamma * x

    def participation(self, cells: Index, right: XArray, left: XArray) -> npt.NDArray[Any]:
        """Return conj(y_i) x_i / (y^H x); see `Linearization.participation`."""
        right, left = self._xp.asarray(right), self._xp.asarray(left)
        shares = to_host(left.conj() * right).astype(np.complex128)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares /= shares.sum(axis=2, keepdims=True)
        return self._spread(to_host(self._scatter(self._rows(cells), self._xp.asarray(shares))))

    def edge_factors(
        self, cells: Index, right: XArray, left: XArray
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return conj(y_i) / (y^H x) and phi'_j x_j; see `Linearization.edge_factors`."""
        xp, rows = self._xp, self._rows(cells)
        right, left = (
            to_host(self._scatter(rows, xp.asarray(vectors)[:, None, :]))[:, 0].astype(np.complex128)
            for vectors in (right, left)
        )
        effect = left.conj()
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = effect / np.einsum("cj,cj->c", effect, right)[:, None]
        return self._spread(effect), self._spread(self._host_slope[cells] * right)

    def _spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Put values over the cluster's regulators, on the last axis, among those of the field."""
        out = np.zeros((*values.shape[:-1], self._model.n_union), dtype=values.dtype)
        out[..., self._model.columns] = values
        return out

    def edges(self) -> tuple[Index, Index]:
        """Return where W among regulators is not zero; see `Linearization.edges`."""
        model = self._model
        effectors, regulators = np.nonzero(model.core_weights)
        return model.columns[effectors], model.columns[regulators]

    def speed(self) -> Array:
        """Return |W phi - gamma x + I|."""
        here = self._here
        if self._xp is np and here.has_sparse_drive and lanes.available():
            return lanes.speeds(self._x, self._activation, here.drive, here.gamma, here.bias)
        xp, speed = self._xp, np.empty(len(self._x))
        step = _SPEED_CELLS if xp is np else max(1, len(speed))
        for first in range(0, len(speed), step):
            cells = slice(first, first + step)
            velocity = self._velocity(cells)
            speed[cells] = to_host(xp.sqrt(xp.einsum("gc,gc->c", velocity, velocity)))
        return speed

    def velocity(self) -> Array:
        """Return W phi - gamma x + I, ``(cell, gene)``."""
        return np.ascontiguousarray(to_host(self._velocities).T)

    @cached_property
    def _velocities(self) -> XArray:
        """``(gene, cell)``: those of all cells, for what is asked along the flow."""
        return self._velocity(slice(None))

    def velocity_scale(self) -> Array:
        """Return |W| phi + |gamma x| + |I|; see `Linearization.velocity_scale`."""
        model = self._model
        driven = np.asarray(model.absolute_drive @ to_host(self._activation).T)
        scale: Array = driven.T + np.abs(model.gamma * to_host(self._x)) + np.abs(model.bias)
        return scale

    def solve_jacobian(
        self,
        cells: Index,
        b: Array,
        *,
        shift: Array | None = None,
        damping: Array | None = None,
        weights: Array | None = None,
    ) -> Array:
        """Solve ``(J - shift) x = b`` on the host; see `Linearization.solve_jacobian`."""
        from stabdask.fields.hopfield_solve import solve_jacobian

        return solve_jacobian(self._model, self._host_slope[cells], b, shift, damping, weights)

    def _velocity(self, cells: slice) -> XArray:
        """Return the velocity of some cells, ``(gene, cell)``: on a CPU, while they are few it stays in the cache."""
        here, xp = self._here, self._xp
        activation = xp.ascontiguousarray(self._activation[cells].T)
        velocity = xp.asarray(here.drive @ activation)
        velocity -= here.gamma[:, None] * self._x[cells].T
        velocity += here.bias[:, None]
        return velocity

    def acceleration(self) -> Array:
        """Return W (phi' o v) - gamma o v, ``(cell, gene)``."""
        here, xp = self._here, self._xp
        velocity = self._velocities
        push = xp.ascontiguousarray(self._slope.T * velocity[here.regulators])
        return to_host((here.drive @ push - here.gamma[:, None] * velocity).T)

    def block(self, cells: Index, effectors: Index, regulators: Index) -> Array:
        """Return W_ij phi'_j - [i = j] gamma_i for all pairs; see `Linearization.block`."""
        rows, columns = (grid.ravel() for grid in np.meshgrid(effectors, regulators, indexing="ij"))
        found = self._elements(self._host_slope[cells], rows, columns)
        return found.reshape(len(cells), len(effectors), len(regulators))

    def response(self, cells: Index, effectors: Index, regulators: Index) -> tuple[Array, Array]:
        """Return -J^-1, by solving the core of all regulators and what it drives; see `Linearization.response`."""
        return block_response(self._model, self._host_slope[cells], effectors, regulators)

    def elements(self, effectors: Index, regulators: Index) -> Array:
        """Return W_ij phi'_j - [i = j] gamma_i."""
        return self._elements(self._host_slope, effectors, regulators)

    def _elements(self, slope: Array, effectors: Index, regulators: Index) -> Array:
        model = self._model
        position = np.searchsorted(model.regulators, regulators)
        known = position < len(model.regulators)
        position = np.where(known, position, 0)
        if len(model.regulators):
            known &= model.regulators[position] == regulators
        out = np.zeros((len(slope), len(effectors)))
        columns = position[known]
        out[:, known] = model.weights[effectors[known], columns].astype(np.float64) * slope[:, columns]
        same = effectors == regulators
        out[:, same] -= model.gamma[effectors[same]]
        # A weight times no slope is a plain zero, whatever the sign of the weight.
        return out + 0.0

    def near_switch_count(self) -> npt.NDArray[np.intp]:
        """Count regulators at a switch of their activation."""
        return to_host(self._near).astype(np.intp, copy=False)
