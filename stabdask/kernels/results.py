"""What every eigensolver backend returns: one contract for order, phase, status and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.schema import Status

__all__ = [
    "EigResult",
    "Results",
    "Vectors",
    "canonical_order",
    "canonical_phase",
    "inaccuracy_limit",
]

Vectors = Literal["none", "right", "both"]


@dataclass(frozen=True)
class EigResult:
    """Eigenvalues and vectors of a batch of matrices.

    Of matrices that were on a GPU they are arrays of CuPy.

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
        The backend that did the work; ``"lanes:300"`` where matrices of order above 300 went to LAPACK.
    """

    eigenvalues: npt.NDArray[Any]
    right: npt.NDArray[Any] | None
    left: npt.NDArray[Any] | None
    condition: npt.NDArray[np.float64] | None
    residual: npt.NDArray[np.float64]
    trace_defect: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]
    backend: str


class Results:
    """The arrays of a result while a backend fills them in.

    Attributes
    ----------
    eigenvalues, right, left, residual, trace_defect
        As in `EigResult`.
    overlap
        ``(batch, modes)``: ``|y^H x|``, or None.
    outcome
        ``(batch,)``: OK, NOT_CONVERGED or NON_FINITE_INPUT of `stabdask.schema.Status`.
    """

    def __init__(self, batch: int, k: int, modes: int, vectors: Vectors, precision: np.dtype[Any]) -> None:
        complex_dtype = np.result_type(precision, np.complex64)
        self.precision = precision
        self.modes = modes
        self.eigenvalues = np.full((batch, k), complex(np.nan, np.nan), dtype=complex_dtype)
        with_right, with_left = vectors != "none", vectors == "both"
        shape = (batch, modes, k)
        self.right = np.zeros(shape, dtype=complex_dtype) if with_right else None
        self.left = np.zeros(shape, dtype=complex_dtype) if with_left else None
        self.overlap = np.full((batch, modes), np.nan) if with_left else None
        self.residual = np.full(batch, np.nan)
        self.trace_defect = np.full(batch, np.nan)
        self.outcome = np.zeros(batch, dtype=np.uint8)

    @property
    def vectors(self) -> Vectors:
        """Which vectors are wanted."""
        return "both" if self.left is not None else "none" if self.right is None else "right"

    def put(self, members: npt.NDArray[np.intp], part: Results) -> None:
        """Write the results of `members`, computed on their own with the same options."""
        width = part.eigenvalues.shape[1]
        self.eigenvalues[members, :width] = part.eigenvalues
        for whole, own in ((self.right, part.right), (self.left, part.left)):
            if whole is not None and own is not None:
                whole[members, : own.shape[1], :width] = own
        if self.overlap is not None and part.overlap is not None:
            self.overlap[members, : part.overlap.shape[1]] = part.overlap
        for name in ("residual", "trace_defect", "outcome"):
            getattr(self, name)[members] = getattr(part, name)

    def finish(self, sizes: npt.NDArray[np.integer[Any]], backend: str) -> EigResult:
        """Judge every matrix and return the result; what failed becomes NaN."""
        limit = inaccuracy_limit(sizes, self.precision)
        with np.errstate(invalid="ignore"):
            inaccurate = (self.trace_defect > limit) | (self.residual > limit)
            inaccurate |= np.isinf(self.eigenvalues.view(self.precision)).any(axis=1)
            defective: npt.NDArray[np.bool_] = np.zeros(len(sizes), dtype=bool)
            condition = None
            if self.overlap is not None:
                defective = np.asarray((self.overlap < 1e-2 * limit[:, None]).any(axis=1))
                with np.errstate(divide="ignore", over="ignore"):
                    condition = 1.0 / self.overlap
        failed = self.outcome != Status.OK
        status = np.select(
            [failed, defective, inaccurate], [self.outcome, Status.DEFECTIVE, Status.INACCURATE], 0
        )
        self.eigenvalues[failed] = complex(np.nan, np.nan)
        self.trace_defect[failed] = np.nan
        self.residual[failed] = np.nan
        for array in (self.right, self.left, condition):
            if array is not None:
                array[failed] = np.nan
        return EigResult(
            eigenvalues=self.eigenvalues,
            right=self.right,
            left=self.left,
            condition=condition,
            residual=self.residual,
            trace_defect=self.trace_defect,
            status=status.astype(np.uint8),
            backend=backend,
        )


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


def inaccuracy_limit(k: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.float64]:
    """Return the relative residual or trace defect above which a result of order `k` is called inaccurate."""
    return 1e3 * np.maximum(k, 1) * float(np.finfo(np.dtype(dtype)).eps)
