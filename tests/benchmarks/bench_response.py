"""Responses -J^-1 of every cell, all regulators by chosen effectors: from cores, against inverting each dense Jacobian.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_response.py --json FILE

simulates a field (2,000 genes, 150 regulators) and cells of which 40 % of the values are zero, and times on one thread,
in turns: `numpy.linalg.inv` of the dense Jacobians of a few cells, and the block function of a run for many. Both per
cell, their ratio in one run; the values are compared on the few cells.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import stabdask as sd
from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--regulators", type=int, default=150)
    parser.add_argument("--effectors", type=int, default=50)
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--dense-cells", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        figures = measure(options, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    atlas = sd.simulate_atlas(
        folder,
        n_cells=options.cells,
        n_genes=options.genes,
        n_regulators=options.regulators,
        zero_fraction=0.4,
    )
    field = sd.read_field(atlas.field)
    assert isinstance(field, sd.HopfieldField)
    cells = sd.open_cells(atlas.cells, layer=atlas.layer, cluster_key=atlas.cluster_key)
    x = cells["expression"].values
    codes = np.array([field.clusters.index(label) for label in cells["cluster"].values.tolist()])
    genes = field.genes.tolist()
    regulators = np.asarray(field.regulator_index)
    effectors = np.sort(np.random.default_rng(0).choice(options.genes, options.effectors, replace=False))
    asked = make_options(
        field,
        spectrum="none",
        quantities=["response"],
        effectors=[genes[i] for i in effectors],
        regulators=[genes[j] for j in regulators],
    )
    few = [
        field.jacobian(x[cell : cell + 1], field.clusters[codes[cell]])[0]
        for cell in range(options.dense_cells)
    ]
    ours, theirs = [], []
    for turn in range(options.turns):
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        out = compute_block(x, codes, field, asked)
        middle = time.perf_counter()
        dense = [-np.linalg.inv(J)[np.ix_(effectors, regulators)] for J in few]
        theirs.append((time.perf_counter() - middle) / len(few))
        ours.append((middle - begin) / len(x))
    worst = max(
        float(np.abs(one - other).max() / np.abs(other).max())
        for one, other in zip(out["response"], dense, strict=False)
    )
    return {
        "genes": options.genes,
        "regulators": len(regulators),
        "effectors": options.effectors,
        "cells": options.cells,
        "ms_per_cell": {
            "dense_inverse": round(1e3 * min(theirs), 3),
            "response": round(1e3 * min(ours), 4),
        },
        "dense_inverse_over_response": round(
            statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 1
        ),
        "largest_relative_difference": worst,
        "largest_condition": float(out["response_condition"].max()),
    }


if __name__ == "__main__":
    main()
