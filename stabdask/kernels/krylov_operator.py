"""Batches of real matrices known by their products with vectors."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stabdask.errors import UsageError
from stabdask.kernels.arrays import XArray, array_module, to_host

__all__ = [
    "BatchedOperator",
    "Normalized",
    "ScaledOperator",
    "Transposed",
    "Wrapper",
]

_ROWS = 4
"""Matrix products on CPUs go best with multiples of this many rows."""

Cells = npt.NDArray[np.intp]


class BatchedOperator(Protocol):
    """A batch of k x k real matrices C, of which each may act on some of the coordinates only."""

    @property
    def xp(self) -> Any:
        """The array module of its vectors, NumPy or CuPy."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the results, float32 or float64; products may be asked for in either."""
        ...

    @property
    def batch(self) -> int:
        """Number of matrices."""
        ...

    @property
    def k(self) -> int:
        """Number of coordinates, active or not."""
        ...

    @property
    def sizes(self) -> Cells:
        """``(batch,)`` NumPy integers: number of active coordinates of each matrix, which is its size."""
        ...

    def apply(self, x: XArray, cells: Cells) -> XArray:
        """Return C x for the matrices `cells`, one vector each: ``(cells, k)`` in the precision of `x`.

        Vectors are zero outside the active coordinates, before and after. The result is a new array.
        """
        ...

    def apply_transpose(self, x: XArray, cells: Cells) -> XArray:
        """Return C^T x as `apply` does C x."""
        ...

    def restrict(self, x: XArray, cells: Cells) -> XArray:
        """Return `x` with zeros outside the active coordinates of the matrices `cells`."""
        ...

    def frobenius(self) -> npt.NDArray[np.float64]:
        """Return the Frobenius norm of every matrix, not finite where an entry is not: ``(batch,)`` NumPy."""
        ...


class ScaledOperator:
    """The cores ``W[R, R] diag(slope_R) - diag(gamma_R)`` of cells that share W, R each cell's own.

    The product with one vector per cell is one matrix product with W for all of them.

    Parameters
    ----------
    weights
        ``(k, k)``: W, real, NumPy or CuPy.
    slope
        ``(batch, k)``: what scales the columns of W in each cell. Not looked at where not active.
    gamma
        ``(k,)``: what is taken off the diagonal.
    active
        ``(batch, k)`` bool: the coordinates R of each cell.

    Raises
    ------
    UsageError
        If shapes or dtypes do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> operator = ScaledOperator(
    ...     np.array([[0.0, 2.0], [3.0, 0.0]]), np.ones((1, 2)), np.ones(2), np.ones((1, 2), dtype=bool)
    ... )
    >>> operator.apply(np.array([[1.0, 0.0]]), np.array([0]))
    array([[-1.,  3.]])
    """

    def __init__(self, weights: XArray, slope: XArray, gamma: XArray, active: XArray) -> None:
        self.xp = xp = array_module(weights)
        for name, array in (("weights", weights), ("slope", slope), ("gamma", gamma)):
            if array.dtype.kind not in "fiub":
                raise UsageError(f"{name} have dtype {array.dtype}; expected real numbers")
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise UsageError(f"weights have shape {weights.shape}; expected (k, k)")
        self.k = int(weights.shape[0])
        if slope.ndim != 2 or slope.shape[1] != self.k:
            raise UsageError(f"slope has shape {slope.shape}; expected (batch, {self.k})")
        self.batch = int(slope.shape[0])
        if gamma.shape != (self.k,):
            raise UsageError(f"gamma has shape {gamma.shape}; expected ({self.k},)")
        if active.shape != slope.shape or active.dtype.kind != "b":
            raise UsageError(f"active is {active.dtype} {active.shape}; expected bool {slope.shape}")
        single = weights.dtype == np.float32
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self._weights = {self.dtype: xp.ascontiguousarray(weights, dtype=self.dtype)}
        self._active = active
        self._slope = xp.where(active, slope, 0).astype(np.float64)
        self._gamma = gamma.astype(np.float64)
        self.sizes = to_host(active.sum(axis=1)).astype(np.intp)
        self._bound: tuple[Cells, np.dtype[Any], XArray, XArray, XArray] | None = None

    def apply(self, x: XArray, cells: Cells) -> XArray:
        """Return C x; see `BatchedOperator.apply`."""
        weights, slope, gamma, mask = self._bind(cells, x.dtype)
        y = _rows_times(self.xp, x * slope, weights.T)
        if mask is not None:
            y *= mask
        y -= gamma * x
        return y

    def apply_transpose(self, x: XArray, cells: Cells) -> XArray:
        """Return C^T x; see `BatchedOperator.apply_transpose`."""
        weights, slope, gamma, _ = self._bind(cells, x.dtype)
        y = _rows_times(self.xp, x, weights)
        y *= slope
        y -= gamma * x
        return y

    def restrict(self, x: XArray, cells: Cells) -> XArray:
        """Return `x` on the active coordinates; see `BatchedOperator.restrict`."""
        return self.xp.where(self._active[self.xp.asarray(cells)], x, 0)

    def frobenius(self) -> npt.NDArray[np.float64]:
        """Return the Frobenius norms, from one product with the squares of W."""
        xp = self.xp
        if not self.batch or not self.k:
            return np.zeros(self.batch)
        weights = self._in(np.dtype(np.float64))
        diagonal = xp.where(self._active, self._slope * xp.diagonal(weights) - self._gamma, 0)
        # All is divided by what is largest before it is squared, to stay in range.
        largest, steepest, width = (_size(xp, array) for array in (weights[None], self._slope, diagonal))
        unit = weights / _or_one(xp, largest)
        squares = unit * unit
        squares[xp.arange(self.k), xp.arange(self.k)] = 0.0
        slope = self._slope / _or_one(xp, steepest)[:, None]
        shared = ((self._active.astype(np.float64) @ squares) * slope**2).sum(axis=1)
        own = ((diagonal / _or_one(xp, width)[:, None]) ** 2).sum(axis=1)
        return to_host(xp.hypot(xp.sqrt(shared) * largest * steepest, xp.sqrt(own) * width))

    def _in(self, dtype: np.dtype[Any]) -> XArray:
        """Return W in precision `dtype`, converted once."""
        if dtype not in self._weights:
            self._weights[dtype] = next(iter(self._weights.values())).astype(dtype)
        return self._weights[dtype]

    def _bind(self, cells: Cells, dtype: np.dtype[Any]) -> tuple[XArray, XArray, XArray, XArray]:
        """Return W, slopes, gamma and mask (None where all is active) for `cells` in precision `dtype`.

        Hundreds of products in a row have the same cells: their rows are gathered once. The tuple is replaced
        whole, so that threads sharing the operator at worst gather again.
        """
        bound = self._bound
        if bound is None or bound[0] is not cells or bound[1] != dtype:
            rows = self.xp.asarray(cells)
            slope = self._slope[rows].astype(dtype)
            partial = bool((self.sizes[cells] < self.k).any())
            mask = self._active[rows].astype(dtype) if partial else None
            bound = (cells, dtype, slope, self._gamma.astype(dtype), mask)
            self._bound = bound
        return self._in(dtype), bound[2], bound[3], bound[4]


