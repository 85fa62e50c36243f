"""Labels, numbers and embeddings of cells that come along from the atlas into the results.

They change no result: figures are colored and summaries grouped by them. In a Dataset of cells or of results they
are the variables whose attribute ``annotation`` is ``"label"``, ``"number"`` or ``"embedding"``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, UsageError, near_misses
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "MOST_AXES",
    "Annotation",
    "annotations_of",
    "attach_annotations",
    "join_annotations",
    "requested_names",
]

Kind = Literal["label", "number", "embedding"]

MOST_AXES = 50
"""Columns of an embedding: more is a representation of the cells, not something to draw."""

_MOST_LABELS = 100_000
"""Labels of a column: they are kept in the attributes of an array."""

_TAKEN = frozenset(
    {
        *VARIABLES,
        *(dim for variable in VARIABLES.values() for dim in variable.dims),
        *(
            "expression",
            "cell_cluster",
            "cluster_code",
            "cluster",
            "degradation",
            "effector",
            "pair_regulator",
        ),
        *("core_effector", "participation_mean", "participation_std", "weight"),
        *("sensitivity_mean", "sensitivity_std"),
        *("coordinates", "loading", "jacobian_mean", "jacobian_abs_mean", "switch_mean"),
        *("response_mean", "response_abs_mean"),
        *("axis_sensitivity_mean", "axis_jacobian_mean"),
        *("statistic", "n_cells", "n_computed", "n_failed", "failed_fraction", "unstable_fraction"),
    }
)
"""Names that results, or tables made of them, use themselves."""
_TAKEN_PATTERN = re.compile(r"annotation_\d+(_axis)?")


@dataclass(frozen=True)
class Annotation:
    """One label, number or embedding of all cells.

    Attributes
    ----------
    name
        What it is called in results.
    kind
        ``label``, ``number`` or ``embedding``.
    values
        Labels: ``(cell,)`` numbers into `labels`, -1 for none. Numbers: ``(cell,)`` float64, NaN for none.
        Embeddings: ``(cell, axis)`` float32 or float64.
    labels
        Labels in the order of their categories, also those that no cell has.
    colors
        ``#rrggbb`` of each label, or empty where they are not known.
    """

    name: str
    kind: Kind
    values: npt.NDArray[Any]
    labels: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions in a Dataset."""
        return ("cell", f"{self.name}_axis") if self.kind == "embedding" else ("cell",)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of its variable in a Dataset."""
        attrs: dict[str, Any] = {"annotation": self.kind}
        if self.kind == "label":
            attrs["labels"] = list(self.labels)
            if self.colors:
                attrs["colors"] = list(self.colors)
        return attrs

    @property
    def data(self) -> npt.NDArray[Any]:
        """What its variable in a Dataset holds: labels as strings, NaN for none; else the values."""
        if self.kind != "label":
            return self.values
        text: npt.NDArray[Any] = np.asarray([*self.labels, np.nan], dtype=object)[self.values]
        return text


def requested_names(
    obs_keys: Sequence[str] | Mapping[str, str] | None, embeddings: Sequence[str] | Mapping[str, str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return new name -> key of the obs columns and of the embeddings asked for.

    Raises
    ------
    UsageError
        If a name is no string, is asked for twice, or is one that results use.

    Examples
    --------
    >>> requested_names(["batch"], {"umap": "X_umap"})
    ({'batch': 'batch'}, {'umap': 'X_umap'})
    """
    columns, arrays = _names(obs_keys, "obs_keys"), _names(embeddings, "embeddings")
    used = dict.fromkeys(columns, "obs_keys")
    for name in arrays:
        for taken in (name, f"{name}_axis"):
            if taken in used:
                raise UsageError(
                    f"the name {taken!r} would stand for two things, one of them from embeddings; give one of them "
                    f"another name with a mapping, e.g. embeddings={{'my_{name}': {arrays[name]!r}}}"
                )
            used[taken] = "embeddings"
    for name, option in used.items():
        if name in _TAKEN or _TAKEN_PATTERN.fullmatch(name):
            key = {**columns, **arrays}.get(name, name)
            raise UsageError(
                f"{option}: results use the name {name!r} themselves; bring it along under another one with a "
                f"mapping, new name to key, e.g. {option}={{'my_{key}': {key!r}}}"
            )
    return columns, arrays


