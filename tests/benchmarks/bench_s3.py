"""A run with cells, field and store in a bucket, against the same on disk, in turns; and what it asks of the bucket.

    python tests/benchmarks/bench_s3.py --cells 20000 --latency 0.0 --output results.json

The bucket is that of a local server (moto) behind a proxy that counts requests and answers each `--latency` seconds
later. Both are written in Python and share the cores with the run, so that the ratio says what requests cost where they
are dear; on a network the time of each is another. Runs in this process, one partition after the other, and prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import anndata

import stabdask as sd

sys.path.insert(0, str(Path(__file__).parents[1]))

from s3_server import FaultProxy, environment, make_bucket, moto_server, upload

HOW = {"layer": "M_t", "cluster_key": "cell_type"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--regulators", type=int, default=60)
    parser.add_argument("--partition-cells", type=int, default=2_000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every answer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stabdask-bench-"))
    try:
        with moto_server() as port:
            figures = measure(options, folder, port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def measure(options: argparse.Namespace, folder: Path, port: int) -> dict[str, object]:
    atlas = sd.simulate_atlas(
        folder, n_cells=options.cells, n_genes=options.genes, n_regulators=options.regulators
    )
    whole = anndata.read_h5ad(atlas.cells)
    anndata.settings.zarr_write_format = 3
    whole.write_zarr(folder / "cells.zarr", chunks=(options.partition_cells, options.genes))
    proxy = FaultProxy(port)
    os.environ.update(environment(proxy.url))
    make_bucket(port, "bench")
    upload(folder / "cells.zarr", "s3://bench/cells.zarr")
    sd.read_field(atlas.field).save("s3://bench/field.zarr")
    n_partitions = -(-options.cells // options.partition_cells)
    sd.read_field(atlas.field)
    turns, asked = [], Counter[str]()
    for turn in range(options.turns):
        disk = timed(f"{folder}/cells.zarr", str(atlas.field), f"{folder}/out{turn}.zarr", options)
        proxy.latency_s = options.latency
        proxy.requests.clear()
        bucket = timed(
            "s3://bench/cells.zarr", "s3://bench/field.zarr", f"s3://bench/out{turn}.zarr", options
        )
        asked = Counter(kind(request) for request in proxy.requests)
        proxy.latency_s = 0.0
        turns.append({"disk_s": disk, "bucket_s": bucket, "ratio": bucket / disk})
    n_variables = len(set(sd.open_results("s3://bench/out0.zarr").data_vars))
    proxy.requests.clear()
    sd.run(
        sd.open_cells("s3://bench/cells.zarr", **HOW),
        sd.read_field("s3://bench/field.zarr"),
        "s3://bench/out0.zarr",
        workers=0,
        progress=False,
        partition_cells=options.partition_cells,
    )
    resumed = Counter(kind(request) for request in proxy.requests)
    proxy.requests.clear()
    sd.status("s3://bench/out0.zarr")
    looked = Counter(kind(request) for request in proxy.requests)
    return {
        "cells": options.cells,
        "genes": options.genes,
        "partitions": n_partitions,
        "variables": n_variables,
        "latency_s": options.latency,
        "turns": turns,
        "requests_of_a_run": dict(sorted(asked.items())),
        "requests_per_partition": sum(asked.values()) / n_partitions,
        "requests_when_nothing_is_left": dict(sorted(resumed.items())),
        "requests_of_a_status": dict(sorted(looked.items())),
    }


def kind(request: str) -> str:
    """Return what a request is about: its method and what it reads or writes."""
    method, _, path = request.partition(" ")
    if "list-type=2" in path:
        return "LIST"
    for part, name in (("/out", "store"), ("/cells.zarr", "cells"), ("/field.zarr", "field")):
        if part in path:
            what = "receipts" if "/receipts/" in path else "chunks" if "/c/" in path else "documents"
            return f"{method} {name} {what}"
    return method


def timed(cells: str, field: str, store: str, options: argparse.Namespace) -> float:
    begin = time.perf_counter()
    report = sd.run(
        sd.open_cells(cells, **HOW),
        sd.read_field(field),
        store,
        workers=0,
        progress=False,
        partition_cells=options.partition_cells,
    )
    assert report.complete
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
