"""What the flow does along its own path: acceleration, curvature, torsion, curl."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization

__all__ = ["ALONG_PATH", "curvature_vectors", "torsions", "write_calculus"]

Arrays = dict[str, npt.NDArray[Any]]

ALONG_PATH = frozenset(
    {"velocity", "acceleration", "acceleration_norm", "curvature", "curvature_norm", "torsion"}
)
"""What `write_calculus` writes from the velocity, and from it and the acceleration."""


def curvature_vectors(velocity: Array, acceleration: Array) -> Array:
    """Return (a (v.v) - v (v.a)) / |v|^4, ``(cell, axis)``; NaN where the velocity is zero.

    Examples
    --------
    A circle of radius 2 is run through at speed 1.

    >>> curvature_vectors(np.array([[0.0, 1.0]]), np.array([[-0.5, 0.0]]))
    array([[-0.5,  0. ]])
    """
    squares = np.einsum("ci,ci->c", velocity, velocity)[:, None]
    along = np.einsum("ci,ci->c", velocity, acceleration)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Divided twice, not by a product that may underflow.
        found: Array = (acceleration - velocity * (along / squares)) / squares
    return np.where(squares > 0, found, np.nan)


def torsions(velocity: Array, acceleration: Array, jerk: Array) -> Array:
    """Return det(v, a, j) / |v x a|^2 of flows in three dimensions, ``(cell,)``; NaN where the path is straight."""
    normal = np.cross(velocity, acceleration)
    squares = np.einsum("ci,ci->c", normal, normal)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.einsum("ci,ci->c", normal, jerk) / squares
    return np.where(squares > 0, found, np.nan)


def write_calculus(linear: Linearization, rows: Index, out: Arrays) -> None:
    """Write what is asked for of the path of each cell, and the curl."""
    if "curl" in out:
        out["curl"][rows] = linear.curl()
    wanted = ALONG_PATH & out.keys()
    if not wanted:
        return
    velocity = linear.velocity()
    found: dict[str, Array] = {"velocity": velocity}
    if wanted != {"velocity"}:
        acceleration = linear.acceleration()
        found["acceleration"] = acceleration
        found["acceleration_norm"] = np.linalg.norm(acceleration, axis=1)
        if wanted & {"curvature", "curvature_norm"}:
            found["curvature"] = curvature_vectors(velocity, acceleration)
            found["curvature_norm"] = np.linalg.norm(found["curvature"], axis=1)
        if "torsion" in wanted:
            found["torsion"] = torsions(velocity, acceleration, linear.jerk())
    for name in wanted:
        out[name][rows] = found[name]
