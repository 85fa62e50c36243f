"""Partial correlations, and the networks of genes they make.

An edge says that two genes vary together when all the others are held fixed (under a Gaussian model). It has no
direction and is no evidence of causation: genes that were not measured, cell types that were mixed and noise make
edges too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.checks import Array, gene_names, symmetric
from stabdask.errors import InputError, NotPositiveDefiniteError, UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_share", "check_top", "compare", "edges", "partial_correlations", "statistics"]

_ROUNDING = 1e-6
"""How far beyond 1 a correlation may be before it is none."""


def partial_correlations(theta: npt.ArrayLike) -> Array:
    """Return ``rho_ij = -Theta_ij / sqrt(Theta_ii Theta_jj)`` with ones on the diagonal [1]_.

    Undirected, and not causal.

    Parameters
    ----------
    theta
        ``(gene, gene)`` precision matrix, symmetric positive definite.

    Returns
    -------
    numpy.ndarray
        ``(gene, gene)`` symmetric, from -1 to 1, without unit.

    Raises
    ------
    NotPositiveDefiniteError
        If a diagonal entry is not positive, or a correlation beyond -1 or 1: both are seen here, what else makes a
        matrix indefinite is not.
    InputError
        If it is not square, symmetric and finite.

    References
    ----------
    .. [1] Lauritzen 1996, Graphical Models, section 5.1.3.

    Examples
    --------
    >>> partial_correlations([[2.0, -1.0], [-1.0, 2.0]])
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    matrix = symmetric(theta, "the precision matrix", None)
    diagonal = np.diagonal(matrix).copy()
    if not (diagonal > 0).all():
        bad = int(np.flatnonzero(diagonal <= 0)[0])
        raise _indefinite(matrix, f"{diagonal[bad]:.3g} on its diagonal, at gene {bad}")
    scale = 1.0 / np.sqrt(diagonal)
    # One product of scales for both triangles: the result is as symmetric as the matrix.
    rho = matrix * -np.outer(scale, scale)
    np.fill_diagonal(rho, 0.0)
    largest = float(np.abs(rho).max())
    if largest > 1.0 + _ROUNDING:
        raise _indefinite(matrix, f"a partial correlation of {largest:.3g}")
    np.clip(rho, -1.0, 1.0, out=rho)
    rho += 0.0  # no negative zeros
    np.fill_diagonal(rho, 1.0)
    return np.ascontiguousarray(rho)


