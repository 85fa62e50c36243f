"""Results as arrays on a GPU, and their statuses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.results import EigResult, Vectors, inaccuracy_limit
from stabdask.schema import Status

__all__ = ["DeviceResults", "judge"]

Array = Any
"""An array of NumPy or CuPy."""


@dataclass(frozen=True)
class DeviceResults:
    """The arrays of a batch while kernels fill them in.

    Attributes
    ----------
    eigenvalues, right, left, overlap, residual, trace_defect, outcome
        As in `stabdask.kernels.results.Results`; ``outcome`` is NOT_COMPUTED at first.
    again
        ``(batch,)``: not zero where vectors have to come from the Schur form.
    """

    eigenvalues: Array
    right: Array | None
    left: Array | None
    overlap: Array | None
    residual: Array
    trace_defect: Array
    outcome: Array
    again: Array

    @classmethod
    def blank(
        cls, xp: Any, batch: int, width: int, modes: int, vectors: Vectors, dtype: npt.DTypeLike
    ) -> DeviceResults:
        """Return arrays of the module `xp` that say that nothing is computed yet."""
        complex_dtype = np.result_type(np.dtype(dtype), np.complex64)
        shape = (batch, modes, width)
        return cls(
            eigenvalues=xp.full((batch, width), complex(np.nan, np.nan), dtype=complex_dtype),
            right=xp.zeros(shape, dtype=complex_dtype) if vectors != "none" else None,
            left=xp.zeros(shape, dtype=complex_dtype) if vectors == "both" else None,
            overlap=xp.full((batch, modes), np.nan) if vectors == "both" else None,
            residual=xp.full(batch, np.nan),
            trace_defect=xp.full(batch, np.nan),
            outcome=xp.full(batch, int(Status.NOT_COMPUTED), dtype=np.uint8),
            again=xp.zeros(batch, dtype=np.uint8),
        )

    def copy_to(self, target: Any, rows: slice) -> None:
        """Write into the arrays of a `stabdask.kernels.results.Results` on the host."""
        for name in (field.name for field in fields(self)):
            own = getattr(self, name)
            if own is not None and name != "again":
                own.get(out=getattr(target, name)[rows])


def judge(xp: Any, results: DeviceResults, sizes: Array, dtype: npt.DTypeLike) -> EigResult:
    """Return results with statuses; what failed becomes NaN. As `stabdask.kernels.results.Results.finish`.

    Parameters
    ----------
    xp
        CuPy, or NumPy in tests.
    results
        Of the kernels; its arrays are used and changed.
    sizes
        ``(batch,)`` orders, an array of `xp`.
    dtype
        Of the arithmetic.
    """
    limit = float(inaccuracy_limit(1, dtype)) * xp.maximum(sizes, 1)
    values, failed = results.eigenvalues, results.outcome != int(Status.OK)
    inaccurate = (results.trace_defect > limit) | (results.residual > limit)
    inaccurate |= (xp.isinf(values.real) | xp.isinf(values.imag)).any(axis=1)
    status = xp.where(inaccurate, int(Status.INACCURATE), int(Status.OK))
    condition = None
    if results.overlap is not None:
        defective = (results.overlap < 1e-2 * limit[:, None]).any(axis=1)
        status = xp.where(defective, int(Status.DEFECTIVE), status)
        with np.errstate(divide="ignore", over="ignore"):
            condition = 1.0 / results.overlap
    status = xp.where(failed, results.outcome, status).astype(np.uint8)
    for array in (values, results.right, results.left, condition, results.residual, results.trace_defect):
        if array is not None:
            nothing = complex(np.nan, np.nan) if array.dtype.kind == "c" else np.nan
            xp.copyto(array, nothing, where=failed.reshape(-1, *[1] * (array.ndim - 1)))
    return EigResult(
        eigenvalues=values,
        right=results.right,
        left=results.left,
        condition=condition,
        residual=results.residual,
        trace_defect=results.trace_defect,
        status=status,
        backend="cuda",
    )
