"""scHopfield's Jacobian functions: `stabdask.compat.schopfield` against loops over dense matrices, as 1.0.1 has them.

    python tests/benchmarks/bench_compat.py

simulates a fitted AnnData in memory (1,728 genes, 150 regulators, 300 cells of seven clusters, 40 % zeros) and times,
in one run:

- all eigenvalues, against the loop of scHopfield 1.0.1: dense float32 Jacobians of some cells at a time and
  ``numpy.linalg.eigvals``, in two processes with the BLAS threads that joblib's loky gives them (cores / processes).
  With ``--loop-cells 20`` the loop is run on so many cells and extrapolated, which output and JSON say.
- 18 elements, and the rotational part, against forming every dense float32 Jacobian, cell by cell. Both take turns,
  and the ratio is the median of those of the turns.

joblib is no dependency of stabdask: processes come from `concurrent.futures`, with the same chunks of cells. They form
the Jacobians themselves, where scHopfield sends them, which spares the loop some time. Ours are timed from the AnnData
to the AnnData, reading of the parameters included, as the median of some calls; the first call is given too.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from stabdask.atlas.krumsiek import CLUSTERS, grow_network, network_field
from stabdask.atlas.sampler import CellSampler, random_stream
from stabdask.compat import schopfield as sch
from stabdask.kernels.eig import resolve_backend

Array = np.ndarray[Any, Any]

_CHUNK_BYTES = 128e6
_model: dict[str, tuple[Array, Array]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, default=1_728)
    parser.add_argument("--regulators", type=int, default=150)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--zeros", type=float, default=0.4)
    parser.add_argument("--processes", type=int, default=2, help="of the loop, and threads of ours")
    parser.add_argument("--loop-cells", type=int, default=300, help="cells of the eigenvalue loop (300)")
    parser.add_argument("--calls", type=int, default=5, help="of ours, timed after the first")
    parser.add_argument("--turns", type=int, default=3, help="of elements and rotational part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    figures = measure(options)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(options: argparse.Namespace) -> dict[str, object]:
    adata = simulate(options)
    pairs = some_pairs(adata, 18)
    loop_cells = min(options.loop_cells, options.cells)
    print(f"simulated {adata.n_obs} cells x {adata.n_vars} genes", file=sys.stderr, flush=True)

    fitted = time_calls(lambda: sch.tl.compute_jacobians(adata, n_jobs=options.processes), options.calls)
    jacobians = time_calls(
        lambda: sch.tl.compute_jacobians(adata, activation="single", n_jobs=options.processes), options.calls
    )
    dense = parameters(adata)
    print("loops over dense Jacobians: elements and rotational part", file=sys.stderr, flush=True)
    elements = take_turns(
        lambda: loop_elements(dense, pairs, adata),
        lambda: sch.tl.compute_jacobian_elements(adata, pairs, activation="single"),
        options,
    )
    rotation = take_turns(
        lambda: loop_rotation(dense),
        lambda: sch.tl.compute_rotational_part(adata, activation="single"),
        options,
    )
    their_elements, their_rotation = loop_elements(dense, pairs, adata), loop_rotation(dense)
    rows = np.linspace(0, options.cells - 1, loop_cells).astype(int)
    print(f"loop over dense spectra: {loop_cells} of {options.cells} cells", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    their_values = loop_eigenvalues(dense, rows, options.processes)
    loop_s = time.perf_counter() - begin
    whole_s = loop_s * options.cells / loop_cells
    extrapolated = loop_cells < options.cells
    if extrapolated:
        print(f"the loop's {whole_s:.0f} s are EXTRAPOLATED from {loop_cells} cells", file=sys.stderr)

    ours = adata.obsm["jacobian_eigenvalues"]
    ours_elements = np.stack([adata.obs[f"jacobian_df_{i}_dx_{j}"] for i, j in pairs], axis=1)
    return {
        "cells": options.cells,
        "genes": options.genes,
        "regulators": options.regulators,
        "clusters": adata.obs["cell_type"].nunique(),
        "zeros": round(float((adata.layers["Ms"] == 0).mean()), 3),
        "cores": os.cpu_count(),
        "processes": options.processes,
        "backend": resolve_backend("auto", options.regulators),
        "loop_cells": loop_cells,
        "loop_extrapolated": extrapolated,
        "loop_eigenvalues_measured_s": round(loop_s, 2),
        "loop_eigenvalues_s": round(whole_s, 2),
        "eigenvalues_s": round(jacobians[1], 4),
        "eigenvalues_first_call_s": round(jacobians[0], 4),
        "eigenvalues_two_components_s": round(fitted[1], 4),
        "elements_turns": elements,
        "rotational_turns": rotation,
        "eigenvalues_ratio": round(whole_s / jacobians[1], 1),
        "elements_ratio": statistics.median(turn["ratio"] for turn in elements),
        "rotational_ratio": statistics.median(turn["ratio"] for turn in rotation),
        "largest_relative_difference": {
            "eigenvalues": max(
                distance(ours[row], values) for row, values in zip(rows, their_values, strict=True)
            ),
            "elements": float(np.abs(ours_elements - their_elements).max() / np.abs(their_elements).max()),
            "rotational": float(np.abs(adata.obs["jacobian_rotational"] / their_rotation - 1).max()),
        },
    }


def simulate(options: argparse.Namespace) -> anndata.AnnData:
    """Return simulated cells with the model they were simulated with under scHopfield's keys."""
    network = grow_network(options.genes, options.regulators, random_stream(0, "network"))
    block = CellSampler.of(network, options.zeros, 0).draw(options.cells, np.random.default_rng(0))
    obs = pd.DataFrame({"cell_type": pd.Categorical([CLUSTERS[code] for code in block.cluster])})
    obs.index = [f"cell{cell}" for cell in range(options.cells)]
    adata = anndata.AnnData(
        obs=obs, var=pd.DataFrame(index=list(network.genes)), layers={"Ms": block.expression}
    )
    network_field(network, CLUSTERS, random_stream(0, "field")).to_anndata(adata)
    return adata