def edges(
    rho: npt.ArrayLike,
    genes: Sequence[str] | npt.NDArray[Any] | None = None,
    *,
    threshold: float | None = None,
    top: int | None = None,
    fdr: float | None = None,
    n_cells: float | None = None,
) -> pd.DataFrame:
    """Return the strongest edges of a network of genes; undirected, and not causal.

    Parameters
    ----------
    rho
        ``(gene, gene)`` partial correlations.
    genes
        Names; positions if not given.
    threshold
        Keep edges with ``|rho|`` of at least this.
    top
        Keep that many with the largest ``|rho|``.
    fdr
        Keep edges at this false discovery rate (Benjamini and Hochberg [1]_ over all pairs), of the hypothesis that
        rho is 0: Fisher's z, ``atanh(rho)``, has the variance ``1 / (n - (G - 2) - 3)`` [2]_ for n independent cells
        of a Gaussian. Cells of one sample are not independent, and shrinkage makes rho smaller than that: take
        p-values as a ranking. Exactly one of `threshold`, `top` and `fdr` is given.
    n_cells
        For `fdr`, or for p-values with the others.

    Returns
    -------
    pandas.DataFrame
        One row per pair, the largest ``|rho|`` first: ``gene_a``, ``gene_b`` (in the order of `genes`),
        ``partial_correlation``, and with `n_cells` ``p_value`` (two-sided) and ``q_value`` (adjusted over all pairs,
        kept or not).

    Raises
    ------
    InputError
        If `rho` is no matrix of correlations, or there are too few cells for a test: ``n_cells`` of G + 1 or less.
    UsageError
        If not exactly one of the options is given, or it has no possible value.

    References
    ----------
    .. [1] Benjamini & Hochberg 1995, Controlling the false discovery rate, Journal of the Royal Statistical Society
       B 57(1), 289-300.
    .. [2] Fisher 1924, The distribution of the partial correlation coefficient, Metron 3, 329-332.

    Examples
    --------
    >>> rho = [[1.0, 0.5, 0.0], [0.5, 1.0, -0.7], [0.0, -0.7, 1.0]]
    >>> edges(rho, ["A", "B", "C"], threshold=0.4)
      gene_a gene_b  partial_correlation
    0      B      C                 -0.7
    1      A      B                  0.5
    """
    import pandas as pd

    _check_choice(threshold, top, fdr, n_cells)
    matrix = _correlations(rho, genes)
    names = gene_names(genes, len(matrix))
    first, second = np.triu_indices(len(matrix), k=1)
    values = matrix[first, second]
    tests: dict[str, Array] = {}
    if n_cells is not None:
        tests = _tests(values, len(matrix), n_cells)
    if fdr is not None:
        kept = np.flatnonzero(tests["q_value"] <= fdr)
    elif threshold is not None:
        kept = np.flatnonzero(np.abs(values) >= threshold)
    else:
        kept = np.arange(len(values))
    # Stable: ties stay in the order of genes.
    kept = kept[np.argsort(-np.abs(values[kept]), kind="stable")][:top]
    columns = {
        "gene_a": names[first[kept]],
        "gene_b": names[second[kept]],
        "partial_correlation": values[kept],
    }
    return pd.DataFrame(columns | {name: column[kept] for name, column in tests.items()})


def statistics(rho: npt.ArrayLike, threshold: float = 0.1) -> dict[str, float]:
    """Return what a network of genes is like as a whole; undirected, and not causal.

    Parameters
    ----------
    rho
        ``(gene, gene)`` partial correlations.
    threshold
        Edges with ``|rho|`` of at least this are strong.

    Returns
    -------
    dict
        ``n_genes``, ``n_pairs``, ``n_strong``; ``density``, the share of pairs that are strong; ``mean_absolute`` and
        ``max_absolute`` of ``|rho|`` over all pairs. The last three are NaN for one gene, which has no pairs.

    Raises
    ------
    InputError
        If `rho` is no matrix of correlations.
    UsageError
        If `threshold` is not from 0 to 1.

    Examples
    --------
    >>> statistics([[1.0, 0.5], [0.5, 1.0]], threshold=0.2)["density"]
    1.0
    """
    check_share("threshold", threshold)
    matrix = _correlations(rho, None)
    size = np.abs(matrix[np.triu_indices(len(matrix), k=1)])
    strong = int((size >= threshold).sum())
    nan = float("nan")
    return {
        "n_genes": len(matrix),
        "n_pairs": len(size),
        "n_strong": strong,
        "density": strong / len(size) if len(size) else nan,
        "mean_absolute": float(size.mean()) if len(size) else nan,
        "max_absolute": float(size.max()) if len(size) else nan,
    }


