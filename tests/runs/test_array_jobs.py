"""Jobs that know nothing of each other compute one store: the same files as an ordinary run."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import anndata
import pytest
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import OutputError, RunFailedError, StoreLockedError, UsageError
from stabdask.runs import store as store_module
from stabdask.runs.receipts import is_locked, read_receipts, store_lock
from stabdask.runs.shares import Share, chosen_partitions, format_numbers, parse_numbers
from stabdask.runs.store import read_request, read_spec

PARTITIONS = 12  # of 20 cells


def arguments(small, store: Path, *more: str) -> list[str]:
    return [
        str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state",
        "--store", str(store), "--partition-cells", "20", "--elements", "g00:g01", "--obs", "state",
        "--quantities", "default,sensitivity", *more,
    ]  # fmt: skip


QUIET = ["--quiet", "--workers", "0"]


def files_of(store: Path) -> dict[str, str]:
    """Return a hash of every file of a store; of receipts, whose times differ, of what they say of the results."""
    found = {}
    for path in sorted(store.rglob("*")):
        if not path.is_file() or path.name == "lock":
            continue
        data = path.read_bytes()
        if path.parent.name == "receipts" and path.name[0].isdigit():
            told = json.loads(data)
            kept = ("fingerprint", "partition", "start", "stop", "attempt", "backend", "kernel", "checksums")
            data = json.dumps([told[name] for name in (*kept, "status_counts", "versions")]).encode()
        found[str(path.relative_to(store))] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own(small: Small, tmp_path: Path) -> Small:
    """Give a copy of the atlas and the field, to be changed."""
    field = shutil.copytree(small.field, tmp_path / "field.zarr")
    return Small(Path(shutil.copy(small.atlas, tmp_path)), Path(field))


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("finished") / "ordinary.zarr"
    assert main(["run", *arguments(small, store, *QUIET)]) == 0
    return store


@pytest.fixture
def ordinary(finished: Path, tmp_path: Path, capsys) -> Path:
    """Give a copy of what an ordinary run has made."""
    capsys.readouterr()
    return Path(shutil.copytree(finished, tmp_path / "ordinary.zarr"))


# ---------------------------------------------------------------------------------- the same store


def test_tasks_write_the_files_of_an_ordinary_run(small, ordinary: Path, tmp_path: Path, capsys) -> None:
    store = tmp_path / "array.zarr"
    assert main(["init", *arguments(small, store)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{PARTITIONS}\n"
    assert "12 partitions, 0 of them computed" in err
    # Nothing but the store is told again; tasks in any order, numbers, ranges and shares, some of it twice.
    for chosen in (
        ["--partition", "11"],
        ["--partition", "3-4,0"],
        ["--task", "1", "--n-tasks", "3"],
        ["--task", "1", "--n-tasks", "3", "--task-base", "1"],
    ):
        assert main(["run", "--store", str(store), *chosen, *QUIET]) == 0
    capsys.readouterr()
    assert main(["finalize", "--store", str(store)]) == 1
    assert "3 of 12 partitions" in (message := capsys.readouterr().err)
    assert "no receipt: 8-10;" in message
    (store / "eigenvalue" / "c" / "9").mkdir()
    (store / "eigenvalue" / "c" / "9" / "0.abc.partial").write_bytes(b"half a chunk")
    last = [sys.executable, "-m", "stabdask.cli.main", "run", "--store", "array.zarr", "--partition", "8-10"]
    subprocess.run([*last, *QUIET], cwd=tmp_path, check=True, capture_output=True)
    assert main(["finalize", "--store", str(store), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"]
    assert report["n_cells"] == 230
    assert files_of(store) == files_of(ordinary)
    assert main(["finalize", "--store", str(store)]) == 0
    assert "every partition has its receipt" in capsys.readouterr().out


def test_from_python(small, tmp_path: Path) -> None:
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    field = sd.read_field(small.field)
    options = {"partition_cells": 50, "modes": 3}
    made = sd.initialize(cells, field, tmp_path / "a.zarr", **options)
    assert (made.n_partitions, made.n_partitions_done, made.complete) == (5, 0, False)
    assert sd.initialize(cells, field, tmp_path / "a.zarr", **options) == made
    for task in range(3):
        sd.run(
            cells,
            field,
            tmp_path / "a.zarr",
            partitions=sd.Share(task, 3),
            workers=0,
            progress=False,
            **options,
        )
    report = sd.finalize(tmp_path / "a.zarr")
    assert report.complete
    sd.run(cells, field, tmp_path / "b.zarr", workers=0, progress=False, **options)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    with pytest.raises(UsageError, match="was made from Python and does not remember"):
        raise_from(["run", "--store", str(tmp_path / "a.zarr")])


def raise_from(command: list[str]) -> None:
    """Run a command, without what turns its errors into messages."""
    from stabdask.cli.main import build_parser

    options = build_parser().parse_args(command)
    options.is_program = False
    options.execute(options)


def test_the_store_remembers_files_and_genes_not_where_they_were_named(
    own, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.txt").write_text("g00\tg01\ng05\tg05\n")
    (tmp_path / "genes.txt").write_text("g00\ng01\n")
    command = ["init", "cells.h5ad", "--field", "field.zarr", "--layer", "M_t", "--store", "a.zarr"]
    command += ["--missing-cluster", "W_a"]
    genes = ["--effectors", "@genes.txt", "--regulators", "g02"]
    assert (
        main([*command, "--elements", "@pairs.txt", *genes, "--sample", "100", "--partition-cells", "40"])
        == 0
    )
    request = read_request(tmp_path / "a.zarr")
    assert request is not None
    assert request["atlas"] == [str(tmp_path / "cells.h5ad")]
    assert request["elements"] == [["g00", "g01"], ["g05", "g05"]]
    assert (request["effectors"], request["regulators"]) == (["g00", "g01"], ["g02"])
    (tmp_path / "pairs.txt").unlink()
    (tmp_path / "field.zarr").rename(tmp_path / "gone.zarr")  # the store has a copy
    monkeypatch.chdir("/")
    assert main(["run", "--store", str(tmp_path / "a.zarr"), *QUIET]) == 0
    assert sd.finalize(tmp_path / "a.zarr").n_cells == 100


# ------------------------------------------------------------------------------ what is told again


def test_what_is_told_again_has_to_fit(small, ordinary: Path, capsys) -> None:
    again = ["run", "--store", str(ordinary), *QUIET]
    before = files_of(ordinary)
    for more in (
        ["--layer", "M_t"],
        ["--dtype", "float64"],
        ["--elements", "g00:g01"],
        ["--field", str(small.field)],
        [str(small.atlas)],
        arguments(small, ordinary, *QUIET),
    ):
        assert main([*again, *more, "--partition", "2"]) == 0, more
    capsys.readouterr()
    for more, says in (
        (["--dtype", "float32"], "run: --dtype: 'float64' there, 'float32' here. "),
        (["--tolerance", "0.5"], "run: --tolerance: 0.0 there, 0.5 here. "),
        (["--elements", "g00:g02"], "run: --elements: 'g00:g01' there alone, 'g00:g02' here alone. "),
        (
            ["--cluster-key", "state", "--obs", "kind=state"],
            "run: --obs: 'kind' here alone; --obs: 'state' there alone. ",
        ),
    ):
        assert main([*again, *more, "--partition", "2"]) == 5, more
        assert says in capsys.readouterr().err
    assert main([*again, "--kind", "hopfield"]) == 2
    assert "--kind says how to read a field" in capsys.readouterr().err
    assert files_of(ordinary) == before


def test_nothing_to_recall(small, tmp_path: Path, capsys) -> None:
    assert main(["run", "--store", str(tmp_path / "none.zarr")]) == 2
    assert "give ATLAS and --field, or make the store first with 'stabdask init'" in capsys.readouterr().err
    assert main(["run", str(small.atlas), "--store", str(tmp_path / "none.zarr")]) == 2
    assert main(["run", "--store", str(tmp_path)]) == 5
    assert "is not a stabdask store" in capsys.readouterr().err
    assert main(["finalize", "--store", str(tmp_path / "none.zarr")]) == 3
    assert not (tmp_path / "none.zarr").exists()


def test_no_credentials_are_recorded() -> None:
    from stabdask.cli.recorded import _lasting

    assert _lasting("s3://bucket/atlas.zarr") == "s3://bucket/atlas.zarr"
    for address in ("s3://me:secret@bucket/a", "https://host/a?X-Amz-Signature=abc"):
        with pytest.raises(UsageError, match="which the store would remember") as caught:
            _lasting(address)
        assert "secret" not in str(caught.value)
        assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "chosen",
    [
        ["--task", "1"],
        ["--n-tasks", "2"],
        ["--task", "2", "--n-tasks", "2"],
        ["--task", "0", "--n-tasks", "2", "--task-base", "1"],
        ["--task", "0", "--n-tasks", "2", "--partition", "1"],
        ["--partition", "12"],
        ["--partition", "4-3"],
        ["--partition", "x"],
    ],
)
def test_parts_that_do_not_exist(ordinary: Path, chosen: list[str]) -> None:
    assert main(["run", "--store", str(ordinary), *QUIET, *chosen]) == 2


@pytest.mark.parametrize(("n_partitions", "n_tasks"), [(12, 5), (3, 7), (1, 1), (1000, 33)])
def test_shares_cover_all_evenly(n_partitions: int, n_tasks: int) -> None:
    shares = [chosen_partitions(Share(task, n_tasks), n_partitions) for task in range(n_tasks)]
    assert [number for share in shares for number in share] == list(range(n_partitions))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_numbers_are_read_as_they_are_written() -> None:
    for numbers in ([0], [0, 1, 2, 5, 7, 8], list(range(40))):
        assert parse_numbers(format_numbers(numbers)) == numbers


# ------------------------------------------------------------------------------------------- locks


def test_tasks_share_a_lock_that_a_run_holds_alone(small, ordinary: Path) -> None:
    cells = ["run", "--store", str(ordinary), *QUIET]
    assert not is_locked(ordinary)
    with store_lock(ordinary, shared=True), store_lock(ordinary, shared=True):
        assert sd.status(ordinary).running
        assert main([*cells, "--partition", "1"]) == 0
        with pytest.raises(StoreLockedError, match="array tasks, one of them process"):
            raise_from(cells)
        with pytest.raises(StoreLockedError):
            sd.finalize(ordinary)
    assert not is_locked(ordinary)
    with store_lock(ordinary), pytest.raises(StoreLockedError, match=r"another run \(process"):
        raise_from([*cells, "--partition", "1"])


def test_a_file_system_without_locks(small, ordinary: Path, monkeypatch, capsys) -> None:
    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (ordinary / "receipts" / "00000003.json").unlink()
    leftover = ordinary / "eigenvalue" / "c" / "0.abc.partial"
    leftover.write_bytes(b"half a chunk")
    with pytest.raises(OutputError, match=r"has no locks \(flock: No locks available\).*--no-lock"):
        raise_from(["run", "--store", str(ordinary), *QUIET])
    assert main(["run", "--store", str(ordinary), *QUIET, "--no-lock"]) == 0
    assert "not locked" in capsys.readouterr().out
    assert leftover.exists()
    assert sd.finalize(ordinary, lock=False).locked is False
    assert not sd.status(ordinary).running


def test_two_tasks_compute_the_same_partitions_at_once(
    small, ordinary: Path, tmp_path: Path, monkeypatch
) -> None:
    """Every partition is written by two tasks in step; chunks and receipts replace each other whole."""
    store = tmp_path / "o.zarr"
    assert main(["init", *arguments(small, store)]) == 0
    together = threading.Barrier(2, timeout=60)
    original = store_module.array_checksum

    def in_step(values):
        together.wait()  # both have written this array, neither its receipt
        return original(values)

    monkeypatch.setattr(store_module, "_WRITERS", 1)
    monkeypatch.setattr(store_module, "array_checksum", in_step)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state", obs_keys=["state"])
    options = {"elements": [("g00", "g01")], "quantities": ["default", "sensitivity"], "partition_cells": 20}
    failed = []

    def task() -> None:
        try:
            sd.run(
                cells,
                sd.read_field(small.field),
                store,
                partitions=range(12),
                workers=0,
                progress=False,
                **options,
            )
        except BaseException as error:
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=task) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sd.finalize(store).complete
    assert files_of(store) == files_of(ordinary)


@pytest.mark.slow
def test_processes_racing_for_one_store(small, ordinary: Path, tmp_path: Path) -> None:
    """Three processes make the store and compute all of it at the same time, each everything."""
    store = tmp_path / "o.zarr"
    command = [sys.executable, "-m", "stabdask.cli.main", "run", *arguments(small, store), *QUIET]
    running = [
        subprocess.Popen([*command, "--partition", "0-11"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert sd.finalize(store).complete
    assert files_of(store) == files_of(ordinary)


def test_a_store_that_another_task_makes_meanwhile(small, tmp_path: Path, monkeypatch) -> None:
    store = tmp_path / "o.zarr"
    make_folder = store_module.make_receipt_folder
    calls = []

    def overtaken(folder) -> None:
        make_folder(folder)
        calls.append(1)
        if len(calls) == 1:  # the other task begins after this one, and is done first
            assert main(["init", *arguments(small, store)]) == 0

    monkeypatch.setattr(store_module, "make_receipt_folder", overtaken)
    assert main(["init", *arguments(small, store)]) == 0
    assert len(calls) == 2
    assert [path.name for path in tmp_path.glob(".o.zarr*")] == []


def test_a_task_that_finds_cells_failed_is_done(own, tmp_path: Path, capsys) -> None:
    """Cells that fail are counted by finalize, so that job arrays go on."""
    adata = anndata.read_h5ad(own.atlas)
    adata.layers["M_t"][7, :] = float("nan")
    adata.write_h5ad(own.atlas)
    store = tmp_path / "o.zarr"
    assert main(["init", *arguments(own, store)]) == 0
    assert main(["run", "--store", str(store), "--partition", "0-11", *QUIET]) == 0
    assert main(["finalize", "--store", str(store)]) == 4
    assert main(["finalize", "--store", str(store), "--allow-failed", "0.01"]) == 0
    assert len(read_receipts(store, read_spec(store).fingerprint)) == 12


def test_what_is_missing_is_an_error_of_its_own(small, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    assert main(["init", *arguments(small, store)]) == 0
    with pytest.raises(RunFailedError, match="12 of 12 partitions"):
        sd.finalize(store)
