"""Eigenvalues of many principal submatrices of one matrix, each with columns of its own scale.

All cores of a cluster are ``W[R, R] diag(s_R) - diag(g_R)``: one W and g, and per cell the scales s, whose zeros say
what is left out of R. Their pattern is known, so they fall into strongly connected pieces, and no core need ever be
formed whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels import lanes, lapack
from stabdask.kernels.eig import backend_parts, resolve_backend
from stabdask.kernels.results import EigResult, Results, canonical_order
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["ScaledSystem", "active_members", "eig_scaled", "gather_cores"]

_GATHER_BYTES = 8 * 2**20
Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ScaledSystem:
    """What the matrices of a cluster have in common.

    Attributes
    ----------
    weights
        ``(r, r)`` W.
    shifts
        ``(r,)`` g.
    parts
        The strongly connected components of W: positions, ascending. The eigenvalues of a matrix are those of
        its diagonal blocks that belong to them.
    """

    weights: Array
    shifts: Array
    parts: tuple[Index, ...]

    @classmethod
    def of(cls, weights: npt.NDArray[Any], shifts: npt.NDArray[Any]) -> ScaledSystem:
        """Return the system of `weights` and `shifts`, its components found."""
        from scipy.sparse.csgraph import connected_components

        weights = np.ascontiguousarray(weights, dtype=np.float64)
        count, label = connected_components(weights != 0, directed=True, connection="strong")
        parts = tuple(np.flatnonzero(label == part) for part in range(count))
        return cls(weights, np.ascontiguousarray(shifts, dtype=np.float64), parts)

    def part(self, members: Index) -> ScaledSystem:
        """Return the system of some of the positions, in one part."""
        whole = np.arange(len(members))
        return ScaledSystem(self.weights[np.ix_(members, members)], self.shifts[members], (whole,))


def active_members(own: npt.NDArray[np.bool_]) -> tuple[Index, npt.NDArray[np.bool_]]:
    """Return the positions where each row of `own` is true, ascending and padded, and which of them are real.

    Both are ``(batch, k)`` with k the largest number of them.
    """
    width = int(own.sum(axis=1).max(initial=0))
    members = np.argsort(~own, axis=1, kind="stable")[:, :width]
    return members, np.take_along_axis(own, members, axis=1)


def gather_cores(system: ScaledSystem, scales: Array) -> tuple[Array, Index, npt.NDArray[np.bool_]]:
    """Form the matrices ``W[R, R] diag(s_R) - diag(g_R)``.

    Parameters
    ----------
    system
        W and g.
    scales
        ``(batch, r)``; zero where a position is not in R.

    Returns
    -------
    cores
        ``(batch, k, k)``, zero past a matrix's order.
    members
        ``(batch, k)``: the positions in R, ascending, then others.
    real
        ``(batch, k)``: which of them are in R.
    """
    members, real = active_members(scales != 0)
    slope = np.where(real, np.take_along_axis(scales, members, axis=1), 0.0)
    # One flat 32-bit index and no bounds check: several times faster than indexing rows and columns.
    flat = members.astype(np.int32)
    place = flat[:, :, None] * np.int32(len(system.weights)) + flat[:, None, :]
    out = system.weights.take(place, mode="clip")
    out *= slope[:, None, :]
    diagonal = np.arange(members.shape[1])
    out[:, diagonal, diagonal] -= system.shifts[members]
    if not real.all():
        out[~real] = 0.0
    return out, members, real


def eig_scaled(system: ScaledSystem, scales: Array, *, dtype: npt.DTypeLike, backend: str) -> EigResult:
    """Return all eigenvalues of the matrices of `system` for every row of `scales`.

    Parameters
    ----------
    system
        W, g and their components.
    scales
        ``(batch, r)`` finite; zero where a position is left out.
    dtype
        ``float32`` or ``float64`` arithmetic.
    backend
        As `stabdask.kernels.eig.resolve_backend` returns it.

    Returns
    -------
    EigResult
        Without vectors; ``eigenvalues`` is ``(batch, k)`` with k the largest order in the batch.
    """
    scales = np.ascontiguousarray(scales, dtype=np.float64)
    sizes = np.count_nonzero(scales, axis=1)
    precision = np.dtype(dtype)
    out = Results(len(scales), int(sizes.max(initial=0)), 0, "none", precision)
    name, limit = backend_parts(backend)
    if name == "lanes":
        small = sizes <= limit if limit is not None else np.ones(len(sizes), dtype=bool)
        for members, solver in ((small, _by_lanes), (~small, _by_lapack)):
            rows = np.flatnonzero(members)
            if len(rows) == len(scales):
                solver(system, scales, out)
            elif len(rows):
                part = Results(len(rows), int(sizes[rows].max()), 0, "none", precision)
                solver(system, scales[rows], part)
                out.put(rows, part)
    elif name == "lapack":
        _by_lapack(system, scales, out)
    elif name == "cuda":
        from stabdask.kernels import cuda

        cuda.solve_scaled(system.weights, system.shifts, scales, out)
    else:
        resolve_backend(backend, int(sizes.max(initial=0)))  # says what is wrong with it
    return out.finish(sizes, backend)


def _by_lanes(system: ScaledSystem, scales: Array, out: Results) -> None:
    """Let the compiled solver cut every matrix into its own components."""
    lanes.solve_scaled(system.weights, system.shifts, scales, out)


def _by_lapack(system: ScaledSystem, scales: Array, out: Results) -> None:
    """Solve the blocks of the system's components, a few megabytes of them at a time."""
    filled = np.zeros(len(scales), dtype=np.intp)
    # What is not finite is contained in its own matrix, and its status says so.
    with single_threaded_blas(), np.errstate(invalid="ignore"):
        for members in system.parts:
            own = scales[:, members]
            if len(members) == 1:
                values = own * system.weights[members, members] - system.shifts[members]
                rows = np.flatnonzero(own[:, 0] != 0)
                out.eigenvalues[rows, filled[rows]] = values[rows, 0]
                filled[rows] += 1
                continue
            part = system.part(members)
            step = max(1, _GATHER_BYTES // (8 * len(members) ** 2))
            for first in range(0, len(scales), step):
                rows = np.arange(first, min(first + step, len(scales)))
                _solve_blocks(part, own[rows], rows, out, filled)
        order = canonical_order(out.eigenvalues)
        out.eigenvalues[:] = np.take_along_axis(out.eigenvalues, order, axis=1)
        out.trace_defect[:] = _trace_defect(system, scales, out.eigenvalues)


def _solve_blocks(part: ScaledSystem, scales: Array, rows: Index, out: Results, filled: Index) -> None:
    cores, _, _ = gather_cores(part, scales)
    sizes = np.count_nonzero(scales, axis=1)
    result = Results(len(rows), cores.shape[1], 0, "none", out.precision)
    lapack.solve(cores, sizes, result)
    out.outcome[rows] = np.maximum(out.outcome[rows], result.outcome)
    for size in np.unique(sizes[sizes > 0]):
        some = np.flatnonzero(sizes == size)
        places = filled[rows[some], None] + np.arange(size)
        out.eigenvalues[rows[some, None], places] = result.eigenvalues[some, :size]
    filled[rows] += sizes


def _trace_defect(system: ScaledSystem, scales: Array, values: npt.NDArray[Any]) -> Array:
    own = scales != 0
    diagonal = np.where(own, scales * np.diagonal(system.weights) - system.shifts, 0.0)
    squares = system.weights**2
    np.fill_diagonal(squares, 0.0)
    norm = np.sqrt(((scales**2 @ squares.T) * own + diagonal**2).sum(axis=1))
    total = np.nansum(np.ascontiguousarray(values, dtype=np.complex128), axis=1)
    return np.asarray(np.abs(total - diagonal.sum(axis=1)) / np.where(norm > 0, norm, 1.0), dtype=np.float64)
