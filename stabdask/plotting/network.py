"""The edges that drive a leading mode, as a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.plotting.drivers import edge_table, leading_rows, weight_color
from stabdask.plotting.style import (
    axes_for,
    check_save,
    count_text,
    plain,
    save_figure,
    short,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["circular_order", "driver_network"]

_NAME = 14
_MOST_LEVEL = 12


def driver_network(
    table: pd.DataFrame | xr.Dataset,
    *,
    cluster: str | None = None,
    by: str = "sensitivity",
    top: int = 30,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the edges that the growth rate of a cluster's leading mode depends on most, as a network on a circle.

    Arrows go from regulator to effector, the wider the larger the absolute value of `by`; activation ends in an
    arrowhead, inhibition in a bar. Genes are placed so that those with edges between them are close.

    Parameters
    ----------
    table
        From `stabdask.driver_edges`; or results, of which the table is made.
    cluster
        Which cluster, where `table` is results.
    by
        ``"sensitivity"`` or ``"contribution"``.
    top
        How many edges, by the absolute value of `by`.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If `top` is less than 1, `by` is neither, or `cluster` is missing or too much.
    InputError
        If `table` lacks a column or has no rows.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    found = edge_table(table, cluster, by, top)
    rows = leading_rows(found, by, top)
    regulators, effectors = ([str(name) for name in rows[column]] for column in ("regulator", "effector"))
    size = rows[by].abs().to_numpy(dtype=np.float64)
    weights = rows["weight"].to_numpy(dtype=np.float64)
    names = list(dict.fromkeys([*regulators, *effectors]))
    edges = np.array([[names.index(i), names.index(j)] for i, j in zip(regulators, effectors, strict=True)])
    places = np.empty((len(names), 2))
    order = circular_order(len(names), edges, size)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    places[order] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    side = 4.6 if len(names) <= _MOST_LEVEL else 5.8 + 0.05 * max(0, len(names) - 24)
    ax = axes_for(ax, save, (side, side + 0.5))
    _draw_genes(ax, names, places)
    widths = 0.6 + 3.0 * size / (size.max() or 1.0)
    # The widest last, on top.
    known = {(int(i), int(j)): edge for edge, (i, j) in enumerate(edges)}
    for edge in np.argsort(size, kind="stable"):
        i, j = (int(node) for node in edges[edge])
        # Of there and back, the weaker goes nearer to the center.
        back = known.get((j, i))
        bend = 0.36 if back is not None and back < edge else 0.14
        _draw_edge(ax, places[i], places[j], bend, float(widths[edge]), float(weights[edge]))
    _frame(ax, names, places)
    _explain(ax, found, by, weights)
    save_figure(ax.figure, save)
    return ax


def circular_order(
    n: int, edges: npt.NDArray[np.intp], strength: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return an order of `n` nodes on a circle in which those with edges between them are close.

    Parameters
    ----------
    n
        Number of nodes.
    edges
        ``(edge, 2)`` numbers of nodes.
    strength
        ``(edge,)``, not negative.

    Returns
    -------
    numpy.ndarray
        ``(n,)``: the nodes in their order. The same input gives the same order.
    """
    links = np.zeros((n, n))
    np.add.at(links, (edges[:, 0], edges[:, 1]), 0.2 + strength / (strength.max(initial=0.0) or 1.0))
    links += links.T
    np.fill_diagonal(links, 0.0)
    order: list[int] = []
    left = list(range(n))
    while left:
        # Next is what is tied most to those placed last; a new component starts with its best connected node.
        recent = links[:, order] @ (0.7 ** np.arange(len(order))[::-1]) if order else np.zeros(n)
        score = recent if recent[left].max() > 0 else links.sum(axis=1)
        node = max(left, key=score.__getitem__)
        order.append(node)
        left.remove(node)
    return _improved(np.asarray(order, dtype=np.intp), links)


