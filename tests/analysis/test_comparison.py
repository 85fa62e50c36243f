"""Two groups side by side, against pairs counted one by one, SciPy and figures worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import count_blocks, random_atlas
from scipy import stats

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError

Array = np.ndarray[Any, Any]


def two(x: list[float], y: list[float], *, rest: int = 2, **more: list[float]) -> xr.Dataset:
    """Return cells of clusters "a" (values x) and "b" (values y), and others, taking turns in no order."""
    codes = np.array([0] * len(x) + [1] * len(y) + [2] * (rest // 2) + [-1] * (rest - rest // 2))
    columns = {"speed": [*x, *y], **more}
    order = np.random.default_rng(0).permutation(len(codes))
    data: dict[str, Any] = {
        name: ("cell", np.array([*values, *[1e6] * rest], dtype=float)[order])
        for name, values in columns.items()
    }
    return xr.Dataset(
        {**data, "cluster_code": ("cell", codes[order].astype(np.int32))},
        coords={
            "cell": np.array([f"c{i}" for i in range(len(codes))], dtype=object),
            "cluster": np.array(["a", "b", "c", "nobody"], dtype=object),
        },
    )


def by_hand(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return Cliff's delta and Mann-Whitney U by looking at every pair."""
    signs = [np.sign(p - q) for p in x for q in y]
    return float(np.mean(signs)), float(sum(1.0 if s > 0 else 0.5 if s == 0 else 0.0 for s in signs))


values = st.lists(st.floats(-9, 9) | st.sampled_from([0.0, 1.0, np.nan]), min_size=1, max_size=25)


@given(values, values)
@settings(max_examples=60)
def test_effects_are_those_of_all_pairs(x: list[float], y: list[float]) -> None:
    row = sd.compare(two(x, y), "a", "b").loc["speed"]
    p, q = ([value for value in side if not math.isnan(value)] for side in (x, y))
    assert (row["n_a"], row["n_b"]) == (len(p), len(q))
    if not p or not q:
        assert "no values in" in row["note"]
        assert (
            row[["difference", "cohens_d", "cliffs_delta", "mann_whitney_u", "p_value", "p_adjusted"]]
            .isna()
            .all()
        )
        return
    delta, u = by_hand(p, q)
    assert row["cliffs_delta"] == pytest.approx(delta, abs=1e-12)
    assert row["mann_whitney_u"] == pytest.approx(u)
    assert row["difference"] == pytest.approx(np.mean(p) - np.mean(q))
    # SciPy chooses between exact and normal as we do where there are few pairs.
    expected = 1.0 if len(set(p + q)) == 1 else stats.mannwhitneyu(p, q, alternative="two-sided").pvalue
    assert row["p_value"] == expected
    tied = len(set(p + q)) < len(p) + len(q)
    assert ("p is rough" in row["note"]) == (tied and min(len(p), len(q)) <= 8)
    assert row["p_adjusted"] == pytest.approx(row["p_value"])
    assert 0 < row["p_value"] <= 1
    # Turned round, signs turn.
    other = sd.compare(two(x, y), "b", "a").loc["speed"]
    assert other["cliffs_delta"] == pytest.approx(-row["cliffs_delta"], abs=1e-12)
    assert other["p_value"] == pytest.approx(row["p_value"], rel=1e-9)


def test_figures_worked_by_hand() -> None:
    """Means 4 and 2; squares 8 and 2 over 4 degrees of freedom; 7.5 of 9 pairs."""
    row = sd.compare(two([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]), "a", "b").loc["speed"]
    assert (row["mean_a"], row["mean_b"], row["difference"]) == (4, 2, 2)
    assert row["cohens_d"] == pytest.approx(2 / math.sqrt(10 / 4))
    assert row["mann_whitney_u"] == 7.5
    assert row["cliffs_delta"] == pytest.approx(2 * 7.5 / 9 - 1)
    # 2 is in both.
    assert row["note"] == "a group has at most 8 values: p is rough"


