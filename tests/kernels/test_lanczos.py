"""Largest eigenvalues of symmetric matrices by products, against dense solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.kernels import lanczos
from stabdask.kernels.lanczos import largest_eigenvalues, matrices_at_once

Array = np.ndarray[Any, Any]


def largest(H: Array, scale: Array | None = None, **options: Any) -> Array:
    norms = np.linalg.norm(H, axis=(1, 2)) if scale is None else scale
    return largest_eigenvalues(
        lambda x, members: np.einsum("bij,bj->bi", H[members], x),
        batch=len(H),
        n=H.shape[1],
        scale=norms,
        **options,
    )


def with_spectrum(rng: np.random.Generator, values: Array) -> Array:
    Q, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return (Q * values) @ Q.T


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 31, 32, 33, 70, 150]), st.integers(1, 4))
@settings(max_examples=40)
def test_random_matrices(seed: int, n: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(batch, n, n)) * 10.0 ** rng.integers(-8, 8, size=(batch, 1, 1))
    H = (A + A.swapaxes(1, 2)) / 2
    error = np.abs(largest(H) - np.linalg.eigvalsh(H)[:, -1])
    assert (error <= 1e-8 * np.linalg.norm(H, axis=(1, 2))).all()


CASES = {
    "zero": np.zeros(80),
    "one value": np.full(80, -2.0),
    "rank one": np.r_[np.zeros(79), 5.0],
    "rank one, negative": np.r_[np.zeros(79), -5.0],
    "a pair on top": np.r_[np.linspace(-1, 0, 78), 3.0, 3.0],
    "close on top": np.r_[np.linspace(-1, 0, 78), 3.0, 3.0 + 1e-6],
    "evenly spread": np.linspace(-2, -0.3, 80),
    "crowded at the top": -np.geomspace(1e-3, 1, 80),
    "two clouds": np.r_[-1 - 1e-9 * np.arange(40), -2 + 1e-9 * np.arange(40)],
}


@pytest.mark.parametrize("name", CASES)
def test_planted_spectra(name: str) -> None:
    rng = np.random.default_rng(1)
    values = CASES[name]
    H = np.stack([with_spectrum(rng, values), np.diag(values), with_spectrum(rng, values[::-1])])
    np.testing.assert_allclose(largest(H), values.max(), atol=1e-8 * max(1.0, np.linalg.norm(values)))


def test_neighbors_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    H = np.stack([with_spectrum(rng, values) for values in CASES.values()])
    together = largest(H)
    for number in range(len(H)):
        np.testing.assert_allclose(largest(H[number : number + 1]), together[number], atol=1e-12)


def test_what_is_not_finite_is_nan_and_the_rest_is_not() -> None:
    H = np.stack([np.eye(3), np.full((3, 3), np.nan), 2 * np.eye(3)])
    np.testing.assert_array_equal(largest(H, np.array([2.0, np.nan, 4.0])), [1.0, np.nan, 2.0])
    assert largest(np.zeros((2, 0, 0))).tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)
    assert largest(np.zeros((0, 4, 4))).shape == (0,)


def test_what_does_not_converge_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "_RESTARTS", 1)
    crowded = np.stack([with_spectrum(np.random.default_rng(3), -np.geomspace(1e-6, 1, 200)), np.eye(200)])
    np.testing.assert_array_equal(largest(crowded, tolerance=1e-14), [np.nan, 1.0])


def test_how_many_go_together() -> None:
    assert matrices_at_once(1) >= matrices_at_once(2_000) >= matrices_at_once(10**9) == 1
