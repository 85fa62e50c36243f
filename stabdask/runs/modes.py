"""What eigenvectors of cores give: vectors over genes, condition numbers, and who drives a mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Index, Linearization
from stabdask.kernels.arrays import XArray, array_module, to_host
from stabdask.kernels.eig import EigResult, canonical_phase, inaccuracy_limit
from stabdask.schema import Status

__all__ = ["EDGE_BYTES", "Batch", "CoreModes", "cell_status", "write_modes"]

EDGE_BYTES = 16 * 2**20
"""Sensitivities to all edges of the cells whose largest are looked for together."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Cells that are solved together.

    Attributes
    ----------
    cells
        Rows of the linearization.
    rows
        Rows of the block, where results go.
    labels
        Number of each cell's cluster label.
    rest
        ``(cell,)``: the largest eigenvalue outside the core.
    """

    cells: Index
    rows: Index
    labels: npt.NDArray[np.integer[Any]]
    rest: npt.NDArray[np.float64]


@dataclass(frozen=True)
class CoreModes:
    """The leading modes of the cores of a batch.

    Attributes
    ----------
    batch
        The cells.
    values
        ``(cell, mode)`` eigenvalues, NaN where there are none.
    right, left
        ``(cell, mode, k)`` vectors of the cores, or None for `left`.
    """

    batch: Batch
    values: XArray
    right: XArray
    left: XArray | None


def cell_status(result: EigResult, sizes: Index, *, keeps_vectors: bool) -> npt.NDArray[np.uint8]:
    """Return the status of each cell of a batch.

    Where vectors are only used on the way, a defective mode is left out of means, and its condition number says so: the
    cell's eigenvalues are as good as any.
    """
    if keeps_vectors or result.left is None:
        return result.status
    limit = inaccuracy_limit(sizes, to_host(result.left[:0]).real.dtype)
    with np.errstate(invalid="ignore"):
        inaccurate = (result.residual > limit) | (result.trace_defect > limit)
        inaccurate |= np.isinf(np.abs(to_host(result.eigenvalues))).any(axis=1)
    others = np.where(inaccurate, Status.INACCURATE, Status.OK)
    return np.where(result.status == Status.DEFECTIVE, others, result.status).astype(np.uint8)


def write_modes(linear: Linearization, modes: CoreModes, out: Arrays) -> None:
    """Write everything that `out` has room for and vectors are needed for; see `stabdask.schema`."""
    lifted_size = _write_right(linear, modes, out)
    if modes.left is None:
        return
    if "left_vector" in out:
        lifted = linear.lift_left(modes.batch.cells, modes.left)
        _write_vectors(out["left_vector"], modes, lifted)
    if lifted_size is None and "driver_cells" not in out:
        return
    left, right = to_host(modes.left), to_host(modes.right)
    overlap = np.einsum("cmk,cmk->cm", left.conj(), right).astype(np.complex128)
    if lifted_size is not None:
        size = np.sqrt((np.abs(left) ** 2).sum(axis=2, dtype=np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            condition = lifted_size * size / np.abs(overlap)
        missing = np.isnan(to_host(modes.values).real)
        out["eigenvalue_condition"][modes.batch.rows, : overlap.shape[1]] = np.where(
            missing, np.nan, condition
        )
    if "driver_cells" not in out:
        return
    # A defective mode has no finite share: it would be all there is of a mean.
    least = 1e-2 * inaccuracy_limit(linear.sizes[modes.batch.cells], right.real.dtype)
    with np.errstate(invalid="ignore"):
        counted = np.abs(overlap) > least[:, None]
    counted = counted[:, : out["driver_cells"].shape[2]]
    np.add.at(out["driver_cells"][0, :, : counted.shape[1]], modes.batch.labels, counted)
    if overlap.shape[1]:
        first = to_host(modes.values[:, 0]).real
        np.add.at(out["leading_cells"][0], modes.batch.labels, counted[:, 0] & (first >= modes.batch.rest))
    if "participation_sum" in out:
        _add_participation(linear, modes, right, left, counted, out)
    if not overlap.shape[1]:
        return
    if "sensitivity_sum" in out:
        _add_sensitivity(linear, modes, right[:, 0], left[:, 0], counted[:, 0], out)
    if "axis_sensitivity_sum" in out:
        _add_axis_sensitivity(linear, modes, right[:, 0], left[:, 0], counted[:, 0], out)


def _write_right(linear: Linearization, modes: CoreModes, out: Arrays) -> npt.NDArray[np.float64] | None:
    """Write right eigenvectors; for condition numbers, return the norms of what cores' unit vectors become."""
    if "right_vector" not in out and "eigenvalue_condition" not in out:
        return None
    xp = array_module(modes.values)
    missing = xp.isnan(modes.values.real)
    lifted, degenerate = linear.lift_right(
        modes.batch.cells, xp.where(missing, 0.0, modes.values), modes.right
    )
    if "right_vector" in out:
        _write_vectors(out["right_vector"], modes, lifted)
        status, rows = out["status"], modes.batch.rows
        status[rows[degenerate.any(axis=1) & (status[rows] == Status.OK)]] = Status.DEFECTIVE
    if "eigenvalue_condition" not in out:
        return None
    size = to_host(xp.sqrt((xp.abs(lifted) ** 2).sum(axis=2))).astype(np.float64)
    # What has no part in the core is orthogonal to every left vector.
    return np.where(degenerate, np.inf, size)


