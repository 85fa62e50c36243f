"""Arguments that a store remembers: recorded where it is made, taken from there where they are not given again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stabdask.cli.arguments import job_options
from stabdask.errors import UsageError

if TYPE_CHECKING:
    from stabdask.fields.base import Field

__all__ = ["Noted", "recall", "request_of"]

_INPUT = ("layer", "obsm", "cluster_key", "obs", "embedding")
_SAMPLE = ("sample", "sample_method", "sample_seed", "sample_basis")
_OF_FIELD = ("kind", "basis", "loadings", "gene_names")


class Noted(argparse.Action):
    """Stores a value, and notes that it was given and is no default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store and note."""
        setattr(namespace, self.dest, values)
        if option_string is not None or values:
            namespace.given = {*getattr(namespace, "given", ()), self.dest}


def request_of(options: argparse.Namespace, field: Field) -> dict[str, Any]:
    """Return the arguments that say which cells and what to compute, as JSON-ready values for a store to remember.

    The field is not among them: the store has a copy. Nothing that could be a credential is recorded.

    Raises
    ------
    UsageError
        If the address of an atlas holds one.
    """
    found = {name: getattr(options, name) for name in (*_INPUT, *_SAMPLE)}
    # What the field implies, so that the copy in the store need not.
    found["obsm"] = options.obsm or (None if options.layer else field.obsm)
    return {"atlas": [_lasting(path) for path in options.atlas], **found, **job_options(options, field)}


def _lasting(path: Path | str) -> str:
    """Return where an atlas is for a reader in any folder."""
    text = str(path)
    if "://" not in text:
        return os.path.abspath(text)  # noqa: PTH100 - as it was named: Path.resolve would follow links
    parts = urlsplit(text)
    if parts.username or parts.password or parts.query:
        raise UsageError(
            f"the address of the atlas at {parts.hostname} holds a user name, a password or a query, which the store "
            "would remember; give it without, and credentials by the environment"
        )
    return text


def recall(options: argparse.Namespace) -> None:
    """Fill in, from the store, what the arguments leave out; what they say too has to fit, which the run checks.

    Raises
    ------
    UsageError
        If there is no store to take them from, or it does not remember them.
    StoreMismatchError
        If what is there is no store.
    """
    given: set[str] = set(getattr(options, "given", ()))
    if {"atlas", "field"} <= given:
        return
    from stabdask.runs.store import field_path, read_request, read_spec

    if not options.store.exists():
        raise UsageError(
            f"there is no store at {options.store} to take what is left out from; give ATLAS and --field, or make the "
            "store first with 'stabdask init'"
        )
    read_spec(options.store)
    request = read_request(options.store)
    if request is None:
        raise UsageError(
            f"{options.store} was made from Python and does not remember where its cells are; give ATLAS and --field "
            "and what was asked for"
        )
    if "field" not in given:
        stray = sorted(given & set(_OF_FIELD))
        if stray:
            raise UsageError(
                f"--{stray[0].replace('_', '-')} says how to read a field, but none is given; give --field too"
            )
        options.field = field_path(options.store)
    if given & {"layer", "obsm"}:  # one takes the place of the other
        request = {name: value for name, value in request.items() if name not in ("layer", "obsm")}
    for name, value in request.items():
        if name not in given:
            setattr(options, name, [Path(path) for path in value] if name == "atlas" else value)
