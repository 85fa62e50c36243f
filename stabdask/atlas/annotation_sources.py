"""Annotations read from h5ad files, zarr AnnData and AnnData objects, without touching any matrix of expression."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.atlas.annotations import MOST_AXES, Annotation, column, embedding, join_annotations
from stabdask.atlas.matrix_blocks import opened_file
from stabdask.atlas.sources import CellSource, column_of_file, column_of_object
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, near_misses
from stabdask.files import existing_place

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["cluster_colors", "read_annotations"]

_HEX = re.compile(r"(#[0-9a-fA-F]{6})([0-9a-fA-F]{2})?")


def read_annotations(
    items: Sequence[AnnData | str | Path],
    sources: Sequence[CellSource],
    columns: Mapping[str, str],
    embeddings: Mapping[str, str],
) -> list[Annotation]:
    """Read columns of obs and embeddings of obsm, ``{name: key}``, of all sources as one atlas.

    Raises
    ------
    MissingKeyError
        If a source lacks a key.
    InputError
        If what is there is no label, number or embedding, or sources do not agree.
    """
    parts: dict[str, list[tuple[str, Annotation]]] = {name: [] for name in (*columns, *embeddings)}
    if not parts:
        return []
    for item, source in zip(items, sources, strict=True):
        with _opened(item, source.name) as tables:
            for name, key in columns.items():
                found = column(name, tables.column(key), f"obs[{key!r}] of {source.name}")
                if found.kind == "label":
                    found = replace(found, colors=tables.colors(key, len(found.labels)))
                parts[name].append((source.name, found))
            for name, key in embeddings.items():
                values = tables.embedding(key, len(source.cells))
                parts[name].append((source.name, embedding(name, values, f"obsm[{key!r}] of {source.name}")))
    return [join_annotations(found) for found in parts.values()]


def cluster_colors(
    items: Sequence[AnnData | str | Path], sources: Sequence[CellSource], cluster_key: str | None
) -> dict[str, str]:
    """Return the color of each cluster label, from ``uns["<cluster_key>_colors"]``; the first source counts."""
    colors: dict[str, str] = {}
    if cluster_key is None:
        return colors
    for item, source in zip(items, sources, strict=True):
        with _opened(item, source.name) as tables:
            known = tables.colors(cluster_key, len(source.label_order))
        colors = {**dict(zip(source.label_order, known, strict=False)), **colors}
    return colors


class _Tables:
    """The tables of one source: an AnnData object or the root of a file."""

    def __init__(self, name: str, root: Any, *, is_file: bool) -> None:
        self._name, self._root, self._is_file = name, root, is_file

    def column(self, key: str) -> Any:
        read = column_of_file if self._is_file else column_of_object
        return read(self._root, key, self._name)

    def embedding(self, key: str, n_cells: int) -> Any:
        obsm = self._member("obsm")
        keys = [str(name) for name in obsm]
        if key not in keys:
            hint = near_misses(key, keys, noun="embeddings")
            raise MissingKeyError(f"no embedding {key!r} in obsm of {self._name}; {hint}")
        element = obsm[key]
        what = f"obsm[{key!r}] of {self._name}"
        shape = getattr(element, "shape", None)
        # Before anything is read: a wide one may be as large as the expression.
        if shape is not None and (len(shape) != 2 or shape[1] > MOST_AXES):
            raise InputError(
                f"{what} has shape {tuple(shape)}; expected cells x columns with at most {MOST_AXES} columns: wider "
                "ones are no embeddings to draw"
            )
        if self._is_file:
            element = _read(element, what)
        elif hasattr(element, "to_memory"):  # a lazy table
            element = element.to_memory()
        values = np.asarray(element)
        if values.dtype == object:
            try:
                values = values.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"{what} is no table of numbers ({error})") from error
        if values.shape[:1] != (n_cells,):
            raise InputError(f"{what} has shape {values.shape}; expected {n_cells:,} rows, one per cell")
        return values

    def colors(self, key: str, n_labels: int) -> tuple[str, ...]:
        """Return the colors of a column in the order of its labels, or nothing where they are not known."""
        uns = self._member("uns")
        name = f"{key}_colors"
        if name not in [str(item) for item in uns]:
            return ()
        try:
            found = _read(uns[name], name) if self._is_file else uns[name]
            colors = tuple(_hex_color(color) for color in np.asarray(found, dtype=object).ravel())
        except (TypeError, ValueError, InputError) as error:
            return self._no_colors(name, str(error))
        if len(colors) < n_labels:
            return self._no_colors(name, f"{len(colors)} colors for {n_labels} labels")
        return colors[:n_labels]

    def _no_colors(self, name: str, reason: str) -> tuple[str, ...]:
        warnings.warn(
            f"the colors in uns[{name!r}] of {self._name} are not used: {reason}",
            StabdaskWarning,
            stacklevel=5,
        )
        return ()

    def _member(self, name: str) -> Any:
        if not self._is_file:
            return getattr(self._root, name)
        found = self._root.get(name, {})
        return found if hasattr(found, "keys") else {}


@contextmanager
def _opened(item: AnnData | str | Path, name: str) -> Iterator[_Tables]:
    if not isinstance(item, str | Path):
        yield _Tables(name, item, is_file=False)
        return
    with opened_file(str(existing_place(item, "atlas"))) as root:
        yield _Tables(name, root, is_file=True)


def _read(element: Any, what: str) -> Any:
    from anndata.io import read_elem

    encoding = str(element.attrs.get("encoding-type", "array"))
    if encoding not in ("array", "dataframe", "string-array"):
        raise InputError(f"{what} is stored as {encoding!r}; expected an array or a table")
    return read_elem(element)


def _hex_color(color: Any) -> str:
    """Return a color as ``#rrggbb``.

    Examples
    --------
    >>> _hex_color("#1F77B4ff"), _hex_color(b"red")
    ('#1f77b4', '#ff0000')
    """
    text = color.decode() if isinstance(color, bytes) else str(color)
    match = _HEX.fullmatch(text)
    if match:
        return match[1].lower()
    from matplotlib.colors import to_hex

    return str(to_hex(text))
