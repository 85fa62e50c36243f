"""scHopfield's fitted parameters: from an AnnData (in memory, backed, h5ad, zarr) or an .h5sch checkpoint.

Keys read (scHopfield 1.0): ``var['scHopfield_used']``, ``var['sigmoid_threshold' | 'sigmoid_exponent']``
and their second components ``...2`` with ``sigmoid_mix``, ``var['I_<cluster>']``,
``var['gamma_<cluster>']`` or else the degradation column, ``varp['W_<cluster>']``, and
``uns['scHopfield']``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.base import Array
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.hopfield_cluster import HopfieldCluster
from stabdask.fields.parameter_source import ParameterSource, open_source

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["USED", "as_mask", "read_schopfield", "under", "used_genes", "write_schopfield"]

USED = "scHopfield_used"
"""Column of `var` that marks the genes of a fit."""

_TRUE = {"true", "t", "1", "1.0", "yes"}
_FALSE = {"false", "f", "0", "0.0", "no"}


def read_schopfield(
    source: AnnData | str | Path | ParameterSource,
    *,
    clusters: Sequence[str] | None = None,
    degradation_key: str | None = None,
    activation: str = "fitted",
    genes: Sequence[str] | None = None,
) -> HopfieldField:
    """Read a Hopfield field fitted by scHopfield.

    Parameters
    ----------
    source
        An AnnData (in memory, backed or lazy), the path of an h5ad, a zarr AnnData or an .h5sch checkpoint, or
        what `stabdask.fields.parameter_source.open_source` makes of one.
    clusters
        Labels to read; every cluster that has a ``W_<cluster>`` if not given.
    degradation_key
        Column of `var` with degradation rates, used for clusters without a ``gamma_<cluster>``; what the
        fit recorded, else ``"gamma"``, if not given.
    activation
        ``"fitted"`` for the activation as fitted (two components switch), ``"single"`` for the first
        component alone, which is what scHopfield's own Jacobian uses.
    genes
        Read these alone, quickly. The Jacobian of such a field is that part of the whole one; its velocity and
        spectrum are not, because other genes regulate these.

    Returns
    -------
    HopfieldField
        Over the genes that `scHopfield_used` marks, those of them in `genes` if given, in the order of the source.

    Raises
    ------
    MissingKeyError
        If a parameter, cluster or gene is missing; the message names near misses.
    InputError
        If a parameter has another shape than expected or an impossible value.
    """
    if activation not in ("fitted", "single"):
        raise InputError(f"activation={activation!r}; expected 'fitted' or 'single'")
    with open_source(source) as parameters:
        return _Reader(parameters, degradation_key, activation, genes).read(clusters)


def used_genes(source: ParameterSource) -> npt.NDArray[np.bool_]:
    """Return which genes belong to the fit, ``(gene,)``: those that ``scHopfield_used`` marks, or all."""
    if USED not in source.columns:
        return np.ones(len(source.genes), dtype=bool)
    used = as_mask(source.column(USED), f"{USED} of {source.name}")
    if not used.any():
        raise InputError(f"{USED} of {source.name} marks no gene; fit the model first")
    return used


class _Reader:
    """One reading of one source: which genes are used and wanted, and each parameter cut to them."""

    def __init__(
        self,
        source: ParameterSource,
        degradation_key: str | None,
        activation: str,
        genes: Sequence[str] | None,
    ) -> None:
        self.source = source
        self.activation = activation
        meta = source.metadata
        self.degradation_key = degradation_key or str(meta.get("degradation_key") or "gamma")
        hill_params = meta.get("hill_params")
        self.hill_params: Mapping[str, Any] = hill_params if isinstance(hill_params, Mapping) else {}
        self.used = used_genes(source)
        self.kept = self.used if genes is None else self._wanted(genes)

    def read(self, clusters: Sequence[str] | None) -> HopfieldField:
        # Sorted, because every container has an order of its own.
        fitted = sorted(key[2:] for key in self.source.matrix_keys if key.startswith("W_"))
        if not fitted:
            raise MissingKeyError(
                f"no interaction matrix 'W_<cluster>' in varp of {self.source.name}; fit one with "
                "scHopfield, or give the checkpoint (.h5sch) that holds the model"
            )
        wanted = fitted if clusters is None else [str(label) for label in clusters]
        for label in wanted:
            if label not in fitted:
                hint = near_misses(label, fitted, noun="fitted clusters")
                raise MissingKeyError(f"no 'W_{label}' in {self.source.name} for cluster {label!r}; {hint}")
        genes = self.source.genes[self.kept]
        return HopfieldField(genes.tolist(), {label: self._cluster(label) for label in wanted})

    def _wanted(self, genes: Sequence[str]) -> npt.NDArray[np.bool_]:
        known = set(self.source.genes[self.used].tolist())
        wanted = [str(gene) for gene in genes]
        for gene in wanted:
            if gene not in known:
                hint = near_misses(gene, known, noun="genes of the fit")
                raise MissingKeyError(f"gene {gene!r} is not in the fit of {self.source.name}; {hint}")
        return self.used & np.isin(self.source.genes, wanted)

    def _cluster(self, label: str) -> HopfieldCluster:
        key = f"W_{label}"
        regulators, weights = self._weights(key, self.source.matrix(key))
        gamma = f"gamma_{label}"
        return HopfieldCluster(
            regulators=regulators,
            weights=weights,
            gamma=self._gamma(gamma if gamma in self.source.columns else self.degradation_key, gamma),
            bias=self._column(f"I_{label}"),
            hill=self._hill(label),
        )

    def _gamma(self, key: str, own: str) -> Array:
        if key not in self.source.columns:
            hint = near_misses(own, self.source.columns, noun="columns")
            raise MissingKeyError(
                f"{self.source.name} has neither {own!r} nor {key!r} in var, so there are no degradation "
                f"rates for that cluster; {hint}"
            )
        return self._column(key)

    def _hill(self, label: str) -> HillParameters:
        fitted = under(self.hill_params, label)
        found = {"k", "n"} & set(fitted) if isinstance(fitted, Mapping) else set()
        if len(found) == 1:
            raise MissingKeyError(
                f"uns['scHopfield']['hill_params'][{label!r}] of {self.source.name} has {found.pop()!r} alone; "
                "expected 'k' and 'n', one value per gene each"
            )
        if found:
            k, n = (self._cut(fitted[name], f"hill_params[{label!r}][{name!r}]") for name in ("k", "n"))
            return HillParameters.single(k, n)
        k, n = self._column("sigmoid_threshold"), self._column("sigmoid_exponent")
        second = ("sigmoid_threshold2", "sigmoid_exponent2", "sigmoid_mix")
        present = [name for name in second if name in self.source.columns]
        if self.activation == "single" or not present:
            return HillParameters.single(k, n)
        return HillParameters(k, n, *(self._column(name) for name in second))

    def _column(self, key: str) -> Array:
        if key not in self.source.columns:
            hint = near_misses(key, self.source.columns, noun="columns")
            raise MissingKeyError(f"no column {key!r} in var of {self.source.name}; {hint}")
        return self._cut(self.source.column(key), f"column {key!r}")

    def _cut(self, values: npt.ArrayLike, what: str) -> Array:
        array = np.asarray(values)
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{what} of {self.source.name} is not numeric (dtype {array.dtype})") from None
        if array.shape == self.used.shape:
            return array[self.kept]
        if array.shape == (int(self.used.sum()),):
            return array[self.kept[self.used]]
        raise InputError(
            f"{what} of {self.source.name} has shape {array.shape}; expected ({self.used.size},), one per "
            f"gene, or ({self.used.sum()},), one per gene used"
        )

    def _weights(self, key: str, matrix: Any) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.floating[Any]]]:
        n, n_used = self.used.size, int(self.used.sum())
        if matrix.shape not in ((n, n), (n_used, n_used)):
            cut = "" if n == n_used else f", or ({n_used}, {n_used}) for the genes used"
            raise InputError(
                f"{key!r} of {self.source.name} has shape {matrix.shape}; expected ({n}, {n}){cut}"
            )
        if sparse.issparse(matrix):
            matrix = matrix.tocsc(copy=True)
        kept = self.kept if matrix.shape[0] == n else self.kept[self.used]
        if not kept.all():
            matrix = matrix[kept][:, kept]
        if sparse.issparse(matrix):
            matrix.sum_duplicates()
            matrix.eliminate_zeros()
            regulators = np.flatnonzero(np.diff(matrix.indptr))
            weights = matrix[:, regulators].toarray()
        else:
            regulators = np.flatnonzero((matrix != 0).any(axis=0))
            weights = matrix[:, regulators]
        if weights.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            weights = weights.astype(np.float64)
        return regulators, np.ascontiguousarray(weights)


def under(mapping: Mapping[Any, Any], label: str) -> Any:
    """Return what `mapping` holds for `label`; HDF5 stores a label with slashes as nested groups."""
    for key, value in mapping.items():
        if str(key) == label:
            return value
        if isinstance(value, Mapping) and label.startswith(f"{key}/"):
            found = under(value, label[len(str(key)) + 1 :])
            if found is not None:
                return found
    return None


def as_mask(values: npt.ArrayLike, what: str) -> npt.NDArray[np.bool_]:
    """Read a boolean column, also one stored as strings or as 0 and 1, as what it says."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    said = [(v.decode() if isinstance(v, bytes) else str(v)).strip().casefold() for v in array.tolist()]
    unclear = sorted(set(said) - _TRUE - _FALSE)
    if unclear:
        raise InputError(f"{what} holds {unclear[0]!r}; expected booleans, or 'True' and 'False'")
    return np.asarray([word in _TRUE for word in said], dtype=bool)


