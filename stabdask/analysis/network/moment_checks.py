"""What co-moments must be: names, shapes, finite numbers, sums of squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.sums import Sums
from stabdask.errors import InputError, UsageError, near_misses

__all__ = [
    "check_dtype",
    "check_missing",
    "check_numbers",
    "check_rest",
    "check_same",
    "check_same_genes",
    "check_shapes",
    "checked_genes",
    "not_finite",
    "whole_number",
]

Names = npt.NDArray[np.str_]

_ROUNDING = 1e-8
"""How much less than nothing may be left of a variance, relative to what was there, before it is no rounding."""
_DIGITS = 16 * float(np.finfo(np.float64).eps)
"""What is left of a variance up to this, relative to what was there, is rounding alone."""


def checked_genes(genes: Sequence[str] | npt.NDArray[Any] | None, n_genes: int) -> Names:
    """Return names of genes, or their numbers where there are none.

    Raises
    ------
    InputError
        If there are not `n_genes`, or names repeat.
    """
    if genes is None:
        return np.arange(n_genes).astype(np.str_)
    if isinstance(genes, str):
        raise InputError(f"genes={genes!r}; expected a sequence of names")
    names = np.asarray([str(gene) for gene in genes], dtype=np.str_)
    if len(names) != n_genes:
        raise InputError(f"{len(names):,} names for {n_genes:,} genes; expected one for each")
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        repeated = ", ".join(repr(str(name)) for name in unique[counts > 1][:5])
        raise InputError(
            f"gene names repeat ({repeated}); make them unique, e.g. adata.var_names_make_unique()"
        )
    return names


def check_missing(missing: str) -> None:
    """Raise unless it is known what to do with cells that are not finite.

    Raises
    ------
    UsageError
        If it is not.
    """
    if missing not in ("error", "skip"):
        hint = near_misses(str(missing), ("error", "skip"), noun="choices")
        raise UsageError(f"missing={missing!r} is not known; {hint}")


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise unless expression of that type is made of real numbers.

    Raises
    ------
    InputError
        If it is not.
    """
    if dtype.kind not in "fiub":
        raise InputError(f"the cells have dtype {dtype}; expected real numbers")


def not_finite(which: str, what: str) -> InputError:
    """Return the error about the first cell that is not finite."""
    return InputError(
        f"the expression of {what} {which} is not finite (NaN or infinite), the first such one; correct it, or leave "
        "such cells out with missing='skip'"
    )


def check_same_genes(a: Names, b: Names) -> None:
    """Raise unless the genes are the same, in the same order.

    Raises
    ------
    InputError
        If they are not; the message names the first difference.
    """
    if np.array_equal(a, b):
        return
    if len(a) == len(b):
        where = int(np.argmax(a != b))
        found = f"number {where} is {str(a[where])!r} in one and {str(b[where])!r} in the other"
    else:
        found = f"one has {len(a):,} and the other {len(b):,}"
        several = set(a.tolist()) ^ set(b.tolist())
        first = next((str(gene) for gene in [*a, *b] if str(gene) in several), None)
        found += "" if first is None else f", {first!r} only in one"
    raise InputError(
        f"the genes differ: {found}; expected the same genes in the same order, e.g. from open_cells(genes=...)"
    )


