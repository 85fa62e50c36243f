"""Entry point: arguments, errors and exit codes.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 done; 1 partitions failed; 2 usage; 3 bad
input; 4 finished, but more cells have a failed status than allowed; 5 the store does not match; 130 interrupted.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import stabdask
from stabdask.cli.interrupts import EXIT_INTERRUPTED, Interrupts, interruptible, leave
from stabdask.cli.parser import Parser
from stabdask.errors import StabdaskError, StabdaskWarning

__all__ = ["build_parser", "main"]

_RESUMABLE = ("run", "demo")


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    from stabdask.cli import (
        demo,
        doctor,
        drivers,
        export,
        field,
        fixed_points,
        inspect,
        job,
        knockouts,
        network,
        rank,
        report,
        summary,
    )

    parser = Parser(
        prog="stabdask",
        description="Local stability of every cell of an atlas: Jacobian spectra of gene-regulatory velocity "
        "fields, out of core and distributed.",
        epilog="Start with 'stabdask demo'.",
    )
    parser.add_argument("--version", action="version", version=f"stabdask {stabdask.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser, title="commands"
    )
    for module in (
        demo,
        doctor,
        job,
        inspect,
        summary,
        drivers,
        rank,
        knockouts,
        fixed_points,
        network,
        report,
        export,
        field,
    ):
        module.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", StabdaskWarning)
    warnings.showwarning = _Warnings().show
    try:
        options = build_parser().parse_args(arguments)
        options.is_program = arguments is None  # and not called by another program
    except SystemExit as stop:
        return int(stop.code or 0)
    except StabdaskError as error:  # of modules of others, whose quantities the help lists
        print(f"stabdask: error: {error}", file=sys.stderr)
        return error.exit_code
    if options.is_program:
        # Importing makes many objects and no garbage to speak of.
        gc.set_threshold(50_000)
    try:
        with interruptible(is_program=options.is_program) as interrupts:
            code = _execute(options, interrupts)
            if options.is_program and interrupts.received:
                leave(code)
            return code
    finally:
        if options.is_program:
            # The interpreter looks for garbage once more as it ends, through all that was imported: most of a second.
            gc.freeze()


def _execute(options: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run the command; return its exit code, having said what went wrong."""
    try:
        return int(options.execute(options) or 0)
    except StabdaskError as error:
        print(f"stabdask: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        message = interrupts.message(resumable=options.command in _RESUMABLE)
        print(f"\nstabdask: {message}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (head, say); nothing more to say, and no traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Warnings:
    """Prints warnings of a command, each once though steps of it find the same."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def show(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Print one, as `warnings.showwarning` does."""
        if str(message) not in self._shown:
            self._shown.add(str(message))
            print(f"stabdask: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
