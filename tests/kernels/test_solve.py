"""Batches of linear systems: against one at a time, least squares, and matrices that have no inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabdask.kernels.solve import solve_damped, solve_or_nan


def test_every_matrix_is_solved_as_if_alone() -> None:
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(7, 5, 5)), rng.normal(size=(7, 5))
    expected = np.stack([np.linalg.inv(a) @ side for a, side in zip(A, b, strict=True)])
    np.testing.assert_allclose(solve_or_nan(A, b[:, :, None])[:, :, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("bad", ["zero", "dependent", "nan", "inf"])
def test_one_bad_matrix_spoils_no_other(bad: str) -> None:
    rng = np.random.default_rng(1)
    A, b = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3))
    A[2] = {"zero": 0.0, "dependent": 1.0, "nan": np.nan, "inf": np.inf}[bad]
    x = solve_or_nan(A, b[:, :, None])[:, :, 0]
    assert np.isnan(x[2]).all()
    good = [0, 1, 3]
    np.testing.assert_allclose(np.einsum("bij,bj->bi", A[good], x[good]), b[good], rtol=1e-10)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_solve(shape: tuple[int, int]) -> None:
    batch, k = shape
    assert solve_or_nan(np.zeros((batch, k, k)), np.zeros((batch, k, 1))).shape == (batch, k, 1)
    assert solve_damped(np.zeros((batch, k, k)), np.zeros(shape), np.ones(batch)).shape == shape


@given(st.integers(0, 10_000), st.floats(1e-8, 1e3))
def test_damped_is_the_least_squares_it_says(seed: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    A, b, w = rng.normal(size=(4, 4)), rng.normal(size=4), rng.uniform(0.1, 10.0, 4)
    scaled = w[:, None] * A
    D = np.linalg.norm(scaled, axis=0)
    stacked = np.concatenate([scaled, np.sqrt(damping) * np.diag(D)])
    expected = np.linalg.lstsq(stacked, np.concatenate([w * b, np.zeros(4)]), rcond=None)[0]
    x = solve_damped(A[None], b[None], np.array([damping]), w[None])[0]
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@given(st.integers(0, 10_000), st.floats(-6.0, 6.0))
def test_damped_does_not_depend_on_units(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(1, 4, 4)), rng.normal(size=(1, 4))
    units = np.array([1.0, 10.0**power, 1.0, 1.0])
    x = solve_damped(A, b, np.array([0.1]))
    np.testing.assert_allclose(solve_damped(A * units, b, np.array([0.1])) * units, x, rtol=1e-9)


def test_damped_solves_what_is_singular() -> None:
    A = np.array([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    b = np.array([[2.0, 2.0], [0.0, 6.0], [0.0, 0.0]])
    x = solve_damped(A, b, np.full(3, 1e-12))
    np.testing.assert_allclose(x, [[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]], atol=1e-9)
    # Without a solution: the best there is.
    best = solve_damped(A, b + np.array([[1.0, -1.0], [5.0, 0.0], [1.0, 1.0]]), np.full(3, 1e-8))
    np.testing.assert_allclose(best, x, atol=1e-6)
