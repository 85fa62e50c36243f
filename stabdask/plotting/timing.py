"""Seconds of direct inversion against updates of low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, near_misses
from stabdask.plotting.style import axes_for, check_save, palette, plain, save_figure, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["update_timing"]

_SIZE = "n_genes"
_MARKERS = "osD^vPX"


def update_timing(
    table: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    direct: str = "direct",
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how long direct inversion takes against updates of low rank, over the number of genes, on logarithmic axes.

    At each number of genes stands how many times faster than direct inversion the update is; of several, the one that
    is fastest for the most genes.

    Parameters
    ----------
    table
        One row for each number of genes: ``n_genes``, and in each other column the seconds of one way, under the name
        it has in the legend. A column ``rank``, of the update, goes into the title.
    direct
        Column of direct inversion.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If the table lacks a column or has no rows, has a number of genes twice, or something that is no positive
        number.
    OutputError
        If the file cannot be written.
    """
    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator

    check_save(save)
    columns = _columns(table, direct)
    rank, sizes = columns.pop("rank", None), columns.pop(_SIZE)
    colors = dict(zip(columns, palette(len(columns)), strict=True))
    ax = axes_for(ax, save, (5.8, 4.2))
    for name, marker in zip(columns, cycle(_MARKERS), strict=False):
        ax.plot(sizes, columns[name], marker=marker, markersize=4.5, linewidth=1.6, color=colors[name])
    ax.set_xscale("log")
    ax.set_yscale("log")
    update = min((name for name in columns if name != direct), key=lambda name: float(columns[name][-1]))
    every = np.stack(list(columns.values()))
    shown = _apart(sizes)
    for place in shown:
        faster = float(columns[direct][place] / columns[update][place])
        ax.annotate(
            f"{faster:,.{1 if faster < 9.95 else 0}f}×", (sizes[place], every[:, place].min()), xytext=(0, -7),
            textcoords="offset points", ha="center", va="top", fontsize="small", color=colors[update],
        )  # fmt: skip
    ax.margins(x=0.08)
    # From a power of ten to another, so that there are numbers on the axis.
    ax.set_ylim(10 ** np.floor(np.log10(0.6 * every.min())), 10 ** np.ceil(np.log10(1.2 * every.max())))
    ax.xaxis.set_major_locator(FixedLocator(sizes[shown].tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    ax.yaxis.set_major_formatter(EngFormatter(unit="s"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(which="major", color="#E6E6E6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("genes")
    ax.set_ylabel("time for one inverse")
    # With names given, because a legend would leave out those that begin with "_".
    names = [short(name) for name in columns]
    legend = ax.legend(ax.lines[-len(names) :], names, frameon=False, fontsize="small", loc="upper left")
    plain(legend.get_texts())
    title = f"×: how much faster than {short(direct)}"
    if rank is not None:
        low, high = int(rank.min()), int(rank.max())
        title += f"; updates of rank {low}" if low == high else f"; updates of rank {low} to {high}"
    plain([ax.set_title(title, fontsize="small")])
    save_figure(ax.figure, save)
    return ax


def _apart(sizes: npt.NDArray[np.float64]) -> list[int]:
    """Return which of some sizes, in order, to write numbers at so that none covers another: the last of all."""
    steps = np.log(sizes)
    gap = 0.115 * (steps[-1] - steps[0])
    kept = [len(sizes) - 1]
    for place in range(len(sizes) - 2, -1, -1):
        if steps[kept[-1]] - steps[place] >= gap:
            kept.append(place)
    return kept[::-1]


def _columns(
    table: pd.DataFrame | Sequence[Mapping[str, Any]], direct: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns of a table as positive numbers, in the order of the number of genes."""
    import pandas as pd

    try:
        frame = pd.DataFrame(table)
    except (TypeError, ValueError) as error:
        raise InputError(f"no table of timings ({error}); expected a DataFrame or a list of dicts") from error
    frame.columns = frame.columns.astype(str)
    for name in (_SIZE, direct):
        if name not in frame:
            raise InputError(
                f"the table of timings has no column {name!r}; {near_misses(name, frame.columns, noun='columns')}"
            )
    ways = [str(name) for name in frame if name not in (_SIZE, "rank", direct)]
    if not ways or frame.empty:
        lacking = "rows" if ways else f"column of updates beside {direct!r}"
        raise InputError(
            f"the table of timings has no {lacking}; expected the seconds of an update in each row"
        )
    out = {}
    for name in (_SIZE, *(["rank"] if "rank" in frame else []), direct, *ways):
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            found = frame[name].iloc[bad[0]]
            raise InputError(f"{found!r} in the column {name!r} of timings; expected a positive number")
        out[name] = values
    order = np.argsort(out[_SIZE], kind="stable")
    if (np.diff(out[_SIZE][order]) == 0).any():
        raise InputError("the table of timings has a number of genes twice; draw one rank at a time")
    return {name: values[order] for name, values in out.items()}
