"""Knockouts of all regulators: batched principal submatrices of cores against a dense eigensolver for each.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_knockouts.py --json FILE

makes a random network (60 regulators among 500 genes, half of the edges from them, one regulator in seven silent
in a cell) and 2,000 cells, and times on one thread, in turns, so that what else the machine does meets all alike:

- `stabdask.knockouts`: the spectral abscissa and unstable count of every cell without every regulator, with predicted
  shifts;
- `numpy.linalg.eigvals` of the dense Jacobian without that gene, for a few knockouts of a few cells, extrapolated: what
  is usually done. LAPACK's balancing finds most genes outside the core by itself, so that this is no cube of all genes;
- `numpy.linalg.eigvals` of the core without that regulator, one after the other, extrapolated: what knowing of cores
  alone gives.

Ours is compared with the dense one on those cells. Times are of the processor (`time.process_time`), the least of all
turns; ratios are the median of those of the turns. ``--order 2`` removes all pairs of the first regulators, as many as
``--pairs-of`` says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import dask
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import stabdask as sd
from stabdask.kernels.eig import kernel_name, resolve_backend

Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--regulators", type=int, default=60)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--order", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--pairs-of", type=int, default=12, help="regulators that pairs are of, with --order 2"
    )
    parser.add_argument(
        "--dense-cells", type=int, default=2, help="cells that dense eigenvalues are taken of"
    )
    parser.add_argument("--dense-knockouts", type=int, default=5, help="knockouts of each of them")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with threadpool_limits(1), dask.config.set(num_workers=1):
        figures = measure(options)
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    field, x = network(options.regulators, options.genes, options.cells)
    adata = anndata.AnnData(x, var=pd.DataFrame(index=field.genes.tolist()))
    cells = sd.open_cells(adata)
    removed = field.regulators.tolist()[: options.pairs_of if options.order == 2 else None]
    few = np.linspace(0, options.cells - 1, options.dense_cells).astype(int)
    turns: dict[str, list[float]] = {"knockouts": [], "dense": [], "core": []}
    differences: list[float] = []
    ours = partial(sd.knockouts, cells, field, regulators=removed, order=options.order)
    ds = ours()  # everything is loaded now
    n = ds.sizes["knockout"]
    chosen = np.unique(np.linspace(0, n - 1, min(n, options.dense_knockouts)).astype(int))
    whole = n * options.cells / (len(chosen) * len(few))
    for _ in range(options.turns):
        seconds, ds = timed(ours)
        turns["knockouts"].append(seconds)
        jacobians = field.jacobian(x[few], "all")
        active = np.stack([np.abs(J - np.diag(np.diag(J))).any(axis=0) for J in jacobians])
        for kind, kept in (("dense", np.ones_like(active)), ("core", active)):
            seconds, found = timed(partial(one_by_one, ds, field, jacobians, kept, chosen))
            turns[kind].append(seconds * whole)
            if kind == "dense":
                batched = ds["knockout_abscissa"].values[np.ix_(few, chosen)]
                differences.append(float(np.abs(found - batched).max()))
    return {
        "cells": options.cells,
        "regulators": options.regulators,
        "genes": options.genes,
        "order": options.order,
        "knockouts": n,
        "dense_cells": len(few),
        "dense_knockouts": len(chosen),
        "kernel": kernel_name(resolve_backend("auto", options.regulators)),
        "seconds": {name: min(values) for name, values in turns.items()},
        "cells_per_s": options.cells / min(turns["knockouts"]),
        "ratio_to_dense": ratio(turns["dense"], turns["knockouts"]),
        "ratio_to_cores_one_by_one": ratio(turns["core"], turns["knockouts"]),
        "largest_difference": max(differences),
        "correlation_of_prediction": correlation(ds),
    }


def network(n_regulators: int, n_genes: int, n_cells: int) -> tuple[sd.HopfieldField, Array]:
    rng = np.random.default_rng(0)
    W = np.zeros((n_genes, n_genes))
    kept = rng.random((n_genes, n_regulators)) < 0.5
    W[:, :n_regulators] = kept * rng.normal(scale=1.5 / np.sqrt(n_regulators / 8), size=kept.shape)
    field = sd.HopfieldField.from_arrays(
        [f"gene{i}" for i in range(n_genes)],
        W=W,
        gamma=rng.uniform(0.5, 1.5, n_genes),
        threshold=rng.uniform(0.5, 2.0, n_genes),
        exponent=rng.uniform(1.5, 4.0, n_genes),
    )
    x = rng.gamma(2.0, 0.6, size=(n_cells, n_genes))
    x[rng.random(x.shape) < 1 / 7] = 0.0
    return field, x


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    found = function()
    return time.process_time() - begin, found


def one_by_one(ds: Any, field: sd.HopfieldField, jacobians: Array, active: Array, chosen: Array) -> Array:
    """Return the largest real part among `active` genes without each knockout, one eigensolver call each."""
    where = {str(gene): i for i, gene in enumerate(field.genes)}
    out = np.empty((len(jacobians), len(chosen)))
    names = ds["knockout"].values[chosen]
    for row, (J, own) in enumerate(zip(jacobians, active, strict=True)):
        for column, name in enumerate(names):
            kept = own.copy()
            kept[[where[gene] for gene in name.split("+")]] = False
            rows = np.flatnonzero(kept)
            out[row, column] = np.linalg.eigvals(J[np.ix_(rows, rows)]).real.max()
    return out


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def correlation(ds: Any) -> float:
    shift = (ds["knockout_abscissa"] - ds["abscissa"]).values.ravel()
    return float(np.corrcoef(ds["predicted_shift"].values.ravel(), shift)[0, 1])


if __name__ == "__main__":
    main()
