"""The Zarr store of a run: made whole at the start, then filled partition by partition without locks.

Every chunk belongs to one partition, so that no two tasks ever write the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import DamagedStoreError, OutputError, StabdaskError, StoreMismatchError
from stabdask.fields.base import Field
from stabdask.files import (
    Place,
    cannot_write,
    existing_place,
    fsync_directory,
    fsync_file,
    new_directory,
    new_group,
    open_group,
    place_of,
    write_array,
    write_names,
)
from stabdask.runs.annotations import cluster_colors, write_annotations
from stabdask.runs.job import Job, RunSpec, spec_fingerprint
from stabdask.runs.parameters import parameter_dims, parameter_values, result_names
from stabdask.runs.receipts import has_receipts, make_receipt_folder, package_version
from stabdask.runs.shapes import output_shapes
from stabdask.runs.sizing import chunk_cells
from stabdask.schema import FORMAT_VERSION, VARIABLES

__all__ = [
    "array_checksum",
    "chunk_files",
    "count_files",
    "create_arrays",
    "create_store",
    "field_path",
    "is_store",
    "open_store_field",
    "package_versions",
    "read_request",
    "read_spec",
    "region",
    "store_attributes",
    "variable_dtypes",
    "write_coordinates",
    "write_partition",
]

_FORMAT = "stabdask_format"
_REQUEST = "request"
_SUMS_CHUNK_BYTES = 64 * 2**20
_WRITERS = 3
"""Arrays of a partition written at a time: most are small, and wait for Zarr's threads and for the disk."""
_BUCKET_WRITERS = 16
"""The same in a bucket, where each waits for its answer."""
_PACKAGES = ("stabdask", "numpy", "scipy", "dask", "distributed", "zarr", "anndata", "xarray")


def package_versions() -> dict[str, str]:
    """Return the versions of what the results depend on."""
    return {name: package_version(name) for name in _PACKAGES}


def field_path(store: str | Path | Place) -> Place:
    """Return where a store keeps its copy of the field."""
    return place_of(store) / "field"


def is_store(path: str | Path | Place) -> bool:
    """Return whether `path` is a stabdask store."""
    return _FORMAT in _attributes(place_of(path))


def read_spec(path: str | Path | Place) -> RunSpec:
    """Return what a store was made for.

    Raises
    ------
    MissingFileError
        If nothing is at `path`.
    StoreMismatchError
        If what is there is no stabdask store, one of another format version, or of a run with options that this version
        does not have.
    DamagedStoreError
        If its attributes are damaged.
    """
    path = existing_place(path, "store")
    attributes = _attributes(path)
    found = attributes.get(_FORMAT)
    if found is None and has_receipts(path):
        raise DamagedStoreError(
            f"{path} holds receipts of a run, but {path / 'zarr.json'} cannot be read or says nothing of one; run the "
            "same command with --repair (repair=True)"
        )
    if found is None:
        raise StoreMismatchError(f"{path} exists and is not a stabdask store; choose another path")
    writer = f"use the stabdask that wrote it ({attributes.get('versions', {}).get('stabdask', 'unknown')})"
    if found != FORMAT_VERSION:
        raise StoreMismatchError(
            f"{path} has store format {found}, this version reads {FORMAT_VERSION}; {writer}"
        )
    try:
        spec = RunSpec.from_dict(attributes["run"])
    except (KeyError, TypeError) as error:
        # A later version may have more options, and what it wrote of them is not damage.
        if _is_intact(attributes):
            raise StoreMismatchError(
                f"{path} is of a run with options that this version does not have ({error}); {writer}"
            ) from error
        raise DamagedStoreError(
            f"the attributes of {path} are not those of a run ({error!r}); run the same command with --repair "
            "(repair=True)"
        ) from error
    if spec.fingerprint != attributes.get("fingerprint"):
        raise DamagedStoreError(
            f"the attributes of {path} do not match their fingerprint; the store was edited. Run the same command "
            "with --repair (repair=True)"
        )
    return spec


def _is_intact(attributes: dict[str, Any]) -> bool:
    """Return whether what attributes say of a run is what their fingerprint was taken of."""
    try:
        return spec_fingerprint(attributes["run"]) == attributes.get("fingerprint")
    except (KeyError, TypeError):
        return False


