"""Fields as Zarr groups: workers open them by path, once per process.

Arrays are named by position (``weights/0``), never by cluster label, so that no name from a file becomes a
path.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.errors import DamagedStoreError, InputError, MissingFileError, UsageError
from stabdask.fields.base import Field
from stabdask.fields.formula import FormulaField
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.hopfield_cluster import HopfieldCluster
from stabdask.fields.rkhs import RKHSField
from stabdask.files import (
    existing_place,
    new_directory,
    new_group,
    open_group,
    place_of,
    read_names,
    write_array,
    write_names,
)
from stabdask.schema.added import PLUGINS_VARIABLE, load_plugins

__all__ = ["field_kind", "open_field", "open_field_cached", "save_field"]

_KIND = "stabdask_field"
_FORMAT_VERSION = 1
"""Version of how fields are saved; raised whenever an older reader could misread a newer one."""


def field_kind(path: str | Path) -> str | None:
    """Return the kind of field saved at `path`, or None if it is not a saved field."""
    try:
        kind = open_group(path).attrs.get(_KIND)
    except MissingFileError:
        return None
    return None if kind is None else str(kind)


def save_field(field: Field, path: str | Path, *, overwrite: bool = False) -> Path | str:
    """Write `field` to a new Zarr group at `path`, which appears whole or not at all.

    Raises
    ------
    StoreMismatchError
        If `path` exists and `overwrite` is false.
    """
    place = place_of(path)
    with new_directory(place, overwrite=overwrite) as folder:
        group = new_group(folder)
        group.attrs.update(
            {_KIND: field.kind, "format_version": _FORMAT_VERSION, "fingerprint": field.fingerprint}
        )
        write_names(group, "gene", field.genes.tolist(), "gene")
        if isinstance(field, HopfieldField):
            _write_hopfield(field, group)
        elif isinstance(field, RKHSField):
            _write_rkhs(field, group)
        elif isinstance(field, FormulaField):
            _write_formula(field, group)
        else:
            raise UsageError(
                f"a {type(field).__name__} cannot be saved; expected a HopfieldField, an RKHSField, or a subclass of "
                "stabdask.fields.formula.FormulaField"
            )
    return place.origin


def _write_hopfield(field: HopfieldField, group: Any) -> None:
    write_names(group, "cluster", field.clusters, "cluster")
    write_array(group, "gamma", np.stack([p.gamma for p in field.parameters]), ("cluster", "gene"))
    write_array(group, "bias", np.stack([p.bias for p in field.parameters]), ("cluster", "gene"))
    hill = np.stack([p.hill.stacked() for p in field.parameters])
    write_array(group, "hill", hill, ("cluster", "parameter", "gene"))
    weights, regulators = group.create_group("weights"), group.create_group("regulators")
    for number, p in enumerate(field.parameters):
        write_array(weights, str(number), p.weights, ("gene", "regulator"))
        write_array(regulators, str(number), p.regulators.astype(np.int64), ("regulator",))


def _write_rkhs(field: RKHSField, group: Any) -> None:
    group.attrs.update({"basis": field.basis})
    write_array(group, "centers", field.centers, ("center", "axis"))
    write_array(group, "coefficients", field.coefficients, ("center", "axis"))
    write_array(group, "beta", np.asarray([field.beta]), ("one",))
    if field.loadings is not None:
        write_array(group, "loadings", field.loadings, ("gene", "axis"))


def _write_formula(field: FormulaField, group: Any) -> None:
    names = sorted(field.parameters)
    group.attrs["parameters"] = names
    # By position: no name from a file becomes a path.
    folder = group.create_group("parameters")
    for number, name in enumerate(names):
        values = np.atleast_1d(field.parameters[name])
        dims = tuple(f"dim_{axis}" for axis in range(values.ndim))
        write_array(folder, str(number), values, dims, {"scalar": field.parameters[name].ndim == 0})


def open_field(path: str | Path, *, kind: str | None = None) -> Field:
    """Open a field written by `save_field`.

    Parameters
    ----------
    path
        Where it is.
    kind
        Which kind of field is expected; any if not given.

    Raises
    ------
    MissingFileError
        If there is no saved field of that kind at `path`.
    DamagedStoreError
        If its parameters do not match the fingerprint saved with them.
    InputError
        If this version cannot read that kind of field, or that version of its format.
    """
    group = open_group(existing_place(path, "saved field"))
    found = group.attrs.get(_KIND)
    if found is None or (kind is not None and found != kind):
        wanted = "saved field" if kind is None else f"saved {kind} field"
        there = "" if found is None else f", but one of kind {found!r}"
        raise MissingFileError(f"{path} holds no {wanted}{there}; make one with 'stabdask field convert'")
    form = group.attrs.get("format_version")
    if form != _FORMAT_VERSION:
        raise InputError(
            f"{path} holds a field in format {form}, this version reads {_FORMAT_VERSION}; make it again from the fit "
            "with 'stabdask field convert', or use the stabdask that wrote it"
        )
    readers = {HopfieldField.kind: _read_hopfield, RKHSField.kind: _read_rkhs}
    load_plugins()
    readers |= {name: partial(_read_formula, kind) for name, kind in FormulaField.kinds.items()}
    if found not in readers:
        raise InputError(
            f"{path} holds a field of kind {found!r}, which this version cannot read; if a module of yours defines it, "
            f"name that in the environment variable {PLUGINS_VARIABLE}, here and on workers"
        )
    try:
        field = readers[found](group)
        intact = field.fingerprint == group.attrs["fingerprint"]
    except (OSError, MemoryError):  # of a disk that fails or a bucket that does not answer
        raise
    except Exception as error:  # damage can make Zarr, a codec or a check raise anything
        raise DamagedStoreError(
            f"the field at {path} cannot be read ({type(error).__name__}: {error}); write it again"
        ) from error
    if not intact:
        raise DamagedStoreError(f"the field at {path} differs from its own fingerprint; write it again")
    return field


def _read_hopfield(group: Any) -> Field:
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


def _read_rkhs(group: Any) -> Field:
    basis, loadings = group.attrs["basis"], group["loadings"][...] if "loadings" in group else None
    named = basis is None or loadings is not None
    return RKHSField(
        group["centers"][...],
        group["coefficients"][...],
        float(group["beta"][0]),
        basis=basis,
        loadings=loadings,
        genes=read_names(group, "gene").tolist() if named else None,
    )


def _read_formula(kind: type[FormulaField], group: Any) -> Field:
    parameters = {}
    for number, name in enumerate(group.attrs["parameters"]):
        array = group[f"parameters/{number}"]
        parameters[str(name)] = array[...][0] if array.attrs["scalar"] else array[...]
    return kind(read_names(group, "gene").tolist(), **parameters)


@lru_cache(maxsize=4)
def open_field_cached(path: str, fingerprint: str) -> Field:
    """Open the field at `path` once per process; `fingerprint` tells apart what the path held over time.

    Raises
    ------
    DamagedStoreError
        If the field there is another one.
    """
    field = open_field(path)
    if field.fingerprint != fingerprint:
        raise DamagedStoreError(f"the field at {path} is not the one this run was planned with")
    return field
