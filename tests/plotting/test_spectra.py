"""Spectra as points or shaded bins, one cluster per axes, and the strip of genes outside the cores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from fake_results import fake_results
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from random_atlas import count_blocks, random_atlas

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError
from stabdask.plotting.spectrum import sample_spectra

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def image(ax: Axes) -> Array:
    (found,) = ax.images
    return np.asarray(found.get_array())


def test_density_shades_the_bins_that_hold_eigenvalues() -> None:
    ds = fake_results(("a",), n_cells=40)
    ax = sd.pl.spectrum(ds, kind="density")
    drawn = image(ax)
    values = ds["eigenvalue"].values.ravel()
    left, right, low, high = ax.images[0].get_extent()
    assert (left, right) == ax.get_xlim()
    column = ((values.real - left) / (right - left) * drawn.shape[1]).astype(int)
    row = ((values.imag - low) / (high - low) * drawn.shape[0]).astype(int)
    expected = np.zeros(drawn.shape[:2], dtype=int)
    np.add.at(expected, (row, column), 1)
    np.testing.assert_array_equal(drawn[..., 3] > 0, expected > 0)
    np.testing.assert_allclose(
        drawn[expected > 0][:, :3], np.tile(to_rgb("#0072B2"), ((expected > 0).sum(), 1))
    )
    # The fuller, the darker.
    order = np.argsort(expected[expected > 0], kind="stable")
    assert (np.diff(drawn[..., 3][expected > 0][order]) >= 0).all()
    assert drawn[..., 3].max() == pytest.approx(1.0)


def test_the_hue_of_a_bin_is_by_shares_of_clusters() -> None:
    ds = fake_results(("a", "b"), n_cells=8)
    ds["eigenvalue"] = ds["eigenvalue"].copy(data=np.full(ds["eigenvalue"].shape, -1.0 + 0j))
    # One cell in four of "b": a quarter of its eigenvalues are elsewhere.
    ds["eigenvalue"][1] = -2.0
    shades = image(sd.pl.spectrum(ds, kind="density"))
    filled = shades[shades[..., 3] > 0]
    a, b = np.array(to_rgb("#0072B2")), np.array(to_rgb("#E69F00"))
    expected = [b, (a + 0.75 * b) / 1.75]
    np.testing.assert_allclose(filled[:, :3], expected)


def test_auto_is_by_the_number_of_eigenvalues() -> None:
    few, many = fake_results(("a", "b"), n_cells=40), fake_results(("a", "b"), n_cells=8_000)
    assert not sd.pl.spectrum(few).images
    assert not sd.pl.spectrum(many).images
    assert sd.pl.spectrum(many, max_cells=4_000).images
    assert not sd.pl.spectrum(many, max_cells=4_000, kind="points").images
    assert sd.pl.spectrum(few, kind="density").images
    legend = sd.pl.spectrum(few, kind="density").get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def strip_of(ax: Axes) -> Axes | None:
    return ax.child_axes[0] if ax.child_axes else None


def test_the_strip_shows_genes_outside_the_cores() -> None:
    ds = fake_results(("a", "b"), n_cells=20)
    # Genes 0 to 7 are regulators, and active everywhere but in one cell; of the others only these two are in sight.
    gamma = np.full(ds["degradation"].shape, 1e6)
    gamma[0, 9], gamma[1, 10], gamma[1, 2] = 0.5, 1.0, 1.5
    ds["degradation"] = ds["degradation"].copy(data=gamma)
    ds["active"][3, 2] = 0
    ax = sd.pl.spectrum(ds)
    strip = strip_of(ax)
    assert strip is not None
    assert strip.get_xlim() == ax.get_xlim()
    (left, right), shades = ax.get_xlim(), image(strip)[0]
    places = ((np.array([-0.5, -1.0, -1.5]) - left) / (right - left) * len(shades)).astype(int)
    assert set(np.flatnonzero(shades)) == set(places)
    # 10 cells have each of the first two, one has the third.
    assert shades[places[0]] == shades[places[1]] > shades[places[2]] > 0
    # 20 cells with 3 genes each and one more, of which 21 are drawn.
    assert f"({40 / 61:.1%} farther left)" in strip.texts[0].get_text()
    assert strip_of(sd.pl.spectrum(ds, rest=False)) is None


def test_strip_counts_are_those_of_the_complete_spectrum() -> None:
    atlas = random_atlas(3, n_cells=12, unlabelled=(1,), broken=(2,))
    ds = sd.stability(atlas.cells(), atlas.field).compute()
    found = sample_spectra(ds, None, 500, 0, None)
    complete = sd.complete_spectrum(ds).values
    for code, (label, one) in enumerate(found.items()):
        assert label == ds["cluster"].values[code]
        whole = complete[ds["cluster_code"].values == code].ravel()
        whole = whole[np.isfinite(whole.real)]
        own = np.concatenate([one.values, np.repeat(one.rest, one.rest_counts.astype(int))])
        np.testing.assert_allclose(np.sort_complex(own), np.sort_complex(whole), atol=1e-12)


def test_without_degradation_there_is_no_strip() -> None:
    ds = fake_results().drop_vars("degradation")
    assert strip_of(sd.pl.spectrum(ds)) is None
    with pytest.raises(MissingKeyError, match="hold no 'degradation', which rest=True takes; use rest=False"):
        sd.pl.spectrum(ds, rest=True)


def with_eigenvalues(values: list[complex]) -> xr.Dataset:
    ds = fake_results(("a",), n_cells=1).isel(mode=slice(0, 0)).drop_vars("eigenvalue")
    return ds.assign(eigenvalue=(("cell", "mode"), np.array([values], dtype=complex)))


def test_far_real_eigenvalues_do_not_squeeze_the_rest() -> None:
    near = [0.5, -0.2 + 1j, -0.2 - 1j, -0.4, -0.6, -1.0]
    ax = sd.pl.spectrum(with_eigenvalues([*near, -500.0, -900.0]))
    left, right = ax.get_xlim()
    assert -2.0 < left < -0.4
    assert right > 0.5
    # -0.6, -1, -500 and -900 against the median at -0.5.
    assert "4 eigenvalues\n   (50.0%) farther left" in ax.texts[-1].get_text()
    ax = sd.pl.spectrum(with_eigenvalues(near))
    assert ax.get_xlim()[0] < -1.0
    assert "farther" not in " ".join(text.get_text() for text in ax.texts)
    # Complex ones are always in sight.
    assert sd.pl.spectrum(with_eigenvalues([*near, -50 + 1j, -50 - 1j])).get_xlim()[0] < -50
    assert sd.pl.spectrum(with_eigenvalues(near), xlim=(-3, 1)).get_xlim() == (-3, 1)


def test_the_boundary_is_in_sight_wherever_the_eigenvalues_are() -> None:
    for values in ([-5.0, -4.0], [3.0, 4.0], [0.0], [-1e-9], [1e9, -1e9]):
        ax = sd.pl.spectrum(with_eigenvalues(list(values)))
        left, right = ax.get_xlim()
        assert left < 0 < right
        ax.figure.canvas.draw()


@pytest.mark.parametrize("high", [0.1, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 15.0])
def test_the_word_beside_the_boundary_stays_in_the_panel(high: float) -> None:
    xlim = (-1.5, high)
    figure = sd.pl.spectra(fake_results(("a", "b", "c", "d"), n_cells=8), xlim=xlim)
    mpl.backends.backend_agg.FigureCanvasAgg(figure).draw()
    (word,) = [text for ax in figure.axes for text in ax.texts if "stable" in text.get_text()]
    box, panel = word.get_window_extent(), word.axes.get_window_extent()
    assert panel.x0 <= box.x0
    assert box.x1 <= panel.x1


def test_spectra_share_scales_and_are_titled() -> None:
    ds = fake_results(("a", "_b", "$c$", "d"), n_cells=42, unlabelled=(0,))
    figure = sd.pl.spectra(ds, max_cells=5, ncols=3)
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in axes] == [
        "a\n5 of 10 cells", "_b\n5 of 11 cells", "$c$\n5 of 10 cells", "d\n5 of 10 cells"
    ]  # fmt: skip
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes}) == 1
    for code, ax in enumerate(axes):
        points = np.asarray(ax.collections[0].get_offsets()) @ np.array([1, 1j])
        assert set(points) <= set(ds["eigenvalue"].values[ds["cluster_code"].values == code].ravel())
        assert len(points) == 5 * 8 - 8 * (code == 0 and 0 in points)
    figure.canvas.draw()
    # Every column has numbers below its last axes.
    below = [any(label.get_visible() for label in ax.get_xticklabels()) for ax in axes]
    assert below == [False, True, True, True]
    chosen = sd.pl.spectra(ds, clusters=["d", "a"], kind="density", rest=False)
    assert [ax.get_title().split("\n")[0] for ax in chosen.axes] == ["d", "a"]
    assert all(ax.images and not ax.child_axes for ax in chosen.axes)


def test_a_lazy_dataset_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(2, n_cells=24)
    computed = count_blocks(monkeypatch)
    sd.pl.spectra(sd.stability(atlas.cells(), atlas.field))
    assert computed == [8] * 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["points", "density"])
def test_odd_shapes(kind: str) -> None:
    for labels, n_cells, failed in ((("only",), 1, ()), (("only",), 3, range(3)), (("a", "empty"), 1, ())):
        ds = fake_results(labels, n_cells=n_cells, failed=failed)
        sd.pl.spectrum(ds, kind=kind).figure.canvas.draw()
        sd.pl.spectra(ds, kind=kind).canvas.draw()
        plt.close("all")


def test_many_clusters() -> None:
    ds = fake_results([f"cluster {i}" for i in range(30)], n_cells=60)
    ax = sd.pl.spectrum(ds)
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.x1 <= ax.figure.bbox.x1
    assert legend.y0 >= ax.figure.bbox.y0
    assert len(sd.pl.spectra(ds, rest=False).axes) == 30


def test_refusals() -> None:
    ds = fake_results()
    for draw in (sd.pl.spectrum, sd.pl.spectra):
        with pytest.raises(UsageError, match="kind='dots'; expected 'auto', 'points' or 'density'"):
            draw(ds, kind="dots")
        with pytest.raises(MissingKeyError, match="no cluster 'gmp'; did you mean 'GMP'"):
            draw(ds, clusters=["gmp"])
    with pytest.raises(UsageError, match="ncols=0"):
        sd.pl.spectra(ds, ncols=0)
    assert plt.get_fignums() == []
