"""Fields as Zarr groups: workers open them by path, once per process.

Arrays are named by position (``weights/0``), never by cluster label, so that no name from a file becomes a
path.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.errors import DamagedStoreError, MissingFileError
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.hopfield_cluster import HopfieldCluster
from stabdask.files import existing_path, new_directory, open_group, read_names, write_array, write_names

__all__ = ["field_kind", "open_field_cached", "open_hopfield", "save_hopfield", "write_hopfield"]

_KIND = "stabdask_field"


def field_kind(path: str | Path) -> str | None:
    """Return the kind of field saved at `path`, or None if it is not a saved field."""
    try:
        kind = open_group(path).attrs.get(_KIND)
    except MissingFileError:
        return None
    return None if kind is None else str(kind)


def save_hopfield(field: HopfieldField, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `field` to a new Zarr group at `path`, which appears whole or not at all."""
    import zarr

    path = Path(path)
    with new_directory(path, overwrite=overwrite) as folder:
        write_hopfield(field, zarr.open_group(str(folder), mode="w", zarr_format=3))
    return path


def write_hopfield(field: HopfieldField, group: object) -> None:
    """Write `field` into an empty, open Zarr group."""
    import zarr

    assert isinstance(group, zarr.Group)
    group.attrs.update({_KIND: field.kind, "format_version": 1, "fingerprint": field.fingerprint})
    write_names(group, "gene", field.genes.tolist(), "gene")
    write_names(group, "cluster", field.clusters, "cluster")
    write_array(group, "gamma", np.stack([p.gamma for p in field.parameters]), ("cluster", "gene"))
    write_array(group, "bias", np.stack([p.bias for p in field.parameters]), ("cluster", "gene"))
    hill = np.stack([p.hill.stacked() for p in field.parameters])
    write_array(group, "hill", hill, ("cluster", "parameter", "gene"))
    weights, regulators = group.create_group("weights"), group.create_group("regulators")
    for number, p in enumerate(field.parameters):
        write_array(weights, str(number), p.weights, ("gene", "regulator"))
        write_array(regulators, str(number), p.regulators.astype(np.int64), ("regulator",))


def open_hopfield(path: str | Path) -> HopfieldField:
    """Open a field written by `save_hopfield`.

    Raises
    ------
    MissingFileError
        If there is no saved Hopfield field at `path`.
    DamagedStoreError
        If its parameters do not match the fingerprint saved with them.
    """
    group = open_group(existing_path(path, "saved field"))
    if group.attrs.get(_KIND) != HopfieldField.kind:
        raise MissingFileError(
            f"{path} holds no saved Hopfield field; make one with 'stabdask field convert'"
        )
    try:
        field = _read_hopfield(group)
        intact = field.fingerprint == group.attrs["fingerprint"]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damage can make Zarr, a codec or a check raise anything
        raise DamagedStoreError(
            f"the field at {path} cannot be read ({type(error).__name__}: {error}); write it again"
        ) from error
    if not intact:
        raise DamagedStoreError(f"the field at {path} differs from its own fingerprint; write it again")
    return field


def _read_hopfield(group: Any) -> HopfieldField:
    gamma, bias, hill = group["gamma"][...], group["bias"][...], group["hill"][...]
    clusters = {
        str(label): HopfieldCluster(
            regulators=group[f"regulators/{number}"][...].astype(np.intp),
            weights=group[f"weights/{number}"][...],
            gamma=gamma[number],
            bias=bias[number],
            hill=HillParameters(*hill[number]),
        )
        for number, label in enumerate(read_names(group, "cluster"))
    }
    return HopfieldField(read_names(group, "gene").tolist(), clusters)


@lru_cache(maxsize=4)
def open_field_cached(path: str, fingerprint: str) -> HopfieldField:
    """Open the field at `path` once per process; `fingerprint` tells apart what the path held over time.

    Raises
    ------
    DamagedStoreError
        If the field there is another one.
    """
    field = open_hopfield(path)
    if field.fingerprint != fingerprint:
        raise DamagedStoreError(f"the field at {path} is not the one this run was planned with")
    return field
