"""Figures of knockouts: bars are the shifts of the table, heat maps those of pairs on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import GENES, fake_knockouts, fake_results
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.style import DESTABILIZING, STABILIZING


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def table(shift: list[float], predicted: list[float], label: str = "GMP") -> pd.DataFrame:
    names = [*GENES][: len(shift)]
    columns = {"knockout": names, "mean_shift": shift, "predicted_shift": predicted, "n_cells": 3}
    return pd.DataFrame({"cluster": label, **columns})


def marks(ax: Axes) -> list[tuple[str, float, float]]:
    """Return marker and place of every prediction."""
    lines = [line for line in ax.lines if line.get_marker() in ("D", "<", ">")]
    return [(line.get_marker(), *point) for line in lines for point in line.get_xydata().tolist()]


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_bars_are_mean_shifts_from_stabilizing_to_destabilizing() -> None:
    ds = fake_knockouts()
    ranked = sd.rank_knockouts(ds).query("cluster == 'GMP'")
    for ax in (
        sd.pl.knockout_shifts(ds, group="GMP"),
        sd.pl.knockout_shifts(ranked[::-1]),
        sd.pl.knockout_shifts(sd.rank_knockouts(ds), group=["GMP"]),
    ):
        assert [text.get_text() for text in ax.get_yticklabels()] == ranked["knockout"].tolist()
        bars = [patch for patch in ax.patches if isinstance(patch, plt.Rectangle)]
        assert [bar.get_width() for bar in bars] == ranked["mean_shift"].tolist()
        colors = [STABILIZING if value < 0 else DESTABILIZING for value in ranked["mean_shift"]]
        assert [bar.get_facecolor() for bar in bars] == [to_rgba(color) for color in colors]
        assert marks(ax) == [("D", value, place) for place, value in enumerate(ranked["predicted_shift"])]
        assert ax.get_title() == "GMP (6 cells)"
        assert legend(ax) == ["stabilizes", "destabilizes", "predicted"]
        assert not any(text.get_parse_math() for text in ax.get_yticklabels())


def test_both_ends_are_kept_and_what_does_nothing_is_left_out() -> None:
    ax = sd.pl.knockout_shifts(table([-3, -2, -1, 0, np.nan, 1, 2], [-3, np.nan, -1, 0, 0, 1, 2]), top=2)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [GENES[place] for place in (0, 1, 5, 6)]
    assert marks(ax) == [("D", -3, 0), ("D", 1, 2), ("D", 2, 3)]
    assert legend(sd.pl.knockout_shifts(table([1.0], [np.nan]))) == ["destabilizes"]


def test_predictions_far_out_are_arrows_at_the_edge() -> None:
    ax = sd.pl.knockout_shifts(table([-1.0, -0.5, 0.2], [-20.0, -2.5, 9.0]))
    assert marks(ax) == [("D", -2.5, 1), ("<", -2.5, 0), (">", 2.5, 2)]
    assert legend(ax) == ["stabilizes", "destabilizes", "predicted", "predicted, farther out"]
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    assert -3 < low < high < 3
    inside = ax.figure.bbox
    box = ax.get_legend().get_window_extent()
    assert inside.x0 <= box.x0
    assert box.x1 <= inside.x1


def test_groups_of_several_labels() -> None:
    ds = fake_knockouts().assign_coords(batch=("cell", ["b1", "b2", "b2"] * 4))
    ranked = sd.rank_knockouts(ds, ["cluster", "batch"])
    ax = sd.pl.knockout_shifts(ranked, group=("GMP", "b2"), top=3)
    assert ax.get_title() == "GMP, b2 (4 cells)"
    own = ranked.query("cluster == 'GMP' and batch == 'b2'")
    assert ax.get_yticklabels()[0].get_text() == own["knockout"].iloc[0]
    with pytest.raises(UsageError, match="expected group= one of 'MEP, b1', 'MEP, b2'"):
        sd.pl.knockout_shifts(ranked)


def test_pairs_are_on_both_sides_and_singles_between() -> None:
    ds, singles = fake_knockouts(order=2), fake_knockouts()
    ds["knockout_abscissa"][:, 0] = np.nan
    shift = (ds["knockout_abscissa"] - ds["abscissa"]).values[1::2].mean(axis=0)
    alone = sd.rank_knockouts(singles).query("cluster == 'GMP'").set_index("knockout")["mean_shift"]
    ax = sd.pl.knockout_heatmap(ds, group="GMP", singles=singles)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [text.get_text() for text in ax.get_xticklabels()] == list(GENES)
    shown: Any = np.asarray(np.ma.filled(ax.images[0].get_array(), np.nan))
    np.testing.assert_array_equal(shown, shown.T)
    for a, b, value in zip(ds["gene_a"].values, ds["gene_b"].values, shift, strict=True):
        np.testing.assert_allclose(shown[names.index(a), names.index(b)], value)
    np.testing.assert_allclose(np.diagonal(shown), alone[names])
    assert ax.get_title() == "GMP (6 cells)\npale: not solved"
    low, high = ax.images[0].get_clim()
    assert -low == high == np.nanmax(np.abs(shown))
    # Without singles the diagonal stays empty; the strongest regulators are kept, in their order.
    few = sd.pl.knockout_heatmap(ds, group="GMP", top=3)
    strongest = np.nanmax(np.abs(shown - np.diag(np.diagonal(shown))), axis=1)
    kept = np.sort(np.argsort(-strongest)[:3])
    assert [text.get_text() for text in few.get_yticklabels()] == [GENES[place] for place in kept]
    assert np.isnan(np.diagonal(np.ma.filled(few.images[0].get_array(), np.nan))).all()
    whole = sd.pl.knockout_heatmap(fake_knockouts(order=2), group="GMP")
    assert whole.get_title() == "GMP (6 cells)"


def test_names_with_a_plus_sign() -> None:
    ds = fake_knockouts(order=2)
    renamed = [f"{name}+" for name in ds["gene_a"].values]
    ds = ds.assign_coords(
        gene_a=("knockout", renamed),
        knockout=[f"{a}+{b}" for a, b in zip(renamed, ds["gene_b"].values, strict=True)],
    )
    ax = sd.pl.knockout_heatmap(ds, group="MEP")
    assert "GATA1+" in [text.get_text() for text in ax.get_yticklabels()]


def test_what_is_refused() -> None:
    ds, pairs = fake_knockouts(), fake_knockouts(order=2)
    for draw, data in ((sd.pl.knockout_shifts, ds), (sd.pl.knockout_heatmap, pairs)):
        with pytest.raises(UsageError, match="no group given; expected group= one of 'MEP', 'GMP'"):
            draw(data)
        with pytest.raises(MissingKeyError, match="no group 'gmp'; did you mean 'GMP'"):
            draw(data, group="gmp")
        with pytest.raises(UsageError, match="top=0"):
            draw(data, group="GMP", top=0)
    with pytest.raises(MissingKeyError, match=r"expected a Dataset from stabdask\.knockouts"):
        sd.pl.knockout_shifts(fake_results())
    good = table([1.0], [1.0])
    with pytest.raises(InputError, match=r"lacks mean_shift; expected that of stabdask\.rank_knockouts"):
        sd.pl.knockout_shifts(good.drop(columns="mean_shift"))
    with pytest.raises(InputError, match="no rows"):
        sd.pl.knockout_shifts(good[:0])
    for nothing in (table([0.0, 0.0], [1, 1]), table([np.nan], [1])):
        with pytest.raises(InputError, match="no knockout moves the spectral abscissa of GMP"):
            sd.pl.knockout_shifts(nothing)
    with pytest.raises(MissingKeyError, match=r"no pairs; expected .* with order=2"):
        sd.pl.knockout_heatmap(ds, group="GMP")
    with pytest.raises(InputError, match="singles are of other cells"):
        sd.pl.knockout_heatmap(pairs, group="GMP", singles=ds.isel(cell=slice(3)))
    still = pairs.assign(knockout_abscissa=pairs["abscissa"] + 0 * pairs["knockout_abscissa"])
    with pytest.raises(InputError, match="no pair moves"):
        sd.pl.knockout_heatmap(still.transpose("cell", ...), group="GMP")
    pairs["knockout_abscissa"][:] = np.nan
    with pytest.raises(InputError, match="no pair was solved for the cells of GMP"):
        sd.pl.knockout_heatmap(pairs, group="GMP")
