"""`export`: results into a copy of the atlas, into the atlas itself, or as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stabdask.cli.arguments import parse_elements
from stabdask.cli.common import add_json, add_store, group_labels, print_json
from stabdask.errors import UsageError

__all__ = ["add_commands"]

_DESCRIPTION = """\
Write what a store holds one number of per cell (scalars, status, chosen elements) where other programs read it.
Spectra, vectors and everything else stay in the store; uns[PREFIXrun] of the atlas says where that is and how it
was made.

  stabdask export out.zarr --atlas cells.h5ad -o with_stability.h5ad    a copy of the atlas with new columns in obs
  stabdask export out.zarr --atlas cells.h5ad --in-place                the same columns, in the atlas itself
  stabdask export out.zarr -o cells.csv                                 a table with one row per cell
  stabdask export out.zarr --summary -o summary.parquet                 a table with one row per cluster and quantity

Cells are matched by name: the atlas may hold more or fewer of them, in another order; cells without a result get NaN
and status 255. Expression is never read. A copy and a table appear whole or not at all (an export that is killed
leaves a hidden .tmp file beside them, to be deleted).
"""

_EPILOG = """\
--in-place writes new data first, where no reader looks; then columns that are replaced leave the list of the columns of
obs, the data take their names, and the list is written last. If that is cut short, the file reads as before or without
the columns of the earlier export, and the same command finishes it. Nothing else in the file is touched. There is no
backup: HDF5 gives the space of replaced columns back only with h5repack, and a power cut in the very moment it writes
its tables can damage the file, so write a copy of an atlas that cannot be had again.
"""


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="scalars and elements into the atlas or a copy of it, or as a table",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_store(export)
    where = export.add_argument_group("where to")
    where.add_argument("--atlas", type=Path, help="h5ad or zarr AnnData whose cells to add results to")
    where.add_argument(
        "-o",
        "--output",
        type=Path,
        help="what to write: with --atlas an AnnData of the same format, else a table: .csv, .csv.gz or .parquet "
        "(which needs the parquet extra)",
    )
    where.add_argument("--in-place", action="store_true", help="write into --atlas itself")
    where.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what is at --output, and columns of these names that no export wrote",
    )
    what = export.add_argument_group("what")
    what.add_argument("--quantities", default=None, metavar="NAME,...", help="scalars (all)")
    what.add_argument(
        "--elements",
        default=None,
        metavar="I:J,...",
        help="Jacobian elements effector:regulator, or @FILE with one pair a line, or 'none' (all there are)",
    )
    what.add_argument(
        "--eigenvalues", action="store_true", help="add the eigenvalues of the cores to obsm of the atlas"
    )
    what.add_argument("--prefix", help="put before every name (stability_ in an atlas, nothing in a table)")
    what.add_argument(
        "--summary", action="store_true", help="a table of statistics per group instead of one per cell"
    )
    what.add_argument(
        "--by",
        metavar="LABEL[,LABEL]",
        help="group the cells of --summary by this label, or by the combinations of two (cluster)",
    )
    export.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")
    add_json(export)
    export.set_defaults(execute=_export)


def _export(options: argparse.Namespace) -> int:
    from stabdask.runs.results import open_results

    _check_together(options)
    ds = open_results(options.store)
    chosen = {
        "quantities": None if options.quantities is None else options.quantities.split(","),
        "elements": _elements(options.elements, ds),
    }
    if options.atlas is not None:
        return _into_atlas(options, ds, chosen)
    return _as_table(options, ds, chosen)


def _check_together(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is opened."""
    if options.in_place and options.output is not None:
        raise UsageError("--in-place writes into --atlas; expected no --output beside it")
    if options.in_place and options.atlas is None:
        raise UsageError("--in-place needs --atlas, the file to write into")
    if not options.in_place and options.output is None:
        raise UsageError("nowhere to write; expected -o OUTPUT, or --atlas ATLAS --in-place")
    for name, needs in (("summary", "no --atlas"), ("by", "--summary"), ("eigenvalues", "--atlas")):
        there = options.atlas is None if needs == "no --atlas" else getattr(options, needs[2:])
        if getattr(options, name) and not there:
            raise UsageError(f"--{name} goes with {needs}; see 'stabdask export --help'")
    if options.summary and (options.quantities or options.elements or options.prefix):
        raise UsageError(
            "--summary holds every quantity and element; expected no --quantities, --elements or --prefix"
        )
    if options.atlas is None:
        from stabdask.atlas.export_tables import check_table_path, table_format

        if table_format(options.output) is None and options.output.suffix in (".h5ad", ".zarr"):
            raise UsageError(f"{options.output} is to be an AnnData; expected --atlas, the one to copy")
        check_table_path(options.output, overwrite=options.overwrite)


def _elements(text: str | None, ds: Any) -> list[tuple[str, str]] | None:
    if text is None:
        return None
    return [] if text == "none" else parse_elements(text, {str(gene) for gene in ds["gene"].to_numpy()})


def _into_atlas(options: argparse.Namespace, ds: Any, chosen: dict[str, Any]) -> int:
    from stabdask.atlas.export_files import export_atlas

    done = export_atlas(
        ds,
        options.atlas,
        options.output,
        prefix="stability_" if options.prefix is None else options.prefix,
        eigenvalues=options.eigenvalues,
        store=options.store,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        **chosen,
    )
    if options.json:
        print_json({**vars(done), "written": not options.dry_run})
        return 0
    add, drop = ("would add", "would remove") if options.dry_run else ("added", "removed")
    print(f"{done.output}: {add} {', '.join(done.added)}")
    if done.removed:
        print(f"{done.output}: {drop} {', '.join(done.removed)} of an earlier export")
    print(f"{done.n_matched:,} of {done.n_cells:,} cells of the atlas are in the results")
    return 0


def _as_table(options: argparse.Namespace, ds: Any, chosen: dict[str, Any]) -> int:
    from stabdask.atlas.export_tables import cell_table, summary_rows, write_table

    if options.summary:
        from stabdask.analysis.aggregate import summarize

        table = summary_rows(summarize(ds, by=group_labels(ds, options.by or "cluster")))
    else:
        table = cell_table(ds, prefix=options.prefix or "", **chosen)
    if not options.dry_run:
        write_table(table, options.output, overwrite=options.overwrite)
    if options.json:
        print_json(
            {
                "output": str(options.output),
                "rows": len(table),
                "columns": [str(name) for name in table.columns],
                "written": not options.dry_run,
            }
        )
    else:
        verb = "would write" if options.dry_run else "wrote"
        print(f"{options.output}: {verb} {len(table):,} rows of {', '.join(map(str, table.columns))}")
    return 0
