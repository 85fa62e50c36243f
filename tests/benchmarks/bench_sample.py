"""Samples of cells: neural gas against the algorithm one presentation at a time, and samples of an atlas on disk.

    python tests/benchmarks/bench_sample.py [--quick] [--cells 1000000] [--keep FOLDER] [--json]

First, cells of a mixture of Gaussians in 30 dimensions, in this process, on one BLAS thread: `sample` by neural gas
(opening excluded, everything else included), and the loop over presentations that it stands for, written as the
algorithm reads: the distance to every node, their ranks, a step of every node. The loop goes through all of its
presentations unless --quick, which runs a part of them and extrapolates its time, and says so. Quality is the mean
distance from a cell to the nearest one chosen (the quantization error of the sample) relative to that of random
samples, and half the sum of differences between the shares of the clusters in the sample and in the atlas. Times are
the best of three.

Then a hundredth of the cells of an atlas of 30 columns in a zarr AnnData on disk, by each method that needs no field,
in a fresh process each: seconds of the call, seconds of CPU (which a busy machine does not stretch as much), and the
peak resident memory of the process, imports and all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

Array = np.ndarray[Any, Any]
N_AXES = 30
METHODS = ("random", "stratified", "kmeans", "trn")
ONE_THREAD = {
    **os.environ,
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="run 5 % of the loop's presentations, and a small atlas"
    )
    parser.add_argument("--cells", type=int, help="of the atlas on disk (1,000,000; 50,000 if --quick)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where to keep the atlas (a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON on stdout")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(from_disk(Path(options.child[0]), options.child[1])))
        return
    with threadpool_limits(1):
        figures = {"loop": [against_the_loop(2000, n, options.quick) for n in (500, 1000)]}
    n_cells = options.cells or (50_000 if options.quick else 1_000_000)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stabdask-bench-"))
    try:
        path = folder / f"cells-{n_cells}.zarr"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [sys.executable, __file__, "--child", str(path), "make"], check=True, stdout=sys.stderr
            )
        figures["disk"] = [fresh(path, method) for method in METHODS]
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures, indent=2))


def mixture(n_cells: int, seed: int) -> tuple[Array, Array]:
    """Return cells of twelve clusters in 30 dimensions whose variances fall off as those of principal components."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(12, n_cells, p=rng.dirichlet(np.full(12, 2.0)))
    centers, width = rng.normal(scale=3.0, size=(12, N_AXES)), rng.uniform(0.5, 1.5, 12)
    x = centers[codes] + rng.normal(size=(n_cells, N_AXES)) * width[codes, None]
    return x * np.exp(-np.arange(N_AXES) / 8), codes


def one_at_a_time(x: Array, n: int, rng: np.random.Generator, share: float) -> tuple[Array, float, float]:
    """Return nodes, and the seconds, and seconds of CPU, of all presentations; extrapolated from a share below 1."""
    nodes = x[rng.integers(len(x), size=n)].copy()
    total = 200 * n
    shown = x[rng.integers(len(x), size=total)]
    step = max(1, int(1 / share))
    begin, begin_cpu = time.perf_counter(), time.process_time()
    # Every 20th presentation of a quick run: the work does not depend on when it comes.
    for t in range(1, total + 1, step):
        reach = 0.2 * n * (0.01 / (0.2 * n)) ** (t / total)
        rate = 0.3 * (0.05 / 0.3) ** (t / total)
        difference = shown[t - 1] - nodes
        order = np.argsort((difference**2).sum(axis=1))
        rank = np.empty_like(order)
        rank[order] = np.arange(n)
        nodes += rate * np.exp(-rank[:, None] / reach) * difference
    return nodes, (time.perf_counter() - begin) * step, (time.process_time() - begin_cpu) * step


def nearest_unused(x: Array, nodes: Array) -> Array:
    """Return, node after node, the nearest cell that none before has."""
    free = np.ones(len(x), dtype=bool)
    chosen = []
    for node in nodes:
        distance = np.where(free, ((x - node) ** 2).sum(axis=1), np.inf)
        chosen.append(int(distance.argmin()))
        free[chosen[-1]] = False
    return np.asarray(chosen)


def quality(x: Array, codes: Array, chosen: Array) -> tuple[float, float]:
    """Return the quantization error, and how far the shares of clusters are from those of all cells."""
    from scipy.spatial.distance import cdist

    share, of_all = (np.bincount(c, minlength=12) / len(c) for c in (codes[chosen], codes))
    return float(cdist(x, x[chosen]).min(axis=1).mean()), float(np.abs(share - of_all).sum() / 2)