def _improved(order: npt.NDArray[np.intp], links: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the order after swaps of two nodes, as long as one makes the edges shorter."""
    n = len(order)
    steps = np.abs(np.arange(n)[:, None] - np.arange(n))
    distance = np.minimum(steps, n - steps).astype(np.float64)
    length = float((links[np.ix_(order, order)] * distance).sum())
    for _ in range(10):
        before = length
        for a in range(n):
            for b in range(a + 1, n):
                swapped = order.copy()
                swapped[[a, b]] = swapped[[b, a]]
                new = float((links[np.ix_(swapped, swapped)] * distance).sum())
                if new < length * (1 - 1e-9):
                    order, length = swapped, new
        if length >= before * (1 - 1e-9):
            break
    return order


def _draw_genes(ax: Axes, names: list[str], places: npt.NDArray[np.float64]) -> None:
    """Draw genes as dots with names outside the circle, where no edge goes, turned so that none covers another."""
    ax.scatter(places[:, 0], places[:, 1], s=26, color="0.25", zorder=4)
    # Few names stay level; many are turned outward.
    level = len(names) <= _MOST_LEVEL
    texts = []
    for name, (x, y) in zip(names, places, strict=True):
        angle = np.degrees(np.arctan2(y, x))
        left = x < -1e-9
        sideways = "center" if level and abs(x) < 0.2 else ("right" if left else "left")
        upright = "center" if not level or abs(x) >= 0.2 else ("bottom" if y > 0 else "top")
        texts.append(
            ax.text(
                1.07 * x, 1.07 * y, short(name, _NAME), fontsize="small", ha=sideways, va=upright,
                rotation=0.0 if level else (angle - 180 if left else angle), rotation_mode="anchor", zorder=5,
            )
        )  # fmt: skip
    plain(texts)


def _draw_edge(
    ax: Axes,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    bend: float,
    width: float,
    weight: float,
) -> None:
    from matplotlib.patches import FancyArrowPatch

    head = 5.0 + 0.9 * width
    style: Any = f"-|>,head_length={head / 10:.3f},head_width={head / 20:.3f}"
    if weight < 0:
        style = f"-[,widthB={head / 20:.3f},lengthB=0"
    options: dict[str, Any] = {}
    if np.array_equal(start, end):
        options["path"] = _loop(start)
    else:
        # Toward the center, away from the names; a positive bend is to the right of the direction of travel.
        (dx, dy), (x, y) = end - start, end + start
        side = 1.0 if dx * y - dy * x >= -1e-9 else -1.0
        curve = f"arc3,rad={side * bend:.3f}"
        options |= {"posA": tuple(start), "posB": tuple(end), "connectionstyle": curve}
        options |= {"shrinkA": 4, "shrinkB": 5}
    ax.add_patch(
        FancyArrowPatch(
            **options, arrowstyle=style, mutation_scale=10, linewidth=width, color=weight_color(weight), alpha=0.85,
            linestyle="-" if weight else ":", capstyle="butt", joinstyle="miter", zorder=2 + 0.1 * width,
        )
    )  # fmt: skip


def _loop(place: npt.NDArray[np.float64]) -> Any:
    """Return the path of an edge from a gene to itself: inside the circle, clear of the name."""
    from matplotlib.path import Path as Curve

    inward, aside = -place, np.array([-place[1], place[0]])
    corners = [
        place + 0.03 * inward + 0.025 * aside,
        place + 0.26 * inward + 0.16 * aside,
        place + 0.26 * inward - 0.16 * aside,
        place + 0.04 * inward - 0.03 * aside,
    ]
    return Curve(corners, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])


def _frame(ax: Axes, names: list[str], places: npt.NDArray[np.float64]) -> None:
    """Leave room for the names around the circle."""
    name = 0.06 + 0.055 * max(len(short(one, _NAME)) for one in names)
    upright = 0.2 if len(names) <= _MOST_LEVEL else name
    (left, low), (right, high) = places.min(axis=0), places.max(axis=0)
    ax.set_aspect("equal")
    # One or two genes have loops and arrows that reach beyond them.
    ax.set_xlim(min(left, -0.5) - name, max(right, 0.5) + name)
    ax.set_ylim(min(low, 0.0) - upright, high + upright)
    ax.set_axis_off()


def _explain(ax: Axes, table: pd.DataFrame, by: str, weights: npt.NDArray[np.float64]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=weight_color(sign), linewidth=2, linestyle="-" if sign else ":", label=name)
        for sign, name in ((1.0, "→ activation"), (-1.0, "⊣ inhibition"), (0.0, "no edge"))
        if (np.sign(weights) == sign).any()
    ]
    ax.legend(
        handles=handles, title=f"width: |{by}|", frameon=False, fontsize="small", title_fontsize="small",
        loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=0.0, ncols=3, handlelength=1.4,
    )  # fmt: skip
    if "cluster" in table.attrs:
        text = short(table.attrs["cluster"])
        if "n_cells" in table.attrs:
            text += f" ({count_text(int(table.attrs['n_cells']))})"
        title = ax.set_title(text, fontsize="medium")
        plain([title])
