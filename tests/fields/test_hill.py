"""The Hill activation against exact rational arithmetic, finite differences and limits worked by hand."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from helpers import hill_slope, hill_value
from hypothesis import given
from hypothesis import strategies as st

from stabdask.fields.hill import HillParameters

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("way")


def one(k: float, n: float) -> HillParameters:
    return HillParameters.single([k], [n])


def two(k1: float, n1: float, k2: float, n2: float, mix: float = 0.5) -> HillParameters:
    return HillParameters(*(np.array([value], dtype=float) for value in (k1, n1, k2, n2, mix)))


def evaluate(hill: HillParameters, *x: float) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activation, slope = hill.evaluate(np.array(x, dtype=float)[:, None])
    return activation[:, 0], slope[:, 0]


def exact(x: float, k: float, n: int) -> tuple[float, float]:
    """Return H and H' from rational arithmetic: r = (x/k)^n, H = r/(1+r), H' = n r / (x (1+r)^2)."""
    ratio = (Fraction(x) / Fraction(k)) ** n
    return float(ratio / (1 + ratio)), float(n * ratio / (Fraction(x) * (1 + ratio) ** 2))


def test_values_by_hand() -> None:
    activation, slope = evaluate(one(2.0, 1.0), 0.0, 2.0, 6.0)
    np.testing.assert_allclose(activation, [0, 1 / 2, 3 / 4], rtol=1e-15)
    np.testing.assert_allclose(slope, [1 / 2, 1 / 8, 1 / 32], rtol=1e-15)  # k / (x + k)^2
    activation, slope = evaluate(one(1.0, 2.0), 0.0, 1.0, 3.0)
    np.testing.assert_allclose(activation, [0, 1 / 2, 9 / 10], rtol=1e-15)
    np.testing.assert_allclose(slope, [0, 1 / 2, 6 / 100], rtol=1e-15)  # 2 x / (x^2 + 1)^2


def test_the_textbook_formulas() -> None:
    rng = np.random.default_rng(0)
    x, k, n = rng.uniform(0.05, 5, (50, 8)), rng.uniform(0.2, 4, 8), rng.uniform(0.3, 8, 8)
    activation, slope = HillParameters.single(k, n).evaluate(x)
    np.testing.assert_allclose(activation, hill_value(x, k, n), rtol=1e-12)
    np.testing.assert_allclose(slope, hill_slope(x, k, n), rtol=1e-12)


@given(
    st.floats(1e-12, 1e12),
    st.floats(1e-6, 1e6),
    st.integers(1, 20),
)
def test_relative_accuracy_at_any_saturation(x: float, k: float, n: int) -> None:
    activation, slope = evaluate(one(k, float(n)), x)
    expected_activation, expected_slope = exact(x, k, n)
    # Rounding of log(x), log(k) is multiplied by n.
    tolerance = 1e-14 * (1 + n)
    assert activation[0] == pytest.approx(expected_activation, rel=tolerance, abs=1e-300)
    assert slope[0] == pytest.approx(expected_slope, rel=10 * tolerance, abs=1e-300)


def test_slope_is_the_derivative_of_the_activation() -> None:
    hill = HillParameters.single([0.7, 1.0, 2.0], [0.8, 1.0, 4.5])
    x = np.array([[0.3, 0.4, 1.7], [2.0, 1.0, 2.1]])
    step = 1e-6
    difference = (hill.evaluate(x + step)[0] - hill.evaluate(x - step)[0]) / (2 * step)
    np.testing.assert_allclose(hill.evaluate(x)[1], difference, rtol=1e-8)


@pytest.mark.parametrize(("n", "expected"), [(4.0, 0.0), (1.0 + 1e-9, 0.0), (1.0, 0.4), (0.99, np.inf)])
def test_slope_without_expression(n: float, expected: float) -> None:
    activation, slope = evaluate(one(2.5, n), 0.0, -0.0)
    np.testing.assert_array_equal(activation, [0.0, 0.0])
    np.testing.assert_array_equal(slope, [expected, expected])
    assert one(2.5, n).infinite_slope_at_zero().tolist() == [n < 1]


def test_infinite_slope_is_that_of_the_component_in_force_at_zero() -> None:
    assert two(2.0, 0.5, 1.0, 3.0).infinite_slope_at_zero().tolist() == [False]
    assert two(1.0, 3.0, 2.0, 0.5).infinite_slope_at_zero().tolist() == [False]
    assert two(2.0, 3.0, 1.0, 0.5).infinite_slope_at_zero().tolist() == [True]
    assert two(2.0, 3.0, 1.0, 0.5, mix=1.0).infinite_slope_at_zero().tolist() == [False]


@pytest.mark.parametrize("x", [1e-300, 1e-30, 1e-10, 1e10, 1e30, 1e300])
@pytest.mark.parametrize("k", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 20.0, 200.0])
def test_saturation_has_no_nan_and_no_warning(x: float, k: float, n: float) -> None:
    activation, slope = evaluate(one(k, n), x)
    assert np.isfinite(activation).all()
    assert np.isfinite(slope).all()
    assert (slope >= 0).all()
    if n * abs(np.log(x / k)) > 800:
        assert slope[0] == 0 or n < 1
        assert activation[0] == (1.0 if x > k else 0.0) or n < 1


def test_nan_expression_gives_nan() -> None:
    activation, slope = evaluate(one(1.0, 2.0), np.nan, 1.0)
    assert np.isnan(activation[0])
    assert np.isnan(slope[0])
    assert np.isfinite([activation[1], slope[1]]).all()


def test_the_component_with_the_nearer_threshold_is_in_force() -> None:
    hill = two(1.0, 2.0, 3.0, 5.0)
    activation, slope = evaluate(hill, 0.5, 1.9, 2.1, 9.0)
    for i, (x, k, n) in enumerate([(0.5, 1.0, 2), (1.9, 1.0, 2), (2.1, 3.0, 5), (9.0, 3.0, 5)]):
        assert (activation[i], slope[i]) == pytest.approx(exact(x, k, n), rel=1e-13)


@pytest.mark.parametrize(("k1", "k2"), [(1.0, 3.0), (3.0, 1.0)])
def test_a_tie_takes_the_first_component(k1: float, k2: float) -> None:
    activation, slope = evaluate(two(k1, 2.0, k2, 5.0), 2.0, np.nextafter(2.0, 3), np.nextafter(2.0, 1))
    n = {k1: 2, k2: 5}
    for i, k in enumerate([k1, 3.0, 1.0]):
        assert (activation[i], slope[i]) == pytest.approx(exact(2.0, k, n[k]), rel=1e-13)


@pytest.mark.parametrize("mix", [1.0, 1.5])
def test_one_component_ignores_the_second(mix: float) -> None:
    mixed, single = evaluate(two(1.0, 2.0, 3.0, 5.0, mix), 2.9), evaluate(one(1.0, 2.0), 2.9)
    np.testing.assert_array_equal(mixed, single)
    garbage = evaluate(two(1.0, 2.0, np.nan, -1.0, mix), 2.9)
    np.testing.assert_array_equal(garbage, single)


def test_the_mixing_weight_itself_does_not_matter() -> None:
    np.testing.assert_array_equal(
        evaluate(two(1, 2, 3, 5, mix=0.0), 0.5, 2.5), evaluate(two(1, 2, 3, 5, mix=0.999), 0.5, 2.5)
    )


def test_near_a_switch() -> None:
    hill = two(1.0, 2.0, 3.0, 5.0)
    x = np.array([2.0, 2.0 + 1.9e-6, 2.0 - 1.9e-6, 2.0 + 2.1e-6, 2.0 - 2.1e-6, 1.0, 3.0, 0.0, np.nan])
    near = hill.near_switch(x[:, None])[:, 0]
    assert hill.evaluate_and_count(x[:, None])[2].tolist() == near.tolist()
    assert near.tolist() == [True, True, True, False, False, False, False, False, False]
    at = np.array([[2.0]])
    assert not two(1.0, 2.0, 3.0, 5.0, mix=1.0).near_switch(at).any()
    # Components with the same threshold never switch: there is nothing but ties.
    assert not two(2.0, 3.0, 2.0, 3.0).near_switch(at).any()
    assert not two(2.0, 3.0, 2.0, 4.0).near_switch(at).any()
    assert two(1.0, 3.0, 3.0, 3.0).near_switch(at).all()


def test_take_and_stacked_keep_all_five_parameters_in_order() -> None:
    rows = np.arange(20.0).reshape(5, 4) + 1
    hill = HillParameters(*rows)
    np.testing.assert_array_equal(hill.stacked(), rows)
    taken = hill.take(np.array([3, 0]))
    np.testing.assert_array_equal(taken.stacked(), rows[:, [3, 0]])
    assert [taken.threshold[0], taken.exponent[0], taken.threshold2[0], taken.exponent2[0], taken.mix[0]] == [
        4,
        8,
        12,
        16,
        20,
    ]


def test_single_broadcasts_and_copies() -> None:
    k = np.array([1.0, 2.0, 3.0])
    hill = HillParameters.single(k, 2)
    k[:] = 0
    np.testing.assert_array_equal(hill.stacked(), [[1, 2, 3], [2, 2, 2], [1, 2, 3], [2, 2, 2], [1, 1, 1]])


@pytest.mark.parametrize("n_genes", [0, 1, 3, 7, 8, 9, 17])
def test_rows_of_any_length(n_genes: int) -> None:
    rng = np.random.default_rng(n_genes)
    k1, k2, n1, n2 = rng.uniform(0.3, 6, (4, n_genes))
    mix = rng.choice([0.4, 1.0], n_genes)
    x = rng.choice([0.0, 1.0], (5, n_genes)) * rng.gamma(1.0, 2.0, (5, n_genes))
    switch = 0.5 * (k1 + k2)
    x = np.where(rng.random(x.shape) < 0.3, switch, x)
    second = (mix < 1) & (np.abs(x - k2) < np.abs(x - k1))
    k, n = np.where(second, k2, k1), np.where(second, n2, n1)
    activation, slope, near = HillParameters(k1, n1, k2, n2, mix).evaluate_and_count(x)
    some = x > 0
    np.testing.assert_allclose(activation[some], hill_value(x, k, n)[some], rtol=1e-12)
    np.testing.assert_allclose(slope[some], hill_slope(x, k, n)[some], rtol=1e-12)
    assert (activation[~some] == 0).all()
    np.testing.assert_array_equal(slope[~some], np.where(n < 1, np.inf, 0.0)[~some])
    assert near.tolist() == ((mix < 1) & (np.abs(x - switch) < 1e-9)).sum(axis=1).tolist()


def test_a_cell_has_the_same_bits_whatever_the_others() -> None:
    rng = np.random.default_rng(5)
    hill = HillParameters.single(rng.uniform(0.3, 3, 11), rng.uniform(1, 6, 11))
    x = rng.gamma(1.0, 2.0, (9, 11))
    together = hill.evaluate(x)
    for cell in range(9):
        for whole, alone in zip(together, hill.evaluate(x[cell : cell + 1]), strict=True):
            np.testing.assert_array_equal(whole[cell], alone[0])


def test_forty_digits() -> None:
    rng = np.random.default_rng(6)
    n = rng.uniform(1, 9, 40)
    hill = HillParameters.single(10.0 ** rng.uniform(-9, 9, 40), n)
    x = hill.threshold * 10.0 ** rng.uniform(-14, 14, (20, 40))
    activation, slope = hill.evaluate(x)
    with mpmath.workdps(40):
        for cell, gene in np.ndindex(20, 40):
            at, k, exponent = (mpmath.mpf(float(v)) for v in (x[cell, gene], hill.threshold[gene], n[gene]))
            ratio = (at / k) ** exponent
            # What is lost is what the logarithms of the two lose, times the exponent.
            loss = 3e-16 * (4 + n[gene] * (abs(np.log(x[cell, gene])) + abs(np.log(hill.threshold[gene]))))
            assert activation[cell, gene] == pytest.approx(float(ratio / (1 + ratio)), rel=loss)
            expected = exponent * ratio / (at * (1 + ratio) ** 2)
            assert slope[cell, gene] == pytest.approx(float(expected), rel=loss, abs=1e-300)
