"""scHopfield's four figures: what they show, in what order and colors, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from compat.fits import fit, used_names
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from stabdask.compat import schopfield as sch
from stabdask.errors import InputError, MissingKeyError, UsageError

Array = np.ndarray[Any, Any]
LABELS = ("b", "../x", "_a")


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


@pytest.fixture
def adata() -> anndata.AnnData:
    made = fit(1, n_cells=30, clusters=LABELS, n_genes=12, n_regulators=8)
    sch.tl.compute_jacobians(made.adata)
    sch.tl.compute_jacobian_stats(made.adata)
    sch.tl.compute_rotational_part(made.adata)
    return made.adata


def panels(figure: Figure) -> dict[str, Array]:
    """Return the points of every panel, as complex numbers."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return {
        ax.get_title(): np.asarray(ax.collections[0].get_offsets()) @ np.array([1, 1j])
        for ax in figure.axes
        if ax.collections
    }


def test_every_eigenvalue_of_every_cluster_is_drawn(adata: anndata.AnnData) -> None:
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata)
    drawn = panels(figure)
    assert list(drawn) == sorted(LABELS)
    for label, points in drawn.items():
        own = adata.obsm["jacobian_eigenvalues"][(adata.obs["cell_type"] == label).to_numpy()]
        np.testing.assert_allclose(np.unique(points.astype(np.complex64)), np.unique(own))
    assert len(figure.axes) == 4
    assert figure.get_size_inches().tolist() == [15, 15]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == figure.axes[2].get_xlim()


def test_axes_are_shared_on_request(adata: anndata.AnnData) -> None:
    adata.obsm["jacobian_eigenvalues"][(adata.obs["cell_type"] == "b").to_numpy()] *= 5
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata, sharex=False, sharey=False, figsize=(6, 4))
    assert figure.get_size_inches().tolist() == [6, 4]
    assert len({ax.get_xlim() for ax in figure.axes[:3]}) == 3


def test_order_and_colors(adata: anndata.AnnData) -> None:
    by_label = {"b": "red", "_a": "#00ff00", "other": "blue"}
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata, order=["b", "_a"], colors=by_label)
    assert list(panels(figure)) == ["b", "_a"]
    for ax, color in zip(figure.axes, ("red", "#00ff00"), strict=False):
        assert same_color(ax.collections[0].get_facecolor()[0][:3], matplotlib.colors.to_rgb(color))
    figure = sch.pl.plot_jacobian_stats_boxplots(adata, order=["_a", "b"], colors=["red", "blue"])
    for box, color in zip(figure.axes[0].patches, ("red", "blue"), strict=True):
        assert same_color(box.get_facecolor()[:3], matplotlib.colors.to_rgb(color))
    # A category keeps its color whichever are drawn.
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category").cat.set_categories([*LABELS, "never"])
    adata.uns["cell_type_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata)
    assert list(panels(figure)) == list(LABELS)
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata, order=["_a"])
    assert same_color(
        figure.axes[0].collections[0].get_facecolor()[0][:3], matplotlib.colors.to_rgb("#333333")
    )


def expected_box(values: Array) -> tuple[float, float, float]:
    return tuple(np.percentile(values, [25, 50, 75]))


def assert_boxes(figure: Figure, groups: list[list[Array]]) -> None:
    """Compare quartiles and medians with those of `groups`, by row and cluster."""
    figure.canvas.draw()
    assert len(figure.axes) == len(groups)
    for ax, row in zip(figure.axes, groups, strict=True):
        assert len(ax.patches) == len(row)
        for box, values in zip(ax.patches, row, strict=True):
            heights = np.asarray(box.get_path().vertices)[:, 1]
            low, _, high = expected_box(values)
            np.testing.assert_allclose([heights.min(), heights.max()], [low, high], rtol=1e-6)


def test_boxes_are_of_positive_parts(adata: anndata.AnnData) -> None:
    figure = sch.pl.plot_jacobian_eigenvalue_boxplots(adata, order=["b", "_a"])
    values = adata.obsm["jacobian_eigenvalues"]
    own = [values[(adata.obs["cell_type"] == label).to_numpy()] for label in ("b", "_a")]
    groups = [[v.real[v.real > 0] for v in own], [v.imag[v.imag > 0] for v in own]]
    assert all(len(group) > 3 for row in groups for group in row)
    assert_boxes(figure, groups)
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["b", "_a"]
    # No fliers: six lines a box are whiskers, caps and median.
    assert all(len(ax.lines) == 5 * 2 for ax in figure.axes)


def test_boxes_of_statistics_present(adata: anndata.AnnData) -> None:
    columns = ["jacobian_positive_evals", "jacobian_trace", "jacobian_rotational"]
    own = [(adata.obs["cell_type"] == label).to_numpy() for label in sorted(LABELS)]
    figure = sch.pl.plot_jacobian_stats_boxplots(adata)
    assert_boxes(figure, [[adata.obs[column].to_numpy()[cells] for cells in own] for column in columns])
    del adata.obs["jacobian_trace"]
    columns.remove("jacobian_trace")
    # Cells that were not computed do not count.
    adata.obs.loc[adata.obs_names[0], "jacobian_rotational"] = np.nan
    adata.obs.loc[adata.obs_names[0], "jacobian_positive_evals"] = -1
    figure = sch.pl.plot_jacobian_stats_boxplots(adata)
    own = [cells & (np.arange(30) > 0) for cells in own]
    assert_boxes(figure, [[adata.obs[column].to_numpy()[cells] for cells in own] for column in columns])


