"""Cholesky factors that change by low rank, through orthogonal transformations and in blocks.

An orthogonal H with ``H [L^T; X^T] = [L'^T; 0]`` gives ``L' L'^T = L L^T + X X^T``, and the other way round for
downdates. Neither forms a product of matrices, so that no digits are lost to squaring.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack, solve_triangular

from stabdask.errors import InputError, NotPositiveDefiniteError
from stabdask.kernels.lowrank.symmetric import Array, _columns, _square

__all__ = ["cholesky_downdate", "cholesky_update"]

_BLOCK = 48
_EPSILON = float(np.finfo(np.float64).eps)


def cholesky_update(L: npt.ArrayLike, X: npt.ArrayLike) -> Array:
    """Return the lower Cholesky factor of ``L L^T + X X^T`` in O(n^2 d) operations.

    Parameters
    ----------
    L
        ``(n, n)`` lower triangular with a positive diagonal; entries above it are not read.
    X
        ``(n, d)`` or ``(n,)``.

    Returns
    -------
    numpy.ndarray
        ``(n, n)`` lower triangular with a positive diagonal.

    Raises
    ------
    InputError
        If shapes do not match, something is not finite, or L has a diagonal entry that is not positive.

    Notes
    -----
    The QR decomposition of L^T on top of X^T (LAPACK's ``dtpqrt``), which leaves alone the zeros of L^T [1]_.

    References
    ----------
    .. [1] Golub & Van Loan 2013, Matrix Computations, 4th ed., section 6.5.4.

    Examples
    --------
    >>> import numpy as np
    >>> cholesky_update(np.eye(2), np.array([[0.0], [3.0**0.5]])).round(12) + 0.0
    array([[1., 0.],
           [0., 2.]])
    """
    factor = _factor(L)
    columns = _columns(X, len(factor))
    n, d = columns.shape
    if n == 0 or d == 0:
        return np.tril(factor)
    upper = np.asfortranarray(np.tril(factor).T)
    found, _, _, failed = lapack.dtpqrt(0, min(n, _BLOCK), upper, np.asfortranarray(columns.T), overwrite_a=1)
    assert failed == 0, "arguments of dtpqrt"
    return _positive(np.triu(found).T)


def cholesky_downdate(L: npt.ArrayLike, X: npt.ArrayLike) -> Array:
    """Return the lower Cholesky factor of ``L L^T - X X^T`` in O(n^2 d) operations.

    Parameters
    ----------
    L
        ``(n, n)`` lower triangular with a positive diagonal; entries above it are not read.
    X
        ``(n, d)`` or ``(n,)``.

    Returns
    -------
    numpy.ndarray
        ``(n, n)`` lower triangular with a positive diagonal.

    Raises
    ------
    NotPositiveDefiniteError
        If ``L L^T - X X^T`` is not positive definite; the message gives the smallest eigenvalue of
        ``I - X^T (L L^T)^-1 X``, which has the sign of it.
    InputError
        As `cholesky_update`.

    Notes
    -----
    With ``Q = L^-1 X`` and ``C C^T = I - Q^T Q``, an orthogonal H that takes ``[Q; C^T]`` to ``[0; I]`` takes
    ``[L^T; 0]`` to ``[L'^T; X^T]`` (the idea of LINPACK's ``dchdd`` [1]_, here for blocks of rows, from the last
    to the first so that L'^T stays triangular).

    References
    ----------
    .. [1] Dongarra, Bunch, Moler & Stewart 1979, LINPACK Users' Guide, chapter 10.

    Examples
    --------
    >>> import numpy as np
    >>> cholesky_downdate(2.0 * np.eye(2), np.array([[0.0], [3.0**0.5]])).round(12) + 0.0
    array([[2., 0.],
           [0., 1.]])
    """
    factor = np.tril(_factor(L))
    columns = _columns(X, len(factor))
    n, d = columns.shape
    if n == 0 or d == 0:
        return factor
    Q = solve_triangular(factor, columns, lower=True, check_finite=False)
    small = np.eye(d) - Q.T @ Q
    pivot, failed = lapack.dpotrf(small, lower=1, clean=1)
    if failed or np.diagonal(pivot).min() ** 2 <= 8 * d * _EPSILON:
        least = float(np.linalg.eigvalsh(small)[0])
        raise NotPositiveDefiniteError(
            f"L L^T - X X^T is not positive definite: the smallest eigenvalue of I - X^T (L L^T)^-1 X is "
            f"{least:.3g}, "
            "expected more than 0 by more than rounding; take away less: only what has been added before"
        )
    upper = np.ascontiguousarray(factor.T)
    rest = np.zeros((d, n))
    small_rows = pivot.T
    for start in reversed(range(0, n, _BLOCK)):
        rows = slice(start, min(start + _BLOCK, n))
        H, reduced = np.linalg.qr(np.concatenate([small_rows, Q[rows]]), mode="complete")
        small_rows = reduced[:d]
        turned = H.T @ np.concatenate([rest[:, start:], upper[rows, start:]])
        rest[:, start:] = turned[:d]
        block = turned[d:]
        # The rotation has filled the triangle on the diagonal; another one empties it.
        G, triangle = np.linalg.qr(block[:, : rows.stop - start])
        upper[rows, start:] = G.T @ block
        upper[rows, rows] = triangle
    return _positive(upper.T)


def _factor(L: npt.ArrayLike) -> Array:
    factor = _square(L, "the factor")
    diagonal = np.diagonal(factor)
    if not (diagonal > 0).all():
        bad = int(np.flatnonzero(~(diagonal > 0))[0])
        raise InputError(
            f"the factor has {diagonal[bad]:.3g} at place {bad} of its diagonal; expected a lower Cholesky factor"
        )
    if not np.isfinite(np.tril(factor)).all():
        raise InputError("the factor has entries that are NaN or infinite; expected a lower Cholesky factor")
    return factor


def _positive(factor: Array) -> Array:
    """Turn the signs of columns so that the diagonal is positive."""
    return np.asarray(factor * np.where(np.diagonal(factor) < 0, -1.0, 1.0))
