"""What drives the modes: bars, heat map and network, and trends along a pseudotime."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import GENES, fake_edges, fake_genes, fake_results
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.circle import circular_order
from stabdask.plotting.style import ACTIVATION, INHIBITION


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def bars(ax: Axes) -> dict[str, tuple[float, Any]]:
    """Return the value and the color of every bar by its name."""
    names = [text.get_text() for text in ax.get_yticklabels()]
    drawn = [patch for patch in ax.patches if isinstance(patch, plt.Rectangle)]
    return {
        name: (patch.get_width(), patch.get_facecolor()) for name, patch in zip(names, drawn, strict=True)
    }


def test_genes_are_bars_in_their_order() -> None:
    table = fake_genes()
    ax = sd.pl.driver_genes(table, top=5)
    found = bars(ax)
    assert list(found) == table["gene"].tolist()[:5]
    np.testing.assert_allclose([value for value, _ in found.values()], table["participation"][:5])
    assert ax.get_title() == "GMP (40 cells)\nthe mode sets the spectral abscissa in 75% of them"
    # The order is made, not believed.
    assert list(bars(sd.pl.driver_genes(table[::-1], top=5))) == list(found)
    assert len(bars(sd.pl.driver_genes(table, top=1000))) == len(GENES)
    (errors,) = ax.containers[1].lines[2]
    spans = [float(np.ptp(segment[:, 0])) for segment in errors.get_segments()]
    np.testing.assert_allclose(spans, 2 * table["std"][:5])


def test_edges_are_bars_colored_by_their_weight() -> None:
    table = fake_edges()
    for by in ("sensitivity", "contribution"):
        rows = table.loc[table[by].abs().sort_values(ascending=False, kind="stable").index].head(12)
        ax = sd.pl.driver_edges(table, by=by, top=12)
        found = bars(ax)
        assert list(found) == [
            f"{row['regulator']} {'⊣' if row['weight'] < 0 else '→'} {row['effector']}"
            for _, row in rows.iterrows()
        ]
        for (value, color), (_, row) in zip(found.values(), rows.iterrows(), strict=True):
            assert value == row[by]
            if row["weight"]:
                assert color == to_rgba(ACTIVATION if row["weight"] > 0 else INHIBITION)
        assert by in ax.get_xlabel()
    names = {text.get_text() for text in sd.pl.driver_edges(table, top=20).get_legend().get_texts()}
    assert names == {"activation", "inhibition", "no edge"}


def test_spread_of_contributions_is_that_of_sensitivities_times_weights() -> None:
    table = fake_edges(n_edges=3)
    ax = sd.pl.driver_edges(table, by="contribution")
    rows = table.loc[table["contribution"].abs().sort_values(ascending=False).index]
    (errors,) = ax.containers[1].lines[2]
    spans = [float(np.ptp(segment[:, 0])) for segment in errors.get_segments()]
    np.testing.assert_allclose(spans, 2 * rows["std"] * rows["weight"].abs())


def test_the_table_is_made_from_results(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def edges(ds: Any, cluster: str, **options: Any) -> pd.DataFrame:
        asked.append((cluster, options))
        return fake_edges(cluster=cluster)

    def genes(ds: Any, cluster: str, **options: Any) -> pd.DataFrame:
        asked.append((cluster, options))
        return fake_genes(cluster=cluster)

    monkeypatch.setattr(sd, "driver_edges", edges, raising=False)
    monkeypatch.setattr(sd, "driver_genes", genes, raising=False)
    ds = fake_results(drivers=True)
    assert sd.pl.driver_edges(ds, cluster="MEP", by="contribution").get_title().startswith("MEP (40 cells)")
    sd.pl.driver_network(ds, cluster="GMP")
    sd.pl.driver_genes(ds, cluster="GMP", mode=2)
    assert asked == [
        ("MEP", {"by": "contribution", "top": 20}),
        ("GMP", {"by": "sensitivity", "top": 30}),
        ("GMP", {"mode": 2}),
    ]


def arrows(ax: Axes) -> list[FancyArrowPatch]:
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def places(ax: Axes) -> dict[str, Any]:
    """Return where the dot of every gene is, by its name."""
    dots = np.asarray(ax.collections[0].get_offsets())
    return {text.get_text(): dot for text, dot in zip(ax.texts, dots, strict=True)}


def test_arrows_go_from_regulator_to_effector() -> None:
    table = pd.DataFrame(
        {
            "regulator": ["A", "B", "C", "C"],
            "effector": ["B", "A", "A", "C"],
            "sensitivity": [4.0, -2.0, 1.0, 3.0],
            "std": 0.1,
            "weight": [1.0, -1.0, 0.0, -2.0],
            "contribution": [4.0, 2.0, 0.0, -6.0],
        }
    )
    ax = sd.pl.driver_network(table)
    where, found = places(ax), arrows(ax)
    assert set(where) == {"A", "B", "C"}
    assert len(found) == 4
    # Drawn from weak to strong.
    expected = [("C", "A", "#9A9A9A"), ("B", "A", INHIBITION), ("C", "C", INHIBITION), ("A", "B", ACTIVATION)]
    for arrow, (regulator, effector, color) in zip(found, expected, strict=True):
        assert arrow.get_edgecolor()[:3] == to_rgba(color)[:3]
        path = arrow.get_path()
        # The line comes first, then its head: three corners of a curve, four of a loop.
        last = 2 if regulator != effector else 3
        np.testing.assert_allclose(path.vertices[0], where[regulator], atol=0.13)
        np.testing.assert_allclose(path.vertices[last], where[effector], atol=0.13)
    widths = [arrow.get_linewidth() for arrow in found]
    assert all(a < b for a, b in pairwise(widths))
    styles = [type(arrow.get_arrowstyle()).__name__ for arrow in found]
    assert styles == ["CurveFilledB", "BracketB", "BracketB", "CurveFilledB"]


def test_no_edge_touches_a_name_and_no_name_another() -> None:
    for table in (fake_edges(), fake_edges(30, 30), fake_edges(3, 5), fake_edges(60, 60), fake_edges(1, 1)):
        ax = sd.pl.driver_network(table, top=100)
        ax.figure.canvas.draw()
        names = sorted({*table["regulator"], *table["effector"]})
        assert sorted(text.get_text() for text in ax.texts) == names
        # Edges stay within the circle; names begin outside it.
        for arrow in arrows(ax):
            path = arrow.get_path()
            # What closes a polygon is no point of it.
            points = path.vertices[path.codes != path.CLOSEPOLY]
            assert np.linalg.norm(points, axis=1).max() < 1.06
        frame = ax.figure.bbox
        for text, place in zip(ax.texts, places(ax).values(), strict=True):
            np.testing.assert_allclose(np.linalg.norm(text.get_position()), 1.07)
            np.testing.assert_allclose(np.linalg.norm(place), 1.0)
            box = text.get_window_extent()
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert frame.y0 <= box.y0
            assert box.y1 <= frame.y1
        boxes = [text.get_window_extent() for text in ax.texts]
        if len(names) <= 12:
            assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[i + 1 :])
        else:
            # Turned outward, they are as far apart as lines of text at least.
            unit = np.diff(ax.transData.transform([(0, 0), (1, 0)])[:, 0])[0] / ax.figure.dpi * 72
            assert 2 * np.pi / len(names) * unit > ax.texts[0].get_fontsize()
        plt.close("all")


@given(st.integers(1, 9), st.integers(0, 1000))
def test_an_order_on_the_circle_has_every_gene_once(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges, strength = rng.integers(0, n, (6, 2)), rng.random(6)
    order = circular_order(n, edges, strength)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, circular_order(n, edges, strength))


def test_neighbors_on_the_circle_are_those_with_edges() -> None:
    # A ring in a scrambled order is a ring again.
    ring = np.random.default_rng(0).permutation(12)
    edges = np.stack([ring, np.roll(ring, -1)], axis=1)
    order = circular_order(12, edges, np.ones(12)).tolist()
    neighbors = {frozenset(pair) for pair in pairwise([*order, order[0]])}
    assert neighbors == {frozenset(pair) for pair in edges.tolist()}


def test_the_heat_map_has_effectors_in_rows() -> None:
    ds = fake_results(drivers=True)
    values = ds["sensitivity_mean"].values[2].copy()
    weight = ds["weight"].values[2]
    ax = sd.pl.driver_heatmap(ds, "GMP", existing=False)
    shown = np.asarray(ax.images[0].get_array())
    rows, columns = (
        [text.get_text() for text in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    frame = pd.DataFrame(values, index=list(GENES), columns=list(GENES))
    np.testing.assert_array_equal(shown, frame.loc[rows, columns])
    assert (np.diff(np.abs(shown).max(axis=1)) <= 0).all()
    assert (np.diff(np.abs(shown).max(axis=0)) <= 0).all()
    assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("effector", "regulator", "GMP")
    limits = ax.images[0].get_clim()
    assert limits == (-np.abs(shown).max(), np.abs(shown).max())
    ax = sd.pl.driver_heatmap(ds, "GMP", top=3)
    shown = ax.images[0].get_array()
    rows, columns = (
        [text.get_text() for text in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    assert shown.shape == (3, 3)
    edges = pd.DataFrame(weight, index=list(GENES), columns=list(GENES)).loc[rows, columns] != 0
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ~edges)


def test_refusals_of_drivers() -> None:
    genes, edges, ds = fake_genes(), fake_edges(), fake_results(drivers=True)
    for draw, table in (
        (sd.pl.driver_genes, genes),
        (sd.pl.driver_edges, edges),
        (sd.pl.driver_network, edges),
    ):
        with pytest.raises(UsageError, match="top=0; expected at least 1"):
            draw(table, top=0)
        with pytest.raises(UsageError, match="cluster='GMP' with a table"):
            draw(table, cluster="GMP")
        with pytest.raises(InputError, match=r"has no column '\w+'; expected one from stabdask.driver_"):
            draw(table.drop(columns="std"))
        with pytest.raises(InputError, match="no cell of the cluster has eigenvectors"):
            draw(table.iloc[:0])
        with pytest.raises(
            UsageError, match="no cluster given; expected cluster= one of 'progenitor', 'MEP'"
        ):
            draw(ds)
        with pytest.raises(MissingKeyError, match="no cluster 'gmp'; did you mean 'GMP'"):
            draw(ds, cluster="gmp")
        with pytest.raises(MissingKeyError, match=r"hold no '\w+_mean'; run with quantities="):
            draw(fake_results(), cluster="GMP")
    for draw in (sd.pl.driver_edges, sd.pl.driver_network):
        with pytest.raises(UsageError, match="by='weight'; expected 'sensitivity' or 'contribution'"):
            draw(edges, by="weight")
    with pytest.raises(MissingKeyError, match="no cluster 'gmp'; did you mean 'GMP'"):
        sd.pl.driver_heatmap(ds, "gmp")
    with pytest.raises(MissingKeyError, match="hold no 'sensitivity_mean'"):
        sd.pl.driver_heatmap(fake_results(), "GMP")
    with pytest.raises(MissingKeyError, match="hold no 'weight'"):
        sd.pl.driver_heatmap(ds.drop_vars("weight"), "GMP")
    ds["sensitivity_mean"][2] = np.nan
    with pytest.raises(InputError, match="no cell of cluster 'GMP' has sensitivities"):
        sd.pl.driver_heatmap(ds, "GMP")
    sd.pl.driver_heatmap(ds, "MEP").figure.canvas.draw()
    plt.close("all")


def test_nan_rows_are_left_out() -> None:
    table = fake_genes()
    table.loc[0, "participation"] = np.nan
    table.loc[1, "std"] = np.nan
    assert table["gene"][0] not in bars(sd.pl.driver_genes(table))
