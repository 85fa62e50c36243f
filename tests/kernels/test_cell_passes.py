"""Rows taken and sums over spectra, by NumPy and in every compiled variant that runs here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabdask.kernels.rows import finite_rows, take_rows
from stabdask.kernels.spectrum import spectrum_sums

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("way")


# --- rows --------------------------------------------------------------------------------------------------


def test_finite_rows() -> None:
    x = np.array([[1, 2], [np.nan, 2], [1, np.inf], [-np.inf, np.nan], [-1e300, 1e300]])
    assert finite_rows(x).tolist() == [True, False, False, False, True]
    assert finite_rows(np.empty((3, 0))).tolist() == [True] * 3
    assert finite_rows(np.empty((0, 3))).shape == (0,)
    assert finite_rows(np.ones((2, 2), dtype=int)).all()


@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 9), st.integers(0, 70)),
    dtype=st.sampled_from(["f4", "f8", "f2", "i4"]),
)
def test_rows_are_taken_as_by_indexing(data: st.DataObject, shape: tuple[int, int], dtype: str) -> None:
    whole = data.draw(hnp.arrays(dtype, shape))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=3)))
    pieces = np.split(whole, cuts)
    wanted = np.flatnonzero(data.draw(hnp.arrays(bool, shape[0])))
    within = st.integers(0, max(0, shape[1] - 1))
    columns = data.draw(st.none() | st.lists(within, max_size=2 * shape[1]))
    own = None if columns is None else np.asarray(columns, dtype=np.intp)
    x, finite, lowest = take_rows(pieces, wanted, own)
    expected = whole[wanted] if own is None else whole[wanted][:, own]
    assert x.dtype == whole.dtype
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(finite, np.isfinite(expected).all(axis=1))
    least = expected[finite].min(axis=1) if expected.shape[1] else np.inf
    np.testing.assert_array_equal(lowest[finite], least)


def test_rows_of_pieces_of_any_layout() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(12, 33)).astype("f4")
    whole[7, 32] = np.inf
    backwards = np.ascontiguousarray(whole[9:, ::-1])[:, ::-1]
    pieces = [np.asfortranarray(whole[:4]), np.repeat(whole[4:9], 2, axis=0)[::2], backwards]
    x, finite, _ = take_rows(pieces, np.arange(12))
    np.testing.assert_array_equal(x, whole)
    assert np.flatnonzero(~finite).tolist() == [7]
    mixed = [whole[:4], whole[4:].astype("f8")]
    assert take_rows(mixed, np.arange(12))[0].dtype == np.float64
    np.testing.assert_array_equal(take_rows(mixed, np.arange(12))[0], whole)


def test_one_column_of_any_stride() -> None:
    x = np.arange(12.0).reshape(4, 3)[:, 1:2]
    taken, finite, _ = take_rows([x], np.array([0, 2]))
    assert taken.tolist() == [[1.0], [7.0]]
    assert finite.all()
    strided = np.lib.stride_tricks.as_strided(np.arange(4.0), (4, 1), (8, 80))
    assert take_rows([strided], np.array([1, 3]))[0].tolist() == [[1.0], [3.0]]


def test_columns_out_of_range_are_refused() -> None:
    for columns in ([2], [-3]):
        with pytest.raises(IndexError):
            take_rows([np.ones((3, 2))], np.array([0]), np.array(columns))


# --- sums over spectra -------------------------------------------------------------------------------------


def expected_sums(values: Array, tolerance: float) -> list[Any]:
    """Return what one row of `spectrum_sums` should be, number by number."""
    own = [complex(value) for value in values if not np.isnan(value.real)]
    return [
        sum(abs(value) ** 2 for value in own),
        sum(np.log(abs(value)) if value else -np.inf for value in own),
        len(own),
        sum(value.real > tolerance for value in own),
        sum(value.real < -tolerance for value in own),
        sum(value.real < 0 and value.imag == 0 for value in own),
        sum(value == 0 for value in own),
    ]


@pytest.mark.parametrize("width", [0, 1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_sums_over_spectra(width: int, dtype: str) -> None:
    rng = np.random.default_rng(width)
    values = (rng.normal(size=(20, width)) + 1j * rng.normal(size=(20, width))).astype(dtype)
    values[rng.random(values.shape) < 0.4] = -0.25
    values[rng.random(values.shape) < 0.2] = 1e-4
    values[rng.random(values.shape) < 0.2] = complex(np.nan, np.nan)
    values[3, 1:2] = 0.0
    sums = vars(spectrum_sums(values, 1e-3))
    for row, own in enumerate(values):
        found = [column[row] for column in sums.values()]
        assert found == pytest.approx(expected_sums(own, 1e-3), rel=1e-13, abs=1e-13)


def test_logarithms_at_the_ends_of_the_range() -> None:
    values = np.array([[1e-200, 1e200 + 1e200j, 1e-310, -1e-320j]])
    with np.errstate(all="raise", under="ignore"):
        sums = spectrum_sums(values, 0.0)
    parts = values[0].view(np.float64).reshape(-1, 2).astype(np.longdouble)
    assert sums.logs[0] == pytest.approx(float(np.log(np.hypot(*parts.T)).sum()), rel=1e-14)
    assert sums.squares[0] == np.inf
    assert (sums.negative[0], sums.vanishing[0]) == (0, 0)


def test_sums_do_not_depend_on_the_padding() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6, 13)) + 1j * rng.normal(size=(6, 13))
    padded = np.full((6, 30), complex(np.nan, np.nan))
    padded[:, :13] = values
    for name, sums in vars(spectrum_sums(values, 0.1)).items():
        np.testing.assert_allclose(sums, vars(spectrum_sums(padded, 0.1))[name], rtol=1e-15, err_msg=name)
