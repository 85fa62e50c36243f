"""The lazy Dataset: what it holds and when it computes, and that a run's store holds the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from helpers import labels_of
from random_atlas import RandomAtlas, count_blocks, random_atlas
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError
from stabdask.runs import preflight
from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options
from stabdask.schema import VARIABLES, Status

Array = np.ndarray[Any, Any]

ASKED: dict[str, Any] = {"vectors": "both", "modes": 3, "elements": [("gene1", "gene0"), ("gene2", "gene2")]}


def tricky() -> RandomAtlas:
    return random_atlas(
        7,
        n_cells=30,
        clusters=("B", "A/é", "C"),
        n_regulators=(3, 6, 1),
        unlabelled=(1, 17),
        broken=(4, 5, 29),
    )


def direct(atlas: RandomAtlas, **asked: Any) -> dict[str, Array]:
    return compute_block(atlas.x, atlas.codes, atlas.field, make_options(atlas.field, **asked))


def assert_same(ds: xr.Dataset, expected: dict[str, Array]) -> None:
    for name, values in expected.items():
        found = ds[name].to_numpy()
        assert found.dtype == ds[name].dtype == values.dtype, name
        np.testing.assert_allclose(found, values, rtol=1e-10, atol=1e-10, err_msg=name)


# --- labels and laziness -----------------------------------------------------------------------------------


def test_the_dataset_is_labelled() -> None:
    atlas = tricky()
    ds = sd.stability(atlas.cells(), atlas.field, **ASKED)
    options = make_options(atlas.field, **ASKED)
    assert list(ds.data_vars) == [*options.variables(), "cluster_code", "degradation"]
    for name in options.variables():
        assert ds[name].dims == VARIABLES[name].dims
        assert ds[name].dtype == VARIABLES[name].dtype()
        assert ds[name].attrs == VARIABLES[name].attrs
    assert dict(ds.sizes) == {
        "cell": 30, "mode": 6, "vector_mode": 3, "gene": 9, "regulator": len(atlas.field.regulators), "cluster": 3,
        "pair": 2,
    }  # fmt: skip
    assert ds["cell"].values.tolist() == [f"cell{i}" for i in range(30)]
    assert ds["gene"].values.tolist() == atlas.field.genes.tolist()
    assert ds["regulator"].values.tolist() == atlas.field.regulators.tolist()
    assert ds["cluster"].values.tolist() == ["A/é", "B", "C"]
    assert labels_of(ds["cell_cluster"]) == atlas.labels
    assert ds["pair"].values.tolist() == ["gene1:gene0", "gene2:gene2"]
    assert ds["effector"].values.tolist() == ["gene1", "gene2"]
    assert ds["pair_regulator"].values.tolist() == ["gene0", "gene2"]
    assert ds["mode"].values.tolist() == list(range(6))
    assert ds["vector_mode"].values.tolist() == [0, 1, 2]
    codes = ds["cluster_code"].values
    assert [ds["cluster"].values[code] if code >= 0 else None for code in codes] == atlas.labels
    for label, rates in zip(ds["cluster"].values, ds["degradation"].values, strict=True):
        np.testing.assert_array_equal(rates, atlas.drawn.clusters[str(label)].gamma)
    assert ds.attrs["complete"] is True
    assert ds.attrs["run"]["field"] == atlas.field.fingerprint
    assert ds.attrs["run"]["options"] == options.to_dict()


def test_the_order_of_categories_is_that_of_the_clusters() -> None:
    atlas = random_atlas(0, clusters=("A", "B", "C"))
    adata = atlas.adata()
    adata.obs["kind"] = adata.obs["kind"].astype("category").cat.set_categories(["C", "unused", "A", "B"])
    ds = sd.stability(sd.open_cells(adata, cluster_key="kind"), atlas.field)
    assert ds["cluster"].values.tolist() == ["C", "A", "B"]
    assert labels_of(ds["cell_cluster"]) == atlas.labels
    assert_same(ds, direct(atlas))


def test_values_are_those_of_the_block_function() -> None:
    atlas = tricky()
    for asked in ({}, ASKED, {"spectrum": "leading", "modes": 2}, {"spectrum": "none"}, {"dtype": "float32"}):
        assert_same(sd.stability(atlas.cells(block_cells=7), atlas.field, **asked), direct(atlas, **asked))


def test_nothing_is_computed_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_blocks(monkeypatch)
    atlas = random_atlas(1, n_cells=40)
    ds = sd.stability(atlas.cells(), atlas.field, **ASKED)
    for name in make_options(atlas.field, **ASKED).variables():
        assert ds[name].chunks[0] == (8, 8, 8, 8, 8)
    assert computed == []
    with dask.config.set(scheduler="synchronous"):
        # One cell costs one block; several variables of it cost no more.
        ds[["speed", "eigenvalue", "left_vector"]].isel(cell=[17, 20]).compute()
        assert computed == [8]
        ds.compute()
        assert computed == [8] * 6
    assert (
        sd.stability(atlas.cells(), atlas.field)["speed"].isel(cell=9).compute() == direct(atlas)["speed"][9]
    )


def test_blocks_follow_the_chunks_of_the_cells() -> None:
    atlas = random_atlas(1, n_cells=40)
    for block_cells in (1, 3, 40, 64):
        ds = sd.stability(atlas.cells(block_cells=block_cells), atlas.field)
        assert sum(ds["status"].chunks[0]) == 40
        assert_same(ds, direct(atlas))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers_agree(scheduler: str) -> None:
    atlas = tricky()
    ds = sd.stability(atlas.cells(block_cells=4), atlas.field, **ASKED)
    computed = ds.compute(scheduler=scheduler)
    again = ds.compute(scheduler=scheduler)
    xr.testing.assert_identical(computed, again)
    assert_same(computed, direct(atlas, **ASKED))


# --- cells in other forms ----------------------------------------------------------------------------------


def test_selected_reordered_and_unlabelled_cells() -> None:
    atlas = tricky()
    expected = direct(atlas, **ASKED)
    cells = atlas.cells()
    rows = np.array([22, 3, 4, 17, 9, 0])
    ds = sd.stability(cells.isel(cell=rows), atlas.field, **ASKED)
    assert ds["cell"].values.tolist() == [f"cell{i}" for i in rows]
    assert labels_of(ds["cell_cluster"]) == [atlas.labels[i] for i in rows]
    assert_same(ds, {name: values[rows] for name, values in expected.items()})
    only = cells.isel(cell=[i for i, label in enumerate(atlas.labels) if label == "B"])
    assert sd.stability(only, atlas.field)["cluster"].values.tolist() == ["B"]
    none = sd.stability(cells.isel(cell=[1, 17]), atlas.field).compute()
    assert none.sizes["cluster"] == 0
    assert none["status"].values.tolist() == [3, 3]
    assert np.isnan(sd.complete_spectrum(none).values).all()


def test_datasets_in_memory_and_in_other_chunks() -> None:
    atlas = tricky()
    expected = direct(atlas)
    cells = atlas.cells()
    for form in (cells.compute(), cells.chunk({"cell": 7, "gene": 4}), cells.drop_vars("cell")):
        assert_same(sd.stability(form, atlas.field), expected)
    numbered = sd.stability(cells.drop_vars("cell"), atlas.field)
    assert numbered["cell"].values.tolist() == list(range(30))


def test_an_atlas_with_more_genes_in_another_order() -> None:
    atlas = tricky()
    expected = direct(atlas, **ASKED)
    adata = atlas.adata()
    rng = np.random.default_rng(0)
    names = [*adata.var_names, "extra1", "extra2"]
    wide = np.concatenate([atlas.x, rng.gamma(1.0, size=(30, 1)), np.full((30, 1), np.nan)], axis=1)
    order = rng.permutation(len(names))
    import anndata

    other = anndata.AnnData(wide[:, order], obs=adata.obs)
    other.var_names = [names[i] for i in order]
    ds = sd.stability(sd.open_cells(other, cluster_key="kind"), atlas.field, **ASKED)
    assert ds["gene"].values.tolist() == atlas.field.genes.tolist()
    assert_same(ds, expected)
    chosen = sd.open_cells(other, cluster_key="kind", genes=atlas.field.genes.tolist())
    assert_same(sd.stability(chosen, atlas.field, **ASKED), expected)


def test_an_atlas_that_lacks_genes() -> None:
    atlas = random_atlas(0)
    adata = atlas.adata()
    adata.var_names = ["Gene0", *adata.var_names[1:]]
    with pytest.raises(
        MissingKeyError, match="lacks 1 of the field's 9 genes: 'gene0'; did you mean 'Gene0'"
    ):
        sd.stability(sd.open_cells(adata, cluster_key="kind"), atlas.field)


# --- clusters without a model ------------------------------------------------------------------------------


def without(atlas: RandomAtlas, *labels: str) -> sd.HopfieldField:
    kept = {
        label: parameters
        for label, parameters in zip(atlas.field.clusters, atlas.field.parameters, strict=True)
        if label not in labels
    }
    return sd.HopfieldField(atlas.field.genes.tolist(), kept)


def test_unknown_clusters_are_refused_by_default() -> None:
    atlas = random_atlas(0, clusters=("T cell", "B cell", "all"))
    text = r"no parameters \(W_<cluster>\) for 'B cell'; did you mean 'T cell'\?.*'skip'.*'W_all'"
    with pytest.raises(MissingKeyError, match=text):
        sd.stability(atlas.cells(), without(atlas, "B cell"))
    for choice in ("all", "Skip", "W_B cell", "W_", ""):
        with pytest.raises(MissingKeyError, match=f"missing_cluster={choice!r} is not possible"):
            sd.stability(atlas.cells(), without(atlas, "B cell"), missing_cluster=choice)


def test_unknown_clusters_may_be_skipped() -> None:
    atlas = random_atlas(3, clusters=("A", "B", "C"), unlabelled=(0,), broken=(1, 3, 4))
    ds = sd.stability(atlas.cells(), without(atlas, "B"), missing_cluster="skip").compute()
    expected = direct(atlas)
    left_out = np.array([label == "B" for label in atlas.labels])
    # Cells left out have status 5, NaN in their expression or not; others the status they had.
    assert set(ds["status"].values[left_out]) == {Status.NO_MODEL}
    np.testing.assert_array_equal(ds["status"].values[~left_out], expected["status"][~left_out])
    for name in ("spectral_abscissa", "speed", "rotational_norm"):
        assert np.isnan(ds[name].values[left_out]).all()
        np.testing.assert_allclose(ds[name].values[~left_out], expected[name][~left_out])
    assert ds["cluster"].values.tolist() == ["A", "B", "C"]
    assert np.isnan(ds["degradation"].sel(cluster="B").values).all()
    assert labels_of(ds["cell_cluster"]) == atlas.labels


def test_cells_left_out_are_not_looked_at() -> None:
    atlas = random_atlas(3, clusters=("A", "B"))
    atlas.x[1] = -1.0
    assert atlas.labels[1] == "B"
    with pytest.raises(InputError, match=r"in cell 'cell1' is -1; expected values >= 0"):
        sd.stability(atlas.cells(), atlas.field)
    ds = sd.stability(atlas.cells(), without(atlas, "B"), missing_cluster="skip").compute()
    assert ds["status"].values.tolist() == [0, 5] * 12


def test_unknown_clusters_may_use_the_parameters_of_another() -> None:
    atlas = random_atlas(3, clusters=("A", "B", "C"), unlabelled=(0,), broken=(4,))
    ds = sd.stability(atlas.cells(), without(atlas, "B"), missing_cluster="W_C").compute()
    relabelled = RandomAtlas(atlas.drawn, atlas.x, ["C" if label == "B" else label for label in atlas.labels])
    field = without(atlas, "B")
    codes = np.array([-1 if label is None else field.clusters.index(label) for label in relabelled.labels])
    assert_same(ds, compute_block(atlas.x, codes, field, make_options(field)))
    # The label of a cell stays its own, and so do the cells without one.
    assert labels_of(ds["cell_cluster"]) == atlas.labels
    assert ds["status"].values[[0, 4]].tolist() == [3, 3]
    np.testing.assert_array_equal(
        ds["degradation"].sel(cluster="B").values, ds["degradation"].sel(cluster="C").values
    )
    spectra = sd.complete_spectrum(ds).values
    for cell in np.flatnonzero(relabelled.good):
        dense = np.linalg.eigvals(relabelled.jacobian(cell))
        assert np.abs(np.sort_complex(dense).sum() - spectra[cell].sum()) < 1e-9
        assert spectra[cell].real.max() == pytest.approx(dense.real.max(), abs=1e-9)


# --- bad input ---------------------------------------------------------------------------------------------


def test_things_that_are_no_cells_or_no_field() -> None:
    atlas = random_atlas(0)
    cells = atlas.cells()
    with pytest.raises(
        UsageError, match=r"field is a str; expected a Field, e\.g\. from stabdask\.read_field"
    ):
        sd.stability(cells, "model.zarr")  # type: ignore[arg-type]
    for wrong in (cells["expression"], atlas.adata(), None, cells.drop_vars("expression")):
        with pytest.raises(
            MissingKeyError,
            match="neither 'expression' nor 'coordinates'; expected a Dataset from open_cells",
        ):
            sd.stability(wrong, atlas.field)  # type: ignore[arg-type]
    with pytest.raises(MissingKeyError, match="no variable 'cluster'"):
        sd.stability(cells.drop_vars("cluster"), atlas.field)
    with pytest.raises(InputError, match=r"'expression' .* has dimensions \('gene', 'cell'\); expected"):
        sd.stability(cells.transpose("gene", "cell"), atlas.field)
    with pytest.raises(InputError, match="there are no cells"):
        sd.stability(cells.isel(cell=slice(0, 0)), atlas.field)
    with pytest.raises(InputError, match="dtype complex128; expected numbers"):
        sd.stability(cells.assign(expression=cells["expression"] * 1j), atlas.field)
    with pytest.raises(InputError, match=r"gene names of the cells repeat \(gene1\)"):
        sd.stability(cells.assign_coords(gene=["gene1", "gene1", *cells["gene"].values[2:]]), atlas.field)


def test_bad_input_is_found_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_blocks(monkeypatch)
    atlas = random_atlas(0)
    atlas.x[20, 3] = -2.5
    with pytest.raises(InputError, match=r"expression of gene 'gene3' in cell 'cell20' is -2\.5"):
        sd.stability(atlas.cells(), atlas.field)
    assert computed == []


def test_cells_with_nan_neither_hide_nor_are_bad_input() -> None:
    atlas = random_atlas(0, broken=(2,))
    atlas.x[2, 5] = -1.0
    assert sd.stability(atlas.cells(), atlas.field)["status"].values.tolist() == [0, 0, 3, *[0] * 21]
    atlas.x[4, 1] = -1.0  # of the same cluster
    with pytest.raises(InputError, match="expression of gene 'gene1' in cell 'cell4' is -1"):
        sd.stability(atlas.cells(), atlas.field)


def test_what_the_look_at_a_large_atlas_misses_is_found_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first, the middle and the last block are looked at; the error names the cell all the same."""
    monkeypatch.setattr(preflight, "_LOOK_BYTES", 1)
    atlas = random_atlas(0, n_cells=40)
    atlas.x[27, 3] = -2.5
    ds = sd.stability(atlas.cells(), atlas.field)
    assert np.isfinite(ds["speed"].isel(cell=slice(0, 24)).values).all()
    with pytest.raises(InputError, match=r"expression of gene 'gene3' in cell 'cell27' is -2\.5"):
        ds["speed"].compute(scheduler="synchronous")
    atlas.x[27, 3], atlas.x[33, 4] = 1.0, -1.0
    with pytest.raises(InputError, match="expression of gene 'gene4' in cell 'cell33' is -1"):
        sd.stability(atlas.cells(), atlas.field)