def some_pairs(adata: anndata.AnnData, n_pairs: int) -> list[tuple[str, str]]:
    """Return pairs of an effector and one of its regulators."""
    W = adata.varp[f"W_{adata.obs['cell_type'].iloc[0]}"]
    edges = np.argwhere(W != 0)
    chosen = edges[np.random.default_rng(0).choice(len(edges), n_pairs, replace=False)]
    return [(str(adata.var_names[i]), str(adata.var_names[j])) for i, j in chosen]


def parameters(adata: anndata.AnnData) -> dict[str, Any]:
    """Return what the loops start from: slopes of the first component, W and diag(gamma), float32."""
    x = adata.layers["Ms"].astype(np.float64)
    k, n = (adata.var[key].to_numpy() for key in ("sigmoid_threshold", "sigmoid_exponent"))
    s = x**n / (x**n + k**n)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    return {
        "slope": (n * s * (1 - s) / np.where(x == 0, 1.0, x)).astype(np.float32),
        "labels": labels,
        "model": {
            label: (
                np.asarray(adata.varp[f"W_{label}"], dtype=np.float32),
                np.diag(adata.var[f"gamma_{label}"].to_numpy().astype(np.float32)),
            )
            for label in sorted(set(labels))
        },
    }


def dense_jacobians(W: Array, decay: Array, slope: Array) -> Array:
    return W[None] * slope[:, None, :] - decay


def loop_elements(dense: dict[str, Any], pairs: list[tuple[str, str]], adata: anndata.AnnData) -> Array:
    i = adata.var_names.get_indexer([pair[0] for pair in pairs])
    j = adata.var_names.get_indexer([pair[1] for pair in pairs])
    out = np.empty((len(dense["slope"]), len(pairs)), dtype=np.float32)
    for cell, (label, slope) in enumerate(zip(dense["labels"], dense["slope"], strict=True)):
        out[cell] = dense_jacobians(*dense["model"][label], slope[None])[0, i, j]
    return out


def loop_rotation(dense: dict[str, Any]) -> Array:
    out = np.empty(len(dense["slope"]), dtype=np.float32)
    for cell, (label, slope) in enumerate(zip(dense["labels"], dense["slope"], strict=True)):
        J = dense_jacobians(*dense["model"][label], slope[None])[0]
        out[cell] = np.linalg.norm((J - J.T) / 2)
    return out


def loop_eigenvalues(dense: dict[str, Any], rows: Array, processes: int) -> list[Array]:
    """Return spectra of the cells at `rows`, from processes that take some cells of one cluster at a time."""
    n = dense["slope"].shape[1]
    chunk = max(4, int(_CHUNK_BYTES // (2 * 4 * n * n)))
    tasks = []
    for label in dense["model"]:
        own = rows[dense["labels"][rows] == label]
        tasks += [
            (own[first : first + chunk], label, dense["slope"][own[first : first + chunk]])
            for first in range(0, len(own), chunk)
        ]
    threads = max(1, (os.cpu_count() or 1) // processes)
    found: dict[int, Array] = {}
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), start_worker, (dense["model"], threads)
    ) as pool:
        for (cells, _, _), values in zip(tasks, pool.map(solve_chunk, tasks), strict=True):
            found.update(zip(cells.tolist(), values, strict=True))
    return [found[row] for row in rows.tolist()]


def start_worker(model: dict[str, tuple[Array, Array]], threads: int) -> None:
    _model.update(model)
    threadpool_limits(threads)


def solve_chunk(task: tuple[Array, str, Array]) -> Array:
    _, label, slope = task
    return np.linalg.eigvals(dense_jacobians(*_model[label], slope)).astype(np.complex64)


def take_turns(
    theirs: Callable[[], object], ours: Callable[[], object], options: argparse.Namespace
) -> list[dict[str, float]]:
    """Return the seconds of both and their ratio, turn by turn; of ours the median of some calls after the first."""
    turns = []
    for _ in range(options.turns):
        begin = time.perf_counter()
        theirs()
        theirs_s = time.perf_counter() - begin
        first_s, ours_s = time_calls(ours, options.calls)
        turns.append(
            {
                "loop_s": round(theirs_s, 3),
                "ours_s": round(ours_s, 4),
                "first_call_s": round(first_s, 4),
                "ratio": round(theirs_s / ours_s, 1),
            }
        )
    return turns


def time_calls(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the seconds of the first call, and the median of those that follow."""
    seconds = []
    for _ in range(calls + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[1:])


def distance(a: Array, b: Array) -> float:
    """Return the largest distance of two spectra, paired so that they are least, over their radius."""
    apart = np.abs(a[:, None] - b[None, :])
    pairs = linear_sum_assignment(apart)
    value = float(apart[pairs].max() / np.abs(b).max())
    return value if math.isfinite(value) else math.inf


if __name__ == "__main__":
    main()
