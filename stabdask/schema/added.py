"""Quantities that modules of others add: those named in the environment variable ``STABDASK_PLUGINS``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import UsageError
from stabdask.schema.variable import Variable

__all__ = ["PLUGINS_VARIABLE", "Quantity", "added_quantities", "load_plugins", "plugin_names"]

PLUGINS_VARIABLE = "STABDASK_PLUGINS"
"""Names of modules, separated by commas, that are imported wherever stabdask computes."""


@dataclass(frozen=True)
class Quantity:
    """A number of each cell that a module adds to what may be asked for.

    It is computed where it is named among the ``quantities`` of a run, is an array of the store with the attributes
    given here, and part of summaries, comparisons, exports and figures as the others are.

    Attributes
    ----------
    name
        What it is asked for by; also the name of its variable.
    compute
        Called with a `stabdask.fields.linearization.Linearization` of some cells of one cluster; returns ``(cell,)``.
        What a cell's number is must not depend on which others are there.
    units, long_name, description
        The attributes of its variable.
    source
        Where the definition is from.
    kind
        ``"float"``, or ``"count"`` for whole numbers that are not negative.
    """

    name: str
    compute: Callable[[Any], npt.NDArray[Any]]
    units: str
    long_name: str
    description: str
    source: str = ""
    kind: Literal["float", "count"] = "float"

    @property
    def variable(self) -> Variable:
        """What the registry says of it."""
        return Variable(
            self.name,
            ("cell",),
            self.kind,
            self.units,
            self.long_name,
            self.description,
            "closed form",
            self.source,
            on_request=True,
        )

    def values(self, linear: Any, n_cells: int) -> npt.NDArray[Any]:
        """Return the numbers of the cells of `linear`, checked.

        Raises
        ------
        UsageError
            If they are not one number for each cell.
        """
        found = np.asarray(self.compute(linear))
        if found.shape != (n_cells,) or found.dtype.kind not in "fiub":
            raise UsageError(
                f"quantity {self.name!r} gave {found.dtype} of shape {found.shape}; expected numbers of shape "
                f"({n_cells},), one for each cell"
            )
        return found


def plugin_names() -> tuple[str, ...]:
    """Return the names of the modules that are to be imported."""
    named = os.environ.get(PLUGINS_VARIABLE, "")
    return tuple(name.strip() for name in named.split(",") if name.strip())


@cache
def load_plugins() -> tuple[Any, ...]:
    """Import the modules, once a process.

    Raises
    ------
    UsageError
        If one of them cannot be imported.
    """
    modules = []
    for name in plugin_names():
        try:
            modules.append(importlib.import_module(name))
        except Exception as error:
            raise UsageError(
                f"the module {name!r} named in {PLUGINS_VARIABLE} cannot be imported ({type(error).__name__}: "
                f"{error}); expected a module on the path of Python here and on every worker, which imports nothing of "
                "stabdask but stabdask.schema and stabdask.fields"
            ) from error
    return tuple(modules)


@cache
def added_quantities() -> dict[str, Quantity]:
    """Return the quantities of these modules by name: whatever is a `Quantity` in them.

    Raises
    ------
    UsageError
        If two have the same name, or a name is none.
    """
    added: dict[str, Quantity] = {}
    for module in load_plugins():
        for value in vars(module).values():
            if not isinstance(value, Quantity) or added.get(value.name) is value:
                continue
            if value.name in added:
                raise UsageError(f"quantity {value.name!r} is defined twice, once more in {module.__name__}")
            if not value.name.isidentifier():
                raise UsageError(
                    f"quantity {value.name!r} in {module.__name__} has a name that is none; expected letters, digits "
                    "and underscores"
                )
            added[value.name] = value
    return added