def test_the_exact_test_for_few_cells_without_ties() -> None:
    """All of 3 above all of 4: one of 35 arrangements on either side."""
    row = sd.compare(two([5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0]), "a", "b").loc["speed"]
    assert row["p_value"] == pytest.approx(2 / 35)
    assert row["cliffs_delta"] == 1.0


def test_adjusted_p_values_and_order() -> None:
    rng = np.random.default_rng(3)
    shifts = {"trace": 0.3, "spectral_abscissa": 2.0, "spectral_gap": -1.0}
    more = {name: [*(rng.normal(size=30) + shift), *rng.normal(size=40)] for name, shift in shifts.items()}
    x, y = rng.normal(size=30).tolist(), rng.normal(size=40).tolist()
    table = sd.compare(two(x, y, **more), "a", "b")
    assert set(table.index) == {"spectral_abscissa", "spectral_gap", "trace", "speed"}
    assert table["cliffs_delta"].abs().is_monotonic_decreasing
    assert table.index[:2].tolist() == ["spectral_abscissa", "spectral_gap"]
    # Benjamini and Hochberg: p times tests over rank, never more than that of the next larger p.
    ordered = table.sort_values("p_value")
    scaled = ordered["p_value"].to_numpy() * 4 / np.arange(1, 5)
    np.testing.assert_allclose(ordered["p_adjusted"], np.minimum.accumulate(scaled[::-1])[::-1])
    assert table.attrs == {"a": "a", "b": "b", "by": "cluster", "n_cells_a": 30, "n_cells_b": 40}
    some = sd.compare(two(x, y, **more), "a", "b", quantities=["trace", "speed"])
    assert set(some.index) == {"trace", "speed"}
    assert some.loc["trace", "p_value"] == table.loc["trace", "p_value"]


@pytest.mark.parametrize(
    ("x", "y", "d", "delta", "note"),
    [
        ([1.0], [2.0], None, -1.0, "one value each"),
        ([1.0], [2.0, 4.0], -2 / math.sqrt(2), -1.0, ""),
        ([2.0, 2.0], [2.0, 2.0, 2.0], None, 0.0, "all values of each are equal"),
        ([0.1] * 7, [0.3] * 7, None, -1.0, "all values of each are equal"),
        ([-np.inf, 1.0], [0.0, 2.0, 3.0], None, -2 / 3, "infinite values"),
    ],
)
def test_groups_too_small_or_too_equal(
    x: list[float], y: list[float], d: float | None, delta: float, note: str
) -> None:
    row = sd.compare(two(x, y), "a", "b").loc["speed"]
    assert math.isnan(row["cohens_d"]) if d is None else row["cohens_d"] == pytest.approx(d)
    assert row["cliffs_delta"] == pytest.approx(delta)
    assert 0 < row["p_value"] <= 1
    assert row["note"].startswith(note) if note else row["note"] == ""


def test_few_cells_against_many_take_no_time() -> None:
    """The exact distribution would."""
    rng = np.random.default_rng(0)
    row = sd.compare(two(rng.normal(size=6).tolist(), rng.normal(size=60_000).tolist()), "a", "b").loc[
        "speed"
    ]
    assert row["note"] == "a group has at most 8 values: p is rough"
    assert 0 < row["p_value"] < 1


def test_groups_without_cells_and_without_values() -> None:
    table = sd.compare(two([1.0, 2.0], [3.0], trace=[np.nan, np.nan, 1.0]), "a", "b")
    assert table.loc["trace", "note"] == "no values in 'a'"
    assert table.index.tolist() == ["speed", "trace"]
    assert math.isnan(table.loc["trace", "p_adjusted"])
    assert table.loc["speed", "p_adjusted"] == table.loc["speed", "p_value"]
    empty = sd.compare(two([1.0, 2.0], [3.0]), "nobody", "b").loc["speed"]
    assert (empty["n_a"], empty["n_b"], empty["mean_b"]) == (0, 1, 3.0)
    assert empty["note"] == "no cells in 'nobody'"
    assert math.isnan(empty["p_adjusted"])


