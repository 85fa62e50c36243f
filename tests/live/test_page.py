"""The live page on the dashboard of a real scheduler: its JSON, its security, and what else is on that server."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import dask
import pytest
from distributed import Client, LocalCluster
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.clusters.dashboard import PRELOAD, dashboard_text, dashboard_url, page_settings
from stabdask.errors import InputError, RunFailedError
from stabdask.runs import partition, preflight

HOSTILE = ("<script>alert(1)</script>", "a", "b c")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def numbers(url: str, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(f"{url}/status{query}"))
    return found


def once(url: str, right: Any, seconds: float = 20.0) -> dict[str, Any]:
    """Return the numbers of the page as soon as they are right."""
    deadline = time.monotonic() + seconds
    while not right(found := numbers(url)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def in_process_cluster() -> LocalCluster:
    return LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Client, str]]:
    """Give a client of a cluster in this process with the page, and the page's address."""
    with dask.config.set(page_settings(True)):
        cluster = in_process_cluster()
    with cluster, Client(cluster, set_as_default=False) as client:
        url = dashboard_url(client)
        assert url is not None
        yield client, url


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"), labels=HOSTILE)


def run(small: Small, store: Path, client: Client, **options: Any) -> sd.RunReport:
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    given = {"progress": False, "partition_cells": 50, **options}
    return sd.run(cells, sd.read_field(small.field), store, client=client, **given)


def test_the_page_before_any_run_and_dasks_own(served: tuple[Client, str]) -> None:
    _, url = served
    assert url.endswith("/stabdask")
    assert numbers(url)["run"] is None
    page = fetch(url)
    assert "Content-Security-Policy" in page
    # What a browser fetches is on this server; links to other hosts are none either.
    assert "//cdn" not in page
    assert "https://" not in page.partition("<script")[0]
    server = url.removesuffix("/stabdask")
    status = fetch(f"{server}/status")
    assert "Dask" in status
    assert 'href="stabdask"' in status
    assert fetch(f"{server}/health") == "ok"


def test_numbers_of_a_run(served: tuple[Client, str], small: Small, tmp_path: Path) -> None:
    client, url = served
    report = run(small, tmp_path / "out.zarr", client)
    found = once(url, lambda f: f["run"] and f["run"]["state"] == "finished" and f["partitions"]["done"] == 5)
    ds = sd.open_results(tmp_path / "out.zarr")
    assert found["run"]["store"] == str(tmp_path / "out.zarr")
    assert found["run"]["fingerprint"] == report.fingerprint
    assert found["cells"] == {"n": 230, "done": 230, "done_before": 0, "done_now": 230}
    assert found["partitions"] == {"n": 5, "done": 5, "running": [], "failed": {}}
    assert found["map"]["done"] == [1] * 5
    assert found["status"] == {"ok": 230}
    assert found["source"]["problems"] == []
    assert found["workers"]["n"] == 1
    assert found["workers"]["memory_bytes"] > 0
    assert 0 < found["run"]["seconds"] <= report.seconds
    assert found["run"]["cells_per_s"] == pytest.approx(230 / found["run"]["seconds"])
    for row in found["spectral_abscissa"]["clusters"]:
        values = ds["spectral_abscissa"].values[ds["cell_cluster"].values == row["name"]]
        assert (row["done"], row["above_zero"]) == (len(values), (values > 0).sum())
    # The path of the store is the only one.
    text = json.dumps({**found, "run": None, "runs": None})
    assert str(tmp_path) not in text
    assert "/" not in text.replace("</script>", "")