def against_the_loop(n_cells: int, n: int, quick: bool) -> dict[str, Any]:
    import anndata
    import pandas as pd

    import stabdask as sd

    x, codes = mixture(n_cells, seed=1)
    obs = pd.DataFrame({"cluster": codes.astype(str)}, index=[f"c{i}" for i in range(n_cells)])
    cells = sd.open_cells(anndata.AnnData(x, obs=obs), cluster_key="cluster")
    figures: dict[str, Any] = {"n_cells": n_cells, "n": n, "presentations": 200 * n}
    for method in ("trn", "kmeans", "random", "stratified"):
        seconds, cpu, errors = [], [], []
        for seed in range(3 if method in ("trn", "kmeans") else 20):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            chosen = sd.sample(cells, n, method=method, seed=seed)["atlas_position"].values.astype(int)
            seconds.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - begin_cpu)
            errors.append(quality(x, codes, chosen))
        figures[method] = {
            "seconds": min(seconds),
            "cpu_s": min(cpu),
            "error": float(np.mean(errors, axis=0)[0]),
            "error_std": float(np.std(errors, axis=0)[0]),
            "share_difference": float(np.mean(errors, axis=0)[1]),
        }
    nodes, wall, busy = one_at_a_time(x, n, np.random.default_rng(0), 0.05 if quick else 1.0)
    figures["one at a time"] = {"seconds": wall, "cpu_s": busy, "extrapolated": quick}
    if not quick:
        error, difference = quality(x, codes, nearest_unused(x, nodes))
        figures["one at a time"] |= {"error": error, "share_difference": difference}
    for name, found in figures.items():
        if isinstance(found, dict):
            line = (
                f"{n:5,} of {n_cells:,}  {name:14} {found['seconds']:7.2f} s ({found['cpu_s']:.2f} s of CPU)"
            )
            if "error" in found:
                line += f"  error {found['error'] / figures['random']['error']:.3f} of random"
                line += f"  shares off by {found['share_difference']:.3f}"
            say(line + "  (extrapolated)" * found.get("extrapolated", False))
    figures["times_faster"] = busy / figures["trn"]["cpu_s"]
    say(f"{n:5,} of {n_cells:,}  {figures['times_faster']:.0f} times as fast as one at a time")
    return figures


def fresh(path: Path, method: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(path), method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ONE_THREAD)
    figures: dict[str, Any] = json.loads(done.stdout)
    seconds, cpu, peak, before = (figures[k] for k in ("seconds", "cpu_s", "peak_bytes", "opened_bytes"))
    say(
        f"{figures['n']:,} of {figures['n_cells']:,} from disk  {method:10} {seconds:6.1f} s ({cpu:.1f} s of CPU)  "
        f"{peak / 1e6:,.0f} MB at the peak, {before / 1e6:,.0f} MB before  error {figures['error']:.4f}"
    )
    return figures


def from_disk(path: Path, method: str) -> dict[str, Any]:
    """Make the atlas, or sample it."""
    warnings.simplefilter("ignore")
    if method == "make":
        make(path)
        return {}
    import stabdask as sd

    cells = sd.open_cells(path, cluster_key="cluster")
    n_cells = cells.sizes["cell"]
    figures: dict[str, Any] = {"n": n_cells // 100, "n_cells": n_cells, "method": method}
    figures["opened_bytes"] = peak_bytes()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    some = sd.sample(cells, n_cells // 100, method=method)
    figures["seconds"] = time.perf_counter() - begin
    figures["cpu_s"] = time.process_time() - begin_cpu
    figures["peak_bytes"] = peak_bytes()
    # The error from a few thousand cells, after everything else has been measured.
    from scipy.spatial.distance import cdist

    looked = cells["expression"][:: max(1, n_cells // 2000)].values
    figures["error"] = float(cdist(looked, some["expression"].values).min(axis=1).mean())
    return figures


def make(path: Path) -> None:
    import anndata
    import pandas as pd

    n_cells = int(path.stem.split("-")[1])
    x, codes = mixture(n_cells, seed=1)
    obs = pd.DataFrame(
        {"cluster": pd.Categorical(codes.astype(str))}, index=[f"c{i}" for i in range(n_cells)]
    )
    anndata.AnnData(x.astype(np.float32), obs=obs).write_zarr(path, chunks=(2048, N_AXES))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
