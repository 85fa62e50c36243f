"""Results into AnnData files: new columns beside what is there, without reading expression.

A copy is made under a temporary name and takes its own when it is complete. In place, everything new is written
first, where no reader looks; then the columns that it replaces leave obs, the new data take their names, and the
list of the columns of obs is written last. Whenever that is cut short the file reads as an AnnData, with the old
results or without any, and the same export again finishes it.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.atlas.exporters import Selection, match_cells, run_record, select_results, spread, spread_column
from stabdask.atlas.matrix_blocks import opened_file
from stabdask.atlas.sources import frame_index
from stabdask.errors import OVERWRITE, InputError, OutputError, StabdaskError, StoreMismatchError, UsageError
from stabdask.files import (
    existing_path,
    fsync_directory,
    fsync_file,
    new_directory,
    new_file,
    open_group,
    require_folder,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AtlasExport", "export_atlas"]

_PENDING = "stabdask_pending_"
_MOST_COLUMNS_HDF5 = 4000
"""HDF5 holds an attribute, such as the list of columns, in 64 kB: 16 bytes a name."""


@dataclass(frozen=True)
class AtlasExport:
    """What an export wrote, or would write.

    Attributes
    ----------
    output
        Path of the file.
    added
        Columns of obs and keys of obsm.
    removed
        Columns and keys of an earlier export that are gone.
    n_cells, n_matched
        Cells of the atlas, and how many of them have results.
    """

    output: str
    added: list[str]
    removed: list[str]
    n_cells: int
    n_matched: int


def export_atlas(
    ds: xr.Dataset,
    atlas: str | Path,
    output: str | Path | None = None,
    *,
    prefix: str = "stability_",
    quantities: Sequence[str] | None = None,
    elements: Sequence[tuple[str, str]] | None = None,
    eigenvalues: bool = False,
    store: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> AtlasExport:
    """Write results into a copy of an AnnData file, or into the file itself.

    Cells are matched by name, as `stabdask.to_anndata` does. Expression is copied as bytes, never read.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    atlas
        An h5ad file or a zarr AnnData.
    output
        Where to write the copy, of the same format; None writes into `atlas`. An export replaces what an earlier
        one with the same prefix wrote, and touches nothing else. HDF5 does not give the space of replaced columns
        back (h5repack does), and a power cut in the very moment it writes its tables can damage an HDF5 file: write
        a copy of an atlas that cannot be had again.
    prefix, quantities, elements, eigenvalues
        As for `stabdask.to_anndata`.
    store
        Where the run is, to be noted in ``uns``; where `ds` was opened from if not given.
    overwrite
        Replace an AnnData at `output`, and columns of these names that no export wrote.
    dry_run
        Check everything and write nothing.

    Returns
    -------
    AtlasExport

    Raises
    ------
    MissingFileError, MissingKeyError, InputError
        If the atlas is not there or no AnnData, or no cell of it has a result.
    StoreMismatchError
        If `output` exists, or columns of these names do that no export wrote, and `overwrite` is false.
    UsageError
        If `prefix` holds a slash, or `output` is the atlas itself or of another format.
    OutputError
        If the file cannot be written, because it is read-only, say.
    """
    if "/" in prefix or "\x00" in prefix:
        raise UsageError(
            f"the prefix {prefix!r} holds a slash, which no key of an AnnData file may; leave it out"
        )
    path = existing_path(atlas, "atlas")
    target = path if output is None else Path(output)
    chosen = select_results(
        ds, prefix=prefix, quantities=quantities, elements=elements, eigenvalues=eigenvalues
    )
    if output is None:
        _check_writable(path)
    else:
        _check_output(path, target, overwrite=overwrite)
    with _reading(path) as root:
        names = frame_index(root["obs"])
        old = _replaced(root, chosen, path, overwrite=overwrite)
    source = match_cells(ds, names)
    new = {"obs": chosen.columns, "obsm": chosen.arrays}
    report = AtlasExport(
        output=str(target),
        added=[*chosen.columns, *chosen.arrays],
        removed=[key for group, keys in old.items() for key in keys if key not in new[group]],
        n_cells=len(names),
        n_matched=int((source >= 0).sum()),
    )
    if dry_run:
        return report
    record = run_record(ds, chosen, store=store)
    computed = chosen.compute(ds)
    columns = {
        name: spread_column(values, source, is_count=chosen.is_count(name))
        for name, values in chosen.column_values(computed).items()
    }
    arrays = {name: spread(computed["eigenvalue"].to_numpy(), source, np.nan) for name in chosen.arrays}
    made = _New(columns, arrays, {chosen.record: record}, old)
    if output is None:
        _write_into(path, made)
    elif path.is_dir():
        with new_directory(target, overwrite=overwrite) as folder:
            shutil.copytree(path, folder, dirs_exist_ok=True)
            _write_into(folder, made)
    else:
        with new_file(target) as file:
            shutil.copyfile(path, file)
            _write_into(file, made)
    return report


@dataclass(frozen=True)
class _New:
    """What to write: columns of obs, arrays of obsm, entries of uns; and what goes, by group."""

    columns: Mapping[str, Any]
    arrays: Mapping[str, Any]
    records: Mapping[str, Any]
    old: Mapping[str, Sequence[str]]

    def items(self) -> Iterator[tuple[str, str, Any]]:
        """Give (group, key, value), the record of the run first: it says which columns are ours."""
        for group, values in (("uns", self.records), ("obsm", self.arrays), ("obs", self.columns)):
            for key, value in values.items():
                yield group, key, value


def _check_output(path: Path, target: Path, *, overwrite: bool) -> None:
    wanted = ".zarr" if path.is_dir() else ".h5ad"
    if target.suffix != wanted:
        raise UsageError(
            f"{target} does not end in {wanted}, the format of {path.name}; a copy keeps the format of its atlas"
        )
    if path.is_dir() and path.resolve() in target.resolve().parents:
        raise UsageError(f"{target} lies inside the atlas; choose another path")
    require_folder(target)
    if not target.exists():
        return
    if target.samefile(path):
        raise UsageError(
            f"{target} is the atlas itself; ask to write in place (--in-place, output=None), or choose another path"
        )
    if not overwrite:
        raise StoreMismatchError(f"{target} exists; remove it, choose another path, or {OVERWRITE}")
    if path.is_dir() and path.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"{target} holds the atlas; choose another path")
    try:
        with _reading(target):
            pass
    except InputError as error:
        raise StoreMismatchError(f"{target} is no AnnData, so it is not overwritten ({error})") from error


def _check_writable(path: Path) -> None:
    # A file without any permission to write is meant to stay as it is, even where root may.
    if not os.access(path, os.W_OK) or not path.stat().st_mode & 0o222:
        raise OutputError(f"{path} is read-only; write a copy instead, or mend the permissions")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open an AnnData file and make sure that it is one."""
    try:
        with opened_file(str(path)) as root:
            for needed in ("obs", "var"):
                if needed not in root or not hasattr(root[needed], "keys"):
                    raise InputError(
                        f"{path} has no table {needed!r}; expected an AnnData file of version 0.7 on"
                    )
            yield root
    except StabdaskError:
        raise
    except OSError as error:
        raise InputError(f"{path} is neither an h5ad file nor a zarr AnnData ({error})") from error


