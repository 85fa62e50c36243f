"""What a caller may ask to be computed, checked once."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Field, Index
from stabdask.kernels.eig import Vectors, resolve_backend
from stabdask.schema import (
    AXIS_SENSITIVITY_MEANS,
    BLOCK_QUANTITIES,
    CLOSED_FORM_QUANTITIES,
    DEFAULT_QUANTITIES,
    MODE_QUANTITIES,
    PLUGINS_VARIABLE,
    QUANTITIES,
    SCALARS,
    SWITCH_MEANS,
    VARIABLES,
)

__all__ = ["GROUPS", "TOP_EDGES", "Options", "Spectrum", "default_modes", "make_options"]

Spectrum = Literal["full", "leading", "none"]

TOP_EDGES = 10
"""Edges kept per cell with quantity ``"sensitivity"``."""

_DEFAULT_MODES = 10
_DRIVEN_MODES = 3
"""Leading modes that quantities are taken of where no vectors are kept: each takes time."""
_RESIDUAL_TOLERANCE = 1e-6
_KRYLOV, _KRYLOV_ON_GPU = "krylov", "krylov:cuda"
_AUTO_ON_GPU = "auto:cuda"
GROUPS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT_QUANTITIES,
    "drivers": ("participation_mean", "sensitivity_mean"),
    "divergence": ("trace",),
    "determinant": ("logabsdet", "det_sign"),
}
"""Names that stand for other quantities."""

_SEQUENCES = ("quantities", "effectors", "regulators")
_LATER = ("effectors", "regulators", "whole_cores")
_KRYLOV_FROM = 400
"""Order of a core from which on its leading modes are iterated for."""


@dataclass(frozen=True)
class Options:
    """What to compute for every cell; equal options give equal bytes.

    Attributes
    ----------
    spectrum
        ``"full"``: all eigenvalues of the core are kept. ``"leading"``: only the leading `modes`.
        ``"none"``: no eigenvalues, only closed forms.
    modes
        Number of leading modes whose eigenvectors (and, with ``"leading"``, eigenvalues) are kept.
    vectors
        ``"none"``, ``"right"`` or ``"both"``.
    elements
        (effector, regulator) pairs of gene names.
    quantities
        What to keep beside eigenvalues, vectors and elements: names of `stabdask.schema.QUANTITIES`.
    dtype
        Precision of the eigensolver, ``"float64"`` or ``"float32"``.
    backend
        Eigensolver backend: one of `stabdask.kernels.eig.eig`; ``"krylov"``, or ``"krylov:cuda"`` on a GPU, where
        leading modes are iterated for.
    tolerance
        Real parts within plus or minus this, in 1/time, count neither as stable nor as unstable.
    residual_tolerance
        Relative residual at which an iteration (backend ``"krylov"``) takes a leading mode as found.
    effectors, regulators
        Gene names: what quantities of `stabdask.schema.BLOCK_QUANTITIES` are between.
    whole_cores
        Whether every core is the whole Jacobian over the axes of the field; see `stabdask.fields.base.Field`.
    """

    spectrum: Spectrum
    modes: int
    vectors: Vectors
    elements: tuple[tuple[str, str], ...]
    quantities: tuple[str, ...]
    dtype: str
    backend: str
    tolerance: float
    residual_tolerance: float = _RESIDUAL_TOLERANCE
    effectors: tuple[str, ...] = ()
    regulators: tuple[str, ...] = ()
    whole_cores: bool = False

    @property
    def iterates(self) -> bool:
        """Whether leading modes come from an iteration, which is audited."""
        return self.backend in (_KRYLOV, _KRYLOV_ON_GPU)

    @property
    def on_gpu(self) -> bool:
        """Whether cells are computed on a GPU."""
        return self.backend in ("cuda", _KRYLOV_ON_GPU)

    @property
    def solved_vectors(self) -> Vectors:
        """Which vectors of cores are computed, whether or not they are kept."""
        return "both" if any(name in MODE_QUANTITIES for name in self.quantities) else self.vectors

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-ready values."""
        lists = {name: list(getattr(self, name)) for name in _SEQUENCES}
        values = {**asdict(self), **lists, "elements": [list(pair) for pair in self.elements]}
        # What came later is left out where it is not used: stores made before have the fingerprints they had.
        return {name: value for name, value in values.items() if value or name not in _LATER}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Options:
        """Return the options that `to_dict` wrote."""
        pairs = tuple((str(i), str(j)) for i, j in values["elements"])
        lists = {name: tuple(values.get(name, ())) for name in _SEQUENCES}
        return cls(**{**values, **lists, "elements": pairs})

    def variables(self) -> tuple[str, ...]:
        """Return the names of the variables these options produce, in registry order."""
        wanted = {"status"} if self.whole_cores else {"active", "status"}
        for name in self.quantities:
            wanted |= set(self._made_of(name))
        if self.spectrum != "none":
            wanted |= {"eigenvalue"}
        if self.vectors != "none":
            wanted |= {"right_vector"}
        if self.vectors == "both":
            wanted |= {"left_vector"}
        if self.elements:
            wanted |= {"element"}
        if self.iterates:
            wanted |= {"audit_difference", "audit_missed"}
        unknown = sorted(wanted - VARIABLES.keys())
        if unknown:
            raise MissingKeyError(
                f"quantity {unknown[0]!r} is not known in this process; name the module that defines it in the "
                f"environment variable {PLUGINS_VARIABLE}, here and on workers"
            )
        return tuple(name for name in VARIABLES if name in wanted)

    def _made_of(self, name: str) -> tuple[str, ...]:
        """Return the variables that a quantity is made of."""
        if name == "sensitivity_mean" and self.whole_cores:
            return AXIS_SENSITIVITY_MEANS
        if name == "jacobian_mean":
            # Products of mutual elements need genes that are both.
            mutual = set(self.effectors) & set(self.regulators)
            return tuple(v for v in BLOCK_QUANTITIES[name] if mutual or v not in SWITCH_MEANS)
        return MODE_QUANTITIES.get(name) or BLOCK_QUANTITIES.get(name, (name,))

    def stored_modes(self, field: Field) -> int:
        """Return how many eigenvalues a cell has in the result."""
        return min(self.modes, field.largest_core) if self.spectrum == "leading" else field.largest_core

    def vector_modes(self, field: Field) -> int:
        """Return how many modes have vectors, or what is computed from them."""
        by_mode = [name for name in self.variables() if "vector_mode" in VARIABLES[name].dims]
        # Sensitivity is that of the leading mode; how many cells it was taken from is counted by mode.
        return min(1 if by_mode == ["driver_cells"] else self.modes, field.largest_core)

    def element_index(self, field: Field) -> tuple[Index, Index]:
        """Return the positions of the effectors and of the regulators of the pairs."""
        return _positions(field, [i for i, _ in self.elements]), _positions(
            field, [j for _, j in self.elements]
        )

    def block_index(self, field: Field) -> tuple[Index, Index]:
        """Return the positions of the effectors and of the regulators of blocks."""
        return _positions(field, self.effectors), _positions(field, self.regulators)


