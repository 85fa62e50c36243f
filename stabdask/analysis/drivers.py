"""Which genes a mode belongs to, and which edges move it: ranked tables per cluster."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stabdask.analysis.spectra import cell_clusters
from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["driver_edges", "driver_genes"]


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
        ``attrs``: ``cluster``, ``n_cells`` and ``leading_fraction``, as `driver_genes`.

    Raises
    ------
    MissingKeyError
        If `ds` lacks the means, or there is no such cluster.
    UsageError
        If `by` is neither of the two, or `top` is less than 1.

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
    number = _cluster_number(ds, cluster, "sensitivity_mean")
    names = ["sensitivity_mean", "sensitivity_std", "weight"]
    one = ds[names].isel(cluster=number).compute()
    mean, std, weight = (one[name].to_numpy() for name in names)
    rows, columns = (
        np.nonzero((weight != 0) & ~np.isnan(weight)) if existing else np.indices(mean.shape).reshape(2, -1)
    )
    regulators = ds["regulator"].to_numpy().astype(str)
    table = pd.DataFrame(
        {
            "regulator": regulators[columns],
            "effector": regulators[rows],
            "sensitivity": mean[rows, columns],
            "std": std[rows, columns],
            "weight": weight[rows, columns],
            "contribution": weight[rows, columns] * mean[rows, columns],
        }
    )
    table = _ranked(table, by, top)
    cells = ds["driver_cells"].isel(cluster=number, vector_mode=slice(1))
    table.attrs |= {"cluster": cluster}
    table.attrs |= _cells(ds, number, int(cells.sum()))
    return table


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
    if top is not None and top < 1:
        raise UsageError(f"top={top}; expected at least 1, or None for all")
    order = table[by].abs().sort_values(ascending=False, kind="stable", na_position="last").index
    return table.loc[order[:top]].reset_index(drop=True)


def _cells(ds: xr.Dataset, number: int, n_cells: int) -> dict[Hashable, Any]:
    """Return of how many cells the means are, and in what fraction of them the core's leading mode leads."""
    counts = ds[["leading_cells", "driver_cells"]].isel(cluster=number, vector_mode=slice(1)).compute()
    leading, counted = int(counts["leading_cells"]), int(counts["driver_cells"].sum())
    return {"n_cells": n_cells, "leading_fraction": leading / counted if counted else float("nan")}
