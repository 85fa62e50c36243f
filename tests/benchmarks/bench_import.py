"""Seconds that ``import stabdask`` takes in a fresh process with a warm file cache, beside NumPy alone.

python tests/benchmarks/bench_import.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys


def seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    return statistics.median(runs)


def main() -> None:
    ours, numpy = seconds("stabdask"), seconds("numpy")
    print(json.dumps({"stabdask_s": ours, "numpy_s": numpy, "ratio": ours / numpy}, indent=2))


if __name__ == "__main__":
    main()
