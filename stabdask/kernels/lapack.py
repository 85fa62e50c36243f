"""The LAPACK backend: one ``geev`` a matrix, through NumPy where that releases the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

__all__ = ["eigensystem", "eigenvalues"]


def eigenvalues(matrices: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return all eigenvalues of a stack of finite real matrices of one size.

    Parameters
    ----------
    matrices
        ``(batch, k, k)``, float32 or float64, finite.

    Returns
    -------
    values
        ``(batch, k)``, complex of the same precision, in no particular order; NaN where not converged.
    converged
        ``(batch,)``.
    """
    if matrices.dtype == np.float32:
        # numpy.linalg computes float32 input in double; this is LAPACK's own single precision.
        values, _, _, converged = _geev(matrices, left=False, right=False)
        return values, converged
    try:
        values = np.linalg.eigvals(matrices)
    except np.linalg.LinAlgError:
        return _one_by_one(matrices)
    return values.astype(np.complex128, copy=False), np.ones(len(matrices), dtype=bool)


def _one_by_one(matrices: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Find the matrix that did not converge, by the same routine, so that its neighbours keep their bits."""
    values = np.full(matrices.shape[:2], complex(np.nan, np.nan))
    converged = np.ones(len(matrices), dtype=bool)
    for b, matrix in enumerate(matrices):
        try:
            values[b] = np.linalg.eigvals(matrix)
        except np.linalg.LinAlgError:
            converged[b] = False
    return values, converged


def eigensystem(
    matrices: npt.NDArray[Any], *, left: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[np.bool_]]:
    """Return eigenvalues, right and (if `left`) left eigenvectors of a stack of finite real matrices.

    Parameters
    ----------
    matrices
        ``(batch, k, k)``, float32 or float64, finite.
    left
        Whether left eigenvectors are wanted too.

    Returns
    -------
    values
        ``(batch, k)`` complex.
    right
        ``(batch, k, k)`` complex: ``right[b, m]`` is the eigenvector of ``values[b, m]``.
    left
        The same for ``y`` in ``y^H C = lambda y^H``, or None.
    converged
        ``(batch,)``.
    """
    values, right, left_vectors, converged = _geev(matrices, left=left, right=True)
    assert right is not None
    return values, right, left_vectors, converged


def _geev(
    matrices: npt.NDArray[Any], *, left: bool, right: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any] | None, npt.NDArray[np.bool_]]:
    single = matrices.dtype == np.float32
    driver = lapack.sgeev if single else lapack.dgeev
    query = lapack.sgeev_lwork if single else lapack.dgeev_lwork
    batch, k, _ = matrices.shape
    lwork = int(query(k, compute_vl=left, compute_vr=right)[0].real)
    real = np.empty((batch, k), dtype=matrices.dtype)
    imag = np.empty((batch, k), dtype=matrices.dtype)
    packed = {
        side: np.empty((batch, k, k), dtype=matrices.dtype)
        for side, wanted in (("left", left), ("right", right))
        if wanted
    }
    converged = np.ones(batch, dtype=bool)
    for b in range(batch):
        wr, wi, vl, vr, info = driver(matrices[b], compute_vl=left, compute_vr=right, lwork=lwork)
        real[b], imag[b] = wr, wi
        if info != 0:
            converged[b] = False
            real[b] = np.nan
            imag[b] = np.nan
        if left:
            packed["left"][b] = vl.T
        if right:
            packed["right"][b] = vr.T
    complex_dtype = np.complex64 if single else np.complex128
    values = np.empty((batch, k), dtype=complex_dtype)
    values.real, values.imag = real, imag
    vectors = {side: _unpack(array, imag, complex_dtype) for side, array in packed.items()}
    return values, vectors.get("right"), vectors.get("left"), converged


def _unpack(
    packed: npt.NDArray[Any], imag: npt.NDArray[Any], complex_dtype: type[np.complexfloating[Any, Any]]
) -> npt.NDArray[Any]:
    """Turn LAPACK's pairs of real rows (real part, imaginary part) into complex eigenvectors."""
    vectors = packed.astype(complex_dtype)
    first_b, first_m = np.nonzero(imag > 0)
    pair = packed[first_b, first_m] + 1j * packed[first_b, first_m + 1]
    vectors[first_b, first_m] = pair
    vectors[first_b, first_m + 1] = pair.conj()
    return vectors