def _names(asked: Sequence[str] | Mapping[str, str] | None, option: str) -> dict[str, str]:
    if asked is None:
        return {}
    if isinstance(asked, str):
        raise UsageError(f"{option}={asked!r}; expected a sequence of names, e.g. [{asked!r}], or a mapping")
    pairs = list(asked.items()) if isinstance(asked, Mapping) else [(name, name) for name in asked]
    for pair in pairs:
        for name in pair:
            if not isinstance(name, str) or not name:
                raise UsageError(f"{option} has the name {name!r}; expected strings that are not empty")
    names = dict(pairs)
    if len(names) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise UsageError(f"{option} names {twice!r} twice; name each once")
    return names


def join_annotations(parts: Sequence[tuple[str, Annotation]]) -> Annotation:
    """Join one annotation of several sources, ``(name of the source, annotation)``, in their order.

    Labels are united in the order in which sources bring them. Colors are kept if each label has one.

    Raises
    ------
    InputError
        If the sources do not agree on what it is, or embeddings have different numbers of columns.
    """
    if len(parts) == 1:
        return parts[0][1]
    where, first = parts[0]
    for source, part in parts[1:]:
        if part.kind != first.kind:
            raise InputError(
                f"{first.name!r} is a {first.kind} in {where} and a {part.kind} in {source}; make them alike"
            )
        if part.kind == "embedding" and part.values.shape[1] != first.values.shape[1]:
            raise InputError(
                f"embedding {first.name!r} has {first.values.shape[1]} columns in {where} and "
                f"{part.values.shape[1]} in {source}; expected as many in each"
            )
    if first.kind != "label":
        return replace(first, values=np.concatenate([part.values for _, part in parts]))
    labels = tuple(dict.fromkeys(label for _, part in parts for label in part.labels))
    _check_number(len(labels), f"{first.name!r} of all sources")
    position = {label: number for number, label in enumerate(labels)}
    codes = []
    colors: dict[str, str] = {}
    for _, part in parts:
        lookup = np.asarray([*(position[label] for label in part.labels), -1], dtype=np.int32)
        codes.append(lookup[part.values])
        colors = {**dict(zip(part.labels, part.colors, strict=False)), **colors}
    known = tuple(colors[label] for label in labels) if all(label in colors for label in labels) else ()
    return replace(first, values=np.concatenate(codes), labels=labels, colors=known)


def attach_annotations(ds: xr.Dataset, annotations: Sequence[Annotation]) -> xr.Dataset:
    """Return `ds` with labels and numbers as coordinates and embeddings as variables."""
    flat = {a.name: (a.dims, a.data, a.attrs) for a in annotations if a.kind != "embedding"}
    wide = {a.name: (a.dims, a.data, a.attrs) for a in annotations if a.kind == "embedding"}
    return ds.assign_coords(flat).assign(wide)


def annotations_of(ds: xr.Dataset) -> list[Annotation]:
    """Return the annotations of a Dataset of cells, sorted by name.

    Raises
    ------
    InputError
        If a variable says it is an annotation and has another form.
    UsageError
        If its name is one that results use.
    """
    found = []
    for name in sorted(str(name) for name in ds.variables):
        kind = ds[name].attrs.get("annotation")
        if kind is None:
            continue
        n_dims = 2 if kind == "embedding" else 1
        if kind not in ("label", "number", "embedding"):
            hint = near_misses(str(kind), ("label", "number", "embedding"), noun="kinds")
            raise InputError(f"{name!r} of the cells is an annotation of kind {kind!r}; {hint}")
        if ds[name].dims[:1] != ("cell",) or ds[name].ndim != n_dims:
            raise InputError(
                f"{name!r} of the cells, an annotation of kind {kind!r}, has dimensions {ds[name].dims}; expected "
                + ("('cell', axis)" if n_dims == 2 else "('cell',)")
            )
        requested_names(*(([], [name]) if kind == "embedding" else ([name], [])))
        values = ds[name].to_numpy()
        if kind == "embedding":
            found.append(embedding(name, values, f"{name!r} of the cells"))
        elif kind == "number":
            found.append(Annotation(name, "number", values.astype(np.float64)))
        else:
            found.append(_labels_of(name, values, ds[name].attrs))
    return found


