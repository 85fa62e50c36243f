"""`network fit|update|edges|compare`: precision matrices of genes, what changes them, and their edges."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.cli.arguments import parse_genes
from stabdask.cli.common import add_json, figure, format_table, print_json
from stabdask.errors import InputError, MissingKeyError, OutputError, UsageError, near_misses
from stabdask.files import location

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
    _add_fit(parts)
    _add_update(parts)
    _add_edges(parts)
    _add_compare(parts)


def _add_fit(parts: Any) -> None:
    fit = parts.add_parser("fit", help="from the cells of an atlas, or from a covariance matrix")
    fit.add_argument(
        "atlas", nargs="*", type=location, help="h5ad or zarr AnnData; several are read as one atlas"
    )
    fit.add_argument("--layer", help="layer with the expression (X if not given)")
    fit.add_argument("--cluster-key", help="column of obs with cluster labels")
    fit.add_argument("--cluster", metavar="LABEL", help="the cells of this cluster only")
    fit.add_argument(
        "--genes", default="", metavar="GENE,...", help="these genes, or @FILE with one a line (all)"
    )
    fit.add_argument(
        "--covariance",
        type=Path,
        metavar="FILE",
        help="instead of an atlas: a .csv with names of genes in its first row and column, or a .npy without names",
    )
    fit.add_argument(
        "--shrinkage",
        choices=("none", "fixed", "ledoit-wolf"),
        help="toward equal variances; as much as --amount says, or estimated (ledoit-wolf, for an atlas)",
    )
    fit.add_argument("--amount", type=float, metavar="SHARE", help="of --shrinkage fixed, from 0 to 1")
    fit.add_argument(
        "--skip-missing", action="store_true", help="leave out cells with values that are not finite"
    )
    _add_output(fit)
    fit.set_defaults(execute=_fit)


def _add_update(parts: Any) -> None:
    update = parts.add_parser("update", help="add pathways, or take them away, without inverting again")
    update.add_argument("network", type=location, metavar="NETWORK", help="made by 'network fit'")
    update.add_argument(
        "--pathways",
        type=Path,
        required=True,
        metavar="FILE",
        help="loadings X of genes, a column for each pathway; the covariance becomes Sigma + X X^T. A .csv with names "
        "of genes in its first column (genes it lacks have 0), or a .npy in the order of the network",
    )
    update.add_argument("--remove", action="store_true", help="take them away: Sigma - X X^T")
    _add_output(update)
    update.set_defaults(execute=_update)


def _add_edges(parts: Any) -> None:
    edges = parts.add_parser("edges", help="the strongest partial correlations, and what the network is like")
    edges.add_argument("network", type=location, metavar="NETWORK")
    which = edges.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, metavar="RHO", help="edges with |rho| of at least this")
    which.add_argument("--top", type=int, metavar="N", help="the N strongest (20)")
    which.add_argument("--fdr", type=float, metavar="RATE", help="edges at this false discovery rate")
    edges.add_argument(
        "--n-cells", type=float, metavar="N", help="cells, where the network does not know them"
    )
    _add_strong(edges)
    edges.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all edges to a .csv")
    add_json(edges)
    edges.set_defaults(execute=_edges)


def _add_compare(parts: Any) -> None:
    compare = parts.add_parser("compare", help="two networks of the same genes: the edges that changed most")
    compare.add_argument("before", type=location, metavar="BEFORE")
    compare.add_argument("after", type=location, metavar="AFTER")
    compare.add_argument("--top", type=int, default=20, metavar="N", help="edges to show (20)")
    _add_strong(compare)
    compare.add_argument("-o", "--output", type=Path, metavar="FILE", help="write these edges to a .csv")
    add_json(compare)
    compare.set_defaults(execute=_compare)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=location, required=True, metavar="NETWORK", help="where to write it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a network that is there")
    add_json(parser)


def _add_strong(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strong",
        type=float,
        default=_STRONG,
        metavar="RHO",
        help=f"|rho| that counts as strong ({_STRONG})",
    )


def _fit(options: argparse.Namespace) -> int:
    if bool(options.atlas) == (options.covariance is not None):
        raise UsageError("expected an atlas or --covariance FILE, and not both")
    network = _from_covariance(options) if options.covariance is not None else _from_atlas(options)
    network.save(options.output, overwrite=options.overwrite)
    facts = _facts(network) | {"output": str(options.output)}
    if options.json:
        print_json(facts)
        return 0
    cells = "" if facts["n_cells"] is None else f", {facts['n_cells']:,.0f} cells"
    print(f"network      {facts['n_genes']:,} genes{cells}, shrunk by {figure(facts['shrinkage'])}")
    print(f"written to   {options.output}")
    return 0


def _from_covariance(options: argparse.Namespace) -> PrecisionMatrix:
    from stabdask.analysis.network import PrecisionMatrix

    if options.layer or options.cluster_key or options.cluster or options.genes or options.shrinkage:
        raise UsageError(
            "--layer, --cluster-key, --cluster, --genes and --shrinkage are of an atlas; leave them out with "
            "--covariance"
        )
    sigma, rows, columns = _table(options.covariance)
    if rows is not None and rows != columns:
        raise InputError(
            f"{options.covariance} names other genes in its first row than in its first column; expected the same, in "
            "the same order"
        )
    return PrecisionMatrix.from_covariance(sigma, rows)


def _from_atlas(options: argparse.Namespace) -> PrecisionMatrix:
    from stabdask.analysis.network import CoMoments, PrecisionMatrix
    from stabdask.atlas.cells import open_cells

    if (options.amount is not None) != (options.shrinkage == "fixed"):
        raise UsageError("--shrinkage fixed needs --amount SHARE, and nothing else has an amount")
    if options.cluster is not None and options.cluster_key is None:
        raise UsageError("--cluster needs --cluster-key, the column of obs with the labels")
    cells = open_cells(
        options.atlas if len(options.atlas) > 1 else options.atlas[0],
        layer=options.layer,
        cluster_key=options.cluster_key,
    )
    genes = parse_genes(options.genes or None, "--genes") or []
    if genes:
        known = cells["gene"].to_numpy().astype(str).tolist()
        for gene in genes:
            if gene not in known:
                raise MissingKeyError(
                    f"the atlas has no gene {gene!r}; {near_misses(gene, known, noun='genes')}"
                )
        cells = cells.sel(gene=genes)
    missing: Literal["skip", "error"] = "skip" if options.skip_missing else "error"
    fourth = options.shrinkage == "ledoit-wolf"
    if options.cluster is None:
        moments = CoMoments.from_cells(cells, fourth=fourth, missing=missing)
    else:
        every = CoMoments.from_cells(cells, "cluster", fourth=fourth, missing=missing)
        if options.cluster not in every:
            raise MissingKeyError(
                f"no cell has the label {options.cluster!r}; {near_misses(options.cluster, every, noun='clusters')}"
            )
        moments = every[options.cluster]
    return PrecisionMatrix.from_moments(moments, options.shrinkage or "none", options.amount)


def _update(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import PrecisionMatrix

    network = PrecisionMatrix.open(options.network)
    loadings = _loadings(options.pathways, network.genes.tolist())
    (network.downdate if options.remove else network.update)(loadings)
    network.save(options.output, overwrite=options.overwrite)
    change = network.history[-1]
    facts = _facts(network) | {"n_pathways": loadings.shape[1], "path": change.path, "drift": change.probe}
    if options.json:
        print_json(facts | {"output": str(options.output)})
        return 0
    done = "taken away" if options.remove else "added"
    print(f"pathways     {loadings.shape[1]:,} {done}, {change.path}; |Theta Sigma z - z| {change.probe:.1e}")
    print(f"written to   {options.output}")
    return 0


def _edges(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import PrecisionMatrix, edges, statistics

    network = PrecisionMatrix.open(options.network)
    rho = network.partial_correlations()
    n_cells = options.n_cells
    if n_cells is None and network.cells is not None:
        n_cells = network.cells.count
    chosen: dict[str, Any] = {"threshold": options.threshold, "top": options.top, "fdr": options.fdr}
    if all(value is None for value in chosen.values()):
        chosen["top"] = 20
    # Without enough cells there are no p-values, which only --fdr needs.
    testable = n_cells is not None and n_cells > len(rho) + 1
    table = edges(
        rho, network.genes, n_cells=n_cells if testable or options.fdr is not None else None, **chosen
    )
    facts = statistics(rho, options.strong)
    _write_table(table, options.output)
    if options.json:
        print_json({"statistics": facts, "edges": table.to_dict(orient="records")})
        return 0
    print(_statistics_text({"value": facts}, options.strong) + "\n\n" + _table_text(table))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import PrecisionMatrix, compare, statistics

    before, after = PrecisionMatrix.open(options.before), PrecisionMatrix.open(options.after)
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


def _facts(network: PrecisionMatrix) -> dict[str, Any]:
    return {
        "n_genes": len(network.genes),
        "n_cells": None if network.cells is None else network.cells.count,
        "shrinkage": network.amount,
        "log_determinant": network.logdet,
    }


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


def _table(path: Path) -> tuple[npt.NDArray[np.float64], list[str] | None, list[str] | None]:
    """Return the numbers of a .csv or .npy, and the names of its rows and columns where it has them."""
    import pandas as pd

    if path.suffix.lower() not in (".csv", ".npy"):
        raise UsageError(f"{path}; expected a .csv or a .npy")
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64), None, None
        frame = pd.read_csv(path, index_col=0)
        values = frame.to_numpy(dtype=np.float64)
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table of numbers ({error})") from error
    return values, [str(name) for name in frame.index], [str(name) for name in frame.columns]


def _loadings(path: Path, genes: list[str]) -> npt.NDArray[np.float64]:
    """Return loadings with a row for each gene of the network."""
    values, rows, _ = _table(path)
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
