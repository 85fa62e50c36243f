"""Knockouts as Dask tasks, each of some cells, whose results go where they belong as soon as they are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.knockouts import Knockouts, predict_shifts, solve_knockouts
from stabdask.fields.base import Field, Index, Linearization
from stabdask.fields.by_cluster import by_cluster
from stabdask.kernels.threads import single_threaded_blas
from stabdask.runs.block import SKIPPED
from stabdask.runs.knockout_results import empty_knockouts
from stabdask.schema import Status

if TYPE_CHECKING:
    from distributed import Client

    from stabdask.runs.job import Job

__all__ = ["compute_knockouts"]

Array = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]
Flags = npt.NDArray[np.bool_]

_TASK_CORES = 2**13
"""Cores that a task solves, about: some tenths of a second, so that many workers share a sample of cells."""
_MOST_CELLS = 1024
_FEWEST_CELLS = 16

_PREDICTED = ("predicted_shift",)


@dataclass(frozen=True)
class _Work:
    """What all tasks have in common.

    Attributes
    ----------
    knockouts
        What to remove.
    columns
        Positions of the field's genes in the atlas, or None if they are the same.
    tolerance, dtype, backend
        As in `stabdask.knockouts`.
    predict, solve
        Whether to predict shifts, and whether to solve cores.
    solved
        ``(label, knockout)``: what to solve of the cells of each label; None for all.
    """

    knockouts: Knockouts
    columns: Index | None
    tolerance: float
    dtype: str
    backend: str
    predict: bool = True
    solve: bool = True
    solved: Flags | None = None


@dataclass(frozen=True)
class _Cells:
    """The cells of a task: numbers of their clusters in the field, of their labels, and their names."""

    model_codes: npt.NDArray[np.int32]
    label_codes: npt.NDArray[np.int32]
    names: npt.NDArray[Any]


class _Results:
    """The arrays of all cells. Not a dataclass: Dask would take one apart."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def write(self, found: Arrays, start: int) -> None:
        """Write the results of the cells from `start` on."""
        for name, values in found.items():
            self.arrays[name][start : start + len(values)] = values


def compute_knockouts(job: Job, chosen: Knockouts, screen: int | None, client: Client | None) -> Arrays:
    """Return every variable for all cells of a job.

    With `screen`, shifts of all cells are predicted before any core is solved, and the cells are read again for it:
    expression of a whole atlas is not held meanwhile.
    """
    arrays = empty_knockouts(job.spec.n_cells, len(chosen.names))
    options = job.spec.options
    work = _Work(chosen, job.columns, options.tolerance, options.dtype, options.backend)
    # Of the atlas and the knockouts alone, so that results do not depend on workers.
    rows = int(np.clip(_TASK_CORES // len(chosen.names), _FEWEST_CELLS, _MOST_CELLS))
    expression = job.expression.rechunk({0: min(rows, max(job.expression.chunks[0])), 1: -1})
    starts = np.concatenate([[0], np.cumsum(expression.chunks[0])]).astype(int).tolist()
    if screen is None:
        _run(job, expression, starts, work, arrays, client)
        return arrays
    _run(job, expression, starts, replace(work, solve=False), arrays, client)
    sums = np.zeros((2, len(job.spec.labels), len(chosen.names)))
    for start, stop in pairwise(starts):
        _add(sums, arrays["predicted_shift"][start:stop], job.label_codes[start:stop])
    solved = _most_promising(sums, screen)
    _run(job, expression, starts, replace(work, predict=False, solved=solved), arrays, client)
    return arrays


def _run(
    job: Job, expression: Any, starts: Sequence[int], work: _Work, arrays: Arrays, client: Client | None
) -> None:
    """Compute what `work` says for all cells, and write it to `arrays` as it comes: no result is held twice."""
    from dask.base import compute
    from dask.delayed import delayed

    common = delayed(work)
    model = delayed(job.field, name=f"field-{job.field.fingerprint}", pure=True)
    names, blocks = job.cell_names, expression.to_delayed()[:, 0]
    tasks = [
        delayed(_compute_block)(
            block,
            _Cells(job.model_codes[start:stop], job.label_codes[start:stop], names[start:stop]),
            model,
            common,
        )
        for (start, stop), block in zip(pairwise(starts), blocks, strict=True)
    ]
    results = _Results(arrays)
    if client is None:
        # What writes is a task as well, so that what it wrote is let go.
        writes = [delayed(results.write)(task, start) for task, start in zip(tasks, starts[:-1], strict=True)]
        compute(*writes, scheduler="threads")
    else:
        _gather(client, tasks, starts, results)


def _gather(client: Client, tasks: list[Any], starts: Sequence[int], results: _Results) -> None:
    """Let the workers of a client compute tasks, and fetch what is done while they go on."""
    from distributed import as_completed

    futures = client.compute(tasks)
    place = {future.key: start for future, start in zip(futures, starts[:-1], strict=True)}
    try:
        for future, found in as_completed(futures, with_results=True):
            results.write(found, place[future.key])
            future.release()
    except BaseException:
        client.cancel(futures)
        raise


def _compute_block(block: npt.NDArray[Any], some: _Cells, field: Field, work: _Work) -> Arrays:
    """Return the variables of the cells of a block that `work` asks for."""
    empty = empty_knockouts(len(block), len(work.knockouts.names))
    out = {
        name: values for name, values in empty.items() if (work.predict if name in _PREDICTED else work.solve)
    }
    how: dict[str, Any] = {"dtype": work.dtype, "backend": work.backend}
    if work.solve:
        out["status"][:] = Status.NON_FINITE_INPUT
        out["status"][some.model_codes == SKIPPED] = Status.NO_MODEL
    with single_threaded_blas():
        for cluster, rows, linear in _clusters(block, some, field, work):
            if work.predict:
                shifts = predict_shifts(linear, field, cluster, work.knockouts, **how)
                out["predicted_shift"][rows] = shifts
            if work.solve:
                asked = (
                    np.ones((len(rows), len(work.knockouts.names)), dtype=bool)
                    if work.solved is None
                    else work.solved[some.label_codes[rows]]
                )
                found = solve_knockouts(
                    linear, field, cluster, work.knockouts, asked, tolerance=work.tolerance, **how
                )
                for name, values in vars(found).items():
                    out[name][rows] = values
    return out


def _clusters(
    block: npt.NDArray[Any], some: _Cells, field: Field, work: _Work
) -> Iterator[tuple[int, Index, Linearization]]:
    """Yield the number of each cluster of a block, its finite cells, and their linearization."""
    for part in by_cluster(block, some.model_codes, work.columns):
        if len(part.rows):
            part.check(field, some.names)
            yield part.cluster, part.rows, field.linearize(part.x, part.cluster, dtype=work.dtype)


def _add(sums: Array, shifts: Array, labels: npt.NDArray[np.int32]) -> None:
    """Add predicted shifts to their sums, and how many there are to their counts: ``(2, label, knockout)``."""
    for label in np.unique(labels[labels >= 0]):
        own = shifts[labels == label]
        sums[0, label] += np.nansum(own, axis=0)
        sums[1, label] += (~np.isnan(own)).sum(axis=0)


def _most_promising(sums: Array, screen: int) -> Flags:
    """Return which knockouts to solve in each cluster, ``(label, knockout)``: the largest mean predicted shifts."""
    total, counts = sums
    # Of equal ones, the first.
    order = np.argsort(-np.abs(total) / np.maximum(counts, 1), axis=1, kind="stable")[:, :screen]
    solved = np.zeros(total.shape, dtype=bool)
    np.put_along_axis(solved, order, True, axis=1)
    return solved