def whole_number(number: int, name: str) -> int:
    """Return a number as an integer.

    Raises
    ------
    InputError
        If it is none, or negative.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
        raise InputError(f"{name}={number!r}; expected a whole number, at least 0")
    return int(number)


def check_shapes(sums: Sums) -> None:
    """Raise unless the shapes of sums fit together.

    Raises
    ------
    InputError
        If they do not.
    """
    if sums.mean.ndim != 1:
        raise InputError(f"the mean has shape {sums.mean.shape}; expected (gene,)")
    n = len(sums.mean)
    if sums.comoment.shape != (n, n):
        raise InputError(f"the co-moments have shape {sums.comoment.shape}; expected ({n}, {n})")
    if (sums.third is None) != (sums.fourth is None):
        raise InputError("one of third and fourth was given; expected both or none")
    if sums.third is not None and sums.third.shape != (n,):
        raise InputError(f"third has shape {sums.third.shape}; expected ({n},)")


def check_numbers(sums: Sums, genes: Names) -> None:
    """Raise unless sums are finite, symmetric, and not negative where they are of squares.

    Raises
    ------
    InputError
        If they are not.
    """
    parts: dict[str, Any] = {
        "mean": sums.mean,
        "co-moments": sums.comoment,
        "third": sums.third,
        "fourth": sums.fourth,
    }
    for name, values in parts.items():
        if values is not None and not np.isfinite(values).all():
            where = np.argwhere(~np.isfinite(np.atleast_1d(values)))[0][-1]
            gene = f" of gene {str(genes[where])!r}" if name != "fourth" else ""
            raise InputError(f"{name}{gene} is not finite; expected sums over cells that are")
    diagonal = np.diagonal(sums.comoment)
    if (diagonal < 0).any():
        where = int(np.argmin(diagonal))
        raise InputError(
            f"the co-moment of gene {str(genes[where])!r} with itself is {diagonal[where]:.3g}; "
            "expected a sum of squares"
        )
    difference = np.abs(sums.comoment - sums.comoment.T)
    if difference.max(initial=0.0) > 1e-10 * diagonal.max(initial=0.0):
        i, j = np.unravel_index(int(difference.argmax()), difference.shape)
        raise InputError(
            f"the co-moments are not symmetric: those of {str(genes[i])!r} with {str(genes[j])!r} and back differ by "
            f"{difference[i, j]:.3g}; expected the sum over cells of (x - mean)(x - mean)^T"
        )
    empty = sums.count == 0 and (sums.mean.any() or sums.comoment.any())
    if empty or (sums.count == 1 and sums.comoment.any()):
        raise InputError(f"co-moments of {sums.count} cells are not zero; expected zero")


def check_same(whole: Sums, part: Sums, genes: Names) -> None:
    """Raise unless as many cells as there are can be all of them.

    Raises
    ------
    InputError
        If their means or co-moments differ.
    """
    scale = np.sqrt(np.diagonal(whole.comoment))
    spread = np.abs(whole.comoment - part.comoment) > _ROUNDING * np.multiply.outer(scale, scale)
    mean = np.abs(whole.mean - part.mean) > _ROUNDING * (scale + np.abs(whole.mean))
    if spread.any() or mean.any():
        where = int(np.argmax(mean if mean.any() else spread.any(axis=1)))
        raise InputError(
            f"these are {whole.count:,} cells, and so are those to take away, but they differ in gene "
            f"{str(genes[where])!r}; expected co-moments of cells that are among them"
        )


def check_rest(rest: Sums, whole: Sums, genes: Names) -> None:
    """Raise unless `rest`, what is left of `whole`, is made of sums of squares to rounding.

    What rounding left of nothing becomes nothing, in place.

    Raises
    ------
    InputError
        If an eigenvalue of what is left is negative.
    """
    before, after = np.diagonal(whole.comoment), np.diagonal(rest.comoment).copy()
    bad = after < -_ROUNDING * before
    if bad.any():
        where = int(np.argmin(np.where(bad, after / np.where(before > 0, before, 1.0), 0.0)))
        raise InputError(
            f"the cells to take away cannot have been among these: {after[where]:.3g} of {before[where]:.3g} would be "
            f"left of the squares of gene {str(genes[where])!r}; expected co-moments of cells that are among them"
        )
    n = len(after)
    scaled = 1.0 / np.sqrt(np.where(before > 0, before, 1.0))
    matrix = rest.comoment * scaled * scaled[:, None]
    # Rounding of the factorization grows with the order.
    matrix[np.arange(n), np.arange(n)] += _ROUNDING * max(1.0, n / 1_000) + (before == 0)
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(rest.comoment * scaled * scaled[:, None])[0])
        raise InputError(
            f"the cells to take away cannot have been among these: what is left has an eigenvalue of {least:.3g} (in "
            "units of the variances before), and sums of squares have none below 0; expected co-moments of cells that "
            "are among them"
        ) from None
    # A single cell has no spread, and no gene less than none.
    gone = after <= _DIGITS * before if rest.count > 1 else np.ones(n, dtype=bool)
    rest.comoment[gone] = 0.0
    rest.comoment[:, gone] = 0.0
    if rest.third is not None and rest.fourth is not None:
        rest.third[gone] = 0.0
        rest.fourth = max(0.0, rest.fourth) if rest.count > 1 else 0.0
