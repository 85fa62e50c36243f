"""What matrices of genes have to be before anything is computed with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError

__all__ = [
    "WORST_ASYMMETRY",
    "Array",
    "gene_names",
    "loadings",
    "not_finite",
    "not_symmetric",
    "numbers",
    "symmetric",
    "variances",
    "varying",
]

Array = npt.NDArray[np.float64]

WORST_ASYMMETRY = 1e-8
"""Relative to the largest entry: more than rounding, also that of a matrix stored as float32 and back."""


def gene_names(genes: Sequence[str] | npt.NDArray[Any] | None, n: int) -> npt.NDArray[np.str_]:
    """Return `n` names: those given, or positions.

    Raises
    ------
    InputError
        If there are more or fewer, or one twice.
    """
    if genes is None:
        return np.asarray([str(i) for i in range(n)], dtype=np.str_)
    names = np.asarray([str(gene) for gene in genes], dtype=np.str_)
    if len(names) != n:
        raise InputError(f"{len(names):,} names of genes for a matrix of {n:,}; expected one for each row")
    found, counts = np.unique(names, return_counts=True)
    if len(found) != n:
        twice = [str(name) for name in found[counts > 1][:5]]
        raise InputError(f"the genes {twice} appear more than once; make names unique first")
    return names


def numbers(values: npt.ArrayLike, what: str) -> Array:
    """Return an array of float64.

    Raises
    ------
    InputError
        If there is something else than real numbers in it, or it has no shape.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} is no array ({error}); expected rows of one length") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} has entries of type {array.dtype}; expected real numbers, in a dense array")
    return array.astype(np.float64, copy=False)


def symmetric(matrix: npt.ArrayLike, what: str, genes: Sequence[str] | npt.NDArray[Any] | None) -> Array:
    """Return a symmetric matrix as a copy, in Fortran order.

    Raises
    ------
    InputError
        If it is not square, of at least one gene, finite and symmetric up to rounding.
    """
    array = np.array(numbers(matrix, what), order="F", copy=True)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise InputError(f"{what} has the shape {array.shape}; expected (gene, gene), at least one")
    names = gene_names(genes, len(array))
    finite = np.isfinite(array)
    if not finite.all():
        i, j = (int(places[0]) for places in np.nonzero(~finite))
        raise not_finite(what, int((~finite).sum()), (names[i], names[j]))
    difference = np.abs(array - array.T)
    largest = float(np.abs(array).max())
    if difference.max() > WORST_ASYMMETRY * largest:
        i, j = (int(place) for place in np.unravel_index(int(difference.argmax()), difference.shape))
        raise not_symmetric(what, float(difference.max()), (names[i], names[j]), largest)
    array += array.T.copy()
    array *= 0.5
    return array


def not_finite(what: str, n_bad: int, genes: tuple[str, str]) -> InputError:
    """Return the error about entries that are NaN or infinite, the first of them at `genes`."""
    return InputError(
        f"{what} has {n_bad:,} entries that are NaN or infinite, the first at genes "
        f"({genes[0]}, {genes[1]}); leave such genes out"
    )


def not_symmetric(what: str, difference: float, genes: tuple[str, str], largest: float) -> InputError:
    """Return the error about two entries, the worst of all pairs, that should be the same."""
    a, b = genes
    return InputError(
        f"{what} is not symmetric: entries ({a}, {b}) and ({b}, {a}) differ by "
        f"{difference:.3g}, where the largest entry is {largest:.3g}; expected at most "
        f"{WORST_ASYMMETRY:.0e} of that; check which matrix it is, or take (A + A.T) / 2 if that is meant"
    )


def variances(sigma: Array, names: npt.NDArray[np.str_]) -> None:
    """Raise unless every gene varies.

    Raises
    ------
    InputError
        If a variance is 0 or negative.
    """
    varying(np.diagonal(sigma), names)


def varying(diagonal: Array, names: npt.NDArray[np.str_]) -> None:
    """Raise unless every variance is positive.

    Raises
    ------
    InputError
        If one is 0 or negative.
    """
    bad = np.flatnonzero(diagonal <= 0)
    if len(bad):
        some = ", ".join(f"{names[i]} ({diagonal[i]:.3g})" for i in bad[:5])
        raise InputError(
            f"{len(bad):,} genes have no positive variance: {some}{' ...' if len(bad) > 5 else ''}; leave out genes "
            "that are constant, or shrink the covariance matrix"
        )


def loadings(values: npt.ArrayLike, n: int, what: str) -> Array:
    """Return columns `(gene, d)` in Fortran order, of one or more vectors.

    Raises
    ------
    InputError
        If there is no row for each gene, or something is not finite.
    """
    array = numbers(values, what)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != n:
        raise InputError(f"{what} has the shape {np.shape(values)}; expected ({n}, d): a row for each gene")
    if not np.isfinite(array).all():
        raise InputError(f"{what} has {int((~np.isfinite(array)).sum()):,} entries that are NaN or infinite")
    return np.asfortranarray(array)
