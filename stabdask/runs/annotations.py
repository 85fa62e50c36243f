"""Annotations of cells in a run: part of its identity, and arrays of fixed names in its store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.atlas.annotations import Annotation, attach_annotations
from stabdask.errors import DamagedStoreError
from stabdask.files import write_array

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "annotations_identity",
    "cluster_colors",
    "damaged_annotations",
    "name_annotations",
    "write_annotations",
]

_PREFIX = "annotation_"
_CHUNK_BYTES = 2 * 2**20
_FEWEST_ROWS = 1024


def annotations_identity(annotations: Sequence[Annotation]) -> dict[str, dict[str, str]]:
    """Return ``{"annotations": {name: kind and hash of the content}}``, empty where there are none.

    Colors do not count: they are looks, and plotting libraries add them to an atlas as they go.
    """
    found = {annotation.name: f"{annotation.kind} {_content(annotation)}" for annotation in annotations}
    return {"annotations": found} if found else {}


def _content(annotation: Annotation) -> str:
    values = annotation.values
    head = json.dumps([annotation.kind, annotation.labels, str(values.dtype), values.shape])
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    if values.dtype.kind == "f":  # one NaN is as good as another
        values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
    digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def cluster_colors(cells: xr.Dataset, labels: Sequence[str]) -> dict[str, list[str]]:
    """Return ``{"colors": [...]}`` in the order of `labels`, empty where the cells do not know them all."""
    attrs = cells["cluster"].attrs
    colors = dict(zip(attrs.get("labels", ()), attrs.get("colors", ()), strict=False))
    return (
        {"colors": [str(colors[label]) for label in labels]} if labels and set(labels) <= set(colors) else {}
    )


def write_annotations(group: Any, annotations: Sequence[Annotation]) -> None:
    """Write annotations as the arrays ``annotation_0``, ``annotation_1`` ... of a store.

    Names and labels come from files: they go into attributes, never into a path. Labels are stored as numbers, -1
    for none.
    """
    for number, annotation in enumerate(annotations):
        values = annotation.values
        if annotation.kind == "label":
            values = values.astype(np.min_scalar_type(-1 - len(annotation.labels)))
        row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64))
        array = f"{_PREFIX}{number}"
        dims = ("cell", f"{array}_axis") if annotation.kind == "embedding" else ("cell",)
        attrs = {**annotation.attrs, "name": annotation.name}
        write_array(group, array, values, dims, attrs, rows=max(_FEWEST_ROWS, _CHUNK_BYTES // row_bytes))


def name_annotations(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset opened from a store with its annotations under their names.

    Labels and numbers are read; embeddings stay lazy.

    Raises
    ------
    DamagedStoreError
        If the attributes of an annotation are not those that were written.
    """
    found = [str(name) for name in ds.data_vars if str(name).startswith(_PREFIX)]
    if not found:
        return ds
    flat = [_read(name, ds[name]) for name in found if ds[name].ndim == 1]
    wide = {name: _read(name, ds[name]) for name in found if ds[name].ndim > 1}
    ds = ds.drop_vars([name for name in found if name not in wide])
    for name, annotation in wide.items():
        ds[name].attrs = annotation.attrs
        ds = ds.rename({name: annotation.name, ds[name].dims[1]: annotation.dims[1]})
    return attach_annotations(ds, sorted(flat, key=lambda annotation: annotation.name))


def damaged_annotations(group: Any, expected: Mapping[str, str]) -> list[str]:
    """Return the names of annotations in a store that are not those of its run, `expected` from its identity."""
    # By number, not as Zarr lists them: one array whose description is damaged would keep it from listing any.
    names = [f"{_PREFIX}{number}" for number in range(len(expected))]
    intact = dict(pair for name in names for pair in _identity_in_store(group, name).items())
    return sorted(name for name, content in expected.items() if intact.get(name) != content)


def _identity_in_store(group: Any, name: str) -> dict[str, str]:
    try:
        annotation = _read(name, group[name])
        annotation = replace(annotation, values=np.asarray(annotation.values[...]))
    except ConnectionError:  # a bucket that does not answer says nothing about what it holds
        raise
    except Exception:  # what a broken chunk raises depends on the codec it breaks in
        return {}
    return annotations_identity([annotation])["annotations"]


def _read(name: str, array: Any) -> Annotation:
    """Return the annotation in an array of Zarr or of a Dataset; the values of an embedding are left alone."""
    attrs = dict(array.attrs)
    kind, labels = attrs.get("annotation"), tuple(attrs.get("labels", ()))
    if (
        kind not in ("label", "number", "embedding")
        or not isinstance(attrs.get("name"), str)
        or len(array.shape) != (2 if kind == "embedding" else 1)
        or not all(isinstance(label, str) for label in labels)
    ):
        raise DamagedStoreError(
            f"the attributes of {name} are not those of an annotation; the store was edited"
        )
    values: Any = array if kind == "embedding" else np.asarray(array[...])
    if kind == "label":
        values = values.astype(np.int32)
        if values.size and not -1 <= values.min() <= values.max() < len(labels):
            raise DamagedStoreError(f"{name} has a number without a label; the store is damaged")
    return Annotation(attrs["name"], kind, values, labels, tuple(attrs.get("colors", ())))
