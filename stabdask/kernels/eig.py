"""One function over all eigensolver backends, with one contract for order, phase, status and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import BackendUnavailableError, UsageError
from stabdask.kernels import lapack
from stabdask.kernels.threads import single_threaded_blas
from stabdask.schema import Status

__all__ = [
    "BACKENDS",
    "EigResult",
    "Vectors",
    "canonical_order",
    "canonical_phase",
    "eig",
    "inaccuracy_limit",
    "resolve_backend",
]

Vectors = Literal["none", "right", "both"]

BACKENDS: tuple[str, ...] = ("lapack",)
"""Backends this installation has."""


@dataclass(frozen=True)
class EigResult:
    """Eigenvalues and vectors of a batch of matrices.

    Attributes
    ----------
    eigenvalues
        ``(batch, k)`` complex, canonical order, NaN past a matrix's size and where nothing was computed.
    right, left
        ``(batch, modes, k)`` complex, or None: unit 2-norm, largest component real and positive, zero past a
        matrix's size. ``left`` holds y with ``y^H C = lambda y^H``.
    condition
        ``(batch, modes)``: 1 / abs(y^H x) for unit vectors, or None without left vectors.
    residual
        ``(batch,)``: largest ``|C u - lambda u| / |C|`` over the modes returned, NaN without any.
    trace_defect
        ``(batch,)``: ``|sum of eigenvalues - trace C| / |C|``.
    status
        ``(batch,)`` of `stabdask.schema.Status` codes.
    backend
        The backend that did the work.
    """

    eigenvalues: npt.NDArray[Any]
    right: npt.NDArray[Any] | None
    left: npt.NDArray[Any] | None
    condition: npt.NDArray[np.float64] | None
    residual: npt.NDArray[np.float64]
    trace_defect: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]
    backend: str


def resolve_backend(backend: str) -> str:
    """Return the backend that `backend` means on this machine.

    Raises
    ------
    BackendUnavailableError
        If it is not installed here.
    """
    if backend == "auto":
        return "lapack"
    if backend not in BACKENDS:
        raise BackendUnavailableError(
            f"backend {backend!r} is not available here; expected 'auto' or one of {', '.join(BACKENDS)}"
        )
    return backend


def canonical_order(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the indices that put eigenvalues in canonical order along the last axis.

    Canonical order is real part descending, then imaginary part descending; NaN comes last.

    Examples
    --------
    >>> import numpy as np
    >>> canonical_order(np.array([-1.0, 2 - 1j, 2 + 1j]))
    array([2, 1, 0])
    """
    return np.lexsort((-values.imag, -values.real), axis=-1)


