"""`field show` and `field convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.cli.arguments import add_field_arguments, chosen_field
from stabdask.cli.common import add_json, format_table, print_json
from stabdask.errors import OVERWRITE, StoreMismatchError
from stabdask.files import location, place_of

if TYPE_CHECKING:
    from stabdask.fields.base import Field
    from stabdask.fields.hopfield import HopfieldField
    from stabdask.fields.rkhs import RKHSField

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    field = commands.add_parser("field", help="show or convert a fitted field")
    actions = field.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="what a field holds")
    show.add_argument("field", type=location, help=".h5sch checkpoint, fitted .h5ad or zarr, or saved field")
    add_field_arguments(show)
    add_json(show)
    show.set_defaults(execute=_show)
    convert = actions.add_parser("convert", help="write a field as a Zarr model store")
    convert.add_argument("field", type=location, help=".h5sch checkpoint, or fitted .h5ad or zarr")
    convert.add_argument("output", type=location, help="model store to write, e.g. model.zarr")
    add_field_arguments(convert)
    convert.add_argument("--overwrite", action="store_true", help="replace an existing model store")
    convert.add_argument("--dry-run", action="store_true", help="read and check the field, write nothing")
    add_json(convert)
    convert.set_defaults(execute=_convert)


def _facts(path: Path | str, field: Field) -> dict[str, Any]:
    from stabdask.fields.hopfield import HopfieldField
    from stabdask.fields.rkhs import RKHSField

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
        facts["clusters"] = _clusters(field)
    elif isinstance(field, RKHSField):
        facts |= _kernels(field)
    return facts


def _clusters(field: HopfieldField) -> dict[str, Any]:
    facts = {}
    for label, p in zip(field.clusters, field.parameters, strict=True):
        mix = p.hill.mix[p.regulators]
        facts[label] = {
            "n_regulators": len(p.regulators),
            "n_edges": int(np.count_nonzero(p.weights)),
            "n_two_component": int((mix < 1).sum()),
            "gamma_min": float(p.gamma.min()),
            "gamma_max": float(p.gamma.max()),
        }
    return facts


def _kernels(field: RKHSField) -> dict[str, Any]:
    loadings = field.loadings
    return {
        "basis": field.basis,
        "n_axes": field.largest_core,
        "n_control_points": len(field.centers),
        "beta": field.beta,
        "kernel_width": float(1.0 / np.sqrt(2.0 * field.beta)),
        "n_loadings": 0 if loadings is None else len(loadings),
        "loadings_off_orthonormal": None
        if loadings is None
        else float(np.abs(loadings.T @ loadings - np.eye(loadings.shape[1])).max()),
    }


def _print(facts: dict[str, Any]) -> None:
    size = (
        f"cores up to {facts['largest_core']} x {facts['largest_core']}, fingerprint {facts['fingerprint']}"
    )
    if "n_control_points" in facts:
        _print_kernels(facts, size)
        return
    print(
        f"{facts['field']}: {facts['kind']} field, {facts['n_genes']:,} genes, {facts['n_regulators']:,} regulators, "
        f"{size}"
    )
    names = ("n_regulators", "n_edges", "n_two_component", "gamma_min", "gamma_max")
    rows = [
        [label, *(f"{c[n]:,}" if n.startswith("n_") else f"{c[n]:.4g}" for n in names)]
        for label, c in facts["clusters"].items()
    ]
    print(format_table(["cluster", "regulators", "edges", "two-component", "min gamma", "max gamma"], rows))


def _print_kernels(facts: dict[str, Any], size: str) -> None:
    space = "genes" if facts["basis"] is None else f"axes of {facts['basis']!r}"
    off = facts["loadings_off_orthonormal"]
    if off is not None:
        lift = f"{facts['n_loadings']:,} genes, orthonormal to {off:.1e}"
    else:
        lift = "none needed" if facts["basis"] is None else "none: results are over the axes alone"
    print(f"{facts['field']}: {facts['kind']} field over {facts['n_axes']:,} {space}, {size}")
    rows = [
        ["control points", f"{facts['n_control_points']:,}"],
        ["beta", f"{facts['beta']:.6g}  (kernels {facts['kernel_width']:.4g} wide)"],
        ["loadings", lift],
    ]
    print(format_table(["parameter", "value"], rows))


def _show(options: argparse.Namespace) -> int:
    facts = _facts(options.field, chosen_field(options))
    print_json(facts) if options.json else _print(facts)
    return 0


def _convert(options: argparse.Namespace) -> int:
    field = chosen_field(options)
    facts = _facts(options.field, field)
    if place_of(options.output).exists() and not options.overwrite:
        raise StoreMismatchError(f"{options.output} exists; remove it, choose another path, or {OVERWRITE}")
    if not options.dry_run:
        field.save(options.output, overwrite=options.overwrite)
    facts = {**facts, "output": str(options.output), "written": not options.dry_run}
    if options.json:
        print_json(facts)
    else:
        _print(facts)
        print(f"{'would write' if options.dry_run else 'wrote'} {options.output}")
    return 0
