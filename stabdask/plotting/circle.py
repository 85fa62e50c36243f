"""Networks on a circle: genes in an order that keeps edges short, their names outside, edges inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.plotting.style import axes_for, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["circle_axes", "circular_order", "draw_edge", "edge_widths", "numbered"]

_NAME = 14
_MOST_LEVEL = 12
_MOST_ROUNDS = 30
_LETTER = 0.08
"""Inches that a letter of a name takes, about."""


def numbered(starts: Sequence[str], ends: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Return the genes that edges are between, and ``(edge, 2)`` their numbers."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*starts, *ends]))}
    edges = [[numbers[i], numbers[j]] for i, j in zip(starts, ends, strict=True)]
    return list(numbers), np.asarray(edges, dtype=np.intp).reshape(-1, 2)


def circle_axes(
    names: Sequence[str],
    edges: npt.NDArray[np.intp],
    strength: npt.NDArray[np.float64],
    ax: Axes | None,
    save: str | Path | None,
) -> tuple[Axes, npt.NDArray[np.float64]]:
    """Draw genes on a circle, into `ax` or a new figure, and return the axes and the places ``(gene, 2)``.

    Parameters
    ----------
    names
        Of the genes.
    edges
        ``(edge, 2)`` numbers of genes.
    strength
        ``(edge,)``, not negative: those with strong edges between them are close.
    ax, save
        As in `stabdask.plotting.style.axes_for`.
    """
    n = len(names)
    places = np.empty((n, 2))
    angles = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    places[circular_order(n, edges, strength)] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if ax is None:
        side = 4.6 if n <= _MOST_LEVEL else 5.8 + 0.05 * max(0, n - 24)
        ax = axes_for(ax, save, (side, side + 0.5))
        side -= 0.4  # title and legend
    else:
        # As it is before any layout, which is the best that can be known.
        box = ax.get_window_extent()
        side = min(box.width, box.height) / ax.figure.dpi
    _draw_genes(ax, names, places)
    _frame(ax, names, places, side)
    return ax, places


def edge_widths(size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return widths of lines, in points, for sizes that are not negative."""
    widths: npt.NDArray[np.float64] = 0.6 + 3.0 * size / (size.max() or 1.0)
    return widths


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
    order, linked = order.copy(), links[np.ix_(order, order)]
    least = -1e-9 * float((linked * distance).sum())
    for _ in range(_MOST_ROUNDS):
        swapped = False
        for a in range(n):
            # By how much a swap with each of the others changes the length of all edges, but for a factor of 2.
            change = ((linked[a] - linked) * (distance - distance[a])).sum(axis=1)
            change += 2.0 * linked[a] * distance[a]
            b = int(change.argmin())
            if change[b] < least:
                both, turned = [a, b], [b, a]
                order[both] = order[turned]
                linked[both] = linked[turned]
                linked[:, both] = linked[:, turned]
                swapped = True
        if not swapped:
            break
    return order


def _draw_genes(ax: Axes, names: Sequence[str], places: npt.NDArray[np.float64]) -> None:
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


def draw_edge(
    ax: Axes,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    *,
    width: float,
    color: str,
    style: str = "-",
    line: str = "-",
    bend: float = 0.14,
    gap: float = 0.0,
) -> None:
    """Draw an edge inside the circle: a curve, or a loop where it ends at the gene it comes from.

    Parameters
    ----------
    ax
        Axes with the genes.
    start, end
        Places of the genes.
    width
        In points.
    color, line
        Color and style of the line.
    style
        Of the ends of an arrow, as matplotlib names it.
    bend
        How far it bends toward the center, away from the names.
    gap
        Between the ends and the places of the genes, in points.
    """
    from matplotlib.patches import FancyArrowPatch

    options: dict[str, Any] = {}
    if np.array_equal(start, end):
        options["path"] = _loop(start)
    else:
        # A positive bend is to the right of the direction of travel.
        (dx, dy), (x, y) = end - start, end + start
        side = 1.0 if dx * y - dy * x >= -1e-9 else -1.0
        curve = f"arc3,rad={side * bend:.3f}"
        options |= {"posA": tuple(start), "posB": tuple(end), "connectionstyle": curve}
        options |= {"shrinkA": gap, "shrinkB": gap}
    ax.add_patch(
        FancyArrowPatch(
            **options, arrowstyle=style, mutation_scale=10, linewidth=width, color=color, alpha=0.85, linestyle=line,
            capstyle="butt", joinstyle="miter", zorder=2 + 0.1 * width,
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


def _frame(ax: Axes, names: Sequence[str], places: npt.NDArray[np.float64], side: float) -> None:
    """Leave room for the names around a circle on axes that are `side` inches wide."""
    room = 0.06 + _LETTER * max(len(short(one, _NAME)) for one in names)
    # Of axes too small for names the circle keeps a part.
    name = 0.07 + room / max(side / 2 - room, 0.2 * side)
    upright = 0.2 if len(names) <= _MOST_LEVEL else name
    (left, low), (right, high) = places.min(axis=0), places.max(axis=0)
    ax.set_aspect("equal")
    # One or two genes have loops and arrows that reach beyond them.
    ax.set_xlim(min(left, -0.5) - name, max(right, 0.5) + name)
    ax.set_ylim(min(low, 0.0) - upright, high + upright)
    ax.set_axis_off()
