"""Arguments that say which cells, which field and what to compute, and what they mean."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.cli.parser import Parser
from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.files import location

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = [
    "BACKENDS_HELP",
    "add_field_arguments",
    "add_input_arguments",
    "add_job_arguments",
    "add_missing_cluster_argument",
    "chosen_field",
    "job_inputs",
    "job_options",
    "open_inputs",
    "parse_elements",
    "parse_genes",
    "parse_names",
]


BACKENDS_HELP = (
    "auto (default), lanes, lapack or cuda; lanes:N or cuda:N leaves cores above order N to LAPACK"
)
"""What --backend takes where all eigenvalues are wanted."""


def add_input_arguments(parser: argparse.ArgumentParser, *, recalled: bool = False) -> Any:
    """Add what says which cells and which field; return the group of these arguments.

    Where they can be `recalled` from a store, none is required.
    """
    data = parser.add_argument_group("input")
    data.add_argument(
        "atlas",
        nargs="*" if recalled else "+",
        type=location,
        help="h5ad, or zarr AnnData on disk or at s3://bucket/name; several are read as one atlas",
    )
    data.add_argument(
        "--field",
        required=not recalled,
        type=location,
        metavar="MODEL",
        help="fitted field: .h5sch, .h5ad or .zarr",
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
    add_field_arguments(parser)
    parser.set_defaults(obs="", embedding="")
    return data


def add_field_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which field to read where an AnnData holds several, or does not tell all of one."""
    which = parser.add_argument_group("which field of an AnnData")
    which.add_argument(
        "--kind", choices=("hopfield", "rkhs"), help="where it holds fits of both scHopfield and dynamo"
    )
    which.add_argument(
        "--basis", help="embedding of dynamo's field (pca); 'genes' for a field fitted to genes directly"
    )
    which.add_argument(
        "--loadings", metavar="KEY", help="loadings of its axes in uns or varm (PCs); 'none' for none"
    )
    which.add_argument(
        "--gene-names",
        metavar="FILE",
        help="genes of the rows of the loadings (of the axes of a field over genes), one a line",
    )


def chosen_field(options: argparse.Namespace) -> Field:
    """Read the field that the arguments name."""
    from stabdask.fields.reading import read_field

    given: dict[str, Any] = {}
    if options.basis is not None:
        given["basis"] = None if options.basis == "genes" else options.basis
    if options.loadings is not None:
        given["Qkey"] = None if options.loadings == "none" else options.loadings
    if options.gene_names is not None:
        given["genes"] = _gene_names(Path(options.gene_names))
    if given and options.kind == "hopfield":
        raise UsageError(
            "--basis, --loadings and --gene-names are of fields of dynamo; leave --kind hopfield out"
        )
    return read_field(options.field, kind="rkhs" if given else options.kind, **given)


def _gene_names(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--gene-names {path} cannot be read ({error}); expected a text file") from error


def add_missing_cluster_argument(group: Any) -> None:
    """Add what becomes of cells that the field was not fitted for."""
    group.add_argument(
        "--missing-cluster",
        default="error",
        metavar="HOW",
        help="cells whose cluster has no parameters: 'error', 'skip', or 'W_<cluster>' to use that cluster's",
    )


def add_job_arguments(parser: Parser, *, recalled: bool = False) -> None:
    """Add what says which cells, which field, and what to compute."""
    data = add_input_arguments(parser, recalled=recalled)
    add_missing_cluster_argument(data)
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
    data.add_argument("--sample", type=int, metavar="N", help="compute N cells only, chosen as follows")
    data.add_argument(
        "--sample-method",
        choices=("random", "velocity", "trn", "kmeans", "stratified"),
        help="by chance (default), by speed, by neural gas or k-means, or by cluster",
    )
    data.add_argument("--sample-seed", type=int, metavar="SEED", help="same seed, same cells (0)")
    data.add_argument(
        "--sample-basis",
        metavar="NAME",
        help="embedding, one of those of --embedding, whose distances trn and kmeans go by",
    )
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
        help="what to keep beside eigenvalues (default); e.g. default,reactivity,drivers; all names are listed below",
    )
    parser.listing = _quantities_listing
    what.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="of the eigensolver (float64)"
    )
    what.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help=f"eigensolver: {BACKENDS_HELP}; for leading modes of large cores also krylov, krylov:cuda",
    )
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


