"""Labels, numbers and embeddings brought along from an atlas, compared with the AnnData that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import stabdask as sd
from stabdask.atlas.annotations import (
    Annotation,
    annotations_of,
    attach_annotations,
    column,
    join_annotations,
    requested_names,
)
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*autosharding", "ignore:.*Consolidated metadata", "ignore:Writing zarr v2"
)

ODD = ["../x", "a/b", "", "_a", "Zürich ☃", "x\ny", "NaN", "None", "0"]
FORMS = ["memory", "h5ad", "zarr2", "zarr3", "backed", "lazy"]


def odd_atlas(n: int = 24, seed: int = 0, names: str = "c") -> anndata.AnnData:
    """Return an atlas with a column of every kind that can be brought along, and two embeddings."""
    rng = np.random.default_rng(seed)
    texts = rng.choice(ODD, n).astype(object)
    obs = pd.DataFrame(
        {
            "state": pd.Categorical(np.resize(["a", "b"], n), categories=["b", "a", "unused"]),
            "odd": pd.Categorical(texts, categories=ODD[::-1]),
            "text": rng.choice(["u", "t"], n).astype(object),
            "gaps": pd.Categorical(np.where(np.arange(n) % 3 == 0, None, "x")),
            "count": rng.integers(-5, 5, n).astype(np.int16),
            "time": rng.normal(size=n).astype(np.float32),
            "holes": np.where(np.arange(n) % 4 == 0, np.nan, 1.5),
            "flag": rng.random(n) < 0.5,
            "maybe": pd.array(np.resize([True, None, False], n), dtype="boolean"),
            "whole": pd.array(np.resize([1, None, 3], n), dtype="Int64"),
            "leiden": pd.Categorical(rng.integers(0, 12, n)),
        },
        index=[f"{names}{i}" for i in range(n)],
    )
    adata = anndata.AnnData(rng.random((n, 3)).astype(np.float32), obs=obs)
    adata.obsm["X_umap"] = rng.normal(size=(n, 2)).astype(np.float32)
    adata.obsm["X_wide"] = rng.normal(size=(n, 50))
    adata.uns["state_colors"] = np.array(["#00FF00", "red", "#0000ff80"])
    adata.uns["odd_colors"] = np.array([f"#0000{i:02x}" for i in range(len(ODD))])
    return adata


def given_as(adata: anndata.AnnData, form: str, folder: Path) -> Any:
    if form == "memory":
        return adata
    path = folder / (f"cells-{form}" + (".h5ad" if form == "lazy" else ""))
    if form.startswith("zarr"):
        with anndata.settings.override(zarr_write_format=int(form[-1])):
            adata.write_zarr(path)
        return path
    adata.write_h5ad(path)
    if form == "lazy":
        return anndata.experimental.read_lazy(path)
    return anndata.read_h5ad(path, backed="r") if form == "backed" else path


LABELS = ["state", "odd", "text", "gaps", "flag", "maybe", "leiden"]
NUMBERS = ["count", "time", "holes", "whole"]


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_comes_along(tmp_path: Path, form: str) -> None:
    adata = odd_atlas()
    cells = sd.open_cells(
        given_as(adata, form, tmp_path),
        cluster_key="state",
        obs_keys=[*LABELS, *NUMBERS],
        embeddings=["X_umap", "X_wide"],
    )
    for name in LABELS:
        expected = [np.nan if pd.isna(value) else str(value) for value in adata.obs[name]]
        found = cells[name]
        assert found.dims == ("cell",)
        assert found.dtype == object
        assert [v if isinstance(v, str) else "missing" for v in found.values] == [
            v if isinstance(v, str) else "missing" for v in expected
        ]
        assert found.attrs["annotation"] == "label"
    for name in NUMBERS:
        expected = adata.obs[name].to_numpy(dtype=np.float64, na_value=np.nan)
        np.testing.assert_array_equal(cells[name].values, expected, strict=True)
        assert cells[name].attrs == {"annotation": "number"}
        assert name in cells.coords
    for key in ("X_umap", "X_wide"):
        np.testing.assert_array_equal(cells[key].values, adata.obsm[key], strict=True)
        assert cells[key].dims == ("cell", f"{key}_axis")
        assert cells[key].attrs == {"annotation": "embedding"}
        assert key in cells.data_vars
    assert cells["state"].attrs["labels"] == ["b", "a", "unused"]
    assert cells["odd"].attrs["labels"] == ODD[::-1]
    assert cells["text"].attrs["labels"] == ["t", "u"]
    assert cells["flag"].attrs["labels"] == ["False", "True"]
    assert cells["leiden"].attrs["labels"] == [str(i) for i in adata.obs["leiden"].cat.categories]
    assert cells["state"].attrs["colors"] == ["#00ff00", "#ff0000", "#0000ff"]
    assert cells["cluster"].attrs["colors"] == cells["state"].attrs["colors"]
    assert cells["odd"].attrs["colors"] == adata.uns["odd_colors"].tolist()
    assert "colors" not in cells["text"].attrs


def test_nothing_is_brought_along_unasked() -> None:
    adata = odd_atlas()
    del adata.uns["state_colors"]
    cells = sd.open_cells(adata, cluster_key="state")
    assert set(cells.variables) == {"expression", "cell", "gene", "cluster"}
    assert cells["cluster"].attrs == {"labels": ["b", "a", "unused"]}


def test_expression_is_not_read(tmp_path: Path) -> None:
    path = given_as(odd_atlas(), "h5ad", tmp_path)
    with h5py.File(path, "r+") as file:  # whoever reads X fails now
        del file["X"]
        file.create_dataset("X", shape=(24, 3), dtype="f4", chunks=(24, 3), compression="gzip")
        file["X"].attrs["encoding-type"] = "array"
        file["X"].id.write_direct_chunk((0, 0), b"no gzip")
    cells = sd.open_cells(path, obs_keys=["time"], embeddings=["X_umap"])
    assert np.isfinite(cells["time"].values).all()
    with pytest.raises(OSError, match="read"):
        cells["expression"].compute(scheduler="synchronous")


def test_a_mapping_gives_other_names(tmp_path: Path) -> None:
    adata = odd_atlas()
    adata.obs["speed"] = np.arange(24.0)
    cells = sd.open_cells(
        given_as(adata, "h5ad", tmp_path), obs_keys={"obs_speed": "speed"}, embeddings={"umap": "X_umap"}
    )
    assert cells["obs_speed"].values.tolist() == list(range(24))
    assert cells["umap"].dims == ("cell", "umap_axis")


@pytest.mark.parametrize(
    "name", ["speed", "status", "cluster", "cell", "mode", "expression", "statistic", "annotation_3", "pair"]
)
def test_names_that_results_use_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"results use the name '{name}' .* mapping.*'my_{name}': '{name}'"):
        requested_names([name], None)
    with pytest.raises(UsageError, match="results use the name"):
        requested_names(None, {name: "X_umap"})
    assert requested_names({"free": name}, None) == ({"free": name}, {})


def test_requests_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match=r"obs_keys='batch'; expected a sequence of names, e.g. \['batch'\]"):
        sd.open_cells(odd_atlas(), obs_keys="batch")
    with pytest.raises(UsageError, match="obs_keys names 'time' twice"):
        requested_names(["time", "flag", "time"], None)
    with pytest.raises(UsageError, match="embeddings has the name ''; expected strings that are not empty"):
        requested_names(None, [""])
    with pytest.raises(UsageError, match="has the name 3; expected strings"):
        requested_names([3], None)  # type: ignore[list-item]
    with pytest.raises(UsageError, match="'X_umap_axis' would stand for two things"):
        requested_names(["X_umap_axis"], ["X_umap"])
    with pytest.raises(UsageError, match="'same' would stand for two things"):
        requested_names(["same"], ["same"])


@pytest.mark.parametrize("form", FORMS)
def test_missing_keys_name_near_misses(tmp_path: Path, form: str) -> None:
    source = given_as(odd_atlas(), form, tmp_path)
    with pytest.raises(MissingKeyError, match=r"no column 'tme' in obs of .*; did you mean 'time'"):
        sd.open_cells(source, obs_keys=["tme"])
    with pytest.raises(MissingKeyError, match=r"no embedding 'X_unap' in obsm of .*; did you mean 'X_umap'"):
        sd.open_cells(source, embeddings=["X_unap"])
    for key in ("../obs/time", "/X", "X_umap/../X_umap", "."):
        with pytest.raises(MissingKeyError, match="no embedding"):
            sd.open_cells(source, embeddings=[key])


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_embedding_is_refused(tmp_path: Path, form: str) -> None:
    adata = odd_atlas()
    adata.obsm["broad"] = np.zeros((24, 51))
    adata.obsm["complex"] = np.zeros((24, 2), dtype=complex)
    adata.obsm["sparse"] = sparse.csr_matrix(np.eye(24, 2))
    adata.obsm["frame"] = pd.DataFrame({"x": np.arange(24.0), "y": 1.0}, index=adata.obs_names)
    adata.obsm["words"] = pd.DataFrame({"x": ["u"] * 24}, index=adata.obs_names)
    source = given_as(adata, form, tmp_path)
    for key, message in (
        ("broad", r"obsm\['broad'\] of .* has shape \(24, 51\); expected .* at most 50 columns"),
        ("complex", "dtype complex128; expected real numbers"),
        ("sparse", "sparse"),
        ("words", "words"),
    ):
        with pytest.raises(InputError, match=message):
            sd.open_cells(source, embeddings=[key])
    frame = sd.open_cells(source, embeddings=["frame"])["frame"]
    np.testing.assert_array_equal(frame.values, adata.obsm["frame"].to_numpy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.date_range("2020", periods=24), "holds datetime64 values"),
        (pd.to_timedelta(np.arange(24), unit="s"), "holds timedelta64 values"),
        (np.resize([1 + 1j], 24), "holds complex values"),
        (pd.Series([{"a": 1}] * 24, dtype=object).to_numpy(), "holds mixed values"),
        (pd.Series(["a", 1] * 12, dtype=object).to_numpy(), "holds mixed-integer values"),
        (np.resize([2**53 + 1, 1], 24), r"integers beyond 2\*\*53"),
        (pd.Categorical(pd.Series([1, "1"] * 12, dtype=object)), "read the same as text"),
    ],
)
def test_columns_that_are_neither_labels_nor_numbers_are_refused(values: Any, message: str) -> None:
    adata = odd_atlas()
    adata.obs["bad"] = values
    with pytest.raises(InputError, match=message) as caught:
        sd.open_cells(adata, obs_keys=["bad"])
    assert "obs['bad'] of the AnnData" in str(caught.value)


def test_a_column_that_names_each_cell_is_refused() -> None:
    with pytest.raises(InputError, match="has 100,001 different labels; expected at most 100,000"):
        column("names", np.arange(100_001).astype(str), "obs['names']")


def test_columns_without_any_value() -> None:
    adata = odd_atlas()
    adata.obs["nothing"] = pd.Series([None] * 24, index=adata.obs_names, dtype=object)
    adata.obs["nan"] = np.nan
    cells = sd.open_cells(adata, obs_keys=["nothing", "nan"])
    assert cells["nothing"].attrs == {"annotation": "label", "labels": []}
    assert pd.isna(cells["nothing"].values).all()
    assert cells["nan"].attrs == {"annotation": "number"}
    assert np.isnan(cells["nan"].values).all()


def test_one_cell(tmp_path: Path) -> None:
    adata = odd_atlas(1)
    path = given_as(adata, "h5ad", tmp_path)
    cells = sd.open_cells(path, obs_keys=["odd", "time", "gaps"], embeddings=["X_umap"])
    assert cells["odd"].values.tolist() == adata.obs["odd"].tolist()
    assert pd.isna(cells["gaps"].values).tolist() == [True]
    assert cells["X_umap"].shape == (1, 2)


@pytest.mark.parametrize(
    ("colors", "reason"),
    [
        (["#000000"], "1 colors for 3 labels"),
        (["#000000", "no color", "red"], "no color"),
        ([0.5, 0.2, 0.1], "0.5|None"),
    ],
)
def test_colors_that_cannot_be_used_are_left_out_with_a_warning(colors: list[Any], reason: str) -> None:
    adata = odd_atlas()
    adata.uns["state_colors"] = np.array(colors)
    if colors[0] == 0.5:  # a gray, as matplotlib reads it: a color after all
        assert sd.open_cells(adata, obs_keys=["state"])["state"].attrs["colors"][0] == "#808080"
        return
    with pytest.warns(StabdaskWarning, match=reason) as caught:
        cells = sd.open_cells(adata, obs_keys=["state"])
    assert Path(caught[0].filename).name == Path(__file__).name
    assert "colors" not in cells["state"].attrs


def test_more_colors_than_labels_are_cut() -> None:
    adata = odd_atlas()
    adata.uns["text_colors"] = ["blue", "red", "green", "black"]
    assert sd.open_cells(adata, obs_keys=["text"])["text"].attrs["colors"] == ["#0000ff", "#ff0000"]


def test_several_sources_are_one_atlas(tmp_path: Path) -> None:
    first, second = odd_atlas(10, 1, "p"), odd_atlas(7, 2, "q")
    second.obs["state"] = pd.Categorical(np.resize(["z", "a"], 7), categories=["z", "a"])
    second.uns["state_colors"] = ["#010203", "#ffffff"]
    second.obsm["X_umap"] = second.obsm["X_umap"].astype(np.float64)
    sources = [given_as(first, "h5ad", tmp_path), given_as(second, "memory", tmp_path)]
    cells = sd.open_cells(
        sources, cluster_key="state", obs_keys=["state", "time", "gaps"], embeddings=["X_umap"]
    )
    assert cells["state"].values.tolist() == [*first.obs["state"], *second.obs["state"]]
    assert cells["state"].attrs["labels"] == ["b", "a", "unused", "z"]
    # The first source that colors a label decides.
    assert cells["state"].attrs["colors"] == ["#00ff00", "#ff0000", "#0000ff", "#010203"]
    assert cells["cluster"].attrs["colors"] == cells["state"].attrs["colors"]
    np.testing.assert_array_equal(
        cells["time"].values, np.concatenate([first.obs["time"], second.obs["time"]]).astype(np.float64)
    )
    np.testing.assert_array_equal(
        cells["X_umap"].values, np.concatenate([first.obsm["X_umap"], second.obsm["X_umap"]])
    )
    del second.uns["state_colors"]
    partly = sd.open_cells([first, second], cluster_key="state", obs_keys=["state"])
    assert "colors" not in partly["state"].attrs
    assert "colors" not in partly["cluster"].attrs


def test_sources_that_do_not_agree(tmp_path: Path) -> None:
    first, second = odd_atlas(10, 1, "p"), odd_atlas(7, 2, "q")
    path = given_as(first, "h5ad", tmp_path)
    second.obs["time"] = pd.Categorical(["x"] * 7)
    with pytest.raises(InputError, match="'time' is a number in cells-h5ad and a label in the AnnData"):
        sd.open_cells([path, second], obs_keys=["time"])
    second.obsm["X_umap"] = np.zeros((7, 3))
    with pytest.raises(InputError, match="has 2 columns in cells-h5ad and 3 in the AnnData"):
        sd.open_cells([path, second], embeddings=["X_umap"])
    del second.obs["flag"]
    with pytest.raises(MissingKeyError, match="no column 'flag' in obs of the AnnData"):
        sd.open_cells([path, second], obs_keys=["flag"])
    del second.obsm["X_wide"]
    with pytest.raises(MissingKeyError, match="no embedding 'X_wide' in obsm of the AnnData"):
        sd.open_cells([path, second], embeddings=["X_wide"])


def test_cells_chosen_afterwards_keep_their_annotations() -> None:
    adata = odd_atlas()
    cells = sd.open_cells(adata, obs_keys=["odd", "time"], embeddings=["X_umap"])
    part = cells.isel(cell=[5, 2, 11])
    found = {annotation.name: annotation for annotation in annotations_of(part)}
    assert list(found) == ["X_umap", "odd", "time"]
    assert found["odd"].data.tolist() == adata.obs["odd"].iloc[[5, 2, 11]].tolist()
    assert found["odd"].labels == tuple(ODD[::-1])
    np.testing.assert_array_equal(found["X_umap"].values, adata.obsm["X_umap"][[5, 2, 11]])


def test_annotations_made_by_hand_are_checked() -> None:
    cells = sd.open_cells(odd_atlas())
    mine = cells.assign_coords(mine=("cell", np.resize(["u", "a"], 24), {"annotation": "label"}))
    (found,) = annotations_of(mine)
    assert found.labels == ("a", "u")
    with pytest.raises(InputError, match="kind 'lable'; did you mean 'label'"):
        annotations_of(cells.assign_coords(mine=("cell", np.zeros(24), {"annotation": "lable"})))
    with pytest.raises(InputError, match=r"has dimensions \('gene',\); expected \('cell',\)"):
        annotations_of(cells.assign_coords(mine=("gene", np.zeros(3), {"annotation": "number"})))
    with pytest.raises(UsageError, match="results use the name 'speed'"):
        annotations_of(cells.assign_coords(speed=("cell", np.zeros(24), {"annotation": "number"})))


# Without NUL, which ends a string for pandas.
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=4)
label_columns = st.lists(st.one_of(st.none(), _texts), min_size=1, max_size=30)


@given(label_columns)
def test_labels_survive_a_dataset(values: list[str | None]) -> None:
    made = column("mine", pd.Categorical(values), "it")
    ds = attach_annotations(sd.open_cells(anndata.AnnData(np.zeros((len(values), 1)))), [made])
    (found,) = annotations_of(ds)
    assert found.labels == tuple(sorted({v for v in values if v is not None}))
    np.testing.assert_array_equal(found.values, made.values)
    assert [None if isinstance(v, float) else v for v in ds["mine"].values] == values


@given(st.lists(label_columns, min_size=1, max_size=4))
def test_joined_labels_are_those_of_the_parts(parts: list[list[str | None]]) -> None:
    made = [(f"source{i}", column("mine", pd.Categorical(part), "it")) for i, part in enumerate(parts)]
    joined = join_annotations(made)
    assert [None if isinstance(v, float) else v for v in joined.data] == [v for part in parts for v in part]
    assert len(set(joined.labels)) == len(joined.labels)


def test_data_of_an_annotation() -> None:
    made = Annotation("a", "label", np.array([1, -1, 0], dtype=np.int32), ("x", ""))
    assert made.data[:1].tolist() + made.data[2:].tolist() == ["", "x"]
    assert np.isnan(made.data[1])
