"""Sums of Gaussian kernels against sums term by term, 40 digits, finite differences and what symmetry demands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
from fake_cuda import FakeCuda
from helpers import frobenius
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.fake_gpu import FakeGpu

from stabdask.kernels import cuda, gaussian
from stabdask.kernels.arrays import to_host
from stabdask.kernels.gaussian import GaussianSum
from stabdask.kernels.solve import solve_or_nan

Array = np.ndarray[Any, Any]
EPS = float(np.finfo(np.float64).eps)


class Case(NamedTuple):
    centers: Array
    coefficients: Array
    beta: float
    x: Array

    def sum(self, dtype: str = "float64", xp: Any = np) -> GaussianSum:
        return GaussianSum(self.centers, self.coefficients, self.beta, dtype=dtype, xp=xp)


def case(
    n_axes: int,
    n_centers: int,
    n_points: int,
    seed: int = 0,
    *,
    offset: float = 0.0,
    beta: float | None = None,
) -> Case:
    """Return centers and points of one cloud, with a kernel about as wide as it."""
    rng = np.random.default_rng([seed, n_axes, n_centers])
    return Case(
        rng.normal(size=(n_centers, n_axes)) + offset,
        rng.normal(size=(n_centers, n_axes)),
        0.5 / n_axes if beta is None else beta,
        rng.normal(size=(n_points, n_axes)) + offset,
    )


def term_by_term(c: Case, x: Array | None = None) -> tuple[Array, Array]:
    """Return v and J with distances taken as they are written, one center after the other."""
    x = c.x if x is None else x
    v, J = np.zeros_like(x), np.zeros((len(x), x.shape[1], x.shape[1]))
    for z, coefficient in zip(c.centers, c.coefficients, strict=True):
        away = x - z
        k = np.exp(-c.beta * (away**2).sum(axis=1))
        v += k[:, None] * coefficient
        J -= 2.0 * c.beta * k[:, None, None] * coefficient[:, None] * away[:, None, :]
    return v, J


def in_40_digits(c: Case, x: Array, u: Array) -> tuple[Array, Array, Array]:
    """Return v, J and the second derivative along `u` at one point, rounded from 40 digits."""
    with mpmath.workdps(40):
        d, beta = len(x), mpmath.mpf(c.beta)
        v, bend, J = [mpmath.mpf(0)] * d, [mpmath.mpf(0)] * d, mpmath.zeros(d)
        for z, coefficient in zip(c.centers, c.coefficients, strict=True):
            away = [mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(x, z, strict=True)]
            k = mpmath.exp(-beta * sum(part * part for part in away))
            slant = sum(part * mpmath.mpf(float(b)) for part, b in zip(away, u, strict=True))
            second = 4 * beta**2 * slant**2 - 2 * beta * sum(mpmath.mpf(float(b)) ** 2 for b in u)
            for i in range(d):
                weighted = mpmath.mpf(float(coefficient[i])) * k
                v[i] += weighted
                bend[i] += weighted * second
                for j in range(d):
                    J[i, j] -= 2 * beta * weighted * away[j]
        return (
            np.array([float(value) for value in v]),
            np.array([[float(J[i, j]) for j in range(d)] for i in range(d)]),
            np.array([float(value) for value in bend]),
        )


def relative(found: Array, expected: Array) -> float:
    """Return the largest error of the matrices (or vectors) of a batch, each over its own norm."""
    apart, size = (a.reshape(len(a), 1, -1) for a in (found - expected, expected))
    return float((frobenius(apart) / frobenius(size)).max())


SHAPES = [(1, 1, 1), (1, 6, 4), (2, 1, 5), (2, 30, 9), (3, 7, 1), (15, 150, 40), (30, 200, 12), (70, 25, 6)]


# --- against sums as they are written ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_jacobians_are_those_of_the_sum(shape: tuple[int, int, int]) -> None:
    c = case(*shape)
    v, J = term_by_term(c)
    assert relative(c.sum().values(c.x), v) < 1e-13
    assert relative(c.sum().jacobians(c.x), J) < 1e-13


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 4, 3), (3, 20, 3), (30, 60, 2)])
def test_forty_digits(shape: tuple[int, int, int], offset: float) -> None:
    c = case(*shape, offset=offset)
    u = np.random.default_rng(1).normal(size=c.x.shape)
    expected = [in_40_digits(c, x, direction) for x, direction in zip(c.x, u, strict=True)]
    v, J, bend = (np.stack(parts) for parts in zip(*expected, strict=True))
    function = c.sum()
    # Rounding of the mean of centers at 1e4 is 1e-12 of their spread.
    tolerance = 1e-13 if offset == 0 else 1e-11
    assert relative(function.values(c.x), v) < tolerance
    assert relative(function.jacobians(c.x), J) < tolerance
    assert relative(function.curvatures(c.x, u), bend) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_finite_differences(shape: tuple[int, int, int]) -> None:
    c = case(*shape)
    function, h = c.sum(), 1e-5
    J, size = function.jacobians(c.x), frobenius(term_by_term(c)[1]).max()
    for axis in range(shape[0]):
        step = np.zeros(shape[0])
        step[axis] = h
        slope = (function.values(c.x + step) - function.values(c.x - step)) / (2 * h)
        np.testing.assert_allclose(J[:, :, axis], slope, rtol=0, atol=1e-8 * max(1.0, size))
    u = np.random.default_rng(2).normal(size=c.x.shape)
    ahead, behind = function.jacobians(c.x + h * u), function.jacobians(c.x - h * u)
    bend = np.einsum("cij,cj->ci", (ahead - behind) / (2 * h), u)
    found = function.curvatures(c.x, u)
    np.testing.assert_allclose(found, bend, rtol=0, atol=1e-7 * max(1.0, np.abs(found).max()))


# --- every path, every budget ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budgets",
    [
        {"_KERNEL_BYTES": 1},
        {"_KERNEL_BYTES": 3 * 40 * 8},
        {"_PRODUCT_BYTES": 1},
        {"_PRODUCT_BYTES": 7 * 25 * 8},
        {"_PRODUCT_BYTES": 7 * 25 * 8, "_KERNEL_BYTES": 3 * 40 * 8},
        {"_MOST_AXES": 4},
        {"_MOST_AXES": 4, "_KERNEL_BYTES": 3 * 40 * 8},
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_path_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, budgets: dict[str, int], dtype: str
) -> None:
    c = case(5, 40, 17)
    u = c.x[::-1]
    plain = c.sum(dtype)
    expected = plain.values(c.x), plain.jacobians(c.x), plain.curvatures(c.x, u)
    taken: list[str] = []
    for name in ("_by_products", "_point_by_point"):
        monkeypatch.setattr(GaussianSum, name, noted(getattr(GaussianSum, name), taken))
    for name, value in budgets.items():
        monkeypatch.setattr(gaussian, name, value)
    function = c.sum(dtype)
    found = function.values(c.x), function.jacobians(c.x), function.curvatures(c.x, u)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.dtype(dtype)
        assert relative(a, b) < 60 * np.finfo(dtype).eps
    # The budgets have really led another way.
    assert set(taken) == {"_point_by_point" if "_MOST_AXES" in budgets else "_by_products"}
    assert len(taken) == {1: 17, 3 * 40 * 8: 6 if dtype == "float64" else 3}.get(
        budgets.get("_KERNEL_BYTES", 0), 1
    )
    if "_PRODUCT_BYTES" in budgets:
        assert len(function._slices) > 1


def noted(function: Callable[..., None], taken: list[str]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        taken.append(function.__name__)
        function(*arguments)

    return call


@pytest.mark.parametrize("n_axes", [15, 70])
def test_single_precision(n_axes: int) -> None:
    c = case(n_axes, 150, 40, beta=0.05)
    v, J = term_by_term(c)
    function = c.sum("float32")
    found_v, found_J = function.values(c.x), function.jacobians(c.x)
    assert found_v.dtype == found_J.dtype == np.float32
    assert relative(found_v, v) < 5e-6
    assert relative(found_J, J) < 5e-6
    # It is single precision that was computed with, not rounded results of double.
    assert relative(found_J, J) > 1e-8


@pytest.mark.parametrize("make", [np.asfortranarray, np.ndarray.tolist, lambda x: x.repeat(2, axis=0)[::2]])
def test_points_in_any_layout(make: Callable[[Array], Any]) -> None:
    c = case(4, 12, 6)
    np.testing.assert_array_equal(c.sum().jacobians(make(c.x)), c.sum().jacobians(c.x))


def test_points_in_single_precision_are_exact() -> None:
    c = case(4, 12, 6)
    rounded = c.x.astype(np.float32)
    np.testing.assert_array_equal(c.sum().jacobians(rounded), c.sum().jacobians(rounded.astype(np.float64)))


@pytest.mark.parametrize("n_axes", [4, 70])
def test_no_points(n_axes: int) -> None:
    function = case(n_axes, 12, 1).sum()
    nothing = np.empty((0, n_axes))
    assert function.values(nothing).shape == (0, n_axes)
    assert function.jacobians(nothing).shape == (0, n_axes, n_axes)
    assert function.curvatures(nothing, nothing).shape == (0, n_axes)


# --- hard places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "dtype"),
    [(1e2, "float64"), (1e5, "float64"), (1e160, "float64"), (1e2, "float32"), (1e25, "float32")],
)
def test_far_away_nothing_is_left(distance: float, dtype: str) -> None:
    c = case(5, 40, 4, beta=1.0)
    far = np.where(np.arange(5) == 2, distance, c.x)
    with np.errstate(over="ignore"):
        for found in (c.sum(dtype).values(far), c.sum(dtype).jacobians(far)):
            np.testing.assert_array_equal(found, 0.0)


def test_small_kernels_keep_their_digits() -> None:
    c = case(5, 40, 6, beta=1.0)
    outside = c.x + 6.0
    v, J = term_by_term(c, outside)
    assert 0 < np.abs(v).max() < 1e-30
    # beta |x|^2 is some 200 here.
    assert relative(c.sum().values(outside), v) < 200 * 20 * EPS
    assert relative(c.sum().jacobians(outside), J) < 200 * 20 * EPS


def test_on_the_only_center() -> None:
    c = case(3, 1, 1, offset=17.3)
    function = c.sum()
    np.testing.assert_array_equal(function.values(c.centers), c.coefficients)
    np.testing.assert_array_equal(function.jacobians(c.centers), np.zeros((1, 3, 3)))
    u = np.array([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(function.curvatures(c.centers, u), -2.0 * c.beta * c.coefficients, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_kernel_value_is_above_one(dtype: str) -> None:
    """Squared distances from products are a little below zero at times."""
    rng = np.random.default_rng(0)
    centers = 1e3 * rng.normal(size=(40, 40))
    kernel = GaussianSum(centers, np.eye(40), 1.0, dtype=dtype).values(centers)
    assert kernel.max() <= 1.0
    assert (kernel[~np.eye(40, dtype=bool)] == 0).all()
    if dtype == "float64":
        # The error that the notes of the class give: beta |x|^2, here 4e7, times the rounding unit.
        np.testing.assert_allclose(np.diag(kernel), 1.0, rtol=0, atol=4e7 * 8 * EPS)


def test_a_cloud_far_from_the_origin() -> None:
    """What cancels is taken out once, in double precision, before anything is squared."""
    c = case(5, 40, 9)
    moved = c._replace(centers=c.centers + 1e4, x=c.x + 1e4)
    v, J = term_by_term(moved)
    assert relative(moved.sum().values(moved.x), v) < 1e-11
    assert relative(moved.sum().jacobians(moved.x), J) < 1e-11
    assert relative(moved.sum("float32").jacobians(moved.x), J) < 1e-5


def test_coinciding_centers_add_up() -> None:
    c = case(4, 6, 5)
    twice = c._replace(
        centers=np.concatenate([c.centers, c.centers]),
        coefficients=np.concatenate([c.coefficients, 2.0 * c.coefficients]),
    )
    assert relative(twice.sum().jacobians(c.x), 3.0 * c.sum().jacobians(c.x)) < 1e-13


# --- what symmetry demands ---------------------------------------------------------------------------------

CASES = st.builds(case, st.integers(1, 6), st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))


@given(CASES, st.integers(0, 99), st.floats(0.2, 5.0))
@settings(max_examples=60, deadline=None)
def test_turned_moved_and_stretched(c: Case, seed: int, stretch: float) -> None:
    """With y = s R x + t and coefficients R C, the Jacobian is R J R^T / s."""
    rng = np.random.default_rng(seed)
    d = c.x.shape[1]
    R, t = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.normal(size=d)

    def there(x: Array) -> Array:
        return stretch * x @ R.T + t

    moved = Case(there(c.centers), c.coefficients @ R.T, c.beta / stretch**2, there(c.x))
    expected = R @ c.sum().jacobians(c.x) @ R.T / stretch
    np.testing.assert_allclose(moved.sum().jacobians(moved.x), expected, rtol=0, atol=1e-11)


@given(CASES, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_linear_in_the_coefficients(c: Case, seed: int) -> None:
    other = np.random.default_rng(seed).normal(size=c.coefficients.shape)
    together = c._replace(coefficients=2.0 * c.coefficients - other).sum().jacobians(c.x)
    apart = 2.0 * c.sum().jacobians(c.x) - c._replace(coefficients=other).sum().jacobians(c.x)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-12)


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_points_know_nothing_of_each_other(c: Case) -> None:
    function = c.sum()
    alone = np.concatenate([function.jacobians(point[None]) for point in c.x])
    np.testing.assert_allclose(function.jacobians(c.x), alone, rtol=0, atol=1e-13)


# --- on a GPU ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give CuPy, or what stands for it and refuses what CuPy refuses."""
    if request.param == "gpu":
        if not cuda.available():
            pytest.fail(f"tests marked gpu were asked for, but there is no GPU to use: {cuda.why_not()}")
    else:
        host = FakeCuda(monkeypatch, tmp_path)
        host.nothing()
        FakeGpu().install(host)
    return pytest.importorskip("cupy")


