"""How cells are cut into blocks and partitions: what must hold for any input, and that results do not hang on it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_atlas import random_atlas

import stabdask as sd
from stabdask.runs import estimates, partition, sizing
from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options
from stabdask.runs.sizing import block_and_partition, task_bytes

FIELD = random_atlas(0).field


def expression(n_cells: int, chunk: int, n_genes: int = 100) -> da.Array:
    return da.zeros((n_cells, n_genes), chunks=(chunk, -1), dtype=np.float32)


@given(st.integers(1, 200_000), st.integers(1, 10_000), st.sampled_from([None, 1, 77, 5_000]), st.booleans())
def test_blocks_fit_partitions_and_both_fit_memory(
    n_cells: int, chunk: int, asked: int | None, vectors: bool
) -> None:
    options = make_options(FIELD, vectors="both" if vectors else "none")
    chunk = max(chunk, n_cells // 2_000)  # so that the graph stays small
    input_ = expression(n_cells, chunk)
    block, cells = block_and_partition(input_, FIELD, options, asked)
    assert 1 <= block <= max(cells, chunk)
    out = sizing.output_bytes(FIELD, options)
    working = out + FIELD.cell_bytes(4)
    assert block == 1 or block * working <= sizing._BLOCK_BYTES
    assert asked is not None or cells * out <= sizing._PARTITION_BYTES or cells == 1
    if asked is None and len(input_.chunks[0]) > 1 and cells % chunk == 0 and block > chunk:
        # Whole chunks, and at least two blocks, so that one is read while the other is worked on.
        assert block % chunk == 0
        assert cells >= 2 * block
    assert task_bytes(input_, FIELD, options, cells, block) >= block * working


def test_blocks_of_a_large_atlas_join_chunks() -> None:
    assert block_and_partition(expression(200_000, 1_000), FIELD, make_options(FIELD), None) == (2_000, 4_000)


def test_how_chunks_are_joined_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(3, n_cells=150, unlabelled=(3,), broken=(17,))
    seen: list[list[int]] = []
    original = partition.compute_block

    def counted(pieces, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append([len(piece) for piece in pieces])
        return original(pieces, *args, **kwargs)

    monkeypatch.setattr(partition, "compute_block", counted)
    results = []
    for block_cells in (150, 8, 64, 7):
        store = tmp_path / f"{block_cells}.zarr"
        sd.run(atlas.cells(block_cells=block_cells), atlas.field, store, workers=0, progress=False)
        results.append(sd.open_results(store).load())
    assert max(len(pieces) for pieces in seen) > 1
    for other in results[1:]:
        for name in results[0].data_vars:
            np.testing.assert_allclose(results[0][name], other[name], rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(results[0]["eigenvalue"], other["eigenvalue"])


def test_the_time_is_estimated_on_no_more_cells_than_a_task_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(6, n_cells=60)
    seen: list[int] = []
    compute = estimates._compute

    def counted(job: Any, rows: Any) -> Any:
        seen.append(len(rows))
        return compute(job, rows)

    monkeypatch.setattr(estimates, "_compute", counted)
    made = sd.plan(atlas.cells(block_cells=60), atlas.field, partition_cells=4, workers=1)
    assert made.block_cells == 4
    assert set(seen) == {4}


def test_what_the_path_of_cells_takes_is_planned(tmp_path: Path) -> None:
    block = 3000
    atlas = sd.simulate_atlas(tmp_path, n_cells=block, n_genes=1200, n_regulators=30)
    field = sd.read_field(atlas.field)
    x = sd.open_cells(atlas.cells, layer=atlas.layer, cluster_key=atlas.cluster_key)["expression"].data
    expression = x.compute()

    def measure(quantity: str) -> tuple[int, int]:
        """Return the most that a block takes beside its results, and what is planned for it."""
        options = make_options(field, spectrum="none", quantities=[quantity])
        tracemalloc.start()
        out = compute_block(expression, np.zeros(block, dtype=int), field, options)
        peak = tracemalloc.get_traced_memory()[1] - sum(values.nbytes for values in out.values())
        tracemalloc.stop()
        results = int(block * 2.5 * sizing.output_bytes(field, options))
        return peak, task_bytes(x, field, options, block, block) - results

    assert measure("speed")[0] < measure("speed")[1]
    for quantity in ("velocity", "acceleration", "acceleration_norm", "curvature", "curvature_norm"):
        peak, planned = measure(quantity)
        assert peak <= planned <= 6 * peak, quantity
