"""The numbers of the live page: receipts that land one by one, broken ones, stores that cannot be read."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_atlas import make_small

import stabdask as sd
from stabdask.live.model import DECADES, QUANTILES, Progressed, RunModel
from stabdask.live.reading import StoreReader
from stabdask.live.status import MOST_SQUARES, live_status, squares
from stabdask.live.text import empty_html, head_html, plain_label, status_html
from stabdask.live.told import Told, Workers, told_runs
from stabdask.live.watch import Live, Watch
from stabdask.runs.receipts import Receipt, read_receipts
from stabdask.runs.store import read_spec

HOSTILE = ("<script>alert(1)</script>", "$$\\frac{1}{2}$$", "a & b")


def told(store: str | Path = "/nowhere/out.zarr", **values: Any) -> Told:
    given = {
        "token": "t1", "store": str(store), "fingerprint": "f" * 32, "n_cells": 230, "n_partitions": 5,
        "n_cells_before": 0, "n_cells_todo": 230, "state": "running", "failures": {}, "seconds": None,
    }  # fmt: skip
    return Told(**{**given, **values})


def told_of(store: Path, **values: Any) -> Told:
    spec = read_spec(store)
    return told(
        store, fingerprint=spec.fingerprint, n_cells=spec.n_cells, n_partitions=spec.n_partitions,
        **{"n_cells_todo": spec.n_cells, **values},
    )  # fmt: skip


def receipt(partition: int, start: int, stop: int, **values: Any) -> Receipt:
    given = {"status_counts": {0: stop - start}, "peak_bytes": 10 * partition}
    return Receipt(
        "f" * 32, partition, start, stop, 1, "lanes", {}, n_near_switch=0, checksums={}, **given | values
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store of five partitions with residuals, of clusters with hostile names."""
    folder = tmp_path_factory.mktemp("finished")
    small = make_small(folder, labels=HOSTILE)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    sd.run(
        cells, sd.read_field(small.field), folder / "out.zarr", workers=0, progress=False, partition_cells=50,
        vectors="right",
    )  # fmt: skip
    return folder / "out.zarr"


@pytest.fixture
def landing(finished: Path, tmp_path: Path) -> Path:
    """Give a copy of the store whose receipts are beside it, to be put in place one by one."""
    store = tmp_path / "out.zarr"
    shutil.copytree(finished, store)
    (tmp_path / "held").mkdir()
    for path in sorted((store / "receipts").glob("0*.json")):
        path.rename(tmp_path / "held" / path.name)
    return store


def let_land(store: Path, *numbers: int) -> None:
    for number in numbers:
        name = f"{number:08d}.json"
        (store.parent / "held" / name).rename(store / "receipts" / name)


def last(reader: StoreReader) -> Progressed:
    return list(reader.looks())[-1]


def test_numbers_are_those_of_the_results(finished: Path) -> None:
    progressed = last(StoreReader(told_of(finished)))
    ds = sd.open_results(finished)
    assert progressed.visible
    assert not progressed.problems
    assert progressed.done.all()
    assert progressed.n_cells_done == 230
    assert progressed.status_counts == {0: 230}
    assert [row.name for row in progressed.clusters] == ds["cluster"].values.tolist()
    assert set(HOSTILE) == {row.name for row in progressed.clusters}
    abscissa = ds["spectral_abscissa"].values
    for row in progressed.clusters:
        values = abscissa[ds["cell_cluster"].values == row.name]
        assert (row.n_cells, row.n_done, row.n_values) == (len(values),) * 3
        assert row.n_positive == (values > 0).sum()
        assert (row.lowest, row.highest) == (values.min(), values.max())
        np.testing.assert_allclose(row.quantiles, np.quantile(values, QUANTILES), rtol=1e-3)
    residual = ds["residual"].values
    residual = residual[residual >= 0]
    assert progressed.n_residuals == len(residual)
    for i, low in enumerate(DECADES[:-1], start=1):
        assert progressed.residuals[i] == ((residual >= 10.0**low) & (residual < 10.0 ** (low + 1))).sum()


