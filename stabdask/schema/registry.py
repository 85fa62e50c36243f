"""Names, dimensions, units and meaning of everything stabdask computes: the one registry.

The block function allocates its outputs from it, the store writes its arrays and attributes from it, and the
documentation prints it as a table.
"""

from __future__ import annotations

from stabdask.errors import UsageError
from stabdask.schema.added import added_quantities
from stabdask.schema.variable import Variable

__all__ = ["FORMAT_VERSION", "PARAMETER_ATTRS", "VARIABLES", "variable_table"]

FORMAT_VERSION = 2
"""Version of the store layout; raised whenever an older reader could misread a newer store."""

_PER_TIME = "1/time"
_CELL = ("cell",)
_PARTS = ("partition", "cluster")
_NEUBERT = "Neubert & Caswell 1997, Ecology 78:653"
_HENRICI = "Henrici 1962, Numerische Mathematik 4:24; Trefethen & Embree 2005, Spectra and Pseudospectra"
_WILKINSON = (
    "Wilkinson 1965, The Algebraic Eigenvalue Problem; Golub & Van Loan 2013, Matrix Computations, 7.2"
)
_PARTICIPATION = "Perez-Arriaga, Verghese & Schweppe 1982, IEEE Trans. Power Apparatus and Systems 101:3117"
_SENSITIVITY = "Caswell 2001, Matrix Population Models, 9.1; Wilkinson 1965, The Algebraic Eigenvalue Problem"

_HIGHAM = "Higham (2002), Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 7 and 15"
_QIU = "Qiu et al. 2022, Cell 185:690"
_BLOCK = ("block_effector", "block_regulator")
_FRENET = "Do Carmo 2016, Differential Geometry of Curves and Surfaces, 1.5"

