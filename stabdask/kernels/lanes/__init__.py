"""What is compiled for the CPU: the eigensolver, one matrix in each SIMD lane, and what comes before it for a cell.

The C++ headers beside this file are the source; `_lanes` is what they compile to. An installation without a
compiler has no `_lanes`, says so, and uses LAPACK and NumPy.
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

__all__ = [
    "available",
    "hill",
    "instruction_set",
    "instruction_sets",
    "solve",
    "solve_scaled",
    "spectrum_sums",
    "speeds",
    "take_rows",
    "why_not",
]

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


def hill(
    x: npt.NDArray[np.float64], parameters: npt.NDArray[np.float64], nearness: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return Hill activations, their slopes, and how many regulators of each cell are at a switch.

    Parameters
    ----------
    x
        ``(cell, r)`` expression, not negative.
    parameters
        ``(9, r)``: thresholds, their logarithms, exponents and slopes without expression, each of the first
        and of the second component in turn, and the expression at which one gives way to the other; NaN for a second
        component where there is none, and for a switch that never is.
    nearness
        Relative distance from the switch that counts as being at it.

    Returns
    -------
    activation, slope
        ``(cell, r)`` each.
    near
        ``(cell,)``.
    """
    x = np.ascontiguousarray(x, dtype=np.float64)
    activation, slope, near = np.empty_like(x), np.empty_like(x), np.empty(len(x), dtype=np.int64)
    _module().hill(x, parameters, nearness, activation, slope, near, instruction_set())
    return activation, slope, near


def speeds(
    x: npt.NDArray[Any],
    activation: npt.NDArray[np.float64],
    drive: Any,
    gamma: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return ``|W phi - gamma x + I|`` of every cell, ``(cell,)``.

    Parameters
    ----------
    x
        ``(cell, gene)``, float32 or float64; copied only where rows are not contiguous.
    activation
        ``(cell, r)`` phi.
    drive
        W, ``(gene, r)``, a SciPy sparse array by rows.
    gamma, bias
        ``(gene,)``.
    """
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64)
    speed = np.empty(len(x))
    _module().speeds(
        _by_rows(x),
        np.ascontiguousarray(activation),
        np.asarray(drive.indptr, dtype=np.int32),
        np.asarray(drive.indices, dtype=np.int32),
        drive.data,
        gamma,
        bias,
        speed,
        instruction_set(),
    )
    return speed


def spectrum_sums(
    values: npt.NDArray[Any],
    tolerance: float,
    squares: npt.NDArray[np.float64],
    logs: npt.NDArray[np.float64],
    *counts: npt.NDArray[np.int64],
) -> None:
    """Fill sums and counts over the eigenvalues of each matrix; see `stabdask.kernels.spectrum.SpectrumSums`.

    Parameters
    ----------
    values
        ``(batch, k)`` complex, NaN past the order of a matrix.
    tolerance
        Of the counts by sign.
    squares, logs
        ``(batch,)``.
    *counts
        ``(batch,)`` each: found, above, below, negative and vanishing.
    """
    _module().spectrum_sums(
        np.ascontiguousarray(values), tolerance, squares, logs, *counts, instruction_set()
    )


def take_rows(
    x: npt.NDArray[Any],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp] | None,
    out: npt.NDArray[Any],
    finite: npt.NDArray[np.bool_],
    lowest: npt.NDArray[Any],
) -> None:
    """Copy rows of `x`, and columns if not all, into `out`, and say in `finite` which are, in `lowest` how low they go.

    Parameters
    ----------
    x
        ``(row, column)``, float32 or float64; copied only where rows are not contiguous.
    rows, columns
        Positions, within range.
    out
        ``(len(rows), len(columns))`` of the dtype of `x`, contiguous.
    finite, lowest
        ``(len(rows),)``; the second of the dtype of `x`, and of any value where a row is not finite.
    """
    _module().take_rows(_by_rows(x), rows, columns, out, finite.view(np.uint8), lowest, instruction_set())


def _by_rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `x`, or a copy where its rows are not contiguous."""
    if x.strides[1] != x.itemsize or x.strides[0] % x.itemsize:
        return np.ascontiguousarray(x)
    return x
