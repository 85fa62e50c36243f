"""What scHopfield has in its namespace `tl` on Jacobians and models."""

from stabdask.compat.schopfield.jacobians import (
    compute_jacobian_elements,
    compute_jacobian_stats,
    compute_jacobians,
    compute_rotational_part,
)
from stabdask.compat.schopfield.models import load_model, save_model
from stabdask.compat.schopfield.storage import load_jacobians, save_jacobians

__all__ = [
    "compute_jacobian_elements",
    "compute_jacobian_stats",
    "compute_jacobians",
    "compute_rotational_part",
    "load_jacobians",
    "load_model",
    "save_jacobians",
    "save_model",
]
