"""Distributions of one number per cell over clusters or other labels, drawn from statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import MissingKeyError, UsageError
from stabdask.plotting.spectrum import sample_spectra
from stabdask.plotting.style import axes_for, check_save, grid, plain, save_figure, short
from stabdask.plotting.values import Groups, load, read_groups, read_numbers, select_groups

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["boxplot", "overview", "positive_parts", "violin"]

Array = npt.NDArray[np.float64]

_GRID = 1024
_COLUMNS = 4
_OVERVIEW = ("unstable_count", "trace", "rotational_norm", "speed")
_CHARACTERS_PER_INCH = 13.0


def boxplot(
    ds: xr.Dataset,
    quantity: str = "unstable_count",
    *,
    by: str = "cluster",
    groups: Sequence[str] | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw boxes of one number per cell for every cluster or other label.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    quantity
        A scalar, a numeric annotation, or an element by its pair, e.g. ``"GATA1:GATA2"``.
    by
        ``"cluster"`` or another label of the cells.
    groups
        Which labels, in this order; all if not given.
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
        If there is no such quantity, label or group.
    UsageError
        If `by` has too many different values to be a label.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Boxes are quartiles with the median; whiskers reach the farthest value within 1.5 times their distance (Tukey 1977);
    of what lies beyond, the smallest and the largest are dots. Below every label is the number of cells that have a
    value: NaN and what was not computed is left out. Only these statistics are in the figure.
    """
    return _distribution(ds, quantity, by, groups, ax, save, _draw_boxes)


