"""What a batch of leading eigenvalues comes back as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from stabdask.kernels.arrays import to_host
from stabdask.kernels.krylov_operator import Normalized
from stabdask.kernels.krylov_pairs import Pairs
from stabdask.kernels.krylov_records import Plan
from stabdask.kernels.results import Vectors, canonical_order, canonical_phase
from stabdask.schema import Status

__all__ = ["LeadingResult", "ResultBuilder"]

_START_CELLS = 8
"""Number of matrices whose eigenvectors make the start for the next batch."""


@dataclass(frozen=True)
class LeadingResult:
    """The rightmost eigenvalues of a batch of matrices; NumPy arrays.

    Attributes
    ----------
    eigenvalues
        ``(batch, modes)`` complex, canonical order: real part descending, then imaginary part descending. NaN
        past a matrix's size and where not converged. The last may be the first of a conjugate pair whose other
        half is left out.
    right, left
        ``(batch, modes, k)`` complex, or None: unit 2-norm, largest component real and positive, zero outside
        the active coordinates, NaN where the eigenvalue is. ``left`` holds y with ``y^H C = lambda y^H``.
    condition
        ``(batch, modes)``: 1 / abs(y^H x) for unit vectors, or None without left vectors.
    residual
        ``(batch, modes)``: ``|C u - lambda u| / |C|`` in the Frobenius norm of C, from products in double
        precision; given also for what has not converged.
    left_residual
        ``(batch, modes)``: ``|C^T conj(y) - mu conj(y)| / |C|`` with mu the Rayleigh quotient of y, or None.
    converged
        ``(batch, modes)``: whether ``|C u - lambda u|`` is at most the tolerance times the larger of
        ``abs(lambda)`` and ``|C| / sqrt(size)``, the root mean square singular value.
    confirmed
        ``(batch,)``: whether an iteration from another start, with these pairs deflated, found nothing right
        of them. Matrices solved completely are.
    reach
        ``(batch,)``: how far right an eigenvalue that was not returned may lie: the largest sum of real part
        and residual of the Ritz values next in order. -inf where there is no other eigenvalue, NaN where not
        known.
    status
        ``(batch,)`` of `stabdask.schema.Status` codes.
    n_products
        ``(batch,)``: products with each matrix, those with its transpose and those for residuals among them.
    sizes
        ``(batch,)``: sizes of the matrices.
    norms
        ``(batch,)``: Frobenius norms.
    start
        ``(k,)`` float64: a vector to start from for another batch like this one; None if nothing converged.
    """

    eigenvalues: npt.NDArray[Any]
    right: npt.NDArray[Any] | None
    left: npt.NDArray[Any] | None
    condition: npt.NDArray[np.float64] | None
    residual: npt.NDArray[np.float64]
    left_residual: npt.NDArray[np.float64] | None
    converged: npt.NDArray[np.bool_]
    confirmed: npt.NDArray[np.bool_]
    reach: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]
    n_products: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]
    norms: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64] | None

    def certain_unstable_count(self, tolerance: float = 0.0) -> npt.NDArray[np.intp]:
        """Count eigenvalues with real part above `tolerance`, where that count is certain.

        It is where the matrix is confirmed, all modes down to the first with real part at most `tolerance`
        have converged, that one exists (or the matrix has no more eigenvalues), `reach` does not exceed
        `tolerance`, and none of these modes lies within its own uncertainty of it: the residual and the
        rounding errors, times the condition number where that is known (with left vectors). Without condition
        numbers the count is as certain as the residual is small beside their inverse.

        Parameters
        ----------
        tolerance
            In the unit of the eigenvalues.

        Returns
        -------
        ``(batch,)``: the count, -1 where it is not certain.
        """
        modes = self.eigenvalues.shape[1]
        exists = np.arange(modes) < np.minimum(self.sizes, modes)[:, None]
        rounding = 4 * float(np.finfo(self.eigenvalues.dtype).eps)
        uncertainty = (self.residual + rounding) * self.norms[:, None]
        if self.condition is not None:
            uncertainty = uncertainty * self.condition
        with np.errstate(invalid="ignore"):
            above = exists & (self.eigenvalues.real > tolerance)
            clear = self.converged & (np.abs(self.eigenvalues.real - tolerance) >= uncertainty)
        count = above.sum(axis=1)
        # The first mode that is not above ends the list: it must be known, and so must all before it.
        needed = exists & (np.arange(modes) <= count[:, None])
        ended = (count < modes) | (self.sizes <= modes)
        certain = self.confirmed & ended & (clear | ~needed).all(axis=1) & (self.reach <= tolerance)
        return np.where(certain, count, -1).astype(np.intp)


class ResultBuilder:
    """The arrays of a result while groups of matrices are being filled in.

    Parameters
    ----------
    operator
        The batch.
    plan
        How it is worked on.
    vectors
        Which vectors are wanted.
    """

    def __init__(self, operator: Normalized, plan: Plan, vectors: Vectors) -> None:
        self._operator = operator
        self._tolerance = plan.tolerance
        self._vectors = vectors
        batch, modes, k = operator.batch, plan.modes, operator.k
        dtype = np.result_type(operator.dtype, np.complex64)
        nan = complex(np.nan, np.nan)
        shape = (batch, modes)
        self.eigenvalues = np.full(shape, nan, dtype=dtype)
        self.residual = np.full(shape, np.nan)
        self.converged = np.zeros(shape, dtype=bool)
        self.right = np.full((*shape, k), nan, dtype=dtype) if vectors != "none" else None
        self.left = np.full((*shape, k), nan, dtype=dtype) if vectors == "both" else None
        self.condition = np.full(shape, np.nan) if vectors == "both" else None
        self.left_residual = np.full(shape, np.nan) if vectors == "both" else None
        self.confirmed = operator.finite & (operator.sizes == 0)
        self.reach = np.where(operator.sizes == 0, -np.inf, np.nan)
        self.n_products = np.zeros(batch, dtype=np.intp)
        self.start: npt.NDArray[np.float64] | None = None

    def write(self, pairs: Pairs, confirmed: bool) -> None:
        """Take in the pairs of some matrices."""
        cells = pairs.cells
        self.confirmed[cells] = confirmed
        self.n_products[cells] += pairs.n_products
        self.reach[cells] = np.ldexp(pairs.reach, self._operator.exponent[cells])
        values = np.where(pairs.present, pairs.values, np.nan)
        order = canonical_order(values)[:, : self.eigenvalues.shape[1]]
        width = order.shape[1]
        converged = np.take_along_axis(pairs.converged, order, axis=1)
        self.converged[cells, :width] = converged
        values = np.where(converged, np.take_along_axis(values, order, axis=1), np.nan)
        values = np.where(np.isnan(values), complex(np.nan, np.nan), values)
        exponent = self._operator.exponent[cells][:, None]
        self.eigenvalues.real[cells, :width] = np.ldexp(values.real, exponent)
        self.eigenvalues.imag[cells, :width] = np.ldexp(values.imag, exponent)
        residual = np.where(pairs.present, pairs.residual, np.nan)
        self.residual[cells, :width] = np.take_along_axis(residual, order, axis=1) / self._norms(cells)
        if self.right is not None:
            vectors = np.take_along_axis(self._host_vectors(pairs), order[:, :, None], axis=1)
            self.right[cells, :width] = np.where(converged[:, :, None], canonical_phase(vectors), np.nan)
        if self.start is None and pairs.values.shape[1] > self.eigenvalues.shape[1]:
            self._set_start(pairs)

    def write_left(self, pairs: Pairs) -> None:
        """Take in the pairs of the transposes of some matrices, each to the nearest eigenvalue written."""
        assert self.right is not None
        assert self.left is not None
        assert self.left_residual is not None
        assert self.condition is not None
        self.n_products[pairs.cells] += pairs.n_products
        vectors = canonical_phase(self._host_vectors(pairs).conj())
        residual = pairs.residual / self._norms(pairs.cells)
        for row, cell in enumerate(pairs.cells):
            values = np.ldexp(1.0, -self._operator.exponent[cell]) * self.eigenvalues[cell]
            # Either eigenvalue may be off by its residual times its condition number.
            reach = pairs.limit[row] / np.sqrt(self._tolerance)
            distance = np.abs(values[:, None] - pairs.values[row][None, :])
            near = self.converged[cell][:, None] & pairs.converged[row] & (distance <= reach)
            ours, theirs = linear_sum_assignment(np.where(near, distance, 1e3))
            met = near[ours, theirs]
            ours, theirs = ours[met], theirs[met]
            self.left[cell, ours] = vectors[row, theirs]
            self.left_residual[cell, ours] = residual[row, theirs]
            overlap = np.abs(np.einsum("mk,mk->m", vectors[row, theirs].conj(), self.right[cell, ours]))
            self.condition[cell, ours] = 1.0 / overlap

    def result(self) -> LeadingResult:
        """Return the result."""
        sizes, finite = self._operator.sizes, self._operator.finite
        modes = self.eigenvalues.shape[1]
        exists = np.arange(modes) < np.minimum(sizes, modes)[:, None]
        complete = (self.converged | ~exists).all(axis=1)
        if self.left_residual is not None:
            complete &= (~np.isnan(self.left_residual) | ~exists).all(axis=1)
        status = np.select(
            [~finite, ~complete], [Status.NON_FINITE_INPUT, Status.NOT_CONVERGED], default=Status.OK
        )
        return LeadingResult(
            eigenvalues=self.eigenvalues,
            right=self.right,
            left=self.left,
            condition=self.condition,
            residual=self.residual,
            left_residual=self.left_residual,
            converged=self.converged,
            confirmed=self.confirmed,
            reach=self.reach,
            status=status.astype(np.uint8),
            n_products=self.n_products,
            sizes=sizes,
            norms=np.where(finite, np.ldexp(self._operator.norms, self._operator.exponent), np.nan),
            start=self.start,
        )

    def _norms(self, cells: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        norms = self._operator.norms[cells]
        return np.where(norms > 0, norms, 1.0)[:, None]

    def _host_vectors(self, pairs: Pairs) -> npt.NDArray[np.complex128]:
        return to_host(pairs.vectors(self._operator.xp))

    def _set_start(self, pairs: Pairs) -> None:
        """Set `start` to the sum of the eigenvectors, each averaged over some matrices in one phase."""
        rows = pairs.accepted & (np.cumsum(pairs.accepted) <= _START_CELLS)
        if not rows.any():
            return
        pairs = pairs.take(self._operator.xp, rows)
        vectors = np.where(pairs.present[:, :, None], self._host_vectors(pairs), 0.0)
        first = canonical_phase(vectors[:1])
        overlap = (vectors.conj() * first).sum(axis=2, keepdims=True)
        turned = vectors * np.where(overlap == 0, 0.0, overlap / np.abs(overlap))
        total = turned.sum(axis=(0, 1))
        self.start = np.ascontiguousarray(total.real + total.imag)