# --- the store of a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        ASKED,
        {"spectrum": "leading", "modes": 2, "dtype": "float32"},
        {"spectrum": "none", "elements": [("gene0", "gene5")]},
        {"quantities": [], "vectors": "right"},
    ],
    ids=["defaults", "everything", "leading", "closed forms", "no scalars"],
)
@pytest.mark.parametrize("partition_cells", [None, 7])
def test_a_store_holds_what_the_lazy_dataset_does(
    tmp_path: Path, asked: dict[str, Any], partition_cells: int | None
) -> None:
    atlas = tricky()
    lazy = sd.stability(atlas.cells(), atlas.field, **asked)
    report = sd.run(
        atlas.cells(),
        atlas.field,
        tmp_path / "out.zarr",
        workers=0,
        progress=False,
        partition_cells=partition_cells,
        **asked,
    )
    assert report.n_partitions == (1 if partition_cells is None else 5)
    assert report.n_failed == 5
    stored = sd.open_results(tmp_path / "out.zarr")
    assert list(stored.data_vars) == list(lazy.data_vars)
    assert set(stored.coords) == set(lazy.coords)
    assert all(coord.chunks is None for coord in stored.coords.values())  # to be selected by
    for name in lazy.variables:
        assert stored[name].dims == lazy[name].dims, name
        assert stored[name].dtype == lazy[name].dtype, name
        if name in VARIABLES:
            assert stored[name].attrs == lazy[name].attrs
    xr.testing.assert_allclose(stored.compute(), lazy.compute(), rtol=1e-10, atol=1e-10)
    for name in ("status", "active", "eigenvalue"):
        if name in lazy:
            np.testing.assert_array_equal(stored[name].values, lazy[name].values)
    assert stored.attrs["complete"] is True
    made, expected = stored.attrs["run"], json.loads(json.dumps(lazy.attrs["run"]))
    if partition_cells is not None:
        expected |= {"partition_cells": 7, "block_cells": 7}
    assert made == expected


