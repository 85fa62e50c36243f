"""Linear systems in Jacobians, velocities and the size of their terms, bounds of fixed points: against dense NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import random_field
from smooth_fields import kernel_field

import stabdask as sd

Array = np.ndarray[Any, Any]


def parts(seed: int, **options: Any) -> tuple[sd.HopfieldField, Any, Array, Array, Any]:
    drawn = random_field(seed, **options)
    x = drawn.expression(6, zeros=0.3)
    return drawn.field, drawn.field.linearize(x, 1), drawn.clusters["B"].jacobian(x), x, drawn


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shifted", [False, True])
def test_solve_agrees_with_dense(seed: int, shifted: bool) -> None:
    _, part, J, _, drawn = parts(seed, n_genes=11, n_regulators=[4, 6])
    shift = np.linspace(0.5, 3.0, 6) if shifted else None
    dense = J if shift is None else J - shift[:, None, None] * np.eye(11)
    b = drawn.rng.normal(size=(6, 11))
    expected = np.linalg.solve(dense, b[:, :, None])[:, :, 0]
    found = part.solve_jacobian(np.arange(6), b, shift=shift)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
    some = np.array([4, 1])
    again = part.solve_jacobian(some, b[some], shift=None if shift is None else shift[some])
    np.testing.assert_allclose(again, found[some], rtol=1e-10)


def test_no_core_and_whole_cores() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=(3, 4))
    genes = list("ABCD")
    lone = sd.HopfieldField.from_arrays(
        genes, W=np.zeros((4, 4)), gamma=[1, 2, 4, 8.0], threshold=1.0, exponent=2.0
    )
    found = lone.linearize(np.ones((3, 4)), 0).solve_jacobian(np.arange(3), b)
    np.testing.assert_allclose(found, -b / [1, 2, 4, 8])
    full = sd.HopfieldField.from_arrays(
        genes, W=rng.normal(size=(4, 4)), gamma=1.0, threshold=1.0, exponent=2.0
    )
    x = rng.uniform(0.5, 2.0, (3, 4))
    expected = np.linalg.solve(full.jacobian(x, "all"), b[:, :, None])[:, :, 0]
    np.testing.assert_allclose(full.linearize(x, 0).solve_jacobian(np.arange(3), b), expected, rtol=1e-9)
    assert full.linearize(x[:0], 0).solve_jacobian(np.arange(0), b[:0]).shape == (0, 4)


def test_whole_cores_of_another_field() -> None:
    rng = np.random.default_rng(1)
    field = kernel_field(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), 0.3)
    x, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    part = field.linearize(x, 0)
    J = field.jacobian(x)
    rows = np.array([0, 3])
    np.testing.assert_allclose(np.einsum("cij,cj->ci", J, part.solve_jacobian(np.arange(5), b)), b, rtol=1e-9)
    assert part.solve_jacobian(rows[:0], b[:0]).shape == (0, 3)
    shift = np.array([2.0, -3.0])
    found = part.solve_jacobian(rows, b[rows], shift=shift)
    shifted = J[rows] - shift[:, None, None] * np.eye(3)
    np.testing.assert_allclose(np.einsum("cij,cj->ci", shifted, found), b[rows], rtol=1e-9)


def test_singular_is_nan_and_damping_solves_it() -> None:
    # The core of A alone: W phi' - gamma = 0 at x = 1 for W = 4, n = 1, k = 1, gamma = 1.
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "C"],
        W=[[4.0, 0, 0], [1.0, 0, 0], [0, 0, 0]],
        gamma=[1.0, 2.0, 0.0],
        threshold=1.0,
        exponent=1.0,
    )
    part = field.linearize(np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]]), 0)
    b = np.ones((2, 3))
    assert np.isnan(part.solve_jacobian(np.arange(2), b)).all()  # C neither decays nor is regulated
    x = part.solve_jacobian(np.arange(2), b, damping=np.full(2, 1e-12))
    # Row 0: nothing of A helps; row 1: slope 4/16 - 1 = -3/4. B follows A; C stays.
    np.testing.assert_allclose(x, [[0.0, -0.5, 0.0], [-4 / 3, (-4 / 3 / 16 - 1) / 2, 0.0]], atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_damped_core_and_exact_rest(seed: int) -> None:
    field, part, J, _, drawn = parts(seed)
    b, weights = drawn.rng.normal(size=(6, 9)), drawn.rng.uniform(0.2, 5.0, (6, 9))
    damping = np.full(6, 0.3)
    found = part.solve_jacobian(np.arange(6), b, damping=damping, weights=weights)
    for cell in range(6):
        own = field.regulator_index[part.active[cell]]
        rest = np.setdiff1d(np.arange(9), own)
        core = J[cell][np.ix_(own, own)]
        A = weights[cell, own, None] * core
        stacked = np.concatenate([A, np.sqrt(0.3) * np.diag(np.linalg.norm(A, axis=0))])
        side = np.concatenate([weights[cell, own] * b[cell, own], np.zeros(len(own))])
        expected = np.linalg.lstsq(stacked, side, rcond=None)[0]
        np.testing.assert_allclose(found[cell, own], expected, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose((J[cell] @ found[cell])[rest], b[cell, rest], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_velocity_and_the_size_of_its_terms(dtype: Any) -> None:
    field, _, _, x, drawn = parts(3)
    x = x.astype(dtype)
    part = field.linearize(x, 1)
    p = drawn.clusters["B"]
    np.testing.assert_allclose(part.velocity(), p.velocity(x.astype(float)), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(part.velocity(), field.velocity(x, "B"), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(np.linalg.norm(part.velocity(), axis=1), part.speed(), rtol=1e-12)
    k, n = p.branch(x.astype(float))
    phi = x**n / (x**n + k**n)
    expected = phi @ np.abs(p.W).T + np.abs(p.gamma * x) + np.abs(p.bias)
    np.testing.assert_allclose(part.velocity_scale(), expected, rtol=1e-9)
    assert (np.abs(part.velocity()) <= part.velocity_scale() * (1 + 1e-12)).all()


def test_bounds_hold_every_fixed_point_and_are_reached() -> None:
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "C"], W=[[5.0, -4.0, 0], [-4.0, 5.0, 0], [0, 0, 0]], gamma=[2.0, 4.0, 0.0], bias=[4.0, 4.0, 1.0],
        threshold=1.0, exponent=4.0,
    )  # fmt: skip
    lower, upper = field.fixed_point_bounds(0)
    np.testing.assert_allclose(lower, [0.0, 0.0, -np.inf])
    np.testing.assert_allclose(upper, [4.5, 2.25, np.inf])
    negative = sd.HopfieldField.from_arrays(
        ["A"], W=[[6.0]], gamma=[-2.0], bias=[2.0], threshold=1.0, exponent=2.0
    )
    assert [float(end[0]) for end in negative.fixed_point_bounds(0)] == [-4.0, -1.0]


def test_floor_keeps_slopes_finite() -> None:
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "C"], W=np.eye(3), gamma=1.0, threshold=[1.0, 5.0, 1.0], exponent=[2.0, 0.5, 2.0],
        threshold2=[9.0, 2.0, 9.0], exponent2=[2.0, 0.7, 0.5], mix=[1.0, 0.5, 1.0],
    )  # fmt: skip
    floor = field.floor(0)
    assert floor.tolist() == [0.0, 2e-12, 0.0]
    field.check_expression(floor[None], 0, np.arange(1))
    assert np.isfinite(field.jacobian(floor[None], "all")).all()
