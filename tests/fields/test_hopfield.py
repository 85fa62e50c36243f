"""The Hopfield field: cores, lifts and closed forms against dense Jacobians written from the definition."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import (
    DenseCluster,
    RandomField,
    antisymmetric_norm,
    frobenius,
    match_spectra,
    random_field,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.errors import InputError, MissingKeyError
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldCluster, HopfieldField
from stabdask.fields.hopfield_linear import HopfieldLinearization

Array = np.ndarray[Any, Any]

CASES = {
    "two components": {},
    "one component": {"two_components": False},
    "regulators differ in number": {"n_regulators": (7, 2)},
    "every gene regulates": {"n_regulators": 9, "density": 1.0},
    "one regulator": {"n_regulators": 1},
    "a cluster without regulators": {"n_regulators": (4, 0)},
    "one gene": {"n_genes": 1, "n_regulators": 1},
    "sparse": {"n_genes": 30, "n_regulators": 12, "density": 0.1},
    "float32 weights": {"dtype": np.float32},
}


@pytest.fixture(params=list(CASES), ids=lambda name: name.replace(" ", "_"))
def drawn(request: pytest.FixtureRequest) -> RandomField:
    return random_field(11, **CASES[request.param])


def linearized(drawn: RandomField, label: str, x: Array) -> HopfieldLinearization:
    return drawn.field.linearize(x, drawn.field.cluster_number(label))


def each_cluster(drawn: RandomField, n_cells: int = 12, zeros: float = 0.3) -> Any:
    """Give, per cluster, its dense parameters, expression with zeros, dense Jacobians and linearization."""
    for label, dense in drawn.clusters.items():
        x = drawn.expression(n_cells, zeros=zeros)
        yield dense, x, dense.jacobian(x), linearized(drawn, label, x)


def active_genes(drawn: RandomField, part: HopfieldLinearization) -> Array:
    """Return ``(cell, gene)``: whether a gene spans the core, from what the linearization says."""
    out = np.zeros((len(part.active), drawn.field.n_genes), dtype=bool)
    out[:, drawn.field.regulator_index] = part.active
    return out


# --- velocity and dense Jacobian ---------------------------------------------------------------------------


def test_velocity_and_jacobian_are_those_of_the_definition(drawn: RandomField) -> None:
    for label, dense in drawn.clusters.items():
        x = drawn.expression(10, zeros=0.2)
        np.testing.assert_allclose(drawn.field.velocity(x, label), dense.velocity(x), atol=1e-12)
        np.testing.assert_allclose(drawn.field.jacobian(x, label), dense.jacobian(x), atol=1e-12)


def test_jacobian_is_the_derivative_of_the_velocity(drawn: RandomField) -> None:
    step = 1e-6
    for label, dense in drawn.clusters.items():
        x = drawn.expression(6) + 0.01
        k, _ = dense.branch(x)
        away = all(np.array_equal(dense.branch(x + s)[0], k) for s in (-step, step))
        assert away, "a cell lies on a switch: choose another seed"
        J = drawn.field.jacobian(x, label)
        for j in range(drawn.field.n_genes):
            h = np.zeros_like(x)
            h[:, j] = step
            difference = drawn.field.velocity(x + h, label) - drawn.field.velocity(x - h, label)
            np.testing.assert_allclose(J[:, :, j], difference / (2 * step), atol=1e-6)


def test_rows_are_effectors_and_columns_regulators() -> None:
    """Scaling rows in place of columns has the same spectrum: only elements and vectors tell."""
    W = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0], [0.0, 4.0, 2.0]])
    gamma = np.array([1.0, 2.0, 3.0])
    field = HopfieldField.from_arrays(["a", "b", "c"], W=W, gamma=gamma, threshold=1.0, exponent=1.0)
    x = np.array([[1.0, 2.0, 4.0]])
    slope = 1 / (1 + x[0]) ** 2
    right = np.array([[W[i, j] * slope[j] - gamma[i] * (i == j) for j in range(3)] for i in range(3)])
    wrong = np.array([[W[i, j] * slope[i] - gamma[i] * (i == j) for j in range(3)] for i in range(3)])
    assert match_spectra(np.linalg.eigvals(right), np.linalg.eigvals(wrong)) < 1e-12
    assert abs(antisymmetric_norm(right) - antisymmetric_norm(wrong)) > 0.1

    np.testing.assert_allclose(field.jacobian(x, "all")[0], right, atol=1e-15)
    part = field.linearize(x, 0)
    np.testing.assert_allclose(part.cores(np.array([0]))[0], right, atol=1e-15)
    effectors, regulators = np.array([0, 1, 2, 2]), np.array([1, 0, 1, 2])
    np.testing.assert_allclose(part.elements(effectors, regulators)[0], right[effectors, regulators])
    np.testing.assert_allclose(part.rotational_norm(), antisymmetric_norm(right))
    values, vectors = np.linalg.eig(right)
    lifted, _ = part.lift_right(np.array([0]), values[None], vectors.T[None].astype(complex))
    np.testing.assert_allclose(lifted[0] @ right.T, values[:, None] * lifted[0], atol=1e-12)


def test_toggle_switch_by_hand() -> None:
    field = HopfieldField.from_arrays(
        ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0
    )
    x = np.array([[1.0, 1.0]])
    # At the threshold H = 1/2 and H' = n / (4 k) = 1.
    np.testing.assert_allclose(field.velocity(x, "all"), [[0.5 + 4 - 3, 0.5 + 4 - 3]])
    np.testing.assert_allclose(field.jacobian(x, "all"), [[[2.0, -4.0], [-4.0, 2.0]]])
    part = field.linearize(x, 0)
    assert match_spectra(np.linalg.eigvals(part.cores(np.array([0]))[0]), np.array([6.0, -2.0])) < 1e-14
    assert part.trace()[0] == pytest.approx(4.0)
    assert part.rotational_norm()[0] == 0.0
    assert part.speed()[0] == pytest.approx(1.5 * np.sqrt(2))


# --- cores -------------------------------------------------------------------------------------------------


def test_active_regulators(drawn: RandomField) -> None:
    n_active = []
    for dense, x, _, part in each_cluster(drawn):
        expected = dense.active(x)
        np.testing.assert_array_equal(active_genes(drawn, part), expected)
        np.testing.assert_array_equal(part.sizes, expected.sum(axis=1))
        n_active.append(int(part.sizes.max()))
    assert max(n_active) <= drawn.field.largest_core
    columns = [(dense.W != 0).any(axis=0) for dense in drawn.clusters.values()]
    assert drawn.field.largest_core == max(int(c.sum()) for c in columns)
    np.testing.assert_array_equal(drawn.field.regulator_index, np.flatnonzero(np.any(columns, axis=0)))
    assert drawn.field.regulators.tolist() == [f"gene{i}" for i in drawn.field.regulator_index]


def test_spectrum_of_core_and_rest_is_that_of_the_dense_jacobian(drawn: RandomField) -> None:
    for number, (_, x, J, part) in enumerate(each_cluster(drawn)):
        cells = np.arange(len(x))
        cores, sizes, outside = part.cores(cells), part.sizes, ~active_genes(drawn, part)
        assert cores.shape == (len(x), sizes.max(), sizes.max())
        rest = drawn.field.rest_eigenvalues(number)
        for c in cells:
            k = sizes[c]
            assert (cores[c, k:] == 0).all()
            assert (cores[c, :, k:] == 0).all()
            spectrum = np.concatenate([np.linalg.eigvals(cores[c, :k, :k]), rest[outside[c]]])
            assert match_spectra(spectrum, np.linalg.eigvals(J[c])) < 1e-9 * frobenius(J[c])


def test_cores_are_blocks_of_the_dense_jacobian(drawn: RandomField) -> None:
    for _, x, J, part in each_cluster(drawn):
        members = active_genes(drawn, part)
        cores = part.cores(np.arange(len(x)))
        for c in range(len(x)):
            own = np.flatnonzero(members[c])
            np.testing.assert_allclose(cores[c, : own.size, : own.size], J[c][np.ix_(own, own)], atol=1e-13)


def test_cores_of_chosen_cells_in_any_order(drawn: RandomField) -> None:
    for _, x, _, part in each_cluster(drawn):
        every = part.cores(np.arange(len(x)))
        chosen = np.array([7, 0, 7, 3])
        some = part.cores(chosen)
        k = part.sizes[chosen].max()
        assert some.shape == (4, k, k)
        np.testing.assert_array_equal(some, every[chosen][:, :k, :k])
        assert part.cores(np.empty(0, np.intp)).shape == (0, 0, 0)


# --- lifts -------------------------------------------------------------------------------------------------


def core_eigensystems(part: HopfieldLinearization, cells: Array) -> tuple[Array, Array, Array]:
    """Return padded eigenvalues (NaN), right and left vectors (zero) of cores, by `numpy.linalg`."""
    cores, sizes = part.cores(cells), part.sizes[cells]
    n, k, _ = cores.shape
    values = np.full((n, k), complex(np.nan, np.nan))
    right, left = np.zeros((n, k, k), complex), np.zeros((n, k, k), complex)
    for c, size in enumerate(sizes):
        core = cores[c, :size, :size]
        if size:
            values[c, :size], vectors = np.linalg.eig(core)
            right[c, :size, :size] = vectors.T
            left[c, :size, :size] = np.linalg.inv(vectors).conj()  # rows y^H with y^H C = lambda y^H
    return values, right, left


def test_lifted_vectors_are_eigenvectors_of_the_dense_jacobian(drawn: RandomField) -> None:
    for _, _, J, part in each_cluster(drawn):
        cells = np.array([5, 0, 1, 11, 2, 8])
        values, right, left = core_eigensystems(part, cells)
        lifted, degenerate = part.lift_right(cells, values, right)
        lifted_left = part.lift_left(cells, left)
        assert lifted.shape == lifted_left.shape == (6, values.shape[1], drawn.field.n_genes)
        assert not degenerate.any()
        for c, cell in enumerate(cells):
            for m in range(part.sizes[cell]):
                vector, value = lifted[c, m], values[c, m]
                defect = np.linalg.norm(J[cell] @ vector - value * vector)
                assert defect < 1e-11 * frobenius(J[cell]) * np.linalg.norm(vector)
                assert np.linalg.norm(vector) >= np.linalg.norm(right[c, m]) * (1 - 1e-12)
                y = lifted_left[c, m]
                defect = np.linalg.norm(y.conj() @ J[cell] - value * y.conj())
                assert defect < 1e-11 * frobenius(J[cell]) * np.linalg.norm(y)
                assert np.linalg.norm(y) > 0
            # Modes past the size of the core lift to zero.
            assert (lifted[c, part.sizes[cell] :] == 0).all()
            assert (lifted_left[c, part.sizes[cell] :] == 0).all()
        for y in (lifted, lifted_left):
            assert np.isfinite(y).all()


def test_lifting_some_modes_gives_the_same_vectors() -> None:
    drawn = random_field(3)
    x = drawn.expression(4)
    part = linearized(drawn, "A", x)
    cells = np.arange(4)
    values, right, left = core_eigensystems(part, cells)
    every, _ = part.lift_right(cells, values, right)
    some, _ = part.lift_right(cells, values[:, :2], right[:, :2])
    np.testing.assert_allclose(some, every[:, :2], atol=1e-14)
    np.testing.assert_array_equal(part.lift_left(cells, left[:, :2]), part.lift_left(cells, left)[:, :2])
    none, degenerate = part.lift_right(cells, values[:, :0], right[:, :0])
    assert none.shape == (4, 0, drawn.field.n_genes)
    assert not degenerate.any()


def test_lifting_in_single_precision_stays_single() -> None:
    drawn = random_field(4)
    x = drawn.expression(3)
    part, J = linearized(drawn, "A", x), drawn.clusters["A"].jacobian(x)
    cells = np.arange(3)
    values, right, left = (array.astype(np.complex64) for array in core_eigensystems(part, cells))
    lifted, degenerate = part.lift_right(cells, values, right)
    assert lifted.dtype == part.lift_left(cells, left).dtype == np.complex64
    assert not degenerate.any()
    for c in range(3):
        for m in range(part.sizes[c]):
            vector = lifted[c, m].astype(complex)
            defect = np.linalg.norm(J[c] @ vector - values[c, m] * vector)
            assert defect < 1e-4 * frobenius(J[c]) * np.linalg.norm(vector)


def collapsing(*, drive: float, n: float = 1.0) -> tuple[HopfieldField, Array]:
    """Gene a regulates itself and drives b and c; lambda = 4/4 - 3 = -2 = -gamma_b = -gamma_c at x_a = k."""
    W = np.zeros((4, 4))
    W[0, 0], W[1, 0], W[2, 0], W[3, 0] = 4.0, drive, 2 * drive, 1.0
    field = HopfieldField.from_arrays(
        ["a", "b", "c", "d"], W=W, gamma=[3.0, 2.0, 2.0, 1.0], threshold=1.0, exponent=n
    )
    return field, np.ones((1, 4))


def test_an_eigenvalue_that_coincides_with_a_driven_gene_collapses_onto_it() -> None:
    field, x = collapsing(drive=5.0)
    J = field.jacobian(x, "all")[0]
    part = field.linearize(x, 0)
    np.testing.assert_array_equal(part.cores(np.array([0])), [[[-2.0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lifted, degenerate = part.lift_right(np.array([0]), np.array([[-2 + 0j]]), np.array([[[1 + 0j]]]))
    assert degenerate.tolist() == [[True]]
    vector = lifted[0, 0]
    np.testing.assert_allclose(J @ vector, -2.0 * vector, atol=1e-15)
    # The direction the quotient tends to: in proportion to how strongly each gene is driven.
    np.testing.assert_allclose(vector / vector[1], [0, 1, 2, 0])


def test_an_eigenvalue_that_coincides_with_a_gene_that_is_not_driven_does_not_collapse() -> None:
    field, x = collapsing(drive=0.0)
    J = field.jacobian(x, "all")[0]
    lifted, degenerate = field.linearize(x, 0).lift_right(
        np.array([0]), np.array([[-2 + 0j]]), np.array([[[1 + 0j]]])
    )
    assert degenerate.tolist() == [[False]]
    np.testing.assert_allclose(lifted[0, 0], [1, 0, 0, -0.25])  # x_d = (1/4) / (-2 + 1)
    np.testing.assert_allclose(J @ lifted[0, 0], -2.0 * lifted[0, 0], atol=1e-15)


def test_an_eigenvalue_that_coincides_with_an_inactive_regulator_collapses_onto_it() -> None:
    field = HopfieldField.from_arrays(
        ["a", "b"], W=[[4.0, 1.0], [5.0, 1.0]], gamma=[3.0, 2.0], threshold=1.0, exponent=[1.0, 2.0]
    )
    x = np.array([[1.0, 0.0]])
    J = field.jacobian(x, "all")[0]
    np.testing.assert_array_equal(J, [[-2.0, 0.0], [1.25, -2.0]])
    part = field.linearize(x, 0)
    lifted, degenerate = part.lift_right(np.array([0]), np.array([[-2 + 0j]]), np.array([[[1 + 0j]]]))
    assert degenerate.tolist() == [[True]]
    np.testing.assert_allclose(lifted[0, 0] / lifted[0, 0, 1], [0, 1])


def test_one_collapsing_mode_leaves_the_others_and_other_cells_alone() -> None:
    W = np.zeros((4, 4))
    W[0, 0], W[1, 1], W[2, 0], W[2, 1], W[3, 1] = 4.0, 8.0, 5.0, 1.0, 1.0
    field = HopfieldField.from_arrays(
        ["a", "b", "c", "d"], W=W, gamma=[3.0, 3.0, 2.0, 1.0], threshold=1.0, exponent=[1.0, 2.0, 1.0, 1.0]
    )
    # Without b its slope is zero: the core of such a cell is smaller, its modes padded with NaN.
    x = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0], [3.0, 0.0, 1.0, 1.0]])
    J = field.jacobian(x, "all")
    part = field.linearize(x, 0)
    assert part.sizes.tolist() == [2, 1, 1]
    cells = np.arange(3)
    values, right, _ = core_eigensystems(part, cells)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lifted, degenerate = part.lift_right(cells, values, right)
    assert degenerate.any(axis=1).tolist() == [True, True, False]
    assert np.isfinite(lifted).all()
    for c in cells:
        for m in range(part.sizes[c]):
            np.testing.assert_allclose(J[c] @ lifted[c, m], values[c, m] * lifted[c, m], atol=1e-12)
            assert np.linalg.norm(lifted[c, m]) > 0
            collapses = abs(values[c, m] + 2.0) < 1e-12
            assert (not lifted[c, m, :2].any()) == collapses


def test_a_nearly_collapsing_mode_is_still_an_eigenvector() -> None:
    field, x = collapsing(drive=5.0)
    x = x * (1 + 1e-9)
    J = field.jacobian(x, "all")[0]
    part = field.linearize(x, 0)
    value = part.cores(np.array([0]))[0, 0, 0]
    lifted, degenerate = part.lift_right(np.array([0]), np.array([[value + 0j]]), np.array([[[1 + 0j]]]))
    assert degenerate.tolist() == [[False]]
    vector = lifted[0, 0] / np.linalg.norm(lifted[0, 0])
    np.testing.assert_allclose(J @ vector, value * vector, atol=1e-14)


# --- the rest of the spectrum ------------------------------------------------------------------------------


def test_leading_and_counts_of_the_rest(drawn: RandomField) -> None:
    for dense, x, _, part in each_cluster(drawn, zeros=0.6):
        outside = ~dense.active(x)
        leading = part.rest_leading()
        assert leading.shape == (len(x), 2)
        for c in range(len(x)):
            rest = [*sorted((-dense.gamma[outside[c]]).tolist(), reverse=True), -np.inf, -np.inf]
            assert leading[c].tolist() == rest[:2]
        for tolerance in (0.0, 0.7, 1.2, 5.0):
            unstable, stable = part.rest_counts(tolerance)
            np.testing.assert_array_equal(unstable, 0)
            np.testing.assert_array_equal(stable, (outside & (-dense.gamma < -tolerance)).sum(axis=1))


def test_growing_genes_count_as_unstable() -> None:
    """A negative rate is odd, but a fit may hold one: such a gene grows by itself."""
    W = np.zeros((4, 4))
    W[0, 1] = 1.0
    field = HopfieldField.from_arrays(
        ["a", "b", "c", "d"], W=W, gamma=[-0.5, -2.0, 0.0, 1.0], threshold=1.0, exponent=2.0
    )
    part = field.linearize(np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]), 0)
    assert [counts.tolist() for counts in part.rest_counts(0.0)] == [[1, 2], [1, 1]]
    assert [counts.tolist() for counts in part.rest_counts(0.6)] == [[0, 1], [1, 1]]
    assert part.rest_leading().tolist() == [[0.5, 0.0], [2.0, 0.5]]


# --- closed forms ------------------------------------------------------------------------------------------


def test_closed_forms_against_dense_jacobians(drawn: RandomField) -> None:
    for dense, x, J, part in each_cluster(drawn):
        np.testing.assert_allclose(part.trace(), np.trace(J, axis1=1, axis2=2), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(part.rotational_norm(), antisymmetric_norm(J), rtol=1e-7, atol=1e-13)
        np.testing.assert_allclose(part.speed(), np.linalg.norm(dense.velocity(x), axis=1), rtol=1e-12)


def test_elements_of_every_pair(drawn: RandomField) -> None:
    n = drawn.field.n_genes
    effectors, regulators = (grid.ravel() for grid in np.indices((n, n)))
    shuffled = np.random.default_rng(0).permutation(n * n)
    for _, _, J, part in each_cluster(drawn):
        expected = J[:, effectors[shuffled], regulators[shuffled]]
        np.testing.assert_allclose(
            part.elements(effectors[shuffled], regulators[shuffled]), expected, atol=1e-13
        )
        assert part.elements(np.empty(0, np.intp), np.empty(0, np.intp)).shape == (12, 0)


def symmetric_case(perturbation: Array) -> tuple[HopfieldField, Array, Array]:
    """Return a field whose J at x is symmetric up to `perturbation`: W = (S + P) diag(1 / phi'(x))."""
    rng = np.random.default_rng(5)
    n = len(perturbation)
    S = rng.normal(size=(n, n))
    S = S + S.T
    x = rng.uniform(0.5, 2.0, size=(1, n))
    k, e = rng.uniform(0.5, 2.0, n), rng.uniform(1.0, 3.0, n)
    slope = e * k**e * x[0] ** (e - 1) / (x[0] ** e + k**e) ** 2
    W = (S + perturbation) / slope
    field = HopfieldField.from_arrays(
        [str(i) for i in range(n)], W=W, gamma=rng.uniform(1, 2, n), threshold=k, exponent=e
    )
    return field, x, S


def test_rotational_norm_of_a_symmetric_jacobian_is_rounding() -> None:
    field, x, S = symmetric_case(np.zeros((8, 8)))
    assert field.linearize(x, 0).rotational_norm()[0] < 1e-14 * np.linalg.norm(S)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_rotational_norm_that_cancels(size: float) -> None:
    P = np.random.default_rng(6).normal(size=(8, 8)) * size
    field, x, S = symmetric_case(P)
    expected = np.linalg.norm((P - P.T) / 2)
    rounding = 1e-14 * np.linalg.norm(S) / expected
    assert field.linearize(x, 0).rotational_norm()[0] == pytest.approx(expected, rel=1e-7 + rounding)


def test_rotational_norm_that_cancels_counts_genes_that_do_not_regulate() -> None:
    W = np.array([[1.0, 2.0, 0.0], [2.0, 5.0, 0.0], [1e-9, 3e-9, 0.0]])
    field = HopfieldField.from_arrays(["a", "b", "c"], W=W, gamma=1.0, threshold=1.0, exponent=1.0)
    part = field.linearize(np.ones((1, 3)), 0)
    assert part.rotational_norm()[0] == pytest.approx(0.25 * np.sqrt(10) * 1e-9 / np.sqrt(2), rel=1e-9)


def test_cells_that_cancel_do_not_disturb_the_others() -> None:
    field, x, _ = symmetric_case(np.zeros((6, 6)))
    cells = np.concatenate([x * 1.7, x, x * 0.4])
    norms = field.linearize(cells, 0).rotational_norm()
    np.testing.assert_allclose(norms, antisymmetric_norm(field.jacobian(cells, "all")), atol=1e-13)
    assert norms[1] < 1e-13 < norms[0]


# --- special expression ------------------------------------------------------------------------------------


def self_activation(n: float, **options: Any) -> HopfieldField:
    return HopfieldField.from_arrays(
        ["a", "b"], W=[[2.0, 1.0], [0.0, 3.0]], gamma=1.0, threshold=[0.5, 0.25], exponent=n, **options
    )


def test_no_expression_with_steep_activation_leaves_the_core() -> None:
    part = self_activation(3.0).linearize(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 0)
    assert part.active.tolist() == [[False, False], [False, True], [True, False]]
    assert part.sizes.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(part.rest_leading(), [[-1, -1], [-1, -np.inf], [-1, -np.inf]])
    np.testing.assert_array_equal(part.trace()[0], -2.0)
    assert part.cores(np.array([0])).shape == (1, 0, 0)


def test_no_expression_with_exponent_one_has_the_slope_one_over_k() -> None:
    field = self_activation(1.0)
    x = np.zeros((1, 2))
    np.testing.assert_allclose(field.jacobian(x, "all")[0], [[2 / 0.5 - 1, 1 / 0.25], [0, 3 / 0.25 - 1]])
    part = field.linearize(x, 0)
    np.testing.assert_allclose(part.cores(np.array([0]))[0], [[3, 4], [0, 11]])
    assert part.active.all()


def test_no_expression_with_exponent_below_one_is_refused() -> None:
    field = self_activation(0.5)
    x = np.array([[1.0, 1.0], [1.0, 0.0]])
    message = r"regulator 'b' of cluster 'all' has Hill exponent 0.5 < 1 and expression 0 in cell '1'"
    for method in (field.velocity, field.jacobian):
        with pytest.raises(InputError, match=message):
            method(x, "all")
    with pytest.raises(InputError, match="in cell 'AAAC-1'"):
        field.check_expression(x, 0, np.array(["AAAA-1", "AAAC-1"]))
    field.check_expression(x[:1], 0, np.array(["AAAA-1"]))
    field.check_expression(np.array([[np.nan, np.nan]]), 0, np.array(["missing"]))


def test_the_exponent_named_is_that_of_the_component_in_force() -> None:
    field = self_activation(3.0, threshold2=[0.1, 9.0], exponent2=[0.7, 0.2], mix=0.5)
    with pytest.raises(InputError, match=r"regulator 'a' .* exponent 0.7 < 1"):
        field.velocity([[0.0, 0.0]], "all")
    assert np.isfinite(field.velocity([[0.5, 0.0]], "all")).all()


def test_a_gene_that_does_not_regulate_may_have_any_exponent_and_expression() -> None:
    field = HopfieldField.from_arrays(
        ["a", "b"], W=[[2.0, 0.0], [1.0, 0.0]], gamma=1.0, threshold=[1.0, -1.0], exponent=[2.0, 0.0]
    )
    np.testing.assert_allclose(field.velocity([[1.0, 0.0]], "all"), [[0.0, 0.5]])
    np.testing.assert_allclose(field.jacobian([[1.0, 0.0]], "all"), [[[0, 0], [0.5, -1]]])


def test_negative_expression_is_refused_and_names_gene_and_cell() -> None:
    field = self_activation(2.0)
    with pytest.raises(InputError, match=r"gene 'b' in cell '1' is -0.5; expected values >= 0"):
        field.jacobian([[1.0, 1.0], [1.0, -0.5]], "all")


@pytest.mark.parametrize("x", [np.ones(2), np.ones((1, 3)), np.ones((1, 1, 2)), 1.0])
def test_expression_of_another_shape_is_refused(x: Any) -> None:
    field = self_activation(2.0)
    for method in (field.velocity, field.jacobian):
        with pytest.raises(InputError, match=r"expected \(cells, 2\)"):
            method(x, "all")


def test_saturation_is_silent_and_leaves_only_decay() -> None:
    field = HopfieldField.from_arrays(
        ["a", "b"], W=[[50.0, -20.0], [30.0, 10.0]], gamma=[1.0, 2.0], threshold=1e-3, exponent=20.0
    )
    x = np.array([[1e30, 1e30], [1e300, 1e5], [1e-300, 1e-30], [0.0, 1e300], [1e-3, 1e300]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = field.linearize(x, 0)
        cores = part.cores(np.arange(5))
        numbers = [part.trace(), part.rotational_norm(), part.rest_leading()]
        J = field.jacobian(x, "all")
    assert np.isfinite(cores).all()
    assert np.isfinite(J).all()
    assert np.isfinite(numbers[0]).all()
    assert np.isfinite(numbers[1]).all()
    for c in range(4):
        assert match_spectra(np.linalg.eigvals(J[c]), np.array([-1.0, -2.0])) < 1e-10
    # H' = n / (4 k) at the threshold.
    np.testing.assert_allclose(J[4], [[50 * 5000 - 1, 0], [30 * 5000, -2]], rtol=1e-12)


def test_switches_are_counted_for_regulators_of_the_cluster() -> None:
    W = np.zeros((4, 4))
    W[0, [0, 1, 2]] = 1.0
    field = HopfieldField.from_arrays(
        ["a", "b", "c", "d"],
        W={"p": W, "q": np.diag([1.0, 0, 0, 0])},
        gamma=1.0,
        threshold=[1.0, 1.0, 2.0, 1.0],
        exponent=2.0,
        threshold2=[3.0, 3.0, 4.0, 3.0],
        exponent2=4.0,
        mix=[0.5, 1.0, 0.5, 0.5],
    )
    x = np.array([[2.0, 2.0, 3.0, 2.0], [2.0 + 1e-6, 2.0, 3.1, 2.0], [1.0, 2.0, 3.1, 2.0]])
    assert field.linearize(x, 0).near_switch_count().tolist() == [2, 1, 0]
    assert field.linearize(x, 1).near_switch_count().tolist() == [1, 1, 0]


def test_a_switching_tie_takes_the_first_component_everywhere() -> None:
    field = HopfieldField.from_arrays(
        ["a"], W=[[1.0]], gamma=0.5, threshold=3.0, exponent=2.0, threshold2=1.0, exponent2=1.0, mix=0.3
    )
    x = np.array([[2.0]])
    first = 2 * 9 * 2 / (4 + 9) ** 2
    np.testing.assert_allclose(field.jacobian(x, "all"), [[[first - 0.5]]])
    np.testing.assert_allclose(field.linearize(x, 0).cores(np.array([0])), [[[first - 0.5]]])
    np.testing.assert_allclose(field.velocity(x, "all"), [[4 / 13 - 1.0]])
    below = np.array([[np.nextafter(2.0, 0)]])
    np.testing.assert_allclose(field.jacobian(below, "all"), [[[1 / 9 - 0.5]]])


# --- clusters ----------------------------------------------------------------------------------------------


def test_clusters_have_regulators_of_their_own() -> None:
    drawn = random_field(8, n_regulators=(3, 4), n_genes=12)
    columns = {label: np.flatnonzero((p.W != 0).any(axis=0)) for label, p in drawn.clusters.items()}
    assert set(columns["A"]) != set(columns["B"])
    union = drawn.field.regulator_index
    assert union.tolist() == sorted(set(columns["A"]) | set(columns["B"]))
    for label, own in columns.items():
        part = linearized(drawn, label, drawn.expression(5))
        assert part.active.shape == (5, len(union))
        np.testing.assert_array_equal(part.active.all(axis=0), np.isin(union, own))
        np.testing.assert_array_equal(part.active.any(axis=0), np.isin(union, own))


def test_a_cluster_with_no_regulators() -> None:
    drawn = random_field(9, n_regulators=(3, 0))
    dense: DenseCluster = drawn.clusters["B"]
    x = drawn.expression(4, zeros=0.3)
    part = linearized(drawn, "B", x)
    cells = np.arange(4)
    assert not part.active.any()
    assert part.cores(cells).shape == (4, 0, 0)
    np.testing.assert_allclose(part.trace(), -dense.gamma.sum())
    np.testing.assert_array_equal(part.rotational_norm(), 0)
    np.testing.assert_array_equal(part.near_switch_count(), 0)
    np.testing.assert_allclose(part.speed(), np.linalg.norm(dense.bias - dense.gamma * x, axis=1))
    n = drawn.field.n_genes
    effectors, regulators = (grid.ravel() for grid in np.indices((n, n)))
    np.testing.assert_array_equal(part.elements(effectors, regulators)[0], -np.diag(dense.gamma).ravel())
    lifted, degenerate = part.lift_right(cells, np.empty((4, 0), complex), np.empty((4, 0, 0), complex))
    assert part.lift_left(cells, np.empty((4, 0, 0), complex)).shape == (4, 0, n)
    assert lifted.shape == (4, 0, n)
    assert not degenerate.any()


def test_a_field_with_no_regulators_at_all() -> None:
    field = HopfieldField.from_arrays(
        ["a", "b"], W=np.zeros((2, 2)), gamma=[1.0, 2.0], threshold=0.0, exponent=0.0
    )
    assert field.largest_core == 0
    assert field.regulators.size == 0
    np.testing.assert_allclose(field.velocity([[3.0, 1.0]], "all"), [[-3.0, -2.0]])
    np.testing.assert_allclose(field.linearize(np.array([[3.0, 1.0]]), 0).rest_leading(), [[-1.0, -2.0]])


def test_no_cells() -> None:
    drawn = random_field(10)
    x = np.empty((0, drawn.field.n_genes))
    part = linearized(drawn, "A", x)
    for numbers in (part.trace(), part.rotational_norm(), part.speed(), part.near_switch_count()):
        assert numbers.shape == (0,)
    assert part.rest_leading().shape == (0, 2)
    assert drawn.field.jacobian(x, "A").shape == (0, 9, 9)
    assert drawn.field.velocity(x, "A").shape == (0, 9)


def test_an_unknown_cluster_is_named_with_its_near_misses() -> None:
    drawn = random_field(0, clusters=("T cell", "B cell"))
    with pytest.raises(MissingKeyError, match=r"no cluster 'T cells'; did you mean 'T cell'"):
        drawn.field.velocity(drawn.expression(1), "T cells")
    assert drawn.field.clusters == ("B cell", "T cell")
    assert drawn.field.cluster_number("T cell") == 1


# --- invariance --------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 8), st.data())
def test_any_field_has_the_spectrum_and_closed_forms_of_its_dense_jacobian(
    seed: int, n_genes: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, n_genes))
    drawn = random_field(seed, n_genes=n_genes, n_regulators=count, clusters=("only",))
    x = drawn.expression(3, zeros=data.draw(st.sampled_from([0.0, 0.4, 1.0])))
    J = drawn.clusters["only"].jacobian(x)
    part = linearized(drawn, "only", x)
    outside = ~active_genes(drawn, part)
    for c in range(3):
        k = part.sizes[c]
        core = np.linalg.eigvals(part.cores(np.array([c]))[0])
        assert core.shape == (k,)
        spectrum = np.concatenate([core, drawn.field.rest_eigenvalues(0)[outside[c]]])
        # Sums of powers are well conditioned, whatever the eigenvalues are.
        for p in range(1, 4):
            expected = np.trace(np.linalg.matrix_power(J[c], p))
            assert abs((spectrum**p).sum() - expected) < 1e-11 * max(1.0, frobenius(J[c])) ** p
    np.testing.assert_allclose(part.rotational_norm(), antisymmetric_norm(J), rtol=1e-6, atol=1e-13)


def test_permuting_genes_permutes_everything() -> None:
    drawn = random_field(12)
    p = drawn.clusters["A"]
    order = np.random.default_rng(1).permutation(9)
    permuted = HopfieldField(
        [f"gene{i}" for i in order],
        {
            "A": HopfieldCluster.from_dense(
                p.W[np.ix_(order, order)],
                gamma=p.gamma[order],
                bias=p.bias[order],
                hill=HillParameters(*(v[order] for v in (p.k1, p.n1, p.k2, p.n2, p.mix))),
            )
        },
    )
    x = drawn.expression(5)
    J = drawn.field.jacobian(x, "A")
    np.testing.assert_array_equal(permuted.jacobian(x[:, order], "A"), J[:, order][:, :, order])
    a, b = linearized(drawn, "A", x), permuted.linearize(x[:, order], 0)
    np.testing.assert_allclose(b.rotational_norm(), a.rotational_norm(), rtol=1e-9)
    np.testing.assert_allclose(b.trace(), a.trace(), rtol=1e-12)
    assert permuted.fingerprint != drawn.field.fingerprint


# --- making fields -----------------------------------------------------------------------------------------


def arrays(**changes: Any) -> dict[str, Any]:
    return {
        "genes": ["a", "b", "c"],
        "W": np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        "gamma": np.array([1.0, 2.0, 3.0]),
        "bias": np.array([0.1, 0.2, 0.3]),
        "threshold": np.array([1.0, 2.0, 3.0]),
        "exponent": np.array([2.0, 3.0, 4.0]),
        **changes,
    }


def test_only_columns_of_w_that_are_not_zero_are_kept() -> None:
    field = HopfieldField.from_arrays(**arrays())
    parameters = field.parameters[0]
    assert parameters.regulators.tolist() == [0, 1]
    np.testing.assert_array_equal(parameters.weights, arrays()["W"][:, :2])
    assert repr(field) == "HopfieldField(3 genes, 2 regulators, 1 cluster: 'all')"


def test_making_a_field_copies_what_it_is_given() -> None:
    given_arrays = arrays()
    field = HopfieldField.from_arrays(**given_arrays)
    expected = field.jacobian(np.ones((1, 3)), "all")
    for array in given_arrays.values():
        if isinstance(array, np.ndarray):
            array[...] = 7.0
    np.testing.assert_array_equal(field.jacobian(np.ones((1, 3)), "all"), expected)


def test_the_order_clusters_are_given_in_does_not_matter() -> None:
    drawn = random_field(16, clusters=("b", "a", "C"))
    labels = ("C", "a", "b")
    sorted_first = HopfieldField(
        drawn.field.genes.tolist(),
        {label: drawn.field.parameters[drawn.field.cluster_number(label)] for label in labels},
    )
    assert drawn.field.clusters == sorted_first.clusters == labels
    assert drawn.field.fingerprint == sorted_first.fingerprint
    x = drawn.expression(3)
    for label, dense in drawn.clusters.items():
        np.testing.assert_allclose(drawn.field.jacobian(x, label), dense.jacobian(x), atol=1e-12)
    numbered = random_field(16, clusters=(10, 9)).field  # type: ignore[arg-type]
    assert numbered.clusters == ("10", "9")


def test_a_field_cannot_be_changed() -> None:
    p = random_field(17).field.parameters[0]
    for array in (p.regulators, p.weights, p.gamma, p.bias, p.hill.threshold, p.hill.mix):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.float16, np.bool_])
