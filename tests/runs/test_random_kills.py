"""SIGKILL at random moments: of a run, a worker, the client, the scheduler, the whole tree. Nothing is ever lost.

After each kill the same run is started again, until the store is finished; then it is compared byte by byte with one
that nobody disturbed, and the next begins. Ten kills are part of the plain suite;
`pytest -m slow` adds more than a hundred.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from durable import QUANTITIES, assert_same, command, open_small, run_small
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import RunFailedError, StabdaskError
from stabdask.runs.receipts import is_locked

N_PARTITIONS = 23
OPTIONS = {"partition_cells": 10, "quantities": QUANTITIES}
HANG_S = 100


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def calm(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("calm") / "o.zarr"
    assert run_small(small, store, elements=[], **OPTIONS).n_partitions == N_PARTITIONS
    return store


class Watch:
    """Sees to it that no receipt is ever lost, and counts what happened."""

    def __init__(self, calm: Path, store: Path) -> None:
        self.calm, self.store = calm, store
        self.done: set[str] = set()
        self.n_kills = self.n_resumed = self.n_stores = 0

    def killed(self) -> None:
        """Look at what a kill has left."""
        self.n_kills += 1
        if not self.store.exists():
            return
        receipts = {path.name for path in (self.store / "receipts").glob("0*.json")}
        assert self.done <= receipts, "a receipt was lost"
        assert sd.status(self.store).n_partitions_done == len(receipts)
        self.n_resumed += bool(receipts)
        self.done = receipts

    def finished(self) -> None:
        """Compare a finished store with the calm one, and make room for the next."""
        assert_same(self.store, self.calm)
        assert not list(self.store.parent.glob(".*.tmp"))
        self.n_stores += 1
        self.done = set()
        shutil.rmtree(self.store)

    def report(self, what: str, capsys: pytest.CaptureFixture[str]) -> None:
        with capsys.disabled():
            print(
                f"\n{what}: {self.n_kills} kills, {self.n_resumed} resumed from receipts, "
                f"{self.n_stores} stores finished with the same bytes"
            )


@pytest.fixture
def watch(calm: Path, tmp_path: Path) -> Watch:
    return Watch(calm, tmp_path / "o.zarr")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_kills", [7, pytest.param(60, marks=pytest.mark.slow)])
def test_a_run_in_one_process(small, watch: Watch, n_kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    """At any moment from its first step, before there is a store, to its last."""
    rng = np.random.default_rng(1)
    program = [
        sys.executable,
        str(Path(__file__).parents[1] / "forked_runs.py"),
        str(small.atlas),
        str(small.field),
    ]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runs:

        def run(kill_s: float | None) -> dict:
            request = {"store": str(watch.store), "kill_s": kill_s, "options": OPTIONS}
            print(json.dumps(request), file=runs.stdin, flush=True)
            return json.loads(runs.stdout.readline())

        whole = run(None)
        assert whole["ended"] == "finished"
        watch.finished()
        while watch.n_kills < n_kills:
            # Half of them among the first steps, which make the store.
            longest = whole["seconds"] / (4 if watch.n_kills % 2 else 1)
            ended = run(rng.uniform(0.0, longest))["ended"]
            if ended == "killed":
                watch.killed()
            else:
                assert ended == "finished"
                watch.finished()
        assert run(None)["ended"] == "finished"
        watch.finished()
        runs.stdin.close()
    watch.report("a run in one process", capsys)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_kills", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_workers(small, watch: Watch, n_kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The nanny starts another; a partition whose workers were killed four times fails, until the next run."""
    from stabdask.clusters import local_client

    rng = np.random.default_rng(2)
    with local_client(n_workers=2, memory_limit=None, dashboard=False) as client:
        while watch.n_kills < n_kills:
            pids = list(client.run(os.getpid).values())
            victim, after = pids[rng.integers(2)], rng.uniform(0.0, 1.0)
            over, killed = threading.Event(), threading.Event()

            def kill(
                victim: int = victim,
                after: float = after,
                over: threading.Event = over,
                killed: threading.Event = killed,
            ) -> None:
                if not over.wait(after):
                    os.kill(victim, signal.SIGKILL)
                    killed.set()

            killer = threading.Thread(target=kill)
            killer.start()
            try:
                run_small(small, watch.store, workers=None, client=client, elements=[], **OPTIONS)
                finished = True
            except RunFailedError as error:
                assert "KilledWorker" in str(error)  # noqa: PT017
                finished = False
            over.set()
            killer.join()
            if killed.is_set():
                watch.killed()
            client.wait_for_workers(2, timeout=HANG_S)
            if finished:
                watch.finished()
    run_small(small, watch.store, elements=[], **OPTIONS)
    watch.finished()
    watch.report("workers", capsys)


