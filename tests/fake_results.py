"""Results as figures meet them, made up: any labels, gaps, annotations and drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from stabdask.schema import VARIABLES

GENES = ("GATA1", "SPI1", "_A", "$KLF1$", "HLA-DRB1", "EGR1", "../x", "TAL1")


def fake_results(
    labels: Sequence[str] = ("progenitor", "MEP", "GMP"),
    *,
    n_cells: int = 120,
    seed: int = 0,
    unlabelled: Sequence[int] = (),
    failed: Sequence[int] = (),
    chunks: int | None = None,
    colors: Sequence[str] | None = None,
    drivers: bool = False,
) -> xr.Dataset:
    """Return results for cells whose clusters take turns; `failed` cells have no numbers."""
    rng = np.random.default_rng(seed)
    k, n_genes, n_clusters = len(GENES), len(GENES) + 3, len(labels)
    codes = np.arange(n_cells) % max(n_clusters, 1)
    codes[list(unlabelled)] = -1
    pairs = rng.normal(size=(n_cells, 3)) + 1j * rng.normal(size=(n_cells, 3))
    real = rng.normal(size=(n_cells, 2)) - 1.0
    spectra = np.concatenate([pairs, pairs.conj(), real], axis=1)
    spectra = -np.sort(-spectra, axis=1) - 0.8
    numbers = {
        "spectral_abscissa": spectra.real.max(axis=1),
        "unstable_count": (spectra.real > 0).sum(axis=1).astype(np.int32),
        "trace": -500.0 + rng.normal(size=n_cells),
        "rotational_norm": rng.gamma(2.0, size=n_cells),
        "speed": rng.gamma(4.0, size=n_cells),
    }
    bad = [*failed, *unlabelled]
    spectra[bad] = np.nan
    for name, values in numbers.items():
        values[bad] = VARIABLES[name].fill
    element = rng.normal(size=(n_cells, 2)) - [0.0, 0.4]
    element[bad] = np.nan
    active = np.ones((n_cells, k), dtype=np.uint8)
    active[bad] = 255
    xy = rng.normal(size=(n_cells, 2)) + np.stack([np.cos(codes), np.sin(codes)], axis=1) * 4
    gamma = rng.lognormal(size=(n_clusters, n_genes))
    ds = xr.Dataset(
        {
            "eigenvalue": (("cell", "mode"), spectra),
            **{name: ("cell", values) for name, values in numbers.items()},
            "element": (("cell", "pair"), element),
            "active": (("cell", "regulator"), active),
            "cluster_code": ("cell", codes.astype(np.int32)),
            "degradation": (("cluster", "gene"), gamma),
            "X_umap": (("cell", "X_umap_axis"), xy, {"annotation": "embedding"}),
        },
        coords={
            "cell": [f"cell{i}" for i in range(n_cells)],
            "regulator": np.array(GENES, dtype=object),
            "gene": np.array([*GENES, "x", "y", "z"], dtype=object),
            "cluster": np.array(labels, dtype=object),
            "pair": np.array(["GATA1:SPI1", "SPI1:GATA1"], dtype=object),
            "effector": ("pair", np.array(["GATA1", "SPI1"], dtype=object)),
            "pair_regulator": ("pair", np.array(["SPI1", "GATA1"], dtype=object)),
            "cell_cluster": ("cell", np.array([*labels, np.nan], dtype=object)[codes]),
            "dpt_pseudotime": ("cell", rng.random(n_cells), {"annotation": "number"}),
        },
    )
    for name in (*numbers, "eigenvalue", "element", "active"):
        ds[name].attrs = VARIABLES[name].attrs
    if colors is not None:
        ds["cluster"].attrs["colors"] = list(colors)
    if drivers:
        ds = _with_drivers(ds, rng)
    return ds if chunks is None else ds.chunk(cell=chunks)


def _with_drivers(ds: xr.Dataset, rng: np.random.Generator) -> xr.Dataset:
    shape = (ds.sizes["cluster"], len(GENES), len(GENES))
    dims = ("cluster", "core_effector", "regulator")
    return ds.assign_coords(core_effector=np.array(GENES, dtype=object)).assign(
        sensitivity_mean=(dims, rng.normal(size=shape)),
        sensitivity_std=(dims, rng.random(shape)),
        weight=(dims, rng.normal(size=shape) * (rng.random(shape) < 0.5)),
        participation_mean=(
            ("cluster", "vector_mode", "regulator"),
            rng.normal(size=(shape[0], 1, shape[1])),
        ),
    )


def fake_edges(n_genes: int = 8, n_edges: int = 20, seed: int = 0, **attrs: Any) -> pd.DataFrame:
    """Return a table as `stabdask.driver_edges` makes it, with one edge of weight 0."""
    rng = np.random.default_rng(seed)
    names = [*GENES, *(f"REG{i:04d}" for i in range(n_genes))][:n_genes]
    chosen = rng.choice(n_genes * n_genes, min(n_edges, n_genes * n_genes), replace=False)
    sensitivity, weight = rng.normal(size=len(chosen)), rng.normal(size=len(chosen))
    weight[0] = 0.0
    table = pd.DataFrame(
        {
            "regulator": [names[i] for i in chosen // n_genes],
            "effector": [names[i] for i in chosen % n_genes],
            "sensitivity": sensitivity,
            "std": rng.random(len(chosen)),
            "weight": weight,
            "contribution": weight * sensitivity,
        }
    )
    table = table.loc[table["sensitivity"].abs().sort_values(ascending=False).index].reset_index(drop=True)
    table.attrs = {"cluster": "GMP", "n_cells": 40, "leading_fraction": 0.75, **attrs}
    return table


def fake_genes(**attrs: Any) -> pd.DataFrame:
    """Return a table as `stabdask.driver_genes` makes it."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"gene": GENES, "participation": rng.normal(size=len(GENES)), "std": rng.random(len(GENES))}
    )
    table = table.loc[table["participation"].abs().sort_values(ascending=False).index].reset_index(drop=True)
    table.attrs = {"cluster": "GMP", "n_cells": 40, "leading_fraction": 0.75, **attrs}
    return table
