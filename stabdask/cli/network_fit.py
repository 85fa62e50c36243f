"""`network fit` and `network plan`: precision matrices of an atlas or of a covariance, in memory or in tiles."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.cli.arguments import parse_genes
from stabdask.cli.common import add_json, figure, print_json
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.analysis.network import BlockedPrecision, NetworkPlan, PrecisionMatrix

__all__ = ["add_fit", "add_output", "add_plan", "facts_of", "open_network", "read_table"]

_MEMORY = "4GB"


def add_fit(parts: Any) -> None:
    """Add `network fit`."""
    fit = parts.add_parser("fit", help="from the cells of an atlas, or from a covariance matrix")
    _add_input(fit)
    fit.add_argument("--amount", type=float, metavar="SHARE", help="of --shrinkage fixed, from 0 to 1")
    fit.add_argument(
        "--skip-missing", action="store_true", help="leave out cells with values that are not finite"
    )
    fit.add_argument("--gpu", action="store_true", help="multiply on the GPU of this machine; not in tiles")
    fit.add_argument(
        "--memory",
        metavar="SIZE",
        help="budget, e.g. 4GB: a network that does not fit is made in tiles on disk (always in memory if not given)",
    )
    fit.add_argument(
        "--dry-run", action="store_true", help="check the input, print what it would take, write nothing"
    )
    add_output(fit)
    fit.set_defaults(execute=_fit)


def add_plan(parts: Any) -> None:
    """Add `network plan`."""
    plan = parts.add_parser("plan", help="what a network would take, in memory or in tiles on disk")
    _add_input(plan)
    plan.add_argument("--n-genes", type=int, metavar="N", help="instead of an atlas: a number of genes")
    plan.add_argument("--memory", metavar="SIZE", default=_MEMORY, help=f"budget ({_MEMORY})")
    add_json(plan)
    plan.set_defaults(execute=_plan)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add where a network is written, and --json."""
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="NETWORK", help="where to write it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a network that is there")
    add_json(parser)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "atlas", nargs="*", type=Path, help="h5ad or zarr AnnData; several are read as one atlas"
    )
    parser.add_argument("--layer", help="layer with the expression (X if not given)")
    parser.add_argument("--cluster-key", help="column of obs with cluster labels")
    parser.add_argument("--cluster", metavar="LABEL", help="the cells of this cluster only")
    parser.add_argument(
        "--genes", default="", metavar="GENE,...", help="these genes, or @FILE with one a line (all)"
    )
    parser.add_argument(
        "--covariance",
        type=Path,
        metavar="FILE",
        help="instead of an atlas: a .csv with names of genes in its first row and column, or a .npy without names",
    )
    parser.add_argument(
        "--shrinkage",
        choices=("none", "fixed", "ledoit-wolf"),
        help="toward equal variances; as much as --amount says, or estimated (ledoit-wolf, for an atlas)",
    )


def _plan(options: argparse.Namespace) -> int:
    from stabdask.analysis.network import plan

    given = [bool(options.atlas), options.covariance is not None, options.n_genes is not None]
    if sum(given) != 1:
        raise UsageError("expected one of an atlas, --covariance FILE and --n-genes N")
    if options.covariance is not None:
        size: Any = len(_covariance(options)[0])
    else:
        size = options.n_genes if options.n_genes is not None else _cells(options)
    _show(plan(size, options.memory, options.shrinkage or "none"), options)
    return 0


def _show(planned: NetworkPlan, options: argparse.Namespace) -> None:
    print_json(planned.to_dict()) if options.json else print(planned)


def _fit(options: argparse.Namespace) -> int:
    if bool(options.atlas) == (options.covariance is not None):
        raise UsageError("expected an atlas or --covariance FILE, and not both")
    if (options.amount is not None) != (options.shrinkage == "fixed"):
        raise UsageError("--shrinkage fixed needs --amount SHARE, and nothing else has an amount")
    planned = _planned(options) if options.memory is not None or options.dry_run else None
    if options.dry_run:
        assert planned is not None
        _show(planned, options)
        return 0
    if options.gpu and (options.covariance is not None or (planned is not None and not planned.in_memory)):
        what = "a covariance matrix" if options.covariance is not None else "a network in tiles"
        raise UsageError(f"--gpu is for the products of cells, in memory, and not for {what}; leave it out")
    network: PrecisionMatrix | BlockedPrecision
    if planned is not None and not planned.in_memory:
        passes = f", {planned.n_passes:,} passes over the cells" if options.atlas else ""
        _say(f"blocked, in {planned.n_tiles:,} tiles of {planned.tile:,} genes on disk{passes}")
        network = _blocked(options)
    else:
        if planned is not None:
            _say("in memory")
        network = _from_covariance(options) if options.covariance is not None else _from_atlas(options)
        network.save(options.output, overwrite=options.overwrite)
    facts = facts_of(network) | {"output": str(options.output)}
    if options.json:
        print_json(facts)
        return 0
    cells = "" if facts["n_cells"] is None else f", {facts['n_cells']:,.0f} cells"
    print(f"network      {facts['n_genes']:,} genes{cells}, shrunk by {figure(facts['shrinkage'])}")
    print(f"written to   {options.output}")
    return 0


