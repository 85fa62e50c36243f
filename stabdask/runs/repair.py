"""`run(..., repair=True)`: what is damaged in a store is found, and made again from the job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.errors import DamagedStoreError, MissingFileError, StabdaskError, UsageError
from stabdask.fields.storage import open_field, open_field_cached
from stabdask.files import Place, cannot_write, fsync_directory, open_group, place_of, write_atomically
from stabdask.runs.annotations import damaged_annotations
from stabdask.runs.integrity import damaged_variables, in_memory_group, metadata_of
from stabdask.runs.job import Job
from stabdask.runs.receipts import Receipt, receipt_folder, receipt_names, store_lock
from stabdask.runs.store import (
    chunk_files,
    create_arrays,
    field_path,
    read_spec,
    region,
    store_attributes,
    variable_dtypes,
    write_coordinates,
)

__all__ = ["Repair", "backend_of_receipts", "check_field", "on_disk", "repair_attributes", "repair_store"]


@dataclass(frozen=True)
class Repair:
    """What was found damaged.

    Attributes
    ----------
    partitions
        Why each partition that has lost its receipt is computed again.
    metadata
        What else was written again, and why.
    """

    partitions: dict[int, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.partitions and not self.metadata:
            return "repaired     nothing: no damage found"
        lines = [f"damaged      partition {number}: {why}" for number, why in self.partitions.items()]
        lines += [f"damaged      {name}: {why}; written again" for name, why in self.metadata.items()]
        return "\n".join(lines)


def backend_of_receipts(path: Path) -> str | None:
    """Return the backend that the readable receipts of a store name, None if there are none or they differ."""
    found = {receipt.backend for receipt in _readable(path)}
    return found.pop() if len(found) == 1 else None


def on_disk(store: Place) -> Path:
    """Return the path of a store that is to be repaired.

    Raises
    ------
    UsageError
        If it is in a bucket.
    """
    if store.local is None:
        raise UsageError(
            f"{store} is in a bucket, and what is damaged there is not repaired in place; 'stabdask verify' names "
            f"partitions that are: delete their receipts ({receipt_folder(store)}/NUMBER.json), and run the same "
            "command again"
        )
    return store.local


def check_field(path: Place, fingerprint: str) -> None:
    """Refuse a damaged copy of the field before workers stumble over it.

    Raises
    ------
    DamagedStoreError
        If it is damaged or gone.
    """
    # What this process read in an earlier run says nothing of what is on disk now.
    open_field_cached.cache_clear()
    try:
        open_field_cached(str(field_path(path)), fingerprint)
    except (DamagedStoreError, MissingFileError) as error:
        raise DamagedStoreError(
            f"{error}, or run the same command with --repair (repair=True), which does so"
        ) from error


def repair_attributes(
    path: Path, job: Job, request: Mapping[str, Any] | None, *, lock: bool
) -> dict[str, str]:
    """Write the attributes of a store again where they are damaged, and receipts say that it is the job's.

    Parameters
    ----------
    path, job, request, lock
        As for `stabdask.run`.

    Returns
    -------
    dict
        What was written again, and why.

    Raises
    ------
    DamagedStoreError
        If receipts do not say that the store belongs to the job.
    StoreMismatchError
        If it is no stabdask store, or an intact one of another run.
    """
    try:
        read_spec(path)
        return {}
    except DamagedStoreError as error:
        damage = error
    found = {receipt.fingerprint for receipt in _readable(path)}
    if found != {job.spec.fingerprint}:
        said = "belong to another run" if found else "cannot be read, or there are none"
        raise DamagedStoreError(
            f"{damage.args[0].split('; run')[0]}, and its receipts, which could say which run it belongs to, {said}. "
            "Nothing was changed: repeat the run it belongs to, or remove it and run the same command again"
        ) from damage
    with store_lock(path, lock=lock):
        document = {"attributes": store_attributes(job.spec, request), "zarr_format": 3, "node_type": "group"}
        # As Zarr writes it.
        write_atomically(path / "zarr.json", json.dumps(document, indent=2).encode())
    return {"zarr.json": "the attributes of the store could not be read"}


def repair_store(path: Path, job: Job, *, metadata: dict[str, str]) -> Repair:
    """Write metadata again that are damaged, and delete the receipts of partitions that are; while holding the lock.

    Parameters
    ----------
    path
        A store whose attributes are those of the job.
    job
        The job.
    metadata
        What was written again before.

    Raises
    ------
    OutputError
        If the store cannot be written.
    """
    try:
        metadata = {**metadata, **_repair_metadata(path, job), **_repair_field(path, job)}
        partitions = _drop_damaged(path, job)
    except StabdaskError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    return Repair(partitions, metadata)


def _receipt_paths(path: Path) -> list[Path]:
    folder = receipt_folder(place_of(path)).local
    assert folder is not None
    return [folder / name for name in receipt_names(path)]


def _readable(path: Path) -> list[Receipt]:
    found = []
    for place in _receipt_paths(path):
        try:
            found.append(Receipt.from_json(place.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def _repair_metadata(path: Path, job: Job) -> dict[str, str]:
    """Compare all that a store has beside results with what the job would write there, and write it again."""
    expected, files = in_memory_group()
    write_coordinates(expected, job)
    coordinates = sorted(expected.array_keys())
    create_arrays(expected, job.spec, job.field)
    there = open_group(path)
    names = [annotation.name for annotation in job.annotations]
    broken = damaged_annotations(there, job.spec.cells.get("annotations", {}))
    damaged = {f"annotation_{names.index(name)}" for name in broken}
    found = {}
    for name in sorted(expected.array_keys()):
        annotation, results = name.startswith("annotation_"), name not in coordinates
        if name in damaged or (not annotation and not _same(there, expected, name, results)):
            why = f"its {'description' if results else 'values'} are not those of the run"
            found[name] = why.replace("description are", "description is")
            if not results:
                shutil.rmtree(path / name, ignore_errors=True)
            for key in [key for key in files if key.startswith(f"{name}/")]:
                (path / key).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path / key, files[key].to_bytes())
    return found


def _same(there: Any, expected: Any, name: str, results: bool) -> bool:
    """Return whether an array is described as expected and, if it is no array of results, holds the same."""
    if metadata_of(there, name) is None:
        return False
    if results:
        return metadata_of(there, name) == metadata_of(expected, name)
    try:  # colors of clusters, which are in attributes, may have changed since
        wanted, found = expected[name][...], there[name][...]
        same_dims = there[name].metadata.dimension_names == expected[name].metadata.dimension_names
        return bool(
            same_dims
            and found.dtype == wanted.dtype
            and np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")
        )
    except Exception:  # what a broken chunk raises depends on the codec it breaks in
        return False


def _repair_field(path: Path, job: Job) -> dict[str, str]:
    try:
        if open_field(field_path(path).origin).fingerprint == job.spec.field:
            return {}
        why = "it is not the field of the run"
    except (StabdaskError, OSError) as error:
        why = f"it cannot be read ({type(error).__name__})"
    job.field.save(field_path(path).origin, overwrite=True)
    return {"field": why}


def _drop_damaged(path: Path, job: Job) -> dict[int, str]:
    """Delete the receipts of partitions whose results are not those that were written, and what is left of these."""
    group, spec = open_group(path), job.spec
    variables = set(variable_dtypes(spec))
    found: dict[int, str] = {}
    for place in _receipt_paths(path):
        number = int(place.stem) if place.stem.isdigit() else -1
        try:
            receipt = Receipt.from_json(place.read_bytes())
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why, names = f"its receipt cannot be read ({type(error).__name__})", variables
        else:
            ours = (
                receipt.fingerprint == spec.fingerprint
                and receipt.partition == number
                and 0 <= number < spec.n_partitions
                and (receipt.start, receipt.stop) == spec.bounds(number)
                and set(receipt.checksums) == variables
            )
            damage = damaged_variables(path, group, spec, receipt) if ours else {}
            why = "; ".join(damage.values()) if ours else "its receipt is not one of this run"
            names = set(damage) if ours else variables
        if not why:
            continue
        found[number] = why
        # The receipt first: a partition without one is computed again whatever is there of it.
        place.unlink()
        fsync_directory(place.parent)
        if not 0 <= number < spec.n_partitions:
            continue
        for name in names:
            rows = region(spec, name, number)
            for file in chunk_files(path / name, group[name].chunks[0], rows):
                file.unlink()
    return found
