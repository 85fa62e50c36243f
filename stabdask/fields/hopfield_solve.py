"""Linear systems in Jacobians of a Hopfield field, solved through their cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array
from stabdask.fields.hopfield_model import ClusterModel
from stabdask.kernels.scaled import gather_cores
from stabdask.kernels.solve import solve_damped, solve_or_nan

__all__ = ["solve_jacobian"]


def solve_jacobian(
    model: ClusterModel,
    slope: Array,
    b: Array,
    shift: Array | None,
    damping: Array | None,
    weights: Array | None,
) -> Array:
    """Solve ``(W diag(phi') - diag(gamma) - shift) x = b`` for each row of `slope`, phi' of the cluster's regulators.

    The core gives ``x_R = (C - shift)^-1 b_R``; what is left is
    ``x_i = (sum_j W_ij phi'_j x_j - b_i) / (gamma_i + shift)``. See `Linearization.solve_jacobian`.
    """
    rates = np.broadcast_to(model.gamma, b.shape) if shift is None else model.gamma + shift[:, None]
    cores, members, real = gather_cores(model.system, slope)
    diagonal = np.arange(cores.shape[1])
    if shift is not None:
        cores[:, diagonal, diagonal] -= np.where(real, shift[:, None], 0.0)
    # Ones in the padding solve to the zeros that b has there.
    cores[:, diagonal, diagonal] += ~real

    def of_core(values: Array, padding: float) -> Array:
        return np.where(real, np.take_along_axis(values[:, model.regulators], members, axis=1), padding)

    inner = of_core(b, 0.0)
    if damping is None:
        solved = solve_or_nan(cores, inner[:, :, None])[:, :, 0]
    else:
        solved = solve_damped(cores, inner, damping, None if weights is None else of_core(weights, 1.0))
    on_regulators = np.zeros_like(slope)
    rows, columns = np.nonzero(real)
    on_regulators[rows, members[rows, columns]] = solved[rows, columns]
    push: npt.NDArray[Any] = np.asarray((model.drive @ (slope * on_regulators).T).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (push - b) / rates
    if damping is not None:
        x[rates == 0] = 0.0
    x[:, model.regulators] = np.where(slope != 0, on_regulators, x[:, model.regulators])
    x[~np.isfinite(x).all(axis=1)] = np.nan
    return x