def _positions(field: Field, names: Sequence[str]) -> Index:
    if not names:
        return np.empty(0, dtype=np.intp)
    return np.asarray([field.gene_positions[name] for name in names], dtype=np.intp)


def make_options(
    field: Field,
    *,
    spectrum: str = "full",
    modes: int | None = None,
    vectors: str = "none",
    elements: Sequence[tuple[str, str]] = (),
    effectors: Sequence[str] | None = None,
    regulators: Sequence[str] | None = None,
    quantities: Sequence[str] | None = None,
    dtype: str = "float64",
    backend: str = "auto",
    tolerance: float = 0.0,
    residual_tolerance: float = _RESIDUAL_TOLERANCE,
) -> Options:
    """Check what a caller asked for against the field and the registry.

    Raises
    ------
    UsageError
        If an option has an impossible value or two contradict each other.
    MissingKeyError
        If an element names a gene the field does not have, or a quantity is unknown.
    BackendUnavailableError
        If the backend is not installed.
    """
    _one_of("spectrum", spectrum, ("full", "leading", "none"))
    _one_of("vectors", vectors, ("none", "right", "both"))
    precision = (
        str(np.dtype(dtype)) if dtype in ("float32", "float64", np.float32, np.float64) else str(dtype)
    )
    _one_of("dtype", precision, ("float64", "float32"))
    if spectrum == "none" and vectors != "none":
        raise UsageError(f"vectors={vectors!r} needs a spectrum; expected spectrum='full' or 'leading'")
    if modes is not None and (
        not isinstance(modes, int | np.integer) or isinstance(modes, bool) or modes < 1
    ):
        raise UsageError(f"modes={modes!r}; expected a whole number, at least 1")
    if not (
        isinstance(tolerance, int | float | np.floating | np.integer)
        and np.isfinite(tolerance)
        and tolerance >= 0
    ):
        raise UsageError(f"tolerance={tolerance!r}; expected a finite number >= 0, in 1/time")
    if not isinstance(residual_tolerance, int | float | np.floating) or not 0 < residual_tolerance < 1:
        raise UsageError(f"residual_tolerance={residual_tolerance!r}; expected a number between 0 and 1")
    between = _genes_between(field, effectors, regulators)
    if quantities is None and all(between):
        quantities = ("default", "jacobian")
    _check_names(quantities)
    solved = _solved_vectors(quantities, vectors)
    solver = _backend(field, backend, spectrum, solved, precision)
    complete = spectrum != "none" and solver not in (_KRYLOV, _KRYLOV_ON_GPU)
    return Options(
        spectrum=spectrum,  # type: ignore[arg-type]
        modes=default_modes(spectrum, vectors, solved) if modes is None else int(modes),
        vectors=vectors,  # type: ignore[arg-type]
        elements=_pairs(field, elements),
        quantities=_quantities(field, quantities, spectrum, solved, complete=complete, between=between),
        dtype=precision,
        backend=solver,
        tolerance=float(tolerance),
        residual_tolerance=float(residual_tolerance),
        effectors=between[0],
        regulators=between[1],
        whole_cores=field.whole_cores,
    )


