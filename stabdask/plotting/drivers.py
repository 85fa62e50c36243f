"""What drives the leading modes: genes that take part in them and edges they are sensitive to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.drivers import edge_matrices, has_edges
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.style import (
    ACTIVATION,
    INHIBITION,
    axes_for,
    check_save,
    color_bar,
    count_text,
    diverging,
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
    ax = axes_for(ax, save, _size(rows["gene"].tolist()))
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
    ax = axes_for(ax, save, _size(names))
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
    shape = values.shape
    size = (1.9 + 0.24 * max(shape[1], 6), 1.3 + 0.22 * max(shape[0], 5))
    ax = axes_for(ax, save, size)
    ax.set_facecolor("#EDEDED")
    most = float(np.nanmax(np.abs(values))) or 1.0
    image = ax.imshow(values, cmap=diverging(), vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    ax.set_xticks(
        np.arange(shape[1]), labels=[short(n, 18) for n in regulators], rotation=90, fontsize="small"
    )
    ax.set_yticks(np.arange(shape[0]), labels=[short(n, 18) for n in effectors], fontsize="small")
    ax.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    plain([*ax.get_xticklabels(), *ax.get_yticklabels()])
    ax.set_xlabel("regulator")
    ax.set_ylabel("effector")
    color_bar(ax, image, _LABELS["sensitivity"].format(of="W" if "weight" in ds else "J"))
    title = ax.set_title(short(cluster), fontsize="medium")
    plain([title])
    save_figure(ax.figure, save)
    return ax


def _sensitivities(
    ds: xr.Dataset, cluster: str, top: int, existing: bool
) -> tuple[npt.NDArray[np.float64], list[str], list[str]]:
    """Return the largest sensitivities of a cluster, ``(effector, regulator)``, and their names."""
    _check_top(top)
    _check_results(ds, "sensitivity_mean" if not has_edges(ds) else None, cluster)
    labels = [str(label) for label in np.atleast_1d(ds["cluster"].to_numpy())]
    values, _, weights = edge_matrices(ds, labels.index(cluster))
    if existing:
        values = np.where((weights == 0) | np.isnan(weights), np.nan, values)
    size = np.where(np.isfinite(values), np.abs(values), 0.0)
    if not size.any():
        raise InputError(f"no cell of cluster {cluster!r} has sensitivities other than 0")
    rows, columns = (_largest(size.max(axis=axis), top) for axis in (1, 0))
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


def _largest(size: npt.NDArray[np.float64], top: int) -> npt.NDArray[np.intp]:
    order = np.argsort(-size, kind="stable")[:top]
    return order[size[order] > 0]


def edge_label(table: pd.DataFrame, by: str) -> str:
    """Return what an axis that shows the column `by` of a table of edges is called."""
    return _LABELS[by].format(of=table.attrs.get("of", "W"))


def edge_table(table: pd.DataFrame | xr.Dataset, cluster: str | None, by: str, top: int) -> pd.DataFrame:
    """Return the table of edges that a figure is drawn from, checked: of results, the `top` ones."""
    _check_top(top)
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
    _check_top(top)
    size = table[by].abs()
    rows = table[size.notna()].loc[size.dropna().sort_values(ascending=False, kind="stable").index]
    if not len(rows):
        raise InputError(f"the table has no {by}: no cell of the cluster has eigenvectors")
    return rows.head(top)


def _check_top(top: int) -> None:
    if top < 1:
        raise UsageError(f"top={top}; expected at least 1")


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
    """Draw horizontal bars with error bars, the first on top."""
    from matplotlib.ticker import MaxNLocator

    places = np.arange(len(names))
    ax.barh(places, values, color=colors, height=0.72, zorder=2)
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
    ax.set_yticks(places, labels=names, fontsize="small")
    plain(ax.get_yticklabels())
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))  # long numbers would run together
    ax.axvline(0.0, color="black", linewidth=0.8, zorder=1)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _weight_legend(ax: Axes, weights: npt.NDArray[np.float64]) -> None:
    from matplotlib.patches import Patch

    kinds = ((weights > 0, ACTIVATION, "activation"), (weights < 0, INHIBITION, "inhibition"))
    handles = [Patch(color=color, label=name) for there, color, name in kinds if there.any()]
    if (~(weights > 0) & ~(weights < 0)).any():
        handles.append(Patch(color=_NO_EDGE, label="no edge"))
    ax.legend(
        handles=handles, frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        borderaxespad=0.2, handlelength=1.2,
    )  # fmt: skip


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
    # Above a legend, if there is one.
    legend = ax.get_legend()
    title = ax.set_title(text, fontsize="small", pad=6 if legend is None else 24)
    plain([title])


def _size(names: Sequence[object]) -> tuple[float, float]:
    """Return the size of a figure of bars with `names` at the left."""
    return 3.6 + 0.07 * max(len(short(name)) for name in names), 1.4 + 0.24 * len(names)
