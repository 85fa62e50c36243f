"""`read_field`: a field from whatever file holds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stabdask.errors import InputError
from stabdask.fields.base import Field
from stabdask.fields.schopfield import read_schopfield
from stabdask.fields.storage import field_kind, open_field
from stabdask.files import existing_path

__all__ = ["read_field"]


def read_field(path: str | Path, **options: Any) -> Field:
    """Read a fitted velocity field.

    Parameters
    ----------
    path
        A field saved by `Field.save` (``model.zarr``), a scHopfield checkpoint (``model.h5sch``), or an
        AnnData (``fitted.h5ad`` or zarr) that holds the parameters of a fit.
    **options
        For a scHopfield fit: those of `stabdask.fields.schopfield.read_schopfield`.

    Returns
    -------
    Field

    Raises
    ------
    MissingFileError
        If there is nothing at `path`.
    InputError
        If what is there holds no field.
    """
    path = existing_path(path, "field")
    if path.is_dir() and field_kind(path) is not None:
        if options:
            raise InputError(f"a saved field takes no options, found {', '.join(sorted(options))}")
        return open_field(path)
    return read_schopfield(path, **options)
