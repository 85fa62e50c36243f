"""Names, dimensions, units and meaning of everything stabdask computes."""

# What modules of others need, which the registry imports, comes first.
from stabdask.schema.added import PLUGINS_VARIABLE, Quantity, added_quantities, plugin_names
from stabdask.schema.status import Status, count_failed, counts_text, explained, named_counts
from stabdask.schema.variable import Variable

# isort: split
from stabdask.schema.quantities import (
    AXIS_SENSITIVITY_MEANS,
    BLOCK_QUANTITIES,
    CLOSED_FORM_QUANTITIES,
    DEFAULT_QUANTITIES,
    MODE_QUANTITIES,
    QUANTITIES,
    SCALARS,
    SPECTRAL_QUANTITIES,
    SWITCH_MEANS,
    VECTOR_QUANTITIES,
)
from stabdask.schema.registry import FORMAT_VERSION, PARAMETER_ATTRS, VARIABLES, variable_table

__all__ = [
    "AXIS_SENSITIVITY_MEANS",
    "BLOCK_QUANTITIES",
    "CLOSED_FORM_QUANTITIES",
    "DEFAULT_QUANTITIES",
    "FORMAT_VERSION",
    "MODE_QUANTITIES",
    "PARAMETER_ATTRS",
    "PLUGINS_VARIABLE",
    "QUANTITIES",
    "SCALARS",
    "SPECTRAL_QUANTITIES",
    "SWITCH_MEANS",
    "VARIABLES",
    "VECTOR_QUANTITIES",
    "Quantity",
    "Status",
    "Variable",
    "added_quantities",
    "count_failed",
    "counts_text",
    "explained",
    "named_counts",
    "plugin_names",
    "variable_table",
]
