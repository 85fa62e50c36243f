"""What may be asked for by name, and the variables it is made of."""

from __future__ import annotations

from stabdask.schema.registry import VARIABLES

__all__ = [
    "AXIS_SENSITIVITY_MEANS",
    "BLOCK_QUANTITIES",
    "CLOSED_FORM_QUANTITIES",
    "DEFAULT_QUANTITIES",
    "MODE_QUANTITIES",
    "QUANTITIES",
    "SCALARS",
    "SPECTRAL_QUANTITIES",
    "SWITCH_MEANS",
    "VECTOR_QUANTITIES",
]

SCALARS: tuple[str, ...] = tuple(
    v.name
    for v in VARIABLES.values()
    if v.dims == ("cell",) and v.kind in ("float", "count") and v.needs != "audit"
)
"""Names of the numbers there is one of per cell: what summaries and exports use."""

CLOSED_FORM_QUANTITIES: tuple[str, ...] = tuple(
    v.name for v in VARIABLES.values() if v.needs in ("closed form", "determinant")
)
"""What can be had without a spectrum."""

SPECTRAL_QUANTITIES: tuple[str, ...] = tuple(
    v.name
    for v in VARIABLES.values()
    if v.needs in ("spectrum", "complete spectrum", "determinant") and v.name != "eigenvalue"
)
DEFAULT_QUANTITIES: tuple[str, ...] = tuple(
    name for name in SCALARS if name != "residual" and not VARIABLES[name].on_request
)
"""What is computed when nothing is asked for (residuals come with vectors, elements with pairs)."""

_PARTICIPATION_MEANS = ("driver_cells", "leading_cells", "participation_sum", "participation_squares")
_SENSITIVITY_MEANS = ("driver_cells", "leading_cells", "sensitivity_sum", "sensitivity_squares")
_TOP_EDGES = ("top_edge_effector", "top_edge_regulator", "top_edge_sensitivity")

MODE_QUANTITIES: dict[str, tuple[str, ...]] = {
    "eigenvalue_condition": ("eigenvalue_condition",),
    "participation": ("participation", *_PARTICIPATION_MEANS),
    "participation_mean": _PARTICIPATION_MEANS,
    "sensitivity": (*_TOP_EDGES, *_SENSITIVITY_MEANS),
    "sensitivity_mean": _SENSITIVITY_MEANS,
}
"""What may be asked for beside scalars, and the variables each is made of. All need right and left vectors of cores."""

AXIS_SENSITIVITY_MEANS = ("driver_cells", "leading_cells", "axis_sensitivity_sum", "axis_jacobian_sum")
"""What sensitivity_mean is made of where cores are over axes, not over genes."""

VECTOR_QUANTITIES: tuple[str, ...] = ("velocity", "acceleration", "curvature", "curl")
"""What may be asked for that has a component along each axis."""

SWITCH_MEANS = ("switch_sum",)

BLOCK_QUANTITIES: dict[str, tuple[str, ...]] = {
    "jacobian": ("jacobian",),
    "response": ("response", "response_condition", "response_status"),
    "response_mean": (
        *("response_cells", "response_sum", "response_abs_sum"),
        *("response_condition", "response_status"),
    ),
    "dynamo_sensitivity": ("dynamo_sensitivity",),
    "jacobian_mean": ("jacobian_cells", "jacobian_sum", "jacobian_abs_sum", *SWITCH_MEANS),
}
"""What may be asked for between chosen effectors and regulators, and the variables each is made of."""

_ALONG = {name for names in BLOCK_QUANTITIES.values() for name in names}

QUANTITIES: tuple[str, ...] = (
    *(name for name in SCALARS if name not in _ALONG),
    *(*VECTOR_QUANTITIES, *BLOCK_QUANTITIES, *MODE_QUANTITIES),
)
"""All that may be asked for by name."""
