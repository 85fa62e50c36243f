"""Receipts: what says that a partition is finished, and the lock that keeps two runs apart.

Data first, receipt last: a receipt exists only after every chunk of its partition is on disk, so resuming is
"the plan minus the receipts".
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stabdask.errors import DamagedStoreError, OutputError, StabdaskError, StoreLockedError
from stabdask.files import Place, cannot_write, place_of, sweep_beside, write_atomically
from stabdask.schema import count_failed

__all__ = [
    "Receipt",
    "has_receipts",
    "is_locked",
    "make_receipt_folder",
    "mend_receipt_folder",
    "package_version",
    "read_receipts",
    "receipt_folder",
    "receipt_names",
    "receipt_place",
    "store_lock",
    "sweep_leftovers",
    "total_status",
    "write_receipt",
]

package_version = cache(version)
"""Give the version of an installed package by its name; each takes a parse of the package's metadata."""

_FOLDER = "receipts"
_RECEIPT = re.compile(r"[0-9].*\.json")
_MARK = json.dumps({"attributes": {}, "node_type": "group", "zarr_format": 3}).encode()
_PATIENCE_S = 0.5
"""How long to wait for a lock: `is_locked` holds one for a moment."""
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@dataclass(frozen=True)
class Receipt:
    """What one finished partition reports.

    Attributes
    ----------
    fingerprint
        Of the run it belongs to.
    partition, start, stop
        Its number, first cell, and one after its last cell.
    attempt
        1 for the first try in a run, counted up by retries.
    backend
        Eigensolver backend that did the work.
    seconds
        By part: read, closed forms, cores, eig, lift, write, and total.
    peak_bytes
        Largest resident memory of the worker so far.
    status_counts
        Cells by status code.
    n_near_switch
        Cells with a regulator at a switch of its activation.
    checksums
        Hash of every variable's values.
    versions
        Of packages in the worker.
    kernel
        Instruction set or GPU that computed it; see `stabdask.kernels.eig.kernel_name`.
    hardware
        Processor, cores and memory of the machine that did; see `stabdask.kernels.machine.machine_text`.
    n_gpu_halvings
        How often a batch was halved for want of GPU memory.
    audit
        Cells audited, modes missed, worst difference; empty where nothing was iterated for.
    """

    fingerprint: str
    partition: int
    start: int
    stop: int
    attempt: int
    backend: str
    seconds: dict[str, float]
    peak_bytes: int
    status_counts: dict[int, int]
    n_near_switch: int
    checksums: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    kernel: str = ""
    hardware: str = ""
    n_gpu_halvings: int = 0
    audit: dict[str, float] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.stop - self.start

    @property
    def n_failed(self) -> int:
        """Number of cells with a status that counts as failed."""
        return count_failed(self.status_counts)

    def to_json(self) -> bytes:
        """Return the receipt as the bytes of its file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Return the receipt in the bytes of a file.

        Entries that another version added are passed over; of a receipt of this version they are damage.
        """
        values: dict[str, Any] = json.loads(data)
        values["status_counts"] = {int(code): n for code, n in values["status_counts"].items()}
        if dict(values.get("versions", {})).get("stabdask") != package_version("stabdask"):
            values = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        return cls(**values)


def has_receipts(store: str | Path | Place) -> bool:
    """Return whether a folder holds receipts, as only a store of a run does."""
    return bool(receipt_names(store))


def make_receipt_folder(store: Path) -> None:
    """Make the folder of receipts, marked as a Zarr group so that readers of the store pass over it."""
    (store / _FOLDER).mkdir()
    (store / _FOLDER / "zarr.json").write_bytes(_MARK)


def mend_receipt_folder(store: Path) -> bool:
    """Make what `make_receipt_folder` makes where it is gone or damaged. Return whether it was."""
    path = store / _FOLDER / "zarr.json"
    if path.is_file() and path.read_bytes() == _MARK:
        return False
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, _MARK)
    return True


def receipt_folder(store: Place) -> Place:
    """Return the folder of receipts of a store, where temporary files of any run are swept."""
    return store / _FOLDER


def receipt_place(store: str | Path | Place, partition: int) -> Place:
    """Return where the receipt of a partition lies."""
    return place_of(store) / _FOLDER / f"{partition:08d}.json"


def receipt_names(store: str | Path | Place) -> list[str]:
    """Return the names, in the folder of receipts, of those that there are, in the order of their partitions."""
    return [name for name in (place_of(store) / _FOLDER).names() if _RECEIPT.fullmatch(name)]


