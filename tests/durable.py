"""Runs of a small atlas that are to end in the same bytes, whatever happens to them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import xarray as xr

import stabdask as sd
from stabdask.runs.receipts import read_receipts
from stabdask.runs.store import read_spec

PARTITION = 50
# Arrays of cells and sums by partition; more of each kind would take longer and show no more.
QUANTITIES = ["spectral_abscissa", "unstable_count", "trace", "rotational_norm", "participation"]
OPTIONS = {
    "partition_cells": PARTITION,
    "elements": [("g00", "g01"), ("g05", "g05")],
    "quantities": QUANTITIES,
    "progress": False,
}


def open_small(small) -> tuple[xr.Dataset, sd.Field]:
    return sd.open_cells(small.atlas, layer="M_t", cluster_key="state"), sd.read_field(small.field)


def run_small(small, store: Path, **options) -> sd.RunReport:
    cells, field = open_small(small)
    return sd.run(cells, field, store, **{"workers": 0, **OPTIONS, **options})


def bytes_of(store: Path) -> dict[str, str]:
    """Return a hash of every file of a store but receipts, whose times differ, and the lock."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.parent.name != "receipts"
    }


def checksums_of(store: Path) -> dict[int, dict[str, str]]:
    spec = read_spec(store)
    return {number: receipt.checksums for number, receipt in read_receipts(store, spec.fingerprint).items()}


def assert_same(store: Path, other: Path) -> None:
    assert bytes_of(store) == bytes_of(other)
    assert checksums_of(store) == checksums_of(other)
    assert sd.status(store).complete


def command(small, store: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "stabdask.cli.main", "run", str(small.atlas), "--field", str(small.field),
        "--layer", "M_t", "--cluster-key", "state", "--store", str(store), "--partition-cells", "10",
        "--no-dashboard", "--quantities", ",".join(QUANTITIES), *more,
    ]  # fmt: skip


def flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))
