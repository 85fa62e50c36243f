"""Eigenvalues in the complex plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.plotting.style import (
    axes_for,
    check_save,
    count_text,
    grid,
    label_outer,
    legend_beside,
    legend_width,
    plain,
    save_figure,
    short,
)
from stabdask.plotting.values import cluster_colors

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClusterSpectrum", "sample_spectra", "spectra", "spectrum"]

Kind = Literal["auto", "points", "density"]

_MOST_POINTS = 20_000
_DENSITY_FROM = 30_000
_BINS = (240, 180)
_PANEL_BINS = (140, 110)
_STRIP_BINS = 240
_WORD = 0.6
"""Inches, before any layout, that the word beside the boundary takes, about."""


@dataclass(frozen=True)
class ClusterSpectrum:
    """Eigenvalues of some cells of one cluster.

    Attributes
    ----------
    values
        ``(point,)`` complex: of their cores.
    rest, rest_counts
        ``(gene,)``: -gamma of every gene, and for how many of the cells it is outside the core.
    n_drawn, n_cells
        How many cells, and of how many.
    color
        Of the cluster.
    """

    values: npt.NDArray[Any]
    rest: npt.NDArray[np.float64]
    rest_counts: npt.NDArray[np.float64]
    n_drawn: int
    n_cells: int
    color: str


def spectrum(
    ds: xr.Dataset,
    *,
    clusters: list[str] | None = None,
    max_cells: int = 500,
    seed: int = 0,
    kind: Kind = "auto",
    rest: bool | None = None,
    xlim: tuple[float, float] | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the eigenvalues of the cores of each cluster in the complex plane, with the stability boundary.

    The eigenvalues -gamma of the genes outside the cores are real, negative and tell nothing about the network;
    they are drawn in a strip above the plane.

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
    kind
        ``"points"`` draws eigenvalues (at most 20,000 of each cluster), ``"density"`` shades bins by the
        logarithm of how many are in them, ``"auto"`` takes points up to 30,000 eigenvalues.
    rest
        Whether to draw the strip; where the results hold what it takes if not given.
    xlim
        Range of real parts. If not given, all that are complex or positive are within; where real negative
        ones would take most of the width, those farther left than half of them are out of sight and counted.
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
        If there are no eigenvalues or no such cluster, or not what the strip takes.
    UsageError
        If `max_cells` is less than 1 or `kind` is none of these.
    OutputError
        If the file cannot be written.
    """
    _check(ds, max_cells, kind)
    check_save(save)
    found = sample_spectra(ds, clusters, max_cells, seed, rest)
    if ax is None:
        ax = axes_for(None, save, (5.2 + legend_width(list(found)), 4.4))
    handles = _draw(ax, found, kind, seed, _limits(found) if xlim is None else xlim)
    ax.set_xlabel("real part (1/time)")
    ax.set_ylabel("imaginary part (rad/time)")
    legend = legend_beside(ax, handles, list(found))
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
        handle.set_sizes([18.0])
    save_figure(ax.figure, save)
    return ax


