"""Numbers of cells along a pseudotime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, UsageError
from stabdask.plotting.style import axes_for, check_save, legend_beside, legend_width, plain, save_figure
from stabdask.plotting.values import Groups, load, read_groups, read_numbers, select_groups

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["trend"]

Array = npt.NDArray[np.float64]

_MOST_BINS = 200
_MOST_POINTS = 20_000


def trend(
    ds: xr.Dataset,
    quantity: str = "spectral_abscissa",
    *,
    along: str = "dpt_pseudotime",
    by: str | None = None,
    groups: Sequence[str] | None = None,
    bins: int | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how a number changes along a pseudotime or any other number of the cells.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    quantity
        A scalar, a numeric annotation, or an element by its pair, e.g. ``"GATA1:GATA2"``.
    along
        A numeric annotation or a scalar.
    by
        Draw one line for each label of this kind, e.g. ``"cluster"``; one for all cells if not given.
    groups
        Which labels, in this order; all if not given.
    bins
        How many bins of equal numbers of cells; if not given, the number of cells (of each label) to the power of
        0.4, at most 200.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingKeyError
        If there is no such number, label or group.
    InputError
        If no cell has both numbers.
    UsageError
        If an option has no valid value.
    OutputError
        If the file cannot be written.

    Notes
    -----
    The line is the median of `quantity` in each bin, at the median of `along`; the band is its quartiles. Cells are
    drawn behind where there are at most 20,000.
    """
    check_save(save)
    if bins is not None and bins < 1:
        raise UsageError(f"bins={bins}; expected at least 1")
    if groups is not None and by is None:
        raise UsageError("groups= without by=; expected by= the kind of label, such as 'cluster'")
    loaded = load(ds, numbers=[quantity, along], labels=[] if by is None else [by])
    numbers, course = read_numbers(loaded, quantity), read_numbers(loaded, along)
    split = _everything(len(numbers.values)) if by is None else select_groups(read_groups(loaded, by), groups)
    kept = np.isfinite(numbers.values) & np.isfinite(course.values) & (split.codes >= 0)
    if not kept.any():
        raise InputError(f"no cell has both {quantity!r} and {along!r}")
    x, y, codes = course.values[kept], numbers.values[kept], split.codes[kept]
    if ax is None:
        ax = axes_for(None, save, (5.2 + (legend_width(split.labels) if by else 0.0), 3.8))
    if len(x) <= _MOST_POINTS:
        _draw_cells(ax, x, y, codes, split)
    # Many bands over one another would hide the lines.
    opacity = 0.22 if len(split.labels) <= 4 else 0.1
    lines, drawn = [], []
    for code, label in enumerate(split.labels):
        own = codes == code
        if not own.any():
            continue
        center, low, median, high = binned_quartiles(x[own], y[own], bins)
        color = split.colors[code]
        marker = "o" if len(center) == 1 else None
        ax.fill_between(center, low, high, color=color, alpha=opacity, linewidth=0, zorder=2)
        lines += ax.plot(center, median, color=color, linewidth=1.8, marker=marker, zorder=3)
        drawn.append(label)
    ax.set_xlabel(course.label)
    ax.set_ylabel(numbers.label)
    plain([ax.xaxis.label, ax.yaxis.label])
    ax.spines[["top", "right"]].set_visible(False)
    if numbers.shows_zero(float(y.min()), float(y.max())):
        ax.axhline(0.0, color="black", linewidth=0.8, linestyle="--", zorder=1)
    if by is not None:
        legend_beside(ax, lines, drawn)
    save_figure(ax.figure, save)
    return ax


def binned_quartiles(x: Array, y: Array, bins: int | None = None) -> tuple[Array, Array, Array, Array]:
    """Return median x, and lower quartile, median and upper quartile of y, in bins of equal numbers along x.

    Parameters
    ----------
    x, y
        ``(cell,)``, finite, at least one.
    bins
        How many at most; by the number of cells if not given.

    Returns
    -------
    tuple of numpy.ndarray
        Four of ``(bin,)``. Cells of equal x are in one bin.

    Examples
    --------
    >>> x = np.array([0.0, 1.0, 2.0, 3.0])
    >>> [part.tolist() for part in binned_quartiles(x, 10 * x, bins=2)]
    [[0.5, 2.5], [2.5, 22.5], [5.0, 25.0], [7.5, 27.5]]
    """
    import pandas as pd

    n = min(_MOST_BINS, int(len(x) ** 0.4)) if bins is None else bins
    order = np.argsort(x, kind="stable")
    # A bin starts at the first of equal values: no cell is in one bin by its place in the file.
    starts = np.searchsorted(x[order], x[order][np.linspace(0, len(x), n, endpoint=False).astype(np.intp)])
    number = np.searchsorted(np.unique(starts), np.arange(len(x)), side="right")
    frame = pd.DataFrame({"x": x[order], "y": y[order]}).groupby(number)
    quartiles = frame["y"].quantile
    low, median, high = (quartiles(q).to_numpy(dtype=np.float64) for q in (0.25, 0.5, 0.75))
    return frame["x"].median().to_numpy(dtype=np.float64), low, median, high


def _everything(n: int) -> Groups:
    return Groups(np.zeros(n, dtype=np.intp), ["all"], ["#0072B2"])


def _draw_cells(ax: Axes, x: Array, y: Array, codes: npt.NDArray[np.intp], split: Groups) -> None:
    from matplotlib.colors import to_rgba_array

    order = np.random.default_rng(0).permutation(len(x))
    size = float(np.clip(8_000 / len(x), 1.0, 10.0))
    colors = to_rgba_array(split.colors)[codes[order]]
    ax.scatter(x[order], y[order], s=size, c=colors, alpha=0.3, linewidths=0, rasterized=True, zorder=1)
