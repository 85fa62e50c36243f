"""The Hopfield velocity field v(x) = W phi(x) - gamma x + I, as fitted by scHopfield."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError
from stabdask.fields.base import Array, Field, Index
from stabdask.fields.hill import HillParameters

if TYPE_CHECKING:
    from anndata import AnnData

    from stabdask.fields.hopfield_linear import ClusterModel, HopfieldLinearization

__all__ = ["HopfieldCluster", "HopfieldField"]


@dataclass(frozen=True)
class HopfieldCluster:
    """Parameters of one cluster; only the columns of W that are not zero are kept.

    Attributes
    ----------
    regulators
        ``(r,)`` positions of the genes whose column of W is not zero, ascending.
    weights
        ``(gene, r)``: ``W[effector, regulators]``, in units of expression/time.
    gamma
        ``(gene,)`` degradation rates, 1/time.
    bias
        ``(gene,)`` I, expression/time.
    hill
        Activation of every gene; looked at for regulators only.
    """

    regulators: Index
    weights: npt.NDArray[np.floating[Any]]
    gamma: Array
    bias: Array
    hill: HillParameters

    def frozen(self) -> HopfieldCluster:
        """Return the same parameters read-only: a field that changes would no longer match its fingerprint."""
        return HopfieldCluster(
            regulators=_read_only(self.regulators),
            weights=_read_only(self.weights),
            gamma=_read_only(self.gamma),
            bias=_read_only(self.bias),
            hill=HillParameters(*(_read_only(getattr(self.hill, f.name)) for f in fields(HillParameters))),
        )

    @classmethod
    def from_dense(
        cls,
        W: npt.NDArray[Any],
        *,
        gamma: npt.ArrayLike,
        bias: npt.ArrayLike,
        hill: HillParameters,
    ) -> HopfieldCluster:
        """Return the parameters for a square W (effectors x regulators)."""
        gamma = np.asarray(gamma, dtype=np.float64)
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.shape[0] != gamma.size:
            raise InputError(
                f"W has shape {W.shape}; expected ({gamma.size}, {gamma.size}), effectors x regulators"
            )
        if W.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            W = W.astype(np.float64)
        regulators = np.flatnonzero((W != 0).any(axis=0))
        return cls(
            regulators=regulators,
            weights=np.ascontiguousarray(W[:, regulators]),
            gamma=gamma,
            bias=np.asarray(bias, dtype=np.float64),
            hill=hill,
        )


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
    matrix_free = True

    def __init__(self, genes: Sequence[str], clusters: Mapping[str, HopfieldCluster]) -> None:
        self.genes = np.asarray([str(gene) for gene in genes], dtype=np.str_)
        # Sorted, because files keep clusters in no particular order and the numbers of clusters must not
        # depend on it.
        order = sorted(clusters, key=str)
        self.clusters = tuple(str(label) for label in order)
        _check_names(self.genes, self.clusters)
        for label in order:
            _check_cluster(str(label), clusters[label], self.genes)
        self.parameters: tuple[HopfieldCluster, ...] = tuple(clusters[label].frozen() for label in order)
        self.regulator_index = np.unique(
            np.concatenate([np.empty(0, np.intp), *(p.regulators for p in self.parameters)])
        )
        self._models: dict[int, ClusterModel] = {}

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

    @classmethod
    def open(cls, path: str | Path) -> HopfieldField:
        """Open a field written by `save`."""
        from stabdask.fields.storage import open_hopfield

        return open_hopfield(path)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the field as a Zarr group; see `stabdask.fields.storage`.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        """
        from stabdask.fields.storage import save_hopfield

        return save_hopfield(self, path, overwrite=overwrite)

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
        return {**self.__dict__, "_models": {}}

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
        from stabdask.fields.hopfield_linear import ClusterModel

        if cluster not in self._models:
            self._models[cluster] = ClusterModel.of(self.parameters[cluster], self.regulator_index)
        return self._models[cluster]

    def rest_eigenvalues(self, cluster: int) -> Array:
        """Return -gamma, ``(gene,)``: a gene outside the core only decays."""
        return -self.parameters[cluster].gamma

    def linearize(self, x: npt.NDArray[Any], cluster: int) -> HopfieldLinearization:
        """Return the linearization at `x`; see `Field.linearize`."""
        from stabdask.fields.hopfield_linear import HopfieldLinearization

        return HopfieldLinearization(self.model(cluster), x)

    def check_expression(self, x: npt.NDArray[Any], cluster: int, cells: npt.NDArray[Any]) -> None:
        """Refuse negative expression, and no expression of a regulator with n < 1 (infinite slope)."""
        if x.min(initial=0.0) < 0:
            cell, gene = (int(i) for i in np.argwhere(x < 0)[0])
            raise InputError(
                f"expression of gene '{self.genes[gene]}' in cell '{cells[cell]}' is {x[cell, gene]:g}; "
                "expected values >= 0: give the layer of (smoothed) counts, not scaled or centred values"
            )
        p = self.parameters[cluster]
        steep = p.regulators[p.hill.take(p.regulators).infinite_slope_at_zero()]
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

    def _checked(self, x: npt.ArrayLike, cluster: str) -> tuple[Array, int]:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.n_genes:
            raise InputError(f"expression has shape {x.shape}; expected (cells, {self.n_genes})")
        number = self.cluster_number(cluster)
        self.check_expression(x, number, np.arange(len(x)))
        return x, number


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


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


