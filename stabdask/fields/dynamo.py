"""dynamo's vector fields: from an AnnData in memory, or element by element from an h5ad or zarr file of one.

Keys read (dynamo 1.5): `X_ctrl`, `C`, `beta`, `method`, `normalize`, `div_cur_free_kernels`, `dims`, `genes`, `layer`
and `velocity_key` of ``uns['VecFld_<basis>']`` or ``uns['VecFld']``; the loadings ``uns[Qkey]`` or ``varm[Qkey]``; the
masks ``var['use_for_pca']``, ``var['use_for_dynamics']`` and ``var['use_for_transition']``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError, near_misses
from stabdask.fields.base import Array
from stabdask.fields.parameter_source import ParameterSource, open_source
from stabdask.fields.rkhs import RKHSField
from stabdask.fields.schopfield import as_mask

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["fitted_fields", "fitted_points", "read_dynamo", "sparse_vfc"]

_PREFIX = "VecFld"
_NEEDED = ("X_ctrl", "C", "beta")
_WANTED = (*_NEEDED, "method", "normalize", "div_cur_free_kernels", "dims", "genes", "layer", "velocity_key")
_PCA_MASKS = ("use_for_pca", "use_for_dynamics")
_GENE_MASK = "use_for_transition"
_COMPARED_ROWS = 64
_ORTHONORMAL = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-5}


def read_dynamo(
    source: AnnData | str | Path | ParameterSource,
    *,
    basis: str | None = "pca",
    Qkey: str | None = "PCs",
    genes: Sequence[str] | None = None,
) -> RKHSField:
    """Read the vector field that dynamo fitted.

    Parameters
    ----------
    source
        An AnnData (in memory, backed or lazy), or the path of an h5ad or a zarr AnnData.
    basis
        The embedding the field was fitted in: ``uns['VecFld_<basis>']``, or ``uns['VecFld']`` as older files have it.
        None for a field fitted directly to genes, ``uns['VecFld']``.
    Qkey
        Where the loadings are, in `uns` or else in `varm`; None reads the field without them, over its axes alone.
        ``"PCs"`` is looked for if the basis is ``"pca"``, any other key also for another basis: an embedding that is
        no linear map of genes, such as UMAP, has no loadings.
    genes
        Names of the rows of the loadings in `uns`, or of the axes of a field over genes, where the AnnData does not
        tell them.

    Returns
    -------
    RKHSField
        Its genes are all that the PCA was made of, in the order of `var`.

    Raises
    ------
    MissingKeyError
        If there is no such field, no such loadings, or a parameter is missing.
    InputError
        If it is no SparseVFC field with Gaussian kernels, or it is not certain which genes rows of the loadings are of.

    Warns
    -----
    StabdaskWarning
        If the columns of the loadings are not orthonormal to 1e-6 (single precision: 1e-5), or a field over genes was
        fitted to other values than the AnnData holds.

    Notes
    -----
    The loadings in `uns` have one row for each gene that the PCA was made of: those that ``var['use_for_pca']`` marks,
    or else ``var['use_for_dynamics']``, whichever has as many. Where both have, and differ, or neither has, this is
    refused. dynamo itself counts rows among the genes of ``use_for_dynamics`` alone, and takes those of other genes
    where the PCA was made of more.
    """
    with open_source(source) as parameters:
        return _Reader(parameters, basis, Qkey, genes).read()


def fitted_points(source: AnnData | str | Path | ParameterSource, basis: str | None = "pca") -> Array | None:
    """Return the points a field was fitted at, ``uns['VecFld_<basis>']['X']``, ``(cell, axis)``; None if it has none.

    These are the cells of the AnnData as it was then: where dynamo evaluates its field, whatever the AnnData holds now.

    Raises
    ------
    MissingKeyError
        If there is no such field.
    InputError
        If they are no table of numbers.
    """
    with open_source(source) as parameters:
        key = _field_key(parameters, basis)
        if "X" not in parameters.keys("uns", key):
            return None
        return _numbers(parameters.element("uns", key, "X"), f"uns['{key}']['X'] of {parameters.name}")


def fitted_fields(source: ParameterSource) -> tuple[str, ...]:
    """Return the keys of `uns` that hold a vector field of dynamo: ``VecFld`` and ``VecFld_<basis>``."""
    return tuple(sorted(key for key in source.keys("uns") if key == _PREFIX or key.startswith(f"{_PREFIX}_")))


def sparse_vfc(parameters: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    """Return control points, coefficients and beta of what dynamo keeps of a fit, if it is a sum of Gaussian kernels.

    Parameters
    ----------
    parameters
        What ``uns['VecFld_pca']`` holds, or those keys of it that are read here.
    name
        What errors call it.

    Raises
    ------
    InputError
        If it is a field of another kind.
    MissingKeyError
        If a parameter is missing.
    """
    method = str(_plain(parameters.get("method"), "SparseVFC"))
    if method.lower() != "sparsevfc":
        raise InputError(
            f"{name} was fitted by {method!r}; expected 'SparseVFC', the one method whose field is a sum of kernels"
        )
    if _plain(parameters.get("normalize"), False):
        raise InputError(
            f"{name} was fitted with normalize=True, whose scaling its parameters do not hold (in dynamo 1.5 such fits "
            "fail); fit it again with normalize=False"
        )
    if _plain(parameters.get("div_cur_free_kernels"), False):
        raise InputError(
            f"{name} has divergence-free and curl-free kernels (div_cur_free_kernels=True), which are not supported: "
            "expected Gaussian kernels; fit it again with div_cur_free_kernels=False"
        )
    missing = [key for key in _NEEDED if parameters.get(key) is None]
    if missing:
        raise MissingKeyError(
            f"{name} has no {', '.join(repr(key) for key in missing)}; expected control points 'X_ctrl', coefficients "
            f"'C' and 'beta', found {', '.join(repr(key) for key in parameters) or 'nothing'}"
        )
    return tuple(parameters[key] for key in _NEEDED)


class _Reader:
    """One reading of one source."""

    def __init__(
        self, source: ParameterSource, basis: str | None, Qkey: str | None, genes: Sequence[str] | None
    ) -> None:
        self.source = source
        self.basis = basis
        self.Qkey = Qkey
        self.named = None if genes is None else [str(gene) for gene in genes]
        self.key = _field_key(source, basis)
        self.name = f"uns['{self.key}'] of {source.name}"
        present = source.keys("uns", self.key)
        self.fit = {key: source.element("uns", self.key, key) for key in _WANTED if key in present}

    def read(self) -> RKHSField:
        stored_centers, stored_coefficients, beta = sparse_vfc(self.fit, self.name)
        centers = _numbers(stored_centers, f"'X_ctrl' of {self.name}")
        coefficients = _numbers(stored_coefficients, f"'C' of {self.name}")
        n_axes = centers.shape[1]
        if self.basis is None:
            field = RKHSField(centers, coefficients, beta, basis=None, genes=self._axes(n_axes))
            self._warn_of_units()
            return field
        self._check_axes(n_axes)
        self._warn_if_moved(n_axes)
        loadings, genes = self._loadings(n_axes)
        return RKHSField(centers, coefficients, beta, basis=self.basis, loadings=loadings, genes=genes)

    def _warn_if_moved(self, n_axes: int) -> None:
        """Say so where the cells of the AnnData are not the points that dynamo would evaluate the field at."""
        key = f"X_{self.basis}"
        if "X" not in self.source.keys("uns", self.key) or key not in self.source.keys("obsm"):
            return
        fitted, now = self.source.stored("uns", self.key, "X"), self.source.stored("obsm", key)
        for dense in ("to_numpy", "toarray"):  # of a table of pandas, of a sparse matrix
            if hasattr(now, dense):
                now = getattr(now, dense)()
        if len(getattr(fitted, "shape", ())) != 2 or len(getattr(now, "shape", ())) != 2:
            return
        if fitted.shape[0] != now.shape[0]:
            differs = f"it has {fitted.shape[0]:,} points, obsm['{key}'] {now.shape[0]:,} cells"
        else:
            # Some rows tell, and a large file is not read for it.
            rows = np.unique(np.linspace(0, fitted.shape[0] - 1, _COMPARED_ROWS).astype(np.intp))
            pairs = [(np.asarray(fitted[int(r)])[:n_axes], np.asarray(now[int(r)])[:n_axes]) for r in rows]
            n_other = sum(
                a.shape != b.shape or not np.allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=True)
                for a, b in pairs
            )
            if not n_other:
                return
            differs = f"of {len(rows):,} cells looked at, {n_other:,} lie elsewhere in obsm['{key}']"
        warnings.warn(
            f"{self.name} was fitted to other points than the AnnData holds now: {differs}. dynamo evaluates at the "
            f"former ('X'); here the field is evaluated at the cells that are given",
            StabdaskWarning,
            stacklevel=4,
        )

    def _check_axes(self, n_axes: int) -> None:
        """Raise unless the axes of the field are the first of the embedding."""
        dims = _plain(self.fit.get("dims"))
        if dims is None or np.ndim(dims) == 0:
            return
        chosen = [int(column) for column in dims]
        if chosen != list(range(n_axes)):
            raise InputError(
                f"{self.name} was fitted to the columns {chosen} of obsm['X_{self.basis}']; expected the first "
                f"{n_axes}. Copy these columns to an embedding of their own and fit that"
            )

    def _warn_of_units(self) -> None:
        if _is_over_genes(self.source, self.key):
            layer = _plain(self.fit.get("layer"), "X")
            warnings.warn(
                f"{self.name}: before dynamo fits a field to genes it undoes the logarithm of the layer (here "
                f"{layer!r}); give cells in these units",
                StabdaskWarning,
                stacklevel=4,
            )

    def _axes(self, n_axes: int) -> list[str]:
        """Return the names of the genes that a field over genes is a function of."""
        source = self.source
        if self.named is not None:
            return self.named
        if not _is_over_genes(source, self.key):
            raise InputError(
                f"{self.name} does not say that it is a field over genes; if it is one, name its {n_axes:,} axes with "
                "genes=, else say which embedding it is of with basis="
            )
        chosen = self.fit.get("genes")
        if chosen is not None:
            raise InputError(
                f"{self.name} was fitted to genes that were chosen, and dynamo does not keep the order it puts them "
                "in; give them with genes= in the order of the axes (the columns of its 'V' are those of the layer "
                f"'{_plain(self.fit['velocity_key'])}_{_plain(self.fit.get('method'), 'SparseVFC')}')"
            )
        if _GENE_MASK not in source.columns:
            raise MissingKeyError(
                f"{source.name} has no var['{_GENE_MASK}'], which marks the {n_axes:,} genes the field was fitted to; "
                "name them with genes="
            )
        used = self._mask(_GENE_MASK)
        if used.sum() != n_axes:
            raise InputError(
                f"{self.name} is a function of {n_axes:,} genes, but var['{_GENE_MASK}'] marks {used.sum():,}: genes "
                "were removed since, or had values that are not finite; name them with genes="
            )
        return [str(gene) for gene in source.genes[used]]

    def _loadings(self, n_axes: int) -> tuple[Array | None, list[str] | None]:
        """Return the loadings of the axes and the names of their rows."""
        key, source = self.Qkey, self.source
        if key is None or (self.basis != "pca" and key == "PCs"):
            if self.named is not None:
                raise UsageError(
                    f"genes= names the rows of loadings, and the basis {self.basis!r} is read without; give Qkey=, or "
                    "leave genes out"
                )
            return None, None
        place = next((place for place in ("uns", "varm") if key in source.keys(place)), None)
        if place is None:
            there = [*source.keys("varm"), *(name for name in source.keys("uns") if "PC" in name)]
            raise MissingKeyError(
                f"{source.name} has no loadings {key!r} in uns or varm; "
                f"{near_misses(key, there, noun='such keys')}. Qkey=None reads the field without, over its axes alone"
            )
        what = f"{place}['{key}'] of {source.name}"
        stored = source.element(place, key)
        loadings = _numbers(stored, what)
        if loadings.shape[1] < n_axes:
            raise InputError(
                f"{what} has {loadings.shape[1]} columns, but the field has {n_axes} axes; expected one column each, "
                f"the loadings that obsm['X_{self.basis}'] was made with"
            )
        # Principal components are in order, and a field of fewer is one of the first.
        loadings = loadings[:, :n_axes]
        if place == "varm":
            loadings, genes = self._rows_of_all(loadings, what)
        else:
            genes = self._rows_of_used(len(loadings), what)
        _warn_unless_orthonormal(loadings, np.asarray(stored).dtype, what)
        return loadings, genes

    def _rows_of_all(self, loadings: Array, what: str) -> tuple[Array, list[str]]:
        """Return the rows of genes that are in the PCA: others have zeros, or NaN."""
        if self.named is not None:
            raise UsageError(f"{what} has one row for each gene of the AnnData; leave genes= out")
        kept = (np.nan_to_num(loadings) != 0).any(axis=1)
        return loadings[kept], [str(gene) for gene in self.source.genes[kept]]

    def _rows_of_used(self, n_rows: int, what: str) -> list[str]:
        """Return the names of the rows of loadings that have one for each gene the PCA was made of."""
        source = self.source
        if self.named is not None:
            if len(self.named) != n_rows:
                raise InputError(f"genes= names {len(self.named):,} genes, but {what} has {n_rows:,} rows")
            return self.named
        masks = {name: self._mask(name) for name in _PCA_MASKS if name in source.columns}
        if not masks and n_rows == len(source.genes):
            return [str(gene) for gene in source.genes]
        fitting = [name for name, mask in masks.items() if mask.sum() == n_rows]
        if not fitting:
            counts = ", ".join(f"{_var(name)} marks {mask.sum():,}" for name, mask in masks.items())
            raise InputError(
                f"{what} has {n_rows:,} rows, one for each gene the PCA was made of, but {counts or 'no column marks'} "
                f"of the {len(source.genes):,} genes there are now: genes were removed or chosen anew since. Name the "
                "genes of its rows with genes=, or read the AnnData as it was at the fit"
            )
        used = masks[fitting[0]]
        if any(not np.array_equal(used, masks[name]) for name in fitting):
            raise InputError(
                f"{what} has {n_rows:,} rows, and {' and '.join(_var(name) for name in fitting)} mark as many "
                "genes, but not the same: which the PCA was made of is not certain. Name the genes of its rows with "
                "genes="
            )
        return [str(gene) for gene in source.genes[used]]

    def _mask(self, name: str) -> npt.NDArray[np.bool_]:
        return as_mask(self.source.column(name), f"var['{name}'] of {self.source.name}")


def _field_key(source: ParameterSource, basis: str | None) -> str:
    """Return the key of `uns` that holds the field of a basis."""
    there = source.keys("uns")
    wanted = _PREFIX if basis is None else f"{_PREFIX}_{basis}"
    if wanted in there:
        return wanted
    if _PREFIX in there and not _is_over_genes(source, _PREFIX):
        return _PREFIX
    fitted = fitted_fields(source)
    if not fitted:
        raise MissingKeyError(
            f"{source.name} has no vector field of dynamo: no {wanted!r} in uns; fit one with dynamo's VectorField"
        )
    others = ", ".join(f"basis={key.partition('_')[2] or None!r}" for key in fitted)
    raise MissingKeyError(f"{source.name} has no {wanted!r} in uns; there is one for {others}")


def _var(name: str) -> str:
    return f"var['{name}']"


def _is_over_genes(source: ParameterSource, key: str) -> bool:
    """Return whether a field was fitted to genes: dynamo then keeps which velocities, not which columns."""
    return "velocity_key" in source.keys("uns", key)


def _plain(value: Any, default: Any = None) -> Any:
    """Return a text or number as such: files may hold arrays without dimensions, and texts as bytes."""
    if value is None:
        return default
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


def _numbers(values: Any, what: str) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is no table of numbers ({error})") from error
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}; expected a table with rows and columns")
    return array


def _warn_unless_orthonormal(loadings: Array, stored: np.dtype[Any], what: str) -> None:
    off = np.abs(loadings.T @ loadings - np.eye(loadings.shape[1])).max()
    if off > _ORTHONORMAL.get(stored, 1e-6):
        warnings.warn(
            f"the columns of {what} are not orthonormal over its {len(loadings):,} genes (off by {off:.1e}): elements "
            "between genes are Q J Q^T all the same, but modes lifted to genes are approximate",
            StabdaskWarning,
            stacklevel=5,
        )