def _labels_of(name: str, values: npt.NDArray[Any], attrs: Mapping[str, Any]) -> Annotation:
    import pandas as pd

    codes, found = pd.factorize(values.astype(object), use_na_sentinel=True)
    present = [str(label) for label in found]
    listed = [str(label) for label in attrs.get("labels", ())]
    labels = tuple(dict.fromkeys([*listed, *sorted(present)]))
    _check_number(len(labels), f"{name!r} of the cells")
    position = {label: number for number, label in enumerate(labels)}
    lookup = np.asarray([*(position[label] for label in present), -1], dtype=np.int32)
    colors = tuple(str(color) for color in attrs.get("colors", ()))
    return Annotation(name, "label", lookup[codes], labels, colors if len(colors) == len(labels) else ())


def embedding(name: str, values: npt.NDArray[Any], what: str) -> Annotation:
    """Return an embedding from its coordinates ``(cell, axis)``; `what` is how messages call it.

    Raises
    ------
    InputError
        If it is no array of numbers with at most 50 columns.
    """
    if values.ndim != 2 or not 1 <= values.shape[1] <= MOST_AXES:
        raise InputError(
            f"{what} has shape {values.shape}; expected cells x columns with 1 to {MOST_AXES} columns: wider ones are "
            "no embeddings to draw"
        )
    if values.dtype.kind not in "fiub":
        raise InputError(f"{what} has dtype {values.dtype}; expected real numbers")
    dtype = values.dtype if values.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    return Annotation(name, "embedding", np.ascontiguousarray(values, dtype=dtype))


def column(name: str, values: Any, what: str) -> Annotation:
    """Return labels or numbers from a column of obs; `what` is how messages call it.

    Categorical columns, strings and booleans (``False``, ``True``) are labels; integers and floats are numbers.

    Raises
    ------
    InputError
        If it holds anything else.
    """
    import pandas as pd

    dtype = getattr(values, "dtype", None)
    if isinstance(values, pd.Series):
        values = values.array if pd.api.types.is_extension_array_dtype(values.dtype) else values.to_numpy()
    if isinstance(dtype, pd.CategoricalDtype):
        if not isinstance(values, pd.Categorical):  # a lazy column says so, but holds plain labels
            values = pd.Categorical(np.asarray(values), categories=dtype.categories)
        return _categorical(name, values, what)
    if not isinstance(values, pd.api.extensions.ExtensionArray):
        values = np.asarray(values)
        values = values.astype(object) if values.dtype.kind in "UST" else values
    found = pd.api.types.infer_dtype(values, skipna=True)
    if found in ("boolean", "string", "bytes", "empty"):
        if found == "empty" and values.dtype.kind == "f":
            return Annotation(name, "number", np.asarray(values, dtype=np.float64))
        categories = [False, True] if found == "boolean" else None
        plain = np.array(values, dtype=object)
        plain[pd.isna(plain)] = None
        return _categorical(name, pd.Categorical(plain, categories=categories), what)
    if found in ("integer", "floating", "mixed-integer-float"):
        numbers = pd.Series(values)
        if found == "integer" and max(-int(numbers.min()), int(numbers.max())) > 2**53:
            raise InputError(
                f"{what} holds integers beyond 2**53, which floating-point numbers cannot tell apart; make it a "
                "column of strings if they are identifiers"
            )
        return Annotation(name, "number", numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    raise InputError(
        f"{what} holds {found} values ({dtype}); expected labels (categorical, strings, booleans) or real numbers. "
        "Turn it into one of these in the atlas first"
    )


def _categorical(name: str, values: Any, what: str) -> Annotation:
    labels = tuple(label_text(category) for category in values.categories)
    _check_number(len(labels), what)
    if len(set(labels)) < len(labels):
        raise InputError(f"{what} has categories that read the same as text; rename one of them")
    return Annotation(name, "label", np.asarray(values.codes, dtype=np.int32), labels)


def label_text(category: Any) -> str:
    """Return the label of a category as text; whole numbers without a decimal point.

    Examples
    --------
    >>> label_text(b"HSC"), label_text(3.0), label_text(True)
    ('HSC', '3', 'True')
    """
    if isinstance(category, bytes):
        return category.decode()
    if isinstance(category, float) and category.is_integer():
        return str(int(category))
    return str(category)


def _check_number(n_labels: int, what: str) -> None:
    if n_labels > _MOST_LABELS:
        raise InputError(
            f"{what} has {n_labels:,} different labels; expected at most {_MOST_LABELS:,}: a column that names each "
            "cell groups none"
        )
