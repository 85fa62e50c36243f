"""A vector field of dynamo, the cells it is evaluated at, and how blocks of them are computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.functions import function_of
from stabdask.compat.dynamo.notes import say
from stabdask.compat.dynamo.points import embedded_points, fitted_to, points_over_genes
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError
from stabdask.fields.base import Array, Index
from stabdask.fields.dynamo import fitted_points, read_dynamo
from stabdask.fields.given import GivenFunction, GivenLinearization
from stabdask.fields.rkhs import RKHSField
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.kernels.machine import cpu_count
from stabdask.kernels.threads import single_threaded_blas

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Fit", "Rows", "compute_cells", "empty_results", "open_fit", "suffixed"]

Rows = slice | Index
"""Which rows of a result a block of cells has."""

_METHODS = ("analytical", "numerical", "parallel")
_PARAMETERS = ("X_ctrl", "C", "beta")
_BLOCK_BYTES = 8 * 2**20
_MOST_CELLS = 2048
_PROBED = 3
_OF_CELLS = ("was fitted to other points", "undoes the logarithm")
"""What the reader says of cells that it does not know: here it is known where they are."""


@dataclass(frozen=True)
class Fit:
    """A vector field and the cells of an AnnData in its space.

    Attributes
    ----------
    linearize
        Of points ``(cell, axis)``.
    points
        ``(cell, axis)``: every cell of the AnnData.
    loadings
        ``(gene, axis)`` that lift axes to genes; None where axes are genes, or no linear map of them.
    genes
        Names of what the axes are lifted to, or of the axes of a field over genes; None where they are no linear map
        of genes.
    """

    linearize: Callable[[Array], RKHSLinearization]
    points: Array
    loadings: Array | None
    genes: npt.NDArray[np.str_] | None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def n_axes(self) -> int:
        """Number of axes."""
        return int(self.points.shape[1])


def suffixed(name: str, basis: str | None) -> str:
    """Return the key of a result for a basis.

    Examples
    --------
    >>> suffixed("jacobian", "pca"), suffixed("jacobian", None)
    ('jacobian_pca', 'jacobian')
    """
    return f"{name}_{basis}" if basis else name


def open_fit(
    adata: AnnData,
    *,
    basis: str | None,
    Qkey: str | None = None,
    given: Any = None,
    method: str = "analytical",
) -> Fit:
    """Read what a Jacobian needs from an AnnData.

    Parameters
    ----------
    adata
        With ``uns["VecFld_<basis>"]``, unless a field is `given`, and ``obsm["X_<basis>"]``.
    basis
        Name of the embedding; None for a field over genes.
    Qkey
        Key of the loadings; None leaves them out.
    given
        A vector field instead of the stored one: see `stabdask.compat.dynamo.jacobian`.
    method
        ``"analytical"``, ``"parallel"`` (the same here) or ``"numerical"``.

    Raises
    ------
    MissingKeyError
        If there is no field, or no such embedding.
    InputError
        If the field cannot be used.
    UsageError
        If there is no such method, or `given` is no vector field.
    """
    if method not in _METHODS:
        raise UsageError(f"method={method!r}; expected one of {', '.join(map(repr, _METHODS))}")
    basis = basis or None
    if given is None:
        fitted = fitted_points(adata, basis)
        return _of_field(adata, _read(adata, basis, Qkey), basis, fitted, method)
    if isinstance(given, RKHSField):
        return _of_field(adata, given, basis, None, method)
    parameters = given if isinstance(given, Mapping) else getattr(given, "vf_dict", None) or {}
    if all(name in parameters for name in _PARAMETERS):
        field = _read(_holding(adata, parameters, basis, Qkey), basis, Qkey)
        if _is_what_it_does(field, given):
            return _of_field(adata, field, basis, fitted_to(parameters), method)
    elif isinstance(given, Mapping):
        missing = [name for name in _PARAMETERS if name not in given]
        raise MissingKeyError(f"the vector field has no {missing[0]!r}; expected 'X_ctrl', 'C' and 'beta'")
    return _of_function(adata, given, basis, Qkey, method)


def _read(adata: AnnData, basis: str | None, Qkey: str | None) -> RKHSField:
    """Read a field; what is said of it points to the caller, and what is said here of its cells is said once."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        field = read_dynamo(adata, basis=basis, Qkey=Qkey)
    for warning in said:
        if not issubclass(warning.category, StabdaskWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif not any(text in str(warning.message) for text in _OF_CELLS):
            say(str(warning.message))
    return field


def _holding(adata: AnnData, parameters: Mapping[str, Any], basis: str | None, Qkey: str | None) -> AnnData:
    """Return genes and loadings of an AnnData, without its cells, beside the parameters of another field."""
    import anndata

    uns: dict[str, Any] = {suffixed("VecFld", basis): dict(parameters)}
    if Qkey is not None and Qkey in adata.uns:
        uns[Qkey] = adata.uns[Qkey]
    varm = {Qkey: np.asarray(adata.varm[Qkey])} if Qkey is not None and Qkey in adata.varm else None
    return anndata.AnnData(var=adata.var, varm=varm, uns=uns)


def _of_field(adata: AnnData, field: RKHSField, basis: str | None, fitted: Array | None, method: str) -> Fit:
    if field.basis != basis:
        raise InputError(
            f"the field is over {field.basis or 'genes'!r}, and basis={basis!r}; expected the same"
        )
    if basis is None:
        points = points_over_genes(adata, fitted, field.largest_core)
    else:
        points = embedded_points(adata, basis, field.largest_core, fitted)
    genes = field.genes if basis is None or field.loadings is not None else None
    if method == "numerical":
        function = GivenFunction(field.velocity, partial(field.jacobian, method="numerical"))
        return Fit(partial(_linearized, function, field.loadings), points, field.loadings, genes)
    return Fit(partial(field.linearize, cluster=0), points, field.loadings, genes)


def _linearized(function: GivenFunction, loadings: Array | None, x: Array) -> GivenLinearization:
    return GivenLinearization(function, x, loadings)


def _is_what_it_does(field: RKHSField, given: Any) -> bool:
    """Return whether a given object computes nothing but the field of its parameters: knockouts change the function."""
    func = getattr(given, "func", None)
    if not callable(func):
        return True
    probes = field.centers[:_PROBED]
    found, expected = np.asarray(func(probes), dtype=np.float64), field.velocity(probes)
    if found.shape != expected.shape:
        return False
    return bool(np.allclose(found, expected, rtol=1e-6, atol=1e-9 * float(np.abs(expected).max())))


def _of_function(adata: AnnData, given: Any, basis: str | None, Qkey: str | None, method: str) -> Fit:
    function = function_of(given, method)
    data = _data_of(given)
    if basis is None:
        points = points_over_genes(adata, data, None)
    elif f"X_{basis}" in adata.obsm or data is None:
        points = embedded_points(adata, basis, None if data is None else data.shape[1], data)
    else:
        points = points_over_genes(adata, data, None)
    names, loadings = _lift(adata, points.shape[1], basis, Qkey)
    return Fit(partial(_linearized, function, loadings), points, loadings, names)


def _data_of(given: Any) -> Array | None:
    data = getattr(given, "data", None)
    return fitted_to(data) if isinstance(data, Mapping) else None


def _lift(
    adata: AnnData, n_axes: int, basis: str | None, Qkey: str | None
) -> tuple[npt.NDArray[np.str_] | None, Array | None]:
    """Return the genes that axes are lifted to and the loadings that do it, as for a stored field."""
    if basis is None:
        names = np.asarray([str(name) for name in adata.var_names], dtype=np.str_)
        return (names if len(names) == n_axes else None), None
    if Qkey is None or (Qkey not in adata.uns and Qkey not in adata.varm):
        return None, None
    nothing = {"X_ctrl": np.zeros((1, n_axes)), "C": np.zeros((1, n_axes)), "beta": 1.0}
    field = _read(_holding(adata, nothing, basis, Qkey), basis, Qkey)
    return (None, None) if field.loadings is None else (field.genes, field.loadings)


def compute_cells(
    fit: Fit,
    cells: Index,
    work: Callable[[Rows, RKHSLinearization], None],
    *,
    cores: int | None,
    bytes_per_cell: int = 0,
) -> None:
    """Call ``work(rows, linearization)`` for blocks of `cells`; `rows` are where they are among `cells`.

    Cells without finite coordinates are left out, and counted in a warning: what `empty_results` makes has NaN there.

    Parameters
    ----------
    cores
        Threads that share the blocks, each with a BLAS of one thread; None for as many as there are cores. Results do
        not depend on it.
    bytes_per_cell
        What `work` needs beside the Jacobian over the axes.

    Raises
    ------
    UsageError
        If `cores` is no positive number.
    """
    n_threads = _thread_count(cores)
    d = fit.n_axes
    step = max(1, min(_MOST_CELLS, _BLOCK_BYTES // (8 * (4 * d * d + 8 * d) + bytes_per_cell)))
    blocks = [slice(first, min(first + step, len(cells))) for first in range(0, len(cells), step)]

    def one(block: slice) -> int:
        points = fit.points[cells[block]]
        finite = np.isfinite(points).all(axis=1)
        if finite.all():
            work(block, fit.linearize(points))
        elif finite.any():
            work(block.start + np.flatnonzero(finite), fit.linearize(points[finite]))
        return int((~finite).sum())

    with single_threaded_blas(), np.errstate(over="ignore", invalid="ignore"):
        left_out = sum(_in_threads(one, blocks, n_threads))
    if left_out:
        say(
            f"{left_out:,} of {len(cells):,} cells have coordinates that are not finite: they are not computed, theirs "
            "are NaN"
        )


def empty_results(fit: Fit, cells: Index, *shape: int, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """Return an array with a row for each of `cells`, to be filled by `compute_cells`: NaN where that will not."""
    out = np.empty((len(cells), *shape), dtype=dtype)
    out[~np.isfinite(fit.points[cells]).all(axis=1)] = np.nan
    return out


def _in_threads(one: Callable[[slice], int], blocks: list[slice], n_threads: int) -> list[int]:
    if n_threads == 1 or len(blocks) < 2:
        return [one(block) for block in blocks]
    with ThreadPoolExecutor(min(n_threads, len(blocks))) as pool:
        try:
            return list(pool.map(one, blocks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _thread_count(cores: int | None) -> int:
    if cores is None:
        return cpu_count()
    if isinstance(cores, bool) or not isinstance(cores, int | np.integer) or cores < 1:
        raise UsageError(f"cores={cores!r}; expected a number of threads from 1 on, or None for all cores")
    return int(cores)
