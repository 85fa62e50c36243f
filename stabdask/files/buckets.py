"""Places in buckets, through obstore.

A PUT is atomic, and what is written is read from then on, so data first and receipt last holds without renaming and
without fsync. There are no folders: one exists as long as some object has its prefix. What is made of many objects is
made with its root document last (`upload_folder`), and counts as not there before that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stabdask.errors import (
    OVERWRITE,
    InputError,
    MissingFileError,
    StabdaskError,
    StoreMismatchError,
    near_misses,
)
from stabdask.files.bucket_client import PART_BYTES, client, is_absent, obstore_module, translated
from stabdask.files.places import Place

__all__ = ["MAKING", "BucketPlace"]

MAKING = ".making"
"""Name of the lease held while a folder is being made; with it and without a root document, a folder is half made."""

_ROOT = "zarr.json"
_PAGE = 1000
_CONNECTIONS = 32


class BucketPlace(Place):
    """An object or a prefix in a bucket.

    Parameters
    ----------
    bucket
        Its name.
    key
        Where in it, without slashes at the ends.
    """

    def __init__(self, bucket: str, key: str) -> None:
        obstore_module()
        self.bucket, self.key = bucket, key

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]

    @property
    def origin(self) -> str:
        """Its address."""
        return str(self)

    def __truediv__(self, part: str) -> BucketPlace:
        return BucketPlace(self.bucket, f"{self.key}/{part}")

    def absolute(self) -> BucketPlace:
        """Return the same place: its address means the same everywhere."""
        return self

    def exists(self) -> bool:
        """Return whether there is an object of this key or below it; what is half made is not there."""
        names = self._first()
        if not names:
            return self.head() is not None
        return MAKING not in names or (self / _ROOT).head() is not None

    def is_folder(self) -> bool:
        """Return whether there are objects below this key."""
        return bool(self._first())

    def missing(self, what: str) -> StabdaskError:
        """Return the error that says that nothing is here."""
        parent, _, _ = self.key.rpartition("/")
        with self._asking():
            found = obstore_module().list_with_delimiter(self._client, parent or None)
        there = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        names = sorted({str(path).rstrip("/").rpartition("/")[2] for path in there})
        where = f"s3://{self.bucket}/{parent}".rstrip("/")
        hint = near_misses(self.name, names, noun=f"names in {where}")
        error: StabdaskError = MissingFileError(f"no {what} at {self}; {hint}")
        return error

    def head(self) -> dict[str, Any] | None:
        """Return size, time and ETag of the object of this key; None if there is none."""
        try:
            return dict(obstore_module().head(self._client, self.key))
        except Exception as error:
            if is_absent(error):
                return None
            raise self._translated(error) from None

    def read(self) -> bytes:
        """Return the bytes of the object of this key."""
        return self.read_version()[0]

    def read_version(self) -> tuple[bytes, dict[str, Any]]:
        """Return the bytes of the object of this key with its time and ETag.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        try:
            response = obstore_module().get(self._client, self.key)
            return bytes(response.bytes()), dict(response.meta)
        except Exception as error:
            if is_absent(error):
                raise FileNotFoundError(f"no object at {self}") from None
            raise self._translated(error) from None

    def write(self, data: bytes) -> None:
        """Write the object of this key."""
        self.put(data)

    def put(self, data: bytes | Path, mode: Any = "overwrite") -> str | None:
        """Write the object of this key and return its ETag; None if `mode` forbids it.

        Parameters
        ----------
        data
            Bytes, or a file to upload.
        mode
            ``"overwrite"``; ``"create"`` only if there is none; or an ETag, only if the object there has it.
        """
        known = mode in ("overwrite", "create")
        exceptions = obstore_module().exceptions
        try:
            done = obstore_module().put(
                self._client,
                self.key,
                data,
                mode=mode if known else {"e_tag": mode},
                chunk_size=PART_BYTES,
            )
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            return None
        except Exception as error:
            # An object that is to be replaced and has gone is no longer the one meant.
            if not known and is_absent(error):
                return None
            raise self._translated(error, writing=True) from None
        return str(done["e_tag"])

    def names(self) -> list[str]:
        """Return the sorted names of the objects right below this key, from one LIST, page by page."""
        keys = (item["path"][len(self.key) + 1 :] for item in self.objects())
        return sorted(key for key in keys if "/" not in key)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Give what LIST tells of the objects below this key."""
        with self._asking():
            for page in obstore_module().list(self._client, self.key, chunk_size=_PAGE):
                yield from page

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """Give the bytes of objects below this key, many asked for at a time."""
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="stabdask-bucket") as threads:
            yield from threads.map(lambda name: (self / name).read(), names)

    def delete(self, names: Sequence[str] | None = None) -> None:
        """Delete objects below this key, or the one of this key; what is not there is deleted already."""
        keys = [self.key] if names is None else [f"{self.key}/{name}" for name in names]
        try:
            if keys:
                obstore_module().delete(self._client, keys)
        except Exception as error:
            if not is_absent(error):
                raise self._translated(error, writing=True) from None

    def group_address(self) -> tuple[Any, str]:
        """Return Zarr's store of the bucket and the path in it."""
        from stabdask.files.bucket_store import BucketStore

        return BucketStore(self.bucket), self.key

    def check_writable(self) -> None:
        """Do nothing: only writing tells whether a bucket may be written."""

    def free_bytes(self) -> None:
        """Return None: a bucket has no end."""
        return

    def identity(self, key: str) -> dict[str, Any]:
        """Return size, time and ETag of the metadata documents of the root and of an element, and of its data.

        The data of an element are told apart by a hash of the keys, sizes and ETags of all its objects, so that one
        chunk that is written anew is noticed.
        """
        with self._asking():
            root = list(obstore_module().list_with_delimiter(self._client, self.key)["objects"])
        element = sorted((self / key).objects(), key=lambda item: str(item["path"]))
        if not element:
            raise InputError(f"there are no objects at {self / key}, which {self} says it has")
        documents = {}
        digest = hashlib.blake2b(digest_size=16)
        for item in (*root, *element):
            name = str(item["path"])[len(self.key) + 1 :]
            if name.rpartition("/")[2] in ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"):
                documents[name] = {
                    "bytes": int(item["size"]),
                    "e_tag": str(item["e_tag"]),
                    "modified": item["last_modified"].isoformat(),
                }
        for item in element:
            digest.update(f"{item['path'][len(self.key) :]}\x00{item['size']}\x00{item['e_tag']}\n".encode())
        return {
            "path": str(self),
            "documents": documents,
            "n_objects": len(element),
            "bytes": sum(int(item["size"]) for item in element),
            "objects": digest.hexdigest(),
        }

    @contextmanager
    def made_here(self, *, overwrite: bool, folder: Path) -> Iterator[None]:
        """Upload what the block leaves in a local `folder` to this prefix, its root document last.

        Whoever makes it holds a lease meanwhile. One that is cut short leaves objects that count as nothing, and
        making it again replaces them.

        Raises
        ------
        StoreMismatchError
            If something is here and `overwrite` is false.
        StoreLockedError
            If another process is making it.
        """
        from stabdask.files.leases import held

        self._refuse_existing(overwrite)
        with held(self / MAKING, f"making {self}"):
            self._refuse_existing(overwrite)
            yield
            self._upload(folder)

    def _refuse_existing(self, overwrite: bool) -> None:
        if not overwrite and self.exists():
            raise StoreMismatchError(f"{self} exists; remove it, choose another path, or {OVERWRITE}")

    def _upload(self, folder: Path) -> None:
        files = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }
        root = files.pop(_ROOT)
        old = [str(item["path"])[len(self.key) + 1 :] for item in self.objects()]
        # Without a root document it is nothing, and so nobody reads a mixture of old and new.
        self.delete([name for name in old if name == _ROOT])
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="stabdask-bucket") as threads:
            list(threads.map(lambda item: (self / item[0]).put(item[1]), files.items()))
        kept = {*files, MAKING, _ROOT}
        self.delete([name for name in old if name not in kept and not name.startswith("receipts/lock")])
        self._write_root(root)

    def _write_root(self, root: Path) -> None:
        if (self / _ROOT).put(root.read_bytes(), mode="create") is None:
            raise StoreMismatchError(f"{self} was made by another process meanwhile; run the command again")

    def _first(self) -> set[str]:
        """Return the names below this key as far as they are in the first page of a LIST."""
        with self._asking():
            page: Any = next(iter(obstore_module().list(self._client, self.key, chunk_size=_PAGE)), [])
        return {str(item["path"])[len(self.key) + 1 :] for item in page}

    @property
    def _client(self) -> Any:
        return client(self.bucket)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._translated(error) from None

    def _translated(self, error: Exception, *, writing: bool = False) -> Exception:
        known = (obstore_module().exceptions.BaseError, FileNotFoundError)
        return (
            translated(error, self.bucket, self.key, writing=writing) if isinstance(error, known) else error
        )
