"""Inverses of symmetric matrices that change by low rank, in place and one triangle at a time.

One triangle holds all there is to know: an update reads it (`dsymm`, or `dsymv` a few times) and changes it in place
(`dsyrk`). A product of full matrices would cost as much, but leaves the two triangles different in their last bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from stabdask.errors import InputError, NotPositiveDefiniteError, SingularMatrixError, UsageError
from stabdask.kernels.threads import single_threaded_blas

__all__ = [
    "invert_definite",
    "mirror",
    "narrow_threads",
    "sherman_morrison",
    "triangle_product",
    "update_triangle",
    "woodbury_update",
]

Array = npt.NDArray[np.float64]

_BLOCK = 64
"""Blocks of the mirrored triangle: two of them, 32 KB each, stay in the cache."""

_EPSILON = float(np.finfo(np.float64).eps)

_WORST_CONDITION = 1e12
"""Beyond it fewer than four digits of a quotient are left."""


_COLUMN_BY_COLUMN = 5
"""`dsymv` reads half of what `dsymm` reads and packs: up to about this many columns it is the faster of the two."""

_NARROW, _SMALL = 32, 256
"""Up to which rank an update is as fast as memory is; below which order BLAS takes one thread of its own accord."""


def narrow_threads(n: int, d: int) -> AbstractContextManager[None]:
    """Return a context that holds BLAS to one thread for changes of low rank.

    They wait for memory, not for arithmetic: a second thread gains a quarter on an idle machine, and where other work
    runs beside, threads wait for each other ten times as long as the update takes. What comes of them is then also the
    same on any number of cores.

    Parameters
    ----------
    n
        Order of the matrix.
    d
        Rank of the change.

    Examples
    --------
    >>> with narrow_threads(500, 5):
    ...     pass
    """
    return single_threaded_blas() if n >= _SMALL and d <= _NARROW else nullcontext()


def mirror(matrix: Array) -> Array:
    """Copy the lower triangle of a square matrix onto its upper one, in place.

    Parameters
    ----------
    matrix
        ``(n, n)``, writable.

    Returns
    -------
    numpy.ndarray
        `matrix` itself, now symmetric to the last bit.

    Examples
    --------
    >>> import numpy as np
    >>> mirror(np.array([[1.0, 9.0], [2.0, 3.0]]))
    array([[1., 2.],
           [2., 3.]])
    """
    n = len(matrix)
    for i in range(0, n, _BLOCK):
        rows = slice(i, min(i + _BLOCK, n))
        for j in range(rows.stop, n, _BLOCK):
            matrix[rows, j : j + _BLOCK] = matrix[j : j + _BLOCK, rows].T
        block = matrix[rows, rows]
        block[...] = np.tril(block) + np.tril(block, -1).T
    return matrix


def triangle_product(matrix: Array, X: Array, factor: float = 1.0) -> Array:
    """Return ``factor A X`` of a symmetric matrix of which only the lower triangle is read.

    Parameters
    ----------
    matrix
        ``(n, n)`` A, float64 in Fortran order.
    X
        ``(n, d)`` float64 in Fortran order.
    factor
        A number to multiply by.

    Returns
    -------
    numpy.ndarray
        ``(n, d)`` in Fortran order.

    Examples
    --------
    >>> import numpy as np
    >>> A, X = np.array([[1.0, 9.0], [2.0, 3.0]], order="F"), np.eye(2, 1, order="F")
    >>> triangle_product(A, X)
    array([[1.],
           [2.]])
    """
    if X.shape[1] > _COLUMN_BY_COLUMN:
        return np.asfortranarray(blas.dsymm(factor, matrix, X, lower=1))
    out = np.empty(X.shape, order="F")
    for column in range(X.shape[1]):
        out[:, column] = blas.dsymv(factor, matrix, X[:, column], lower=1)
    return out


def woodbury_update(inverse: npt.ArrayLike, X: npt.ArrayLike, sign: int = 1) -> Array:
    """Return ``(S + sign X X^T)^-1`` from ``P = S^-1`` of a symmetric positive definite S.

    ``P - sign P X (I + sign X^T P X)^-1 X^T P`` [1]_, in about 3 n^2 d operations instead of the n^3 of an inversion.

    Parameters
    ----------
    inverse
        ``(n, n)`` P; only its lower triangle is read. It is not changed.
    X
        ``(n, d)``, or ``(n,)`` for one column.
    sign
        1 to add ``X X^T``, -1 to take it away.

    Returns
    -------
    numpy.ndarray
        ``(n, n)``, symmetric to the last bit, in Fortran order.

    Raises
    ------
    NotPositiveDefiniteError
        If ``S + sign X X^T`` has no positive eigenvalues only; the message gives the smallest eigenvalue of
        ``I + sign X^T P X``, which has the signs of it.
    InputError
        If shapes do not match or something is not finite.
    UsageError
        If `sign` is neither 1 nor -1.

    References
    ----------
    .. [1] Hager 1989, Updating the inverse of a matrix, SIAM Review 31(2), 221-239.

    Examples
    --------
    >>> import numpy as np
    >>> woodbury_update(np.eye(2), np.array([1.0, 0.0]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    changed = np.array(_square(inverse, "the inverse"), order="F", copy=True)
    update_triangle(changed, X, sign=sign)
    return mirror(changed)


def update_triangle(
    inverse: Array, X: npt.ArrayLike, *, sign: int = 1, scale: float = 1.0, least: float = 0.0
) -> float:
    """Turn the lower triangle of ``S^-1`` into that of ``(scale S + sign X X^T)^-1``, in place.

    Parameters
    ----------
    inverse
        ``(n, n)`` float64 in Fortran order, writable; the entries above its diagonal are neither read nor written.
        It is unchanged after an error.
    X
        ``(n, d)`` or ``(n,)``.
    sign
        1 or -1.
    scale
        Positive.
    least
        Refuse a change that loses more than these digits: the smallest pivot of ``I + sign X^T P X / scale`` to go on
        with, and the reciprocal of the largest. Never less than rounding itself for the smallest.

    Returns
    -------
    float
        By how much the logarithm of the determinant of S has grown.

    Raises
    ------
    SingularMatrixError
        If `least` is given and the largest pivot is beyond its reciprocal.
    NotPositiveDefiniteError, InputError, UsageError
        As `woodbury_update`.

    Examples
    --------
    >>> import numpy as np
    >>> P = np.asfortranarray(np.eye(2))
    >>> float(np.exp(update_triangle(P, np.array([1.0, 1.0]))).round(12))
    3.0
    >>> np.tril(P).round(3)
    array([[ 0.667,  0.   ],
           [-0.333,  0.667]])
    """
    if sign not in (1, -1):
        raise UsageError(f"sign={sign!r}; expected 1 to add X X^T or -1 to take it away")
    if not (np.isfinite(scale) and scale > 0):
        raise UsageError(f"scale={scale!r}; expected a positive number")
    n = len(inverse)
    if inverse.dtype != np.float64 or not inverse.flags.f_contiguous or not inverse.flags.writeable:
        raise UsageError("the inverse cannot be changed in place; expected writable float64 in Fortran order")
    columns = _columns(X, n)
    d = columns.shape[1]
    growth = n * float(np.log(scale))
    if d == 0 or n == 0:
        inverse *= 1.0 / scale
        return growth
    with narrow_threads(n, d):
        return growth + _apply(inverse, columns, sign, scale, least)


def _apply(inverse: Array, columns: Array, sign: int, scale: float, least: float) -> float:
    """Change the triangle; return the logarithm of the determinant of ``I + sign X^T P X / scale``."""
    d = columns.shape[1]
    product = triangle_product(inverse, columns, 1.0 / scale)
    # By the same BLAS as the rest: NumPy may bring another, whose idle threads spin on the cores that this one needs.
    small = blas.dgemm(sign, columns, product, beta=1.0, c=np.eye(d, order="F"), trans_a=1, overwrite_c=1)
    small = (small + small.T) / 2
    if not np.isfinite(small).all():
        raise InputError("the inverse has entries that are NaN, infinite or too large for X^T P X")
    factor, failed = lapack.dpotrf(small, lower=1)
    pivots = np.diagonal(factor)
    if failed or pivots.min() ** 2 <= max(least, 8 * d * _EPSILON):
        raise _not_definite(small, sign)
    if least > 0 and pivots.max() ** 2 * least > 1:
        raise SingularMatrixError(
            f"X X^T is {pivots.max() ** 2:.1e} times as large as S in some direction: the inverse would lose that many "
            f"digits, expected at most {1 / least:.0e}; invert S + X X^T directly"
        )
    narrow = blas.dtrsm(1.0, factor, product, side=1, lower=1, trans_a=1)
    blas.dsyrk(-sign, narrow, beta=1.0 / scale, c=inverse, lower=1, overwrite_c=1)
    return 2.0 * float(np.log(pivots).sum())


def _not_definite(small: Array, sign: int) -> NotPositiveDefiniteError:
    least = float(np.linalg.eigvalsh(small)[0])
    symbol = "+" if sign > 0 else "-"
    advice = (
        "take away less: only what has been added before, or X scaled down"
        if sign < 0
        else "the matrix itself has an eigenvalue that is not positive: invert it anew, or shrink it first"
    )
    return NotPositiveDefiniteError(
        f"S {symbol} X X^T is not positive definite: the smallest eigenvalue of I {symbol} X^T S^-1 X is "
        f"{least:.3g}, "
        f"expected more than 0 by more than rounding; {advice}"
    )


def invert_definite(matrix: npt.ArrayLike) -> tuple[Array, float]:
    """Return the inverse of a symmetric positive definite matrix and the logarithm of its determinant.

    Parameters
    ----------
    matrix
        ``(n, n)``; only its lower triangle is read. It is not changed.

    Returns
    -------
    inverse
        ``(n, n)`` in Fortran order, of which only the lower triangle is filled (see `mirror`); above it is nothing
        of use.
    logdet
        Of `matrix`, not of its inverse.

    Raises
    ------
    NotPositiveDefiniteError
        If it is not positive definite; the message gives its smallest eigenvalue.
    InputError
        If it is not square or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> inverse, logdet = invert_definite(np.diag([1.0, 4.0]))
    >>> mirror(inverse) + 0.0
    array([[1.  , 0.  ],
           [0.  , 0.25]])
    >>> float(np.exp(logdet).round(12))
    4.0
    """
    square = _square(matrix, "the matrix")
    if not np.isfinite(square).all():
        raise InputError("the matrix has entries that are NaN or infinite; expected finite ones")
    n = len(square)
    if n == 0:
        return np.zeros((0, 0), order="F"), 0.0
    factor, failed = lapack.dpotrf(square, lower=1, clean=1)
    if not failed and _is_regular(square, factor):
        logdet = 2.0 * float(np.log(np.diagonal(factor)).sum())
        inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
        # The reciprocal of a variance may be beyond what a number can hold.
        if not failed and np.isfinite(np.diagonal(inverse)).all():
            return inverse, logdet
    least = float(np.linalg.eigvalsh(square, UPLO="L")[0])
    raise NotPositiveDefiniteError(
        f"the matrix is not positive definite, or not by more than rounding errors: its smallest eigenvalue is "
        f"{least:.3g}, with {float(np.diagonal(square).max()):.3g} the largest on its diagonal; shrink it toward its "
        "diagonal, or leave out what the rest determines"
    )


def _is_regular(matrix: Array, factor: Array) -> bool:
    """Return whether any digit of the inverse is right: a singular matrix may have a factor of rounding errors.

    The condition is that of the matrix scaled to ones on its diagonal, for units that differ do no harm.
    """
    n = len(matrix)
    scale = 1.0 / np.sqrt(np.diagonal(matrix))
    sums = np.zeros(n)
    for i in range(0, n, _BLOCK):
        columns = slice(i, min(i + _BLOCK, n))
        part = np.abs(matrix[i:, columns]) * scale[i:, None] * scale[columns]
        part[: columns.stop - i] = np.tril(part[: columns.stop - i])
        sums[columns] += part.sum(axis=0)
        sums[i:] += part.sum(axis=1)
    # The diagonal of ones was counted in rows and in columns.
    reciprocal, _ = lapack.dpocon(factor * scale[:, None], float(sums.max()) - 1.0, uplo="L")
    return bool(reciprocal > n * _EPSILON)


def sherman_morrison(inverse: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike | None = None) -> Array:
    """Return ``(S + u v^T)^-1`` from ``P = S^-1``: ``P - P u v^T P / (1 + v^T P u)`` [1]_.

    Parameters
    ----------
    inverse
        ``(n, n)`` P, symmetric or not.
    u
        ``(n,)``.
    v
        ``(n,)``; `u` if not given. The result is symmetric only where P is and v is u, or a multiple of it.

    Returns
    -------
    numpy.ndarray
        ``(n, n)``.

    Raises
    ------
    SingularMatrixError
        If ``1 + v^T P u`` is 0, or so near that fewer than four digits of it are left; the message gives it and its
        condition.
    InputError
        If shapes do not match or something is not finite.

    References
    ----------
    .. [1] Sherman & Morrison 1950, Adjustment of an inverse matrix corresponding to a change in one element of a
       given matrix, Annals of Mathematical Statistics 21(1), 124-127.

    Examples
    --------
    >>> import numpy as np
    >>> sherman_morrison(np.eye(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    array([[ 1., -1.],
           [ 0.,  1.]])
    """
    P = _square(inverse, "the inverse")
    left = _columns(u, len(P))
    right = left if v is None else _columns(v, len(P))
    if left.shape[1] != 1 or right.shape[1] != 1:
        raise InputError(f"u has {left.shape[1]} columns and v {right.shape[1]}; expected one vector each")
    ahead = P @ left[:, 0]
    behind = right[:, 0] @ P
    product = float(right[:, 0] @ ahead)
    denominator = 1.0 + product
    if not np.isfinite(denominator):
        raise InputError("the inverse has entries that are NaN, infinite or too large for v^T P u")
    terms = 1.0 + float(np.abs(right[:, 0]) @ np.abs(ahead))
    condition = terms / abs(denominator) if denominator else float("inf")
    if condition > _WORST_CONDITION:
        raise SingularMatrixError(
            f"S + u v^T is singular to working precision: 1 + v^T S^-1 u is {denominator:.3g} with a condition of "
            f"{condition:.1e}, expected at most {_WORST_CONDITION:.0e}; change u or v, or invert S + u v^T directly"
        )
    changed = P - np.outer(ahead / denominator, behind)
    return mirror(changed) if v is None and np.array_equal(P, P.T) else changed


def _square(matrix: npt.ArrayLike, what: str) -> Array:
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise InputError(f"{what} has the shape {array.shape}; expected a square matrix (n, n)")
    return array


def _columns(X: Any, n: int) -> Array:
    """Return X as `(n, d)` in Fortran order."""
    array = np.asarray(X, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != n:
        raise InputError(f"X has the shape {np.shape(X)}; expected ({n}, d): a row for each of the matrix")
    if not np.isfinite(array).all():
        raise InputError(
            f"X has {int((~np.isfinite(array)).sum())} entries that are NaN or infinite; expected none"
        )
    return np.asfortranarray(array)
