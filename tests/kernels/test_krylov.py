"""Leading eigenvalues against dense solutions, planted spectra and the equations that define them."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from helpers import match_spectra
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.errors import UsageError
from stabdask.kernels import krylov_engine, krylov_projected
from stabdask.kernels.eig import canonical_order, canonical_phase
from stabdask.kernels.krylov import LeadingResult, ScaledOperator, leading_eigenvalues
from stabdask.kernels.krylov_basis import hashed_vector
from stabdask.kernels.krylov_operator import Transposed
from stabdask.kernels.krylov_projected import pair_order, restart_basis, ritz, select_closed
from stabdask.kernels.threads import single_threaded_blas
from stabdask.schema import Status

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with single_threaded_blas():
        yield


def scaled(
    weights: Array,
    batch: int = 1,
    *,
    slope: Array | None = None,
    gamma: Any = 0.0,
    active: Array | None = None,
) -> ScaledOperator:
    k = len(weights)
    slope = np.ones((batch, k)) if slope is None else slope
    active = np.ones(slope.shape, dtype=bool) if active is None else active
    return ScaledOperator(weights, slope, np.broadcast_to(gamma, (k,)).astype(float), active)


def dense(weights: Array, slope: Array, gamma: Array, active: Array) -> Array:
    """Return the core of one cell, on its active coordinates."""
    full = weights * slope - np.diag(gamma)
    return full[np.ix_(active, active)]


def sorted_spectrum(matrix: Array) -> Array:
    values = np.linalg.eigvals(matrix).astype(complex)
    return values[canonical_order(values)]


def circular(rng: np.random.Generator, k: int) -> Array:
    return rng.normal(size=(k, k)) / np.sqrt(k)


def low_rank_plus_sparse(rng: np.random.Generator, k: int) -> Array:
    links = (rng.random((k, k)) < 0.03) * rng.normal(size=(k, k)) / np.sqrt(0.03 * k)
    return rng.normal(size=(k, 4)) @ rng.normal(size=(4, k)) / k + 0.5 * links


def repressilators(gains: Array) -> Array:
    """Return disjoint rings of three repressors; each has the eigenvalues -g and g (1 +- i sqrt(3)) / 2."""
    ring = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return scipy.linalg.block_diag(*[gain * ring for gain in gains])


def rotated(rng: np.random.Generator, matrix: Array) -> Array:
    Q, _ = np.linalg.qr(rng.normal(size=matrix.shape))
    return Q @ matrix @ Q.T


def cluster(seed: int, k: int, batch: int, kind: Any = circular) -> tuple[ScaledOperator, list[Array]]:
    """Return cells that share W, some of them on part of the coordinates only, and their cores."""
    rng = np.random.default_rng(seed)
    weights = kind(rng, k)
    slope, gamma = rng.uniform(0.5, 1.5, (batch, k)), rng.uniform(0.5, 1.5, k)
    active = rng.random((batch, k)) < rng.choice([1.0, 0.8], size=(batch, 1))
    cores = [dense(weights, slope[b], gamma, active[b]) for b in range(batch)]
    return ScaledOperator(weights, slope, gamma, active), cores


def floor_of(core: Array) -> float:
    return float(np.linalg.norm(core) / np.sqrt(max(1, len(core))))


def check_vectors(result: LeadingResult, active: Array, cores: list[Array], tolerance: float) -> None:
    """Check every right vector and residual returned against the dense matrices."""
    assert result.right is not None
    for b, core in enumerate(cores):
        for i in np.flatnonzero(result.converged[b]):
            value, vector = result.eigenvalues[b, i], result.right[b, i]
            assert (vector[~active[b]] == 0).all()
            u = vector[active[b]]
            assert np.linalg.norm(u) == pytest.approx(1)
            np.testing.assert_allclose(canonical_phase(vector), vector, atol=1e-14)
            defect = np.linalg.norm(core @ u - value * u)
            assert defect <= 1.01 * tolerance * max(abs(value), floor_of(core)) + 1e-13
            assert result.residual[b, i] == pytest.approx(defect / np.linalg.norm(core), rel=1e-3, abs=1e-13)


# ---------------------------------------------------------------------------------------------- known spectra


@pytest.mark.parametrize("kind", [circular, low_rank_plus_sparse])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_leading_eigenvalues_of_random_cores(kind: Any, tolerance: float) -> None:
    operator, cores = cluster(3, 260, 8, kind)
    result = leading_eigenvalues(operator, modes=5, tolerance=tolerance, vectors="right")
    assert (result.status == Status.OK).all()
    assert result.converged.all()
    assert result.confirmed.all()
    check_vectors(result, operator._active, cores, tolerance)
    for b, core in enumerate(cores):
        exact = sorted_spectrum(core)
        allowed = 40 * tolerance * floor_of(core)
        np.testing.assert_allclose(result.eigenvalues[b].real, exact[:5].real, atol=allowed)
        assert np.abs(result.eigenvalues[b][:, None] - exact).min(axis=1).max() < allowed


def test_planted_pairs() -> None:
    rng = np.random.default_rng(0)
    lead = np.array([[0.9, 2.0], [-2.0, 0.9]])
    rest = np.diag(rng.uniform(-2.0, 0.2, 117))
    rest[np.triu_indices(117, 1)] = rng.normal(scale=0.02, size=117 * 116 // 2)
    matrix = rotated(rng, scipy.linalg.block_diag(lead, [[0.5]], rest))
    result = leading_eigenvalues(scaled(matrix), modes=3, tolerance=1e-9)
    np.testing.assert_allclose(result.eigenvalues[0], [0.9 + 2j, 0.9 - 2j, 0.5], atol=1e-7)
    assert result.eigenvalues[0, 0] == result.eigenvalues[0, 1].conj()
    assert result.eigenvalues[0, 2].imag == 0


def test_rings_of_repressors() -> None:
    gains = 0.5 + 0.04 * np.arange(50)
    result = leading_eigenvalues(scaled(repressilators(gains), gamma=1.0), modes=4, tolerance=1e-8)
    pair = np.exp(1j * np.pi / 3)
    expected = [g * p - 1 for g in gains[::-1][:2] for p in (pair, pair.conj())]
    np.testing.assert_allclose(result.eigenvalues[0], expected, atol=1e-6)


def test_last_mode_may_be_half_a_pair() -> None:
    gains = 0.5 + 0.04 * np.arange(50)
    whole = leading_eigenvalues(scaled(repressilators(gains)), modes=4, tolerance=1e-8)
    cut = leading_eigenvalues(scaled(repressilators(gains)), modes=3, tolerance=1e-8)
    assert cut.converged.all()
    assert cut.eigenvalues[0, 2].imag > 0
    np.testing.assert_allclose(cut.eigenvalues[0], whole.eigenvalues[0, :3], atol=1e-6)


def test_symmetric_matrices() -> None:
    rng = np.random.default_rng(4)
    half = rng.normal(size=(200, 200))
    matrix = (half + half.T) / np.sqrt(200)
    result = leading_eigenvalues(scaled(matrix), modes=6, tolerance=1e-8, vectors="both")
    exact = np.linalg.eigvalsh(matrix)[::-1][:6]
    np.testing.assert_allclose(result.eigenvalues[0], exact, atol=1e-7)
    assert (result.eigenvalues.imag == 0).all()
    assert result.condition is not None
    np.testing.assert_allclose(result.condition, 1.0, atol=1e-6)


# ------------------------------------------------------------------------------------------- degenerate spectra


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_repeated_eigenvalues_are_all_found(tolerance: float) -> None:
    """One vector's Krylov space holds one copy: the others come from looking again."""
    rng = np.random.default_rng(5)
    values = np.concatenate([[1.4, 1.2, 1.2, 1.2, 1.2], rng.uniform(-1, 1, 145)])
    operator = scaled(rotated(rng, np.diag(values)))
    result = leading_eigenvalues(operator, modes=6, tolerance=tolerance, vectors="right")
    expected = np.sort(values)[::-1][:6]
    np.testing.assert_allclose(result.eigenvalues[0], expected, atol=10 * tolerance)
    assert result.confirmed.all()
    assert result.certain_unstable_count(1.1).tolist() == [5]
    check_vectors(result, operator._active, [np.asarray(operator._weights[np.dtype(float)])], tolerance)
    once = leading_eigenvalues(operator, modes=6, tolerance=tolerance, confirm_modes=False)
    # In single precision rounding errors may bring the others in; not so here.
    assert tolerance > 1e-8 or (once.eigenvalues[0].real > 1.1).sum() < 5
    assert once.certain_unstable_count(1.1).tolist() == [-1]


