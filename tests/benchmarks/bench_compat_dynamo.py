"""dynamo's `jacobian`: `stabdask.compat.dynamo` against dynamo itself, and against the loop over cells that it has.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_compat_dynamo.py --dynamo PYTHON

makes 2,000 cells of those of ../shared/data/dynamo_pca.h5ad (each repeated with some noise in the expression), 30
principal components, and a field with 1,000 control points fitted to their velocities by least squares; then times, in
turns, each as the shortest of some calls:

- the Jacobians over the axes, and those with elements between 20 x 20 genes, through the drop-in, from the AnnData to
  the AnnData; its first call is given too;
- the same by ``dyn.vf.jacobian`` in the interpreter PYTHON, which has dynamo, in a process of its own (only with
  --dynamo). Its progress bars go to the null device;
- the same by a loop in NumPy over cells, ``(C.T * K) @ (x - z)`` and ``Q_eff @ J @ Q_reg.T``, without bars or tables;
- the Jacobians with all eigenvalues, which dynamo does not compute.

What is compared is also checked: differences of all results are in the output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from stabdask.compat import dynamo as dyn
from stabdask.fields.dynamo import read_dynamo
from stabdask.kernels.eig import eig

Array = np.ndarray[Any, Any]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "dynamo_pca.h5ad"

THEIRS = """
import contextlib, json, os, sys, time, warnings
warnings.filterwarnings("ignore")
folder, calls = sys.argv[1], int(sys.argv[2])
with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
    import anndata
    import numpy as np
    import dynamo as dyn

    adata = anndata.read_h5ad(folder + "/fitted.h5ad")
    genes = json.load(open(folder + "/genes.json"))
    seconds = {}
    for name, options in {"axes": {}, "genes": genes}.items():
        seconds[name] = []
        for _ in range(calls + 1):
            begin = time.perf_counter()
            dyn.vf.jacobian(adata, **options)
            seconds[name].append(time.perf_counter() - begin)
    found = adata.uns["jacobian_pca"]
    np.savez(folder + "/theirs.npz", **{k: found[k] for k in ("jacobian", "jacobian_gene")})
