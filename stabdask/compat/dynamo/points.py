"""Where cells are in the space of a field: what the AnnData holds now, not what it held at the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.compat.dynamo.notes import say
from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.base import Array

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["embedded_points", "fitted_to", "points_over_genes"]

_SAME = 1e-6


def embedded_points(adata: AnnData, basis: str, n_axes: int | None, fitted: Array | None) -> Array:
    """Return the cells in an embedding, ``(cell, axis)``, with a warning where a field was fitted to others.

    Parameters
    ----------
    adata
        With ``obsm["X_<basis>"]``.
    basis
        Name of the embedding.
    n_axes
        How many of its first columns to take; all if not given.
    fitted
        ``(cell, axis)`` that the field was fitted to: where dynamo evaluates it, whatever cells it is given.

    Raises
    ------
    MissingKeyError
        If there is no such embedding.
    InputError
        If it has too few columns, or holds no numbers.
    """
    key = f"X_{basis}"
    if key not in adata.obsm:
        hint = near_misses(key, adata.obsm.keys(), noun="embeddings")
        raise MissingKeyError(f"no obsm[{key!r}] in the AnnData; {hint}")
    points = _table(adata.obsm[key], f"obsm[{key!r}]")
    if n_axes is not None:
        if points.shape[1] < n_axes:
            raise InputError(f"obsm[{key!r}] has {points.shape[1]} columns; the field has {n_axes} axes")
        points = points[:, :n_axes]
    if fitted is not None:
        _say_if_moved(points, fitted, key)
    return points


def points_over_genes(adata: AnnData, fitted: Array | None, n_axes: int | None) -> Array:
    """Return the points of a field over genes, ``(cell, gene)``: those it was fitted to, if they are of these cells.

    Raises
    ------
    InputError
        If there are none, or not as many as cells.
    """
    if fitted is None:
        raise InputError(
            "the vector field over genes does not say what it was fitted to (no 'X'); it is evaluated there, because "
            "no layer of the AnnData is in its units"
        )
    points = _table(fitted, "'X' of the vector field")
    if len(points) != adata.n_obs or (n_axes is not None and points.shape[1] != n_axes):
        raise InputError(
            f"the vector field over genes was fitted to {points.shape[0]:,} cells x {points.shape[1]:,} genes, and "
            f"the AnnData has {adata.n_obs:,} cells: which are which is not known. Compute before taking a subset, or "
            "use RKHSField.from_anndata(adata, basis=None).jacobian(x) on expression in the units of the fit"
        )
    return points


def _say_if_moved(points: Array, fitted: Array, key: str) -> None:
    n, d = points.shape
    if fitted.shape == points.shape:
        scale = float(np.abs(fitted).max(initial=0.0))
        moved = ~(np.abs(points - fitted) <= _SAME * scale).all(axis=1)
        if not moved.any():
            return
        found = (
            f"obsm[{key!r}] of {int(moved.sum()):,} of {n:,} cells is not what the vector field was fitted to"
        )
    else:
        found = (
            f"the vector field was fitted to {fitted.shape[0]:,} cells x {fitted.shape[1]} axes, and obsm[{key!r}] is "
            f"{n:,} x {d}"
        )
    say(
        f"{found}: it is evaluated at obsm[{key!r}] of the cells given (dynamo takes VecFld['X'], the cells as they "
        "were at the fit)"
    )


def fitted_to(parameters: Mapping[str, Any]) -> Array | None:
    """Return the ``X`` among the parameters of a field, if it is there."""
    found = parameters.get("X")
    return None if found is None else _table(found, "'X' of the vector field")


def _table(values: Any, what: str) -> Array:
    if hasattr(values, "toarray"):
        values = values.toarray()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} holds no numbers ({error})") from error
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}; expected (cells, axes)")
    return array
