"""A run over a field in PCA space at size: wall time against its matrix products and eigensolver, and memory.

    python tests/benchmarks/bench_rkhs_run.py --cells 1000000 --axes 30 --centers 1000 --memory 3GB --folder FOLDER

makes cells and a field once (kept in --folder), runs ``stabdask run`` on them in a process tree of its own while adding
up the resident memory of all its processes, and times what cannot be avoided, in as many processes at once as there are
workers, each on one thread, before and after: the products of matrices that velocities and Jacobians are made of
(`numpy.matmul`: points with control points, kernel values with coefficients and control points) and the eigensolver,
for a sample of the cells, the median of some turns. All in one go; figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

import stabdask as sd
from stabdask.kernels.threads import single_threaded_blas

sys.path.insert(0, str(Path(__file__).parents[1]))

from tree_memory import TreeMemory

SAMPLE = 8192


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--axes", type=int, default=30)
    parser.add_argument("--centers", type=int, default=1000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--memory", default="3GB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--quantities", default="default,determinant")
    parser.add_argument("--gpu", action="store_true", help="run on GPUs")
    parser.add_argument("--folder", type=Path, help="where to keep the cells (a temporary folder)")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stabdask-bench-"))
    try:
        figures = measure(options, folder)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def make(folder: Path, n_cells: int, n_axes: int, n_centers: int, n_genes: int) -> None:
    """Write cells along branches in PCA space, and a field fitted to a flow over them."""
    import anndata

    rng = np.random.default_rng(0)
    spread = 6.0 / np.sqrt(1.0 + np.arange(n_axes))
    middles = rng.standard_normal((8, n_axes)) * spread
    group = rng.integers(0, 8, n_cells)
    x = middles[group] + 0.4 * rng.standard_normal((n_cells, n_axes)) * spread
    adata = anndata.AnnData(
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical.from_codes(group, [f"state {i}" for i in range(8)])},
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        obsm={"X_pca": x},
    )
    folder.mkdir(parents=True, exist_ok=True)
    centers = x[rng.choice(n_cells, n_centers, replace=False)]
    turn = 0.3 * rng.standard_normal((n_axes, n_axes)) / np.sqrt(n_axes)
    flow = np.tanh(centers / spread) @ turn.T * spread - 0.1 * centers
    squares = ((centers[:, None] - centers[None]) ** 2).sum(axis=2)
    nearest = np.sort(squares, axis=1)[:, 1 : n_centers // 5]
    beta = 2.25 / nearest.mean()
    kernel = np.exp(-beta * squares)
    coefficients = np.linalg.solve(kernel + 1e-3 * np.eye(n_centers), flow)
    loadings = np.linalg.qr(rng.standard_normal((n_genes, n_axes)))[0]
    genes = [f"gene{i}" for i in range(n_genes)]
    field = sd.RKHSField(centers, coefficients, beta, basis="pca", loadings=loadings, genes=genes)
    field.save(folder / "field.zarr")
    adata.write_h5ad(folder / "cells.h5ad")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    if not (folder / "cells.h5ad").exists():
        make(folder, options.cells, options.axes, options.centers, options.genes)
    store = folder / "bench-out.zarr"
    shutil.rmtree(store, ignore_errors=True)
    before = unavoidable(folder, options.dtype, options.workers)
    command = [
        sys.executable, "-m", "stabdask.cli.main", "run", str(folder / "cells.h5ad"),
        "--field", str(folder / "field.zarr"), "--cluster-key", "cell_type", "--store", str(store),
        "--workers", str(options.workers), "--memory", options.memory, "--dtype", options.dtype,
        "--quantities", options.quantities, *(["--gpu"] if options.gpu else []), "--json",
    ]  # fmt: skip
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = TreeMemory(process.pid)
    watch.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - begin
    watch.stop()
    report = json.loads(output)
    after = unavoidable(folder, options.dtype, options.workers)
    parts = {name: (before[name] + after[name]) / 2 for name in before}
    needed = sum(parts.values()) * options.cells / max(1, report["n_workers"])
    plan = sd.plan(
        sd.open_cells(folder / "cells.h5ad", obsm="X_pca", cluster_key="cell_type"),
        sd.read_field(folder / "field.zarr"),
        memory=options.memory,
        workers=options.workers,
        dtype=options.dtype,
        quantities=options.quantities.split(","),
    )
    return {
        "cells": options.cells,
        "axes": options.axes,
        "centers": options.centers,
        "dtype": options.dtype,
        "cores": os.cpu_count(),
        "backend": report["backend"],
        "kernels": report["kernels"],
        "wall_s": round(wall, 2),
        "cells_per_s": round(options.cells / wall, 1),
        "distances_ms_per_cell": round(1e3 * parts["distances"], 5),
        "product_ms_per_cell": round(1e3 * parts["product"], 5),
        "eigensolver_ms_per_cell": round(1e3 * parts["eigensolver"], 5),
        "products_and_eigensolver_s_over_workers": round(needed, 2),
        "wall_over_products_and_eigensolver": round(wall / needed, 3),
        "worker_seconds": {name: round(value, 2) for name, value in report["worker_seconds"].items()},
        "memory_budget_bytes": plan.memory_bytes,
        "tree_peak_rss_bytes": watch.peak,
        "tree_peak_planned_bytes": plan.peak_bytes,
        "store_bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
        "status_counts": report["status_counts"],
    }


def unavoidable(folder: Path, dtype: str, n_processes: int) -> dict[str, float]:
    """Return seconds a cell of what cannot be avoided, the mean over processes that run at once."""
    with ProcessPoolExecutor(max(1, n_processes), mp_context=get_context("spawn")) as pool:
        found = list(
            pool.map(products_and_spectra, [folder] * max(1, n_processes), [dtype] * max(1, n_processes))
        )
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def products_and_spectra(folder: Path, dtype: str) -> dict[str, float]:
    """Return seconds a cell on one thread: the products of matrices that Jacobians are made of, and the eigensolver."""
    from stabdask.kernels.eig import eig

    field = sd.read_field(folder / "field.zarr")
    assert isinstance(field, sd.RKHSField)
    cells = sd.open_cells(folder / "cells.h5ad", obsm="X_pca")
    x = np.asarray(cells["coordinates"].data[:SAMPLE].compute(), dtype=np.float64)
    J = field.jacobian(x, dtype=dtype)
    m, d = field.centers.shape
    rng, n = np.random.default_rng(0), 1024
    shapes = {"points": (n, d + 2), "centers": (d + 2, m), "kernel": (n, m), "products": (m, d * d + d)}
    given = {name: rng.random(shape).astype(dtype) for name, shape in shapes.items()}
    exponents, sums = np.empty((n, m), dtype), np.empty((n, d * d + d), dtype)
    with single_threaded_blas():
        distances = typical(lambda: np.matmul(given["points"], given["centers"], out=exponents)) / n
        product = typical(lambda: np.matmul(given["kernel"], given["products"], out=sums)) / n
        solver = typical(lambda: eig(J, dtype=dtype)) / len(J)
    return {"distances": distances, "product": product, "eigensolver": solver}


def typical(function: Callable[[], object], turns: int = 9) -> float:
    seconds = []
    for _ in range(turns):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
