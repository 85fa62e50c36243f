"""Shrunk covariances against the published formulas, written out over cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.shrinkage import shrink
from stabdask.errors import InputError, UsageError

Array = np.ndarray[Any, Any]


def published(x: Array) -> tuple[Array, float]:
    """Return Ledoit and Wolf's estimate, one cell after the other, as their section 3 defines it.

    m = <S, I>, d^2 = |S - m I|^2, b^2 = min(sum_k |x_k x_k^T - S|^2 / n^2, d^2), with the norm |A|^2 = tr(A A^T) / p;
    the estimate is (b^2 / d^2) m I + (1 - b^2 / d^2) S.
    """
    n, p = x.shape
    x = x - x.mean(axis=0)
    S = sum(np.outer(row, row) for row in x) / n
    m = np.trace(S) / p
    d2 = np.sum((S - m * np.eye(p)) ** 2) / p
    b2 = min(sum(np.sum((np.outer(row, row) - S) ** 2) / p for row in x) / n**2, d2)
    amount = 0.0 if b2 == 0 else b2 / d2
    return amount * m * np.eye(p) + (1 - amount) * S, amount


def elementwise(x: Array) -> float:
    """Return the amount by sums of products of squared entries, which is how scikit-learn documents it."""
    n, p = x.shape
    x = x - x.mean(axis=0)
    squared = x**2
    of_products = np.sum(squared.T @ squared)
    of_squares = np.sum((x.T @ x) ** 2) / n**2
    mu = squared.sum() / n / p
    beta = (of_products / n - of_squares) / (p * n)
    delta = (of_squares - 2 * mu * squared.sum() / n + p * mu**2) / p
    beta = min(beta, delta)
    return 0.0 if beta == 0 else float(beta / delta)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=60)
def test_ledoit_wolf_is_the_published_one(seed: int, n: int, g: int, n_parts: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 1.0, (n, g)) @ rng.normal(size=(g, g)) + rng.normal(size=g) * 10
    moments = sum((CoMoments.of(p) for p in np.array_split(x, n_parts)), start=CoMoments.of(x[:0]))
    sigma, amount = shrink(moments, "ledoit-wolf")
    expected, expected_amount = published(x)
    assert amount == pytest.approx(expected_amount, abs=1e-10)
    assert amount == pytest.approx(elementwise(x), abs=1e-9)
    np.testing.assert_allclose(sigma, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_more_genes_than_cells() -> None:
    x = np.random.default_rng(0).normal(size=(15, 80))
    sigma, amount = shrink(CoMoments.of(x), "ledoit-wolf")
    assert amount == pytest.approx(published(x)[1], abs=1e-10)
    assert np.linalg.matrix_rank(np.cov(x, rowvar=False)) < 80
    assert np.linalg.eigvalsh(sigma)[0] > 0.1


def test_large_offsets_and_cells_taken_away() -> None:
    x = np.random.default_rng(1).normal(size=(300, 6)) * np.arange(1, 7) + 1e6
    whole = CoMoments.of(x)
    assert shrink(whole, "ledoit-wolf").amount == pytest.approx(published(x - 1e6)[1], abs=1e-9)
    rest = whole - CoMoments.of(x[:100])
    assert shrink(rest, "ledoit-wolf").amount == pytest.approx(published(x[100:] - 1e6)[1], abs=1e-9)


def test_four_cells_by_hand() -> None:
    """Cells (+-2, +-1): S = diag(4, 1), mu = 5/2, |S - mu I|^2 = 9/2, |x|^4 = 25, |S|^2 = 17, b = (25 - 17)/4 = 2."""
    x = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    sigma, amount = shrink(CoMoments.of(x), "ledoit-wolf")
    assert amount == pytest.approx(4 / 9, rel=1e-14)
    np.testing.assert_allclose(sigma, np.diag([10 / 3, 5 / 3]), rtol=1e-14)


def test_two_cells_by_hand() -> None:
    """Cells +-x: every x x^T is S, so that nothing is noise."""
    sigma, amount = shrink(CoMoments.of([[1.0, 2.0], [-1.0, -2.0]]), "ledoit-wolf")
    assert amount == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(sigma, [[1.0, 2.0], [2.0, 4.0]], rtol=1e-14)


def test_nothing_to_shrink() -> None:
    """One gene, no variance, or equal variances without correlation: the covariance is its own target."""
    for x in (np.arange(5.0)[:, None], np.ones((5, 3)), np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])):
        sigma, amount = shrink(CoMoments.of(x), "ledoit-wolf")
        assert amount == 0.0
        np.testing.assert_allclose(sigma, np.cov(x, rowvar=False, ddof=0).reshape(sigma.shape), atol=1e-15)


def test_all_noise_is_shrunk_to_the_target() -> None:
    x = np.random.default_rng(2).normal(size=(4, 50))
    sigma, amount = shrink(CoMoments.of(x), "ledoit-wolf")
    assert amount == pytest.approx(published(x)[1], abs=1e-10)
    assert 0.5 < amount <= 1.0
    assert np.trace(sigma) == pytest.approx(np.trace(np.cov(x, rowvar=False, ddof=0)))


@pytest.mark.parametrize("amount", [0, 0.25, 1.0, np.float32(0.5)])
def test_fixed(amount: float) -> None:
    x = np.random.default_rng(3).normal(size=(30, 4))
    S = np.cov(x, rowvar=False)
    found = shrink(CoMoments.of(x), "fixed", amount)
    expected = (1 - float(amount)) * S + float(amount) * np.trace(S) / 4 * np.eye(4)
    np.testing.assert_allclose(found.sigma, expected, rtol=1e-13, atol=1e-15)
    assert found.amount == float(amount)


def test_none_is_the_covariance() -> None:
    x = np.random.default_rng(4).normal(size=(30, 4))
    moments = CoMoments.of(x)
    np.testing.assert_allclose(shrink(moments).sigma, np.cov(x, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(shrink(moments, ddof=0).sigma, np.cov(x, rowvar=False, ddof=0), rtol=1e-12)
    assert shrink(moments).amount == 0.0
    shrink(moments).sigma[0, 0] = 99.0
    assert moments.comoment[0, 0] != 99.0


def test_a_constant_gene_gets_variance() -> None:
    x = np.random.default_rng(5).normal(size=(30, 3))
    x[:, 1] = 7.0
    sigma, amount = shrink(CoMoments.of(x), "ledoit-wolf")
    assert sigma[1, 1] == pytest.approx(amount * np.trace(np.cov(x, rowvar=False, ddof=0)) / 3)
    assert shrink(CoMoments.of(x)).sigma[1, 1] == 0.0


def test_bad_input() -> None:
    moments = CoMoments.of(np.random.default_rng(6).normal(size=(9, 2)))
    for amount in (-0.1, 1.1, np.nan, "0.5", True):
        with pytest.raises(UsageError, match="from 0 to 1"):
            shrink(moments, "fixed", amount)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs the amount"):
        shrink(moments, "fixed")
    with pytest.raises(UsageError, match="leave it out"):
        shrink(moments, "ledoit-wolf", 0.5)
    with pytest.raises(UsageError, match="did you mean 'ledoit-wolf'"):
        shrink(moments, "ledoit_wolf")  # type: ignore[arg-type]
    one = CoMoments.of([[1.0, 2.0]])
    for method in ("none", "ledoit-wolf"):
        with pytest.raises(InputError, match="at least 2 cells"):
            shrink(one, method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fourth=True"):
        shrink(CoMoments.of(np.eye(3), fourth=False), "ledoit-wolf")
    with pytest.raises(InputError, match="1 gene"):
        shrink(CoMoments.of(np.empty((4, 0))))