def _say(text: str) -> None:
    print(f"stabdask: {text}", file=sys.stderr)


def _planned(options: argparse.Namespace) -> NetworkPlan:
    from stabdask.analysis.network import plan

    size: Any = len(_covariance(options)[0]) if options.covariance is not None else _cells(options)
    return plan(size, options.memory or _MEMORY, options.shrinkage or "none")


def _blocked(options: argparse.Namespace) -> BlockedPrecision:
    from stabdask.analysis.network import BlockedPrecision

    if options.covariance is not None:
        sigma, names = _covariance(options)
        return BlockedPrecision.from_covariance(
            sigma, options.output, names, memory=options.memory, overwrite=options.overwrite
        )
    return BlockedPrecision.from_cells(
        _cells(options),
        options.output,
        memory=options.memory,
        shrinkage=options.shrinkage or "none",
        amount=options.amount,
        missing="skip" if options.skip_missing else "error",
        overwrite=options.overwrite,
    )


def _covariance(options: argparse.Namespace) -> tuple[npt.NDArray[np.float64], list[str] | None]:
    """Return a covariance matrix, mapped from a .npy, and names of genes."""
    if options.layer or options.cluster_key or options.cluster or options.genes or options.shrinkage:
        raise UsageError(
            "--layer, --cluster-key, --cluster, --genes and --shrinkage are of an atlas; leave them out with "
            "--covariance"
        )
    sigma, rows, columns = read_table(options.covariance)
    if rows is not None and rows != columns:
        raise InputError(
            f"{options.covariance} names other genes in its first row than in its first column; expected the same, in "
            "the same order"
        )
    return sigma, rows


def _from_covariance(options: argparse.Namespace) -> PrecisionMatrix:
    from stabdask.analysis.network import PrecisionMatrix

    return PrecisionMatrix.from_covariance(*_covariance(options))


def _cells(options: argparse.Namespace) -> xr.Dataset:
    """Open the cells of the atlas, of one cluster where that is asked for."""
    cells = _atlas(options)
    if options.cluster is None:
        return cells
    labels = cells["cluster"].to_numpy().astype(str)
    chosen = np.flatnonzero(labels == options.cluster)
    if not len(chosen):
        raise _no_cluster(options.cluster, np.unique(labels).tolist())
    return cells.isel(cell=chosen)


def _atlas(options: argparse.Namespace) -> xr.Dataset:
    from stabdask.atlas.cells import open_cells

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
    return cells


def _no_cluster(label: str, known: list[str]) -> MissingKeyError:
    return MissingKeyError(f"no cell has the label {label!r}; {near_misses(label, known, noun='clusters')}")


def _from_atlas(options: argparse.Namespace) -> PrecisionMatrix:
    from stabdask.analysis.network import CoMoments, PrecisionMatrix

    cells = _atlas(options)
    missing: Literal["skip", "error"] = "skip" if options.skip_missing else "error"
    how: Any = {"fourth": options.shrinkage == "ledoit-wolf", "missing": missing, "gpu": options.gpu}
    if options.cluster is None:
        moments = CoMoments.from_cells(cells, **how)
    else:
        every = CoMoments.from_cells(cells, "cluster", **how)
        if options.cluster not in every:
            raise _no_cluster(options.cluster, [str(label) for label in every])
        moments = every[options.cluster]
    return PrecisionMatrix.from_moments(moments, options.shrinkage or "none", options.amount)


def open_network(path: Path, memory: str | None = None) -> PrecisionMatrix | BlockedPrecision:
    """Open a network, in memory or in tiles, whichever it is."""
    from stabdask.analysis.network import BlockedPrecision, PrecisionMatrix
    from stabdask.analysis.network.blocked import is_blocked

    if is_blocked(path):
        return BlockedPrecision.open(path, memory=memory or _MEMORY)
    return PrecisionMatrix.open(path)


def facts_of(network: PrecisionMatrix | BlockedPrecision) -> dict[str, Any]:
    """Return what is printed of a network."""
    return {
        "n_genes": len(network.genes),
        "n_cells": None if network.cells is None else network.cells.count,
        "shrinkage": network.amount,
        "log_determinant": network.logdet,
        "tile": getattr(network, "tile", None),
    }


def read_table(path: Path) -> tuple[npt.NDArray[np.float64], list[str] | None, list[str] | None]:
    """Return the numbers of a .csv or .npy (mapped), and the names of its rows and columns where it has them."""
    import pandas as pd

    if path.suffix.lower() not in (".csv", ".npy"):
        raise UsageError(f"{path}; expected a .csv or a .npy")
    try:
        if path.suffix.lower() == ".npy":
            found = np.load(path, allow_pickle=False, mmap_mode="r")
            if found.dtype.kind not in "biuf":
                raise InputError(f"{path} has entries of type {found.dtype}; expected real numbers")
            return found, None, None
        frame = pd.read_csv(path, index_col=0)
        values = frame.to_numpy(dtype=np.float64)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table of numbers ({error})") from error
    return values, [str(name) for name in frame.index], [str(name) for name in frame.columns]