def spectra(
    ds: xr.Dataset,
    *,
    clusters: list[str] | None = None,
    ncols: int = 3,
    max_cells: int = 500,
    seed: int = 0,
    kind: Kind = "auto",
    rest: bool | None = None,
    xlim: tuple[float, float] | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Draw the eigenvalues of every cluster in axes of their own, all on one scale.

    Parameters
    ----------
    ds, clusters, max_cells, seed, kind, rest, xlim, save
        As for `spectrum`; ``kind="auto"`` looks at the cluster that has most eigenvalues.
    ncols
        Axes in a row.

    Returns
    -------
    matplotlib.figure.Figure
        Not one of pyplot's: a notebook shows it as the value of a cell.

    Raises
    ------
    MissingKeyError, UsageError, OutputError
        As `spectrum`.
    """
    _check(ds, max_cells, kind)
    check_save(save)
    found = sample_spectra(ds, clusters, max_cells, seed, rest)
    figure, axes = grid(len(found), ncols, (2.7, 2.3), sharex=True, sharey=True)
    if kind == "auto":
        most = max((len(one.values) for one in found.values()), default=0)
        kind = "density" if most > _DENSITY_FROM // 3 else "points"
    limits = _limits(found) if xlim is None else xlim
    height = max((float(np.abs(one.values.imag).max(initial=0.0)) for one in found.values()), default=0.0)
    for position, (ax, (label, one)) in enumerate(zip(axes, found.items(), strict=True)):
        _draw(ax, {label: one}, kind, seed, limits, height=height, first=position == 0)
        title = ax.set_title(f"{short(label, 28)}\n{_of_cells(one)}", fontsize="small")
        plain([title])
    label_outer(axes, ncols)
    strip = ""
    if any(len(one.rest) for one in found.values()):
        strip = "\nstrip: −γ of the genes outside the cores" + _farther_left(found, limits, " ")
    figure.supxlabel(f"real part (1/time){strip}", fontsize="medium")
    figure.supylabel("imaginary part (rad/time)", fontsize="medium")
    save_figure(figure, save)
    return figure


def sample_spectra(
    ds: xr.Dataset, clusters: list[str] | None, max_cells: int, seed: int, rest: bool | None
) -> dict[str, ClusterSpectrum]:
    """Return the eigenvalues of at most `max_cells` cells of each cluster, read in one go."""
    codes, names = cell_clusters(ds)
    labels = [str(label) for label in names]
    for label in clusters or []:
        if label not in labels:
            raise MissingKeyError(f"no cluster {label!r}; {near_misses(label, labels, noun='clusters')}")
    missing = [name for name in ("active", "degradation", "gene", "regulator") if name not in ds.variables]
    if rest and missing:
        raise MissingKeyError(f"the results hold no {missing[0]!r}, which rest=True takes; use rest=False")
    rest = not missing if rest is None else rest
    rng = np.random.default_rng(seed)
    wanted = list(dict.fromkeys(clusters or labels))
    sizes, members = {}, {}
    for label in wanted:
        cells = np.flatnonzero(codes == labels.index(label))
        sizes[label] = len(cells)
        members[label] = rng.choice(cells, max_cells, replace=False) if len(cells) > max_cells else cells
    # All clusters and both variables in one go: each chunk is read, or computed, once.
    drawn = np.unique(np.concatenate([np.empty(0, np.intp), *members.values()]))
    part = ds[["eigenvalue", "active"] if rest else ["eigenvalue"]].isel(cell=drawn).compute()
    eigenvalues = part["eigenvalue"].to_numpy()
    colors = dict(zip(labels, cluster_colors(ds, labels), strict=True))
    out = {}
    for label, cells in members.items():
        rows = np.searchsorted(drawn, cells)
        values = eigenvalues[rows].ravel()
        gamma, counts = np.empty(0), np.empty(0)
        if rest:
            gamma = np.asarray(ds["degradation"].to_numpy(), dtype=np.float64)[labels.index(label)]
            counts = _outside(ds, part["active"].to_numpy()[rows])
        values = values[np.isfinite(values.real)]
        out[label] = ClusterSpectrum(values, -gamma, counts, len(cells), sizes[label], colors[label])
    return out


def _check(ds: xr.Dataset, max_cells: int, kind: str) -> None:
    if "eigenvalue" not in ds:
        raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full'")
    if max_cells < 1:
        raise UsageError(f"max_cells={max_cells}; expected at least 1")
    if kind not in ("auto", "points", "density"):
        raise UsageError(f"kind={kind!r}; expected 'auto', 'points' or 'density'")


def _outside(ds: xr.Dataset, active: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return for how many cells each gene is outside the core, ``(gene,)``."""
    active = active[(active != 255).all(axis=1)]
    genes = {str(gene): position for position, gene in enumerate(ds["gene"].to_numpy())}
    index = [genes[str(name)] for name in ds["regulator"].to_numpy()]
    counts = np.full(ds.sizes["gene"], float(len(active)))
    counts[index] = (active == 0).sum(axis=0)
    return counts


def _of_cells(one: ClusterSpectrum) -> str:
    if one.n_drawn == one.n_cells:
        return count_text(one.n_cells)
    return f"{one.n_drawn:,} of {count_text(one.n_cells)}"


def _limits(found: dict[str, ClusterSpectrum]) -> tuple[float, float]:
    """Return the range of real parts to show."""
    values = np.concatenate([np.empty(0, complex), *(one.values for one in found.values())])
    if not len(values):
        return -1.0, 0.25
    real, imag = values.real, np.abs(values.imag)
    low, high = min(float(real.min()), 0.0), max(float(real.max()), 0.0)
    telling = real[(real > 0) | (imag > 1e-3 * imag.max(initial=0.0))]
    near = min(float(telling.min(initial=0.0)), float(np.median(real)))
    if high - low > 2.0 * (high - near):
        low = near
    margin = 0.05 * (high - low or abs(low) or 1.0)
    # The boundary never lies on the edge.
    return low - margin, high + 2.0 * margin


def _draw(
    ax: Axes,
    found: dict[str, ClusterSpectrum],
    kind: str,
    seed: int,
    limits: tuple[float, float],
    *,
    height: float | None = None,
    first: bool = True,
) -> list[Any]:
    """Draw spectra into axes; return what a legend shows for each."""
    n_points = sum(len(one.values) for one in found.values())
    if kind == "density" or (kind == "auto" and n_points > _DENSITY_FROM):
        handles = _density(ax, found, limits, height)
    else:
        handles = _points(ax, found, seed)
    ax.axvline(0.0, color="black", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_xlim(*limits)
    if first:
        # On the side of the boundary where there is room, as far as can be known before any layout.
        width = ax.get_window_extent().width / ax.figure.dpi
        right = limits[1] * width > _WORD * (limits[1] - limits[0])
        ax.annotate(
            "unstable →" if right else "← stable",
            (0, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4 if right else -4, -4),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize="small",
            annotation_clip=False,
        )
    beyond = sum(int((one.values.real < limits[0]).sum()) for one in found.values())
    if beyond:
        text = f"← {count_text(beyond, 'eigenvalue')}\n   ({beyond / n_points:.1%}) farther left"
        ax.text(0.02, 0.02, text, transform=ax.transAxes, fontsize="x-small", va="bottom")
    if any(len(one.rest) for one in found.values()):
        _strip(ax, found, limits, explain=height is None)
    return handles


def _points(ax: Axes, found: dict[str, ClusterSpectrum], seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    handles = []
    for label, one in found.items():
        values = one.values
        if len(values) > _MOST_POINTS:
            values = rng.choice(values, _MOST_POINTS, replace=False)
        points = ax.scatter(
            values.real,
            values.imag,
            s=5,
            alpha=0.35,
            linewidths=0,
            color=one.color,
            label=label,
            rasterized=True,
        )
        handles.append(points)
    return handles


def _density(
    ax: Axes, found: dict[str, ClusterSpectrum], limits: tuple[float, float], height: float | None
) -> list[Any]:
    """Shade bins: the hue is the mean of the clusters in a bin, by their shares of it, the opacity log of the count."""
    from matplotlib.colors import to_rgb

    bins = _BINS if height is None else _PANEL_BINS
    if height is None:
        height = max((float(np.abs(one.values.imag).max(initial=0.0)) for one in found.values()), default=0.0)
    height = 1.05 * height or 1.0
    edges = [np.linspace(*limits, bins[0] + 1), np.linspace(-height, height, bins[1] + 1)]
    counts = np.stack([np.histogram2d(o.values.real, o.values.imag, edges)[0].T for o in found.values()])
    # Clusters weigh alike, however many eigenvalues each has: a small one is not drowned.
    totals = counts.sum(axis=(1, 2), keepdims=True)
    shares = counts / np.where(totals == 0, 1.0, totals)
    hues = np.asarray([to_rgb(one.color) for one in found.values()])
    weight = shares.sum(axis=0)
    image = np.zeros((*weight.shape, 4))
    image[..., :3] = np.einsum("kij,kc->ijc", shares, hues) / np.where(weight == 0, 1.0, weight)[..., None]
    per_bin = counts.sum(axis=0)
    most = float(per_bin.max(initial=0.0))
    image[..., 3] = np.where(per_bin > 0, 0.45 + 0.55 * np.log1p(per_bin) / np.log1p(max(most, 1.0)), 0.0)
    ax.imshow(
        image,
        extent=(*limits, -height, height),
        origin="lower",
        aspect="auto",
        interpolation="none",
        zorder=1,
    )
    ax.set_ylim(-height, height)
    return [ax.scatter([], [], s=5, linewidths=0, color=one.color, label=name) for name, one in found.items()]


def _strip(
    ax: Axes, found: dict[str, ClusterSpectrum], limits: tuple[float, float], *, explain: bool
) -> None:
    """Draw -gamma of the genes outside the cores above the plane, on the same scale, darker where more are."""
    strip = ax.inset_axes((0, 1.015, 1, 0.045), sharex=ax)
    values = np.concatenate([one.rest for one in found.values()])
    counts = np.concatenate([one.rest_counts for one in found.values()])
    shown, _ = np.histogram(values, np.linspace(*limits, _STRIP_BINS + 1), weights=counts)
    shade = np.log1p(shown) / np.log1p(max(float(shown.max(initial=0.0)), 1.0))
    shade = np.where(shown > 0, 0.25 + 0.75 * shade, 0.0)
    strip.imshow(
        shade[None], extent=(*limits, 0, 1), aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="none"
    )
    strip.set_xlim(*limits)
    strip.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in strip.spines.values():
        spine.set_linewidth(0.5)
    if not explain:
        return
    text = "−γ outside the cores" + _farther_left(found, limits, "\n")
    # Beside the strip: a title goes above it.
    strip.text(1.01, 0.5, text, transform=strip.transAxes, fontsize="x-small", va="center", linespacing=1.0)


def _farther_left(found: dict[str, ClusterSpectrum], limits: tuple[float, float], before: str) -> str:
    """Return what share of -gamma is out of sight, in words; nothing if none is."""
    total = sum(float(one.rest_counts.sum()) for one in found.values())
    beyond = sum(float(one.rest_counts[one.rest < limits[0]].sum()) for one in found.values())
    return f"{before}({beyond / total:.1%} farther left)" if beyond else ""
