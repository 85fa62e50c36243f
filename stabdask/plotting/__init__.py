"""Figures (matplotlib): each takes `ax` and returns it."""

from stabdask.plotting.spectrum import spectra, spectrum

__all__ = ["spectra", "spectrum"]
