"""What a blocked precision matrix on disk says of itself, and which of its generations is the one that counts.

A change is written beside what is there, as a generation of its own. The receipt is written last, at once: until then
the matrix is what it was, whatever happens.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stabdask.analysis.network.precision import Change
from stabdask.errors import DamagedStoreError, OutputError, StoreLockedError
from stabdask.files import write_atomically

__all__ = ["Receipt", "locked", "read_receipt", "remove_others", "write_receipt"]

_FILE = "receipt.json"
_LOCK = "lock"
_GENERATION = "generation_"


@dataclass(frozen=True)
class Receipt:
    """Facts of a blocked precision matrix, see `BlockedPrecision` for those of them that it shows."""

    generation: int
    n_genes: int
    tile: int
    logdet: float
    probe: float
    baseline: float
    """The probe after the last inversion."""
    drift_tolerance: float
    amount: float
    count: float | None
    ddof: float | None
    n_skipped: int
    n_passes: int
    n_refactorizations: int
    history: tuple[Change, ...]

    @property
    def folder(self) -> str:
        """Name of the folder of the generation."""
        return f"{_GENERATION}{self.generation}"

    def next(self) -> Receipt:
        """Return the same for the next generation."""
        return replace(self, generation=self.generation + 1)


def write_receipt(store: Path, receipt: Receipt) -> None:
    """Write a receipt: from now on it counts."""
    facts = asdict(receipt) | {"history": [list(change) for change in receipt.history]}
    write_atomically(
        store / _FILE, json.dumps({"facts": facts, "checksum": _checksum(facts)}, indent=1).encode()
    )


def read_receipt(store: Path) -> Receipt:
    """Read the receipt.

    Raises
    ------
    DamagedStoreError
        If it is not there, or not as it was written.
    """
    try:
        written = json.loads((store / _FILE).read_text())
        facts = written["facts"]
        intact = written["checksum"] == _checksum(facts)
        facts["history"] = tuple(
            Change(str(name), int(rank), str(way), float(probe), bool(again))
            for name, rank, way, probe, again in facts["history"]
        )
        receipt = Receipt(**facts)
    except Exception as error:  # anything may stand in a damaged file
        raise DamagedStoreError(
            f"the receipt of {store} cannot be read ({type(error).__name__}: {error}); make the matrix anew"
        ) from error
    if not intact:
        raise DamagedStoreError(f"the receipt of {store} differs from its own checksum; make the matrix anew")
    return receipt


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the lock of a matrix for one change at a time; it goes with the process that holds it.

    Raises
    ------
    StoreLockedError
        If another change is being made.
    OutputError
        If the folder cannot be written.
    """
    try:
        descriptor = os.open(store / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"cannot write {store}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise StoreLockedError(f"{holder} is changing {store}; wait for it, then try again") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def remove_others(store: Path, kept: Receipt) -> None:
    """Remove what earlier generations, and changes that did not end, have left."""
    for path in store.glob(f"{_GENERATION}*"):
        if path.name != kept.folder:
            shutil.rmtree(path, ignore_errors=True)


def _checksum(facts: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
