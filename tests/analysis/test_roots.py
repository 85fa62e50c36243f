"""Zeros of fields: all found, none invented, whatever the batch, the order of starts, jumps and vanishing fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import random_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from smooth_fields import SmoothField, kernel_field

import stabdask as sd
from stabdask.analysis.roots import Outcome, batch_starts, find_roots
from stabdask.analysis.search import search_scales

Array = np.ndarray[Any, Any]


def search(field: Any, starts: Array, **options: Any) -> Any:
    return find_roots(field, 0, starts, search_scales(field, 0, starts), **options)


def one_gene(**options: Any) -> sd.HopfieldField:
    return sd.HopfieldField.from_arrays(["A"], **{"gamma": 1.0, "threshold": 1.0, "exponent": 4.0, **options})


def double_well(n_axes: int = 30, seed: int = 0) -> tuple[SmoothField, Array, Array]:
    """Return a rotated field with exactly three zeros, their places and Jacobians: y1 - y1^3, a spiral, decay."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n_axes, n_axes)))[0]
    B = -np.diag(rng.uniform(0.5, 2.0, n_axes))
    B[0, 0] = 0.0
    B[1:3, 1:3] = [[-0.3, 2.0], [-2.0, -0.3]]

    def formula(x: Array) -> tuple[Array, Array, Array]:
        y = x @ Q
        g = y @ B.T
        g[:, 0] += y[:, 0] - y[:, 0] ** 3
        terms = np.abs(y) @ np.abs(B).T
        terms[:, 0] += np.abs(y[:, 0]) + np.abs(y[:, 0]) ** 3
        J = np.repeat(B[None], len(x), axis=0)
        J[:, 0, 0] += 1.0 - 3.0 * y[:, 0] ** 2
        return g @ Q.T, terms @ np.abs(Q).T, Q @ J @ Q.T

    zeros = np.zeros((3, n_axes))
    zeros[:, 0] = [-1.0, 0.0, 1.0]
    places = zeros @ Q.T
    return SmoothField(n_axes, formula), places, formula(places)[2]


def test_the_zeros_of_one_gene_are_those_of_bisection() -> None:
    field = one_gene(W=[[2.0]], bias=0.05)

    def v(x: float) -> float:
        return float(field.velocity([[x]], "all")[0, 0])

    expected = [brentq(v, a, b, xtol=1e-15) for a, b in ((0.0, 0.3), (0.3, 1.2), (1.2, 3.0))]
    roots = search(field, np.linspace(0.0, 3.0, 40)[:, None])
    assert (roots.outcome == Outcome.CONVERGED).all()
    distance = np.abs(roots.location - np.array(expected))
    assert distance.min(axis=1).max() < 1e-12
    assert set(distance.argmin(axis=1)) == {0, 1, 2}
    assert (roots.residual < 1e-15).all()
    assert (roots.error < 1e-14).all()
    assert (roots.error > 0.0).all()


def test_thirty_dimensions() -> None:
    field, places, _ = double_well()
    starts = np.random.default_rng(1).normal(size=(200, 30))
    roots = search(field, starts)
    assert (roots.outcome == Outcome.CONVERGED).all()
    distance = np.linalg.norm(roots.location[:, None] - places, axis=2)
    assert distance.min(axis=1).max() < 1e-9
    assert set(distance.argmin(axis=1)) == {0, 1, 2}


def test_a_start_at_the_zero_stays() -> None:
    field, places, _ = double_well(5)
    roots = search(field, places)
    assert (roots.outcome == Outcome.CONVERGED).all()
    np.testing.assert_allclose(roots.location, places, atol=1e-14)


def grid_zeros(field: SmoothField, lower: Array, upper: Array, n: int = 300) -> Array:
    """Return the zeros of a field in the plane: squares in which both components change sign, then plain Newton."""
    x, y = (np.linspace(a, b, n) for a, b in zip(lower, upper, strict=True))
    v = field.velocity(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)).reshape(n, n, 2)
    corners = np.stack([v[:-1, :-1], v[1:, :-1], v[:-1, 1:], v[1:, 1:]])
    found: list[Array] = []
    for i, j in np.argwhere(((corners.min(axis=0) <= 0) & (corners.max(axis=0) >= 0)).all(axis=-1)):
        start = point = np.array([x[i : i + 2].mean(), y[j : j + 2].mean()])
        for _ in range(30):
            point = point - np.linalg.solve(field.jacobian(point[None])[0], field.velocity(point[None])[0])
        near = np.abs(point - start).max() < 3 * (x[1] - x[0])
        if near and all(np.linalg.norm(point - other) > 1e-6 for other in found):
            found.append(point)
    return np.array(found).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(6))
