"""What figures have in common: colors, axes, legends, limits and files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import OutputError, UsageError
from stabdask.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "ACTIVATION",
    "DESTABILIZING",
    "INHIBITION",
    "MISSING",
    "PALETTE",
    "STABILIZING",
    "axes_for",
    "check_count",
    "check_save",
    "color_bar",
    "count_text",
    "diverging",
    "grid",
    "label_outer",
    "legend_beside",
    "legend_columns",
    "legend_width",
    "palette",
    "plain",
    "save_figure",
    "short",
]

PALETTE: tuple[str, ...] = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#690F00", "#C300FF",
    "#4B0087", "#0000FF", "#B40069", "#00F000", "#006900", "#69E1B4", "#004B5A", "#FF87FF",
    "#9600B4", "#FFA5A5", "#963C00", "#4B87FF", "#2DC34B", "#FF0069", "#966969", "#A55AC3",
    "#003CB4", "#FF00D2", "#78005A", "#87B496", "#694B87", "#0096B4", "#788700", "#694BF0",
)  # fmt: skip
"""Colors of categories. The first six are those of Okabe and Ito (2008) that show on white and differ for color-blind
readers; each of the others is as far as it can be from all before it, in OKLab (Ottosson 2020), as seen with full
vision and with red-green blindness (Machado et al. 2009)."""

MISSING = "#D9D9D9"
"""Cells without a value or a label."""

ACTIVATION, INHIBITION = "#0072B2", "#D55E00"
"""Edges of positive and of negative weight."""

STABILIZING, DESTABILIZING = "#2166AC", "#B2182B"
"""Shifts of growth rates down and up, as in `diverging`."""

_DPI = 150
_LEGEND_ROWS = 18
_WIDEST_NAME = 36


def palette(n: int) -> list[str]:
    """Return `n` colors; beyond the length of `PALETTE` they repeat.

    Examples
    --------
    >>> palette(2)
    ['#0072B2', '#E69F00']
    """
    return [PALETTE[position % len(PALETTE)] for position in range(n)]


def diverging() -> Colormap:
    """Return the color map of quantities with a sign: blue below 0, red above, gray at 0 (white would not show)."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = ["#053061", STABILIZING, "#67A9CF", "#BDBDB4", "#EF8A62", DESTABILIZING, "#67001F"]
    return LinearSegmentedColormap.from_list("stability", colors)


def axes_for(ax: Axes | None, save: str | Path | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or axes in a new figure of `size` inches.

    The new figure belongs to pyplot, which is what shows it in a notebook or a window; one that goes to a file
    does not, so that a script that saves many leaves none open.
    """
    if ax is not None:
        return ax
    if save is not None:
        from matplotlib.figure import Figure

        return Figure(figsize=size, layout="constrained").add_subplot()
    import matplotlib.pyplot as plt

    return plt.figure(figsize=size, layout="constrained").add_subplot()


def grid(
    n: int, ncols: int, panel: tuple[float, float], **options: Any
) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Return a figure with `n` axes in rows of at most `ncols`, each of `panel` inches, and the axes.

    It does not belong to pyplot: the caller is handed the figure, which a notebook shows as the value of the cell; if
    pyplot had it too, it would be shown twice.
    """
    from stabdask.plotting.figures import GridFigure

    if ncols < 1:
        raise UsageError(f"ncols={ncols}; expected at least 1")
    columns = max(1, min(n, ncols))
    rows = max(1, -(-n // columns))
    # One column alone still has room for the labels of the whole.
    figure = GridFigure(figsize=(max(4.5, panel[0] * columns), panel[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in axes[n:]:
        unused.set_visible(False)
    return figure, axes[:n]


def label_outer(axes: Sequence[Axes] | npt.NDArray[np.object_], ncols: int) -> None:
    """Give shared axes their numbers: at the left, and below the last of every column."""
    n_columns = max(1, min(len(axes), ncols))
    for position, ax in enumerate(axes):
        first, last = position % n_columns == 0, position + n_columns >= len(axes)
        ax.tick_params(labelleft=first, labelbottom=last, labelsize="small")


def check_count(name: str, value: int) -> None:
    """Raise unless an option is 1 or more.

    Raises
    ------
    UsageError
        If it is not.
    """
    if value < 1:
        raise UsageError(f"{name}={value}; expected at least 1")


def check_save(save: str | Path | None) -> None:
    """Raise before any work if a figure could not be saved under that name.

    Raises
    ------
    UsageError
        If its ending is not that of a kind of picture.
    OutputError
        If its folder does not exist.
    """
    if save is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(save)
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(f"save={str(save)!r}; expected a name that ends in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")


def save_figure(figure: Any, save: str | Path | None) -> None:
    """Write the whole figure that `figure` is, or is a part of, to a file; the same figure gives the same bytes.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if save is None:
        return
    import matplotlib as mpl

    path, data = Path(save), io.BytesIO()
    kind = path.suffix[1:].lower()
    # Neither a date nor random names of parts.
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with mpl.rc_context({"svg.hashsalt": "stabdask"}):
        # The canvas belongs to the whole figure, also where the axes are in a part of one.
        figure.canvas.figure.savefig(data, format=kind, dpi=_DPI, metadata=undated)
    write_atomically(path, data.getvalue())


def plain(texts: Iterable[Any]) -> None:
    """Show names as they are: dollar signs in them start no formulas."""
    for text in texts:
        text.set_parse_math(False)


def short(name: object, most: int = _WIDEST_NAME) -> str:
    """Return a name for a figure, its middle left out where it is long.

    Examples
    --------
    >>> short("hematopoietic stem and progenitor cell, day 7", 24)
    'hematopoieti…cell, day 7'
    """
    text = str(name)
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def count_text(n: int, noun: str = "cell") -> str:
    """Return ``1 cell`` or ``1,234 cells``.

    Examples
    --------
    >>> count_text(1234), count_text(1, "eigenvalue")
    ('1,234 cells', '1 eigenvalue')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def color_bar(
    ax: Axes, drawn: Any, label: str, *, values: npt.NDArray[Any] | None = None, whole: bool = False
) -> None:
    """Put a color bar to the right of axes; `whole` if values are whole numbers.

    It ends in points where some of `values`, NaN aside, are beyond the colors.
    """
    from matplotlib.ticker import MaxNLocator

    beyond = (False, False)
    if values is not None:
        beyond = bool((values < drawn.norm.vmin).any()), bool((values > drawn.norm.vmax).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    figure: Any = ax.figure
    ticks = MaxNLocator(integer=True) if whole else None
    bar = figure.colorbar(drawn, ax=ax, extend=extend, fraction=0.06, pad=0.02, aspect=24, ticks=ticks)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    plain([bar.ax.yaxis.label])


def legend_columns(n: int) -> int:
    """Return in how many columns `n` names go beside axes."""
    return max(1, -(-n // _LEGEND_ROWS))


def legend_width(names: Sequence[object]) -> float:
    """Return about how many inches a legend of `names` takes, to be added to the width of a new figure."""
    widest = max((len(short(name)) for name in names), default=0)
    return legend_columns(len(names)) * (0.35 + 0.075 * widest)


def legend_beside(ax: Axes, handles: Sequence[Any], names: Sequence[object]) -> Any:
    """Put a legend to the right of axes.

    Handles and names are given, because a legend would leave out names that begin with "_".
    """
    legend = ax.legend(
        handles,
        [short(name) for name in names],
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.3,
        handletextpad=0.3,
        ncols=legend_columns(len(names)),
    )
    plain(legend.get_texts())
    return legend
