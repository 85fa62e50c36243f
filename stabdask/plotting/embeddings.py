"""Numbers and labels of cells on an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.plotting.style import (
    MISSING,
    axes_for,
    check_save,
    color_bar,
    diverging,
    grid,
    legend_beside,
    legend_width,
    plain,
    save_figure,
)
from stabdask.plotting.values import (
    Groups,
    Numbers,
    is_label,
    is_number,
    label_names,
    load,
    number_names,
    read_groups,
    read_numbers,
)

if TYPE_CHECKING:
    import anndata
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["elements", "embedding"]

Array = npt.NDArray[np.float64]

_PERCENTILES = (1.0, 99.0)
_MOST_PAIRS = 60
_LEGEND_SIZE = 20.0
"""Of points in a legend, in points squared."""


def embedding(
    ds: xr.Dataset,
    color: str = "spectral_abscissa",
    *,
    basis: str | npt.ArrayLike = "X_umap",
    adata: anndata.AnnData | None = None,
    limits: tuple[float, float] | None = None,
    percentiles: tuple[float, float] = _PERCENTILES,
    size: float | None = None,
    max_cells: int = 300_000,
    seed: int = 0,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw a number or a label of every cell on an embedding.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    color
        A scalar, ``"cluster"``, an annotation, or an element by its pair, e.g. ``"GATA1:GATA2"``.
    basis
        An embedding in `ds` or in `adata`, or coordinates ``(cell, 2)``; of more than two dimensions the first two.
    adata
        Where to take ``obsm[basis]`` from, by names of cells, if `ds` has none.
    limits
        Of the colors of a number; from `percentiles` if not given.
    percentiles
        The values that get the first and the last color; the color bar has arrows where there are others beyond.
    size
        Of points, in points squared; by the number of cells if not given.
    max_cells
        Cells drawn; a random sample of more.
    seed
        Of the sample and of the order of drawing, which is random so that no group covers another.
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
        If there is no such number, label or embedding.
    InputError
        If the embedding does not fit the cells.
    UsageError
        If an option has no valid value.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Numbers with a sign (spectral abscissa, elements; trace and others that lie around 0) get a map centered on 0, blue
    below and red above; the others one from dark to light. Cells without a value are light gray, beneath.
    """
    check_save(save)
    _check(max_cells, percentiles, limits)
    loaded, what = _load(ds, color, [basis] if isinstance(basis, str) else [])
    xy = _coordinates(loaded, basis, adata, _embeddings(ds))
    drawn = _drawn(xy, max_cells, seed)
    if ax is None:
        beside = legend_width([*what.labels, "no label"]) if isinstance(what, Groups) else 1.0
        ax = axes_for(None, save, (4.4 + beside, 4.2))
    if isinstance(what, Groups):
        _draw_labels(ax, xy, drawn, what, _size(size, len(drawn)))
    else:
        _draw_numbers(ax, xy, drawn, what, _size(size, len(drawn)), limits, percentiles, what.label)
    _bare(ax, basis)
    save_figure(ax.figure, save)
    return ax


