"""The main job at size: wall time against the eigensolver and against reading and writing alone, and memory.

    python tests/benchmarks/bench_run.py --cells 200000 --genes 2000 --regulators 150 --zeros 0.4 --memory 3GB

simulates an atlas once (kept in --folder), runs ``stabdask run`` on it in a process tree of its own while adding
up the resident memory of all its processes, times reading the input and writing the output alone, and the naive
loop (dense Jacobian and ``numpy.linalg.eigvals``, cell by cell) on a few cells. All in one go; figures as JSON.

    python tests/benchmarks/bench_run.py ... --against OTHER/bin/python --turns 3

lets another installation (an earlier release, say) do the same job in turns with this one, and gives the ratio of
the wall times of each turn; with ``--against lapack`` it is this one with the backend ``lapack``. With ``--gpu`` the
job runs on GPUs (``--workers 0``: on one, without dask-cuda), and ``--against cpu`` is the same without.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import stabdask as sd

sys.path.insert(0, str(Path(__file__).parents[1]))

from tree_memory import TreeMemory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--regulators", type=int, default=150)
    parser.add_argument("--zeros", type=float, default=0.4)
    parser.add_argument("--csr", action="store_true", help="keep the expression as a sparse matrix by rows")
    parser.add_argument("--elements", type=int, default=0, help="Jacobian elements kept")
    parser.add_argument("--memory", default="3GB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--naive-cells", type=int, default=3, help="cells of the naive loop")
    parser.add_argument("--gpu", action="store_true", help="run on GPUs")
    parser.add_argument("--against", help="the Python of another installation, 'lapack', or 'cpu' with --gpu")
    parser.add_argument("--turns", type=int, default=3, help="turns taken with it")
    parser.add_argument("--folder", type=Path, help="where to keep the atlas (a temporary folder)")
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


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    if not (folder / "cells.h5ad").exists():
        begin = time.perf_counter()
        sd.simulate_atlas(
            folder,
            n_cells=options.cells,
            n_genes=options.genes,
            n_regulators=options.regulators,
            zero_fraction=options.zeros,
        )
        if options.csr:
            make_sparse(folder / "cells.h5ad")
        print(f"simulated in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    store = folder / "bench-out.zarr"
    turns = take_turns(options, folder, store) if options.against else []
    shutil.rmtree(store, ignore_errors=True)
    plan = sd.plan(
        sd.open_cells(folder / "cells.h5ad", layer="M_t", cluster_key="cell_type"),
        sd.read_field(folder / "field.zarr"),
        memory=options.memory,
        workers=None if options.gpu else options.workers,
    )
    command = [*run_command(sys.executable, options, folder, store), *gpu_option(options), "--json"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = TreeMemory(process.pid)
    watch.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - begin
    watch.stop()
    report = json.loads(output)
    read_s, write_s = read_alone(folder), write_alone(store)
    eig_s = report["worker_seconds"]["eig_s"] / max(1, report["n_workers"])
    naive = naive_rate(folder, options.naive_cells)
    bound = max(eig_s, read_s + write_s)
    return {
        "cells": options.cells,
        "genes": options.genes,
        "regulators": options.regulators,
        "cores": os.cpu_count(),
        "backend": report["backend"],
        "wall_s": round(wall, 2),
        "run_s": round(report["seconds"], 2),
        "cells_per_s": round(options.cells / wall, 1),
        "eigensolver_s_over_workers": round(eig_s, 2),
        "read_alone_s": round(read_s, 2),
        "write_alone_s": round(write_s, 2),
        "wall_over_bound": round(wall / bound, 3),
        "worker_seconds": {name: round(value, 2) for name, value in report["worker_seconds"].items()},
        "shares_of_worker_time": shares(report["worker_seconds"]),
        "naive_cells_per_s": round(naive, 4),
        "ratio_to_naive_on_all_cores": round(options.cells / wall / (naive * (os.cpu_count() or 1)), 1),
        "memory_budget_bytes": plan.memory_bytes,
        "tree_peak_rss_bytes": watch.peak,
        "tree_peak_planned_bytes": plan.peak_bytes,
        "planned_s": round(plan.seconds, 1),
        "planned_store_bytes": plan.stored_bytes,
        "planned_files": plan.n_files,
        "store_bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
        "n_files": sum(path.is_file() for path in store.rglob("*")),
        "status_counts": report["status_counts"],
        "turns": turns,
    }


def make_sparse(path: Path, rows: int = 4096) -> None:
    """Write the expression of an atlas as a CSR matrix in place of the dense one."""
    import h5py
    from scipy import sparse

    aside = path.with_name("sparse.h5ad")
    with h5py.File(path, "r") as old, h5py.File(aside, "w") as new:
        new.attrs.update(old.attrs)
        for name in old:
            if name != "layers":
                old.copy(name, new)
        layers = new.create_group("layers")
        layers.attrs.update(old["layers"].attrs)
        dense = old["layers/M_t"]
        group = layers.create_group("M_t")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": dense.shape})
        chunk = {"shape": (0,), "maxshape": (None,), "chunks": (2**20,)}
        data = group.create_dataset("data", dtype="f4", **chunk)
        indices = group.create_dataset("indices", dtype="i4", **chunk)
        ends = [np.zeros(1, dtype=np.int64)]
        for start in range(0, dense.shape[0], rows):
            block = sparse.csr_matrix(dense[start : start + rows])
            first = int(ends[-1][-1])
            for target, values in ((data, block.data), (indices, block.indices)):
                target.resize((first + block.nnz,))
                target[first:] = values
            ends.append(first + block.indptr[1:].astype(np.int64))
        group["indptr"] = np.concatenate(ends)
    aside.replace(path)


def elements_option(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the option for so many elements between neighboring regulators."""
    if not options.elements:
        return []
    field = sd.read_field(folder / "field.zarr")
    names = [str(field.genes[i]) for i in field.regulator_index]
    pairs = [f"{names[i % len(names)]}:{names[(i + 1) % len(names)]}" for i in range(options.elements)]
    return ["--elements", ",".join(pairs)]


