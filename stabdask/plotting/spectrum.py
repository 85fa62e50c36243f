"""Eigenvalues in the complex plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["spectrum"]

_MOST_POINTS = 20_000


def spectrum(
    ds: xr.Dataset,
    *,
    clusters: list[str] | None = None,
    max_cells: int = 500,
    seed: int = 0,
    ax: Axes | None = None,
    save: str | None = None,
) -> Axes:
    """Draw the eigenvalues of the cores of each cluster in the complex plane, with the stability boundary.

    The eigenvalues -gamma of the genes outside the cores are left out: they are real, negative and tell nothing
    about the network.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    clusters
        Which clusters, in this order; all if not given.
    max_cells
        Cells drawn per cluster; a random sample of larger clusters.
    seed
        Of the sample.
    ax
        Axes to draw into; new ones if not given.
    save
        Path to save the figure to.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingKeyError
        If there are no eigenvalues or no such cluster.
    UsageError
        If `max_cells` is less than 1.
    """
    import matplotlib.pyplot as plt

    if "eigenvalue" not in ds:
        raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full'")
    if max_cells < 1:
        raise UsageError(f"max_cells={max_cells}; expected at least 1")
    labels = [str(label) for label in cell_clusters(ds)[1]]
    for label in clusters or []:
        if label not in labels:
            raise MissingKeyError(f"no cluster {label!r}; {near_misses(label, labels, noun='clusters')}")
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    samples = _samples(ds, labels, clusters or labels, max_cells, np.random.default_rng(seed))
    colors = plt.get_cmap("tab10" if len(labels) <= 10 else "tab20")
    points = []
    for label, values in samples.items():
        drawn = ax.scatter(
            values.real,
            values.imag,
            s=5,
            alpha=0.35,
            linewidths=0,
            color=colors(labels.index(label) % colors.N),
            label=label,
            rasterized=True,
        )
        points.append(drawn)
    ax.axvline(0.0, color="black", linewidth=0.8, linestyle="--", zorder=0)
    ax.annotate(
        "unstable →", (0, 1), xycoords=("data", "axes fraction"), xytext=(4, -4), textcoords="offset points",
        va="top", fontsize="small",
    )  # fmt: skip
    ax.set_xlabel("real part (1/time)")
    ax.set_ylabel("imaginary part (rad/time)")
    # Points and labels are named, because a legend would leave out labels that begin with "_".
    legend = ax.legend(
        points,
        list(samples),
        markerscale=2.5,
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)  # type: ignore[union-attr]
    if save is not None:
        # The canvas belongs to the whole figure, also where the axes are in a part of one.
        ax.figure.canvas.figure.savefig(save, dpi=150)
    return ax


def _samples(
    ds: xr.Dataset, labels: list[str], wanted: list[str], max_cells: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Return eigenvalues of some cells of each cluster, ``(point,)``."""
    codes, _ = cell_clusters(ds)
    members = {}
    for label in wanted:
        cells = np.flatnonzero(codes == labels.index(label))
        members[label] = rng.choice(cells, max_cells, replace=False) if len(cells) > max_cells else cells
    # All clusters in one go: each chunk is read, or computed, once.
    drawn = np.unique(np.concatenate([np.empty(0, np.intp), *members.values()]))
    eigenvalues = ds["eigenvalue"].isel(cell=drawn).to_numpy()
    out = {}
    for label, cells in members.items():
        values = eigenvalues[np.searchsorted(drawn, cells)].ravel()
        values = values[np.isfinite(values.real)]
        if len(values) > _MOST_POINTS:
            values = rng.choice(values, _MOST_POINTS, replace=False)
        out[label] = values
    return out
