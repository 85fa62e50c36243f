"""Zarr's store of a bucket: that of Zarr and obstore, with typed errors, and without credentials when it is pickled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from stabdask.files.bucket_client import PART_BYTES, client, is_absent, obstore_module, translated

__all__ = ["BucketStore"]


class BucketStore(ObjectStore[Any]):
    """All objects of a bucket as Zarr sees them.

    Parameters
    ----------
    bucket
        Its name. Each process makes its own client of it, from its own environment.
    read_only
        Refuse to write.
    """

    def __init__(self, bucket: str, *, read_only: bool = False) -> None:
        super().__init__(client(bucket), read_only=read_only)
        self._bucket = bucket

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self._bucket, self.read_only)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BucketStore)
            and other._bucket == self._bucket
            and other.read_only == self.read_only
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"s3://{self._bucket}"

    def with_read_only(self, read_only: bool = False) -> BucketStore:
        """Return the same store, to read only or to write too."""
        return BucketStore(self._bucket, read_only=read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or a range of its bytes; None if there is none."""
        try:
            if byte_range is not None:
                return await super().get(key, prototype, byte_range)
            response = await obstore_module().get_async(self.store, key)
            return prototype.buffer.from_bytes(await response.bytes_async())
        except Exception as error:
            if is_absent(error):
                return None
            raise self._translated(error, key) from None

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        try:
            return await super().exists(key)
        except Exception as error:
            raise self._translated(error, key) from None

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object; readers see all of it or what was there before."""
        self._check_writable()
        try:
            await obstore_module().put_async(self.store, key, value.as_buffer_like(), chunk_size=PART_BYTES)
        except Exception as error:
            raise self._translated(error, key, writing=True) from None

    async def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        try:
            await super().delete(key)
        except Exception as error:
            raise self._translated(error, key, writing=True) from None

    def list(self) -> AsyncGenerator[str, None]:
        """Give the keys of all objects."""
        return self._guarded(super().list(), "")

    def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Give the keys of all objects below a prefix."""
        return self._guarded(super().list_prefix(prefix), prefix)

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Give the names right below a prefix."""
        return self._guarded(super().list_dir(prefix), prefix)

    async def _guarded(self, keys: AsyncIterator[str], prefix: str) -> AsyncGenerator[str, None]:
        try:
            async for key in keys:
                yield key
        except Exception as error:
            raise self._translated(error, prefix) from None

    def _translated(self, error: Exception, key: str, *, writing: bool = False) -> Exception:
        known = (obstore_module().exceptions.BaseError, FileNotFoundError)
        return translated(error, self._bucket, key, writing=writing) if isinstance(error, known) else error


def _open(bucket: str, read_only: bool) -> BucketStore:
    return BucketStore(bucket, read_only=read_only)