def write_receipt(store: str | Path | Place, receipt: Receipt) -> None:
    """Write a receipt atomically; the last step of a partition."""
    write_atomically(receipt_place(store, receipt.partition), receipt.to_json())


def read_receipts(store: str | Path | Place, fingerprint: str) -> dict[int, Receipt]:
    """Return the receipts of a run by partition.

    Raises
    ------
    DamagedStoreError
        If a receipt cannot be read or belongs to another run.
    """
    receipts = {}
    folder = place_of(store) / _FOLDER
    names = receipt_names(store)
    documents = folder.read_many(names)
    for name in names:
        path = folder / name
        try:
            receipt = Receipt.from_json(next(documents))
        except StabdaskError:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DamagedStoreError(
                f"receipt {path} cannot be read ({error}); run the same command with --repair (repair=True), which "
                "computes its partition again"
            ) from error
        if receipt.fingerprint != fingerprint:
            raise DamagedStoreError(
                f"receipt {path} belongs to another run; run the same command with --repair (repair=True), which "
                "computes its partition again"
            )
        receipts[receipt.partition] = receipt
    return receipts


def sweep_leftovers(store: str | Path | Place) -> int:
    """Delete temporary files that killed writers left; only while holding the lock. Return how many.

    In a bucket there are none: an object that is not written whole is not there.
    """
    root = place_of(store).local
    if root is None:
        return 0
    n = sweep_beside(root)
    try:
        for pattern in ("**/*.partial", f"{_FOLDER}/.*.tmp", ".*.tmp", ".*.old"):
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                n += 1
    except OSError as error:
        raise cannot_write(store, error) from error
    return n


def total_status(receipts: dict[int, Receipt]) -> dict[int, int]:
    """Return the cells by status code over all receipts."""
    counts: Counter[int] = Counter()
    for receipt in receipts.values():
        counts.update(receipt.status_counts)
    return dict(sorted(counts.items()))


@contextmanager
def store_lock(
    store: str | Path | Place, *, shared: bool = False, lock: bool = True
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a store, and give a check that raises once it is lost.

    It goes with the process that holds it: on a disk at once (flock), in a bucket after a while (see
    `stabdask.files.leases`), where it can also be lost.

    Parameters
    ----------
    store
        The store.
    shared
        Hold it together with others who share it, as array tasks do that compute some partitions each; a run over all
        partitions, which also sweeps what killed writers left, holds it alone.
    lock
        False where the caller said that nothing else writes to the store: then nothing is held.

    Raises
    ------
    StoreLockedError
        If another run holds it.
    OutputError
        If it cannot be written, or the file system has no locks.
    """
    if not lock:
        yield _keep
        return
    place = place_of(store) / _FOLDER / "lock"
    if place.local is None:
        from stabdask.files.leases import held

        with held(place, f"writing to {store}", shared=shared) as check:
            yield check
        return
    path = place.local
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError as error:
        raise DamagedStoreError(
            f"{store} has no folder {_FOLDER}; run the same command with --repair (repair=True)"
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        _acquire(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, store)
        who = "array tasks, one of them " * shared
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{who}process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            raise cannot_write(path, error) from error
        yield _keep
        if not shared:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _keep() -> None:
    """Do nothing: flock, and what is not held, cannot be lost."""


def _acquire(descriptor: int, kind: int, store: str | Path | Place) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _BUSY:
                raise OutputError(
                    f"the file system of {store} has no locks (flock: {error.strerror or error}), which keep two runs "
                    "from writing to one store at once; put the store where there are some (NFS: version 4, or version "
                    "3 with lockd; Lustre: mounted with -o flock), or, if nothing else writes to it, say --no-lock "
                    "(lock=False)"
                ) from error
            if time.monotonic() < deadline:
                time.sleep(_PATIENCE_S / 10)
                continue
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        raise StoreLockedError(
            f"another run ({holder}) is writing to {store}; wait for it or stop it, then run the command again"
        )


def is_locked(store: str | Path | Place) -> bool:
    """Return whether a run, or a task of one, is writing to the store now; False where that cannot be told."""
    place = place_of(store) / _FOLDER / "lock"
    if place.local is None:
        from stabdask.files.leases import is_held

        return is_held(place)
    path = place.local
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _BUSY
    finally:
        os.close(descriptor)
    return False
