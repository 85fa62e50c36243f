"""Coordinates of cells, read in strips of as many rows whatever the chunks, so that results do not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STRIP_CELLS", "Coordinates"]

STRIP_CELLS = 1024
"""Cells in a strip."""

_KEPT_BYTES = 256 * 2**20
"""Coordinates that are read once and kept; larger ones are read again for each pass over them."""


_LARGEST = np.float64(1e300)
"""Beyond it coordinates are as good as infinite: sums of them would be."""


class Coordinates:
    """Coordinates of all cells, ``(cell, axis)``, in memory only where they are few.

    Parameters
    ----------
    values
        The cell state or an embedding, lazy or not.

    Raises
    ------
    InputError
        If they are no real numbers, or there are none.
    """

    def __init__(self, values: xr.DataArray) -> None:
        if values.dtype.kind not in "fiub":
            raise InputError(f"{values.name!r} of the cells has dtype {values.dtype}; expected real numbers")
        self.n_cells, self.n_axes = (int(size) for size in values.shape)
        if not self.n_axes:
            raise InputError(f"{values.name!r} of the cells has no columns; expected at least one")
        self._dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
        self.row_bytes = self.n_axes * self._dtype.itemsize
        self._source: Any = values.data
        self._kept: npt.NDArray[Any] | None = None
        if isinstance(self._source, np.ndarray):
            self._kept = self._source.astype(self._dtype, copy=False)

    def strips(self) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Yield the first cell and the coordinates of every `STRIP_CELLS` cells, in the order of the atlas."""
        for start, rows in self._strips():
            yield start, np.asarray(rows, dtype=np.float64)

    def look(self, wanted: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
        """Return which cells have finite coordinates, and the coordinates of those of the `wanted` that have.

        Parameters
        ----------
        wanted
            Positions of cells, ascending.

        Returns
        -------
        finite
            ``(cell,)``.
        values
            ``(wanted cell, axis)`` in the precision of the atlas, without the cells that are not finite.
        """
        finite = np.zeros(self.n_cells, dtype=bool)
        values = np.empty((len(wanted), self.n_axes), dtype=self._dtype)  # memory is taken where it is filled
        n_taken = 0
        for start, rows in self._strips():
            good = (np.abs(rows) <= _LARGEST).all(axis=1)  # NaN is not
            finite[start : start + len(rows)] = good
            if self._kept is not None:
                continue
            first, last = np.searchsorted(wanted, (start, start + len(rows)))
            inside = wanted[first:last] - start
            taken = rows[inside[good[inside]]]
            values[n_taken : n_taken + len(taken)] = taken
            n_taken += len(taken)
        if self._kept is not None:
            wanted = wanted[finite[wanted]]
            return finite, self._kept if len(wanted) == self.n_cells else self._kept[wanted]
        return finite, values[:n_taken]

    def _strips(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        if self._kept is None and self.n_cells * self.row_bytes <= _KEPT_BYTES:
            kept = np.empty((self.n_cells, self.n_axes), dtype=self._dtype)
            for start, rows in self._read():
                kept[start : start + len(rows)] = rows
            self._kept = kept
        if self._kept is None:
            yield from self._read()
            return
        for start in range(0, self.n_cells, STRIP_CELLS):
            yield start, self._kept[start : start + STRIP_CELLS]

    def _read(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Read chunk after chunk, each once, and hand out strips; no more than a chunk and a strip are held."""
        array = self._source
        if len(array.chunks[1]) > 1:
            array = array.rechunk({1: -1})
        strip = np.empty((STRIP_CELLS, self.n_axes), dtype=self._dtype)
        start = n_held = 0
        for number in range(len(array.chunks[0])):
            chunk = array.blocks[number].compute(scheduler="synchronous")
            if not isinstance(chunk, np.ndarray) or chunk.dtype == object:
                raise InputError(
                    "the coordinates do not compute to numbers; pass cells that are not persisted"
                )
            begin = 0
            while begin < len(chunk):
                piece = chunk[begin : begin + STRIP_CELLS - n_held]
                strip[n_held : n_held + len(piece)] = piece
                begin += len(piece)
                n_held += len(piece)
                if n_held == STRIP_CELLS:
                    yield start, strip
                    start, n_held = start + STRIP_CELLS, 0
            del chunk
        if n_held:
            yield start, strip[:n_held]