_REGISTRY: tuple[Variable, ...] = (
    Variable(
        "eigenvalue", ("cell", "mode"), "complex", _PER_TIME, "eigenvalues of the core",
        "Spectrum of the core in canonical order (real part descending, then imaginary part descending), "
        "NaN past the size of the core. complete_spectrum adds the remaining eigenvalues of the Jacobian.",
        "spectrum",
    ),
    Variable(
        "right_vector", ("cell", "vector_mode", "gene"), "complex", "1", "right eigenvectors",
        "Right eigenvectors of the Jacobian for the leading modes of the core: unit 2-norm, largest "
        "component real and positive.",
        "vectors",
    ),
    Variable(
        "left_vector", ("cell", "vector_mode", "gene"), "complex", "1", "left eigenvectors",
        "Left eigenvectors y of the Jacobian (y^H J = lambda y^H) for the leading modes of the core: unit "
        "2-norm, largest component real and positive.",
        "vectors",
    ),
    Variable(
        "spectral_abscissa", _CELL, "float", _PER_TIME, "spectral abscissa",
        "Largest real part over the complete spectrum of the Jacobian. Positive: some small displacement "
        "grows. Read it beside speed: eigenvalues say little far from a fixed point.",
        "spectrum",
    ),
    Variable(
        "unstable_count", _CELL, "count", "1", "number of unstable modes",
        "Number of eigenvalues of the complete spectrum with real part above the tolerance.",
        "spectrum",
    ),
    Variable(
        "stable_count", _CELL, "count", "1", "number of stable modes",
        "Number of eigenvalues of the complete spectrum with real part below minus the tolerance.",
        "spectrum",
    ),
    Variable(
        "leading_frequency", _CELL, "float", "rad/time", "frequency of the leading mode",
        "Absolute imaginary part of the eigenvalue with the largest real part: 0 for a mode that does not "
        "oscillate.",
        "spectrum",
    ),
    Variable(
        "spectral_gap", _CELL, "float", _PER_TIME, "spectral gap",
        "Difference in real part between the leading mode and the next distinct one of the complete "
        "spectrum. A conjugate pair counts as one mode; a repeated eigenvalue is as many, and its gap is 0.",
        "spectrum",
    ),
    Variable(
        "trace", _CELL, "float", _PER_TIME, "trace of the Jacobian",
        "Sum of all eigenvalues: the divergence of the velocity field at the cell.",
        "closed form",
    ),
    Variable(
        "logabsdet", _CELL, "float", "log(1/time^n)", "log |det J|",
        "Natural logarithm of the absolute value of the determinant of the Jacobian of n genes, over the complete "
        "spectrum. Very low beside other cells: an eigenvalue near zero, a direction that the field hardly restores.",
        "determinant",
    ),
    Variable(
        "det_sign", _CELL, "float", "1", "sign of det J",
        "-1, 0 or 1. For n genes, all modes stable gives (-1)^n; the other sign means an odd number of real unstable "
        "modes. It flips where a real eigenvalue crosses zero, as at a saddle-node bifurcation.",
        "determinant", "Strogatz 2015, Nonlinear Dynamics and Chaos, 8.1",
    ),
    Variable(
        "rotational_norm", _CELL, "float", _PER_TIME, "norm of the rotational part",
        "Frobenius norm of the antisymmetric part (J - J^T)/2 of the Jacobian.",
        "closed form",
    ),
    Variable(
        "henrici", _CELL, "float", _PER_TIME, "Henrici departure from normality",
        "sqrt(|J|_F^2 - sum |lambda|^2) over the complete spectrum. 0 for a normal Jacobian, whose eigenvalues tell "
        "all; the larger it is beside |lambda|, the more transients can do that eigenvalues do not show.",
        "complete spectrum", _HENRICI,
    ),
    Variable(
        "reactivity", _CELL, "float", _PER_TIME, "reactivity",
        "Largest eigenvalue of (J + J^T)/2: the fastest rate at which any small displacement grows at first. Positive "
        "beside a negative spectral abscissa: displacements grow before they decay. Never below the abscissa.",
        "closed form", _NEUBERT, on_request=True,
    ),
    Variable(
        "speed", _CELL, "float", "expression/time", "speed",
        "Euclidean norm of the velocity: how far the cell is from a fixed point of the field.",
        "closed form",
    ),
    Variable(
        "velocity", ("cell", "axis"), "float", "expression/time", "velocity",
        "v(x), along the axes that the field is evaluated at: genes, or components of an embedding.",
        "closed form", on_request=True,
    ),
    Variable(
        "acceleration", ("cell", "axis"), "float", "expression/time^2", "acceleration",
        "J v: how the velocity changes along the flow.",
        "closed form", _QIU, on_request=True,
    ),
    Variable(
        "acceleration_norm", _CELL, "float", "expression/time^2", "norm of the acceleration",
        "Euclidean norm of J v. Large where the flow speeds up, slows down or turns.",
        "closed form", _QIU, on_request=True,
    ),
    Variable(
        "curvature", ("cell", "axis"), "float", "1/expression", "curvature vector",
        "(a (v.v) - v (v.a)) / |v|^4 with the acceleration a: how the direction of the flow changes per length of its "
        "path. NaN where the velocity is zero.",
        "closed form", _FRENET, on_request=True,
    ),
    Variable(
        "curvature_norm", _CELL, "float", "1/expression", "curvature",
        "Norm of the curvature vector, one over the radius of the circle that the path of the cell follows. Large: the "
        "flow turns, as where fates part.",
        "closed form", _FRENET, on_request=True,
    ),
    Variable(
        "torsion", _CELL, "float", "1/expression", "torsion",
        "det(v, a, da/dt) / |v x a|^2 of a flow in three dimensions, with the true derivative da/dt = J a + (dJ/dt) v: "
        "how fast the path leaves its plane. NaN where it is straight.",
        "closed form", _FRENET, on_request=True,
    ),
    Variable(
        "curl", ("cell", "curl_axis"), "float", _PER_TIME, "curl",
        "In two dimensions dv_2/dx_1 - dv_1/dx_2, in three the vector curl of the velocity. In more dimensions "
        "rotational_norm takes its place.",
        "closed form", on_request=True,
    ),
    Variable(
        "element", ("cell", "pair"), "float", _PER_TIME, "Jacobian elements",
        "J[effector, regulator] = d(dx_effector/dt)/dx_regulator for the chosen pairs.",
        "closed form",
    ),
    Variable(
        "jacobian", ("cell", *_BLOCK), "element", _PER_TIME, "Jacobian between chosen genes",
        "J[effector, regulator] = d(dx_effector/dt)/dx_regulator for all chosen effectors and regulators.",
        "closed form", on_request=True,
    ),
    Variable(
        "response", ("cell", *_BLOCK), "element", "time", "response to a sustained push",
        "-J^-1 [effector, regulator]: by what a constant push on the regulator, small and kept up, would shift the "
        "effector once all settled, if the field were linear. Of a field over axes, -Q J^-1 Q^T with their loadings Q. "
        "NaN where J is singular.",
        "closed form", on_request=True,
    ),
    Variable(
        "response_condition", _CELL, "float", "1", "condition number of the core",
        "|C|_1 |C^-1|_1 of the matrix C that responses are solved with: the Jacobian among all regulators of the "
        "cluster, or over the axes. Responses have lost as many digits as it has. Infinite where J is singular.",
        "closed form", _HIGHAM, on_request=True,
    ),
    Variable(
        "response_status", _CELL, "code", "1", "what became of the responses",
        "0 ok, 2 inaccurate (J is so near singular that fewer than three digits hold), 6 singular.",
        "closed form", on_request=True,
    ),
    Variable(
        "response_cells", _PARTS, "count", "1", "cells in the means of responses",
        "Number of cells of the cluster, in the partition, whose responses are in the sums: those with response_status "
        "0.",
        "closed form", on_request=True,
    ),
    Variable(
        "response_sum", (*_PARTS, *_BLOCK), "float", "time", "sum of responses",
        "Sum of -J^-1 [effector, regulator] over those cells.",
        "closed form", on_request=True,
    ),
    Variable(
        "response_abs_sum", (*_PARTS, *_BLOCK), "float", "time", "sum of absolute responses",
        "Sum of the absolute values of -J^-1 [effector, regulator] over those cells.",
        "closed form", on_request=True,
    ),
    Variable(
        "dynamo_sensitivity", ("cell", *_BLOCK), "element", "1", "sensitivity as dynamo defines it",
        "S = (I - J)^-1 diag(1 / diag((I - J)^-1)) of J on the union of the chosen effectors and regulators: as if J "
        "had no units and a step were x -> J x + push, with the regulator held at 1. response is what it is for the "
        "flow dx/dt = J x + push, over all genes. NaN where I - J is singular.",
        "closed form", _QIU, on_request=True,
    ),
    Variable(
        "jacobian_cells", _PARTS, "count", "1", "cells in the means of the Jacobian",
        "Number of cells of the cluster, in the partition, whose Jacobian is in the sums.",
        "closed form", on_request=True,
    ),
    Variable(
        "jacobian_sum", (*_PARTS, *_BLOCK), "float", _PER_TIME, "sum of Jacobians",
        "Sum of J[effector, regulator] over those cells.",
        "closed form", on_request=True,
    ),
    Variable(
        "jacobian_abs_sum", (*_PARTS, *_BLOCK), "float", _PER_TIME, "sum of absolute Jacobians",
        "Sum of |J[effector, regulator]| over those cells.",
        "closed form", on_request=True,
    ),
    Variable(
        "switch_sum", (*_PARTS, *_BLOCK), "float", "1/time^2", "sum of products of mutual inhibition",
        "Sum over those cells of J[i, j] J[j, i] where both are negative, else 0, of genes that are both effectors and "
        "regulators: large where two genes inhibit each other, as in a toggle switch.",
        "closed form", _QIU, on_request=True,
    ),
    Variable(
        "near_switch_count", _CELL, "count", "1", "regulators at a switch of their activation",
        "Number of regulators whose expression lies within a relative 1e-6 of the point where a "
        "two-component activation switches, where the Jacobian jumps.",
        "closed form",
    ),
    Variable(
        "active", ("cell", "regulator"), "flag", "1", "active regulators",
        "1 where the regulator spans the core of the cell (a nonzero column of W and a nonzero slope of its "
        "activation), 0 elsewhere.",
        "always",
    ),
    Variable(
        "eigenvalue_condition", ("cell", "vector_mode"), "float", "1", "condition number of eigenvalues",
        "|x| |y| / |y^H x| of the right and left eigenvectors x and y of the Jacobian. A change of J by a small E "
        "moves the eigenvalue by at most this times |E|: 1 is best, large means the fit hardly determines it, infinite "
        "a defective eigenvalue.",
        "both vectors", _WILKINSON, on_request=True,
    ),
    Variable(
        "participation", ("cell", "vector_mode", "regulator"), "complex", "1", "participation factors",
        "conj(y_i) x_i / (y^H x): how much the mode is gene i's; sums to 1. Its real part is minus the derivative of "
        "the mode's real part by gene i's degradation rate. Exactly 0 outside the core (of a Hopfield field: for genes "
        "that are no active regulators); NaN for a defective mode.",
        "both vectors", _PARTICIPATION, on_request=True,
    ),
    Variable(
        "top_edge_effector", ("cell", "edge_rank"), "count", "1", "effector of the edges that matter most",
        "Position among the regulators of the effector of the edges with the largest sensitivity in the cell, among "
        "edges of its network; -1 for none.",
        "both vectors", on_request=True,
    ),
    Variable(
        "top_edge_regulator", ("cell", "edge_rank"), "count", "1", "regulator of the edges that matter most",
        "Position among the regulators of the regulator of these edges; -1 for none.",
        "both vectors", on_request=True,
    ),
    Variable(
        "top_edge_sensitivity", ("cell", "edge_rank"), "float", "1/expression", "sensitivity to these edges",
        "d Re(lambda) / d W_ij of the leading mode of the core. Positive: strengthening the edge destabilizes the cell "
        "(for an inhibiting edge, weakening it does).",
        "both vectors", _SENSITIVITY, on_request=True,
    ),
    Variable(
        "driver_cells", (*_PARTS, "vector_mode"), "count", "1", "cells in the means of drivers",
        "Number of cells of the cluster, in the partition, that have the mode and in which it is not defective.",
        "both vectors", on_request=True,
    ),
    Variable(
        "leading_cells", _PARTS, "count", "1", "cells whose core leads",
        "Number of cells of the cluster, in the partition, in which the leading mode of the core sets the spectral "
        "abscissa; in the others it is -gamma of a gene outside the core.",
        "both vectors", on_request=True,
    ),
    Variable(
        "participation_sum", (*_PARTS, "vector_mode", "regulator"), "float", "1", "sum of participation",
        "Sum over those cells of the real part of participation.",
        "both vectors", _PARTICIPATION, on_request=True,
    ),
    Variable(
        "participation_squares", (*_PARTS, "vector_mode", "regulator"), "float", "1", "sum of squared participation",
        "Sum over those cells of the square of the real part of participation.",
        "both vectors", _PARTICIPATION, on_request=True,
    ),
    Variable(
        "sensitivity_sum", (*_PARTS, "core_effector", "regulator"), "float", "1/expression", "sum of sensitivity",
        "Sum over those cells of d Re(lambda) / d W_ij = Re(conj(y_i) phi'_j x_j / (y^H x)) of the leading mode; 0 "
        "where j does not regulate in the cluster.",
        "both vectors", _SENSITIVITY, on_request=True,
    ),
    Variable(
        "sensitivity_squares", (*_PARTS, "core_effector", "regulator"), "float", "1/expression^2",
        "sum of squared sensitivity",
        "Sum over those cells of the square of that.",
        "both vectors", _SENSITIVITY, on_request=True,
    ),
    Variable(
        "axis_sensitivity_sum", (*_PARTS, "axis_effector", "axis"), "float", "1", "sum of sensitivity to J",
        "Sum over those cells of d Re(lambda) / d J_ab = Re(conj(w_a) u_b / (w^H u)) of the leading mode, over axes.",
        "both vectors", _SENSITIVITY, on_request=True,
    ),
    Variable(
        "axis_jacobian_sum", (*_PARTS, "axis_effector", "axis"), "float", _PER_TIME, "sum of J over axes",
        "Sum over those cells of the Jacobian over axes.",
        "both vectors", on_request=True,
    ),
    Variable(
        "residual", _CELL, "float", "1", "largest relative residual",
        "max |C u - lambda u| / |C| over the modes whose eigenvectors were computed; NaN where none were.",
        "vectors",
    ),
    Variable(
        "trace_defect", _CELL, "float", "1", "relative trace defect",
        "|sum of eigenvalues - trace C| / |C|: a check of the spectrum that needs no vectors.",
        "spectrum",
    ),
    Variable(
        "audit_difference", _CELL, "float", "1", "largest difference to the dense spectrum",
        "Of audited cells: largest distance from a leading eigenvalue found by iteration to the dense spectrum of the "
        "core, over |C|; NaN for cells not audited.",
        "audit",
    ),
    Variable(
        "audit_missed", _CELL, "count", "1", "leading eigenvalues missed",
        "Of audited cells: number of eigenvalues of the dense spectrum clearly right of the last one found by "
        "iteration that it did not find; -1 for cells not audited.",
        "audit",
    ),
    Variable(
        "status", _CELL, "code", "1", "status",
        "0 ok, 1 not converged, 2 inaccurate, 3 non-finite input or no cluster label, 4 defective, "
        "5 no model for the cluster (left out on request), 255 not computed.",
        "always",
    ),
)  # fmt: skip


