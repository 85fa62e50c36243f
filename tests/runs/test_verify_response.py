"""`verify` recomputes responses by dense inverses: right ones pass however ill-conditioned, wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from random_atlas import planted, random_atlas
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.runs.receipts import Receipt, write_receipt
from stabdask.runs.store import array_checksum, read_spec, region
from stabdask.schema import Status


def write_wrong(store: Path, name: str, place: Any, value: Any, partition: int) -> None:
    """Overwrite a value, and the checksum of its partition, so that nothing but its meaning is wrong."""
    spec, group = read_spec(store), zarr.open_group(str(store), mode="r+")
    array = group[name][...]
    array[place] = value
    rows = region(spec, name, partition)
    group[name][rows] = array[rows]
    path = store / "receipts" / f"{partition:08d}.json"
    receipt = json.loads(path.read_bytes())
    receipt["checksums"][name] = array_checksum(array[rows])
    write_receipt(store, Receipt.from_json(json.dumps(receipt).encode()))


def run(cells: Any, field: Any, store: Path, quantities: list[str], **options: Any) -> None:
    genes = field.genes.tolist()
    asked: dict[str, Any] = {"effectors": genes, "regulators": genes[:2], "spectrum": "none", **options}
    quantities = ["default", *quantities]
    sd.run(cells, field, store, workers=0, progress=False, partition_cells=8, quantities=quantities, **asked)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_flipped_response_is_found(dtype: str, tmp_path: Path) -> None:
    atlas, store = random_atlas(4, n_cells=20, broken=(2,)), tmp_path / "out.zarr"
    run(atlas.cells(), atlas.field, store, ["response", "response_mean"], dtype=dtype)
    report = sd.verify(store, cells=atlas.cells(), n_cells=20)
    assert report.ok
    assert (report.n_cells_checked, report.n_responses) == (19, 19)
    assert report.worst_response_error < report.limit
    assert "responses of 19 of them against dense inverses: within" in str(report)
    right = zarr.open_group(str(store))["response"][...]
    write_wrong(store, "response", (11, 3, 1), -right[11, 3, 1] + 1e-2, 1)
    report = sd.verify(store, cells=atlas.cells(), n_cells=20)
    assert not report.damaged
    assert report.wrong_cells == [str(atlas.cells()["cell"].values[11])]
    assert report.worst_response_error > 1e-3
    # The sums are those of what the responses were.
    assert report.wrong_sums == [1]
    assert "sums of responses are not those of the cells in partitions 1" in str(report)
    assert not report.ok
    write_wrong(store, "response", (11, 3, 1), np.nan, 1)
    assert len(sd.verify(store, cells=atlas.cells(), n_cells=20).wrong_cells) == 1
    write_wrong(store, "response", (11, 3, 1), right[11, 3, 1], 1)
    assert sd.verify(store, cells=atlas.cells(), n_cells=20).ok


@pytest.mark.parametrize("quantities", [["response", "response_mean"], ["response_mean"]])
def test_wrong_sums_are_found(quantities: list[str], tmp_path: Path) -> None:
    atlas, store = random_atlas(4, n_cells=20, broken=(2,)), tmp_path / "out.zarr"
    run(atlas.cells(), atlas.field, store, quantities)
    report = sd.verify(store, cells=atlas.cells(), n_cells=20)
    assert report.ok
    assert report.n_responses == (19 if len(quantities) == 2 else 0)
    group = zarr.open_group(str(store))
    sums, counts = group["response_sum"][...], group["response_cells"][...]
    write_wrong(store, "response_sum", (2, 1, 0, 1), sums[2, 1, 0, 1] + 1e-3, 2)
    found = sd.verify(store, cells=atlas.cells(), n_cells=20).wrong_sums
    assert found == ([2] if len(quantities) == 2 else [])
    write_wrong(store, "response_sum", (2, 1, 0, 1), sums[2, 1, 0, 1], 2)
    write_wrong(store, "response_cells", (0, 0), counts[0, 0] + 1, 0)
    assert sd.verify(store, cells=atlas.cells(), n_cells=20).wrong_sums == [0]


def test_ill_conditioned_cells_are_no_false_alarm(tmp_path: Path) -> None:
    """Fewer digits hold where J is nearly singular; where fewer than three do, nothing is compared."""
    for gap, compared in ((1e-9, 1), (1e-13, 0)):
        field, x = planted(
            np.array([[-1.0, 1.0, 0.0], [1.0, -1.0 - gap, 0.0], [0.3, 0.1, -1e-4]]), gamma=1e-4
        )
        adata = anndata.AnnData(x)
        adata.var_names = field.genes.tolist()
        store = tmp_path / f"{gap}.zarr"
        run(sd.open_cells(adata), field, store, ["response"])
        status = int(zarr.open_group(str(store))["response_status"][0])
        assert status == (Status.OK if compared else Status.INACCURATE)
        report = sd.verify(store, cells=sd.open_cells(adata))
        assert report.ok
        assert report.n_responses == compared
        if compared:
            # The third gene, which decays slowly, moves most.
            right = zarr.open_group(str(store))["response"][0, 2, 0]
            write_wrong(store, "response", (0, 2, 0), right * 1.001, 0)
            assert sd.verify(store, cells=sd.open_cells(adata)).wrong_cells


@pytest.mark.parametrize("basis", ["pca", None])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fields_over_axes(basis: str | None, dtype: str, tmp_path: Path) -> None:
    case, store = small_rkhs(3, basis=basis, n_cells=12), tmp_path / "out.zarr"
    run(case.cells(), case.field, store, ["response", "response_mean"], dtype=dtype)
    report = sd.verify(store, cells=case.cells(), n_cells=12)
    assert report.ok
    assert report.n_responses == int((zarr.open_group(str(store))["response_status"][...] == 0).sum()) > 0
    size = np.abs(zarr.open_group(str(store))["response"][5]).max()
    write_wrong(store, "response", (5, 0, 0), 3.0 * size, 0)
    assert len(sd.verify(store, cells=case.cells(), n_cells=12).wrong_cells) == 1
