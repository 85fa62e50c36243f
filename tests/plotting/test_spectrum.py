"""The figure of eigenvalues: what it shows, where it draws, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from random_atlas import count_blocks, random_atlas

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError
from stabdask.plotting import spectrum


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def make(n_cells: int = 24, **options: Any) -> xr.Dataset:
    atlas = random_atlas(2, n_cells=n_cells, clusters=("B", "A", "C"), n_regulators=(5, 3, 6), **options)
    return sd.stability(atlas.cells(), atlas.field)


def drawn(ax: Axes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the points of every label, as complex numbers."""
    return {
        str(points.get_label()): np.asarray(points.get_offsets()) @ np.array([1, 1j])
        for points in ax.collections
    }


def values_of(ds: xr.Dataset, label: str) -> np.ndarray[Any, Any]:
    values = ds["eigenvalue"].values[ds["cell_cluster"].values == label].ravel()
    return values[np.isfinite(values)]


def test_every_eigenvalue_of_every_cluster_is_drawn() -> None:
    ds = make(unlabelled=(3,), broken=(4, 5)).compute()
    ax = spectrum(ds)
    assert isinstance(ax, Axes)
    points = drawn(ax)
    assert list(points) == ["A", "B", "C"]
    for label, values in points.items():
        np.testing.assert_array_equal(np.sort_complex(values), np.sort_complex(values_of(ds, label)))
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["A", "B", "C"]
    assert "1/time" in ax.get_xlabel()
    assert ax.get_ylabel() == "imaginary part (rad/time)"
    # The stability boundary.
    assert [line.get_xdata()[0] for line in ax.lines] == [0.0]
    ax.figure.canvas.draw()


def test_chosen_clusters_keep_their_colors_and_come_in_order() -> None:
    ds = make().compute()
    everything = {str(c.get_label()): c.get_facecolor() for c in spectrum(ds).collections}
    ax = spectrum(ds, clusters=["C", "A"])
    assert list(drawn(ax)) == ["C", "A"]
    for points in ax.collections:
        assert same_color(points.get_facecolor(), everything[str(points.get_label())])
    assert not same_color(everything["A"], everything["B"])


def test_axes_that_are_given_are_drawn_into() -> None:
    ds = make().compute()
    figure, (left, right) = plt.subplots(1, 2)
    assert spectrum(ds, ax=right) is right
    assert right.collections
    assert not left.collections
    assert plt.get_fignums() == [figure.number]
    # Without any, a new figure is made; what is current is left alone.
    other = spectrum(ds)
    assert other.figure is not figure
    assert len(plt.get_fignums()) == 2


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_figure_is_saved(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"spectrum.{suffix}"
    spectrum(make(), save=str(path))
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start)
    assert path.stat().st_size > 4000


def test_axes_in_a_part_of_a_figure_save_the_whole(tmp_path: Path) -> None:
    figure = plt.figure(figsize=(8, 2), dpi=100)
    top, _ = figure.subfigures(1, 2)
    spectrum(make(), ax=top.subplots(), save=str(tmp_path / "whole.png"))
    assert plt.imread(tmp_path / "whole.png").shape[:2] == (300, 1200)


def test_large_clusters_are_sampled() -> None:
    ds = make(90, zeros=0.0).compute()  # 30 cells of each
    sizes = {"A": 3, "B": 5, "C": 6}
    few = spectrum(ds, max_cells=4)
    for label, values in drawn(few).items():
        assert len(values) == 4 * sizes[label]
        assert set(values) <= set(values_of(ds, label))
    again, other = (drawn(spectrum(ds, max_cells=4, seed=seed)) for seed in (0, 1))
    for label, values in drawn(few).items():
        np.testing.assert_array_equal(values, again[label])
    assert any(set(values) != set(other[label]) for label, values in drawn(few).items())
    for bound in (30, 31, 500):
        for label, values in drawn(spectrum(ds, max_cells=bound)).items():
            assert len(values) == 30 * sizes[label]


def test_points_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # The function has the name of its module, and hides it.
    monkeypatch.setattr(import_module("stabdask.plotting.spectrum"), "_MOST_POINTS", 7)
    ds = make().compute()
    for label, values in drawn(spectrum(ds)).items():
        own = values_of(ds, label)
        assert len(own) > 7
        assert len(values) == 7
        assert set(values) <= set(own)


def test_a_lazy_dataset_is_computed_once_and_only_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_blocks(monkeypatch)
    spectrum(make(64))
    assert computed == [8] * 8
    computed.clear()
    spectrum(make(64), clusters=["A"], max_cells=1)
    assert computed == [8]


def test_the_same_from_a_store(tmp_path: Path) -> None:
    atlas = random_atlas(2, clusters=("B", "A"))
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", workers=0, progress=False)
    stored = drawn(sd.pl.spectrum(sd.open_results(tmp_path / "out.zarr")))
    lazy = drawn(sd.pl.spectrum(sd.stability(atlas.cells(), atlas.field)))
    assert stored.keys() == lazy.keys()
    for label, values in stored.items():
        np.testing.assert_array_equal(values, lazy[label])


def test_leading_eigenvalues_and_single_precision_are_drawn() -> None:
    atlas = random_atlas(2)
    ds = sd.stability(atlas.cells(), atlas.field, spectrum="leading", modes=2, dtype="float32").compute()
    for label, values in drawn(spectrum(ds)).items():
        np.testing.assert_array_equal(np.sort_complex(values), np.sort_complex(values_of(ds, label)))


def test_clusters_without_eigenvalues_are_in_the_legend() -> None:
    ds = make(24, broken=range(0, 24, 3)).compute()  # all cells of B
    ax = spectrum(ds)
    assert len(drawn(ax)["B"]) == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["A", "B", "C"]
    ax.figure.canvas.draw()


def test_refusals() -> None:
    ds = make()
    with pytest.raises(MissingKeyError, match="no cluster 'a'; did you mean 'A'"):
        spectrum(ds, clusters=["B", "a"])
    with pytest.raises(MissingKeyError, match="no cluster 'zzz'; clusters present: 'A', 'B', 'C'"):
        spectrum(ds, clusters=["zzz"])
    for bound in (0, -1):
        with pytest.raises(UsageError, match=f"max_cells={bound}; expected at least 1"):
            spectrum(ds, max_cells=bound)
    atlas = random_atlas(2)
    with pytest.raises(MissingKeyError, match="hold no eigenvalues; run with spectrum='full'"):
        spectrum(sd.stability(atlas.cells(), atlas.field, spectrum="none"))
    # Nothing is left behind by a refusal.
    assert plt.get_fignums() == []


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("labels", [("_hidden", "B"), ("<b>", "$x"), ("été → π", "../x"), ("a\nb", "")])
def test_any_label_is_in_the_legend(labels: tuple[str, str]) -> None:
    atlas = random_atlas(2, clusters=labels)
    ax = spectrum(sd.stability(atlas.cells(), atlas.field))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == sorted(labels)
    ax.figure.canvas.draw()
