"""Partial correlations as a network: which edges are drawn, how, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch

import stabdask as sd
from stabdask.errors import InputError, UsageError
from stabdask.plotting.circle import circular_order
from stabdask.plotting.style import ACTIVATION, INHIBITION

ODD = ["GATA1", "$KLF1$", "_A_b", "<script>x", "ENSG00000139618.14_long"]


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def correlations(n: int, seed: int = 0) -> Any:
    A = np.random.default_rng(seed).normal(size=(2 * n, n))
    return sd.network.partial_correlations(np.linalg.inv(A.T @ A))


def drawn(ax: Axes) -> dict[frozenset[str], tuple[float, Any]]:
    """Return the width and color of every edge, by the genes that its ends are at."""
    dots = np.asarray(ax.collections[0].get_offsets())
    names = [text.get_text() for text in ax.texts]
    found = {}
    for patch in ax.patches:
        assert isinstance(patch, FancyArrowPatch)
        points = patch.get_path().vertices
        ends = [int(np.linalg.norm(dots - points[at], axis=1).argmin()) for at in (0, -1)]
        for end, at in zip(ends, (0, -1), strict=True):
            np.testing.assert_allclose(dots[end], points[at], atol=1e-6)
        found[frozenset(names[end] for end in ends)] = (patch.get_linewidth(), patch.get_edgecolor())
    return found


def test_edges_of_a_table_are_drawn_between_their_genes() -> None:
    rho = correlations(9)
    table = sd.network.edges(rho, [*ODD[:4], *"BCDEF"], top=12)
    ax = sd.pl.precision_network(table)
    ax.figure.canvas.draw()
    found = drawn(ax)
    assert set(found) == {frozenset(pair) for pair in zip(table["gene_a"], table["gene_b"], strict=True)}
    size = table["partial_correlation"].abs()
    widths = [found[frozenset((a, b))][0] for a, b in zip(table["gene_a"], table["gene_b"], strict=True)]
    assert all(a >= b for a, b in pairwise(widths))
    assert widths[0] == pytest.approx(3.6)
    for a, b, value in table.itertuples(index=False):
        assert found[frozenset((a, b))][1][:3] == to_rgba(ACTIVATION if value > 0 else INHIBITION)[:3]
    legend = ax.get_legend()
    assert {text.get_text() for text in legend.get_texts()} == {"positive", "negative"}
    assert legend.get_title().get_text().endswith(f"{size.min():.2g} to {size.max():.2g}")
    assert ax.get_title() == "12 edges"
    assert not any(text.get_parse_math() for text in ax.texts)
    # The order of rows is made, not believed.
    assert drawn(sd.pl.precision_network(table[::-1])) == found
    assert len(drawn(sd.pl.precision_network(table, top=5))) == 5


def test_edges_of_correlations_are_those_of_the_table() -> None:
    rho, genes = correlations(20), [f"G{i}" for i in range(20)]
    table = sd.network.edges(rho, genes, threshold=0.3)
    found = drawn(sd.pl.precision_network(rho, genes, threshold=0.3, top=1000))
    assert found == drawn(sd.pl.precision_network(table, top=1000))
    assert sd.pl.precision_network(rho, genes).get_title() == "the 60 strongest of 190 pairs"
    cut = sd.pl.precision_network(rho, genes, threshold=0.3, top=7)
    assert cut.get_title() == f"the 7 strongest of {len(table)} edges"
    assert len(drawn(cut)) == 7
    assert sd.pl.precision_network(rho, top=1).get_title() == "the strongest of 190 pairs"


@pytest.mark.parametrize(("n", "prefix"), [(5, "REG"), (20, "REG"), (60, "REG"), (24, "GENE0")])
def test_names_stay_in_the_figure(n: int, prefix: str) -> None:
    odd = ODD if prefix == "REG" else []
    names = (odd + [f"{prefix}{i:04d}" for i in range(60)])[:n]
    ax = sd.pl.precision_network(correlations(n), names, top=8 * n)
    ax.figure.canvas.draw()
    frame, boxes = ax.figure.bbox, [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == n
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    legend, title = ax.get_legend().get_window_extent(), ax.title.get_window_extent()
    assert all(legend.y1 <= box.y0 and box.y1 <= title.y0 for box in boxes)
    # The circle takes most of the width that names leave.
    unit = float(np.diff(ax.transData.transform([(-1, 0), (1, 0)])[:, 0])[0])
    assert unit > 0.4 * frame.width


def test_what_is_refused() -> None:
    rho = correlations(5)
    table = sd.network.edges(rho, ODD, top=4)
    with pytest.raises(InputError, match=r"correlation of 0.99 or more in size; the largest is 0\.\d"):
        sd.pl.precision_network(rho, ODD, threshold=0.99)
    with pytest.raises(InputError, match="other than 0; the largest is 0"):
        sd.pl.precision_network(np.eye(4))
    for nothing in (table[:0], np.eye(1)):
        with pytest.raises(InputError, match="there are no pairs"):
            sd.pl.precision_network(nothing)
    with pytest.raises(InputError, match="lacks gene_b, partial_correlation; expected that of"):
        sd.pl.precision_network(table[["gene_a"]])
    with pytest.raises(InputError, match="not finite"):
        sd.pl.precision_network(table.assign(partial_correlation=np.nan))
    with pytest.raises(InputError, match="twice; expected one row"):
        sd.pl.precision_network(
            pd.concat([table, table.rename(columns={"gene_a": "gene_b", "gene_b": "gene_a"})])
        )
    with pytest.raises(InputError, match="'GATA1' to itself"):
        sd.pl.precision_network(table.assign(gene_a="GATA1", gene_b="GATA1"))
    with pytest.raises(InputError, match="none of correlations"):
        sd.pl.precision_network(2 * rho)
    for options in ({"top": 0}, {"threshold": 1.5}, {"genes": ODD}):
        with pytest.raises(UsageError, match=next(iter(options))):
            sd.pl.precision_network(table, **options)


@given(st.integers(2, 9), st.integers(0, 1000))
def test_no_swap_of_two_genes_makes_edges_shorter(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges, strength = rng.integers(0, n, (8, 2)), rng.random(8)
    order = circular_order(n, edges, strength)

    def length(order: Any) -> float:
        place = np.argsort(order)
        steps = np.abs(place[edges[:, 0]] - place[edges[:, 1]])
        return float((np.minimum(steps, n - steps) * (0.2 + strength / strength.max())).sum())

    for a in range(n):
        for b in range(a):
            swapped = order.copy()
            swapped[[a, b]] = swapped[[b, a]]
            assert length(swapped) >= length(order) * (1 - 1e-6)
