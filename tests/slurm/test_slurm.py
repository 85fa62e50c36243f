"""The submissions in deployments/slurm, on a real SLURM of two nodes that is started here: ``pytest -m slurm -n 0 -s``.

As root on a Debian, which lacks nothing but packages: they are installed. Everything ends with the test.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stabdask as sd

sys.path.insert(0, str(Path(__file__).parent))

from two_nodes import two_nodes, why_not

SCRIPTS = Path(__file__).parents[2] / "deployments" / "slurm"
STABDASK = Path(sys.executable).parent / "stabdask"
N_CELLS, PARTITION_CELLS = 12_000, 200

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    problem = why_not()
    if problem is not None:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("nodes")
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    with two_nodes(folder / "slurm") as environment:
        yield environment


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlas")
    sd.simulate_atlas(folder, n_cells=N_CELLS, n_genes=300, n_regulators=150)
    return folder


def arguments(atlas: Path) -> list[str]:
    return [
        str(atlas / "cells.h5ad"), "--field", str(atlas / "field.zarr"), "--layer", "M_t", "--cluster-key", "cell_type",
        "--partition-cells", str(PARTITION_CELLS), "--quantities", "default,drivers", "--backend", "lapack",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ordinary(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("ordinary") / "out.zarr"
    begin = time.monotonic()
    subprocess.run(
        [STABDASK, "run", *arguments(atlas), "--store", store, "--workers", "2", "--quiet"], check=True
    )
    print(f"\nordinary run on two workers: {time.monotonic() - begin:.1f} s")
    return store


def files_of(store: Path) -> dict[str, str]:
    """Return a hash of every file of a store; of receipts, of what they say of the results."""
    found = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.name != "lock":
            data = path.read_bytes()
            if path.parent.name == "receipts" and path.name[0].isdigit():
                told = json.loads(data)
                data = json.dumps(
                    [told[name] for name in ("fingerprint", "start", "stop", "checksums")]
                ).encode()
            found[str(path.relative_to(store))] = hashlib.sha256(data).hexdigest()
    return found


def submit(slurm: dict[str, str], folder: Path, command: list[object], **variables: object) -> str:
    """Run a command that submits, in a folder of its own, and return what it said."""
    environment = {
        **slurm,
        "STABDASK": str(STABDASK),
        **{name: str(value) for name, value in variables.items()},
    }
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs(slurm: dict[str, str], name: str) -> list[str]:
    """Return the numbers of the jobs of that name that run."""
    command = ["squeue", "-h", "-t", "R", "-r", "-n", name, "-o", "%i"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout.split()


def wait_for(slurm: dict[str, str], what: str, seconds: float = 300) -> None:
    """Wait until no job is left."""
    deadline = time.monotonic() + seconds
    while subprocess.run(
        ["squeue", "-h"], env=slurm, capture_output=True, text=True, check=True
    ).stdout.strip():
        assert time.monotonic() < deadline, f"{what} takes too long"
        time.sleep(0.3)


def n_done(store: Path) -> int:
    return sd.status(store).n_partitions_done if store.exists() else 0


def cancel_in_the_middle(slurm: dict[str, str], store: Path, name: str) -> tuple[str, int]:
    """Cancel one running job of that name once some partitions are there; return which, and how many were."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        running = jobs(slurm, name)
        if len(running) >= 2 and (done := n_done(store)) >= 4:
            subprocess.run(["scancel", running[-1]], env=slurm, check=True)
            return running[-1], done
        time.sleep(0.05)
    raise AssertionError("no job was in the middle of its work")


