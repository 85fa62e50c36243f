"""Figures (matplotlib).

Those of one pair of axes take `ax` and return it; those of several return a figure.
"""

from stabdask.plotting.distributions import boxplot, overview, positive_parts, violin
from stabdask.plotting.embeddings import elements, embedding
from stabdask.plotting.spectrum import spectra, spectrum

__all__ = [
    "boxplot",
    "elements",
    "embedding",
    "overview",
    "positive_parts",
    "spectra",
    "spectrum",
    "violin",
]
