"""The Jacobians of some cells as cores and lifts: what every kind of field offers to the rest of the program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import to_host
from stabdask.kernels.eig import EigResult, Vectors, eig
from stabdask.kernels.solve import solve_damped, solve_or_nan

if TYPE_CHECKING:
    from stabdask.kernels.krylov_operator import BatchedOperator

__all__ = ["Array", "Index", "Linearization"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_CORE_BYTES = 8 * 2**20
"""Cores that are formed together where no eigensolver forms them."""


class Linearization(ABC):
    """The Jacobians of some cells of one cluster, never formed.

    A Jacobian is its core (a small matrix) plus known remaining eigenvalues, and a lift that turns vectors
    of the core into vectors over genes. Everything downstream sees only this.

    One made from expression on a GPU computes there: eigenvalues and vectors are then arrays of CuPy, all else is
    on the host.
    """

    active: npt.NDArray[np.bool_]
    """``(cell, regulator)``: which of the field's regulators span the core of each cell.

    Of a field with `Field.whole_cores`, whose cores all have all axes, only the number of cells is looked at.
    """

    @property
    def sizes(self) -> npt.NDArray[np.intp]:
        """Order of the core of each cell, ``(cell,)``."""
        return np.asarray(self.active.sum(axis=1), dtype=np.intp)

    @property
    def rounding(self) -> float:
        """Relative rounding error of the precision that Jacobians are computed in."""
        return float(np.finfo(np.float64).eps)

    @abstractmethod
    def cores(self, cells: Index) -> Array:
        """Return the cores of `cells`, zero-padded: ``(cell, k, k)`` with k the largest of their sizes."""

    def cores_to_read(self, cells: Index) -> Array:
        """Return `cores`, which the caller leaves as they are: they may be the field's own."""
        return self.cores(cells)

    def solve(
        self,
        cells: Index,
        *,
        modes: int | None,
        vectors: Vectors,
        dtype: str,
        backend: str,
    ) -> EigResult:
        """Return the eigenvalues, and vectors of the leading `modes`, of the cores of `cells`.

        See `stabdask.kernels.eig.eig`; a field whose cores need not be formed may have a shorter way.
        """
        cores = self.cores_to_read(cells)
        sizes = self.sizes[cells]
        if not isinstance(cores, np.ndarray):
            from stabdask.kernels import cuda

            return cuda.numbers_to_host(
                cuda.solve_on_device(cores, sizes, modes=modes, vectors=vectors, dtype=dtype)
            )
        return eig(cores, sizes=sizes, modes=modes, vectors=vectors, dtype=dtype, backend=backend)

    def solve_without(
        self, cells: Index, without: npt.NDArray[np.bool_], *, dtype: str, backend: str
    ) -> EigResult:
        """Return the eigenvalues of principal submatrices of cores: what is left without some regulators.

        Parameters
        ----------
        cells
            ``(batch,)`` rows of this linearization, each as often as there are submatrices of its core.
        without
            ``(batch, regulator)``: which of the field's regulators lose their row and column. Those outside the core
            have none.
        dtype, backend
            See `stabdask.kernels.eig.eig`.

        Returns
        -------
        EigResult
            Without vectors.
        """
        some, place = np.unique(cells, return_inverse=True)
        cores = np.asarray(to_host(self.cores_to_read(some)))
        # Where a regulator is in its core: after those before it that are active too.
        inside = np.cumsum(self.active[cells], axis=1) - 1
        kept = self.active[cells] & ~without
        sizes = kept.sum(axis=1)
        order = np.argsort(~kept, axis=1, kind="stable")[:, : int(sizes.max(initial=0))]
        # What is past the size of a submatrix is not looked at: any entry of the core will do.
        rows = np.clip(np.take_along_axis(inside, order, axis=1), 0, max(0, cores.shape[1] - 1))
        smaller = cores[place[:, None, None], rows[:, :, None], rows[:, None, :]]
        return eig(smaller, sizes=sizes, dtype=dtype, backend=backend)

    def operator(self, cells: Index) -> BatchedOperator:
        """Return the cores of `cells` as an operator that multiplies without forming them.

        Only fields with `Field.matrix_free` have one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no products without cores")

    def core_vectors(self, cells: Index, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return vectors that `operator` acts on, ``(cell, mode, n)``, as vectors of the cores."""
        raise NotImplementedError(f"{type(self).__name__} has no products without cores")

    @abstractmethod
    def lift_right(
        self, cells: Index, values: npt.NDArray[Any], vectors: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Turn right eigenvectors of cores into right eigenvectors of Jacobians.

        Parameters
        ----------
        cells
            Rows of this linearization.
        values
            ``(len(cells), mode)`` eigenvalues.
        vectors
            ``(len(cells), mode, k)``.

        Returns
        -------
        lifted
            ``(len(cells), mode, gene)``, not normalised.
        degenerate
            ``(len(cells), mode)``: the eigenvalue of the core coincides with a remaining one, and the Jacobian has
            no eigenvector with that part in the core.
        """

    @abstractmethod
    def lift_left(self, cells: Index, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn left eigenvectors of cores into left eigenvectors of Jacobians, ``(cell, mode, gene)``."""

    @abstractmethod
    def rest_leading(self) -> Array:
        """Return the two largest eigenvalues outside the core, ``(cell, 2)``; -inf where there are none."""

    @abstractmethod
    def rest_counts(self, tolerance: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return how many eigenvalues outside the core are above `tolerance` and below minus it."""

    @abstractmethod
    def rest_determinant(self) -> tuple[Array, Array]:
        """Return log|d| and the sign of d, the product of the eigenvalues outside the core, each ``(cell,)``."""

    def core_determinant(self) -> tuple[Array, Array]:
        """Return log|det C| and the sign of det C of each core, each ``(cell,)``, by LU factorization."""
        sizes = self.sizes
        k = int(sizes.max(initial=0))
        logs, signs = np.zeros(len(sizes)), np.ones(len(sizes))
        step = max(1, _CORE_BYTES // (8 * max(1, k * k)))
        for first in range(0, len(sizes), step):
            cells = np.arange(first, min(first + step, len(sizes)))
            cores = self.cores(cells)
            width = cores.shape[1]
            diagonal = np.arange(width)
            # Ones on the diagonal of the padding change no determinant.
            cores[:, diagonal, diagonal] += diagonal >= sizes[cells][:, None]
            signs[cells], logs[cells] = np.linalg.slogdet(cores)
        return logs, signs

    @abstractmethod
    def trace(self) -> Array:
        """Return the trace of each Jacobian, ``(cell,)``."""

    @abstractmethod
    def rotational_norm(self) -> Array:
        """Return the Frobenius norm of the antisymmetric part of each Jacobian, ``(cell,)``."""

    @abstractmethod
    def squares_beyond_rest(self) -> Array:
        """Return the squared Frobenius norm of J less the squares of the eigenvalues outside the core, ``(cell,)``."""

    @abstractmethod
    def reactivity(self) -> Array:
        """Return the largest eigenvalue of (J + J^T)/2, ``(cell,)``; NaN where it was not found."""

    @abstractmethod
    def speed(self) -> Array:
        """Return the norm of the velocity, ``(cell,)``."""

    @abstractmethod
    def velocity(self) -> Array:
        """Return the velocity, ``(cell, axis)``, on the host."""

    @abstractmethod
    def acceleration(self) -> Array:
        """Return J v, the derivative of the velocity along the flow, ``(cell, axis)``."""

    def jerk(self) -> Array:
        """Return the derivative of the acceleration along the flow, ``(cell, axis)``."""
        raise NotImplementedError(f"{type(self).__name__} has no third derivative of the flow")

    def curl(self) -> Array:
        """Return the curl of the velocity of a field with two or three axes, ``(cell, 1)`` or ``(cell, 3)``."""
        raise NotImplementedError(f"{type(self).__name__} has no curl")

    def velocity_scale(self) -> Array:
        """Return the sum of the absolute values of the terms of each component of the velocity, ``(cell, axis)``.

        A velocity is zero, to rounding, where it is small beside this: not where all its terms are small.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how large the terms of its velocity are"
        )

    def solve_jacobian(
        self,
        cells: Index,
        b: Array,
        *,
        shift: Array | None = None,
        damping: Array | None = None,
        weights: Array | None = None,
    ) -> Array:
        """Solve ``(J - shift) x = b`` through the cores.

        Parameters
        ----------
        cells
            Rows of this linearization.
        b
            ``(len(cells), axis)``.
        shift
            ``(len(cells),)``, 1/time: what is taken off the diagonal; 0 if not given.
        damping
            ``(len(cells),)`` positive: solve the system of the core as damped least squares, which has a solution
            also where the core is singular (see `stabdask.kernels.solve.solve_damped`). What is outside the core is
            then solved exactly for that.
        weights
            ``(len(cells), axis)`` positive, of the squares of a damped solution.

        Returns
        -------
        numpy.ndarray
            ``(len(cells), axis)``; NaN for a cell whose matrix is singular (with `damping`: not finite). With
            `damping`, an axis outside the core whose eigenvalue is 0 is 0.
        """
        if not len(cells):
            return np.zeros(b.shape)
        cores = self.cores(cells)
        n = b.shape[1]
        if cores.shape[1:] != (n, n) or (self.sizes[cells] < n).any():
            # Fields with something outside the core have a way of their own.
            raise NotImplementedError(f"{type(self).__name__} has more to its Jacobians than cores")
        if shift is not None:
            cores[:, np.arange(n), np.arange(n)] -= shift[:, None]
        if damping is not None:
            return solve_damped(cores, b, damping, weights)
        solved: Array = solve_or_nan(cores, b[:, :, None])[:, :, 0]
        return solved

    @abstractmethod
    def elements(self, effectors: Index, regulators: Index) -> Array:
        """Return ``J[effectors[p], regulators[p]]`` for each pair of genes p, ``(cell, pair)``."""

    @abstractmethod
    def block(self, cells: Index, effectors: Index, regulators: Index) -> Array:
        """Return ``J[effectors, regulators]`` of `cells`, ``(len(cells), effector, regulator)``."""

    @abstractmethod
    def response(self, cells: Index, effectors: Index, regulators: Index) -> tuple[Array, Array]:
        """Return ``-J^-1 [effectors, regulators]`` of `cells`, and how well it is conditioned.

        Returns
        -------
        response
            ``(len(cells), effector, regulator)``; NaN where J is singular.
        condition
            ``(len(cells),)``: the condition number, in the 1-norm, of the matrix that was solved with; infinite where
            J is singular.
        """

    @abstractmethod
    def participation(
        self, cells: Index, right: npt.NDArray[Any], left: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Return the participation factors of modes of cores, ``(len(cells), mode, regulator)``, on the host.

        `right` and `left` are vectors of the cores, ``(len(cells), mode, k)``. NaN where y^H x is 0.
        """

    @abstractmethod
    def edge_factors(
        self, cells: Index, right: npt.NDArray[Any], left: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a and b with d lambda / d W_ij = a_i b_j, each ``(len(cells), regulator)``, on the host.

        `right` and `left` are vectors of the cores for one mode, ``(len(cells), k)``. NaN where y^H x is 0.
        """

    def edges(self) -> tuple[Index, Index]:
        """Return effectors and regulators of the edges among regulators, as positions among the field's regulators."""
        raise NotImplementedError(f"{type(self).__name__} has no network")

    def near_switch_count(self) -> npt.NDArray[np.intp]:
        """Return how many regulators of each cell lie at a jump of the Jacobian, ``(cell,)``."""
        return np.zeros(len(self.sizes), dtype=np.intp)
