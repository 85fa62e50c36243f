"""Fixed points among the cells, on two axes of the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.cells import cell_state
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.style import (
    MISSING,
    PALETTE,
    axes_for,
    check_save,
    count_text,
    legend_beside,
    legend_width,
    plain,
    save_figure,
    short,
)
from stabdask.plotting.values import with_units

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["fixed_points"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_MARKERS: dict[str, tuple[str, str, float]] = {
    "attractor": ("o", PALETTE[0], 80.0),
    "saddle": ("D", PALETTE[1], 62.0),
    "repeller": ("^", PALETTE[3], 85.0),
    "non-hyperbolic": ("s", PALETTE[4], 70.0),
    "unknown": ("X", "#555555", 80.0),
}
"""Shape, color and size of each type: each would tell them apart alone."""

_OUTSIDE, _SPIRAL = "outside the data", "spiral"
_RING = 3.2
_DOTTED: dict[str, Any] = {"linewidths": 1.3, "linestyles": (0, (1.2, 1.2))}
_BEYOND = 0.5


def fixed_points(
    fps: xr.Dataset,
    axes: Sequence[int | str] = (0, 1),
    *,
    cells: xr.Dataset | npt.ArrayLike | None = None,
    cluster: str | None = None,
    size: float = 1.0,
    max_cells: int = 50_000,
    seed: int = 0,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw fixed points on two axes of the state, over the cells.

    Parameters
    ----------
    fps
        From `stabdask.fixed_points`.
    axes
        Two axes of the state (genes, principal components), by number or by name.
    cells
        What to draw beneath: cells from `stabdask.open_cells`, or states ``(cell, axis)``.
    cluster
        Fixed points of this cluster only, and cells of it where there are any.
    size
        Of the markers, relative to what is usual.
    max_cells
        Cells drawn; a random sample of more.
    seed
        Of the sample.
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
        If there is no such axis or cluster, or `fps` is of another kind.
    InputError
        If the cells have other axes.
    UsageError
        If an option has no valid value.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Shape and color are the type; a dotted ring means that the leading mode oscillates (spiral), a hollow marker that
    the point is outside the data. With cells, the axes show them and half their width around; fixed points further away
    are drawn at the edge, and a line of text says how many.
    """
    check_save(save)
    if max_cells < 1:
        raise UsageError(f"max_cells={max_cells}; expected at least 1")
    points, columns = _points(fps, axes, cluster)
    xy = points["location"].transpose("fixed_point", "axis").to_numpy()[:, columns]
    under = None if cells is None else _cells(cells, points, columns, cluster, max_cells, seed)
    kinds = [str(kind) for kind in points["type"].to_numpy()]
    turns = points["form"].to_numpy().astype(str) == "spiral"
    outside = (
        ~points["inside"].to_numpy().astype(bool) if "inside" in points else np.zeros(len(kinds), dtype=bool)
    )
    names = [kind for kind in _MARKERS if kind in kinds]
    notes = [*([_SPIRAL] if turns.any() else []), *([_OUTSIDE] if outside.any() else [])]
    if ax is None:
        ax = axes_for(None, save, (4.4 + legend_width([*names, *notes, "cells"]), 4.2))
    beneath = None
    if under is not None:
        cell_size = float(np.clip(24_000 / max(len(under), 1), 0.4, 14.0))
        beneath = ax.scatter(
            under[:, 0], under[:, 1], s=cell_size, color=MISSING, linewidths=0, rasterized=True, zorder=1
        )
        xy = _within(ax, under, xy, ~outside)
    _draw(ax, xy, kinds, turns, outside, size)
    _labels(ax, points, columns)
    handles = [ax.scatter([], [], **_marker(name, hollow=False, size=1.0)) for name in names]
    if turns.any():
        handles.append(ax.scatter([], [], s=110, facecolors="none", edgecolors="#333333", **_DOTTED))
    if outside.any():
        handles.append(ax.scatter([], [], s=70, facecolors="white", edgecolors="#333333", linewidths=1.4))
    labels = [*names, *notes]
    if beneath is not None:
        handles.append(ax.scatter([], [], s=20, color=MISSING, linewidths=0))
        labels.append("cells")
    if not kinds:
        ax.set_title("no fixed points found", fontsize="small", loc="left")
    if labels:
        legend_beside(ax, handles, labels)
    save_figure(ax.figure, save)
    return ax