def elements(
    ds: xr.Dataset,
    pairs: Sequence[str | tuple[str, str]] | None = None,
    *,
    basis: str | npt.ArrayLike = "X_umap",
    adata: anndata.AnnData | None = None,
    ncols: int = 3,
    percentiles: tuple[float, float] = _PERCENTILES,
    size: float | None = None,
    max_cells: int = 100_000,
    seed: int = 0,
    save: str | Path | None = None,
) -> Figure:
    """Draw elements of the Jacobian on an embedding, one pair of genes per axes, each on a scale of its own around 0.

    Parameters
    ----------
    ds, basis, adata, percentiles, size, max_cells, seed, save
        As for `embedding`.
    pairs
        Which, as ``"effector:regulator"`` or ``(effector, regulator)``; all if not given.
    ncols
        Axes in a row.

    Returns
    -------
    matplotlib.figure.Figure
        Not one of pyplot's: a notebook shows it as the value of a cell.

    Raises
    ------
    MissingKeyError
        If the results hold no such elements or no such embedding.
    UsageError
        If there are more than 60 pairs, or an option has no valid value.
    InputError, OutputError
        As `embedding`.
    """
    check_save(save)
    _check(max_cells, percentiles, None)
    if "element" not in ds:
        raise MissingKeyError("the results hold no elements; run with elements=[(effector, regulator), ...]")
    known = [str(name) for name in np.atleast_1d(ds["pair"].to_numpy())]
    if isinstance(pairs, str):
        raise UsageError(f"pairs={pairs!r}; expected a sequence of pairs")
    names = known if pairs is None else [p if isinstance(p, str) else f"{p[0]}:{p[1]}" for p in pairs]
    if len(names) > _MOST_PAIRS or not names:
        raise UsageError(f"{len(names)} pairs; expected 1 to {_MOST_PAIRS}: choose with pairs=")
    for name in names:
        if name not in known:
            raise MissingKeyError(f"no pair {name!r}; {near_misses(name, known, noun='pairs')}")
    loaded = load(ds, numbers=names, others=[basis] if isinstance(basis, str) else [])
    xy = _coordinates(loaded, basis, adata, _embeddings(ds))
    drawn = _drawn(xy, max_cells, seed)
    figure, axes = grid(len(names), ncols, (3.2, 2.6))
    for ax, name in zip(axes, names, strict=True):
        numbers = read_numbers(loaded, name)
        _draw_numbers(ax, xy, drawn, numbers, 0.5 * _size(size, len(drawn)), None, percentiles, "1/time")
        _bare(ax, basis, labels=False)
        title = ax.set_title(numbers.label.removesuffix(" (1/time)"), fontsize="medium")
        plain([title])
    save_figure(figure, save)
    return figure


def _check(max_cells: int, percentiles: tuple[float, float], limits: tuple[float, float] | None) -> None:
    if max_cells < 1:
        raise UsageError(f"max_cells={max_cells}; expected at least 1")
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise UsageError(f"percentiles={percentiles}; expected two of 0 to 100, the lower first")
    if limits is not None and not limits[0] < limits[1]:
        raise UsageError(f"limits={limits}; expected two numbers, the lower first")


def _coordinates(
    ds: xr.Dataset, basis: str | npt.ArrayLike, adata: anndata.AnnData | None, known: list[str]
) -> Array:
    """Return where every cell is, ``(cell, 2)``, NaN for one that is nowhere."""
    names = ds["cell"].to_numpy()
    if not isinstance(basis, str):
        xy = np.asarray(basis, dtype=np.float64)
        what = "basis"
    elif basis in ds.variables and ds[basis].ndim == 2 and ds[basis].dims[0] == "cell":
        xy, what = ds[basis].to_numpy().astype(np.float64), repr(basis)
    elif adata is not None:
        import pandas as pd

        if basis not in adata.obsm:
            raise MissingKeyError(f"no obsm[{basis!r}]; {near_misses(basis, adata.obsm, noun='embeddings')}")
        if not adata.obs_names.is_unique:
            raise InputError("names of cells in adata are not unique; call adata.obs_names_make_unique()")
        found = np.asarray(adata.obsm[basis], dtype=np.float64)
        rows = adata.obs_names.get_indexer(pd.Index(names))
        if not (rows >= 0).any():
            raise InputError("adata has none of the cells of the results, by name")
        xy = np.where((rows >= 0)[:, None], found[rows], np.nan)
        what = f"obsm[{basis!r}]"
    else:
        raise MissingKeyError(
            f"no embedding {basis!r}; {near_misses(basis, known, noun='embeddings')}; or pass adata= with "
            f"obsm[{basis!r}], or coordinates as basis="
        )
    if xy.ndim != 2 or len(xy) != len(names) or xy.shape[1] < 2:
        raise InputError(f"{what} has shape {xy.shape}; expected ({len(names)}, 2)")
    return xy[:, :2]


def _embeddings(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.variables if ds[name].attrs.get("annotation") == "embedding"]


def _load(ds: xr.Dataset, color: str, others: Sequence[str]) -> tuple[xr.Dataset, Numbers | Groups]:
    """Return `ds` in memory as far as needed, and what cells are colored by."""
    annotation = ds[color].attrs.get("annotation") if color in ds.variables else None
    if annotation == "label" or (is_label(ds, color) and not is_number(ds, color)):
        loaded = load(ds, labels=[color], others=others)
        return loaded, read_groups(loaded, color)
    if not is_number(ds, color):
        known = [*label_names(ds), *number_names(ds)]
        raise MissingKeyError(
            f"no label or number {color!r} for cells; {near_misses(color, known, noun='labels and numbers')}"
        )
    loaded = load(ds, numbers=[color], others=others)
    return loaded, read_numbers(loaded, color)