def test_a_repeated_pair_is_found_twice() -> None:
    gains = np.concatenate([[3.0, 3.0], np.linspace(0.2, 1.0, 48)])
    result = leading_eigenvalues(scaled(repressilators(gains)), modes=5, tolerance=1e-6)
    pair = 3 * np.exp(1j * np.pi / 3)
    assert match_spectra(result.eigenvalues[0, :4], np.array([pair, pair, pair.conj(), pair.conj()])) < 1e-4
    assert result.certain_unstable_count(1.0).tolist() == [4]


@pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
def test_defective_leading_eigenvalue(tolerance: float) -> None:
    rng = np.random.default_rng(6)
    block = np.array([[1.0, 1.0], [0.0, 1.0]])
    rest = np.diag(rng.uniform(-1, 0.3, 120))
    matrix = rotated(rng, scipy.linalg.block_diag(block, rest))
    result = leading_eigenvalues(scaled(matrix), modes=2, tolerance=tolerance, vectors="right")
    assert result.converged.all()
    check_vectors(result, np.ones((1, 122), dtype=bool), [matrix], tolerance)
    # An error e of the matrix moves a double defective eigenvalue by its square root.
    np.testing.assert_allclose(result.eigenvalues[0], 1.0, atol=5 * np.sqrt(tolerance))