def test_receipts_land_one_by_one_and_each_is_read_once(
    landing: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StoreReader(told_of(landing))
    first = last(reader)
    assert first.visible
    assert first.n_cells_done == 0
    assert all(row.quantiles is None for row in first.clusters)
    read: list[str] = []
    made = Receipt.from_json
    monkeypatch.setattr(Receipt, "from_json", lambda data: read.append(data) or made(data))
    seen = []
    for number in (2, 0, 4, 1, 3):
        let_land(landing, number)
        now = last(reader)
        assert now.done[number]
        seen.append((int(now.done.sum()), now.n_cells_done, sum(row.n_values for row in now.clusters)))
    assert seen == [(1, 50, 50), (2, 100, 100), (3, 130, 130), (4, 180, 180), (5, 230, 230)]
    assert len(read) == 5
    # In whatever order they come, the numbers are the same in the end.
    whole = last(StoreReader(told_of(finished)))
    assert now.clusters == whole.clusters
    assert now.residuals == whole.residuals


def test_many_receipts_are_shown_before_all_are_read(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabdask.live.reading._MOST_RECEIPTS", 2)
    done = [progressed.n_cells_done for progressed in StoreReader(told_of(finished)).looks()]
    assert done == [100, 200, 230]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"null", b'{"partition": 1}'])
def test_a_broken_receipt_is_named_and_the_others_count(landing: Path, broken: bytes) -> None:
    let_land(landing, 0, 2)
    (landing / "receipts" / "00000001.json").write_bytes(broken)
    clock = iter(np.arange(0.0, 1000.0, 0.25))
    reader = StoreReader(told_of(landing), lambda: float(next(clock)))
    progressed = last(reader)
    assert progressed.done.tolist() == [True, False, True, False, False]
    assert "receipt 00000001.json cannot be read" in progressed.problems[0]
    assert "--repair" in progressed.problems[-1]
    # Mended, as by the worker that writes it again, it counts some time later.
    let_land(landing, 1)
    for _ in range(100):
        progressed = last(reader)
    assert progressed.done[1]
    assert not progressed.problems


def test_a_receipt_of_another_place_or_run_does_not_count(landing: Path) -> None:
    let_land(landing, 0, 1, 3)
    folder = landing / "receipts"
    other = json.loads((folder / "00000001.json").read_text())
    (folder / "00000001.json").write_text(json.dumps({**other, "fingerprint": "0" * 32}))
    (folder / "00000004.json").write_text((folder / "00000003.json").read_text())
    progressed = last(StoreReader(told_of(landing)))
    assert progressed.done.tolist() == [True, False, False, True, False]
    assert "belongs to another run" in progressed.problems[0]
    assert "00000004.json" in progressed.problems[1]


def test_damaged_results_are_said_and_the_rest_is_shown(landing: Path) -> None:
    let_land(landing, 0, 1, 2)
    (landing / "spectral_abscissa" / "c" / "1").write_bytes(b"damaged")
    progressed = last(StoreReader(told_of(landing)))
    assert progressed.n_cells_done == 150
    assert progressed.n_unread == 50
    assert sum(row.n_values for row in progressed.clusters) == 100
    assert "results of 1 finished partitions cannot be read" in progressed.problems[0]


def test_a_store_that_is_not_seen_is_said_and_nothing_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret-neighbour.zarr").mkdir()
    progressed = last(StoreReader(told(tmp_path / "secret-neighbor.zarr")))
    assert progressed.visible is False
    (problem,) = progressed.problems
    assert str(tmp_path / "secret-neighbor.zarr") in problem
    assert "neighbour" not in problem
    assert "partitions that workers are at are shown" in problem
    page = head_html(live_status(told(), progressed, Workers(n=2), began=0, now=3), [told()], "stabdask")
    assert "– of 5" in page
    assert "class='bar'" not in page


def test_a_store_that_goes_away_and_comes_back(landing: Path) -> None:
    let_land(landing, 0, 1)
    reader = StoreReader(told_of(landing))
    assert last(reader).n_cells_done == 100
    landing.rename(landing.with_name("away"))
    gone = last(reader)
    assert gone.visible is False
    landing.with_name("away").rename(landing)
    assert last(reader).n_cells_done == 100


def test_the_store_of_another_run_is_refused(finished: Path) -> None:
    progressed = last(StoreReader(told(finished)))
    assert progressed.visible is False
    assert "belongs to another run" in progressed.problems[0]


# ------------------------------------------------------------------------------------------ rates


def test_rate_and_time_left_are_those_of_this_run() -> None:
    model = RunModel(10, with_abscissa=False, with_residual=False)
    model.land([receipt(i, 10 * i, 10 * i + 10) for i in range(4)], 100.0)
    model.land([receipt(4, 40, 50)], 130.0)
    model.land([receipt(5, 50, 60), receipt(6, 60, 70)], 190.0)
    # Forty cells were there before.
    run = told(n_cells=100, n_partitions=10, n_cells_before=40, n_cells_todo=60)
    status = live_status(run, model.progressed(visible=True), Workers(), began=100.0, now=200.0)
    assert status.n_new == 30
    assert status.cells_per_s == pytest.approx(0.3)
    assert status.recent_cells_per_s == pytest.approx(20 / 60)
    assert status.seconds_left == pytest.approx(30 / 0.3)
    assert status.n_partitions_done == 7
    over = live_status(
        replace(run, state="finished", seconds=90.0),
        model.progressed(visible=True),
        Workers(),
        began=100,
        now=200,
    )
    assert over.seconds == 90.0
    assert over.seconds_left is None
    nothing = live_status(run, Progressed(done=np.zeros(10, bool)), Workers(), began=100.0, now=100.0)
    assert (nothing.cells_per_s, nothing.seconds_left, nothing.recent_cells_per_s) == (None, None, None)
    json.dumps([status.to_dict(), over.to_dict(), nothing.to_dict()], allow_nan=False)


