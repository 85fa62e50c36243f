"""Oracles that share no code with the package: spectra by matching, Jacobians from textbook formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldCluster, HopfieldField

Array = np.ndarray[Any, Any]

_SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Return the path of a reference file beside the checkout, or skip the test that wants it."""
    path = _SHARED / name
    if not path.exists():
        pytest.skip(f"reference data {name} is not in {_SHARED}: it is no part of the repository")
    return path


def match_spectra(a: Array, b: Array) -> float:
    """Return the largest distance between two spectra, paired so that the distances sum to the least."""
    a, b = np.asarray(a, complex).ravel(), np.asarray(b, complex).ravel()
    assert a.shape == b.shape, f"{a.size} eigenvalues against {b.size}"
    assert np.isfinite(a).all(), "the first spectrum holds NaN or infinity"
    assert np.isfinite(b).all(), "the second spectrum holds NaN or infinity"
    if not a.size:
        return 0.0
    distance = np.abs(a[:, None] - b[None, :])
    rows, columns = linear_sum_assignment(distance)
    return float(distance[rows, columns].max())


def frobenius(matrices: Array) -> Array:
    """Return the Frobenius norm of each matrix of a stack."""
    return np.sqrt((np.abs(matrices) ** 2).sum(axis=(-2, -1)))


def antisymmetric_norm(J: Array) -> Array:
    """Return |(J - J^T)/2| of each matrix of a stack."""
    return frobenius((J - np.swapaxes(J, -1, -2)) / 2)


def hill_value(x: Array, k: Array, n: Array) -> Array:
    """Return x^n / (x^n + k^n) as written; for moderate arguments only."""
    return x**n / (x**n + k**n)


def hill_slope(x: Array, k: Array, n: Array) -> Array:
    """Return the derivative of `hill_value` by the quotient rule; for moderate arguments, not 0 if n < 1."""
    return n * k**n * x ** (n - 1) / (x**n + k**n) ** 2


@dataclass(frozen=True)
class DenseCluster:
    """Parameters of one cluster as plain dense arrays, and the model written out from its definition."""

    W: Array
    gamma: Array
    bias: Array
    k1: Array
    n1: Array
    k2: Array
    n2: Array
    mix: Array

    def branch(self, x: Array) -> tuple[Array, Array]:
        """Return the threshold and exponent nearer to x, gene by gene."""
        k, n = np.empty_like(x), np.empty_like(x)
        for c, j in np.ndindex(*x.shape):
            second = self.mix[j] < 1 and abs(x[c, j] - self.k2[j]) < abs(x[c, j] - self.k1[j])
            k[c, j], n[c, j] = (self.k2[j], self.n2[j]) if second else (self.k1[j], self.n1[j])
        return k, n

    def slope(self, x: Array) -> Array:
        """Return phi' of every gene."""
        return hill_slope(x, *self.branch(x))

    def velocity(self, x: Array) -> Array:
        """Return W phi(x) - gamma x + I, cell by cell."""
        phi = hill_value(x, *self.branch(x))
        return np.array([self.W @ phi[c] - self.gamma * x[c] + self.bias for c in range(len(x))]).reshape(
            x.shape
        )

    def jacobian(self, x: Array) -> Array:
        """Return W diag(phi') - diag(gamma), cell by cell."""
        slope = self.slope(x)
        return np.stack([self.W @ np.diag(slope[c]) - np.diag(self.gamma) for c in range(len(x))])

    def active(self, x: Array) -> Array:
        """Return which genes regulate in each cell: neither column of W nor slope is zero."""
        return (self.W != 0).any(axis=0) & (self.slope(x) != 0)


@dataclass(frozen=True)
class RandomField:
    """A field and the dense parameters it was made from."""

    field: HopfieldField
    clusters: dict[str, DenseCluster]
    rng: np.random.Generator = field(repr=False)

    def expression(self, n_cells: int, *, zeros: float = 0.0) -> Array:
        """Return random expression, a fraction `zeros` of it exactly zero."""
        x = self.rng.gamma(2.0, 0.8, size=(n_cells, self.field.n_genes))
        x[self.rng.random(x.shape) < zeros] = 0.0
        return x


def random_field(
    seed: int = 0,
    *,
    n_genes: int = 9,
    n_regulators: int | Sequence[int] = 5,
    clusters: Sequence[str] = ("A", "B"),
    density: float = 0.7,
    two_components: bool = True,
    dtype: type[np.floating[Any]] = np.float64,
) -> RandomField:
    """Return a random field whose clusters have regulators, weights, rates and activations of their own.

    Parameters
    ----------
    n_regulators
        For every cluster, or one number per cluster.
    density
        Fraction of the entries of a regulator's column that are not zero (one always is not).
    two_components
        Whether about two thirds of the genes switch between two Hill components.
    """
    rng = np.random.default_rng(seed)
    genes = [f"gene{i}" for i in range(n_genes)]
    counts = [n_regulators] * len(clusters) if isinstance(n_regulators, int) else list(n_regulators)
    dense, fitted = {}, {}
    for label, count in zip(clusters, counts, strict=True):
        W = np.zeros((n_genes, n_genes))
        for j in rng.choice(n_genes, count, replace=False):
            kept = rng.random(n_genes) < density
            kept[rng.integers(n_genes)] = True
            W[kept, j] = rng.normal(scale=3.0, size=kept.sum())
        W = W.astype(dtype)
        mix = np.where(rng.random(n_genes) < 2 / 3, rng.uniform(0.1, 0.9, n_genes), 1.0)
        k1, n1 = rng.uniform(0.5, 2.0, n_genes), rng.uniform(1.2, 6.0, n_genes)
        k2, n2 = rng.uniform(0.5, 3.0, n_genes), rng.uniform(1.2, 6.0, n_genes)
        p = DenseCluster(
            W=W.astype(np.float64),
            gamma=rng.uniform(0.3, 2.0, n_genes),
            bias=rng.normal(size=n_genes),
            k1=k1,
            n1=n1,
            k2=k2 if two_components else k1,
            n2=n2 if two_components else n1,
            mix=mix if two_components else np.ones(n_genes),
        )
        dense[label] = p
        fitted[label] = HopfieldCluster.from_dense(
            W, gamma=p.gamma, bias=p.bias, hill=HillParameters(p.k1, p.n1, p.k2, p.n2, p.mix)
        )
    return RandomField(HopfieldField(genes, fitted), dense, rng)


def labels_of(array: Any) -> list[Any]:
    """Return labels as a list with None where a cell has none."""
    return [None if label != label else label for label in np.asarray(array).tolist()]