def compare(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    top: int = 20,
    *,
    genes: Sequence[str] | npt.NDArray[Any] | None = None,
) -> pd.DataFrame:
    """Return the edges that differ most between two networks of the same genes; undirected, and not causal.

    Parameters
    ----------
    before, after
        ``(gene, gene)`` partial correlations.
    top
        How many edges.
    genes
        Names; positions if not given.

    Returns
    -------
    pandas.DataFrame
        ``gene_a``, ``gene_b``, ``before``, ``after``, ``change`` (after minus before), the largest change in size
        first.

    Raises
    ------
    InputError
        If one is no matrix of correlations, or they are of different size.
    UsageError
        If `top` is not a positive integer.

    Examples
    --------
    >>> compare([[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.25], [0.25, 1.0]], genes=["A", "B"])
      gene_a gene_b  before  after  change
    0      A      B     0.5   0.25   -0.25
    """
    import pandas as pd

    check_top(top)
    old, new = _correlations(before, genes), _correlations(after, genes)
    if old.shape != new.shape:
        raise InputError(
            f"before has {len(old):,} genes and after {len(new):,}; expected the same genes in both"
        )
    names = gene_names(genes, len(old))
    first, second = np.triu_indices(len(old), k=1)
    change = new[first, second] - old[first, second]
    kept = np.argsort(-np.abs(change), kind="stable")[:top]
    a, b = first[kept], second[kept]
    return pd.DataFrame(
        {
            "gene_a": names[a],
            "gene_b": names[b],
            "before": old[a, b],
            "after": new[a, b],
            "change": change[kept],
        }
    )


def _tests(values: Array, n_genes: int, n_cells: float) -> dict[str, Array]:
    """Return p-values and q-values of all pairs."""
    from scipy.stats import false_discovery_control, norm

    freedom = n_cells - (n_genes - 2) - 3
    if not freedom > 0:
        raise InputError(
            f"{n_cells:g} cells are too few to test partial correlations of {n_genes:,} genes: n - (G - 2) - 3 is "
            f"{freedom:g}, expected more than 0; take more cells or fewer genes, or choose edges by threshold or top"
        )
    with np.errstate(divide="ignore"):  # a correlation of 1 has p = 0
        p = 2.0 * norm.sf(np.sqrt(freedom) * np.abs(np.arctanh(values)))
    return {"p_value": p, "q_value": false_discovery_control(p) if len(p) else p}


def _correlations(rho: npt.ArrayLike, genes: Sequence[str] | npt.NDArray[Any] | None) -> Array:
    matrix = symmetric(rho, "the matrix of partial correlations", genes)
    if np.abs(np.diagonal(matrix) - 1.0).max() > _ROUNDING or np.abs(matrix).max() > 1.0 + _ROUNDING:
        raise InputError(
            f"a matrix with {matrix[0, 0]:.3g} first on its diagonal and entries up to "
            f"{np.abs(matrix).max():.3g} is none of "
            "correlations; expected ones on the diagonal and nothing larger: partial_correlations(theta) makes it"
        )
    return np.clip(matrix, -1.0, 1.0)


def _check_choice(threshold: float | None, top: int | None, fdr: float | None, n_cells: float | None) -> None:
    chosen = {name: v for name, v in (("threshold", threshold), ("top", top), ("fdr", fdr)) if v is not None}
    if len(chosen) != 1:
        raise UsageError(
            f"{', '.join(chosen) or 'nothing'} chooses the edges; expected one of threshold, top and fdr"
        )
    if threshold is not None:
        check_share("threshold", threshold)
    if top is not None:
        check_top(top)
    if fdr is not None:
        check_share("fdr", fdr)
        if n_cells is None:
            raise UsageError("fdr needs n_cells: how many cells the correlations are of")


def check_share(name: str, value: float) -> None:
    """Raise unless an option is a share.

    Raises
    ------
    UsageError
        If it is not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value!r}; expected a number from 0 to 1")


def check_top(top: int) -> None:
    """Raise unless an option is a number of edges.

    Raises
    ------
    UsageError
        If it is no positive integer.
    """
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise UsageError(f"top={top!r}; expected how many edges, 1 or more")


def _indefinite(matrix: Array, found: str) -> NotPositiveDefiniteError:
    least = float(np.linalg.eigvalsh(matrix)[0])
    return NotPositiveDefiniteError(
        f"the precision matrix is not positive definite: it has {found}, and its smallest eigenvalue is {least:.3g}; "
        "expected the inverse of a covariance matrix"
    )
