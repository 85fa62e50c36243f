"""The cells of a block by cluster: a field is linearized at those of one cluster together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field, Index
from stabdask.kernels.rows import take_rows

__all__ = ["ClusterCells", "by_cluster"]


class ClusterCells(NamedTuple):
    """Cells of one cluster in a block.

    Attributes
    ----------
    cluster
        Number of the cluster in the field.
    rows
        ``(cell,)`` rows of the block that are finite, ascending.
    x
        ``(cell, axis)`` their state.
    not_finite
        Rows of the cluster that hold NaN or infinity.
    lowest
        The least number of `x`; infinity if there is none.
    """

    cluster: int
    rows: Index
    x: npt.NDArray[Any]
    not_finite: Index
    lowest: float

    def check(self, field: Field, names: npt.NDArray[Any]) -> None:
        """Hold the states to the domain of `field`, looking at each only if the lowest does not say enough.

        Raises
        ------
        InputError
            If one is outside; `names` of the cells of the block are for the message.
        """
        if self.lowest < field.domain_from(self.cluster):
            field.check_expression(self.x, self.cluster, names[self.rows])


def by_cluster(
    block: npt.NDArray[Any] | Sequence[npt.NDArray[Any]],
    codes: npt.NDArray[np.integer[Any]],
    columns: Index | None = None,
) -> Iterator[ClusterCells]:
    """Yield the cells of each cluster in turn, by ascending number; there may be no finite ones.

    Parameters
    ----------
    block
        ``(cell, gene)`` expression in the order of the atlas, or pieces of it that follow one another.
    codes
        ``(cell,)``: number of each cell's cluster in the field; negative for cells to be left out.
    columns
        ``(axis,)`` positions of the field's axes among the columns of `block`; None if the same.
    """
    pieces = [block] if isinstance(block, np.ndarray) else block
    for cluster in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero(codes == cluster)
        x, finite, lowest = take_rows(pieces, rows, columns)
        if finite.all():
            yield ClusterCells(int(cluster), rows, x, rows[:0], float(lowest.min(initial=np.inf)))
        else:
            least = float(lowest[finite].min(initial=np.inf))
            yield ClusterCells(int(cluster), rows[finite], x[finite], rows[~finite], least)
