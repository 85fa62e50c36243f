"""Names of the axes of embeddings: what ties a field over them to the coordinates of cells."""

from __future__ import annotations

__all__ = ["axis_names"]


def axis_names(basis: str, n_axes: int) -> list[str]:
    """Return the names of the axes of an embedding.

    Examples
    --------
    >>> axis_names("pca", 2)
    ['pca_1', 'pca_2']
    """
    return [f"{basis}_{number + 1}" for number in range(n_axes)]
