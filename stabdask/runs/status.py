"""`status`: how far a store is, from its receipts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stabdask.rich import Rich
from stabdask.runs.plan import format_seconds
from stabdask.runs.receipts import is_locked, read_receipts, total_status
from stabdask.runs.store import read_spec
from stabdask.schema import counts_text, named_counts

__all__ = ["StoreStatus", "status"]


@dataclass(frozen=True)
class StoreStatus(Rich):
    """How far a store is.

    Attributes
    ----------
    store
        Its path.
    fingerprint
        Of the run.
    running
        Whether a run holds its lock now.
    n_cells, n_cells_done
        Cells in all and in finished partitions.
    n_partitions, n_partitions_done
        The same for partitions.
    status_counts
        Finished cells by status code.
    worker_seconds
        Time spent in finished partitions, over all workers.
    backend
        Eigensolver backend.
    """

    store: str
    fingerprint: str
    running: bool
    n_cells: int
    n_cells_done: int
    n_partitions: int
    n_partitions_done: int
    status_counts: dict[int, int]
    worker_seconds: float
    backend: str

    _title = "Store"

    @property
    def complete(self) -> bool:
        """Whether every partition is finished."""
        return self.n_partitions_done == self.n_partitions

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "status_counts": named_counts(self.status_counts), "complete": self.complete}

    def __str__(self) -> str:
        state = "complete" if self.complete else ("running" if self.running else "not complete, not running")
        counts = counts_text(self.status_counts)
        return "\n".join(
            (
                f"store        {self.store}: {state}",
                f"partitions   {self.n_partitions_done:,} of {self.n_partitions:,}",
                f"cells        {self.n_cells_done:,} of {self.n_cells:,}" + (f": {counts}" if counts else ""),
                f"spent        {format_seconds(self.worker_seconds)} of worker time with {self.backend}",
            )
        )


def status(path: str | Path) -> StoreStatus:
    """Return how far the run in a store is; also while it goes on, from any process.

    Parameters
    ----------
    path
        The store.

    Returns
    -------
    StoreStatus

    Raises
    ------
    MissingFileError
        If there is no store.
    StoreMismatchError
        If it is no stabdask store.
    """
    spec = read_spec(path)
    receipts = read_receipts(path, spec.fingerprint)
    return StoreStatus(
        store=str(path),
        fingerprint=spec.fingerprint,
        running=is_locked(path),
        n_cells=spec.n_cells,
        n_cells_done=sum(receipt.n_cells for receipt in receipts.values()),
        n_partitions=spec.n_partitions,
        n_partitions_done=len(receipts),
        status_counts=total_status(receipts),
        worker_seconds=sum(receipt.seconds.get("total_s", 0.0) for receipt in receipts.values()),
        backend=spec.options.backend,
    )
