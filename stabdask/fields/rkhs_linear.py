"""The Jacobians of a sum of Gaussian kernels: each is its own core, lifted to genes by the loadings of its axes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization
from stabdask.kernels.arrays import XArray, array_module, to_host
from stabdask.kernels.solve import inverse_or_nan

if TYPE_CHECKING:
    from stabdask.kernels.gaussian import GaussianSum

__all__ = ["RKHSLinearization"]

_CACHED_BYTES = 2**19
"""What is worked on together on a CPU where it is gone through several times."""
_DEVICE_BYTES = 2**28
"""The same on a GPU."""


class RKHSLinearization(Linearization):
    """Jacobians of cells in the space of the axes, and what they are between genes: ``Q J Q^T``."""

    def __init__(self, function: GaussianSum, x: XArray, loadings: XArray | None) -> None:
        """Linearize `function` at `x` ``(cell, axis)``; `loadings` ``(gene, axis)`` are where `x` is."""
        self._function = function
        self._x = x
        self._xp = array_module(x)
        self._loadings = loadings
        self.active = np.ones(x.shape, dtype=bool)

    @cached_property
    def _both(self) -> tuple[XArray, XArray]:
        return self._function.values_and_jacobians(self._x)

    @property
    def jacobians(self) -> XArray:
        """Jacobians over the axes, ``(cell, axis, axis)``, where the points are."""
        return self._both[1]

    @cached_property
    def _velocities(self) -> XArray:
        # Where nobody has asked for Jacobians, they are not computed for this.
        values = self._both[0] if "_both" in self.__dict__ else self._function.values(self._x)
        return values.astype(np.float64)

    @cached_property
    def _accelerations(self) -> XArray:
        return self._along(self._velocities)

    def _along(self, directions: XArray) -> XArray:
        """Return J u for a direction of each cell."""
        return self._xp.matmul(self.jacobians, directions[:, :, None])[:, :, 0].astype(np.float64)

    @property
    def rounding(self) -> float:
        """Relative rounding error of the precision of the products of matrices."""
        return float(np.finfo(self._function.dtype).eps)

    def cores(self, cells: Index) -> Array:
        """Return the Jacobians over the axes; see `Linearization.cores`."""
        cores: Array = self.jacobians[self._xp.asarray(cells)]
        return cores

    def cores_to_read(self, cells: Index) -> Array:
        """Return the Jacobians over the axes, those of cells in a row without a copy."""
        if not len(cells) or (np.diff(cells) != 1).any():
            return self.cores(cells)
        cores: Array = self.jacobians[int(cells[0]) : int(cells[-1]) + 1]
        return cores

    def lift_right(
        self, cells: Index, values: XArray, vectors: XArray
    ) -> tuple[XArray, npt.NDArray[np.bool_]]:
        """Return Q u; see `Linearization.lift_right`."""
        return self.lift_left(cells, vectors), np.zeros(tuple(vectors.shape[:2]), dtype=bool)

    def lift_left(self, cells: Index, vectors: XArray) -> XArray:
        """Return Q w, a left eigenvector of Q J Q^T because the columns of Q are orthonormal."""
        vectors = self._xp.asarray(vectors)
        if self._loadings is None:
            return vectors
        lift = self._loadings.T.astype(vectors.real.dtype)
        n_cells, n_modes, d = vectors.shape
        flat = vectors.reshape(n_cells * n_modes, d)
        lifted = flat.real @ lift + 1j * (flat.imag @ lift)
        return lifted.astype(vectors.dtype, copy=False).reshape(n_cells, n_modes, lift.shape[1])

    def rest_leading(self) -> Array:
        """Return -inf: nothing lies outside the core."""
        return np.full((len(self._x), 2), -np.inf)

    def rest_counts(self, tolerance: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return zeros: nothing lies outside the core."""
        return np.zeros(len(self._x), dtype=np.intp), np.zeros(len(self._x), dtype=np.intp)

    def rest_determinant(self) -> tuple[Array, Array]:
        """Return the empty product."""
        return np.zeros(len(self._x)), np.ones(len(self._x))

    def core_determinant(self) -> tuple[Array, Array]:
        """Return log|det J| and its sign by LU factorization; see `Linearization.core_determinant`."""
        signs, logs = self._xp.linalg.slogdet(self.jacobians.astype(np.float64))
        return to_host(logs), to_host(signs)

    def trace(self) -> Array:
        """Return the sum of dv_i/dx_i: the divergence."""
        return to_host(self._xp.einsum("cii->c", self.jacobians, dtype=np.float64))

    def rotational_norm(self) -> Array:
        """Return |(J - J^T)/2|."""
        xp, found = self._xp, np.empty(len(self._x))
        for part in self._parts(len(found), self._x.shape[1]):
            J = self.jacobians[part]
            apart = (J - J.transpose(0, 2, 1)).reshape(len(J), -1)
            squares = xp.einsum("cp,cp->c", apart, apart, dtype=np.float64)
            found[part] = to_host(0.5 * xp.sqrt(squares))
        return found

    def _parts(self, n_cells: int, n_columns: int) -> list[slice]:
        """Return a few cells at a time, of which `n_columns` values for each axis stay in the cache of a CPU."""
        room = _CACHED_BYTES if self._xp is np else _DEVICE_BYTES
        step = max(1, room // (8 * self._x.shape[1] * max(1, n_columns)))
        return [slice(first, min(first + step, n_cells)) for first in range(0, n_cells, step)]

    def squares_beyond_rest(self) -> Array:
        """Return the squared Frobenius norm of J."""
        flat = self.jacobians.reshape(len(self._x), -1)
        return to_host(self._xp.einsum("cp,cp->c", flat, flat, dtype=np.float64))

    def reactivity(self) -> Array:
        """Return the largest eigenvalue of (J + J^T)/2, by a dense symmetric solver."""
        J = self.jacobians
        values = self._xp.linalg.eigvalsh(0.5 * (J + J.transpose(0, 2, 1)))
        return to_host(values[:, -1]).astype(np.float64)

    def speed(self) -> Array:
        """Return |v(x)|."""
        return to_host(self._xp.sqrt((self._velocities**2).sum(axis=1)))

    def velocity(self) -> Array:
        """Return v(x)."""
        return to_host(self._velocities)

    def velocity_scale(self) -> Array:
        """Return sum_m |C_m| K_m(x); see `Linearization.velocity_scale`."""
        return to_host(self._function.magnitudes(self._x)).astype(np.float64)

    def acceleration(self) -> Array:
        """Return J v."""
        return to_host(self._accelerations)

    def jerk(self) -> Array:
        """Return J J v + the second derivative of the velocity along itself."""
        bend = self._function.curvatures(self._x, self._velocities)
        return to_host(self._along(self._accelerations) + bend)

    def curl(self) -> Array:
        """Return dv_2/dx_1 - dv_1/dx_2, or the three components of the curl."""
        J = to_host(self.jacobians).astype(np.float64)
        pairs = [(2, 1), (0, 2), (1, 0)] if J.shape[1] == 3 else [(1, 0)]
        return np.stack([J[:, i, j] - J[:, j, i] for i, j in pairs], axis=1)

    def elements(self, effectors: Index, regulators: Index) -> Array:
        """Return Q_i J Q_j^T for pairs of genes."""
        xp, d = self._xp, self._x.shape[1]
        if self._loadings is None:
            found = self.jacobians[:, xp.asarray(effectors), xp.asarray(regulators)]
            return to_host(found).astype(np.float64)
        left, right = self._rows_of(effectors), self._rows_of(regulators)
        # One column for each pair, so that all cells are one product of matrices.
        columns = (left[:, :, None] * right[:, None, :]).reshape(len(effectors), d * d).T
        flat = self.jacobians.reshape(len(self._x), d * d)
        return to_host(flat @ columns.astype(flat.dtype)).astype(np.float64)

    def block(self, cells: Index, effectors: Index, regulators: Index) -> Array:
        """Return Q_eff J Q_reg^T; see `Linearization.block`."""
        out = np.empty((len(cells), len(effectors), len(regulators)))
        for part in self._parts(len(cells), self._x.shape[1] + len(regulators)):
            J = self.jacobians[self._xp.asarray(cells[part])]
            out[part] = self._between_genes(effectors, self._columns_of(J, regulators))
        return out

    def response(self, cells: Index, effectors: Index, regulators: Index) -> tuple[Array, Array]:
        """Return -Q_eff J^-1 Q_reg^T: J has no inverse between genes, only along the axes."""
        out = np.empty((len(cells), len(effectors), len(regulators)))
        condition = np.empty(len(cells))
        # Products are over all axes, however few effectors are asked for.
        for part in self._parts(len(cells), 2 * self._x.shape[1] + len(regulators)):
            J = self.jacobians[self._xp.asarray(cells[part])].astype(np.float64)
            inverse, condition[part] = inverse_or_nan(J)
            out[part] = self._between_genes(effectors, self._columns_of(-inverse, regulators))
        return out, condition

    def _columns_of(self, J: XArray, regulators: Index) -> XArray:
        """Return J Q_reg^T, ``(cell, axis, regulator)``."""
        if self._loadings is None:
            return J[:, :, self._xp.asarray(regulators)]
        right = self._rows_of(regulators).T.astype(J.dtype)
        n, d, _ = J.shape
        return (J.reshape(n * d, d) @ right).reshape(n, d, len(regulators))

    def _between_genes(self, effectors: Index, columns: XArray) -> Array:
        """Return Q_eff times columns ``(cell, axis, regulator)``, on the host."""
        if self._loadings is None:
            return to_host(columns[:, self._xp.asarray(effectors), :]).astype(np.float64, copy=False)
        left = self._rows_of(effectors).astype(columns.dtype)
        return to_host(self._xp.matmul(left, columns)).astype(np.float64, copy=False)

    def _rows_of(self, genes: Index) -> XArray:
        """Return rows of the loadings; where axes are genes these are of the identity."""
        loadings = self._xp.eye(self._x.shape[1]) if self._loadings is None else self._loadings
        return loadings[self._xp.asarray(genes)]

    def participation(self, cells: Index, right: XArray, left: XArray) -> npt.NDArray[Any]:
        """Return conj(y_i) x_i / (y^H x) of the vectors over genes; see `Linearization.participation`."""
        right, left = self.lift_left(cells, right), self.lift_left(cells, left)
        shares = to_host(left.conj() * right).astype(np.complex128)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares /= shares.sum(axis=2, keepdims=True)
        return shares

    def edge_factors(
        self, cells: Index, right: XArray, left: XArray
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return conj(w_a) / (w^H u) and u_b over axes: d lambda / dJ_ab is their product."""
        effect = to_host(left).astype(np.complex128).conj()
        cause = to_host(right).astype(np.complex128)
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = effect / np.einsum("cj,cj->c", effect, cause)[:, None]
        return effect, cause
