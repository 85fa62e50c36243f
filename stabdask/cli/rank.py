"""`rank`: regulators, effectors and pairs of genes by the mean Jacobian of a cluster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stabdask.cli.common import add_json, add_store, figure, format_table, print_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    from stabdask.analysis.rankings import MODES

    rank = commands.add_parser(
        "rank",
        help="which regulators act most on which effectors, by cluster",
        description="Rank elements of the mean Jacobian of a cluster. Needs a run with --effectors, --regulators and "
        "--quantities default,jacobian_mean.",
    )
    add_store(rank)
    rank.add_argument("--cluster", action="append", metavar="LABEL", help="may be repeated (all clusters)")
    rank.add_argument(
        "--mode",
        choices=MODES,
        default="int",
        help="'full reg': regulators of each effector; 'full eff': effectors of each regulator; 'reg', 'eff': by their "
        "means; 'int': pairs (default); 'switch': pairs that inhibit each other",
    )
    rank.add_argument("--absolute", action="store_true", help="rank by means of absolute values")
    rank.add_argument("--exclude-diagonal", action="store_true", help="leave out what a gene does to itself")
    rank.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows; of each gene in the full modes (10)"
    )
    add_json(rank)
    rank.set_defaults(execute=_rank)


def _rank(options: argparse.Namespace) -> int:
    from stabdask.analysis.rankings import rank_elements
    from stabdask.runs.results import open_results

    ds = open_results(options.store)
    labels = options.cluster or [str(label) for label in ds["cluster"].to_numpy()]
    tables = {
        label: rank_elements(
            ds,
            label,
            mode=options.mode,
            absolute=options.absolute,
            exclude_diagonal=options.exclude_diagonal,
            top=options.top,
        )
        for label in labels
    }
    if options.json:
        rows = {label: {**t.attrs, "rows": t.to_dict(orient="records")} for label, t in tables.items()}
        print_json(rows)
    else:
        print("\n\n".join(_text(label, table) for label, table in tables.items()))
    return 0


def _text(label: str, table: pd.DataFrame) -> str:
    names = [name for name in ("effector", "regulator") if name in table]
    columns = [table[name].tolist() for name in (*names, "value")]
    rows = [[*map(str, row[:-1]), figure(row[-1])] for row in zip(*columns, strict=True)]
    unit = "1/time^2" if table.attrs["mode"] == "switch" else "1/time"
    what = "mean |J|" if table.attrs["absolute"] else "mean J"
    if table.attrs["mode"] == "switch":
        what = "mean J_ij J_ji where both are negative"
    head = f"{label}: {table.attrs['mode']}, {what} over {table.attrs['n_cells']:,} cells ({unit})"
    return head + "\n" + format_table([*names, "value"], rows, n_left=len(names))
