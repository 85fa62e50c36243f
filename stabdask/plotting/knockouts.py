"""What knockouts do to the stability of cells: of single regulators as bars, of pairs as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.analysis.knockout_ranking import rank_knockouts, strongest_ends
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.bars import bars_size, draw_bars, legend_above, title_above
from stabdask.plotting.matrices import draw_matrix, largest, matrix_size
from stabdask.plotting.style import (
    DESTABILIZING,
    STABILIZING,
    axes_for,
    check_count,
    check_save,
    count_text,
    save_figure,
    short,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["knockout_heatmap", "knockout_shifts"]

Array = npt.NDArray[np.float64]
Group = str | Sequence[str]

_SHIFT = "mean shift of the spectral abscissa (1/time)"
_FARTHEST = 2.5
"""How many times the longest bar the axis reaches for predictions: first order may be far off."""


def knockout_shifts(
    table: pd.DataFrame | xr.Dataset,
    *,
    group: Group | None = None,
    top: int = 10,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the knockouts that move the spectral abscissa of a group of cells most.

    Bars are mean shifts, those that stabilize on top and to the left, those that destabilize below and to the right;
    diamonds are what is predicted to first order. A prediction too far out for the axis is an arrow at its edge.

    Parameters
    ----------
    table
        From `stabdask.rank_knockouts`; or from `stabdask.knockouts`, of which the table by cluster is made.
    group
        Label of the cells, where there are several groups; one for each where the table is by several labels.
    top
        This many that stabilize most and as many that destabilize most. Those that do neither are left out.
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
        If `top` is less than 1, or there are several groups and none is chosen.
    MissingKeyError
        If there is no such group, or `table` is a Dataset of another kind.
    InputError
        If `table` lacks a column, or no knockout moves these cells.
    OutputError
        If the file cannot be written.
    """
    from matplotlib.patches import Patch

    check_save(save)
    check_count("top", top)
    rows, name = _of_group(table, group)
    rows = strongest_ends(rows.sort_values("mean_shift", kind="stable", na_position="last"), top)
    if not len(rows):
        raise InputError(f"no knockout moves the spectral abscissa of {name}, or none was solved")
    shift, predicted = (
        rows[column].to_numpy(dtype=np.float64) for column in ("mean_shift", "predicted_shift")
    )
    names = [short(knockout) for knockout in rows["knockout"]]
    ax = axes_for(ax, save, bars_size(names))
    draw_bars(ax, names, shift, [STABILIZING if value < 0 else DESTABILIZING for value in shift])
    kinds = ((shift < 0, STABILIZING, "stabilizes"), (shift > 0, DESTABILIZING, "destabilizes"))
    handles: list[Artist] = [Patch(color=color, label=text) for there, color, text in kinds if there.any()]
    legend_above(ax, handles + _mark_predictions(ax, shift, predicted))
    ax.set_xlabel(_SHIFT)
    title_above(ax, f"{short(name)} ({_cells_text(rows)})")
    save_figure(ax.figure, save)
    return ax


