"""The vector field of dynamo's SparseVFC fits: a sum of Gaussian kernels over the axes of an embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, UsageError
from stabdask.fields.axes import axis_names
from stabdask.fields.base import Array, Field, Index
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.kernels.arrays import array_module
from stabdask.kernels.gaussian import GaussianSum

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["RKHSField"]

_ALL = "all"
_LACKS = {
    "near_switch_count": "its Jacobian has no jumps",
    "sensitivity": "it has no network of edges; ask for 'sensitivity_mean', from which driver_edges ranks all pairs of "
    "genes",
}


class RKHSField(Field):
    """A vector field ``v(x) = sum_m C_m exp(-beta |x - z_m|^2)`` over the axes of an embedding, or over genes.

    Its Jacobian is ``J(x) = -2 beta sum_m K_m(x) C_m (x - z_m)^T``, the core of every cell. Between genes it is
    ``Q J Q^T`` with the loadings Q of the axes. One set of parameters serves the cells of all clusters.

    Parameters
    ----------
    centers
        ``(m, axis)`` control points z, in the units of the embedding.
    coefficients
        ``(m, axis)`` C, in units of the embedding/time.
    beta
        Inverse squared width of the kernel, 1/(unit of the embedding)^2.
    basis
        Name of the embedding (``"pca"`` for ``obsm["X_pca"]``), or None for a field over genes.
    loadings
        ``(gene, axis)`` Q, columns orthonormal over all genes of the embedding; None for an embedding that is no
        linear map of genes (UMAP), and for a field over genes.
    genes
        Names of the rows of `loadings`; of the axes for a field over genes.

    Raises
    ------
    InputError
        If shapes disagree, a parameter is not finite, beta is not positive, or names repeat.

    References
    ----------
    Ma, Zhao, Tian, Bai & Tu (2013). Regularized vector field learning with sparse approximation for mismatch removal.
    Pattern Recognition 46:3519. Qiu et al. (2022). Mapping transcriptomic vector fields of single cells. Cell 185:690.

    Examples
    --------
    >>> field = RKHSField([[0.0, 0.0]], [[1.0, 2.0]], 0.5, basis="umap")
    >>> field
    RKHSField(2 axes of 'umap', 1 control point)
    >>> field.jacobian([[1.0, 1.0]]).round(4).tolist()
    [[[-0.3679, -0.3679], [-0.7358, -0.7358]]]
    """

    kind: ClassVar[str] = "rkhs"
    whole_cores: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True

    def __init__(
        self,
        centers: npt.ArrayLike,
        coefficients: npt.ArrayLike,
        beta: float,
        *,
        basis: str | None = "pca",
        loadings: npt.ArrayLike | None = None,
        genes: Sequence[str] | None = None,
    ) -> None:
        self.centers = _table("centers", centers)
        self.coefficients = _table("coefficients", coefficients)
        self.beta = _positive(beta)
        if self.centers.shape != self.coefficients.shape:
            raise InputError(
                f"centers have shape {self.centers.shape} and coefficients {self.coefficients.shape}; expected the "
                "same, (control points, axes)"
            )
        n_axes = self.centers.shape[1]
        self.basis = None if basis is None else str(basis)
        self._loadings = None if loadings is None else _table("loadings", loadings)
        self._axes = np.asarray(self._axis_names(n_axes, genes), dtype=np.str_)
        if self._loadings is None:
            self.genes = self._axes
        else:
            if genes is None or len(genes) != len(self._loadings) or self._loadings.shape[1] != n_axes:
                named = "no names of genes" if genes is None else f"{len(genes):,} names of genes"
                raise InputError(
                    f"loadings have shape {self._loadings.shape}, beside {n_axes} axes and {named}; expected one row "
                    "for each gene and one column for each axis"
                )
            self.genes = np.asarray([str(gene) for gene in genes], dtype=np.str_)
        _check_unique(self.genes)
        for array in (self.centers, self.coefficients, self._loadings):
            if array is not None:
                array.setflags(write=False)
        self.clusters = (_ALL,)
        # Every gene acts, through the axes, on every other.
        self.regulator_index: Index = np.arange(len(self.genes), dtype=np.intp)
        self._functions: dict[tuple[int, str], tuple[GaussianSum, Any]] = {}

    def _axis_names(self, n_axes: int, genes: Sequence[str] | None) -> list[str]:
        if self.basis is not None:
            if genes is not None and self._loadings is None:
                raise InputError(
                    f"genes were given for the embedding {self.basis!r} without loadings; expected both, or basis=None "
                    "for a field over genes"
                )
            return axis_names(self.basis, n_axes)
        if self._loadings is not None:
            raise InputError("loadings were given for a field over genes; expected a basis such as 'pca'")
        if genes is None or len(genes) != n_axes:
            found = "none" if genes is None else f"{len(genes):,}"
            raise InputError(f"a field over {n_axes:,} genes needs their names; found {found}")
        return [str(gene) for gene in genes]

    @classmethod
    def from_anndata(cls, adata: AnnData | str | Path, **options: Any) -> RKHSField:
        """Read the vector field dynamo left in an AnnData, or in an h5ad or zarr file of one.

        See `stabdask.fields.dynamo.read_dynamo` for what is read and for `options`.
        """
        from stabdask.fields.dynamo import read_dynamo

        return read_dynamo(adata, **options)

    def __repr__(self) -> str:
        m, d = self.centers.shape
        space = f"{d:,} genes" if self.basis is None else f"{d:,} axes of {self.basis!r}"
        lifted = "" if self._loadings is None else f", lifted to {self.n_genes:,} genes"
        return f"RKHSField({space}, {m:,} control point{'s' if m != 1 else ''}{lifted})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_functions": {}}

    @property
    def axes(self) -> npt.NDArray[np.str_]:
        """Names of the axes, ``(axis,)``; see `Field.axes`."""
        return self._axes

    @property
    def obsm(self) -> str | None:
        """Where an AnnData keeps coordinates on these axes, such as ``"X_pca"``; None for a field over genes."""
        return None if self.basis is None else f"X_{self.basis}"

    @property
    def loadings(self) -> Array | None:
        """``(gene, axis)`` loadings, or None."""
        return self._loadings

    @property
    def space(self) -> str:
        """What the field is over, in words."""
        d = self.largest_core
        if self.basis is None:
            return f"{d:,} genes"
        lifted = "" if self._loadings is None else f", lifted to {self.n_genes:,} genes"
        return f"{d:,} axes of {self.basis}{lifted}"

    @property
    def largest_core(self) -> int:
        """Number of axes."""
        return int(self.centers.shape[1])

    @property
    def n_bytes(self) -> int:
        """Bytes of the parameters, and of the products of coefficients and centers."""
        m, d = self.centers.shape
        lift = 0 if self._loadings is None else self._loadings.nbytes
        return int(4 * self.centers.nbytes + lift + min(8 * m * d * d, 2**26))

    def cell_bytes(self, itemsize: int) -> int:
        """Return the bytes that linearizing a cell takes: two Jacobians over the axes, and vectors."""
        d = self.largest_core
        return 2 * itemsize * d + 8 * (2 * d * d + 8 * d)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every name and parameter."""
        digest = hashlib.blake2b(digest_size=16)
        for name in (self.kind, self.basis or "\x00genes", *self.genes.tolist()):
            digest.update(name.encode() + b"\x00")
        for array in (self.centers, self.coefficients, np.asarray(self.beta), self._loadings):
            if array is not None:
                digest.update(str(array.shape).encode())
                digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def why_not(self, quantity: str) -> str | None:
        """Return why the field has no such quantity, or None; see `Field.why_not`."""
        d = self.largest_core
        if (quantity == "curl" and d not in (2, 3)) or (quantity == "torsion" and d != 3):
            dimensions = "two or three axes" if quantity == "curl" else "three axes"
            return f"it is of fields with {dimensions}, this one has {d}; ask for 'rotational_norm' or 'curvature_norm'"
        if quantity == "knockout" and self.basis is not None:
            return (
                f"its Jacobian is over axes of {self.basis!r}, of which every gene has a share: removing a gene takes "
                "no row and column away; expected a Hopfield field, or one over genes (basis=None)"
            )
        return _LACKS.get(quantity)

    def model_of(self, label: str) -> str:
        """Return "all": the field is that of all cells, whatever their label."""
        return _ALL

    def linearize(self, x: npt.NDArray[Any], cluster: int, *, dtype: str = "float64") -> RKHSLinearization:
        """Return the linearization at `x`; see `Field.linearize`. With `dtype` float32 its Jacobians are that too."""
        xp = array_module(x)
        device = -1 if xp is np else int(xp.cuda.runtime.getDevice())
        key = (device, str(dtype))
        if key not in self._functions:
            function = GaussianSum(self.centers, self.coefficients, self.beta, dtype=dtype, xp=xp)
            lift = None if self._loadings is None else xp.asarray(self._loadings)
            if xp is not np:
                # Other threads have streams of their own, which would not wait for the copies.
                xp.cuda.get_current_stream().synchronize()
            self._functions[key] = function, lift
        function, lift = self._functions[key]
        return RKHSLinearization(function, x.astype(np.float64), lift)

    def check_expression(self, x: npt.NDArray[Any], cluster: int, cells: npt.NDArray[Any]) -> None:
        """Accept any finite point: the field is defined everywhere."""

    def domain_from(self, cluster: int) -> float:
        """Return minus infinity."""
        return -np.inf

    def velocity(self, x: npt.ArrayLike, cluster: str = _ALL) -> Array:
        """Return the velocity.

        Parameters
        ----------
        x
            ``(cell, axis)``.
        cluster
            Ignored: one field serves all.

        Returns
        -------
        numpy.ndarray
            ``(cell, axis)``, units of the axes/time.

        Raises
        ------
        InputError
            If `x` has another number of axes.
        """
        return self.linearize(self._checked(x), 0).velocity()

    def jacobian(
        self,
        x: npt.ArrayLike,
        cluster: str = _ALL,
        *,
        method: Literal["analytical", "numerical"] = "analytical",
        dtype: str = "float64",
    ) -> Array:
        """Return the Jacobians over the axes.

        Parameters
        ----------
        x
            ``(cell, axis)``.
        cluster
            Ignored: one field serves all.
        method
            ``"numerical"`` takes central differences of the velocity instead, in float64: a check.
        dtype
            Precision of the products of matrices, ``"float64"`` or ``"float32"``.

        Returns
        -------
        numpy.ndarray
            ``(cell, axis, axis)``, 1/time; ``[:, i, j]`` is dv_i/dx_j.

        Raises
        ------
        InputError
            If `x` has another number of axes.
        UsageError
            If there is no such method or precision.
        """
        x = self._checked(x)
        if method not in ("analytical", "numerical"):
            raise UsageError(f"method={method!r}; expected 'analytical' or 'numerical'")
        if dtype not in ("float64", "float32"):
            raise UsageError(f"dtype={dtype!r}; expected 'float64' or 'float32'")
        if method == "numerical":
            return self._differences(x)
        found: Array = self.linearize(x, 0, dtype=dtype).jacobians
        return found

    def _differences(self, x: Array) -> Array:
        # The third derivative of a kernel is of the order of its width^-3.
        step = 1e-5 / np.sqrt(2.0 * self.beta)
        out = np.empty((len(x), x.shape[1], x.shape[1]))
        for axis in range(x.shape[1]):
            shift = np.zeros(x.shape[1])
            shift[axis] = step
            # The step that was really taken, after rounding.
            taken = (x + shift)[:, axis] - (x - shift)[:, axis]
            out[:, :, axis] = (self.velocity(x + shift) - self.velocity(x - shift)) / taken[:, None]
        return out

    def jacobian_elements(self, x: npt.ArrayLike, cluster: str, effectors: Index, regulators: Index) -> Array:
        """Return elements between pairs of genes, ``(cell, pair)``, 1/time: ``Q_i J Q_j^T``."""
        J = self.jacobian(x, cluster)
        if self._loadings is None:
            return J[:, effectors, regulators]
        found: Array = np.einsum("pi,cij,pj->cp", self._loadings[effectors], J, self._loadings[regulators])
        return found

    def _checked(self, x: npt.ArrayLike) -> Array:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.largest_core:
            raise InputError(f"points have shape {x.shape}; expected (cells, {self.largest_core})")
        return x


def _table(name: str, values: npt.ArrayLike) -> Array:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are no table of numbers ({error})") from error
    if array.ndim != 2 or not array.size:
        raise InputError(f"{name} have shape {array.shape}; expected a table with rows and columns")
    if not np.isfinite(array).all():
        raise InputError(f"{name} hold {int((~np.isfinite(array)).sum()):,} values that are not finite")
    return array


def _positive(beta: float) -> float:
    try:
        value = float(np.asarray(beta).item())
    except (TypeError, ValueError) as error:
        raise InputError(f"beta is {beta!r}; expected one number") from error
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"beta is {value}; expected a finite number above zero")
    return value


def _check_unique(genes: npt.NDArray[np.str_]) -> None:
    names, counts = np.unique(genes, return_counts=True)
    if counts.max() > 1:
        repeated = ", ".join(repr(str(name)) for name in names[counts > 1][:5])
        raise InputError(f"gene names repeat in the field ({repeated}); make them unique")
