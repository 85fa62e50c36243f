"""Fields that are written down as formulas, over genes, for models of a few lines."""

from __future__ import annotations

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, UsageError
from stabdask.fields.base import Array, Field, Index
from stabdask.fields.given import GivenFunction, GivenLinearization, differences

__all__ = ["FormulaField"]

_ALL = "all"


class FormulaField(Field):
    """A velocity field given by formulas, the same for all cells, over genes.

    A subclass says its `kind`, and writes down `velocity_at` and, unless central differences will do, `jacobian_at`.
    Its constructor takes the names of the genes and the parameters by name, as numbers or arrays, and hands them on:
    that is how a saved field is read again. Workers know the class if the environment variable ``STABDASK_PLUGINS``
    names its module.

    Parameters
    ----------
    genes
        Names of the genes.
    **parameters
        Numbers or arrays of numbers, which become attributes of these names, read-only.

    Examples
    --------
    >>> class Decay(FormulaField):
    ...     kind = "decay"
    ...
    ...     def __init__(self, genes, *, rate):
    ...         super().__init__(genes, rate=rate)
    ...
    ...     def velocity_at(self, x):
    ...         return -self.rate * x
    >>> field = Decay(["a", "b"], rate=[1.0, 3.0])
    >>> field.jacobian([[1.0, 1.0]], "all").round(6).tolist()
    [[[-1.0, 0.0], [0.0, -3.0]]]
    """

    whole_cores: ClassVar[bool] = True
    kinds: ClassVar[dict[str, type[FormulaField]]] = {}
    """Every subclass by its kind: which class a saved field is read as."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if inspect.isabstract(cls) or "kind" not in vars(cls):
            return
        if cls.kind in ("hopfield", "rkhs"):
            raise UsageError(
                f"{cls.__name__} has the kind {cls.kind!r} of another field; choose a name of its own"
            )
        FormulaField.kinds[cls.kind] = cls

    def __init__(self, genes: Sequence[str], **parameters: npt.ArrayLike) -> None:
        self.genes = np.asarray([str(gene) for gene in genes], dtype=np.str_)
        if not len(self.genes) or len(set(self.genes.tolist())) != len(self.genes):
            raise InputError(f"genes are {self.genes.tolist()}; expected names, each once")
        self.clusters = (_ALL,)
        self.regulator_index: Index = np.arange(len(self.genes), dtype=np.intp)
        self.parameters: dict[str, Array] = {}
        for name, value in parameters.items():
            array = np.array(value, dtype=np.float64)
            if not np.isfinite(array).all():
                raise InputError(f"parameter {name!r} is {value!r}; expected finite numbers")
            array.setflags(write=False)
            self.parameters[name] = array
            setattr(self, name, array)

    @abstractmethod
    def velocity_at(self, x: Array) -> Array:
        """Return dx/dt at `x`, both ``(cell, gene)``."""

    def jacobian_at(self, x: Array) -> Array:
        """Return the Jacobians at `x`, ``(cell, effector, regulator)``.

        Central differences, good to about ten digits, unless a subclass writes them down.
        """
        return differences(self.velocity_at, x)

    def scale_at(self, x: Array) -> Array:
        """Return how large the terms of each component of the velocity are, ``(cell, gene)``: |v| + |J| |x|.

        A subclass may know the sum of the absolute values of its terms.
        """
        terms = (np.abs(self.jacobian_at(x)) @ np.abs(x)[:, :, None])[:, :, 0]
        scale: Array = np.abs(self.velocity_at(x)) + terms
        return scale

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.genes):,} genes)"

    def model_of(self, label: str) -> str:
        """Return "all": the field is that of all cells, whatever their label."""
        return _ALL

    @property
    def largest_core(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def n_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(array.nbytes for array in self.parameters.values())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the kind, the genes and every parameter; not of the formulas, which the kind stands for."""
        digest = hashlib.blake2b(digest_size=16)
        for name in (self.kind, *self.genes.tolist()):
            digest.update(name.encode() + b"\x00")
        for name, array in sorted(self.parameters.items()):
            digest.update(f"{name} {array.shape}".encode() + b"\x00")
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def cell_bytes(self, itemsize: int) -> int:
        """Return the bytes that linearizing a cell takes: its state, and a few Jacobians."""
        n = len(self.genes)
        return 2 * itemsize * n + 8 * n * (n + 4) * 3

    def rest_eigenvalues(self, cluster: int) -> Array:
        """Return -1 for each gene: how fast a search for fixed points lets it come back from below a `floor`.

        No gene is outside the core.
        """
        return np.full(len(self.genes), -1.0)

    def check_expression(self, x: npt.NDArray[Any], cluster: int, cells: npt.NDArray[Any]) -> None:
        """Accept any finite state; a subclass may refuse some."""

    def linearize(self, x: npt.NDArray[Any], cluster: int, *, dtype: str = "float64") -> GivenLinearization:
        """Return the linearization at `x`; see `Field.linearize`."""
        function = GivenFunction(self._velocity_checked, self._jacobian_checked, self.scale_at)
        return GivenLinearization(function, np.asarray(x, dtype=np.float64), None)

    def velocity(self, x: npt.ArrayLike, cluster: str = _ALL) -> Array:
        """Return dx/dt at `x`, both ``(cell, gene)``."""
        return self._velocity_checked(self._checked(x))

    def jacobian(self, x: npt.ArrayLike, cluster: str = _ALL) -> Array:
        """Return Jacobians ``(cell, gene, gene)``, row effector, column regulator."""
        return self._jacobian_checked(self._checked(x))

    def jacobian_elements(self, x: npt.ArrayLike, cluster: str, effectors: Index, regulators: Index) -> Array:
        """Return elements between pairs of genes, ``(cell, pair)``."""
        return self.jacobian(x, cluster)[:, effectors, regulators]

    def _checked(self, x: npt.ArrayLike) -> Array:
        state = np.asarray(x, dtype=np.float64)
        if state.ndim != 2 or state.shape[1] != len(self.genes):
            raise InputError(f"x has shape {state.shape}; expected (cells, {len(self.genes)})")
        return state

    def _velocity_checked(self, x: Array) -> Array:
        return self._of_shape("velocity_at", self.velocity_at(x), x.shape)

    def _jacobian_checked(self, x: Array) -> Array:
        return self._of_shape("jacobian_at", self.jacobian_at(x), (*x.shape, x.shape[1]))

    def _of_shape(self, method: str, found: Any, shape: tuple[int, ...]) -> Array:
        values: Array = np.asarray(found, dtype=np.float64)
        if values.shape != shape:
            raise UsageError(f"{type(self).__name__}.{method} gave shape {values.shape}; expected {shape}")
        return values
