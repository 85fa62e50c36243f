"""Networks of partial correlations: how strong their edges are, and which changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError
from stabdask.plotting.style import (
    ACTIVATION,
    INHIBITION,
    axes_for,
    check_count,
    check_save,
    count_text,
    palette,
    plain,
    save_figure,
    short,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["edge_changes", "partial_correlations"]

_LABELS = ("before", "after")


def partial_correlations(
    rho: npt.ArrayLike,
    after: npt.ArrayLike | None = None,
    *,
    threshold: float | None = None,
    bins: int = 60,
    labels: tuple[str, str] = _LABELS,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how the partial correlations of all pairs of genes are distributed, also before and after a change.

    Parameters
    ----------
    rho
        ``(gene, gene)`` partial correlations.
    after
        Others of as many genes, drawn over the first.
    threshold
        Marked on both sides: edges beyond it count as strong.
    bins
        Number of bins.
    labels
        What the two are called: conditions, say.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.axes.Axes
        With the numbers of pairs on a logarithmic axis, because most pairs are near 0.

    Raises
    ------
    InputError
        If one is no square matrix of finite numbers, or they are of different size.
    UsageError
        If `bins` is less than 1.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    check_count("bins", bins)
    sets = [_pairs(rho)]
    if after is not None:
        sets.append(_pairs(after))
        if len(sets[0]) != len(sets[1]):
            raise InputError("before and after are of different numbers of genes; expected the same")
    ax = axes_for(ax, save, (5.5, 3.6))
    largest = max(float(np.abs(values).max()) for values in sets) or 1.0
    edges = np.linspace(-largest, largest, bins + 1)
    for values, label, color in zip(sets, labels, palette(2), strict=False):
        ax.hist(values, edges.tolist(), histtype="step", linewidth=1.6, color=color, label=label)
    if threshold is not None:
        for side in (-threshold, threshold):
            ax.axvline(side, color="#9A9A9A", linewidth=0.9, linestyle=":")
    ax.set_yscale("log")
    ax.set_xlabel("partial correlation")
    ax.set_ylabel(f"pairs of genes, of {len(sets[0]):,}")
    if after is not None:
        plain(ax.legend(frameon=False).get_texts())
    save_figure(ax.figure, save)
    return ax


def edge_changes(
    table: pd.DataFrame,
    *,
    top: int = 20,
    labels: tuple[str, str] = _LABELS,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the edges that changed most between two networks, the largest change on top.

    Parameters
    ----------
    table
        From `stabdask.network.compare`.
    top
        How many edges, the first of the table.
    labels
        What the two networks are called: conditions, say.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to (.png, .pdf, .svg).

    Returns
    -------
    matplotlib.axes.Axes
        A bar for the change of each edge, with its value before as a circle and after as a disk.

    Raises
    ------
    InputError
        If the table lacks a column or has no rows.
    UsageError
        If `top` is less than 1.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    check_count("top", top)
    lacking = [name for name in ("gene_a", "gene_b", "before", "after", "change") if name not in table]
    if lacking or table.empty:
        found = f"lacks {', '.join(lacking)}" if lacking else "has no rows"
        raise InputError(f"the table {found}; expected that of stabdask.network.compare")
    rows = table.head(top)
    places = np.arange(len(rows))
    before, after, change = (rows[name].to_numpy(dtype=np.float64) for name in ("before", "after", "change"))
    ax = axes_for(ax, save, (6.0, 1.2 + 0.24 * len(rows)))
    colors = [ACTIVATION if value > 0 else INHIBITION for value in change]
    ax.barh(places, change, left=before, height=0.5, color=colors, alpha=0.55, linewidth=0)
    ax.plot(before, places, "o", color="#333333", fillstyle="none", markersize=4.5, label=labels[0])
    ax.plot(after, places, "o", color="#333333", markersize=4.5, label=labels[1])
    ax.axvline(0.0, color="#9A9A9A", linewidth=0.8, zorder=0)
    names = [f"{short(a)} – {short(b)}" for a, b in zip(rows["gene_a"], rows["gene_b"], strict=True)]
    ax.set_yticks(places, names)
    plain(ax.get_yticklabels())
    ax.invert_yaxis()
    # Bars would end the axis at their tips, through the middle of a circle.
    ax.use_sticky_edges = False
    ax.margins(x=0.05)
    ax.set_xlabel("partial correlation")
    ax.set_title(f"the {count_text(len(rows), 'edge')} that changed most", fontsize="medium", loc="left")
    plain(ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0)).get_texts())
    save_figure(ax.figure, save)
    return ax


def _pairs(rho: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the values above the diagonal."""
    matrix = np.asarray(rho, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(
            f"partial correlations have shape {matrix.shape}; expected (genes, genes), of two at least"
        )
    values = matrix[np.triu_indices(len(matrix), k=1)]
    if not np.isfinite(values).all():
        raise InputError(
            "partial correlations hold values that are not finite; leave genes that do not vary out"
        )
    return values
