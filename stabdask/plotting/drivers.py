"""What drives the leading modes: genes that take part in them and edges they are sensitive to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.drivers import edge_matrices, has_edges
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.bars import bars_size, draw_bars, legend_above, title_above
from stabdask.plotting.matrices import draw_matrix, largest, matrix_size
from stabdask.plotting.style import (
    ACTIVATION,
    INHIBITION,
    axes_for,
    check_count,
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

__all__ = [
    "driver_edges",
    "driver_genes",
    "driver_heatmap",
    "edge_label",
    "edge_table",
    "leading_rows",
    "weight_color",
]

_LABELS = {
    "sensitivity": "sensitivity dRe(λ)/d{of}",
    "contribution": "contribution {of} · dRe(λ)/d{of} (1/time)",
}
_NO_EDGE = "#9A9A9A"
_GENE = "#5B6F8C"


def driver_genes(
    table: pd.DataFrame | xr.Dataset,
    *,
    cluster: str | None = None,
    mode: int = 0,
    top: int = 15,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the genes that take part most in a leading mode of a cluster, with their spread over cells.

    Parameters
    ----------
    table
        From `stabdask.driver_genes`; or results, of which the table is made.
    cluster, mode
        Which cluster and which of its modes, where `table` is results.
    top
        How many genes, by the absolute value of their participation.
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
        If `top` is less than 1, or `cluster` is missing or too much.
    InputError
        If `table` lacks a column or has no rows.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    found = _table(table, cluster, "driver_genes", ("gene", "participation", "std"), mode=mode)
    rows = leading_rows(found, "participation", top)
    values = rows["participation"].to_numpy(dtype=np.float64)
    spread = rows["std"].to_numpy(dtype=np.float64)
    ax = axes_for(ax, save, bars_size(rows["gene"].tolist()))
    _bars(
        ax,
        [short(name) for name in rows["gene"]],
        values,
        spread,
        [_GENE] * len(rows),
    )
    ax.set_xlabel("participation, mean ± std over cells")
    _title(ax, found)
    save_figure(ax.figure, save)
    return ax


def driver_edges(
    table: pd.DataFrame | xr.Dataset,
    *,
    cluster: str | None = None,
    by: str = "sensitivity",
    top: int = 20,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the edges that the growth rate of a cluster's leading mode depends on most.

    Parameters
    ----------
    table
        From `stabdask.driver_edges`; or results, of which the table is made.
    cluster
        Which cluster, where `table` is results.
    by
        ``"sensitivity"`` (what a change of the weight does) or ``"contribution"`` (weight times sensitivity).
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
    UsageError, InputError, OutputError
        As `driver_genes`.
    """
    check_save(save)
    found = edge_table(table, cluster, by, top)
    rows = leading_rows(found, by, top)
    values, weights = (rows[name].to_numpy(dtype=np.float64) for name in (by, "weight"))
    spread = rows["std"].to_numpy(dtype=np.float64)
    if by == "contribution":
        spread = spread * np.abs(weights)
    names = [
        f"{short(j, 18)} {'⊣' if weight < 0 else '→'} {short(i, 18)}"
        for j, i, weight in zip(rows["regulator"], rows["effector"], weights, strict=True)
    ]
    colors = [weight_color(weight) for weight in weights]
    ax = axes_for(ax, save, bars_size(names))
    _bars(ax, names, values, spread, colors)
    kind = "mean ± std over cells" if np.isfinite(spread).any() else "mean over cells"
    ax.set_xlabel(f"{edge_label(found, by)},\n{kind}")
    _weight_legend(ax, weights)
    _title(ax, found)
    save_figure(ax.figure, save)
    return ax