def _points(fps: xr.Dataset, axes: Sequence[int | str], cluster: str | None) -> tuple[xr.Dataset, list[int]]:
    """Return the fixed points to draw, and the positions of the two axes."""
    for name in ("location", "type", "form"):
        if name not in getattr(fps, "variables", {}):
            raise MissingKeyError(f"no variable {name!r}; expected a Dataset from stabdask.fixed_points")
    if "fixed_point" not in fps.dims:
        fps = fps.expand_dims("fixed_point")
    names = [str(name) for name in fps["axis"].to_numpy()]
    if isinstance(axes, str) or len(axes) != 2:
        raise UsageError(f"axes={axes!r}; expected two numbers or names")
    columns = []
    for axis in axes:
        if isinstance(axis, str):
            if axis not in names:
                raise MissingKeyError(f"no axis {axis!r}; {near_misses(axis, names, noun='axes')}")
            columns.append(names.index(axis))
        elif 0 <= axis < len(names):
            columns.append(int(axis))
        else:
            raise UsageError(f"axes={axes!r}; expected numbers from 0 to {len(names) - 1}, or names")
    if cluster is not None:
        searched = [str(label) for label in np.atleast_1d(fps["searched"].to_numpy())]
        if cluster not in searched:
            hint = near_misses(cluster, searched, noun="clusters searched")
            raise MissingKeyError(f"no cluster {cluster!r}; {hint}")
        fps = fps.isel(fixed_point=np.flatnonzero(fps["cluster"].to_numpy() == cluster))
    return fps, columns


def _cells(
    cells: Any,
    points: xr.Dataset,
    columns: list[int],
    cluster: str | None,
    max_cells: int,
    seed: int,
) -> Array:
    """Return where cells are on the two axes, ``(cell, 2)``; only these columns are read."""
    n_axes = points.sizes["axis"]
    if not hasattr(cells, "variables"):
        states = np.asarray(cells, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != n_axes:
            raise InputError(f"cells have shape {states.shape}; expected (cells, {n_axes})")
        xy = states[:, columns]
    else:
        state: Any = cell_state(cells)
        dim = str(state.dims[1])
        wanted = [str(points["axis"].to_numpy()[column]) for column in columns]
        if dim in state.coords:
            known = [str(name) for name in state[dim].to_numpy()]
            for name in wanted:
                if name not in known:
                    raise InputError(f"the cells have no {dim} {name!r}; expected those of the field")
            columns = [known.index(name) for name in wanted]
        rows = np.arange(state.shape[0])
        if cluster is not None:
            own = np.flatnonzero(cells["cluster"].to_numpy() == cluster)
            # The cluster "all" of a field is that of all cells.
            rows = own if len(own) else rows
        if len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:max_cells])
        xy = state[rows, columns].to_numpy().astype(np.float64)
    xy = xy[np.isfinite(xy).all(axis=1)]
    return xy[np.sort(np.random.default_rng(seed).permutation(len(xy))[:max_cells])]


def _within(ax: Axes, under: Array, xy: Array, inside: Mask) -> Array:
    """Set limits around cells and what is inside the data; return the points, those beyond brought to the edge."""
    known = np.concatenate([under, xy[inside]])
    if not len(known):
        return xy
    lower, upper = known.min(axis=0), known.max(axis=0)
    width = np.where(upper > lower, upper - lower, np.maximum(np.abs(upper), 1.0))
    reach = np.concatenate(
        [known, xy[((xy >= lower - _BEYOND * width) & (xy <= upper + _BEYOND * width)).all(axis=1)]]
    )
    lower, upper = reach.min(axis=0) - 0.06 * width, reach.max(axis=0) + 0.06 * width
    ax.set_xlim(lower[0], upper[0])
    ax.set_ylim(lower[1], upper[1])
    beyond = ((xy < lower) | (xy > upper)).any(axis=1)
    if beyond.any():
        ax.set_title(
            f"{count_text(int(beyond.sum()), 'fixed point')} far beyond, at the edge",
            fontsize="small",
            loc="left",
        )
    return np.asarray(np.clip(xy, lower, upper))


def _marker(kind: str, *, hollow: bool, size: float) -> dict[str, Any]:
    shape, color, area = _MARKERS[kind]
    face, edge, line = ("white", color, 1.8) if hollow else (color, "white", 0.8)
    return {"marker": shape, "s": area * size, "facecolors": face, "edgecolors": edge, "linewidths": line}


def _draw(ax: Axes, xy: Array, kinds: list[str], turns: Mask, outside: Mask, size: float) -> None:
    canvas: Any = ax
    # The last to be drawn lies on top where they coincide: an attractor inside the data.
    for kind in reversed(_MARKERS):
        for hollow in (True, False):
            rows = [i for i, own in enumerate(kinds) if own == kind and bool(outside[i]) == hollow]
            if rows:
                style = _marker(kind, hollow=hollow, size=size)
                canvas.scatter(*xy[rows].T, **style, zorder=4, clip_on=False)
            ringed = [i for i in rows if turns[i]]
            if ringed:
                area = _RING * _MARKERS[kind][2] * size
                style = {"facecolors": "none", "edgecolors": _MARKERS[kind][1], **_DOTTED}
                canvas.scatter(*xy[ringed].T, s=area, zorder=3, clip_on=False, **style)


def _labels(ax: Axes, points: xr.Dataset, columns: list[int]) -> None:
    names = [short(points["axis"].to_numpy()[column]) for column in columns]
    units = points["location"].attrs.get("units")
    ax.set_xlabel(with_units(names[0], units))
    ax.set_ylabel(with_units(names[1], units))
    ax.spines[["top", "right"]].set_visible(False)
    plain([ax.xaxis.label, ax.yaxis.label])