def _with_added(own: dict[str, Variable]) -> dict[str, Variable]:
    """Return the registry with what modules of others add."""
    added = added_quantities()
    for name in added:
        if name in own:
            raise UsageError(
                f"quantity {name!r} of a module is one of stabdask already; give it another name"
            )
    return {**own, **{name: quantity.variable for name, quantity in added.items()}}


VARIABLES: dict[str, Variable] = _with_added({variable.name: variable for variable in _REGISTRY})
"""Every variable by name; last those of `stabdask.schema.added`."""

PARAMETER_ATTRS: dict[str, dict[str, str]] = {
    "degradation": {
        "long_name": "degradation rate",
        "units": _PER_TIME,
        "description": "minus the eigenvalue outside the core",
    },
    "weight": {
        "long_name": "weight of the edge",
        "units": "expression/time",
        "description": "W among regulators",
    },
    "loading": {
        "long_name": "loading",
        "units": "1",
        "description": "what lifts axes to genes: x_gene = sum over axes of loading * x_axis",
    },
}
"""The xarray attributes of what results hold of the parameters of the field."""


def variable_table() -> str:
    """Return the registry as a Markdown table.

    Examples
    --------
    >>> print(variable_table().splitlines()[0])
    | name | dimensions | units | meaning | source |
    """
    rows = ["| name | dimensions | units | meaning | source |", "|---|---|---|---|---|"]
    rows += [
        f"| `{v.name}` | {', '.join(v.dims)} | {v.units} | {v.description} | {v.source} |"
        for v in VARIABLES.values()
    ]
    return "\n".join(rows)
