"""Files and folders on a disk: atomic writes, folders that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stabdask.errors import OVERWRITE, MissingFileError, OutputError, StabdaskError, StoreMismatchError

__all__ = [
    "cannot_write",
    "existing_path",
    "fsync_directory",
    "fsync_file",
    "missing_file",
    "new_directory",
    "new_file",
    "require_folder",
    "sweep_beside",
    "writable",
    "write_atomically",
]

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount it for writing or choose another place",
    errno.EACCES: "mend the permissions or choose another place",
    errno.EPERM: "mend the permissions or choose another place",
}


def cannot_write(path: object, error: OSError) -> OutputError:
    """Return the error that says why `path` cannot be written, and what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, "mend that")
    return OutputError(
        f"cannot write {path}: {error.strerror or error}; {remedy}, then run the same command again"
    )


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
        with suppress(OSError):  # the file system may have become read-only
            temporary.unlink()
        raise cannot_write(path, error) from error
    fsync_directory(path.parent)


def _fsync_tree(folder: Path) -> None:
    """Force everything in a folder to disk, so that a name given to it afterwards never names a part of it."""
    for place, _, names in os.walk(folder):
        for name in names:
            fsync_file(Path(place) / name)
        fsync_directory(Path(place))


def _make_held(folder: Path) -> int:
    """Make a folder and lock it, which tells it from one left by a process that was killed."""
    while True:
        folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # swept before it could be held
            continue
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return descriptor
        os.close(descriptor)  # swept between the two steps


def sweep_beside(path: Path) -> int:
    """Delete folders that `new_directory` began for `path` in processes that were killed. Return how many."""
    n_swept = 0
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        middle = folder.name[len(path.name) + 2 : -len(".tmp")]
        if len(middle) != 32 or set(middle) - set("0123456789abcdef"):
            continue
        with suppress(OSError):  # in use, or its file system locks no folders: leave it alone
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                n_swept += not folder.exists()
            finally:
                os.close(descriptor)
    return n_swept


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
        raise StoreMismatchError(f"{path} exists; remove it, choose another path, or {OVERWRITE}")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    held = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _make_held(temporary)
            yield temporary
            _fsync_tree(temporary)
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
            raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)


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
        raise cannot_write(path, error) from error


def writable(folder: Path) -> None:
    """Raise `OutputError` if nothing can be written in `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder; choose another path for the store")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written; choose another path or mend the permissions")
