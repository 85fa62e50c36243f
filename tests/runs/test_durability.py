"""Runs that are cut short, repeated, damaged or contested end in the same store as an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from durable import OPTIONS, PARTITION, assert_same, bytes_of, flip, open_small, run_small
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.errors import (
    DamagedStoreError,
    OutputError,
    RunFailedError,
    StoreLockedError,
    StoreMismatchError,
    UsageError,
)
from stabdask.runs import partition as partition_module
from stabdask.runs import receipts as receipts_module
from stabdask.runs.receipts import store_lock
from stabdask.runs.store import read_spec


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own(small: Small, tmp_path: Path) -> Small:
    """Give a copy of the atlas, to be changed."""
    return Small(Path(shutil.copy(small.atlas, tmp_path)), small.field)


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("finished") / "o.zarr"
    report = run_small(small, store)
    assert report.complete
    assert report.n_partitions == report.n_partitions_computed == 5
    return store


@pytest.fixture
def undisturbed(finished: Path, tmp_path: Path) -> Path:
    """Give a copy of the finished store."""
    return Path(shutil.copytree(finished, tmp_path / "undisturbed.zarr"))


def test_again_computes_nothing(small, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    report = run_small(small, undisturbed)
    assert report.n_partitions_computed == 0
    assert "nothing to do" in str(report)
    after = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    after.pop(undisturbed / "receipts" / "lock")
    before.pop(undisturbed / "receipts" / "lock")
    assert after == before


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_another_order(small, undisturbed: Path, tmp_path: Path, order: list[int]) -> None:
    run_small(small, tmp_path / "o.zarr", partitions=order)
    assert_same(tmp_path / "o.zarr", undisturbed)


def test_in_parts(small, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    first = run_small(small, store, partitions=[3])
    assert (first.n_partitions_computed, first.n_partitions_missing, first.complete) == (1, 4, False)
    with pytest.warns(sd.errors.StabdaskWarning, match="4 of 5 partitions are missing"):
        ds = sd.open_results(store)
    assert ds.attrs["complete"] is False
    status = ds["status"].values
    assert (status[150:200] != 255).all()
    assert (np.delete(status, np.s_[150:200]) == 255).all()
    assert np.isnan(ds["spectral_abscissa"].values[:150]).all()
    assert (ds["unstable_count"].values[:150] == -1).all()
    rest = run_small(small, store)
    assert rest.n_partitions_computed == 4
    assert_same(store, undisturbed)


def test_one_and_two_workers_and_a_client(small, undisturbed: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    run_small(small, tmp_path / "two.zarr", workers=2, dashboard=False)
    assert_same(tmp_path / "two.zarr", undisturbed)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        report = run_small(small, tmp_path / "client.zarr", workers=None, client=client)
        assert report.n_workers == 1
        # A worker that dies is replaced, and its partitions are computed again.
        store = tmp_path / "killed.zarr"
        (pid,) = client.run(os.getpid).values()

        def kill_once(progress) -> None:
            if progress.n_new and not killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

        cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
        with pytest.raises(sd.errors.UsageError, match="persisted on a cluster"):
            sd.run(cells.persist(), sd.read_field(small.field), tmp_path / "persisted.zarr", client=client)
        assert not (tmp_path / "persisted.zarr").exists()

        killed: list[int] = []
        assert run_small(small, store, workers=None, client=client, progress=kill_once).complete
        assert killed
    assert_same(tmp_path / "client.zarr", undisturbed)
    assert_same(store, undisturbed)


@pytest.mark.slow
def test_a_worker_that_no_longer_answers_is_replaced(
    small, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabdask.clusters import local_client
    from stabdask.clusters.settings import SETTINGS

    monkeypatch.setitem(SETTINGS, "distributed.scheduler.worker-ttl", "1s")
    store, stopped = tmp_path / "stopped.zarr", []
    with local_client(n_workers=2, memory_limit=None, dashboard=False) as client:
        pids = list(client.run(os.getpid).values())

        def stop_once(progress) -> None:
            if progress.n_new and not stopped:
                stopped.append(pids[0])
                os.kill(pids[0], signal.SIGSTOP)

        report = run_small(small, store, workers=None, client=client, progress=stop_once)
        assert report.complete
        assert stopped
        assert pids[0] not in client.run(os.getpid).values()
    assert_same(store, undisturbed)


STEPS = [
    (partition_module, "write_partition", "before any data"),
    (partition_module, "write_receipt", "after the data, before the receipt"),
    (receipts_module, "write_atomically", "inside the receipt"),
]


@pytest.fixture(scope="module")
def died(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of stores whose runs died in the third partition, before and after each step.

    One program has everything imported and forks them all: each costs no start.
    """
    folder = tmp_path_factory.mktemp("died")
    steps = [
        (module.__name__, name, after, f"{name}-{after}.zarr")
        for module, name, _ in STEPS
        for after in (False, True)
    ]
    code = f"""
import importlib, os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import forked_runs
import stabdask as sd
def die(module, name, after, store):
    original, calls = getattr(module, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3 and not after:
            os._exit(77)
        result = original(*args, **kwargs)
        if len(calls) == 3:
            os._exit(77)
        return result
    setattr(module, name, dying)
    cells = sd.open_cells({str(small.atlas)!r}, layer="M_t", cluster_key="state")
    sd.run(cells, sd.read_field({str(small.field)!r}), store, workers=0, **{OPTIONS!r})
for module, name, after, store in {steps!r}:
    module = importlib.import_module(module)
    child = os.fork()
    if child == 0:
        try:
            die(module, name, after, os.path.join({str(folder)!r}, store))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 77, (name, after, status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("module", "name", "when"), STEPS, ids=[step[2] for step in STEPS])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_between_two_steps(
    small, undisturbed: Path, died: Path, module, name: str, when: str, after: bool
) -> None:
    """Die in the third partition around each step, then repeat the command."""
    store = died / f"{name}-{after}.zarr"
    n_done = sd.status(store).n_partitions_done
    assert n_done in (2, 3)
    assert not sd.status(store).running
    report = run_small(small, store)
    assert report.n_partitions_computed == 5 - n_done
    assert_same(store, undisturbed)


def test_interrupted_run_is_resumable(small, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"

    def interrupt(progress) -> None:
        if progress.n_new >= 2 * PARTITION:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_small(small, store, progress=interrupt)
    assert sd.status(store).n_partitions_done == 2
    assert run_small(small, store).n_partitions_computed == 3


def test_leftovers_are_swept(small, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0, 1])
    (store / "eigenvalue" / "c" / "3").mkdir(parents=True)
    (store / "eigenvalue" / "c" / "3" / "0.abc.partial").write_bytes(b"half a chunk")
    (store / "receipts" / ".00000003.json.abc.tmp").write_bytes(b"{")
    run_small(small, store)
    assert_same(store, undisturbed)


def test_two_runs_at_once(small, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0])
    with store_lock(store):
        assert sd.status(store).running
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"):
            run_small(small, store)
    assert not sd.status(store).running
    assert run_small(small, store).complete


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"elements": [("g00", "g02")]}, "elements: 'g00:g01'|elements: .*'g00:g02' here alone"),
        ({"tolerance": 1e-3}, "tolerance: 0.0 there, 0.001 here"),
        ({"dtype": "float32"}, "dtype: 'float64' there, 'float32' here"),
        ({"partition_cells": 60}, "partition_cells: 50 there, 60 here"),
    ],
)
def test_another_run_is_refused(small, undisturbed: Path, change: dict, says: str) -> None:
    before = bytes_of(undisturbed)
    with pytest.raises(StoreMismatchError, match=says) as caught:
        run_small(small, undisturbed, **change)
    assert "Nothing was changed" in str(caught.value)
    assert bytes_of(undisturbed) == before


def test_changed_input_is_refused(own, undisturbed: Path) -> None:
    import h5py

    with h5py.File(own.atlas, "r+") as file:
        file["layers/M_t"][100, 3] += 1.0
    with pytest.raises(
        StoreMismatchError,
        match=r"run: the expression of the cells is another \(content changed\)\. N",
    ):
        run_small(own, undisturbed)


def test_time_and_size_of_a_file_that_is_compared_whole_do_not_matter(
    own, tmp_path: Path, undisturbed: Path
) -> None:
    """Copied, touched, with clocks that differ, or with a column more: what is read of it is the same."""
    import h5py

    for when in (0, 2**31, 4_000_000_000):
        os.utime(own.atlas, (when, when))
        assert run_small(own, undisturbed).n_partitions_computed == 0
    with h5py.File(own.atlas, "r+") as file:
        file["uns"].create_dataset("note", data=np.arange(10_000))
    assert run_small(own, undisturbed).n_partitions_computed == 0


def test_times_in_a_store_do_not_matter(small, tmp_path: Path, undisturbed: Path) -> None:
    """Receipts and chunks from the future or the past, as clocks of several machines make them."""
    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0, 3])
    for number, path in enumerate(sorted(store.rglob("*"))):
        os.utime(path, (4_000_000_000, 4_000_000_000) if number % 2 else (1, 1))
    assert run_small(small, store).n_partitions_computed == 3
    assert_same(store, undisturbed)


def test_time_of_a_large_atlas_counts_and_can_be_given_back(
    own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stabdask.runs.preflight._LOOK_BYTES", 0)
    field, store = sd.read_field(own.field), tmp_path / "o.zarr"

    def run() -> sd.RunReport:
        cells = sd.open_cells(own.atlas, layer="M_t", cluster_key="state", block_cells=20)
        return sd.run(cells, field, store, workers=0, **OPTIONS)

    run()
    copy = tmp_path / "copy.h5ad"
    copy.write_bytes(own.atlas.read_bytes())
    copy.rename(own.atlas)
    with pytest.raises(
        StoreMismatchError, match=r"has another time of change\. .* give its time back: touch"
    ) as caught:
        run()
    subprocess.run(str(caught.value).split("time back: ")[1], shell=True, check=True)
    assert run().n_partitions_computed == 0
    with own.atlas.open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        StoreMismatchError, match=r"cells.h5ad has another size: [0-9,]+ bytes there, "
    ) as caught:
        run()
    assert "touch" not in str(caught.value)


def test_a_partition_computed_by_two_processes_at_once(small, tmp_path: Path, undisturbed: Path) -> None:
    """As when the workers of a scheduler that was killed go on: same bytes, no torn file."""
    from stabdask.runs.job import prepare
    from stabdask.runs.partition import make_task, run_partition

    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0])
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import stabdask as sd
from pathlib import Path
from stabdask.runs.job import prepare
from stabdask.runs.partition import make_task, run_partition
options = {OPTIONS!r}
options.pop("progress")
cells = sd.open_cells({str(small.atlas)!r}, layer="M_t", cluster_key="state")
job = prepare(cells, sd.read_field({str(small.field)!r}), **options)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    for number in range(1, 5):
        run_partition(make_task(job, Path({str(store)!r}), number))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        cells, field = open_small(small)
        job = prepare(cells, field, **{k: v for k, v in OPTIONS.items() if k != "progress"})
        while other.poll() is None:
            for number in range(1, 5):
                run_partition(make_task(job, store, number))
                # What readers see in the meantime is whole, whoever wrote it last.
                ds = sd.open_results(store) if sd.status(store).complete else None
                if ds is not None:
                    assert np.isfinite(ds["spectral_abscissa"].values).all()
        assert other.returncode == 0
    assert_same(store, undisturbed)


def test_a_store_is_on_disk_before_it_has_its_name(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves either no store or a whole one; of a partition, its data are there before its receipt."""
    synced: set[str] = set()
    original, renames = os.fsync, []

    def fsync(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        original(descriptor)

    def replace_path(self: Path, target: Path) -> Path:
        missing = [path for path in self.rglob("*") if str(path) not in synced] if self.is_dir() else []
        renames.append((str(self), [str(path) for path in missing]))
        return real(self, target)

    real = Path.rename
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", replace_path)
    run_small(small, tmp_path / "o.zarr", partitions=[])
    assert len(renames) == 2  # of the field, and of the store with it
    assert not any(missing for _, missing in renames)
    synced.clear()
    run_small(small, tmp_path / "o.zarr", partitions=[1])
    chunks = [path for path in (tmp_path / "o.zarr" / "eigenvalue").rglob("*") if path.name != "zarr.json"]
    assert {str(path) for path in chunks} <= synced


def test_what_a_killed_process_began_beside_a_store_is_swept(small, tmp_path: Path) -> None:
    """But nothing that is in use, and nothing that only looks like it."""
    from stabdask.files import new_directory, sweep_beside

    store = tmp_path / "o.zarr"
    dead = tmp_path / f".o.zarr.{'0' * 32}.tmp"
    dead.mkdir()
    (dead / "zarr.json").write_text("{")
    keep = [tmp_path / ".o.zarr.backup.tmp", tmp_path / f".other.zarr.{'0' * 32}.tmp"]
    for path in keep:
        path.mkdir()
    with new_directory(store) as made:
        assert sweep_beside(store) == 1
        assert made.exists()
    assert not dead.exists()
    dead.mkdir()
    shutil.rmtree(store)
    run_small(small, store)
    assert not dead.exists()
    assert all(path.exists() for path in keep)


def test_a_store_that_is_being_made_is_not_swept(small, tmp_path: Path, monkeypatch) -> None:
    """Others that begin meanwhile look for leftovers at any moment; what is filled is held to its end."""
    from stabdask.files import sweep_beside
    from stabdask.runs import store as store_module

    store = tmp_path / "o.zarr"
    swept = []
    for name in ("write_coordinates", "create_arrays", "make_receipt_folder", "store_attributes"):
        step = getattr(store_module, name)

        def swept_before(*arguments: Any, step: Any = step) -> Any:
            swept.append(sweep_beside(store))
            return step(*arguments)

        monkeypatch.setattr(store_module, name, swept_before)
    run_small(small, store)
    assert swept == [0, 0, 0, 0]
    undisturbed = tmp_path / "other.zarr"
    monkeypatch.undo()
    run_small(small, undisturbed)
    assert_same(store, undisturbed)


def test_a_folder_that_is_swept_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch) -> None:
    from stabdask.files import local

    mkdir, made = Path.mkdir, []

    def swept_once(self: Path, *arguments: Any, **options: Any) -> None:
        mkdir(self, *arguments, **options)
        if self.name.endswith(".tmp") and not made:
            made.append(self)
            assert local.sweep_beside(tmp_path / "o.zarr") == 1

    monkeypatch.setattr(Path, "mkdir", swept_once)
    with local.new_directory(tmp_path / "o.zarr") as folder:
        assert folder.exists()
    assert (tmp_path / "o.zarr").is_dir()
    assert len(made) == 1