def _drawn(xy: Array, max_cells: int, seed: int) -> npt.NDArray[np.intp]:
    """Return which cells are drawn, in the order of drawing."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.flatnonzero(np.isfinite(xy).all(axis=1)))[:max_cells]


def _size(size: float | None, n: int) -> float:
    return size if size is not None else float(np.clip(24_000 / max(n, 1), 0.4, 20.0))


def _beneath(ax: Axes, xy: Array, cells: npt.NDArray[np.intp], size: float) -> Any:
    return ax.scatter(
        xy[cells, 0],
        xy[cells, 1],
        s=size,
        color=MISSING,
        linewidths=0,
        rasterized=True,
        zorder=1,
        label="no value",
    )


def _draw_numbers(
    ax: Axes,
    xy: Array,
    drawn: npt.NDArray[np.intp],
    numbers: Numbers,
    size: float,
    limits: tuple[float, float] | None,
    percentiles: tuple[float, float],
    label: str,
) -> None:
    known = np.isfinite(numbers.values[drawn])
    missing = _beneath(ax, xy, drawn[~known], size)
    if (~known).any():
        # Points of many cells are too small to be seen alone.
        larger = max(1.0, (_LEGEND_SIZE / size) ** 0.5)
        legend = ax.legend(
            [missing], ["no value"], loc="upper right", fontsize="x-small", frameon=False, markerscale=larger
        )
        plain(legend.get_texts())
    cells = drawn[known]
    if not len(cells):
        return
    values = numbers.values[cells]
    low, high, centered = _limits(numbers, limits, percentiles)
    points = ax.scatter(
        xy[cells, 0],
        xy[cells, 1],
        s=size,
        c=values,
        cmap=diverging() if centered else "viridis",
        vmin=low,
        vmax=high,
        linewidths=0,
        rasterized=True,
        zorder=2,
    )
    every = numbers.values[np.isfinite(numbers.values)]
    color_bar(ax, points, label, values=every, whole=numbers.whole)


def _limits(
    numbers: Numbers, limits: tuple[float, float] | None, percentiles: tuple[float, float]
) -> tuple[float, float, bool]:
    """Return the values of the first and the last color, and whether 0 has the middle one."""
    if limits is not None:
        return *limits, bool(numbers.signed and np.isclose(limits[0], -limits[1]))
    low, high = (float(q) for q in np.nanpercentile(numbers.values, percentiles))
    if low == high:
        # Nearly all cells alike: what the others have is what there is to see.
        low, high = float(np.nanmin(numbers.values)), float(np.nanmax(numbers.values))
    if numbers.shows_zero(low, high):
        most = max(abs(low), abs(high)) or 1.0
        return -most, most, True
    margin = 0.0 if high > low else 0.5 * abs(low) or 0.5
    return low - margin, high + margin, False


def _draw_labels(ax: Axes, xy: Array, drawn: npt.NDArray[np.intp], what: Groups, size: float) -> None:
    from matplotlib.colors import to_rgba_array

    labelled = what.codes[drawn] >= 0
    _beneath(ax, xy, drawn[~labelled], size)
    cells = drawn[labelled]
    # One collection in random order, not one per label.
    colors = to_rgba_array(what.colors)[what.codes[cells]]
    ax.scatter(xy[cells, 0], xy[cells, 1], s=size, c=colors, linewidths=0, rasterized=True, zorder=2)
    names, shades = [*what.labels], [*what.colors]
    if not labelled.all():
        names, shades = [*names, "no label"], [*shades, MISSING]
    handles = [ax.scatter([], [], s=_LEGEND_SIZE, color=shade, linewidths=0) for shade in shades]
    legend_beside(ax, handles, names)


def _bare(ax: Axes, basis: str | npt.ArrayLike, *, labels: bool = True) -> None:
    """Leave axes without numbers, which mean nothing in an embedding, and with one scale for both."""
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    if labels and isinstance(basis, str):
        name = basis.removeprefix("X_")
        ax.set_xlabel(f"{name} 1", fontsize="small", loc="left")
        ax.set_ylabel(f"{name} 2", fontsize="small", loc="bottom")
        plain([ax.xaxis.label, ax.yaxis.label])
