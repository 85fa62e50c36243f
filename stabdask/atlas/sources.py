"""Where cells come from: one source per file or AnnData object, read in blocks of whole rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.annotations import label_text
from stabdask.atlas.matrix_blocks import Columns, memory_blocks, read_blocks, read_csr, read_dense, scan_csc
from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.axes import axis_names
from stabdask.files import Place, existing_place, local_path, open_group

if TYPE_CHECKING:
    import dask.array as da
    from anndata import AnnData

__all__ = [
    "CellSource",
    "column_of_file",
    "column_of_object",
    "frame_index",
    "open_cell_source",
]


@dataclass(frozen=True)
class CellSource:
    """Cells of one file or object.

    Attributes
    ----------
    name
        What messages call it.
    cells, genes
        Names, ``(cell,)`` and ``(gene,)``; of axes, where coordinates take the place of expression.
    labels
        ``(cell,)`` cluster labels, NaN for a cell without one.
    label_order
        Labels in the order of their categories.
    chunk_rows
        Rows in a chunk of the file, or None where rows can be read one by one.
    scattered
        Whether reading a row means scanning the whole matrix (CSC).
    n_bytes
        Bytes of the matrix as stored.
    facts
        What identifies the input, for the fingerprint of a run.
    blocks
        Function of (rows per block, columns or None) that returns the expression as a Dask array of dense
        whole-row blocks.
    """

    name: str
    cells: npt.NDArray[np.object_]
    genes: npt.NDArray[np.str_]
    labels: npt.NDArray[np.object_]
    label_order: tuple[str, ...]
    chunk_rows: int | None
    scattered: bool
    n_bytes: int
    facts: dict[str, Any]
    blocks: Callable[[int, Columns], da.Array]


def open_cell_source(
    source: AnnData | str | Path, *, layer: str | None, cluster_key: str | None, obsm: str | None = None
) -> CellSource:
    """Open a path or an AnnData object: expression over genes, or with `obsm` coordinates over the axes of that key.

    Raises
    ------
    MissingFileError, MissingKeyError, InputError
        As `stabdask.open_cells`.
    """
    if isinstance(source, str | Path):
        # Absolute, because tasks open the file wherever they run.
        return _from_place(existing_place(source, "atlas").absolute(), layer, cluster_key, obsm)
    if not hasattr(source, "obs_names"):
        raise InputError(f"expected a path or an AnnData, found {type(source).__name__}")
    if getattr(source, "isbacked", False) and layer is None and obsm is None:
        if source.is_view:
            raise InputError(
                "a view of a backed AnnData cannot be read in blocks; call .to_memory() on it first"
            )
        # Names and labels are those of the object: they may have been changed since it was opened.
        file = _from_place(existing_place(source.filename, "atlas").absolute(), None, None, None)
        return replace(
            file, facts={**file.facts, "cluster_key": cluster_key or ""}, **_annotations(source, cluster_key)
        )
    return _from_object(source, layer, cluster_key, obsm)


def _from_place(place: Place, layer: str | None, cluster_key: str | None, obsm: str | None) -> CellSource:
    if place.is_folder():
        return _from_root(open_group(place), place, layer, cluster_key, obsm)
    path = local_path(place.origin, f"an atlas that is one file ({place.name})")
    import h5py

    try:
        root = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is neither an h5ad file nor a zarr AnnData ({error})") from error
    with root:
        return _from_root(root, place, layer, cluster_key, obsm)


def _from_root(
    root: Any, place: Place, layer: str | None, cluster_key: str | None, obsm: str | None
) -> CellSource:
    for needed in ("obs", "var"):
        if needed not in root:
            raise InputError(f"{place} has no {needed!r}; expected an AnnData file")
        if not hasattr(root[needed], "keys"):
            raise InputError(
                f"{place} was written by an AnnData older than 0.7; write it anew with "
                "anndata.read_h5ad(path).write_h5ad(new_path)"
            )
    key = _key_of_file(root, place.name, layer, obsm)
    element = root[key]
    cells = frame_index(root["obs"])
    if obsm is None:
        genes = frame_index(root["var"])
    else:
        genes = _axes(obsm, getattr(element, "shape", None), len(cells), place.name)
    column = None if cluster_key is None else column_of_file(root, cluster_key, place.name)
    labels, order = _labels(column, len(cells))
    encoding = str(element.attrs.get("encoding-type", "array"))
    scattered = encoding == "csc_matrix"
    sparse = encoding in ("csr_matrix", "csc_matrix")
    if encoding == "null" or not (sparse or hasattr(element, "shape")):
        raise InputError(
            f"{key} of {place.name} is stored as {encoding!r}; expected a dense array, a CSR or a CSC matrix"
        )
    shape = tuple(map(int, element.attrs["shape"] if sparse else element.shape))
    if shape != (len(cells), len(genes)):
        raise InputError(f"{key} of {place.name} has shape {shape}; expected ({len(cells)}, {len(genes)})")
    stored = element["data"] if sparse else element

    def blocks(rows: int, columns: Columns) -> da.Array:
        read = {"csr_matrix": read_csr, "csc_matrix": scan_csc}.get(encoding, read_dense)
        return read_blocks(read, place, key, shape, stored_dtype, rows, columns, version)

    facts = place.identity(key)
    text = json.dumps(facts, sort_keys=True)
    version = "" if place.local is not None else hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    stored_dtype = stored.dtype
    return CellSource(
        name=place.name,
        cells=cells.astype(object),
        genes=genes,
        labels=labels,
        label_order=order,
        chunk_rows=None if sparse else _chunk_rows(element),
        scattered=scattered,
        n_bytes=int(stored.size * stored.dtype.itemsize * (2 if sparse else 1)),
        facts={
            **facts,
            "element": key,
            "cluster_key": cluster_key or "",
        },
        blocks=blocks,
    )


def _key_of_file(root: Any, name: str, layer: str | None, obsm: str | None) -> str:
    """Return where the matrix is in an open AnnData file."""
    if obsm is not None:
        keys = list(root["obsm"]) if "obsm" in root else []
        if obsm not in keys:
            raise _no_obsm(obsm, keys, name)
        return f"obsm/{obsm}"
    layers = list(root["layers"]) if "layers" in root else []
    if layer is not None and layer not in layers:
        raise _no_layer(layer, layers, name)
    if layer is None and "X" not in root:
        raise MissingKeyError(f"{name} has no X; choose a layer: {', '.join(map(repr, layers)) or 'none'}")
    return "X" if layer is None else f"layers/{layer}"


def _axes(obsm: str, shape: Any, n_cells: int, name: str) -> npt.NDArray[np.str_]:
    """Return the names of the axes of coordinates of that shape."""
    if shape is None or len(shape) != 2 or shape[0] != n_cells or shape[1] == 0:
        found = "no array of numbers" if shape is None else f"shape {tuple(shape)}"
        raise InputError(f"obsm[{obsm!r}] of {name} has {found}; expected ({n_cells:,}, axes)")
    return np.asarray(axis_names(obsm.removeprefix("X_"), int(shape[1])), dtype=np.str_)


def _from_object(adata: AnnData, layer: str | None, cluster_key: str | None, obsm: str | None) -> CellSource:
    name = "the AnnData"
    found = _annotations(adata, cluster_key)
    if obsm is not None:
        if obsm not in adata.obsm:
            raise _no_obsm(obsm, list(adata.obsm), name)
        matrix = adata.obsm[obsm]
        if hasattr(matrix, "to_numpy"):  # a table
            matrix = matrix.to_numpy()
        found["genes"] = _axes(obsm, getattr(matrix, "shape", None), adata.n_obs, name)
    else:
        if layer is not None and layer not in adata.layers:
            raise _no_layer(layer, list(adata.layers), name)
        matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise MissingKeyError(
            f"{name} has no X; choose a layer: {', '.join(map(repr, adata.layers)) or 'none'}"
        )
    return CellSource(
        name=name,
        **found,
        chunk_rows=None,
        scattered=False,
        n_bytes=int(getattr(matrix, "nbytes", 0) or 4 * matrix.shape[0] * matrix.shape[1]),
        facts={
            "path": "",
            "element": f"obsm/{obsm}" if obsm is not None else layer or "X",
            "cluster_key": cluster_key or "",
        },
        blocks=lambda rows, wanted: memory_blocks(matrix, rows, wanted),
    )


def _annotations(adata: AnnData, cluster_key: str | None) -> dict[str, Any]:
    """Return names and labels of an AnnData object, by the attributes of a source."""
    column = None if cluster_key is None else column_of_object(adata, cluster_key, "the AnnData")
    labels, order = _labels(column, adata.n_obs)
    return {
        "cells": np.asarray([str(cell) for cell in adata.obs_names], dtype=object),
        "genes": np.asarray([str(gene) for gene in adata.var_names], dtype=np.str_),
        "labels": labels,
        "label_order": order,
    }


def _chunk_rows(element: Any) -> int | None:
    shards = getattr(element, "shards", None)
    chunks = shards or getattr(element, "chunks", None)
    return int(chunks[0]) if chunks else None


def frame_index(frame: Any) -> npt.NDArray[np.str_]:
    """Return the names of the rows of obs or var of an open AnnData file."""
    from anndata.io import read_elem

    values = read_elem(frame[frame.attrs.get("_index", "_index")])
    return np.asarray([str(v.decode() if isinstance(v, bytes) else v) for v in values], dtype=np.str_)


def column_of_file(root: Any, key: str, name: str) -> Any:
    """Return a column of obs of an open AnnData file.

    Raises
    ------
    MissingKeyError
        If there is no such column.
    """
    from anndata.io import read_elem

    frame = root["obs"]
    if "__categories" in frame:  # a table of AnnData 0.7
        table = read_elem(frame)
        if key in table:
            return table[key]
        raise _no_column(key, list(table.columns), name)
    order = [str(column) for column in frame.attrs.get("column-order", list(frame))]
    if key not in order:
        raise _no_column(key, order, name)
    return read_elem(frame[key])


def column_of_object(adata: AnnData, key: str, name: str) -> Any:
    """Return a column of obs of an AnnData object.

    Raises
    ------
    MissingKeyError
        If there is no such column.
    """
    columns = [str(column) for column in adata.obs.keys()]  # noqa: SIM118
    if key not in columns:
        raise _no_column(key, columns, name)
    return adata.obs[key]


def _labels(values: Any, n_cells: int) -> tuple[npt.NDArray[np.object_], tuple[str, ...]]:
    """Return labels as strings with NaN for missing ones, and their order."""
    import pandas as pd

    if values is None:
        return np.full(n_cells, "all", dtype=object), ("all",)
    dtype = getattr(values, "dtype", None)
    if isinstance(values, pd.Series):
        values = values.array
    if not isinstance(values, pd.Categorical):
        # A lazy column is no Categorical, but its dtype may be categorical.
        known = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else None
        values = pd.Categorical(np.asarray(values), categories=known)
    names = [label_text(category) for category in values.categories]
    lookup = np.asarray([*names, np.nan], dtype=object)
    return lookup[np.asarray(values.codes)], tuple(names)


def _no_layer(layer: str, layers: list[str], name: str) -> MissingKeyError:
    return MissingKeyError(f"no layer {layer!r} in {name}; {near_misses(layer, layers, noun='layers')}")


def _no_obsm(key: str, keys: list[str], name: str) -> MissingKeyError:
    hint = near_misses(key, keys, noun="keys of obsm")
    return MissingKeyError(f"no coordinates {key!r} in obsm of {name}; {hint}")


def _no_column(key: str, columns: list[str], name: str) -> MissingKeyError:
    return MissingKeyError(f"no column {key!r} in obs of {name}; {near_misses(key, columns, noun='columns')}")
