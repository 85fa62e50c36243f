"""The eigensolver against planted spectra, exact scalings, defining equations and identities."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from helpers import frobenius, match_spectra
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag, companion

from stabdask.errors import BackendUnavailableError, UsageError
from stabdask.kernels import eig as eig_module
from stabdask.kernels import lapack
from stabdask.kernels.eig import EigResult, canonical_order, canonical_phase, eig, inaccuracy_limit
from stabdask.schema import Status

Array = np.ndarray[Any, Any]
FIELDS = ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status")
MODES_OF_WORK = ("none", "right", "both")


def gaussian(seed: int, batch: int, k: int) -> Array:
    return np.random.default_rng(seed).normal(size=(batch, k, k))


def entries(result: EigResult, rows: Any) -> list[Array]:
    return [array[rows] for name in FIELDS if (array := getattr(result, name)) is not None]


def assert_same_bits(a: list[Array], b: list[Array]) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def planted(rng: np.random.Generator, n_real: int, n_pairs: int) -> tuple[Array, Array]:
    """Return a matrix that is not normal with a known spectrum: Q T Q^T, T quasi-triangular."""
    real = rng.normal(size=n_real)
    a, b = rng.normal(size=n_pairs), rng.uniform(0.5, 2.0, size=n_pairs)
    # [[a, b s], [-b / s, a]] has the eigenvalues a +- ib for every s.
    s = rng.uniform(0.5, 2.0, size=n_pairs)
    blocks = [np.array([[v]]) for v in real]
    blocks += [np.array([[p, q * t], [-q / t, p]]) for p, q, t in zip(a, b, s, strict=True)]
    T = block_diag(*blocks)
    k = len(T)
    coupling = np.triu(rng.normal(scale=0.3, size=(k, k)), 1)
    T = np.where(T == 0, coupling, T)
    Q, _ = np.linalg.qr(rng.normal(size=(k, k)))
    return Q @ T @ Q.T, np.concatenate([real, a + 1j * b, a - 1j * b])


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
@pytest.mark.parametrize(("n_real", "n_pairs"), [(1, 0), (0, 1), (3, 2), (0, 6), (11, 10)])
def test_planted_spectra(vectors: Any, n_real: int, n_pairs: int) -> None:
    rng = np.random.default_rng(n_real + 31 * n_pairs)
    drawn = [planted(rng, n_real, n_pairs) for _ in range(7)]
    matrices = np.stack([matrix for matrix, _ in drawn])
    result = eig(matrices, vectors=vectors)
    assert result.backend in ("lanes", "lapack")
    assert (result.status == Status.OK).all()
    for b, (_, spectrum) in enumerate(drawn):
        assert match_spectra(result.eigenvalues[b], spectrum) < 1e-9
    assert (result.trace_defect < 1e-13).all()


def test_small_systems_by_hand() -> None:
    rotation = [[0.0, -2.0], [2.0, 0.0]]
    triangular = [[-1.0, 5.0], [0.0, 3.0]]
    result = eig(np.array([rotation, triangular]), vectors="both")
    np.testing.assert_allclose(result.eigenvalues, [[2j, -2j], [3, -1]], atol=1e-15)
    assert result.right is not None
    assert result.left is not None
    # (C - 3) (5, 4) = 0 and (C + 1) (1, 0) = 0; (0, 1) C = 3 (0, 1) and (4, -5) C = -(4, -5).
    np.testing.assert_allclose(result.right[1], [np.array([5, 4]) / np.sqrt(41), [1, 0]], atol=1e-15)
    np.testing.assert_allclose(result.left[1], [[0, 1], np.array([-4, 5]) / np.sqrt(41)], atol=1e-15)
    assert result.condition is not None
    np.testing.assert_allclose(result.condition[1], np.sqrt(41) / 4)
    # A normal matrix: left and right vectors agree.
    np.testing.assert_allclose(result.right[0], result.left[0], atol=1e-15)


def test_canonical_order_of_values_and_vectors() -> None:
    matrices = gaussian(1, 20, 13)
    result = eig(matrices, vectors="right")
    values = result.eigenvalues
    for row in values:
        pairs = [(-v.real, -v.imag) for v in row.tolist()]
        assert pairs == sorted(pairs)
    assert result.right is not None
    image = np.einsum("bij,bmj->bmi", matrices, result.right)
    np.testing.assert_allclose(image, values[:, :, None] * result.right, atol=1e-12)


def test_canonical_order_puts_nan_last() -> None:
    values = np.array([complex(np.nan, np.nan), -1.0, 2 - 1j, 2 + 1j, 2.0])
    assert canonical_order(values).tolist() == [3, 4, 2, 1, 0]
    assert canonical_order(np.array([[1.0, 2.0], [4.0, 3.0]])).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phase_and_norm_of_vectors(dtype: Any) -> None:
    result = eig(gaussian(2, 15, 9).astype(dtype), vectors="both")
    for vectors in (result.right, result.left):
        assert vectors is not None
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, rtol=20 * np.finfo(dtype).eps)
        size = np.abs(vectors)
        largest = size >= size.max(axis=-1, keepdims=True) * (1 - 1e-5)
        assert (largest & (vectors.real > 0) & (vectors.imag == 0)).any(axis=-1).all()


def test_phase_by_hand() -> None:
    vectors = np.array([[3j, -4j], [0, -2], [1e-3, 1j], [0, 0]])
    expected = np.array([[-0.6, 0.8], [0, 1], [-1e-3j / np.sqrt(1 + 1e-6), 1 / np.sqrt(1 + 1e-6)], [0, 0]])
    np.testing.assert_allclose(canonical_phase(vectors), expected, atol=1e-16)


def test_phase_of_a_tie_takes_the_first_component_whatever_the_rounding() -> None:
    for nudge in (-1e-9, 0.0, 1e-9):
        unit = canonical_phase(np.array([1.0, 1j * (1 + nudge)]))
        np.testing.assert_allclose(unit, np.array([1, 1j]) / np.sqrt(2), atol=1e-8)
        assert unit[0].imag == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_phase_of_very_long_and_short_vectors(scale: float) -> None:
    vectors = np.array([[3j, -4j, 0.0]]) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(canonical_phase(vectors), [[-0.6, 0.8, 0.0]], atol=1e-15)


@pytest.mark.parametrize("k", [2, 5, 16, 40])
def test_defining_equations_of_the_vectors(k: int) -> None:
    matrices = gaussian(k, 6, k)
    result = eig(matrices, vectors="both")
    right, left, values = result.right, result.left, result.eigenvalues
    assert right is not None
    assert left is not None
    assert result.condition is not None
    norm = frobenius(matrices)[:, None, None]
    right_defect = np.einsum("bij,bmj->bmi", matrices, right) - values[..., None] * right
    left_defect = np.einsum("bmi,bij->bmj", left.conj(), matrices) - values[..., None] * left.conj()
    assert (np.abs(right_defect) < 1e-13 * norm).all()
    assert (np.abs(left_defect) < 1e-13 * norm).all()
    overlap = np.abs(np.sum(left.conj() * right, axis=-1))
    np.testing.assert_allclose(result.condition, 1 / overlap, rtol=1e-9)
    assert (result.condition >= 1 - 1e-12).all()
    expected = np.linalg.norm(right_defect, axis=-1).max(axis=1) / norm[:, 0, 0]
    np.testing.assert_allclose(result.residual, expected, atol=1e-15)
    # Left and right vectors of different eigenvalues are orthogonal.
    gram = np.abs(np.einsum("bmi,bni->bmn", left.conj(), right))
    apart = ~np.eye(k, dtype=bool)
    assert (gram[:, apart] < 1e-10).all()


def test_condition_against_a_perturbation() -> None:
    """|d lambda| = condition |E| for the worst perturbation E = y x^H."""
    C = np.array([[1.0, 50.0], [0.0, 2.0]])
    result = eig(C[None], vectors="both")
    assert result.right is not None
    assert result.left is not None
    assert result.condition is not None
    step = 1e-7
    worst = np.outer(result.left[0, 0], result.right[0, 0].conj()).real
    moved = np.linalg.eigvals(C + step * worst).real.max() - 2.0
    np.testing.assert_allclose(moved / step, result.condition[0, 0], rtol=1e-3)


def test_without_vectors_there_is_no_residual() -> None:
    result = eig(gaussian(3, 4, 5))
    assert result.right is None
    assert result.left is None
    assert result.condition is None
    assert np.isnan(result.residual).all()
    right_only = eig(gaussian(3, 4, 5), vectors="right")
    assert right_only.left is None
    assert right_only.condition is None
    assert np.isfinite(right_only.residual).all()


@pytest.mark.parametrize("modes", [0, 1, 3, 7, 99])
def test_leading_modes_are_the_first_of_all(modes: int) -> None:
    matrices = gaussian(4, 5, 7)
    every, some = eig(matrices, vectors="both"), eig(matrices, vectors="both", modes=modes)
    shown = min(modes, 7)
    np.testing.assert_array_equal(some.eigenvalues, every.eigenvalues)
    for name in ("right", "left", "condition"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:, :shown])
    assert np.isnan(some.residual).all() if not shown else (some.residual <= every.residual + 1e-15).all()
    assert (some.status == Status.OK).all()


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_sizes_mixed_in_one_batch(vectors: Any) -> None:
    matrices = gaussian(5, 12, 6)
    sizes = np.array([6, 0, 1, 3, 6, 2, 5, 4, 0, 1, 3, 6])
    for b, size in enumerate(sizes):  # what lies past the size must not be looked at
        matrices[b, size:] = np.nan
        matrices[b, :, size:] = np.inf
    result = eig(matrices, sizes=sizes, vectors=vectors)
    assert (result.status == Status.OK).all()
    for b, size in enumerate(sizes):
        own = matrices[b, :size, :size]
        assert np.isnan(result.eigenvalues[b, size:]).all()
        spectrum = np.linalg.eigvals(own) if size else np.empty(0)
        assert match_spectra(result.eigenvalues[b, :size], spectrum) < 1e-12
        alone = eig(own[None], vectors=vectors)
        np.testing.assert_array_equal(result.eigenvalues[b, :size], alone.eigenvalues[0])
        for name in ("right", "left"):
            padded, exact = getattr(result, name), getattr(alone, name)
            if padded is not None:
                np.testing.assert_array_equal(padded[b, :size, :size], exact[0])
                assert (padded[b, size:] == 0).all()
                assert (padded[b, :, size:] == 0).all()


def test_size_one_and_none() -> None:
    one = eig(np.array([[[-2.5]], [[0.0]]]), vectors="both")
    np.testing.assert_array_equal(one.eigenvalues, [[-2.5], [0.0]])
    np.testing.assert_array_equal(one.right, np.ones((2, 1, 1)))
    np.testing.assert_array_equal(one.condition, np.ones((2, 1)))
    none = eig(np.zeros((3, 0, 0)), vectors="both")
    assert none.eigenvalues.shape == (3, 0)
    np.testing.assert_array_equal(none.status, [0, 0, 0])
    np.testing.assert_array_equal(none.trace_defect, [0, 0, 0])


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_empty_batch(vectors: Any) -> None:
    result = eig(np.zeros((0, 4, 4)), vectors=vectors, sizes=np.empty(0), modes=2)
    assert result.eigenvalues.shape == (0, 4)
    assert result.status.shape == (0,)
    if vectors != "none":
        assert result.right is not None
        assert result.right.shape == (0, 2, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vectors", MODES_OF_WORK)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_non_finite_matrices_are_contained(dtype: Any, vectors: Any, poison: float) -> None:
    clean = gaussian(6, 9, 5).astype(dtype)
    dirty = clean.copy()
    bad = np.array([0, 4, 8])
    dirty[bad, [0, 2, 4], [4, 2, 0]] = poison
    good = np.setdiff1d(np.arange(9), bad)
    result = eig(dirty, vectors=vectors)
    assert (result.status[bad] == Status.NON_FINITE_INPUT).all()
    for name in ("eigenvalues", "right", "left", "condition", "residual", "trace_defect"):
        array = getattr(result, name)
        if array is not None:
            assert np.isnan(array[bad]).all(), name
    assert_same_bits(entries(result, good), entries(eig(clean, vectors=vectors), good))
    assert_same_bits(entries(result, good), entries(eig(clean[good], vectors=vectors), slice(None)))
    everything = eig(np.full((2, 3, 3), poison, dtype), vectors=vectors)
    assert (everything.status == Status.NON_FINITE_INPUT).all()


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_a_result_does_not_depend_on_its_neighbours(vectors: Any) -> None:
    matrices = gaussian(7, 10, 8)
    sizes = np.array([8, 8, 3, 8, 5, 3, 8, 0, 8, 5])
    whole = eig(matrices, sizes=sizes, vectors=vectors)
    shuffled = np.random.default_rng(0).permutation(10)
    again = eig(matrices[shuffled], sizes=sizes[shuffled], vectors=vectors)
    assert_same_bits(entries(whole, shuffled), entries(again, ...))
    for b in range(10):
        alone = eig(matrices[b : b + 1], sizes=sizes[b : b + 1], vectors=vectors)
        assert_same_bits(entries(whole, slice(b, b + 1)), entries(alone, ...))


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_the_solver_gives_up_on_is_contained(
    monkeypatch: pytest.MonkeyPatch, vectors: Any, dtype: Any
) -> None:
    matrices = gaussian(8, 6, 4).astype(dtype)
    expected = eig(matrices, vectors=vectors, backend="lapack")
    # The kernel scales by powers of two, so the hopeless matrix is known by a ratio of its entries.
    hopeless = matrices[2, 0, 0] / matrices[2, 1, 1]
    numpy_eigvals = np.linalg.eigvals

    def marked(matrix: Array) -> Any:
        return matrix[..., 0, 0] / matrix[..., 1, 1] == hopeless

    def eigvals(stack: Array) -> Array:
        if np.any(marked(stack)):
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return numpy_eigvals(stack)

    def giving_up(driver: Any) -> Any:
        def geev(matrix: Array, **options: Any) -> Any:
            wr, wi, vl, vr, info = driver(matrix, **options)
            return wr, wi, vl, vr, 3 if marked(matrix) else info

        return geev

    monkeypatch.setattr(np.linalg, "eigvals", eigvals)
    for name in ("sgeev", "dgeev"):
        monkeypatch.setattr(scipy.linalg.lapack, name, giving_up(getattr(scipy.linalg.lapack, name)))
    result = eig(matrices, vectors=vectors, backend="lapack")
    good = [0, 1, 3, 4, 5]
    assert result.status[2] == Status.NOT_CONVERGED
    for name in ("eigenvalues", "right", "left", "condition", "residual", "trace_defect"):
        array = getattr(result, name)
        if array is not None:
            assert np.isnan(array[2]).all(), name
    assert_same_bits(entries(result, good), entries(expected, good))


def test_a_wrong_spectrum_is_called_inaccurate(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = lapack.eigenvalues

    def wrong(matrices: Array) -> tuple[Array, Array]:
        values, converged = exact(matrices)
        values[1] += 1e-6
        return values, converged

    monkeypatch.setattr(eig_module.lapack, "eigenvalues", wrong)
    result = eig(gaussian(9, 3, 5), backend="lapack")
    assert result.status.tolist() == [Status.OK, Status.INACCURATE, Status.OK]
    assert result.trace_defect[1] > 1e-7


def test_wrong_vectors_are_called_inaccurate(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = lapack.eigensystem

    def wrong(matrices: Array, *, left: bool) -> Any:
        values, right, left_vectors, converged = exact(matrices, left=left)
        right[0] += 1e-6
        return values, right, left_vectors, converged

    monkeypatch.setattr(eig_module.lapack, "eigensystem", wrong)
    result = eig(gaussian(9, 3, 5), vectors="right", backend="lapack")
    assert result.status.tolist() == [Status.INACCURATE, Status.OK, Status.OK]
    assert result.residual[0] > 1e-8


def jordan(value: float, k: int) -> Array:
    return value * np.eye(k) + np.diag(np.ones(k - 1), 1)


@pytest.mark.parametrize("k", [2, 3, 5, 12])
@pytest.mark.parametrize("value", [0.0, -1.5, 3.0])
def test_jordan_blocks_are_called_defective(k: int, value: float) -> None:
    blocks = np.stack([jordan(value, k), jordan(value, k).T, -jordan(value, k)])
    result = eig(blocks, vectors="both")
    np.testing.assert_allclose(result.eigenvalues[:2], value, atol=1e-12)
    np.testing.assert_allclose(result.eigenvalues[2], -value, atol=1e-12)
    assert (result.status == Status.DEFECTIVE).all()
    assert result.condition is not None
    assert (result.condition > 1e12).all()
    # Without both kinds of vectors nobody can tell, and the eigenvalues are right.
    assert (eig(blocks).status == Status.OK).all()


def test_a_hidden_jordan_block_is_ill_conditioned_with_a_small_residual() -> None:
    Q, _ = np.linalg.qr(gaussian(10, 1, 4)[0])
    C = Q @ block_diag(jordan(1.0, 2), [[-1.0]], [[-3.0]]) @ Q.T
    result = eig(C[None], vectors="both")
    assert match_spectra(result.eigenvalues[0], np.array([1, 1, -1, -3])) < 1e-6
    assert result.condition is not None
    assert (result.condition[0, :2] > 1e6).all()
    assert (result.condition[0, 2:] < 1e3).all()
    assert result.residual[0] < 1e-14


def test_nilpotent_matrices() -> None:
    strict = np.triu(gaussian(11, 3, 6), 1)
    result = eig(strict, vectors="both")
    np.testing.assert_array_equal(result.eigenvalues, 0)
    assert (result.status == Status.DEFECTIVE).all()


def test_repeated_eigenvalues_with_enough_vectors_are_not_defective() -> None:
    projector = np.diag([1.0, 1.0, 0.0, 0.0])
    Q, _ = np.linalg.qr(gaussian(12, 1, 4)[0])
    cases = np.stack([2.5 * np.eye(4), projector, Q @ projector @ Q.T, np.zeros((4, 4))])
    result = eig(cases, vectors="both")
    assert (result.status == Status.OK).all()
    for spectrum, expected in zip(
        result.eigenvalues, ([2.5] * 4, [1, 1, 0, 0], [1, 1, 0, 0], [0] * 4), strict=True
    ):
        assert match_spectra(spectrum, np.array(expected)) < 1e-14
    assert (result.residual < 1e-14).all()
    np.testing.assert_allclose(np.linalg.matrix_rank(result.right), 4)


def test_companion_matrices_give_the_roots() -> None:
    roots = np.array([[-3.0, -1.0, 0.5, 2.0, 4.0], [1 + 2j, 1 - 2j, -1 + 0.5j, -1 - 0.5j, 3.0]])
    matrices = np.stack([companion(np.poly(row).real) for row in roots])
    result = eig(matrices, vectors="both")
    for spectrum, expected in zip(result.eigenvalues, roots, strict=True):
        assert match_spectra(spectrum, expected) < 1e-11
    # The right eigenvectors of a companion matrix are (r^4, r^3, r^2, r, 1).
    assert result.right is not None
    for r, vector in zip(result.eigenvalues[1], result.right[1], strict=True):
        np.testing.assert_allclose(vector / vector[-1], r ** np.arange(4, -1, -1), rtol=1e-9)


def test_orthogonal_matrices_have_the_unit_circle() -> None:
    Q, _ = np.linalg.qr(gaussian(13, 5, 9))
    result = eig(Q, vectors="both")
    np.testing.assert_allclose(np.abs(result.eigenvalues), 1.0, atol=1e-13)
    np.testing.assert_allclose(result.condition, 1.0, atol=1e-10)
    cycle = np.roll(np.eye(7), 1, axis=0)
    expected = np.exp(2j * np.pi * np.arange(7) / 7)
    assert match_spectra(eig(cycle[None]).eigenvalues[0], expected) < 1e-14


def test_skew_and_symmetric_matrices() -> None:
    A = gaussian(14, 5, 8)
    skew = eig(A - A.transpose(0, 2, 1)).eigenvalues
    assert (np.abs(skew.real) < 1e-13).all()
    symmetric = A + A.transpose(0, 2, 1)
    values = eig(symmetric).eigenvalues
    np.testing.assert_allclose(values.imag, 0, atol=1e-13)
    np.testing.assert_allclose(values.real, np.linalg.eigvalsh(symmetric)[:, ::-1], atol=1e-12)


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
@pytest.mark.parametrize("power", [-996, -498, -1, 1, 498, 996])
def test_scaling_by_a_power_of_two_changes_no_bit(vectors: Any, power: int) -> None:
    """Norms from 1e-300 to 1e300 in one batch: the same bits as at norm 1, eigenvalues scaled exactly."""
    matrices = np.random.default_rng(15).integers(-9, 10, size=(4, 6, 6)).astype(float)
    mixed = matrices.copy()
    mixed[1] = np.ldexp(mixed[1], power)
    mixed[3] = np.ldexp(mixed[3], power)
    plain, scaled = eig(matrices, vectors=vectors), eig(mixed, vectors=vectors)
    assert (scaled.status == Status.OK).all()
    expected = plain.eigenvalues.copy()
    expected[[1, 3]] *= 2.0**power
    np.testing.assert_array_equal(scaled.eigenvalues, expected)
    for name in ("right", "left", "condition", "residual", "trace_defect"):
        if getattr(plain, name) is not None:
            np.testing.assert_array_equal(getattr(scaled, name), getattr(plain, name))


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
@pytest.mark.parametrize("norm", [1e-300, 1e-150, 1e150, 1e300])
def test_extreme_norms(vectors: Any, norm: float) -> None:
    rng = np.random.default_rng(16)
    matrix, spectrum = planted(rng, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = eig(matrix[None] * norm, vectors=vectors)
    assert result.status[0] == Status.OK
    assert match_spectra(result.eigenvalues[0] / norm, spectrum) < 1e-12


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_subnormal_matrices(vectors: Any) -> None:
    tiny = 5e-324
    result = eig(np.array([[[3.0, 1.0], [0.0, -2.0]]]) * tiny, vectors=vectors)
    np.testing.assert_array_equal(result.eigenvalues, [[3 * tiny, -2 * tiny]])


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_an_eigenvalue_past_the_largest_number_is_not_called_fine(vectors: Any) -> None:
    cores = np.stack([np.full((2, 2), 1e308), np.eye(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = eig(cores, vectors=vectors)
    assert result.status.tolist() == [Status.INACCURATE, Status.OK]


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_single_precision(vectors: Any) -> None:
    matrices = gaussian(17, 8, 20)
    result = eig(matrices, vectors=vectors, dtype="float32")
    assert result.eigenvalues.dtype == np.complex64
    assert (result.status == Status.OK).all()
    for b in range(8):
        distance = match_spectra(result.eigenvalues[b], np.linalg.eigvals(matrices[b]))
        assert 0 < distance < 1e-4 * frobenius(matrices[b])
    if vectors != "none":
        assert result.right is not None
        assert result.right.dtype == np.complex64
        assert (result.residual < 20 * np.finfo(np.float32).eps).all()
        # Single precision arithmetic, not double rounded at the end.
        assert (result.residual > np.finfo(np.float32).eps / 1e3).all()
    same = eig(matrices.astype(np.float32), vectors=vectors)
    assert_same_bits(entries(result, ...), entries(same, ...))


@pytest.mark.parametrize("vectors", MODES_OF_WORK)
def test_double_precision_input_of_any_norm_in_single_precision_arithmetic(vectors: Any) -> None:
    matrix, spectrum = planted(np.random.default_rng(18), 3, 2)
    cores = matrix * np.array([1e-60, 1e-42, 1.0, 1e37, 1e60])[:, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = eig(cores, vectors=vectors, dtype=np.float32)
    # Eigenvalues of 1e60 are no float32 number: infinite, and said to be wrong.
    assert result.status.tolist() == [0, 0, 0, 0, Status.INACCURATE]
    assert np.isinf(result.eigenvalues[4]).any()
    assert match_spectra(result.eigenvalues[2], spectrum) < 1e-5
    assert match_spectra(result.eigenvalues[3].astype(complex) / 1e37, spectrum) < 1e-5
    if result.right is not None:
        for b in range(5):  # the vectors do not depend on the norm
            image = result.right[b] @ matrix.T
            rayleigh = np.sum(result.right[b].conj() * image, axis=-1, keepdims=True)
            assert (np.abs(image - rayleigh * result.right[b]) < 1e-5).all()


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.float16])
def test_other_real_dtypes_need_a_precision(dtype: Any) -> None:
    cores = np.array([[[1, 1], [0, 1]]], dtype=dtype)
    with pytest.raises(UsageError, match="float32 or float64"):
        eig(cores)
    np.testing.assert_array_equal(eig(cores, dtype="float64").eigenvalues, [[1, 1]])


def test_integers_are_not_squeezed_through_a_smaller_type() -> None:
    result = eig(np.array([[[127, 0], [0, -128]]], dtype=np.int8), dtype="float64")
    np.testing.assert_array_equal(result.eigenvalues, [[127, -128]])


def test_input_layout_does_not_matter_and_input_is_not_changed() -> None:
    matrices = gaussian(19, 6, 7)
    kept = matrices.copy()
    expected = eig(matrices, vectors="both")
    wide = np.zeros((6, 9, 9))
    wide[:, 1:8, 2:9] = matrices
    readonly = matrices.copy()
    readonly.flags.writeable = False
    for same in (np.asfortranarray(matrices), wide[:, 1:8, 2:9], readonly, matrices.tolist()):
        assert_same_bits(entries(eig(same, vectors="both"), ...), entries(expected, ...))
    np.testing.assert_array_equal(matrices, kept)


@pytest.mark.parametrize(
    "shape", [(3,), (3, 3), (2, 3, 4), (1, 2, 3, 3)], ids=lambda shape: "x".join(map(str, shape))
)
def test_shapes_that_make_no_sense(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \(batch, k, k\)"):
        eig(np.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors": "left"}, "vectors='left'"),
        ({"vectors": None}, "vectors=None"),
        ({"dtype": "int32"}, "float32 or float64"),
        ({"dtype": "complex128"}, "float32 or float64"),
        ({"dtype": "float128x"}, "float32 or float64"),
        ({"sizes": [1]}, "sizes"),
        ({"sizes": [[1, 1]]}, "sizes"),
        ({"sizes": [-1, 2]}, "sizes"),
        ({"sizes": [2, 3]}, "sizes"),
        ({"sizes": [1.5, 2.0]}, "sizes"),
        ({"sizes": [True, True]}, "sizes"),
        ({"sizes": 2}, "sizes"),
        ({"modes": -1}, "modes=-1"),
        ({"modes": 1.5}, "modes=1.5"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        eig(np.zeros((2, 2, 2)), **options)


@pytest.mark.parametrize("cores", [np.eye(2)[None] * 1j, np.array([[["a"]]]), np.array([[[None]]])])
def test_what_is_not_real_numbers_is_refused(cores: Array) -> None:
    with pytest.raises(UsageError, match="real numbers"):
        eig(cores, dtype="float64")


def test_a_backend_that_is_not_there() -> None:
    with pytest.raises(BackendUnavailableError, match=r"'cuda' is not available.*lapack"):
        eig(np.eye(2)[None], backend="cuda")


def test_inaccuracy_limit_grows_with_size_and_precision() -> None:
    assert inaccuracy_limit(0, np.float64) > 0
    assert inaccuracy_limit(100, np.float64) == pytest.approx(1e5 * np.finfo(float).eps)
    assert inaccuracy_limit(10, np.float32) > 1e6 * inaccuracy_limit(10, np.float64)


seeds = st.integers(0, 2**32 - 1)
orders = st.integers(1, 12)


@st.composite
def integer_matrices(draw: st.DrawFn) -> Array:
    """Small integers: repeated rows, singular, defective and triangular matrices all turn up."""
    k = draw(st.integers(1, 7))
    flat = draw(st.lists(st.integers(-3, 3), min_size=k * k, max_size=k * k))
    return np.array(flat, dtype=float).reshape(k, k)


@settings(max_examples=60)
@given(integer_matrices(), st.sampled_from(MODES_OF_WORK))
def test_traces_of_powers_and_conjugate_closure(matrix: Array, vectors: Any) -> None:
    values = eig(matrix[None], vectors=vectors).eigenvalues[0]
    norm = max(np.linalg.norm(matrix), 1.0)
    power = np.eye(len(matrix))
    for p in range(1, 5):
        power = power @ matrix  # exact: small integers
        assert abs((values**p).sum() - np.trace(power)) < 1e-12 * p * norm**p
    exact = {(v.real, v.imag) for v in values.tolist()}
    assert {(real, -imag) for real, imag in exact} == exact


@settings(max_examples=40)
@given(seeds, orders)
def test_similar_and_transposed_matrices_have_the_same_spectrum(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    # Well-conditioned eigenvalues: normal up to a small perturbation.
    Q, _ = np.linalg.qr(rng.normal(size=(k, k)))
    C = Q + 0.1 * rng.normal(size=(k, k)) / np.sqrt(k)
    P = rng.permutation(k)
    d = 2.0 ** rng.integers(-3, 4, size=k)
    S, _ = np.linalg.qr(rng.normal(size=(k, k)))
    same = np.stack([C, C.T, C[np.ix_(P, P)], C * d[None, :] / d[:, None], S @ C @ S.T])
    values = eig(same).eigenvalues
    for other in values[1:]:
        assert match_spectra(values[0], other) < 1e-10
    shifted = eig((C - 2.0 * np.eye(k))[None]).eigenvalues[0]
    assert match_spectra(values[0] - 2.0, shifted) < 1e-10


@settings(max_examples=40)
@given(seeds, st.lists(st.integers(0, 6), min_size=2, max_size=8), st.sampled_from(MODES_OF_WORK))
def test_no_bit_depends_on_the_batch(seed: int, sizes: list[int], vectors: Any) -> None:
    matrices = gaussian(seed, len(sizes), 6)
    counts = np.array(sizes)
    whole = eig(matrices, sizes=counts, vectors=vectors)
    cut = 1 + seed % (len(sizes) - 1)
    for part in (slice(None, cut), slice(cut, None)):
        piece = eig(matrices[part], sizes=counts[part], vectors=vectors)
        assert_same_bits(entries(whole, part), entries(piece, ...))


@settings(max_examples=40)
@given(integer_matrices())
def test_vectors_satisfy_their_equations_for_any_matrix(matrix: Array) -> None:
    """Also for defective matrices: each vector is an eigenvector to rounding."""
    result = eig(matrix[None], vectors="both")
    values, right, left = result.eigenvalues[0], result.right, result.left
    assert right is not None
    assert left is not None
    norm = max(np.linalg.norm(matrix), 1.0)
    assert (np.abs(right[0] @ matrix.T - values[:, None] * right[0]) < 1e-13 * norm).all()
    assert (np.abs(left[0].conj() @ matrix - values[:, None] * left[0].conj()) < 1e-13 * norm).all()
    assert result.status[0] in (Status.OK, Status.DEFECTIVE)
