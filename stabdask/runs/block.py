"""The pure block function: expression in, named arrays out.

The lazy Dataset, the durable run and the tests all call this one function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field, Index, Linearization
from stabdask.fields.by_cluster import by_cluster
from stabdask.kernels.arrays import XArray, to_host
from stabdask.kernels.threads import single_threaded_blas
from stabdask.runs.between import BETWEEN, write_between
from stabdask.runs.calculus import write_calculus
from stabdask.runs.modes import Batch, CoreModes, cell_status, write_modes
from stabdask.runs.options import Options
from stabdask.runs.scalars import (
    TOP,
    complete_determinants,
    leading,
    write_core_determinants,
    write_core_scalars,
    write_spectral_scalars,
)
from stabdask.runs.shapes import batch_cells, empty_arrays
from stabdask.schema import VARIABLES, Status, added_quantities

__all__ = [
    "NO_LABEL",
    "SKIPPED",
    "BlockTimes",
    "compute_block",
]

NO_LABEL, SKIPPED = -1, -2
"""Cluster codes of cells without a label, and of cells whose cluster has no model and is left out."""

_GPU_BYTES = 2**31
"""What cells that are computed together on a GPU may take of its memory."""


@dataclass
class BlockTimes:
    """Seconds a block spent, by part; closed forms include the activations or kernels that they are made of."""

    closed_form_s: float = 0.0
    eig_s: float = 0.0
    lift_s: float = 0.0
    audit_s: float = 0.0


def compute_block(
    expression: npt.NDArray[Any] | Sequence[npt.NDArray[Any]],
    codes: npt.NDArray[np.integer[Any]],
    field: Field,
    options: Options,
    *,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    columns: npt.NDArray[np.intp] | None = None,
    cells: npt.NDArray[Any] | None = None,
    audited: npt.NDArray[np.bool_] | None = None,
    times: BlockTimes | None = None,
    out: dict[str, npt.NDArray[Any]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Compute every variable asked for, for a block of cells.

    Parameters
    ----------
    expression
        ``(cell, gene)`` in the order of the atlas, or ``(cell, axis)`` coordinates for a field over the axes of an
        embedding; or pieces of it that follow one another.
    codes
        ``(cell,)``: number of each cell's cluster in ``field.clusters``; -1 for a cell without a label and -2
        for one to be left out.
    field
        The velocity field.
    options
        What to compute.
    labels
        ``(cell,)``: number of each cell's label in means over clusters, where that is not its cluster in the field.
    columns
        ``(axis,)`` positions of the field's axes (genes) among the columns of `expression`; None if the same.
    cells
        ``(cell,)`` names for messages; numbers if not given.
    audited
        ``(cell,)``: whose iterated modes to compare with a dense spectrum; none if not given.
    times
        Filled with the seconds spent, if given.
    out
        Where to put the results, as `empty_arrays` makes it, and what to add sums to; new arrays if not given.

    Returns
    -------
    dict
        Arrays named and filled as `stabdask.schema` says, one per variable of `options`.

    Raises
    ------
    InputError
        If finite expression is outside the domain of the field.
    """
    pieces = [expression] if isinstance(expression, np.ndarray) else expression
    n_cells = sum(len(piece) for piece in pieces)
    if out is None:
        n_labels = None if labels is None else int(labels.max(initial=-1)) + 1
        out = empty_arrays(options, field, n_cells, n_labels=n_labels)
    labels = codes if labels is None else labels
    out["status"][codes == NO_LABEL] = Status.NON_FINITE_INPUT
    out["status"][codes == SKIPPED] = Status.NO_MODEL
    names = np.arange(n_cells) if cells is None else cells
    times = BlockTimes() if times is None else times
    compute = partial(
        _compute_cells,
        field=field,
        options=options,
        pairs=options.element_index(field),
        between=options.block_index(field),
        labels=labels,
        audited=audited,
        out=out,
        times=times,
    )
    with single_threaded_blas():
        for some in by_cluster(pieces, codes, columns):
            out["status"][some.not_finite] = Status.NON_FINITE_INPUT
            if not len(some.rows):
                continue
            some.check(field, names)
            compute_some = partial(compute, cluster=some.cluster)
            if options.on_gpu and field.on_gpu:
                _in_gpu_batches(some.x, some.rows, field, options, compute_some, out)
            else:
                compute_some(some.x, some.rows)
    return out


