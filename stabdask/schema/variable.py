"""What there is to say of one variable of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Kind", "Needs", "Variable"]

Kind = Literal["complex", "float", "element", "count", "flag", "code"]
Needs = Literal[
    "always",
    "closed form",
    "determinant",
    "spectrum",
    "complete spectrum",
    "vectors",
    "both vectors",
    "audit",
]


@dataclass(frozen=True)
class Variable:
    """One variable of a result.

    Attributes
    ----------
    name
        Its name in a Dataset and in a store.
    dims
        Its dimensions, in order.
    kind
        ``complex``, ``float`` and ``element`` are filled with NaN where nothing was computed, ``count`` with -1,
        ``flag`` and ``code`` with 255. An ``element`` is kept in the precision of the eigensolver.
    units, long_name, description
        The xarray attributes.
    needs
        What has to be computed for it: ``always`` there, a ``closed form``, a ``determinant``, the ``spectrum``, all
        of it (``complete spectrum``), right ``vectors``, right and left ones (``both vectors``), or the ``audit``.
    source
        Where the definition is from.
    on_request
        Whether it is computed only where it is named.
    """

    name: str
    dims: tuple[str, ...]
    kind: Kind
    units: str
    long_name: str
    description: str
    needs: Needs
    source: str = ""
    on_request: bool = False

    def dtype(self, precision: str = "float64") -> np.dtype[np.generic]:
        """Return the NumPy dtype in memory and in the store for eigensolver precision `precision`."""
        if self.kind == "complex":
            return np.dtype(np.complex64 if precision == "float32" else np.complex128)
        if self.kind == "float":
            return np.dtype(np.float64)
        if self.kind == "element":
            return np.dtype(np.float32 if precision == "float32" else np.float64)
        if self.kind == "count":
            return np.dtype(np.int32)
        return np.dtype(np.uint8)

    @property
    def fill(self) -> float | complex | int:
        """The value that means "not computed", never "fine"."""
        if self.kind == "complex":
            return complex(np.nan, np.nan)
        if self.kind in ("float", "element"):
            return float("nan")
        return -1 if self.kind == "count" else 255

    def empty(self, shape: tuple[int, ...], precision: str = "float64") -> npt.NDArray[np.generic]:
        """Return an array of `shape` in which every entry means "not computed"."""
        return np.full(shape, self.fill, dtype=self.dtype(precision))

    @property
    def per_partition(self) -> bool:
        """Whether it has an entry for each partition of a run, not for each cell."""
        return self.dims[0] == "partition"

    @property
    def attrs(self) -> dict[str, str]:
        """Return the xarray attributes."""
        attrs = {"long_name": self.long_name, "units": self.units, "description": self.description}
        return {**attrs, "references": self.source} if self.source else attrs
