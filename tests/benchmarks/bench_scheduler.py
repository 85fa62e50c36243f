"""What a partition costs beside its computation: making its task, and the way to a worker and back.

    python tests/benchmarks/bench_scheduler.py [--partitions 5000] [--partition-cells 200] [--workers 2] [--json FILE]

A job of that many partitions over an atlas that is never read; workers do nothing but return a receipt. Measured one
after the other: making all tasks in the client; submitting them and gathering their receipts, as a run does, through a
cluster of this host; the receipts written and read. Sizes of messages are those of tasks pickled. With cells enough
for partitions of the size that a real atlas has (8,192), messages are as large as they get.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from distributed import Client

import stabdask as sd
from stabdask.clusters import local_client
from stabdask.runs import executors
from stabdask.runs.executors import OnCluster
from stabdask.runs.job import Job, prepare
from stabdask.runs.partition import PartitionTask, make_task
from stabdask.runs.receipts import Receipt, make_receipt_folder, read_receipts, write_receipt

GENES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--partitions", type=int, default=5_000)
    parser.add_argument("--partition-cells", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    job = unread_job(options.partitions, options.partition_cells)
    figures = {
        "partitions": options.partitions,
        "partition_cells": options.partition_cells,
        "workers": options.workers,
    }
    figures |= making_tasks(job)
    with local_client(n_workers=options.workers, memory_limit=None, dashboard=False) as client:
        figures |= through_a_cluster(job, client)
    with tempfile.TemporaryDirectory() as folder:
        figures |= receipts(job, Path(folder))
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def unread_job(n_partitions: int, partition_cells: int) -> Job:
    n_cells = n_partitions * partition_cells
    # Blocks as open_cells makes them: a task each, that would read some rows.
    x = da.zeros((n_cells, GENES), chunks=(min(partition_cells, 1024), GENES), dtype=np.float32)
    cells = xr.Dataset(
        {"expression": (("cell", "gene"), x)},
        coords={
            "cell": np.asarray([f"AAACCTGAGAAACCAT-{i}" for i in range(n_cells)], dtype=object),
            "gene": np.asarray([f"g{i}" for i in range(GENES)], dtype=object),
            "cluster": ("cell", np.full(n_cells, "all", dtype=object)),
        },
    )
    rng = np.random.default_rng(0)
    W = np.zeros((GENES, GENES))
    W[:, :150] = rng.normal(size=(GENES, 150)) * (rng.random((GENES, 150)) < 0.05)
    ones = np.ones(GENES)
    field = sd.HopfieldField.from_arrays(
        [f"g{i}" for i in range(GENES)], W=W, gamma=ones, threshold=ones, exponent=2 * ones
    )
    return prepare(cells, field, partition_cells=partition_cells)


def making_tasks(job: Job) -> dict[str, Any]:
    seconds, sizes = [], []
    for number in range(job.spec.n_partitions):
        begin = time.perf_counter()
        task = make_task(job, Path("out.zarr"), number)
        seconds.append(time.perf_counter() - begin)
        if number % 97 == 0:
            sizes.append(len(pickle.dumps(task)))
    return {
        "make_task_ms": 1e3 * statistics.median(seconds),
        "make_all_tasks_s": sum(seconds),
        "task_bytes": int(statistics.median(sizes)),
    }


def nothing(task: PartitionTask) -> Receipt:
    """Return what a partition of no work would."""
    spec = task.spec
    start, stop = spec.bounds(task.partition)
    return Receipt(
        fingerprint=spec.fingerprint, partition=task.partition, start=start, stop=stop, attempt=1, backend="none",
        seconds={"total_s": 0.0}, peak_bytes=0, status_counts={0: stop - start}, n_near_switch=0,
        checksums={"eigenvalue": "0" * 32},
    )  # fmt: skip


def nothing_in_worker(_: Any, task: bytes) -> Receipt:
    """Do what a worker does with a task, but for the work."""
    return nothing(pickle.loads(task))


def through_a_cluster(job: Job, client: Client) -> dict[str, Any]:
    executors.run_task = nothing_in_worker
    tasks = [make_task(job, Path("out.zarr"), number) for number in range(job.spec.n_partitions)]
    executor = OnCluster(client)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    n = sum(1 for _ in executor.map(iter(tasks)))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    assert n == len(tasks), executor.failures
    return {
        "cluster_s": seconds,
        "cluster_ms_per_partition": 1e3 * seconds / n,
        # Client and scheduler share a process here.
        "client_and_scheduler_cpu_ms_per_partition": 1e3 * cpu / n,
    }


def receipts(job: Job, store: Path) -> dict[str, Any]:
    make_receipt_folder(store)
    found = [nothing(make_task(job, store, number)) for number in range(min(1_000, job.spec.n_partitions))]
    begin = time.perf_counter()
    for receipt in found:
        write_receipt(store, receipt)
    written = time.perf_counter() - begin
    begin = time.perf_counter()
    read_receipts(store, job.spec.fingerprint)
    read = time.perf_counter() - begin
    return {"write_receipt_ms": 1e3 * written / len(found), "read_receipt_ms": 1e3 * read / len(found)}


if __name__ == "__main__":
    sys.exit(main())
