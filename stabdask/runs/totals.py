"""What all finished partitions of a store add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stabdask.runs.receipts import Receipt, total_status

__all__ = ["Totals", "total"]


@dataclass(frozen=True)
class Totals:
    """What receipts add up to.

    Attributes
    ----------
    n_partitions
        Finished ones.
    status_counts
        Cells by status code.
    n_near_switch
        Cells with a regulator within a relative 1e-6 of a switch of its activation.
    kernels
        Instruction sets or GPUs that computed them.
    hardware
        Machines they were computed on.
    worker_seconds
        Seconds by part, summed over workers.
    peak_worker_bytes
        Largest resident memory of any worker.
    n_gpu_halvings
        How often a batch was halved for want of GPU memory.
    audit
        Cells compared with dense spectra, leading modes missed in them, and the largest difference relative to the norm
        of a core; empty where nothing was iterated for.
    versions
        Of packages in the workers; those that differ between partitions are joined by " or ".
    """

    n_partitions: int
    status_counts: dict[int, int]
    n_near_switch: int
    kernels: tuple[str, ...]
    hardware: tuple[str, ...]
    worker_seconds: dict[str, float]
    peak_worker_bytes: int
    n_gpu_halvings: int
    audit: dict[str, float]
    versions: dict[str, str]


def total(receipts: Mapping[int, Receipt]) -> Totals:
    """Add up receipts."""
    seconds: dict[str, float] = {}
    versions: dict[str, set[str]] = {}
    for receipt in receipts.values():
        for name, value in receipt.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
        for name, version in receipt.versions.items():
            versions.setdefault(name, set()).add(version)
    return Totals(
        n_partitions=len(receipts),
        status_counts=total_status(dict(receipts)),
        n_near_switch=sum(receipt.n_near_switch for receipt in receipts.values()),
        kernels=tuple(sorted({receipt.kernel for receipt in receipts.values() if receipt.kernel})),
        hardware=tuple(sorted({receipt.hardware for receipt in receipts.values() if receipt.hardware})),
        worker_seconds=seconds,
        peak_worker_bytes=max((receipt.peak_bytes for receipt in receipts.values()), default=0),
        n_gpu_halvings=sum(receipt.n_gpu_halvings for receipt in receipts.values()),
        audit=_audit(receipts),
        versions={name: " or ".join(sorted(found)) for name, found in versions.items()},
    )


def _audit(receipts: Mapping[int, Receipt]) -> dict[str, float]:
    parts = [receipt.audit for receipt in receipts.values() if receipt.audit]
    if not parts:
        return {}
    totals = {name: sum(part[name] for part in parts) for name in ("n_cells", "n_missed")}
    return {**totals, "worst_difference": max(part["worst_difference"] for part in parts)}
