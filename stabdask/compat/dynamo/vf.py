"""What dynamo has in its namespace `vf` on Jacobians and vector calculus."""

from stabdask.compat.dynamo.calculus import acceleration, curl, curvature, divergence, speed, torsion
from stabdask.compat.dynamo.jacobians import jacobian
from stabdask.compat.dynamo.ranking import rank_jacobian_genes, rank_sensitivity_genes
from stabdask.compat.dynamo.sensitivities import sensitivity
from stabdask.compat.dynamo.stored import get_jacobian

__all__ = [
    "acceleration",
    "curl",
    "curvature",
    "divergence",
    "get_jacobian",
    "jacobian",
    "rank_jacobian_genes",
    "rank_sensitivity_genes",
    "sensitivity",
    "speed",
    "torsion",
]
