"""What giving freed memory back at once costs: Dask's default allocator settings against those of our workers.

    python tests/benchmarks/bench_malloc.py

computes the same cells in fresh processes under either setting, in turns, and prints the ratio of the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

import stabdask as sd

SETTINGS = {
    "dask": {"MALLOC_TRIM_THRESHOLD_": "65536"},
    "stabdask": {"MALLOC_TRIM_THRESHOLD_": str(512 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)},
}

WORK = """
import sys, time
import stabdask as sd
from stabdask.runs.block import compute_block
from stabdask.runs.job import prepare
cells = sd.open_cells(sys.argv[1] + "/cells.h5ad", layer="M_t", cluster_key="cell_type")
job = prepare(cells, sd.read_field(sys.argv[1] + "/field.zarr"))
x = job.expression.compute(scheduler="synchronous")
compute_block(x[:64], job.model_codes[:64], job.field, job.spec.options)
begin = time.perf_counter()
for first in range(0, len(x), 1024):
    cut = slice(first, first + 1024)
    compute_block(x[cut], job.model_codes[cut], job.field, job.spec.options)
print(time.perf_counter() - begin)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sd.simulate_atlas(folder, n_cells=3072, n_genes=2000, n_regulators=150, zero_fraction=0.4)
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for _ in range(5):
            for name, setting in SETTINGS.items():
                environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **setting}
                done = subprocess.run(
                    [sys.executable, "-c", WORK, folder],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds[name].append(float(done.stdout))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(json.dumps({"median_s": medians, "ratio": medians["dask"] / medians["stabdask"]}, indent=2))


if __name__ == "__main__":
    main()