@pytest.mark.parametrize(
    "budgets", [{}, {"_PRODUCT_BYTES": 7 * 25 * 8}, {"_MOST_AXES": 4}, {"_DEVICE_BYTES": 999}]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gpu_computes_the_same(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, budgets: dict[str, int], dtype: str
) -> None:
    c = case(5, 40, 17)
    expected = c.sum()
    for name, value in budgets.items():
        monkeypatch.setattr(gaussian, name, value)
    function, x = c.sum(dtype, cupy), cupy.asarray(c.x)
    for found, right in (
        (function.values(x), expected.values(c.x)),
        (function.jacobians(x), expected.jacobians(c.x)),
        (function.curvatures(x, x), expected.curvatures(c.x, c.x)),
    ):
        assert not isinstance(found, np.ndarray)
        assert found.dtype == np.dtype(dtype)
        assert relative(to_host(found), right) < 100 * np.finfo(dtype).eps


def test_systems_on_a_gpu(cupy: Any) -> None:
    A = np.random.default_rng(0).normal(size=(3, 4, 4))
    A[1] = 0.0
    right = np.eye(4)[:, :2]
    found = solve_or_nan(cupy.asarray(A), cupy.asarray(right))
    expected = solve_or_nan(A, right)
    assert not isinstance(found, np.ndarray)
    assert np.isnan(expected[1]).all()
    np.testing.assert_allclose(to_host(found), expected, rtol=1e-12)


def test_products_are_there_before_other_streams_read_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = FakeGpu()
    gpu.install(FakeCuda(monkeypatch, tmp_path))
    import cupy

    c = case(3, 8, 2)
    function = c.sum(xp=cupy)
    assert gpu.waits == []
    for _ in range(2):
        function.jacobians(cupy.asarray(c.x))
    assert gpu.waits == ["stream"]
