"""Speed of every eigensolver backend on one core, against NumPy and LAPACK measured in the same run.

    python tests/benchmarks/bench_eig.py --sizes 32 100 --seconds 2 --output eig.json

takes dense random cores, one BLAS thread, and lets all contenders take turns: a ratio is the median over rounds of
(their time a matrix / our time a matrix) in one round, so that a machine that slows down slows both. Printed as
tables, with the ratios aimed at for the backend ``lanes``; the figures go to --output as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.linalg
from scipy.linalg import lapack

from stabdask.kernels import lanes
from stabdask.kernels.eig import BACKENDS, eig
from stabdask.kernels.threads import single_threaded_blas

SIZES = (16, 24, 32, 48, 64, 80, 100, 128, 150, 200, 250, 300)
MODES = 10

Array = np.ndarray[Any, Any]
Contender = Callable[[Array], Any]


def target(measure: str, dtype: str, k: int) -> float | None:
    """Return the ratio aimed at, or None where there is no aim."""
    if measure == "eigvals":
        if 16 <= k <= 150:
            return {"float32": 7.0, "float64": 3.5}[dtype]
        return {"float32": 4.0, "float64": 2.5}[dtype] if k == 200 else None
    if measure == "sgeev":
        return 4.0 if 16 <= k <= 150 else None
    if k > 150:
        return None
    return {"vectors": 5.0, "threads": 1.8}[measure]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=2.0, help="time budget of one measurement")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"this machine is busy (load {busy:.1f}): ratios of threads will be too low\n")
    figures = []
    with single_threaded_blas():
        for dtype in options.dtypes:
            for k in options.sizes:
                figures.append(measure(k, dtype, options.seconds))
                print(progress(figures[-1]), flush=True)
    ceiling = two_threads_of_hashing(options.seconds)
    report = {
        "machine": machine(),
        "load_before": busy,
        "seconds": options.seconds,
        "two_threads_of_hashing": ceiling,
        "figures": figures,
    }
    print("\n" + table(figures))
    print(
        f"two threads of SHA-256, which share nothing but the machine, get {ceiling:.2f} times as much done as one"
    )
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")


def dense_cores(k: int, n: int, dtype: str, seed: int = 0) -> Array:
    """Return random cores whose eigenvalues fill the unit disk about -1."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(n, k, k)) / np.sqrt(k) - np.eye(k), dtype=dtype)


