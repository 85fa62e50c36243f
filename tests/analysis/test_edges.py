"""Partial correlations and edges, against regressions, SciPy and figures worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stabdask.analysis.network import compare, edges, partial_correlations, statistics
from stabdask.errors import InputError, NotPositiveDefiniteError, UsageError

Array = np.ndarray[Any, Any]


@given(st.integers(2, 6), st.integers(0, 200))
@settings(max_examples=30)
def test_partial_correlations_are_those_of_residuals(n: int, seed: int) -> None:
    """Correlate what is left of two genes after regressing each on all the others."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, n)) @ rng.standard_normal((n, n)) + rng.standard_normal((40, n))
    x -= x.mean(axis=0)
    rho = partial_correlations(np.linalg.inv(x.T @ x))
    for i in range(n):
        for j in range(i):
            rest = np.delete(x, [i, j], axis=1)
            left = x[:, [i, j]] - rest @ np.linalg.lstsq(rest, x[:, [i, j]], rcond=None)[0]
            assert rho[i, j] == pytest.approx(np.corrcoef(left.T)[0, 1], abs=1e-8)
    assert np.array_equal(rho, rho.T)
    assert (np.diagonal(rho) == 1).all()


def test_matrices_that_are_no_precision() -> None:
    with pytest.raises(NotPositiveDefiniteError, match=r"-1 on its diagonal, at gene 1, .* is -1;"):
        partial_correlations(np.diag([1.0, -1.0]))
    with pytest.raises(NotPositiveDefiniteError, match="a partial correlation of 2"):
        partial_correlations([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(InputError, match="not symmetric"):
        partial_correlations([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(InputError, match="NaN"):
        partial_correlations([[np.nan]])
    assert partial_correlations([[3.0]]).tolist() == [[1.0]]


def matrix(n: int, seed: int) -> Array:
    root = np.random.default_rng(seed).standard_normal((n, 3 * n))
    return partial_correlations(root @ root.T)


def test_edges_chosen_by_size() -> None:
    rho = matrix(6, 0)
    every = edges(rho, threshold=0.0)
    assert len(every) == 15
    assert every["partial_correlation"].abs().is_monotonic_decreasing
    for row in every.itertuples():
        assert rho[int(row.gene_a), int(row.gene_b)] == row.partial_correlation
        assert int(row.gene_a) < int(row.gene_b)
    assert edges(rho, top=4).equals(every.iloc[:4])
    limit = every["partial_correlation"].abs()[6]
    assert edges(rho, threshold=float(limit)).equals(every.iloc[:7])
    assert len(edges(rho, top=100)) == 15
    assert len(edges([[1.0]], ["A"], top=1)) == 0
    assert len(edges([[1.0]], ["A"], fdr=0.1, n_cells=10)) == 0


def test_p_values_are_those_of_fisher() -> None:
    """For two genes, a plain correlation: z with n - 3 degrees."""
    row = edges([[1.0, 0.5], [0.5, 1.0]], ["A", "B"], top=1, n_cells=28).iloc[0]
    expected = math.erfc(5 * math.atanh(0.5) / math.sqrt(2))
    assert row["p_value"] == pytest.approx(expected, rel=1e-12)
    assert row["q_value"] == row["p_value"]
    assert edges(np.ones((2, 2)), fdr=0.01, n_cells=9)["p_value"].tolist() == [0.0]


def test_a_false_discovery_rate() -> None:
    rho, n_cells = matrix(12, 1), 40
    every = edges(rho, threshold=0.0, n_cells=n_cells)
    assert len(every) == 66
    z = np.sqrt(n_cells - 10 - 3) * np.arctanh(every["partial_correlation"].to_numpy())
    p = 2 * stats.norm.sf(np.abs(z))
    np.testing.assert_allclose(every["p_value"], p, rtol=1e-10)
    # Benjamini and Hochberg: p times tests over rank, never more than that of the next larger p.
    q = np.minimum.accumulate((p * 66 / np.arange(1, 67))[::-1])[::-1]
    np.testing.assert_allclose(every["q_value"], np.minimum(q, 1.0), rtol=1e-10)
    for level in (0.01, 0.3, 0.9):
        kept = edges(rho, fdr=level, n_cells=n_cells)
        assert kept.equals(every[every["q_value"] <= level])
    assert 0 < len(edges(rho, fdr=0.9, n_cells=n_cells)) <= 66


def test_noise_makes_no_edges_and_a_chain_makes_its_own() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2000, 10))
    x[:, 1] += x[:, 0]
    x[:, 2] += x[:, 1]
    rho = partial_correlations(np.linalg.inv(np.cov(x.T)))
    found = edges(rho, fdr=1e-3, n_cells=2000)
    assert {(row.gene_a, row.gene_b) for row in found.itertuples()} == {("0", "1"), ("1", "2")}


def test_statistics() -> None:
    rho = np.array([[1.0, 0.5, -0.1], [0.5, 1.0, 0.0], [-0.1, 0.0, 1.0]])
    found = statistics(rho, 0.1)
    assert found == {
        "n_genes": 3, "n_pairs": 3, "n_strong": 2, "density": 2 / 3,
        "mean_absolute": pytest.approx(0.2), "max_absolute": 0.5,
    }  # fmt: skip
    alone = statistics([[1.0]])
    assert (alone["n_pairs"], alone["n_strong"]) == (0, 0)
    assert math.isnan(alone["density"])
    assert math.isnan(alone["max_absolute"])


def test_compared() -> None:
    before, after = matrix(7, 2), matrix(7, 3)
    table = compare(before, after, top=5, genes=list("ABCDEFG"))
    assert len(table) == 5
    assert table["change"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(table["change"], table["after"] - table["before"])
    assert table["change"].abs().iloc[0] == np.abs(np.triu(after - before, 1)).max()
    row = table.iloc[0]
    assert before["ABCDEFG".index(row["gene_a"]), "ABCDEFG".index(row["gene_b"])] == row["before"]
    with pytest.raises(InputError, match="before has 7 genes and after 3"):
        compare(before, matrix(3, 0))


def test_options_without_sense() -> None:
    rho = matrix(4, 0)
    for options, message in (
        ({}, "nothing chooses"),
        ({"top": 3, "fdr": 0.1}, "top, fdr chooses"),
        ({"fdr": 0.1}, "fdr needs n_cells"),
        ({"fdr": 2.0, "n_cells": 9}, "fdr=2.0"),
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"top": 0}, "top=0"),
        ({"top": 1.5}, "top=1.5"),
    ):
        with pytest.raises(UsageError, match=message):
            edges(rho, **options)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"5 cells are too few to test partial correlations of 4 genes: .* is 0"
    ):
        edges(rho, fdr=0.1, n_cells=5)
    with pytest.raises(InputError, match="none of correlations"):
        edges(2 * rho, top=1)
    with pytest.raises(InputError, match="more than once"):
        edges(rho, ["A", "A", "B", "C"], top=1)
    with pytest.raises(UsageError, match="threshold=3"):
        statistics(rho, 3)
