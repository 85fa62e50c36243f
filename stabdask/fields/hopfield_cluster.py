"""The parameters of a Hopfield field in one cluster."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError
from stabdask.fields.base import Array, Index
from stabdask.fields.hill import HillParameters

__all__ = ["HopfieldCluster"]


@dataclass(frozen=True)
class HopfieldCluster:
    """Parameters of one cluster; only the columns of W that are not zero are kept.

    Attributes
    ----------
    regulators
        ``(r,)`` positions of the genes whose column of W is not zero, ascending.
    weights
        ``(gene, r)``: ``W[effector, regulators]``, in units of expression/time.
    gamma
        ``(gene,)`` degradation rates, 1/time.
    bias
        ``(gene,)`` I, expression/time.
    hill
        Activation of every gene; looked at for regulators only.
    """

    regulators: Index
    weights: npt.NDArray[np.floating[Any]]
    gamma: Array
    bias: Array
    hill: HillParameters

    def frozen(self) -> HopfieldCluster:
        """Return the same parameters read-only: a field that changes would no longer match its fingerprint."""
        return HopfieldCluster(
            regulators=_read_only(self.regulators),
            weights=_read_only(self.weights),
            gamma=_read_only(self.gamma),
            bias=_read_only(self.bias),
            hill=HillParameters(*(_read_only(getattr(self.hill, f.name)) for f in fields(HillParameters))),
        )

    @classmethod
    def from_dense(
        cls,
        W: npt.NDArray[Any],
        *,
        gamma: npt.ArrayLike,
        bias: npt.ArrayLike,
        hill: HillParameters,
    ) -> HopfieldCluster:
        """Return the parameters for a square W (effectors x regulators)."""
        gamma = np.asarray(gamma, dtype=np.float64)
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] != gamma.size:
            raise InputError(
                f"W has shape {W.shape}; expected ({gamma.size}, {gamma.size}), effectors x regulators"
            )
        if W.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            W = W.astype(np.float64)
        regulators = np.flatnonzero((W != 0).any(axis=0))
        return cls(
            regulators=regulators,
            weights=np.ascontiguousarray(W[:, regulators]),
            gamma=gamma,
            bias=np.asarray(bias, dtype=np.float64),
            hill=hill,
        )

    def check(self, label: str, genes: npt.NDArray[np.str_]) -> None:
        """Raise `InputError` if shapes disagree or a parameter is out of its domain."""
        n, r = len(genes), len(self.regulators)
        if r and (
            np.any(np.diff(self.regulators) <= 0) or self.regulators[0] < 0 or self.regulators[-1] >= n
        ):
            raise InputError(f"regulators of cluster {label!r} must be ascending positions from 0 to {n - 1}")
        if self.weights.shape != (n, r):
            raise InputError(
                f"W of cluster {label!r} has shape {self.weights.shape} on its regulators; expected {(n, r)}"
            )
        for name, values in (("gamma", self.gamma), ("I", self.bias)):
            if values.shape != (n,):
                raise InputError(f"{name} of cluster {label!r} has shape {values.shape}; expected ({n},)")
            _refuse(
                ~np.isfinite(values),
                genes,
                f"{name} of cluster {label!r} is missing or not finite",
                values,
            )
        if not np.isfinite(self.weights).all():
            row, column = np.argwhere(~np.isfinite(self.weights))[0]
            raise InputError(
                f"W of cluster {label!r} is {self.weights[row, column]} at effector '{genes[row]}', regulator "
                f"'{genes[self.regulators[column]]}'; expected finite weights: refit, or set the edge to 0"
            )
        for field in fields(self.hill):
            shape = getattr(self.hill, field.name).shape
            if shape != (n,):
                raise InputError(f"Hill {field.name} of cluster {label!r} has shape {shape}; expected ({n},)")
        hill, names = self.hill.take(self.regulators), genes[self.regulators]
        _refuse(~np.isfinite(hill.mix), names, f"sigmoid_mix in cluster {label!r} is not finite", hill.mix)
        two = hill.mix < 1
        for name, values, used in (
            ("sigmoid_threshold", hill.threshold, np.ones(r, bool)),
            ("sigmoid_exponent", hill.exponent, np.ones(r, bool)),
            ("sigmoid_threshold2", hill.threshold2, two),
            ("sigmoid_exponent2", hill.exponent2, two),
        ):
            bad = used & ~(np.isfinite(values) & (values > 0))
            _refuse(bad, names, f"{name} in cluster {label!r} must be finite and > 0 for regulators", values)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _refuse(bad: npt.NDArray[np.bool_], names: npt.NDArray[np.str_], what: str, values: Array) -> None:
    if bad.any():
        shown = ", ".join(f"{names[i]} ({values[i]:g})" for i in np.flatnonzero(bad)[:5])
        more = f" and {bad.sum() - 5:,} more" if bad.sum() > 5 else ""
        raise InputError(f"{what}: {shown}{more}")
