"""What a velocity field is: its names, its parameters as a hash, and the linearization at any state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from stabdask.errors import MissingKeyError, near_misses
from stabdask.fields.linearization import Array, Index, Linearization
from stabdask.rich import Rich
from stabdask.sizes import format_bytes

__all__ = ["Array", "Field", "Index", "Linearization"]


class Field(Rich, ABC):
    """A fitted velocity field: genes, clusters, regulators and the Jacobian at any expression."""

    kind: ClassVar[str]
    """Name of the kind of field in a saved model."""

    matrix_free: ClassVar[bool] = False
    """Whether its linearizations have an `Linearization.operator`."""

    on_gpu: ClassVar[bool] = False
    """Whether it linearizes expression that is on a GPU; if not, only the cores are solved there."""

    whole_cores: ClassVar[bool] = False
    """Whether every core is the whole Jacobian over the axes of the field, with no eigenvalue outside it."""

    genes: npt.NDArray[np.str_]
    """Gene names, ``(gene,)``: what elements are between, and what vectors are lifted to."""

    clusters: tuple[str, ...]
    """Labels of the clusters the field was fitted for."""

    regulator_index: Index
    """Positions in `genes` of every gene that regulates in some cluster, ``(regulator,)``."""

    @cached_property
    def gene_positions(self) -> dict[str, int]:
        """The position of each gene in `genes`, by its name."""
        return {str(gene): position for position, gene in enumerate(self.genes)}

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def regulators(self) -> npt.NDArray[np.str_]:
        """Names of the regulators."""
        return self.genes[self.regulator_index]

    @property
    def axes(self) -> npt.NDArray[np.str_]:
        """Names of the coordinates of a cell that the field is evaluated at: its genes, if it lives in no other space.

        ``(axis,)``.
        """
        return self.genes

    @property
    def obsm(self) -> str | None:
        """Where an AnnData keeps coordinates on the axes; None where these are genes, with their expression."""
        return None

    @property
    def loadings(self) -> Array | None:
        """``(gene, axis)``: what lifts axes to genes; None where axes are genes, or are lifted to none."""
        return None

    @property
    def space(self) -> str:
        """What the field is over, in words."""
        return f"{self.n_genes:,} genes, of which {len(self.regulator_index):,} regulate"

    def _rich_text(self) -> str:
        named = ", ".join(self.clusters[:12])
        more = f", and {len(self.clusters) - 12:,} more" if len(self.clusters) > 12 else ""
        return "\n".join(
            (
                f"over         {self.space}",
                f"clusters     {len(self.clusters):,}: {named}{more}",
                f"cores        up to {self.largest_core:,} x {self.largest_core:,}",
                f"parameters   {format_bytes(self.n_bytes)} in memory",
                f"fingerprint  {self.fingerprint}",
            )
        )

    def why_not(self, quantity: str) -> str | None:
        """Return why the field has no such quantity, for a message, or None if it has it."""
        return "it is of fields in two or three dimensions" if quantity in ("curl", "torsion") else None

    def model_of(self, label: str) -> str | None:
        """Return the cluster of the field whose parameters cells with this label have, or None."""
        return label if label in self.clusters else None

    @property
    @abstractmethod
    def largest_core(self) -> int:
        """The largest order a core can have."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of every parameter: equal fingerprints compute equal numbers."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """Memory the parameters take in a worker."""

    def cell_bytes(self, itemsize: int) -> int:
        """Return the bytes that linearizing a cell and its closed forms take, for input of `itemsize` bytes.

        Unless a field knows better: four arrays over genes and eight over regulators, in double precision.
        """
        return 8 * (4 * self.n_genes + 8 * len(self.regulator_index))

    def rest_eigenvalues(self, cluster: int) -> Array:
        """Return, per gene, the eigenvalue the Jacobian has for it while it is outside the core.

        Fields with `whole_cores` have none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no eigenvalues outside cores")

    def regulator_weights(self, cluster: int) -> Array:
        """Return W among the regulators, ``(effector, regulator)``, zero where there is no edge.

        Only fields with a network have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no network")

    @abstractmethod
    def velocity(self, x: npt.ArrayLike, cluster: str) -> Array:
        """Return dx/dt at `x` ``(cell, axis)`` of cells of `cluster`."""

    @abstractmethod
    def jacobian(self, x: npt.ArrayLike, cluster: str) -> Array:
        """Return dense Jacobians ``(cell, axis, axis)``, row effector, column regulator: the oracle."""

    @abstractmethod
    def jacobian_elements(self, x: npt.ArrayLike, cluster: str, effectors: Index, regulators: Index) -> Array:
        """Return elements between pairs of genes from dense Jacobians, ``(cell, pair)``: the oracle."""

    def floor(self, cluster: int) -> Array:
        """Return the lowest state that the field can be linearized at, ``(axis,)``; -inf where there is no lowest."""
        return np.full(len(self.axes), -np.inf)

    def fixed_point_bounds(self, cluster: int) -> tuple[Array, Array]:
        """Return bounds that every fixed point lies within, each ``(axis,)``; infinite where the field has none.

        Below `floor` those of the field as it goes on there: see `stabdask.analysis.roots`.
        """
        return np.full(len(self.axes), -np.inf), np.full(len(self.axes), np.inf)

    @abstractmethod
    def check_expression(self, x: npt.NDArray[Any], cluster: int, cells: npt.NDArray[Any]) -> None:
        """Raise `InputError` if finite `x` ``(cell, axis)`` of `cells` (names or numbers) is out of the domain."""

    def domain_from(self, cluster: int) -> float:
        """Return how low a state may go for `check_expression` to have nothing against it, whatever else it is.

        Infinity, unless a field knows better: every state is looked at.
        """
        return np.inf

    @abstractmethod
    def linearize(self, x: npt.NDArray[Any], cluster: int, *, dtype: str = "float64") -> Linearization:
        """Return the linearization at finite `x` ``(cell, axis)`` for cluster number `cluster`.

        `x` comes in the precision of the input; what is computed from it is float64. `dtype` is the precision that is
        wanted of cores: a field to which they are dear may compute with it. Fields that say `on_gpu` take an array of
        CuPy too, and then compute where it is.
        """

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path | str:
        """Write the field as a Zarr group, on a disk or in a bucket, that workers open by path; return where it is.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        """
        from stabdask.fields.storage import save_field

        return save_field(self, path, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a field of this kind written by `save`."""
        from stabdask.fields.storage import open_field

        field = open_field(path, kind=cls.kind)
        assert isinstance(field, cls)
        return field

    def cluster_number(self, cluster: str) -> int:
        """Return the position of `cluster` in `clusters`.

        Raises
        ------
        MissingKeyError
            If the field has no such cluster.
        """
        try:
            return self.clusters.index(str(cluster))
        except ValueError:
            hint = near_misses(str(cluster), self.clusters, noun="clusters")
            raise MissingKeyError(f"the field has no cluster {cluster!r}; {hint}") from None
