"""Precision matrices that follow their covariance, against numpy.linalg.inv and covariances of all cells anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.analysis.network import CoMoments, PrecisionMatrix
from stabdask.analysis.network.inverse_pair import InversePair
from stabdask.errors import (
    DamagedStoreError,
    InputError,
    MissingFileError,
    NotPositiveDefiniteError,
    StoreMismatchError,
    UsageError,
)

Array = np.ndarray[Any, Any]


DDOF = {"none": 1, "fixed": 1, "ledoit-wolf": 0}


def shrunk(x: Array, method: str, amount: float) -> Array:
    """Return the covariance of cells, shrunk by an amount that is given, from the definition."""
    centered = x - x.mean(axis=0)
    S = centered.T @ centered / (len(x) - DDOF[method])
    found: Array = (1 - amount) * S + amount * np.trace(S) / len(S) * np.eye(len(S))
    return found


def covariance(n: int, seed: int = 42) -> tuple[Array, Array]:
    """Return the covariance of a model of ten factors, and loadings of five pathways."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(0, 0.1, (n, 10))
    base = factors @ factors.T + np.diag(rng.uniform(0.01, 0.05, n))
    return base, rng.normal(0, 0.05, (n, 5))


def check(precision: PrecisionMatrix, sigma: Array, tolerance: float = 1e-9) -> None:
    """Assert that everything in it is that of `sigma`."""
    scale = float(np.abs(sigma).max())
    inverse = np.linalg.inv(sigma)
    np.testing.assert_allclose(precision.sigma, sigma, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(
        precision.theta, inverse, rtol=0, atol=tolerance * float(np.abs(inverse).max())
    )
    np.testing.assert_allclose(precision.cholesky, np.linalg.cholesky(sigma), rtol=0, atol=tolerance * scale)
    assert precision.logdet == pytest.approx(np.linalg.slogdet(sigma)[1], abs=1e-8 * len(sigma))
    assert np.array_equal(precision.theta, precision.theta.T)
    assert np.array_equal(precision.sigma, precision.sigma.T)


@pytest.mark.parametrize("crossover", [None, 0.0, 1.0])
def test_five_pathways_of_five_hundred_genes(crossover: float | None) -> None:
    base, X = covariance(500)
    precision = PrecisionMatrix.from_covariance(base, crossover=crossover)
    precision.update(X)
    assert np.abs(precision.theta - np.linalg.inv(base + X @ X.T)).max() < 1e-10
    assert precision.history[0].path == {None: "low rank", 0.0: "direct", 1.0: "low rank"}[crossover]
    precision.downdate(X)
    assert np.abs(precision.theta - np.linalg.inv(base)).max() < 1e-10
    assert precision.n_refactorizations == 0
    assert [change[:2] for change in precision.history] == [("update", 5), ("downdate", 5)]


def test_a_thousand_updates_and_five_hundred_downdates_do_not_drift() -> None:
    base, _ = covariance(500)
    vectors = np.random.default_rng(1).normal(0, 0.05, (1000, 500))
    precision = PrecisionMatrix.from_covariance(base, crossover=1.0)
    for u in vectors:
        precision.rank_one(u)
    for u in vectors[::2]:
        precision.downdate(u)
    expected = base + vectors[1::2].T @ vectors[1::2]
    assert np.abs(precision.theta - np.linalg.inv(precision.sigma)).max() < 1e-8
    check(precision, expected, 1e-10)
    assert len(precision.history) == 1500
    assert max(change.probe for change in precision.history) < 1e-10
    assert {change.path for change in precision.history} == {"low rank"}


def test_drift_is_noticed_and_mended() -> None:
    """Ill-conditioned, with a tolerance that rounding errors exceed: the inverse is computed anew, and counted."""
    base = 1e-7 * covariance(60)[0]
    vectors = np.random.default_rng(2).normal(0, 1.0, (60, 60))
    precision = PrecisionMatrix.from_covariance(base, drift_tolerance=1e-12, crossover=2.0)
    for u in vectors:
        precision.update(u)
    for u in vectors[:50]:
        precision.downdate(u)
    assert precision.n_refactorizations > 0
    assert precision.n_refactorizations == sum(change.refactorized for change in precision.history)
    # As good as an inversion of such a matrix is.
    error, direct = (
        np.abs(theta @ precision.sigma - np.eye(60)).max()
        for theta in (precision.theta, np.linalg.inv(precision.sigma))
    )
    assert error < 10 * direct


operations = st.lists(
    st.tuples(st.sampled_from(["update", "downdate", "rank_one", "forget"]), st.integers(0, 3)), max_size=8
)


@given(st.integers(1, 25), st.integers(0, 100), operations, st.sampled_from([0.0, 0.5, 9.0]))
@settings(max_examples=50)
def test_any_sequence_of_changes(n: int, seed: int, todo: list[tuple[str, int]], crossover: float) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n + 2))
    sigma = root @ root.T / n + np.eye(n)
    precision = PrecisionMatrix.from_covariance(sigma, crossover=crossover)
    for name, d in todo:
        X = rng.standard_normal((n, d)) / (5 * np.sqrt(n))
        if name == "update":
            precision.update(X)
            sigma = sigma + X @ X.T
        elif name == "downdate":
            precision.downdate(X)
            sigma = sigma - X @ X.T
        elif name == "rank_one":
            u = rng.standard_normal(n)
            precision.rank_one(u, d * u)
            sigma = sigma + d * np.outer(u, u)
        else:
            precision.forget(0.95)
            sigma = 0.95 * sigma
    check(precision, sigma)
    # Whichever way it was done, the same comes out.
    assert len(precision.history) == len(todo)


