"""Places: what is a folder or a file on a disk, or lies under a prefix of a bucket, behind one set of operations.

Whoever reads or writes a store asks its place and need not know which of the two it is. `Place.local` is the path on a
disk, None in a bucket, for the few things that only one of them has: flock and fsync here, leases there.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stabdask.errors import StabdaskError, UsageError
from stabdask.files import local

__all__ = ["DiskPlace", "Place", "existing_path", "existing_place", "local_path", "location", "place_of"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"s3:/{1,2}(?=[^/])")  # a Path drops one of the two slashes
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Place(ABC):
    """Somewhere a file or a folder is or may be made; `str` of it is its path or address."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its path."""

    @property
    def local(self) -> Path | None:
        """Its path on a disk; None in a bucket."""
        return None

    @property
    @abstractmethod
    def origin(self) -> Path | str:
        """What a caller may keep: a Path, or the address of what lies in a bucket."""

    @abstractmethod
    def __truediv__(self, part: str) -> Place:
        """Return a place inside this one."""

    @abstractmethod
    def absolute(self) -> Place:
        """Return the same place in a form that means the same to another process."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether something is here; what is half made in a bucket is not."""

    @abstractmethod
    def is_folder(self) -> bool:
        """Return whether what is here holds other things."""

    @abstractmethod
    def missing(self, what: str) -> StabdaskError:
        """Return the error that says that nothing is here, with what is nearby."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes of the file here.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Write a file here, so that others see all of it or what was here before."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the sorted names of the files right inside this folder; none if there is no folder."""

    @abstractmethod
    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """Give the bytes of files inside this folder, in the order of their names."""

    @abstractmethod
    def group_address(self) -> tuple[Any, str | None]:
        """Return Zarr's store and the path in it that a group here has."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise `OutputError` where it is plain that nothing can be made here."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return how much fits here; None where nobody can tell."""

    @abstractmethod
    def identity(self, key: str) -> dict[str, Any]:
        """Return JSON-ready facts that change with the element `key` of what is here."""


class DiskPlace(Place):
    """A path on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._path.name

    @property
    def local(self) -> Path:
        """Its path."""
        return self._path

    @property
    def origin(self) -> Path:
        """Its path."""
        return self._path

    def __truediv__(self, part: str) -> DiskPlace:
        return DiskPlace(self._path / part)

    def absolute(self) -> DiskPlace:
        """Return the same place with its absolute path."""
        return DiskPlace(self._path.absolute())

    def exists(self) -> bool:
        """Return whether something is here."""
        return self._path.exists()

    def is_folder(self) -> bool:
        """Return whether it is a folder."""
        return self._path.is_dir()

    def missing(self, what: str) -> StabdaskError:
        """Return the error that says that nothing is here."""
        return local.missing_file(self._path, what)

    def read(self) -> bytes:
        """Return the bytes of the file here."""
        return self._path.read_bytes()

    def write(self, data: bytes) -> None:
        """Write a file here atomically."""
        local.write_atomically(self._path, data)

    def names(self) -> list[str]:
        """Return the sorted names of what is in this folder."""
        return sorted(path.name for path in self._path.glob("*"))

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """Give the bytes of files in this folder, one read after the other."""
        return ((self._path / name).read_bytes() for name in names)

    def group_address(self) -> tuple[str, None]:
        """Return the path as Zarr takes it."""
        return str(self._path), None

    def check_writable(self) -> None:
        """Raise `OutputError` if nothing can be written in its folder or the nearest one there is."""
        local.writable(self._path.parent)

    def free_bytes(self) -> int:
        """Return what is free on its disk."""
        folder = self._path.parent
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def identity(self, key: str) -> dict[str, Any]:
        """Return path, size and time of the file or folder."""
        status = self._path.stat()
        return {
            "path": str(self._path.resolve()),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }


def place_of(path: str | Path | Place) -> Place:
    """Return the place that a path or an address such as ``s3://bucket/atlas.zarr`` names.

    Raises
    ------
    UsageError
        If it is an address of another kind, or one that holds a password or a signature: credentials come from the
        environment.
    BackendUnavailableError
        If it is in a bucket and obstore is not installed.
    """
    if isinstance(path, Place):
        return path
    text = str(path)
    scheme = _SCHEME.match(text)
    in_bucket = _BUCKET.match(text)
    if in_bucket:
        bucket, key = _address(text[in_bucket.end() :])
        from stabdask.files.buckets import BucketPlace

        return BucketPlace(bucket, key)
    if scheme:
        # The rest is not shown: it may hold a password.
        raise UsageError(
            f"addresses that begin with {scheme[0]} are not supported; expected a path on disk or s3://bucket/name"
        )
    return DiskPlace(Path(path))


def _address(text: str) -> tuple[str, str]:
    bucket, _, key = text.partition("/")
    if "@" in bucket or "?" in text or "#" in text:
        raise UsageError(
            "an address in a bucket holds more than its name: credentials and signatures are not taken from addresses, "
            "which end up in logs; expected s3://bucket/name, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN in the environment, or the role of the machine"
        )
    if not _NAME.fullmatch(bucket):
        raise UsageError(
            f"{bucket!r} is no name of a bucket (3 to 63 lower-case letters, digits, dots, dashes); expected "
            "s3://bucket/name"
        )
    parts = key.rstrip("/").split("/")
    if parts == [""]:
        raise UsageError(
            f"s3://{bucket} is a whole bucket; expected a name in it, e.g. s3://{bucket}/out.zarr"
        )
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"s3://{bucket}/{key} has an empty part, '.' or '..'; expected s3://bucket/name")
    return bucket, "/".join(parts)


def location(text: str) -> Path | str:
    """Return a command's argument as a Path, or as it is where it is an address."""
    return text if _SCHEME.match(text) else Path(text)


def local_path(path: str | Path, what: str) -> Path:
    """Return `path` as a Path, which must be on a disk.

    Raises
    ------
    UsageError
        If it is an address.
    """
    text = str(path)
    if _SCHEME.match(text) or _BUCKET.match(text):
        raise UsageError(
            f"{what} cannot be in a bucket: files that are not Zarr are read and written on a disk; download it, or "
            "convert it to Zarr"
        )
    return Path(path)


def existing_place(path: str | Path | Place, what: str) -> Place:
    """Return the place of something that must be there.

    Raises
    ------
    MissingFileError
        If nothing is there; the message says what is nearby.
    """
    place = place_of(path)
    if not place.exists():
        raise place.missing(what)
    return place


def existing_path(path: str | Path, what: str) -> Path:
    """Return `path` as a Path on a disk.

    Raises
    ------
    MissingFileError
        If nothing is there; the message lists what is in its folder.
    UsageError
        If it is an address in a bucket.
    """
    return local.existing_path(local_path(path, f"this {what}"), what)
