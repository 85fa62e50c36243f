"""What several commands share: arguments of a job, tables, JSON."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.cli.sample import add_sample_arguments, sampled_cells
from stabdask.errors import MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = [
    "add_input_arguments",
    "add_job_arguments",
    "add_json",
    "add_store",
    "figure",
    "fit_table",
    "format_table",
    "group_labels",
    "group_rows",
    "job_inputs",
    "job_options",
    "parse_elements",
    "parse_genes",
    "parse_names",
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
    parser.add_argument("--json", action="store_true", help="print figures as JSON on stdout")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the positional path of a store."""
    parser.add_argument("store", type=Path, metavar="STORE", help="store of a run, e.g. out.zarr")


def add_input_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add what says which cells and which field; return the group of these arguments."""
    data = parser.add_argument_group("input")
    data.add_argument(
        "atlas", nargs="+", type=Path, help="h5ad or zarr AnnData; several are read as one atlas"
    )
    data.add_argument(
        "--field", required=True, type=Path, metavar="MODEL", help="fitted field: .h5sch, .h5ad or .zarr"
    )
    place = data.add_mutually_exclusive_group()
    place.add_argument("--layer", help="layer with the expression (X if not given)")
    place.add_argument(
        "--obsm",
        metavar="KEY",
        help="coordinates of cells in obsm, for a field that lives on its axes (those of its basis, e.g. X_pca)",
    )
    data.add_argument(
        "--cluster-key", help="column of obs with cluster labels (one cluster 'all' if not given)"
    )
    parser.set_defaults(obs="", embedding="")
    return data


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which cells, which field, and what to compute."""
    data = add_input_arguments(parser)
    data.add_argument(
        "--missing-cluster",
        default="error",
        metavar="HOW",
        help="cells whose cluster has no parameters: 'error', 'skip', or 'W_<cluster>' to use that cluster's",
    )
    data.add_argument(
        "--obs",
        default="",
        metavar="NAME[=COLUMN],...",
        help="columns of obs to bring along into the results as labels or numbers, e.g. batch,age=pseudotime",
    )
    data.add_argument(
        "--embedding",
        default="",
        metavar="[NAME=]KEY,...",
        help="embeddings in obsm to bring along into the results, e.g. X_umap",
    )
    add_sample_arguments(data)
    what = parser.add_argument_group("what to compute")
    what.add_argument("--spectrum", choices=("full", "leading", "none"), default="full", help="default: full")
    what.add_argument(
        "--modes",
        type=int,
        help="leading modes with vectors, or kept by --spectrum leading (10; 3 for drivers alone)",
    )
    what.add_argument("--vectors", choices=("none", "right", "both"), default="none", help="default: none")
    what.add_argument(
        "--elements",
        default="",
        metavar="I:J,...",
        help="Jacobian elements effector:regulator, e.g. GATA1:GATA2,FLI1:KLF1, or @FILE with one pair a line",
    )
    for option in ("effectors", "regulators"):
        what.add_argument(
            f"--{option}",
            default=None,
            metavar="GENE,...",
            help=f"{option} of the elements between all chosen genes (quantities jacobian, jacobian_mean, response, "
            "dynamo_sensitivity), or @FILE with one gene a line",
        )
    what.add_argument(
        "--quantities",
        default=None,
        metavar="NAME,...",
        help="what to keep beside eigenvalues (default); e.g. default,reactivity,drivers",
    )
    what.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="of the eigensolver")
    what.add_argument("--backend", default="auto", help="eigensolver backend (auto)")
    what.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="real parts within +- this count as neither stable nor unstable",
    )
    what.add_argument(
        "--residual-tolerance",
        type=float,
        default=1e-6,
        help="relative residual at which leading modes of large cores are taken as found (1e-6)",
    )
    how = parser.add_argument_group("resources")
    how.add_argument(
        "--workers", type=int, help="worker processes; 0 computes in this process (as many as cores)"
    )
    how.add_argument(
        "--gpu",
        action="store_true",
        help="one worker per GPU of this host, backend cuda (for leading modes of large cores krylov:cuda) unless one "
        "is named (needs the cuda12 or cuda13 extra)",
    )
    how.add_argument("--memory", help="budget for all processes together, e.g. 4GB")
    how.add_argument("--partition-cells", type=int, help="cells in a partition (chosen by size)")


