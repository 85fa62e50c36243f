"""`knockouts`: what becomes of the stability of cells without single regulators, or pairs of them."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.cli.arguments import add_input_arguments, open_inputs, parse_elements, parse_genes
from stabdask.cli.common import add_json, figure, fit_table, plain_values, print_json
from stabdask.errors import OutputError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["add_commands"]

_ENDINGS = (".json", ".csv")


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
    what.add_argument(
        "--missing-cluster",
        default="error",
        metavar="HOW",
        help="cells whose cluster has no parameters: 'error', 'skip', or 'W_<cluster>' to use that cluster's",
    )
    what.add_argument(
        "--tolerance", type=float, default=0.0, help="real parts above this count as unstable (0)"
    )
    what.add_argument("--backend", default="auto", help="eigensolver backend (auto)")
    what.add_argument("--workers", type=int, default=0, help="worker processes (0: threads of this process)")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows printed of each end of each cluster (10)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the whole table to a .csv or a .json"
    )
    add_json(parser)
    parser.set_defaults(execute=_knockouts)


def _knockouts(options: argparse.Namespace) -> int:
    _check(options)
    from stabdask.analysis.knockout_ranking import rank_knockouts
    from stabdask.runs.knockouts import knockouts

    cells, field = open_inputs(options)
    context: Any = nullcontext()
    if options.workers:
        from stabdask.clusters import local_client

        context = local_client(n_workers=options.workers, memory_limit=None, dashboard=False)
    pairs = None
    if options.pairs is not None:
        pairs = parse_elements(options.pairs, set(field.genes.tolist()), "--pairs")
    with context as client:
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
            client=client,
        )
    table = rank_knockouts(ds)
    values = _values(ds, table)
    if options.output is not None:
        _write(table, values, options.output)
    if options.json:
        print_json(values)
    else:
        print(_text(ds, table, rank_knockouts(ds, top=options.top)))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what would fail after the work, before it."""
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers}; expected at least 0")
    if options.top < 1:
        raise UsageError(f"--top {options.top}; expected at least 1")
    path = options.output
    if path is None:
        return
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--output {path}; expected a name that ends in {' or '.join(_ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.absolute().parent} does not exist")


def _write(table: pd.DataFrame, values: dict[str, Any], path: Path) -> None:
    from stabdask.files import write_atomically

    if path.suffix.lower() == ".csv":
        text = table.to_csv(index=False)
    else:
        text = json.dumps(plain_values(values), indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


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
    lines = [fit_table(header, rows, n_left=2, spare=("median", "unstable", "cells")), ""] if rows else []
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
