"""What a plan says of a run before it starts, against the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stabdask as sd
from stabdask.runs import estimates
from stabdask.runs.estimates import rehearse
from stabdask.runs.job import Job, prepare


def simulated(tmp_path: Path, **options: Any) -> Job:
    atlas = sd.simulate_atlas(tmp_path, n_cells=1100, n_genes=300, n_regulators=40, zero_fraction=0.4)
    cells = sd.open_cells(atlas.cells, layer=atlas.layer, cluster_key=atlas.cluster_key)
    return prepare(cells, sd.read_field(atlas.field), **options)


@pytest.mark.parametrize("quantities", [["default"], ["default", "drivers", "reactivity"]])
def test_the_size_of_the_store(tmp_path: Path, quantities: list[str]) -> None:
    job = simulated(tmp_path, quantities=quantities, partition_cells=512)
    plan = sd.plan(job.cells, job.field, quantities=quantities, partition_cells=512)
    store = tmp_path / "out.zarr"
    sd.run(job.cells, job.field, store, quantities=quantities, partition_cells=512, workers=0, progress=False)
    chunks = sum(
        path.stat().st_size
        for name in job.spec.options.variables()
        for path in (store / name).rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    assert plan.stored_bytes is not None
    assert 0.8 * chunks < plan.stored_bytes < 1.2 * chunks
    assert plan.stored_bytes < plan.output_bytes
    assert abs(plan.n_files - sum(path.is_file() for path in store.rglob("*"))) < 40


def test_more_cells_until_it_takes_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = simulated(tmp_path)
    sizes: list[int] = []
    original = estimates._compute

    def counted(job: Job, rows: np.ndarray) -> Any:
        sizes.append(len(rows))
        assert rows.max() < len(job.sample.rows)
        return original(job, rows)

    monkeypatch.setattr(estimates, "_compute", counted)
    monkeypatch.setattr(estimates, "_LONG_ENOUGH_S", math.inf)
    found = rehearse(job)
    # One to warm up, ever more up to a block, and what is compressed: cells that all differ.
    assert sizes[0] == sizes[1] == 8
    assert sizes[1:-1] == sorted(sizes[1:-1])
    assert len(sizes) > 4
    assert sizes[-2] == job.spec.block_cells
    assert sizes[-1] == min(job.spec.block_cells, len(job.sample.rows))
    assert found.compute_s > 0
    assert found.write_s > 0
    assert found.read_s > 0
    assert found.seconds == pytest.approx(found.compute_s + found.write_s + found.read_s)
    sizes.clear()
    monkeypatch.setattr(estimates, "_LONG_ENOUGH_S", 0.0)
    rehearse(job)
    assert len(sizes) == 3


def test_a_run_solves_nothing_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = simulated(tmp_path)
    monkeypatch.setattr("stabdask.runs.plan.rehearse", lambda *_, **__: pytest.fail("nothing is to be timed"))
    sd.run(job.cells, job.field, tmp_path / "out.zarr", workers=0, progress=False)
