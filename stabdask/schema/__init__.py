"""Names, dimensions, units and meaning of everything stabdask computes."""

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
from stabdask.schema.status import Status, count_failed, counts_text, named_counts
from stabdask.schema.variable import Variable

__all__ = [
    "AXIS_SENSITIVITY_MEANS",
    "BLOCK_QUANTITIES",
    "CLOSED_FORM_QUANTITIES",
    "DEFAULT_QUANTITIES",
    "FORMAT_VERSION",
    "MODE_QUANTITIES",
    "PARAMETER_ATTRS",
    "QUANTITIES",
    "SCALARS",
    "SPECTRAL_QUANTITIES",
    "SWITCH_MEANS",
    "VARIABLES",
    "VECTOR_QUANTITIES",
    "Status",
    "Variable",
    "count_failed",
    "counts_text",
    "named_counts",
    "variable_table",
]