def test_low_rank_weights_and_one_degradation_rate() -> None:
    """The Krylov space ends after rank + 1 steps, and -gamma is an eigenvalue hundreds of times over."""
    rng = np.random.default_rng(7)
    left, _ = np.linalg.qr(rng.normal(size=(150, 3)))
    weights = left @ np.diag([0.5, -0.3, -0.6]) @ left.T
    result = leading_eigenvalues(scaled(weights, gamma=1.0), modes=4, tolerance=1e-6)
    np.testing.assert_allclose(result.eigenvalues[0], [-0.5, -1, -1, -1], atol=1e-5)
    assert result.confirmed.all()


@pytest.mark.parametrize("k", [1, 2, 10, 150])
def test_zero_matrices(k: int) -> None:
    result = leading_eigenvalues(scaled(np.zeros((k, k)), 2), modes=3, tolerance=1e-6, vectors="both")
    exists = np.arange(3) < k
    assert (result.eigenvalues[:, exists] == 0).all()
    assert np.isnan(result.eigenvalues[:, ~exists]).all()
    assert (result.status == Status.OK).all()
    assert (result.certain_unstable_count() == 0).all()


def test_zero_slopes_leave_the_degradation() -> None:
    rng = np.random.default_rng(8)
    gamma = np.concatenate([[0.1, 0.2], np.linspace(0.5, 3.0, 98)])
    operator = scaled(circular(rng, 100), slope=np.zeros((1, 100)), gamma=gamma)
    result = leading_eigenvalues(operator, modes=2, tolerance=1e-7)
    np.testing.assert_allclose(result.eigenvalues[0], [-0.1, -0.2], atol=1e-6)


# ------------------------------------------------------------------------------------ sizes, masks, containment


def test_sizes_from_nothing_to_all() -> None:
    rng = np.random.default_rng(9)
    k, sizes = 140, [0, 1, 2, 3, 30, 31, 90, 140]
    weights, slope, gamma = circular(rng, k), rng.uniform(0.5, 1.5, (len(sizes), k)), rng.uniform(0.5, 1.5, k)
    active = np.zeros((len(sizes), k), dtype=bool)
    for b, size in enumerate(sizes):
        active[b, rng.permutation(k)[:size]] = True
    result = leading_eigenvalues(
        ScaledOperator(weights, slope, gamma, active), modes=4, tolerance=1e-9, vectors="both"
    )
    assert (result.status == Status.OK).all()
    assert result.sizes.tolist() == sizes
    cores = [dense(weights, slope[b], gamma, active[b]) for b in range(len(sizes))]
    check_vectors(result, active, cores, 1e-9)
    for b, size in enumerate(sizes):
        exact, shown = sorted_spectrum(cores[b]), min(4, size)
        np.testing.assert_allclose(result.eigenvalues[b, :shown], exact[:shown], atol=1e-7)
        assert np.isnan(result.eigenvalues[b, shown:]).all()
        assert result.converged[b].tolist() == [True] * shown + [False] * (4 - shown)
    assert result.certain_unstable_count(-np.inf).tolist()[:4] == [0, 1, 2, 3]


