"""Sums of Gaussian kernels and their derivatives at many points, as products of matrices."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray

__all__ = ["GaussianSum"]

_KERNEL_BYTES = 16 * 2**20
"""Kernel values that are multiplied together on a CPU: a product of matrices is quicker the more rows it has."""
_CACHED_BYTES = 2**20
"""What is gone through element by element on a CPU, a few points at a time: it stays in its cache."""
_DEVICE_BYTES = 256 * 2**20
"""The same two on a GPU."""
_PRODUCT_BYTES = 64 * 2**20
"""What products of coefficients and centers may take: where they would take more, it is by slices of centers."""
_MOST_AXES = 64
"""From this many axes on, a point's own product of matrices is large enough to be quick, and needs no such products."""


class GaussianSum:
    """The function ``v(x) = sum_m C_m exp(-beta |x - z_m|^2)`` and its derivatives.

    Its Jacobian is ``-2 beta sum_m K_m(x) C_m (x - z_m)^T``. With ``K`` the kernel values of a batch, that is
    ``-2 beta [(K C) x^T - K B]``, where row m of ``B`` is ``C_m z_m^T``: one product of matrices, ``K [B C]``, for the
    whole batch.

    Parameters
    ----------
    centers
        ``(m, d)`` control points z.
    coefficients
        ``(m, d)`` C.
    beta
        Inverse squared width of the kernel, 1/(unit of x)^2.
    dtype
        Precision of all that is computed, float64 or float32.

    Notes
    -----
    Squared distances come from a product of matrices, ``|x|^2 - 2 x.z + |z|^2``, about the mean of the centers: the
    kernel's relative error is some ``beta |x|^2`` times the rounding unit. What is computed is where `centers` are, on
    the host or on a GPU.

    Examples
    --------
    >>> one = GaussianSum([[0.0, 0.0]], [[1.0, 2.0]], 0.5)
    >>> one.values([[1.0, 1.0]]).round(4)
    array([[0.3679, 0.7358]])
    >>> one.jacobians([[1.0, 1.0]]).round(4)
    array([[[-0.3679, -0.3679],
            [-0.7358, -0.7358]]])
    """

    def __init__(
        self,
        centers: npt.ArrayLike,
        coefficients: npt.ArrayLike,
        beta: float,
        *,
        dtype: npt.DTypeLike = np.float64,
        xp: Any = np,
    ) -> None:
        self._xp = xp
        self.dtype = np.dtype(dtype)
        self.beta = float(beta)
        z = np.asarray(centers, dtype=np.float64)
        shift = z.mean(axis=0)
        z = z - shift
        self.n_centers, self.n_axes = z.shape
        # One product of these with (x, |x|^2, 1) is the exponent.
        exponent = np.concatenate(
            [2.0 * self.beta * z.T, np.full((1, len(z)), -self.beta), -self.beta * (z**2).sum(axis=1)[None]]
        )
        self._shift = xp.asarray(shift)
        self._centers = xp.asarray(z.astype(self.dtype))
        self._exponent = xp.asarray(exponent.astype(self.dtype))
        self._coefficients = xp.asarray(np.asarray(coefficients, dtype=np.float64).astype(self.dtype))

    def values(self, x: npt.ArrayLike | XArray) -> XArray:
        """Return v at points x ``(n, d)``, ``(n, d)``."""
        return self._summed(x, self._coefficients)

    def magnitudes(self, x: npt.ArrayLike | XArray) -> XArray:
        """Return the sum of the absolute values of the terms of v at points x ``(n, d)``, ``(n, d)``."""
        return self._summed(x, self._xp.abs(self._coefficients))

    def _summed(self, x: npt.ArrayLike | XArray, coefficients: XArray) -> XArray:
        points = self._local(x)
        out = self._xp.empty(points.shape, dtype=self.dtype)
        for rows in self._batches(len(points)):
            self._xp.matmul(self._kernel(points[rows]), coefficients, out=out[rows])
        return out

    def jacobians(self, x: npt.ArrayLike | XArray) -> XArray:
        """Return the Jacobians dv_i/dx_j at points x ``(n, d)``, ``(n, d, d)``."""
        return self.values_and_jacobians(x)[1]

    def values_and_jacobians(self, x: npt.ArrayLike | XArray) -> tuple[XArray, XArray]:
        """Return `values` and `jacobians`, for which the kernel is evaluated once.

        Of few axes they are views of one array, where each point's Jacobian is followed by its value.
        """
        xp, points, d = self._xp, self._local(x), self.n_axes
        n = len(points)
        if d > _MOST_AXES:
            values = xp.empty((n, d), dtype=self.dtype)
            jacobians = xp.empty((n, d, d), dtype=self.dtype)
            for rows in self._batches(n):
                kernel = self._kernel(points[rows])
                xp.matmul(kernel, self._coefficients, out=values[rows])
                self._point_by_point(points[rows], kernel, jacobians[rows])
            return values, jacobians
        both = xp.empty((n, d * d + d), dtype=self.dtype)
        for rows in self._batches(n):
            self._by_products(points[rows], self._kernel(points[rows]), both[rows])
        return both[:, d * d :], both[:, : d * d].reshape(n, d, d)

    def curvatures(self, x: npt.ArrayLike | XArray, direction: npt.ArrayLike | XArray) -> XArray:
        """Return second derivatives along a direction u of each point: d^2 v(x + s u) / ds^2 at s = 0, ``(n, d)``."""
        xp, points = self._xp, self._local(x)
        u = xp.asarray(direction, dtype=self.dtype)
        out = xp.empty(points.shape, dtype=self.dtype)
        for rows in self._batches(len(points)):
            here, along = points[rows], u[rows]
            # (x - z).u of every center, and |u|^2.
            slant = (here * along).sum(axis=1)[:, None] - along @ self._centers.T
            length = (along * along).sum(axis=1)[:, None]
            factor = 4.0 * self.beta**2 * slant * slant - 2.0 * self.beta * length
            out[rows] = (self._kernel(here) * factor) @ self._coefficients
        return out

    def _local(self, x: npt.ArrayLike | XArray) -> XArray:
        """Return points about the mean of the centers, in the precision of this function."""
        xp = self._xp
        points = xp.asarray(x)
        return (points.astype(np.float64) - self._shift).astype(self.dtype)

    def _batches(self, n: int) -> list[slice]:
        return self._parts(n, self.n_centers, _KERNEL_BYTES)

    def _parts(self, n: int, n_columns: int, budget: int) -> list[slice]:
        """Return as many of n rows at a time as `budget` holds of `n_columns` values each; more on a GPU."""
        room = budget if self._xp is np else _DEVICE_BYTES
        rows = max(1, room // (self.dtype.itemsize * n_columns))
        return [slice(first, min(first + rows, n)) for first in range(0, n, rows)]

    def _kernel(self, points: XArray) -> XArray:
        """Return exp(-beta |x - z_m|^2), ``(n, m)``."""
        xp, n = self._xp, len(points)
        extended = xp.ones((n, self.n_axes + 2), dtype=self.dtype)
        extended[:, :-2] = points
        extended[:, -2] = (points * points).sum(axis=1)
        kernel = xp.empty((n, self.n_centers), dtype=self.dtype)
        for rows in self._parts(n, self.n_centers, _CACHED_BYTES):
            part = kernel[rows]
            xp.matmul(extended[rows], self._exponent, out=part)
            # Rounding may leave a squared distance a little below nothing.
            xp.minimum(part, 0.0, out=part)
            xp.exp(part, out=part)
        return kernel

    def _by_products(self, points: XArray, kernel: XArray, out: XArray) -> None:
        """Fill ``(n, d * d + d)`` with Jacobians and, after each, the value."""
        xp, d = self._xp, self.n_axes
        if len(self._slices) == 1:
            xp.matmul(kernel, self._products, out=out)
        else:
            out[...] = 0.0
            for part in self._slices:
                out += kernel[:, part] @ self._outer(part)
        for rows in self._parts(len(points), d * d, _CACHED_BYTES):
            jacobians, values = out[rows, : d * d], out[rows, d * d :]
            away = xp.einsum("ci,cj->cij", 2.0 * self.beta * values, points[rows])
            jacobians -= away.reshape(-1, d * d)

    def _point_by_point(self, points: XArray, kernel: XArray, out: XArray) -> None:
        """Multiply, for each point, the weighted coefficients by its distances: on a GPU for some points at a time."""
        xp, transposed = self._xp, self._coefficients.T
        if xp is np:
            for number in range(len(points)):
                np.matmul(transposed * kernel[number], points[number] - self._centers, out=out[number])
        else:
            step = max(1, _DEVICE_BYTES // (2 * self.dtype.itemsize * self.n_centers * self.n_axes))
            for first in range(0, len(points), step):
                rows = slice(first, first + step)
                away = points[rows][:, None, :] - self._centers[None, :, :]
                out[rows] = xp.matmul(transposed[None, :, :] * kernel[rows][:, None, :], away)
        out *= -2.0 * self.beta

    @cached_property
    def _slices(self) -> list[slice]:
        step = max(1, _PRODUCT_BYTES // (self.dtype.itemsize * self.n_axes * (self.n_axes + 1)))
        return [slice(first, min(first + step, self.n_centers)) for first in range(0, self.n_centers, step)]

    @cached_property
    def _products(self) -> XArray:
        products = self._outer(slice(None))
        if self._xp is not np:
            # Other threads have streams of their own, which would not wait for it.
            self._xp.cuda.get_current_stream().synchronize()
        return products

    def _outer(self, part: slice) -> XArray:
        """Return 2 beta C_m z_m^T of some centers, and C_m beside them, ``(m, d * d + d)``."""
        coefficients = self._coefficients[part]
        products = 2.0 * self.beta * coefficients[:, :, None] * self._centers[part][:, None, :]
        return self._xp.concatenate([products.reshape(len(products), -1), coefficients], axis=1)
