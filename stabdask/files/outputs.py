"""What is made whole or not at all, on a disk or in a bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stabdask.files import local
from stabdask.files.places import Place, local_path, place_of

__all__ = ["new_directory", "new_file", "require_folder", "write_atomically"]


@contextmanager
def new_directory(path: str | Path | Place, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder on disk that becomes `path` when the block ends without error.

    On a disk it is beside `path` and takes its name. In a bucket it is uploaded, its root document last.

    Raises
    ------
    StoreMismatchError
        If `path` exists and `overwrite` is false.
    StoreLockedError
        If another process is making it (in a bucket).
    OutputError
        If it cannot be written.
    """
    place = place_of(path)
    if place.local is not None:
        with local.new_directory(place.local, overwrite=overwrite) as folder:
            yield folder
        return
    from stabdask.files.buckets import BucketPlace

    assert isinstance(place, BucketPlace)
    with tempfile.TemporaryDirectory(prefix="stabdask-") as name:
        folder = Path(name)
        with place.made_here(overwrite=overwrite, folder=folder):
            yield folder


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, on a disk, that takes its name when the block ends without error.

    Raises
    ------
    OutputError
        If the file cannot be written.
    UsageError
        If `path` is in a bucket.
    """
    with local.new_file(local_path(path, "such a file")) as temporary:
        yield temporary


def write_atomically(path: Path | Place, data: bytes) -> None:
    """Write `data` so that `path` holds either all of it or what it held before.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    place_of(path).write(data)


def require_folder(path: Path) -> None:
    """Raise unless there is a folder for the file `path` on a disk: a misspelt one is not made.

    Raises
    ------
    OutputError
        If there is none.
    UsageError
        If `path` is in a bucket.
    """
    local.require_folder(local_path(path, "such a file"))
