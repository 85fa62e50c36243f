"""Sums and counts over the eigenvalues of many matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels import lanes

__all__ = ["SpectrumSums", "spectrum_sums"]


@dataclass(frozen=True)
class SpectrumSums:
    """Sums and counts over the eigenvalues of each matrix; every attribute is ``(batch,)``.

    Attributes
    ----------
    squares
        Sum of ``|lambda|^2``.
    logs
        Sum of ``log |lambda|``; -inf where an eigenvalue is 0.
    found
        How many eigenvalues there are.
    above, below
        How many have a real part above the tolerance, and below minus the tolerance.
    negative, vanishing
        How many are real and negative, and how many are 0.
    """

    squares: npt.NDArray[np.float64]
    logs: npt.NDArray[np.float64]
    found: npt.NDArray[np.int64]
    above: npt.NDArray[np.int64]
    below: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    vanishing: npt.NDArray[np.int64]


def spectrum_sums(values: npt.NDArray[Any], tolerance: float) -> SpectrumSums:
    """Return sums and counts over eigenvalues.

    Parameters
    ----------
    values
        ``(batch, k)`` complex; NaN, as past the order of a matrix, is left out.
    tolerance
        Real parts within plus or minus this are neither above nor below.

    Returns
    -------
    SpectrumSums

    Examples
    --------
    >>> import numpy as np
    >>> sums = spectrum_sums(np.array([[1.0, -2.0, np.nan]], dtype=complex), 1e-9)
    >>> float(sums.squares[0]), int(sums.above[0]), int(sums.negative[0])
    (5.0, 1, 1)
    """
    if not lanes.available():
        return _by_numpy(values, tolerance)
    batch = len(values)
    sums = SpectrumSums(*np.empty((2, batch)), *np.empty((5, batch), dtype=np.int64))
    counts = (sums.found, sums.above, sums.below, sums.negative, sums.vanishing)
    lanes.spectrum_sums(values, tolerance, sums.squares, sums.logs, *counts)
    return sums


def _by_numpy(values: npt.NDArray[Any], tolerance: float) -> SpectrumSums:
    real, imag = values.real.astype(np.float64), values.imag.astype(np.float64)
    there = ~np.isnan(real)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        squares = np.where(there, real * real + imag * imag, 0.0)
        sizes = np.where(there, squares, 1.0)
        logs = 0.5 * np.log(sizes)
        extreme = (sizes < np.finfo(float).tiny) | np.isinf(sizes)
        if extreme.any():
            logs[extreme] = np.log(np.hypot(real[extreme], imag[extreme]))
    on_axis = imag == 0
    return SpectrumSums(
        squares.sum(axis=1),
        logs.sum(axis=1),
        there.sum(axis=1),
        (real > tolerance).sum(axis=1),
        (real < -tolerance).sum(axis=1),
        ((real < 0) & on_axis).sum(axis=1),
        ((real == 0) & on_axis).sum(axis=1),
    )