def test_a_second_run_is_shown_and_the_first_can_be_chosen(
    served: tuple[Client, str], small: Small, tmp_path: Path
) -> None:
    client, url = served
    run(small, tmp_path / "one.zarr", client, partitions=[0, 4])
    first = once(
        url, lambda f: f["run"] and f["run"]["store"].endswith("one.zarr") and f["cells"]["done"] == 80
    )
    assert first["map"]["done"] == [1, 0, 0, 0, 1]
    run(small, tmp_path / "two.zarr", client)
    second = once(url, lambda f: f["run"]["store"].endswith("two.zarr") and f["cells"]["done"] == 230)
    assert [one["store"] for one in second["runs"][:2]] == [
        str(tmp_path / f"{n}.zarr") for n in ("two", "one")
    ]
    again = numbers(url, f"?run={first['run']['token']}")
    assert again["cells"] == first["cells"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        numbers(url, "?run=<script>")
    assert "Content-Security-Policy" in fetch(f"{url}?run={first['run']['token']}")
    # The rest of the first: what was there before is no speed of this run.
    run(small, tmp_path / "one.zarr", client)
    third = once(url, lambda f: f["run"]["store"].endswith("one.zarr") and f["cells"]["done"] == 230)
    assert third["cells"] == {"n": 230, "done": 230, "done_before": 80, "done_now": 150}


def test_partitions_that_fail_are_named_without_what_the_error_says(
    served: tuple[Client, str], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, url = served
    write = partition.write_partition

    def fail(store: str, spec: Any, number: int, out: Any) -> Any:
        if number == 2:
            raise ArithmeticError("/etc/secret and a password")
        return write(store, spec, number, out)

    monkeypatch.setattr(partition, "write_partition", fail)
    with pytest.raises(RunFailedError, match="/etc/secret"):
        run(small, tmp_path / "bad.zarr", client)
    found = once(url, lambda f: f["run"]["state"] == "failed" and f["cells"]["done"] == 180)
    assert found["partitions"]["failed"] == {"2": "ArithmeticError"}
    assert found["map"]["failed"] == [0, 0, 1, 0, 0]
    assert "secret" not in json.dumps(found)


def test_a_partition_whose_error_ends_the_run_is_named(
    served: tuple[Client, str], small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, url = served
    monkeypatch.setattr(preflight, "_check_block", lambda *_: None)  # as where a large atlas is only sampled
    adata = anndata.read_h5ad(small.atlas)
    adata.layers["M_t"][120, 3] = -1.0
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="is -1"):
        run(Small(tmp_path / "cells.h5ad", small.field), tmp_path / "bad.zarr", client)
    right = {"store": str(tmp_path / "bad.zarr"), "state": "failed"}
    found = once(url, lambda f: f["run"] and right.items() <= f["run"].items())
    assert found["partitions"]["failed"] == {"2": "InputError"}


def test_a_run_that_is_stopped_is_said(served: tuple[Client, str], small: Small, tmp_path: Path) -> None:
    client, url = served

    def stop(progress: Any) -> None:
        if progress.n_new:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path / "stopped.zarr", client, progress=stop)
    once(url, lambda f: f["run"]["store"].endswith("stopped.zarr") and f["run"]["state"] == "stopped")


def test_only_this_host_is_answered(served: tuple[Client, str]) -> None:
    client, _ = served
    server = client.cluster.scheduler.http_server
    assert server.address == "127.0.0.1"
    connection = http.client.HTTPConnection(server.address, server.port, timeout=10)
    connection.request("GET", "/stabdask/status")
    answer = connection.getresponse()
    assert answer.getheader("Access-Control-Allow-Origin") is None
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Cache-Control") == "no-store"


def test_the_preset_has_the_page_and_says_so(small: Small, tmp_path: Path) -> None:
    said: list[str] = []
    with sd.cluster("local", workers=1, worker_memory="2GB", say=said.append) as client:
        (line,) = said
        url = line.split()[1]
        assert url.endswith("/stabdask")
        assert "(Dask's own: /status)" in line
        run(small, tmp_path / "out.zarr", client)
        assert once(url, lambda f: f["run"] and f["partitions"]["done"] == 5)["run"]["state"] == "finished"
        assert "stabdask" in fetch(url.replace("/stabdask", "/status"))


def test_without_a_dashboard_nothing_is_installed(small: Small, tmp_path: Path) -> None:
    with sd.cluster("local", workers=1, dashboard=False, worker_memory="2GB") as client:
        assert dashboard_text(client) is None
        assert not client.dashboard_link.startswith("http://127.0.0.1:8787/")  # for whoever wants that port
        scheduler = client.cluster.scheduler
        assert [one.name for one in scheduler.preloads] == []
        assert not [one for one in scheduler.http_application.applications if hasattr(one, "app_paths")]
        run(small, tmp_path / "out.zarr", client)


def test_a_cluster_without_the_preload_is_as_it_was(small: Small, tmp_path: Path) -> None:
    with in_process_cluster() as cluster, Client(cluster) as client:
        assert run(small, tmp_path / "out.zarr", client).complete
        url = dashboard_url(client)
        assert url is not None
        assert url.endswith("/status")
        assert "Dask's own" not in str(dashboard_text(client))


@pytest.mark.parametrize("shows", [True, False])
def test_the_command_line_says_where_the_page_is(small: Small, tmp_path: Path, shows: bool) -> None:
    command = [
        sys.executable, "-m", "stabdask.cli.main", "run", str(small.atlas), "--field", str(small.field),
        "--layer", "M_t", "--cluster-key", "state", "--store", str(tmp_path / "out.zarr"), "--workers", "1",
        *([] if shows else ["--no-dashboard"]),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert bool(re.search(r"dashboard    http://127\.0\.0\.1:\d+/stabdask", done.stderr)) is shows
    assert shows or "/stabdask (" not in done.stderr


def test_settings_keep_what_the_user_preloads() -> None:
    name = "distributed.scheduler.preload"
    with dask.config.set({name: ["mine"]}):
        assert page_settings(True) == {name: ["mine", PRELOAD]}
        assert page_settings(False) == {}
    with dask.config.set({name: "mine"}):
        assert page_settings(True) == {name: ["mine", PRELOAD]}
    with dask.config.set({name: [PRELOAD]}):
        assert page_settings(True) == {name: [PRELOAD]}


def test_the_preload_is_light() -> None:
    code = (
        f"import sys, {PRELOAD}; print(sorted({{'bokeh', 'distributed', 'zarr', 'xarray', 'anndata', 'matplotlib'}} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_scheduler_of_the_command_line_has_the_page(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    command = [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
        "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), "--preload", PRELOAD,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with Client(scheduler_file=str(file)) as client:
            url = dashboard_url(client)
            assert url is not None
            assert url.endswith("/stabdask")
            assert numbers(url)["run"] is None
    finally:
        process.terminate()
        process.wait(20)