def write_schopfield(field: HopfieldField, adata: AnnData) -> None:
    """Write the parameters of `field` into `adata` under scHopfield's keys, aligned by gene name.

    Genes the field does not have get ``scHopfield_used = False``, zero interactions and NaN parameters. W is
    dense where `adata` has just the field's genes, and sparse (CSR) where it has more.

    Parameters
    ----------
    field
        The field.
    adata
        Changed in place.

    Raises
    ------
    MissingKeyError
        If `adata` lacks genes of the field.
    InputError
        If scHopfield's keys cannot hold the field; `adata` is left as it was.
    """
    first = field.parameters[0].hill
    per_cluster = any(
        not np.array_equal(p.hill.stacked(), first.stacked(), equal_nan=True) for p in field.parameters
    )
    if per_cluster and any((p.hill.mix < 1).any() for p in field.parameters):
        raise InputError(
            "the clusters have different two-component activations, which scHopfield's keys cannot hold; "
            "use field.save instead"
        )
    names = [str(name) for name in adata.var_names]
    where = {name: position for position, name in enumerate(names)}
    missing = [str(gene) for gene in field.genes if str(gene) not in where]
    if missing:
        raise MissingKeyError(
            f"the AnnData lacks {len(missing):,} genes of the field, {missing[0]!r} first; "
            + near_misses(missing[0], names, noun="genes")
        )
    index = np.asarray([where[str(gene)] for gene in field.genes])
    n = len(names)

    def spread(values: Array) -> Array:
        out = np.full(n, np.nan)
        out[index] = values
        return out

    used = np.zeros(n, dtype=bool)
    used[index] = True
    adata.var[USED] = used
    for key, values in (
        ("sigmoid_threshold", first.threshold),
        ("sigmoid_exponent", first.exponent),
        ("sigmoid_threshold2", first.threshold2),
        ("sigmoid_exponent2", first.exponent2),
        ("sigmoid_mix", first.mix),
    ):
        adata.var[key] = spread(values)
    meta = dict(adata.uns.get("scHopfield", {}))
    # Those of an earlier fit would win over the columns written here.
    meta.pop("hill_params", None)
    if per_cluster:
        meta["hill_params"] = {
            label: {"k": spread(p.hill.threshold), "n": spread(p.hill.exponent)}
            for label, p in zip(field.clusters, field.parameters, strict=True)
        }
    adata.uns["scHopfield"] = meta
    for label, p in zip(field.clusters, field.parameters, strict=True):
        adata.var[f"I_{label}"] = spread(p.bias)
        adata.var[f"gamma_{label}"] = spread(p.gamma)
        rows, columns = index, index[p.regulators]
        if n == len(index):
            W = np.zeros((n, n), dtype=p.weights.dtype)
            W[np.ix_(rows, columns)] = p.weights
            adata.varp[f"W_{label}"] = W
        else:
            edge_row, edge_column = np.nonzero(p.weights)
            adata.varp[f"W_{label}"] = sparse.csr_matrix(
                (p.weights[edge_row, edge_column], (rows[edge_row], columns[edge_column])), shape=(n, n)
            )
