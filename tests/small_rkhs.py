"""A small field over principal components, and cells on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import xarray as xr

import stabdask as sd

Array = np.ndarray[Any, Any]


class SmallRkhs(NamedTuple):
    """Points, labels and the parameters that a field is made of."""

    x: Array
    labels: list[str | None]
    centers: Array
    coefficients: Array
    beta: float
    loadings: Array | None
    genes: list[str]
    basis: str | None

    @property
    def field(self) -> sd.RKHSField:
        named = self.genes if self.loadings is not None or self.basis is None else None
        return sd.RKHSField(
            self.centers,
            self.coefficients,
            self.beta,
            basis=self.basis,
            loadings=self.loadings,
            genes=named,
        )

    @property
    def lift(self) -> Array:
        """Return the loadings, or the identity where there are none."""
        return np.eye(self.x.shape[1]) if self.loadings is None else self.loadings

    def velocity(self, x: Array) -> Array:
        """Return v at points, summed up center by center."""
        out = np.zeros_like(x)
        for z, c in zip(self.centers, self.coefficients, strict=True):
            out += np.exp(-self.beta * ((x - z) ** 2).sum(axis=1))[:, None] * c
        return out

    def jacobian(self, x: Array) -> Array:
        """Return J at points ``(cell, axis, axis)``, summed up center by center."""
        out = np.zeros((len(x), x.shape[1], x.shape[1]))
        for z, c in zip(self.centers, self.coefficients, strict=True):
            away = x - z
            k = np.exp(-self.beta * (away**2).sum(axis=1))
            out += -2.0 * self.beta * k[:, None, None] * c[None, :, None] * away[:, None, :]
        return out

    def adata(self) -> anndata.AnnData:
        obs = pd.DataFrame({"kind": self.labels}, index=[f"cell{i}" for i in range(len(self.x))])
        if self.basis is None:
            return anndata.AnnData(self.x, obs=obs, var=pd.DataFrame(index=self.genes))
        return anndata.AnnData(obs=obs, obsm={f"X_{self.basis}": self.x})

    def cells(self, **options: Any) -> xr.Dataset:
        where = {} if self.basis is None else {"obsm": f"X_{self.basis}"}
        return sd.open_cells(self.adata(), **{"cluster_key": "kind", "block_cells": 8, **where, **options})


def small_rkhs(
    seed: int = 0,
    *,
    n_cells: int = 24,
    n_axes: int = 4,
    n_centers: int = 15,
    n_genes: int = 12,
    basis: str | None = "pca",
    lifted: bool = True,
    n_labels: int = 3,
) -> SmallRkhs:
    """Return points among the centers of a random field, labels in turns, loadings with orthonormal columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_cells, n_axes)) + 5.0
    centers = rng.normal(size=(n_centers, n_axes)) + 5.0
    loadings = np.linalg.qr(rng.normal(size=(n_genes, n_axes)))[0] if lifted and basis else None
    names = n_genes if loadings is not None else n_axes
    return SmallRkhs(
        x=x,
        labels=[f"kind {cell % n_labels}" for cell in range(n_cells)],
        centers=centers,
        coefficients=rng.normal(size=(n_centers, n_axes)),
        beta=0.4,
        loadings=loadings,
        genes=[f"g{i:02d}" for i in range(names)],
        basis=basis,
    )
