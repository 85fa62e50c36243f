"""Samples of cells: at random, by speed, or spread over the data."""

from __future__ import annotations

from stabdask.compat.dynamo.fits import Fit
from stabdask.errors import UsageError
from stabdask.fields.base import Index

__all__ = ["sampled_cells"]


def sampled_cells(fit: Fit, n: int, method: str) -> Index:
    raise UsageError(method)