def _replaced(root: Any, chosen: Selection, path: Path, *, overwrite: bool) -> dict[str, list[str]]:
    """Return, by group, the keys that an earlier export with this prefix wrote; they are replaced or removed."""
    listed = _column_order(root)
    present = {"obs": set(listed), "obsm": {str(key) for key in root.get("obsm", {})}}
    new = {"obs": set(chosen.columns), "obsm": set(chosen.arrays)}
    noted = _noted(root, chosen, path)
    for group, keys in new.items():
        foreign = sorted(keys & present[group] - noted[group])
        if foreign and not overwrite:
            raise StoreMismatchError(
                f"{path.name} has {foreign[0]!r} in {group} already, which no export noted in uns[{chosen.record!r}]; "
                f"choose another prefix, or {OVERWRITE}"
            )
    n_columns = len(present["obs"] | new["obs"])
    if not path.is_dir() and n_columns > _MOST_COLUMNS_HDF5:
        raise InputError(
            f"obs would have {n_columns:,} columns; HDF5 can list about {_MOST_COLUMNS_HDF5:,}: export fewer elements, "
            "or into a zarr AnnData"
        )
    return {group: sorted(present[group] & (noted[group] | new[group])) for group in new}


def _noted(root: Any, chosen: Selection, path: Path) -> dict[str, set[str]]:
    """Return, by group, the keys that an earlier export with this prefix says it wrote."""
    from anndata.io import read_elem

    record: Any = {}
    if chosen.record in [str(key) for key in root.get("uns", {})]:
        record = read_elem(root["uns"][chosen.record])
    if not isinstance(record, Mapping) or "fingerprint" not in record:
        return {"obs": set(), "obsm": set()}
    if "keys" not in record:  # of an earlier release, whose keys had the names of today
        return {"obs": set(chosen.columns), "obsm": set(chosen.arrays)}
    try:
        keys = json.loads(str(record["keys"]))
        return {group: {str(key) for key in keys[group]} for group in ("obs", "obsm")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"uns[{chosen.record!r}] of {path.name} is not what an export writes ({error!r}); delete it or choose "
            "another prefix"
        ) from error