def job_inputs(options: argparse.Namespace) -> tuple[xr.Dataset, Field]:
    """Open cells and field as the arguments say."""
    from stabdask.atlas.cells import open_cells
    from stabdask.fields.reading import read_field

    field = read_field(options.field)
    atlas = [str(path) for path in options.atlas]
    obsm = options.obsm or (None if options.layer else field.obsm)
    cells = open_cells(
        atlas,
        layer=options.layer,
        obsm=obsm,
        cluster_key=options.cluster_key,
        genes=field.axes.tolist() if obsm is None and field.obsm is None else None,
        obs_keys=parse_names(options.obs, "--obs"),
        embeddings=parse_names(options.embedding, "--embedding"),
    )
    return sampled_cells(cells, field, options), field


def job_options(options: argparse.Namespace, field: Field) -> dict[str, Any]:
    """Return the keyword options of a job."""
    return {
        "missing_cluster": options.missing_cluster,
        "partition_cells": options.partition_cells,
        "spectrum": options.spectrum,
        "modes": options.modes,
        "vectors": options.vectors,
        "elements": parse_elements(options.elements, set(field.genes.tolist())),
        "effectors": parse_genes(options.effectors, "--effectors"),
        "regulators": parse_genes(options.regulators, "--regulators"),
        "quantities": None if options.quantities is None else options.quantities.split(","),
        "dtype": options.dtype,
        "backend": options.backend,
        "tolerance": options.tolerance,
        "residual_tolerance": options.residual_tolerance,
    }


def parse_elements(text: str, genes: set[str]) -> list[tuple[str, str]]:
    """Return (effector, regulator) pairs from ``I:J,K:L`` or ``@FILE``.

    Gene names may hold colons: a pair is split where both sides are genes.

    Examples
    --------
    >>> parse_elements("GATA1:GATA2,H:1:FLI1", {"GATA1", "GATA2", "H:1", "FLI1"})
    [('GATA1', 'GATA2'), ('H:1', 'FLI1')]
    """
    items = _items(text, "pairs")
    pairs = []
    for item in (item.strip() for item in items):
        if not item:
            continue
        tabbed = item.split("\t")
        if len(tabbed) == 2:
            pairs.append((tabbed[0].strip(), tabbed[1].strip()))
            continue
        parts = item.split(":")
        splits = [(":".join(parts[:i]), ":".join(parts[i:])) for i in range(1, len(parts))]
        if not splits:
            raise UsageError(f"element {item!r} is no pair; expected effector:regulator, e.g. GATA1:GATA2")
        known = [pair for pair in splits if pair[0] in genes and pair[1] in genes]
        if not known:
            unknown = next(gene for gene in splits[0] if gene not in genes)
            hint = near_misses(unknown, sorted(genes), noun="genes")
            raise MissingKeyError(f"gene {unknown!r} in --elements is not in the field; {hint}")
        pairs.append(known[0])
    return pairs


def parse_genes(text: str | None, option: str) -> list[str] | None:
    """Return the names of genes in ``A,B`` or in ``@FILE``; None for no text.

    Examples
    --------
    >>> parse_genes("GATA1, FLI1", "--effectors")
    ['GATA1', 'FLI1']
    """
    if text is None:
        return None
    genes = [item.strip() for item in _items(text, "genes") if item.strip()]
    if not genes:
        raise UsageError(
            f"{option} {text!r} names no gene; expected GENE,GENE,... or @FILE with one gene a line"
        )
    return genes


def _items(text: str, what: str) -> list[str]:
    """Return what stands between commas, or in the lines of ``@FILE``."""
    if not text.startswith("@"):
        return text.split(",")
    path = Path(text[1:])
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read the {what} in {path}: {reason}") from error


def parse_names(text: str, option: str) -> dict[str, str]:
    """Return name -> key from ``NAME,NEW=KEY``.

    A key with a comma or an equals sign can be named from Python only.

    Examples
    --------
    >>> parse_names("batch, age=pseudotime", "--obs")
    {'batch': 'batch', 'age': 'pseudotime'}
    """
    names: dict[str, str] = {}
    for item in (item.strip() for item in text.split(",")):
        if not item:
            continue
        name, _, key = (part.strip() for part in item.partition("="))
        key = key if "=" in item else name
        if not name or not key:
            raise UsageError(
                f"{option} {item!r} is no name; expected NAME or NEW_NAME=NAME, comma between them"
            )
        if name in names:
            raise UsageError(f"{option} names {name!r} twice; name each once")
        names[name] = key
    return names


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

    Most cells are no fixed points, and far from one eigenvalues say little.
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
    counts, failed = summary["n_cells"].to_numpy(), summary["n_failed"].to_numpy()
    rows = []
    for place, labels in group_rows(summary):
        figures = [
            _percent(values[place]) if head == "in cells" else figure(values[place]) for head, values in shown
        ]
        rows.append([*labels, f"{counts[place]:,}", f"{failed[place]:,}", *figures])
    header = [*dims, "cells", "failed", *(head for head, _ in shown)]
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
