"""How well a spectrum and its vectors fit a matrix: singular values, determinants, traces, residuals.

Errors are relative to the norm. A backend may miss by a few roundings, more with growing size, and by a few
times what LAPACK misses in the same precision where that is more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from helpers import match_spectra
from scipy.linalg import lapack
from scipy.sparse.csgraph import connected_components

__all__ = ["Problem", "unit_scaled"]

Array = np.ndarray[Any, Any]

_TIMES_LAPACK = 4.0


def unit_scaled(A: Array) -> tuple[Array, int]:
    """Return A / 2^e in float64, its largest entry in [0.5, 1), and e: nothing made of it overflows."""
    A = np.asarray(A, dtype=np.float64)
    exponent = int(np.frexp(np.abs(A).max(initial=0.0))[1])
    return np.ldexp(A, -exponent), exponent


@dataclass(frozen=True, eq=False)
class Problem:
    """One matrix to be solved in the precision of its dtype, and what may be expected of that."""

    matrix: Array
    n_probed: int = 400
    """Number of eigenvalues whose backward error is measured: each costs singular values."""
    balanced: bool = True
    """Whether errors are taken relative to the balanced matrix, where that is the smaller one."""

    @cached_property
    def eps(self) -> float:
        return float(np.finfo(self.matrix.dtype).eps)

    @cached_property
    def k(self) -> int:
        return len(self.matrix)

    @cached_property
    def scaled(self) -> Array:
        return unit_scaled(self.matrix)[0]

    def scaled_values(self, values: Array) -> Array:
        """Return eigenvalues of the matrix as eigenvalues of `scaled`."""
        exponent = unit_scaled(self.matrix)[1]
        values = values.astype(np.complex128)
        return np.asarray(np.ldexp(values.real, -exponent) + 1j * np.ldexp(values.imag, -exponent))

    @cached_property
    def forms(self) -> list[Array]:
        """The matrix, the matrix balanced, and its irreducible diagonal blocks balanced.

        All have the same spectrum. A solver may be backward stable for any of them: to balance or to solve
        irreducible parts alone is legitimate, and neither implies a small error relative to the others' norms.
        """
        A = self.scaled
        count, label = connected_components(A != 0, connection="strong")
        forms = [A, _balance(A)]
        if count > 1:
            parts = [np.flatnonzero(label == part) for part in range(count)]
            forms.append(scipy.linalg.block_diag(*(_balance(A[np.ix_(part, part)]) for part in parts)))
        return forms

    @cached_property
    def smallest_form(self) -> Array:
        """The matrix or the matrix balanced, whichever is smaller: nothing asks for more than balancing."""
        return min(self.forms[:2], key=np.linalg.norm) if self.balanced else self.scaled

    @cached_property
    def norm(self) -> float:
        """The 2-norm of the smallest form."""
        return float(np.linalg.norm(self.smallest_form, 2)) or 1.0

    @cached_property
    def truth(self) -> tuple[Array, float]:
        """The spectrum in double precision and the condition of the vectors, infinite where hopeless."""
        values, vectors = np.linalg.eig(self.smallest_form)
        singular = np.linalg.svd(vectors, compute_uv=False)
        condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
        return values, condition if condition * self.eps * self.k < 1e-2 else np.inf

    # --- eigenvalues ---------------------------------------------------------------------------------------

    def backward_error(self, values: Array) -> float:
        """Return the least |E| / |A| that makes each value an eigenvalue of A + E, the worst over values.

        Values good enough for one form of A are not tried on the next.
        """
        if len(values) > self.n_probed:
            values = values[np.linspace(0, len(values) - 1, self.n_probed).astype(int)]
        least = np.full(len(values), np.inf)
        for A in self.forms:
            again = least > self._floor["backward error"]
            shifted = A - values[again, None, None] * np.eye(self.k)
            smallest = np.linalg.svd(shifted, compute_uv=False)[:, -1] / (np.linalg.norm(A, 2) or 1.0)
            least[again] = np.minimum(least[again], smallest)
        return float(least.max())

    def determinant_defect(self, values: Array) -> float:
        """Return how far the product of z - lambda is from det(zI - A), relatively, well outside the spectrum.

        Unlike the backward error it notices an eigenvalue given twice in place of another.
        """
        worst = 0.0
        for angle in (0.3, 1.7, 2.9):
            z = 2 * self.norm * np.exp(1j * angle)
            sign, logarithm = np.linalg.slogdet(np.eye(self.k) - self.smallest_form / z)
            with np.errstate(divide="ignore"):
                difference = np.log(1 - values / z).sum() - (logarithm + 1j * np.angle(sign))
            turns = np.round(difference.imag / (2 * np.pi))
            worst = max(worst, float(abs(difference - 2j * np.pi * turns)))
        return worst

    def trace_defect(self, values: Array) -> float:
        A = self.smallest_form
        return float(abs(values.sum() - np.trace(A)) / (np.linalg.norm(A) or 1.0))

    def square_trace_defect(self, values: Array) -> float:
        A = self.smallest_form
        return float(abs((values**2).sum() - np.einsum("ij,ji->", A, A)) / (np.linalg.norm(A) ** 2 or 1.0))

    def distance(self, values: Array) -> float:
        """Return the distance to the true spectrum over the condition of the problem (Bauer and Fike)."""
        truth, condition = self.truth
        return match_spectra(values, truth) / (self.norm * condition) if np.isfinite(condition) else 0.0

    @cached_property
    def _measures(self) -> dict[str, Callable[[Array], float]]:
        return {
            "backward error": self.backward_error,
            "determinant defect": self.determinant_defect,
            "trace defect": self.trace_defect,
            "square trace defect": self.square_trace_defect,
            "distance": self.distance,
        }

    @cached_property
    def _floor(self) -> dict[str, float]:
        few = 10 * np.sqrt(self.k) * self.eps
        floor = dict.fromkeys(("backward error", "trace defect", "square trace defect", "distance"), few)
        return floor | {"determinant defect": 10 * self.k * self.eps}

    def assert_spectrum_fits(self, values: Array, name: str = "") -> None:
        """Check that computed eigenvalues are those of a matrix nearby, all of them."""
        assert values.shape == (self.k,), name
        assert np.isfinite(values).all(), f"{name}: {values}"
        values = self.scaled_values(values)
        for title, measure in self._measures.items():
            found, limit = measure(values), self._floor[title]
            if found > limit:  # that of LAPACK is asked for only where it matters
                limit += _TIMES_LAPACK * measure(self.lapack_values)
            assert found <= limit, f"{name}: {title} {found:.2e}, expected at most {limit:.2e}"

    # --- vectors -------------------------------------------------------------------------------------------

    def residuals(self, values: Array, right: Array | None, left: Array | None) -> Array:
        """Return |A x - lambda x| / |A| of each mode, or |A^T y - conj(lambda) y| / |A|, the larger one."""
        return _residuals(self.scaled, values, right, left)

    def assert_vectors_fit(self, values: Array, right: Array, left: Array | None, name: str = "") -> None:
        """Check that each vector is one of A, or that it was one before balancing was undone.

        What balancing hides in the small components of a vector shows in the residual of A: LAPACK's vectors
        of badly scaled matrices have large ones too.
        """
        values = self.scaled_values(values)
        found = self.residuals(values, right, left)
        limit = 20 * np.sqrt(self.k) * self.eps
        if found.max() > limit:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                D, B = self._scaling, self.scaled / self._scaling[:, None] * self._scaling
                unbalanced = _residuals(B, values, right / D, None if left is None else left * D)
            found = np.fmin(found, unbalanced)
        if found.max() > limit:
            lapack_values, lapack_right, lapack_left = self._lapack_vectors
            both = self.residuals(lapack_values, lapack_right, None if left is None else lapack_left)
            limit += _TIMES_LAPACK * both.max()
        assert found.max() <= limit, f"{name}: residual {found.max():.2e}, expected at most {limit:.2e}"

    @cached_property
    def _scaling(self) -> Array:
        """The powers of two d of D^-1 A D that balance A, its order kept."""
        return np.asarray(lapack.dgebal(self.scaled, scale=1, permute=0)[3])

    # --- LAPACK in the same precision ----------------------------------------------------------------------

    @cached_property
    def lapack_values(self) -> Array:
        return self._geev(vectors=False)[0]

    @cached_property
    def _lapack_vectors(self) -> tuple[Array, Array, Array]:
        return self._geev(vectors=True)

    def _geev(self, *, vectors: bool) -> tuple[Array, Array, Array]:
        driver = lapack.sgeev if self.matrix.dtype == np.float32 else lapack.dgeev
        with np.errstate(under="ignore"):
            A = self.scaled.astype(self.matrix.dtype)
        wr, wi, left, right, info = driver(A, compute_vl=vectors, compute_vr=vectors)
        assert info == 0
        values = wr.astype(np.float64) + 1j * wi.astype(np.float64)
        if vectors:
            left, right = _complex_rows(left, wi), _complex_rows(right, wi)
        return values, right, left


def _balance(A: Array) -> Array:
    return np.asarray(lapack.dgebal(A, scale=1, permute=1)[0])


def _residuals(A: Array, values: Array, right: Array | None, left: Array | None) -> Array:
    norm = np.linalg.norm(A) or 1.0
    worst = np.zeros(len(values))
    for vectors, transposed, own in ((right, A.T, values), (left, A, values.conj())):
        if vectors is not None:
            rows = vectors.astype(np.complex128)
            length = np.linalg.norm(rows, axis=1) * norm
            defects = rows @ transposed - own[:, None] * rows
            worst = np.maximum(worst, np.linalg.norm(defects, axis=1) / length)
    return worst


def _complex_rows(packed: Array, imag: Array) -> Array:
    """Return as rows the vectors that LAPACK packs into real columns."""
    vectors = packed.T.astype(np.complex128)
    for m in np.flatnonzero(imag > 0):
        vectors[m] = packed[:, m] + 1j * packed[:, m + 1]
        vectors[m + 1] = vectors[m].conj()
    return vectors
