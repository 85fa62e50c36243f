"""AnnData with dynamo's keys, written by hand, and the matrices they stand for, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DynamoFit:
    """Cells, a vector field over principal components, and loadings of some of the genes."""

    adata: anndata.AnnData
    centers: Array
    coefficients: Array
    beta: float
    loadings: Array
    genes: list[str]

    @property
    def x(self) -> Array:
        return np.asarray(self.adata.obsm["X_pca"], dtype=np.float64)

    def velocity(self, x: Array) -> Array:
        """Return v(x) of one point."""
        weights = [np.exp(-self.beta * np.sum((x - z) ** 2)) for z in self.centers]
        return sum(w * c for w, c in zip(weights, self.coefficients, strict=True))

    def jacobian(self, x: Array) -> Array:
        """Return J(x) of one point, summed over control points."""
        J = np.zeros((len(x), len(x)))
        for z, c in zip(self.centers, self.coefficients, strict=True):
            J += -2 * self.beta * np.exp(-self.beta * np.sum((x - z) ** 2)) * np.outer(c, x - z)
        return J

    def jacobians(self, x: Array | None = None) -> Array:
        """Return J of points, the cells if not given, ``(cell, axis, axis)``."""
        return np.stack([self.jacobian(point) for point in (self.x if x is None else x)])

    def velocities(self) -> Array:
        return np.stack([self.velocity(point) for point in self.x])

    def between(self, effectors: list[str], regulators: list[str], x: Array | None = None) -> Array:
        """Return Q J Q^T, ``(effector, regulator, cell)``."""
        rows = self.loadings[[self.genes.index(gene) for gene in effectors]]
        columns = self.loadings[[self.genes.index(gene) for gene in regulators]]
        return np.stack([rows @ J @ columns.T for J in self.jacobians(x)], axis=-1)


def dynamo_fit(
    seed: int = 0,
    *,
    n_cells: int = 25,
    n_axes: int = 4,
    n_genes: int = 16,
    n_unused: int = 5,
    n_centers: int = 7,
    basis: str = "pca",
    more_columns: int = 0,
) -> DynamoFit:
    """Return random cells with a random field; genes outside the PCA lie among the others."""
    rng = np.random.default_rng(seed)
    place = np.sort(rng.choice(n_genes + n_unused, n_genes, replace=False))
    used = np.zeros(n_genes + n_unused, dtype=bool)
    used[place] = True
    names = [f"g{number}" for number in rng.permutation(n_genes + n_unused)]
    loadings = np.linalg.qr(rng.normal(size=(n_genes, n_axes + more_columns)))[0]
    x = rng.normal(size=(n_cells, n_axes + more_columns))
    centers = x[rng.choice(n_cells, n_centers, replace=n_centers > n_cells)][:, :n_axes]
    centers = centers + 0.3 * rng.normal(size=centers.shape)
    coefficients = rng.normal(size=(n_centers, n_axes))
    beta = 0.4 / n_axes
    adata = anndata.AnnData(
        np.zeros((n_cells, n_genes + n_unused), dtype=np.float32),
        obs=pd.DataFrame(
            {"group": [f"G{label}" for label in rng.integers(0, 3, n_cells)]},
            index=[f"cell{number}" for number in range(n_cells)],
        ),
        var=pd.DataFrame({"use_for_pca": used, "use_for_dynamics": used}, index=names),
        obsm={f"X_{basis}": x, f"velocity_{basis}": rng.normal(size=x.shape)},
    )
    adata.uns["PCs"] = loadings
    adata.uns[f"VecFld_{basis}"] = {
        "X": x[:, :n_axes].copy(),
        "Y": adata.obsm[f"velocity_{basis}"][:, :n_axes].copy(),
        "X_ctrl": centers,
        "C": coefficients,
        "beta": beta,
        "method": "SparseVFC",
        "normalize": False,
    }
    genes = [name for name, kept in zip(names, used, strict=True) if kept]
    return DynamoFit(adata, centers, coefficients, beta, loadings[:, :n_axes], genes)


class Flow:
    """A vector field object as dynamo's users write them: velocities, and Jacobians with cells last."""

    def __init__(self, func: Any, jacobian: Any = None) -> None:
        self.func = func
        if jacobian is not None:
            self.get_Jacobian = lambda method="analytical": jacobian


def apart(found: Any, expected: Any) -> float:
    """Return the largest difference over the largest value."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.isfinite(expected).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
