"""`knockouts`: what becomes of the stability of cells without single regulators, or pairs of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stabdask.cli.arguments import (
    BACKENDS_HELP,
    add_input_arguments,
    add_missing_cluster_argument,
    open_inputs,
    parse_elements,
    parse_genes,
)
from stabdask.cli.common import figure, fit_table, print_json
from stabdask.cli.scans import (
    add_output_arguments,
    add_workers_argument,
    check_scan,
    client_of,
    write_result,
)
from stabdask.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["add_commands"]

_LEGEND = """\
shift, median: mean and median change of the spectral abscissa (1/time), below 0 where cells get more stable;
predicted: the mean to first order. stabilized: cells that had unstable modes and lose all; destabilized: cells
that had none and get some. unstable: mean change of the number of unstable modes. cells: how many these are of.
"""


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "knockouts",
        help="spectra of cells without single regulators, or pairs of them",
        description="Solve the Jacobian of every cell without each regulator: its row, its column and its own "
        "eigenvalue are gone. The state stays as it is. Ranks them by how much they move the spectral abscissa of "
        "each cluster, negative where the cells get more stable.",
    )
    add_input_arguments(parser)
    what = parser.add_argument_group("knockouts")
    what.add_argument(
        "--regulators",
        metavar="GENE,...",
        help="genes to remove, or @FILE with one a line (all regulators of the field)",
    )
    what.add_argument("--order", type=int, choices=(1, 2), default=1, help="2: all pairs of them (1)")
    what.add_argument("--pairs", metavar="A:B,...", help="these pairs instead, or @FILE with one pair a line")
    what.add_argument(
        "--screen",
        type=int,
        metavar="K",
        help="solve only the K of each cluster with the largest shift predicted to first order",
    )
    what.add_argument("--n-cells", type=int, metavar="N", help="cells of each cluster, at random (all)")
    what.add_argument("--seed", type=int, default=0, help="of the cells drawn (0)")
    add_missing_cluster_argument(what)
    what.add_argument(
        "--tolerance", type=float, default=0.0, help="real parts above this count as unstable (0)"
    )
    what.add_argument("--backend", default="auto", metavar="NAME", help=f"eigensolver: {BACKENDS_HELP}")
    what.add_argument("--memory", metavar="SIZE", help="what results may take, e.g. 4GB (what is available)")
    add_workers_argument(what)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows printed of each end of each cluster (10)"
    )
    add_output_arguments(parser, "the whole table to a .csv or a .json")
    parser.set_defaults(execute=_knockouts)


def _knockouts(options: argparse.Namespace) -> int:
    check_scan(options)
    if options.top < 1:
        raise UsageError(f"--top {options.top}; expected at least 1")
    from stabdask.analysis.knockout_ranking import rank_knockouts
    from stabdask.runs.knockouts import knockouts

    cells, field = open_inputs(options)
    pairs = None
    if options.pairs is not None:
        pairs = parse_elements(options.pairs, set(field.genes.tolist()), "--pairs")
    with client_of(options) as client:
        ds = knockouts(
            field=field,
            cells=cells,
            regulators=parse_genes(options.regulators, "--regulators"),
            order=options.order,
            pairs=pairs,
            screen=options.screen,
            n_cells=options.n_cells,
            seed=options.seed,
            missing_cluster=options.missing_cluster,
            tolerance=options.tolerance,
            backend=options.backend,
            memory=options.memory,
            client=client,
        )
    table = rank_knockouts(ds)
    values = _values(ds, table)
    if options.output is not None:
        write_result(options.output, values, lambda: table)
    if options.json:
        print_json(values)
    else:
        print(_text(ds, table, rank_knockouts(ds, top=options.top)))
    return 0


def _values(ds: xr.Dataset, table: pd.DataFrame) -> dict[str, Any]:
    """Return the whole table, one entry a row, and how it was made."""
    return {
        "options": dict(ds.attrs),
        "n_cells": ds.sizes["cell"],
        "n_failed": table.attrs["n_failed"],
        "knockouts": table.to_dict(orient="records"),
    }


def _text(ds: xr.Dataset, table: pd.DataFrame, ends: pd.DataFrame) -> str:
    rows = [
        [
            str(row["cluster"]),
            str(row["knockout"]),
            *(figure(row[name]) for name in ("mean_shift", "median_shift", "predicted_shift")),
            *(f"{100 * row[name]:.1f}%" for name in ("stabilized", "destabilized")),
            figure(row["unstable_change"]),
            f"{row['n_cells']:,}",
        ]
        for row in ends.to_dict(orient="records")
    ]
    header = ["cluster", "knockout", "shift", "median", "predicted", "stabilized", "destabilized"]
    header += ["unstable", "cells"]
    lines = (
        [fit_table(header, rows, n_left=2, spare=("median", "unstable", "cells")), "", _LEGEND]
        if rows
        else []
    )
    n_still = int((table["mean_shift"] == 0).sum())
    n_failed = table.attrs["n_failed"]
    lines.append(f"{ds.sizes['knockout']:,} knockouts in {ds.sizes['cell'] - n_failed:,} cells")
    if len(ends) < len(table):
        lines.append(
            f"(shown: {len(ends):,} of {len(table):,} rows, of which {n_still:,} do not move; -o has all)"
        )
    if n_failed:
        lines.append(f"{n_failed:,} cells could not be computed (no finite input, label or model)")
    if "screened" in ds.attrs:
        lines.append(str(ds.attrs["screened"]))
    return "\n".join(lines)
