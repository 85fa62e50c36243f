"""Cells on an embedding: where they are, their colors and order, what is missing, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import fake_results
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.style import MISSING, PALETTE

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def parts(ax: Axes) -> tuple[Any, Any]:
    """Return the points without a value, and those with one."""
    return ax.collections[0], ax.collections[1]


def by_place(points: Any, values: Array) -> dict[tuple[float, float], float]:
    return dict(zip(map(tuple, np.asarray(points.get_offsets()).tolist()), values.tolist(), strict=True))


def test_every_cell_has_its_value_at_its_place() -> None:
    ds = fake_results(n_cells=60, failed=(4, 9))
    ax = sd.pl.embedding(ds)
    missing, points = parts(ax)
    xy, values = ds["X_umap"].values, ds["spectral_abscissa"].values
    good = np.isfinite(values)
    expected = {tuple(place): value for place, value in zip(xy[good].tolist(), values[good], strict=True)}
    assert by_place(points, points.get_array()) == expected
    np.testing.assert_array_equal(np.sort(missing.get_offsets(), axis=0), np.sort(xy[[4, 9]], axis=0))
    assert missing.get_zorder() < points.get_zorder()
    assert points.get_rasterized()
    assert ax.get_aspect() == 1.0
    assert (len(ax.get_xticks()), len(ax.get_yticks())) == (0, 0)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("umap 1", "umap 2")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no value"]


def test_order_is_random_and_repeatable() -> None:
    ds = fake_results(n_cells=60)
    orders = [np.asarray(parts(sd.pl.embedding(ds, seed=seed))[1].get_offsets()) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], ds["X_umap"].values)
    few = parts(sd.pl.embedding(ds, max_cells=7))[1]
    assert len(few.get_offsets()) == 7


def test_colors_of_numbers() -> None:
    ds = fake_results(n_cells=200)
    for name in ("spectral_abscissa", "GATA1:SPI1"):
        points = parts(sd.pl.embedding(ds, name))[1]
        assert points.get_cmap().name == "stability"
        assert points.norm.vmin == -points.norm.vmax
    values = ds["spectral_abscissa"].values
    low, high = np.percentile(values, (1, 99))
    assert parts(sd.pl.embedding(ds))[1].norm.vmax == pytest.approx(max(-low, high))
    values = ds["speed"].values
    points = parts(sd.pl.embedding(ds, "speed", percentiles=(5, 90)))[1]
    assert points.get_cmap().name == "viridis"
    np.testing.assert_allclose((points.norm.vmin, points.norm.vmax), np.percentile(values, (5, 90)))
    # All about -500: centered on 0 they would have one color.
    points = parts(sd.pl.embedding(ds, "trace"))[1]
    assert points.get_cmap().name == "viridis"
    ds["trace"] = ds["trace"] + 500.0
    assert parts(sd.pl.embedding(ds, "trace"))[1].get_cmap().name == "stability"
    points = parts(sd.pl.embedding(ds, "speed", limits=(1, 2)))[1]
    assert (points.norm.vmin, points.norm.vmax) == (1, 2)
    points = parts(sd.pl.embedding(ds, limits=(-2, 2)))[1]
    assert points.get_cmap().name == "stability"


@pytest.mark.parametrize(
    ("limits", "extend"),
    [((-1, 1), "both"), ((-99, 99), "neither"), ((-1, 99), "min"), ((-99, 1), "max")],
)
def test_the_color_bar_says_what_lies_beyond(limits: tuple[float, float], extend: str) -> None:
    ax = sd.pl.embedding(fake_results(n_cells=300), limits=limits)
    bar = parts(ax)[1].colorbar
    assert bar.extend == extend
    assert bar.ax.get_ylabel() == "spectral abscissa (1/time)"


def test_labels_have_the_colors_of_their_clusters() -> None:
    ds = fake_results(("_a", "../x", "$c$"), n_cells=30, unlabelled=(0, 3))
    for color in ("cluster", "cell_cluster"):
        ax = sd.pl.embedding(ds, color)
        missing, points = parts(ax)
        assert len(missing.get_offsets()) == 2
        np.testing.assert_allclose(missing.get_facecolor()[0], to_rgba(MISSING))
        shades = dict(
            zip(map(tuple, np.asarray(points.get_offsets()).tolist()), points.get_facecolor(), strict=True)
        )
        for place, code in zip(ds["X_umap"].values.tolist(), ds["cluster_code"].values, strict=True):
            if code >= 0:
                np.testing.assert_allclose(shades[tuple(place)], to_rgba(PALETTE[code]))
        legend = ax.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["_a", "../x", "$c$", "no label"]


def test_numbers_that_are_labels() -> None:
    ds = fake_results(n_cells=12)
    leiden = ("cell", np.arange(12) % 3, {"annotation": "label", "labels": ["2", "1", "0"]})
    ds = ds.assign_coords(batch=("cell", np.arange(12) % 3))
    assert parts(sd.pl.embedding(ds, "batch"))[1].get_array() is not None
    ds = ds.assign_coords(leiden=(*leiden[:1], leiden[1].astype(str).astype(object), leiden[2]))
    legend = sd.pl.embedding(ds, "leiden").get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["2", "1", "0"]


def test_coordinates_from_arrays_and_from_adata() -> None:
    ds = fake_results(n_cells=10)
    xy = ds["X_umap"].values
    bare = ds.drop_vars("X_umap")
    expected = by_place(parts(sd.pl.embedding(ds))[1], parts(sd.pl.embedding(ds))[1].get_array())
    ax = sd.pl.embedding(bare, basis=np.c_[xy, np.zeros(10)])
    assert by_place(parts(ax)[1], parts(ax)[1].get_array()) == expected
    assert ax.get_xlabel() == ""
    # By name, in any order; one cell is not there and one is not ours.
    order = [3, 0, 9, 8, 7, 6, 5, 4, 2]
    adata = anndata.AnnData(obs=pd.DataFrame(index=[*ds["cell"].values[order], "other"]))
    adata.obsm["X_umap"] = np.vstack([xy[order], [[7.0, 7.0]]])
    ax = sd.pl.embedding(bare, adata=adata)
    del expected[tuple(xy[1].tolist())]
    assert by_place(parts(ax)[1], parts(ax)[1].get_array()) == expected


def test_cells_that_are_nowhere_are_left_out() -> None:
    ds = fake_results(n_cells=10)
    ds["X_umap"][2, 0] = np.nan
    ds["X_umap"][3, 1] = np.inf
    assert len(parts(sd.pl.embedding(ds))[1].get_offsets()) == 8


@pytest.mark.parametrize("size", [0.3, 40.0])
def test_the_legend_shows_what_cells_without_a_value_look_like(size: float) -> None:
    ds = fake_results(n_cells=10)
    ds["spectral_abscissa"][3] = np.nan
    legend = sd.pl.embedding(ds, size=size).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["no value"]
    np.testing.assert_allclose(legend.legend_handles[0].get_sizes(), max(size, 20.0))


def test_elements_have_a_scale_each() -> None:
    ds = fake_results(n_cells=300)
    ds["element"][:, 1] = 100 * ds["element"][:, 1]
    figure = sd.pl.elements(ds)
    axes = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == ["J[GATA1, SPI1]", "J[SPI1, GATA1]"]
    for number, ax in enumerate(axes):
        points = parts(ax)[1]
        most = np.abs(np.percentile(ds["element"].values[:, number], (1, 99))).max()
        assert points.norm.vmax == pytest.approx(most)
        assert points.norm.vmin == -points.norm.vmax
        assert points.colorbar.ax.get_ylabel() == "1/time"
    for pairs in (["SPI1:GATA1"], [("SPI1", "GATA1")]):
        figure = sd.pl.elements(ds, pairs)
        assert figure.axes[0].get_title() == "J[SPI1, GATA1]"


@pytest.mark.filterwarnings("error")
def test_odd_shapes() -> None:
    for labels, n_cells, failed in (
        (("only",), 1, ()),
        (("only",), 3, range(3)),
        ([f"cluster {i}" for i in range(30)], 60, ()),
    ):
        ds = fake_results(labels, n_cells=n_cells, failed=failed)
        for color in ("spectral_abscissa", "unstable_count", "cluster", "GATA1:SPI1"):
            sd.pl.embedding(ds, color).figure.canvas.draw()
            plt.close("all")
    same = fake_results(n_cells=9)
    same["speed"] = same["speed"] * 0.0
    sd.pl.embedding(same, "speed").figure.canvas.draw()


def test_everything_is_computed_at_once() -> None:
    import dask

    calls = []
    ds = fake_results(n_cells=40, chunks=10)
    with dask.config.set(scheduler=lambda graph, keys, **options: calls.append(1) or dask.get(graph, keys)):
        sd.pl.embedding(ds, "GATA1:SPI1")
        assert len(calls) == 1
        sd.pl.elements(ds)
        assert len(calls) == 2


def test_refusals() -> None:
    ds = fake_results()
    with pytest.raises(
        MissingKeyError, match="no embedding 'X_tsne'; embeddings present: 'X_umap'; or pass adata="
    ):
        sd.pl.embedding(ds, basis="X_tsne")
    with pytest.raises(MissingKeyError, match="no label or number 'speeed' for cells; did you mean 'speed'"):
        sd.pl.embedding(ds, "speeed")
    with pytest.raises(InputError, match=r"basis has shape \(3, 2\); expected \(120, 2\)"):
        sd.pl.embedding(ds, basis=np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"basis has shape \(120,\)"):
        sd.pl.embedding(ds, basis=np.zeros(120))
    bare = ds.drop_vars("X_umap")
    adata = anndata.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    with pytest.raises(MissingKeyError, match=r"no obsm\['X_umap'\]; there are no embeddings"):
        sd.pl.embedding(bare, adata=adata)
    adata.obsm["X_umap"] = np.zeros((2, 2))
    with pytest.raises(InputError, match="none of the cells of the results"):
        sd.pl.embedding(bare, adata=adata)
    for wrong in ((5, 5), (-1, 99), (1, 101), (99, 1)):
        with pytest.raises(UsageError, match="percentiles="):
            sd.pl.embedding(ds, percentiles=wrong)
    with pytest.raises(UsageError, match="limits="):
        sd.pl.embedding(ds, limits=(1, 1))
    with pytest.raises(UsageError, match="max_cells=0"):
        sd.pl.embedding(ds, max_cells=0)
    with pytest.raises(MissingKeyError, match="no pair 'GATA1:SPI2'; did you mean 'GATA1:SPI1'"):
        sd.pl.elements(ds, ["GATA1:SPI2"])
    with pytest.raises(MissingKeyError, match="hold no elements"):
        sd.pl.elements(ds.drop_vars("element"))
    with pytest.raises(UsageError, match="0 pairs; expected 1 to 60"):
        sd.pl.elements(ds, [])
    with pytest.raises(UsageError, match="pairs='GATA1:SPI1'; expected a sequence"):
        sd.pl.elements(ds, "GATA1:SPI1")
    assert plt.get_fignums() == []