def test_all_zeros_of_kernels_in_the_plane(seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = kernel_field(rng.normal(size=(20, 2)) * 2.0, rng.normal(size=(20, 2)), 0.5)
    starts = rng.uniform(-5.0, 5.0, (300, 2))
    scales = search_scales(field, 0, starts, margin=0.0)
    roots = find_roots(field, 0, starts, scales)
    found = np.unique(np.round(roots.location[roots.outcome == 0], 6), axis=0)
    expected = grid_zeros(field, scales.lower, scales.upper)
    assert len(expected)
    distance = np.linalg.norm(found[:, None] - expected, axis=2)
    assert distance.min(axis=0).max() < 2e-6, "a zero was missed"
    assert distance.min(axis=1).max() < 2e-6, "a zero was invented"


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_one_bump_has_no_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 6))
    field = kernel_field(rng.normal(size=(1, d)), rng.normal(size=(1, d)), float(rng.uniform(0.05, 5.0)))
    starts = rng.normal(size=(40, d)) * rng.choice([1.0, 10.0, 1000.0])
    outcome = search(field, starts).outcome
    assert not np.isin(outcome, (Outcome.CONVERGED, Outcome.BOUNDARY)).any()


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_nothing_is_found_where_all_kernels_have_died_down(seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = kernel_field(rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), 1.0)
    # From where the velocity is below 1e-100, or exactly 0.
    starts = rng.normal(size=(30, 3)) * rng.choice([0.1, 3.0]) + rng.choice([20.0, 200.0])
    assert np.linalg.norm(field.velocity(starts), axis=1).max() < 1e-30
    assert not (search(field, starts).outcome == Outcome.CONVERGED).any()


def test_a_small_velocity_far_out_is_no_zero_even_where_data_is() -> None:
    rng = np.random.default_rng(3)
    field = kernel_field(rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), 1.0)
    starts = np.concatenate([rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 30.0])
    roots = search(field, starts)
    far = np.linalg.norm(roots.location, axis=1) > 15.0
    assert far.any()
    assert not (roots.outcome[far] == Outcome.CONVERGED).any()


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8, 1e-13])
def test_a_near_miss_is_no_zero(gap: float) -> None:
    def formula(x: Array) -> tuple[Array, Array, Array]:
        square = x[:, 0] ** 2 + gap
        jacobian = np.zeros((len(x), 2, 2))
        jacobian[:, 0, 0], jacobian[:, 1, 1] = 2.0 * x[:, 0], -1.0
        return (
            np.stack([square, 1.0 - x[:, 1]], axis=1),
            np.stack([square, 1.0 + np.abs(x[:, 1])], axis=1),
            jacobian,
        )

    starts = np.random.default_rng(0).normal(size=(60, 2))
    assert not (search(SmoothField(2, formula), starts).outcome == Outcome.CONVERGED).any()


def test_a_double_zero_is_located() -> None:
    def formula(x: Array) -> tuple[Array, Array, Array]:
        return (x - 0.3) ** 2, x**2 + np.abs(0.6 * x) + 0.09, 2.0 * (x - 0.3)[:, :, None]

    roots = search(SmoothField(1, formula), np.random.default_rng(0).normal(size=(60, 1)))
    good = roots.outcome == Outcome.CONVERGED
    assert good.any()
    assert (np.abs(roots.location[good] - 0.3) < 1e-5).all()


def test_a_zero_that_rounding_smears_out_is_not_located() -> None:
    # x^8 beside 1 is nothing from 0.01 on: anywhere there the velocity is 0.
    def formula(x: Array) -> tuple[Array, Array, Array]:
        return (1.0 + x**8) - 1.0, 2.0 + x**8, 8.0 * x[:, :, None] ** 7

    roots = search(SmoothField(1, formula), np.random.default_rng(0).normal(size=(30, 1)))
    assert not (roots.outcome == Outcome.CONVERGED).any()


@pytest.mark.parametrize("n_starts", [1, 30])
def test_a_jump_over_zero_is_no_zero(n_starts: int) -> None:
    # phi falls from 0.98 to 0.13 at x = 1.25, and the velocity with it from 0.28 to -0.57.
    field = one_gene(
        W=[[1.0]], bias=0.55, threshold=0.5, threshold2=2.0, exponent2=4.0, mix=0.5,
    )  # fmt: skip
    v = field.velocity(np.array([[1.2499], [1.2501]]), "all")[:, 0]
    assert v[0] > 0.2
    assert v[1] < -0.2
    roots = search(field, np.random.default_rng(0).uniform(0.0, 3.0, (n_starts, 1)))
    assert (roots.outcome == Outcome.STALLED).all()


