"""Results back into an AnnData: matched by name, nothing lost, nothing invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from random_atlas import RandomAtlas, count_blocks, random_atlas

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning
from stabdask.kernels.eig import BACKENDS
from stabdask.schema import SCALARS, VARIABLES

USUAL = [name for name in SCALARS if not VARIABLES[name].on_request]
COUNTS = [name for name in SCALARS if VARIABLES[name].kind == "count"]
PAIRS = [("gene1", "gene0"), ("gene4", "gene4")]


@pytest.fixture(scope="module")
def atlas() -> RandomAtlas:
    return random_atlas(5, n_cells=20)


@pytest.fixture(scope="module")
def ds(atlas: RandomAtlas) -> xr.Dataset:
    return sd.stability(atlas.cells(), atlas.field, elements=PAIRS, vectors="right").compute()


def blank(names: Any) -> anndata.AnnData:
    return anndata.AnnData(obs=pd.DataFrame({"own": "kept"}, index=list(names)))


def check(adata: anndata.AnnData, ds: xr.Dataset, prefix: str = "stability_") -> None:
    """Compare every column with the result of the cell of that name, one cell at a time."""
    known = {str(name): position for position, name in enumerate(ds["cell"].values)}
    for name in (*USUAL, "status", *(f"element_{i}:{j}" for i, j in PAIRS)):
        column = adata.obs[prefix + name].to_numpy()
        if name.startswith("element_"):
            source = ds["element"].values[:, list(ds["pair"].values).index(name.removeprefix("element_"))]
        else:
            source = ds[name].values
        for cell, value in zip(adata.obs_names, column, strict=True):
            if cell in known and not (name in COUNTS and source[known[cell]] < 0):
                assert value == source[known[cell]] or (value != value and name != "status"), (cell, name)
                assert (value != value) == (source[known[cell]] != source[known[cell]])
            else:
                assert value == 255 if name == "status" else np.isnan(value), (cell, name)


@pytest.mark.parametrize("order", ["same", "reversed", "shuffled", "subset", "superset", "overlap"])
def test_cells_are_matched_by_name(ds: xr.Dataset, order: str) -> None:
    names = ds["cell"].values.tolist()
    wanted = {
        "same": names,
        "reversed": names[::-1],
        "shuffled": np.random.default_rng(0).permutation(names).tolist(),
        "subset": names[13:4:-2],
        "superset": ["new0", *names[::-1], "new1"],
        "overlap": [*names[15:], "new0", "new1", "new2"],
    }[order]
    adata = blank(wanted)
    assert sd.to_anndata(ds, adata) is adata
    check(adata, ds)
    assert adata.obs["own"].tolist() == ["kept"] * len(wanted)
    assert not adata.obsm
    complete = order in ("same", "reversed", "shuffled", "subset")
    for name in COUNTS:
        assert adata.obs[f"stability_{name}"].dtype == (np.int32 if complete else np.float64)
    assert adata.obs["stability_status"].dtype == np.uint8


def test_failed_cells_are_nan_and_keep_their_status() -> None:
    atlas = random_atlas(5, n_cells=12, unlabelled=[2], broken=[4, 7])
    ds = sd.stability(atlas.cells(), atlas.field, elements=PAIRS, vectors="right").compute()
    assert ds["unstable_count"].values[[2, 4, 7]].tolist() == [-1, -1, -1]
    adata = sd.to_anndata(ds, atlas.adata())
    check(adata, ds)
    assert adata.obs["stability_status"].to_numpy()[[2, 4, 7]].tolist() == [3, 3, 3]
    for name in USUAL:
        assert np.isnan(adata.obs[f"stability_{name}"].to_numpy()[[2, 4, 7]]).all(), name


def test_prefix_and_eigenvalues(ds: xr.Dataset) -> None:
    adata = blank([*ds["cell"].values[::-1], "new"])
    sd.to_anndata(ds, adata, prefix="x/", eigenvalues=True)
    check(adata, ds, prefix="x/")
    assert all(key == "own" or key.startswith("x/") for key in adata.obs)
    assert list(adata.obsm) == ["x/eigenvalue"]
    assert list(adata.uns) == ["x/run"]
    values = adata.obsm["x/eigenvalue"]
    assert values.dtype == np.complex128
    np.testing.assert_array_equal(values[:-1], ds["eigenvalue"].values[::-1])
    assert np.isnan(values[-1]).all()


def test_eigenvalues_that_are_not_there(atlas: RandomAtlas) -> None:
    ds = sd.stability(atlas.cells(), atlas.field, spectrum="none")
    adata = blank(ds["cell"].values)
    with pytest.raises(MissingKeyError, match="hold no eigenvalues; run with spectrum='full' or 'leading'"):
        sd.to_anndata(ds, adata, eigenvalues=True)
    assert list(adata.obs) == ["own"]
    sd.to_anndata(ds, adata)
    assert set(adata.obs) == {"own"} | {
        f"stability_{name}" for name in ("trace", "rotational_norm", "speed", "near_switch_count", "status")
    }


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:.*autosharding", "ignore:.*Consolidated metadata")
def test_what_was_written_reads_back(ds: xr.Dataset, tmp_path: Path, form: str) -> None:
    adata = blank([*ds["cell"].values[::-1], "new"])
    sd.to_anndata(ds, adata, eigenvalues=True)
    path = tmp_path / f"out.{form}"
    if form == "h5ad":
        adata.write_h5ad(path)
        back = anndata.read_h5ad(path)
    else:
        with anndata.settings.override(zarr_write_format=3):
            adata.write_zarr(path)
        back = anndata.read_zarr(path)
    check(back, ds)
    np.testing.assert_array_equal(
        back.obsm["stability_eigenvalue"], adata.obsm["stability_eigenvalue"], strict=True
    )
    assert dict(back.uns["stability_run"]) == adata.uns["stability_run"]


def test_what_made_them_is_noted(atlas: RandomAtlas, tmp_path: Path) -> None:
    made = {"field": atlas.field.fingerprint, "dtype": "float32", "backend": BACKENDS[0]}
    ds = sd.stability(atlas.cells(), atlas.field, dtype="float32")
    record = sd.to_anndata(ds, atlas.adata()).uns["stability_run"]
    assert made.items() <= record.items()
    assert record["fingerprint"] == ds.attrs["fingerprint"]
    assert record["store"] == ""
    assert json.loads(record["options"]) == ds.attrs["run"]["options"]
    report = sd.run(
        atlas.cells(), atlas.field, tmp_path / "out.zarr", dtype="float32", workers=0, progress=False
    )
    stored = sd.open_results(tmp_path / "out.zarr")
    adata = sd.to_anndata(stored, atlas.adata())
    record = adata.uns["stability_run"]
    assert made.items() <= record.items()
    assert record["fingerprint"] == report.fingerprint == ds.attrs["fingerprint"]
    assert record["store"] == str(tmp_path / "out.zarr")
    assert json.loads(record["versions"]) == stored.attrs["versions"]
    columns = [name for name in adata.obs if name.startswith("stability_")]
    assert json.loads(record["keys"]) == {"obs": columns, "obsm": []}


def test_chosen_quantities_and_elements(ds: xr.Dataset, atlas: RandomAtlas) -> None:
    adata = sd.to_anndata(ds, atlas.adata(), quantities=["trace", "speed"], elements=PAIRS[1:])
    names = [name for name in adata.obs if name.startswith("stability_")]
    assert names == [
        "stability_trace",
        "stability_speed",
        "stability_status",
        "stability_element_gene4:gene4",
    ]
    np.testing.assert_array_equal(adata.obs["stability_element_gene4:gene4"], ds["element"].values[:, 1])
    assert list(sd.to_anndata(ds, blank(ds["cell"].values), quantities=[], elements=[]).obs) == [
        "own",
        "stability_status",
    ]
    with pytest.raises(MissingKeyError, match="no quantity 'sped' in the results; did you mean 'speed'"):
        sd.to_anndata(ds, atlas.adata(), quantities=["sped"])
    with pytest.raises(MissingKeyError, match="no element 'gene0:gene1' in the results"):
        sd.to_anndata(ds, atlas.adata(), elements=[("gene0", "gene1")])


def test_slashes_in_gene_names(ds: xr.Dataset) -> None:
    """No key of an AnnData file may hold a slash."""
    named = ds.assign_coords(pair=np.array(["a/b:../x", "a_b:.._x"], dtype=object))
    adata = sd.to_anndata(named.isel(pair=[0]), blank(ds["cell"].values))
    np.testing.assert_array_equal(adata.obs["stability_element_a_b:.._x"], ds["element"].values[:, 0])
    with pytest.raises(InputError, match="two elements would both be called 'element_a_b:"):
        sd.to_anndata(named, blank(ds["cell"].values))


def test_a_lazy_dataset_is_computed_once(atlas: RandomAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_blocks(monkeypatch)
    ds = sd.stability(atlas.cells(block_cells=5), atlas.field, elements=PAIRS, vectors="right")
    assert not computed
    sd.to_anndata(ds, atlas.adata(), eigenvalues=True)
    assert sorted(computed) == [5, 5, 5, 5]


def test_views_and_backed_objects_take_results(ds: xr.Dataset, atlas: RandomAtlas, tmp_path: Path) -> None:
    with pytest.warns(anndata.ImplicitModificationWarning):
        view = sd.to_anndata(ds, atlas.adata()[5:9])
    check(view, ds)
    atlas.adata().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    check(sd.to_anndata(ds, backed), ds)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_repeated_names_are_matched_only_where_the_cells_are_the_same(atlas: RandomAtlas) -> None:
    names = ["c0", "c0", "c0", *(f"c{i}" for i in range(3, 20))]
    source = atlas.adata()
    source.obs_names = names
    with pytest.warns(
        StabdaskWarning, match=r"^2 cells have names that other cells have too\. Results cannot be"
    ):
        ds = sd.stability(sd.open_cells(source, cluster_key="kind"), atlas.field).compute()
    adata = sd.to_anndata(ds, blank(names))
    np.testing.assert_array_equal(adata.obs["stability_speed"], ds["speed"].values)
    for other in (names[::-1], names[:-1], ["c0", "c3"], [*names, "new"]):
        with pytest.raises(InputError, match=r"repeat \('c0', say\) .* make obs_names unique before the run"):
            sd.to_anndata(ds, blank(other))
    unique = sd.stability(atlas.cells(), atlas.field)
    with pytest.raises(InputError, match="cell names repeat"):
        sd.to_anndata(unique, blank(["cell0", "cell0", "cell1"]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [["x"] * 20, [f"c{i % 10}" for i in range(20)]])
def test_names_that_do_not_tell_the_order_are_refused(atlas: RandomAtlas, names: list[str]) -> None:
    """As of two samples: their names stay the same, in the same order, though samples change places."""
    source = atlas.adata()
    source.obs_names = names
    ds = sd.stability(sd.open_cells(source, cluster_key="kind"), atlas.field).compute()
    swapped = source[np.roll(np.arange(20), 10)].copy()
    assert swapped.obs_names.tolist() == names
    assert not np.array_equal(swapped.X, source.X)
    for adata in (swapped, source):
        with pytest.raises(
            InputError, match=r"do not tell in which order .* take results in the order of the run"
        ):
            sd.to_anndata(ds, adata)
        assert list(adata.obs) == ["kind"]


def test_cells_that_are_all_unknown_are_refused(ds: xr.Dataset) -> None:
    adata = blank(["Cell0", "Cell1"])
    with pytest.raises(MissingKeyError, match="none of the AnnData's cells has a result"):
        sd.to_anndata(ds, adata)
    assert list(adata.obs) == ["own"]


def test_cells_without_names_are_matched_by_number(atlas: RandomAtlas) -> None:
    """Cells without names are numbered, as AnnData numbers its own."""
    ds = sd.stability(atlas.cells().drop_vars("cell"), atlas.field).compute()
    adata = sd.to_anndata(ds, blank(map(str, range(19, -1, -1))))
    np.testing.assert_array_equal(adata.obs["stability_speed"], ds["speed"].values[::-1])