def _quantities_listing() -> str:
    """Return the names that --quantities takes, from the registry."""
    from stabdask.runs.options import GROUPS
    from stabdask.schema import BLOCK_QUANTITIES, MODE_QUANTITIES, QUANTITIES

    special = {
        "between genes (--effectors, --regulators)": tuple(BLOCK_QUANTITIES),
        "of leading modes": tuple(MODE_QUANTITIES),
    }
    known = {name for names in (GROUPS["default"], *special.values()) for name in names}
    kinds = {
        **{f"{group} (a group)": names for group, names in GROUPS.items()},
        "of every cell, on request": tuple(name for name in QUANTITIES if name not in known),
        **special,
    }
    rows = (
        textwrap.fill(f"{kind}: {', '.join(names)}", 80, initial_indent="  ", subsequent_indent="    ")
        for kind, names in kinds.items()
    )
    return "\n".join(("names of --quantities, comma between:", *rows))


def job_inputs(options: argparse.Namespace) -> tuple[xr.Dataset, Field]:
    """Open cells and field as the arguments say, and choose cells where they ask for a sample."""
    cells, field = open_inputs(options)
    return _sampled(cells, field, options), field


def open_inputs(options: argparse.Namespace) -> tuple[xr.Dataset, Field]:
    """Open cells and field as the arguments say."""
    from stabdask.atlas.cells import open_cells

    field = chosen_field(options)
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
    return cells, field


def _sampled(cells: xr.Dataset, field: Field, options: argparse.Namespace) -> xr.Dataset:
    """Return the cells that the arguments choose: all without --sample."""
    if options.sample is None:
        for name in ("method", "seed", "basis"):
            if getattr(options, f"sample_{name}") is not None:
                raise UsageError(
                    f"--sample-{name} says how to choose cells, but not how many; give --sample N"
                )
        return cells
    from stabdask.atlas.sampling import Method, sample

    method: Method = options.sample_method or "random"
    return sample(
        cells,
        options.sample,
        method=method,
        seed=options.sample_seed or 0,
        field=field if method == "velocity" else None,
        basis=options.sample_basis,
        missing_cluster=options.missing_cluster,
    )


def job_options(options: argparse.Namespace, field: Field) -> dict[str, Any]:
    """Return the keyword options of a job."""
    return {
        "missing_cluster": options.missing_cluster,
        "partition_cells": options.partition_cells,
        "spectrum": options.spectrum,
        "modes": options.modes,
        "vectors": options.vectors,
        "elements": _unless_recalled(
            options.elements, lambda text: parse_elements(text, set(field.genes.tolist()))
        ),
        "effectors": _unless_recalled(options.effectors, lambda text: parse_genes(text, "--effectors")),
        "regulators": _unless_recalled(options.regulators, lambda text: parse_genes(text, "--regulators")),
        "quantities": _unless_recalled(options.quantities, lambda text: text.split(",")),
        "dtype": options.dtype,
        "backend": options.backend,
        "tolerance": options.tolerance,
        "residual_tolerance": options.residual_tolerance,
    }


def _unless_recalled(value: Any, parse: Callable[[str], Any]) -> Any:
    """Return what a text says; None and what a store remembers, which is no text any more, as they are."""
    return parse(value) if isinstance(value, str) else value


def parse_elements(text: str, genes: set[str], option: str = "--elements") -> list[tuple[str, str]]:
    """Return (effector, regulator) pairs, or other pairs of genes, from ``I:J,K:L`` or ``@FILE``.

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
            kind = "effector:regulator" if option == "--elements" else "GENE:GENE"
            raise UsageError(f"{option} {item!r} is no pair; expected {kind}, e.g. GATA1:GATA2")
        known = [pair for pair in splits if pair[0] in genes and pair[1] in genes]
        if not known:
            unknown = next(gene for gene in splits[0] if gene not in genes)
            hint = near_misses(unknown, sorted(genes), noun="genes")
            raise MissingKeyError(f"gene {unknown!r} in {option} is not in the field; {hint}")
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