def violin(
    ds: xr.Dataset,
    quantity: str = "spectral_abscissa",
    *,
    by: str = "cluster",
    groups: Sequence[str] | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the density of one number per cell for every cluster or other label.

    Parameters
    ----------
    ds, quantity, by, groups, ax, save
        As for `boxplot`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingKeyError, UsageError, OutputError
        As `boxplot`.

    Notes
    -----
    Gaussian kernel density of binned values, bandwidth after Silverman (1986), cut at the smallest and the largest
    value; all violins have the same greatest width. The bar is the quartiles, the dot the median. Numbers of cells as
    in `boxplot`.
    """
    return _distribution(ds, quantity, by, groups, ax, save, _draw_violins)


def positive_parts(
    ds: xr.Dataset,
    *,
    clusters: list[str] | None = None,
    max_cells: int = 2000,
    seed: int = 0,
    save: str | Path | None = None,
) -> Figure:
    """Draw boxes of the positive real parts and of the positive imaginary parts of eigenvalues per cluster.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    clusters
        Which clusters, in this order; all if not given.
    max_cells
        Cells per cluster; a random sample of larger clusters.
    seed
        Of the sample.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.figure.Figure
        Not one of pyplot's: a notebook shows it as the value of a cell.

    Raises
    ------
    MissingKeyError
        If there are no eigenvalues or no such cluster.
    UsageError
        If `max_cells` is less than 1.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Eigenvalues outside the cores are real and negative, so none is missing. Below every label is the number of
    eigenvalues in the box. Of a conjugate pair one has a positive imaginary part.
    """
    if "eigenvalue" not in ds:
        raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full'")
    if max_cells < 1:
        raise UsageError(f"max_cells={max_cells}; expected at least 1")
    check_save(save)
    found = sample_spectra(ds, clusters, max_cells, seed, False)
    labels, colors = list(found), [one.color for one in found.values()]
    figure, axes = _row(2, labels)
    parts = ("positive real parts\n(1/time)", "positive imaginary parts\n(rad/time)")
    for ax, part, label in zip(axes, (np.real, np.imag), parts, strict=True):
        values = [part(one.values).astype(np.float64) for one in found.values()]
        values = [one[one > 0] for one in values]
        _draw_boxes(ax, values, colors, vertical=False)
        names = labels if ax is axes[0] else [""] * len(labels)
        _name_groups(ax, names, [len(one) for one in values], vertical=False)
        ax.set_xlabel(label)
        if any(map(len, values)):
            ax.set_xlim(-0.02 * max(one.max() for one in values if len(one)))
    sampled = [f"{one.n_drawn:,}" for one in found.values() if one.n_drawn < one.n_cells]
    if sampled:
        figure.suptitle(
            f"numbers of eigenvalues of a sample of {sampled[0]} cells per cluster", fontsize="small"
        )
    else:
        figure.suptitle("numbers of eigenvalues below the labels", fontsize="small")
    save_figure(figure, save)
    return figure


def overview(
    ds: xr.Dataset,
    quantities: Sequence[str] = _OVERVIEW,
    *,
    by: str = "cluster",
    groups: Sequence[str] | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Draw boxes of several numbers per cell side by side: counts of unstable modes, traces, rotation and speed.

    Speed stands beside statements of stability, because eigenvalues say little far from a fixed point.

    Parameters
    ----------
    ds, by, groups, save
        As for `boxplot`.
    quantities
        What to draw, each as in `boxplot`.

    Returns
    -------
    matplotlib.figure.Figure
        Not one of pyplot's: a notebook shows it as the value of a cell.

    Raises
    ------
    MissingKeyError, UsageError, OutputError
        As `boxplot`.
    """
    if isinstance(quantities, str) or not quantities:
        raise UsageError(f"quantities={quantities!r}; expected a sequence of names")
    check_save(save)
    loaded = load(ds, numbers=quantities, labels=[by])
    split = select_groups(read_groups(loaded, by), groups)
    figure, axes = _row(len(quantities), split.labels)
    for position, (ax, quantity) in enumerate(zip(axes, quantities, strict=True)):
        _fill(ax, loaded, quantity, split, _draw_boxes, vertical=False, named=position % _COLUMNS == 0)
        ax.set_xlabel(ax.get_xlabel().replace(" (", "\n("), fontsize="small")
        ax.tick_params(axis="x", labelsize="small")
    save_figure(figure, save)
    return figure


Drawing = Callable[..., None]


def _distribution(
    ds: xr.Dataset,
    quantity: str,
    by: str,
    groups: Sequence[str] | None,
    ax: Axes | None,
    save: str | Path | None,
    draw: Drawing,
) -> Axes:
    check_save(save)
    loaded = load(ds, numbers=[quantity], labels=[by])
    split = select_groups(read_groups(loaded, by), groups)
    wide = sum(max(len(short(label)), 6) + 2 for label in split.labels) / _CHARACTERS_PER_INCH
    if ax is None:
        vertical = wide <= 7.0
        size = (max(3.6, wide + 1.0), 4.0) if vertical else (6.4, _height(len(split.labels)))
        ax = axes_for(None, save, size)
    else:
        vertical = wide <= ax.get_window_extent().width / ax.figure.dpi
    _fill(ax, loaded, quantity, split, draw, vertical=vertical)
    save_figure(ax.figure, save)
    return ax


def _fill(
    ax: Axes,
    ds: xr.Dataset,
    quantity: str,
    split: Groups,
    draw: Drawing,
    *,
    vertical: bool,
    named: bool = True,
) -> None:
    """Draw the distributions of a quantity into axes and name everything."""
    from matplotlib.ticker import MaxNLocator

    numbers = read_numbers(ds, quantity)
    values = _by_group(numbers.values, split)
    draw(ax, values, split.colors, vertical=vertical)
    labels = split.labels if named else [""] * len(split.labels)
    _name_groups(ax, labels, [len(one) for one in values], vertical=vertical)
    (ax.set_ylabel if vertical else ax.set_xlabel)(numbers.label)
    plain([ax.yaxis.label, ax.xaxis.label])
    low = min((float(one.min()) for one in values if len(one)), default=0.0)
    high = max((float(one.max()) for one in values if len(one)), default=0.0)
    if numbers.whole and high == low:
        (ax.set_ylim if vertical else ax.set_xlim)(low - 1, high + 1)
    if numbers.whole:
        (ax.yaxis if vertical else ax.xaxis).set_major_locator(MaxNLocator(integer=True))
    if numbers.shows_zero(low, high):
        (ax.axhline if vertical else ax.axvline)(0.0, color="black", linewidth=0.8, linestyle="--", zorder=0)


def _by_group(values: Array, split: Groups) -> list[Array]:
    kept = np.isfinite(values) & (split.codes >= 0)
    codes = split.codes[kept]
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(split.labels)))
    return np.split(values[kept][order], ends[:-1]) if len(ends) else []


def _height(n: int) -> float:
    return max(2.2, 1.0 + 0.38 * n)


