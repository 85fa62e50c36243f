"""`status` and `verify`: is a store complete, and is it right."""

from __future__ import annotations

import argparse
from typing import Any

from stabdask.cli.common import add_json, add_store, print_json
from stabdask.errors import DamagedStoreError, UsageError
from stabdask.files import location

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    status = commands.add_parser(
        "status",
        help="how far a run is",
        description="Say how many partitions and cells of a store are finished, and what became of the cells; also "
        "while the run goes on, from any process.",
    )
    add_store(status)
    add_json(status)
    status.set_defaults(execute=_status)

    verify = commands.add_parser(
        "verify",
        help="check a store: checksums, and a sample against dense Jacobians",
        description="Read a store again, compare it with the checksums of its receipts, and compare the spectra of "
        "some cells with those of their dense Jacobians (the oracle); exit code 5 where anything is wrong.",
    )
    add_store(verify)
    verify.add_argument(
        "--cells", type=int, default=8, metavar="N", help="cells to compare with the oracle (8)"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    verify.add_argument("--atlas", nargs="+", type=location, help="where the atlas is now, if it has moved")
    add_json(verify)
    verify.set_defaults(execute=_verify)


def _status(options: argparse.Namespace) -> int:
    from stabdask.runs.status import status

    result = status(options.store)
    print_json(result.to_dict()) if options.json else print(result)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from stabdask.runs.verify import reopen_cells, verify

    if options.cells < 0:
        raise UsageError(f"--cells {options.cells}; expected 0 or more")
    cells = None if options.atlas is None else reopen_cells(options.store, options.atlas)
    result = verify(options.store, cells=cells, n_cells=options.cells, seed=options.seed)
    print_json(result.to_dict()) if options.json else print(result)
    return 0 if result.ok else DamagedStoreError.exit_code