def test_a_store_of_skipped_clusters(tmp_path: Path) -> None:
    atlas = random_atlas(3, clusters=("A", "B", "C"), unlabelled=(0,), broken=(1, 4))
    options: dict[str, Any] = {"missing_cluster": "skip"}
    lazy = sd.stability(atlas.cells(), without(atlas, "B"), **options).compute()
    report = sd.run(
        atlas.cells(), without(atlas, "B"), tmp_path / "out.zarr", workers=0, progress=False, **options
    )
    stored = sd.open_results(tmp_path / "out.zarr").compute()
    xr.testing.assert_allclose(stored, lazy, rtol=1e-10)
    counts = dict(zip(*np.unique(lazy["status"].values, return_counts=True), strict=True))
    assert report.status_counts == counts
    assert report.n_failed == counts[Status.NON_FINITE_INPUT] == 1


def test_an_unfinished_store_is_nan_where_it_is_not_computed(tmp_path: Path) -> None:
    atlas = random_atlas(3, n_cells=24)
    options: dict[str, Any] = {"partition_cells": 6, "workers": 0, "progress": False}
    report = sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", partitions=[1, 3], **options)
    assert report.n_partitions_missing == 2
    with pytest.warns(StabdaskWarning, match="not complete: 2 of 4 partitions are missing") as caught:
        part = sd.open_results(tmp_path / "out.zarr")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert part.attrs["complete"] is False
    there = np.repeat([False, True], 6).tolist() * 2
    assert (part["status"].values != Status.NOT_COMPUTED).tolist() == there
    whole = direct(atlas)
    np.testing.assert_allclose(part["speed"].values[there], whole["speed"][there])
    assert np.isnan(part["speed"].values).tolist() == np.logical_not(there).tolist()
    assert np.isnan(sd.complete_spectrum(part).values).all(axis=1).tolist() == np.logical_not(there).tolist()
    table = sd.summarize(part)
    assert table["speed"].sel(statistic="count").values.tolist() == [6, 6]
    assert table["n_failed"].values.tolist() == [0, 0]
    adata = sd.to_anndata(part, atlas.adata())
    assert (adata.obs["stability_status"] == 255).tolist() == np.logical_not(there).tolist()
    # The rest, and then nothing is missing and nothing warned of.
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished = sd.open_results(tmp_path / "out.zarr")
    assert finished.attrs["complete"] is True
    assert_same(finished, whole)