def test_running_and_failed_partitions() -> None:
    model = RunModel(5, with_abscissa=False)
    model.land([receipt(0, 0, 50), receipt(1, 50, 100)], 1.0)
    run = told(failures={3: "KilledWorker", 1: "MemoryError", 77: "ValueError"}, state="running")
    workers = Workers(running={"f" * 8: frozenset({1, 2, 99}), "0" * 8: frozenset({4})})
    status = live_status(run, model.progressed(visible=True), workers, began=0.0, now=2.0)
    # What has landed is neither running nor failed; what is no partition of this run is not shown.
    assert status.running == (2,)
    assert status.failed == (3,)
    assert status.to_dict()["partitions"]["failed"] == {"3": "KilledWorker"}
    assert status.squares.running == (0, 0, 1, 0, 0)
    page = head_html(status, [run], "stabdask")
    assert "1 partition failed for good (KilledWorker: number 3)" in page


@pytest.mark.parametrize("n", [1, 5, 4096, 4097, 8192, 100_000])
def test_squares_add_up(n: int) -> None:
    done = np.random.default_rng(n).random(n) < 0.4
    found = squares(done, [0], [n - 1])
    assert len(found.n) <= MOST_SQUARES
    assert (sum(found.n), sum(found.done)) == (n, done.sum())
    assert max(found.n) == found.per_square == -(-n // MOST_SQUARES)
    assert found.running[0] == found.failed[-1] == 1


def test_sixty_clusters_and_values_without_json() -> None:
    labels = [f"cluster {i}" for i in range(60)]
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 60, 20_000).astype(np.int16)
    values = rng.normal(size=20_000)
    values[:3] = [np.inf, -np.inf, np.nan]
    codes[:3] = 0
    model = RunModel(1, labels, np.bincount(codes[codes >= 0], minlength=60).tolist())
    for part in np.array_split(np.arange(20_000), 7):
        model.add_values(codes[part], values[part], None)
    progressed = model.progressed(visible=True)
    assert len(progressed.clusters) == 60
    assert sum(row.n_done for row in progressed.clusters) == (codes >= 0).sum()
    first = progressed.clusters[0]
    assert first.n_values == first.n_done - 1
    status = live_status(told(n_partitions=1), progressed, Workers(), began=0, now=1)
    found = json.loads(json.dumps(status.to_dict(), allow_nan=False))
    assert found["spectral_abscissa"]["clusters"][0]["highest"] is None
    for code in (7, 59):
        mine = values[codes == code]
        np.testing.assert_allclose(
            progressed.clusters[code].quantiles, np.quantile(mine, QUANTILES), rtol=2e-3, atol=1e-3
        )


# -------------------------------------------------------------------------------- what clients tell


def test_what_is_no_announcement_is_passed_over() -> None:
    good = {
        "store": "/s", "fingerprint": "f", "n_cells": 10, "n_partitions": 2, "n_cells_before": 0, "n_cells_todo": 10,
        "state": "running", "failures": {"1": "KilledWorker"}, "client": "c1",
    }  # fmt: skip
    metadata = {
        "a": good, "b": 3, "c": {**good, "n_cells": "many"}, "d": {**good, "failures": None}, "e": {}, "f": None,
        "g": {**good, "client": "gone"}, "h": {**good, "state": "nonsense"}, "i": {**good, "n_partitions": 0},
    }  # fmt: skip
    found = told_runs(metadata, ["c1"])
    assert [(one.token, one.state) for one in found] == [("a", "running"), ("g", "lost"), ("h", "stopped")]
    assert found[0].failures == {1: "KilledWorker"}
    assert told_runs("nothing", []) == told_runs({}, []) == []


def test_words_are_escaped() -> None:
    nasty = "<script>alert(1)</script>"
    run = told(f"/data/{nasty}", token=f"'{nasty}", failures={3: nasty})
    status = live_status(
        run, Progressed(done=np.zeros(5, bool), problems=(nasty,), visible=True), Workers(), began=0, now=1
    )
    other = replace(run, token=f'"{nasty}')
    for page in (head_html(status, [run, other], "stabdask"), status_html(status), empty_html(3)):
        assert "<script" not in page
    assert "href='stabdask?run=&quot;&lt;script" in head_html(status, [run, other], "stabdask")
    assert plain_label("$$x$$", 30).replace("\u200b", "") == "$$x$$"
    assert "$$" not in plain_label("$$x$$")
    assert "\\(" not in plain_label("\\(x\\)")


