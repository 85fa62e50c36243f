"""`plan` and `run`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.cli.arguments import add_job_arguments, job_inputs, job_options
from stabdask.cli.common import add_json, print_json
from stabdask.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = ["EXIT_CELLS_FAILED", "add_commands", "report_exit_code"]

EXIT_CELLS_FAILED = 4


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    plan = commands.add_parser("plan", help="what a run would take, without starting it")
    add_job_arguments(plan)
    add_json(plan)
    plan.set_defaults(execute=_plan)

    run = commands.add_parser(
        "run",
        help="compute the stability of every cell into a store; run again to resume",
        description="Compute the stability of every cell into a durable Zarr store. The same command again "
        "resumes, or says that all is done.",
    )
    add_job_arguments(run)
    run.add_argument("--store", required=True, type=Path, help="where to write the results, e.g. out.zarr")
    run.add_argument(
        "--allow-failed",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction of cells that may have a failed status before the exit code is 4 (0)",
    )
    run.add_argument("--no-dashboard", action="store_true", help="do not serve Dask's dashboard")
    run.add_argument("--quiet", action="store_true", help="no progress on stderr")
    run.add_argument(
        "--repair",
        action="store_true",
        help="check the store first; compute and write again what is damaged, and say what it was",
    )
    run.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    add_json(run)
    run.set_defaults(execute=_run)


def _plan(options: argparse.Namespace) -> int:
    _show_plan(options, *job_inputs(options))
    return 0


def _show_plan(options: argparse.Namespace, cells: xr.Dataset, field: Field) -> None:
    from stabdask.runs.plan import plan

    result = plan(
        cells,
        field,
        memory=options.memory,
        workers=options.workers,
        gpu=options.gpu,
        **job_options(options, field),
    )
    print_json(result.to_dict()) if options.json else print(result)


def _run(options: argparse.Namespace) -> int:
    from stabdask.clusters import start_early

    if options.dry_run and options.repair:
        raise UsageError("--repair writes and --dry-run does not; 'stabdask verify' says what is damaged")
    if options.dry_run:
        return _dry_run(options)
    if not 0 <= options.allow_failed <= 1:
        raise UsageError(f"--allow-failed {options.allow_failed}; expected a fraction from 0 to 1")
    if options.is_program and options.workers != 0 and not options.gpu:
        start_early()
    from stabdask.runs.runner import run

    cells, field = job_inputs(options)
    report = run(
        cells,
        field,
        options.store,
        memory=options.memory,
        workers=options.workers,
        gpu=options.gpu,
        progress=not options.quiet,
        dashboard=not options.no_dashboard,
        repair=options.repair,
        **job_options(options, field),
    )
    print_json(report.to_dict()) if options.json else print(report)
    return report_exit_code(report, options.allow_failed)


def _dry_run(options: argparse.Namespace) -> int:
    """Print the plan, and on stderr what the store has of it already."""
    from stabdask.runs.runner import finished_partitions

    cells, field = job_inputs(options)
    there = finished_partitions(
        cells, field, options.store, workers=options.workers, gpu=options.gpu, **job_options(options, field)
    )
    _show_plan(options, cells, field)
    state = "would be made" if there is None else f"has {there:,} of these partitions already"
    print(f"store        {options.store} {state}", file=sys.stderr)
    return 0


def report_exit_code(report: Any, allowed: float) -> int:
    """Return 4 and say so if more cells failed than allowed, else 0."""
    if report.n_failed <= allowed * report.n_cells:
        return 0
    print(
        f"stabdask: {report.n_failed:,} of {report.n_cells:,} cells have a failed status (see the report above, and "
        "status in the store); --allow-failed FRACTION accepts them",
        file=sys.stderr,
    )
    return EXIT_CELLS_FAILED
