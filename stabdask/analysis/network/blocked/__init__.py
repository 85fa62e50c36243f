"""Precision matrices in tiles on disk, for gene counts whose matrices exceed the memory of a worker."""

from stabdask.analysis.network.blocked.building import is_blocked
from stabdask.analysis.network.blocked.plan import NetworkPlan, plan
from stabdask.analysis.network.blocked.precision import BlockedPrecision

__all__ = ["BlockedPrecision", "NetworkPlan", "is_blocked", "plan"]
