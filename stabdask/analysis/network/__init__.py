"""Networks of genes: precision matrices, partial correlations, edges."""

from stabdask.analysis.network.edges import compare, edges, partial_correlations, statistics
from stabdask.analysis.network.precision import PrecisionMatrix

__all__ = ["PrecisionMatrix", "compare", "edges", "partial_correlations", "statistics"]