def _check_cluster(label: str, p: HopfieldCluster, genes: npt.NDArray[np.str_]) -> None:
    n, r = len(genes), len(p.regulators)
    if r and (np.any(np.diff(p.regulators) <= 0) or p.regulators[0] < 0 or p.regulators[-1] >= n):
        raise InputError(f"regulators of cluster {label!r} must be ascending positions from 0 to {n - 1}")
    if p.weights.shape != (n, r):
        raise InputError(
            f"W of cluster {label!r} has shape {p.weights.shape} on its regulators; expected {(n, r)}"
        )
    for name, values in (("gamma", p.gamma), ("I", p.bias)):
        if values.shape != (n,):
            raise InputError(f"{name} of cluster {label!r} has shape {values.shape}; expected ({n},)")
        _refuse(~np.isfinite(values), genes, f"{name} of cluster {label!r} is missing or not finite", values)
    if not np.isfinite(p.weights).all():
        row, column = np.argwhere(~np.isfinite(p.weights))[0]
        raise InputError(
            f"W of cluster {label!r} is {p.weights[row, column]} at effector '{genes[row]}', regulator "
            f"'{genes[p.regulators[column]]}'; expected finite weights: refit, or set the edge to 0"
        )
    for field in fields(p.hill):
        shape = getattr(p.hill, field.name).shape
        if shape != (n,):
            raise InputError(f"Hill {field.name} of cluster {label!r} has shape {shape}; expected ({n},)")
    hill, names = p.hill.take(p.regulators), genes[p.regulators]
    _refuse(~np.isfinite(hill.mix), names, f"sigmoid_mix in cluster {label!r} is not finite", hill.mix)
    two = hill.mix < 1
    for name, values, used in (
        ("sigmoid_threshold", hill.threshold, np.ones(r, bool)),
        ("sigmoid_exponent", hill.exponent, np.ones(r, bool)),
        ("sigmoid_threshold2", hill.threshold2, two),
        ("sigmoid_exponent2", hill.exponent2, two),
    ):
        bad = used & ~(np.isfinite(values) & (values > 0))
        _refuse(bad, names, f"{name} in cluster {label!r} must be finite and > 0 for regulators", values)


def _refuse(bad: npt.NDArray[np.bool_], names: npt.NDArray[np.str_], what: str, values: Array) -> None:
    if bad.any():
        shown = ", ".join(f"{names[i]} ({values[i]:g})" for i in np.flatnonzero(bad)[:5])
        more = f" and {bad.sum() - 5:,} more" if bad.sum() > 5 else ""
        raise InputError(f"{what}: {shown}{more}")