def test_zeros_on_both_sides_of_a_jump() -> None:
    field = one_gene(
        W=[[-4.0]], bias=4.0, threshold=0.5, exponent=8.0, threshold2=4.0, exponent2=8.0, mix=0.5
    )
    roots = search(field, np.random.default_rng(0).uniform(0.0, 4.0, (40, 1)))
    assert (roots.outcome == Outcome.CONVERGED).all()
    found = np.unique(np.round(roots.location[:, 0], 9))

    def component(x: float, k: float) -> float:
        return 4.0 - 4.0 * x**8 / (x**8 + k**8) - x

    expected = [brentq(component, 0.1, 2.25, args=(0.5,)), brentq(component, 2.25, 4.0, args=(4.0,))]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_below_zero_is_the_boundary() -> None:
    # B settles at 0.5 as long as A is at 0, where A would go on falling: v_A = -1 - 3 H(0.5).
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0, -3.0], [3.0, 0]], gamma=1.0, bias=[-1.0, 0.5], threshold=1.0, exponent=2.0
    )
    roots = search(field, np.random.default_rng(0).uniform(0.0, 3.0, (20, 2)))
    assert (roots.outcome == Outcome.BOUNDARY).all()
    np.testing.assert_allclose(roots.location, np.tile([0.0, 0.5], (20, 1)), atol=1e-14)
    assert (roots.held == 1).all()


def test_a_zero_in_the_corner_is_one() -> None:
    # No bias: v = 0 at no expression at all, where all terms vanish, and with either gene alone.
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=3.0 * np.eye(2), gamma=1.0, threshold=1.0, exponent=2.0
    )
    roots = search(field, np.random.default_rng(0).uniform(0.0, 3.0, (100, 2)))
    assert (roots.outcome == Outcome.CONVERGED).all()
    ends = np.array([0.0, (3 - np.sqrt(5)) / 2, (3 + np.sqrt(5)) / 2])  # of 3 x^2 / (1 + x^2) = x
    nearest = np.abs(roots.location[:, :, None] - ends)
    assert nearest.min(axis=2).max() < 1e-10
    assert len(np.unique(nearest.argmin(axis=2), axis=0)) == 9


def test_rounding_below_zero_is_no_boundary() -> None:
    # B settles at 1; A at 0, but for -5e-16.
    field = sd.HopfieldField.from_arrays(
        ["A", "B"],
        W=[[0.0, -0.6 - 1e-15], [0.0, 0.0]],
        gamma=1.0,
        bias=[0.3, 1.0],
        threshold=1.0,
        exponent=2.0,
    )
    roots = search(field, np.random.default_rng(0).uniform(0.0, 3.0, (20, 2)))
    assert (roots.outcome == Outcome.CONVERGED).all()
    np.testing.assert_array_equal(roots.location, np.tile([0.0, 1.0], (20, 1)))


def test_starts_that_are_not_finite_stay_out() -> None:
    field = one_gene(W=[[2.0]], bias=0.05)
    starts = np.array([[np.nan], [1.0], [np.inf]])
    roots = find_roots(field, 0, starts, search_scales(field, 0, starts[1:2]))
    assert roots.outcome.tolist() == [Outcome.NOT_FINITE, Outcome.CONVERGED, Outcome.NOT_FINITE]
    assert np.isnan(roots.residual[[0, 2]]).all()
    none = find_roots(field, 0, starts[:0], search_scales(field, 0, starts[1:2]))
    assert none.location.shape == (0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_every_zero_of_a_network_is_one_by_the_definition(seed: int) -> None:
    drawn = random_field(seed, n_genes=14, n_regulators=8, clusters=("A",))
    starts = drawn.expression(60)
    roots = search(drawn.field, starts)
    good = roots.outcome == Outcome.CONVERGED
    p = drawn.clusters["A"]
    x = roots.location[good]
    assert (x >= 0).all()
    assert np.abs(p.velocity(x)).max(initial=0.0) < 1e-9 * np.abs(p.W).sum()
    # Of the boundary: what is above 0 stands still, what is at 0 would fall.
    held = roots.location[roots.outcome == Outcome.BOUNDARY]
    v = p.velocity(held)
    assert np.abs(v[held > 0]).max(initial=0.0) < 1e-9 * np.abs(p.W).sum()
    assert (v[held == 0] < 1e-9).all()
    assert len(x) + len(held)


def test_smooth_activations_always_have_a_zero_or_one_on_the_boundary() -> None:
    # Brouwer: a continuous field that points into a box has a zero in it.
    for seed in range(6):
        drawn = random_field(seed, n_genes=12, n_regulators=9, clusters=("A",), two_components=False)
        outcome = search(drawn.field, drawn.expression(40)).outcome
        assert np.isin(outcome, (Outcome.CONVERGED, Outcome.BOUNDARY)).any(), seed


@given(st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_batches_and_order_make_no_difference(batch: int, seed: int) -> None:
    field = double_well(6, seed)[0]
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(60, 6))
    scales = search_scales(field, 0, starts)
    whole = find_roots(field, 0, starts, scales)
    order = rng.permutation(60)
    other = find_roots(field, 0, starts[order], scales, batch=batch)
    np.testing.assert_allclose(other.location, whole.location[order], atol=1e-11)
    np.testing.assert_array_equal(other.outcome, whole.outcome[order])


def test_batches_are_small_where_matrices_are_large() -> None:
    field = random_field(0).field
    assert batch_starts(field) == 256

    class Large(SmoothField):
        @property
        def largest_core(self) -> int:
            return 2000

    assert batch_starts(Large(2, lambda x: (x, x, x))) == 1