def read_request(path: str | Path | Place) -> dict[str, Any] | None:
    """Return what the command line that made a store was asked for; None if it was made from Python."""
    found = _attributes(place_of(path)).get(_REQUEST)
    return found if isinstance(found, dict) else None


def _attributes(place: Place) -> dict[str, Any]:
    try:
        document = json.loads((place / "zarr.json").read())
    except StabdaskError:  # a bucket that does not answer says nothing on what it holds
        raise
    except (OSError, json.JSONDecodeError):
        return {}
    attributes = document.get("attributes", {})
    return attributes if isinstance(attributes, dict) else {}


def variable_dtypes(spec: RunSpec) -> dict[str, np.dtype[Any]]:
    """Return the dtype of every variable of a store."""
    return {name: VARIABLES[name].dtype(spec.options.dtype) for name in spec.options.variables()}


def create_store(path: Path | Place, job: Job, request: Mapping[str, Any] | None = None) -> None:
    """Make an empty store with all metadata, coordinates and the field; it appears whole or not at all.

    `request` is what the command line was asked for, recorded so that it need not be told again.

    Raises
    ------
    OutputError
        If it cannot be written.
    StoreLockedError
        If another process is making it (in a bucket).
    """
    spec = job.spec
    try:
        with new_directory(path) as folder:
            group = new_group(folder)
            write_coordinates(group, job)
            create_arrays(group, spec, job.field)
            job.field.save(folder / "field")
            make_receipt_folder(folder)
            # Attributes last: what makes the folder a store is there only when the rest is.
            group.attrs.update(store_attributes(spec, request))
    except StoreMismatchError:
        if not is_store(path):
            raise
        # Another process made it meanwhile; the caller compares fingerprints.


def store_attributes(spec: RunSpec, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the attributes of a store say of its run, and of how the command line finds its input again."""
    attributes: dict[str, Any] = {
        _FORMAT: FORMAT_VERSION,
        "fingerprint": spec.fingerprint,
        "versions": package_versions(),
        "run": spec.to_dict(),
    }
    return attributes if request is None else {**attributes, _REQUEST: dict(request)}


def write_coordinates(group: Any, job: Job) -> None:
    """Write names, labels, parameters and annotations: what results have beside what is computed."""
    spec = job.spec
    write_names(group, "cell", job.cell_names.tolist(), "cell")
    for name, (dim, values) in result_names(job.field, spec).items():
        write_names(group, name, values, dim)
    write_array(
        group,
        "cluster_code",
        job.label_codes.astype(np.int32),
        ("cell",),
        {"long_name": "cluster of the cell", "description": "position in cluster, -1 for no label"},
    )
    for name, values_of in parameter_values(job.field, spec.options).items():
        write_array(group, name, values_of(spec.models), *parameter_dims(name))
    group["cluster"].attrs.update(cluster_colors(job.cells, spec.labels))
    write_annotations(group, job.annotations)


def create_arrays(group: Any, spec: RunSpec, field: Field) -> None:
    """Make the empty arrays of a run in a Zarr group."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    shapes = output_shapes(
        spec.options, field, spec.n_cells, n_labels=len(spec.labels), n_partitions=spec.n_partitions
    )
    for name, dtype in variable_dtypes(spec).items():
        # Byte shuffling is what makes numbers that all differ compressible. Spectra are not such: imaginary parts
        # of zero, repeated values and NaN past the end make them smaller and quicker to write as they are. LZ4
        # takes a third of the time of Zstandard.
        shuffle: Literal["noshuffle", "shuffle"] = "noshuffle" if dtype.kind == "c" else "shuffle"
        codec = BloscCodec(cname="lz4", clevel=5, shuffle=shuffle, typesize=dtype.itemsize)
        group.create_array(
            name,
            shape=shapes[name],
            dtype=dtype,
            chunks=_chunk_shape(spec, name, shapes[name]),
            fill_value=VARIABLES[name].fill,
            # Blosc takes the length of a chunk from the chunk itself: of one cut short it reads what lies in memory
            # behind it. The checksum lets no reader, of whatever library, make numbers of a damaged chunk.
            compressors=[codec, Crc32cCodec()],
            dimension_names=VARIABLES[name].dims,
            attributes=dict(VARIABLES[name].attrs),
        )


