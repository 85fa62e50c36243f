"""The Hopfield velocity field v(x) = W phi(x) - gamma x + I, as fitted by scHopfield."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError
from stabdask.fields.base import Array, Field, Index
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield_cluster import HopfieldCluster
from stabdask.kernels.arrays import array_module

if TYPE_CHECKING:
    from anndata import AnnData

    from stabdask.fields.hopfield_linear import HopfieldLinearization
    from stabdask.fields.hopfield_model import ClusterModel

__all__ = ["HopfieldCluster", "HopfieldField"]

_STEEP_FLOOR = 1e-12
"""Of its threshold: the least expression of a regulator with n < 1 at which the field is linearized."""


class HopfieldField(Field):
    """A Hopfield velocity field with parameters per cluster.

    ``v(x) = W phi(x) - gamma x + I`` and ``J(x) = W diag(phi'(x)) - diag(gamma)``, with
    ``W[effector, regulator]`` and phi a Hill function whose threshold and exponent are, for genes fitted with
    two components, those of the component whose threshold is nearer to x.

    Parameters
    ----------
    genes
        Gene names, unique.
    clusters
        Parameters per cluster label; kept sorted by label, and read-only.

    Raises
    ------
    InputError
        If names repeat, shapes disagree, a parameter is not finite, or a regulator has a threshold or
        exponent that is not positive.

    Examples
    --------
    A toggle switch: two genes that activate themselves and repress each other.

    >>> import numpy as np
    >>> field = HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=[3.0, 3.0], bias=[4.0, 4.0],
    ...     threshold=1.0, exponent=4.0)
    >>> field
    HopfieldField(2 genes, 2 regulators, 1 cluster: 'all')
    >>> field.jacobian([[2.0, 0.1]], "all").round(3)
    array([[[-2.446, -0.016],
            [-0.443, -2.98 ]]])
    """

    kind: ClassVar[str] = "hopfield"
    matrix_free: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True

    def __init__(self, genes: Sequence[str], clusters: Mapping[str, HopfieldCluster]) -> None:
        self.genes = np.asarray([str(gene) for gene in genes], dtype=np.str_)
        # Sorted, because files keep clusters in no particular order and the numbers of clusters must not
        # depend on it.
        order = sorted(clusters, key=str)
        self.clusters = tuple(str(label) for label in order)
        _check_names(self.genes, self.clusters)
        for label in order:
            clusters[label].check(str(label), self.genes)
        self.parameters: tuple[HopfieldCluster, ...] = tuple(clusters[label].frozen() for label in order)
        self.regulator_index = np.unique(
            np.concatenate([np.empty(0, np.intp), *(p.regulators for p in self.parameters)])
        )
        self._models: dict[int, ClusterModel] = {}
        self._device_models: dict[tuple[int, int], ClusterModel] = {}

    @classmethod
    def from_arrays(
        cls,
        genes: Sequence[str],
        *,
        W: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        gamma: npt.ArrayLike,
        bias: npt.ArrayLike = 0.0,
        threshold: npt.ArrayLike,
        exponent: npt.ArrayLike,
        threshold2: npt.ArrayLike | None = None,
        exponent2: npt.ArrayLike | None = None,
        mix: npt.ArrayLike = 1.0,
    ) -> HopfieldField:
        """Make a field from dense arrays shared by all clusters (W may differ by cluster).

        Parameters
        ----------
        genes
            Gene names.
        W
            ``(gene, gene)`` effectors x regulators, or one per cluster label; a single one is for the cluster
            ``"all"``.
        gamma, bias, threshold, exponent, threshold2, exponent2, mix
            ``(gene,)`` or a scalar: see `HopfieldCluster` and `HillParameters`.

        Returns
        -------
        HopfieldField
        """
        n = len(genes)

        def per_gene(name: str, value: npt.ArrayLike) -> Array:
            array = np.asarray(value, dtype=np.float64)
            if array.shape not in ((), (n,)):
                raise InputError(f"{name} has shape {array.shape}; expected ({n},) or a scalar")
            return np.broadcast_to(array, (n,)).copy()

        k, e = per_gene("threshold", threshold), per_gene("exponent", exponent)
        hill = HillParameters(
            k,
            e,
            k if threshold2 is None else per_gene("threshold2", threshold2),
            e if exponent2 is None else per_gene("exponent2", exponent2),
            per_gene("mix", mix),
        )
        if (threshold2 is not None or exponent2 is not None) and np.all(hill.mix >= 1):
            raise InputError(
                "a second component was given, but mix is 1 for every gene, so none would use it; give mix < 1 for "
                "the genes that have two"
            )
        matrices = W if isinstance(W, Mapping) else {"all": W}
        return cls(
            genes,
            {
                label: HopfieldCluster.from_dense(
                    np.asarray(matrix), gamma=per_gene("gamma", gamma), bias=per_gene("bias", bias), hill=hill
                )
                for label, matrix in matrices.items()
            },
        )

    @classmethod
    def from_anndata(cls, adata: AnnData | str | Path, **options: Any) -> HopfieldField:
        """Read the parameters scHopfield left in an AnnData, or in an h5ad or zarr file of one.

        See `stabdask.fields.schopfield.read_schopfield` for what is read and for `options`.
        """
        from stabdask.fields.schopfield import read_schopfield

        return read_schopfield(adata, **options)

    def to_anndata(self, adata: AnnData) -> None:
        """Write the parameters into `adata` under scHopfield's keys; see `stabdask.fields.schopfield`."""
        from stabdask.fields.schopfield import write_schopfield

        write_schopfield(self, adata)

    def __repr__(self) -> str:
        labels = ", ".join(repr(label) for label in self.clusters[:6])
        more = ", ..." if len(self.clusters) > 6 else ""
        noun = "cluster" if len(self.clusters) == 1 else "clusters"
        return (
            f"HopfieldField({self.n_genes:,} genes, {len(self.regulator_index):,} regulators, "
            f"{len(self.clusters)} {noun}: {labels}{more})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_models": {}, "_device_models": {}}

    @property
    def largest_core(self) -> int:
        """The largest number of regulators of any cluster."""
        return max((len(p.regulators) for p in self.parameters), default=0)

    @property
    def n_bytes(self) -> int:
        """Bytes of the parameters, and of what is derived from them once per process."""
        stored = sum(p.weights.nbytes + 8 * p.gamma.nbytes for p in self.parameters)
        derived = sum(
            16 * len(p.regulators) ** 2 + 8 * (p.weights.size + self.n_genes) for p in self.parameters
        )
        return int(stored + derived)

    def cell_bytes(self, itemsize: int) -> int:
        """Return the bytes that linearizing a cell takes: its expression twice, the rest over regulators."""
        return 2 * itemsize * self.n_genes + 16 * 8 * len(self.regulator_index)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every name and parameter, independent of the dtype W is kept in."""
        digest = hashlib.blake2b(digest_size=16)
        for name in (self.kind, *self.genes.tolist(), "\x00clusters", *self.clusters):
            digest.update(name.encode() + b"\x00")
        for p in self.parameters:
            digest.update(np.asarray(p.regulators, dtype="<i8").tobytes())
            arrays = (p.weights, p.gamma, p.bias, p.hill.take(p.regulators).stacked())
            for array in arrays:
                digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def model(self, cluster: int) -> ClusterModel:
        """Return what is derived from the parameters of cluster number `cluster`, made once per process."""
        from stabdask.fields.hopfield_model import ClusterModel

        if cluster not in self._models:
            self._models[cluster] = ClusterModel.of(self.parameters[cluster], self.regulator_index)
        return self._models[cluster]

    def regulator_weights(self, cluster: int) -> Array:
        """Return W among the regulators, ``(effector, regulator)``, in units of expression/time."""
        model = self.model(cluster)
        out = np.zeros((model.n_union, model.n_union))
        out[:, model.columns] = model.weights[self.regulator_index]
        return out

    def rest_eigenvalues(self, cluster: int) -> Array:
        """Return -gamma, ``(gene,)``: a gene outside the core only decays."""
        return -self.parameters[cluster].gamma

    def linearize(
        self, x: npt.NDArray[Any], cluster: int, *, dtype: str = "float64"
    ) -> HopfieldLinearization:
        """Return the linearization at `x`; see `Field.linearize`."""
        from stabdask.fields.hopfield_linear import HopfieldLinearization

        model, xp = self.model(cluster), array_module(x)
        if xp is np:
            return HopfieldLinearization(model, x)
        key = (cluster, int(xp.cuda.runtime.getDevice()))
        if key not in self._device_models:
            moved = model.on_device(xp)
            # Other threads have streams of their own, which would not wait for the copies.
            xp.cuda.get_current_stream().synchronize()
            self._device_models[key] = moved
        return HopfieldLinearization(model, x, on_device=self._device_models[key])

    def floor(self, cluster: int) -> Array:
        """Return 0, and a little more for regulators with n < 1, whose slope at 0 is infinite."""
        p, steep = self.parameters[cluster], self.model(cluster).steep_regulators
        floor = np.zeros(self.n_genes)
        floor[steep] = _STEEP_FLOOR * p.hill.take(steep).branch(np.zeros((1, len(steep))))[0][0]
        return floor

    def fixed_point_bounds(self, cluster: int) -> tuple[Array, Array]:
        """Return bounds of every fixed point: activations are between 0 and 1, so W phi + I has bounds."""
        p = self.parameters[cluster]
        lowest = np.minimum(p.weights, 0.0).sum(axis=1, dtype=np.float64) + p.bias
        highest = np.maximum(p.weights, 0.0).sum(axis=1, dtype=np.float64) + p.bias
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([lowest / p.gamma, highest / p.gamma])
        ends[:, p.gamma == 0] = [[-np.inf], [np.inf]]
        return ends.min(axis=0), ends.max(axis=0)

    def check_expression(self, x: npt.NDArray[Any], cluster: int, cells: npt.NDArray[Any]) -> None:
        """Refuse negative expression, and no expression of a regulator with n < 1 (infinite slope)."""
        if x.min(initial=0.0) < 0:
            cell, gene = (int(i) for i in np.argwhere(x < 0)[0])
            raise InputError(
                f"expression of gene '{self.genes[gene]}' in cell '{cells[cell]}' is {x[cell, gene]:g}; "
                "expected values >= 0: give the layer of (smoothed) counts, not scaled or centred values"
            )
        p, steep = self.parameters[cluster], self.model(cluster).steep_regulators
        zero = x[:, steep] == 0
        if len(steep) and zero.any():
            cell, column = (int(i) for i in np.argwhere(zero)[0])
            gene = int(steep[column])
            exponent = p.hill.take(steep).branch(np.zeros((1, steep.size)))[1][0, column]
            raise InputError(
                f"regulator '{self.genes[gene]}' of cluster {self.clusters[cluster]!r} has Hill exponent "
                f"{exponent:g} < 1 and expression 0 in cell '{cells[cell]}', where its slope is "
                "infinite; refit with exponents >= 1, or add a small pseudocount to the layer"
            )

    def domain_from(self, cluster: int) -> float:
        """Return 0, or infinity where regulators with n < 1 must have some expression."""
        return np.inf if len(self.model(cluster).steep_regulators) else 0.0

    def velocity(self, x: npt.ArrayLike, cluster: str) -> Array:
        """Return the velocity.

        Parameters
        ----------
        x
            ``(cell, gene)`` expression.
        cluster
            Whose parameters to use.

        Returns
        -------
        numpy.ndarray
            ``(cell, gene)``, expression/time.

        Raises
        ------
        InputError
            If `x` has another number of genes or is negative.
        MissingKeyError
            If there is no such cluster.
        """
        x, number = self._checked(x, cluster)
        p = self.parameters[number]
        activation, _ = p.hill.take(p.regulators).evaluate(x[:, p.regulators])
        return activation @ p.weights.T.astype(np.float64) - p.gamma * x + p.bias

    def jacobian(self, x: npt.ArrayLike, cluster: str) -> Array:
        """Return dense Jacobians, for small inputs: what everything else is tested against.

        Parameters
        ----------
        x
            ``(cell, gene)`` expression.
        cluster
            Whose parameters to use.

        Returns
        -------
        numpy.ndarray
            ``(cell, gene, gene)``, 1/time; ``[:, i, j]`` is d(dx_i/dt)/dx_j.

        Raises
        ------
        InputError
            If `x` has another number of genes or is negative.
        MissingKeyError
            If there is no such cluster.
        """
        x, number = self._checked(x, cluster)
        p = self.parameters[number]
        _, slope = p.hill.take(p.regulators).evaluate(x[:, p.regulators])
        out = np.zeros((len(x), self.n_genes, self.n_genes))
        out[:, :, p.regulators] = p.weights.astype(np.float64) * slope[:, None, :]
        diagonal = np.arange(self.n_genes)
        out[:, diagonal, diagonal] -= p.gamma
        return out

    def jacobian_elements(self, x: npt.ArrayLike, cluster: str, effectors: Index, regulators: Index) -> Array:
        """Return elements of dense Jacobians, ``(cell, pair)``, 1/time; see `jacobian`."""
        return self.jacobian(x, cluster)[:, effectors, regulators]

    def _checked(self, x: npt.ArrayLike, cluster: str) -> tuple[Array, int]:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.n_genes:
            raise InputError(f"expression has shape {x.shape}; expected (cells, {self.n_genes})")
        number = self.cluster_number(cluster)
        self.check_expression(x, number, np.arange(len(x)))
        return x, number


def _check_names(genes: npt.NDArray[np.str_], clusters: tuple[str, ...]) -> None:
    if not len(genes):
        raise InputError("the field has no genes")
    if not clusters:
        raise MissingKeyError("the field has no clusters: no W_<cluster> was given")
    names, counts = np.unique(genes, return_counts=True)
    if counts.max() > 1:
        repeated = ", ".join(repr(str(name)) for name in names[counts > 1][:5])
        raise InputError(f"gene names repeat in the field ({repeated}); make them unique")
    if len(set(clusters)) != len(clusters):
        raise InputError("cluster labels repeat in the field; make them unique")
