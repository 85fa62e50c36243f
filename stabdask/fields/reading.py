"""`read_field`: a field from whatever file holds one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.fields.base import Field
from stabdask.fields.dynamo import fitted_fields, read_dynamo
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.parameter_source import ParameterSource, open_source
from stabdask.fields.rkhs import RKHSField
from stabdask.fields.schopfield import read_schopfield
from stabdask.fields.storage import field_kind, open_field
from stabdask.files import existing_place

__all__ = ["read_field"]

_READERS: dict[str, Callable[..., Field]] = {HopfieldField.kind: read_schopfield, RKHSField.kind: read_dynamo}


def read_field(path: str | Path, *, kind: Literal["hopfield", "rkhs"] | None = None, **options: Any) -> Field:
    """Read a fitted velocity field.

    Parameters
    ----------
    path
        A field saved by `Field.save` (``model.zarr``), a scHopfield checkpoint (``model.h5sch``), or an AnnData
        (``fitted.h5ad`` or zarr) that holds the parameters of a fit. Those that are Zarr may be in a bucket
        (``s3://bucket/model.zarr``).
    kind
        Which fit to read from an AnnData that holds both: ``"hopfield"`` for scHopfield's, ``"rkhs"`` for the vector
        field of dynamo.
    **options
        For a scHopfield fit those of `stabdask.fields.schopfield.read_schopfield`, for a vector field of dynamo those
        of `stabdask.fields.dynamo.read_dynamo`.

    Returns
    -------
    Field

    Raises
    ------
    MissingFileError
        If there is nothing at `path`.
    MissingKeyError
        If an AnnData holds no fit, or not the one asked for.
    InputError
        If what is there holds no field, or two of which none is chosen.
    UsageError
        If there is no such kind of field.
    """
    place = existing_place(path, "field")
    if place.is_folder() and field_kind(path) is not None:
        given = sorted([*options, *([] if kind is None else ["kind"])])
        if given:
            raise InputError(f"a saved field takes no options, found {', '.join(given)}")
        return open_field(path)
    if kind is not None and kind not in _READERS:
        raise UsageError(f"kind={kind!r}; expected {' or '.join(repr(known) for known in _READERS)}")
    with open_source(place.origin) as source:
        return _READERS[kind or _kind_of(source)](source, **options)


def _kind_of(source: ParameterSource) -> str:
    """Return the kind of the one fit that an AnnData or a checkpoint holds."""
    interactions = [key for key in source.matrix_keys if key.startswith("W_")]
    fields = fitted_fields(source)
    if interactions and fields:
        raise InputError(
            f"{source.name} holds a fit of scHopfield ({interactions[0]!r} in varp) and a vector field of dynamo "
            f"({fields[0]!r} in uns); choose with kind='hopfield' or kind='rkhs'"
        )
    if not interactions and not fields:
        raise MissingKeyError(
            f"{source.name} holds no fitted field: it has neither an interaction matrix 'W_<cluster>' in varp, which "
            "scHopfield fits, nor a vector field 'VecFld_<basis>' in uns, which dynamo fits; give the file that holds "
            "the fit (scHopfield's own is .h5sch)"
        )
    return RKHSField.kind if fields else HopfieldField.kind
