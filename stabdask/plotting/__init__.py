"""Figures (matplotlib).

Those of one pair of axes take `ax` and return it; those of several return a figure.
"""

from stabdask.plotting.distributions import boxplot, overview, positive_parts, violin
from stabdask.plotting.drivers import driver_edges, driver_genes, driver_heatmap
from stabdask.plotting.embeddings import elements, embedding
from stabdask.plotting.fixed_points import fixed_points
from stabdask.plotting.knockouts import knockout_heatmap, knockout_shifts
from stabdask.plotting.network import driver_network, precision_network
from stabdask.plotting.precision import edge_changes, partial_correlations
from stabdask.plotting.responses import response_heatmap
from stabdask.plotting.spectrum import spectra, spectrum
from stabdask.plotting.timing import update_timing
from stabdask.plotting.trends import trend

__all__ = [
    "boxplot",
    "driver_edges",
    "driver_genes",
    "driver_heatmap",
    "driver_network",
    "edge_changes",
    "elements",
    "embedding",
    "fixed_points",
    "knockout_heatmap",
    "knockout_shifts",
    "overview",
    "partial_correlations",
    "positive_parts",
    "precision_network",
    "response_heatmap",
    "spectra",
    "spectrum",
    "trend",
    "update_timing",
    "violin",
]
