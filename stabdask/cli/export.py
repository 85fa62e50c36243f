"""`export`: results into a copy of the atlas."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stabdask.cli.common import add_json, add_store, print_json
from stabdask.errors import InputError, OutputError, StoreMismatchError
from stabdask.files import existing_path

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="write scalars and elements into a copy of the h5ad",
        description="Write a copy of an h5ad whose obs holds every scalar and element of a store.",
    )
    add_store(export)
    export.add_argument("--atlas", required=True, type=Path, help="h5ad whose cells to add results to")
    export.add_argument("-o", "--output", required=True, type=Path, help="h5ad to write")
    export.add_argument("--prefix", default="stability_", help="put before every column name (stability_)")
    export.add_argument("--eigenvalues", action="store_true", help="add the eigenvalues of the cores to obsm")
    export.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")
    add_json(export)
    export.set_defaults(execute=_export)


def _export(options: argparse.Namespace) -> int:
    import anndata

    from stabdask.atlas.exporters import to_anndata
    from stabdask.runs.results import open_results

    path = existing_path(options.atlas, "atlas")
    if options.output.exists():
        raise StoreMismatchError(f"{options.output} exists; remove it or choose another path")
    ds = open_results(options.store)
    try:
        adata = anndata.read_h5ad(path)
    except OSError as error:
        raise InputError(f"{path} is not an h5ad file ({error})") from error
    before = set(adata.obs.columns) | set(adata.obsm)
    to_anndata(ds, adata, prefix=options.prefix, eigenvalues=options.eigenvalues)
    added = [str(name) for name in (*adata.obs.columns, *adata.obsm) if name not in before]
    if not options.dry_run:
        temporary = options.output.with_name(f".{options.output.name}.tmp")
        try:
            adata.write_h5ad(temporary)
            temporary.replace(options.output)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"cannot write {options.output}: {error.strerror or error}") from error
    if options.json:
        print_json({"output": str(options.output), "added": added, "written": not options.dry_run})
    else:
        verb = "would add" if options.dry_run else "added"
        print(f"{options.output}: {verb} {', '.join(added)}", file=sys.stdout)
    return 0
