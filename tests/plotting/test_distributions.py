"""Boxes and violins: their statistics, their groups, what is left out, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import fake_results
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from random_atlas import count_blocks, random_atlas
from scipy.stats import gaussian_kde

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.distributions import _box, _density

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def names(ax: Axes, axis: str = "x") -> list[list[str]]:
    """Return label and count of every group."""
    return [text.get_text().split("\n") for text in getattr(ax, f"get_{axis}ticklabels")()]


def medians(ax: Axes) -> list[float]:
    """Return the medians of vertical boxes: the only lines of that width."""
    return [float(line.get_ydata()[0]) for line in ax.lines if line.get_linewidth() == 1.4]


values = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=40)


@given(values)
def test_boxes_are_those_of_matplotlib(found: list[float]) -> None:
    array = np.array(found)
    own, oracle = _box(array), boxplot_stats(array)[0]
    for name in ("med", "q1", "q3", "whislo", "whishi"):
        assert own[name] == pytest.approx(oracle[name], abs=1e-9)
    # Of all fliers, the ends.
    assert set(own["fliers"]) <= set(oracle["fliers"])
    if len(oracle["fliers"]):
        ends = {array.min(), array.max()} & set(oracle["fliers"])
        assert set(own["fliers"]) == ends


def test_a_box_worked_by_hand() -> None:
    box = _box(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 20.0, 30.0]))
    # Quartiles 1.5 and 12, reach 15.75: all but 30 within.
    assert (box["q1"], box["med"], box["q3"]) == (1.5, 3.0, 12.0)
    assert (box["whislo"], box["whishi"], box["fliers"]) == (0.0, 20.0, [30.0])


def test_densities_are_those_of_the_kernel() -> None:
    array = np.random.default_rng(0).normal(size=4000)
    spread = min(array.std(), np.subtract(*np.quantile(array, (0.75, 0.25))) / 1.349)
    bandwidth = 0.9 * spread * len(array) ** -0.2
    found = _density(array)
    inner = np.abs(found["coords"]) < 2
    oracle = gaussian_kde(array, bandwidth / array.std(ddof=1))(found["coords"][inner])
    scale = found["vals"][inner].sum() / oracle.sum()
    np.testing.assert_allclose(found["vals"][inner] / scale, oracle, rtol=0.01, atol=1e-4)
    assert found["coords"][0] >= array.min()
    assert found["coords"][-1] <= array.max()


def test_a_density_with_a_far_outlier_keeps_its_shape() -> None:
    array = np.append(np.random.default_rng(0).normal(size=5000), 1e6)
    found = _density(array)
    assert found["max"] == 1e6
    assert found["coords"][-1] < 10
    assert (found["vals"] > 0.5 * found["vals"].max()).sum() > 40


@pytest.mark.parametrize("array", [[3.0], [3.0, 3.0, 3.0], [0.0, 1e-300], [1.0, 2.0]])
def test_few_values_are_a_violin_too(array: list[float]) -> None:
    found = _density(np.array(array))
    assert np.isfinite(found["vals"]).all()
    assert found["vals"].max() > 0
    assert len(found["coords"]) == len(found["vals"])


@pytest.mark.parametrize("draw", [sd.pl.boxplot, sd.pl.violin])
def test_groups_and_counts(draw: Any) -> None:
    ds = fake_results(n_cells=60, unlabelled=(0, 1), failed=(5, 8))
    ax = draw(ds)
    # 20 of each; 0 is progenitor, 1 MEP, 5 and 8 GMP.
    assert names(ax) == [["progenitor", "19"], ["MEP", "19"], ["GMP", "18"]]
    assert names(draw(ds, groups=["GMP", "progenitor"])) == [["GMP", "18"], ["progenitor", "19"]]


def test_medians_and_units() -> None:
    ds = fake_results(n_cells=60, failed=(4,))
    frame = pd.DataFrame({"x": ds["speed"].values, "label": ds["cell_cluster"].values})
    ax = sd.pl.boxplot(ds, "speed")
    expected = frame.groupby("label")["x"].median()[["progenitor", "MEP", "GMP"]]
    np.testing.assert_allclose(medians(ax), expected)
    assert ax.get_ylabel() == "speed (expression/time)"
    assert sd.pl.boxplot(ds).get_ylabel() == "number of unstable modes"
    ax = sd.pl.boxplot(ds, "SPI1:GATA1")
    assert ax.get_ylabel() == "J[SPI1, GATA1] (1/time)"
    element = ds["element"].values[:, 1]
    expected = [np.nanmedian(element[ds["cluster_code"].values == code]) for code in range(3)]
    np.testing.assert_allclose(medians(ax), expected)


def zero_line(ax: Axes) -> bool:
    return any(line.get_linestyle() == "--" for line in ax.lines)


def test_the_boundary_is_drawn_where_there_is_one() -> None:
    ds = fake_results()
    assert zero_line(sd.pl.violin(ds))
    assert zero_line(sd.pl.violin(ds, "GATA1:SPI1"))
    assert not zero_line(sd.pl.violin(ds, "speed"))
    # About -500: 0 would leave the boxes too small to be seen.
    assert not zero_line(sd.pl.boxplot(ds, "trace"))
    ds["trace"] = ds["trace"] + 500.0
    assert zero_line(sd.pl.boxplot(ds, "trace"))
    ds["spectral_abscissa"] = ds["spectral_abscissa"] - 50.0
    ax = sd.pl.violin(ds)
    assert zero_line(ax)
    assert ax.get_ylim()[1] >= 0


def test_uncomputed_counts_are_no_values() -> None:
    ds = fake_results(n_cells=30, failed=range(0, 30, 3))
    assert (ds["unstable_count"].values == -1).sum() == 10
    ax = sd.pl.boxplot(ds)
    assert names(ax)[0] == ["progenitor", "0"]
    assert len(medians(ax)) == 2
    assert min(medians(ax)) >= 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", [sd.pl.boxplot, sd.pl.violin, sd.pl.overview, sd.pl.positive_parts])
def test_odd_shapes(draw: Any) -> None:
    for labels, n_cells, failed in (
        (("only",), 1, ()),
        (("only",), 5, range(5)),
        (("a", "empty"), 1, ()),
        (("_a", "../x", "$x$", "<b>", ""), 20, ()),
        ([f"cluster {i}" for i in range(30)], 90, ()),
    ):
        drawn = draw(fake_results(labels, n_cells=n_cells, failed=failed))
        drawn.figure.canvas.draw()


def test_many_or_long_names_lie_beside_horizontal_boxes() -> None:
    labels = [f"a rather long name {i}" for i in range(12)]
    ax = sd.pl.boxplot(fake_results(labels))
    assert [name for name, _ in names(ax, "y")] == labels
    # The first on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert "unstable" in ax.get_xlabel()
    # What is given is narrow.
    _, given_axes = plt.subplots(figsize=(2.5, 3))
    assert len(names(sd.pl.boxplot(fake_results(), ax=given_axes), "y")) == 3


def test_no_name_covers_another() -> None:
    for ds in (fake_results(), fake_results([f"name {i}" for i in range(9)]), fake_results(["x" * 50] * 1)):
        ax = sd.pl.boxplot(ds)
        ax.figure.canvas.draw()
        for texts in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [text.get_window_extent() for text in texts if text.get_text()]
            for number, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_annotations_are_groups_in_their_own_order_and_colors() -> None:
    ds = fake_results(n_cells=12)
    donor = np.array(["b", "a", np.nan] * 4, dtype=object)
    attrs = {"annotation": "label", "labels": ["c", "b", "a"], "colors": ["#ff0000", "#00ff00", "#0000ff"]}
    ds = ds.assign_coords(donor=("cell", donor, attrs), batch=("cell", np.arange(12) % 2))
    ax = sd.pl.boxplot(ds, by="donor")
    assert names(ax) == [["c", "0"], ["b", "4"], ["a", "4"]]
    np.testing.assert_allclose([patch.get_facecolor()[:3] for patch in ax.patches], [(0, 1, 0), (0, 0, 1)])
    del ds["donor"].attrs["labels"]
    assert names(sd.pl.boxplot(ds, by="donor")) == [["a", "4"], ["b", "4"]]
    assert names(sd.pl.boxplot(ds, by="batch")) == [["0", "6"], ["1", "6"]]


def test_positive_parts_by_hand() -> None:
    ds = fake_results(n_cells=90, failed=(3,))
    figure = sd.pl.positive_parts(ds, clusters=["MEP", "GMP"])
    real, imag = figure.axes
    for code, label in ((1, "MEP"), (2, "GMP")):
        found = ds["eigenvalue"].values[ds["cluster_code"].values == code].ravel()
        assert [label, str((found.real > 0).sum())] in names(real, "y")
        assert [str((found.imag > 0).sum())] in names(imag, "y")
    assert "1/time" in real.get_xlabel()
    assert "rad/time" in imag.get_xlabel()
    sampled = sd.pl.positive_parts(ds, max_cells=5)
    assert "sample of 5 cells" in sampled.get_suptitle()
    assert sum(int(count) for *_, count in names(sampled.axes[1], "y")) == 3 * 5 * 3


def test_overview_has_speed_beside_the_rest() -> None:
    figure = sd.pl.overview(fake_results())
    labels = " ".join(ax.get_xlabel() for ax in figure.axes)
    for word in ("unstable", "trace", "rotational", "speed"):
        assert word in labels
    assert [name for name, _ in names(figure.axes[0], "y")] == ["progenitor", "MEP", "GMP"]
    assert len(sd.pl.overview(fake_results(), ["speed"]).axes) == 1


def test_lazy_results_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(2, n_cells=24)
    computed = count_blocks(monkeypatch)
    for draw in (sd.pl.overview, sd.pl.boxplot, sd.pl.violin):
        computed.clear()
        draw(sd.stability(atlas.cells(), atlas.field))
        assert computed == [8] * 3


def test_refusals() -> None:
    ds = fake_results()
    with pytest.raises(MissingKeyError, match="no number 'sped' for cells; did you mean 'speed'"):
        sd.pl.boxplot(ds, "sped")
    with pytest.raises(MissingKeyError, match="no number 'cell_cluster' for cells"):
        sd.pl.violin(ds, "cell_cluster")
    with pytest.raises(MissingKeyError, match="no label 'clutser' for cells; did you mean 'cluster'"):
        sd.pl.boxplot(ds, by="clutser")
    with pytest.raises(MissingKeyError, match="no group 'gmp'; did you mean 'GMP'"):
        sd.pl.boxplot(ds, groups=["gmp"])
    with pytest.raises(UsageError, match="groups='GMP'; expected a sequence"):
        sd.pl.boxplot(ds, groups="GMP")
    with pytest.raises(UsageError, match="'speed' has 300 different values; expected a label of at most 200"):
        sd.pl.boxplot(fake_results(n_cells=300), by="speed")
    with pytest.raises(UsageError, match="quantities='speed'; expected a sequence"):
        sd.pl.overview(ds, "speed")
    with pytest.raises(InputError, match="selected or reordered"):
        sd.pl.boxplot(ds.isel(cluster=[1, 0, 2]))
    with pytest.raises(MissingKeyError, match="hold no eigenvalues"):
        sd.pl.positive_parts(ds.drop_vars("eigenvalue"))
    with pytest.raises(UsageError, match="max_cells=0"):
        sd.pl.positive_parts(ds, max_cells=0)
    assert plt.get_fignums() == []
