"""Families of matrices that eigensolvers find hard.

Every family gives a matrix of any size k >= 1. `matrix` draws the same one each time it is asked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = ["FAMILIES", "jordan_block", "matrix", "tiled"]

Array = np.ndarray[Any, Any]
Generator = np.random.Generator
Family = Callable[[int, Generator, np.dtype[Any]], Array]

FAMILIES: dict[str, Family] = {}
"""Name to ``(k, rng, precision) -> (k, k)`` float64; `precision` only sets how extreme it may be."""


def family(function: Family) -> Family:
    FAMILIES[function.__name__] = function
    return function


def matrix(name: str, k: int, dtype: npt.DTypeLike) -> Array:
    """Return the matrix of family `name` of size `k`, rounded to `dtype`."""
    precision = np.dtype(dtype)
    seed = zlib.crc32(name.encode()) + k
    made = FAMILIES[name](k, np.random.default_rng(seed), precision)
    assert made.shape == (k, k), name
    with np.errstate(under="ignore"):
        rounded = np.ascontiguousarray(made, dtype=precision)
    assert np.isfinite(rounded).all(), name
    return rounded


# --- building stones ---------------------------------------------------------------------------------------


def tiled(block: npt.ArrayLike, k: int) -> Array:
    """Return the leading part of size `k` of a block diagonal matrix of copies of `block`."""
    block = np.asarray(block, dtype=np.float64)
    return np.kron(np.eye(-(-k // len(block))), block)[:k, :k]


def orthogonal_from(rng: Generator, k: int) -> Array:
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def oblique_from(rng: Generator, k: int) -> Array:
    """Return a matrix far from orthogonal, of condition 100."""
    return orthogonal_from(rng, k) @ np.diag(np.geomspace(1, 100, k)) @ orthogonal_from(rng, k)


def permuted(rng: Generator, A: Array) -> Array:
    order = rng.permutation(len(A))
    return A[np.ix_(order, order)]


def jordan_block(k: int, value: float) -> Array:
    return value * np.eye(k) + np.diag(np.ones(k - 1), 1)


def cut(k: int, made: Callable[[int], Array], least: int = 2) -> Array:
    """Return the leading part of size `k` of a matrix that exists from size `least` on."""
    return np.asarray(made(max(k, least)), dtype=np.float64)[:k, :k]


def few_values(k: int) -> Array:
    """Return k eigenvalues, three different ones at most, each repeated as often as the others."""
    return np.resize([2.0, -1.0, 0.5], k)


def companion_of(roots: npt.ArrayLike) -> Array:
    roots = np.asarray(roots)
    if len(roots) == 1:
        return np.array([[float(roots[0])]])
    return scipy.linalg.companion(np.poly(roots).real)


# --- random ------------------------------------------------------------------------------------------------


@family
def normal(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return rng.normal(size=(k, k))


@family
def positive(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return rng.uniform(size=(k, k))


@family
def small_integers(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return rng.integers(-2, 3, size=(k, k)).astype(np.float64)


def sparse(density: float) -> Family:
    def make(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
        return np.where(rng.random((k, k)) < density, rng.uniform(-1, 1, size=(k, k)), 0.0)

    return make


for _percent in (2, 10, 30, 60):
    FAMILIES[f"sparse_{_percent}_percent"] = sparse(_percent / 100)


@family
def sparse_about_one_a_row(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.where(rng.random((k, k)) < 1.2 / k, rng.normal(size=(k, k)), 0.0)


@family
def symmetric(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    A = rng.normal(size=(k, k))
    return A + A.T


@family
def skew_symmetric(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    A = rng.normal(size=(k, k))
    return A - A.T


@family
def orthogonal(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return orthogonal_from(rng, k)


@family
def permutation(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.eye(k)[rng.permutation(k)]


@family
def upper_hessenberg(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.triu(rng.normal(size=(k, k)), -1)


@family
def rank_one(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.outer(rng.normal(size=k), rng.normal(size=k))


@family
def identity_plus_rank_two(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return -np.eye(k) + rng.normal(size=(k, 2)) @ rng.normal(size=(2, k))


# --- badly scaled ------------------------------------------------------------------------------------------


def graded(condition: float) -> Family:
    """Return D A D^-1, which balancing should undo."""

    def make(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
        d = rng.permutation(np.geomspace(1, condition, k))
        return d[:, None] * rng.normal(size=(k, k)) / d

    return make


FAMILIES["graded_1e4"] = graded(1e4)
FAMILIES["graded_1e12"] = graded(1e12)


@family
def graded_sparse(k: int, rng: Generator, precision: np.dtype[Any]) -> Array:
    return np.where(rng.random((k, k)) < 0.3, graded(1e12)(k, rng, precision), 0.0)


@family
def graded_rows(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.geomspace(1, 1e-12, k)[:, None] * rng.normal(size=(k, k))


@family
def graded_columns_upwards(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return rng.normal(size=(k, k)) * np.geomspace(1e-8, 1, k)


@family
def graded_rows_and_columns(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    d = np.geomspace(1, 1e-6, k)
    return d[:, None] * rng.normal(size=(k, k)) * d


def power_of(scale: dict[str, float]) -> Family:
    def make(k: int, rng: Generator, precision: np.dtype[Any]) -> Array:
        return rng.normal(size=(k, k)) * scale[precision.name]

    return make


FAMILIES["tiny"] = power_of({"float64": 1e-300, "float32": 1e-30})
FAMILIES["huge"] = power_of({"float64": 1e300, "float32": 1e35})


@family
def entries_of_all_sizes(k: int, rng: Generator, precision: np.dtype[Any]) -> Array:
    reach = {"float64": 290, "float32": 33}[precision.name]
    return rng.choice([-1.0, 1.0], size=(k, k)) * 10.0 ** rng.uniform(-reach, reach, size=(k, k))


@family
def entries_of_many_sizes(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return rng.choice([-1.0, 0.0, 1.0], size=(k, k)) * 10.0 ** rng.uniform(-12, 3, size=(k, k))


# --- defective and nilpotent -------------------------------------------------------------------------------


@family
def jordan(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return jordan_block(k, 0.5)


@family
def jordan_several(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    sizes = [3, 1, 2, 4] * k
    blocks = [jordan_block(size, value) for size, value in zip(sizes, few_values(len(sizes)), strict=True)]
    return scipy.linalg.block_diag(*blocks[: max(1, k)])[:k, :k]


@family
def jordan_rotated(k: int, rng: Generator, precision: np.dtype[Any]) -> Array:
    Q = orthogonal_from(rng, k)
    return Q @ jordan_several(k, rng, precision) @ Q.T


@family
def jordan_skewed(k: int, rng: Generator, precision: np.dtype[Any]) -> Array:
    S = oblique_from(rng, k)
    return S @ jordan_several(k, rng, precision) @ np.linalg.inv(S)


@family
def jordan_with_a_tiny_corner(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    A = jordan_block(k, 0.0)
    A[-1, 0] += 1e-10
    return A


@family
def shift(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return np.eye(k, k=-1)


@family
def strictly_triangular(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return permuted(rng, np.triu(rng.normal(size=(k, k)), 1))


@family
def nilpotent_rotated(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    Q = orthogonal_from(rng, k)
    return Q @ np.triu(rng.normal(size=(k, k)), 1) @ Q.T


@family
def chebyshev_differentiation(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    """Return a full nilpotent matrix: the derivative at Chebyshev points of polynomials zero at one of them."""
    x = np.cos(np.pi * np.arange(k + 1) / k)
    c = (-1.0) ** np.arange(k + 1)
    c[[0, -1]] *= 2
    D = np.outer(c, 1 / c) / (x[:, None] - x + np.eye(k + 1))
    return (D - np.diag(D.sum(axis=1)))[1:, 1:] / k**2


@family
def redheffer(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    """Return ones where i divides j: all but about log2 k eigenvalues are 1, with few vectors."""
    i = np.arange(1, k + 1)
    A = (i[None, :] % i[:, None] == 0).astype(np.float64)
    A[:, 0] = 1
    return A


# --- repeated eigenvalues with enough vectors --------------------------------------------------------------


@family
def zero(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return np.zeros((k, k))


@family
def identity(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return np.eye(k)


@family
def diagonal(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.diag(rng.normal(size=k))


@family
def diagonal_repeated(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.diag(rng.permutation(few_values(k)))


@family
def repeated_rotated(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    Q = orthogonal_from(rng, k)
    return Q * few_values(k) @ Q.T


@family
def repeated_skewed(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    S = oblique_from(rng, k)
    return S * few_values(k) @ np.linalg.inv(S)


@family
def block_copies(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return tiled(rng.normal(size=(3, 3)), k)


# --- reducible ---------------------------------------------------------------------------------------------


@family
def triangular(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.triu(rng.normal(size=(k, k)))


@family
def triangular_permuted(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return permuted(rng, np.triu(rng.normal(size=(k, k))))


@family
def block_triangular(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    block = np.sort(rng.integers(0, 1 + k // 3, size=k))
    return permuted(rng, np.where(block[:, None] <= block, rng.normal(size=(k, k)), 0.0))


@family
def block_triangular_badly_coupled(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    block = np.sort(rng.integers(0, 1 + k // 4, size=k))
    coupling = np.where(block[:, None] == block, 1.0, 1e8) * (block[:, None] <= block)
    return permuted(rng, coupling * rng.normal(size=(k, k)))


@family
def almost_triangular(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return np.triu(rng.normal(size=(k, k))) + 1e-15 * rng.normal(size=(k, k))


# --- stalls and slow convergence ---------------------------------------------------------------------------


@family
def cyclic(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    """Return the companion matrix of x^k = 1: orthogonal, so that a plain shift of 0 gets nowhere."""
    return np.roll(np.eye(k), 1, axis=0)


@family
def cycles_of_three(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return tiled([[0, 0, 1], [1, 0, 0], [0, 1, 0]], k)


def day_matrix(h: float) -> Family:
    """Return matrices on which double shifts without exceptional ones go round in circles for small h."""

    def make(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
        return tiled([[0, 1, 0, 0], [1, 0, -h, 0], [0, h, 0, 1], [0, 0, 1, 0]], k)

    return make


for _power in (2, 5, 6, 7, 8, 12):
    FAMILIES[f"day_1e_{_power}"] = day_matrix(10.0**-_power)


def small_subdiagonals(size: float) -> Family:
    """Return Hessenberg matrices with pairs of small subdiagonals, neither negligible but their product."""

    def make(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
        A = np.triu(rng.normal(size=(k, k)), -1)
        for i in range(k // 3, k - 2, 5):
            A[i + 1, i] *= size
            A[i + 2, i + 1] *= size
        return A

    return make


FAMILIES["small_subdiagonals_1e_4"] = small_subdiagonals(1e-4)
FAMILIES["small_subdiagonals_1e_8"] = small_subdiagonals(1e-8)


@family
def wilkinson_pairs(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    """Return the symmetric tridiagonal matrix whose eigenvalues come in pairs equal to many digits."""
    off = np.ones(k - 1)
    return np.diag(np.abs(np.arange(k) - (k - 1) / 2)) + np.diag(off, 1) + np.diag(off, -1)


# --- Jacobians of regulatory networks ----------------------------------------------------------------------


def hopfield(density: float, *, saturated: float = 0.0) -> Family:
    """Return W diag(s) - diag(gamma) with slopes over many magnitudes, a fraction of them exactly zero."""

    def make(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
        strength = 4 / np.sqrt(density * k + 1)
        W = strength * np.where(rng.random((k, k)) < density, rng.normal(size=(k, k)), 0.0)
        s = 10.0 ** rng.uniform(-3, 0, size=k)
        s[rng.random(k) < saturated] = 0.0
        return W * s - np.diag(rng.uniform(0.3, 2.0, size=k))

    return make


FAMILIES["hopfield_dense"] = hopfield(1.0)
FAMILIES["hopfield_sparse"] = hopfield(0.05)
FAMILIES["hopfield_saturated"] = hopfield(0.5, saturated=0.4)


@family
def hopfield_far_from_thresholds(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    s = 10.0 ** rng.uniform(-30, 0, size=k)
    return rng.normal(size=(k, k)) * s - np.diag(rng.uniform(0.3, 2.0, size=k))


# --- of the textbooks --------------------------------------------------------------------------------------


@family
def companion_wilkinson(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    full, rest = divmod(k, 10)
    sizes = [10] * full + [rest] * (rest > 0)
    return scipy.linalg.block_diag(*(companion_of(np.arange(1, size + 1)) for size in sizes))


@family
def companion_random(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    A = np.eye(k, k=-1)
    A[0] = rng.normal(size=k)
    return A


@family
def frank(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    i, j = np.indices((k, k))
    return np.where(j >= i - 1, k - np.maximum(i, j), 0).astype(np.float64)


@family
def grcar(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return np.triu(np.tril(np.ones((k, k)), 3)) - np.eye(k, k=-1)


@family
def tridiagonal_toeplitz(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return np.eye(k) - 4.0 * np.eye(k, k=1) + 0.25 * np.eye(k, k=-1)


@family
def clement(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    """Return the tridiagonal matrix with zero diagonal and the eigenvalues k - 1, k - 3, ..., 1 - k."""
    i = np.arange(1.0, k)
    return np.diag(i[::-1], 1) + np.diag(i, -1)


@family
def kahan(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    s, c = np.sin(1.2), np.cos(1.2)
    return s ** np.arange(k)[:, None] * (np.eye(k) - c * np.triu(np.ones((k, k)), 1))


@family
def hadamard(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return cut(k, lambda n: scipy.linalg.hadamard(1 << (n - 1).bit_length()), least=1)


@family
def hilbert(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return scipy.linalg.hilbert(k)


@family
def pascal(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return tiled(scipy.linalg.pascal(min(k, 12)), k)


@family
def helmert(k: int, _: Generator, __: np.dtype[Any]) -> Array:
    return cut(k, lambda n: scipy.linalg.helmert(n, full=True))


@family
def leslie(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return cut(k, lambda n: scipy.linalg.leslie(rng.uniform(0, 2, n), rng.uniform(0.2, 1, n - 1)))


@family
def circulant(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return scipy.linalg.circulant(rng.normal(size=k))


@family
def toeplitz(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return scipy.linalg.toeplitz(rng.normal(size=k), rng.normal(size=k))


@family
def fiedler(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    return cut(k, lambda n: scipy.linalg.fiedler(np.sort(rng.uniform(size=n))))


@family
def markov_chain(k: int, rng: Generator, _: np.dtype[Any]) -> Array:
    P = rng.uniform(size=(k, k)) ** 8
    return P / P.sum(axis=1, keepdims=True)


# --- two by two, over and over -----------------------------------------------------------------------------


def copies_of(block: npt.ArrayLike) -> Family:
    return lambda k, _, __: tiled(block, k)


for _name, _block in {
    "pairs_real": [[1.0, 2.0], [3.0, 4.0]],
    "pairs_complex": [[1.0, 2.0], [-3.0, 1.5]],
    "pairs_nearly_real": [[1.0, 1.0], [-1e-20, 1.0]],
    "pairs_nearly_equal": [[1.0, 1e-9], [1e-9, 1.0]],
    "pairs_equal": [[1.0, 0.0], [0.0, 1.0]],
    "pairs_defective": [[3.0, 1.0], [-1.0, 1.0]],
    "pairs_with_tiny_coupling": [[1.0, 1e-30], [1e-30, -1.0]],
    "pairs_with_lopsided_coupling": [[1.0, 1e15], [1e-15, -1.0]],
    "pairs_nilpotent": [[0.0, 1.0], [0.0, 0.0]],
    "pairs_rotation": [[0.0, 1.0], [-1.0, 0.0]],
}.items():
    FAMILIES[_name] = copies_of(_block)
