"""Speed of the GPU backend, against CuPy's own solver and against all cores of the CPU, measured in the same run.

    python tests/benchmarks/bench_gpu.py --sizes 30 100 --seconds 2 --output gpu.json

takes dense random cores. `device` has them on the GPU already and leaves the results there, `host` copies both,
`global` keeps every matrix in global memory, as those are that do not fit shared memory. Shares of the machine's limits
rest on estimates: 10 k^3 operations a matrix (and 2.7 k^3 numbers moved to or from shared memory), and limits worked
out from the number of multiprocessors and their clock. Refuses to run where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.kernels import cuda, cuda_engine, lanes
from stabdask.kernels.cuda_launch import Task, plan_launch
from stabdask.kernels.cuda_modules import current_gpu, load_kernel
from stabdask.kernels.machine import cpu_count
from stabdask.kernels.results import Results, Vectors

SIZES = (30, 64, 100, 150, 250)
MODES = 10
OPERATIONS, NUMBERS_MOVED = 10.0, 2.7

# Fused multiply-adds a clock and multiprocessor, by compute capability (CUDA C++ Programming Guide, arithmetic
# throughput): single precision, double precision.
FMA_PER_CLOCK = {(8, 0): (64, 32), (8, 6): (128, 2), (8, 9): (128, 2), (9, 0): (128, 64), (10, 0): (128, 64)}
SHARED_BYTES_PER_CLOCK = 128

Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=2.0, help="time budget of one measurement")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    options = parser.parse_args()
    if not cuda.available():
        sys.exit(f"no GPU can be used here: {cuda.why_not()}. This benchmark measures nothing without one")
    figures = []
    for dtype in options.dtypes:
        for k in options.sizes:
            figures.append(measure(k, dtype, options.seconds))
            print(line(figures[-1]), flush=True)
    report = {"machine": machine(), "seconds": options.seconds, "figures": figures}
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")


def measure(k: int, dtype: str, seconds: float) -> dict[str, Any]:
    """Return matrices a second of every contender, for one size."""
    cupy = importlib.import_module("cupy")
    first_call_s = first_call(k, dtype)
    cores = dense_cores(k, batch_size(k), dtype)
    on_device = cupy.asarray(cores)
    few = on_device[: max(2, min(64, 2**22 // k**2))]

    def device(vectors: Vectors) -> Callable[[], Any]:
        return lambda: finish(cupy, cuda.solve_on_device(on_device, vectors=vectors, modes=MODES))

    rates = {
        "device": rate(device("none"), len(cores), seconds),
        "device, vectors": rate(device("both"), len(cores), seconds),
        "host": rate(lambda: solve(cuda.solve, cores, "none"), len(cores), seconds),
        "cupy.linalg.eigvals": rate(
            lambda: finish(cupy, [cupy.linalg.eigvals(core) for core in few]), len(few), seconds
        ),
    }
    with everything_in_global_memory():
        rates["global"] = rate(device("none"), len(cores), seconds)
    if lanes.available():
        rates["lanes, all cores"] = rate_of_all_cores(cores, "none", seconds)
        rates["lanes, all cores, vectors"] = rate_of_all_cores(cores, "both", seconds)
    return {
        "k": k,
        "dtype": dtype,
        "batch": len(cores),
        "cells_per_s": rates,
        "first_call_s": first_call_s,
        "launch": str(plan_launch(k, Task.VALUES, dtype, current_gpu().shared_memory_bytes)),
        "resident_matrices": resident(k, dtype),
        "shares": shares(k, dtype, max(rates["device"], rates["global"])),
    }


def dense_cores(k: int, n: int, dtype: str) -> Array:
    """Return random cores whose eigenvalues fill the unit disk about -1."""
    rng = np.random.default_rng(k)
    return (rng.normal(size=(n, k, k)) / np.sqrt(k) - np.eye(k)).astype(dtype)


def batch_size(k: int) -> int:
    """Return how many matrices keep any GPU busy: some tens for each of its multiprocessors."""
    return int(np.clip(2**33 // k**3, 1024, 2**16))


def first_call(k: int, dtype: str) -> float:
    """Return the seconds that the first use of a kernel in this process takes; nothing if it was used before."""
    begin = time.perf_counter()
    solve(cuda.solve, dense_cores(k, 2, dtype), "none")
    return time.perf_counter() - begin


def solve(solver: Callable[..., Any], cores: Array, vectors: Vectors) -> None:
    n, k, _ = cores.shape
    solver(cores, np.full(n, k), Results(n, k, min(MODES, k), vectors, cores.dtype))


def finish(cupy: Any, result: Any) -> Any:
    cupy.cuda.get_current_stream().synchronize()
    return result


@contextmanager
def everything_in_global_memory() -> Iterator[None]:
    usual = cuda_engine.plan_launch
    cuda_engine.plan_launch = partial(usual, in_shared=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        cuda_engine.plan_launch = usual


def rate(work: Callable[[], Any], n: int, seconds: float) -> float:
    """Return matrices a second: the median of three rounds or more, after one that loads what is needed."""
    work()
    found: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < deadline:
        begin = time.perf_counter()
        work()
        found.append(n / (time.perf_counter() - begin))
    return statistics.median(found)


def rate_of_all_cores(cores: Array, vectors: Vectors, seconds: float) -> float:
    """Return matrices a second of the CPU, a thread on each of its cores."""
    n_threads = cpu_count()
    each = 256 if cores.shape[1] <= 64 else 32
    part = cores[: min(len(cores), each * n_threads)]
    pieces = np.array_split(part, n_threads)
    with ThreadPoolExecutor(n_threads) as pool:
        return rate(
            lambda: list(pool.map(lambda piece: solve(lanes.solve, piece, vectors), pieces)),
            len(part),
            seconds,
        )


def resident(k: int, dtype: str) -> int:
    """Return how many matrices the GPU works on at once."""
    gpu = current_gpu()
    launch = plan_launch(k, Task.VALUES, dtype, gpu.shared_memory_bytes)
    return load_kernel(dtype, launch, gpu).resident_blocks() * launch.teams


def shares(k: int, dtype: str, cells_per_s: float) -> dict[str, float | None]:
    """Return which share of the arithmetic and of the shared memory of the GPU is used, by estimate."""
    gpu, limit = current_gpu(), FMA_PER_CLOCK.get(current_gpu().capability)
    clock = 1e3 * importlib.import_module("cupy").cuda.Device().attributes["ClockRate"]
    every_clock = gpu.n_multiprocessors * clock
    itemsize = np.dtype(dtype).itemsize
    peak = None if limit is None else 2 * limit[itemsize == 8] * every_clock
    return {
        "arithmetic": None if peak is None else cells_per_s * OPERATIONS * k**3 / peak,
        "shared memory": cells_per_s
        * NUMBERS_MOVED
        * k**3
        * itemsize
        / (SHARED_BYTES_PER_CLOCK * every_clock),
    }


def line(row: dict[str, Any]) -> str:
    rates = "  ".join(f"{name} {value:,.0f}" for name, value in row["cells_per_s"].items())
    used = "  ".join(f"{name} {value:.1%}" for name, value in row["shares"].items() if value is not None)
    return f"{row['dtype']} k={row['k']}: matrices/s {rates} | used {used} | first call {row['first_call_s']:.2f} s"


def machine() -> dict[str, Any]:
    cupy, gpu = importlib.import_module("cupy"), current_gpu()
    return {
        "gpu": gpu.name,
        "arch": gpu.arch,
        "n_multiprocessors": gpu.n_multiprocessors,
        "shared_memory_bytes": gpu.shared_memory_bytes,
        "cupy": cupy.__version__,
        "cpu_cores": cpu_count(),
        "instruction_set": lanes.instruction_set() if lanes.available() else None,
    }


if __name__ == "__main__":
    main()