def test_no_matrices_at_all() -> None:
    operator = scaled(np.eye(5), slope=np.zeros((0, 5)), active=np.zeros((0, 5), dtype=bool))
    result = leading_eigenvalues(operator, modes=2, tolerance=1e-3, vectors="both")
    assert result.eigenvalues.shape == (0, 2)
    assert result.certain_unstable_count().shape == (0,)
    empty = ScaledOperator(np.zeros((0, 0)), np.zeros((2, 0)), np.zeros(0), np.zeros((2, 0), dtype=bool))
    assert leading_eigenvalues(empty, modes=1, tolerance=1e-3).status.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_cell(bad: float) -> None:
    rng = np.random.default_rng(10)
    weights, slope = circular(rng, 120), rng.uniform(0.5, 1.5, (4, 120))
    clean = leading_eigenvalues(scaled(weights, slope=slope), modes=3, tolerance=1e-6, vectors="both")
    slope[1, 7] = bad
    result = leading_eigenvalues(scaled(weights, slope=slope), modes=3, tolerance=1e-6, vectors="both")
    assert result.status.tolist() == [0, Status.NON_FINITE_INPUT, 0, 0]
    assert np.isnan(result.eigenvalues[1]).all()
    assert result.certain_unstable_count()[1] == -1
    assert result.right is not None
    assert np.isnan(result.right[1]).all()
    np.testing.assert_allclose(result.eigenvalues[[0, 2, 3]], clean.eigenvalues[[0, 2, 3]], atol=1e-5)
    slope[:, 7] = bad
    active = np.ones((4, 120), dtype=bool)
    active[0, 7] = False
    mixed = leading_eigenvalues(scaled(weights, slope=slope, active=active), modes=3, tolerance=1e-6)
    assert mixed.status.tolist() == [0, 3, 3, 3]


def test_weights_that_are_not_finite() -> None:
    weights = np.eye(100)
    weights[3, 4] = np.nan
    result = leading_eigenvalues(scaled(weights, 2), modes=2, tolerance=1e-3)
    assert (result.status == Status.NON_FINITE_INPUT).all()


def test_a_cell_does_not_depend_on_its_batch() -> None:
    operator, _ = cluster(11, 160, 6)
    together = leading_eigenvalues(operator, modes=4, tolerance=1e-6)
    again = leading_eigenvalues(operator, modes=4, tolerance=1e-6)
    np.testing.assert_array_equal(together.eigenvalues, again.eigenvalues)
    for b in range(6):
        alone = ScaledOperator(
            operator._weights[np.dtype(float)], operator._slope[[b]], operator._gamma, operator._active[[b]]
        )
        single = leading_eigenvalues(alone, modes=4, tolerance=1e-6)
        np.testing.assert_allclose(single.eigenvalues[0], together.eigenvalues[b], atol=1e-5)
        assert abs(int(single.n_products[0]) - int(together.n_products[b])) <= 0.2 * together.n_products[b]


@pytest.mark.parametrize("exponent", [-900, -70, 70, 400])
def test_scale_does_not_matter(exponent: int) -> None:
    rng = np.random.default_rng(12)
    weights, gamma = circular(rng, 110), rng.uniform(0.5, 1.5, 110)
    plain = leading_eigenvalues(scaled(weights, gamma=gamma), modes=3, tolerance=1e-6)
    factor = 2.0**exponent
    result = leading_eigenvalues(scaled(weights * factor, gamma=gamma * factor), modes=3, tolerance=1e-6)
    assert (result.status == Status.OK).all()
    np.testing.assert_allclose(result.eigenvalues / factor, plain.eigenvalues, atol=1e-5)
    np.testing.assert_allclose(result.norms / factor, plain.norms)


def test_single_precision_input() -> None:
    operator, cores = cluster(13, 150, 3)
    single = ScaledOperator(
        operator._weights[np.dtype(float)].astype(np.float32),
        operator._slope.astype(np.float32),
        operator._gamma.astype(np.float32),
        operator._active,
    )
    result = leading_eigenvalues(single, modes=3, tolerance=1e-5, vectors="both")
    assert result.eigenvalues.dtype == np.complex64
    assert result.right is not None
    assert result.right.dtype == np.complex64
    assert (result.status == Status.OK).all()
    for b, core in enumerate(cores):
        np.testing.assert_allclose(result.eigenvalues[b].real, sorted_spectrum(core)[:3].real, atol=3e-4)


# --------------------------------------------------------------------------------------------- tolerance, counts


def test_what_does_not_converge_is_not_returned() -> None:
    operator, cores = cluster(14, 200, 3)
    result = leading_eigenvalues(operator, modes=5, tolerance=1e-10, max_products=60, vectors="right")
    assert (result.status == Status.NOT_CONVERGED).all()
    assert not result.converged.all()
    assert np.isnan(result.eigenvalues[~result.converged]).all()
    assert (result.residual[~result.converged] > 0).all()
    assert (
        result.certain_unstable_count(result.eigenvalues.real[result.converged].min(initial=-9)) <= 5
    ).all()
    assert (result.n_products <= 80).all()
    check_vectors(result, operator._active, cores, 1e-10)


