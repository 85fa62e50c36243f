"""Numbers of a cell that are read off its spectrum: counts, abscissa, determinant, departure from normality."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Index, Linearization
from stabdask.kernels.spectrum import spectrum_sums
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

_OF_ALL = {"unstable_count", "stable_count", "henrici", "logabsdet", "det_sign"}
_SOLVED = np.isin(np.arange(256), (Status.OK, Status.INACCURATE, Status.DEFECTIVE))
"""By status: whether a cell with it has a spectrum."""

Arrays = dict[str, npt.NDArray[Any]]


def write_core_scalars(
    rows: Index, sizes: Index, values: npt.NDArray[Any], tolerance: float, out: Arrays
) -> None:
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
    if not _OF_ALL & out.keys():
        return
    sums = spectrum_sums(values, tolerance)
    complete = sums.found == sizes
    counts = {"unstable_count": sums.above, "stable_count": sums.below}
    signs = np.where(sums.vanishing > 0, 0.0, 1.0 - 2.0 * (sums.negative % 2))
    numbers = {"henrici": sums.squares, "logabsdet": sums.logs, "det_sign": signs}
    for name, found in {**counts, **numbers}.items():
        if name in out:
            out[name][rows] = found if name in counts else np.where(complete, found, np.nan)


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


def leading(values: npt.NDArray[Any]) -> npt.NDArray[np.complex128]:
    """Return the leading eigenvalues of each core, ``(cell, 3)``; -inf where there are fewer."""
    top = np.full((len(values), TOP), complex(-np.inf, 0.0))
    width = min(TOP, values.shape[1])
    found = values[:, :width].astype(np.complex128)
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
    first, second, third = core.T
    outside, next_outside = rest.T
    from_core = first.real >= outside
    abscissa = np.where(from_core, first.real, outside)
    frequency = np.where(from_core, np.abs(first.imag), 0.0)
    # The conjugate of an oscillating leading mode belongs to it; the next distinct mode comes after.
    paired = (first.imag != 0) & (second == first.conj())
    after = np.maximum(np.where(paired, third.real, second.real), outside)
    following = np.where(from_core, after, np.maximum(first.real, next_outside))
    solved = _SOLVED[out["status"][rows]]
    exists = solved & np.isfinite(abscissa)
    scalars = {
        "spectral_abscissa": np.where(exists, abscissa, np.nan),
        "leading_frequency": np.where(exists, frequency, np.nan),
        "spectral_gap": np.where(exists & np.isfinite(following), abscissa - following, np.nan),
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
