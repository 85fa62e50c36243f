"""Precision matrices in tiles on disk, against numpy.linalg.inv and the way in memory.

    python tests/benchmarks/bench_blocked.py [--genes 6000] [--cells 12000] [--memory 1GB] [--rank 5] [--json]

A covariance matrix of ten factors lies on disk, and cells drawn from it in an h5ad. Each way runs in a fresh process,
one after the other, which reports its CPU time (all threads, what reads and writes included), wall time and peak of
resident memory, imports included:

- ``numpy_inv``: read the matrix and invert it with `numpy.linalg.inv`;
- ``blocked``: `BlockedPrecision.from_covariance` within the budget, and then a change of low rank;
- ``memory_cells``: `CoMoments.from_cells` and `PrecisionMatrix.from_moments`, shrunk after Ledoit and Wolf;
- ``blocked_cells``: `BlockedPrecision.from_cells`, the same, within the budget;
- ``memory_edges``, ``blocked_edges``: the twenty strongest edges and the statistics of these two.

Ratios are of CPU times, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, default=6_000)
    parser.add_argument("--cells", type=int, default=12_000)
    parser.add_argument("--memory", default="1GB", help="budget of the blocked ways (1GB)")
    parser.add_argument("--rank", type=int, default=5, help="of the change (5)")
    parser.add_argument("--folder", type=Path, help="where files are made (the temporary folder)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON on stdout")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = Path(folder)
        figures = every_way(options)
    if options.json:
        print(json.dumps(figures, indent=2))


def every_way(options: argparse.Namespace) -> dict[str, Any]:
    from stabdask.analysis.network import plan
    from stabdask.kernels.machine import machine_text

    write_files(options.folder, options.genes, options.cells)
    planned = plan(options.genes, options.memory)
    say(str(planned))
    figures: dict[str, Any] = {
        "n_genes": options.genes,
        "n_cells": options.cells,
        "rank": options.rank,
        "machine": machine_text(),
        "plan": planned.to_dict(),
        "matrix_bytes": 8 * options.genes**2,
    }
    for way in WAYS:
        figures[way] = in_a_process(way, options)
        found = figures[way]
        say(
            f"{way:14} {found['cpu_s']:8.1f} s CPU {found['wall_s']:8.1f} s wall "
            f"{found['peak_bytes'] / 1e6:8.0f} MB  {found['facts']}"
        )
    for ours, theirs in (
        ("blocked", "numpy_inv"),
        ("blocked_cells", "memory_cells"),
        ("blocked_edges", "memory_edges"),
    ):
        figures[f"{ours}_cpu_ratio"] = figures[ours]["cpu_s"] / figures[theirs]["cpu_s"]
        figures[f"{ours}_memory_ratio"] = figures[ours]["peak_bytes"] / figures[theirs]["peak_bytes"]
        say(
            f"{ours}: {figures[f'{ours}_cpu_ratio']:.2f} of the CPU time and "
            f"{figures[f'{ours}_memory_ratio']:.2f} of the memory of {theirs}"
        )
    figures["agreement"] = agreement(options.folder)
    say(f"largest differences, relative to the largest entry: {figures['agreement']}")
    return figures


def write_files(folder: Path, n: int, n_cells: int) -> None:
    import anndata
    import zarr

    rng = np.random.default_rng(42)
    loadings, variances = rng.normal(0, 0.1, (n, 10)), rng.uniform(0.01, 0.05, n)
    sigma = loadings @ loadings.T + np.diag(variances)
    np.save(folder / "sigma.npy", sigma)
    # Mapped pages of a file count as resident memory: tiles read what is stored in chunks.
    zarr.create_array(str(folder / "sigma.zarr"), data=sigma, chunks=(500, 500))
    x = rng.standard_normal((n_cells, 10)) @ loadings.T
    x += rng.standard_normal((n_cells, n)) * np.sqrt(variances)
    anndata.AnnData(x.astype(np.float32)).write_h5ad(folder / "cells.h5ad")


def numpy_inv(options: argparse.Namespace) -> dict[str, Any]:
    theta = np.linalg.inv(np.load(options.folder / "sigma.npy"))
    np.save(options.folder / "theta.npy", theta)
    return {}


def blocked(options: argparse.Namespace) -> dict[str, Any]:
    import zarr

    from stabdask.analysis.network import BlockedPrecision

    made = BlockedPrecision.from_covariance(
        zarr.open_array(str(options.folder / "sigma.zarr"), mode="r"),
        options.folder / "blocked.zarr",
        memory=options.memory,
    )
    probe = made.recorded_probe
    begin, cpu = time.perf_counter(), time.process_time()
    X = np.random.default_rng(1).normal(0, 0.05, (options.genes, options.rank))
    changed = made.copy(options.folder / "changed.zarr", update=X)
    return {
        "probe": probe,
        "update_s": time.perf_counter() - begin,
        "update_cpu_s": time.process_time() - cpu,
        "update_probe": changed.recorded_probe,
        "path": changed.history[-1].path,
    }


def memory_cells(options: argparse.Namespace) -> dict[str, Any]:
    import stabdask as sd

    moments = sd.network.CoMoments.from_cells(sd.open_cells(options.folder / "cells.h5ad"))
    made = sd.network.PrecisionMatrix.from_moments(moments, "ledoit-wolf")
    made.save(options.folder / "memory_cells.zarr")
    return {"amount": made.amount}


def blocked_cells(options: argparse.Namespace) -> dict[str, Any]:
    import stabdask as sd

    made = sd.network.BlockedPrecision.from_cells(
        sd.open_cells(options.folder / "cells.h5ad"),
        options.folder / "blocked_cells.zarr",
        memory=options.memory,
        shrinkage="ledoit-wolf",
    )
    return {"amount": made.amount, "n_passes": made.n_passes, "probe": made.recorded_probe}


def memory_edges(options: argparse.Namespace) -> dict[str, Any]:
    from stabdask.analysis.network import PrecisionMatrix, edges, statistics

    made = PrecisionMatrix.open(options.folder / "memory_cells.zarr")
    rho = made.partial_correlations()
    strongest = edges(rho, made.genes, top=20)["partial_correlation"].tolist()
    return {"strongest": strongest[0], **statistics(rho)}


def blocked_edges(options: argparse.Namespace) -> dict[str, Any]:
    from stabdask.analysis.network import BlockedPrecision

    made = BlockedPrecision.open(options.folder / "blocked_cells.zarr", memory=options.memory)
    return {
        "strongest": made.edges(top=20)["partial_correlation"].tolist()[0],
        **made.statistics(),
    }


WAYS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    way.__name__: way
    for way in (numpy_inv, blocked, memory_cells, blocked_cells, memory_edges, blocked_edges)
}


def in_a_process(way: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(options.folder)]
    command += ["--genes", str(options.genes), "--memory", options.memory, "--rank", str(options.rank)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Run one way in this process; a change after it is not in its times, but in its memory."""
    begin, cpu = time.perf_counter(), time.process_time()
    facts = WAYS[options.way](options)
    wall_s = time.perf_counter() - begin - facts.get("update_s", 0.0)
    cpu_s = time.process_time() - cpu - facts.get("update_cpu_s", 0.0)
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_bytes": peak_bytes(), "facts": facts}


def peak_bytes() -> int:
    """Return the most resident memory of this process; `getrusage` may tell that of the process that started it."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def agreement(folder: Path) -> dict[str, float]:
    """Return the largest differences between matrices in tiles and in memory, row of tiles by row of tiles."""
    from stabdask.analysis.network import BlockedPrecision, PrecisionMatrix

    pairs = {
        "theta": (BlockedPrecision.open(folder / "blocked.zarr"), np.load(folder / "theta.npy")),
        "theta_of_cells": (
            BlockedPrecision.open(folder / "blocked_cells.zarr"),
            PrecisionMatrix.open(folder / "memory_cells.zarr").theta,
        ),
    }
    return {
        name: float(np.abs(ours.theta.compute() - theirs).max() / np.abs(theirs).max())
        for name, (ours, theirs) in pairs.items()
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
