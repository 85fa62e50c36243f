"""Arrays that behave as CuPy's do towards NumPy: nothing goes from one to the other unless it is asked to.

What CuPy 14.2 has is here under the same names, as far as stabdask uses it; anything else fails, and so does every
mixture of arrays on the host and "on the device" that CuPy refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["DeviceArray", "OutOfMemoryError", "add_functions"]

FUNCTIONS = (
    *(
        "abs",
        "arange",
        "argmax",
        "ascontiguousarray",
        "broadcast_to",
        "concatenate",
        "copyto",
        "count_nonzero",
        "cumsum",
        "diagonal",
    ),
    *(
        "divide",
        "einsum",
        "empty",
        "empty_like",
        "exp",
        "eye",
        "full",
        "full_like",
        "hypot",
        "isfinite",
        "isinf",
        "isnan",
    ),
    *("log", "matmul", "max", "maximum", "minimum", "multiply", "negative", "ones", "put_along_axis", "sqrt"),
    *("sum", "swapaxes", "take_along_axis", "tile", "where", "zeros", "zeros_like"),
)
"""All of them are functions of CuPy 14.2, with the arguments that are passed here."""


class OutOfMemoryError(MemoryError):
    """Stands for ``cupy.cuda.memory.OutOfMemoryError``."""


class DeviceArray(NDArrayOperatorsMixin):
    """An array "on the device"."""

    __module__ = "cupy"
    largest = 10**9
    """Bytes of the largest array that there is memory for."""

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)
        if self._host.base is None and self._host.nbytes > DeviceArray.largest:
            raise OutOfMemoryError(f"Out of memory allocating {self._host.nbytes:,} bytes")

    # What it is.
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    data = property(lambda self: SimpleNamespace(ptr=self._host.__array_interface__["data"][0]))
    __cuda_array_interface__ = property(lambda self: {"shape": self.shape, "version": 3})
    T = property(lambda self: DeviceArray(self._host.T))

    @property
    def real(self) -> DeviceArray:
        return DeviceArray(self._host.real)

    @real.setter
    def real(self, value: Any) -> None:
        self._host.real = lowered(value)

    @property
    def imag(self) -> DeviceArray:
        return DeviceArray(self._host.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        self._host.imag = lowered(value)

    def __len__(self) -> int:
        return len(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(self._host[place(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._host[place(index)] = lowered(value)

    # To the host and back.
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def get(self, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        if out is None:
            return np.array(self._host)
        assert out.flags.c_contiguous
        assert (out.dtype, out.shape) == (self.dtype, self.shape)
        out[...] = self._host
        return out

    # What NumPy's functions do with it.
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        assert method == "__call__", f"CuPy has no {ufunc.__name__}.{method}"
        return on_device(ufunc)(*inputs, **options)

    def __array_function__(self, function: Any, _: Any, arguments: Any, options: Any) -> Any:
        assert function.__name__ in FUNCTIONS, f"is {function.__name__} in CuPy? then add it to FUNCTIONS"
        return on_device(function)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        methods = (
            "all",
            "any",
            "argmax",
            "astype",
            "conj",
            "copy",
            "max",
            "min",
            "ravel",
            "reshape",
            "sum",
            "take",
            "trace",
            "transpose",
            "view",
        )
        if name not in methods:
            raise AttributeError(name)
        return on_device(getattr(self._host, name))


def lowered(value: Any) -> Any:
    """Return the NumPy array behind a device array, a scalar as it is; refuse arrays of NumPy."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, list | tuple):
        return type(value)(lowered(item) for item in value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}: a NumPy array among arrays on the device")
    return value


def place(index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        known = isinstance(part, DeviceArray | slice | int | np.integer) or part is None or part is Ellipsis
        assert known, f"an index of {type(part)} for an array on the device"
    return tuple(part._host if isinstance(part, DeviceArray) else part for part in parts)


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of device arrays, scalars and shapes that gives device arrays."""

    def call(*arguments: Any, **options: Any) -> Any:
        options = {name: lowered(value) for name, value in options.items()}
        made = function(*(lowered(argument) for argument in arguments), **options)
        return DeviceArray(made) if isinstance(made, np.ndarray | np.generic) else made

    return call


def add_functions(module: ModuleType) -> None:
    """Put CuPy's functions into a stand-in for it."""
    for name in FUNCTIONS:
        setattr(module, name, on_device(getattr(np, name)))

    def asarray(value: Any, dtype: Any = None) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return value if dtype is None else DeviceArray(value._host.astype(dtype, copy=False))
        return DeviceArray(np.array(value, dtype=dtype))

    def solve(a: Any, b: Any) -> DeviceArray:
        """Solve as cuBLAS does: nothing is raised for a singular matrix, and infinities come out."""
        assert a.ndim == b.ndim == 3, "CuPy takes a batch of right sides as matrices"
        assert a.shape[:-1] == b.shape[:-1], "CuPy broadcasts no right side"
        out = np.full(b.shape, np.inf)
        for number in range(len(a)):
            with suppress(np.linalg.LinAlgError):
                out[number] = np.linalg.solve(lowered(a)[number], lowered(b)[number])
        return DeviceArray(out)

    def slogdet(a: Any) -> tuple[DeviceArray, DeviceArray]:
        signs, logs = np.linalg.slogdet(lowered(a))
        return DeviceArray(signs), DeviceArray(logs)

    module.linalg = SimpleNamespace(  # type: ignore[attr-defined]
        solve=solve, slogdet=slogdet, eigvalsh=on_device(np.linalg.eigvalsh)
    )
    module.asarray = asarray  # type: ignore[attr-defined]
    module.ndarray = DeviceArray  # type: ignore[attr-defined]
