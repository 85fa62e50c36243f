"""The Hill activation and its slope, with one component or two that switch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels import lanes

__all__ = ["HillParameters"]

Array = npt.NDArray[np.float64]

_NEAR = 1e-6


@dataclass(frozen=True)
class HillParameters:
    """Hill parameters of some genes; every attribute has shape ``(gene,)``.

    Attributes
    ----------
    threshold, exponent
        k and n of the first component, in units of expression and dimensionless.
    threshold2, exponent2
        The second component's.
    mix
        Weight of the first component in the fit. Only whether it is below 1 matters here: then the gene has
        two components and uses the one whose threshold is nearer to its expression.
    """

    threshold: Array
    exponent: Array
    threshold2: Array
    exponent2: Array
    mix: Array

    @classmethod
    def single(cls, threshold: npt.ArrayLike, exponent: npt.ArrayLike) -> HillParameters:
        """Return one-component parameters."""
        k, n = np.broadcast_arrays(np.asarray(threshold, float), np.asarray(exponent, float))
        return cls(k.copy(), n.copy(), k.copy(), n.copy(), np.ones(k.shape))

    def take(self, index: npt.NDArray[Any]) -> HillParameters:
        """Return the parameters of the genes at `index`."""
        return HillParameters(*(getattr(self, f.name)[index] for f in fields(self)))

    def on_device(self, cupy: Any) -> HillParameters:
        """Return the parameters as arrays of CuPy on the current GPU."""
        return HillParameters(*(cupy.asarray(getattr(self, f.name)) for f in fields(self)))

    def stacked(self) -> Array:
        """Return all parameters as one ``(5, gene)`` array, for hashing and storage."""
        return np.stack([getattr(self, f.name) for f in fields(self)])

    def branch(self, x: Array) -> tuple[Array, Array]:
        """Return the threshold and exponent in force at expression `x`, each ``(cell, gene)``.

        A tie in distance takes the first component.
        """
        second = (self.mix < 1) & (np.abs(x - self.threshold2) < np.abs(x - self.threshold))
        return (
            np.where(second, self.threshold2, self.threshold),
            np.where(second, self.exponent2, self.exponent),
        )

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        """Return the activation and its derivative at non-negative expression `x`.

        H(x; k, n) = x^n / (x^n + k^n) is computed as ``s = 1 / (1 + exp(-z))`` with ``z = n (log x - log k)``, and
        H' as ``n s (1 - s) / x``: no overflow, no 0/0. At x = 0, H' is 0 for n > 1, 1/k for n = 1 and infinite for
        n < 1.

        Parameters
        ----------
        x
            ``(cell, gene)`` expression, not negative; NaN gives NaN.

        Returns
        -------
        activation, slope
            ``(cell, gene)`` each; the slope in units of 1/expression.
        """
        if isinstance(x, np.ndarray) and lanes.available():
            return lanes.hill(x, self._compiled, _NEAR)[:2]
        # Without a second component the parameters are those of the gene, whatever the cell.
        k, n = self.branch(x) if (self.mix < 1).any() else (self.threshold, self.exponent)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Logarithms of zero and exponentials of infinity take five times as long as others, and zeros are many.
            none = x == 0
            positive = np.where(none, 1.0, x)
            z = np.log(positive)
            z -= np.log(k)
            z *= n
            # s and 1 - s are the larger and the smaller of these two, without cancellation near saturation.
            smaller = np.abs(z)
            np.exp(np.negative(smaller, out=smaller), out=smaller)
            larger = smaller + 1.0
            np.divide(1.0, larger, out=larger)
            smaller *= larger
            activation = np.where(none, 0.0, np.where(z > 0, larger, smaller))
            slope = np.multiply(n, larger, out=larger)
            slope *= smaller
            slope /= positive
        return activation, np.where(none, _slope_at_zero(k, n), slope)

    def evaluate_and_count(self, x: Array) -> tuple[Array, Array, npt.NDArray[np.integer[Any]]]:
        """Return what `evaluate` does, and of each cell how many genes are where `near_switch` is true, ``(cell,)``."""
        if isinstance(x, np.ndarray) and lanes.available():
            return lanes.hill(x, self._compiled, _NEAR)
        return *self.evaluate(x), self.near_switch(x).sum(axis=1)

    @cached_property
    def _compiled(self) -> Array:
        """The parameters as `stabdask.kernels.lanes.hill` takes them."""
        switches, switch = self._switch
        with np.errstate(divide="ignore"):
            logs = np.log(self.threshold), np.log(self.threshold2)
        rows = (
            *(self.threshold, np.where(self.mix < 1, self.threshold2, np.nan)),
            *logs,
            *(self.exponent, self.exponent2),
            *(_slope_at_zero(self.threshold, self.exponent), _slope_at_zero(self.threshold2, self.exponent2)),
            np.where(switches, switch, np.nan),
        )
        return np.stack(rows)

    @property
    def _switch(self) -> tuple[npt.NDArray[np.bool_], Array]:
        """Which genes go from one component to the other, and at which expression, ``(gene,)`` each."""
        # Components with one threshold never switch: every expression is a tie, which the first takes.
        switches = (self.mix < 1) & (self.threshold != self.threshold2)
        return switches, 0.5 * (self.threshold + self.threshold2)

    def infinite_slope_at_zero(self) -> npt.NDArray[np.bool_]:
        """Return, per gene, whether the slope is infinite for a cell with no expression of it."""
        at_zero = np.zeros((1, self.threshold.size))
        steep: npt.NDArray[np.bool_] = self.branch(at_zero)[1][0] < 1
        return steep

    def near_switch(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return where `x` is within a relative 1e-6 of the switch between two components."""
        switches, switch = self._switch
        if not switches.any():
            return np.zeros(x.shape, dtype=bool)
        near: npt.NDArray[np.bool_] = switches & (np.abs(x - switch) <= _NEAR * np.abs(switch))
        return near


def _slope_at_zero(k: Array, n: Array) -> Array:
    """Return the slope without expression: 0 for n > 1, 1/k for n = 1, infinite for n < 1."""
    with np.errstate(divide="ignore"):
        slope: Array = np.where(n > 1, 0.0, np.where(n == 1, 1.0 / k, np.inf))
    return slope