def test_labels_and_quantities_that_are_not_there() -> None:
    ds = two([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(
        MissingKeyError, match="no cells have the label 'nobdy' of 'cluster'; did you mean 'nobody'"
    ):
        sd.compare(ds, "a", "nobdy")
    with pytest.raises(MissingKeyError, match="no label 'batch' for cells"):
        sd.compare(ds, "a", "b", by="batch")
    with pytest.raises(MissingKeyError, match="no quantity 'sped' in the results; did you mean 'speed'"):
        sd.compare(ds, "a", "b", quantities=["sped"])
    with pytest.raises(UsageError, match="a and b are both 'a'"):
        sd.compare(ds, "a", "a")
    with pytest.raises(UsageError, match="expected a list"):
        sd.compare(ds, "a", "b", quantities="speed")
    with pytest.raises(UsageError, match="quantities is empty"):
        sd.compare(ds, "a", "b", quantities=[])
    with pytest.raises(UsageError, match="expected the name of one label"):
        sd.compare(ds, "a", "b", by=["cluster", "batch"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="clusters of the results were selected"):
        sd.compare(
            ds.sel(cluster=["b", "a", "c", "nobody"]).assign_coords(
                cell_cluster=("cell", np.append(ds["cluster"].values, np.nan)[ds["cluster_code"].values])
            ),
            "a",
            "b",
        )


@pytest.mark.parametrize(
    ("labels", "a", "b"),
    [
        ([True, False], True, False),
        ([True, False], "True", "False"),
        ([10, 2], 10, 2),
        ([10, 2], "10", "2"),
        ([0.5, np.nan, 2.0], "0.5", 2),
        (["../x", None, "_a"], "../x", "_a"),
    ],
)
def test_by_other_labels(labels: list[Any], a: Any, b: Any) -> None:
    x = np.random.default_rng(0).normal(size=12)
    own = np.resize(np.array(labels, dtype=object if None in labels else None), 12)
    ds = xr.Dataset({"speed": ("cell", x)}, coords={"tag": ("cell", own)})
    row = sd.compare(ds, a, b, by="tag").loc["speed"]
    first, last = x[:: len(labels)], x[len(labels) - 1 :: len(labels)]
    assert row["cliffs_delta"] == pytest.approx(by_hand(first.tolist(), last.tolist())[0])


def test_lazy_results_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(5, clusters=("A", "B"), unlabelled=(0,), broken=(5,))
    pairs = [("gene0", "gene1"), ("gene2", "gene2")]
    ds = sd.stability(atlas.cells(), atlas.field, elements=pairs, vectors="right")
    computed = count_blocks(monkeypatch)
    table = sd.compare(ds, "A", "B")
    assert computed == [8, 8, 8]
    loaded = ds.compute()
    member = loaded["cell_cluster"].values == "A"
    assert table.loc["element gene0:gene1", "mean_a"] == pytest.approx(
        loaded["element"].values[member, 0].mean()
    )
    # Checks of the computation are compared when asked for.
    assert not {"residual", "trace_defect", "near_switch_count"} & set(table.index)
    asked = sd.compare(loaded, "A", "B", quantities=["residual", "gene2:gene2", "element gene0:gene1"])
    assert set(asked.index) == {"residual", "element gene2:gene2", "element gene0:gene1"}
    every = sd.compare(loaded, "A", "B", quantities=["element"])
    assert set(every.index) == {"element gene0:gene1", "element gene2:gene2"}
    # A label that is to be computed itself.
    fast = ds["speed"] > float(np.nanmedian(loaded["speed"].values))
    computed.clear()
    table = sd.compare(ds.assign(fast=fast), True, False, by="fast", quantities=["speed"])
    assert computed == [8, 8, 8]
    assert table.loc["speed", "cliffs_delta"] == 1.0
