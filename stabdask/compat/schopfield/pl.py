"""scHopfield's figures of Jacobians, with matplotlib alone: each returns its Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.schopfield.cells import cluster_column
from stabdask.compat.schopfield.storage import EIGENVALUES
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_jacobian_eigenvalue_boxplots",
    "plot_jacobian_eigenvalue_spectrum",
    "plot_jacobian_element_grid",
    "plot_jacobian_stats_boxplots",
]

_STATS = {
    "jacobian_positive_evals": "eigenvalues with positive real part",
    "jacobian_trace": "trace (1/time)",
    "jacobian_rotational": "rotational part (1/time)",
}
_MOST_TICKS = 6
"""Clusters whose labels fit side by side; more of them are turned."""


def plot_jacobian_eigenvalue_spectrum(
    adata: AnnData,
    cluster_key: str = "cell_type",
    order: Sequence[str] | None = None,
    colors: Mapping[str, Any] | Sequence[Any] | None = None,
    figsize: tuple[float, float] = (15, 15),
    sharex: bool = True,
    sharey: bool = True,
) -> Figure:
    """Draw the eigenvalues of each cluster in the complex plane, one panel per cluster, in two columns.

    Parameters
    ----------
    adata
        With ``obsm["jacobian_eigenvalues"]``.
    cluster_key
        Column of `obs` with cluster labels.
    order
        Which clusters, in this order; all if not given.
    colors
        By label, or in that order; those of ``uns["<cluster_key>_colors"]`` if not given.
    figsize
        Width and height, inches.
    sharex, sharey
        Whether panels share their axes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingKeyError
        If there are no eigenvalues, no such column or no such cluster.
    """
    import matplotlib.pyplot as plt

    values, members = _eigenvalues(adata), _clusters(adata, cluster_key, order)
    shades = _colors(adata, cluster_key, list(members), colors)
    n_rows = -(-len(members) // 2)
    figure, axes = plt.subplots(
        n_rows, 2, figsize=figsize, sharex=sharex, sharey=sharey, squeeze=False, layout="constrained"
    )
    for ax, (label, cells), color in zip(axes.flat, members.items(), shades, strict=False):
        # The eigenvalues -gamma are those of every cell of a cluster: each point is drawn once.
        points = np.unique(values[cells])
        points = points[np.isfinite(points)]
        ax.scatter(points.real, points.imag, s=6, color=color, alpha=0.5, linewidths=0, rasterized=True)
        ax.axvline(0.0, color="black", linewidth=0.8, linestyle="--", zorder=0)
        ax.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        ax.set_title(label)
    for ax in axes.flat[len(members) :]:
        ax.set_axis_off()
    # Where the last panel of a column is not in the last row, shared axes leave it without numbers.
    for ax in axes.flat[max(0, len(members) - 2) : len(members)]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("real part (1/time)")
    figure.supylabel("imaginary part (rad/time)")
    return figure


def plot_jacobian_eigenvalue_boxplots(
    adata: AnnData,
    cluster_key: str = "cell_type",
    order: Sequence[str] | None = None,
    colors: Mapping[str, Any] | Sequence[Any] | None = None,
    figsize: tuple[float, float] = (15, 15),
) -> Figure:
    """Draw boxes of the positive real parts, and of the positive imaginary parts, of each cluster's eigenvalues.

    Boxes end at the quartiles, whiskers at the last value within 1.5 times their distance; values beyond are not
    drawn.

    Parameters
    ----------
    adata, cluster_key, order, colors, figsize
        See `plot_jacobian_eigenvalue_spectrum`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingKeyError
        If there are no eigenvalues, no such column or no such cluster.
    """
    values, members = _eigenvalues(adata), _clusters(adata, cluster_key, order)
    rows = {
        "positive real parts (1/time)": [_positive(values[cells].real) for cells in members.values()],
        "positive imaginary parts (rad/time)": [_positive(values[cells].imag) for cells in members.values()],
    }
    return _boxes(rows, list(members), _colors(adata, cluster_key, list(members), colors), figsize)


def plot_jacobian_stats_boxplots(
    adata: AnnData,
    cluster_key: str = "cell_type",
    order: Sequence[str] | None = None,
    colors: Mapping[str, Any] | Sequence[Any] | None = None,
    figsize: tuple[float, float] = (15, 15),
) -> Figure:
    """Draw boxes of the number of unstable directions, the trace and the rotational part of each cluster's cells.

    Parameters
    ----------
    adata
        With some of the columns of `compute_jacobian_stats` and `compute_rotational_part`; those present are drawn.
    cluster_key, order, colors, figsize
        See `plot_jacobian_eigenvalue_spectrum`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingKeyError
        If none of the columns is present, or there is no such column of labels or cluster.
    """
    columns = {key: adata.obs[key].to_numpy(dtype=float) for key in _STATS if key in adata.obs}
    if not columns:
        raise MissingKeyError(
            f"obs of the AnnData has none of {', '.join(map(repr, _STATS))}; run compute_jacobian_stats or "
            "compute_rotational_part first"
        )
    if "jacobian_positive_evals" in columns:
        counts = columns["jacobian_positive_evals"]
        columns["jacobian_positive_evals"] = np.where(counts < 0, np.nan, counts)
    members = _clusters(adata, cluster_key, order)
    rows = {
        _STATS[key]: [values[cells][np.isfinite(values[cells])] for cells in members.values()]
        for key, values in columns.items()
    }
    return _boxes(rows, list(members), _colors(adata, cluster_key, list(members), colors), figsize)


def plot_jacobian_element_grid(
    adata: AnnData,
    gene_pairs: Sequence[tuple[str, str]],
    ncols: int = 2,
    figsize: tuple[float, float] | None = None,
    **scatter_kwargs: Any,
) -> Figure:
    """Draw elements of the Jacobian on the UMAP, one panel per pair, in colors that diverge from 0.

    Parameters
    ----------
    adata
        With ``obsm["X_umap"]`` and the columns of `compute_jacobian_elements`; a panel says so where one of them
        is missing.
    gene_pairs
        (effector i, regulator j) names of genes.
    ncols
        Number of columns.
    figsize
        Width and height, inches; 5 by 4 for each panel if not given.
    **scatter_kwargs
        For `matplotlib.axes.Axes.scatter`; ``s=5`` and ``alpha=0.7`` if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UsageError
        If there are no pairs, or `ncols` is less than 1.
    """
    import matplotlib.pyplot as plt

    pairs = [(str(i), str(j)) for i, j in gene_pairs]
    if not pairs or ncols < 1:
        raise UsageError(f"{len(pairs)} pairs in {ncols} columns; expected at least 1 of both")
    n_columns = min(ncols, len(pairs))
    n_rows = -(-len(pairs) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=figsize or (5 * n_columns, 4 * n_rows), squeeze=False, layout="constrained"
    )
    for ax, (effector, regulator) in zip(axes.flat, pairs, strict=False):
        ax.set_title(f"d(d{effector}/dt) / d{regulator}")
        _draw_element(ax, adata, f"jacobian_df_{effector}_dx_{regulator}", scatter_kwargs)
    for ax in axes.flat[len(pairs) :]:
        ax.set_axis_off()
    return figure


def _draw_element(ax: Axes, adata: AnnData, key: str, scatter_kwargs: Mapping[str, Any]) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    missing = [
        what
        for what, there in ((f"obs[{key!r}]", key in adata.obs), ("obsm['X_umap']", "X_umap" in adata.obsm))
        if not there
    ]
    if missing:
        text = "\n".join(f"no {what}" for what in missing)
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, fontsize="small")
        return
    values = adata.obs[key].to_numpy(dtype=float)
    where = np.asarray(adata.obsm["X_umap"], dtype=float)
    known = np.isfinite(values)
    limit = np.abs(values[known]).max(initial=0.0) or 1.0
    # Strong elements lie on top.
    order = np.flatnonzero(known)[np.argsort(np.abs(values[known]), kind="stable")]
    if not known.all():
        ax.scatter(where[~known, 0], where[~known, 1], s=9, marker="x", color="0.5", linewidths=0.6)
    style: dict[str, Any] = {"s": 5, "alpha": 0.7, "cmap": "coolwarm", "rasterized": True}
    if "norm" not in scatter_kwargs:
        style |= {"vmin": -limit, "vmax": limit}
    points = ax.scatter(where[order, 0], where[order, 1], c=values[order], **(style | dict(scatter_kwargs)))
    ax.set_xlabel("UMAP 1")
    ax.set_ylabel("UMAP 2")
    bar: Any = ax.figure.colorbar(points, ax=ax, label="1/time")
    bar.solids.set_alpha(1.0)


def _eigenvalues(adata: AnnData) -> npt.NDArray[Any]:
    if EIGENVALUES not in adata.obsm:
        raise MissingKeyError(f"no {EIGENVALUES!r} in obsm of the AnnData; run compute_jacobians first")
    return np.asarray(adata.obsm[EIGENVALUES])


def _clusters(
    adata: AnnData, cluster_key: str, order: Sequence[str] | None
) -> dict[str, npt.NDArray[np.intp]]:
    """Return the cells of each cluster, in the order asked for, else that of the categories."""
    column = cluster_column(adata, cluster_key)
    texts = np.asarray([str(label) for label in column.tolist()], dtype=object)
    texts[column.isna().to_numpy()] = None
    present = [text for text in _all_labels(column) if (texts == text).any()]
    wanted = present if order is None else [str(label) for label in order]
    for label in wanted:
        if label not in present:
            raise MissingKeyError(
                f"no cell of cluster {label!r} in obs[{cluster_key!r}]; "
                + near_misses(label, present, noun="clusters")
            )
    if not wanted:
        raise InputError(
            f"no cluster to draw: no cell has a label in obs[{cluster_key!r}], or order is empty"
        )
    return {label: np.flatnonzero(texts == label) for label in wanted}


def _all_labels(column: Any) -> list[str]:
    if hasattr(column, "cat"):
        return list(dict.fromkeys(str(label) for label in column.cat.categories))
    return sorted({str(label) for label in column.dropna().tolist()})


def _colors(adata: AnnData, cluster_key: str, labels: list[str], colors: Any) -> list[Any]:
    """Return a color for each of `labels`."""
    import matplotlib.pyplot as plt

    if isinstance(colors, Mapping):
        by_label = {str(label): color for label, color in colors.items()}
        missing = [label for label in labels if label not in by_label]
        if missing:
            raise MissingKeyError(
                f"no color for {missing[0]!r}; {near_misses(missing[0], by_label, noun='colors')}"
            )
        return [by_label[label] for label in labels]
    if colors is not None:
        given = [colors] * len(labels) if isinstance(colors, str) else list(colors)
        if len(given) < len(labels):
            raise UsageError(f"{len(given)} colors for {len(labels)} clusters; expected one for each")
        return given[: len(labels)]
    every = _all_labels(adata.obs[cluster_key])
    kept = [str(color) for color in adata.uns.get(f"{cluster_key}_colors", [])]
    if len(kept) == len(every):
        return [kept[every.index(label)] for label in labels]
    cycle = plt.get_cmap("tab10" if len(every) <= 10 else "tab20")
    return [cycle(every.index(label) % cycle.N) for label in labels]


def _positive(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # NaN is not positive.
    return values[values > 0]


def _boxes(
    rows: Mapping[str, list[npt.NDArray[Any]]],
    labels: list[str],
    colors: list[Any],
    figsize: tuple[float, float],
) -> Figure:
    """Draw a row of boxes, one per cluster, for each entry of `rows`."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), 1, figsize=figsize, sharex=True, squeeze=False, layout="constrained"
    )
    for ax, (title, groups) in zip(axes.flat, rows.items(), strict=True):
        drawn = ax.boxplot(
            groups,
            showfliers=False,
            patch_artist=True,
            widths=0.6,
            medianprops={"color": "black"},
        )
        for box, color in zip(drawn["boxes"], colors, strict=True):
            box.set(facecolor=color, alpha=0.8)
        ax.set_ylabel(title)
        for place, group in enumerate(groups, start=1):
            if not len(group):
                ax.annotate(
                    "none", (place, 0.5), xycoords=("data", "axes fraction"), ha="center", color="0.4"
                )
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(labels) > _MOST_TICKS else {}
    axes[-1, 0].set_xticks(range(1, len(labels) + 1), labels, **turned)
    return figure