def start(small, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(small, store, "--workers", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_end_of(session: int) -> None:
    """Wait until no process of a session runs: workers whose client was killed end on their own."""
    deadline = time.monotonic() + HANG_S
    while any(_in_session(process, session) for process in psutil.process_iter()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("whole_tree", [False, True], ids=["the client", "the whole tree"])
@pytest.mark.parametrize(
    "n_kills", [pytest.param(1, id="plain"), pytest.param(12, marks=pytest.mark.slow, id="slow")]
)
def test_client_with_its_scheduler(
    small, watch: Watch, tmp_path: Path, n_kills: int, whole_tree: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if n_kills == 1 and whole_tree:
        pytest.skip("one of the two is enough for the plain suite")
    # The command line records its request in a store.
    watch.calm = tmp_path / "calm.zarr"
    assert main(command(small, watch.calm, "--workers", "0", "--quiet")[3:]) == 0
    rng = np.random.default_rng(3 + whole_tree)
    while watch.n_kills < n_kills:
        process = start(small, watch.store)
        deadline = time.monotonic() + HANG_S
        # Every third at any moment, also before there are workers; the others while partitions are computed.
        early = watch.n_kills % 3 == 2
        before = len(watch.done)
        while process.poll() is None and not early and len(_receipts(watch.store)) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            process.wait(timeout=rng.uniform(0.0, 2.0 if early else 0.5))
        except subprocess.TimeoutExpired:
            (os.killpg if whole_tree else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            wait_for_end_of(process.pid)
            watch.killed()
        else:
            assert process.returncode == 0
            watch.finished()
    if watch.store.exists():
        assert not is_locked(watch.store)
    run_small(small, watch.store, elements=[], **OPTIONS)
    watch.finished()
    watch.report("the whole tree" if whole_tree else "the client with its scheduler", capsys)


def _receipts(store: Path) -> list[Path]:
    return list((store / "receipts").glob("0*.json"))


class Cluster:
    """A scheduler and workers in processes of their own, as on a cluster."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        program = [sys.executable, "-m", "distributed.cli"]
        where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = subprocess.Popen(
            [*program[:2], "distributed.cli.dask_scheduler", "--port", "0", *where], **quiet
        )
        self.workers = subprocess.Popen(
            [*program[:2], "distributed.cli.dask_worker", "--nworkers", "2", "--nthreads", "1", *where],
            **quiet,
        )

    def close(self) -> None:
        for process in (self.scheduler, self.workers):
            process.kill()
            process.wait()
            wait_for_end_of(process.pid)


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[list[Cluster]]:
    made: list[Cluster] = []
    yield made
    for cluster in made:
        cluster.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_scheduler(
    small,
    watch: Watch,
    tmp_path: Path,
    clusters: list[Cluster],
    n_kills: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its workers may go on for a while: two processes then compute the same partition."""
    from distributed import Client

    rng = np.random.default_rng(5)
    while watch.n_kills < n_kills:
        folder = tmp_path / f"{len(clusters)}"
        folder.mkdir()
        clusters.append(Cluster(folder))
        scheduler = clusters[-1].scheduler
        wanted = int(rng.integers(1, 15)) * 10

        def kill(progress, scheduler=scheduler, wanted=wanted) -> None:
            if progress.n_new >= wanted and scheduler.poll() is None:
                scheduler.kill()
                scheduler.wait()

        how = {"scheduler_file": str(clusters[-1].file), "timeout": HANG_S, "set_as_default": False}
        with Client(**how) as client:
            client.wait_for_workers(2, timeout=HANG_S)
            cells, field = open_small(small)
            try:
                sd.run(cells, field, watch.store, client=client, progress=kill, elements=[], **OPTIONS)
                watch.n_kills += scheduler.poll() is not None
                watch.finished()
            except StabdaskError as error:
                assert isinstance(error, RunFailedError)  # noqa: PT017
                assert "no longer answers" in str(error)  # noqa: PT017
                assert "run the same command again" in str(error)  # noqa: PT017
                watch.killed()
    # At once, while workers of the last cluster may still be at it.
    run_small(small, watch.store, elements=[], **OPTIONS)
    clusters.pop().close()
    run_small(small, watch.store, elements=[], **OPTIONS)
    watch.finished()
    watch.report("the scheduler", capsys)