# ------------------------------------------------------------------------- threads, and slow stores


class FakeScheduler:
    """What `Live` asks of a scheduler."""

    def __init__(self) -> None:
        self.task_metadata: dict[str, Any] = {}
        self.clients: dict[str, Any] = {"c1": None}
        self.workers: dict[str, Any] = {}

    def announce(self, token: str, store: Path, **values: Any) -> None:
        one = told_of(store)
        self.task_metadata.setdefault("stabdask", {}).setdefault("runs", {})[token] = {
            "store": one.store, "fingerprint": one.fingerprint, "n_cells": one.n_cells,
            "n_partitions": one.n_partitions, "n_cells_before": 0, "n_cells_todo": one.n_cells,
            "state": "running", "failures": {}, "client": "c1", **values,
        }  # fmt: skip


def wait_for(what: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_runs_one_after_the_other(landing: Path, finished: Path) -> None:
    scheduler = FakeScheduler()
    live = Live(scheduler)
    live.tick()
    assert live.status() is None
    assert live.to_dict() == {"run": None, "workers": {"n": 0}, "runs": []}
    scheduler.announce("one", finished, state="finished", seconds=2.0)
    live.tick()
    wait_for(lambda: live.status("one").progressed.n_cells_done == 230)
    scheduler.announce("two", landing)
    let_land(landing, 0)
    live.tick()
    wait_for(lambda: live.status().progressed.n_cells_done == 50)
    assert live.status().told.token == "two"
    assert [run["token"] for run in live.to_dict()["runs"]] == ["two", "one"]
    assert live.to_dict("one")["cells"]["done"] == 230
    assert live.to_dict("three") is None
    let_land(landing, 1, 2, 3, 4)
    scheduler.announce("two", landing, state="finished", seconds=3.0)
    live.tick()
    wait_for(lambda: live.status().progressed.n_cells_done == 230)
    # Threads end after the runs they look at.
    wait_for(
        lambda: not [t for t in threading.enumerate() if t.name in ("stabdask-live-one", "stabdask-live-two")]
    )
    live.close()


def test_a_client_that_has_gone_is_said(landing: Path) -> None:
    scheduler = FakeScheduler()
    live = Live(scheduler)
    scheduler.announce("one", landing)
    live.tick()
    assert live.status().told.state == "running"
    scheduler.clients.clear()
    live.tick()
    assert live.runs()[0].state == "lost"
    live.close()


def test_a_store_that_does_not_answer_keeps_nobody_waiting(
    landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stabdask.live.watch._SILENT_S", 0.3)
    answer = threading.Event()

    class Hanging(StoreReader):
        def looks(self) -> Any:
            answer.wait(30)
            return super().looks()

    scheduler = FakeScheduler()
    live = Live(scheduler, Hanging)
    scheduler.announce("one", landing)
    begin = time.monotonic()
    live.tick()
    assert live.status().progressed.visible is None
    assert time.monotonic() - begin < 0.3
    wait_for(lambda: "has not answered for" in " ".join(live.status().progressed.problems), 3)
    answer.set()
    wait_for(lambda: live.status().progressed.visible and not live.status().progressed.problems)
    live.close()


def test_an_error_of_any_kind_is_shown(landing: Path) -> None:
    def fail(told: Told) -> StoreReader:
        raise RuntimeError("/etc/secret")

    watch = Watch(told_of(landing), fail)
    wait_for(lambda: watch.status(Workers()).progressed.problems)
    (problem,) = watch.status(Workers()).progressed.problems
    assert problem.endswith("(RuntimeError)")
    watch.stop()


def test_old_runs_are_dropped(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabdask.live.watch._MOST_RUNS", 3)
    scheduler = FakeScheduler()
    live = Live(scheduler)
    for number in range(6):
        scheduler.announce(f"r{number}", finished, state="finished")
        live.tick()
    live.tick()
    assert [told.token for told in live.runs()] == ["r5", "r4", "r3"]
    live.close()


def test_receipts_of_a_run_are_those_that_were_read(finished: Path) -> None:
    receipts = read_receipts(finished, read_spec(finished).fingerprint)
    progressed = last(StoreReader(told_of(finished)))
    assert progressed.peak_worker_bytes == max(one.peak_bytes for one in receipts.values())
    assert progressed.backend == receipts[0].backend