def test_weights_of_other_dtypes_become_double(dtype: Any) -> None:
    W = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    field = HopfieldField.from_arrays(**arrays(W=W.astype(dtype)))
    assert field.parameters[0].weights.dtype == np.float64
    assert field.fingerprint == HopfieldField.from_arrays(**arrays(W=W.astype(float))).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W": np.ones((3, 2))}, r"W has shape \(3, 2\); expected \(3, 3\)"),
        ({"W": np.ones((2, 3))}, r"W has shape \(2, 3\)"),
        ({"W": np.ones((2, 2))}, r"W has shape \(2, 2\)"),
        ({"W": np.ones((4, 4))}, r"W has shape \(4, 4\)"),
        ({"W": np.ones(3)}, r"W has shape \(3,\)"),
        ({"gamma": np.ones(2)}, r"gamma has shape \(2,\); expected \(3,\)"),
        ({"bias": np.ones(4)}, r"bias has shape \(4,\)"),
        ({"threshold": np.ones((3, 1))}, r"threshold has shape \(3, 1\)"),
        ({"exponent2": np.ones(1)}, r"exponent2 has shape \(1,\)"),
        ({"mix": np.ones(2)}, r"mix has shape \(2,\)"),
        ({"genes": ["a", "b", "a"]}, r"gene names repeat in the field \('a'\)"),
        ({"genes": [], "W": np.zeros((0, 0))}, "shape|no genes"),
        ({"W": {}}, "no clusters"),
        ({"W": {1: np.zeros((3, 3)), "1": np.zeros((3, 3))}}, "cluster labels repeat"),
        ({"gamma": [1.0, np.nan, 3.0]}, r"gamma of cluster 'all' is missing or not finite: b \(nan\)"),
        ({"bias": [1.0, 2.0, np.inf]}, r"I of cluster 'all' is missing or not finite: c \(inf\)"),
        ({"threshold": [1.0, 0.0, 3.0]}, r"sigmoid_threshold .*: b \(0\)"),
        ({"threshold": [-1.0, 0.0, 3.0]}, r"sigmoid_threshold .*: a \(-1\), b \(0\)"),
        ({"exponent": [0.0, 1.0, 3.0]}, r"sigmoid_exponent .*: a \(0\)"),
        ({"exponent": [1.0, np.nan, 3.0]}, r"sigmoid_exponent .*: b \(nan\)"),
        ({"threshold2": [1.0, 0.0, 3.0], "mix": 0.5}, r"sigmoid_threshold2 .*: b \(0\)"),
        ({"exponent2": [1.0, -2.0, 3.0], "mix": 0.5}, r"sigmoid_exponent2 .*: b \(-2\)"),
        ({"mix": [np.nan, 1.0, 1.0]}, r"sigmoid_mix .*: a \(nan\)"),
    ],
)
def test_parameters_that_cannot_be_computed_with(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HopfieldField.from_arrays(**arrays(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": [1.0, 2.0, 0.0]},
        {"threshold": [1.0, 2.0, np.nan]},
        {"exponent": [1.0, 2.0, -3.0]},
        {"threshold2": [1.0, 2.0, 0.0], "mix": 0.5},
        {"exponent2": [0.0, 2.0, 0.0], "mix": [1.0, 0.5, 0.5]},
        {"mix": [1.0, 0.5, np.nan]},
    ],
)
def test_the_activation_of_a_gene_that_does_not_regulate_may_be_anything(changes: dict[str, Any]) -> None:
    field = HopfieldField.from_arrays(**arrays(**changes))
    assert np.isfinite(field.jacobian(np.zeros((1, 3)), "all")).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named_by_effector_and_regulator(bad: float) -> None:
    W = arrays()["W"]
    W[2, 0] = bad
    with pytest.raises(InputError, match=rf"W of cluster 'all' is {bad} at effector 'c', regulator 'a'"):
        HopfieldField.from_arrays(**arrays(W=W))
    W = arrays()["W"]
    W[1, 2] = bad  # in a column that is zero otherwise
    with pytest.raises(InputError, match="effector 'b', regulator 'c'"):
        HopfieldField.from_arrays(**arrays(W=W))


@pytest.mark.parametrize(
    "changes",
    [
        {"regulators": np.array([1, 0])},
        {"regulators": np.array([0, 0])},
        {"regulators": np.array([0, 3])},
        {"regulators": np.array([-1, 0])},
        {"weights": np.ones((3, 3))},
        {"weights": np.ones((2, 2))},
        {"gamma": np.ones(2)},
        {"bias": np.ones((3, 1))},
        {"hill": HillParameters.single([1.0, 2.0], 1.0)},
        {"hill": HillParameters.single(1.0, 1.0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_clusters_whose_arrays_disagree(changes: dict[str, Any]) -> None:
    good = HopfieldField.from_arrays(**arrays()).parameters[0]
    with pytest.raises(InputError, match="'all'"):
        HopfieldField(["a", "b", "c"], {"all": replace(good, **changes)})


def test_messages_hold_no_numpy_types() -> None:
    W = arrays()["W"]
    W[0, 0] = np.nan
    with pytest.raises(InputError) as weights:
        HopfieldField.from_arrays(**arrays(W=W))
    field = HopfieldField.from_arrays(**arrays(exponent=0.5))
    with pytest.raises(InputError) as negative:
        field.velocity([[-1.0, 0, 0]], "all")
    with pytest.raises(InputError) as steep:
        field.velocity([[0.0, 0, 0]], "all")
    for caught in (weights, negative, steep):
        assert "np." not in str(caught.value)


# --- fingerprint, size, copies -----------------------------------------------------------------------------


def test_fingerprint_tells_every_parameter_apart() -> None:
    base = arrays(threshold2=[1.5, 2.5, 3.5], exponent2=[2.0, 2.0, 2.0], mix=[0.5, 0.5, 0.5])
    prints = {HopfieldField.from_arrays(**base).fingerprint}
    for key in ("gamma", "bias", "threshold", "exponent", "threshold2", "exponent2", "mix"):
        changed = np.array(base[key], dtype=float)
        changed[1] = np.nextafter(changed[1], 9)
        prints.add(HopfieldField.from_arrays(**{**base, key: changed}).fingerprint)
    for position in [(0, 0), (1, 0), (2, 1)]:
        W = base["W"].copy()
        W[position] = np.nextafter(W[position], 9)
        prints.add(HopfieldField.from_arrays(**{**base, "W": W}).fingerprint)
    prints.add(HopfieldField.from_arrays(**{**base, "W": base["W"].T}).fingerprint)
    prints.add(HopfieldField.from_arrays(**{**base, "genes": ["a", "b", "d"]}).fingerprint)
    prints.add(HopfieldField.from_arrays(**{**base, "W": {"other": base["W"]}}).fingerprint)
    prints.add(HopfieldField.from_arrays(**{**base, "W": {"all": base["W"], "b": base["W"]}}).fingerprint)
    assert len(prints) == 15


def test_fingerprint_ignores_what_computes_the_same() -> None:
    base = HopfieldField.from_arrays(**arrays()).fingerprint
    assert HopfieldField.from_arrays(**arrays(W=arrays()["W"].astype(np.float32))).fingerprint == base
    assert HopfieldField.from_arrays(**arrays(threshold=[1.0, 2.0, 99.0])).fingerprint == base
    assert HopfieldField.from_arrays(**arrays(W=np.asfortranarray(arrays()["W"]))).fingerprint == base
    used = HopfieldField.from_arrays(**arrays())
    used.linearize(np.ones((1, 3)), 0)
    assert used.fingerprint == base


def test_memory_is_counted() -> None:
    drawn = random_field(13, n_genes=40, n_regulators=10)
    held = sum(
        array.nbytes
        for p in drawn.field.parameters
        for array in (p.regulators, p.weights, p.gamma, p.bias, p.hill.stacked())
    )
    assert held <= drawn.field.n_bytes <= 3 * held


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_compute_the_same(copier: Any) -> None:
    drawn = random_field(14, dtype=np.float32)
    x = drawn.expression(3)
    part = linearized(drawn, "B", x)
    twin = copier(drawn.field)
    assert twin.fingerprint == drawn.field.fingerprint
    assert twin.clusters == drawn.field.clusters
    assert twin.parameters[1].weights.dtype == np.float32
    np.testing.assert_array_equal(twin.linearize(x, 1).cores(np.arange(3)), part.cores(np.arange(3)))
    np.testing.assert_array_equal(twin.jacobian(x, "B"), drawn.field.jacobian(x, "B"))


def test_a_pickle_leaves_out_what_is_derived() -> None:
    drawn = random_field(15, n_genes=60, n_regulators=60)
    before = len(pickle.dumps(drawn.field))
    for number in range(2):
        drawn.field.model(number)
    assert len(pickle.dumps(drawn.field)) == before