def _row(n: int, labels: Sequence[str]) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Return a figure of `n` axes side by side with horizontal boxes, labels at the left of each row alone."""
    names = 0.08 * max((len(short(label)) for label in labels), default=0)
    return grid(n, _COLUMNS, (2.3 + names / max(1, min(n, _COLUMNS)), 0.2 + _height(len(labels))))


def _name_groups(ax: Axes, labels: Sequence[str], counts: Sequence[int], *, vertical: bool) -> None:
    """Write labels and numbers of values at the positions of groups."""
    names = [f"{short(label)}\n{count:,}".lstrip("\n") for label, count in zip(labels, counts, strict=True)]
    axis = ax.xaxis if vertical else ax.yaxis
    axis.set_ticks(np.arange(len(labels)), labels=names, fontsize="small")
    plain(axis.get_ticklabels())
    axis.set_tick_params(length=0)
    if vertical:
        ax.set_xlim(-0.6, len(labels) - 0.4)
    else:
        # The first on top, as one reads.
        ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_boxes(ax: Axes, values: Sequence[Array], colors: Sequence[str], *, vertical: bool) -> None:
    drawn = [position for position, one in enumerate(values) if len(one)]
    boxes = ax.bxp(
        [_box(values[position]) for position in drawn],
        positions=drawn,
        widths=0.6,
        orientation="vertical" if vertical else "horizontal",
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": "black", "linewidth": 1.4},
        flierprops={"marker": ".", "markersize": 4, "markeredgewidth": 0, "markerfacecolor": "0.3"},
    )
    for position, patch in zip(drawn, boxes["boxes"], strict=True):
        patch.set(facecolor=colors[position], alpha=0.75, linewidth=0.8)


def _box(values: Array) -> dict[str, Any]:
    """Return the statistics of one box."""
    low, quarter, median, three_quarters, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    reach = 1.5 * (three_quarters - quarter)
    # Quantiles between values can lie beyond all values within reach.
    whiskers = (
        min(quarter, values[values >= quarter - reach].min()),
        max(three_quarters, values[values <= three_quarters + reach].max()),
    )
    return {
        "med": median, "q1": quarter, "q3": three_quarters, "whislo": whiskers[0], "whishi": whiskers[1],
        "fliers": [end for end, beyond in ((low, low < whiskers[0]), (high, high > whiskers[1])) if beyond],
    }  # fmt: skip


def _draw_violins(ax: Axes, values: Sequence[Array], colors: Sequence[str], *, vertical: bool) -> None:
    drawn = [position for position, one in enumerate(values) if len(one)]
    if not drawn:
        return
    bodies: Any = ax.violin(
        [_density(values[position]) for position in drawn],
        positions=drawn,
        widths=0.85,
        orientation="vertical" if vertical else "horizontal",
        showextrema=False,
    )["bodies"]
    for position, body in zip(drawn, bodies, strict=True):
        body.set(facecolor=colors[position], edgecolor=colors[position], alpha=0.6, linewidth=0.8)
        low, quarter, median, three_quarters, high = np.quantile(values[position], (0, 0.25, 0.5, 0.75, 1))
        for ends, width in (((low, high), 0.6), ((quarter, three_quarters), 4.0)):
            place = (position, position)
            ax.plot(*((place, ends) if vertical else (ends, place)), color="0.15", linewidth=width, zorder=3)
        point = (position, median) if vertical else (median, position)
        ax.plot(*point, marker="o", markersize=3.5, color="white", markeredgecolor="0.15", zorder=4)


def _density(values: Array) -> dict[str, Any]:
    """Return the statistics of one violin: a kernel density on a grid over most of the values."""
    from scipy.ndimage import gaussian_filter1d

    low, median, high = (float(q) for q in np.quantile(values, (0, 0.5, 1)))
    # Far outliers would leave the grid too coarse for the rest; the line reaches them.
    inner_low, quarter, three_quarters, inner_high = np.quantile(values, (0.001, 0.25, 0.75, 0.999))
    spread = min(float(values.std()), float(three_quarters - quarter) / 1.349 or float(values.std()))
    width = 0.9 * spread * len(values) ** -0.2
    first, last = max(low, inner_low - 3 * width), min(high, inner_high + 3 * width)
    statistics: dict[str, Any] = {"mean": float(values.mean()), "median": median, "min": low, "max": high}
    if not (last > first and width > 0):
        return {**statistics, "coords": np.array([median, median]), "vals": np.array([1.0, 1.0])}
    counts, edges = np.histogram(values, _GRID, range=(first, last))
    step = (last - first) / _GRID
    # Mirrored at the ends, where the violin is cut: the mass beyond belongs inside.
    density = gaussian_filter1d(counts.astype(np.float64), max(width / step, 3.0), mode="reflect")
    # Fewer points make an outline that looks the same.
    return {**statistics, "coords": ((edges[:-1] + edges[1:]) / 2)[1::4], "vals": density[1::4]}