def canonical_phase(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scale vectors along the last axis to unit 2-norm with the largest component real and positive.

    Among components equally large (to a relative 1e-6) the first is taken, so that rounding does not decide.
    Zero vectors stay zero.
    """
    size = np.abs(vectors)
    largest = size.max(axis=-1, keepdims=True)
    pivot = np.argmax(size >= largest * (1 - 1e-6), axis=-1)
    component = np.take_along_axis(vectors, pivot[..., None], axis=-1)
    # Dividing by the largest component first keeps the sum of squares in range.
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(largest > 0, vectors / component, vectors)
        norm = np.sqrt(np.sum(np.abs(scaled) ** 2, axis=-1, keepdims=True))
        unit = np.where(norm > 0, scaled / norm, scaled)
    np.put_along_axis(unit, pivot[..., None], np.take_along_axis(unit, pivot[..., None], -1).real, -1)
    return unit.astype(vectors.dtype, copy=False)


def inaccuracy_limit(k: int, dtype: npt.DTypeLike) -> float:
    """Return the relative residual or trace defect above which a result of size `k` is called inaccurate."""
    return 1e3 * max(k, 1) * float(np.finfo(np.dtype(dtype)).eps)


def eig(
    cores: npt.NDArray[Any],
    *,
    sizes: npt.NDArray[np.integer[Any]] | None = None,
    modes: int | None = None,
    vectors: Vectors = "none",
    dtype: npt.DTypeLike | None = None,
    backend: str = "auto",
) -> EigResult:
    """Solve a batch of real non-symmetric eigenproblems.

    Parameters
    ----------
    cores
        ``(batch, k, k)`` real matrices.
    sizes
        ``(batch,)``: the matrix of entry ``b`` is ``cores[b, :sizes[b], :sizes[b]]``; the rest of it is not
        looked at. All are ``k`` if not given.
    modes
        Number of leading modes whose vectors are returned (all if not given); eigenvalues are always all
        returned.
    vectors
        ``"none"``, ``"right"`` or ``"both"``.
    dtype
        ``float32`` or ``float64`` arithmetic; that of `cores` if not given.
    backend
        ``"auto"`` or one of `BACKENDS`.

    Returns
    -------
    EigResult
        A matrix holding NaN or infinity, or one the solver gives up on, has a status and NaN results; its
        neighbours in the batch are not affected.

    Raises
    ------
    UsageError
        If shapes or options make no sense.
    BackendUnavailableError
        If the backend is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> result = eig(np.array([[[0.0, 1.0], [-1.0, 0.0]]]))
    >>> result.eigenvalues
    array([[0.+1.j, 0.-1.j]])
    >>> int(result.status[0])
    0
    """
    name = resolve_backend(backend)
    cores = np.asarray(cores)
    if cores.dtype.kind not in "fiub":
        raise UsageError(f"cores have dtype {cores.dtype}; expected real numbers")
    if cores.ndim != 3 or cores.shape[1] != cores.shape[2]:
        raise UsageError(f"cores have shape {cores.shape}; expected (batch, k, k)")
    if vectors not in ("none", "right", "both"):
        raise UsageError(f"vectors={vectors!r}; expected 'none', 'right' or 'both'")
    precision = _precision(cores.dtype if dtype is None else dtype)
    if cores.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        cores = cores.astype(np.float64)
    batch, k, _ = cores.shape
    counts = np.full(batch, k) if sizes is None else np.asarray(sizes)
    integers = counts.dtype.kind in "iu" or not batch
    if not integers or counts.shape != (batch,) or (batch and (counts.min() < 0 or counts.max() > k)):
        raise UsageError(f"sizes must be {batch} integers from 0 to {k}")
    if modes is not None and (not isinstance(modes, int | np.integer) or modes < 0):
        raise UsageError(f"modes={modes!r}; expected an integer >= 0, or None for all")
    wanted = k if modes is None else min(int(modes), k)
    out = _Output(batch, k, wanted, vectors, precision)
    with single_threaded_blas():
        for size in np.unique(counts):
            members = np.flatnonzero(counts == size)
            _solve_group(cores[members, :size, :size], members, out)
    return EigResult(
        eigenvalues=out.eigenvalues,
        right=out.right,
        left=out.left,
        condition=out.condition,
        residual=out.residual,
        trace_defect=out.trace_defect,
        status=out.status,
        backend=name,
    )


def _precision(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        precision = np.dtype(dtype)
    except TypeError:
        raise UsageError(f"dtype {dtype!r}; expected float32 or float64") from None
    if precision not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise UsageError(f"dtype {precision}; expected float32 or float64")
    return precision


class _Output:
    """The arrays of a result while groups of equal size are being filled in."""

    def __init__(self, batch: int, k: int, modes: int, vectors: Vectors, precision: np.dtype[Any]) -> None:
        complex_dtype = np.result_type(precision, np.complex64)
        self.modes = modes
        self.vectors = vectors
        self.precision = precision
        self.eigenvalues = np.full((batch, k), complex(np.nan, np.nan), dtype=complex_dtype)
        with_right, with_left = vectors != "none", vectors == "both"
        shape = (batch, modes, k)
        self.right = np.zeros(shape, dtype=complex_dtype) if with_right else None
        self.left = np.zeros(shape, dtype=complex_dtype) if with_left else None
        self.condition = np.full((batch, modes), np.nan) if with_left else None
        self.residual = np.full(batch, np.nan)
        self.trace_defect = np.full(batch, np.nan)
        self.status = np.zeros(batch, dtype=np.uint8)

    def fail(self, members: npt.NDArray[np.intp]) -> None:
        """Put NaN where eigenvalues, vectors and condition numbers of `members` would be."""
        self.eigenvalues[members] = complex(np.nan, np.nan)
        for array in (self.right, self.left, self.condition):
            if array is not None:
                array[members] = np.nan


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


def _solve_group(matrices: npt.NDArray[Any], members: npt.NDArray[np.intp], out: _Output) -> None:
    """Solve matrices of one size and write their results at `members`."""
    size = matrices.shape[1]
    finite = np.isfinite(matrices).all(axis=(1, 2))
    if not finite.all():
        out.status[members[~finite]] = Status.NON_FINITE_INPUT
        out.fail(members[~finite])
        matrices, members = matrices[finite], members[finite]
    if size == 0 or not len(members):
        out.trace_defect[members] = 0.0
        return
    matrices, exponent = _unit_scaled(matrices, out.precision)
    right: npt.NDArray[Any] | None = None
    left: npt.NDArray[Any] | None = None
    if out.vectors == "none":
        values, converged = lapack.eigenvalues(matrices)
    else:
        values, right, left, converged = lapack.eigensystem(matrices, left=out.vectors == "both")
    order = canonical_order(values)
    values = np.take_along_axis(values, order, axis=1)
    with np.errstate(over="ignore"):
        real, imag = np.ldexp(values.real, exponent), np.ldexp(values.imag, exponent)
    out.eigenvalues.real[members, :size], out.eigenvalues.imag[members, :size] = real, imag
    scale = np.sqrt(np.einsum("bij,bij->b", matrices, matrices, dtype=np.float64))
    scale = np.where(scale > 0, scale, 1.0)
    trace = np.trace(matrices, axis1=1, axis2=2, dtype=np.float64)
    out.trace_defect[members] = np.abs(values.sum(axis=1, dtype=np.complex128) - trace) / scale
    limit = inaccuracy_limit(size, matrices.dtype)
    inaccurate = (out.trace_defect[members] > limit) | (np.isinf(real) | np.isinf(imag)).any(axis=1)
    defective = np.zeros(len(members), dtype=bool)
    shown = min(out.modes, size)
    if right is not None and shown:
        right = canonical_phase(np.take_along_axis(right, order[:, :shown, None], axis=1))
        assert out.right is not None
        out.right[members, :shown, :size] = right
        # (C u)_m = u_m C^T, for all modes of a matrix in one product.
        defects = right @ matrices.transpose(0, 2, 1) - values[:, :shown, None] * right
        out.residual[members] = np.linalg.norm(defects, axis=2).max(axis=1) / scale
        inaccurate |= out.residual[members] > limit
        if left is not None:
            left = canonical_phase(np.take_along_axis(left, order[:, :shown, None], axis=1))
            assert out.left is not None
            assert out.condition is not None
            out.left[members, :shown, :size] = left
            overlap = np.abs(np.einsum("bmk,bmk->bm", left.conj(), right))
            with np.errstate(divide="ignore"):
                out.condition[members, :shown] = 1.0 / overlap
            defective = (overlap < 1e-2 * limit).any(axis=1)
    status = np.select(
        [~converged, defective, inaccurate],
        [Status.NOT_CONVERGED, Status.DEFECTIVE, Status.INACCURATE],
        Status.OK,
    )
    out.status[members] = status
    out.fail(members[~converged])
