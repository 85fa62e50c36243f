"""Responses as heat maps: means over the cells that can be trusted, effectors in rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_results import GENES, fake_responses, fake_results
from matplotlib.axes import Axes

import stabdask as sd
from stabdask.analysis.responses import response_means
from stabdask.errors import InputError, MissingKeyError, UsageError


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def shown(ax: Axes) -> tuple[Any, list[str], list[str]]:
    rows, columns = (
        [text.get_text() for text in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    return np.ma.filled(ax.images[0].get_array(), np.nan), rows, columns


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("held", ["response", "response_mean"])
def test_effectors_are_rows_and_colors_centered(lazy: bool, held: str) -> None:
    ds = fake_responses()
    # Cells 1, 3, 5 ... are GMP; 1 is inaccurate, 3 was not computed.
    expected = ds["response"].values[5::2].mean(axis=0)
    if held == "response_mean":
        means = response_means(ds)
        ds = ds.drop_vars("response").assign(
            response_mean=means.drop_vars("response_cells"), response_cells=means["response_cells"]
        )
    ax = sd.pl.response_heatmap(ds.chunk(cell=5) if lazy else ds, "GMP")
    values, rows, columns = shown(ax)
    np.testing.assert_allclose(values, expected)
    assert (rows, columns) == (list(GENES), list(GENES[:5]))
    assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("effector", "regulator", "GMP (4 cells)")
    np.testing.assert_allclose(ax.images[0].get_clim(), np.array([-1, 1]) * np.abs(expected).max())
    assert not any(text.get_parse_math() for text in [*ax.get_yticklabels(), *ax.get_xticklabels()])


def test_colors_end_where_they_are_told_to() -> None:
    ax = sd.pl.response_heatmap(fake_responses(), "GMP", most=0.3)
    assert ax.images[0].get_clim() == (-0.3, 0.3)
    assert ax.images[0].colorbar.extend == "both"
    assert sd.pl.response_heatmap(fake_responses(), "GMP").images[0].colorbar.extend == "neither"


def test_of_many_genes_the_largest_are_kept_in_their_order() -> None:
    ds = fake_responses(n_effectors=40, n_regulators=3)
    means = response_means(ds).sel(cluster="MEP").values
    values, rows, columns = shown(sd.pl.response_heatmap(ds, "MEP", top=6))
    kept = np.sort(np.argsort(-np.abs(means).max(axis=1))[:6])
    assert rows == ds["block_effector"].values[kept].tolist()
    assert len(columns) == 3
    np.testing.assert_allclose(values, means[kept])


def test_genes_that_do_not_respond_are_shown() -> None:
    ds = fake_responses()
    ds["response"][:, 2] = 0.0
    assert len(shown(sd.pl.response_heatmap(ds, "MEP"))[1]) == len(GENES)


def test_what_is_refused() -> None:
    ds = fake_responses()
    with pytest.raises(MissingKeyError, match="no cluster 'gmp'; did you mean 'GMP'"):
        sd.pl.response_heatmap(ds, "gmp")
    with pytest.raises(MissingKeyError, match=r"hold no responses; run with quantities=\['default', 'resp"):
        sd.pl.response_heatmap(fake_results(), "GMP")
    with pytest.raises(UsageError, match="top=0"):
        sd.pl.response_heatmap(ds, "GMP", top=0)
    for most in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=f"most={most}"):
            sd.pl.response_heatmap(ds, "GMP", most=most)
    singular = ds.assign(response_status=ds["response_status"] * 0 + 6)
    with pytest.raises(InputError, match="no cell of cluster 'GMP' has responses that can be trusted"):
        sd.pl.response_heatmap(singular, "GMP")
    pairs = ds.isel(block_effector=0).rename(block_regulator="pair")
    with pytest.raises(InputError, match="responses are of pairs; expected those of effectors="):
        sd.pl.response_heatmap(pairs, "GMP")
