"""The small eigenproblems of a restarted Krylov method, on the host, in float64, many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, lapack, schur

from stabdask.kernels import lanes
from stabdask.kernels.eig import eig
from stabdask.schema import Status

__all__ = ["Ritz", "closed_count", "pair_order", "restart_basis", "ritz", "select_closed"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ritz:
    """Ritz values, rightmost first, conjugate pairs side by side.

    Attributes
    ----------
    values
        ``(batch, m)`` complex.
    vectors
        ``(batch, m, m)`` complex: the unit vector of ``values[b, i]`` is ``vectors[b, :, i]``.
    residual
        ``(batch, m)``: norm of the residual of each Ritz pair, as the Krylov decomposition gives it.
    solved
        ``(batch,)``: False where the projection holds NaN or the eigensolver gave up.
    """

    values: npt.NDArray[np.complex128]
    vectors: npt.NDArray[np.complex128]
    residual: Array
    solved: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.bool_]) -> Ritz:
        """Return the Ritz pairs of the matrices marked in ``rows (batch,)``."""
        return Ritz(self.values[rows], self.vectors[rows], self.residual[rows], self.solved[rows])


def pair_order(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the order by real part descending that keeps conjugate pairs side by side, positive part first.

    It differs from the canonical order only where several pairs have one real part.
    """
    return np.asarray(np.lexsort((-values.imag, -np.abs(values.imag), -values.real), axis=-1), dtype=np.intp)


def ritz(projected: Array, coupling: Array) -> Ritz:
    """Solve the projected problems of Krylov decompositions ``C V = V H + v b^T``.

    Parameters
    ----------
    projected
        ``(batch, m, m)``: H.
    coupling
        ``(batch, m)``: b.
    """
    backend = "lanes" if lanes.available() else "lapack"
    found = eig(projected, vectors="right", backend=backend)
    assert found.right is not None
    # The eigensolver is content with less than the iteration needs only where it says so; that is looked after.
    solved = ~np.isin(found.status, (Status.NON_FINITE_INPUT, Status.NOT_CONVERGED))
    solved &= np.isfinite(coupling).all(axis=1)
    values = np.where(solved[:, None], found.eigenvalues, 0.0)
    vectors = np.where(solved[:, None, None], found.right, 0.0)
    order = pair_order(values)
    values = np.take_along_axis(values, order, axis=1)
    vectors = np.take_along_axis(vectors, order[:, :, None], axis=1)
    residual = np.abs((vectors @ coupling[:, :, None])[:, :, 0])
    return Ritz(values, np.swapaxes(vectors, 1, 2), residual, np.asarray(solved))


def closed_count(values: npt.NDArray[np.complex128], count: int) -> npt.NDArray[np.intp]:
    """Return how many of the values in pair order are the first `count` and what completes a last pair."""
    last = values[:, min(count, values.shape[1]) - 1]
    return np.asarray(np.minimum(count + (last.imag > 0), values.shape[1]), dtype=np.intp)


def select_closed(values: npt.NDArray[np.complex128], count: int) -> npt.NDArray[np.intp]:
    """Return which `count` values in pair order to keep: the first ones, no conjugate pair split.

    Where the last would be half a pair, the next real value is taken in its place. There is one: `count` and
    the number of values are even, so the real values before a split pair are odd in number, and all of them
    even.

    Parameters
    ----------
    values
        ``(batch, m)``, m even, closed under conjugation.
    count
        An even number, at most m.
    """
    assert count % 2 == 0
    assert values.shape[1] % 2 == 0
    chosen = np.tile(np.arange(count), (len(values), 1))
    split = np.flatnonzero(values[:, count - 1].imag > 0)
    if len(split):
        following = values[split, count:].imag == 0
        chosen[split, -1] = count + following.argmax(axis=1)
    return chosen


def restart_basis(
    projected: Array, found: Ritz, chosen: npt.NDArray[np.intp], accuracy: float
) -> tuple[Array, Array]:
    """Return orthonormal bases of invariant subspaces of the projections, and the projections onto them.

    The eigenvectors chosen are orthonormalized. Where they are too nearly dependent for that (close to a
    defective eigenvalue) the basis comes from an ordered real Schur form instead.

    Parameters
    ----------
    projected
        ``(batch, m, m)``: H.
    found
        Their Ritz pairs.
    chosen
        ``(batch, p)`` positions in pair order, closed under conjugation.
    accuracy
        How far from invariant a basis U may be: ``|H U - U (U^T H U)|`` relative to ``|H|``.

    Returns
    -------
    basis
        ``(batch, m, p)``: U.
    reduced
        ``(batch, p, p)``: ``U^T H U``.
    """
    picked = np.take_along_axis(found.vectors, chosen[:, None, :], axis=2)
    values = np.take_along_axis(found.values, chosen, axis=1)
    # A pair x, conj(x) spans what Re x, Im x do.
    columns = np.where(values.imag[:, None, :] < 0, picked.imag, picked.real)
    basis, _ = np.linalg.qr(columns)
    image = projected @ basis
    reduced = np.swapaxes(basis, 1, 2) @ image
    defect = np.linalg.norm(image - basis @ reduced, axis=(1, 2))
    loose = ~(defect <= accuracy * np.linalg.norm(projected, axis=(1, 2)))
    for b in np.flatnonzero(loose & found.solved):
        better = _schur_basis(projected[b], chosen.shape[1])
        if better is not None:
            basis[b] = better
            reduced[b] = better.T @ projected[b] @ better
    return basis, reduced


def _schur_basis(projected: Array, count: int) -> Array | None:
    """Return the Schur vectors that belong to the `count` eigenvalues `select_closed` keeps, if LAPACK can."""
    try:
        form, vectors = schur(projected, output="real")
    except LinAlgError:
        return None
    values = _quasi_triangular_eigenvalues(form)
    order = pair_order(values)
    kept = order[select_closed(values[order][None], count)[0]]
    wanted = np.zeros(len(values), dtype=np.int32)
    wanted[kept] = 1
    _, ordered, *_, info = lapack.dtrsen(wanted, form, vectors, job="N")
    return np.asarray(ordered[:, :count]) if info == 0 else None


def _quasi_triangular_eigenvalues(form: Array) -> npt.NDArray[np.complex128]:
    """Return the eigenvalues of a standardized real Schur form in the order of its diagonal."""
    values = np.diagonal(form).astype(np.complex128)
    below = np.diagonal(form, -1)
    for i in np.flatnonzero(below):
        width = np.sqrt(abs(form[i, i + 1] * form[i + 1, i]))
        values[i] += 1j * width
        values[i + 1] -= 1j * width
    return values