print(json.dumps(seconds))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dynamo", metavar="PYTHON", help="interpreter that has dynamo")
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--centers", type=int, default=1_000)
    parser.add_argument("--axes", type=int, default=30)
    parser.add_argument("--genes", type=int, default=20, help="effectors, and regulators (20)")
    parser.add_argument("--calls", type=int, default=5, help="of each in a turn, after a first one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if not SHARED.exists():
        parser.error(f"{SHARED} is not there: it is no part of the repository")
    with tempfile.TemporaryDirectory(prefix="stabdask-bench-") as folder:
        figures = measure(options, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    adata, lost = make(options)
    rng = np.random.default_rng(1)
    genes = {
        kind: sorted(rng.choice(adata.var_names, options.genes, replace=False).tolist())
        for kind in ("regulators", "effectors")
    }
    turns = [turn(adata, genes, options, folder) for _ in range(options.turns)]
    ours = adata.uns["jacobian_pca"]
    J, between = loop(adata, genes)
    differences = {
        "loop_jacobian": apart(ours["jacobian"], J),
        "loop_jacobian_gene": apart(ours["jacobian_gene"], between),
    }
    if options.dynamo:
        with np.load(folder / "theirs.npz") as theirs:
            differences["dynamo_jacobian"] = apart(ours["jacobian"], theirs["jacobian"])
            differences["dynamo_jacobian_gene"] = apart(ours["jacobian_gene"], theirs["jacobian_gene"])
    ratios = {
        name: statistics.median(one[name] for one in turns) for name in turns[0] if name.endswith("_ratio")
    }
    return {
        "cells": options.cells,
        "centers": options.centers,
        "axes": options.axes,
        "genes": options.genes,
        "cores": os.cpu_count(),
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS"),
        "velocity_not_fitted": round(lost, 3),
        "turns": turns,
        **ratios,
        "largest_relative_difference": differences,
    }


def make(options: argparse.Namespace) -> tuple[anndata.AnnData, float]:
    """Return cells with a field, and which share of their velocity the field leaves over."""
    shared = anndata.read_h5ad(SHARED)
    rng = np.random.default_rng(0)
    rows = np.arange(options.cells) % shared.n_obs
    x = np.asarray(shared.layers["M_s"], dtype=np.float64)[rows]
    x = x * np.exp(0.05 * rng.normal(size=x.shape))
    v = np.asarray(shared.layers["velocity_S"], dtype=np.float64)[rows]
    Q = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][: options.axes].T
    points, flow = (x - x.mean(axis=0)) @ Q, v @ Q
    chosen = rng.choice(options.cells, min(options.centers, options.cells), replace=False)
    centers = points[np.sort(chosen)]
    spread = np.median(((points[:200, None] - points[None, :200]) ** 2).sum(axis=2))
    beta = 1.0 / spread
    K, G = kernel(points, centers, beta), kernel(centers, centers, beta)
    C = np.linalg.solve(K.T @ K + 1e-3 * G + 1e-6 * np.eye(len(centers)), K.T @ flow)
    lost = float(np.linalg.norm(K @ C - flow) / np.linalg.norm(flow))
    adata = anndata.AnnData(
        np.zeros((options.cells, Q.shape[0]), dtype=np.float32),
        obs=pd.DataFrame(index=[f"cell{number}" for number in range(options.cells)]),
        var=pd.DataFrame({"use_for_pca": True, "use_for_dynamics": True}, index=shared.var_names.astype(str)),
        obsm={"X_pca": points},
    )
    adata.uns["PCs"] = Q
    adata.uns["VecFld_pca"] = {
        "X": points, "Y": flow, "X_ctrl": centers, "C": C, "beta": beta, "method": "SparseVFC", "normalize": False,
    }  # fmt: skip
    return adata, lost


def kernel(x: Array, z: Array, beta: float) -> Array:
    squares = (x**2).sum(axis=1)[:, None] - 2 * x @ z.T + (z**2).sum(axis=1)
    return np.exp(-beta * squares)


def turn(
    adata: anndata.AnnData, genes: dict[str, list[str]], options: argparse.Namespace, folder: Path
) -> dict[str, float]:
    """Return seconds of each, and how many times longer the others take than ours."""
    out: dict[str, float] = {}
    ours = {
        "axes": time_calls(lambda: dyn.vf.jacobian(adata), options.calls),
        "spectra": time_calls(lambda: spectra(adata), options.calls),
        "genes": time_calls(lambda: dyn.vf.jacobian(adata, **genes), options.calls),
    }
    theirs = in_dynamo(adata, genes, options, folder) if options.dynamo else {}
    loops = {
        "axes": time_calls(lambda: loop(adata, None), options.calls)[1],
        "genes": time_calls(lambda: loop(adata, genes), options.calls)[1],
    }
    for name, (first, best) in ours.items():
        out[f"ours_{name}_s"], out[f"ours_{name}_first_s"] = round(best, 4), round(first, 4)
        against = "axes" if name == "spectra" else name
        out[f"loop_{name}_ratio"] = round(loops[against] / best, 2)
        if theirs:
            out[f"dynamo_{name}_ratio"] = round(theirs[against] / best, 2)
    out |= {f"loop_{name}_s": round(seconds, 4) for name, seconds in loops.items()}
    out |= {f"dynamo_{name}_s": round(seconds, 4) for name, seconds in theirs.items()}
    print(json.dumps(out), file=sys.stderr, flush=True)
    return out


def in_dynamo(
    adata: anndata.AnnData, genes: dict[str, list[str]], options: argparse.Namespace, folder: Path
) -> dict[str, float]:
    if not (folder / "fitted.h5ad").exists():
        bare = adata.copy()
        bare.uns.pop("jacobian_pca", None)
        bare.write_h5ad(folder / "fitted.h5ad")
        (folder / "genes.json").write_text(json.dumps(genes))
    command = [options.dynamo, "-c", THEIRS, str(folder), str(options.calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{options.dynamo} could not run dynamo:\n{done.stderr[-2000:]}")
    seconds = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: min(values[1:]) for name, values in seconds.items()}


def spectra(adata: anndata.AnnData) -> None:
    field = read_dynamo(adata, Qkey=None)
    eig(field.jacobian(adata.obsm["X_pca"]))


def loop(adata: anndata.AnnData, genes: dict[str, list[str]] | None) -> tuple[Array, Array]:
    """Return Jacobians, and elements between genes, computed cell by cell."""
    fit = adata.uns["VecFld_pca"]
    x, z, C, beta = adata.obsm["X_pca"], fit["X_ctrl"], fit["C"], fit["beta"]
    n, d = x.shape
    J = np.empty((d, d, n))
    for cell in range(n):
        apart_by = x[cell] - z
        K = np.exp(-beta * (apart_by**2).sum(axis=1))
        J[:, :, cell] = -2 * beta * (C.T * K) @ apart_by
    if genes is None:
        return J, np.zeros(0)
    rows, columns = (
        adata.uns["PCs"][adata.var_names.get_indexer(genes[kind])] for kind in ("effectors", "regulators")
    )
    between = np.empty((len(rows), len(columns), n), dtype=np.float32)
    for cell in range(n):
        between[:, :, cell] = rows @ J[:, :, cell] @ columns.T
    return J, between


def time_calls(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the seconds of the first call, and of the shortest of those that follow."""
    seconds = []
    for _ in range(calls + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds[0], min(seconds[1:])


def apart(found: Array, expected: Array) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