def test_single_precision_is_left_where_it_does_not_reach() -> None:
    """A large low-rank part drowns the tolerance of the small leading modes in single precision."""
    rng = np.random.default_rng(15)
    U, _ = np.linalg.qr(rng.normal(size=(150, 150)))
    values = np.concatenate([[-3e4], [1.0, 0.8, 0.6], rng.uniform(-2, 0.3, 146)])
    matrix = U @ np.diag(values) @ U.T
    result = leading_eigenvalues(scaled(matrix), modes=3, tolerance=1e-6, vectors="right")
    assert result.converged.all()
    check_vectors(result, np.ones((1, 150), dtype=bool), [matrix], 1e-6)
    np.testing.assert_allclose(result.eigenvalues[0], [1.0, 0.8, 0.6], atol=3e-3)


def test_unstable_counts() -> None:
    rng = np.random.default_rng(16)
    values = np.concatenate([[0.9, 0.7, 0.5], rng.uniform(-2, -0.2, 117)])
    operator = scaled(rotated(rng, np.diag(values)))
    result = leading_eigenvalues(operator, modes=4, tolerance=1e-8)
    assert result.certain_unstable_count().tolist() == [3]
    assert result.certain_unstable_count(0.6).tolist() == [2]
    assert result.certain_unstable_count(1.0).tolist() == [0]
    # All four modes lie above: there may be more.
    assert result.certain_unstable_count(-1.9).tolist() == [-1]
    # The threshold is closer to an eigenvalue than that is known.
    assert result.certain_unstable_count(float(result.eigenvalues[0, 1].real)).tolist() == [-1]
    few = leading_eigenvalues(operator, modes=3, tolerance=1e-8)
    assert few.certain_unstable_count().tolist() == [-1]
    none = leading_eigenvalues(operator, modes=4, tolerance=1e-8, max_products=10)
    assert none.certain_unstable_count().tolist() == [-1]


def test_small_matrices_have_certain_counts() -> None:
    result = leading_eigenvalues(scaled(np.diag([2.0, 1.0, -1.0])), modes=3, tolerance=1e-6)
    assert result.certain_unstable_count().tolist() == [2]
    assert result.certain_unstable_count(-5.0).tolist() == [3]
    assert leading_eigenvalues(
        scaled(np.diag([2.0, 1.0, -1.0])), modes=2, tolerance=1e-6
    ).certain_unstable_count().tolist() == [-1]


def test_the_margin_is_residual_times_condition() -> None:
    result = leading_eigenvalues(scaled(np.diag([0.3, -0.5])), modes=2, tolerance=1e-6)
    assert result.certain_unstable_count().tolist() == [1]
    residual = np.full((1, 2), 0.1) / result.norms[:, None]
    loose = dataclasses.replace(result, residual=residual)
    assert loose.certain_unstable_count().tolist() == [1]
    assert loose.certain_unstable_count(0.25).tolist() == [-1]
    for condition, count in ((2.0, 1), (4.0, -1)):
        sensitive = dataclasses.replace(loose, condition=np.full((1, 2), condition))
        assert sensitive.certain_unstable_count().tolist() == [count]
    hole = dataclasses.replace(loose, converged=np.array([[False, True]]))
    assert hole.certain_unstable_count().tolist() == [-1]
    doubted = dataclasses.replace(loose, confirmed=np.array([False]))
    assert doubted.certain_unstable_count().tolist() == [-1]


def test_warm_start_saves_products() -> None:
    rng = np.random.default_rng(18)
    weights, gamma = circular(rng, 200), rng.uniform(0.5, 1.5, 200)
    base = rng.uniform(0.5, 1.5, 200)
    slopes = base * (1 + 0.003 * rng.normal(size=(8, 200)))
    first = leading_eigenvalues(scaled(weights, slope=slopes[:4], gamma=gamma), modes=3, tolerance=1e-6)
    assert first.start is not None
    second = scaled(weights, slope=slopes[4:], gamma=gamma)
    cold = leading_eigenvalues(second, modes=3, tolerance=1e-6)
    warm = leading_eigenvalues(second, modes=3, tolerance=1e-6, start=first.start)
    assert warm.n_products.sum() < 0.95 * cold.n_products.sum()
    np.testing.assert_allclose(warm.eigenvalues, cold.eigenvalues, atol=1e-4)
    useless = leading_eigenvalues(second, modes=3, tolerance=1e-6, start=np.zeros(200))
    np.testing.assert_allclose(useless.eigenvalues, cold.eigenvalues, atol=1e-4)


