"""Cells, field and options brought together and checked: everything a run needs, before any work starts."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.alignment import axis_columns, cluster_models, warn_if_all_are_one
from stabdask.atlas.annotations import Annotation, annotations_of
from stabdask.atlas.cells import cell_names, cell_state, cluster_codes
from stabdask.checks import refuse_persisted
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Field
from stabdask.row_blocks import RowGraph
from stabdask.runs.annotations import annotations_identity
from stabdask.runs.block import NO_LABEL, SKIPPED
from stabdask.runs.differences import FILE_FACTS
from stabdask.runs.options import Options, make_options
from stabdask.runs.preflight import Preflight, preflight
from stabdask.runs.sizing import block_and_partition
from stabdask.schema import FORMAT_VERSION

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = [
    "Job",
    "RunSpec",
    "cells_identity",
    "labels_hash",
    "names_hash",
    "prepare",
    "spec_fingerprint",
]


def spec_fingerprint(values: dict[str, Any]) -> str:
    """Return the fingerprint of what `RunSpec.to_dict` gives, also with entries that this version does not know."""
    placeless = [_placeless(source) for source in values["cells"]["sources"]]
    text = json.dumps(
        {**values, "cells": {**values["cells"], "sources": placeless}}, sort_keys=True, ensure_ascii=True
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the bytes of a result; its hash is the fingerprint of a run.

    Attributes
    ----------
    n_cells, n_genes, n_modes, n_vector_modes
        Sizes of the result.
    partition_cells, block_cells
        Cells in a partition and in a block of it.
    labels
        Cluster labels of the atlas.
    models
        Cluster of the field used for each label, or None where its cells are left out.
    field
        Fingerprint of the field.
    cells
        What identifies the input: hashes of names, labels, content and of each annotation brought along; where only a
        sample of the content is hashed, also size and time of the files.
    options
        What is computed.
    format_version
        Version of the store layout.
    """

    n_cells: int
    n_genes: int
    n_modes: int
    n_vector_modes: int
    partition_cells: int
    block_cells: int
    labels: tuple[str, ...]
    models: tuple[str | None, ...]
    field: str
    cells: dict[str, Any]
    options: Options
    format_version: int = FORMAT_VERSION

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
        return -(-self.n_cells // self.partition_cells)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first cell of `partition` and the one after its last."""
        start = partition * self.partition_cells
        return start, min(start + self.partition_cells, self.n_cells)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        lists = {"labels": list(self.labels), "models": list(self.models), "options": self.options.to_dict()}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSpec:
        """Return what `to_dict` wrote."""
        return cls(
            **{
                **values,
                "labels": tuple(values["labels"]),
                "models": tuple(values["models"]),
                "options": Options.from_dict(values["options"]),
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything above except where the input lies: equal fingerprints give equal bytes.

        Colors of labels are left out: they are those known when a store was made, and plotting an atlas adds them.
        """
        return spec_fingerprint(self.to_dict())


@dataclass(frozen=True)
class Job:
    """A checked request.

    Attributes
    ----------
    spec
        What decides the result.
    cells
        The atlas.
    field
        The velocity field.
    label_codes
        ``(cell,)`` numbers into ``spec.labels``, -1 for none.
    model_codes
        ``(cell,)`` numbers into ``field.clusters``, -1 for no label, -2 for left out.
    columns
        Positions of the field's axes (genes) in the atlas, or None if they are the same.
    sample
        What the look at the data before the run found.
    annotations
        Labels, numbers and embeddings of the cells to bring along, by name.
    """

    spec: RunSpec
    cells: xr.Dataset
    field: Field
    label_codes: npt.NDArray[np.int32]
    model_codes: npt.NDArray[np.int32]
    columns: npt.NDArray[np.intp] | None
    sample: Preflight
    annotations: tuple[Annotation, ...] = ()

    @property
    def expression(self) -> da.Array:
        """Expression, or coordinates, as a Dask array ``(cell, gene or axis of the atlas)``."""
        return cell_state(self.cells).data  # type: ignore[no-any-return]

    @cached_property
    def row_graph(self) -> RowGraph:
        """What the expression of a partition is cut from."""
        return RowGraph(self.expression)

    @cached_property
    def cell_names(self) -> npt.NDArray[Any]:
        """Names of the cells, or their numbers where they have none, ``(cell,)``."""
        return cell_names(self.cells)

    @cached_property
    def audited(self) -> npt.NDArray[np.bool_]:
        """Cells whose iterated modes are compared with a dense spectrum, ``(cell,)``."""
        if not self.spec.options.iterates:
            return np.zeros(self.spec.n_cells, dtype=bool)
        from stabdask.runs.leading import audit_sample

        return audit_sample(self.model_codes)


def prepare(
    cells: xr.Dataset,
    field: Field,
    *,
    missing_cluster: str = "error",
    partition_cells: int | None = None,
    **options: Any,
) -> Job:
    """Check cells, field and options against each other.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`, or any Dataset of the same form.
    field
        The velocity field.
    missing_cluster
        What to do with cells whose cluster the field was not fitted for: ``"error"``; ``"skip"`` to leave
        them out (status 5); or ``"W_<cluster>"`` to use that cluster's parameters, e.g. ``"W_all"``.
    partition_cells
        Cells in a partition; chosen from the size of the job if not given.
    **options
        See `stabdask.runs.options.Options`.

    Returns
    -------
    Job

    Raises
    ------
    StabdaskError
        If anything about the input makes the run impossible; nothing has been written then.

    Warns
    -----
    StabdaskWarning
        If the cells were opened without clusters, and the field has others beside ``"all"``.
    """
    import dask.array as da

    if not isinstance(field, Field):
        raise UsageError(
            f"field is a {type(field).__name__}; expected a Field, e.g. from stabdask.read_field"
        )
    _check_dataset(cells)
    _check_names(options)
    checked = make_options(field, **options)
    annotations = annotations_of(cells)
    columns = axis_columns(cells, field)
    codes, labels = cluster_codes(cells)
    models = cluster_models(labels, field, missing_cluster)
    warn_if_all_are_one(cells, field, stacklevel=3)
    numbers = [SKIPPED if model is None else field.cluster_number(model) for model in models]
    lookup = np.asarray([*numbers, NO_LABEL], dtype=np.int32)
    model_codes = lookup[codes]
    state = cell_state(cells)
    if not isinstance(state.data, da.Array):
        cells = cells.chunk({"cell": 1024, state.dims[1]: -1})
    elif len(state.data.chunks[1]) > 1:
        cells = cells.chunk({state.dims[1]: -1})
    expression = cell_state(cells).data
    refuse_persisted(expression)
    if partition_cells is not None and partition_cells < 1:
        raise UsageError(f"partition_cells={partition_cells}; expected at least 1")
    block, partition = block_and_partition(expression, field, checked, partition_cells)
    sample = preflight(cells, field, model_codes, columns)
    sources = cells.attrs.get("sources", [])
    spec = RunSpec(
        n_cells=len(codes),
        n_genes=field.n_genes,
        n_modes=checked.stored_modes(field),
        n_vector_modes=checked.vector_modes(field),
        partition_cells=partition,
        block_cells=block,
        labels=labels,
        models=models,
        field=field.fingerprint,
        cells={
            **cells_identity(cells),
            "content": sample.digest,
            "sources": [_identifying(source, sample.n_cells_checked == len(codes)) for source in sources],
            **annotations_identity(annotations),
        },
        options=checked,
    )
    return Job(spec, cells, field, codes, model_codes, columns, sample, tuple(annotations))


def _check_names(options: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(make_options).parameters if name != "field"]
    for name in options:
        if name not in known:
            raise UsageError(f"there is no option {name!r}; {near_misses(name, known)}")


def _check_dataset(cells: xr.Dataset) -> None:
    state = cell_state(cells)
    variable, dim = ("coordinates", "axis") if state.name == "coordinates" else ("expression", "gene")
    for name, dims in ((variable, ("cell", dim)), ("cluster", ("cell",)), (dim, (dim,))):
        if name not in cells.variables:
            raise MissingKeyError(f"the cells have no variable {name!r}; expected a Dataset from open_cells")
        if cells[name].dims != dims:
            raise InputError(f"{name!r} of the cells has dimensions {cells[name].dims}; expected {dims}")
    if cells.sizes["cell"] == 0:
        raise InputError("there are no cells; expected at least one")
    if state.dtype.kind not in "fiub":
        raise InputError(f"the {variable} of the cells has dtype {state.dtype}; expected numbers")


def cells_identity(cells: xr.Dataset) -> dict[str, str]:
    """Return hashes of the names, genes and labels of cells."""
    codes, labels = cluster_codes(cells)
    return {
        "dtype": str(cell_state(cells).dtype),
        "names": names_hash(cell_names(cells)),
        "genes": names_hash(cells[cell_state(cells).dims[1]].to_numpy()),
        "labels": labels_hash(labels, codes),
    }


def labels_hash(labels: Sequence[str], codes: npt.NDArray[np.integer[Any]]) -> str:
    """Return a hash of the labels of cells, given as numbers into `labels`."""
    digest = hashlib.blake2b(json.dumps(labels).encode(), digest_size=16)
    digest.update(codes.astype("<i4").tobytes())
    return digest.hexdigest()


def names_hash(names: npt.NDArray[Any]) -> str:
    """Return a hash of names."""
    text = "\x00".join(str(name) for name in names.tolist())
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _identifying(source: dict[str, Any], all_read: bool) -> dict[str, Any]:
    """Return the facts on a file that identify it: not its size and time, where all that is read of it is hashed."""
    return {key: value for key, value in source.items() if not (all_read and key in FILE_FACTS)}


def _placeless(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "path"}
