"""Summaries against pandas, extremes against dense spectra."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_atlas import count_blocks, random_atlas

import stabdask as sd
from stabdask.analysis.aggregate import STATISTICS
from stabdask.errors import MissingKeyError
from stabdask.schema import SCALARS, VARIABLES, Status

Array = np.ndarray[Any, Any]

PAIRS = ["g1:g2", "g3:g3", "g2:g1"]


def results(
    values: Array, codes: Array, labels: list[str], *, elements: Array | None = None, **more: Any
) -> xr.Dataset:
    """Return a Dataset as `stability` makes it, of given numbers."""
    n = len(values)
    data: dict[str, Any] = {
        "speed": ("cell", values, VARIABLES["speed"].attrs),
        "unstable_count": ("cell", np.where(np.isnan(values), -1, np.nan_to_num(values)).astype(np.int32)),
        "status": ("cell", np.where(np.isnan(values), 1, 0).astype(np.uint8)),
        "cluster_code": ("cell", codes.astype(np.int32)),
    }
    coords: dict[str, Any] = {
        "cell": np.array([f"c{i}" for i in range(n)], dtype=object),
        "cluster": np.array(labels, dtype=object),
        **{name: ("cell", value) for name, value in more.items()},
    }
    if elements is not None:
        data["element"] = (("cell", "pair"), elements)
        coords["pair"] = np.array(PAIRS, dtype=object)
        coords["effector"] = ("pair", [pair.split(":")[0] for pair in PAIRS])
    return xr.Dataset(data, coords=coords)


def quantile(percent: int) -> Any:
    def of(values: pd.Series[float]) -> float:
        return float(np.nanquantile(values, percent / 100)) if values.notna().any() else np.nan

    of.__name__ = f"q{percent}"
    return of


def by_pandas(values: Array, labels: list[Any], groups: list[Any]) -> Array:
    """Return ``(group, statistic)`` by pandas: labels of None are dropped, groups without cells are empty."""
    frame = pd.DataFrame({"value": values, "label": np.asarray(labels, dtype=object)})
    table = frame.groupby("label")["value"].agg(
        ["count", "mean", lambda v: v.std(ddof=0), "min", *map(quantile, (5, 25, 50, 75, 95)), "max"]
    )
    table = table.reindex(groups)
    table["count"] = table["count"].fillna(0)
    return table.to_numpy(dtype=float)


numbers = st.floats(-100, 100) | st.just(np.nan) | st.sampled_from([0.0, 1.0, -2.5])


@given(st.data())
@settings(max_examples=60)
def test_every_statistic_is_that_of_pandas(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    labels = data.draw(st.lists(st.sampled_from("pqrs"), min_size=1, max_size=4, unique=True))
    codes = data.draw(hnp.arrays(np.int32, n, elements=st.integers(-1, len(labels) - 1)))
    values = data.draw(hnp.arrays(float, n, elements=numbers))
    elements = data.draw(hnp.arrays(float, (n, 3), elements=numbers))
    table = sd.summarize(results(values, codes, labels, elements=elements))
    assert table["cluster"].values.tolist() == labels
    names = ["count", "mean", "std", "min", "q05", "q25", "median", "q75", "q95", "max"]
    assert table["statistic"].values.tolist() == list(STATISTICS) == names
    own = [labels[code] if code >= 0 else None for code in codes]
    assert table["speed"].dims == table["unstable_count"].dims == ("cluster", "statistic")
    assert table["element"].dims == ("cluster", "statistic", "pair")
    close = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(table["speed"].values, by_pandas(values, own, labels), **close)
    # Truncated towards zero as the integers were; negative counts mean "not computed".
    counts = np.where(np.trunc(values) >= 0, np.trunc(values), np.nan)
    np.testing.assert_allclose(table["unstable_count"].values, by_pandas(counts, own, labels), **close)
    for number in range(3):
        np.testing.assert_allclose(
            table["element"].values[:, :, number], by_pandas(elements[:, number], own, labels), **close
        )
    assert table["n_cells"].values.tolist() == [own.count(label) for label in labels]
    failed = [
        sum(mine == label and np.isnan(value) for mine, value in zip(own, values, strict=True))
        for label in labels
    ]
    assert table["n_failed"].values.tolist() == failed


def test_what_a_summary_carries_along() -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan])
    ds = results(values, np.array([0, 0, 1, 1]), ["a", "b"], elements=np.ones((4, 3)))
    table = sd.summarize(ds)
    assert table["speed"].attrs == VARIABLES["speed"].attrs | {
        "quantile_method": "exact",
        "quantile_relative_error": 0.0,
    }
    assert table["pair"].values.tolist() == PAIRS
    assert table["effector"].values.tolist() == ["g1", "g3", "g2"]
    assert float(table["speed"].sel(cluster="b", statistic="mean")) == 4.0
    assert float(table["element"].sel(cluster="a", statistic="max", pair="g3:g3")) == 1.0
    assert "cell" not in table.dims
    # The Dataset itself is as it was.
    xr.testing.assert_identical(
        ds, results(values, np.array([0, 0, 1, 1]), ["a", "b"], elements=np.ones((4, 3)))
    )


def test_groups_without_cells_and_without_values() -> None:
    ds = results(np.array([np.nan, np.nan, 3.0]), np.array([0, 0, 2]), ["dead", "empty", "one"])
    table = sd.summarize(ds)
    assert table["n_cells"].values.tolist() == [2, 0, 1]
    assert table["n_failed"].values.tolist() == [2, 0, 0]
    assert table["speed"].sel(statistic="count").values.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(table["speed"].values[:2, 1:], np.nan)
    assert table["speed"].sel(cluster="one").values.tolist() == [1, 3, 0, 3, 3, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(table["failed_fraction"].values, [1, np.nan, 0])
    # Whether a failed cell is unstable is not known.
    np.testing.assert_array_equal(table["unstable_fraction"].values, [np.nan, np.nan, 1])


def test_no_cell_has_a_label() -> None:
    table = sd.summarize(results(np.ones(3), np.full(3, -1), ["a", "b"], elements=np.ones((3, 3))))
    for name in ("speed", "element"):
        assert (table[name].sel(statistic="count").values == 0).all()
        assert np.isnan(table[name].sel(statistic=list(STATISTICS[1:])).values).all()
    assert table["n_cells"].values.tolist() == table["n_failed"].values.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["y", "x", None, "y", "z", "x"], ["x", "y", "z"]),
        ([3, 1, 1, 20, 3, 1], [1, 3, 20]),
        ([True, False, True, True, False, True], [False, True]),
        ([0.5, np.nan, 0.5, 2.0, 0.25, np.nan], [0.25, 0.5, 2.0]),
    ],
)
def test_by_another_label(labels: list[Any], groups: list[Any]) -> None:
    values = np.array([1.0, 2.0, np.nan, 8.0, 16.0, 32.0])
    dtype = object if None in labels else None
    for kind in ("coordinate", "variable"):
        ds = results(values, np.zeros(6, int), ["all"], elements=np.outer(values, [1, 2, 3]))
        new = {"batch": ("cell", np.array(labels, dtype=dtype))}
        ds = ds.assign_coords(new) if kind == "coordinate" else ds.assign(new)
        table = sd.summarize(ds, by="batch")
        assert table["batch"].values.tolist() == groups
        own = [None if label is None or label != label else label for label in labels]
        np.testing.assert_allclose(table["speed"].values, by_pandas(values, own, groups))
        assert table["element"].dims == ("batch", "statistic", "pair")
        np.testing.assert_allclose(table["element"].values[..., 2], by_pandas(3 * values, own, groups))
        assert table["n_cells"].values.tolist() == [own.count(group) for group in groups]


def test_by_the_cluster_of_each_cell_is_by_cluster() -> None:
    atlas = random_atlas(1, clusters=("b", "a", "c"), unlabelled=(3,), broken=(4,))
    ds = sd.stability(atlas.cells(), atlas.field).compute()
    one, other = sd.summarize(ds), sd.summarize(ds, by="cell_cluster")
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values)
    assert one["cluster"].values.tolist() == ["a", "b", "c"]
    assert other["cell_cluster"].values.tolist() == ["a", "b", "c"]


def test_labels_that_are_not_there() -> None:
    ds = results(np.ones(4), np.zeros(4, int), ["all"], elements=np.ones((4, 3)), batch=list("abab"))
    with pytest.raises(MissingKeyError, match="no label 'bach' for cells; did you mean 'batch'"):
        sd.summarize(ds, by="bach")
    for wrong in ("pair", "element", "effector"):
        with pytest.raises(MissingKeyError, match=f"no label '{wrong}' for cells"):
            sd.summarize(ds, by=wrong)
    with pytest.raises(MissingKeyError, match="hold no 'cluster_code'; pass the whole Dataset"):
        sd.summarize(ds[["speed"]])


EVERY_SCALAR = ["default", "reactivity", "acceleration_norm", "curvature_norm"]


def test_every_scalar_of_real_results_is_summarized(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(2, clusters=("A", "B", "C"), unlabelled=(0, 11), broken=(5, 6))
    pairs = [("gene0", "gene1"), ("gene2", "gene2")]
    ds = sd.stability(atlas.cells(), atlas.field, elements=pairs, vectors="right", quantities=EVERY_SCALAR)
    computed = count_blocks(monkeypatch)
    table = sd.summarize(ds)
    # Each block once, though there are a dozen quantities.
    assert computed == [8, 8, 8]
    ds = ds.compute()
    # Of flows in three dimensions; and what comes with responses.
    scalars = set(SCALARS) - {"torsion", "response_condition"}
    assert set(table.data_vars) == {
        *(*scalars, "element"),
        *("n_cells", "n_computed", "n_failed", "failed_fraction", "unstable_fraction"),
    }
    for name in scalars:
        values = ds[name].values.astype(float)
        values[ds["status"].values != Status.OK] = np.nan
        np.testing.assert_allclose(
            table[name].values, by_pandas(values, atlas.labels, ["A", "B", "C"]), atol=1e-14
        )
        assert table[name].attrs["units"] == VARIABLES[name].units
    assert int(table["n_failed"].sum()) == 2
    assert int(table["n_cells"].sum()) == 22


def test_cells_left_out_on_request_have_not_failed() -> None:
    atlas = random_atlas(2, clusters=("A", "B"), broken=(1,))
    part = sd.HopfieldField(atlas.field.genes, {"B": atlas.field.parameters[1]})
    table = sd.summarize(sd.stability(atlas.cells(), part, missing_cluster="skip"))
    assert table["n_cells"].values.tolist() == [12, 12]
    assert table["n_failed"].values.tolist() == [0, 1]
    assert table["trace"].sel(statistic="count").values.tolist() == [0, 11]


# --- extremes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clusters": ("C", "A", "B"), "n_regulators": (2, 7, 4), "n_genes": 12},
        {"n_regulators": (3, 0)},
        {"zeros": 0.9},
        {"unlabelled": (1, 2), "broken": (7, 8)},
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_extremes_are_those_of_all_dense_spectra(seed: int, options: dict[str, Any]) -> None:
    atlas = random_atlas(seed, **options)
    ds = sd.stability(atlas.cells(), atlas.field)
    table = sd.extremes(ds)
    ds = ds.compute()
    assert table["cluster"].values.tolist() == sorted(atlas.drawn.clusters)
    for label in table["cluster"].values:
        members = [cell for cell in np.flatnonzero(atlas.good) if atlas.labels[cell] == label]
        spectra = {f"cell{cell}": atlas.spectrum(cell) for cell in members}
        row = table.sel(cluster=label)
        for side, pick in (("largest", max), ("smallest", min)):
            best = pick(float(pick(spectrum.real)) for spectrum in spectra.values())
            value, name = complex(row[side]), str(row[f"{side}_cell"].values)
            assert value.real == pytest.approx(best, abs=1e-9)
            assert row[f"{side}_speed"] == ds["speed"].sel(cell=name)
            # The eigenvalue itself, imaginary part and all, is one of the named cell's.
            assert np.abs(spectra[name] - value).min() < 1e-9


def test_extremes_of_clusters_without_spectra() -> None:
    atlas = random_atlas(3, clusters=("A", "B"), broken=range(1, 24, 2))
    table = sd.extremes(sd.stability(atlas.cells(), atlas.field))
    assert np.isfinite(complex(table["largest"].sel(cluster="A")))
    for side in ("largest", "smallest"):
        assert np.isnan(complex(table[side].sel(cluster="B")))
        assert str(table[f"{side}_cell"].sel(cluster="B").values) == ""
        assert np.isnan(table[f"{side}_speed"].sel(cluster="B"))


def test_extremes_compute_every_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(4)
    ds = sd.stability(atlas.cells(), atlas.field)
    computed = count_blocks(monkeypatch)
    sd.extremes(ds)
    assert computed == [8, 8, 8]
    assert "largest_speed" not in sd.extremes(ds.drop_vars("speed"))


def test_extremes_see_genes_outside_the_core_and_name_cells() -> None:
    """One gene that decays slowly and one fast, both outside the core."""
    field = sd.HopfieldField.from_arrays(
        ["R", "slow", "fast"],
        W=[[0.5, 0, 0], [1, 0, 0], [0, 0, 0]],
        gamma=[1.0, 0.25, 9.0],
        threshold=1.0,
        exponent=1.0,
    )
    x = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    obs = pd.DataFrame({"k": ["u", "v"]}, index=["one", "two"])
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=field.genes.tolist()))
    ds = sd.stability(sd.open_cells(adata, cluster_key="k"), field, missing_cluster="W_all")
    table = sd.extremes(ds)
    assert table["largest"].values.tolist() == [-0.25, -0.25]
    assert table["smallest"].values.tolist() == [-9.0, -9.0]
    assert table["largest_cell"].values.tolist() == ["one", "two"]
    assert ds["spectral_abscissa"].values.tolist() == [-0.25, -0.25]
