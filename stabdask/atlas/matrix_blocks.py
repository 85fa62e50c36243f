"""Matrices of an AnnData, on disk or in memory, as Dask arrays of dense blocks of whole rows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.files import Place, existing_place, local_path, open_group, place_of

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["Columns", "memory_blocks", "opened_file", "read_blocks", "read_csr", "read_dense", "scan_csc"]

Columns = npt.NDArray[np.intp] | None
"""Positions of the columns wanted, or None for all."""

_SCAN_ENTRIES = 2**22


def memory_blocks(matrix: Any, rows: int, columns: Columns) -> da.Array:
    """Return a matrix in memory, dense, sparse or lazy, as dense blocks of `rows` rows."""
    import dask.array as da
    from scipy import sparse

    if isinstance(matrix, da.Array):
        return _dense(matrix.rechunk((rows, -1)), columns)
    if sparse.issparse(matrix):
        matrix = matrix.tocsr()
    elif not isinstance(matrix, np.ndarray):
        matrix = np.asarray(matrix)
    dtype = _float_dtype(matrix.dtype)
    # Each task holds its own rows only, so that a partition never carries the rest of the atlas along.
    return _row_tasks(
        matrix.shape, rows, columns, dtype, lambda start, stop: (_take, matrix[start:stop], columns, dtype)
    )


def read_blocks(
    read: Callable[..., npt.NDArray[Any]],
    place: Place,
    key: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    rows: int,
    columns: Columns,
    version: str,
) -> da.Array:
    """Return a stored matrix as blocks that `read` reads, such as `read_dense`, `read_csr` or `scan_csc`.

    `version` changes whenever what is in a bucket does.
    """
    out = _float_dtype(dtype)
    return _row_tasks(
        shape,
        rows,
        columns,
        out,
        lambda start, stop: (read, str(place), key, start, stop, columns, out, version),
    )


def _row_tasks(
    shape: tuple[int, int],
    rows: int,
    columns: Columns,
    dtype: np.dtype[Any],
    task: Callable[[int, int], tuple[Any, ...]],
) -> da.Array:
    """Make a Dask array whose block of rows start:stop is computed by ``task(start, stop)``."""
    import dask.array as da

    name = f"cells-{uuid.uuid4().hex}"
    starts = range(0, max(shape[0], 1), rows)
    stops = [min(start + rows, shape[0]) for start in starts]
    graph = {
        (name, i, 0): task(start, stop) for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
    }
    sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
    n_columns = shape[1] if columns is None else len(columns)
    return da.Array(graph, name, chunks=(sizes, (n_columns,)), dtype=dtype)


def read_dense(
    path: str, key: str, start: int, stop: int, columns: Columns, dtype: np.dtype[Any], version: str
) -> npt.NDArray[Any]:
    """Read rows of a dense stored matrix.

    The file is opened here, not where the task was made: a Zarr array whose folder a worker does not see
    would read as zeros.
    """
    with _opened_elements(path, [key], version) as (element,):
        return _take(element[start:stop], columns, dtype)


def read_csr(
    path: str, key: str, start: int, stop: int, columns: Columns, dtype: np.dtype[Any], version: str
) -> npt.NDArray[Any]:
    """Read rows of a stored CSR matrix: of its pointers, indices and numbers, those of these rows only."""
    from scipy import sparse

    keys = [key, *(f"{key}/{name}" for name in ("indptr", "indices", "data"))]
    with _opened_elements(path, keys, version) as (element, ends, indices, data):
        width = int(element.attrs["shape"][1])
        pointers = np.asarray(ends[start : stop + 1])
        own = slice(int(pointers[0]), int(pointers[-1]))
        parts = (data[own], indices[own], pointers - pointers[0])
    return _take(sparse.csr_matrix(parts, shape=(stop - start, width)), columns, dtype)


@contextmanager
def _opened_elements(path: str, keys: list[str], version: str) -> Iterator[list[Any]]:
    if place_of(path).local is None:
        yield [_bucket_element(path, key, version) for key in keys]
        return
    with opened_file(path) as root:
        yield [root[key] for key in keys]


@lru_cache(maxsize=16)
def _bucket_element(path: str, key: str, version: str) -> Any:
    """Open an element in a bucket once per process: to open it for each block takes more requests than to read it."""
    return open_group(path)[key]


@contextmanager
def opened_file(path: str) -> Iterator[Any]:
    """Give the root group of an h5ad file or a zarr AnnData."""
    import h5py

    place = place_of(path)
    if place.is_folder():
        yield open_group(place)
        return
    with h5py.File(local_path(existing_place(place, "atlas").origin, "an h5ad file"), "r") as root:
        yield root


def scan_csc(
    path: str, key: str, start: int, stop: int, columns: Columns, dtype: np.dtype[Any], version: str
) -> npt.NDArray[Any]:
    """Collect rows of a stored CSC matrix in one pass over it, in bounded memory."""
    with opened_file(path) as root:
        element = root[key]
        pointers = element["indptr"][...]
        n_genes = len(pointers) - 1
        wanted = np.arange(n_genes) if columns is None else columns
        position = np.full(n_genes, -1)
        position[wanted] = np.arange(len(wanted))
        out = np.zeros((stop - start, len(wanted)), dtype=dtype)
        first = 0
        while first < n_genes:
            last = int(np.searchsorted(pointers, pointers[first] + _SCAN_ENTRIES, side="right")) - 1
            last = min(max(last, first + 1), n_genes)
            low, high = int(pointers[first]), int(pointers[last])
            row = element["indices"][low:high]
            inside = (row >= start) & (row < stop)
            column = np.repeat(np.arange(first, last), np.diff(pointers[first : last + 1]))[inside]
            target = position[column]
            kept = target >= 0
            values = element["data"][low:high][inside][kept]
            np.add.at(out, (row[inside][kept] - start, target[kept]), values)
            first = last
    return out


def _dense(lazy: da.Array, columns: Columns) -> da.Array:
    """Cut a Dask array of whole-row blocks, dense or sparse, to `columns` and make the blocks dense."""
    dtype = _float_dtype(lazy.dtype)
    width = lazy.shape[1] if columns is None else len(columns)
    dense: da.Array = lazy.map_blocks(
        _take,  # type: ignore[arg-type]
        columns,
        dtype,
        dtype=dtype,
        chunks=(lazy.chunks[0], (width,)),
        meta=np.empty((0, 0), dtype=dtype),
    )
    return dense


def _take(block: Any, columns: Columns, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if columns is not None:
        block = block[:, columns]
    if hasattr(block, "toarray"):
        block = block.toarray()
    return np.asarray(block, dtype=dtype)


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    return dtype if dtype in (np.dtype(np.float32), np.dtype(np.float64)) else np.dtype(np.float64)
