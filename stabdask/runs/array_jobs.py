"""`initialize` and `finalize`: a run whose partitions are computed by jobs that know nothing of each other.

`initialize` makes the store; any number of `run(..., partitions=...)` compute some partitions each, at the same time;
`finalize` checks that all are there. No scheduler process holds them together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.errors import RunFailedError
from stabdask.files import place_of
from stabdask.runs.job import prepare
from stabdask.runs.plan import gpu_request
from stabdask.runs.receipts import read_receipts, store_lock, sweep_leftovers
from stabdask.runs.run_report import RunReport, make_report
from stabdask.runs.runner import make_or_match, with_recorded_backend
from stabdask.runs.shares import format_numbers
from stabdask.runs.status import StoreStatus, status
from stabdask.runs.store import read_spec

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = ["finalize", "initialize"]


def initialize(
    cells: xr.Dataset,
    field: Field,
    store: str | Path,
    *,
    gpu: bool = False,
    missing_cluster: str = "error",
    partition_cells: int | None = None,
    request: Mapping[str, Any] | None = None,
    **options: Any,
) -> StoreStatus:
    """Make the store of a run without computing anything, for tasks that compute some partitions each.

    A store of the same run that is there already is left as it is.

    Parameters
    ----------
    cells, field, store, missing_cluster, partition_cells, request
        As for `stabdask.run`.
    gpu
        Choose the backend as ``run(gpu=True)`` does, on this host, which needs a GPU for that.
    **options
        See `stabdask.stability`.

    Returns
    -------
    StoreStatus
        ``n_partitions`` says how many there are.

    Raises
    ------
    InputError
        If cells and field do not fit together.
    StoreMismatchError
        If the store belongs to another run.
    """
    _, options = gpu_request(options, gpu=gpu, workers=None)
    place = place_of(store)
    options = with_recorded_backend(options, place)
    job = prepare(cells, field, missing_cluster=missing_cluster, partition_cells=partition_cells, **options)
    make_or_match(place, job, request)
    return status(store)


def finalize(store: str | Path, *, lock: bool = True) -> RunReport:
    """Check that every partition of a store has its receipt, sweep leftovers, and report.

    Parameters
    ----------
    store
        The store.
    lock
        As for `stabdask.run`.

    Returns
    -------
    RunReport
        As of a run that had nothing left to do.

    Raises
    ------
    RunFailedError
        If partitions lack receipts; the message says which.
    StoreLockedError
        If tasks are still writing to the store.
    """
    begin = time.monotonic()
    path = place_of(store)
    spec = read_spec(path)
    with store_lock(path, lock=lock):
        receipts = read_receipts(path, spec.fingerprint)
        if lock:
            sweep_leftovers(path)
    missing = [number for number in range(spec.n_partitions) if number not in receipts]
    if missing:
        raise RunFailedError(
            f"{len(missing):,} of {spec.n_partitions:,} partitions of {path} have no receipt: "
            f"{format_numbers(missing)}; their tasks failed, or have not run yet. Run them (stabdask run --store "
            f"{path} --partition ...), or compute all that is missing with one run, then finalize again"
        )
    return make_report(path, spec, receipts, 0, 0, 0, time.monotonic() - begin, locked=lock)