def _backend(field: Field, backend: str, spectrum: str, vectors: str, precision: str) -> str:
    """Choose an iteration for the leading modes of large cores, a dense solver for everything else."""
    possible = spectrum == "leading" and field.matrix_free
    if backend in (_KRYLOV, _KRYLOV_ON_GPU) and not possible:
        raise UsageError(
            f"backend={backend!r} finds leading modes of fields that multiply without cores; expected "
            f"spectrum='leading' (found {spectrum!r}) and such a field (found {type(field).__name__})"
        )
    iterates = possible and field.largest_core >= _KRYLOV_FROM
    if backend in (_AUTO_ON_GPU, _KRYLOV_ON_GPU):
        resolve_backend("cuda", field.largest_core)  # says so where there is no GPU
        return _KRYLOV_ON_GPU if iterates or backend == _KRYLOV_ON_GPU else "cuda"
    if backend == _KRYLOV or (backend == "auto" and iterates):
        return _KRYLOV
    return resolve_backend(backend, field.largest_core, dtype=precision, vectors=vectors)  # type: ignore[arg-type]


def default_modes(spectrum: str, vectors: str, solved: str) -> int:
    """Return how many modes there are where none are asked for; `solved`: which vectors of cores are computed."""
    only_driven = vectors == "none" and solved != "none" and spectrum == "full"
    return _DRIVEN_MODES if only_driven else _DEFAULT_MODES


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r}; expected one of {', '.join(map(repr, allowed))}")