def test_array_jobs(slurm: dict[str, str], atlas: Path, ordinary: Path, tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    how = {"STORE": store, "TASKS": 4, "CPUS": 1, "MEMORY_PER_CPU": 2000}
    command: list[object] = ["bash", SCRIPTS / "array.sh", *arguments(atlas)]
    begin = time.monotonic()
    print("\n" + submit(slurm, tmp_path, command, **how).strip())
    cancelled, done = cancel_in_the_middle(slurm, store, "stabdask-task")
    wait_for(slurm, "the array")
    (said,) = (tmp_path / "stabdask-logs").glob("finalize-*.out")
    print(f"cancelled {cancelled} after {done} partitions; finalize: {said.read_text().strip()}")
    n_missing = sd.status(store).n_partitions - n_done(store)
    assert n_missing
    assert f"{n_missing} of {sd.status(store).n_partitions} partitions" in said.read_text()
    submit(slurm, tmp_path, command, **how)  # resumes
    wait_for(slurm, "the array again")
    print(f"array of four tasks, one cancelled and submitted again: {time.monotonic() - begin:.1f} s")
    last = max((tmp_path / "stabdask-logs").glob("finalize-*.out"))
    assert "(complete)" in last.read_text(), last.read_text()
    assert files_of(store) == files_of(ordinary)


def test_array_jobs_on_gpus_get_one_each(slurm: dict[str, str], atlas: Path, tmp_path: Path) -> None:
    """The GPU is a stand-in, which init finds out: tasks do not run, and finalize says that there is nothing."""
    how = {"STORE": tmp_path / "out.zarr", "TASKS": 2, "MEMORY_PER_CPU": 1000}
    numbers = submit(
        slurm, tmp_path, ["bash", SCRIPTS / "array_gpu.sh", *arguments(atlas)[:-2]], **how
    ).split()
    show = ["scontrol", "show", "job", numbers[3]]
    shown = subprocess.run(show, env=slurm, capture_output=True, text=True, check=True).stdout
    assert "gres:gpu:1" in shown
    assert "--gpu" in (SCRIPTS / "array.sh").read_text()
    wait_for(slurm, "the array", 60)
    logs = {path.name.split("-")[0]: path.read_text() for path in (tmp_path / "stabdask-logs").iterdir()}
    assert set(logs) == {"init", "finalize"}
    assert "no GPU can be used here" in logs["init"]
    assert "no store at" in logs["finalize"]


def test_workers_as_jobs(slurm: dict[str, str], atlas: Path, ordinary: Path, tmp_path: Path) -> None:
    store, home = tmp_path / "out.zarr", tmp_path / "home"
    home.mkdir()
    cluster = tmp_path / "cluster.yaml"
    text = (SCRIPTS / "cluster_gpu.yaml").read_text().replace("worker_memory: 16GB", "worker_memory: 2GB")
    cluster.write_text(f"{text}\ninterface: lo\nlog_folder: {tmp_path}/logs\n")
    begin = time.monotonic()
    command = ["sbatch", "--mem=2000", SCRIPTS / "dask_jobqueue.sh", *arguments(atlas)]
    submit(slurm, tmp_path, command, STORE=store, CLUSTER=cluster, WORKERS=2, HOME=home)
    cancelled, done = cancel_in_the_middle(slurm, store, "stabdask")
    folders = list(home.rglob(".stabdask-tls-*"))
    assert len(folders) == 1
    secrets = list(folders[0].iterdir())
    assert len(secrets) == 2
    assert [oct(path.stat().st_mode)[-3:] for path in (folders[0], *secrets)] == ["700", "600", "600"]
    script = next(iter((tmp_path / "logs").glob("stabdask-*.err"))).read_text()
    assert "tls://127.0.0.1" in script
    wait_for(slurm, "the run")
    (said,) = tmp_path.glob("stabdask-client-*.out")
    print(f"\ncancelled worker job {cancelled} after {done} partitions\n{said.read_text().strip()}")
    print(f"client job and two worker jobs, one cancelled: {time.monotonic() - begin:.1f} s")
    assert "(complete)" in said.read_text()
    assert "ssh -L 8787:127.0.0.1:" in said.read_text()
    assert files_of(store) == files_of(ordinary)
    assert not list(home.rglob("*.pem"))
    n_jobs = len(list((tmp_path / "logs").glob("stabdask-*.err")))
    print(f"{n_jobs} worker jobs in all")


def test_from_python_with_more_and_fewer_jobs(
    slurm: dict[str, str], atlas: Path, ordinary: Path, tmp_path: Path
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text((SCRIPTS / "cluster.yaml").read_text() + "\ninterface: lo\n")
    options = {"partition_cells": PARTITION_CELLS, "quantities": ["default", "drivers"], "backend": "lapack"}
    variables = {
        "ATLAS": atlas / "cells.h5ad", "FIELD": atlas / "field.zarr", "LAYER": "M_t", "CLUSTER_KEY": "cell_type",
        "STORE": tmp_path / "out.zarr", "CLUSTER": cluster, "ADAPTIVE": "0:2", "OPTIONS": json.dumps(options),
    }  # fmt: skip
    begin = time.monotonic()
    said = submit(slurm, tmp_path, [sys.executable, SCRIPTS / "run_on_slurm.py"], **variables)
    print(f"\n{said}adaptive, zero to two jobs: {time.monotonic() - begin:.1f} s")
    assert "(complete)" in said
    wait_for(slurm, "the end of workers", 30)
    # The command line records its arguments in the attributes of the group, Python none.
    found, expected = (files_of(path) for path in (tmp_path / "out.zarr", ordinary))
    assert {name for name in found if found[name] != expected.get(name)} == {"zarr.json"}


def test_what_slurm_does_not_take_is_said_at_once(
    slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["scancel", "--user=root"], env=slurm, check=True)
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(
            sd.errors.ClusterError, match=r"SLURM does not take jobs for workers: .*invalid partition"
        ),
        sd.cluster("slurm", queue="nowhere", interface="lo", shared_folder=str(tmp_path)),
    ):
        pass
    assert not list(tmp_path.rglob("*.pem"))
    assert os.environ["SLURM_CONF"]


def test_workers_end_before_their_time_is_up(
    slurm: dict[str, str], atlas: Path, ordinary: Path, tmp_path: Path
) -> None:
    """One worker at a time with the shortest limit there is: it ends itself, and another job goes on."""
    store = tmp_path / "out.zarr"
    command = [
        STABDASK,
        "run",
        *arguments(atlas),
        "--store",
        store,
        "--cluster",
        "slurm",
        "--jobs",
        1,
        "--interface",
        "lo",
    ]
    begin = time.monotonic()
    said = submit(slurm, tmp_path, [*command, "--walltime", "00:02:00", "--worker-memory", "2GB"])
    seconds = time.monotonic() - begin
    logs = sorted((tmp_path / "stabdask-logs").glob("*.err"))
    print(f"\n{said}one worker at a time, two minutes each: {len(logs)} jobs in {seconds:.1f} s")
    assert files_of(store) == files_of(ordinary)
    assert len(logs) >= 2 or seconds < 100
    assert not any("DUE TO TIME LIMIT" in log.read_text() for log in logs)
