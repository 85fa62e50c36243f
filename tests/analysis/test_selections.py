"""Results of which a part was selected: what makes sense goes on, what would mislead is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from random_atlas import random_atlas
from small_atlas import Small
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import InputError, StabdaskWarning


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    atlas = random_atlas(3, n_cells=40)
    made = sd.stability(atlas.cells(), atlas.field, quantities=["default", "drivers"]).compute()
    return made.assign_coords(batch=("cell", np.resize(["x", "y"], 40).astype(object)))


def test_cells_may_be_selected(ds: xr.Dataset) -> None:
    part = ds.isel(cell=slice(4, 20))
    assert int(sd.summarize(part)["n_cells"].sum()) == 16
    np.testing.assert_array_equal(sd.complete_spectrum(part), sd.complete_spectrum(ds)[4:20])
    with pytest.raises(
        InputError, match=r"cells of the results were selected \(16 of 40\), and drivers are means"
    ):
        sd.driver_genes(part, "A")


@pytest.mark.parametrize("dim", ["mode", "gene"])
def test_half_a_spectrum_is_not_completed(ds: xr.Dataset, dim: str) -> None:
    for function in (sd.complete_spectrum, sd.extremes):
        with pytest.raises(InputError, match=f"{dim}s of the results were selected \\(2 of"):
            function(ds.isel({dim: slice(0, 2)}))


def test_selected_clusters_are_refused_whatever_the_label(ds: xr.Dataset) -> None:
    one = ds.sel(cluster="B")
    for by in ("cluster", "batch"):
        with pytest.raises(InputError, match="clusters of the results were selected"):
            sd.summarize(one, by=by)
    with pytest.raises(InputError, match="clusters of the results were selected"):
        sd.pl.boxplot(one, by="batch")


def test_one_cell_keeps_its_dimension(ds: xr.Dataset) -> None:
    one = ds.isel(cell=5)
    for function in (sd.summarize, sd.extremes, sd.complete_spectrum):
        with pytest.raises(InputError, match=r"use e.g. isel\(cell=\[5\]\)"):
            function(one)
    assert int(sd.summarize(ds.isel(cell=[5]))["n_cells"].sum()) == 1


def test_an_atlas_given_twice_is_noticed(small: Small) -> None:
    with pytest.warns(StabdaskWarning, match="230 cells have names that other cells have too"):
        sd.open_cells([small.atlas, small.atlas], layer="M_t", cluster_key="state")


def test_a_dry_run_looks_at_the_store(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "out.zarr"
    command = [
        "run", str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state",
        "--store", str(store), "--workers", "0", "--quiet", "--partition-cells", "100",
    ]  # fmt: skip
    assert main([*command, "--dry-run"]) == 0
    assert "would be made" in capsys.readouterr().err
    assert not store.exists()
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["n_partitions"] == 3
    assert "has 3 of these partitions already" in said.err
    assert main([*command, "--dry-run", "--quantities", "default,reactivity"]) == 5
    assert "--quantities: 'reactivity' here alone" in capsys.readouterr().err


@pytest.mark.parametrize("lifted", [True, False])
def test_edges_keep_their_names_or_are_refused(lifted: bool) -> None:
    case = small_rkhs(31, lifted=lifted)
    ds = sd.stability(case.cells(), case.field, quantities=["drivers"]).compute()
    parts: list[dict[str, Any]] = [{"regulator": [1, 2]}, {"axis": [1, 0, 2, 3]}, {"axis": slice(0, 3)}]
    parts += [{"gene": [1, 2]}] if lifted else []
    for part in parts:
        with pytest.raises(InputError, match="selected or reordered, and edges need both whole"):
            sd.driver_edges(ds.isel(part), "kind 0")


def test_edges_of_a_network_keep_their_names_or_are_refused(ds: xr.Dataset) -> None:
    whole = sd.driver_edges(ds, "A", top=3)
    for part in ({"core_effector": slice(1, None)}, {"regulator": slice(1, None)}):
        with pytest.raises(
            InputError, match="core_effector and regulator of the results are no longer the same"
        ):
            sd.driver_edges(ds.isel(part), "A")
    assert sd.driver_edges(ds.isel(gene=slice(0, 2)), "A", top=3).equals(whole)


def test_one_cluster_without_its_dimension_is_not_ranked() -> None:
    case = small_rkhs(32)
    asked: dict[str, Any] = {"effectors": ["g01", "g02"], "regulators": ["g01"]}
    ds = sd.stability(case.cells(), case.field, quantities=["jacobian_mean"], **asked).compute()
    with pytest.raises(InputError, match=r"isel\(cluster=\[0\]\)"):
        sd.rank_elements(ds.isel(cluster=0), "kind 0")
    assert sd.rank_elements(ds.isel(cluster=[1, 0]), "kind 0").equals(sd.rank_elements(ds, "kind 0"))
