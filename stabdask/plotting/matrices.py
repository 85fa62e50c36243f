"""Heat maps of quantities with a sign, between genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.plotting.style import color_bar, diverging, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_matrix", "largest", "matrix_size"]

_NAME = 18
_CELL = 0.23


def matrix_size(rows: Sequence[object], columns: Sequence[object]) -> tuple[float, float]:
    """Return the size, in inches, of a figure of a matrix with these names of rows and columns."""
    left, below = (0.075 * max(len(short(name, _NAME)) for name in names) for names in (rows, columns))
    return 1.5 + left + _CELL * max(len(columns), 6), 0.9 + below + _CELL * max(len(rows), 5)


def largest(values: npt.NDArray[np.float64], axis: int, top: int) -> npt.NDArray[np.intp]:
    """Return which rows (0) or columns (1) of a matrix have the largest absolute values, the largest first.

    At most `top`, and none that holds nothing but 0 and NaN.
    """
    size = np.nan_to_num(np.abs(values), posinf=0.0).max(axis=1 - axis)
    order: npt.NDArray[np.intp] = np.argsort(-size, kind="stable")[:top]
    found: npt.NDArray[np.intp] = order[size[order] > 0]
    return found


def draw_matrix(
    ax: Axes,
    values: npt.NDArray[np.float64],
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    label: str,
    names: tuple[str, str] = ("effector", "regulator"),
    most: float | None = None,
) -> None:
    """Draw a matrix in colors centered on 0; what is NaN is left pale.

    Parameters
    ----------
    ax
        Axes to draw into.
    values
        ``(row, column)``, one of them finite at least.
    rows, columns
        Their names.
    label
        Of the color bar.
    names
        What rows and columns are.
    most
        Where colors end; the largest absolute value if not given.
    """
    size = np.abs(values[np.isfinite(values)])
    end = (size.max() if most is None else most) or 1.0
    ax.set_facecolor("#EDEDED")
    image = ax.imshow(values, cmap=diverging(), vmin=-end, vmax=end, aspect="auto", interpolation="nearest")
    labels = [[short(name, _NAME) for name in part] for part in (rows, columns)]
    ax.set_yticks(np.arange(len(rows)), labels=labels[0], fontsize="small")
    ax.set_xticks(np.arange(len(columns)), labels=labels[1], rotation=90, fontsize="small")
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    plain([*ax.get_xticklabels(), *ax.get_yticklabels()])
    ax.set_ylabel(names[0])
    ax.set_xlabel(names[1])
    color_bar(ax, image, label, values=values)