def test_warm_start_does_not_hide_another_component() -> None:
    """Eigenvectors of one component of the network have no part in those of another."""
    rng = np.random.default_rng(19)
    weights = scipy.linalg.block_diag(circular(rng, 90), circular(rng, 90))
    slope = np.ones((2, 180))
    slope[0, :90], slope[1, 90:] = 3.0, 3.0
    operator = scaled(weights, slope=slope)
    start = leading_eigenvalues(scaled(weights, slope=slope[:1]), modes=3, tolerance=1e-6).start
    result = leading_eigenvalues(operator, modes=3, tolerance=1e-6, start=start)
    for b in range(2):
        exact = sorted_spectrum(weights * slope[b])
        np.testing.assert_allclose(result.eigenvalues[b].real, exact[:3].real, atol=1e-3)


# -------------------------------------------------------------------------------------------------- left vectors


@pytest.mark.parametrize("k", [40, 160])
def test_left_vectors_and_condition_numbers(k: int) -> None:
    operator, cores = cluster(20, k, 4)
    result = leading_eigenvalues(operator, modes=4, tolerance=1e-9, vectors="both")
    assert (result.status == Status.OK).all()
    assert result.left is not None
    assert result.condition is not None
    assert result.left_residual is not None
    assert (result.left_residual < 1e-8).all()
    for b, core in enumerate(cores):
        active = operator._active[b]
        values, left, right = scipy.linalg.eig(core, left=True)
        expected = 1 / np.abs(np.einsum("ij,ij->j", left.conj(), right))
        for i in range(4):
            assert (result.left[b, i, ~active] == 0).all()
            y = result.left[b, i, active]
            np.testing.assert_allclose(y.conj() @ core, result.eigenvalues[b, i] * y.conj(), atol=1e-6)
            near = np.argmin(np.abs(values - result.eigenvalues[b, i]))
            assert result.condition[b, i] == pytest.approx(expected[near], rel=1e-4)
            np.testing.assert_allclose(canonical_phase(result.left[b, i]), result.left[b, i], atol=1e-14)


# ------------------------------------------------------------------------------------------------------ operators


def test_operator_against_dense_products() -> None:
    operator, cores = cluster(22, 30, 4)
    rng = np.random.default_rng(0)
    cells = np.array([2, 0])
    x = operator.restrict(rng.normal(size=(2, 30)), cells)
    forward, backward = operator.apply(x, cells), operator.apply_transpose(x, cells)
    other = Transposed(operator)
    np.testing.assert_array_equal(other.apply(x, cells), backward)
    np.testing.assert_array_equal(other.apply_transpose(x, cells), forward)
    for row, b in enumerate(cells):
        on = operator._active[b]
        np.testing.assert_allclose(forward[row, on], cores[b] @ x[row, on])
        np.testing.assert_allclose(backward[row, on], cores[b].T @ x[row, on])
        assert (forward[row, ~on] == 0).all()
        assert (backward[row, ~on] == 0).all()
    np.testing.assert_allclose(operator.frobenius(), [np.linalg.norm(core) for core in cores])
    assert operator.apply(x.astype(np.float32), cells).dtype == np.float32


def test_wrong_input_is_refused() -> None:
    weights, slope, gamma, active = np.eye(3), np.ones((2, 3)), np.ones(3), np.ones((2, 3), dtype=bool)
    for bad in (
        (np.ones((3, 2)), slope, gamma, active),
        (weights, np.ones((2, 4)), gamma, active),
        (weights, slope, np.ones(2), active),
        (weights, slope, gamma, np.ones((1, 3), dtype=bool)),
        (weights, slope, gamma, np.ones((2, 3))),
        (weights * 1j, slope, gamma, active),
    ):
        with pytest.raises(UsageError):
            ScaledOperator(*bad)
    operator = ScaledOperator(weights, slope, gamma, active)
    good: dict[str, Any] = {"modes": 1, "tolerance": 1e-3}
    for wrong in (
        {"modes": 0},
        {"modes": 1.5},
        {"modes": True},
        {"tolerance": 0.0},
        {"tolerance": np.nan},
        {"vectors": "left"},
        {"start": np.ones(4)},
        {"start": np.array([1.0, np.nan, 0.0])},
        {"subspace": 4},
        {"max_products": 0},
    ):
        with pytest.raises(UsageError):
            leading_eigenvalues(operator, **{**good, **wrong})