@pytest.mark.parametrize(
    ("method", "amount"), [("none", None), ("fixed", 0.3), ("fixed", 1.0), ("ledoit-wolf", None)]
)
@pytest.mark.parametrize("d", [1, 4])
def test_cells_added_and_removed(method: str, amount: float | None, d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.standard_normal((60, 12)) @ rng.standard_normal((12, 12)) + 5.0
    more = rng.standard_normal((d, 12)) + 3.0
    precision = PrecisionMatrix.from_moments(CoMoments.of(x), method, amount, crossover=1.0)  # type: ignore[arg-type]
    used = precision.amount
    precision.add_cells(more if d > 1 else more[0])
    assert used == {"none": 0.0, "fixed": amount}.get(method, used)
    together = np.concatenate([x, more])
    check(precision, shrunk(together, method, used))
    assert precision.cells is not None
    assert precision.cells.count == 60 + d
    np.testing.assert_allclose(precision.cells.mean, together.mean(axis=0))
    precision.remove_cells(x[:7])
    rest = np.concatenate([x[7:], more])
    check(precision, shrunk(rest, method, used))
    np.testing.assert_allclose(precision.cells.mean, rest.mean(axis=0))
    assert precision.history[0].path == ("low rank" if used == 0 else "direct")


@given(st.integers(3, 40), st.integers(1, 6), st.floats(0.1, 5.0), st.floats(0.3, 1.0), st.integers(0, 100))
@settings(max_examples=40)
def test_weights_and_forgetting(n: int, d: int, weight: float, factor: float, seed: int) -> None:
    """Covariances with weights, written out: sum of w (x - m)(x - m)^T over (sum of w - 1)."""
    rng = np.random.default_rng(seed)
    x, more = rng.standard_normal((n + 8, 5)) + 1.0, rng.standard_normal((d, 5))
    precision = PrecisionMatrix.from_moments(CoMoments.of(x))
    precision.forget(factor)
    precision.add_cells(more, weight)
    precision.remove_cells(x[:2], factor)
    rows = np.concatenate([x[2:], more])
    w = np.r_[np.full(n + 6, factor), np.full(d, weight)]
    mean = w @ rows / w.sum()
    expected = (rows - mean).T @ ((rows - mean) * w[:, None]) / (w.sum() - 1)
    check(precision, expected, 1e-8)
    assert precision.cells is not None
    assert precision.cells.count == pytest.approx(w.sum())


def test_figures_worked_by_hand() -> None:
    """Cells 0 and 2 have mean 1 and variance 2; with 4, mean 2 and variance 4."""
    precision = PrecisionMatrix.from_moments(CoMoments.of(np.array([[0.0], [2.0]])))
    assert precision.theta[0, 0] == pytest.approx(0.5)
    precision.add_cells([[4.0]])
    assert precision.sigma[0, 0] == pytest.approx(4.0)
    assert precision.theta[0, 0] == pytest.approx(0.25)
    assert precision.partial_correlations().tolist() == [[1.0]]
    assert precision.logdet == pytest.approx(np.log(4.0))


def test_a_refused_change_changes_nothing() -> None:
    base, X = covariance(40)
    for crossover in (0.0, 1.0):
        precision = PrecisionMatrix.from_covariance(base, crossover=crossover)
        before = precision.theta, precision.sigma, precision.logdet
        with pytest.raises(
            NotPositiveDefiniteError, match=r"downdate is refused, nothing has changed: .*eigenvalue is -"
        ):
            precision.downdate(100 * X)
        with pytest.raises(NotPositiveDefiniteError, match="rank_one is refused"):
            precision.rank_one(X[:, 0], -1e4 * X[:, 0])
        with pytest.raises(InputError, match="not symmetric"):
            precision.rank_one(X[:, 0], X[:, 1])
        with pytest.raises(InputError, match="NaN"):
            precision.update(np.full(40, np.nan))
        with pytest.raises(InputError, match=r"expected \(40, d\)"):
            precision.update(X.T)
        with pytest.raises(InputError, match="knows no cells"):
            precision.add_cells(np.ones((1, 40)))
        with pytest.raises(UsageError, match="factor=0"):
            precision.forget(0)
        assert np.array_equal(precision.theta, before[0])
        assert np.array_equal(precision.sigma, before[1])
        assert precision.logdet == before[2]
        assert precision.history == ()
        # What is given out is a copy.
        precision.theta[:] = 0.0
        assert np.array_equal(precision.theta, before[0])


def test_a_downdate_to_the_last_digits_is_done_from_scratch() -> None:
    """What is left of e1 is 1e-10 of what was: the update would lose ten digits."""
    precision = PrecisionMatrix.from_covariance(np.eye(30), crossover=1.0)
    u = np.zeros(30)
    u[0] = np.sqrt(1 - 1e-10)
    precision.downdate(u)
    assert precision.history[0].path == "direct"
    assert precision.theta[0, 0] == pytest.approx(1e10, rel=1e-5)


def test_an_update_that_dwarfs_sigma_is_done_from_scratch() -> None:
    """1 + u^T u is 4e9 for the first, so that nine digits would go; after the second none would be left."""
    precision = PrecisionMatrix.from_covariance(np.eye(40), crossover=9.0)
    precision.update(np.full(40, 1e4))
    assert precision.history[0].path == "direct"
    assert precision.probe() < 1e-4
    before = precision.theta
    for size in (1e9, 1e150):
        with pytest.raises(NotPositiveDefiniteError, match="update is refused, nothing has changed"):
            precision.update(np.full(40, size))
    assert np.array_equal(precision.theta, before)
    assert precision.sigma[0, 0] == 1e8 + 1


def test_a_sigma_that_errors_have_made_singular_leaves_no_theta() -> None:
    pair = InversePair(np.eye(30, order="F"), drift_tolerance=1e-10, crossover=9.0)
    pair.sigma[3, 3] = -0.5
    u = np.ones((30, 1), order="F") / 100
    with pytest.raises(NotPositiveDefiniteError, match=r"without inverse .* make it anew from the data"):
        pair.change("update", u, sign=1, scale=1.0, ridge=0.0)
    assert np.isnan(pair.theta).all()
    assert np.isnan(pair.logdet)
    with pytest.raises(InputError, match="the inverse has entries that are NaN"):
        pair.change("update", u, sign=1, scale=1.0, ridge=0.0)


def test_an_inverse_that_is_off_is_computed_anew() -> None:
    pair = InversePair(np.eye(30, order="F"), drift_tolerance=1e-10, crossover=9.0)
    pair.theta[3, 3] += 1e-8
    done = pair.change("update", np.ones((30, 1), order="F"), sign=1, scale=1.0, ridge=0.0)
    assert done.refactorized
    assert pair.n_refactorizations == 1
    np.testing.assert_allclose(np.tril(pair.theta), np.tril(np.linalg.inv(np.eye(30) + 1.0)), atol=1e-14)


def test_what_is_no_covariance() -> None:
    for values, message in (
        (np.eye(2) * 1j, "entries of type complex128; expected real numbers"),
        ([["a"]], "expected real numbers"),
        ([[1.0, 2.0], [3.0]], "rows of one length"),
        (np.eye(2) * 1e-310, "rounding errors"),
    ):
        with pytest.raises(InputError, match=message):
            PrecisionMatrix.from_covariance(values)  # type: ignore[arg-type]
    sigma = np.eye(3)
    with pytest.raises(
        InputError, match=r"\(1, 2\) and \(2, 1\) differ by 0.5, where the largest entry is 1"
    ):
        PrecisionMatrix.from_covariance(sigma + 0.5 * np.eye(3, k=1)[[0, 1, 2]] * [[0], [1], [0]])
    with pytest.raises(InputError, match=r"1 genes have no positive variance: B \(0\)"):
        PrecisionMatrix.from_covariance(np.diag([1.0, 0.0, 1.0]), ["A", "B", "C"])
    with pytest.raises(InputError, match=r"first at genes \(A, B\)"):
        PrecisionMatrix.from_covariance([[1.0, np.nan], [0.0, 1.0]], ["A", "B"])
    with pytest.raises(InputError, match=r"\['A'\] appear more than once"):
        PrecisionMatrix.from_covariance(sigma, ["A", "B", "A"])
    with pytest.raises(InputError, match="2 names of genes for a matrix of 3"):
        PrecisionMatrix.from_covariance(sigma, ["A", "B"])
    for shape in ((2, 3), (0, 0), (3,)):
        with pytest.raises(InputError, match="expected \\(gene, gene\\)"):
            PrecisionMatrix.from_covariance(np.ones(shape))
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue is -1"):
        PrecisionMatrix.from_covariance([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(UsageError, match="drift_tolerance=0"):
        PrecisionMatrix.from_covariance(sigma, drift_tolerance=0)
    with pytest.raises(UsageError, match="crossover=-1"):
        PrecisionMatrix.from_covariance(sigma, crossover=-1)


def test_cells_that_are_too_few_or_not_there() -> None:
    x = np.random.default_rng(0).standard_normal((5, 8))
    with pytest.raises(NotPositiveDefiniteError, match=r"5 cells and 8 genes.*ledoit-wolf"):
        PrecisionMatrix.from_moments(CoMoments.of(x))
    PrecisionMatrix.from_moments(CoMoments.of(x), "fixed", 0.1)
    constant = np.c_[x, np.ones(5)]
    with pytest.raises(InputError, match="no positive variance: 2"):
        PrecisionMatrix.from_moments(CoMoments.of(constant[:, 6:]))
    precision = PrecisionMatrix.from_moments(CoMoments.of(x[:, :2]))
    before = precision.sigma
    with pytest.raises(InputError, match=r"removing 4 of 5 cells leaves 1; expected more than 1"):
        precision.remove_cells(x[:4, :2])
    with pytest.raises(NotPositiveDefiniteError, match="remove_cells is refused"):
        precision.remove_cells([[1e3, 1e3]])
    with pytest.raises(InputError, match="cell 1 has expression"):
        precision.add_cells([[1.0, 1.0], [1.0, np.inf]])
    with pytest.raises(InputError, match=r"expected \(cell, 2\)"):
        precision.add_cells(np.ones((2, 3)))
    with pytest.raises(UsageError, match="weight=-1"):
        precision.add_cells([1.0, 1.0], weight=-1)
    with pytest.raises(UsageError, match=r"weigh 0.5"):
        precision.forget(0.1)
    precision.add_cells(np.zeros((0, 2)))
    assert np.array_equal(precision.sigma, before)
    assert precision.cells is not None
    assert precision.cells.count == 5


def test_saved_and_opened(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 6))
    moments = CoMoments.of(x, [f"g{i}" for i in range(6)])
    first = PrecisionMatrix.from_moments(moments, "fixed", 0.1, crossover=1.0)
    first.update(x[:1].T)
    first.add_cells(x[:3] + 1.0)
    path = first.save(tmp_path / "network.zarr")
    second = PrecisionMatrix.open(path)
    for precision in (first, second):
        precision.update(x[1])
        precision.add_cells(x[2])
    assert np.array_equal(first.theta, second.theta)
    assert np.array_equal(first.sigma, second.sigma)
    assert first.history == second.history
    assert first.logdet == second.logdet
    assert first.genes.tolist() == second.genes.tolist() == list(moments.genes)
    assert second.cells is not None
    assert second.cells.count == 54
    with pytest.raises(StoreMismatchError, match="exists"):
        first.save(path)
    first.save(path, overwrite=True)
    assert np.array_equal(PrecisionMatrix.open(path).theta, first.theta)
    plain = PrecisionMatrix.from_covariance(np.eye(2)).save(tmp_path / "plain.zarr")
    assert PrecisionMatrix.open(plain).cells is None


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no saved precision matrix"):
        PrecisionMatrix.open(tmp_path / "nothing.zarr")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(MissingFileError, match="holds no saved precision matrix"):
        PrecisionMatrix.open(tmp_path / "other.zarr")
    path = PrecisionMatrix.from_covariance(covariance(8)[0]).save(tmp_path / "p.zarr")
    group = zarr.open_group(str(path), mode="r+")
    group["theta"][0, 0] = 1e3
    with pytest.raises(DamagedStoreError, match=r"theta at .* is not the inverse of sigma"):
        PrecisionMatrix.open(path)
    chunk = next(p for p in (path / "sigma" / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedStoreError, match="cannot be read"):
        PrecisionMatrix.open(path)
    group.attrs["format_version"] = 99
    with pytest.raises(InputError, match="format 99"):
        PrecisionMatrix.open(path)


def test_what_it_looks_like() -> None:
    network = PrecisionMatrix.from_covariance(np.eye(3))
    assert repr(network) == "PrecisionMatrix(3 genes)"
    network.update([0.1, 0.2, 0.3])
    assert repr(network) == "PrecisionMatrix(3 genes, 1 change)"
    moments = CoMoments.of(np.random.default_rng(0).normal(size=(40, 3)))
    shrunk = PrecisionMatrix.from_moments(moments, "fixed", 0.25)
    assert repr(shrunk) == "PrecisionMatrix(3 genes, shrunk by 0.25)"
