"""What commands share that compute in this process or in workers, and write their result to one file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.cli.common import add_json, plain_values
from stabdask.errors import OutputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_output_arguments", "add_workers_argument", "check_scan", "client_of", "write_result"]

_ENDINGS = (".json", ".csv")


def add_workers_argument(group: Any) -> None:
    """Add --workers."""
    group.add_argument("--workers", type=int, default=0, help="worker processes (0: threads of this process)")


def add_output_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add -o, which writes `what`, and --json."""
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write {what}")
    add_json(parser)


def check_scan(options: argparse.Namespace) -> None:
    """Refuse what would fail after the work, before it.

    Raises
    ------
    UsageError
        If there cannot be so many workers, or the name of the file does not say what to write.
    OutputError
        If the file has no folder.
    """
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers}; expected at least 0")
    path = options.output
    if path is None:
        return
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--output {path}; expected a name that ends in {' or '.join(_ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.absolute().parent} does not exist")


def client_of(options: argparse.Namespace) -> AbstractContextManager[Any]:
    """Return a context with a client of as many workers as asked for, or with None."""
    if not options.workers:
        return nullcontext()
    from stabdask.clusters import local_client

    return local_client(n_workers=options.workers, memory_limit=None, dashboard=False)


def write_result(path: Path, values: dict[str, Any], table: Callable[[], pd.DataFrame]) -> None:
    """Write a table to a .csv, or all values to a .json."""
    from stabdask.files import write_atomically

    if path.suffix.lower() == ".csv":
        text = table().to_csv(index=False)
    else:
        text = json.dumps(plain_values(values), indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())