def run_command(python: str, options: argparse.Namespace, folder: Path, store: Path, *more: str) -> list[str]:
    return [
        python, "-m", "stabdask.cli.main", "run", str(folder / "cells.h5ad"),
        "--field", str(folder / "field.zarr"), "--layer", "M_t", "--cluster-key", "cell_type",
        "--store", str(store), "--workers", str(options.workers), "--memory", options.memory,
        *elements_option(options, folder), *more,
    ]  # fmt: skip


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Return what the parts of a partition take of the time of workers; reading is what was waited for."""
    parts = {
        name.removesuffix("_s"): seconds[name] / seconds["total_s"] for name in seconds if name != "total_s"
    }
    return {name: round(value, 3) for name, value in {**parts, "other": 1 - sum(parts.values())}.items()}


def gpu_option(options: argparse.Namespace) -> list[str]:
    return ["--gpu"] if options.gpu else []


def take_turns(options: argparse.Namespace, folder: Path, store: Path) -> list[dict[str, float]]:
    """Return the wall times of both, turn by turn, and their ratio."""
    other = sys.executable if options.against in ("lapack", "cpu") else options.against
    more = ("--backend", "lapack") if options.against == "lapack" else ()
    turns = []
    for _ in range(options.turns):
        theirs = wall_time(run_command(other, options, folder, store, *more), store)
        ours = wall_time([*run_command(sys.executable, options, folder, store), *gpu_option(options)], store)
        turns.append(
            {"theirs_s": round(theirs, 2), "ours_s": round(ours, 2), "ratio": round(theirs / ours, 2)}
        )
        print(f"turn: {turns[-1]}", file=sys.stderr, flush=True)
    return turns


def wall_time(command: list[str], store: Path) -> float:
    shutil.rmtree(store, ignore_errors=True)
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=store.parent,
    )
    return time.perf_counter() - begin


def read_alone(folder: Path) -> float:
    """Return the seconds that reading every block once takes in one process."""
    cells = sd.open_cells(folder / "cells.h5ad", layer="M_t", cluster_key="cell_type")
    array = cells["expression"].data
    begin = time.perf_counter()
    for number in range(array.numblocks[0]):
        np.asarray(array.blocks[number].compute(scheduler="synchronous"))
    return time.perf_counter() - begin


def write_alone(store: Path) -> float:
    """Return the seconds that writing every partition again takes in one process."""
    from stabdask.files import open_group
    from stabdask.runs.store import read_spec, write_partition

    spec = read_spec(store)
    copy = store.with_name("bench-copy.zarr")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy)
    group = open_group(store)
    seconds = 0.0
    for number in range(spec.n_partitions):
        start, stop = spec.bounds(number)
        arrays = {name: group[name][start:stop] for name in spec.options.variables()}
        begin = time.perf_counter()
        write_partition(copy, spec, number, arrays)
        seconds += time.perf_counter() - begin
    shutil.rmtree(copy)
    return seconds


def naive_rate(folder: Path, n_cells: int) -> float:
    """Return the cells per second of the naive loop in one process with BLAS on one thread."""
    from stabdask.kernels.threads import single_threaded_blas

    cells = sd.open_cells(folder / "cells.h5ad", layer="M_t", cluster_key="cell_type")
    field = sd.read_field(folder / "field.zarr")
    x = np.asarray(cells["expression"].data[:n_cells].compute(scheduler="synchronous"), dtype=np.float64)
    labels = cells["cluster"].to_numpy()[:n_cells]
    with single_threaded_blas():
        begin = time.perf_counter()
        for row, label in zip(x, labels, strict=True):
            np.linalg.eigvals(field.jacobian(row[None], str(label))[0])
        return n_cells / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
