"""Eigenpairs on their own evidence: eigenvalues and residuals from products in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, to_host
from stabdask.kernels.krylov_operator import BatchedOperator, Cells
from stabdask.kernels.krylov_projected import closed_count, ritz
from stabdask.kernels.krylov_records import Found, Rows

__all__ = ["Pairs", "evaluate", "orthonormal_rows", "orthonormal_span", "project"]


@dataclass(frozen=True)
class Pairs(Rows):
    """Approximate eigenpairs of some matrices of a batch, in pair order.

    Attributes
    ----------
    cells
        ``(n,)``: which matrices.
    basis
        ``(n, p, k)`` float64.
    coordinates
        ``(n, p, w)`` complex NumPy: unit eigenvector i is ``coordinates[:, :, i]`` on the rows of `basis`.
    values
        ``(n, w)`` complex NumPy: Rayleigh quotients.
    residual
        ``(n, w)``: ``|C u - lambda u|``.
    limit
        ``(n, w)``: the residual below which a pair has converged.
    count
        ``(n,)``: how many of the w pairs mean something.
    n_products
        ``(n,)``: products with each matrix so far.
    reach, beyond
        As in `Found`.
    """

    cells: Cells
    basis: XArray
    beyond: XArray
    coordinates: npt.NDArray[np.complex128]
    values: npt.NDArray[np.complex128]
    residual: npt.NDArray[np.float64]
    limit: npt.NDArray[np.float64]
    count: npt.NDArray[np.intp]
    n_products: npt.NDArray[np.intp]
    reach: npt.NDArray[np.float64]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """``(n, w)``: which pairs mean something."""
        return np.asarray(np.arange(self.values.shape[1]) < self.count[:, None])

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """``(n, w)``: which pairs have converged."""
        return np.asarray(self.present & (self.residual <= self.limit))

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """``(n,)``: whether all pairs of a matrix have converged, and there are any."""
        return np.asarray((self.converged | ~self.present).all(axis=1) & (self.count > 0))

    def vectors(self, xp: Any) -> XArray:
        """Return ``(n, w, k)`` complex128 unit eigenvectors."""
        real = _combinations(xp, self.coordinates.real, self.basis)
        imag = _combinations(xp, self.coordinates.imag, self.basis)
        return real + 1j * imag


def evaluate(
    operator: BatchedOperator, found: Found, norms: npt.NDArray[np.float64], tolerance: float
) -> Pairs:
    """Take Rayleigh quotients and true residuals of what an iteration found.

    Parameters
    ----------
    operator
        Normalized operators.
    found
        Approximate eigenvectors.
    norms
        ``(batch,)``: Frobenius norms.
    tolerance
        See `Plan.tolerance`.
    """
    xp = operator.xp
    basis = found.basis.astype(np.float64)
    image = _image(operator, basis, found.cells)
    gram, cross = _products(xp, basis, basis), _products(xp, image, basis)
    # Column i of `inside` is the image of row i of the basis on the basis; what is left of it is orthogonal.
    missing = (np.diagonal(gram, axis1=1, axis2=2) == 0)[:, None, :] * np.eye(gram.shape[1])
    inside = np.linalg.solve(gram + missing, np.swapaxes(cross, 1, 2))
    image -= _combinations(xp, inside, basis)
    outside = _products(xp, image, image)
    coordinates = _mirrored(found.values, found.coordinates)
    length = np.sqrt(_quadratic(gram, coordinates))
    coordinates = np.where(length[:, None] > 0, coordinates / length[:, None], 0.0)
    turned = inside @ coordinates
    values = (np.conj(coordinates) * (gram @ turned)).sum(axis=1)
    values.imag[found.values.imag == 0] = 0.0
    defect = turned - values[:, None, :] * coordinates
    residual = np.sqrt(_quadratic(gram, defect) + _quadratic(outside, coordinates))
    floor = norms[found.cells] / np.sqrt(operator.sizes[found.cells])
    return Pairs(
        cells=found.cells,
        basis=basis,
        beyond=found.beyond,
        coordinates=coordinates,
        values=values,
        residual=residual,
        limit=tolerance * np.maximum(np.abs(values), floor[:, None]),
        count=found.count,
        n_products=found.n_products + basis.shape[1],
        reach=found.reach,
    )


def project(
    operator: BatchedOperator, basis: XArray, present: npt.NDArray[np.bool_], modes: int, origin: Pairs
) -> Found:
    """Take Ritz pairs from ``basis (n, p, k)`` by p products with each matrix.

    Its rows are orthonormal where ``present (n, p)`` and zero elsewhere; at least `modes` are present. Whatever
    is not about these pairs comes from `origin`.
    """
    cells = origin.cells
    xp = operator.xp
    image = _image(operator, basis, cells)
    projected = np.swapaxes(_products(xp, image, basis), 1, 2)
    # Normalized operators have no eigenvalue there: what the zero rows give comes last.
    projected += np.where(present, 0.0, -4.0)[:, None, :] * np.eye(basis.shape[1])
    found = ritz(projected, np.zeros(projected.shape[:2]))
    return Found(
        cells=cells,
        basis=basis,
        beyond=origin.beyond,
        values=found.values[:, : modes + 1],
        coordinates=found.vectors[:, :, : modes + 1],
        count=np.where(found.solved, closed_count(found.values, modes), 0),
        n_products=np.full(len(cells), basis.shape[1]),
        reach=origin.reach,
    )


def orthonormal_span(xp: Any, pairs: Pairs) -> XArray:
    """Return ``(n, w, k)``: orthonormal rows that span the eigenvectors present, zeros for the others."""
    coordinates = pairs.coordinates
    columns = np.where(pairs.values.imag[:, None, :] < 0, coordinates.imag, coordinates.real)
    span, _ = np.linalg.qr(np.where(pairs.present[:, None, :], columns, 0.0))
    return orthonormal_rows(xp, _combinations(xp, span, pairs.basis), pairs.present)


def orthonormal_rows(xp: Any, rows: XArray, present: npt.NDArray[np.bool_]) -> XArray:
    """Orthonormalize ``rows (n, w, k)`` that nearly are, by a Cholesky factor, and clear those not present."""
    rows = rows * xp.asarray(present)[:, :, None]
    gram = _products(xp, rows, rows)
    # The tiny part lets the factor exist for rows that cancelled to nothing.
    gram = gram + np.where(present, 1e-15, 1.0)[:, None, :] * np.eye(rows.shape[1])
    inverse = np.linalg.inv(np.linalg.cholesky(gram))
    return xp.matmul(xp.asarray(inverse), rows)


def _image(operator: BatchedOperator, basis: XArray, cells: Cells) -> XArray:
    image = operator.xp.empty_like(basis)
    for row in range(basis.shape[1]):
        image[:, row] = operator.apply(basis[:, row], cells)
    return image


def _combinations(xp: Any, coordinates: npt.NDArray[np.float64], rows: XArray) -> XArray:
    """Return ``(n, w, k)``: the combinations of ``rows (n, p, k)`` with the columns of ``coordinates (n, p, w)``."""
    return xp.matmul(xp.asarray(np.ascontiguousarray(np.swapaxes(coordinates, 1, 2))), rows)


def _products(xp: Any, a: XArray, b: XArray) -> npt.NDArray[np.float64]:
    """Return the scalar products of the rows of `a` and `b`, for each matrix."""
    return to_host(xp.matmul(a, xp.swapaxes(b, 1, 2)))


def _quadratic(gram: npt.NDArray[np.float64], vectors: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Return ``(n, w)``: v^H G v of the columns of `vectors`, at least 0."""
    return np.asarray(np.maximum((np.conj(vectors) * (gram @ vectors)).sum(axis=1).real, 0.0))


def _mirrored(
    values: npt.NDArray[np.complex128], vectors: npt.NDArray[np.complex128]
) -> npt.NDArray[np.complex128]:
    """Return `vectors` with the second of every conjugate pair the exact conjugate of the first."""
    before = np.roll(vectors, 1, axis=2)
    return np.where(values.imag[:, None, :] < 0, before.conj(), vectors)
