"""Samples of cells: at random, by speed, or spread over the data."""

from __future__ import annotations

import numpy as np

from stabdask.compat.dynamo.fits import Fit, Rows, compute_cells, empty_results
from stabdask.errors import UsageError
from stabdask.fields.base import Index
from stabdask.fields.rkhs_linear import RKHSLinearization

__all__ = ["sampled_cells"]

_METHODS = ("random", "velocity", "trn", "kmeans")
_SEED = 19491001
"""dynamo's: with it a sample at random has the cells that dynamo takes."""


def sampled_cells(fit: Fit, n: int, method: str) -> Index:
    """Return the positions of `n` cells, ascending, each once; the same in every call.

    Parameters
    ----------
    fit
        The cells, and the field whose speeds `"velocity"` is about.
    n
        How many.
    method
        ``"random"``, ``"velocity"`` (in proportion to the speed), ``"trn"`` or ``"kmeans"``: see `stabdask.sample`.

    Raises
    ------
    UsageError
        If there are not as many cells, or there is no such method.
    """
    if method not in _METHODS:
        raise UsageError(f"sampling={method!r}; expected one of {', '.join(map(repr, _METHODS))}, or None")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise UsageError(f"sample_ncells={n!r}; expected a number of cells, at least 1")
    if n > len(fit):
        raise UsageError(
            f"sample_ncells={n:,}, and there are {len(fit):,} cells; give at most as many, or leave sampling out to "
            "take them all"
        )
    return _by_speed(fit, int(n)) if method == "velocity" else _by_place(fit, int(n), method)


def _by_place(fit: Fit, n: int, method: str) -> Index:
    import xarray as xr

    from stabdask.atlas.sampling import POSITION, sample

    cells = xr.Dataset({"coordinates": (("cell", "axis"), fit.points)})
    chosen = sample(cells, n, method=method, seed=_SEED)  # type: ignore[arg-type]
    return np.asarray(chosen[POSITION].to_numpy(), dtype=np.intp)


def _by_speed(fit: Fit, n: int) -> Index:
    from stabdask.atlas.neural_gas import draw_weighted

    cells = np.arange(len(fit))
    speeds = empty_results(fit, cells)

    def work(rows: Rows, linear: RKHSLinearization) -> None:
        speeds[rows] = linear.speed()

    compute_cells(fit, cells, work, cores=1)
    n_moving = int((speeds > 0).sum())
    if n > n_moving:
        raise UsageError(
            f"sample_ncells={n:,}, and {n_moving:,} of {len(fit):,} cells have a speed above zero"
        )
    return draw_weighted(speeds, n, np.random.default_rng(_SEED))
