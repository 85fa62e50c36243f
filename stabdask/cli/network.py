"""`network fit|plan|update|edges|compare`: precision matrices of genes, what changes them, and their edges."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.cli.common import add_json, figure, format_table, print_json
from stabdask.cli.network_fit import add_fit, add_output, add_plan, facts_of, open_network, read_table
from stabdask.errors import InputError, MissingKeyError, OutputError, UsageError, near_misses

if TYPE_CHECKING:
    import pandas as pd

    from stabdask.analysis.network import PrecisionMatrix

__all__ = ["add_commands"]

_STRONG = 0.15


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    network = commands.add_parser(
        "network",
        help="which genes vary together, given all others",
        description="Partial correlations of genes from a precision matrix that can be updated. Undirected, and not "
        "causal: the Jacobian of a fitted field is another thing.",
    )
    parts = network.add_subparsers(dest="part", metavar="PART", required=True, title="parts")
    add_fit(parts)
    add_plan(parts)
    _add_update(parts)
    _add_edges(parts)
    _add_compare(parts)


def _add_update(parts: Any) -> None:
    update = parts.add_parser("update", help="add pathways, or take them away, without inverting again")
    update.add_argument("network", type=Path, metavar="NETWORK", help="made by 'network fit'")
    update.add_argument(
        "--pathways",
        type=Path,
        required=True,
        metavar="FILE",
        help="loadings X of genes, a column for each pathway; the covariance becomes Sigma + X X^T. A .csv with names "
        "of genes in its first column (genes it lacks have 0), or a .npy in the order of the network",
    )
    update.add_argument("--remove", action="store_true", help="take them away: Sigma - X X^T")
    _add_memory(update)
    add_output(update)
    update.set_defaults(execute=_update)


def _add_edges(parts: Any) -> None:
    edges = parts.add_parser("edges", help="the strongest partial correlations, and what the network is like")
    edges.add_argument("network", type=Path, metavar="NETWORK")
    which = edges.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, metavar="RHO", help="edges with |rho| of at least this")
    which.add_argument("--top", type=int, metavar="N", help="the N strongest (20)")
    which.add_argument("--fdr", type=float, metavar="RATE", help="edges at this false discovery rate")
    edges.add_argument(
        "--n-cells", type=float, metavar="N", help="cells, where the network does not know them"
    )
    _add_strong(edges)
    _add_memory(edges)
    edges.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all edges to a .csv")
    add_json(edges)
    edges.set_defaults(execute=_edges)


def _add_compare(parts: Any) -> None:
    compare = parts.add_parser("compare", help="two networks of the same genes: the edges that changed most")
    compare.add_argument("before", type=Path, metavar="BEFORE")
    compare.add_argument("after", type=Path, metavar="AFTER")
    compare.add_argument("--top", type=int, default=20, metavar="N", help="edges to show (20)")
    _add_strong(compare)
    compare.add_argument("-o", "--output", type=Path, metavar="FILE", help="write these edges to a .csv")
    add_json(compare)
    compare.set_defaults(execute=_compare)


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", metavar="SIZE", help="budget for a network in tiles (4GB)")


def _add_strong(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strong",
        type=float,
        default=_STRONG,
        metavar="RHO",
        help=f"|rho| that counts as strong ({_STRONG})",
    )


def _update(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import BlockedPrecision

    network = open_network(options.network, options.memory)
    loadings = _loadings(options.pathways, network.genes.tolist())
    if isinstance(network, BlockedPrecision):
        asked = {"downdate" if options.remove else "update": loadings}
        network = network.copy(options.output, **asked, overwrite=options.overwrite)
    else:
        (network.downdate if options.remove else network.update)(loadings)
        network.save(options.output, overwrite=options.overwrite)
    change = network.history[-1]
    facts = facts_of(network) | {"n_pathways": loadings.shape[1], "path": change.path, "drift": change.probe}
    if options.json:
        print_json(facts | {"output": str(options.output)})
        return 0
    done = "taken away" if options.remove else "added"
    print(f"pathways     {loadings.shape[1]:,} {done}, {change.path}; |Theta Sigma z - z| {change.probe:.1e}")
    print(f"written to   {options.output}")
    return 0


def _edges(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import BlockedPrecision, edges, statistics

    network = open_network(options.network, options.memory)
    chosen: dict[str, Any] = {"threshold": options.threshold, "top": options.top}
    if all(value is None for value in (*chosen.values(), options.fdr)):
        chosen["top"] = 20
    if isinstance(network, BlockedPrecision):
        if options.fdr is not None or options.n_cells is not None:
            raise UsageError(
                "--fdr and --n-cells are of networks in memory, for all pairs are tested together; this one is "
                "in tiles: take --threshold or --top"
            )
        table, facts = network.edges(**chosen), network.statistics(options.strong)
    else:
        rho = network.partial_correlations()
        n_cells = options.n_cells
        if n_cells is None and network.cells is not None:
            n_cells = network.cells.count
        # Without enough cells there are no p-values, which only --fdr needs.
        testable = n_cells is not None and n_cells > len(rho) + 1
        n_tested = n_cells if testable or options.fdr is not None else None
        table = edges(rho, network.genes, n_cells=n_tested, fdr=options.fdr, **chosen)
        facts = statistics(rho, options.strong)
    _write_table(table, options.output)
    if options.json:
        print_json({"statistics": facts, "edges": table.to_dict(orient="records")})
        return 0
    print(_statistics_text({"value": facts}, options.strong) + "\n\n" + _table_text(table))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import compare, statistics

    before, after = _in_memory(options.before), _in_memory(options.after)
    if before.genes.tolist() != after.genes.tolist():
        raise InputError(
            f"{options.before} and {options.after} are of different genes, or have them in another order; expected the "
            "same"
        )
    one, other = before.partial_correlations(), after.partial_correlations()
    table = compare(one, other, options.top, genes=before.genes)
    facts = {"before": statistics(one, options.strong), "after": statistics(other, options.strong)}
    _write_table(table, options.output)
    if options.json:
        print_json({**facts, "changes": table.to_dict(orient="records")})
        return 0
    print(_statistics_text(facts, options.strong) + "\n\n" + _table_text(table))
    return 0


def _in_memory(path: Path) -> PrecisionMatrix:
    """Open a network; one in tiles is brought into memory, or refused where it does not fit."""
    from stabdask.analysis.network import PrecisionMatrix

    network = open_network(path)
    return network if isinstance(network, PrecisionMatrix) else network.to_precision_matrix()


def _statistics_text(columns: dict[str, dict[str, float]], strong: float) -> str:
    names = {
        "n_strong": f"edges with |rho| >= {strong:g}",
        "density": "share of pairs",
        "mean_absolute": "mean |rho|",
        "max_absolute": "largest |rho|",
    }
    rows = [[text, *(figure(facts[name]) for facts in columns.values())] for name, text in names.items()]
    return format_table(["statistic", *columns], rows)


def _table_text(table: pd.DataFrame) -> str:
    if table.empty:
        return "no edges"
    rows = [
        [str(value) for value in row[:2]] + [figure(v) for v in row[2:]]
        for row in table.itertuples(index=False)
    ]
    return format_table([name.replace("_", " ") for name in table.columns], rows, n_left=2)


def _write_table(table: pd.DataFrame, path: Path | None) -> None:
    from stabdask.files import write_atomically

    if path is None:
        return
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--output {path}; expected a name that ends in .csv")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.absolute().parent} does not exist")
    write_atomically(path, table.to_csv(index=False).encode())


def _loadings(path: Path, genes: list[str]) -> npt.NDArray[np.float64]:
    """Return loadings with a row for each gene of the network."""
    values, rows, _ = read_table(path)
    if rows is None:
        return values
    place = {gene: number for number, gene in enumerate(genes)}
    for number, gene in enumerate(rows):
        if gene not in place:
            raise MissingKeyError(
                f"{path} has a gene {gene!r} that the network has not; {near_misses(gene, genes)}"
            )
        if gene in rows[:number]:
            raise InputError(f"{path} has the gene {gene!r} twice; expected one row for each gene")
    loadings = np.zeros((len(genes), values.shape[1]))
    loadings[[place[gene] for gene in rows]] = values
    return loadings
