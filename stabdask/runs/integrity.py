"""What in a store differs from what its run wrote there: results, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.fields.base import Field
from stabdask.files import Place, place_of, read_names, write_names
from stabdask.runs.job import RunSpec, labels_hash, names_hash
from stabdask.runs.parameters import result_names
from stabdask.runs.receipts import Receipt
from stabdask.runs.store import array_checksum, chunk_files, create_arrays, region

__all__ = ["damaged_metadata", "damaged_variables", "in_memory_group", "metadata_of"]


def damaged_variables(
    path: str | Path | Place, group: Any, spec: RunSpec, receipt: Receipt
) -> dict[str, str]:
    """Return what is wrong with the results of one finished partition, by variable.

    Values are read and their checksums compared with those in the receipt, so that damage anywhere between the
    disk and the numbers is found.
    """
    found = {}
    for name, checksum in receipt.checksums.items():
        try:
            rows = region(spec, name, receipt.partition)
            if array_checksum(group[name][rows]) == checksum:
                continue
            whole = _has_chunks(place_of(path).local, name, group[name].chunks[0], rows)
            found[name] = f"{name} does not match its checksum" if whole else f"a chunk of {name} is missing"
        except (
            MemoryError,
            ConnectionError,
        ):  # a bucket that does not answer says nothing about what it holds
            raise
        except Exception as error:  # what a broken chunk raises depends on the codec it breaks in
            found[name] = f"{name} cannot be read ({type(error).__name__})"
    return found


def _has_chunks(store: Path | None, name: str, chunk_rows: int, rows: slice) -> bool:
    """Return whether all chunks of some rows are there; not looked for in a bucket."""
    if store is None:
        return True
    folder = store / name
    there = {file.relative_to(folder / "c").parts[0] for file in chunk_files(folder, chunk_rows, rows)}
    return bool(len(there) == -(-rows.stop // chunk_rows) - rows.start // chunk_rows)


def damaged_metadata(group: Any, spec: RunSpec, field: Field) -> list[str]:
    """Return the names of arrays whose description, or of coordinates whose values, are not those of the run."""
    expected, _ = in_memory_group()
    create_arrays(expected, spec, field)
    found = [
        name for name in expected.array_keys() if metadata_of(group, name) != metadata_of(expected, name)
    ]
    for name, (dim, values) in result_names(field, spec).items():
        write_names(expected, name, values, dim)
        if _names(group, name) != [str(value) for value in values]:
            found.append(name)
    names = _names(group, "cell")
    if names is None or names_hash(np.asarray(names, dtype=object)) != spec.cells["names"]:
        found.append("cell")
    try:
        labels = labels_hash(spec.labels, np.asarray(group["cluster_code"][...]))
    except Exception:  # as above
        labels = ""
    if labels != spec.cells["labels"]:
        found.append("cluster_code")
    return sorted(found)


def in_memory_group() -> tuple[Any, dict[str, Any]]:
    """Return an empty Zarr group in memory and the mapping from paths in it to their bytes."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    return zarr.open_group(MemoryStore(files), mode="w", zarr_format=3), files


def metadata_of(group: Any, name: str) -> str | None:
    """Return the description of an array as this version of Zarr understands it, None if it does not."""
    try:
        return json.dumps(group[name].metadata.to_dict(), sort_keys=True, default=str)
    except Exception:  # damage can make Zarr raise anything
        return None


def _names(group: Any, name: str) -> list[str] | None:
    try:
        return [str(value) for value in read_names(group, name).tolist()]
    except Exception:  # as above
        return None
