"""Updates of low rank, against numpy.linalg of the changed matrix."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.errors import InputError, NotPositiveDefiniteError, SingularMatrixError, UsageError
from stabdask.kernels import lowrank

Array = np.ndarray[Any, Any]


def definite(n: int, seed: int) -> Array:
    """Return a symmetric positive definite matrix with a condition of about ten."""
    root = np.random.default_rng(seed).standard_normal((n, 2 * n + 3))
    return root @ root.T / (2 * n + 3) + 0.2 * np.eye(n)


sizes = st.tuples(st.integers(1, 130), st.integers(0, 9), st.integers(0, 10_000))


@given(sizes, st.sampled_from([1, -1]))
@settings(max_examples=60)
def test_an_updated_inverse_is_the_inverse_of_the_updated(size: tuple[int, int, int], sign: int) -> None:
    n, d, seed = size
    S, X = definite(n, seed), np.random.default_rng(seed + 1).standard_normal((n, d)) / (4 * np.sqrt(n))
    before = S + (X @ X.T if sign < 0 else 0.0)
    P = np.linalg.inv(before)
    kept = P.copy()
    found = lowrank.woodbury_update(P, X, sign)
    np.testing.assert_allclose(found, np.linalg.inv(before + sign * X @ X.T), rtol=0, atol=1e-11)
    assert np.array_equal(found, found.T)
    assert np.array_equal(P, kept)
    # There and back again.
    np.testing.assert_allclose(lowrank.woodbury_update(found, X, -sign), P, rtol=0, atol=1e-11)


def test_figures_worked_by_hand() -> None:
    """(I + 11^T)^-1 = I - 11^T / 3; ((2 I) - e1 e1^T)^-1 = diag(1, 1/2)."""
    np.testing.assert_allclose(
        lowrank.woodbury_update(np.eye(2), [1.0, 1.0]), [[2 / 3, -1 / 3], [-1 / 3, 2 / 3]]
    )
    found = lowrank.woodbury_update(np.eye(2) / 2, [1.0, 0.0], -1)
    np.testing.assert_allclose(found, np.diag([1.0, 0.5]), atol=1e-15)


def test_a_triangle_in_place_with_a_scale_and_the_determinant() -> None:
    S, X = definite(70, 1), np.random.default_rng(2).standard_normal((70, 4))
    P = np.asfortranarray(np.tril(np.linalg.inv(S)))
    growth = lowrank.update_triangle(P, X, scale=0.7)
    changed = 0.7 * S + X @ X.T
    np.testing.assert_allclose(P, np.tril(np.linalg.inv(changed)), atol=1e-12)
    assert growth == pytest.approx(np.linalg.slogdet(changed)[1] - np.linalg.slogdet(S)[1], abs=1e-11)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("order", ["C", "F"])
def test_mirrored(n: int, order: Any) -> None:
    matrix = np.array(np.random.default_rng(n).standard_normal((n, n)), order=order)
    expected = np.tril(matrix) + np.tril(matrix, -1).T
    assert lowrank.mirror(matrix) is matrix
    assert np.array_equal(matrix, expected)


@pytest.mark.parametrize("d", [0, 1, 5, 6, 20])
def test_products_read_one_triangle(d: int) -> None:
    S, X = definite(40, 2), np.asfortranarray(np.random.default_rng(d).standard_normal((40, d)))
    half = np.asfortranarray(np.tril(S) + np.triu(np.full(S.shape, np.nan), 1))
    np.testing.assert_allclose(lowrank.triangle_product(half, X, 2.0), 2 * S @ X, atol=1e-12)


def test_updates_do_not_depend_on_the_number_of_threads() -> None:
    from threadpoolctl import threadpool_limits

    S, X = definite(300, 6), np.random.default_rng(7).standard_normal((300, 7))
    P = np.linalg.inv(S)
    found = lowrank.woodbury_update(P, X)
    with threadpool_limits(1):
        assert np.array_equal(lowrank.woodbury_update(P, X), found)


def test_a_downdate_too_large_is_refused_with_its_eigenvalue() -> None:
    P = np.asfortranarray(np.eye(3))
    with pytest.raises(
        NotPositiveDefiniteError, match=r"smallest eigenvalue of I - X\^T S\^-1 X is -3, .* take away less"
    ):
        lowrank.update_triangle(P, np.array([2.0, 0.0, 0.0]), sign=-1)
    assert np.array_equal(P, np.eye(3))
    # Exactly singular is no inverse either, nor is one of which no digit is left.
    for left in (0.0, 1e-16):
        with pytest.raises(NotPositiveDefiniteError):
            lowrank.woodbury_update(np.eye(3), np.array([np.sqrt(1 - left), 0.0, 0.0]), -1)
    with pytest.raises(ValueError, match="invert it anew"):
        lowrank.woodbury_update(-np.eye(3), np.array([2.0, 0.0, 0.0]))


def test_what_cannot_be_updated() -> None:
    with pytest.raises(InputError, match=r"X has the shape \(2, 1\); expected \(3, d\)"):
        lowrank.woodbury_update(np.eye(3), np.ones((2, 1)))
    with pytest.raises(InputError, match="square"):
        lowrank.woodbury_update(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(InputError, match="1 entries that are NaN"):
        lowrank.woodbury_update(np.eye(2), [1.0, np.nan])
    with pytest.raises(InputError, match="the inverse has entries"):
        lowrank.woodbury_update([[1.0, 0.0], [np.nan, 1.0]], [1.0, 0.0])
    with pytest.raises(UsageError, match="sign=2"):
        lowrank.woodbury_update(np.eye(2), [1.0, 0.0], 2)
    with pytest.raises(UsageError, match="scale=0"):
        lowrank.update_triangle(np.eye(1, order="F"), [1.0], scale=0)
    with pytest.raises(UsageError, match="in place"):
        lowrank.update_triangle(np.eye(3)[:, ::-1], np.ones(3))


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=30)
def test_sherman_morrison(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    S = definite(n, seed) + 0.1 * rng.standard_normal((n, n)) / n
    u, v = rng.standard_normal((2, n)) / (2 * n)
    P = np.linalg.inv(S)
    np.testing.assert_allclose(
        lowrank.sherman_morrison(P, u, v), np.linalg.inv(S + np.outer(u, v)), atol=1e-10
    )
    symmetric = (P + P.T) / 2
    found = lowrank.sherman_morrison(symmetric, u)
    assert np.array_equal(found, found.T)


def test_sherman_morrison_of_what_becomes_singular() -> None:
    """I - e1 e1^T has no inverse, and I - (1 - 1e-14) e1 e1^T has one of two digits."""
    e = np.array([1.0, 0.0])
    for size in (1.0, 1.0 - 1e-14):
        with pytest.raises(SingularMatrixError, match=r"singular to working precision: 1 \+ v\^T S\^-1 u is"):
            lowrank.sherman_morrison(np.eye(2), e, -size * e)
    with pytest.raises(InputError, match="one vector each"):
        lowrank.sherman_morrison(np.eye(2), np.eye(2))


@given(sizes)
@settings(max_examples=60)
def test_cholesky_factors_follow(size: tuple[int, int, int]) -> None:
    n, d, seed = size
    S, X = definite(n, seed), np.random.default_rng(seed + 1).standard_normal((n, d))
    more = S + X @ X.T
    L = np.linalg.cholesky(S)
    up = lowrank.cholesky_update(L, X)
    np.testing.assert_allclose(up, np.linalg.cholesky(more), atol=1e-11)
    down = lowrank.cholesky_downdate(np.linalg.cholesky(more), X)
    np.testing.assert_allclose(down, L, atol=1e-8)
    for factor in (up, down):
        assert np.array_equal(factor, np.tril(factor))
        assert (np.diagonal(factor) > 0).all()


def test_a_downdate_of_a_factor_that_is_nearly_singular_keeps_its_digits() -> None:
    """Backward stable: the product is right to rounding of the larger matrix, though the factor is not."""
    n = 150
    S, X = 1e-6 * definite(n, 3), np.random.default_rng(4).standard_normal((n, 3))
    found = lowrank.cholesky_downdate(np.linalg.cholesky(S + X @ X.T), X)
    np.testing.assert_allclose(found @ found.T, S, atol=1e-12 * float(np.abs(X @ X.T).max()))


def test_factors_that_are_none() -> None:
    with pytest.raises(NotPositiveDefiniteError, match="-3, expected more than 0"):
        lowrank.cholesky_downdate(np.eye(2), [2.0, 0.0])
    with pytest.raises(InputError, match="0 at place 1 of its diagonal"):
        lowrank.cholesky_update(np.diag([1.0, 0.0]), [1.0, 0.0])
    with pytest.raises(InputError, match="NaN or infinite"):
        lowrank.cholesky_downdate([[1.0, 0.0], [np.inf, 1.0]], [0.1, 0.0])
    with pytest.raises(InputError, match="at place 0"):
        lowrank.cholesky_update([[np.nan]], [1.0])


def test_inverted() -> None:
    S = definite(90, 5)
    inverse, logdet = lowrank.invert_definite(S)
    np.testing.assert_allclose(lowrank.mirror(inverse), np.linalg.inv(S), atol=1e-12)
    assert logdet == pytest.approx(np.linalg.slogdet(S)[1], abs=1e-11)
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue is -1"):
        lowrank.invert_definite(np.diag([3.0, -1.0]))
    with pytest.raises(InputError, match="NaN"):
        lowrank.invert_definite([[np.nan]])
    # Of fewer columns than rows: singular, though a Cholesky factorization may not notice.
    for n in (2, 20, 100, 200):
        root = np.random.default_rng(n).standard_normal((n, n - 1))
        with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
            lowrank.invert_definite(root @ root.T)
    assert lowrank.invert_definite(np.zeros((0, 0)))[1] == 0.0
    # Units that differ do not.
    scale = 10.0 ** np.linspace(-9, 9, 90)
    inverse, _ = lowrank.invert_definite(S * np.outer(scale, scale))
    np.testing.assert_allclose(lowrank.mirror(inverse) * np.outer(scale, scale), np.linalg.inv(S), atol=1e-12)


batches = st.tuples(st.integers(1, 7), st.integers(1, 30), st.integers(0, 10), st.integers(0, 1000))


@given(batches)
@settings(max_examples=60)
def test_batches_of_diagonals_plus_low_rank(size: tuple[int, int, int, int]) -> None:
    batch, n, d, seed = size
    rng = np.random.default_rng(seed)
    D = rng.uniform(0.5, 2.0, (batch, n)) * rng.choice([-1.0, 1.0], (batch, n))
    U, V = rng.standard_normal((2, n, d)) / np.sqrt(n)
    dense = D[:, :, None] * np.eye(n) + U @ V.T
    b, more = rng.standard_normal((batch, n)), rng.standard_normal((batch, n, 3))
    fine = np.linalg.cond(dense) < 1e5
    for found, expected in (
        (lowrank.solve(D, U, V, b), np.linalg.solve(dense, b[:, :, None])[:, :, 0]),
        (lowrank.solve(D, U, V, more), np.linalg.solve(dense, more)),
        (lowrank.inverse(D, U, V), np.linalg.inv(dense)),
        (lowrank.logdet(D, U, V), np.linalg.slogdet(dense)[1]),
    ):
        np.testing.assert_allclose(found.values[fine], expected[fine], atol=1e-7)
        assert (found.status[fine] == 0).all()
        terms = np.stack([V.T @ (U / row[:, None]) for row in D])
        if d:
            grown = np.abs(np.linalg.inv(np.eye(d) + terms)) @ (np.eye(d) + np.abs(terms))
            np.testing.assert_allclose(found.condition[fine], grown.sum(axis=2).max(axis=1)[fine], rtol=1e-6)
    signs = lowrank.logdet(D, U, V).sign
    assert signs is not None
    assert np.array_equal(signs[fine], np.linalg.slogdet(dense)[0][fine])


def test_what_a_batch_cannot_solve_is_nan_with_a_status() -> None:
    """1 + 1/D is 0 for D = -1, and has no digits left for one next to it; the second and last are fine."""
    D = np.array(
        [[-1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [np.nan, 1.0], [np.inf, 1.0], [-1.0 + 1e-15, 1.0], [2.0, 1.0]]
    )
    u = np.array([[1.0], [0.0]])
    for found in (lowrank.solve(D, u, u, np.ones((7, 2))), lowrank.inverse(D, u, u), lowrank.logdet(D, u, u)):
        assert found.status.tolist() == [2, 0, 2, 3, 3, 2, 0]
        lost = np.isnan(found.values).reshape(7, -1)
        assert np.array_equal(lost.all(axis=1), found.status != 0)
        assert np.array_equal(lost.any(axis=1), found.status != 0)
        assert np.isinf(found.condition[0])
    np.testing.assert_allclose(lowrank.solve(D, u, u, np.ones((7, 2))).values[-1], [1 / 3, 1.0])
    # Scales of columns alone make nothing singular.
    far = np.diag([1e10, 1.0])
    assert lowrank.inverse(np.ones((1, 2)), far, far).status.tolist() == [0]
    b = np.ones((1, 2))
    b[0, 1] = np.inf
    assert lowrank.solve(np.ones((1, 2)), u, u, b).status.tolist() == [3]


def test_batches_of_the_wrong_shape() -> None:
    u = np.ones((2, 1))
    with pytest.raises(InputError, match="a diagonal for each matrix"):
        lowrank.inverse(np.ones(2), u, u)
    with pytest.raises(InputError, match="expected the same"):
        lowrank.logdet(np.ones((1, 2)), u, np.ones((2, 2)))
    with pytest.raises(InputError, match="b has the shape"):
        lowrank.solve(np.ones((1, 2)), u, u, np.ones((2, 2)))
    assert lowrank.solve(np.ones((0, 2)), u, u, np.ones((0, 2))).status.shape == (0,)


@pytest.mark.parametrize("kind", [NotPositiveDefiniteError, SingularMatrixError])
def test_errors_travel(kind: type[InputError]) -> None:
    back = pickle.loads(pickle.dumps(kind("found -1")))
    assert type(back) is kind
    assert str(back) == "found -1"
    assert isinstance(back, ValueError)


def test_the_crossover_is_measured_once() -> None:
    first = lowrank.crossover()
    assert 0.1 <= first <= 1.0
    assert lowrank.crossover() == first