def _pairs(field: Field, elements: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    known = set(field.genes.tolist())
    pairs: dict[tuple[str, str], None] = {}
    if elements is None or isinstance(elements, str):
        raise UsageError(f"elements={elements!r}; expected a sequence of (effector, regulator) pairs")
    for pair in elements:
        if isinstance(pair, str) or not isinstance(pair, Sized) or len(pair) != 2:
            raise UsageError(f"element {pair!r}; expected an (effector, regulator) pair of gene names")
        for gene in pair:
            if str(gene) not in known:
                hint = near_misses(str(gene), field.genes.tolist(), noun="genes")
                raise MissingKeyError(f"gene {gene!r} in elements is not in the field; {hint}")
        pairs[(str(pair[0]), str(pair[1]))] = None
    return tuple(pairs)


def _genes_between(
    field: Field, effectors: Sequence[str] | None, regulators: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the genes of blocks, each once, in the order given."""
    if (effectors is None) != (regulators is None):
        given, missing = ("effectors", "regulators") if regulators is None else ("regulators", "effectors")
        raise UsageError(f"{given} were given without {missing}; expected both, which may be the same genes")
    known = set(field.genes.tolist())
    found: list[tuple[str, ...]] = []
    for option, names in (("effectors", effectors), ("regulators", regulators)):
        if names is None:
            found.append(())
            continue
        if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray) or not len(names):
            raise UsageError(f"{option}={names!r}; expected a sequence of gene names, at least one")
        for gene in names:
            if str(gene) not in known:
                hint = near_misses(str(gene), field.genes.tolist(), noun="genes")
                raise MissingKeyError(f"gene {str(gene)!r} in {option} is not in the field; {hint}")
        found.append(tuple(dict.fromkeys(str(gene) for gene in names)))
    return found[0], found[1]


def _check_names(asked: Sequence[str] | None) -> None:
    if isinstance(asked, str):
        raise UsageError(f"quantities={asked!r}; expected a sequence of names, e.g. [{asked!r}]")
    for name in asked or ():
        if name not in QUANTITIES and name not in GROUPS:
            hint = near_misses(str(name), [*QUANTITIES, *GROUPS], noun="quantities")
            raise MissingKeyError(f"unknown quantity {name!r}; {hint}")


def _solved_vectors(asked: Sequence[str] | None, vectors: str) -> str:
    """Return which vectors of cores have to be computed for what is asked for."""
    names = {quantity for name in asked or () for quantity in GROUPS.get(name, (name,))}
    return "both" if names & MODE_QUANTITIES.keys() else vectors


def _quantities(
    field: Field,
    asked: Sequence[str] | None,
    spectrum: str,
    solved: str,
    *,
    complete: bool,
    between: tuple[tuple[str, ...], tuple[str, ...]],
) -> tuple[str, ...]:
    """Return what to keep, in the order of the registry; `complete` says whether all eigenvalues are found.

    Of what a name stands for, what is possible is taken; a name of which nothing is possible is refused.
    """
    wanted: set[str] = set()
    for name in ("default",) if asked is None else asked:
        members = GROUPS.get(name, (name,))
        missing = [_lacks(field, member, spectrum, solved, complete, all(between)) for member in members]
        if all(missing):
            raise UsageError(f"quantity {name!r} {missing[0]}")
        wanted |= {member for member, lack in zip(members, missing, strict=True) if not lack}
        if name == "default":
            wanted |= {"residual"} if solved != "none" else set()
            # A determinant without all eigenvalues takes a factorization of its own: on request.
            dear = {n for n in DEFAULT_QUANTITIES if VARIABLES[n].needs == "determinant"}
            wanted -= dear if not complete and not dear & set(asked or ()) else set()
    if all(between) and not wanted & BLOCK_QUANTITIES.keys():
        raise UsageError(
            "effectors and regulators were given, but no quantity between them is asked for; expected one of "
            f"{', '.join(BLOCK_QUANTITIES)} among the quantities"
        )
    return tuple(name for name in QUANTITIES if name in wanted)


def _lacks(field: Field, name: str, spectrum: str, solved: str, complete: bool, between: bool) -> str | None:
    """Return what keeps a quantity from being computed: what it needs and other options do not give, or the field."""
    if spectrum == "none" and name not in CLOSED_FORM_QUANTITIES and name not in BLOCK_QUANTITIES:
        return "needs a spectrum, which was not asked for"
    if name == "residual" and solved == "none":
        return "needs eigenvectors (vectors='right'), which were not asked for"
    if name in SCALARS and VARIABLES[name].needs == "complete spectrum" and not complete:
        return "needs all eigenvalues (spectrum='full', or a dense backend), which were not asked for"
    if name in BLOCK_QUANTITIES and not between:
        return "is between genes: give effectors= and regulators= (--effectors, --regulators)"
    reason = field.why_not(name)
    return None if reason is None else f"cannot be had of this {type(field).__name__}: {reason}"
