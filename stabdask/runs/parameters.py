"""What results hold beside what is computed: names of their coordinates, and parameters of the field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field
from stabdask.runs.job import RunSpec
from stabdask.runs.options import Options
from stabdask.schema import PARAMETER_ATTRS, VARIABLES

__all__ = ["NAMED", "parameter_dims", "parameter_values", "result_names"]

NAMED = (
    *("cell", "gene", "regulator", "core_effector", "cluster", "pair", "effector", "pair_regulator"),
    *("axis", "axis_effector", "block_effector", "block_regulator"),
)
"""Coordinates that hold names."""

_DIMS = {
    "degradation": ("cluster", "gene"),
    "weight": ("cluster", "core_effector", "regulator"),
    "loading": ("gene", "axis"),
}


def result_names(field: Field, spec: RunSpec) -> dict[str, tuple[str, list[str]]]:
    """Return the dimension and the values of every coordinate of a result that holds names, but for the cells'."""
    options = spec.options
    out = {
        "gene": ("gene", field.genes.tolist()),
        "regulator": ("regulator", field.regulators.tolist()),
        "cluster": ("cluster", list(spec.labels)),
    }
    pairs = options.elements
    if pairs:
        out["pair"] = ("pair", [f"{i}:{j}" for i, j in pairs])
        out["effector"] = ("pair", [i for i, _ in pairs])
        out["pair_regulator"] = ("pair", [j for _, j in pairs])
    used = {dim for name in options.variables() for dim in VARIABLES[name].dims}
    used |= {dim for name in parameter_values(field, options) for dim in _DIMS[name]}
    axes, regulators = field.axes.tolist(), field.regulators.tolist()
    others = {
        "core_effector": regulators,
        "axis": axes,
        "axis_effector": axes,
        "block_effector": list(options.effectors),
        "block_regulator": list(options.regulators),
    }
    return out | {name: (name, values) for name, values in others.items() if name in used}


def parameter_values(
    field: Field, options: Options
) -> dict[str, Callable[[Sequence[str | None]], npt.NDArray[np.float64]]]:
    """Return the parameters of the field that a result holds, as functions of the models of its labels.

    ``degradation`` is, per label of the atlas, minus the eigenvalue of each gene outside the core and ``weight`` is W
    among regulators, NaN where the cells of a label are left out; ``loading`` is what lifts axes to genes.
    """
    out: dict[str, Callable[[Sequence[str | None]], npt.NDArray[np.float64]]] = {}
    loadings = field.loadings
    if not options.whole_cores:
        out["degradation"] = lambda models: (
            -_by_label(
                models, lambda label: field.rest_eigenvalues(field.cluster_number(label)), (field.n_genes,)
            )
        )
    if "sensitivity_sum" in options.variables():
        n = len(field.regulator_index)
        out["weight"] = lambda models: _by_label(
            models, lambda label: field.regulator_weights(field.cluster_number(label)), (n, n)
        )
    if loadings is not None:
        out["loading"] = lambda models: loadings
    return out


def parameter_dims(name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the dimensions and the xarray attributes of a parameter."""
    return _DIMS[name], PARAMETER_ATTRS[name]


def _by_label(
    models: Sequence[str | None], values: Callable[[str], npt.NDArray[np.float64]], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    out = np.full((len(models), *shape), np.nan)
    for number, model in enumerate(models):
        if model is not None:
            out[number] = values(model)
    return out
