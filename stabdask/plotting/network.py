"""Edges between genes as networks: those that drive a leading mode, and those of partial correlations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network import edges as strongest_edges
from stabdask.errors import InputError, UsageError
from stabdask.plotting.circle import circle_axes, draw_edge, edge_widths, numbered
from stabdask.plotting.drivers import edge_table, leading_rows, weight_color
from stabdask.plotting.style import check_count, check_save, count_text, plain, save_figure, short

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["driver_network", "precision_network"]

_PAIR = ("gene_a", "gene_b")
_RHO = "partial_correlation"


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
    names, edges = numbered(regulators, effectors)
    ax, places = circle_axes(names, edges, size, ax, save)
    widths = edge_widths(size)
    known = {(int(i), int(j)): edge for edge, (i, j) in enumerate(edges)}
    # The widest last, on top.
    for edge in np.argsort(size, kind="stable"):
        i, j = (int(node) for node in edges[edge])
        width, weight = float(widths[edge]), float(weights[edge])
        # Of there and back, the weaker goes nearer to the center.
        back = known.get((j, i))
        draw_edge(
            ax, places[i], places[j], width=width, color=weight_color(weight), style=_ends(weight, width),
            line="-" if weight else ":", bend=0.36 if back is not None and back < edge else 0.14,
            gap=4.5,
        )  # fmt: skip
    kinds = (("→ activation", 1.0), ("⊣ inhibition", -1.0), ("no edge", 0.0))
    _explain(ax, kinds, weights, f"width: |{by}|")
    if "cluster" in found.attrs:
        text = short(found.attrs["cluster"])
        if "n_cells" in found.attrs:
            text += f" ({count_text(int(found.attrs['n_cells']))})"
        plain([ax.set_title(text, fontsize="medium")])
    save_figure(ax.figure, save)
    return ax


def precision_network(
    table: pd.DataFrame | npt.ArrayLike,
    genes: Sequence[str] | npt.NDArray[Any] | None = None,
    *,
    threshold: float | None = None,
    top: int = 60,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the strongest partial correlations between genes as a network on a circle; undirected, and not causal.

    Lines are the wider the larger the absolute value. Genes are placed so that those with edges between them are
    close; those without are left out.

    Parameters
    ----------
    table
        From `stabdask.network.edges`; or ``(gene, gene)`` partial correlations.
    genes
        Names, where `table` is partial correlations; positions if not given.
    threshold
        Draw only edges whose absolute value is at least this.
    top
        How many edges at most, by their absolute value. What is left out is in the title.
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
        If `top` is less than 1, `threshold` is not from 0 to 1, or `genes` are given with a table.
    InputError
        If `table` is neither, has a pair of genes twice, or no edge is left to draw.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    check_count("top", top)
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold={threshold!r}; expected a number from 0 to 1")
    found, noun = _pairs(table, genes, threshold)
    first, second = ([str(name) for name in found[column][:top]] for column in _PAIR)
    values = found[_RHO].to_numpy(dtype=np.float64)[:top]
    size = np.abs(values)
    names, edges = numbered(first, second)
    ax, places = circle_axes(names, edges, size, ax, save)
    widths = edge_widths(size)
    # The widest last, on top.
    for edge in np.argsort(size, kind="stable"):
        i, j = edges[edge]
        color = weight_color(float(values[edge]))
        draw_edge(ax, places[i], places[j], width=float(widths[edge]), color=color)
    least, most = f"{size.min():.2g}", f"{size.max():.2g}"
    title = f"width: |partial correlation|, {least}{'' if least == most else f' to {most}'}"
    _explain(ax, (("positive", 1.0), ("negative", -1.0)), values, title)
    drawn = count_text(len(values), noun)
    if len(values) < len(found):
        many = f"{len(values):,} " if len(values) > 1 else ""
        drawn = f"the {many}strongest of {count_text(len(found), noun)}"
    ax.set_title(drawn, fontsize="medium")
    save_figure(ax.figure, save)
    return ax


def _pairs(
    table: pd.DataFrame | npt.ArrayLike,
    genes: Sequence[str] | npt.NDArray[Any] | None,
    threshold: float | None,
) -> tuple[pd.DataFrame, str]:
    """Return all edges there are to draw, the strongest first, and what they are called."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        if genes is not None:
            raise UsageError("genes are given with a table of edges, which names them; leave them out")
        found = _checked(table)
    else:
        found = strongest_edges(table, genes, threshold=0.0)
    size = found[_RHO].abs()
    kept = found[(size > 0) if threshold is None else (size >= threshold) & (size > 0)]
    if not len(kept):
        beyond = "other than 0" if threshold is None else f"of {threshold:g} or more in size"
        largest = f"the largest is {size.max():.3g}" if len(found) else "there are no pairs"
        raise InputError(f"no pair of genes has a partial correlation {beyond}; {largest}")
    order = kept[_RHO].abs().sort_values(ascending=False, kind="stable").index
    # Without a choice every pair is an edge, which is not what the word means.
    whole = threshold is None and not isinstance(table, pd.DataFrame)
    return kept.loc[order], "pair" if whole else "edge"


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of edges with one row a pair."""
    lacking = [name for name in (*_PAIR, _RHO) if name not in table]
    if lacking:
        raise InputError(
            f"the table lacks {', '.join(lacking)}; expected that of stabdask.network.edges, or an array of partial "
            "correlations"
        )
    table = table.reset_index(drop=True)
    if not np.isfinite(table[_RHO].to_numpy(dtype=np.float64)).all():
        raise InputError("the table has partial correlations that are not finite")
    seen: set[frozenset[str]] = set()
    for a, b in zip(table["gene_a"].astype(str), table["gene_b"].astype(str), strict=True):
        pair = frozenset((a, b))
        if a == b or pair in seen:
            what = f"an edge from {a!r} to itself" if a == b else f"the pair {a!r}, {b!r} twice"
            raise InputError(f"the table has {what}; expected one row for two genes")
        seen.add(pair)
    return table


def _ends(weight: float, width: float) -> str:
    """Return the ends of an arrow of that width: a head for activation, a bar for inhibition."""
    head = 5.0 + 0.9 * width
    if weight < 0:
        return f"-[,widthB={head / 20:.3f},lengthB=0"
    return f"-|>,head_length={head / 10:.3f},head_width={head / 20:.3f}"


def _explain(
    ax: Axes, kinds: Sequence[tuple[str, float]], values: npt.NDArray[np.float64], title: str
) -> None:
    """Say below what the lines stand for: of each kind that is drawn, its name and sign."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=weight_color(sign), linewidth=2, linestyle="-" if sign else ":", label=name)
        for name, sign in kinds
        if (np.sign(values) == sign).any()
    ]
    ax.legend(
        handles=handles, title=title, frameon=False, fontsize="small", title_fontsize="small",
        loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=0.0, ncols=3, handlelength=1.4,
    )  # fmt: skip
