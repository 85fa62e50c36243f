"""How large the arrays of a result are, and how many cells are solved together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field
from stabdask.runs.options import TOP_EDGES, Options
from stabdask.schema import VARIABLES

__all__ = ["batch_cells", "empty_arrays", "output_shapes"]

_BATCH_BYTES = 32 * 2**20
_MOST_CELLS = 1024


def output_shapes(
    options: Options,
    field: Field,
    n_cells: int,
    *,
    n_labels: int | None = None,
    n_partitions: int = 1,
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every variable for `n_cells` cells with `n_labels` cluster labels (those of the field)."""
    sizes = {
        "partition": n_partitions,
        "cluster": len(field.clusters) if n_labels is None else n_labels,
        "cell": n_cells,
        "mode": options.stored_modes(field),
        "vector_mode": options.vector_modes(field),
        "gene": field.n_genes,
        "regulator": len(field.regulator_index),
        "core_effector": len(field.regulator_index),
        "edge_rank": TOP_EDGES,
        "pair": len(options.elements),
        "axis": len(field.axes),
        "axis_effector": len(field.axes),
        "curl_axis": 3 if len(field.axes) == 3 else 1,
        "block_effector": len(options.effectors),
        "block_regulator": len(options.regulators),
    }
    return {name: tuple(sizes[dim] for dim in VARIABLES[name].dims) for name in options.variables()}


def empty_arrays(
    options: Options, field: Field, n_cells: int, *, n_labels: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return an array for every variable of `n_cells` cells, filled with what says that nothing is known.

    Sums over the cells of a partition are zero: nothing has been added to them.
    """
    shapes = output_shapes(options, field, n_cells, n_labels=n_labels)
    arrays = {name: VARIABLES[name].empty(shape, options.dtype) for name, shape in shapes.items()}
    for name in arrays:
        if VARIABLES[name].per_partition:
            arrays[name][...] = 0
    return arrays


def batch_cells(options: Options, field: Field) -> int:
    """Return how many cores are solved in one call: 1,024, or about 32 MB of them and of their vectors.

    It depends on the field and the options alone, never on memory or workers, so that results do not.
    """
    if options.solved_vectors == "none":
        return _MOST_CELLS
    k = max(1, field.largest_core)
    per_cell = 40 * k * k + 16 * options.vector_modes(field) * (2 * field.n_genes + k)
    return int(np.clip(_BATCH_BYTES // per_cell, 1, _MOST_CELLS))
