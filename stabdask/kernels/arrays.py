"""Arrays of NumPy and of CuPy: which of the two an array is, and how it gets to the host."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["XArray", "array_module", "to_host"]

XArray = Any
"""A NumPy or CuPy array."""


def array_module(array: XArray) -> Any:
    """Return the module an array belongs to, NumPy or CuPy, without importing the latter."""
    if isinstance(array, np.ndarray):
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]


def to_host(array: XArray) -> npt.NDArray[Any]:
    """Return a NumPy array with the entries of `array`."""
    return np.asarray(array.get() if hasattr(array, "get") else array)
