"""Vector fields that are given as Python functions, as linearizations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stabdask.errors import InputError, UsageError
from stabdask.fields.base import Array
from stabdask.fields.rkhs_linear import RKHSLinearization

if TYPE_CHECKING:
    from stabdask.kernels.gaussian import GaussianSum

__all__ = ["GivenFunction", "GivenLinearization", "differences", "function_of"]


@dataclass(frozen=True)
class GivenFunction:
    """A function and its Jacobian.

    Attributes
    ----------
    velocity
        ``(cell, axis)`` to ``(cell, axis)``.
    jacobian
        ``(cell, axis)`` to ``(cell, axis, axis)``.
    """

    velocity: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]

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


def function_of(given: Any, method: str) -> GivenFunction:
    """Return what an object with ``func`` and ``get_Jacobian`` computes.

    Parameters
    ----------
    given
        ``func(x)`` takes ``(cell, axis)`` and returns the same; ``get_Jacobian(method=)`` returns a function of the
        same that returns ``(axis, axis, cell)``. Without the second, the first is differentiated numerically.
    method
        ``"analytical"`` or ``"numerical"``.

    Raises
    ------
    UsageError
        If it has neither.
    """
    func, derivative = getattr(given, "func", None), getattr(given, "get_Jacobian", None)
    if not callable(func) and not callable(derivative):
        raise UsageError(
            f"vector_field_class is a {type(given).__name__}; expected an object with func and get_Jacobian, or one "
            "whose vf_dict has 'X_ctrl', 'C' and 'beta'"
        )

    def velocity(x: Array) -> Array:
        if not callable(func):
            raise UsageError(
                f"vector_field_class ({type(given).__name__}) has no func; velocities are needed here"
            )
        v = np.asarray(func(x), dtype=np.float64)
        v = v.reshape(x.shape) if v.size == x.size and len(x) == 1 else v
        if v.shape != x.shape:
            raise InputError(
                f"func of vector_field_class returns shape {v.shape} for {x.shape}; expected the same"
            )
        return v

    if method == "numerical" or not callable(derivative):
        return GivenFunction(velocity, lambda x: differences(velocity, x))
    jacobian_of = derivative(method="analytical")

    def jacobian(x: Array) -> Array:
        J = np.asarray(jacobian_of(x), dtype=np.float64)
        n, d = x.shape
        if J.shape == (d, d) and n == 1:
            J = J[:, :, None]
        if J.shape != (d, d, n):
            raise InputError(
                f"get_Jacobian of vector_field_class gives shape {J.shape} for {n} cells and {d} axes; expected "
                f"{(d, d, n)}, (effector, regulator, cell)"
            )
        return np.ascontiguousarray(J.transpose(2, 0, 1))

    return GivenFunction(velocity, jacobian)


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
