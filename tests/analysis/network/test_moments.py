"""Co-moments against NumPy's covariance and sums in extended precision."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.sums import SPARSE_DENSITY, Accumulator, slab_rows
from stabdask.errors import (
    DamagedStoreError,
    InputError,
    MissingFileError,
    StabdaskWarning,
    StoreMismatchError,
    UsageError,
)

Array = np.ndarray[Any, Any]


def direct(x: Array) -> dict[str, Array]:
    """Return all sums in extended precision, one formula each."""
    wide = np.asarray(x, dtype=np.longdouble)
    from_first = wide - wide[0]  # exactly zero where a gene is constant
    d = from_first - from_first.mean(axis=0)
    squares = (d**2).sum(axis=1)
    return {
        "mean": wide[0] + from_first.mean(axis=0),
        "comoment": d.T @ d,
        "third": squares @ d,
        "fourth": np.asarray((squares**2).sum()),
    }


def assert_moments(found: CoMoments, x: Array, rtol: float = 1e-12) -> None:
    """Compare with the direct sums, each within `rtol` of what it could at most be."""
    assert found.count == len(x)
    expected = direct(x)
    spread = np.sqrt(np.diagonal(expected["comoment"]).astype(float))
    norm = float(np.sqrt(np.trace(expected["comoment"])))
    scale = {
        "mean": np.abs(x).max(axis=0, initial=0.0) + 1e-300,
        "comoment": np.multiply.outer(spread, spread) + 1e-300,
        "third": norm**2 * spread + 1e-300,
        "fourth": norm**4 + 1e-300,
    }
    for name, bound in scale.items():
        error = np.abs(np.asarray(getattr(found, name), dtype=np.longdouble) - expected[name])
        assert (error <= rtol * bound).all(), (name, float((error / bound).max()))
    np.testing.assert_array_equal(found.comoment, found.comoment.T)


def mixture(n: int, g: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.gamma(1.0, 2.0, (n, g)) @ rng.normal(size=(g, g)) + rng.normal(size=g) * 3


@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (1, 4), (2, 7), (50, 3), (700, 20), (40_000, 2)])
def test_agrees_with_numpy(shape: tuple[int, int]) -> None:
    x = mixture(*shape)
    moments = CoMoments.of(x)
    assert_moments(moments, x)
    if shape[0] > 1:
        np.testing.assert_allclose(
            moments.covariance(), np.cov(x, rowvar=False).reshape(shape[1], shape[1]), rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(
            moments.covariance(ddof=0),
            np.cov(x, rowvar=False, ddof=0).reshape(shape[1], -1),
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(
            moments.correlation(), np.corrcoef(x, rowvar=False).reshape(shape[1], -1), rtol=1e-10, atol=1e-12
        )


def test_three_cells_by_hand() -> None:
    moments = CoMoments.of([[1, 0], [2, 0], [6, 3]])
    # d: (-2, -1), (-1, -1), (3, 2); |d|^2: 5, 2, 13.
    assert moments.mean.tolist() == [3.0, 1.0]
    np.testing.assert_allclose(moments.comoment, [[14.0, 9.0], [9.0, 6.0]], rtol=1e-14)
    np.testing.assert_allclose(moments.third, [-10 - 2 + 39, -5 - 2 + 26], rtol=1e-14)
    assert moments.fourth == pytest.approx(25 + 4 + 169, rel=1e-14)


@given(st.data())
@settings(max_examples=60)
def test_any_split_in_any_order_is_the_whole(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    n, g = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6))
    offset = data.draw(st.sampled_from([0.0, 5.0, 1e4]))
    x = rng.normal(size=(n, g)) * rng.uniform(0.1, 5.0, g) + offset
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    parts = [CoMoments.of(part) for part in np.split(x, cuts)]
    order = data.draw(st.permutations(range(len(parts))))
    merged = sum((parts[i] for i in order), start=CoMoments.empty(parts[0].genes))
    assert_moments(merged, x, rtol=1e-9)
    # Grouped the other way, as a tree does.
    right = parts[order[-1]]
    for i in order[-2::-1]:
        right = parts[i] + right
    assert_moments(right, x, rtol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5), st.data())
@settings(max_examples=60)
def test_cells_taken_away_leave_the_others(seed: int, n: int, g: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, g)) + rng.normal(size=g) * 3
    n_gone = data.draw(st.integers(0, n))
    gone = rng.permutation(n) < n_gone
    rest = CoMoments.of(x) - CoMoments.of(x[gone])
    if n_gone == n:
        assert rest.count == 0
        assert not rest.comoment.any()
        return
    assert_moments_loosely(rest, x[~gone], np.abs(x - x.mean(axis=0)).max() ** 2 * n)


def assert_moments_loosely(found: CoMoments, x: Array, scale: float) -> None:
    """Compare with the direct sums, with rounding of what was there before."""
    expected = direct(x)
    assert found.count == len(x)
    assert found.third is not None
    np.testing.assert_allclose(found.mean, expected["mean"].astype(float), rtol=0, atol=1e-12 * (1 + scale))
    np.testing.assert_allclose(found.comoment, expected["comoment"].astype(float), atol=1e-12 * scale)
    np.testing.assert_allclose(found.third, expected["third"].astype(float), atol=1e-11 * scale**1.5)
    np.testing.assert_allclose(found.fourth, float(expected["fourth"]), atol=1e-11 * scale**2)


awkward = st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 0.0, 0.0, 1.0, 1e-3, 1e6])


@given(st.data())
@settings(max_examples=100)
def test_awkward_numbers(data: st.DataObject) -> None:
    """Of any size beside each other: sparse, split and taken away, none is refused and all agree."""
    n, g = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    x = data.draw(hnp.arrays(float, (n, g), elements=awkward))
    whole = CoMoments.of(x)
    cut = data.draw(st.integers(0, n))
    first, second = CoMoments.of(x[:cut]), CoMoments.of(x[cut:])
    spread = np.sqrt(np.diagonal(whole.comoment))
    bound = np.multiply.outer(spread, spread) + 1e-300
    for other in (CoMoments.of(sparse.csr_array(x)), first + second):
        assert (np.abs(other.comoment - whole.comoment) <= 1e-11 * bound).all()
        assert other.fourth == pytest.approx(whole.fourth, rel=1e-9, abs=1e-300)
    rest = whole - first
    # What is less than rounding of what was there is nothing, and its root goes with it.
    assert (np.abs(rest.comoment - second.comoment) <= 1e-7 * bound).all()
    np.testing.assert_allclose(rest.mean, second.mean, rtol=0, atol=1e-12 * n * (1 + np.abs(x).max()))


@pytest.mark.parametrize("offset", [1e6, -1e6, 1e8])
def test_large_offsets_keep_the_variance(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3_000, 5)) + offset
    expected = np.cov(x - offset, rowvar=False)
    for moments in (
        CoMoments.of(x),
        sum(CoMoments.of(part) for part in np.array_split(x, 37)),
        CoMoments.of(sparse.csr_array(x)),
    ):
        np.testing.assert_allclose(moments.covariance(), expected, rtol=0, atol=1e-8)
    # The formula with raw sums, which these must not be, is off by far more.
    raw = (x.T @ x - len(x) * np.multiply.outer(x.mean(axis=0), x.mean(axis=0))) / (len(x) - 1)
    assert np.abs(raw - expected).max() > 1e-6


def test_blocks_with_far_means_merge() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([np.zeros((50, 3)), rng.normal(size=(200, 3)) + 1e6])
    merged = CoMoments.of(x[:50]) + CoMoments.of(x[50:])
    assert_moments(merged, x)
    rest = merged - CoMoments.of(x[:50])
    # 1e6^2 of the squares are gone: what they left of 16 digits is right.
    np.testing.assert_allclose(rest.covariance(), np.cov(x[50:], rowvar=False), atol=1e-2)


def test_how_cells_are_cut_leaves_no_trace() -> None:
    x = mixture(1_000, 6)
    results = []
    for cuts in ([], [1], [100, 101, 613], list(range(0, 1000, 7))):
        sums = Accumulator(6, fourth=True, rows=64)
        for part in np.split(x, cuts):
            sums.add(part)
        results.append(sums.result())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].comoment, other.comoment)
        np.testing.assert_array_equal(results[0].mean, other.mean)
        assert results[0].fourth == other.fourth
    assert_moments(CoMoments.from_sums(results[0], np.arange(6).astype(str)), x)


def test_many_slabs_are_one_block() -> None:
    n_genes = 400
    x = np.random.default_rng(2).normal(size=(2 * slab_rows(n_genes) + 5, n_genes)).astype(np.float32)
    moments = CoMoments.of(x)
    np.testing.assert_allclose(moments.covariance(), np.cov(x, rowvar=False), atol=1e-12)


@pytest.mark.parametrize("density", [0.0, 0.005, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_is_dense(density: float, kind: str) -> None:
    rng = np.random.default_rng(3)
    x = sparse.random_array(
        (2_000, 40), density=density, rng=rng, data_sampler=lambda size: rng.gamma(2, 1, size)
    )
    x = x.toarray()
    assert_moments(CoMoments.of(sparse.coo_array(x).asformat(kind)), x)


def test_sparse_with_a_gene_in_all_cells() -> None:
    """Whose mean is large, among rare ones: it is not to be left uncentered."""
    rng = np.random.default_rng(4)
    x = sparse.random_array((17_000, 100), density=0.01, rng=rng).toarray()
    x[:, 7] = 1e6 + rng.normal(size=len(x))
    x[:, 9] = 0.1
    stored = sparse.csr_array(x)
    assert stored.nnz < SPARSE_DENSITY * x.size
    moments = CoMoments.of(stored)
    assert_moments(moments, x, rtol=1e-10)
    assert moments.constant[9]
    assert moments.covariance()[7, 7] == pytest.approx(np.var(x[:, 7] - 1e6, ddof=1), rel=1e-8)


def test_sparse_duplicates_add_up_and_the_matrix_stays_as_it_is() -> None:
    x = sparse.csr_array(
        (np.array([1.0, 2.0, 5.0]), np.array([1, 1, 0]), np.array([0, 2, 2, 3])), shape=(3, 2)
    )
    assert_moments(CoMoments.of(x), x.toarray())
    assert x.nnz == 3
    assert x.data.tolist() == [1.0, 2.0, 5.0]


def test_sparse_bools_and_integers() -> None:
    x = np.arange(12).reshape(6, 2) % 5
    assert_moments(CoMoments.of(sparse.csr_array(x)), x)
    assert_moments(CoMoments.of(x > 2), (x > 2).astype(float))
    assert_moments(CoMoments.of(sparse.csr_array(x > 2)), (x > 2).astype(float))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.3, 1e-30])
def test_constant_genes_have_exactly_no_variance(value: float) -> None:
    x = np.random.default_rng(5).normal(size=(1_001, 3))
    x[:, 1] = value
    parts = np.array_split(x, 13)
    for moments in (
        CoMoments.of(x),
        sum(CoMoments.of(part) for part in parts),
        CoMoments.of(sparse.csr_array(x)),
    ):
        assert moments.constant.tolist() == [False, True, False]
        assert moments.mean[1] == pytest.approx(value, rel=1e-15)
        with pytest.warns(StabdaskWarning, match=r"1 of 3 genes do not vary \('1'\)"):
            correlation = moments.correlation()
        assert np.isnan(correlation[1]).all()
        assert np.isnan(correlation[:, 1]).all()
        np.testing.assert_allclose(
            correlation[::2, ::2], np.corrcoef(x[:, ::2], rowvar=False), rtol=0, atol=1e-13
        )


def test_a_gene_that_varied_in_the_cells_taken_away_is_constant() -> None:
    x = np.random.default_rng(6).normal(size=(30, 2))
    x[10:, 1] = 4.0
    rest = CoMoments.of(x) - CoMoments.of(x[:10])
    assert rest.constant.tolist() == [False, True]


def test_no_cells_are_the_identity() -> None:
    moments = CoMoments.of(mixture(5, 3), ["a", "b", "c"])
    nothing = CoMoments.empty(["a", "b", "c"])
    for other in (moments + nothing, nothing + moments, moments - nothing, sum([moments])):
        assert other.count == 5
        np.testing.assert_array_equal(other.comoment, moments.comoment)
        assert other.fourth == moments.fourth
    assert (nothing + nothing).count == 0
    assert CoMoments.of(np.empty((0, 3))).count == 0
    assert CoMoments.of(sparse.csr_array((0, 3))).count == 0
    with pytest.raises(InputError, match=r"0 cells have no covariance"):
        nothing.covariance()


def test_without_fourth_order() -> None:
    x = mixture(9, 2)
    without, with_it = CoMoments.of(x, fourth=False), CoMoments.of(x)
    assert without.fourth is None
    assert without.third is None
    np.testing.assert_array_equal(without.comoment, with_it.comoment)
    assert (without + with_it).fourth is None
    assert (with_it - without).fourth is None
    assert (CoMoments.empty(["0", "1"]) + without).fourth is None
    assert CoMoments.of(sparse.random_array((99, 9), density=0.01, rng=0), fourth=False).third is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_cells_that_are_not_finite(bad: float, make: Any) -> None:
    x = mixture(10, 3)
    x[4, 1] = x[7, 2] = bad
    with pytest.raises(InputError, match=r"row number 4 of 10 is not finite"):
        CoMoments.of(make(x))
    moments = CoMoments.of(make(x), missing="skip")
    assert moments.n_skipped == 2
    assert_moments(moments, np.delete(x, [4, 7], axis=0))
    assert (moments + moments).n_skipped == 4


def test_bad_blocks_are_refused() -> None:
    x = mixture(4, 2)
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        CoMoments.of(x[:, 0])
    with pytest.raises(InputError, match="dtype complex128"):
        CoMoments.of(x.astype(complex))
    with pytest.raises(InputError, match="dtype object"):
        CoMoments.of(x.astype(object))
    with pytest.raises(InputError, match="3 names for 2 genes"):
        CoMoments.of(x, ["a", "b", "c"])
    with pytest.raises(InputError, match=r"names repeat \('a'\)"):
        CoMoments.of(x, ["a", "a"])
    with pytest.raises(InputError, match="expected a sequence"):
        CoMoments.of(x, "ab")
    with pytest.raises(UsageError, match="did you mean 'skip'"):
        CoMoments.of(x, missing="skp")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rescale"):
        CoMoments.of(x * 1e200)
    with pytest.raises(InputError, match="rescale"):
        CoMoments.of(x * 1e90)
    with pytest.raises(InputError, match="masked array"):
        CoMoments.of(np.ma.masked_less(x, 0))
    import dask.array as da

    with pytest.raises(InputError, match="from_cells"):
        CoMoments.of(da.from_array(x))


def test_merging_other_genes_is_refused() -> None:
    x = mixture(4, 3)
    first = CoMoments.of(x, ["a", "b", "c"])
    with pytest.raises(InputError, match="number 1 is 'b' in one and 'B' in the other"):
        first + CoMoments.of(x, ["a", "B", "c"])
    with pytest.raises(InputError, match="one has 3 and the other 2, 'c' only in one"):
        first - CoMoments.of(x[:, :2], ["a", "b"])
    with pytest.raises(TypeError):
        first + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        first - 1  # type: ignore[operator]


def test_cells_that_were_never_there_cannot_be_taken_away() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(40, 3))
    whole = CoMoments.of(x)
    with pytest.raises(InputError, match=r"41 cells cannot be taken from 40"):
        whole - CoMoments.of(rng.normal(size=(41, 3)))
    with pytest.raises(InputError, match="would be left of the squares of gene '1'"):
        whole - CoMoments.of(x[:5] * [1.0, 20.0, 1.0])
    with pytest.raises(InputError, match="differ in gene '2'"):
        whole - CoMoments.of(x + np.array([0.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="differ in gene"):
        whole - CoMoments.of(x * 1.1)


def test_a_rest_of_variances_alone_is_not_enough() -> None:
    """Every gene keeps a positive variance, and yet no cells have these co-moments."""
    whole = CoMoments(10, [0.0, 0.0], [[10.0, 9.0], [9.0, 10.0]])
    part = CoMoments(5, [0.0, 0.0], [[5.0, -4.0], [-4.0, 5.0]])
    with pytest.raises(InputError, match=r"an eigenvalue of -0\.8 "):
        whole - part


def test_one_cell_left_has_no_spread() -> None:
    x = mixture(6, 3)
    rest = CoMoments.of(x) - CoMoments.of(x[1:])
    assert rest.count == 1
    assert not rest.comoment.any()
    assert rest.fourth == 0.0
    np.testing.assert_allclose(rest.mean, x[0], rtol=1e-12)
    with pytest.raises(InputError, match="1 cells have no correlation"):
        rest.correlation()


def test_numbers_given_are_checked() -> None:
    good: dict[str, Any] = {"count": 3, "mean": [0.0, 1.0], "comoment": [[2.0, 1.0], [1.0, 2.0]]}
    assert CoMoments(**good).count == 3
    for change, message in (
        ({"count": -1}, "count=-1"),
        ({"count": 2.5}, r"count=2\.5"),
        ({"count": True}, "count=True"),
        ({"mean": [[0.0, 1.0]]}, r"shape \(1, 2\)"),
        ({"mean": [0.0]}, r"expected \(1, 1\)"),
        ({"mean": [0.0, np.nan]}, "mean of gene '1' is not finite"),
        ({"comoment": [[2.0, np.inf], [np.inf, 2.0]]}, "co-moments of gene '1' is not finite"),
        (
            {"comoment": [[2.0, 1.0], [0.5, 2.0]]},
            r"not symmetric: those of '0' with '1' and back differ by 0\.5",
        ),
        ({"comoment": [[-2.0, 0.0], [0.0, 2.0]]}, "gene '0' with itself is -2"),
        ({"third": [0.0, 0.0]}, "one of third and fourth"),
        ({"third": [0.0], "fourth": 1.0}, r"third has shape \(1,\)"),
        ({"count": 1}, "co-moments of 1 cells are not zero"),
        ({"count": 0}, "co-moments of 0 cells are not zero"),
        ({"genes": ["a", "a"]}, "repeat"),
    ):
        with pytest.raises(InputError, match=message):
            CoMoments(**{**good, **change})


def test_what_is_too_small_to_be_squared_is_constant() -> None:
    moments = CoMoments.of([[1e-200, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert moments.constant.tolist() == [True, False]
    np.testing.assert_allclose(moments.comoment, [[0.0, 0.0], [0.0, 2 / 3]])


def test_symmetric_to_the_last_bit() -> None:
    moments = CoMoments(3, [0.0, 0.0], [[1.0, 0.3], [0.1 + 0.2, 1.0]])
    np.testing.assert_array_equal(moments.comoment, moments.comoment.T)


def test_arrays_cannot_be_changed_and_what_was_given_can() -> None:
    mean, comoment = np.zeros(2), np.eye(2)
    moments = CoMoments(3, mean, comoment)
    mean[0] = comoment[0, 0] = 5.0
    assert moments.mean[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        moments.comoment[0, 0] = 1.0
    with pytest.raises(AttributeError):
        moments.count = 4  # type: ignore[misc]
    x = mixture(7, 2)
    before = x.copy()
    CoMoments.of(x)
    np.testing.assert_array_equal(x, before)
    again = pickle.loads(pickle.dumps(moments))
    np.testing.assert_array_equal(again.comoment, moments.comoment)
    assert repr(again) == "CoMoments(3 cells, 2 genes)"


def test_correlations_stay_within_one() -> None:
    x = np.random.default_rng(8).normal(size=(50, 1)) * [1.0, 3.0, -7.0, 1e-160]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        correlation = CoMoments.of(x[:, :3]).correlation()
    assert np.abs(correlation).max() == 1.0
    np.testing.assert_array_equal(correlation, correlation.T)
    np.testing.assert_allclose(correlation, [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-14)


@pytest.mark.parametrize("fourth", [True, False])
def test_saved_and_opened(tmp_path: Path, fourth: bool) -> None:
    x = mixture(20, 4)
    x[3] = np.nan
    moments = CoMoments.of(x, ["a/b", "..", "ä", ""], fourth=fourth, missing="skip")
    path = moments.save(tmp_path / "m.zarr")
    again = CoMoments.open(path)
    for name in ("count", "n_skipped", "fourth"):
        assert getattr(again, name) == getattr(moments, name)
    for name in ("mean", "comoment", "genes", "third"):
        np.testing.assert_array_equal(getattr(again, name), getattr(moments, name))
    with pytest.raises(StoreMismatchError, match="exists"):
        moments.save(path)
    (moments + moments).save(path, overwrite=True)
    assert CoMoments.open(path).count == 38
    nothing = CoMoments.empty(["a"]).save(tmp_path / "nothing.zarr")
    assert CoMoments.open(nothing).count == 0


def test_opening_what_is_none_or_damaged(tmp_path: Path) -> None:
    import json

    import zarr

    with pytest.raises(MissingFileError, match="no saved co-moments at"):
        CoMoments.open(tmp_path / "nothing.zarr")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(MissingFileError, match="holds no saved co-moments"):
        CoMoments.open(tmp_path / "other.zarr")
    path = CoMoments.of(mixture(20, 4)).save(tmp_path / "m.zarr")
    (chunk,) = (p for p in (path / "mean").rglob("*") if p.is_file() and p.name != "zarr.json")
    intact = chunk.read_bytes()
    chunk.write_bytes(intact[:-6] + bytes([intact[-6] ^ 1]) + intact[-5:])
    with pytest.raises(DamagedStoreError, match="write them again"):
        CoMoments.open(path)
    chunk.write_bytes(intact)
    facts = json.loads((path / "zarr.json").read_text())
    facts["attributes"]["count"] = 21
    (path / "zarr.json").write_text(json.dumps(facts))
    with pytest.raises(DamagedStoreError, match="fingerprint"):
        CoMoments.open(path)
    facts["attributes"]["format_version"] = 2
    (path / "zarr.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="format 2"):
        CoMoments.open(path)