class DenseOperator:
    """Another implementation of the protocol: matrices of their own."""

    def __init__(self, matrices: Array) -> None:
        self.xp = np
        self.dtype = np.dtype(float)
        self.batch, self.k, _ = matrices.shape
        self.sizes = np.full(self.batch, self.k)
        self.matrices = matrices
        self.seen: list[int] = []

    def apply(self, x: Array, cells: Array) -> Array:
        self.seen.append(len(cells))
        return np.einsum("bij,bj->bi", self.matrices[cells], x).astype(x.dtype)

    def apply_transpose(self, x: Array, cells: Array) -> Array:
        return np.einsum("bji,bj->bi", self.matrices[cells], x).astype(x.dtype)

    def restrict(self, x: Array, cells: Array) -> Array:
        return x.copy()

    def frobenius(self) -> Array:
        return np.linalg.norm(self.matrices, axis=(1, 2))


def test_any_operator_will_do_and_what_converged_drops_out() -> None:
    rng = np.random.default_rng(23)
    easy = rotated(rng, np.diag(np.concatenate([[5.0, 4.0], rng.uniform(-1, 0, 118)])))
    operator = DenseOperator(np.stack([easy, circular(rng, 120), circular(rng, 120)]))
    result = leading_eigenvalues(operator, modes=2, tolerance=1e-9, vectors="both")
    assert (result.status == Status.OK).all()
    for b in range(3):
        np.testing.assert_allclose(
            result.eigenvalues[b], sorted_spectrum(operator.matrices[b])[:2], atol=1e-6
        )
    assert result.n_products[0] < result.n_products[1:].min()
    assert 2 in operator.seen


class WrongTranspose(DenseOperator):
    """An operator whose transposes belong to other matrices."""

    def apply_transpose(self, x: Array, cells: Array) -> Array:
        return super().apply(x, cells) + 0.3 * x


def test_left_vectors_without_a_match_are_missing() -> None:
    operator = WrongTranspose(circular(np.random.default_rng(21), 120)[None])
    result = leading_eigenvalues(operator, modes=3, tolerance=1e-6, vectors="both")
    assert result.converged.all()
    assert result.status.tolist() == [Status.NOT_CONVERGED]
    assert result.left is not None
    assert result.condition is not None
    missing = np.isnan(result.condition)
    assert missing.any()
    assert np.isnan(result.left[missing]).all()


# --------------------------------------------------------------------------------------------------------- parts


def test_random_looking_vectors_are_fixed() -> None:
    np.testing.assert_array_equal(hashed_vector(5, 0), hashed_vector(9, 0)[:5])
    assert not np.array_equal(hashed_vector(5, 0), hashed_vector(5, 1))
    many = hashed_vector(100_000, 3)
    assert abs(many.mean()) < 0.01
    assert many.var() == pytest.approx(1 / 3, rel=0.01)
    # The first two outputs of the published SplitMix64 from seed 0.
    published = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], dtype=np.float64) / 2.0**63 - 1
    np.testing.assert_allclose(hashed_vector(2, 0), published, atol=1e-15)


def test_pairs_are_never_split() -> None:
    values = np.array([[3.0, 2 + 1j, 2 - 1j, 1.0, 0.5j, -0.5j, -1.0, -2.0]])
    assert select_closed(values, 2).tolist() == [[0, 3]]
    assert select_closed(values, 4).tolist() == [[0, 1, 2, 3]]
    tied = np.array([[1 + 1j, 1 + 2j, 1 - 2j, 1 - 1j]])
    assert tied[0, pair_order(tied)[0]].tolist() == [1 + 2j, 1 - 2j, 1 + 1j, 1 - 1j]


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_restart_bases_are_invariant(seed: int, keep: int, half: int) -> None:
    rng = np.random.default_rng(seed)
    m, keep = 2 * half, 2 * min(keep, half)
    matrices = rng.normal(size=(3, m, m))
    # Defective on purpose: a shifted nilpotent matrix among them.
    matrices[1] = rotated(rng, np.eye(m) + np.diag(np.ones(m - 1), 1))
    matrices[2] = np.round(matrices[2])
    found = ritz(matrices, np.zeros((3, m)))
    basis, reduced = restart_basis(matrices, found, select_closed(found.values, keep), 1e-10)
    for b in range(3):
        np.testing.assert_allclose(basis[b].T @ basis[b], np.eye(keep), atol=1e-12)
        np.testing.assert_allclose(matrices[b] @ basis[b], basis[b] @ reduced[b], atol=1e-8)


