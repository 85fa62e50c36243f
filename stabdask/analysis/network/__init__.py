"""Networks of genes from the co-moments of cells: covariance, precision, partial correlation."""

from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.shrinkage import Shrunk, shrink

__all__ = ["CoMoments", "Shrunk", "shrink"]
