"""What is between chosen effectors and regulators: elements of the Jacobian, responses, and their sums over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization
from stabdask.kernels.solve import solve_or_nan
from stabdask.schema import BLOCK_QUANTITIES, Status

__all__ = ["BETWEEN", "BETWEEN_BYTES", "dynamo_sensitivities", "write_between"]

Arrays = dict[str, npt.NDArray[Any]]
Labels = npt.NDArray[np.integer[Any]]
Mutual = tuple[tuple[Index, Index], tuple[Index, Index]]

BETWEEN = {name for names in BLOCK_QUANTITIES.values() for name in names}
"""The variables that are written here."""

BETWEEN_BYTES = 16 * 2**20
"""Elements that are worked on together."""
_WORST = 1e-3
"""Relative error, as the condition number bounds it, from which on responses count as inaccurate."""


def write_between(
    linear: Linearization,
    rows: Index,
    labels: Labels,
    effectors: Index,
    regulators: Index,
    out: Arrays,
) -> None:
    """Write blocks of elements of each cell, and add them to the sums of their labels, a few cells at a time."""
    union = np.union1d(effectors, regulators)
    widest = len(effectors) * len(regulators)
    if "dynamo_sensitivity" in out:
        widest = max(widest, 2 * len(union) ** 2)
    rows_of, columns_of = (np.searchsorted(union, genes) for genes in (effectors, regulators))
    mutual = _mutual(effectors, regulators) if "switch_sum" in out else None
    step = max(1, BETWEEN_BYTES // (8 * widest))
    for first in range(0, len(rows), step):
        cells = np.arange(first, min(first + step, len(rows)))
        here = rows[cells]
        if "response_status" in out:
            _write_responses(linear, cells, here, labels[cells], (effectors, regulators), out)
        if "dynamo_sensitivity" in out:
            whole = dynamo_sensitivities(linear.block(cells, union, union))
            out["dynamo_sensitivity"][here] = whole[:, rows_of[:, None], columns_of]
        if "jacobian" in out or "jacobian_sum" in out:
            elements = linear.block(cells, effectors, regulators)
            if "jacobian" in out:
                out["jacobian"][here] = elements
            if "jacobian_sum" in out:
                _add("jacobian", elements, labels[cells], out)
                _add_switches(elements, labels[cells], mutual, out)


def dynamo_sensitivities(jacobians: Array) -> Array:
    """Return ``S = (I - J)^-1 diag(1 / diag((I - J)^-1))`` of square J ``(cell, gene, gene)``; NaN where singular.

    Examples
    --------
    >>> dynamo_sensitivities(np.array([[[0.0, 0.5], [0.0, 0.0]]]))
    array([[[1. , 0.5],
            [0. , 1. ]]])
    """
    n = jacobians.shape[1]
    inverse = solve_or_nan(np.eye(n) - jacobians, np.eye(n))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = inverse / np.einsum("cii->ci", inverse)[:, None, :]
    return found


def _mutual(effectors: Index, regulators: Index) -> Mutual:
    """Return where elements are between genes that are both, and where the element that goes the other way is."""
    _, i, j = np.intersect1d(effectors, regulators, return_indices=True)
    # Both lists are of the same genes in the same order, so that there and back are each other's transpose.
    return (i[:, None], j), (i, j[:, None])


def _write_responses(
    linear: Linearization,
    cells: Index,
    rows: Index,
    labels: Labels,
    between: tuple[Index, Index],
    out: Arrays,
) -> None:
    """Write responses, how well they are conditioned and what became of them, and add the good ones to sums."""
    responses, condition = linear.response(cells, *between)
    status = np.where(condition * linear.rounding > _WORST, Status.INACCURATE, Status.OK)
    status[np.isinf(condition)] = Status.SINGULAR
    out["response_status"][rows], out["response_condition"][rows] = status, condition
    if "response" in out:
        out["response"][rows] = responses
    if "response_sum" in out:
        good = status == Status.OK
        _add("response", responses[good], labels[good], out)


def _add(name: str, elements: Array, labels: Labels, out: Arrays) -> None:
    """Add elements and their sizes to the sums of each label."""
    for label in np.unique(labels):
        own = elements[labels == label]
        out[f"{name}_cells"][0, label] += len(own)
        out[f"{name}_sum"][0, label] += own.sum(axis=0)
        out[f"{name}_abs_sum"][0, label] += np.abs(own).sum(axis=0)


def _add_switches(elements: Array, labels: Labels, mutual: Mutual | None, out: Arrays) -> None:
    """Add the products of mutual inhibition to the sums of each label."""
    if mutual is None:
        return
    there, back = mutual
    for label in np.unique(labels):
        own = elements[labels == label]
        one, other = own[:, there[0], there[1]], own[:, back[0], back[1]]
        # Products of what is negative both ways.
        out["switch_sum"][0, label][there] += (np.minimum(one, 0.0) * np.minimum(other, 0.0)).sum(axis=0)
