"""dynamo 1.5's Jacobians and vector calculus: the same functions and keys, computed by stabdask.

Change one import::

    from stabdask.compat import dynamo as dyn

    dyn.vf.jacobian(adata, regulators=["GATA1"], effectors=["SPI1"])
    dyn.vf.rank_jacobian_genes(adata, groups="cell_type")

Numbers are the same where dynamo's are right; ``notebooks/from_dynamo.md`` has a table of where they are not.
"""

from stabdask.compat.dynamo import vf
from stabdask.compat.dynamo.vf import (
    acceleration,
    curl,
    curvature,
    divergence,
    get_jacobian,
    jacobian,
    rank_jacobian_genes,
    rank_sensitivity_genes,
    sensitivity,
    speed,
    torsion,
)

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
    "vf",
]
