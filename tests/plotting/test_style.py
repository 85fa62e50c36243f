"""What figures have in common: colors, files, axes, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from fake_results import fake_edges, fake_genes, fake_knockouts, fake_responses, fake_results, fake_timings
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import stabdask as sd
from stabdask.errors import OutputError, UsageError
from stabdask.plotting.style import PALETTE, diverging, grid, palette, short

Draw = Callable[..., Any]


@cache
def toggle() -> xr.Dataset:
    """Return the fixed points of a toggle switch."""
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0
    )
    return sd.fixed_points(field, starts=[[3.0, 0.1], [0.1, 3.0], [1.6, 1.6]])


RHO = np.array([[1.0, 0.5, -0.2], [0.5, 1.0, 0.1], [-0.2, 0.1, 1.0]])

ONE_AXES: dict[str, Draw] = {
    "spectrum": lambda **o: sd.pl.spectrum(fake_results(), **o),
    "spectrum of density": lambda **o: sd.pl.spectrum(fake_results(), kind="density", **o),
    "boxplot": lambda **o: sd.pl.boxplot(fake_results(), **o),
    "violin": lambda **o: sd.pl.violin(fake_results(), **o),
    "embedding": lambda **o: sd.pl.embedding(fake_results(), **o),
    "embedding of clusters": lambda **o: sd.pl.embedding(fake_results(), "cluster", **o),
    "driver_genes": lambda **o: sd.pl.driver_genes(fake_genes(), **o),
    "driver_edges": lambda **o: sd.pl.driver_edges(fake_edges(), **o),
    "driver_network": lambda **o: sd.pl.driver_network(fake_edges(), **o),
    "partial_correlations": lambda **o: sd.pl.partial_correlations(RHO, **o),
    "edge_changes": lambda **o: sd.pl.edge_changes(sd.network.compare(RHO, np.eye(3)), **o),
    "precision_network": lambda **o: sd.pl.precision_network(sd.network.edges(RHO, top=3), **o),
    "update_timing": lambda **o: sd.pl.update_timing(fake_timings(), **o),
    "knockout_shifts": lambda **o: sd.pl.knockout_shifts(fake_knockouts(), group="GMP", **o),
    "knockout_heatmap": lambda **o: sd.pl.knockout_heatmap(fake_knockouts(order=2), group="GMP", **o),
    "response_heatmap": lambda **o: sd.pl.response_heatmap(fake_responses(), "GMP", **o),
    "driver_heatmap": lambda **o: sd.pl.driver_heatmap(fake_results(drivers=True), "GMP", **o),
    "trend": lambda **o: sd.pl.trend(fake_results(), by="cluster", **o),
    "fixed_points": lambda **o: sd.pl.fixed_points(toggle(), **o),
}
SEVERAL_AXES: dict[str, Draw] = {
    "spectra": lambda **o: sd.pl.spectra(fake_results(), **o),
    "positive_parts": lambda **o: sd.pl.positive_parts(fake_results(), **o),
    "overview": lambda **o: sd.pl.overview(fake_results(), **o),
    "elements": lambda **o: sd.pl.elements(fake_results(), **o),
}
EVERY = ONE_AXES | SEVERAL_AXES


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def test_every_public_figure_is_among_these() -> None:
    assert {name.split(" ")[0] for name in EVERY} == set(sd.pl.__all__)


@pytest.mark.parametrize("name", ONE_AXES)
def test_one_axes_go_where_they_are_asked_to(name: str) -> None:
    before = dict(mpl.rcParams)
    figure, (left, right) = plt.subplots(1, 2)
    assert ONE_AXES[name](ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert plt.get_fignums() == [figure.number]
    own = ONE_AXES[name]()
    assert isinstance(own, Axes)
    # New axes are pyplot's, which shows them; what the caller has is left alone.
    assert len(plt.get_fignums()) == 2
    assert own.figure is not figure
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", SEVERAL_AXES)
def test_several_axes_are_a_figure_that_pyplot_does_not_have(name: str) -> None:
    figure = SEVERAL_AXES[name]()
    assert isinstance(figure, Figure)
    assert any(ax.has_data() for ax in figure.axes)
    assert plt.get_fignums() == []
    # What a notebook asks for.
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EVERY)
def test_figures_are_saved_and_none_is_left_open(tmp_path: Path, name: str) -> None:
    EVERY[name](save=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []
    # Something is on it.
    assert np.ptp(plt.imread(tmp_path / "figure.png")[..., :3]) > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    "name", ["spectrum", "embedding", "driver_network", "precision_network", "knockout_heatmap"]
)
@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_the_same_figure_is_the_same_file(tmp_path: Path, name: str, suffix: str, start: bytes) -> None:
    first, second = (tmp_path / f"{number}.{suffix}" for number in (1, 2))
    EVERY[name](save=str(first))
    EVERY[name](save=second)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", EVERY)
def test_bad_places_are_refused(tmp_path: Path, name: str) -> None:
    draw = EVERY[name]
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        draw(save=tmp_path / "nowhere" / "figure.png")
    for wrong in ("figure", "figure.docx"):
        with pytest.raises(UsageError, match=rf"{wrong}'; expected a name that ends in .png, .pdf or .svg"):
            draw(save=tmp_path / wrong)
    assert not list(tmp_path.iterdir())
    assert plt.get_fignums() == []


def test_what_is_no_file_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        sd.pl.boxplot(fake_results(), save=tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("spectrum", "svg"), ("violin", "svg"), ("embedding", "pdf"), ("spectra", "png"), ("elements", "svg")],
)
def test_files_of_many_cells_stay_small(tmp_path: Path, name: str, suffix: str) -> None:
    ds = fake_results([f"cluster {i}" for i in range(12)], n_cells=60_000)
    path = tmp_path / f"{name}.{suffix}"
    getattr(sd.pl, name)(ds, save=path)
    assert 10_000 < path.stat().st_size < 800_000


def test_colors_of_clusters_are_those_of_the_atlas_where_known() -> None:
    known = ["#111111", "#222222", "#333333"]
    for colors, expected in ((known, known), (None, PALETTE[:3]), (known[:2], PALETTE[:3])):
        ds = fake_results(colors=colors)
        drawn = [points.get_facecolor()[0, :3] for points in sd.pl.spectrum(ds).collections]
        np.testing.assert_allclose(drawn, [to_rgb(color) for color in expected])
        boxes = [patch.get_facecolor()[:3] for patch in sd.pl.boxplot(ds, groups=["GMP", "MEP"]).patches]
        np.testing.assert_allclose(boxes, [to_rgb(expected[2]), to_rgb(expected[1])])


def test_colors_differ() -> None:
    shades = np.array([to_rgb(color) for color in PALETTE])
    distance = np.linalg.norm(shades[:, None] - shades, axis=-1) + 9 * np.eye(len(shades))
    assert len(PALETTE) >= 30
    assert distance.min() > 0.1
    # All show on white.
    assert np.linalg.norm(1 - shades, axis=1).min() > 0.4
    assert palette(40)[32:] == palette(8)


def test_the_map_of_signs_is_gray_in_the_middle_and_darker_outward() -> None:
    shades = diverging()([0.0, 0.25, 0.5, 0.75, 1.0])[:, :3]
    assert np.ptp(shades[2]) < 0.05
    brightness = shades.mean(axis=1)
    assert brightness[0] < brightness[1] < brightness[2] > brightness[3] > brightness[4]
    assert shades[0, 2] > shades[0, 0]
    assert shades[4, 0] > shades[4, 2]


def test_long_names_keep_their_ends() -> None:
    assert short("abc", 3) == "abc"
    assert short("abcd", 3) == "a…d"
    assert len(short("x" * 100, 20)) == 20
    assert short(7) == "7"


def test_grids() -> None:
    figure, axes = grid(5, 3, (2.0, 1.0))
    assert len(axes) == 5
    assert [ax.get_visible() for ax in figure.axes] == [True] * 5 + [False]
    assert figure.get_size_inches().tolist() == [6.0, 2.0]
    for wrong in (0, -1):
        with pytest.raises(UsageError, match=f"ncols={wrong}; expected at least 1"):
            grid(2, wrong, (1, 1))
