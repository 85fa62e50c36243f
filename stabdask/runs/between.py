"""What is between chosen effectors and regulators: elements of the Jacobian, responses, and their sums over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Array, Index, Linearization
from stabdask.kernels.solve import solve_or_nan
from stabdask.schema import BLOCK_QUANTITIES

__all__ = ["BETWEEN", "BETWEEN_BYTES", "dynamo_sensitivities", "write_between"]

Arrays = dict[str, npt.NDArray[Any]]
Mutual = tuple[tuple[Index, Index], tuple[Index, Index]]

BETWEEN = {name for names in BLOCK_QUANTITIES.values() for name in names}
"""The variables that are written here."""

BETWEEN_BYTES = 16 * 2**20
"""Elements that are worked on together."""


def write_between(
    linear: Linearization,
    rows: Index,
    labels: npt.NDArray[np.integer[Any]],
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
        if "response" in out:
            out["response"][here] = linear.response(cells, effectors, regulators)
        if "dynamo_sensitivity" in out:
            whole = dynamo_sensitivities(linear.block(cells, union, union))
            out["dynamo_sensitivity"][here] = whole[:, rows_of[:, None], columns_of]
        if "jacobian" in out or "jacobian_sum" in out:
            elements = linear.block(cells, effectors, regulators)
            if "jacobian" in out:
                out["jacobian"][here] = elements
            if "jacobian_sum" in out:
                _add(elements, labels[cells], mutual, out)


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


def _add(elements: Array, labels: npt.NDArray[np.integer[Any]], mutual: Mutual | None, out: Arrays) -> None:
    """Add elements, their sizes and the products of mutual inhibition to the sums of each label."""
    for label in np.unique(labels):
        own = elements[labels == label]
        out["jacobian_cells"][0, label] += len(own)
        out["jacobian_sum"][0, label] += own.sum(axis=0)
        out["jacobian_abs_sum"][0, label] += np.abs(own).sum(axis=0)
        if mutual is not None:
            there, back = mutual
            one, other = own[:, there[0], there[1]], own[:, back[0], back[1]]
            # Products of what is negative both ways.
            out["switch_sum"][0, label][there] += (np.minimum(one, 0.0) * np.minimum(other, 0.0)).sum(axis=0)
