"""Counts of rounded values against NumPy's quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabdask.analysis.quantiles import RELATIVE_ERROR, count_rounded, merge_counts, quantiles_of_counts

Array = np.ndarray[Any, Any]

numbers = (
    st.floats(-1e9, 1e9)
    | st.floats(1e-300, 1e300)
    | st.sampled_from([0.0, -0.0, 1.0, -3.0, np.nan, np.inf, -np.inf, 1.7976931348623157e308])
    | st.integers(-2048, 2048).map(float)
)
levels = (0.0, 0.05, 0.25, 0.5, 0.9, 1.0)


@given(st.data())
@settings(max_examples=80)
def test_order_statistics_are_within_their_error(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 40))
    values = data.draw(hnp.arrays(float, n, elements=numbers))
    codes = data.draw(hnp.arrays(np.int32, n, elements=st.integers(-1, 3)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = [
        count_rounded(part, code)
        for part, code in zip(np.split(values, cuts), np.split(codes, cuts), strict=True)
    ]
    counts = merge_counts(parts)
    for one, other in zip(counts, merge_counts([*parts[1:], parts[0]]), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(counts, count_rounded(values, codes), strict=True):
        np.testing.assert_array_equal(one, other)
    found = quantiles_of_counts(counts, 4, levels)
    for group in range(4):
        own = np.sort(values[(codes == group) & ~np.isnan(values)])
        if not len(own):
            assert np.isnan(found[group]).all()
            continue
        for column, level in enumerate(levels):
            rank = level * (len(own) - 1)
            low, high = own[int(np.floor(rank))], own[min(int(np.floor(rank)) + 1, len(own) - 1)]
            if np.isinf([low, high]).any():
                if low == high:
                    assert found[group, column] == low
                continue
            with np.errstate(over="ignore"):
                expected = low + (high - low) * (rank - np.floor(rank))
            if not np.isfinite(expected):
                continue  # the difference of the largest doubles
            allowed = RELATIVE_ERROR * max(abs(low), abs(high)) * (1 + 1e-9) + 2.0**-1033
            assert abs(found[group, column] - expected) <= allowed


def test_integers_to_2048_are_exact() -> None:
    values = np.random.default_rng(0).integers(-2048, 2049, 5_000).astype(float)
    found = quantiles_of_counts(count_rounded(values, np.zeros(5_000, dtype=np.int32)), 1, levels)[0]
    np.testing.assert_allclose(found, np.quantile(values, levels), rtol=0, atol=1e-9)


def test_the_stated_error_is_met_and_no_smaller() -> None:
    """Of a value half way between two that are kept."""
    values = np.array([1.0 + 2.0**-11])
    found = quantiles_of_counts(count_rounded(values, np.zeros(1, dtype=np.int32)), 1, (0.5,))[0, 0]
    assert abs(found / values[0] - 1) == pytest.approx(RELATIVE_ERROR, rel=1e-3)


def test_counts_of_many_groups_are_small() -> None:
    rng = np.random.default_rng(1)
    values, codes = rng.lognormal(size=50_000), rng.integers(0, 5, 50_000).astype(np.int32)
    counts = count_rounded(values, codes)
    assert len(counts.keys) < 0.5 * len(values)
    assert int(counts.counts.sum()) == len(values)
    assert (np.diff(counts.keys) > 0).all()
