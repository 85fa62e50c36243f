"""Annotations in a run: in its identity, in its store, and back out of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from random_atlas import RandomAtlas, random_atlas

import stabdask as sd
from stabdask.atlas.annotations import requested_names
from stabdask.errors import DamagedStoreError, StoreMismatchError, UsageError
from stabdask.runs.job import prepare
from stabdask.runs.store import read_spec
from stabdask.schema import MODE_QUANTITIES

ODD = ["../x", "a/b", "", "☃"]
QUIET: dict[str, Any] = {
    "workers": 0,
    "progress": False,
    "partition_cells": 7,
    "quantities": ["speed", "trace"],
}
ASKED: dict[str, Any] = {"obs_keys": ["../batch", "age"], "embeddings": ["a/b"]}


@pytest.fixture
def atlas() -> RandomAtlas:
    return random_atlas(2, n_cells=24, unlabelled=[3])


def annotated(atlas: RandomAtlas, *, change: int | None = None, colors: bool = True) -> Any:
    adata = atlas.adata()
    batch = np.resize(np.asarray([*ODD, None], dtype=object), 24)
    age = np.where(np.arange(24) % 5 == 0, np.nan, np.arange(24))
    drawn = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32)
    if change == 0:
        batch[2], batch[3] = batch[3], batch[2]
    if change == 1:
        age[7] = 100.0
    if change == 2:
        drawn[5, 2] += 1e-3
    adata.obs["../batch"] = pd.Categorical(batch, categories=["never", *ODD])
    adata.obs["age"] = age
    adata.obsm["a/b"] = drawn
    if colors:
        adata.uns["kind_colors"] = ["#111111", "#222222", "#333333"][: adata.obs["kind"].nunique()]
        adata.uns["../batch_colors"] = ["red"] * 5
    return adata


def cells_of(adata: Any, **options: Any) -> xr.Dataset:
    return sd.open_cells(adata, **{"cluster_key": "kind", "block_cells": 8, **ASKED, **options})


def check(ds: xr.Dataset, adata: Any) -> None:
    labels = ["missing" if pd.isna(v) else v for v in adata.obs["../batch"]]
    assert ["missing" if isinstance(v, float) else v for v in ds["../batch"].values] == labels
    assert ds["../batch"].attrs == {
        "annotation": "label",
        "labels": ["never", *ODD],
        "colors": ["#ff0000"] * 5,
    }
    np.testing.assert_array_equal(ds["age"].values, adata.obs["age"])
    assert ds["age"].attrs == {"annotation": "number"}
    np.testing.assert_array_equal(ds["a/b"].values, adata.obsm["a/b"], strict=True)
    assert ds["a/b"].dims == ("cell", "a/b_axis")
    assert ds["a/b"].attrs == {"annotation": "embedding"}
    assert {"../batch", "age"} <= set(ds.coords)
    assert "a/b" in ds.data_vars
    known = dict(zip(sorted(set(adata.obs["kind"].dropna())), adata.uns["kind_colors"], strict=True))
    assert ds["cluster"].attrs["colors"] == [known[label] for label in ds["cluster"].values]


def test_lazy_results_and_a_store_have_the_same(atlas: RandomAtlas, tmp_path: Path) -> None:
    adata = annotated(atlas)
    lazy = sd.stability(cells_of(adata), atlas.field, quantities=["speed"])
    check(lazy, adata)
    report = sd.run(cells_of(adata), atlas.field, tmp_path / "out.zarr", **QUIET)
    assert report.complete
    check(sd.open_results(tmp_path / "out.zarr"), adata)
    # Names from the atlas are nowhere in the paths of the store.
    arrays = {path.name for path in (tmp_path / "out.zarr").iterdir()}
    assert {"annotation_0", "annotation_1", "annotation_2"} <= arrays
    assert {path.name for path in tmp_path.iterdir()} == {"out.zarr"}
    assert sd.verify(tmp_path / "out.zarr", cells=cells_of(adata)).ok
    assert sd.status(tmp_path / "out.zarr").complete
    table = sd.summarize(sd.open_results(tmp_path / "out.zarr"), by="../batch")
    expected = adata.obs.groupby("../batch", observed=False).size()  # categories without cells count 0
    assert dict(zip(table["../batch"].values, table["n_cells"].values, strict=True)) == dict(expected)


def snapshot(store: Path) -> dict[str, str]:
    files = [p for p in store.rglob("*") if p.is_file() and "receipts" not in p.parts]
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_bytes_are_the_same_each_time_and_after_a_resume(atlas: RandomAtlas, tmp_path: Path) -> None:
    adata = annotated(atlas)
    sd.run(cells_of(adata), atlas.field, tmp_path / "one.zarr", **QUIET)
    sd.run(cells_of(adata), atlas.field, tmp_path / "two.zarr", partitions=[2], **QUIET)
    with pytest.warns(sd.errors.StabdaskWarning, match="not complete"):
        check(sd.open_results(tmp_path / "two.zarr"), adata)
    report = sd.run(cells_of(adata), atlas.field, tmp_path / "two.zarr", **QUIET)
    assert report.n_partitions_computed == 3
    assert snapshot(tmp_path / "one.zarr") == snapshot(tmp_path / "two.zarr")
    order = {"obs_keys": ASKED["obs_keys"][::-1]}
    sd.run(cells_of(adata, **order), atlas.field, tmp_path / "three.zarr", **QUIET)
    assert snapshot(tmp_path / "one.zarr") == snapshot(tmp_path / "three.zarr")


@pytest.mark.parametrize(("change", "name"), [(0, "../batch"), (1, "age"), (2, "a/b")])
def test_resuming_with_other_content_is_refused(
    atlas: RandomAtlas, tmp_path: Path, change: int, name: str
) -> None:
    sd.run(cells_of(annotated(atlas)), atlas.field, tmp_path / "out.zarr", partitions=[0], **QUIET)
    before = snapshot(tmp_path / "out.zarr")
    with pytest.raises(StoreMismatchError) as caught:
        sd.run(cells_of(annotated(atlas, change=change)), atlas.field, tmp_path / "out.zarr", **QUIET)
    option = "embeddings" if name == "a/b" else "obs_keys"
    assert f"belongs to another run: {option}: {name!r} has other values. Nothing" in str(caught.value)
    assert snapshot(tmp_path / "out.zarr") == before


def test_resuming_with_other_names_is_refused(atlas: RandomAtlas, tmp_path: Path) -> None:
    adata = annotated(atlas)
    sd.run(cells_of(adata), atlas.field, tmp_path / "out.zarr", partitions=[0], **QUIET)
    for options, says in (
        ({"obs_keys": None}, "obs_keys: '../batch' there alone; obs_keys: 'age' there alone. "),
        ({"embeddings": None}, "embeddings: 'a/b' there alone. "),
        (
            {"obs_keys": {"path": "age", "../batch": "../batch"}},
            "obs_keys: 'age' there alone; obs_keys: 'path' here alone. ",
        ),
        ({"obs_keys": ["kind", "age", "../batch"]}, "obs_keys: 'kind' here alone. "),
    ):
        with pytest.raises(StoreMismatchError) as caught:
            sd.run(cells_of(adata, **options), atlas.field, tmp_path / "out.zarr", **QUIET)
        assert f"belongs to another run: {says}Nothing" in str(caught.value)


def test_colors_are_looks_and_no_part_of_the_identity(atlas: RandomAtlas, tmp_path: Path) -> None:
    sd.run(cells_of(annotated(atlas)), atlas.field, tmp_path / "out.zarr", partitions=[0], **QUIET)
    report = sd.run(cells_of(annotated(atlas, colors=False)), atlas.field, tmp_path / "out.zarr", **QUIET)
    assert report.complete
    check(sd.open_results(tmp_path / "out.zarr"), annotated(atlas))


def test_a_run_without_annotations_has_the_identity_it_had(atlas: RandomAtlas) -> None:
    plain = prepare(atlas.cells(), atlas.field)
    assert set(plain.spec.cells) == {"dtype", "names", "genes", "labels", "content", "sources"}
    colored = prepare(cells_of(annotated(atlas), obs_keys=None, embeddings=None), atlas.field)
    assert colored.spec.fingerprint == plain.spec.fingerprint
    rich = prepare(cells_of(annotated(atlas)), atlas.field)
    assert set(rich.spec.cells["annotations"]) == {"../batch", "age", "a/b"}
    assert rich.spec.fingerprint != plain.spec.fingerprint
    assert type(rich.spec).from_dict(json.loads(json.dumps(rich.spec.to_dict()))) == rich.spec


def test_verify_finds_annotations_that_changed(atlas: RandomAtlas, tmp_path: Path) -> None:
    adata, store = annotated(atlas), tmp_path / "out.zarr"
    sd.run(cells_of(adata), atlas.field, store, **QUIET)
    assert sd.verify(store, n_cells=0).damaged_annotations == []
    names = {
        json.loads((store / f"annotation_{i}" / "zarr.json").read_text())["attributes"]["name"]: i
        for i in range(3)
    }
    chunk = store / f"annotation_{names['age']}" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    document = store / f"annotation_{names['../batch']}" / "zarr.json"
    document.write_text(document.read_text().replace('"never"', '"Never"'))
    report = sd.verify(store, n_cells=0)
    assert not report.ok
    assert report.damaged_annotations == ["../batch", "age"]
    assert "annotations: ../batch, age" in str(report)
    assert report.to_dict()["damaged_annotations"] == ["../batch", "age"]


def test_a_store_with_edited_attributes_is_refused(atlas: RandomAtlas, tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    sd.run(cells_of(annotated(atlas)), atlas.field, store, **QUIET)
    for number in range(3):
        document = store / f"annotation_{number}" / "zarr.json"
        text = document.read_text()
        values = json.loads(text)
        values["attributes"]["annotation"] = "something"
        document.write_text(json.dumps(values))
        with pytest.raises(DamagedStoreError, match=f"attributes of annotation_{number} are not those"):
            sd.open_results(store)
        document.write_text(text)
    labels = next(store.glob("annotation_*/zarr.json"))
    for document in store.glob("annotation_*/zarr.json"):
        if '"labels"' in document.read_text():
            labels = document
    values = json.loads(labels.read_text())
    values["attributes"]["labels"] = ["only one"]
    labels.write_text(json.dumps(values))
    with pytest.raises(DamagedStoreError, match="has a number without a label"):
        sd.open_results(store)


def test_large_annotations_are_chunked_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stabdask.runs import annotations

    monkeypatch.setattr(annotations, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(annotations, "_FEWEST_ROWS", 5)
    atlas = random_atlas(2, n_cells=24)
    adata = annotated(atlas)
    sd.run(cells_of(adata), atlas.field, tmp_path / "out.zarr", **QUIET)
    ds = sd.open_results(tmp_path / "out.zarr")
    assert ds["a/b"].chunks == ((5, 5, 5, 5, 4), (3,))
    check(ds, adata)


def test_duplicate_cell_names_and_one_cell(tmp_path: Path) -> None:
    atlas = random_atlas(2, n_cells=24)
    adata = annotated(atlas)
    adata.obs_names = ["same"] * 24
    sd.run(cells_of(adata), atlas.field, tmp_path / "out.zarr", **QUIET)
    check(sd.open_results(tmp_path / "out.zarr"), adata)
    one = annotated(atlas)[4:5].copy()
    sd.run(cells_of(one), atlas.field, tmp_path / "one.zarr", **QUIET)
    ds = sd.open_results(tmp_path / "one.zarr")
    assert pd.isna(ds["../batch"].values).tolist() == [True]
    assert ds["age"].values.tolist() == [4.0]
    assert read_spec(tmp_path / "one.zarr").n_cells == 1


def test_gpu_free_workers_get_no_annotations(atlas: RandomAtlas) -> None:
    """Tasks carry the run's identity, not its annotations."""
    import pickle

    from stabdask.runs.partition import make_task

    job = prepare(cells_of(annotated(atlas)), atlas.field)
    plain = prepare(atlas.cells(), atlas.field)
    extra = len(pickle.dumps(make_task(job, Path("x"), 0))) - len(
        pickle.dumps(make_task(plain, Path("x"), 0))
    )
    assert extra < 500


def test_every_name_that_results_and_tables_use_is_taken(atlas: RandomAtlas) -> None:
    asked = ["default", "reactivity", *MODE_QUANTITIES]
    ds = sd.stability(
        atlas.cells(), atlas.field, vectors="both", elements=[("gene0", "gene1")], quantities=asked
    )
    table = sd.summarize(ds)
    for name in {*ds.variables, *ds.dims, *table.variables, *table.dims}:
        with pytest.raises(UsageError, match="results use the name"):
            requested_names([str(name)], None)
