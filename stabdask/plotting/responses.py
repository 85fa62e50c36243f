"""Responses to a sustained push as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.analysis.responses import response_means
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.bars import title_above
from stabdask.plotting.matrices import draw_matrix, largest, matrix_size
from stabdask.plotting.style import axes_for, check_count, check_save, count_text, save_figure, short

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["response_heatmap"]


def response_heatmap(
    ds: xr.Dataset,
    cluster: str,
    *,
    top: int = 30,
    most: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw where a sustained push on each regulator shifts each effector, as means over the cells of a cluster.

    Parameters
    ----------
    ds
        Results with the quantity ``"response_mean"`` or ``"response"``; or from `stabdask.response` with lists of
        genes.
    cluster
        Its label.
    top
        How many effectors (rows) and regulators (columns) at most, by their largest absolute response; in the order of
        the results.
    most
        Where colors end, in units of time: where one response is so large that no other shows, or to compare clusters.
        The largest absolute response if not given.
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
        If there is no such cluster, or no responses.
    InputError
        If responses are of pairs, or no cell of the cluster has responses that can be trusted.
    UsageError
        If `top` is less than 1, or `most` is not positive.
    OutputError
        If the file cannot be written.
    """
    check_save(save)
    check_count("top", top)
    if most is not None and not most > 0:
        raise UsageError(f"most={most!r}; expected a positive number")
    means = response_means(ds)
    if "pair" in means.dims:
        raise InputError("responses are of pairs; expected those of effectors=[...] by regulators=[...]")
    labels = [str(label) for label in np.atleast_1d(means["cluster"].to_numpy())]
    if cluster not in labels:
        raise MissingKeyError(f"no cluster {cluster!r}; {near_misses(cluster, labels, noun='clusters')}")
    one = means.isel(cluster=labels.index(cluster)).transpose("block_effector", "block_regulator").compute()
    values = one.to_numpy().astype(np.float64)
    n_cells = int(one["response_cells"])
    if not np.isfinite(values).any():
        raise InputError(f"no cell of cluster {cluster!r} has responses that can be trusted")
    rows, columns = (_kept(values, axis, top) for axis in (0, 1))
    effectors = one["block_effector"].to_numpy()[rows].tolist()
    regulators = one["block_regulator"].to_numpy()[columns].tolist()
    ax = axes_for(ax, save, matrix_size(effectors, regulators))
    draw_matrix(
        ax, values[np.ix_(rows, columns)], effectors, regulators, label="mean response −J⁻¹ (time)", most=most
    )
    title_above(ax, f"{short(cluster)} ({count_text(n_cells)})")
    save_figure(ax.figure, save)
    return ax


def _kept(values: npt.NDArray[np.float64], axis: int, top: int) -> npt.NDArray[np.intp]:
    """Return which rows (0) or columns (1) to show, in their order."""
    n = values.shape[axis]
    return np.arange(n) if n <= top else np.sort(largest(values, axis, top))
