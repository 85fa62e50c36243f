"""Figures of several axes; apart because a class of them takes matplotlib to be loaded."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

__all__ = ["GridFigure"]


class GridFigure(Figure):
    """A figure that a notebook shows, though pyplot does not have it.

    Notebooks learn to show figures when pyplot draws the first; before that, they ask for this method.
    """

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()
