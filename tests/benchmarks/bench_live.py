"""What the live page costs a scheduler: looks at a store with thousands of receipts, and the numbers it makes of them.

python tests/benchmarks/bench_live.py --partitions 2000 --cells 500
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_atlas import make_small

import stabdask as sd
from stabdask.live.reading import StoreReader
from stabdask.live.status import live_status
from stabdask.live.told import Told, Workers
from stabdask.runs.array_jobs import initialize
from stabdask.runs.receipts import read_receipts, receipt_place, write_receipt
from stabdask.runs.store import read_spec


def timed(what: str, function: Callable[[], Any], repeats: int = 1) -> Any:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        found = function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what:58s} {1e3 * cpu / repeats:9.2f} ms of CPU {1e3 * wall / repeats:9.2f} ms")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=500, help="in a partition")
    parser.add_argument("--clusters", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), options.partitions, options.cells, options.clusters)
        spec = read_spec(store)
        told = Told(
            "t",
            str(store),
            spec.fingerprint,
            spec.n_cells,
            spec.n_partitions,
            0,
            spec.n_cells,
            "running",
            {},
            None,
        )
        reader = StoreReader(told)
        timed(f"first look at {spec.n_partitions:,} receipts", lambda: list(reader.looks())[-1])
        progressed = timed("a look when nothing is new", lambda: list(reader.looks())[-1], 20)
        path = receipt_place(store, 7).local
        assert path is not None
        fresh = StoreReader(told)
        held = path.read_bytes()
        path.unlink()
        list(fresh.looks())
        path.write_bytes(held)
        timed("a look when one partition is new", lambda: list(fresh.looks())[-1])
        status = timed(
            "numbers for the page", lambda: live_status(told, progressed, Workers(), began=0.0, now=9.0), 20
        )
        text = timed("its JSON", lambda: json.dumps(status.to_dict()), 20)
        print(f"JSON of {len(text):,} bytes")


def make_store(folder: Path, n_partitions: int, n_cells: int, n_clusters: int) -> Path:
    """Make a store as if a run had finished: receipts of one real partition, and arrays of random numbers."""
    import zarr

    small = make_small(
        folder, n_cells=n_partitions * n_cells, labels=tuple(f"c{i}" for i in range(n_clusters))
    )
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    field = sd.read_field(small.field)
    how: dict[str, Any] = {"partition_cells": n_cells, "vectors": "right"}
    store = folder / "out.zarr"
    initialize(cells, field, store, **how)
    sd.run(cells, field, store, workers=0, progress=False, partitions=[0], **how)
    spec = read_spec(store)
    (one,) = read_receipts(store, spec.fingerprint).values()
    for number in range(1, spec.n_partitions):
        start, stop = spec.bounds(number)
        write_receipt(store, replace(one, partition=number, start=start, stop=stop))
    group = zarr.open_group(str(store), mode="r+")
    rng = np.random.default_rng(0)
    group["spectral_abscissa"][...] = rng.normal(size=spec.n_cells)
    group["residual"][...] = 10.0 ** rng.normal(-15, 1, spec.n_cells)
    return store


if __name__ == "__main__":
    main()
