"""Velocity fields that are given as Python functions, as linearizations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from stabdask.fields.base import Array
from stabdask.fields.rkhs_linear import RKHSLinearization

if TYPE_CHECKING:
    from stabdask.kernels.gaussian import GaussianSum

__all__ = ["GivenFunction", "GivenLinearization", "differences"]


@dataclass(frozen=True)
class GivenFunction:
    """A function and its Jacobian.

    Attributes
    ----------
    velocity
        ``(cell, axis)`` to ``(cell, axis)``.
    jacobian
        ``(cell, axis)`` to ``(cell, axis, axis)``.
    scale
        ``(cell, axis)`` to ``(cell, axis)``: how large the terms of the velocity are, or None if nobody knows.
    """

    velocity: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]
    scale: Callable[[Array], Array] | None = None

    def values(self, x: Array) -> Array:
        """Return v(x)."""
        return self.velocity(x)

    def curvatures(self, x: Array, direction: Array) -> Array:
        """Return d^2 v(x + s u) / ds^2 at s = 0, by central differences of the Jacobian."""
        length = np.sqrt((direction**2).sum(axis=1, keepdims=True))
        unit = np.divide(direction, length, out=np.zeros_like(direction), where=length > 0)
        step = _step(x).max(axis=1, keepdims=True)
        change = self.jacobian(x + step * unit) - self.jacobian(x - step * unit)
        bend: Array = (change @ unit[:, :, None])[:, :, 0] * (length**2 / (2.0 * step))
        return bend


class GivenLinearization(RKHSLinearization):
    """Jacobians of a given function over axes, lifted as those of a sum of kernels are."""

    def __init__(self, function: GivenFunction, x: Array, loadings: Array | None) -> None:
        """Linearize `function` at `x` ``(cell, axis)``; `loadings` are ``(gene, axis)``."""
        # With Jacobians from here, values and second derivatives along a direction are all that is asked of it there.
        super().__init__(cast("GaussianSum", function), x, loadings)
        self._given = function

    @cached_property
    def jacobians(self) -> Array:
        """Jacobians over the axes, ``(cell, axis, axis)``."""
        return self._given.jacobian(self._x)

    @property
    def rounding(self) -> float:
        """That of float64, in which the function computes."""
        return float(np.finfo(np.float64).eps)

    def velocity_scale(self) -> Array:
        """Return how large the terms of the velocity are; see `Linearization.velocity_scale`."""
        if self._given.scale is None:
            raise NotImplementedError(
                "a function that is given does not say how large the terms of its velocity are"
            )
        return self._given.scale(self._x)


def differences(velocity: Callable[[Array], Array], x: Array) -> Array:
    """Return Jacobians ``(cell, axis, axis)`` by central differences.

    Examples
    --------
    >>> differences(lambda x: x * x, np.array([[1.0, 3.0]])).round(6)
    array([[[2., 0.],
            [0., 6.]]])
    """
    n, d = x.shape
    out = np.empty((n, d, d))
    for axis in range(d):
        shift = np.zeros_like(x)
        shift[:, axis] = _step(x)[:, axis]
        # The step that was really taken, after rounding.
        taken = (x + shift)[:, axis] - (x - shift)[:, axis]
        out[:, :, axis] = (velocity(x + shift) - velocity(x - shift)) / taken[:, None]
    return out


def _step(x: Array) -> Array:
    """Return the step with about as much error of truncation as of rounding, where the function bends over some |x|."""
    step: Array = np.finfo(np.float64).eps ** (1 / 3) * np.maximum(1.0, np.abs(x))
    return step
