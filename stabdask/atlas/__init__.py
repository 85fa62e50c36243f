"""Atlases: cells in, results out, and simulated ones."""