def _size(xp: Any, array: XArray) -> XArray:
    """Return the largest modulus of each entry of ``array (n, ...)``, none of them empty."""
    return xp.abs(array).reshape(len(array), -1).max(axis=1)


def _or_one(xp: Any, divisor: XArray) -> XArray:
    return xp.where(divisor > 0, divisor, 1.0)


def _rows_times(xp: Any, x: XArray, matrix: XArray) -> XArray:
    """Return ``x @ matrix``, in a way that suits CPUs where `xp` is NumPy."""
    n = len(x)
    if xp is not np or n == 1 or n % _ROWS == 0:
        return x @ matrix
    if n < _ROWS:
        return np.stack([row @ matrix for row in x])
    # Rows that fill no register block take longer than the missing ones would.
    padded = np.zeros((-(-n // _ROWS) * _ROWS, x.shape[1]), dtype=x.dtype)
    padded[:n] = x
    return (padded @ matrix)[:n]


class Wrapper:
    """What the operators below have in common: everything but the products is that of `inner`."""

    def __init__(self, inner: BatchedOperator) -> None:
        self.inner = inner
        self.xp = inner.xp
        self.dtype = inner.dtype
        self.batch = inner.batch
        self.k = inner.k
        self.sizes = inner.sizes

    def restrict(self, x: XArray, cells: Cells) -> XArray:
        """Return `x` on the active coordinates."""
        return self.inner.restrict(x, cells)

    def frobenius(self) -> npt.NDArray[np.float64]:
        """Return the Frobenius norms of the matrices of `inner`."""
        return self.inner.frobenius()


class Transposed(Wrapper):
    """The transposes of a batch of matrices."""

    def apply(self, x: XArray, cells: Cells) -> XArray:
        """Return C^T x."""
        return self.inner.apply_transpose(x, cells)

    def apply_transpose(self, x: XArray, cells: Cells) -> XArray:
        """Return C x."""
        return self.inner.apply(x, cells)


class Normalized(Wrapper):
    """A batch of matrices, each times a power of two that brings its Frobenius norm into [0.5, 1).

    Matrices of any size of entries then have norms, squares and thresholds in range, at no loss of accuracy.
    (Those with norms below 2**-1000 come out smaller.)

    Attributes
    ----------
    norms
        ``(batch,)``: the Frobenius norms after scaling; 0 for matrices that are zero or not finite.
    exponent
        ``(batch,)``: the eigenvalues are ``2**exponent`` times those of the scaled matrices.
    finite
        ``(batch,)``: whether all entries of a matrix are finite.
    """

    def __init__(self, inner: BatchedOperator) -> None:
        super().__init__(inner)
        with np.errstate(all="ignore"):
            norms = inner.frobenius()
        self.finite = np.isfinite(norms)
        norms = np.where(self.finite, norms, 0.0)
        # Beyond that the factor itself would be out of range.
        self.exponent = np.maximum(np.frexp(norms)[1], -1000)
        self.norms = np.ldexp(norms, -self.exponent)
        self._scale = self.xp.asarray(np.ldexp(1.0, -self.exponent))
        self._bound: tuple[Cells, np.dtype[Any], XArray] | None = None

    def apply(self, x: XArray, cells: Cells) -> XArray:
        """Return C x of the scaled matrices."""
        y = self.inner.apply(x, cells)
        y *= self._factor(cells, x.dtype)
        return y

    def apply_transpose(self, x: XArray, cells: Cells) -> XArray:
        """Return C^T x of the scaled matrices."""
        y = self.inner.apply_transpose(x, cells)
        y *= self._factor(cells, x.dtype)
        return y

    def frobenius(self) -> npt.NDArray[np.float64]:
        """Return the Frobenius norms of the scaled matrices."""
        return self.norms

    def _factor(self, cells: Cells, dtype: np.dtype[Any]) -> XArray:
        bound = self._bound
        if bound is None or bound[0] is not cells or bound[1] != dtype:
            bound = (cells, dtype, self._scale[self.xp.asarray(cells)].astype(dtype)[:, None])
            self._bound = bound
        return bound[2]