def knockout_heatmap(
    ds: xr.Dataset,
    *,
    group: Group | None = None,
    by: str | Sequence[str] = "cluster",
    singles: xr.Dataset | None = None,
    top: int = 20,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how far double knockouts move the spectral abscissa of a group of cells, regulator by regulator.

    Parameters
    ----------
    ds
        From `stabdask.knockouts` with ``order=2`` or pairs. Pairs that were not solved are left pale.
    group
        Label of the cells, where there are several groups; one for each where `by` is several labels.
    by
        One label of cells or several, as in `stabdask.rank_knockouts`.
    singles
        From `stabdask.knockouts` of single regulators and the same cells, for the diagonal.
    top
        How many regulators at most, by the largest absolute mean shift of a pair they are in.
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
        If `top` is less than 1, or there are several groups and none is chosen.
    MissingKeyError
        If there is no such group, or `ds` has no pairs.
    InputError
        If no pair was solved for these cells, or `singles` are of other cells.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    check_count("top", top)
    if "gene_a" not in getattr(ds, "coords", {}):
        raise MissingKeyError("there are no pairs; expected a Dataset from stabdask.knockouts with order=2")
    if singles is not None and not np.array_equal(singles["cell"].to_numpy(), ds["cell"].to_numpy()):
        raise InputError("singles are of other cells than the pairs; use the same n_cells and seed for both")
    rows, name = _of_group(rank_knockouts(ds, by), group)
    values, genes = _pair_matrix(ds, rows.set_index("knockout")["mean_shift"])
    if not np.isfinite(values).any():
        raise InputError(f"no pair was solved for the cells of {name}")
    kept = np.sort(largest(values, 0, top))
    if not len(kept):
        raise InputError(f"no pair moves the spectral abscissa of {name}")
    values, genes = values[np.ix_(kept, kept)], [genes[position] for position in kept]
    if singles is not None:
        alone = _of_group(rank_knockouts(singles, by), group)[0].set_index("knockout")["mean_shift"]
        np.fill_diagonal(values, alone.reindex(genes).to_numpy(dtype=np.float64))
    ax = axes_for(ax, save, matrix_size(genes, genes))
    regulators = ("regulator", "regulator")
    draw_matrix(ax, values, genes, genes, label=_SHIFT.replace("the ", "the\n"), names=regulators)
    text = f"{short(name)} ({_cells_text(rows)})"
    if np.isnan(values[~np.eye(len(genes), dtype=bool)]).any():
        text += "\npale: not solved"
    title_above(ax, text)
    save_figure(ax.figure, save)
    return ax


def _of_group(table: pd.DataFrame | xr.Dataset, group: Group | None) -> tuple[pd.DataFrame, str]:
    """Return the rows of a group, and how it is called."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        table = rank_knockouts(table)
    lacking = [name for name in ("knockout", "mean_shift", "predicted_shift", "n_cells") if name not in table]
    if lacking:
        raise InputError(f"the table lacks {', '.join(lacking)}; expected that of stabdask.rank_knockouts")
    if table.empty:
        raise InputError("the table has no rows; expected that of stabdask.rank_knockouts")
    labels = table.columns[: table.columns.get_loc("knockout")]
    own = (
        table[labels].astype(str).agg(", ".join, axis=1)
        if len(labels)
        else table["knockout"].map(lambda _: "all cells")
    )
    known = list(dict.fromkeys(own))
    if group is None:
        if len(known) > 1:
            raise UsageError(f"no group given; expected group= one of {', '.join(map(repr, known[:8]))}")
        return table, known[0]
    name = group if isinstance(group, str) else ", ".join(map(str, group))
    if name not in known:
        raise MissingKeyError(f"no group {name!r}; {near_misses(name, known, noun='groups')}")
    return table[own == name], name


def _mark_predictions(ax: Axes, shift: Array, predicted: Array) -> list[Artist]:
    """Draw predictions over bars, those beyond the axis as arrows at its edge; return what a legend shows."""
    farthest = _FARTHEST * float(np.abs(shift).max())
    places, drawn = np.arange(len(shift)), np.clip(predicted, -farthest, farthest)
    handles: dict[str, Artist] = {}
    for there, marker, fill, label in (
        (np.abs(predicted) <= farthest, "D", "none", "predicted"),
        (predicted < -farthest, "<", "full", "predicted, farther out"),
        (predicted > farthest, ">", "full", "predicted, farther out"),
    ):
        if there.any():
            (handles[label],) = ax.plot(
                drawn[there], places[there], linestyle="none", marker=marker, fillstyle=fill, color="#333333",
                markersize=4.5, zorder=4, label=label,
            )  # fmt: skip
    return list(handles.values())


def _pair_matrix(ds: xr.Dataset, shift: pd.Series[float]) -> tuple[Array, list[str]]:
    """Return mean shifts of pairs ``(regulator, regulator)``, the same on both sides, and the regulators."""
    first, second, names = (
        [str(name) for name in np.atleast_1d(ds[part].to_numpy())]
        for part in ("gene_a", "gene_b", "knockout")
    )
    genes = list(dict.fromkeys([*first, *second]))
    numbers = {gene: number for number, gene in enumerate(genes)}
    values = np.full((len(genes), len(genes)), np.nan)
    i, j = ([numbers[gene] for gene in part] for part in (first, second))
    values[i, j] = values[j, i] = shift.reindex(names).to_numpy(dtype=np.float64)
    return values, genes


def _cells_text(rows: pd.DataFrame) -> str:
    return count_text(int(rows["n_cells"].max()))
