"""`field show` and `field convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.cli.common import add_json, format_table, print_json
from stabdask.errors import StoreMismatchError

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    field = commands.add_parser("field", help="show or convert a fitted field")
    actions = field.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="what a field holds")
    show.add_argument("field", type=Path, help=".h5sch checkpoint, fitted .h5ad or zarr, or saved field")
    add_json(show)
    show.set_defaults(execute=_show)
    convert = actions.add_parser("convert", help="write a field as a Zarr model store")
    convert.add_argument("field", type=Path, help=".h5sch checkpoint, or fitted .h5ad or zarr")
    convert.add_argument("output", type=Path, help="model store to write, e.g. model.zarr")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing model store")
    convert.add_argument("--dry-run", action="store_true", help="read and check the field, write nothing")
    add_json(convert)
    convert.set_defaults(execute=_convert)


def _facts(path: Path) -> tuple[Any, dict[str, Any]]:
    from stabdask.fields.hopfield import HopfieldField
    from stabdask.fields.reading import read_field

    field = read_field(path)
    facts: dict[str, Any] = {
        "field": str(path),
        "kind": field.kind,
        "fingerprint": field.fingerprint,
        "n_genes": field.n_genes,
        "n_regulators": len(field.regulator_index),
        "largest_core": field.largest_core,
        "clusters": {},
    }
    if isinstance(field, HopfieldField):
        for label, p in zip(field.clusters, field.parameters, strict=True):
            mix = p.hill.mix[p.regulators]
            facts["clusters"][label] = {
                "n_regulators": len(p.regulators),
                "n_edges": int(np.count_nonzero(p.weights)),
                "n_two_component": int((mix < 1).sum()),
                "gamma_min": float(p.gamma.min()),
                "gamma_max": float(p.gamma.max()),
            }
    return field, facts


def _print(facts: dict[str, Any]) -> None:
    print(
        f"{facts['field']}: {facts['kind']} field, {facts['n_genes']:,} genes, {facts['n_regulators']:,} regulators, "
        f"cores up to {facts['largest_core']} x {facts['largest_core']}, fingerprint {facts['fingerprint']}"
    )
    names = ("n_regulators", "n_edges", "n_two_component", "gamma_min", "gamma_max")
    rows = [
        [label, *(f"{c[n]:,}" if n.startswith("n_") else f"{c[n]:.4g}" for n in names)]
        for label, c in facts["clusters"].items()
    ]
    print(format_table(["cluster", "regulators", "edges", "two-component", "min gamma", "max gamma"], rows))


def _show(options: argparse.Namespace) -> int:
    _, facts = _facts(options.field)
    print_json(facts) if options.json else _print(facts)
    return 0


def _convert(options: argparse.Namespace) -> int:
    field, facts = _facts(options.field)
    if options.output.exists() and not options.overwrite:
        raise StoreMismatchError(
            f"{options.output} exists; remove it, choose another path, or give --overwrite"
        )
    if not options.dry_run:
        field.save(options.output, overwrite=options.overwrite)
    facts = {**facts, "output": str(options.output), "written": not options.dry_run}
    if options.json:
        print_json(facts)
    else:
        _print(facts)
        print(f"{'would write' if options.dry_run else 'wrote'} {options.output}")
    return 0