def test_changed_field_is_refused(small, undisturbed: Path) -> None:
    cells, field = open_small(small)
    clusters = dict(zip(field.clusters, field.parameters, strict=True))
    clusters["a"] = replace(clusters["a"], gamma=clusters["a"].gamma * (1 + 1e-12))
    other = sd.HopfieldField(field.genes.tolist(), clusters)
    with pytest.raises(
        StoreMismatchError, match=r"run: field: another field, or one with other parameters\. Nothing"
    ):
        sd.run(cells, other, undisturbed, workers=0, **OPTIONS)


def test_moved_atlas_still_resumes(own, tmp_path: Path, undisturbed: Path) -> None:
    moved = tmp_path / "elsewhere" / "atlas.h5ad"
    moved.parent.mkdir()
    own.atlas.rename(moved)
    cells = sd.open_cells(moved, layer="M_t", cluster_key="state")
    assert (
        sd.run(cells, sd.read_field(own.field), undisturbed, workers=0, **OPTIONS).n_partitions_computed == 0
    )


@pytest.mark.parametrize("what", ["folder", "zarr", "file"])
def test_what_is_no_store_is_not_overwritten(small, tmp_path: Path, what: str) -> None:
    store = tmp_path / "thing"
    if what == "folder":
        store.mkdir()
        (store / "thesis.tex").write_text("years of work")
    elif what == "zarr":
        xr.Dataset({"a": ("x", [1.0])}).to_zarr(store, zarr_format=3, consolidated=False)
    else:
        store.write_text("years of work")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(StoreMismatchError, match="is not a stabdask store"):
        run_small(small, store)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_verify_finds_damage(small, undisturbed: Path, damage: str) -> None:
    assert sd.verify(undisturbed).ok
    chunk = undisturbed / "eigenvalue" / "c" / "2" / "0"
    if damage == "flip":
        flip(chunk, len(chunk.read_bytes()) // 2)
    elif damage == "truncate":
        chunk.write_bytes(chunk.read_bytes()[:-7])
    else:
        chunk.unlink()
    report = sd.verify(undisturbed, n_cells=3)
    assert not report.ok
    assert report.damaged == [(2, "eigenvalue")]
    assert "partition 2: eigenvalue" in str(report)
    # Deleting the receipt recomputes just that partition.
    (undisturbed / "receipts" / "00000002.json").unlink()
    assert run_small(small, undisturbed).n_partitions_computed == 1
    assert sd.verify(undisturbed).ok


def test_verify_finds_wrong_numbers_with_right_checksums(small, undisturbed: Path) -> None:
    from stabdask.files import open_group
    from stabdask.runs.receipts import Receipt, write_receipt
    from stabdask.runs.store import array_checksum

    report = sd.verify(undisturbed, n_cells=230)
    assert report.ok
    assert report.n_cells_checked == 230
    assert report.worst_eigenvalue_error < 1e-12
    assert report.worst_element_error < 1e-15
    group = open_group(undisturbed, mode="r+")
    values = group["eigenvalue"][50:100]
    values[7, 0] += 1e-3
    group["eigenvalue"][50:100] = values
    path = undisturbed / "receipts" / "00000001.json"
    receipt = json.loads(path.read_bytes())
    receipt["checksums"]["eigenvalue"] = array_checksum(values)
    write_receipt(undisturbed, Receipt.from_json(json.dumps(receipt).encode()))
    report = sd.verify(undisturbed, n_cells=230)
    assert not report.damaged
    assert report.wrong_cells == ["c57"]


def test_verify_finds_wrong_elements(own, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    run_small(own, store)
    assert sd.verify(store, n_cells=3).worst_element_error < 1e-15
    own.atlas.unlink()
    report = sd.verify(store)
    assert report.n_cells_checked == 0
    assert "not used: no atlas at" in str(report)


def test_edited_attributes_and_receipts_are_found(small, undisturbed: Path) -> None:
    receipt = undisturbed / "receipts" / "00000001.json"
    text = receipt.read_text()
    receipt.write_text(text[:-10])
    with pytest.raises(DamagedStoreError, match="cannot be read"):
        sd.status(undisturbed)
    receipt.write_text(text.replace(read_spec(undisturbed).fingerprint, "0" * 32))
    with pytest.raises(DamagedStoreError, match="belongs to another run"):
        sd.status(undisturbed)
    receipt.write_text(text)
    document = json.loads((undisturbed / "zarr.json").read_text())
    document["attributes"]["run"]["options"]["tolerance"] = 1.0
    (undisturbed / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match="do not match their fingerprint"):
        run_small(small, undisturbed)


def test_newer_format_is_refused(undisturbed: Path) -> None:
    document = json.loads((undisturbed / "zarr.json").read_text())
    document["attributes"]["stabdask_format"] = 99
    (undisturbed / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreMismatchError, match="store format 99"):
        sd.open_results(undisturbed)


def test_store_below_a_file(small) -> None:
    with pytest.raises(OutputError, match="is a file, not a folder"):
        run_small(small, small.atlas / "o.zarr")


def test_partition_numbers_are_checked(small, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="partition 5 does not exist; expected 0 to 4"):
        run_small(small, tmp_path / "o.zarr", partitions=[0, 5])
    assert not (tmp_path / "o.zarr").exists()


def test_failing_partition_is_reported_and_the_rest_is_kept(small, tmp_path: Path) -> None:
    from distributed import Client

    store = tmp_path / "o.zarr"
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        original = partition_module.write_partition

        def broken(path, spec, number, arrays):
            if number == 3:
                raise ZeroDivisionError("a bug")
            return original(path, spec, number, arrays)

        partition_module.write_partition = broken
        try:
            with pytest.raises(
                RunFailedError, match="1 partition failed, number 3 with ZeroDivisionError: a bug"
            ):
                run_small(small, store, workers=None, client=client)
        finally:
            partition_module.write_partition = original
        assert sd.status(store).n_partitions_done == 4
        report = run_small(small, store, workers=None, client=client)
    assert report.n_partitions_computed == 1
    assert report.complete


def test_field_without_regulators(tmp_path: Path) -> None:
    import anndata

    genes = ["g0", "g1", "g2"]
    field = sd.HopfieldField.from_arrays(
        genes, W=np.zeros((3, 3)), gamma=[1.0, 2.0, 3.0], threshold=1, exponent=2
    )
    adata = anndata.AnnData(np.ones((5, 3)))
    adata.var_names = genes
    report = sd.run(sd.open_cells(adata), field, tmp_path / "o.zarr", workers=0, progress=False)
    assert report.n_failed == 0
    ds = sd.open_results(tmp_path / "o.zarr")
    np.testing.assert_array_equal(ds["spectral_abscissa"], np.full(5, -1.0))
    np.testing.assert_array_equal(sd.complete_spectrum(ds), np.tile([-1.0, -2.0, -3.0], (5, 1)))
    assert sd.verify(tmp_path / "o.zarr", cells=sd.open_cells(adata)).ok


def test_results_of_unlike_processors_are_told_apart(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "out.zarr"
    first = run_small(small, store, partitions=[1])
    (here,) = first.kernels
    assert here in ("avx512", "avx2", "baseline", "lapack")
    assert "differ in the last bits" not in str(first)
    monkeypatch.setattr(partition_module, "kernel_name", lambda _: "an older one")
    report = run_small(small, store)
    assert report.complete
    assert report.kernels == ("an older one", here)
    assert f"results come from an older one and {here} and differ in the last bits" in str(report)
    assert report.to_dict()["kernels"] == ("an older one", here)
