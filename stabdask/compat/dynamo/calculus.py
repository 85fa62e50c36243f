"""dynamo's vector calculus: speed, divergence, acceleration, curvature, curl and torsion of every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.cells import chosen_cells
from stabdask.compat.dynamo.fits import Fit, Rows, compute_cells, empty_results, open_fit, suffixed
from stabdask.compat.dynamo.genes import positions
from stabdask.compat.dynamo.notes import refuse_unknown
from stabdask.compat.memory import refuse_memory
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses
from stabdask.fields.base import Array
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.runs.calculus import curvature_vectors, torsions

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["acceleration", "curl", "curvature", "divergence", "speed", "torsion"]

_LAYER_CELLS = 4096


def speed(
    adata: AnnData,
    basis: str | None = "umap",
    vector_field_class: Any = None,
    method: str = "analytical",
) -> None:
    """Compute the norm of the velocity of every cell.

    Parameters
    ----------
    adata, basis, vector_field_class
        See `jacobian`.
    method
        ``"analytical"``: of the vector field; ``"numeric"``: of the velocities ``obsm["velocity_<basis>"]`` that it was
        fitted to.

    Returns
    -------
    None
        Set is ``obs["speed_<basis>"]``, float64, unit of the embedding/time.

    Raises
    ------
    MissingKeyError, InputError, UsageError
        See `jacobian`.
    """
    if method not in ("analytical", "numeric", "numerical"):
        raise UsageError(
            f"method={method!r}; expected 'analytical', or 'numeric' for the velocities as given"
        )
    key = suffixed("speed", basis)
    if method != "analytical":
        if basis is None:
            raise UsageError(
                "method='numeric' needs an embedding; a field over genes has its velocities in layers"
            )
        name = f"velocity_{basis}"
        if name not in adata.obsm:
            raise MissingKeyError(
                f"no obsm[{name!r}] in the AnnData; {near_misses(name, adata.obsm.keys(), noun='embeddings')}"
            )
        adata.obs[key] = np.linalg.norm(np.asarray(adata.obsm[name], dtype=np.float64), axis=1)
        return
    fit = open_fit(adata, basis=basis, given=vector_field_class)
    found = _of_every_cell(fit, lambda linear: linear.speed())
    adata.obs[key] = found


def divergence(
    adata: AnnData,
    cell_idx: Any = None,
    sampling: str | None = None,
    sample_ncells: int = 1000,
    basis: str | None = "pca",
    vector_field_class: Any = None,
    method: str = "analytical",
    store_in_adata: bool = True,
    vectorize_size: int | None = 1000,
    cores: int | None = 1,
    **kwargs: Any,
) -> Array | None:
    """Compute the divergence, the trace of the Jacobian over axes.

    Parameters
    ----------
    adata, cell_idx, sampling, sample_ncells, basis, vector_field_class, method, cores
        See `jacobian`.
    store_in_adata
        Whether to set ``obs["divergence_<basis>"]`` of these cells, 1/time; those of others stay as they are. Otherwise
        they are returned, in the order of `cell_idx`.
    vectorize_size
        Accepted for dynamo's sake: how many cells go together is found here.

    Returns
    -------
    numpy.ndarray or None

    Raises
    ------
    MissingKeyError, InputError, UsageError
        See `jacobian`.

    Notes
    -----
    Jacobians that an earlier call stored are not looked at: they may be of other cells.
    """
    refuse_unknown(divergence, kwargs)
    fit = open_fit(adata, basis=basis, given=vector_field_class, method=method)
    cells = chosen_cells(adata, fit, cell_idx, sampling, sample_ncells)
    found = empty_results(fit, cells)

    def work(rows: Rows, linear: RKHSLinearization) -> None:
        found[rows] = linear.trace()

    compute_cells(fit, cells, work, cores=cores)
    if not store_in_adata:
        return found
    key = suffixed("divergence", basis)
    column = np.full(adata.n_obs, np.nan)
    if key in adata.obs:
        column[:] = adata.obs[key].to_numpy(dtype=np.float64)
    column[cells] = found
    adata.obs[key] = column
    return None


def acceleration(
    adata: AnnData,
    basis: str | None = "umap",
    vector_field_class: Any = None,
    Qkey: str = "PCs",
    method: str = "analytical",
    cores: int | None = 1,
    **kwargs: Any,
) -> None:
    """Compute the acceleration J v of every cell.

    Parameters
    ----------
    adata, basis, vector_field_class, Qkey, method, cores
        See `jacobian`.

    Returns
    -------
    None
        Set are ``obsm["acceleration_<basis>"]`` (cell, axis), its norm in ``obs``, and where there are loadings or the
        field is over genes ``layers["acceleration"]`` (cell, gene), NaN for genes that the field does not have;
        float64, unit of the embedding/time^2.

    Raises
    ------
    MissingKeyError, InputError, MemoryBudgetError, UsageError
        See `jacobian`.
    """
    refuse_unknown(acceleration, kwargs)
    fit = open_fit(adata, basis=basis, Qkey=Qkey, given=vector_field_class, method=method)
    _refuse_layer(adata, fit, "acceleration")
    vectors = _of_every_cell(fit, lambda linear: linear.acceleration(), fit.n_axes, cores=cores)
    _keep_vectors(adata, fit, "acceleration", basis, vectors)


def curvature(
    adata: AnnData,
    basis: str | None = "pca",
    vector_field_class: Any = None,
    formula: int = 2,
    Qkey: str = "PCs",
    method: str = "analytical",
    cores: int | None = 1,
    **kwargs: Any,
) -> None:
    """Compute the curvature of the path of every cell, (a (v.v) - v (v.a)) / |v|^4 with the acceleration a.

    Parameters
    ----------
    adata, basis, vector_field_class, Qkey, method, cores
        See `jacobian`.
    formula
        2 keeps the vectors and their norms; 1 the norms alone, |v x a| / |v|^3, which are the same numbers.

    Returns
    -------
    None
        Set are ``obs["curvature_<basis>"]``, and with formula 2 ``obsm["curvature_<basis>"]`` and
        ``layers["curvature"]``, as for `acceleration`; float64, 1/unit of the embedding; NaN where the velocity is 0.

    Raises
    ------
    MissingKeyError, InputError, MemoryBudgetError, UsageError
        See `jacobian`.
    """
    refuse_unknown(curvature, kwargs)
    if formula not in (1, 2):
        raise UsageError(f"formula={formula!r}; expected 1 or 2")
    fit = open_fit(adata, basis=basis, Qkey=Qkey, given=vector_field_class, method=method)
    if formula == 2:
        _refuse_layer(adata, fit, "curvature")
    vectors = _of_every_cell(
        fit,
        lambda linear: curvature_vectors(linear.velocity(), linear.acceleration()),
        fit.n_axes,
        cores=cores,
    )
    if formula == 2:
        _keep_vectors(adata, fit, "curvature", basis, vectors)
    else:
        adata.obs[suffixed("curvature", basis)] = np.linalg.norm(vectors, axis=1)


def curl(
    adata: AnnData,
    basis: str | None = "umap",
    vector_field_class: Any = None,
    method: str = "analytical",
    cores: int | None = 1,
    **kwargs: Any,
) -> None:
    """Compute the curl of a field over two or three axes.

    Parameters
    ----------
    adata, basis, vector_field_class, method, cores
        See `jacobian`.

    Returns
    -------
    None
        Set is ``obs["curl_<basis>"]``, float64, 1/time: dv_2/dx_1 - dv_1/dx_2, or over three axes the norm of the
        vector, which is then in ``obsm["curl_<basis>"]``, (cell, 3).

    Raises
    ------
    InputError
        If the field has another number of axes, or anything else `jacobian` refuses.
    MissingKeyError, UsageError
        See `jacobian`.
    """
    refuse_unknown(curl, kwargs)
    fit = open_fit(adata, basis=basis, given=vector_field_class, method=method)
    d = fit.n_axes
    if d not in (2, 3):
        raise InputError(
            f"the field has {d} axes, and a curl is of two or three; the quantity 'rotational_norm' of stabdask.run is "
            "the size of the rotation in any number"
        )
    vectors = _of_every_cell(fit, lambda linear: linear.curl(), 1 if d == 2 else 3, cores=cores)
    key = suffixed("curl", basis)
    if d == 2:
        adata.obs[key] = vectors[:, 0]
        return
    adata.obs[key] = np.linalg.norm(vectors, axis=1)
    adata.obsm[key] = vectors


def torsion(
    adata: AnnData,
    basis: str | None = "umap",
    vector_field_class: Any = None,
    method: str = "analytical",
    cores: int | None = 1,
    **kwargs: Any,
) -> None:
    """Compute the torsion of the path of every cell of a field over three axes, det(v, a, da/dt) / |v x a|^2.

    Parameters
    ----------
    adata, basis, vector_field_class, method, cores
        See `jacobian`.

    Returns
    -------
    None
        Set is ``obs["torsion_<basis>"]``, float64, 1/unit of the embedding; NaN where the path is straight.

    Raises
    ------
    InputError
        If the field has another number of axes, or anything else `jacobian` refuses.
    MissingKeyError, UsageError
        See `jacobian`.
    """
    refuse_unknown(torsion, kwargs)
    fit = open_fit(adata, basis=basis, given=vector_field_class, method=method)
    if fit.n_axes != 3:
        raise InputError(f"the field has {fit.n_axes} axes, and torsion is of paths in three")
    adata.obs[suffixed("torsion", basis)] = _of_every_cell(
        fit,
        lambda linear: torsions(linear.velocity(), linear.acceleration(), linear.jerk()),
        cores=cores,
    )


def _of_every_cell(fit: Fit, value: Any, *shape: int, cores: int | None = 1) -> npt.NDArray[Any]:
    """Return ``value(linearization)`` of all cells."""
    cells = np.arange(len(fit))
    found = empty_results(fit, cells, *shape)

    def work(rows: Rows, linear: RKHSLinearization) -> None:
        found[rows] = value(linear)

    compute_cells(fit, cells, work, cores=cores)
    return found


def _refuse_layer(adata: AnnData, fit: Fit, name: str) -> None:
    if fit.genes is not None:
        refuse_memory(
            8 * adata.n_obs * adata.n_vars,
            f"layers[{name!r}] of {adata.n_obs:,} cells x {adata.n_vars:,} genes",
            f"use stabdask.run(cells, field, path, quantities=[{name!r}]), which keeps vectors over axes on disk",
        )


def _keep_vectors(adata: AnnData, fit: Fit, name: str, basis: str | None, vectors: npt.NDArray[Any]) -> None:
    key = suffixed(name, basis)
    adata.obsm[key] = vectors
    adata.obs[key] = np.linalg.norm(vectors, axis=1)
    if fit.genes is None:
        return
    columns = positions(fit.genes.tolist(), np.asarray([str(gene) for gene in adata.var_names]))
    layer = np.full(adata.shape, np.nan)
    for first in range(0, len(vectors), _LAYER_CELLS):
        rows = slice(first, first + _LAYER_CELLS)
        layer[rows, columns] = vectors[rows] if fit.loadings is None else vectors[rows] @ fit.loadings.T
    adata.layers[name] = layer
