"""Co-moments of an atlas on disk against what they cannot be made without: reading it, and one product of matrices.

    python tests/benchmarks/bench_moments.py [--cells 20000] [--genes 500] [--labels 10] [--density 0.3] [--keep FOLDER]
        [--json]

Each in a fresh process, with one BLAS thread: walking the blocks and adding up their entries ("read"); multiplying as
many cells with their own transpose, in float64, from memory ("product"); `CoMoments.from_cells`, for all cells and by
cluster. The atlas is an h5ad in CSR, or dense with --density 1. Seconds of the call, seconds of CPU (which a busy
machine does not stretch as much), and the peak resident memory of the process, imports and all. Ratios are of seconds
of CPU, to those of read and product together.

Then, in this process, sparse blocks of several densities as they are and made dense: below which density the product
of sparse matrices is quicker. Times are the best of three.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

WHAT = ("read", "product", "all cells", "by cluster")
ONE_THREAD = {
    **os.environ,
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--density", type=float, default=0.3, help="share of entries that are not zero")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where to keep the atlas (a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON on stdout")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, what = Path(options.child[0]), options.child[1]
        if what.startswith("make"):
            make(path, *what.split()[1:])
        else:
            print(json.dumps(measure(path, what)))
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stabdask-bench-"))
    shape = (options.cells, options.genes)
    figures: dict[str, Any] = {"n_cells": shape[0], "n_genes": shape[1], "n_labels": options.labels}
    figures["density"] = options.density
    try:
        path = folder / f"cells-{shape[0]}-{shape[1]}-{options.labels}-{options.density}.h5ad"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            how = " ".join(map(str, ("make", *shape, options.labels, options.density)))
            command = [sys.executable, __file__, "--child", str(path), how]
            # In a process of its own: what a parent held counts as the peak of its children.
            subprocess.run(command, check=True, stdout=sys.stderr, env=ONE_THREAD)
        for what in WHAT:
            command = [sys.executable, __file__, "--child", str(path), what]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ONE_THREAD)
            figures[what] = found = json.loads(done.stdout)
            say(
                f"{what:10} {found['seconds']:7.2f} s ({found['cpu_s']:.2f} s of CPU)  "
                f"{found['peak_bytes'] / 1e6:,.0f} MB at the peak, {found['before_bytes'] / 1e6:,.0f} MB before"
            )
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    least = figures["read"]["cpu_s"] + figures["product"]["cpu_s"]
    for what in WHAT[2:]:
        figures[what]["ratio"] = figures[what]["cpu_s"] / least
        say(f"{what:10} {figures[what]['ratio']:.2f} of read and product together")
    with threadpool_limits(1):
        figures["sparse"] = sparse_against_dense(options.genes)
    if options.json:
        print(json.dumps(figures, indent=2))


def make(path: Path, n_cells: str, n_genes: str, n_labels: str, share: str) -> None:
    import anndata
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    shape, density = (int(n_cells), int(n_genes)), float(share)
    if density < 1:
        x: Any = sparse.random_array(shape, density=density, format="csr", dtype=np.float32, rng=rng)
    else:
        x = rng.standard_gamma(2.0, shape, dtype=np.float32)
    obs = pd.DataFrame(
        {"cluster": pd.Categorical(rng.integers(0, int(n_labels), shape[0]).astype(str))},
        index=[f"c{i}" for i in range(shape[0])],
    )
    anndata.AnnData(x, obs=obs).write_h5ad(path)


def measure(path: Path, what: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    import dask

    import stabdask as sd
    from stabdask.analysis.network.moments import CoMoments
    from stabdask.analysis.network.sums import slab_rows

    cells = sd.open_cells(path, cluster_key="cluster")
    n_cells, n_genes = cells["expression"].shape
    rows = min(n_cells, slab_rows(n_genes))
    slab = np.random.default_rng(0).standard_normal((rows, n_genes)) if what == "product" else np.empty(0)

    def product() -> None:
        total, out = np.zeros((n_genes, n_genes)), np.empty((n_genes, n_genes))
        for start in range(0, n_cells, rows):
            part = slab[: min(rows, n_cells - start)]
            np.matmul(part.T, part, out=out)
            total += out

    calls: dict[str, Callable[[], Any]] = {
        "read": lambda: (
            cells["expression"]
            .data.map_blocks(lambda block: block.sum(keepdims=True), chunks=(1, 1))
            .compute()
        ),
        "product": product,
        "all cells": lambda: CoMoments.from_cells(cells),
        "by cluster": lambda: CoMoments.from_cells(cells, by="cluster"),
    }
    before = peak_bytes()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    with dask.config.set(scheduler="threads"):
        calls[what]()
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_s": time.process_time() - begin_cpu,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
    }


def sparse_against_dense(n_genes: int) -> list[dict[str, float]]:
    from scipy import sparse

    from stabdask.analysis.network import sums

    found = []
    for density in (0.003, 0.01, 0.02, 0.03, 0.05, 0.1):
        x = sparse.random_array((4_096, n_genes), density=density, format="csr", rng=0)
        seconds = {}
        for name, limit in (("sparse", 1.0), ("dense", 0.0)):
            chosen, sums.SPARSE_DENSITY = sums.SPARSE_DENSITY, limit
            seconds[name] = best_of_three(lambda x=x: sums.sparse_sums(x, fourth=True))  # type: ignore[misc]
            sums.SPARSE_DENSITY = chosen
        say(
            f"4,096 cells x {n_genes:,} genes, {density:.1%} stored: {1e3 * seconds['sparse']:.1f} ms sparse, "
            f"{1e3 * seconds['dense']:.1f} ms dense"
        )
        found.append({"density": density, **seconds})
    return found


def best_of_three(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
