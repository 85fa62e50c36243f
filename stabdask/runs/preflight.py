"""A look at the data before a run: small inputs whole, large ones in a sample.

Bad input is refused here, before anything is written. Of a large atlas only evenly spaced blocks are looked at,
so that a run reads its input once; what hides between them is found when its partition is computed.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.cells import cell_names, cell_state
from stabdask.errors import InputError
from stabdask.fields.base import Field
from stabdask.fields.by_cluster import by_cluster

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Preflight", "preflight"]

_LOOK_BYTES = 32 * 2**20
_KEPT_CELLS = 512
_KEPT_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Preflight:
    """What the look found.

    Attributes
    ----------
    digest
        Hash of the expression looked at.
    n_cells_checked
        How many cells were checked.
    rows
        ``(sample,)`` some of the cells looked at, for estimating times.
    expression
        ``(sample, gene of the atlas)``: their expression.
    read_s
        Seconds that reading a cell took, the median over the blocks looked at.
    """

    digest: str
    n_cells_checked: int
    rows: npt.NDArray[np.intp]
    expression: npt.NDArray[Any]
    read_s: float


def preflight(
    cells: xr.Dataset,
    field: Field,
    model_codes: npt.NDArray[np.int32],
    columns: npt.NDArray[np.intp] | None,
) -> Preflight:
    """Check expression against the domain of the field and hash it.

    Raises
    ------
    InputError
        If finite expression of a cell is outside the domain (negative, say).
    """
    array = cell_state(cells).data
    names = cell_names(cells)
    starts = np.concatenate([[0], np.cumsum(array.chunks[0])])
    digest = hashlib.blake2b(digest_size=16)
    kept_rows: list[npt.NDArray[np.intp]] = []
    kept: list[npt.NDArray[Any]] = []
    n_checked = 0
    row_bytes = array.shape[1] * array.dtype.itemsize
    numbers = _spread(array.chunks[0], row_bytes)
    per_block = -(-max(1, min(_KEPT_CELLS, _KEPT_BYTES // row_bytes)) // len(numbers))
    read_s = []
    for number in numbers:
        start = int(starts[number])
        begin = time.perf_counter()
        block = np.asarray(array.blocks[int(number)].compute(scheduler="synchronous"))
        if block.dtype == object or not isinstance(block, np.ndarray):
            raise InputError("the expression does not compute to numbers; pass cells that are not persisted")
        read_s.append((time.perf_counter() - begin) / max(1, len(block)))
        digest.update(np.ascontiguousarray(block).tobytes())
        _check_block(block, start, names, field, model_codes, columns)
        n_checked += len(block)
        rows = np.unique(np.linspace(0, len(block) - 1, min(per_block, len(block))).astype(np.intp))
        kept_rows.append(start + rows)
        kept.append(block[rows])
    return Preflight(
        digest.hexdigest(),
        n_checked,
        np.concatenate(kept_rows),
        np.concatenate(kept),
        float(np.median(read_s)),
    )


def _check_block(
    block: npt.NDArray[Any],
    start: int,
    names: npt.NDArray[Any],
    field: Field,
    model_codes: npt.NDArray[np.int32],
    columns: npt.NDArray[np.intp] | None,
) -> None:
    codes = model_codes[start : start + len(block)]
    for some in by_cluster(block, codes, columns):
        if len(some.rows):
            some.check(field, names[start : start + len(block)])


def _spread(chunks: tuple[int, ...], row_bytes: int) -> npt.NDArray[np.intp]:
    """Return the numbers of the blocks to look at: all if they are small, else evenly spaced ones."""
    total = sum(chunks) * row_bytes
    if total <= _LOOK_BYTES:
        return np.arange(len(chunks))
    n_blocks = max(3, int(_LOOK_BYTES // (max(chunks) * row_bytes)))
    return np.unique(np.linspace(0, len(chunks) - 1, min(n_blocks, len(chunks))).astype(np.intp))
