"""Networks of genes: co-moments of cells, precision matrices in memory or in tiles, partial correlations, edges."""

from stabdask.analysis.network.blocked import BlockedPrecision, NetworkPlan, plan
from stabdask.analysis.network.edges import compare, edges, partial_correlations, statistics
from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.precision import PrecisionMatrix
from stabdask.analysis.network.shrinkage import Shrunk, shrink

__all__ = [
    "BlockedPrecision",
    "CoMoments",
    "NetworkPlan",
    "PrecisionMatrix",
    "Shrunk",
    "compare",
    "edges",
    "partial_correlations",
    "plan",
    "shrink",
    "statistics",
]
