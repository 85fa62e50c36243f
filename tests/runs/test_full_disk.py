"""Disks that are full, read-only or limited: an error that says where and what to do, nothing torn, and a resume."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from durable import assert_same, bytes_of, command, run_small
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import OutputError
from stabdask.runs import partition as partition_module
from stabdask.runs import repair as repair_module
from stabdask.runs import runner as runner_module
from stabdask.runs.receipts import is_locked

RESUME = r"(make room|raise the limit).*run the same command again"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "o.zarr"
    run_small(small, store)
    return store


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this user mounts nothing here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 4 MB, of which stores may be full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root on Linux")
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filler:
    """Takes all room on a disk but for some bytes, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "filler"

    def fill(self, left: int = 0) -> None:
        room = os.statvfs(self.path.parent)
        with self.path.open("ab") as file:
            file.write(b"\0" * max(0, room.f_bavail * room.f_frsize - left))

    def free(self) -> None:
        self.path.unlink(missing_ok=True)


def filling_before(module: object, name: str, nth: int, filler: Filler) -> Callable:
    """Return a function that fills the disk before the nth call of another, from within which it then fails."""
    original, calls = getattr(module, name), []

    def function(*args, **kwargs):
        calls.append(name)
        if len(calls) == nth:
            filler.fill()
        return original(*args, **kwargs)

    return function


STEPS = [
    pytest.param(runner_module, "create_store", 1, "o.zarr", 0, id="while the store is made"),
    pytest.param(runner_module, "store_lock", 1, "lock", 0, id="at the lock"),
    pytest.param(
        partition_module, "write_partition", 3, "partition 2 is not finished", 2, id="in a partition"
    ),
    pytest.param(partition_module, "write_receipt", 3, "receipts/00000002.json", 2, id="in a receipt"),
]


@pytest.mark.parametrize(("module", "name", "nth", "says", "n_done"), STEPS)
def test_full_disk(
    small, undisturbed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch,
    module: object, name: str, nth: int, says: str, n_done: int,
) -> None:  # fmt: skip
    store, filler = disk / "o.zarr", Filler(disk)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, filling_before(module, name, nth, filler))
        with pytest.raises(OutputError, match=rf"(?s){says}.*No space left on device; {RESUME}"):
            run_small(small, store)
    assert not list(disk.glob(".*"))
    assert not list(disk.rglob(".*.tmp"))
    if store.exists():
        assert not is_locked(store)
        assert sd.status(store).n_partitions_done == n_done
        with pytest.warns(sd.errors.StabdaskWarning, match="is not complete"):
            sd.open_results(store)
        # Full still: the same error, and nothing lost. (The lock needs a little.)
        with pytest.raises(OutputError, match="No space left on device"):
            run_small(small, store)
        assert sd.status(store).n_partitions_done == n_done
    filler.free()
    assert run_small(small, store).n_partitions_computed == 5 - n_done
    assert_same(store, undisturbed)


@pytest.mark.parametrize("left", [0, 4096, 20_000, 60_000, 150_000])
def test_whatever_room_is_left(small, undisturbed: Path, disk: Path, left: int) -> None:
    """Full at whatever step that is."""
    store, filler = disk / "o.zarr", Filler(disk)
    filler.fill(left)
    with pytest.raises(OutputError, match=rf"No space left on device; {RESUME}"):
        run_small(small, store)
    filler.free()
    run_small(small, store)
    assert_same(store, undisturbed)


def test_full_disk_at_the_end(small, undisturbed: Path, disk: Path) -> None:
    """What is left to do after the last receipt takes no room."""
    store, filler = disk / "o.zarr", Filler(disk)

    def fill(progress) -> None:
        if progress.n_done == progress.n_cells:
            filler.fill()

    assert run_small(small, store, progress=fill).complete
    assert_same(store, undisturbed)


def test_full_disk_in_a_repair(small, undisturbed: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, filler = disk / "o.zarr", Filler(disk)
    run_small(small, store)
    (store / "cell" / "c" / "0").unlink()
    with monkeypatch.context() as patch:
        name = "write_atomically"
        patch.setattr(repair_module, name, filling_before(repair_module, name, 1, filler))
        with pytest.raises(OutputError, match=rf"cell.*No space left on device; {RESUME}"):
            run_small(small, store, repair=True)
    filler.free()
    assert "cell" in run_small(small, store, repair=True).repaired_metadata
    assert_same(store, undisturbed)


def test_full_disk_of_workers_on_the_command_line(small, disk: Path) -> None:
    store, filler = disk / "o.zarr", Filler(disk)
    filler.fill(400_000)
    line = command(small, store, "--partition-cells", "50")
    done = subprocess.run([*line, "--workers", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == OutputError.exit_code, done.stderr
    assert "stabdask: error: " in done.stderr
    assert "No space left on device; make room there" in done.stderr
    assert "Traceback" not in done.stderr.split("stabdask: error: ")[1]
    filler.free()
    assert main([*line[3:], "--workers", "0", "--quiet"]) == 0
    assert sd.status(store).complete


def test_limit_on_the_size_of_files(small, tmp_path: Path, undisturbed: Path) -> None:
    """ulimit -f."""
    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"partition 1.*File too large; {RESUME}"):
            run_small(small, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sd.status(store).n_partitions_done == 1
    run_small(small, store)
    assert_same(store, undisturbed)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Give a function that makes a folder appear read-only at another path."""
    mounted = []

    def make(folder: Path) -> Path:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("a read-only mount takes root on Linux")
        place = tmp_path / "read_only"
        place.mkdir()
        mount("--bind", str(folder), str(place))
        mounted.append(place)
        mount("-o", "remount,ro,bind", str(place))
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_read_only_store(small, tmp_path: Path, read_only: Callable[[Path], Path]) -> None:
    (tmp_path / "disk").mkdir()
    run_small(small, tmp_path / "disk" / "o.zarr", partitions=[1])
    before = bytes_of(tmp_path / "disk" / "o.zarr")
    place = read_only(tmp_path / "disk")
    for more in ({}, {"repair": True}):
        with pytest.raises(OutputError, match=r"lock: Read-only file system; mount it for writing or choose"):
            run_small(small, place / "o.zarr", **more)
    with pytest.raises(OutputError, match=r"cannot be written|Read-only file system; mount it for writing"):
        run_small(small, place / "new.zarr")
    # What only reads goes on.
    assert sd.status(place / "o.zarr").n_partitions_done == 1
    assert sd.verify(place / "o.zarr", n_cells=2).ok
    with pytest.warns(sd.errors.StabdaskWarning, match="is not complete"):
        sd.open_results(place / "o.zarr")
    assert bytes_of(tmp_path / "disk" / "o.zarr") == before


def test_a_disk_that_becomes_read_only(
    small, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As file systems do that find an error."""
    store, original = tmp_path / "o.zarr", Path.open

    def broken(self: Path, mode: str = "r", *args, **kwargs):
        if "w" in mode and "00000003" in str(self):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return original(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(OutputError, match=r"00000003\.json: Read-only file system; mount it for writing"):
            run_small(small, store)
    assert sd.status(store).n_partitions_done == 3
    run_small(small, store)
    assert_same(store, undisturbed)


def test_folder_without_permission(small, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user writes read-only folders (root)")
    with pytest.raises(OutputError, match="cannot be written"):
        run_small(small, locked / "o.zarr")
