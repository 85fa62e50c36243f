"""All right eigenvectors of Jacobians, from those of their cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field, Index

__all__ = ["fill_vectors", "vector_block_cells"]

_BLOCK_BYTES = 128 * 2**20


def vector_block_cells(field: Field) -> int:
    """Return how many cells to compute together: their lifted vectors, with temporaries, take about 128 MB."""
    return max(1, min(128, _BLOCK_BYTES // (6 * 16 * max(1, field.largest_core) * field.n_genes)))


def fill_vectors(
    out: npt.NDArray[np.complex64],
    rows: Index,
    order: Index,
    own: npt.NDArray[np.bool_],
    lifted: npt.NDArray[Any],
) -> None:
    """Write the eigenvectors of some cells as columns, in the order of their eigenvalues.

    Parameters
    ----------
    out
        ``(cell, gene, mode)``, zero.
    rows
        ``(n,)``: which of its cells.
    order
        ``(n, gene)``: for each mode the gene that it is listed under.
    own
        ``(n, gene)``: which genes are in the core. The k-th of them lists mode k of the core; every other gene j
        lists the eigenvalue -gamma_j, whose eigenvector is e_j, because column j of J is -gamma_j e_j.
    lifted
        ``(n, mode of the core, gene)``.
    """
    for number, row in enumerate(rows):
        mode_of_gene = np.argsort(order[number])
        in_core = np.flatnonzero(own[number])
        alone = np.flatnonzero(~own[number])
        out[row, alone, mode_of_gene[alone]] = 1.0
        out[row][:, mode_of_gene[in_core]] = lifted[number, : len(in_core)].T
