"""Which genes a mode belongs to, and which edges move it: ranked tables per cluster."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["driver_edges", "driver_genes", "edge_matrices", "has_edges"]

_LIFTED_BYTES = 32 * 2**20
"""Sensitivities between genes that are looked at together where they are lifted from axes."""
_MOST_LIFTED = 2**22
"""Pairs of genes that a table or a matrix of all of them may have."""


def driver_genes(ds: xr.Dataset, cluster: str, *, mode: int = 0, top: int | None = None) -> pd.DataFrame:
    """Rank the genes that take part in a leading mode of a cluster.

    The participation factor of gene i in a mode with right and left eigenvectors x and y is
    ``p_i = conj(y_i) x_i / (y^H x)`` [1]_. The factors of a mode sum to 1. Read the real part as the share of the mode
    that is gene i's own: it is minus the derivative of the growth rate Re(lambda) by the gene's degradation rate, so
    where it is large and positive, faster decay of the gene's product stabilizes the cell. It may be negative.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`, with quantity ``"participation"``,
        ``"participation_mean"`` or ``"drivers"``.
    cluster
        Label of the cluster.
    mode
        Number of the mode of the core, 0 the leading one. From mode 1 on, what is averaged over cells need not be the
        same mode in all of them.
    top
        How many genes to return; all regulators if not given. Genes that do not regulate take no part.

    Returns
    -------
    pandas.DataFrame
        Columns ``gene``, ``participation`` (mean of the real part over cells) and ``std`` (over cells), dimensionless,
        in descending order of the mean's absolute value. ``attrs``: ``cluster``, ``mode``, ``n_cells`` (how many cells
        the means are of) and ``leading_fraction`` (in what fraction of the cells with a leading mode of the core that
        mode sets the spectral abscissa; in the others a gene outside the core does, with its -gamma).

    Raises
    ------
    MissingKeyError
        If `ds` lacks the means, or there is no such cluster.
    UsageError
        If there is no such mode, or `top` is less than 1.

    References
    ----------
    .. [1] Perez-Arriaga, Verghese & Schweppe (1982). Selective modal analysis with applications to electric power
       systems, part I. IEEE Transactions on Power Apparatus and Systems 101:3117-3125.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0)
    >>> adata = anndata.AnnData(np.array([[1.625, 1.625], [1.5, 1.7]]))
    >>> adata.var_names = ["A", "B"]
    >>> ds = sd.stability(sd.open_cells(adata), field, quantities=["drivers"])
    >>> sd.driver_genes(ds, "all").round(2)
      gene  participation   std
    0    A           0.57  0.07
    1    B           0.43  0.07
    """
    import pandas as pd

    number = _cluster_number(ds, cluster, "participation_mean")
    # A field without regulators has no modes in cores, and an empty table.
    n_modes = max(1, ds.sizes["vector_mode"])
    if not 0 <= mode < n_modes:
        raise UsageError(f"mode={mode}; expected 0 to {n_modes - 1}: run with more modes= for later ones")
    one = ds[["participation_mean", "participation_std", "driver_cells"]].isel(
        cluster=number, vector_mode=slice(mode, mode + 1)
    )
    one = one.compute()
    table = pd.DataFrame(
        {
            "gene": ds["regulator"].to_numpy().astype(str),
            "participation": one["participation_mean"].to_numpy().ravel(),
            "std": one["participation_std"].to_numpy().ravel(),
        }
    )
    table = _ranked(table, "participation", top)
    table.attrs |= {"cluster": cluster, "mode": mode}
    table.attrs |= _cells(ds, number, int(one["driver_cells"].sum()))
    return table


def driver_edges(
    ds: xr.Dataset,
    cluster: str,
    *,
    by: Literal["sensitivity", "contribution"] = "sensitivity",
    top: int | None = None,
    existing: bool = True,
) -> pd.DataFrame:
    """Rank the edges of the network that move the leading mode of a cluster.

    The growth rate of the leading mode of the core changes with the weight of the edge from regulator j to effector i
    by ``d Re(lambda) / d W_ij = Re(conj(y_i) phi'_j x_j / (y^H x))`` [1]_. Read a positive sensitivity as: more weight
    destabilizes (for an inhibiting edge, that is less inhibition). ``contribution = W_ij * sensitivity`` is what the
    edge gives to the growth rate as it stands: over all edges the contributions of a cell sum to
    Re(lambda) + sum_i gamma_i Re(p_i), with the participation factors p of `driver_genes`.

    A field over the axes of an embedding has no weights. There every pair of genes is an edge, the sensitivity is that
    to the element of the Jacobian between them, ``d Re(lambda) / d J_ij``, and the weight is the mean of that element:
    both are lifted from means over axes by the loadings, so that their spread over cells is not known (NaN), and a
    contribution is a product of two means. In a single cell contributions sum to Re(lambda).

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`, with quantity ``"sensitivity"``, ``"sensitivity_mean"`` or
        ``"drivers"``.
    cluster
        Label of the cluster.
    by
        What to rank by.
    top
        How many edges to return; all if not given.
    existing
        Only edges of the cluster's network (weight not zero); otherwise also those that could be, from every gene that
        regulates something in this cluster. From a gene that does not, the sensitivity is given as 0: the cluster's
        model has no activation for it.

    Returns
    -------
    pandas.DataFrame
        Columns ``regulator``, ``effector``, ``sensitivity`` (mean over cells, 1/expression), ``std`` (over cells),
        ``weight`` (expression/time) and ``contribution`` (1/time), in descending order of the absolute value of `by`.
        ``attrs``: ``cluster``, ``n_cells`` and ``leading_fraction``, as `driver_genes`, and ``of``: ``"W"``, or
        ``"J"`` where sensitivities are to elements of the Jacobian (then of unit 1, weights of 1/time).

    Raises
    ------
    MissingKeyError
        If `ds` lacks the means, or there is no such cluster.
    UsageError
        If `by` is neither of the two, `top` is less than 1, or not given where there are millions of pairs of genes.
    InputError
        If cells, clusters, genes or axes were selected: names and means would not belong together.

    References
    ----------
    .. [1] Caswell (2001). Matrix Population Models, 2nd edition, chapter 9. Sinauer.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0)
    >>> adata = anndata.AnnData(np.array([[1.625, 1.625], [1.5, 1.7]]))
    >>> adata.var_names = ["A", "B"]
    >>> ds = sd.stability(sd.open_cells(adata), field, quantities=["drivers"])
    >>> sd.driver_edges(ds, "all", top=2)[["regulator", "effector", "sensitivity", "weight"]].round(2)
      regulator effector  sensitivity  weight
    0         A        A         0.19     5.0
    1         B        A        -0.14    -4.0
    """
    import pandas as pd

    if by not in ("sensitivity", "contribution"):
        raise UsageError(f"by={by!r}; expected 'sensitivity' or 'contribution'")
    lifted = _is_lifted(ds)
    number = _cluster_number(ds, cluster, "axis_sensitivity_mean" if lifted else "sensitivity_mean")
    _check_top(top)
    _check_names(ds)
    if lifted:
        found = _lifted_edges(ds, number, by, top)
    else:
        mean, std, weight = edge_matrices(ds, number)
        rows, columns = (
            np.nonzero((weight != 0) & ~np.isnan(weight))
            if existing
            else np.indices(mean.shape).reshape(2, -1)
        )
        at = rows, columns
        found = {
            "row": rows,
            "column": columns,
            "sensitivity": mean[at],
            "std": std[at],
            "weight": weight[at],
        }
    regulators = ds["regulator"].to_numpy().astype(str)
    table = pd.DataFrame(
        {
            "regulator": regulators[found["column"]],
            "effector": regulators[found["row"]],
            "sensitivity": found["sensitivity"],
            "std": found["std"],
            "weight": found["weight"],
            "contribution": found["weight"] * found["sensitivity"],
        }
    )
    table = _ranked(table, by, top)
    cells = ds["driver_cells"].isel(cluster=number, vector_mode=slice(1))
    table.attrs |= {"cluster": cluster, "of": "J" if lifted else "W"}
    table.attrs |= _cells(ds, number, int(cells.sum()))
    return table


def has_edges(ds: xr.Dataset) -> bool:
    """Return whether results hold what `driver_edges` reads."""
    return "sensitivity_mean" in ds or _is_lifted(ds)


def edge_matrices(
    ds: xr.Dataset, number: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of the sensitivity, and the weight, between all regulators of a cluster.

    Parameters
    ----------
    ds
        Results of which `has_edges` is true.
    number
        Position of the cluster.

    Returns
    -------
    tuple
        ``(effector, regulator)`` each, as `driver_edges` describes them.

    Raises
    ------
    UsageError
        If they are lifted from axes and there are more than 2,048 genes.
    InputError
        If genes or axes were selected.
    """
    _check_names(ds)
    if not _is_lifted(ds):
        names = ["sensitivity_mean", "sensitivity_std", "weight"]
        missing = [name for name in names if name not in ds]
        if missing:
            raise MissingKeyError(
                f"the results hold no {missing[0]!r}; pass the whole Dataset from open_results"
            )
        one = ds[names].isel(cluster=number).transpose(..., "core_effector", "regulator").compute()
        mean, std, weight = (one[name].to_numpy() for name in names)
        return mean, std, weight
    n = ds.sizes["regulator"]
    if n * n > _MOST_LIFTED:
        raise UsageError(f"there are {n * n:,} pairs of genes; give top= to get those that matter most")
    parts = [(mean, weight) for _, mean, weight in _lifted_rows(ds, number)]
    mean, weight = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return mean, np.full(mean.shape, np.nan), weight


def _is_lifted(ds: xr.Dataset) -> bool:
    return "axis_sensitivity_mean" in ds


def _check_names(ds: xr.Dataset) -> None:
    """Raise unless rows and columns of the means are still the same genes, or axes, in the same order."""
    if _is_lifted(ds):
        pairs = [("axis_effector", "axis"), ("gene" if "loading" in ds else "axis", "regulator")]
    else:
        pairs = [("core_effector", "regulator")]
    for pair in pairs:
        first, second = (np.atleast_1d(ds[dim].to_numpy()).astype(str).tolist() for dim in pair)
        if first != second:
            raise InputError(
                f"{pair[0]} and {pair[1]} of the results are no longer the same {len(first):,} and {len(second):,} "
                "names: part of them was selected or reordered, and edges need both whole; pass the whole Dataset and "
                "select rows of the table"
            )


def _lifted_rows(
    ds: xr.Dataset, number: int
) -> Iterator[tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Yield the first effector, sensitivities and weights of some effectors at a time, by all regulators."""
    one = ds[["axis_sensitivity_mean", "axis_jacobian_mean"]].isel(cluster=number).compute()
    sensitivity, jacobian = (
        one[name].transpose("axis_effector", "axis").to_numpy()
        for name in ("axis_sensitivity_mean", "axis_jacobian_mean")
    )
    lift = ds["loading"].to_numpy() if "loading" in ds else np.eye(len(sensitivity))
    step = max(1, _LIFTED_BYTES // (8 * len(lift)))
    for first in range(0, len(lift), step):
        left = lift[first : first + step]
        yield first, left @ sensitivity @ lift.T, left @ jacobian @ lift.T


def _lifted_edges(ds: xr.Dataset, number: int, by: str, top: int | None) -> dict[str, npt.NDArray[Any]]:
    """Return the pairs of genes with the largest values, a few effectors at a time."""
    n = ds.sizes["regulator"]
    if top is None and n * n > _MOST_LIFTED:
        raise UsageError(f"there are {n * n:,} pairs of genes; give top= to get those that matter most")
    kept: dict[str, npt.NDArray[Any]] = {}
    for first, mean, weight in _lifted_rows(ds, number):
        rows, columns = np.indices(mean.shape).reshape(2, -1)
        part = {"row": rows + first, "column": columns, "sensitivity": mean.ravel(), "weight": weight.ravel()}
        kept = {
            name: np.concatenate([kept[name], values]) if kept else values for name, values in part.items()
        }
        if top is not None and len(kept["row"]) > top:
            size = np.abs(kept["sensitivity"] * (kept["weight"] if by == "contribution" else 1.0))
            # NaN goes last; of equal ones the first genes stay.
            order = np.sort(np.argsort(-size, kind="stable")[:top])
            kept = {name: values[order] for name, values in kept.items()}
    return {**kept, "std": np.full(len(kept["row"]), np.nan)}


def _cluster_number(ds: xr.Dataset, cluster: str, needed: str) -> int:
    if needed not in ds:
        raise MissingKeyError(
            f"the results hold no {needed!r}; run with quantities=['default', 'drivers'] (--quantities default,drivers)"
        )
    n_cells = ds.attrs.get("run", {}).get("n_cells")
    if "cell" in ds.dims and n_cells is not None and ds.sizes["cell"] != n_cells:
        raise InputError(
            f"cells of the results were selected ({ds.sizes['cell']:,} of {n_cells:,}), and drivers are means over all "
            "cells of a cluster; pass the whole Dataset, or run on the cells selected"
        )
    labels = [str(label) for label in cell_clusters(ds)[1]]
    if str(cluster) not in labels:
        raise MissingKeyError(f"no cluster {cluster!r}; {near_misses(str(cluster), labels, noun='clusters')}")
    return labels.index(str(cluster))


def _ranked(table: pd.DataFrame, by: str, top: int | None) -> pd.DataFrame:
    _check_top(top)
    order = table[by].abs().sort_values(ascending=False, kind="stable", na_position="last").index
    return table.loc[order[:top]].reset_index(drop=True)


def _check_top(top: int | None) -> None:
    if top is not None and top < 1:
        raise UsageError(f"top={top}; expected at least 1, or None for all")


def _cells(ds: xr.Dataset, number: int, n_cells: int) -> dict[Hashable, Any]:
    """Return of how many cells the means are, and in what fraction of them the core's leading mode leads."""
    counts = ds[["leading_cells", "driver_cells"]].isel(cluster=number, vector_mode=slice(1)).compute()
    leading, counted = int(counts["leading_cells"]), int(counts["driver_cells"].sum())
    return {"n_cells": n_cells, "leading_fraction": leading / counted if counted else float("nan")}
