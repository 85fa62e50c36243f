"""`drivers`: which genes the leading modes of clusters belong to, and which edges move them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stabdask.cli.common import add_json, add_store, figure, format_table, print_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    drivers = commands.add_parser(
        "drivers",
        help="genes and edges behind the leading mode of each cluster",
        description="Rank genes by participation in the leading mode of a cluster, and edges by how much the growth "
        "rate of that mode changes with their weight. Needs a run with --quantities default,drivers.",
    )
    add_store(drivers)
    drivers.add_argument("--cluster", action="append", metavar="LABEL", help="may be repeated (all clusters)")
    drivers.add_argument("--top", type=int, default=10, metavar="N", help="genes and edges a cluster (10)")
    drivers.add_argument(
        "--mode", type=int, default=0, help="mode of the core for genes (0, the leading one)"
    )
    drivers.add_argument(
        "--by",
        choices=("sensitivity", "contribution"),
        default="sensitivity",
        help="what ranks edges (sensitivity)",
    )
    add_json(drivers)
    drivers.set_defaults(execute=_drivers)


def _drivers(options: argparse.Namespace) -> int:
    from stabdask.analysis.drivers import driver_edges, driver_genes
    from stabdask.runs.results import open_results

    ds = open_results(options.store)
    labels = options.cluster or [str(label) for label in ds["cluster"].to_numpy()]
    # Means of clusters are small; all are looked at.
    ds = ds[
        [name for name in ds.data_vars if "cell" not in ds[name].dims or name == "cluster_code"]
    ].compute()
    tables = {
        label: (
            driver_genes(ds, label, mode=options.mode, top=options.top),
            driver_edges(ds, label, by=options.by, top=options.top),
        )
        for label in labels
    }
    if options.json:
        print_json(
            {
                label: {
                    **genes.attrs,
                    "genes": genes.to_dict(orient="records"),
                    "edges": edges.to_dict(orient="records"),
                }
                for label, (genes, edges) in tables.items()
            }
        )
    else:
        print("\n\n".join(_text(genes, edges) for genes, edges in tables.values()))
    return 0


def _text(genes: pd.DataFrame, edges: pd.DataFrame) -> str:
    known = genes.attrs
    leads = (
        ""
        if known["leading_fraction"] >= 1 or not known["n_cells"] or known["mode"]
        else f"; in {1 - known['leading_fraction']:.1%} of them a gene outside the core sets the spectral abscissa"
    )
    lines = [f"{known['cluster']}: mode {known['mode']} of {known['n_cells']:,} cells{leads}"]
    columns = [genes[name].tolist() for name in ("gene", "participation", "std")]
    rows = [[name, f"{share:.3f}", f"{std:.3f}"] for name, share, std in zip(*columns, strict=True)]
    lines += [format_table(["gene", "participation", "+-"], rows), ""]
    numbers = edges[["sensitivity", "std", "weight", "contribution"]].to_numpy(dtype=float)
    rows = [
        [f"{regulator} {'-|' if values[2] < 0 else '->'} {effector}", *map(figure, values)]
        for regulator, effector, values in zip(edges["regulator"], edges["effector"], numbers, strict=True)
    ]
    weight = "mean J" if edges.attrs.get("of") == "J" else "weight"
    lines.append(format_table(["edge", "sensitivity", "+-", weight, "contribution"], rows))
    return "\n".join(lines)
