"""Names, dimensions, units and meaning of everything stabdask computes: the one registry.

The block function allocates its outputs from it, the store writes its arrays and attributes from it, and the
documentation prints it as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "CLOSED_FORM_QUANTITIES",
    "DEFAULT_QUANTITIES",
    "FORMAT_VERSION",
    "SCALARS",
    "SPECTRAL_QUANTITIES",
    "VARIABLES",
    "Status",
    "Variable",
    "count_failed",
    "counts_text",
    "named_counts",
    "variable_table",
]

FORMAT_VERSION = 1
"""Version of the store layout; raised whenever an older reader could misread a newer store."""

Kind = Literal["complex", "float", "count", "flag", "code"]


class Status(IntEnum):
    """What became of one cell."""

    OK = 0
    NOT_CONVERGED = 1
    INACCURATE = 2
    NON_FINITE_INPUT = 3
    DEFECTIVE = 4
    NO_MODEL = 5
    NOT_COMPUTED = 255

    @property
    def failed(self) -> bool:
        """Whether a cell with this status counts as failed in a report and in the exit code.

        A cell without a model was left out because the caller asked for that, and one not computed is still to
        come, so they do not.
        """
        return self not in (Status.OK, Status.NO_MODEL, Status.NOT_COMPUTED)


@dataclass(frozen=True)
class Variable:
    """One variable of a result.

    Attributes
    ----------
    name
        Its name in a Dataset and in a store.
    dims
        Its dimensions, in order.
    kind
        ``complex`` and ``float`` are filled with NaN where nothing was computed, ``count`` with -1,
        ``flag`` and ``code`` with 255.
    units, long_name, description
        The xarray attributes.
    needs
        ``closed form``, ``spectrum``, ``vectors``, ``audit`` or ``always``: what has to be computed for it.
    """

    name: str
    dims: tuple[str, ...]
    kind: Kind
    units: str
    long_name: str
    description: str
    needs: Literal["always", "closed form", "spectrum", "vectors", "audit"]

    def dtype(self, precision: str = "float64") -> np.dtype[np.generic]:
        """Return the NumPy dtype in memory and in the store for eigensolver precision `precision`."""
        if self.kind == "complex":
            return np.dtype(np.complex64 if precision == "float32" else np.complex128)
        if self.kind == "float":
            return np.dtype(np.float64)
        if self.kind == "count":
            return np.dtype(np.int32)
        return np.dtype(np.uint8)

    @property
    def fill(self) -> float | complex | int:
        """The value that means "not computed", never "fine"."""
        if self.kind == "complex":
            return complex(np.nan, np.nan)
        if self.kind == "float":
            return float("nan")
        return -1 if self.kind == "count" else 255

    def empty(self, shape: tuple[int, ...], precision: str = "float64") -> npt.NDArray[np.generic]:
        """Return an array of `shape` in which every entry means "not computed"."""
        return np.full(shape, self.fill, dtype=self.dtype(precision))

    @property
    def attrs(self) -> dict[str, str]:
        """Return the xarray attributes."""
        return {"long_name": self.long_name, "units": self.units, "description": self.description}


def count_failed(counts: Mapping[int, int]) -> int:
    """Return how many cells of ``{status code: cells}`` count as failed."""
    return sum(n for code, n in counts.items() if Status(code).failed)


def named_counts(counts: Mapping[int, int]) -> dict[str, int]:
    """Return ``{status code: cells}`` by the names of the codes, for JSON."""
    return {Status(code).name.lower(): n for code, n in counts.items()}


def counts_text(counts: Mapping[int, int]) -> str:
    """Return ``{status code: cells}`` as people read it.

    Examples
    --------
    >>> counts_text({0: 1200, 3: 2})
    '1,200 ok, 2 non finite input'
    """
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in named_counts(counts).items())


_PER_TIME = "1/time"
_CELL = ("cell",)

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
        "rotational_norm", _CELL, "float", _PER_TIME, "norm of the rotational part",
        "Frobenius norm of the antisymmetric part (J - J^T)/2 of the Jacobian.",
        "closed form",
    ),
    Variable(
        "speed", _CELL, "float", "expression/time", "speed",
        "Euclidean norm of the velocity: how far the cell is from a fixed point of the field.",
        "closed form",
    ),
    Variable(
        "element", ("cell", "pair"), "float", _PER_TIME, "Jacobian elements",
        "J[effector, regulator] = d(dx_effector/dt)/dx_regulator for the chosen pairs.",
        "closed form",
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

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _REGISTRY}
"""Every variable by name."""

SCALARS: tuple[str, ...] = tuple(
    v.name for v in _REGISTRY if v.dims == _CELL and v.kind in ("float", "count") and v.needs != "audit"
)
"""Names of the numbers there is one of per cell: what summaries and exports use."""

CLOSED_FORM_QUANTITIES: tuple[str, ...] = tuple(v.name for v in _REGISTRY if v.needs == "closed form")
SPECTRAL_QUANTITIES: tuple[str, ...] = tuple(
    v.name for v in _REGISTRY if v.needs == "spectrum" and v.name != "eigenvalue"
)
DEFAULT_QUANTITIES: tuple[str, ...] = tuple(name for name in SCALARS if name != "residual")
"""What is computed when nothing is asked for (residuals come with vectors, elements with pairs)."""


def variable_table() -> str:
    """Return the registry as a Markdown table.

    Examples
    --------
    >>> print(variable_table().splitlines()[0])
    | name | dimensions | units | meaning |
    """
    rows = ["| name | dimensions | units | meaning |", "|---|---|---|---|"]
    rows += [f"| `{v.name}` | {', '.join(v.dims)} | {v.units} | {v.description} |" for v in _REGISTRY]
    return "\n".join(rows)
