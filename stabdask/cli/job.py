"""`plan`, `run`, and for array jobs `init` and `finalize`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from stabdask.cli.arguments import add_job_arguments, job_inputs, job_options
from stabdask.cli.cluster import (
    add_cluster_arguments,
    check_cluster_arguments,
    cluster_client,
    computes_on_gpus,
)
from stabdask.cli.common import add_json, print_json
from stabdask.cli.recorded import Noted, recall, request_of
from stabdask.errors import UsageError
from stabdask.files import location

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field
    from stabdask.runs.shares import Partitions

__all__ = ["EXIT_CELLS_FAILED", "add_commands", "report_exit_code"]

EXIT_CELLS_FAILED = 4


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    plan = commands.add_parser(
        "plan",
        help="what a run would take, without starting it",
        description="Check everything as a run would, and print the memory, time, files and partitions that it would "
        "take; nothing is written.",
    )
    add_job_arguments(plan)
    add_json(plan)
    plan.set_defaults(execute=_plan)

    run = commands.add_parser(
        "run",
        help="compute the stability of every cell into a store; run again to resume",
        description="Compute the stability of every cell into a durable Zarr store. The same command again "
        "resumes, or says that all is done. A store remembers its input and options: with --store alone, all is taken "
        "from there.",
    )
    run.register("action", None, Noted)
    add_job_arguments(run, recalled=True)
    _add_store(run, "where to write the results, e.g. out.zarr or s3://bucket/out.zarr")
    _add_allow_failed(run)
    run.add_argument(
        "--no-dashboard", action="store_true", help="serve neither the live page nor Dask's dashboard"
    )
    run.add_argument("--quiet", action="store_true", help="no progress on stderr")
    run.add_argument(
        "--repair",
        action="store_true",
        help="check the store first; compute and write again what is damaged, and say what it was",
    )
    run.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    _add_share_arguments(run)
    add_cluster_arguments(run)
    _add_no_lock(run)
    add_json(run)
    run.set_defaults(execute=_run)

    init = commands.add_parser(
        "init",
        help="make the store of a run for array jobs, and print the number of partitions",
        description="Check everything and make the store, which remembers input and options, without computing. "
        "Then 'stabdask run --store STORE --partition N' computes partition N, in any job on any host that sees the "
        "same files, and 'stabdask finalize' checks that all are there.",
    )
    add_job_arguments(init)
    _add_store(init, "where the results will be, e.g. out.zarr")
    add_json(init)
    init.set_defaults(execute=_init)

    finalize = commands.add_parser(
        "finalize",
        help="check that array jobs have computed every partition, and print the report",
        description="Check that every partition of a store has its receipt, say which lack one, sweep what killed "
        "tasks left, and print the report that a run prints.",
    )
    _add_store(finalize, "store that array jobs wrote, e.g. out.zarr")
    _add_allow_failed(finalize)
    _add_no_lock(finalize)
    add_json(finalize)
    finalize.set_defaults(execute=_finalize)


def _add_store(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--store", required=True, type=location, metavar="STORE", help=text)


def _add_allow_failed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-failed",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction of cells that may have a failed status before the exit code is 4 (0)",
    )


def _add_no_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-lock",
        action="store_true",
        help="for file systems without locks, where nothing else writes to the store",
    )


def _add_share_arguments(parser: argparse.ArgumentParser) -> None:
    share = parser.add_argument_group("a part of the partitions, beside other tasks that compute others")
    share.add_argument("--partition", metavar="N[-M],...", help="these partitions, e.g. 3, 0-9 or 0-9,12")
    share.add_argument("--task", type=int, metavar="I", help="the share of task I of --n-tasks")
    share.add_argument("--n-tasks", type=int, metavar="K", help="how many tasks share all partitions evenly")
    share.add_argument(
        "--task-base", type=int, choices=(0, 1), default=0, help="number of the first task (0)"
    )


def _partitions(options: argparse.Namespace) -> Partitions:
    """Return the partitions that the arguments choose."""
    from stabdask.runs.shares import Share, parse_numbers

    if (options.task is None) != (options.n_tasks is None):
        raise UsageError("--task and --n-tasks go together; give both, or --partition")
    if options.task is None:
        return None if options.partition is None else parse_numbers(options.partition)
    if options.partition is not None:
        raise UsageError("--partition and --task both choose partitions; give one of them")
    return Share(options.task - options.task_base, options.n_tasks)


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

    check_cluster_arguments(options)
    if options.dry_run and options.repair:
        raise UsageError("--repair writes and --dry-run does not; 'stabdask verify' says what is damaged")
    recall(options)
    if options.dry_run:
        return _dry_run(options)
    partitions = _partitions(options)
    _check_allowed(options)
    if options.is_program and options.workers != 0 and not options.gpu and options.cluster in (None, "local"):
        start_early()
    from stabdask.runs.runner import run

    cells, field = job_inputs(options)
    computed = job_options(options, field)
    if computed["backend"] == "auto" and computes_on_gpus(options):
        computed["backend"] = "auto:cuda"
    with cluster_client(options) as client:
        report = run(
            cells,
            field,
            options.store,
            client=client,
            memory=options.memory,
            workers=None if client is not None else options.workers,
            gpu=options.gpu,
            partitions=partitions,
            progress=not options.quiet,
            dashboard=not options.no_dashboard,
            lock=not options.no_lock,
            repair=options.repair,
            request=request_of(options, field),
            **computed,
        )
    print_json(report.to_dict()) if options.json else print(report)
    # Of a part, cells that fail are no failure: finalize counts them all.
    return 0 if partitions is not None else report_exit_code(report, options.allow_failed)


def _check_allowed(options: argparse.Namespace) -> None:
    if not 0 <= options.allow_failed <= 1:
        raise UsageError(f"--allow-failed {options.allow_failed}; expected a fraction from 0 to 1")


def _init(options: argparse.Namespace) -> int:
    from stabdask.runs.array_jobs import initialize

    cells, field = job_inputs(options)
    made = initialize(
        cells,
        field,
        options.store,
        gpu=options.gpu,
        request=request_of(options, field),
        **job_options(options, field),
    )
    print_json(made.to_dict()) if options.json else print(made.n_partitions)
    print(
        f"store        {options.store}: {made.n_partitions:,} partitions, {made.n_partitions_done:,} of them computed; "
        f"next: stabdask run --store {options.store} --partition N, or --task I --n-tasks K",
        file=sys.stderr,
    )
    return 0


def _finalize(options: argparse.Namespace) -> int:
    from stabdask.runs.array_jobs import finalize

    _check_allowed(options)
    report = finalize(options.store, lock=not options.no_lock)
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
