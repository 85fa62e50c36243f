"""What a run did, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stabdask.files import Place
from stabdask.kernels import lanes
from stabdask.rich import Rich
from stabdask.runs.job import RunSpec
from stabdask.runs.plan import format_seconds
from stabdask.runs.receipts import Receipt
from stabdask.runs.repair import Repair
from stabdask.runs.totals import total
from stabdask.schema import count_failed, counts_text, explained, named_counts
from stabdask.sizes import format_bytes

__all__ = ["RunReport", "make_report"]


@dataclass(frozen=True)
class RunReport(Rich):
    """What a run did.

    Attributes
    ----------
    store
        Path of the store.
    fingerprint
        Of the run.
    n_cells, n_partitions
        In the store.
    n_partitions_computed
        By this call; the others had receipts.
    n_partitions_missing
        Not finished (only where a part of the partitions was asked for).
    n_workers
        Worker processes of this call.
    status_counts
        Cells by status code.
    n_near_switch
        Cells with a regulator within a relative 1e-6 of a switch of its activation.
    backend
        Eigensolver backend.
    kernels
        Instruction sets or GPUs that it ran on: results of unlike ones differ in the last bits.
    seconds
        Wall time of this call.
    cells_per_s
        Cells computed by this call per second.
    worker_seconds
        Seconds in all partitions of the store by part, summed over workers.
    peak_worker_bytes
        Largest resident memory of any worker.
    n_gpu_halvings
        How often a batch had to be halved for want of GPU memory.
    audit
        Where leading modes were iterated for: cells compared with dense spectra, leading modes missed in them,
        and the largest difference relative to the norm of a core. Empty otherwise.
    repaired_partitions, repaired_metadata
        What was found damaged and made again, and why; see `stabdask.runs.repair.Repair`.
    locked
        Whether the store was locked against other runs; False where that was waived (``lock=False``).
    """

    store: str
    fingerprint: str
    n_cells: int
    n_partitions: int
    n_partitions_computed: int
    n_partitions_missing: int
    n_workers: int
    status_counts: dict[int, int]
    n_near_switch: int
    backend: str
    kernels: tuple[str, ...]
    seconds: float
    cells_per_s: float
    worker_seconds: dict[str, float]
    peak_worker_bytes: int
    n_gpu_halvings: int
    audit: dict[str, float]
    repaired_partitions: dict[int, str] = field(default_factory=dict)
    repaired_metadata: dict[str, str] = field(default_factory=dict)
    locked: bool = True

    _title = "Run"

    @property
    def n_failed(self) -> int:
        """Cells with a status that counts as failed."""
        return count_failed(self.status_counts)

    @property
    def backend_note(self) -> str | None:
        """Why the backend is not the compiled solver, where LAPACK stands in for it."""
        return lanes.why_not() if self.backend == "lapack" else None

    @property
    def complete(self) -> bool:
        """Whether every partition has a receipt."""
        return self.n_partitions_missing == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        named = named_counts(self.status_counts)
        return {
            **values,
            "status_counts": named,
            "n_failed": self.n_failed,
            "complete": self.complete,
            "backend_note": self.backend_note,
        }

    def __str__(self) -> str:
        counts = counts_text(self.status_counts)
        state = "complete" if self.complete else f"{self.n_partitions_missing:,} partitions missing"
        done = self.n_partitions_computed
        lines = [
            f"store        {self.store} ({state})",
            f"cells        {self.n_cells:,}: {counts}",
            *(f"status       {text}" for text in explained(self.status_counts)),
        ]
        if self.repaired_partitions or self.repaired_metadata:
            lines.append(str(Repair(self.repaired_partitions, self.repaired_metadata)))
        if self.n_near_switch:
            lines.append(f"at a switch  {self.n_near_switch:,} cells, where the Jacobian jumps")
        if done:
            lines.append(
                f"this run     {done:,} of {self.n_partitions:,} partitions on {max(1, self.n_workers)} worker(s) in "
                f"{format_seconds(self.seconds)}: {self.cells_per_s:,.0f} cells/s with {self.backend}"
            )
            if self.backend_note:
                lines.append(f"eigensolver  LAPACK, because the compiled one is {self.backend_note}")
        else:
            lines.append(
                "this run     nothing to do: "
                + (
                    "every partition has its receipt"
                    if self.complete
                    else "its partitions have their receipts"
                )
            )
        lines += self._how_computed()
        if not self.locked:
            lines.append(
                "not locked   leftovers of killed writers were not swept; nothing else may write here"
            )
        return "\n".join(lines)

    def _how_computed(self) -> list[str]:
        """Return lines on how all that is in the store was computed, by whatever calls."""
        lines = []
        if len(self.kernels) > 1:
            lines.append(
                f"unlike       results come from {' and '.join(self.kernels)} and differ in the last bits; "
                "for the same bytes use like machines, or one STABDASK_INSTRUCTION_SET"
            )
        if self.n_gpu_halvings:
            lines.append(
                f"GPU memory   batches were halved {self.n_gpu_halvings:,} times to fit; last bits may differ"
            )
        if self.audit:
            lines.append(_audit_line(self.audit))
        if self.peak_worker_bytes:
            lines.append(f"memory       at most {format_bytes(self.peak_worker_bytes)} in a worker")
        return lines


def _audit_line(audit: dict[str, float]) -> str:
    missed = (
        "no leading mode missed" if not audit["n_missed"] else f"{audit['n_missed']:,} leading modes MISSED"
    )
    return (
        f"audit        {audit['n_cells']:,} cells against dense spectra: {missed}, eigenvalues within "
        f"{audit['worst_difference']:.1e} of the norm"
    )


def make_report(
    path: Place,
    spec: RunSpec,
    receipts: dict[int, Receipt],
    n_computed: int,
    n_workers: int,
    n_new: int,
    seconds: float,
    *,
    locked: bool = True,
    repair: Repair | None = None,
) -> RunReport:
    """Return the report of a call that computed `n_computed` partitions and `n_new` cells in `seconds`."""
    totals = total(receipts)
    return RunReport(
        store=str(path),
        fingerprint=spec.fingerprint,
        n_cells=spec.n_cells,
        n_partitions=spec.n_partitions,
        n_partitions_computed=n_computed,
        n_partitions_missing=spec.n_partitions - len(receipts),
        n_workers=n_workers,
        status_counts=totals.status_counts,
        n_near_switch=totals.n_near_switch,
        backend=spec.options.backend,
        kernels=totals.kernels,
        seconds=seconds,
        cells_per_s=n_new / seconds if seconds > 0 else 0.0,
        worker_seconds=totals.worker_seconds,
        peak_worker_bytes=totals.peak_worker_bytes,
        n_gpu_halvings=totals.n_gpu_halvings,
        audit=totals.audit,
        repaired_partitions={} if repair is None else repair.partitions,
        repaired_metadata={} if repair is None else repair.metadata,
        locked=locked,
    )
