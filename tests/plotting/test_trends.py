"""Numbers of cells along a pseudotime: bins, bands, groups, what is refused."""

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

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.trends import binned_quartiles


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def lines(ax: Axes) -> list[Any]:
    return [line for line in ax.lines if line.get_linestyle() == "-"]


def test_bins_are_those_of_pandas() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=400), rng.normal(size=400)
    center, low, median, high = binned_quartiles(x, y, bins=8)
    groups = pd.DataFrame({"x": x, "y": y}).groupby(pd.qcut(x, 8, labels=False))
    np.testing.assert_allclose(center, groups["x"].median())
    for found, q in ((low, 0.25), (median, 0.5), (high, 0.75)):
        np.testing.assert_allclose(found, groups["y"].quantile(q))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 99))
def test_bins_do_not_depend_on_the_order_of_cells(values: list[int], bins: int, seed: int) -> None:
    x = np.array(values, dtype=float)
    y = np.arange(len(x), dtype=float)
    order = np.random.default_rng(seed).permutation(len(x))
    first, second = binned_quartiles(x, y, bins), binned_quartiles(x[order], y[order], bins)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert 1 <= len(first[0]) <= bins
    assert (np.diff(first[0]) > 0).all()


def test_how_many_bins() -> None:
    for n, expected in ((1, 1), (10, 2), (1_000, 15), (100_000, 100), (1_000_000, 200)):
        x = np.arange(n, dtype=float)
        assert len(binned_quartiles(x, x)[0]) == expected


def test_a_line_for_all_cells_with_its_band() -> None:
    ds = fake_results(n_cells=400, unlabelled=range(10), failed=(20, 21))
    ax = sd.pl.trend(ds)
    (line,) = lines(ax)
    good = np.isfinite(ds["spectral_abscissa"].values)
    center, low, median, high = binned_quartiles(
        ds["dpt_pseudotime"].values[good], ds["spectral_abscissa"].values[good]
    )
    np.testing.assert_allclose(line.get_xdata(), center)
    np.testing.assert_allclose(line.get_ydata(), median)
    points, band = ax.collections
    assert len(points.get_offsets()) == good.sum() == 388
    outline = band.get_paths()[0].vertices
    assert {*np.round(low, 12), *np.round(high, 12)} <= set(np.round(outline[:, 1], 12))
    assert ax.get_xlabel() == "dpt_pseudotime"
    assert ax.get_ylabel() == "spectral abscissa (1/time)"
    assert any(line.get_linestyle() == "--" for line in ax.lines)
    assert not any(line.get_linestyle() == "--" for line in sd.pl.trend(ds, "speed").lines)
    assert ax.get_legend() is None


def test_a_line_for_every_group() -> None:
    ds = fake_results(("_a", "$b$", "empty"), n_cells=200, failed=range(2, 200, 3))
    ax = sd.pl.trend(ds, "GATA1:SPI1", along="speed", by="cluster")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["_a", "$b$"]
    assert len(lines(ax)) == 2
    assert ax.get_ylabel() == "J[GATA1, SPI1] (1/time)"
    assert ax.get_xlabel() == "speed (expression/time)"
    ax = sd.pl.trend(ds, by="cluster", groups=["$b$"], bins=4)
    (line,) = lines(ax)
    own = ds["cluster_code"].values == 1
    expected = binned_quartiles(ds["dpt_pseudotime"].values[own], ds["spectral_abscissa"].values[own], 4)
    np.testing.assert_allclose(line.get_ydata(), expected[2])


def test_many_cells_are_not_drawn_one_by_one() -> None:
    ax = sd.pl.trend(fake_results(n_cells=30_000))
    assert len(ax.collections) == 1
    assert len(lines(ax)[0].get_xdata()) == 61


def test_odd_shapes() -> None:
    for labels, n_cells in ((("only",), 1), (("a", "empty"), 1), ([f"cluster {i}" for i in range(30)], 60)):
        sd.pl.trend(fake_results(labels, n_cells=n_cells), by="cluster").figure.canvas.draw()
    ds = fake_results(n_cells=9)
    ds["dpt_pseudotime"][:] = 0.5
    ds["dpt_pseudotime"][0] = np.inf
    (line,) = lines(sd.pl.trend(ds, bins=5))
    assert line.get_xdata().tolist() == [0.5]


def test_refusals() -> None:
    ds = fake_results()
    with pytest.raises(
        MissingKeyError, match="no number 'pseudotime' for cells; did you mean 'dpt_pseudotime'"
    ):
        sd.pl.trend(ds, along="pseudotime")
    with pytest.raises(MissingKeyError, match="no label 'kind' for cells"):
        sd.pl.trend(ds, by="kind")
    with pytest.raises(UsageError, match="bins=0; expected at least 1"):
        sd.pl.trend(ds, bins=0)
    with pytest.raises(UsageError, match="groups= without by="):
        sd.pl.trend(ds, groups=["GMP"])
    ds["dpt_pseudotime"][:] = np.nan
    with pytest.raises(InputError, match="no cell has both 'spectral_abscissa' and 'dpt_pseudotime'"):
        sd.pl.trend(ds)
    assert plt.get_fignums() == []
