"""The LAPACK backend: one ``geev`` a matrix, through NumPy where that releases the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.results import Results, canonical_order, canonical_phase
from stabdask.schema import Status

__all__ = ["eigensystem", "eigenvalues", "solve"]


def solve(cores: npt.NDArray[Any], sizes: npt.NDArray[np.integer[Any]], out: Results) -> None:
    """Fill `out` for ``cores[b, :sizes[b], :sizes[b]]``, matrices of one size at a time."""
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        _solve_group(cores[members, :size, :size], members, out)


def _solve_group(matrices: npt.NDArray[Any], members: npt.NDArray[np.intp], out: Results) -> None:
    """Solve matrices of one size and write their results at `members`."""
    size = matrices.shape[1]
    finite = np.isfinite(matrices).all(axis=(1, 2))
    if not finite.all():
        out.outcome[members[~finite]] = Status.NON_FINITE_INPUT
        matrices, members = matrices[finite], members[finite]
    if size == 0 or not len(members):
        out.trace_defect[members] = 0.0
        return
    matrices, exponent = _unit_scaled(matrices, out.precision)
    right: npt.NDArray[Any] | None = None
    left: npt.NDArray[Any] | None = None
    if out.right is None:
        values, converged = eigenvalues(matrices)
    else:
        values, right, left, converged = eigensystem(matrices, left=out.left is not None)
    out.outcome[members[~converged]] = Status.NOT_CONVERGED
    order = canonical_order(values)
    values = np.take_along_axis(values, order, axis=1)
    with np.errstate(over="ignore"):
        out.eigenvalues.real[members, :size] = np.ldexp(values.real, exponent)
        out.eigenvalues.imag[members, :size] = np.ldexp(values.imag, exponent)
    # Sums along contiguous rows, whose order does not depend on how many matrices there are.
    flat = matrices.reshape(len(matrices), size * size).astype(np.float64, copy=False)
    scale = np.sqrt((flat * flat).sum(axis=1))
    scale = np.where(scale > 0, scale, 1.0)
    trace = np.ascontiguousarray(flat[:, :: size + 1]).sum(axis=1)
    total = np.ascontiguousarray(values, dtype=np.complex128).sum(axis=1)
    out.trace_defect[members] = np.abs(total - trace) / scale
    shown = min(out.modes, size)
    if right is not None and shown:
        right = canonical_phase(np.take_along_axis(right, order[:, :shown, None], axis=1))
        assert out.right is not None
        out.right[members, :shown, :size] = right
        # (C u)_m = u_m C^T, for all modes of a matrix in one product.
        defects = right @ matrices.transpose(0, 2, 1) - values[:, :shown, None] * right
        out.residual[members] = np.linalg.norm(defects, axis=2).max(axis=1) / scale
        if left is not None:
            left = canonical_phase(np.take_along_axis(left, order[:, :shown, None], axis=1))
            assert out.left is not None
            assert out.overlap is not None
            out.left[members, :shown, :size] = left
            out.overlap[members, :shown] = np.abs(np.einsum("bmk,bmk->bm", left.conj(), right))


def _unit_scaled(
    matrices: npt.NDArray[Any], precision: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Scale each matrix by a power of two so that its largest entry is in [0.5, 1), then cast to `precision`.

    Exact for all but extreme entries. It keeps squares and casts in range, and it works around LAPACK builds
    (that of SciPy 1.17.1 among them) whose ``geev`` forgets to undo its own scaling of very large or small
    matrices.
    """
    _, exponent = np.frexp(np.abs(matrices).max(axis=(1, 2)))
    scaled = np.ldexp(matrices, -exponent[:, None, None])
    return np.ascontiguousarray(scaled, dtype=precision), exponent[:, None]


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
    from scipy.linalg import (
        lapack,  # a quarter of a second, which workers with the compiled solver are spared
    )

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
