"""Figures (matplotlib): each takes `ax` and returns it."""

from stabdask.plotting.spectrum import spectrum

__all__ = ["spectrum"]
