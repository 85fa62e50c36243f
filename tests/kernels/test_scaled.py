"""Eigenvalues of principal submatrices with scaled columns, against dense matrices formed one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import match_spectra
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.kernels.eig import BACKENDS, eig
from stabdask.kernels.scaled import ScaledSystem, active_members, eig_scaled, gather_cores
from stabdask.schema import Status

Array = np.ndarray[Any, Any]
each_backend = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cuda"])


def drawn(seed: int, r: int, batch: int, density: float, absent: float = 0.3) -> tuple[ScaledSystem, Array]:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((r, r)) < density, rng.normal(size=(r, r)), 0.0)
    scales = np.where(rng.random((batch, r)) < absent, 0.0, rng.uniform(0.1, 2.0, size=(batch, r)))
    return ScaledSystem.of(weights, rng.uniform(0.5, 1.5, size=r)), scales


def dense(system: ScaledSystem, row: Array) -> Array:
    own = np.flatnonzero(row)
    return system.weights[np.ix_(own, own)] * row[own] - np.diag(system.shifts[own])


@each_backend
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("r", "density"), [(1, 1.0), (2, 0.5), (9, 0.2), (40, 0.05), (40, 0.0), (30, 1.0), (70, 0.04)]
)
def test_spectra_are_those_of_the_dense_matrices(backend: str, dtype: str, r: int, density: float) -> None:
    system, scales = drawn(r, r, 33, density)
    result = eig_scaled(system, scales, dtype=dtype, backend=backend)
    assert (result.status == Status.OK).all()
    assert result.right is None
    eps = np.finfo(dtype).eps
    for b, row in enumerate(scales):
        A = dense(system, row)
        values = result.eigenvalues[b]
        assert np.isnan(values[len(A) :]).all()
        values = values[: len(A)]
        # Sparse matrices have defective spectra, so the measure is a backward error where matching fails.
        if density in (0.0, 1.0):
            assert match_spectra(values, np.linalg.eigvals(A)) <= 1e3 * eps * max(1.0, np.linalg.norm(A))
        for value in values:
            smallest = np.linalg.svd(A - value * np.eye(len(A)), compute_uv=False)[-1]
            assert smallest <= 50 * np.sqrt(len(A)) * eps * max(1.0, np.linalg.norm(A))
        assert abs(values.sum() - np.trace(A)) <= 1e2 * len(A) * eps * max(1.0, np.linalg.norm(A))
        assert (np.diff(values.real) <= 0).all()


@each_backend
def test_pieces_give_what_the_whole_gives(backend: str) -> None:
    system, scales = drawn(5, 50, 40, 0.06)
    sizes = np.count_nonzero(scales, axis=1)
    cores, members, real = gather_cores(system, scales)
    whole = eig(cores, sizes=sizes, backend=backend)
    pieces = eig_scaled(system, scales, dtype="float64", backend=backend)
    np.testing.assert_array_equal(real.sum(axis=1), sizes)
    np.testing.assert_allclose(pieces.eigenvalues[:, 0].real, whole.eigenvalues[:, 0].real, rtol=1e-9)
    assert (pieces.trace_defect < 1e-12).all()
    for b in range(3):
        np.testing.assert_array_equal(cores[b, : sizes[b], : sizes[b]], dense(system, scales[b]))
        np.testing.assert_array_equal(members[b, : sizes[b]], np.flatnonzero(scales[b]))


@each_backend
def test_a_row_does_not_depend_on_the_others(backend: str) -> None:
    system, scales = drawn(6, 30, 50, 0.08)
    together = eig_scaled(system, scales, dtype="float64", backend=backend)
    for b in (0, 17, 49):
        alone = eig_scaled(system, scales[b : b + 1], dtype="float64", backend=backend)
        width = alone.eigenvalues.shape[1]
        assert alone.eigenvalues[0].tobytes() == together.eigenvalues[b, :width].tobytes()
        assert alone.trace_defect[0] == pytest.approx(together.trace_defect[b], abs=1e-14)


@each_backend
def test_what_is_not_finite_is_contained(backend: str) -> None:
    system, scales = drawn(7, 12, 9, 0.4)
    good = eig_scaled(system, scales, dtype="float64", backend=backend)
    scales[4, np.flatnonzero(scales[4])[0]] = np.inf
    bad = eig_scaled(system, scales, dtype="float64", backend=backend)
    assert bad.status[4] == Status.NON_FINITE_INPUT
    assert np.isnan(bad.eigenvalues[4]).all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert bad.eigenvalues[others].tobytes() == good.eigenvalues[others].tobytes()


@each_backend
def test_nothing_active_and_nothing_at_all(backend: str) -> None:
    system, scales = drawn(8, 6, 3, 0.5)
    scales[1] = 0.0
    result = eig_scaled(system, scales, dtype="float64", backend=backend)
    assert np.isnan(result.eigenvalues[1]).all()
    assert result.status.tolist() == [0, 0, 0]
    assert eig_scaled(system, scales[:0], dtype="float64", backend=backend).eigenvalues.shape == (0, 0)
    empty = ScaledSystem.of(np.zeros((0, 0)), np.zeros(0))
    assert eig_scaled(empty, np.zeros((2, 0)), dtype="float64", backend=backend).eigenvalues.shape == (2, 0)


@pytest.mark.skipif("lanes" not in BACKENDS, reason="no compiled solver")
def test_large_matrices_go_to_lapack() -> None:
    system, scales = drawn(9, 20, 30, 0.3)
    sizes = np.count_nonzero(scales, axis=1)
    limit = int(np.median(sizes))
    mixed = eig_scaled(system, scales, dtype="float64", backend=f"lanes:{limit}")
    assert mixed.backend == f"lanes:{limit}"
    for name, rows in (("lanes", sizes <= limit), ("lapack", sizes > limit)):
        own = eig_scaled(system, scales[rows], dtype="float64", backend=name)
        width = own.eigenvalues.shape[1]
        np.testing.assert_array_equal(mixed.eigenvalues[rows, :width], own.eigenvalues)


def test_parts_are_the_components() -> None:
    # 0 <-> 1 -> 2 -> 3 <-> 4, 5 alone.
    weights = np.zeros((6, 6))
    for i, j in ((0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (4, 3)):
        weights[i, j] = 1.0
    system = ScaledSystem.of(weights, np.ones(6))
    assert sorted(tuple(part) for part in system.parts) == [(0, 1), (2,), (3, 4), (5,)]


def test_active_members_are_padded() -> None:
    own = np.array([[True, False, True], [False, False, True], [False, False, False]])
    members, real = active_members(own)
    assert members.shape == (3, 2)
    np.testing.assert_array_equal(members[0], [0, 2])
    assert members[1, 0] == 2
    np.testing.assert_array_equal(real, [[True, True], [True, False], [False, False]])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), r=st.integers(1, 14), density=st.floats(0, 1), absent=st.floats(0, 1))
def test_backends_agree(seed: int, r: int, density: float, absent: float) -> None:
    system, scales = drawn(seed, r, 5, density, absent)
    results = [
        eig_scaled(system, scales, dtype="float64", backend=name) for name in BACKENDS if name != "cuda"
    ]
    for result in results:
        assert (result.status == Status.OK).all()
        np.testing.assert_array_equal(
            np.isnan(result.eigenvalues.real).sum(axis=1),
            result.eigenvalues.shape[1] - np.count_nonzero(scales, axis=1),
        )
        # Sums of squares see every eigenvalue, and are well conditioned where single ones are not.
        for b, row in enumerate(scales):
            A = dense(system, row)
            values = result.eigenvalues[b, : len(A)]
            assert abs((values**2).sum() - np.trace(A @ A)) <= 1e-11 * max(1.0, np.linalg.norm(A) ** 2)
