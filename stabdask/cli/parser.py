"""Parser of the command line: errors that look like the program's others, and help that is made when it is read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from stabdask.errors import near_misses

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """An argument parser that says what a misspelt option or command may have meant.

    Attributes
    ----------
    listing
        Returns what stands below the help, or None. It is called when the help is read: it may import what no command
        needs to start.
    """

    listing: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and leave."""
        self.print_usage(sys.stderr)
        see = " See" if message.endswith("?") else "; see"
        self.exit(2, f"stabdask: error: {message}{see} '{self.prog} --help'\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; what a command does not know is its own error, not that of the program."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant_options(unknown)}")
        return found, unknown

    def format_help(self) -> str:
        """Return the help with the listing."""
        text = super().format_help()
        return text if self.listing is None else f"{text}\n{self.listing()}\n"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _meant(str(value), map(str, action.choices or ()))
            raise

    def _meant_options(self, unknown: Sequence[str]) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        options = [text.partition("=")[0] for text in unknown if text.startswith("--")]
        return _meant(options[0], known) if options else ""


def _meant(text: str, known: Iterable[str]) -> str:
    """Return what `text` may have meant, "" where nothing is close."""
    hint = near_misses(text, known)
    return f"; {hint}" if hint.startswith("did you mean") else ""