def _chunk_shape(spec: RunSpec, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chunks of a variable, each of which belongs to one partition."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * VARIABLES[name].dtype(spec.options.dtype).itemsize
    if VARIABLES[name].per_partition:
        labels = shape[1] if row_bytes <= _SUMS_CHUNK_BYTES else 1
        return (1, max(1, labels), *(max(1, n) for n in shape[2:]))
    return (chunk_cells(spec.partition_cells, row_bytes), *(max(1, n) for n in shape[1:]))


def count_files(spec: RunSpec, field: Field) -> int:
    """Return how many files the results of a run take: chunks, descriptions of arrays, and receipts."""
    shapes = output_shapes(
        spec.options, field, spec.n_cells, n_labels=len(spec.labels), n_partitions=spec.n_partitions
    )
    n_files = spec.n_partitions
    for name, shape in shapes.items():
        chunks = _chunk_shape(spec, name, shape)
        n_files += 1 + math.prod(-(-n // size) for n, size in zip(shape, chunks, strict=True))
    return n_files


def open_store_field(path: str | Path | Place) -> Field:
    """Open the copy of the field in a store."""
    from stabdask.fields.reading import read_field

    return read_field(field_path(path).origin)


def write_partition(
    path: str | Path, spec: RunSpec, partition: int, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, str]:
    """Write the arrays of one partition, force them to disk, and return a checksum of each.

    Raises
    ------
    OutputError
        If the disk is full or the store cannot be written.
    """
    import zarr
    from numcodecs import blosc

    # Blosc on several threads puts compressed blocks in the order in which they finish: other bytes each time.
    blosc.use_threads = False
    n_writers = _WRITERS if place_of(path).local is not None else _BUCKET_WRITERS
    root = place_of(path)

    def write(name: str) -> str:
        target, values = targets[name], arrays[name]
        rows = region(spec, name, partition)
        target[rows] = values
        # A PUT is durable when it returns. An array without entries has no chunk files.
        if values.size and root.local is not None:
            _fsync_chunks(root.local / name, target.chunks[0], rows)
        return array_checksum(values)

    try:
        with (
            zarr.config.set({"array.write_empty_chunks": True}),
            ThreadPoolExecutor(n_writers, thread_name_prefix="stabdask-write") as writers,
        ):
            targets = _open_arrays(str(root), spec.fingerprint, tuple(arrays))
            return dict(zip(arrays, writers.map(write, arrays), strict=True))
    except StabdaskError:
        raise
    except OSError as error:
        raise OutputError(
            f"partition {partition} is not finished: {cannot_write(path, error)}: what is finished is kept"
        ) from error


@lru_cache(maxsize=2)
def _open_arrays(path: str, fingerprint: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Open the arrays of a store once per process; `fingerprint` tells apart stores made at one path in turn."""
    try:
        group = open_group(path, mode="r+")
        return {name: group[name] for name in names}
    except OSError:
        raise
    except Exception as error:  # damage can make Zarr raise anything
        raise DamagedStoreError(
            f"an array of results in {path} cannot be opened ({type(error).__name__}: {error}); run the same "
            "command with --repair (repair=True)"
        ) from error


def region(spec: RunSpec, name: str, partition: int) -> slice:
    """Return the entries of the variable `name`, on its first axis, that belong to a partition."""
    if VARIABLES[name].per_partition:
        return slice(partition, partition + 1)
    return slice(*spec.bounds(partition))


def _fsync_chunks(folder: Path, chunk_rows: int, rows: slice) -> None:
    """Force the chunk files of some rows to disk (default keys: c/<chunk of rows>/...).

    Temporary files are another writer's, which computes the same partition and may rename them any moment.
    """
    parents = set()
    for file in chunk_files(folder, chunk_rows, rows):
        fsync_file(file)
        parents |= {parent for parent in file.parents if parent.is_relative_to(folder)}
    for parent in parents:
        fsync_directory(parent)


def chunk_files(folder: Path, chunk_rows: int, rows: slice) -> list[Path]:
    """Return the chunk files of some rows of the array in `folder` that are there."""
    found = []
    for number in range(rows.start // chunk_rows, -(-rows.stop // chunk_rows)):
        place = folder / "c" / str(number)
        found += [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    # Other tasks may be at the same partition, and their temporary files come and go.
    return [file for file in found if file.suffix != ".partial"]


def array_checksum(values: npt.NDArray[Any]) -> str:
    """Return a hash of the values of an array, independent of how they are stored."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    # Processors have instructions for SHA-256: twice as fast as BLAKE2 where it counts.
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()[:32]