def _column_order(root: Any) -> list[str]:
    return [str(name) for name in root["obs"].attrs.get("column-order", [])]


def _write_into(path: Path, new: _New) -> None:
    """Write into an AnnData file or folder, in the order that the module describes."""
    try:
        with _writing(path) as (root, settle):
            _write(root, new, settle)
    except StabdaskError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; is another program using it, or the disk full?"
        ) from error


def _write(root: Any, new: _New, settle: _Settle) -> None:
    from anndata.io import write_elem

    obs = root["obs"]
    for name in [str(name) for name in obs if str(name).startswith(_PENDING)]:
        del obs[name]  # of an export that was cut short
    for group in ("obsm", "uns"):
        if group not in root:
            write_elem(root, group, {})
    items = list(new.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how arrays are chunked
        for number, (_, _, value) in enumerate(items):
            write_elem(obs, f"{_PENDING}{number}", value)
    settle(root)
    order = _column_order(root)
    gone = {*new.old["obs"], *new.columns}
    kept = [name for name in order if name not in gone]
    if kept != order:
        settle.list_columns(obs, kept)
        settle(root)
    there = {group: {str(name) for name in root[group]} for group in ("obs", "obsm", "uns")}
    for group, keys in new.old.items():
        for key in there[group].intersection(keys):
            del root[group][key]
            there[group].remove(key)
    for number, (group, key, _) in enumerate(items):
        if key in there[group]:
            del root[group][key]
        settle.move(root, f"{_PENDING}{number}", group, key)
    # Columns that are replaced keep their places.
    added = [name for name in new.columns if name not in order]
    settle.list_columns(obs, [name for name in order if name not in gone or name in new.columns] + added)
    settle(root)


class _SettleFile:
    """Moves data in an HDF5 file to their places, and makes what was written last."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, root: Any) -> None:
        root.flush()
        fsync_file(self._path)

    def list_columns(self, obs: Any, names: Sequence[str]) -> None:
        import h5py

        obs.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())

    def move(self, root: Any, pending: str, group: str, key: str) -> None:
        root.move(f"obs/{pending}", f"{group}/{key}")


class _SettleFolder:
    """The same for a Zarr folder, whose consolidated metadata, where it has them, must follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._consolidated = _has_consolidated(path)

    def __call__(self, root: Any) -> None:
        import zarr

        for pending in (self._path / "obs").glob(f"{_PENDING}*"):
            for item in (pending, *pending.rglob("*")):
                fsync_file(item)
        if self._consolidated:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that version 3 of the format does not define them yet
                zarr.consolidate_metadata(str(self._path))
        for group in ("obs", "obsm", "uns"):
            fsync_directory(self._path / group)

    def list_columns(self, obs: Any, names: Sequence[str]) -> None:
        obs.attrs["column-order"] = list(names)

    def move(self, root: Any, pending: str, group: str, key: str) -> None:
        (self._path / "obs" / pending).rename(self._path / group / key)


_Settle = _SettleFile | _SettleFolder


def _has_consolidated(path: Path) -> bool:
    if (path / ".zmetadata").is_file():
        return True
    document = path / "zarr.json"
    return document.is_file() and bool(json.loads(document.read_text()).get("consolidated_metadata"))


@contextmanager
def _writing(path: Path) -> Iterator[tuple[Any, _Settle]]:
    if path.is_dir():
        yield open_group(path, mode="r+"), _SettleFolder(path)
        return
    import h5py

    with h5py.File(path, "r+") as root:
        yield root, _SettleFile(path)
    fsync_file(path)
