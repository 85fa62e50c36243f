"""What several commands share: tables, JSON, arguments of stores."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.files import location

if TYPE_CHECKING:
    import xarray as xr


__all__ = [
    "add_json",
    "add_store",
    "figure",
    "fit_table",
    "format_table",
    "group_labels",
    "group_rows",
    "plain_values",
    "print_json",
    "shorten",
    "summary_table",
    "unseen_groups",
]

_WIDTH = 100
"""Most columns of a table."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print numbers as JSON on stdout")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the positional path of a store."""
    parser.add_argument(
        "store", type=location, metavar="STORE", help="store of a run, e.g. out.zarr or s3://bucket/out.zarr"
    )


def group_labels(ds: xr.Dataset, text: str) -> list[str]:
    """Return the labels that --by names; one whose name has a comma is taken as it is."""
    return [text] if text in ds.variables else [name.strip() for name in text.split(",")]


def print_json(values: Any) -> None:
    """Print values as one JSON document; NaN and infinities become null."""
    print(json.dumps(plain_values(values), indent=2, ensure_ascii=False))


def plain_values(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, complex numbers as two, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, complex):
        return {"real": plain_values(value.real), "imag": plain_values(value.imag)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_left: int = 1) -> str:
    """Return a table with the first `n_left` columns left-aligned and the others right-aligned."""
    widths = _widths(header, rows)
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(w) if i < n_left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]


def fit_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, n_left: int = 1, spare: Sequence[str] = ()
) -> str:
    """Return a table of at most 100 columns: long labels are shortened, then columns left out and named.

    Parameters
    ----------
    header, rows
        The table.
    n_left
        How many columns are labels, on the left.
    spare
        Columns that may be left out, the first first.
    """
    n_all, longest = len(header), max(12, 36 // n_left)
    rows = [[*(shorten(cell, longest) for cell in row[:n_left]), *row[n_left:]] for row in rows]
    dropped = []
    for name in spare:
        if sum(_widths(header, rows)) + 2 * (len(header) - 1) <= _WIDTH:
            break
        if name in header:
            place = list(header).index(name)
            header, rows = _without(header, place), [_without(row, place) for row in rows]
            dropped.append(name)
    text = format_table(header, rows, n_left=n_left)
    if len(header) < n_all:
        text += f"\n(left out to fit {_WIDTH} columns: {', '.join(dropped)}; --json has all)"
    return text


def _without(row: Sequence[str], place: int) -> list[str]:
    return [*row[:place], *row[place + 1 :]]


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` printable characters, with ".." for what is left out of its middle.

    Examples
    --------
    >>> shorten("hematopoietic stem cell", 16)
    'hematop..em cell'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def group_rows(summary: xr.Dataset, *, unseen: bool = False) -> list[tuple[tuple[int, ...], list[str]]]:
    """Return position and labels of the groups; of several labels, those that some cell has or all if `unseen`."""
    dims = summary["n_cells"].dims
    counts = summary["n_cells"].to_numpy()
    labels = [[str(label) for label in summary[dim].to_numpy()] for dim in dims]
    return [
        (place, [names[i] for names, i in zip(labels, place, strict=True)])
        for place in np.ndindex(counts.shape)
        if unseen or len(dims) == 1 or counts[place]
    ]


def summary_table(summary: xr.Dataset) -> str:
    """Return the per-group table people want first; speed stands beside stability.

    Most cells are no fixed points, and far from one eigenvalues say little. Where some are still to be computed, it
    says how many are.
    """
    columns = [
        ("abscissa", "spectral_abscissa", "mean"),
        ("+-", "spectral_abscissa", "std"),
        ("max", "spectral_abscissa", "max"),
        ("reactivity", "reactivity", "mean"),
        ("unstable", "unstable_count", "mean"),
        ("in cells", "unstable_fraction", None),
        ("frequency", "leading_frequency", "mean"),
        ("trace", "trace", "mean"),
        ("rotation", "rotational_norm", "mean"),
        ("speed", "speed", "mean"),
    ]
    shown = [
        (head, (summary[name] if statistic is None else summary[name].sel(statistic=statistic)).to_numpy())
        for head, name, statistic in columns
        if name in summary.data_vars
    ]
    dims = [str(dim) for dim in summary["n_cells"].dims]
    numbers = {"cells": summary["n_cells"].to_numpy(), "failed": summary["n_failed"].to_numpy()}
    computed = summary["n_computed"].to_numpy()
    if (computed < numbers["cells"]).any():
        numbers = {"cells": numbers["cells"], "computed": computed, "failed": numbers["failed"]}
    rows = []
    for place, labels in group_rows(summary):
        figures = [
            _percent(values[place]) if head == "in cells" else figure(values[place]) for head, values in shown
        ]
        rows.append([*labels, *(f"{values[place]:,}" for values in numbers.values()), *figures])
    header = [*dims, *numbers, *(head for head, _ in shown)]
    return fit_table(
        header, rows, n_left=len(dims), spare=("rotation", "trace", "frequency", "max", "+-")
    ) + unseen_groups(summary)


def unseen_groups(summary: xr.Dataset) -> str:
    """Return a line that says how many combinations of labels no cell has, if any are left out of a table."""
    n_unseen = int((summary["n_cells"].to_numpy() == 0).sum())
    if not n_unseen or summary["n_cells"].ndim == 1:
        return ""
    return f"\n(not shown: {n_unseen:,} combinations that no cell has)"


def figure(value: float) -> str:
    """Return a number in a table, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}%"
