"""Quantiles of more values than fit in memory, from counts of rounded values.

Values are rounded to 11 significant bits and counted. Counts add up, so the result is the same to the last bit
whatever the chunks, their order and the way they are merged, and every order statistic is known to half a unit
of the last place kept: a relative error of at most 2^-11 (below the smallest normal number, an absolute one of
2^-1033). Sketches of bounded rank error were tried and are not like this: t-digests give other quantiles for
other chunks and bound nothing, KLL sketches draw random numbers. Rounding to a relative error is the idea of
DDSketch (Masson, Rim & Lee 2019, PVLDB 12(12), 2195-2205), with the powers of its base replaced by the binary
digits that the values have already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["RELATIVE_ERROR", "Counts", "count_rounded", "merge_counts", "quantiles_of_counts"]

RELATIVE_ERROR = 2.0**-11
"""Largest relative error of an order statistic: half a unit in the last of 11 significant bits."""

_SHIFT = 42  # of the 52 stored bits of a double's significand, 10 stay, and the leading one is implied
_WIDTH = 22  # bits of a key: sign, exponent, 10 bits of significand
_ZERO = 1 << (_WIDTH - 1)
_INFINITY = 0x7FF << (52 - _SHIFT)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Counts(NamedTuple):
    """How often each rounded value was met in each group; keys ascend by group, then by value."""

    keys: Integers
    counts: Integers


def count_rounded(values: Floats, codes: npt.NDArray[np.integer]) -> Counts:
    """Count the rounded values of each group; NaN and cells in no group (code -1) are left out."""
    kept = (codes >= 0) & ~np.isnan(values)
    value = values[kept] + 0.0  # -0 and 0 are one value
    bits = value.view(np.int64)
    size = ((bits & np.iinfo(np.int64).max) + (1 << (_SHIFT - 1))) >> _SHIFT
    # The largest finite doubles would be rounded to infinity.
    size = np.minimum(size, np.where(np.isinf(value), _INFINITY, _INFINITY - 1))
    key = np.where(bits < 0, -size, size) + _ZERO
    keys, counts = np.unique((codes[kept].astype(np.int64) << _WIDTH) | key, return_counts=True)
    return Counts(keys, counts.astype(np.int64))


def merge_counts(parts: Sequence[Counts]) -> Counts:
    """Add up counts; the result does not depend on their order or number."""
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return Counts(keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts)


def quantiles_of_counts(counts: Counts, n_groups: int, quantiles: Sequence[float]) -> Floats:
    """Return the quantiles ``(group, quantile)``, NaN for groups without values.

    Linear between order statistics, like `numpy.quantile`; each of the two that a quantile lies between has a
    relative error of at most `RELATIVE_ERROR`.
    """
    total = np.concatenate([[0], np.cumsum(counts.counts)])
    first = np.searchsorted(counts.keys >> _WIDTH, np.arange(n_groups + 1))
    begin, n = total[first[:-1]], np.diff(total[first])
    out = np.full((n_groups, len(quantiles)), np.nan)
    filled = np.flatnonzero(n)
    values = _rounded_values(counts.keys)
    for column, quantile in enumerate(quantiles):
        rank = quantile * (n[filled] - 1)
        below = np.floor(rank).astype(np.int64)
        above = np.minimum(below + 1, n[filled] - 1)
        low, high = (
            values[np.searchsorted(total, begin[filled] + position, side="right") - 1]
            for position in (below, above)
        )
        out[filled, column] = between(low, high, rank - below)
    return out


def between(low: Floats, high: Floats, fraction: Floats) -> Floats:
    """Return the point at `fraction` between two order statistics, either of which may be infinite."""
    with np.errstate(invalid="ignore"):
        inner = low + (high - low) * fraction
    # Infinity less infinity is NaN, where no interpolation is needed.
    out: Floats = np.where((low == high) | (fraction == 0), low, inner)
    return out


def _rounded_values(keys: Integers) -> Floats:
    key = (keys & ((1 << _WIDTH) - 1)) - _ZERO
    sizes: Floats = (np.abs(key) << _SHIFT).view(np.float64)
    return np.where(key < 0, -sizes, sizes)
