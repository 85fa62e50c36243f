"""Results as figures meet them, made up: any labels, gaps, annotations and drivers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
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


def fake_knockouts(
    labels: Sequence[str] = ("MEP", "GMP"), *, order: int = 1, n_cells: int = 12, seed: int = 0
) -> xr.Dataset:
    """Return what `stabdask.knockouts` does, for cells whose clusters take turns."""
    rng = np.random.default_rng(seed)
    genes = list(combinations(GENES, order))
    codes = np.arange(n_cells) % len(labels)
    shift = rng.normal(size=(len(labels), len(genes)))[codes] + 0.1 * rng.normal(size=(n_cells, len(genes)))
    abscissa = rng.normal(size=n_cells)
    after = abscissa[:, None] + shift
    both = ("cell", "knockout")
    pair = {"gene_a": 0, "gene_b": 1} if order == 2 else {}
    return xr.Dataset(
        {
            "knockout_abscissa": (both, after),
            "knockout_unstable_count": (both, (after > 0).astype(np.int32)),
            "predicted_shift": (both, 1.5 * shift),
            "abscissa": ("cell", abscissa),
            "unstable_count": ("cell", (abscissa > 0).astype(np.int32)),
            "cluster_code": ("cell", codes.astype(np.int32)),
        },
        coords={
            "cell": [f"cell{i}" for i in range(n_cells)],
            "knockout": np.array(["+".join(names) for names in genes], dtype=object),
            "cluster": np.array(labels, dtype=object),
            "cell_cluster": ("cell", np.array(labels, dtype=object)[codes]),
            **{
                name: ("knockout", np.array([names[part] for names in genes], dtype=object))
                for name, part in pair.items()
            },
        },
    )


def fake_responses(
    labels: Sequence[str] = ("MEP", "GMP"), *, n_effectors: int = 8, n_regulators: int = 5, n_cells: int = 12
) -> xr.Dataset:
    """Return results with responses of cells whose clusters take turns; of the first four, three cannot be trusted.

    Those are inaccurate, singular and not computed.
    """
    rng = np.random.default_rng(0)
    names = [*GENES, *(f"REG{i:04d}" for i in range(100))]
    codes = np.arange(n_cells) % len(labels)
    status, condition = np.zeros(n_cells, dtype=np.uint8), 10.0 ** rng.uniform(1, 4, n_cells)
    status[1:4] = 2, 6, 255
    condition[1:4] = 1e15, np.inf, np.nan
    values = rng.normal(size=(n_cells, n_effectors, n_regulators))
    values[1], values[2:4] = 1e9, np.nan
    return xr.Dataset(
        {
            "response": (("cell", "block_effector", "block_regulator"), values),
            "response_status": ("cell", status),
            "response_condition": ("cell", condition),
            "cluster_code": ("cell", codes.astype(np.int32)),
        },
        coords={
            "cell": [f"cell{i}" for i in range(n_cells)],
            "block_effector": np.array(names[:n_effectors], dtype=object),
            "block_regulator": np.array(names[:n_regulators], dtype=object),
            "cluster": np.array(labels, dtype=object),
            "cell_cluster": ("cell", np.array(labels, dtype=object)[codes]),
        },
    )


def fake_timings(sizes: Sequence[int] = (50, 200, 1000)) -> list[dict[str, float]]:
    """Return seconds of direct inversion and of two ways of updating, the second the faster for many genes."""
    return [
        {"n_genes": n, "rank": 5, "direct": 1e-9 * n**3, "_slow": 4e-9 * n**2, "$fast$": 1e-9 * n**2}
        for n in sizes
    ]
