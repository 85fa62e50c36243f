"""Files and folders on a disk: atomic writes, folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stabdask.errors import MissingFileError, OutputError, StabdaskError, StoreMismatchError

__all__ = [
    "existing_path",
    "fsync_directory",
    "fsync_file",
    "missing_file",
    "new_directory",
    "new_file",
    "require_folder",
    "writable",
    "write_atomically",
]


def existing_path(path: str | Path, what: str) -> Path:
    """Return `path` as a Path.

    Raises
    ------
    MissingFileError
        If nothing is there; the message lists what is in its folder.
    """
    path = Path(path)
    if path.exists():
        return path
    raise missing_file(path, what)


def missing_file(path: Path, what: str) -> MissingFileError:
    """Return the error that says that nothing is at `path`."""
    folder = path.parent
    if folder.is_dir():
        siblings = sorted(p.name for p in folder.iterdir() if p.suffix == path.suffix and p.name[0] != ".")[
            :8
        ]
        there = f"; files of that kind there: {', '.join(siblings)}" if siblings else ""
    else:
        there = f": the folder {folder} does not exist"
    error: MissingFileError = MissingFileError(f"no {what} at {path}{there}")
    return error


def fsync_file(path: Path) -> None:
    """Force the bytes of a file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Force the names in a folder to disk (what makes a rename last)."""
    fsync_file(path)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either all of it or what it held before, even after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    fsync_directory(path.parent)


@contextmanager
def new_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its name when the block ends without error.

    Raises
    ------
    StoreMismatchError
        If `path` exists and `overwrite` is false.
    OutputError
        If the folder cannot be written.
    """
    if path.exists() and not overwrite:
        raise StoreMismatchError(f"{path} exists; remove it, choose another path, or ask to overwrite")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
            if overwrite and path.exists():
                path.rename(aside)
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise StoreMismatchError(f"{path} was made by another process meanwhile") from error
                raise
            fsync_directory(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        except StabdaskError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_folder(path: Path) -> None:
    """Raise unless there is a folder for the file `path`: a misspelt one is not made.

    Raises
    ------
    OutputError
        If there is none.
    """
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot write {path}: there is no folder {path.parent}; make it, or choose another"
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its name when the block ends without error.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            fsync_file(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_directory(path.parent)
    except StabdaskError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def writable(folder: Path) -> None:
    """Raise `OutputError` if nothing can be written in `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder; choose another path for the store")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written; choose another path or mend the permissions")
