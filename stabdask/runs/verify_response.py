"""Responses of a store against dense inverses, and their sums against the responses they are of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Field
from stabdask.runs.job import RunSpec
from stabdask.schema import Status

__all__ = ["response_error", "wrong_sums"]

_ROUNDINGS = 100.0
"""Roundings, times the condition number, that a response may differ by from that of another algorithm."""


def _has_responses(spec: RunSpec) -> bool:
    """Whether every cell of a store has responses of its own."""
    return "response" in spec.options.variables()


def response_error(
    spec: RunSpec, group: Any, cell: int, J: Array, model: Field, *, rounding: float, limit: float
) -> float | None:
    """Return by how much the responses of a cell differ from those of the dense inverse of its Jacobian.

    Each column of responses is that of one push. Errors are relative to the norm of its column of J^-1, genes in units
    of what the columns of J are. `rounding`, that of the precision responses are computed in, alone makes errors of the
    size of the condition number: where it explains more than `limit`, the error is divided by how much more, so that
    `limit` holds for every cell.

    Returns
    -------
    float or None
        None where there is nothing to compare: the store has no responses, or their status is not OK.
    """
    if not _has_responses(spec) or int(group["response_status"][cell]) != Status.OK:
        return None
    stored = np.asarray(group["response"][cell], dtype=np.float64)
    # Rates of genes lie far apart, which says nothing of how hard J is to invert: rows and columns in units of theirs.
    rows = _largest_of(J, axis=1)
    columns = _largest_of(J / rows[:, None], axis=0)
    scaled = J / rows[:, None] / columns
    try:
        inverse = np.linalg.inv(scaled)
    except np.linalg.LinAlgError:
        return float("inf")
    dense = float(np.linalg.norm(scaled, 1) * np.linalg.norm(inverse, 1))
    condition = max(dense, float(group["response_condition"][cell]))
    lift = np.eye(len(J)) if model.loadings is None else model.loadings
    effectors, regulators = spec.options.block_index(model)
    # What settles, in units of columns: Gaussian elimination rounds the same with them and without.
    settled = -(inverse / rows) @ lift[regulators].T
    read = lift[effectors] / columns
    scale = np.linalg.norm(read, axis=1)[:, None] * np.linalg.norm(settled, axis=0)
    difference = np.abs(stored - read @ settled)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / scale)
    worst = float(relative.max()) if np.isfinite(relative).all() else float("inf")
    explained = _ROUNDINGS * rounding * condition
    return worst / max(1.0, explained / limit)


def _largest_of(matrix: Array, axis: int) -> Array:
    """Return the largest absolute values of rows or columns, 1 for one of zeros."""
    sizes: Array = np.abs(matrix).max(axis=axis)
    return np.where(sizes == 0, 1.0, sizes)


def wrong_sums(spec: RunSpec, group: Any, partitions: Iterable[int], limit: float) -> list[int]:
    """Return which partitions have sums of responses that are not those of the responses of their cells.

    How many cells are in them is compared in any store with sums; what they add up to, where cells have responses too.
    """
    if "response_sum" not in spec.options.variables():
        return []
    return [number for number in partitions if not _sums_agree(spec, group, number, limit)]


def _sums_agree(spec: RunSpec, group: Any, partition: int, limit: float) -> bool:
    rows = slice(*spec.bounds(partition))
    codes = np.asarray(group["cluster_code"][rows])
    good = np.asarray(group["response_status"][rows]) == Status.OK
    stored: dict[str, npt.NDArray[Any]] = {
        name: np.asarray(group[f"response_{name}"][partition]) for name in ("cells", "sum", "abs_sum")
    }
    responses = np.asarray(group["response"][rows], dtype=np.float64) if _has_responses(spec) else None
    for label in range(len(spec.labels)):
        own = good & (codes == label)
        if stored["cells"][label] != own.sum():
            return False
        if responses is None:
            continue
        sizes = np.abs(responses[own]).sum(axis=0)
        for found, expected in (
            (stored["sum"][label], responses[own].sum(axis=0)),
            (stored["abs_sum"][label], sizes),
        ):
            if not (np.abs(found - expected) <= limit * sizes).all():
                return False
    return True
