"""Zarr groups, on a disk or in a bucket, and what is kept in them: arrays and names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import MissingFileError, StabdaskError
from stabdask.files.places import Place, place_of

__all__ = ["new_group", "open_group", "read_names", "write_array", "write_names"]

_NAMES_PER_CHUNK = 65_536


def new_group(folder: Path) -> Any:
    """Make an empty Zarr group of a folder that is there and empty, as `stabdask.files.new_directory` gives it."""
    import zarr

    # Mode "w" would delete the folder and make another, which nobody holds: it would be swept while it is filled.
    return zarr.open_group(str(folder), mode="w-", zarr_format=3)


def open_group(path: str | Path | Place, *, mode: str = "r") -> Any:
    """Open the Zarr group at a path or in a bucket without consolidated metadata.

    Raises
    ------
    MissingFileError
        If there is no Zarr group.
    """
    import zarr

    store, inside = place_of(path).group_address()
    try:
        return zarr.open_group(store, path=inside, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
    except StabdaskError:
        raise
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise MissingFileError(f"{path} is not a Zarr group ({error})") from error


def write_array(
    group: Any,
    name: str,
    values: npt.NDArray[Any],
    dims: tuple[str, ...],
    attrs: dict[str, Any] | None = None,
    *,
    rows: int | None = None,
) -> None:
    """Write an in-memory array as one Zarr array, of one chunk or in chunks of `rows` rows."""
    shape = tuple(max(1, n) for n in values.shape)
    if rows is not None:
        shape = (min(rows, shape[0]), *shape[1:])
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=shape,
        dimension_names=dims,
        attributes=attrs,
        compressors=_checked_codecs(),
    )
    array[...] = values


def _checked_codecs() -> list[Any]:
    """Return codecs that notice a damaged chunk before anything is made of it."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return [ZstdCodec(level=3), Crc32cCodec()]


def write_names(group: Any, name: str, values: Iterable[str], dim: str) -> None:
    """Write names as a Zarr array of strings of any length."""
    from zarr.dtype import VariableLengthUTF8

    names = np.asarray([str(value) for value in values], dtype=object)
    array = group.create_array(
        name,
        shape=names.shape,
        dtype=VariableLengthUTF8(),
        chunks=(max(1, min(len(names), _NAMES_PER_CHUNK)),),
        dimension_names=(dim,),
        compressors=_checked_codecs(),
    )
    array[...] = names


def read_names(group: Any, name: str) -> npt.NDArray[np.str_]:
    """Read names written by `write_names`."""
    return np.asarray(group[name][...].astype(object), dtype=np.str_)
