"""Horizontal bars with names at the left, the first on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.plotting.style import plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars_size", "draw_bars", "legend_above", "title_above"]


def bars_size(names: Sequence[object]) -> tuple[float, float]:
    """Return the size, in inches, of a figure of bars with `names` at the left."""
    return 3.6 + 0.07 * max(len(short(name)) for name in names), 1.4 + 0.24 * len(names)


def draw_bars(
    ax: Axes, names: Sequence[str], values: npt.NDArray[np.float64], colors: Sequence[str]
) -> npt.NDArray[np.intp]:
    """Draw a bar from 0 for each value, and return the heights they are at."""
    from matplotlib.ticker import MaxNLocator

    places = np.arange(len(names))
    ax.barh(places, values, color=colors, height=0.72, zorder=2)
    ax.set_yticks(places, labels=names, fontsize="small")
    plain(ax.get_yticklabels())
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))  # long numbers would run together
    ax.axvline(0.0, color="black", linewidth=0.8, zorder=1)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return places


def legend_above(ax: Axes, handles: Sequence[Any]) -> None:
    """Put a legend between the axes and what `title_above` puts there: one row, or two of more than three."""
    ax.legend(
        handles=handles, frameon=False, fontsize="small", ncols=len(handles) if len(handles) <= 3 else 2,
        loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def title_above(ax: Axes, text: str) -> None:
    """Put a title above the axes, and above their legend if they have one."""
    legend = ax.get_legend()
    n = 0 if legend is None else len(legend.get_texts())
    plain([ax.set_title(text, fontsize="small", pad=6 if n == 0 else 24 if n <= 3 else 38)])
