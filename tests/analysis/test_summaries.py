"""Summaries by any label and by several, in one pass over Dask blocks, and in any chunks."""

from __future__ import annotations

import weakref
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask.delayed import delayed
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import count_blocks, random_atlas

import stabdask as sd
from stabdask.analysis.aggregate import quantile_name
from stabdask.analysis.groups import MAX_GROUPS, group_cells
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.schema import SCALARS

Array = np.ndarray[Any, Any]

ERROR = 2.0**-11
ODD = ["../x", "_a", "b/c", "ß μ", "", "nan", "a,b", "1"]


def dataset(
    seed: int = 0, n: int = 60, *, labels: list[str] | None = None, chunks: Any = None, n_pairs: int = 3
) -> xr.Dataset:
    """Return results of random numbers: some cells failed, some without a cluster, some counts unknown."""
    rng = np.random.default_rng(seed)
    labels = ["p", "q", "r"] if labels is None else labels
    speed = rng.lognormal(sigma=3, size=n) * rng.choice([-1, 1], n)
    counts = rng.integers(-1, 4, n)
    status = rng.choice([0, 0, 0, 1, 3, 5, 255], n)
    speed[status != 0] = np.nan
    elements = rng.normal(size=(n, n_pairs))
    elements[rng.random((n, n_pairs)) < 0.2] = 0.0
    ds = xr.Dataset(
        {
            "speed": ("cell", speed, {"units": "expression/time"}),
            "unstable_count": ("cell", counts.astype(np.int32)),
            "element": (("cell", "pair"), elements),
            "status": ("cell", status.astype(np.uint8)),
            "cluster_code": ("cell", rng.integers(-1, len(labels), n).astype(np.int32)),
        },
        coords={
            "cell": np.array([f"c{i}" for i in range(n)], dtype=object),
            "cluster": np.array(labels, dtype=object),
            "pair": np.array([f"g{i}:g{i + 1}" for i in range(n_pairs)], dtype=object),
            "batch": ("cell", rng.choice(np.array(["b1", "b2", "b10"], dtype=object), n)),
        },
    )
    ds["batch"] = ds["batch"].where(rng.random(n) > 0.1)
    if chunks is None:
        return ds
    chunked = [name for name in ds.data_vars if name != "cluster_code"]
    return ds.assign({name: ds[name].chunk({"cell": chunks}) for name in chunked})


def frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return cells as rows, with NaN where something is not known."""
    codes = ds["cluster_code"].values
    counts = ds["unstable_count"].values.astype(float)
    known = np.append(ds["cluster"].values, None)
    return pd.DataFrame(
        {
            "speed": ds["speed"].values,
            "unstable_count": np.where(counts < 0, np.nan, counts),
            "status": ds["status"].values,
            "cluster": known[codes],
            "batch": ds["batch"].values,
            **{f"element {i}": ds["element"].values[:, i] for i in range(ds.sizes["pair"])},
        }
    )


def check_two_way(ds: xr.Dataset, table: xr.Dataset, error: float) -> None:
    """Compare a summary by cluster and batch with NumPy on the cells of each group, taken one by one."""
    cells = frame(ds)
    assert table["speed"].dims == ("cluster", "batch", "statistic")
    assert table["element"].dims == ("cluster", "batch", "statistic", "pair")
    assert table["n_cells"].dims == table["unstable_fraction"].dims == ("cluster", "batch")
    assert table["cluster"].values.tolist() == ds["cluster"].values.tolist()
    assert table["batch"].values.tolist() == sorted(set(cells["batch"].dropna()))
    columns = {"speed": table["speed"], "unstable_count": table["unstable_count"]}
    columns |= {f"element {i}": table["element"].isel(pair=i) for i in range(ds.sizes["pair"])}
    for cluster in table["cluster"].values:
        for batch in table["batch"].values:
            own = cells[(cells["cluster"] == cluster) & (cells["batch"] == batch)]
            place = {"cluster": cluster, "batch": batch}
            assert table["n_cells"].sel(place) == len(own)
            failed = own["status"].isin([1, 2, 3, 4]).sum()
            assert table["n_failed"].sel(place) == failed
            known = own["unstable_count"].dropna()
            for name, expected in (
                ("failed_fraction", failed / len(own) if len(own) else np.nan),
                ("unstable_fraction", (known > 0).mean() if len(known) else np.nan),
            ):
                np.testing.assert_allclose(table[name].sel(place), expected, rtol=1e-12, err_msg=name)
            for name, column in columns.items():
                check_column(own[name].dropna().to_numpy(), column.sel(place), error)


def check_column(values: Array, column: xr.DataArray, error: float) -> None:
    got = {str(name): float(value) for name, value in zip(column["statistic"].values, column, strict=True)}
    assert got["count"] == len(values)
    if not len(values):
        assert np.isnan([value for name, value in got.items() if name != "count"]).all()
        return
    for name, expected in (
        ("mean", values.mean()),
        ("std", values.std()),
        ("min", values.min()),
        ("max", values.max()),
    ):
        scale = np.abs(values).max() or 1.0
        assert got[name] == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale), name
    assert (got["min"], got["max"]) == (values.min(), values.max())
    for name, q in (("q05", 0.05), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q95", 0.95)):
        expected = np.quantile(values, q)
        ends = [np.quantile(values, q, method=method) for method in ("lower", "higher")]
        allowed = error * np.abs(ends).max() + 1e-12 * np.abs(values).max()
        assert abs(got[name] - expected) <= allowed, name


@pytest.mark.parametrize("memory", ["1GB", 0])
@pytest.mark.parametrize("chunks", [None, 7, (1, 59), 60])
def test_two_labels_against_cells_picked_one_by_one(chunks: Any, memory: Any) -> None:
    ds = dataset(1, labels=["p", "nobody", "q"], chunks=chunks)
    ds["cluster_code"] = ds["cluster_code"].where(ds["cluster_code"] != 1, 2)
    table = sd.summarize(ds, by=["cluster", "batch"], memory=memory)
    streamed = chunks is not None and memory == 0
    check_two_way(ds, table, ERROR if streamed else 0.0)
    assert table["speed"].attrs["quantile_relative_error"] == (ERROR if streamed else 0.0)
    assert ("rounded" in table["speed"].attrs["quantile_method"]) == streamed
    assert table["speed"].attrs["units"] == "expression/time"
    # The other way round it is the same, turned.
    other = sd.summarize(ds, by=("batch", "cluster"), memory=memory)
    assert other["element"].dims == ("batch", "cluster", "statistic", "pair")
    xr.testing.assert_allclose(other.transpose(*table.dims), table.transpose(*table.dims), rtol=1e-12)


@given(st.data())
@settings(max_examples=25)
def test_any_chunks_give_the_same_statistics(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    ds = dataset(data.draw(st.integers(0, 99)), n)
    cuts = data.draw(st.lists(st.integers(1, n), max_size=4, unique=True))
    edges = sorted({0, n, *cuts})
    chunks = tuple(np.diff(edges).tolist())
    lazy = ds.assign({name: ds[name].chunk({"cell": chunks}) for name in ("speed", "element", "status")})
    lazy["unstable_count"] = ds["unstable_count"].chunk({"cell": data.draw(st.integers(1, n))})
    whole, streamed = sd.summarize(lazy), sd.summarize(lazy, memory=0)
    xr.testing.assert_identical(whole, sd.summarize(ds))
    one_chunk = sd.summarize(ds.chunk({"cell": -1}), memory=0)
    for name in ("speed", "unstable_count", "element"):
        # Counts of rounded values do not depend on chunks at all; sums do to rounding.
        for statistic in ("count", "min", "max", "q05", "q25", "median", "q75", "q95"):
            np.testing.assert_array_equal(
                streamed[name].sel(statistic=statistic), one_chunk[name].sel(statistic=statistic)
            )
        for statistic in ("mean", "std"):
            np.testing.assert_allclose(
                streamed[name].sel(statistic=statistic),
                whole[name].sel(statistic=statistic),
                rtol=1e-10,
                atol=1e-10 * np.nanmax(np.abs(ds[name].values), initial=1.0),
            )
        exact, near = (
            table[name].sel(statistic=["q05", "median", "q95"]).values for table in (whole, streamed)
        )
        spread = np.nanmax(np.abs(ds[name].values), initial=0.0)
        assert (np.isnan(exact) == np.isnan(near)).all()
        assert (np.abs(exact - near)[~np.isnan(exact)] <= ERROR * spread).all()
    for name in ("n_cells", "n_computed", "n_failed", "unstable_fraction", "failed_fraction"):
        np.testing.assert_array_equal(whole[name].values, streamed[name].values)


@pytest.mark.parametrize("memory", ["1GB", 0])
def test_lazy_results_are_computed_once_and_vectors_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    atlas = random_atlas(2, clusters=("A", "B", "C"), unlabelled=(0, 11), broken=(5, 6))
    more = ["default", "reactivity", "acceleration_norm", "curvature_norm"]
    # Of flows in three dimensions; and what comes with responses.
    scalars = set(SCALARS) - {"torsion", "response_condition"}
    ds = sd.stability(
        atlas.cells(), atlas.field, elements=[("gene0", "gene1")], vectors="both", quantities=more
    )
    ds = ds.assign_coords(batch=("cell", np.resize(["x", "y"], 24).astype(object)))
    computed = count_blocks(monkeypatch)
    table = sd.summarize(ds, by=["cluster", "batch"], memory=memory)
    assert computed == [8, 8, 8]
    assert scalars <= set(table.data_vars)
    reference = sd.summarize(ds.compute(), by=["cluster", "batch"])
    for name in ("n_cells", "n_computed", "n_failed", "failed_fraction", "unstable_fraction"):
        np.testing.assert_array_equal(table[name].values, reference[name].values)
    for name in (*scalars, "element"):
        scale = np.nanmax(np.abs(reference[name].values), initial=0.0)
        np.testing.assert_allclose(
            table[name].values, reference[name].values, rtol=2 * ERROR, atol=2 * ERROR * scale
        )


def test_out_of_core_a_few_blocks_are_held_at_a_time() -> None:
    alive, most, made = 0, 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def block(number: int) -> Array:
        nonlocal alive, most, made
        values = np.random.default_rng(number).normal(size=50)
        weakref.finalize(values, gone)
        alive, made = alive + 1, made + 1
        most = max(most, alive)
        return values

    n_blocks = 60
    names = ("speed", "trace", "spectral_gap")
    ds = xr.Dataset(
        {
            name: (
                "cell",
                da.concatenate(
                    [
                        da.from_delayed(delayed(block)(100 * own + number), (50,), float)
                        for number in range(n_blocks)
                    ]
                ),
            )
            for own, name in enumerate(names)
        },
        coords={"side": ("cell", np.resize(["l", "r"], 50 * n_blocks).astype(object))},
    )
    with dask.config.set(scheduler="sync"):
        table = sd.summarize(ds, by="side", memory=10_000)
    assert made == n_blocks * len(names)
    assert most < 0.2 * made
    assert alive == 0
    loaded = sd.summarize(ds.compute(), by="side")
    np.testing.assert_allclose(table["trace"], loaded["trace"], atol=4 * ERROR)


def test_the_bound_decides_what_is_loaded() -> None:
    ds = dataset(3, 500, chunks=100)
    held = sum(ds[name].nbytes for name in ds.data_vars)
    for memory, method in ((held, "exact"), (held - 1, "rounded"), (str(held), "exact"), ("1kB", "rounded")):
        assert method in sd.summarize(ds, memory=memory)["speed"].attrs["quantile_method"]
    # What is in memory already is never rounded.
    assert sd.summarize(ds.compute(), memory=0)["speed"].attrs["quantile_method"] == "exact"


def test_quantiles_by_name() -> None:
    assert [quantile_name(q) for q in (0, 0.001, 0.01, 0.1, 0.5, 0.999, 1)] == [
        "q00", "q00.1", "q01", "q10", "median", "q99.9", "q100",
    ]  # fmt: skip
    ds = dataset(4, chunks=11)
    values = ds["speed"].values[(ds["cluster_code"].values == 0)]
    for memory, rtol in (("1GB", 1e-12), (0, 0.02)):
        table = sd.summarize(ds, quantiles=(0.9, 0.125), memory=memory)["speed"].sel(cluster="p")
        assert table["statistic"].values.tolist() == ["count", "mean", "std", "min", "q90", "q12.5", "max"]
        for name, q in (("q90", 0.9), ("q12.5", 0.125)):
            assert float(table.sel(statistic=name)) == pytest.approx(np.nanquantile(values, q), rel=rtol)
        none = sd.summarize(ds, quantiles=(), memory=memory)
        assert none["element"]["statistic"].values.tolist() == ["count", "mean", "std", "min", "max"]


# --- labels ------------------------------------------------------------------------------------------------


def test_annotations_keep_the_order_of_their_categories() -> None:
    ds = dataset(5, labels=["one"])
    label = np.resize(np.array(["late", "early", None], dtype=object), 60)
    attrs = {
        "annotation": "label",
        "labels": ["early", "never", "late"],
        "colors": ["#111111", "#222222", "#333333"],
    }
    ds = ds.assign_coords(stage=("cell", label, attrs))
    table = sd.summarize(ds, by="stage")
    assert table["stage"].values.tolist() == ["early", "never", "late"]
    assert table["stage"].attrs == attrs
    assert table["n_cells"].values.tolist() == [20, 0, 20]
    assert np.isnan(table["speed"].sel(stage="never", statistic="mean"))
    expected = np.nanmean(ds["speed"].values[label == "late"])
    assert float(table["speed"].sel(stage="late", statistic="mean")) == pytest.approx(expected)
    # Labels that were changed since come after, and colors are no longer theirs.
    label[:3] = "changed"
    table = sd.summarize(ds.assign_coords(stage=("cell", label, attrs)), by="stage")
    assert table["stage"].values.tolist() == ["early", "never", "late", "changed"]
    assert "colors" not in table["stage"].attrs
    assert table["n_cells"].values.tolist() == [19, 0, 19, 3]


@pytest.mark.parametrize("memory", ["1GB", 0])
@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (ODD, sorted(ODD)),
        ([True, False, False], [False, True]),
        ([2.5, np.nan, -1.0], [-1.0, 2.5]),
        ([10, 9, 100], [9, 10, 100]),
        ([None, None, None], []),
        ([np.nan, np.nan], []),
        ([None, True, False], [False, True]),
        (np.array(["2026-01-02", "2026-01-01", "NaT"], dtype="datetime64[ns]"), None),
    ],
)
def test_odd_labels(labels: Any, groups: list[Any] | None, memory: Any) -> None:
    own = np.resize(np.asarray(labels, dtype=object if None in list(labels) else None), 60)
    ds = dataset(6, chunks=13).assign_coords(batch=("cell", own))
    table = sd.summarize(ds, by="batch", memory=memory)
    counts = pd.Series(own).value_counts()
    assert table.sizes["batch"] == len(counts)
    if groups is not None:
        assert table["batch"].values.tolist() == groups
    assert table["n_cells"].values.tolist() == [counts[label] for label in table["batch"].values]
    both = sd.summarize(ds, by=["batch", "cluster"], memory=memory)
    assert both["speed"].shape == (len(counts), 3, 10)
    assert int(both["n_cells"].sum()) == int(((ds["cluster_code"] >= 0).values & pd.notna(own)).sum())


def test_every_cell_a_group_and_all_cells_failed() -> None:
    ds = dataset(7, 5, chunks=2).assign_coords(name=("cell", list("abcde")))
    for memory in ("1GB", 0):
        table = sd.summarize(ds, by="name", memory=memory)
        assert table["n_cells"].values.tolist() == [1] * 5
        for name in ("mean", "median", "q05", "max"):
            np.testing.assert_allclose(table["speed"].sel(statistic=name), ds["speed"].values, rtol=ERROR)
        nothing = sd.summarize(
            ds.assign(speed=ds["speed"] * np.nan, unstable_count=ds["unstable_count"] * 0 - 1), memory=memory
        )
        assert (nothing["speed"].sel(statistic="count") == 0).all()
        assert np.isnan(nothing["speed"].values[:, 1:]).all()
        assert np.isnan(nothing["unstable_fraction"]).all()


def test_no_cells_at_all() -> None:
    table = sd.summarize(dataset(8, chunks=20).isel(cell=slice(0)), by="cluster", memory=0)
    assert table["n_cells"].values.tolist() == [0, 0, 0]
    assert (table["speed"].sel(statistic="count") == 0).all()


@pytest.mark.parametrize("memory", ["1GB", 0])
def test_infinite_values_have_quantiles(memory: Any) -> None:
    """The logarithm of the determinant of a singular Jacobian is minus infinity."""
    ds = dataset(9, 8, labels=["all"], chunks=3)
    values = np.array([-np.inf, -np.inf, -np.inf, 1.0, 2.0, 3.0, 4.0, np.nan])
    ds = ds.assign(speed=("cell", values), cluster_code=("cell", np.zeros(8, dtype=np.int32)))
    ds["speed"] = ds["speed"].chunk({"cell": 3})
    row = sd.summarize(ds, quantiles=(0.1, 0.5, 0.75), memory=memory)["speed"].sel(cluster="all")
    assert row.sel(statistic=["q10", "median", "q75", "min", "max"]).values.tolist() == [
        -np.inf, 1.0, 2.5, -np.inf, 4.0,
    ]  # fmt: skip


@pytest.mark.parametrize("memory", ["1GB", 0])
def test_a_small_spread_about_a_large_mean(memory: Any) -> None:
    """Sums of squares would lose it."""
    ds = dataset(12, 1_000, labels=["all"], chunks=37)
    values = 1e8 + np.random.default_rng(0).normal(size=1_000)
    ds["speed"] = ("cell", values)
    ds["speed"] = ds["speed"].chunk({"cell": 37})
    ds["cluster_code"] = ds["cluster_code"] * 0
    row = sd.summarize(ds, memory=memory)["speed"].sel(cluster="all")
    assert float(row.sel(statistic="std")) == pytest.approx(values.std(), rel=1e-6)
    assert float(row.sel(statistic="mean")) == pytest.approx(values.mean(), rel=1e-14)


def test_grouping_by_a_count_leaves_out_unknown_ones() -> None:
    ds = dataset(10, chunks=9)
    for memory in ("1GB", 0):
        table = sd.summarize(ds, by="unstable_count", memory=memory)
        assert table["unstable_count"].values.tolist() == [0, 1, 2, 3]
        counts = ds["unstable_count"].values
        assert table["n_cells"].values.tolist() == [(counts == n).sum() for n in range(4)]
        assert table["unstable_fraction"].values.tolist() == [0, 1, 1, 1]
        assert "unstable_count" not in table.data_vars


def test_what_cannot_be_grouped_by() -> None:
    ds = dataset(11)
    with pytest.raises(MissingKeyError, match="no label 'bath' for cells; did you mean 'batch'"):
        sd.summarize(ds, by=["cluster", "bath"])
    with pytest.raises(UsageError, match="names a label twice"):
        sd.summarize(ds, by=["batch", "batch"])
    for nothing in ([], [3]):
        with pytest.raises(UsageError, match="expected the name of a label or several"):
            sd.summarize(ds, by=nothing)
    for quantiles in ((1.5,), (-0.1,), (np.nan,)):
        with pytest.raises(UsageError, match="expected numbers from 0 to 1"):
            sd.summarize(ds, quantiles=quantiles)
    with pytest.raises(UsageError, match="names one twice"):
        sd.summarize(ds, quantiles=(0.5, 0.5))
    for memory in ("lots", -1, None):
        with pytest.raises(UsageError, match="memory="):
            sd.summarize(ds, memory=memory)
    with pytest.raises(
        InputError, match="label 'statistic' has the name of a part of the summary; rename it"
    ):
        sd.summarize(ds.assign_coords(statistic=("cell", np.arange(60))), by="statistic")
    mixed = np.resize(np.array([(1,), "a", 2.0], dtype=object), 60)
    with pytest.raises(InputError, match="label 'mixed' cannot be ordered"):
        sd.summarize(ds.assign_coords(mixed=("cell", mixed)), by="mixed")


def test_a_number_is_no_label() -> None:
    n = MAX_GROUPS + 1
    ds = xr.Dataset(
        {"speed": ("cell", np.ones(n))},
        coords={"time": ("cell", np.linspace(0, 1, n), {"annotation": "number"})},
    )
    with pytest.raises(InputError, match="'time' is a number with 100,001 different values, too many"):
        sd.summarize(ds, by="time")
    texts = ds.assign_coords(time=("cell", ds["time"].values.astype(str).astype(object)))
    with pytest.raises(
        InputError, match="'time' makes 100,001 groups; expected at most 100,000: choose a label"
    ):
        sd.summarize(texts, by="time")
    stage = pd.cut(ds["time"].values, 4).astype(str)
    assert group_cells(ds.assign_coords(stage=("cell", stage)), "stage").n_groups == 4
