"""Methods as text that can be pasted into a paper, with the references it names."""

from __future__ import annotations

from collections.abc import Sequence

from stabdask.fields.base import Field
from stabdask.runs.job import RunSpec

__all__ = ["methods_text", "references"]

_REFERENCES = {
    "stabdask": "stabdask {version}: local stability of every cell of an atlas. Cite as CITATION.cff says.",
    "Strogatz": "Strogatz S. H. (2015). Nonlinear Dynamics and Chaos, 2nd edition. Westview Press.",
    "Neubert": "Neubert M. G. & Caswell H. (1997). Alternatives to resilience for measuring the responses of "
    "ecological systems to perturbations. Ecology 78:653-665.",
    "Henrici": "Henrici P. (1962). Bounds for iterates, inverses, spectral variation and fields of values of "
    "non-normal matrices. Numerische Mathematik 4:24-40.",
    "Perez": "Perez-Arriaga I. J., Verghese G. C. & Schweppe F. C. (1982). Selective modal analysis with applications "
    "to electric power systems, part I. IEEE Transactions on Power Apparatus and Systems 101:3117-3125.",
    "Caswell": "Caswell H. (2001). Matrix Population Models, 2nd edition. Sinauer.",
    "Ma et": "Ma J., Zhao J., Tian J., Bai X. & Tu Z. (2013). Regularized vector field learning with sparse "
    "approximation for mismatch removal. Pattern Recognition 46:3519-3532.",
    "Qiu": "Qiu X. et al. (2022). Mapping transcriptomic vector fields of single cells. Cell 185:690-711.",
    "Francis": "Francis J. G. F. (1961). The QR transformation, part 1. The Computer Journal 4:265-271.",
    "Stewart": "Stewart G. W. (2002). A Krylov-Schur algorithm for large eigenproblems. SIAM Journal on Matrix "
    "Analysis "
    "and Applications 23:601-614.",
}


def methods_text(spec: RunSpec, field: Field, version: str) -> str:
    """Return what was done, for a run of this field."""
    options = spec.options
    parts = [
        f"Local stability was computed with stabdask {version} for {spec.n_cells:,} cells over {field.space}.",
        _field_text(field),
        "Eigenvalues are those of the Jacobian J[i, j] = d(dx_i/dt)/dx_j at each cell (row i the "
        "effector, column j the regulator). A mode with a positive real part grows, one with a negative real part "
        "decays [Strogatz 2015]. The spectral abscissa is the largest real part.",
        _solver_text(options.spectrum, options.dtype, iterates=options.iterates),
    ]
    quantities = set(options.quantities)
    if options.tolerance:
        parts.append(
            f"Real parts within {options.tolerance:g}/time of zero count neither as stable nor as unstable."
        )
    if "reactivity" in quantities:
        parts.append(
            "Reactivity is the largest eigenvalue of (J + J^T)/2 [Neubert & Caswell 1997]: the fastest growth that "
            "any displacement has at first."
        )
    if "henrici" in quantities:
        parts.append(
            "Departure from normality is sqrt(|J|_F^2 - sum |lambda|^2) over the complete spectrum [Henrici 1962]."
        )
    if quantities & {"participation", "participation_mean"}:
        parts.append(
            "Participation of gene i in a mode is conj(y_i) x_i / (y^H x), with its right and left eigenvectors x "
            "and y "
            "[Perez-Arriaga et al. 1982]; the real part is averaged over the cells of a cluster."
        )
    if quantities & {"acceleration", "acceleration_norm", "curvature", "curvature_norm"}:
        parts.append(
            "Acceleration is J v, curvature |a (v.v) - v (v.a)| / |v|^4 of the path that the flow takes."
        )
    if quantities & {"response", "response_mean"}:
        parts.append("Responses are elements of -J^-1, the shift that a sustained small push would end in.")
    if "dynamo_sensitivity" in quantities:
        parts.append(
            "Discrete sensitivities are (I - J)^-1 with columns scaled to a diagonal of one, on the union of the "
            "chosen genes [Qiu et al. 2022]."
        )
    if "sensitivity_mean" in quantities and field.whole_cores:
        parts.append(
            "Sensitivity to the element of the Jacobian between two genes is d Re(lambda) / d J_ij = Re(conj(y_i) x_j "
            "/ (y^H x)) of the leading mode [Caswell 2001], from its mean over the cells of a cluster and the loadings."
        )
    elif quantities & {"sensitivity", "sensitivity_mean"}:
        parts.append(
            "Sensitivity to the edge from regulator j to effector i is d Re(lambda) / d W_ij = Re(conj(y_i) phi'_j "
            "x_j / (y^H x)) of the leading mode of the core [Caswell 2001], averaged over the cells of a cluster."
        )
    parts.append(
        "Most cells are not at a fixed point of the field: the speed |v(x)| tells how far from one a cell is, and "
        "statements of stability are to be read beside it."
    )
    return " ".join(parts)


def _field_text(field: Field) -> str:
    if field.kind == "rkhs":
        lifted = (
            ""
            if field.loadings is None
            else f" What is between genes is Q J Q^T, with the loadings Q of {field.n_genes:,} genes."
        )
        return (
            "The velocity field is v(x) = sum_m C_m exp(-beta |x - z_m|^2) over its axes, fitted by sparse vector "
            "field consensus [Ma et al. 2013; Qiu et al. 2022]; its Jacobian is -2 beta sum_m K_m(x) C_m (x - z_m)^T, "
            f"and its eigenvalues are all there are.{lifted}"
        )
    if field.kind == "hopfield":
        return (
            "The velocity field is v(x) = W phi(x) - gamma x + I with Hill activations phi; where two components were "
            "fitted to a gene, the one whose threshold is nearer to the cell's expression applies, as in the fitted "
            "velocity. Genes that do not regulate, or whose activation is flat in a cell, each contribute the "
            "eigenvalue -gamma; all other eigenvalues are those of the core, the Jacobian on the active regulators, "
            "so that the "
            "spectrum is exact."
        )
    return "The Jacobian of the fitted velocity field was taken at each cell."


def _solver_text(spectrum: str, dtype: str, *, iterates: bool) -> str:
    if spectrum == "none":
        return "No eigenvalues were computed, only closed forms."
    precision = "double" if dtype == "float64" else "single"
    if iterates:
        return (
            "Leading modes were found by a batched Krylov-Schur iteration [Stewart 2002]; of every cluster 1 % of the "
            "cells, at least 8, were solved densely as well."
        )
    return (
        f"Eigenvalues were computed in {precision} precision by balancing, reduction to Hessenberg form and shifted QR "
        "iteration [Francis 1961]."
    )


def references(text: str, version: str) -> Sequence[str]:
    """Return the references that a methods text names, in alphabetical order, the program first."""
    named = [
        entry
        for key, entry in _REFERENCES.items()
        if (f"[{key}" in text or f"; {key}" in text) and key != "stabdask"
    ]
    return [_REFERENCES["stabdask"].format(version=version), *sorted(named)]