def test_a_cluster_without_values_has_no_box(adata: anndata.AnnData) -> None:
    adata.obsm["jacobian_eigenvalues"][(adata.obs["cell_type"] == "b").to_numpy()] = -1.0
    figure = sch.pl.plot_jacobian_eigenvalue_boxplots(adata)
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"]


def test_elements_on_the_umap(adata: anndata.AnnData) -> None:
    a, b = used_names(adata)[:2]
    sch.tl.compute_jacobian_elements(adata, [(a, b), (b, a)])
    name = f"jacobian_df_{a}_dx_{b}"
    adata.obs.loc[adata.obs_names[2], name] = np.nan
    column = adata.obs[name]
    figure = sch.pl.plot_jacobian_element_grid(adata, [(a, b), (b, a), (a, "none")], s=9)
    figure.canvas.draw()
    shown = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in shown] == [
        f"d(d{i}/dt) / d{j}" for i, j in ((a, b), (b, a), (a, "none"))
    ]
    assert f"jacobian_df_{a}_dx_none" in shown[2].texts[0].get_text()
    lost, points = shown[0].collections
    assert len(lost.get_offsets()) == 1
    values = np.asarray(points.get_array())
    known = column[~np.isnan(column)]
    np.testing.assert_allclose(np.sort(values), np.sort(known))
    place = {
        round(float(v), 6): tuple(xy) for v, xy in zip(column, adata.obsm["X_umap"], strict=True) if v == v
    }
    assert all(
        place[round(float(v), 6)] == tuple(xy)
        for v, xy in zip(values, points.get_offsets(), strict=True)
        if v
    )
    assert points.norm.vmin == -points.norm.vmax == -np.abs(known).max()
    assert points.get_sizes().tolist() == [9]
    assert points.get_alpha() == 0.7
    assert figure.get_size_inches().tolist() == [10, 8]


def test_a_missing_umap_is_said_and_options_reach_the_points(adata: anndata.AnnData) -> None:
    a, b = used_names(adata)[:2]
    sch.tl.compute_jacobian_elements(adata, [(a, b)])
    norm = matplotlib.colors.Normalize(-1, 1)
    figure = sch.pl.plot_jacobian_element_grid(
        adata, [(a, b)], ncols=3, figsize=(4, 3), norm=norm, cmap="PiYG"
    )
    assert figure.axes[0].collections[0].norm is norm
    del adata.obsm["X_umap"]
    figure = sch.pl.plot_jacobian_element_grid(adata, [(a, b)])
    assert figure.axes[0].texts[0].get_text() == "no obsm['X_umap']"


def test_thirty_clusters_and_labels_of_any_type(adata: anndata.AnnData) -> None:
    adata.obs["number"] = np.arange(30)
    figure = sch.pl.plot_jacobian_stats_boxplots(adata, cluster_key="number")
    assert len(figure.axes[0].patches) == 30
    figure = sch.pl.plot_jacobian_eigenvalue_spectrum(adata, cluster_key="number", order=[3, 12])
    assert list(panels(figure)) == ["3", "12"]
    for kind in (object, "string", "category"):
        adata.obs["some"] = pd.Series([None] * 28 + ["None", "one"], index=adata.obs_names, dtype=kind)
        drawn = panels(sch.pl.plot_jacobian_eigenvalue_spectrum(adata, cluster_key="some"))
        assert list(drawn) == ["None", "one"]
        assert {len(points) for points in drawn.values()} == {12}


def test_what_is_missing_is_named(adata: anndata.AnnData) -> None:
    with pytest.raises(
        MissingKeyError, match=r"no cell of cluster 'B' in obs\['cell_type'\]; did you mean 'b'\?"
    ):
        sch.pl.plot_jacobian_eigenvalue_spectrum(adata, order=["B"])
    with pytest.raises(MissingKeyError, match="no color for '_a'"):
        sch.pl.plot_jacobian_eigenvalue_boxplots(adata, order=["_a"], colors={"b": "red"})
    with pytest.raises(UsageError, match="1 colors for 3 clusters"):
        sch.pl.plot_jacobian_eigenvalue_boxplots(adata, colors=["red"])
    with pytest.raises(MissingKeyError, match="no column 'kind' in obs"):
        sch.pl.plot_jacobian_stats_boxplots(adata, cluster_key="kind")
    with pytest.raises(InputError, match="no cluster to draw"):
        sch.pl.plot_jacobian_stats_boxplots(adata, order=[])
    for pairs, ncols in (([], 2), ([("a", "b")], 0)):
        with pytest.raises(UsageError, match="expected at least 1 of both"):
            sch.pl.plot_jacobian_element_grid(adata, pairs, ncols=ncols)
    bare = anndata.AnnData(obs=adata.obs[["cell_type"]])
    with pytest.raises(ValueError, match="obs of the AnnData has none of 'jacobian_positive_evals'"):
        sch.pl.plot_jacobian_stats_boxplots(bare)
    with pytest.raises(MissingKeyError, match="no 'jacobian_eigenvalues' in obsm"):
        sch.pl.plot_jacobian_eigenvalue_spectrum(bare)
