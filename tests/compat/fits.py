"""AnnData with scHopfield's keys, written by hand, and the dense Jacobians they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import anndata
import numpy as np
import pandas as pd
from helpers import DenseCluster, random_field

Array = np.ndarray[Any, Any]

SIGMOID = {
    "sigmoid_threshold": "k1",
    "sigmoid_exponent": "n1",
    "sigmoid_threshold2": "k2",
    "sigmoid_exponent2": "n2",
    "sigmoid_mix": "mix",
}


@dataclass(frozen=True)
class Fit:
    """Cells, the clusters they belong to (None for none), and what was fitted."""

    adata: anndata.AnnData
    x: Array
    labels: list[Any]
    clusters: dict[str, DenseCluster]

    def jacobian(self, cell: int, activation: str = "fitted") -> Array:
        """Return the dense Jacobian of a cell, from the definition."""
        p = self.clusters[str(self.labels[cell])]
        if activation == "single":
            p = replace(p, mix=np.ones_like(p.mix))
        return p.jacobian(self.x[cell : cell + 1])[0]


def fit(
    seed: int = 0,
    *,
    n_cells: int = 24,
    zeros: float = 0.3,
    labels: Sequence[Any] | None = None,
    clusters: Sequence[str] = ("A", "B"),
    n_unused: int = 3,
    **options: Any,
) -> Fit:
    """Return random cells with a random fit; genes that the fit does not use lie among the others.

    Activations are shared by the clusters, as in scHopfield; `options` are those of `helpers.random_field`.
    """
    drawn = random_field(seed, clusters=clusters, **options)
    first = next(iter(drawn.clusters.values()))
    hill = {name: getattr(first, name) for name in SIGMOID.values()}
    dense = {label: replace(p, **hill) for label, p in drawn.clusters.items()}
    n = drawn.field.n_genes
    x = drawn.expression(n_cells, zeros=zeros)
    labels = [clusters[cell % len(clusters)] for cell in range(n_cells)] if labels is None else list(labels)
    rng = np.random.default_rng(seed)
    place = np.sort(rng.choice(n + n_unused, n, replace=False))
    everything = rng.gamma(2.0, 1.0, (n_cells, n + n_unused))
    everything[:, place] = x
    used = np.zeros(n + n_unused, dtype=bool)
    used[place] = True
    var = {"scHopfield_used": used, "gamma": spread(np.full(n, 7.0), place, n + n_unused)}
    varp = {}
    for key, name in SIGMOID.items():
        var[key] = spread(hill[name], place, n + n_unused)
    for label, p in dense.items():
        var[f"I_{label}"] = spread(p.bias, place, n + n_unused)
        var[f"gamma_{label}"] = spread(p.gamma, place, n + n_unused)
        W = np.zeros((n + n_unused, n + n_unused))
        W[np.ix_(place, place)] = p.W
        varp[f"W_{label}"] = W
    adata = anndata.AnnData(
        obs=pd.DataFrame({"cell_type": labels}, index=[f"cell{cell}" for cell in range(n_cells)]),
        var=pd.DataFrame(var, index=[f"g{gene}" for gene in range(n + n_unused)]),
        layers={"Ms": everything},
        obsm={"X_umap": rng.normal(size=(n_cells, 2))},
        varp=varp,
        uns={"scHopfield": {"spliced_key": "Ms", "degradation_key": "gamma", "sigmoid_bimodal": True}},
    )
    return Fit(adata, x, labels, dense)


def spread(values: Array, place: Array, n: int) -> Array:
    out = np.full(n, np.nan)
    out[place] = values
    return out


def used_names(adata: anndata.AnnData) -> list[str]:
    return adata.var_names[adata.var["scHopfield_used"]].tolist()
