"""Vector fields that are given as Python functions, by their methods in dynamo."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabdask.errors import InputError, UsageError
from stabdask.fields.base import Array
from stabdask.fields.given import GivenFunction, differences

__all__ = ["function_of"]


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