def batch_size(k: int) -> int:
    """Return how many cores make a batch: about what a run would take, multiples of any number of lanes."""
    return max(32, min(2048, 2**27 // k**3 // 32 * 32))


def measure(k: int, dtype: str, seconds: float) -> dict[str, Any]:
    """Return milliseconds a matrix of every contender, and ratios, for one size."""
    cores = dense_cores(k, batch_size(k), dtype)
    values: dict[str, Contender] = {name: solver(name) for name in BACKENDS}
    values["numpy.linalg.eigvals"] = np.linalg.eigvals
    if dtype == "float32":
        values["sgeev"] = sgeev
    vectors: dict[str, Contender] = {name: solver(name, vectors="both", modes=MODES) for name in BACKENDS}
    vectors["scipy.linalg.eig"] = scipy_eig
    value_rounds, vector_rounds = take_turns(values, cores, seconds), take_turns(vectors, cores, seconds)
    return {
        "k": k,
        "dtype": dtype,
        "batch": len(cores),
        "rounds": {"values": rounds_of(value_rounds), "vectors": rounds_of(vector_rounds)},
        "values_ms": medians(value_rounds),
        "vectors_ms": medians(vector_rounds),
        "backends": {
            name: {
                "eigvals": ratio(value_rounds, "numpy.linalg.eigvals", name),
                "sgeev": ratio(value_rounds, "sgeev", name) if "sgeev" in values else None,
                "vectors": ratio(vector_rounds, "scipy.linalg.eig", name),
                "threads": two_threads_against_one(name, cores, seconds),
            }
            for name in BACKENDS
        },
    }


def solver(backend: str, **options: Any) -> Contender:
    def solve(cores: Array) -> Any:
        return eig(cores, backend=backend, **options)

    return solve


def sgeev(cores: Array) -> None:
    for core in cores:
        lapack.sgeev(core, compute_vl=0, compute_vr=0)


def scipy_eig(cores: Array) -> None:
    for core in cores:
        scipy.linalg.eig(core, left=True, right=True)


def share(name: str, work: Contender, cores: Array, seconds: float) -> Array:
    """Return the cores that a contender gets in a round, after a first go that loads libraries.

    Backends that solve many matrices at once get the batch. One that works matrix by matrix, as fast for any
    number, gets as many as take about an eighth of the time.
    """
    work(cores[:2])
    if name in BACKENDS and name != "lapack":
        return cores
    begin = time.perf_counter()
    work(cores[:2])
    each = (time.perf_counter() - begin) / 2
    return cores[: max(2, min(len(cores), int(seconds / 8 / each)))]


def take_turns(contenders: dict[str, Contender], cores: Array, seconds: float) -> dict[str, list[float]]:
    """Return the milliseconds a matrix that each contender took in each round."""
    shares = {name: share(name, work, cores, seconds) for name, work in contenders.items()}
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds
    while rounds_of(rounds) < 3 or time.perf_counter() < deadline:
        for name, work in contenders.items():
            begin = time.perf_counter()
            work(shares[name])
            rounds[name].append(1e3 * (time.perf_counter() - begin) / len(shares[name]))
    return rounds


def two_threads_against_one(backend: str, cores: Array, seconds: float) -> float:
    """Return how much more two threads get done than one, each with a batch of its own."""
    solve = solver(backend)
    first = share(backend, solve, cores, seconds)
    solve(first[:2])
    return gain_of_two_threads(solve, first, first[::-1].copy(), seconds)


def two_threads_of_hashing(seconds: float) -> float:
    """Return the same for work that stays in registers and the first cache: what this machine has to give."""
    data = bytes(2**14)

    def work(_: object) -> None:
        for _ in range(2000):
            hashlib.sha256(data).digest()

    return gain_of_two_threads(work, None, None, seconds)


def gain_of_two_threads(work: Contender, first: Any, second: Any, seconds: float) -> float:
    ratios: list[float] = []
    with ThreadPoolExecutor(2) as pool:
        deadline = time.perf_counter() + seconds
        while len(ratios) < 3 or time.perf_counter() < deadline:
            begin = time.perf_counter()
            pool.submit(work, first).result()
            one = time.perf_counter() - begin
            begin = time.perf_counter()
            list(pool.map(work, (first, second)))
            ratios.append(2 * one / (time.perf_counter() - begin))
    return statistics.median(ratios)


def medians(rounds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in rounds.items()}


def rounds_of(rounds: dict[str, list[float]]) -> int:
    return min(len(found) for found in rounds.values())


def ratio(rounds: dict[str, list[float]], theirs: str, ours: str) -> float:
    return statistics.median(a / b for a, b in zip(rounds[theirs], rounds[ours], strict=True))


def progress(row: dict[str, Any]) -> str:
    times = "  ".join(f"{name} {ms:.4f}" for name, ms in row["values_ms"].items())
    more = "  ".join(f"{name} {ms:.4f}" for name, ms in row["vectors_ms"].items())
    return f"{row['dtype']} k={row['k']}: values (ms) {times} | vectors (ms) {more}"


def table(figures: list[dict[str, Any]]) -> str:
    """Return the ratios as a table a backend, with what was aimed at and whether it was reached."""
    lines = []
    for backend in BACKENDS:
        measures = ("eigvals", "sgeev", "vectors", "threads")
        lines += [
            f"{backend}: times as fast as ...",
            "  dtype      k" + "".join(f"{m:>22}" for m in measures),
        ]
        n_missed = 0
        for row in figures:
            line = f"  {row['dtype']} {row['k']:>4}"
            for name in measures:
                found, aim = row["backends"][backend][name], target(name, row["dtype"], row["k"])
                if found is None:
                    line += f"{'-':>22}"
                    continue
                aimed = backend == "lanes" and aim is not None
                missed = aimed and found < aim
                n_missed += missed
                verdict = f" (>= {aim:g} {'MISSED' if missed else 'met'})" if aimed else ""
                line += f"{found:.2f}{verdict}".rjust(22)
            lines.append(line)
        if backend == "lanes":
            lines.append(f"  {n_missed or 'none'} of the ratios aimed at missed")
        lines.append("")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"],
        "instruction_set": lanes.instruction_set() if "lanes" in BACKENDS else None,
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    main()
