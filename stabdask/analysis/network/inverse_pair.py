"""A symmetric positive definite matrix and its inverse, kept in step: the numbers behind a precision matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from stabdask.analysis.network.checks import Array
from stabdask.errors import NotPositiveDefiniteError, SingularMatrixError, UsageError
from stabdask.kernels.lowrank import (
    crossover,
    invert_definite,
    narrow_threads,
    triangle_product,
    update_triangle,
)

__all__ = ["DRIFT_TOLERANCE", "Done", "InversePair"]

DRIFT_TOLERANCE = 1e-10

_PROBES = 2

_LEAST_PIVOT = 1e-8
"""A change with a smaller one, or one larger than its reciprocal, would lose more than eight digits: it is done from
scratch instead."""


class Done(NamedTuple):
    """How a change was made; see `Change`."""

    path: str
    probe: float
    refactorized: bool


class InversePair:
    """Sigma and Theta = Sigma^-1, of each of which the lower triangle is kept up to date.

    Parameters
    ----------
    sigma
        ``(n, n)`` symmetric, float64 in Fortran order; changed in place later.
    drift_tolerance
        See `PrecisionMatrix.from_covariance`.
    crossover
        Likewise.

    Raises
    ------
    NotPositiveDefiniteError
        If it is not positive definite.
    UsageError
        If an option has no possible value.
    """

    def __init__(self, sigma: Array, *, drift_tolerance: float, crossover: float | None) -> None:
        if not drift_tolerance > 0:
            raise UsageError(
                f"drift_tolerance={drift_tolerance!r}; expected a positive number, such as 1e-10"
            )
        if crossover is not None and not crossover >= 0:
            raise UsageError(f"crossover={crossover!r}; expected a share of the genes, or None to measure it")
        self.sigma = sigma
        self.drift_tolerance, self.crossover = drift_tolerance, crossover
        self.n_refactorizations = 0
        self._probes = _fixed_probes(len(sigma))
        self._factor: Array | None = None
        self.theta, self.logdet = invert_definite(sigma)
        self._baseline = self.probe()

    def probe(self) -> float:
        """Return ``max |Theta Sigma z - z|`` over fixed vectors z of -1 and 1."""
        with narrow_threads(*self._probes.shape):
            found = triangle_product(self.theta, triangle_product(self.sigma, self._probes))
        return float(np.abs(found - self._probes).max())

    def cholesky(self) -> Array:
        """Return the lower Cholesky factor of Sigma, computed when first asked for after a change."""
        if self._factor is None:
            factor, failed = lapack.dpotrf(self.sigma, lower=1, clean=1)
            if failed:
                least = float(np.linalg.eigvalsh(self.sigma, UPLO="L")[0])
                raise NotPositiveDefiniteError(
                    f"the smallest eigenvalue of Sigma is {least:.3g}, expected more than 0: rounding "
                    "errors of its changes "
                    "have added up; make it anew from the data"
                )
            self._factor = factor
        return self._factor

    def change(self, operation: str, X: Array, *, sign: int, scale: float, ridge: float) -> Done:
        """Let Sigma become ``scale Sigma + sign X X^T + ridge I``, and Theta its inverse.

        Raises
        ------
        NotPositiveDefiniteError
            If that has no inverse; then nothing has changed. Only where rounding errors of many changes have made
            Sigma singular, which is noticed after a change, Theta is NaN from then on, and the message says so.
        """
        n, d = X.shape
        share = crossover() if self.crossover is None and d else self.crossover or 0.0
        direct = ridge != 0 or (d > 0 and d >= share * n)
        if not direct:
            try:
                growth = update_triangle(self.theta, X, sign=sign, scale=scale, least=_LEAST_PIVOT)
            except (NotPositiveDefiniteError, SingularMatrixError):
                # From scratch it may still have an inverse; if not, the error tells its own smallest eigenvalue.
                direct = True
        if direct:
            sigma = _changed(self.sigma.copy(order="F"), X, sign, scale, ridge)
            try:
                self.theta, self.logdet = invert_definite(sigma)
            except NotPositiveDefiniteError as error:
                raise NotPositiveDefiniteError(
                    f"{operation} is refused, nothing has changed: {error}"
                ) from error
            self.sigma = sigma
        else:
            _changed(self.sigma, X, sign, scale, 0.0)
            self.logdet += growth
        self._factor = None
        probe = self.probe()
        if direct:
            self._baseline = probe
        drifted = not probe <= max(self.drift_tolerance, 10.0 * self._baseline)
        if drifted:
            probe = self._refactorize()
        return Done("direct" if direct else "low rank", probe, drifted)

    def restore(self, theta: Array, logdet: float, n_refactorizations: int) -> None:
        """Take on an inverse that was saved, with the rounding errors of its own history.

        The caller looks at `probe` after it.
        """
        self.theta, self.logdet = theta, logdet
        self.n_refactorizations = n_refactorizations

    def _refactorize(self) -> float:
        try:
            self.theta, self.logdet = invert_definite(self.sigma)
        except NotPositiveDefiniteError as error:
            self.theta[:] = np.nan
            self.logdet = float("nan")
            raise NotPositiveDefiniteError(
                f"rounding errors of all changes so far have left a Sigma without inverse ({error}); theta is NaN from "
                "now on: make it anew from the data"
            ) from error
        self._baseline = self.probe()
        self.n_refactorizations += 1
        return self._baseline


def _fixed_probes(n: int) -> Array:
    stream = np.random.Generator(np.random.PCG64(n))
    return np.asfortranarray(2.0 * stream.integers(0, 2, size=(n, _PROBES)) - 1.0)


def _changed(sigma: Array, X: Array, sign: int, scale: float, ridge: float) -> Array:
    """Change the lower triangle of Sigma in place."""
    if X.shape[1]:
        with narrow_threads(*X.shape):
            blas.dsyrk(float(sign), X, beta=scale, c=sigma, lower=1, overwrite_c=1)
    else:
        sigma *= scale
    if ridge:
        places = np.arange(len(sigma))
        sigma[places, places] += ridge
    return sigma
