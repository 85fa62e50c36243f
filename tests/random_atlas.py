"""Random atlases in memory for random fields, with the dense Jacobian of every cell, and planted Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import RandomField, random_field

import stabdask as sd
from stabdask.runs import lazy

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RandomAtlas:
    """Expression and labels of cells, the field they belong to, and its dense parameters."""

    drawn: RandomField
    x: Array
    labels: list[str | None]

    @property
    def field(self) -> sd.HopfieldField:
        return self.drawn.field

    @property
    def codes(self) -> Array:
        """Return the number of each cell's cluster in the field, -1 for none."""
        return np.array([-1 if label is None else self.field.clusters.index(label) for label in self.labels])

    @property
    def good(self) -> Array:
        """Return which cells can be computed."""
        return np.isfinite(self.x).all(axis=1) & (self.codes >= 0)

    def adata(self) -> anndata.AnnData:
        obs = pd.DataFrame({"kind": self.labels}, index=[f"cell{i}" for i in range(len(self.x))])
        return anndata.AnnData(self.x, obs=obs, var=pd.DataFrame(index=self.field.genes.tolist()))

    def cells(self, **options: Any) -> xr.Dataset:
        return sd.open_cells(self.adata(), **{"cluster_key": "kind", "block_cells": 8, **options})

    def jacobian(self, cell: int) -> Array:
        """Return the dense Jacobian of a cell, from the definition."""
        return self.drawn.clusters[str(self.labels[cell])].jacobian(self.x[cell : cell + 1])[0]

    def spectrum(self, cell: int) -> Array:
        return np.linalg.eigvals(self.jacobian(cell))


def random_atlas(
    seed: int = 0,
    *,
    n_cells: int = 24,
    zeros: float = 0.25,
    unlabelled: Sequence[int] = (),
    broken: Sequence[int] = (),
    **options: Any,
) -> RandomAtlas:
    """Return cells whose clusters take turns, some without a label, some with NaN or infinite expression."""
    drawn = random_field(seed, **options)
    x = drawn.expression(n_cells, zeros=zeros)
    for cell, value in zip(broken, np.resize([np.nan, np.inf], len(broken)), strict=True):
        x[cell, cell % x.shape[1]] = value
    names = list(drawn.clusters)
    labels = [None if cell in unlabelled else names[cell % len(names)] for cell in range(n_cells)]
    return RandomAtlas(drawn, x, labels)


def planted(J: Array, gamma: float = 1.0) -> tuple[sd.HopfieldField, Array]:
    """Return a field and the expression of one cell at which its Jacobian is `J`.

    With Hill exponent and threshold 1, the slope at expression 1 is 1/4.
    """
    n = len(J)
    W = 4.0 * (np.asarray(J, float) + gamma * np.eye(n))
    genes = [f"gene{i}" for i in range(n)]
    return sd.HopfieldField.from_arrays(genes, W=W, gamma=gamma, threshold=1.0, exponent=1.0), np.ones((1, n))


def count_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of cells of every block that a lazy Dataset computes."""
    computed: list[int] = []
    original = lazy.compute_block

    def counted(expression: Array, *args: Any, **kwargs: Any) -> dict[str, Array]:
        computed.append(len(expression))
        return original(expression, *args, **kwargs)

    monkeypatch.setattr(lazy, "compute_block", counted)
    return computed
