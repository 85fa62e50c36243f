"""Numbers of a cell that are read off its spectrum: counts, abscissa, determinant, departure from normality."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Index, Linearization
from stabdask.kernels.arrays import XArray, to_host
from stabdask.schema import Status

__all__ = [
    "TOP",
    "complete_determinants",
    "leading",
    "write_core_determinants",
    "write_core_scalars",
    "write_spectral_scalars",
]

TOP = 3
"""Leading eigenvalues that scalars need: a conjugate pair and what follows it."""

Arrays = dict[str, npt.NDArray[Any]]


def write_core_scalars(rows: Index, sizes: Index, values: XArray, tolerance: float, out: Arrays) -> None:
    """Write what takes all eigenvalues of cores, for the cores alone; `write_spectral_scalars` adds the rest.

    Parameters
    ----------
    rows
        Where in `out` the cells are.
    sizes
        ``(cell,)`` orders of the cores.
    values
        ``(cell, k)`` eigenvalues, NaN past the size of a core.
    tolerance
        Real parts within plus or minus this count neither as stable nor as unstable.
    out
        Henrici's departure gets the sum of squares for the time being.
    """
    if "unstable_count" in out:
        out["unstable_count"][rows] = to_host((values.real > tolerance).sum(axis=1))
    if "stable_count" in out:
        out["stable_count"][rows] = to_host((values.real < -tolerance).sum(axis=1))
    if not {"henrici", "logabsdet", "det_sign"} & out.keys():
        return
    found = to_host(values)
    real, imag = found.real.astype(np.float64), found.imag.astype(np.float64)
    there = ~np.isnan(real)
    complete = there.sum(axis=1) == sizes
    with np.errstate(over="ignore"):
        squares = real * real
        squares += imag * imag
    if "henrici" in out:
        sums = np.where(there, squares, 0.0).sum(axis=1)
        out["henrici"][rows] = np.where(complete, sums, np.nan)
    if "logabsdet" in out:
        squares[~there] = 1.0
        extreme = (squares == 0) | np.isinf(squares)
        with np.errstate(divide="ignore"):
            logs = 0.5 * np.log(squares)
            if extreme.any():
                logs[extreme] = np.log(np.hypot(real[extreme], imag[extreme]))
        out["logabsdet"][rows] = np.where(complete, logs.sum(axis=1), np.nan)
    if "det_sign" in out:
        # Complex eigenvalues come in pairs, whose product is positive.
        negative = ((real < 0) & (imag == 0)).sum(axis=1)
        vanishes = ((real == 0) & (imag == 0)).any(axis=1)
        signs = np.where(vanishes, 0.0, 1.0 - 2.0 * (negative % 2))
        out["det_sign"][rows] = np.where(complete, signs, np.nan)


def write_core_determinants(linear: Linearization, rows: Index, out: Arrays) -> None:
    """Write log|det C| and the sign of det C by a factorization of the cores, where not all eigenvalues are known."""
    if "logabsdet" in out or "det_sign" in out:
        logs, signs = linear.core_determinant()
        for name, values in (("logabsdet", logs), ("det_sign", signs)):
            if name in out:
                out[name][rows] = values


def complete_determinants(linear: Linearization, rows: Index, out: Arrays) -> None:
    """Turn log|det C| and the sign of det C in `out` into those of the Jacobians."""
    logs, signs = linear.rest_determinant()
    if "logabsdet" in out:
        out["logabsdet"][rows] += logs
    if "det_sign" in out:
        out["det_sign"][rows] *= signs


def leading(values: XArray) -> npt.NDArray[np.complex128]:
    """Return the leading eigenvalues of each core, ``(cell, 3)``; -inf where there are fewer."""
    top = np.full((len(values), TOP), complex(-np.inf, 0.0))
    width = min(TOP, values.shape[1])
    found = to_host(values[:, :width]).astype(np.complex128)
    top[:, :width] = np.where(np.isnan(found.real), complex(-np.inf, 0.0), found)
    return top


def write_spectral_scalars(
    linear: Linearization,
    rows: Index,
    core: npt.NDArray[np.complex128],
    rest: npt.NDArray[np.float64],
    tolerance: float,
    out: Arrays,
) -> None:
    """Write the scalars of the complete spectrum, from what is known of the cores and from the rest.

    `core` has the leading eigenvalues of each core, as `leading` returns them, and `rest` those outside it.
    """
    merged = np.concatenate([core, rest.astype(np.complex128)], axis=1)
    order = np.lexsort((-merged.imag, -merged.real), axis=1)
    merged = np.take_along_axis(merged, order, axis=1)
    first = merged[:, 0]
    # The conjugate of an oscillating leading mode belongs to it; the next distinct mode comes after.
    paired = (first.imag != 0) & (merged[:, 1] == first.conj())
    following = np.where(paired, merged[:, 2].real, merged[:, 1].real)
    solved = np.isin(out["status"][rows], (Status.OK, Status.INACCURATE, Status.DEFECTIVE))
    exists = solved & np.isfinite(first.real)
    scalars = {
        "spectral_abscissa": np.where(exists, first.real, np.nan),
        "leading_frequency": np.where(exists, np.abs(first.imag), np.nan),
        "spectral_gap": np.where(exists & np.isfinite(following), first.real - following, np.nan),
    }
    for name, values in scalars.items():
        if name in out:
            out[name][rows] = values
    for name, others in zip(("unstable_count", "stable_count"), linear.rest_counts(tolerance), strict=True):
        if name in out:
            own = out[name][rows]
            out[name][rows] = np.where(solved & (own >= 0), own + others, -1)
    if "henrici" in out:
        departure = linear.squares_beyond_rest() - out["henrici"][rows]
        out["henrici"][rows] = np.sqrt(np.maximum(departure, 0.0))
