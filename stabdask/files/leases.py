"""Leases: who may write to a prefix of a bucket, where there is no flock.

A lease is an object that only one can create (PUT with If-None-Match). Its holder says every 20 seconds that it lives,
by replacing its own version of the object (PUT with If-Match). One that has said nothing for 120 seconds, by the clock
of the bucket, is taken over by the next who asks, again with If-Match, so that of two who do only one gets it. A holder
on this machine whose process is gone is taken over at once. A holder that has lost its lease is told so at its next
check and stops. Should two write for a moment nevertheless, a chunk or a receipt is still written whole by one of them.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from stabdask.errors import StabdaskError, StoreLockedError
from stabdask.files.buckets import BucketPlace
from stabdask.files.places import Place

__all__ = ["held", "is_held"]

BEAT_S = 20.0
EXPIRY_S = 120.0


@contextmanager
def held(place: Place, what: str, *, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the lease at `place` and give a check that raises once it is lost.

    One who holds it alone creates its object and then looks for sharers; a sharer creates an object of its own beside
    it and then looks for one who holds it alone. Both write before they look, so that one of them sees the other.

    Parameters
    ----------
    place
        Where the object of the lease is.
    what
        What its holder does, for messages to others: ``"writing to s3://bucket/out.zarr"``.
    shared
        Hold it together with others who share it.

    Raises
    ------
    StoreLockedError
        If another holds it.
    """
    alone = _in_bucket(place)
    lease = _Lease(_sharers(alone) / uuid.uuid4().hex if shared else alone, what)
    lease.acquire()
    lease.start()
    try:
        for other in [alone] if shared else _shares(alone):
            lease.refuse_beside(other, sweep=not shared)
        yield lease.check
        lease.check()
    finally:
        lease.release()


def is_held(place: Place) -> bool:
    """Return whether someone holds the lease at `place`, by the clock of this machine; nothing is written."""
    alone = _in_bucket(place)
    for found in map(_read, (alone, *_shares(alone))):
        if found is None or found.is_dead():
            continue
        if (datetime.now(UTC) - found.modified).total_seconds() <= EXPIRY_S:
            return True
    return False


def _sharers(place: BucketPlace) -> BucketPlace:
    """Return where the objects of those are who share a lease."""
    return BucketPlace(place.bucket, f"{place.key}s")


def _shares(place: BucketPlace) -> list[BucketPlace]:
    folder = _sharers(place)
    return [folder / name for name in folder.names()]


@dataclass(frozen=True)
class _Found:
    """A lease as it is in the bucket."""

    e_tag: str
    modified: datetime
    values: dict[str, Any]

    @property
    def holder(self) -> str:
        return str(self.values.get("holder", "unknown"))

    def is_dead(self) -> bool:
        """Return whether its holder was a process of this machine that is gone."""
        if self.values.get("machine") != _machine():
            return False
        import psutil

        try:
            process = psutil.Process(int(self.values["process"]))
            born = float(self.values["born"])
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - born) > 1.0
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            return True


class _Lease:
    def __init__(self, place: BucketPlace, what: str) -> None:
        self._place, self._what = place, what
        self._token = uuid.uuid4().hex
        self._n_beats = 0
        self._e_tag = ""
        self._alive = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="stabdask-lease", daemon=True)

    def acquire(self) -> None:
        for _ in range(10):
            before = time.monotonic()
            e_tag = self._place.put(self._document(), mode="create")
            if e_tag is None:
                found = _read(self._place)
                if found is None:  # released just now
                    continue
                if found.values.get("token") == self._token:
                    e_tag = found.e_tag  # ours: the answer to an earlier try was lost on its way
                else:
                    self._refuse_living(found, self._place)
                    e_tag = self._place.put(self._document(), mode=found.e_tag)
            if e_tag is not None:
                self._e_tag, self._alive = e_tag, before
                return
        raise StoreLockedError(f"the lease {self._place} goes from hand to hand; run the command again")

    def _refuse_living(self, found: _Found, place: BucketPlace) -> None:
        if found.is_dead():
            return
        age = (self._now() - found.modified).total_seconds()
        if age > EXPIRY_S:
            return
        raise StoreLockedError(
            f"another run ({found.holder}) is {self._what}; its last sign of life was {max(0.0, age):.0f} s ago. Wait "
            f"for it or stop it, then run the command again; one that died is taken over {EXPIRY_S:.0f} s after its "
            f"last sign of life, or at once when you delete {place}"
        )

    def _now(self) -> datetime:
        """Return the time by the clock of the bucket."""
        probe = BucketPlace(self._place.bucket, f"{self._place.key}.clock.{self._token}")
        probe.put(b"")
        meta = probe.head()
        probe.delete()
        return datetime.now(UTC) if meta is None else meta["last_modified"]

    def refuse_beside(self, other: BucketPlace, *, sweep: bool) -> None:
        """Raise if a living holder has the lease `other`; delete one of a dead holder if `sweep`."""
        found = _read(other)
        if found is None or other.key == self._place.key:
            return
        self._refuse_living(found, other)
        if sweep:
            other.delete()

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise if another may have taken the lease over."""
        if self._lost or time.monotonic() - self._alive > EXPIRY_S:
            raise StoreLockedError(
                f"the lease {self._place} was lost: this run gave no sign of life for {EXPIRY_S:.0f} s (the machine "
                "was suspended, or the bucket out of reach), or someone deleted it; what is finished is kept, run the "
                "command again"
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._lost or time.monotonic() - self._alive > EXPIRY_S:
            return  # it may be another's
        with suppress(StabdaskError):  # one that cannot be deleted expires
            self._place.delete()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._n_beats += 1
            before = time.monotonic()
            try:
                e_tag = self._place.put(self._document(), mode=self._e_tag)
                if e_tag is None:
                    found = _read(self._place)
                    if found is None or found.values.get("token") != self._token:
                        self._lost = True
                        return
                    e_tag = found.e_tag
            except StabdaskError:
                continue  # `check` sees how long ago the last one was
            self._e_tag, self._alive = e_tag, before

    def _document(self) -> bytes:
        values = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "machine": _machine(),
            "process": os.getpid(),
            "born": _born(),
            "token": self._token,
            "n_beats": self._n_beats,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return json.dumps(values, indent=1).encode()


def _in_bucket(place: Place) -> BucketPlace:
    assert isinstance(place, BucketPlace)
    return place


def _read(place: BucketPlace) -> _Found | None:
    try:
        data, meta = place.read_version()
    except FileNotFoundError:
        return None
    try:
        values = json.loads(data)
    except ValueError:
        values = {}
    return _Found(str(meta["e_tag"]), meta["last_modified"], values if isinstance(values, dict) else {})


@cache
def _born() -> float:
    import psutil

    return float(psutil.Process().create_time())


@cache
def _machine() -> str:
    """Return what names this machine, as far as process numbers go; unlike names mean only that we wait longer."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex
