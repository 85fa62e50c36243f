"""Names of genes as dynamo's users give them: lists, one name, or a column of `var`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.dynamo.notes import say, some
from stabdask.errors import InputError, UsageError, near_misses

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["chosen_genes", "gene_lists", "positions"]


def gene_lists(
    adata: AnnData, regulators: Any, effectors: Any, known: npt.NDArray[np.str_] | None
) -> tuple[list[str], list[str]] | None:
    """Return regulators and effectors, where one that is not given is as the other; None if neither is.

    Raises
    ------
    InputError
        If the field has no genes, or none of those that are asked for.
    UsageError
        If a list holds anything but names.
    """
    if regulators is None and effectors is None:
        return None
    if known is None:
        raise InputError(
            "regulators and effectors need a field over genes or loadings of its axes; the axes of this one are no "
            "linear map of genes: leave them out, or use the field over principal components (basis='pca')"
        )
    first = chosen_genes(adata, effectors if regulators is None else regulators, known, "regulators")
    if regulators is None or effectors is None or effectors is regulators:
        return first, list(first)
    return first, chosen_genes(adata, effectors, known, "effectors")


def chosen_genes(adata: AnnData, wanted: Any, known: npt.NDArray[np.str_], what: str) -> list[str]:
    """Return genes in the order of `var`, each once; those that the field has not are named in a warning.

    Parameters
    ----------
    adata
        Whose `var` has the order.
    wanted
        Names, one name, or the name of a boolean column of `var`.
    known
        Names of the genes of the field.
    what
        "regulators" or "effectors", for messages.

    Raises
    ------
    InputError
        If the field has none of them, or a column is not boolean.
    UsageError
        If `wanted` holds anything but names.
    """
    names = _names(adata, wanted, what)
    place = {str(gene): number for number, gene in enumerate(known)}
    missing = [name for name in names if name not in place]
    if len(missing) == len(names):
        hint = near_misses(missing[0], place, noun="genes") if missing else "the list is empty"
        raise InputError(f"the field has none of the {what} {some(missing) or repr(wanted)}; {hint}")
    if missing:
        say(
            f"{len(missing):,} of {len(names):,} {what} are no genes of the field and left out: {some(missing)}"
        )
    order = {str(gene): number for number, gene in enumerate(adata.var_names)}
    kept = [name for name in names if name in place]
    return sorted(kept, key=lambda name: (order.get(name, len(order)), place[name]))


def positions(genes: Iterable[str], known: npt.NDArray[np.str_]) -> npt.NDArray[np.intp]:
    """Return where `genes` are in `known`, which has them all."""
    place = {str(gene): number for number, gene in enumerate(known)}
    return np.asarray([place[gene] for gene in genes], dtype=np.intp)


def _names(adata: AnnData, wanted: Any, what: str) -> list[str]:
    """Return names, each once."""
    if isinstance(wanted, str):
        if wanted not in adata.var.columns:
            return [wanted]
        column = adata.var[wanted]
        if column.dtype != bool:
            raise InputError(
                f"{what}={wanted!r} is a column of var with dtype {column.dtype}; expected a boolean one, or gene names"
            )
        return [str(name) for name in adata.var_names[column.to_numpy()]]
    try:
        values = list(wanted)
    except TypeError:
        values = [wanted]
    if not all(isinstance(value, str) for value in values):
        raise UsageError(
            f"{what} hold {next(value for value in values if not isinstance(value, str))!r}; expected names of genes, "
            "or the name of a boolean column of var"
        )
    return list(dict.fromkeys(str(value) for value in values))