def test_projections_that_cannot_be_solved_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    projected = np.stack([np.eye(4), np.full((4, 4), np.nan), np.diag([1.0, 2.0, 3.0, 4.0])])
    found = ritz(projected, np.zeros((3, 4)))
    assert found.solved.tolist() == [True, False, True]
    assert found.values[2].tolist() == [4, 3, 2, 1]
    coupled = ritz(projected[[0, 2]], np.array([[0.0, 0.0, np.nan, 0.0], [1.0, 0.0, 2.0, 0.0]]))
    assert coupled.solved.tolist() == [False, True]
    np.testing.assert_allclose(coupled.residual[1], [0, 2, 0, 1], atol=1e-14)


def test_lapack_will_do_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, _ = cluster(26, 150, 3)
    expected = leading_eigenvalues(operator, modes=3, tolerance=1e-6)
    monkeypatch.setattr(krylov_projected.lanes, "available", lambda: False)
    result = leading_eigenvalues(operator, modes=3, tolerance=1e-6)
    np.testing.assert_allclose(result.eigenvalues, expected.eigenvalues, atol=1e-5)


def test_an_unsolvable_projection_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, _ = cluster(24, 130, 2)

    def never(projected: Array, coupling: Array) -> Any:
        found = ritz(projected, coupling)
        found.solved[:] = False
        return found

    monkeypatch.setattr(krylov_engine, "ritz", never)
    result = leading_eigenvalues(operator, modes=2, tolerance=1e-6)
    assert (result.status == Status.NOT_CONVERGED).all()
    assert np.isnan(result.eigenvalues).all()


matrices_with_masks = st.tuples(
    st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.booleans()
)


@given(matrices_with_masks)
@settings(max_examples=60, deadline=None)
def test_small_matrices_equal_dense_ones(drawn: tuple[int, int, int, int, bool]) -> None:
    seed, k, batch, modes, integers = drawn
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(k, k))
    if integers:  # repeated and defective eigenvalues, zero rows
        weights = np.round(weights)
    slope, gamma, active = rng.uniform(0, 2, (batch, k)), rng.uniform(0, 1, k), rng.random((batch, k)) < 0.7
    result = leading_eigenvalues(
        ScaledOperator(weights, slope, gamma, active), modes=modes, tolerance=1e-10, vectors="right"
    )
    cores = [dense(weights, slope[b], gamma, active[b]) for b in range(batch)]
    check_vectors(result, active, cores, 1e-10)
    for b, core in enumerate(cores):
        shown = min(modes, len(core))
        found, exact = result.eigenvalues[b, :shown], sorted_spectrum(core)
        scale = max(1.0, float(np.linalg.norm(core)))
        # Nearly defective eigenvalues are only known to a root of the precision.
        np.testing.assert_allclose(found.real, exact[:shown].real, atol=2e-2 * scale)
        if shown == len(core):
            assert match_spectra(found, exact) < 2e-2 * scale


@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([1e-3, 1e-6, 1e-9]))
@settings(max_examples=12, deadline=None)
def test_iterated_matrices_equal_dense_ones(seed: int, n_pairs: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    lead = [1.5 + 0.3 * i for i in range(n_pairs)]
    blocks = [np.array([[a, 2.0], [-0.5, a]]) for a in lead]
    rest = 0.5 * circular(rng, 80 - 2 * n_pairs)
    matrix = rotated(rng, scipy.linalg.block_diag(*blocks, rest))
    operator = scaled(matrix)
    result = leading_eigenvalues(operator, modes=3, tolerance=tolerance, subspace=24, vectors="right")
    assert result.converged.all()
    check_vectors(result, operator._active, [matrix], tolerance)
    exact = sorted_spectrum(matrix)
    np.testing.assert_allclose(result.eigenvalues[0].real, exact[:3].real, atol=100 * tolerance)
    count = result.certain_unstable_count(1.0)[0]
    assert count in (-1, 2 * n_pairs)


# ---------------------------------------------------------------------------------------------- other array modules


def test_arrays_of_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the operator's module is called for must be there under CuPy's name, and return its arrays."""
    operator, _ = cluster(25, 150, 3)
    expected = leading_eigenvalues(operator, modes=3, tolerance=1e-6, vectors="both")
    used: set[str] = set()

    class Module(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            used.add(name)
            return getattr(np, name)

    operator.xp = Module("other")
    result = leading_eigenvalues(operator, modes=3, tolerance=1e-6, vectors="both")
    np.testing.assert_allclose(result.eigenvalues, expected.eigenvalues, atol=1e-5)
    known_to_cupy = {
        "abs", "arange", "asarray", "ascontiguousarray", "concatenate", "diagonal", "divide", "einsum", "empty_like",
        "hypot", "isfinite", "matmul", "maximum", "sqrt", "swapaxes", "tile", "where", "zeros",
    }  # fmt: skip
    assert used <= known_to_cupy