def _compute_cells(
    x: XArray,
    rows: Index,
    *,
    cluster: int,
    field: Field,
    options: Options,
    pairs: tuple[Index, Index],
    between: tuple[Index, Index],
    labels: npt.NDArray[np.integer[Any]],
    audited: npt.NDArray[np.bool_] | None,
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> None:
    """Compute cells of one cluster where their expression is, and fill `out` at `rows`."""
    start = time.perf_counter()
    linear = field.linearize(x, cluster, dtype=options.dtype)
    times.closed_form_s += time.perf_counter() - start
    _compute_cluster(linear, rows, field, options, pairs, between, labels, out, times)
    if options.iterates and audited is not None:
        _audit(linear, rows, audited[rows], options, out, times)


def _in_gpu_batches(
    x: npt.NDArray[Any],
    rows: Index,
    field: Field,
    options: Options,
    compute: Callable[[XArray, Index], None],
    out: dict[str, npt.NDArray[Any]],
) -> None:
    """Bring many cells at a time to the GPU, and `compute` there velocities, spectra and vectors."""
    from stabdask.kernels import cuda

    k = field.largest_core
    vectors = (
        0
        if options.solved_vectors == "none"
        else 16 * options.vector_modes(field) * (6 * field.n_genes + 2 * k)
    )
    over_axes, over_regulators = x.dtype.itemsize + 3 * 8, 16 * 8
    cell_bytes = over_axes * len(field.axes) + over_regulators * len(field.regulator_index) + 16 * k + vectors
    cell_bytes = max(cell_bytes, vectors + field.cell_bytes(x.dtype.itemsize))
    cuda.in_batches(
        len(rows),
        cell_bytes,
        lambda part: _all_or_nothing(partial(compute, cuda.upload(x[part]), rows[part]), out),
        what=f"cells with cores of order up to {k}",
        # As many whatever the memory: products of matrices have other last bits with another number of rows.
        at_once=max(1, _GPU_BYTES // cell_bytes),
    )


def _all_or_nothing(compute: Callable[[], None], out: dict[str, npt.NDArray[Any]]) -> None:
    """Call `compute`; where it fails, take back what it added to sums: what memory is full for is done again."""
    before = {name: values.copy() for name, values in out.items() if VARIABLES[name].per_partition}
    try:
        compute()
    except BaseException:
        for name, values in before.items():
            out[name][...] = values
        raise


def _compute_cluster(
    linear: Linearization,
    rows: npt.NDArray[np.intp],
    field: Field,
    options: Options,
    pairs: tuple[Index, Index],
    between: tuple[Index, Index],
    labels: npt.NDArray[np.integer[Any]],
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> None:
    """Fill `out` at `rows` from the linearization of those cells."""
    start = time.perf_counter()
    out["status"][rows] = Status.OK
    if "active" in out:
        out["active"][rows] = linear.active
    closed_forms = {
        "trace": linear.trace,
        "rotational_norm": linear.rotational_norm,
        "reactivity": linear.reactivity,
        "speed": linear.speed,
        "near_switch_count": linear.near_switch_count,
    }
    for name, compute in closed_forms.items():
        if name in out:
            out[name][rows] = compute()
    for name, quantity in added_quantities().items():
        if name in out:
            out[name][rows] = quantity.values(linear, len(rows))
    if "element" in out:
        out["element"][rows] = linear.elements(*pairs)
    write_calculus(linear, rows, out)
    if BETWEEN & out.keys():
        write_between(linear, rows, labels[rows], *between, out)
    if options.spectrum == "none" or options.iterates:
        write_core_determinants(linear, rows, out)
    times.closed_form_s += time.perf_counter() - start
    if options.spectrum != "none":
        _compute_spectra(linear, rows, field, options, labels, out, times)
    if "logabsdet" in out or "det_sign" in out:
        complete_determinants(linear, rows, out)


def _compute_spectra(
    linear: Linearization,
    rows: Index,
    field: Field,
    options: Options,
    labels: npt.NDArray[np.integer[Any]],
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> None:
    """Fill `out` at `rows` with what is read off eigenvalues and vectors."""
    top = np.empty((len(rows), TOP), dtype=np.complex128)
    rest = linear.rest_leading()
    if options.iterates:
        # Here and below: what it takes to iterate is loaded where it is used, for a quick start everywhere else.
        from stabdask.runs.leading import leading_batch_cells

        state: npt.NDArray[Any] | None = None
        step = leading_batch_cells(options, field)
        for first in range(0, len(rows), step):
            members = np.arange(first, min(first + step, len(rows)))
            batch = Batch(members, rows[members], labels[rows[members]], rest[members, 0])
            top[members], state = _iterate_batch(linear, batch, options, state, out, times)
    else:
        # Cells with cores of similar size go together: little padding, few calls.
        order = np.argsort(linear.sizes, kind="stable")
        step = batch_cells(options, field)
        for first in range(0, len(order), step):
            members = order[first : first + step]
            batch = Batch(members, rows[members], labels[rows[members]], rest[members, 0])
            top[members] = _solve_batch(linear, batch, options, field, out, times)
    start = time.perf_counter()
    write_spectral_scalars(linear, rows, top, rest, options.tolerance, out)
    times.closed_form_s += time.perf_counter() - start


def _solve_batch(
    linear: Linearization,
    batch: Batch,
    options: Options,
    field: Field,
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> npt.NDArray[np.complex128]:
    """Solve the cores of a batch, write their results, return their leading eigenvalues."""
    members, rows = batch.cells, batch.rows
    start = time.perf_counter()
    vectors = options.solved_vectors
    modes = None if vectors == "none" else options.vector_modes(field)
    result = linear.solve(members, modes=modes, vectors=vectors, dtype=options.dtype, backend=options.backend)
    solved = time.perf_counter()
    times.eig_s += solved - start
    sizes = linear.sizes[members]
    out["status"][rows] = cell_status(result, sizes, keeps_vectors=options.vectors != "none")
    found = to_host(result.eigenvalues)
    kept = min(out["eigenvalue"].shape[1], found.shape[1])
    out["eigenvalue"][rows, :kept] = found[:, :kept]
    # Scalars see the whole core even where only its leading modes are kept.
    write_core_scalars(rows, sizes, found, options.tolerance, out)
    for name, values in (("residual", result.residual), ("trace_defect", result.trace_defect)):
        if name in out:
            out[name][rows] = values
    if result.right is not None:
        values = result.eigenvalues[:, : result.right.shape[1]]
        write_modes(linear, CoreModes(batch, values, result.right, result.left), out)
    times.lift_s += time.perf_counter() - solved
    return leading(found)


def _iterate_batch(
    linear: Linearization,
    batch: Batch,
    options: Options,
    state: npt.NDArray[Any] | None,
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[Any] | None]:
    """Iterate for the leading modes of a batch; returns them and what the next batch may start from."""
    members, rows = batch.cells, batch.rows
    from stabdask.runs.leading import core_counts, solve_leading

    begin = time.perf_counter()
    result = solve_leading(linear, members, options, state)
    solved = time.perf_counter()
    times.eig_s += solved - begin
    out["status"][rows] = result.status
    kept = min(out["eigenvalue"].shape[1], result.eigenvalues.shape[1])
    out["eigenvalue"][rows, :kept] = result.eigenvalues[:, :kept]
    for name, counts in zip(
        ("unstable_count", "stable_count"), core_counts(result, options.tolerance), strict=True
    ):
        if name in out:
            out[name][rows] = counts
    if "residual" in out:
        out["residual"][rows] = np.fmax.reduce(result.residual[:, :kept], axis=1, initial=-np.inf)
    if result.right is not None:
        values = result.eigenvalues[:, :kept]
        present = ~np.isnan(values.real)[:, :, None]
        right, left = (
            None
            if vectors is None
            else linear.core_vectors(members, np.where(present, vectors[:, :kept], 0.0))
            for vectors in (result.right, result.left)
        )
        write_modes(linear, CoreModes(batch, values, right, left), out)
    times.lift_s += time.perf_counter() - solved
    return leading(result.eigenvalues), result.start if result.start is not None else state


def _audit(
    linear: Linearization,
    rows: npt.NDArray[np.intp],
    audited: npt.NDArray[np.bool_],
    options: Options,
    out: dict[str, npt.NDArray[Any]],
    times: BlockTimes,
) -> None:
    from stabdask.runs.leading import audit_spectra

    begin = time.perf_counter()
    members = np.flatnonzero(audited)
    found = out["eigenvalue"][rows[members]]
    difference, missed = audit_spectra(linear, members, found, options.residual_tolerance)
    out["audit_difference"][rows[members]] = difference
    out["audit_missed"][rows[members]] = missed
    times.audit_s += time.perf_counter() - begin