# --- a field of clusters for cells without ------------------------------------------------------------------


def test_cells_opened_without_clusters_are_warned_of_those_that_the_field_has() -> None:
    atlas = random_atlas(3, clusters=("all", *(f"kind {i}" for i in range(7))))
    adata, field = atlas.adata(), atlas.field
    cells = sd.open_cells(adata)
    says = (
        r"every cell gets the parameters of cluster 'all'.*others: 'kind 0', 'kind 1', 'kind 2', 'kind 3', 'kind 4' "
        r"and 2 more; .*cluster_key= of open_cells \(--cluster-key\)"
    )
    for look in (sd.stability, sd.plan, sd.knockouts):
        with pytest.warns(StabdaskWarning, match=says) as caught:
            look(cells, field)
        assert len(caught) == 1
    with pytest.warns(StabdaskWarning, match=says):
        sd.fixed_points(field, cells, n_starts=2, max_iterations=2)


def test_there_is_no_warning_where_nothing_else_could_be_meant() -> None:
    atlas = random_atlas(3, clusters=("all", "kind"))
    adata = atlas.adata()
    adata.obs["one"] = "all"
    of_all = sd.HopfieldField(atlas.field.genes.tolist(), {"all": atlas.field.parameters[0]})
    rkhs = small_rkhs(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.stability(sd.open_cells(adata, cluster_key="kind"), atlas.field)
        sd.stability(sd.open_cells(adata, cluster_key="one"), atlas.field)
        sd.stability(sd.open_cells(adata), of_all)
        sd.stability(rkhs.cells(cluster_key=None), rkhs.field)
        sd.fixed_points(atlas.field, sd.open_cells(adata), cluster="all", n_starts=2, max_iterations=2)
