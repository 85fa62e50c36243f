"""Runs into a bucket of a real server over HTTP, undisturbed and disturbed: they end in the same store."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest
from s3_server import FaultProxy, environment, files_of, make_bucket, moto_server, objects_of, upload

import stabdask as sd
from stabdask.errors import (
    InputError,
    MissingFileError,
    OutputError,
    RunFailedError,
    StoreLockedError,
    StoreMismatchError,
    UnreachableInputError,
    UnreachableOutputError,
)
from stabdask.files import bucket_client, leases, place_of

pytest.importorskip("obstore")
pytestmark = pytest.mark.s3

OPTIONS = {"partition_cells": 50, "elements": [("g00", "g01"), ("g05", "g05")], "progress": False}
CELLS = {"layer": "M_t", "cluster_key": "state", "embeddings": ["X_umap"]}
SECRETS = (b"SECRETOFTHETESTS", b"AKIDOFTHETESTS")
_numbers = itertools.count()


@dataclass
class Bucket:
    """A bucket with cells and field, behind a proxy, and the same run on disk."""

    proxy: FaultProxy
    url: str
    calm: Path

    @property
    def store(self) -> str:
        return f"{self.url}/out.zarr"

    def run(self, **options) -> sd.RunReport:
        cells = sd.open_cells(f"{self.url}/cells.zarr", **CELLS)
        field = sd.read_field(f"{self.url}/field.zarr")
        return sd.run(cells, field, self.store, **{"workers": 0, **OPTIONS, **options})

    def assert_as_on_disk(self) -> None:
        """The root document alone differs, which says where the cells came from."""
        here, there = files_of(self.calm), objects_of(self.store)
        assert here.keys() == there.keys()
        assert [name for name in here if here[name] != there[name]] == ["zarr.json"]
        assert checksums(self.store) == checksums(self.calm)


def checksums(store: str | Path) -> dict[int, dict[str, str]]:
    from stabdask.runs.receipts import read_receipts
    from stabdask.runs.store import read_spec

    receipts = read_receipts(store, read_spec(store).fingerprint)
    return {number: receipt.checksums for number, receipt in receipts.items()}


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto_server() as port:
        yield port


@pytest.fixture
def bucket(server: int, small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    name = f"atlases-{next(_numbers)}"
    make_bucket(server, name)
    proxy = FaultProxy(server)
    for variable, value in {**environment(proxy.url), "STABDASK_S3_RETRY_S": "5"}.items():
        monkeypatch.setenv(variable, value)
    bucket_client._client.cache_clear()
    adata = anndata.read_h5ad(small.atlas)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    adata.write_zarr(tmp_path / "cells.zarr")
    url = f"s3://{name}"
    upload(tmp_path / "cells.zarr", f"{url}/cells.zarr")
    field = sd.read_field(small.field)
    field.save(f"{url}/field.zarr")
    sd.run(
        sd.open_cells(tmp_path / "cells.zarr", **CELLS), field, tmp_path / "calm.zarr", workers=0, **OPTIONS
    )
    yield Bucket(proxy, url, tmp_path / "calm.zarr")
    proxy.close()


def command(bucket: Bucket, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "stabdask.cli.main", "run", f"{bucket.url}/cells.zarr", "--field",
        f"{bucket.url}/field.zarr", "--layer", "M_t", "--cluster-key", "state", "--embedding", "X_umap", "--store",
        bucket.store, "--partition-cells", "50", "--elements", "g00:g01,g05:g05", "--no-dashboard", *more,
    ]  # fmt: skip


def test_everything_from_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    assert bucket.run(workers=2, dashboard=False).complete
    bucket.assert_as_on_disk()
    assert sd.verify(bucket.store, n_cells=2).ok
    results = sd.open_results(bucket.store)
    assert results.drop_attrs().identical(sd.open_results(bucket.calm).drop_attrs())
    run = [sys.executable, "-m", "stabdask.cli.main"]

    def say(*arguments: str) -> str:
        return subprocess.run([*run, *arguments], check=True, capture_output=True, text=True).stdout

    assert json.loads(say("status", bucket.store, "--json"))["complete"]
    assert say("summary", bucket.store) == say("summary", str(bucket.calm))
    say("report", bucket.store, "-o", str(tmp_path / "report.html"))
    assert "<h1>out.zarr</h1>" in (tmp_path / "report.html").read_text()
    say("export", bucket.store, "-o", str(tmp_path / "cells.csv"))
    say("export", str(bucket.calm), "-o", str(tmp_path / "calm.csv"))
    assert (tmp_path / "cells.csv").read_bytes() == (tmp_path / "calm.csv").read_bytes()
    done = say(
        "export", bucket.store, "--atlas", str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "new.h5ad")
    )
    assert "230 of 230 cells" in done
    assert anndata.read_h5ad(tmp_path / "new.h5ad").uns["stability_run"]["store"] == bucket.store
    assert "fingerprint" in say("field", "show", f"{bucket.url}/field.zarr")
    say("field", "convert", str(tmp_path / "field.zarr"), f"{bucket.url}/again.zarr")
    assert objects_of(f"{bucket.url}/again.zarr") == files_of(tmp_path / "field.zarr")
    # Neither key nor secret are anywhere in the store, the report, the tables.
    for data in (*objects_of(bucket.store).values(), (tmp_path / "report.html").read_bytes()):
        assert not any(secret in data for secret in SECRETS)


def test_pages_of_a_list(bucket: Bucket) -> None:
    folder = place_of(f"{bucket.url}/many")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: (folder / f"{n:08d}.json").write(b"%d" % n), range(1100)))
    bucket.proxy.requests.clear()
    names = folder.names()
    assert len(names) == 1100
    assert bucket.proxy.counts() == {"LIST": 2}
    assert [int(data) for data in folder.read_many(names)] == list(range(1100))


def test_killed_and_resumed(bucket: Bucket) -> None:
    """Kill the client in the middle; on the same machine its lock is known to be nobody's at once."""
    bucket.proxy.latency_s = 0.02
    process = subprocess.Popen(
        command(bucket, "--workers", "0"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        "PUT" in r and "/00000001.json" in r for r in bucket.proxy.requests
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    bucket.proxy.calm()
    done = sd.status(bucket.store).n_partitions_done
    assert 1 <= done < 5
    assert (place_of(bucket.store) / "receipts" / "lock").exists()
    assert not sd.status(bucket.store).running
    assert bucket.run().n_partitions_computed == 5 - done
    bucket.assert_as_on_disk()


def test_killed_while_the_store_was_being_made(bucket: Bucket) -> None:
    process = subprocess.Popen(
        command(bucket, "--workers", "0"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    bucket.proxy.fail(r"PUT /[^/]+/out.zarr/zarr.json", "hang", times=9, seconds=5.0)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not bucket.proxy.faults[0].n_hit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(MissingFileError, match="no store at"):
        sd.status(bucket.store)
    bucket.proxy.calm()
    assert bucket.run().n_partitions_computed == 5
    bucket.assert_as_on_disk()


def test_two_runs_at_once(bucket: Bucket) -> None:
    bucket.run(partitions=[0])
    with leases.held(place_of(bucket.store) / "receipts" / "lock", "writing to it"):
        assert sd.status(bucket.store).running
        done = subprocess.run(command(bucket, "--workers", "0"), capture_output=True, text=True, check=False)
        assert done.returncode == 5
        assert f"another run (process {os.getpid()} on " in done.stderr
        assert "its last sign of life was" in done.stderr
        with pytest.raises(StoreLockedError):
            bucket.run()
    assert not sd.status(bucket.store).running
    assert bucket.run().n_partitions_computed == 4


@pytest.mark.parametrize("what", ["500 InternalError", "503 SlowDown", "drop", "lose"])
def test_every_fourth_request_fails(bucket: Bucket, what: str) -> None:
    """Requests are asked again; the answer to a PUT that is lost was carried out all the same."""
    original, n_asked = bucket.proxy._noted, itertools.count()

    def every_fourth(request: str):
        fault = original(request)
        if next(n_asked) % 4 == 3:
            return bucket.proxy.fail("^$", what)
        return fault

    bucket.proxy._noted = every_fourth
    assert bucket.run().complete
    bucket.assert_as_on_disk()
    assert sd.verify(bucket.store, n_cells=1).ok


def test_a_slow_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request never gets an answer within the limit, all others take a while."""
    monkeypatch.setattr(bucket_client, "_REQUEST_S", 1.0)
    bucket_client._client.cache_clear()
    bucket.proxy.latency_s = 0.05
    hung = bucket.proxy.fail(r"PUT .*/trace/c/1", "hang", seconds=3.0)
    read = bucket.proxy.fail(r"GET .*/layers/M_t/0", "hang", seconds=3.0)
    assert bucket.run().complete
    assert hung.n_hit == read.n_hit == 1
    bucket.proxy.calm()
    bucket.assert_as_on_disk()


def test_a_chunk_that_cannot_be_written(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABDASK_S3_RETRY_S", "1")
    fault = bucket.proxy.fail(r"PUT .*/trace/c/2", "503 SlowDown", times=10_000)
    with pytest.raises(UnreachableOutputError) as caught:
        bucket.run()
    assert fault.n_hit > 2
    for part in (f"cannot write {bucket.store}/trace/c/2", "503 SlowDown", "what is finished is kept"):
        assert part in str(caught.value)
    assert isinstance(caught.value, OutputError)
    assert sd.status(bucket.store).n_partitions_done == 2
    assert not sd.status(bucket.store).running
    # On a cluster the partition is tried again, and in the end is what is missing.
    with pytest.raises(RunFailedError, match="1 partition failed, number 2 with UnreachableOutputError"):
        bucket.run(workers=1, dashboard=False)
    assert sd.status(bucket.store).n_partitions_done == 4
    bucket.proxy.calm()
    assert bucket.run().n_partitions_computed == 1
    bucket.assert_as_on_disk()


def test_a_chunk_that_cannot_be_read_is_not_taken_for_zeros(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABDASK_S3_RETRY_S", "1")
    bucket.run(partitions=[0])
    bucket.proxy.fail(r"GET .*/cells.zarr/layers/M_t/0", "drop", times=10_000)
    with pytest.raises(UnreachableInputError, match=r"cannot read .*/cells.zarr/layers/M_t/0"):
        bucket.run()
    bucket.proxy.calm()
    bucket.proxy.fail(r"GET .*/cells.zarr/layers/M_t/0", "403 AccessDenied", times=10_000)
    with pytest.raises(InputError, match=r"was refused \(403 AccessDenied\); check AWS_ACCESS_KEY_ID"):
        bucket.run()
    bucket.proxy.calm()
    assert bucket.run().complete
    bucket.assert_as_on_disk()


def test_a_bucket_that_does_not_answer_is_not_taken_for_damage(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.run()
    monkeypatch.setenv("STABDASK_S3_RETRY_S", "0.5")
    for part in ("trace/c/2", "field/weights/0/c/0/0", "degradation/c/0/0", "annotation_0/c/0/0"):
        bucket.proxy.calm()
        bucket.proxy.fail(f"GET .*/out.zarr/{part}", "503 SlowDown", times=10_000)
        with pytest.raises(UnreachableInputError, match=f"cannot read .*/out.zarr/{part}"):
            sd.verify(bucket.store, n_cells=0)
    bucket.proxy.calm()
    assert sd.verify(bucket.store, n_cells=0).ok


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("403 InvalidAccessKeyId", r"was refused \(403 InvalidAccessKeyId\); check AWS_ACCESS_KEY_ID"),
        ("403 SignatureDoesNotMatch", r"was refused \(403 SignatureDoesNotMatch\)"),
        ("400 ExpiredToken", r"was refused \(400 ExpiredToken\); check AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials(bucket: Bucket, what: str, says: str) -> None:
    bucket.proxy.fail("", what, times=10_000)
    for opening in (sd.status, sd.open_results, sd.read_field, sd.open_cells, sd.verify):
        with pytest.raises((InputError, OutputError), match=says) as caught:
            opening(bucket.store)
        assert not any(secret.decode() in str(caught.value) for secret in SECRETS)
    with pytest.raises((InputError, OutputError), match=says):
        bucket.run()


def test_missing_buckets_and_misspelt_names(bucket: Bucket, small) -> None:
    for opening in (sd.status, sd.open_results, sd.read_field, sd.open_cells):
        with pytest.raises(
            InputError, match=r"there is no bucket 'nowhere' at 127.0.0.1:\d+; check its name"
        ):
            opening("s3://nowhere/out.zarr")
    with pytest.raises((InputError, OutputError), match="there is no bucket 'nowhere'"):
        sd.read_field(small.field).save("s3://nowhere/field.zarr")
    with pytest.raises(MissingFileError, match=r"no atlas at .*/cell.zarr; did you mean 'cells.zarr'"):
        sd.open_cells(f"{bucket.url}/cell.zarr")
    with pytest.raises(StoreMismatchError, match="is not a stabdask store"):
        sd.status(f"{bucket.url}/cells.zarr")


def test_no_server_at_all(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABDASK_S3_RETRY_S", "0.5")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:PASSWORD@127.0.0.1:1")
    bucket_client._client.cache_clear()
    with pytest.raises(UnreachableInputError, match=r"at 127\.0\.0\.1:1: ") as caught:
        sd.status(bucket.store)
    assert "PASSWORD" not in str(caught.value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    bucket_client._client.cache_clear()
    with pytest.raises(InputError, match="set AWS_ALLOW_HTTP=true"):
        sd.status(bucket.store)


def test_requests_per_partition(bucket: Bucket) -> None:
    """A partition takes a PUT for each chunk and for its receipt, and little else."""
    bucket.run(partitions=[0])
    before = len(objects_of(bucket.store))
    bucket.proxy.requests.clear()
    cells = sd.open_cells(f"{bucket.url}/cells.zarr", **CELLS)
    field = sd.read_field(f"{bucket.url}/field.zarr")
    n_opening = len(bucket.proxy.requests)
    bucket.run(partitions=[1])
    one = len(bucket.proxy.requests) - 2 * n_opening
    bucket.proxy.requests.clear()
    sd.run(cells, field, bucket.store, workers=0, **OPTIONS)
    three = len(bucket.proxy.requests)
    n_chunks = (len(objects_of(bucket.store)) - before) // 4
    puts = bucket.proxy.counts()["PUT"]
    assert puts == 3 * (n_chunks + 1) + 1  # the last is the lock
    assert (three - one) / 2 <= n_chunks + 1 + 10
