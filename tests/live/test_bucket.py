"""The live page of a run into a bucket: receipts and results come through the same places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import environment, make_bucket, moto_server
from small_atlas import make_small

import stabdask as sd
from stabdask.files import bucket_client
from stabdask.live.reading import StoreReader
from stabdask.live.told import Told
from stabdask.runs.store import read_spec

pytest.importorskip("obstore")
pytestmark = pytest.mark.s3


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with moto_server() as port:
        for name, value in environment(f"http://127.0.0.1:{port}").items():
            monkeypatch.setenv(name, value)
        bucket_client._client.cache_clear()
        make_bucket(port, "live")
        yield "s3://live/out.zarr"
    bucket_client._client.cache_clear()


def test_numbers_of_a_run_in_a_bucket(url: str, tmp_path: Path) -> None:
    small = make_small(tmp_path)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    how = {"workers": 0, "progress": False, "partition_cells": 50, "vectors": "right"}
    sd.run(cells, sd.read_field(small.field), url, partitions=[1], **how)
    spec = read_spec(url)
    told = Told("t", url, spec.fingerprint, 230, 5, 0, 230, "running", {}, None)
    reader = StoreReader(told)
    assert reader.in_bucket
    (first,) = reader.looks()
    assert (first.visible, first.n_cells_done, first.n_residuals > 0) == (True, 50, True)
    sd.run(cells, sd.read_field(small.field), url, **how)
    *_, second = reader.looks()
    assert second.n_cells_done == sum(row.n_values for row in second.clusters) == 230
    gone = StoreReader(
        Told("t", "s3://live/other.zarr", spec.fingerprint, 230, 5, 0, 230, "running", {}, None)
    )
    *_, missing = gone.looks()
    assert missing.visible is False
    assert "SECRET" not in str(missing.problems)
