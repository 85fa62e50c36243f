"""`report`: one page of HTML on a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stabdask.cli.common import add_json, add_store, print_json
from stabdask.files import location

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="one page of HTML: what was run and what came of it",
        description="Write a page that needs no network and prints well: what was run, the per-cluster table, spectra, "
        "distributions, embeddings and drivers as far as the store holds them, accuracy, and a text on methods.",
    )
    add_store(report)
    report.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="e.g. report.html")
    report.add_argument("--title", help="heading (the name of the store)")
    report.add_argument(
        "--atlas", type=location, help="AnnData to take the embedding from, if the run brought none along"
    )
    report.add_argument(
        "--basis",
        metavar="KEY",
        help="embedding to draw on, e.g. X_umap (the first that the run brought along)",
    )
    report.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    report.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")
    add_json(report)
    report.set_defaults(execute=_report)


def _report(options: argparse.Namespace) -> int:
    if options.dry_run:
        print(f"would write a report of {options.store} to {options.output}")
        return 0
    import matplotlib as mpl

    mpl.use("Agg")
    from stabdask.report import write_report

    path = write_report(
        options.store,
        options.output,
        title=options.title,
        atlas=options.atlas,
        basis=options.basis,
        overwrite=options.overwrite,
    )
    if options.json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
    return 0
