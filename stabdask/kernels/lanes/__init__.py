"""The compiled eigensolver of the CPU: one matrix in each SIMD lane.

The C++ headers beside this file are the solver; `_lanes` is what they compile to. An installation without a
compiler has no `_lanes`, says so, and uses LAPACK.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import BackendUnavailableError
from stabdask.kernels.results import Results

__all__ = ["available", "instruction_set", "instruction_sets", "solve", "solve_scaled", "why_not"]

_INSTRUCTION_SET_VARIABLE = "STABDASK_INSTRUCTION_SET"


@cache
def _module() -> Any:
    try:
        return importlib.import_module("stabdask.kernels.lanes._lanes")
    except ImportError as error:
        return error


def available() -> bool:
    """Return whether the compiled solver is part of this installation."""
    return not isinstance(_module(), ImportError)


def why_not() -> str | None:
    """Return why there is no compiled solver, or None if there is one."""
    if available():
        return None
    return f"not compiled into this installation ({_module()}); install with a C++17 compiler (GCC or Clang)"


def instruction_sets() -> tuple[str, ...]:
    """Return the variants this processor runs, the fastest first: of avx512, avx2 and baseline."""
    return tuple(_module().instruction_sets()) if available() else ()


@cache
def instruction_set() -> str:
    """Return the variant in use: the fastest, or what the environment asks for.

    The variable ``STABDASK_INSTRUCTION_SET`` names one of `instruction_sets`, for a cluster whose machines
    differ and whose results must not.

    Raises
    ------
    BackendUnavailableError
        If there is no compiled solver, or the variable names a variant that cannot run here.
    """
    names = instruction_sets()
    if not names:
        raise BackendUnavailableError(f"the backend 'lanes' is {why_not()}")
    wanted = os.environ.get(_INSTRUCTION_SET_VARIABLE)
    if wanted is None:
        return names[0]
    if wanted not in names:
        raise BackendUnavailableError(
            f"{_INSTRUCTION_SET_VARIABLE}={wanted!r} cannot run here; expected one of {', '.join(names)}"
        )
    return wanted


def solve(cores: npt.NDArray[Any], sizes: npt.NDArray[np.int64], out: Results) -> None:
    """Fill `out` for ``cores[b, :sizes[b], :sizes[b]]``; the interpreter lock is released meanwhile.

    Parameters
    ----------
    cores
        ``(batch, k, k)`` float32 or float64; copied only where rows are not contiguous.
    sizes
        ``(batch,)``.
    out
        Its precision is that of the arithmetic.
    """
    if cores.strides[2] != cores.itemsize or any(step % cores.itemsize for step in cores.strides):
        cores = np.ascontiguousarray(cores)
    _module().solve(
        cores,
        sizes,
        out.eigenvalues,
        out.right,
        out.left,
        out.overlap,
        out.residual,
        out.trace_defect,
        out.outcome,
        instruction_set(),
    )


def solve_scaled(
    weights: npt.NDArray[np.float64],
    shifts: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    out: Results,
) -> None:
    """Fill `out`, eigenvalues only, for the matrices ``W[R, R] diag(s_R) - diag(g_R)``, R where s is not zero.

    Parameters
    ----------
    weights
        ``(r, r)`` W.
    shifts
        ``(r,)`` g.
    scales
        ``(batch, r)`` s, a row for each matrix.
    out
        As wide as the largest matrix, at least.
    """
    _module().solve_scaled(
        weights, shifts, scales, out.eigenvalues, out.trace_defect, out.outcome, instruction_set()
    )
