"""What kind of points zeros are, which are one, which lie on lines, and which lie among the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import match_spectra, random_field
from hypothesis import given
from hypothesis import strategies as st
from smooth_fields import SmoothField, kernel_field

import stabdask as sd
from stabdask.analysis.distinct import distinct_rows, groups_of_zeros, is_isolated, join_continua
from stabdask.analysis.fixed_points import (
    classify,
    complete_spectra,
    describe_points,
    neighbor_distances,
)
from stabdask.analysis.roots import find_roots
from stabdask.analysis.search import search_scales

Array = np.ndarray[Any, Any]


def points_of(field: Any, starts: Array, **options: Any) -> Any:
    scales = search_scales(field, 0, starts)
    roots = find_roots(field, 0, starts, scales)
    options = {"cells": None, **options}
    return describe_points(field, 0, roots, np.ones(len(starts), dtype=np.intp), scales, **options)


@pytest.mark.parametrize(
    ("spectrum", "kind", "form", "index"),
    [
        ([-1, -2, -3], "attractor", "node", 0),
        ([-1 + 2j, -1 - 2j, -3], "attractor", "spiral", 0),
        ([-0.5, -1 + 2j, -1 - 2j], "attractor", "node", 0),
        ([3, 2, 1], "repeller", "node", 3),
        ([1 + 1j, 1 - 1j, 0.1], "repeller", "spiral", 3),
        ([1, -1, -2], "saddle", "node", 1),
        ([0.3 + 1j, 0.3 - 1j, -2], "saddle", "spiral", 2),
        ([2, 1, -2], "saddle", "node", 2),
        ([0, -1, -2], "non-hyperbolic", "node", 0),
        ([1j, -1j, -2], "non-hyperbolic", "spiral", 0),
        ([1, 0, -2], "non-hyperbolic", "node", 1),
        ([1e-7, -1, -2], "non-hyperbolic", "node", 0),
        ([1e-5, -1, -2], "saddle", "node", 1),
        ([-1 + 1e-9j, -1 - 1e-9j, -2], "attractor", "node", 0),
        ([np.nan, np.nan, np.nan], "unknown", "", -1),
    ],
)
def test_types_of_textbooks(spectrum: list[complex], kind: str, form: str, index: int) -> None:
    found = classify(np.array([spectrum], dtype=complex))
    assert [part[0] for part in found] == [kind, form, index]


def test_the_tolerance_is_in_units_of_eigenvalues() -> None:
    spectra = np.array([[0.01, -1.0], [-0.01, -1.0]], dtype=complex)
    assert classify(spectra, 0.02)[0].tolist() == ["non-hyperbolic"] * 2
    assert classify(spectra, 0.0)[0].tolist() == ["saddle", "attractor"]
    assert classify(spectra[:0])[0].shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_spectra_are_complete(seed: int) -> None:
    drawn = random_field(seed, n_regulators=[3, 5])
    x = drawn.expression(7, zeros=0.3)
    found = complete_spectra(drawn.field, 1, drawn.field.linearize(x, 1))
    for cell, J in enumerate(drawn.clusters["B"].jacobian(x)):
        assert match_spectra(found[cell], np.linalg.eigvals(J)) < 1e-9 * np.linalg.norm(J)
    assert (np.diff(found.real, axis=1) <= 0).all()
    rng = np.random.default_rng(seed)
    kernels = kernel_field(rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), 0.3)
    y = rng.normal(size=(5, 4))
    found = complete_spectra(kernels, 0, kernels.linearize(y, 0))
    for cell, J in enumerate(kernels.jacobian(y)):
        assert match_spectra(found[cell], np.linalg.eigvals(J)) < 1e-12


def test_distances_are_to_the_nth_neighbor_and_leave_the_cell_itself_out() -> None:
    cells = np.arange(10.0)[:, None] + 1e6
    distance, limit = neighbor_distances(
        np.array([[1e6 + 4.25], [1e6 - 30.0]]), cells, n_neighbors=3, quantile=1.0
    )
    np.testing.assert_allclose(distance, [1.25, 32.0])
    assert limit == pytest.approx(3.0)
    assert neighbor_distances(cells, cells, n_neighbors=1, quantile=0.5)[1] == pytest.approx(1.0)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 9))
def test_distances_are_those_of_all_pairs(seed: int, n_cells: int, n_neighbors: int) -> None:
    rng = np.random.default_rng(seed)
    cells, points = rng.normal(size=(n_cells, 3)), rng.normal(size=(4, 3)) * 2
    distance, limit = neighbor_distances(points, cells, n_neighbors=n_neighbors, quantile=0.9)
    nearest = min(n_neighbors, n_cells - 1)
    plain = np.sort(np.linalg.norm(points[:, None] - cells, axis=2), axis=1)[:, nearest - 1]
    np.testing.assert_allclose(distance, plain, rtol=1e-9)
    own = np.sort(np.linalg.norm(cells[:, None] - cells, axis=2), axis=1)[:, nearest]
    assert limit == pytest.approx(np.quantile(own, 0.9), rel=1e-6)


def test_few_cells_have_no_usual_distance() -> None:
    distance, limit = neighbor_distances(np.zeros((2, 2)), np.ones((1, 2)))
    np.testing.assert_allclose(distance, np.sqrt(2.0))
    assert np.isnan(limit)
    assert np.isnan(neighbor_distances(np.zeros((2, 2)), np.ones((0, 2)))[0]).all()
    assert neighbor_distances(np.zeros((0, 2)), np.ones((5, 2)))[0].shape == (0,)


@given(st.integers(0, 1000))
def test_distinct_rows_are_counted(seed: int) -> None:
    rows = np.random.default_rng(seed).integers(-1, 2, size=(30, 3)).astype(float) * 0.5
    found, counts = distinct_rows(rows)
    assert counts.sum() == 30
    expected = {tuple(row) for row in (rows + 0.0).tolist()}
    assert [tuple(row) for row in found.tolist()] == sorted(expected)
    assert distinct_rows(rows[:0])[1].shape == (0,)


@given(st.integers(0, 1000))
def test_zeros_are_grouped_whatever_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(5, 3)) * 10
    which = rng.integers(5, size=40)
    location = centers[which] + 1e-9 * rng.normal(size=(40, 3))
    error = rng.uniform(0, 1e-10, 40)
    order = rng.permutation(40)
    groups = groups_of_zeros(location, error, 1e-6)
    assert len(set(groups)) == len(set(which))
    assert len(set(zip(which, groups, strict=True))) == len(set(which))
    again = groups_of_zeros(location[order], error[order], 1e-6)
    assert (again == groups[order]).all()


def test_uncertain_zeros_are_not_told_apart() -> None:
    location = np.array([[0.0], [1e-3], [1.0]])
    assert len(set(groups_of_zeros(location, np.zeros(3), 1e-6))) == 3
    assert groups_of_zeros(location, np.array([0.0, 1e-3, 0.0]), 1e-6).tolist() == [0, 0, 1]


def ring(x: Array) -> tuple[Array, Array, Array]:
    """Everything is drawn to the unit circle, and a point at its center is pushed out: v = x (1 - |x|^2)."""
    square = np.square(x).sum(axis=1)
    jacobian = (1.0 - square)[:, None, None] * np.eye(2) - 2.0 * x[:, :, None] * x[:, None, :]
    return x * (1.0 - square)[:, None], np.abs(x) * (1.0 + square)[:, None], jacobian


def test_a_circle_of_zeros_is_one_entry() -> None:
    field = SmoothField(2, ring)
    points = points_of(field, np.random.default_rng(0).normal(size=(100, 2)))
    by_type = dict(zip(points.type.tolist(), range(len(points.type)), strict=True))
    assert set(by_type) == {"non-hyperbolic", "repeller"}
    line, middle = by_type["non-hyperbolic"], by_type["repeller"]
    assert not points.isolated[line]
    assert points.isolated[middle]
    assert np.linalg.norm(points.location[line]) == pytest.approx(1.0)
    np.testing.assert_allclose(points.eigenvalue[line].real, [0.0, -2.0], atol=1e-12)
    np.testing.assert_allclose(points.location[middle], 0.0, atol=1e-12)
    assert points.n_starts.sum() == 100


def test_parallel_lines_of_zeros_stay_apart() -> None:
    # A is bistable; B neither decays nor is regulated. Three lines, the outer ones nearer to the middle one than long.
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[2.0, 0], [0, 0]], gamma=[1.0, 0.0], bias=[0.1, 0.0], threshold=1.0, exponent=3.0
    )
    points = points_of(field, np.random.default_rng(5).uniform(0, 3, (40, 2)))
    assert np.sort(points.location[:, 0]).round(3).tolist() == [0.102, 0.834, 1.812]
    assert set(points.type.tolist()) == {"non-hyperbolic"}
    assert not points.isolated.any()
    assert points.n_starts.sum() == 40
    assert points.index[points.location[:, 0].round(3) == 0.834] == [1]


def test_a_singular_zero_alone_is_isolated() -> None:
    def formula(x: Array) -> tuple[Array, Array, Array]:
        jacobian = np.zeros((len(x), 2, 2))
        jacobian[:, 0, 0], jacobian[:, 1, 1] = -3.0 * x[:, 0] ** 2, -1.0
        return (
            np.stack([-(x[:, 0] ** 3), -x[:, 1]], axis=1),
            np.abs(np.stack([x[:, 0] ** 3, x[:, 1]], axis=1)),
            jacobian,
        )

    field = SmoothField(2, formula)
    scales = search_scales(field, 0, np.random.default_rng(0).normal(size=(20, 2)))
    assert is_isolated(field, 0, np.zeros((1, 2)), scales).tolist() == [True]
    line = SmoothField(
        2, lambda x: (x * [0.0, -1.0], np.abs(x), np.tile(np.diag([0.0, -1.0]), (len(x), 1, 1)))
    )
    assert is_isolated(line, 0, np.array([[0.3, 0.0]]), scales).tolist() == [False]
    many = np.stack([np.linspace(-1, 1, 700), np.zeros(700)], axis=1)
    assert set(join_continua(line, 0, many, scales)) == {0}
    assert join_continua(line, 0, many[:0], scales).shape == (0,)


def test_points_are_in_order_and_their_starts_counted() -> None:
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0.0, -4.0], [-4.0, 0.0]], gamma=1.0, bias=4.0, threshold=1.0, exponent=2.0
    )
    rng = np.random.default_rng(0)
    starts = rng.uniform(0.0, 4.0, (60, 2))
    points = points_of(field, starts)
    assert (np.diff(points.n_starts) <= 0).all()
    assert points.n_starts.sum() == 60
    again = points_of(field, starts[rng.permutation(60)])
    np.testing.assert_array_equal(again.n_starts, points.n_starts)
    np.testing.assert_allclose(again.location, points.location, atol=1e-12)
    assert points.residual.max() < 1e-14
    assert points.speed.max() < 1e-13


def test_switches_are_marked() -> None:
    # The zero of the first component is put on the switch at (0.5 + 1.5) / 2 = 1, where a tie takes that component.
    value = 1.0 / (1.0 + 0.5**4)
    field = sd.HopfieldField.from_arrays(
        ["A"],
        W=[[1.0]],
        gamma=1.0,
        bias=1.0 - value,
        threshold=0.5,
        exponent=4.0,
        threshold2=1.5,
        exponent2=4.0,
        mix=0.5,
    )
    points = points_of(field, np.linspace(0.5, 1.0, 20)[:, None])
    assert len(points.location) == 3
    np.testing.assert_array_equal(points.near_switch, points.location[:, 0].round(9) == 1.0)
    assert points.near_switch.any()
    away = sd.HopfieldField.from_arrays(["A"], W=[[1.0]], gamma=1.0, bias=0.01, threshold=0.5, exponent=4.0)
    assert not points_of(away, np.linspace(0.0, 1.0, 20)[:, None]).near_switch.any()


def test_boundary_points_on_request() -> None:
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0, -3.0], [3.0, 0]], gamma=[1.0, 2.0], bias=[-1.0, 0.5], threshold=1.0, exponent=2.0
    )
    starts = np.random.default_rng(0).uniform(0.0, 3.0, (20, 2))
    assert len(points_of(field, starts).location) == 0
    points = points_of(field, starts, boundary=True)
    np.testing.assert_allclose(points.location, [[0.0, 0.25]], atol=1e-14)
    assert points.held.tolist() == [1]
    assert points.type.tolist() == ["attractor"]
    np.testing.assert_allclose(np.sort(points.eigenvalue[0].real), [-2.0, -1.0])
