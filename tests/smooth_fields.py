"""Smooth fields in a space of any dimension whose cores are whole Jacobians: sums of Gaussian kernels, and written out.

They share no code with fields of the package, and offer no more than searching for fixed points needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stabdask.fields.base import Field, Linearization

Array = np.ndarray[Any, Any]
Formula = Callable[[Array], tuple[Array, Array, Array]]


class SmoothField(Field):
    """A field given by a function of states ``(cell, axis)`` to velocities, sums of |terms|, and Jacobians."""

    kind: ClassVar[str] = "smooth"

    def __init__(self, n_axes: int, formula: Formula, *, name: str = "smooth") -> None:
        self.formula, self.name = formula, name
        self.names = np.array([f"PC{i + 1}" for i in range(n_axes)])
        self.genes = self.names
        self.clusters = ("all",)
        self.regulator_index = np.arange(n_axes)

    @property
    def axes(self) -> Array:
        return self.names

    @property
    def largest_core(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(self.name.encode(), digest_size=16).hexdigest()

    @property
    def n_bytes(self) -> int:
        return 0

    def rest_eigenvalues(self, cluster: int) -> Array:
        return np.zeros(len(self.names))

    def regulator_weights(self, cluster: int) -> Array:
        raise NotImplementedError

    def velocity(self, x: Any, cluster: str = "all") -> Array:
        return self.formula(np.asarray(x, float))[0]

    def jacobian(self, x: Any, cluster: str = "all") -> Array:
        return self.formula(np.asarray(x, float))[2]

    def jacobian_elements(self, x: Any, cluster: str, effectors: Array, regulators: Array) -> Array:
        return self.jacobian(x)[:, effectors, regulators]

    def check_expression(self, x: Array, cluster: int, cells: Array) -> None:
        pass

    def linearize(self, x: Array, cluster: int) -> Linearization:
        return SmoothLinearization(*self.formula(np.asarray(x, float)))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        raise NotImplementedError


class SmoothLinearization(Linearization):
    def __init__(self, velocity: Array, scale: Array, jacobian: Array) -> None:
        self._velocity, self._scale, self._jacobian = velocity, scale, jacobian
        self.active = np.ones(velocity.shape, dtype=bool)

    def cores(self, cells: Array) -> Array:
        return self._jacobian[cells].copy()

    def velocity(self) -> Array:
        return self._velocity

    def velocity_scale(self) -> Array:
        return self._scale

    def squares_beyond_rest(self) -> Array:
        return np.square(self._jacobian).sum(axis=(1, 2))

    def near_switch_count(self) -> Array:
        return np.zeros(len(self._velocity), dtype=np.intp)

    def speed(self) -> Array:
        return np.linalg.norm(self._velocity, axis=1)

    def trace(self) -> Array:
        return np.trace(self._jacobian, axis1=1, axis2=2)

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    lift_right = lift_left = rest_leading = rest_counts = rest_determinant = rotational_norm = _unused
    reactivity = elements = participation = edge_factors = edges = acceleration = block = response = _unused


def kernel_field(z: Array, C: Array, beta: float) -> SmoothField:
    """Return ``v(x) = sum_m C_m exp(-beta |x - z_m|^2)``, its Jacobian from the definition, term by term."""

    def formula(x: Array) -> tuple[Array, Array, Array]:
        away = x[:, None, :] - z
        k = np.exp(-beta * np.square(away).sum(axis=2))
        jacobian = -2.0 * beta * (k[:, :, None] * C).transpose(0, 2, 1) @ away
        return k @ C, k @ np.abs(C), jacobian

    return SmoothField(z.shape[1], formula, name="kernels")


def planted_kernels(
    points: Array, jacobians: Array, *, beta: float, radius: float, seed: int = 0
) -> tuple[Array, Array]:
    """Return control points and coefficients such that the field is 0 at `points` and has these Jacobians there.

    Each point has d + 1 control points around it, at the corners of a simplex of random orientation; the coefficients
    solve all conditions at once.
    """
    n_points, d = points.shape
    rng = np.random.default_rng(seed)
    # d + 1 corners at equal distances from the middle and from each other.
    corners = np.eye(d + 1) - 1.0 / (d + 1)
    basis = np.linalg.svd(corners)[2][:d]
    simplex = corners @ basis.T
    simplex *= radius / np.linalg.norm(simplex[0])
    turns = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(n_points)]
    z = np.concatenate([p + simplex @ turn for p, turn in zip(points, turns, strict=True)])
    away = points[:, None, :] - z
    k = np.exp(-beta * np.square(away).sum(axis=2))
    # Rows: the value at each point, then the derivatives by each coordinate there.
    slopes = -2.0 * beta * k[:, :, None] * away
    system = np.concatenate([k[:, None, :], slopes.transpose(0, 2, 1)], axis=1).reshape(-1, len(z))
    wanted = np.concatenate([np.zeros((n_points, 1, d)), jacobians.transpose(0, 2, 1)], axis=1).reshape(-1, d)
    return z, np.linalg.solve(system, wanted)
