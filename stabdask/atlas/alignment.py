"""Cells and a field brought together: which columns are its axes, and which of its clusters a label stands for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.atlas.cells import cell_state
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError, near_misses

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = ["axis_columns", "cluster_models", "warn_if_all_are_one"]

_ALL = "all"
_MOST_NAMED = 5


def axis_columns(cells: xr.Dataset, field: Field) -> npt.NDArray[np.intp] | None:
    """Return where the axes of the field (its genes) are among those of the cells, None if they are the same.

    Raises
    ------
    InputError
        If the cells were opened with expression and the field lives on other axes, or the other way round, or names
        repeat.
    MissingKeyError
        If the cells lack axes of the field.
    """
    state = cell_state(cells)
    dim = str(state.dims[1])
    if dim not in cells.coords:
        if state.shape[1] == len(field.axes):
            return None
        raise InputError(f"the cells have {state.shape[1]} axes without names; expected {len(field.axes)}")
    names = [str(gene) for gene in cells[dim].to_numpy()]
    where = {name: position for position, name in enumerate(names)}
    if len(where) < len(names):
        repeated = (
            sorted({name for name in names if names.count(name) > 1})[:5] if len(names) < 10_000 else []
        )
        raise InputError(f"{dim} names of the cells repeat ({', '.join(repeated)}); make them unique")
    wanted = field.axes.tolist()
    if names == wanted:
        return None
    missing = [gene for gene in wanted if gene not in where]
    if missing:
        _refuse_other_space(cells, field, dim)
        noun = "genes" if dim == "gene" else "axes"
        shown = ", ".join(repr(gene) for gene in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise MissingKeyError(
            f"the atlas lacks {len(missing):,} of the field's {len(wanted):,} {noun}: {shown}{more}; "
            + near_misses(missing[0], names, noun=noun)
        )
    return np.asarray([where[gene] for gene in wanted], dtype=np.intp)


def _refuse_other_space(cells: xr.Dataset, field: Field, dim: str) -> None:
    """Say so where cells that lack axes of the field lie in another space altogether."""
    if field.obsm is not None and dim == "gene":
        raise InputError(
            f"the field lives on {len(field.axes)} axes of {field.obsm!r}, and the cells were opened with expression; "
            f"open them with open_cells(..., obsm={field.obsm!r}) (--obsm {field.obsm})"
        )
    opened = cells.attrs.get("obsm")
    if field.obsm is not None and opened is not None and opened != field.obsm:
        raise MissingKeyError(
            f"the field lives on {len(field.axes):,} axes of {field.obsm!r}, and the cells were opened with "
            f"{opened!r}; open them with open_cells(..., obsm={field.obsm!r}) (--obsm {field.obsm})"
        )
    if field.obsm is None and dim == "axis":
        raise InputError(
            "the field is over genes, and the cells were opened with coordinates of "
            f"{cells.attrs.get('obsm', 'an embedding')!r}; open them with a layer instead"
        )


def cluster_models(labels: Sequence[str], field: Field, missing_cluster: str) -> tuple[str | None, ...]:
    """Return, per label of the cells, the cluster of the field whose parameters they have; None: left out.

    Raises
    ------
    MissingKeyError
        If the field has no parameters for a label and `missing_cluster` is ``"error"``, or names no cluster.
    UsageError
        If `missing_cluster` is no text.
    """
    if not isinstance(missing_cluster, str):
        raise UsageError(f"missing_cluster={missing_cluster!r}; expected 'error', 'skip' or 'W_<cluster>'")
    models = tuple(field.model_of(label) for label in labels)
    unknown = [label for label, model in zip(labels, models, strict=True) if model is None]
    fallback: str | None = None
    if unknown and missing_cluster == "error":
        shown = ", ".join(repr(label) for label in unknown[:5])
        raise MissingKeyError(
            f"the field has no parameters (W_<cluster>) for {shown}; "
            f"{near_misses(unknown[0], field.clusters, noun='clusters of the field')}. Choose another cluster "
            "key, or missing_cluster='skip' (--missing-cluster skip) to leave those cells out, or e.g. 'W_all' in its "
            "place to use the parameters of 'all'"
        )
    if missing_cluster not in ("error", "skip"):
        fallback = missing_cluster.removeprefix("W_")
        if not missing_cluster.startswith("W_") or fallback not in field.clusters:
            options = ("error", "skip", *(f"W_{label}" for label in field.clusters))
            hint = near_misses(missing_cluster, options, noun="choices")
            raise MissingKeyError(f"missing_cluster={missing_cluster!r} is not possible; {hint}")
    return tuple(fallback if model is None else model for model in models)


def warn_if_all_are_one(cells: xr.Dataset, field: Field, *, stacklevel: int = 2) -> None:
    """Warn where all cells have the parameters of ``"all"`` only because no column of clusters was named.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`; of others nothing is known.
    field
        Its clusters other than ``"all"`` are named.
    stacklevel
        As for `warnings.warn`, from the caller on.
    """
    others = [label for label in field.clusters if label != _ALL]
    if cells.attrs.get("cluster_key") != "" or not others or field.model_of(_ALL) != _ALL:
        return
    named = ", ".join(map(repr, others[:_MOST_NAMED]))
    more = f" and {len(others) - _MOST_NAMED:,} more" if len(others) > _MOST_NAMED else ""
    warnings.warn(
        f"every cell gets the parameters of cluster {_ALL!r}, because no column of clusters was given, and the field "
        f"has others: {named}{more}; to use those give the column of obs with them, as cluster_key= of open_cells "
        "(--cluster-key)",
        StabdaskWarning,
        stacklevel=stacklevel + 1,
    )
