"""Covariance of genes, shrunk towards equal variances without correlation."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.moments import CoMoments
from stabdask.errors import InputError, UsageError, near_misses

__all__ = ["SHRINKAGES", "Shrunk", "check_shrinkage", "estimated_amount", "ledoit_wolf_amount", "shrink"]

Array = npt.NDArray[np.float64]

SHRINKAGES = ("none", "fixed", "ledoit-wolf")


class Shrunk(NamedTuple):
    """A covariance and how much it was shrunk.

    Attributes
    ----------
    sigma
        ``(gene, gene)``, in units of the expression squared.
    amount
        From 0, the covariance of the cells, to 1, the target.
    """

    sigma: Array
    amount: float


def shrink(
    moments: CoMoments,
    method: Literal["none", "fixed", "ledoit-wolf"] = "none",
    amount: float | None = None,
    *,
    ddof: int | None = None,
) -> Shrunk:
    """Return ``(1 - amount) S + amount mu I``, with S the covariance and mu the mean variance of the genes.

    Parameters
    ----------
    moments
        Co-moments of at least two cells.
    method
        ``"none"``: amount 0. ``"fixed"``: the amount given. ``"ledoit-wolf"``: the amount that is estimated to have the
        least expected squared error.
    amount
        From 0 to 1, for ``"fixed"``.
    ddof
        S is the sum of products divided by the number of cells minus this: 1 if not given, and for ``"ledoit-wolf"`` 0,
        as in its publication.

    Returns
    -------
    sigma, amount
        ``(gene, gene)`` in units of the expression squared, and the amount, from 0 to 1. Any amount above 0 makes sigma
        positive definite, unless no gene varies.

    Raises
    ------
    InputError
        If there are fewer than two cells, no genes, or the co-moments lack what Ledoit-Wolf shrinkage needs.
    UsageError
        If the method is not known, or the amount is missing, not from 0 to 1, or given where it is estimated.

    References
    ----------
    Ledoit & Wolf 2004, Journal of Multivariate Analysis 88(2), 365-411.

    Examples
    --------
    >>> import numpy as np
    >>> moments = CoMoments.of(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]))
    >>> shrink(moments, "fixed", 0.5, ddof=0).sigma.tolist()
    [[3.25, 0.0], [0.0, 1.75]]
    >>> round(shrink(moments, "ledoit-wolf").amount, 4)
    0.4444
    """
    check_shrinkage(method, amount)
    if moments.count < 2 or not len(moments.genes):
        raise InputError(
            f"{moments.count:,} cells of {len(moments.genes):,} genes have no covariance; expected at least 2 "
            "cells and 1 gene"
        )
    if ddof is None:
        ddof = 0 if method == "ledoit-wolf" else 1
    sigma = moments.covariance(ddof)
    used = ledoit_wolf_amount(moments) if method == "ledoit-wolf" else float(amount or 0.0)
    if used:
        mu = float(np.trace(sigma)) / len(sigma)
        sigma *= 1.0 - used
        sigma[np.arange(len(sigma)), np.arange(len(sigma))] += used * mu
    return Shrunk(sigma, used)


def check_shrinkage(method: str, amount: float | None) -> None:
    """Raise unless the method is known and has the amount it needs.

    Raises
    ------
    UsageError
        If not.
    """
    if method not in SHRINKAGES:
        raise UsageError(
            f"method={method!r} is not known; {near_misses(str(method), SHRINKAGES, noun='methods')}"
        )
    if method == "fixed":
        if amount is None:
            raise UsageError("method='fixed' needs the amount, from 0 to 1; give amount=")
        if (
            isinstance(amount, bool)
            or not isinstance(amount, int | float | np.number)
            or not 0 <= amount <= 1
        ):
            raise UsageError(f"amount={amount!r}; expected a number from 0 to 1")
    elif amount is not None:
        raise UsageError(
            f"amount={amount!r} is for method='fixed'; method={method!r} needs none, leave it out"
        )


def ledoit_wolf_amount(moments: CoMoments) -> float:
    """Return the amount of shrinkage that is estimated to have the least expected squared error, from 0 to 1.

    ``min(b, d) / d`` with ``d = |S - mu I|^2`` and ``b = sum over cells of |x x^T - S|^2 / n^2
    = (sum |x|^4 / n - |S|^2) / n``, where x are cells minus their mean, S is their covariance with ddof 0 and norms are
    Frobenius norms. 0 where d is 0: there is nothing to shrink.

    Raises
    ------
    InputError
        If there are fewer than two cells, or the co-moments were made with ``fourth=False``.

    References
    ----------
    Ledoit & Wolf 2004, Journal of Multivariate Analysis 88(2), 365-411, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> ledoit_wolf_amount(CoMoments.of(np.array([[0.0], [1.0]])))
    0.0
    """
    if moments.fourth is None:
        raise InputError(
            "the co-moments were made without sums of fourth order, which Ledoit-Wolf shrinkage needs; make them with "
            "fourth=True"
        )
    n = moments.count
    if n < 2:
        raise InputError(f"{n:,} cells have no covariance; expected at least 2")
    variances = np.diagonal(moments.comoment) / n
    squares = float(np.vdot(moments.comoment, moments.comoment)) / n**2
    return estimated_amount(n, variances, squares, moments.fourth)


def estimated_amount(n: int, variances: Array, squares: float, fourth: float) -> float:
    """Return the amount of Ledoit and Wolf from sums, see `ledoit_wolf_amount`.

    Parameters
    ----------
    n
        Number of cells, at least 2.
    variances
        ``(gene,)`` with ddof 0.
    squares
        Sum of the squares of all entries of the covariance with ddof 0.
    fourth
        Sum over cells of ``|x - mean|^4``.
    """
    mu = float(variances.mean()) if len(variances) else 0.0
    # From the variances' own differences: where S is nearly mu I, |S|^2 - G mu^2 would cancel.
    spread = squares - float(variances @ variances) + float(((variances - mu) ** 2).sum())
    noise = max(0.0, (fourth / n - squares) / n)
    return min(noise, spread) / spread if spread > 0 else 0.0