def _write_vectors(target: npt.NDArray[Any], modes: CoreModes, lifted: XArray) -> None:
    xp = array_module(lifted)
    unit = canonical_phase(lifted)
    nothing = xp.isnan(xp.asarray(modes.values).real)[:, :, None]
    target[modes.batch.rows, : unit.shape[1]] = to_host(xp.where(nothing, complex(np.nan, np.nan), unit))


def _add_participation(
    linear: Linearization,
    modes: CoreModes,
    right: npt.NDArray[Any],
    left: npt.NDArray[Any],
    counted: npt.NDArray[np.bool_],
    out: Arrays,
) -> None:
    width = counted.shape[1]
    shares = linear.participation(modes.batch.cells, right[:, :width], left[:, :width])
    if "participation" in out:
        known = np.where(counted[:, :, None], shares, complex(np.nan, np.nan))
        out["participation"][modes.batch.rows, :width] = known
    real = np.where(counted[:, :, None], shares.real, 0.0)
    for label in np.unique(modes.batch.labels):
        own = real[modes.batch.labels == label]
        out["participation_sum"][0, label, :width] += own.sum(axis=0)
        out["participation_squares"][0, label, :width] += np.einsum("cmr,cmr->mr", own, own)


def _add_sensitivity(
    linear: Linearization,
    modes: CoreModes,
    right: npt.NDArray[Any],
    left: npt.NDArray[Any],
    counted: npt.NDArray[np.bool_],
    out: Arrays,
) -> None:
    """Add Re(a_i b_j) and its square over cells: products of matrices, no array of cells by edges."""
    effect, cause = linear.edge_factors(modes.batch.cells, right, left)
    effect, cause = (np.where(counted[:, None], part, 0.0) for part in (effect, cause))
    if "top_edge_sensitivity" in out:
        rounding = 1e3 * float(np.finfo(right.dtype).eps)
        _write_top_edges(linear.edges(), modes.batch.rows, effect, cause, rounding, out)
    for label in np.unique(modes.batch.labels[counted]):
        own = counted & (modes.batch.labels == label)
        a, b = effect[own], cause[own]
        total, squares = out["sensitivity_sum"][0, label], out["sensitivity_squares"][0, label]
        total += a.real.T @ b.real
        squares += (a.real**2).T @ b.real**2
        if a.imag.any() or b.imag.any():
            total -= a.imag.T @ b.imag
            squares += (a.imag**2).T @ b.imag**2 - 2.0 * (a.real * a.imag).T @ (b.real * b.imag)


def _add_axis_sensitivity(
    linear: Linearization,
    modes: CoreModes,
    right: npt.NDArray[Any],
    left: npt.NDArray[Any],
    counted: npt.NDArray[np.bool_],
    out: Arrays,
) -> None:
    """Add Re(a_i b_j) over axes and the Jacobian over axes: both become those between genes by the same linear lift."""
    effect, cause = linear.edge_factors(modes.batch.cells, right, left)
    for label in np.unique(modes.batch.labels[counted]):
        own = counted & (modes.batch.labels == label)
        out["axis_sensitivity_sum"][0, label] += (effect[own].T @ cause[own]).real
        cores = to_host(linear.cores(modes.batch.cells[own]))
        out["axis_jacobian_sum"][0, label] += cores.sum(axis=0, dtype=np.float64)


def _write_top_edges(
    edges: tuple[Index, Index],
    rows: Index,
    effect: npt.NDArray[np.complex128],
    cause: npt.NDArray[np.complex128],
    rounding: float,
    out: Arrays,
) -> None:
    """Write, per cell, the edges of its network to which the leading mode is most sensitive.

    Less than `rounding` of what the largest components of both vectors would give is nothing.
    """
    effectors, regulators = edges
    kept = min(out["top_edge_sensitivity"].shape[1], len(effectors))
    if not kept:
        return
    step = max(1, EDGE_BYTES // (8 * len(effectors)))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        a, b = effect[part], cause[part]
        # Three arrays of that size at most, which is what is planned for.
        found, other = a.real[:, effectors], a.imag[:, effectors]
        found *= b.real[:, regulators]
        other *= b.imag[:, regulators]
        found -= other
        size = np.abs(found, out=other)
        np.negative(size, out=size)
        top = np.argpartition(size, kept - 1, axis=1)[:, :kept]
        order = np.lexsort((top, np.take_along_axis(size, top, axis=1)), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        values = np.take_along_axis(found, top, axis=1)
        here = rows[part]
        nothing = np.abs(values) <= rounding * (np.abs(a).max(axis=1) * np.abs(b).max(axis=1))[:, None]
        out["top_edge_sensitivity"][here, :kept] = np.where(nothing, np.nan, values)
        out["top_edge_effector"][here, :kept] = np.where(nothing, -1, effectors[top])
        out["top_edge_regulator"][here, :kept] = np.where(nothing, -1, regulators[top])
