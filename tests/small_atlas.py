"""A small atlas on disk with a field, for tests of runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd

import stabdask as sd


class Small(NamedTuple):
    atlas: Path
    field: Path


def make_small(
    folder: Path, n_cells: int = 230, seed: int = 0, labels: tuple[str, ...] = ("a", "b/c", "../x")
) -> Small:
    """Write 230 cells x 20 genes with 7 regulators in three clusters, some of them two-component."""
    rng = np.random.default_rng(seed)
    n, r = 20, 7
    genes = [f"g{i:02d}" for i in range(n)]
    weights = {}
    for label in labels:
        W = np.zeros((n, n))
        W[:, rng.permutation(n)[:r]] = rng.normal(size=(n, r))
        weights[label] = W
    field = sd.HopfieldField.from_arrays(
        genes,
        W=weights,
        gamma=rng.uniform(0.2, 2.0, n),
        bias=rng.normal(size=n),
        threshold=rng.uniform(0.5, 2.0, n),
        exponent=rng.uniform(1.5, 5.0, n),
        threshold2=rng.uniform(2.0, 4.0, n),
        exponent2=rng.uniform(1.5, 5.0, n),
        mix=np.where(np.arange(n) % 3 == 0, 0.5, 1.0),
    )
    x = rng.gamma(2.0, 1.0, size=(n_cells, n)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = 0.0
    obs = pd.DataFrame(
        {"state": pd.Categorical(rng.choice(list(weights), n_cells))}, index=[f"c{i}" for i in range(n_cells)]
    )
    adata = anndata.AnnData(None, obs=obs, var=pd.DataFrame(index=genes), layers={"M_t": x})
    adata.write_h5ad(folder / "cells.h5ad")
    return Small(folder / "cells.h5ad", field.save(folder / "field.zarr"))