def driver_heatmap(
    ds: xr.Dataset,
    cluster: str,
    *,
    top: int = 20,
    existing: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the sensitivity of a cluster's leading mode to the weights between its most telling genes.

    Parameters
    ----------
    ds
        Results with quantity ``"sensitivity_mean"``.
    cluster
        Its label.
    top
        How many effectors (rows) and regulators (columns) at most, by their largest absolute sensitivity.
    existing
        Whether to show only edges that the network has; the others are left gray.
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
        If there is no such cluster, or no sensitivities.
    InputError
        If no cell of the cluster has sensitivities.
    UsageError
        If `top` is less than 1.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    values, effectors, regulators = _sensitivities(ds, cluster, top, existing)
    ax = axes_for(ax, save, matrix_size(effectors, regulators))
    label = _LABELS["sensitivity"].format(of="W" if "weight" in ds else "J")
    draw_matrix(ax, values, effectors, regulators, label=label)
    plain([ax.set_title(short(cluster), fontsize="medium")])
    save_figure(ax.figure, save)
    return ax


def _sensitivities(
    ds: xr.Dataset, cluster: str, top: int, existing: bool
) -> tuple[npt.NDArray[np.float64], list[str], list[str]]:
    """Return the largest sensitivities of a cluster, ``(effector, regulator)``, and their names."""
    check_count("top", top)
    _check_results(ds, "sensitivity_mean" if not has_edges(ds) else None, cluster)
    labels = [str(label) for label in np.atleast_1d(ds["cluster"].to_numpy())]
    values, _, weights = edge_matrices(ds, labels.index(cluster))
    if existing:
        values = np.where((weights == 0) | np.isnan(weights), np.nan, values)
    if not np.nan_to_num(values).any():
        raise InputError(f"no cell of cluster {cluster!r} has sensitivities other than 0")
    rows, columns = (largest(values, axis, top) for axis in (0, 1))
    names = ds["regulator"].to_numpy().astype(str)
    return values[np.ix_(rows, columns)], names[rows].tolist(), names[columns].tolist()


def _check_results(ds: xr.Dataset, missing: str | None, cluster: str) -> None:
    if missing is not None:
        raise MissingKeyError(
            f"the results hold no {missing!r}; run with quantities=['default', 'drivers'] "
            "(--quantities default,drivers)"
        )
    labels = [str(label) for label in np.atleast_1d(ds["cluster"].to_numpy())]
    if cluster not in labels:
        raise MissingKeyError(f"no cluster {cluster!r}; {near_misses(cluster, labels, noun='clusters')}")


def edge_label(table: pd.DataFrame, by: str) -> str:
    """Return what an axis that shows the column `by` of a table of edges is called."""
    return _LABELS[by].format(of=table.attrs.get("of", "W"))


def edge_table(table: pd.DataFrame | xr.Dataset, cluster: str | None, by: str, top: int) -> pd.DataFrame:
    """Return the table of edges that a figure is drawn from, checked: of results, the `top` ones."""
    check_count("top", top)
    if by not in _LABELS:
        raise UsageError(f"by={by!r}; expected 'sensitivity' or 'contribution'")
    columns = ("regulator", "effector", "sensitivity", "std", "weight", "contribution")
    return _table(table, cluster, "driver_edges", columns, by=by, top=top)


def _table(
    table: pd.DataFrame | xr.Dataset, cluster: str | None, maker: str, columns: Sequence[str], **options: Any
) -> pd.DataFrame:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        if cluster is not None:
            raise UsageError(
                f"cluster={cluster!r} with a table, which is of one cluster; pass results instead"
            )
        found = table
    else:
        if cluster is None:
            labels = [str(label) for label in np.atleast_1d(table["cluster"].to_numpy())]
            raise UsageError(f"no cluster given; expected cluster= one of {', '.join(map(repr, labels[:8]))}")
        import stabdask

        found = getattr(stabdask, maker)(table, cluster, **options)
    missing = [name for name in columns if name not in found.columns]
    if missing:
        raise InputError(f"the table has no column {missing[0]!r}; expected one from stabdask.{maker}")
    return found


def leading_rows(table: pd.DataFrame, by: str, top: int) -> pd.DataFrame:
    """Return the `top` rows with the largest absolute values of a column, largest first; those without are left out.

    Raises
    ------
    UsageError
        If `top` is less than 1.
    InputError
        If no row has a value.
    """
    check_count("top", top)
    size = table[by].abs()
    rows = table[size.notna()].loc[size.dropna().sort_values(ascending=False, kind="stable").index]
    if not len(rows):
        raise InputError(f"the table has no {by}: no cell of the cluster has eigenvectors")
    return rows.head(top)


def weight_color(weight: float) -> str:
    """Return the color of an edge: activation, inhibition, or none."""
    if weight > 0:
        return ACTIVATION
    return INHIBITION if weight < 0 else _NO_EDGE


def _bars(
    ax: Axes,
    names: Sequence[str],
    values: npt.NDArray[np.float64],
    spread: npt.NDArray[np.float64],
    colors: Sequence[str],
) -> None:
    """Draw bars with error bars."""
    places = draw_bars(ax, names, values, colors)
    ax.errorbar(
        values,
        places,
        xerr=np.nan_to_num(spread),
        fmt="none",
        ecolor="0.2",
        elinewidth=0.8,
        capsize=1.5,
        zorder=3,
    )


def _weight_legend(ax: Axes, weights: npt.NDArray[np.float64]) -> None:
    from matplotlib.patches import Patch

    kinds = ((weights > 0, ACTIVATION, "activation"), (weights < 0, INHIBITION, "inhibition"))
    handles = [Patch(color=color, label=name) for there, color, name in kinds if there.any()]
    if (~(weights > 0) & ~(weights < 0)).any():
        handles.append(Patch(color=_NO_EDGE, label="no edge"))
    legend_above(ax, handles)


def _title(ax: Axes, table: pd.DataFrame) -> None:
    """Say of which cluster and of how many cells a table is, and of how many of them the mode sets the abscissa."""
    attrs = table.attrs
    if "cluster" not in attrs:
        return
    text = short(attrs["cluster"])
    if "n_cells" in attrs:
        text += f" ({count_text(int(attrs['n_cells']))})"
    if "leading_fraction" in attrs and np.isfinite(attrs["leading_fraction"]):
        text += f"\nthe mode sets the spectral abscissa in {attrs['leading_fraction']:.0%} of them"
    title_above(ax, text)
