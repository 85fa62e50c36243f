"""Which regulators act most on which effectors: ranked tables per cluster, from means of the Jacobian."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["MODES", "rank_elements"]

MODES = ("full reg", "full eff", "reg", "eff", "int", "switch")
"""How elements may be ranked."""

Mode = Literal["full reg", "full eff", "reg", "eff", "int", "switch"]


def rank_elements(
    ds: xr.Dataset,
    cluster: str,
    *,
    mode: Mode = "full reg",
    absolute: bool = False,
    exclude_diagonal: bool = False,
    top: int | None = None,
) -> pd.DataFrame:
    """Rank regulators, effectors or pairs of a cluster by its mean Jacobian, in the modes that dynamo has.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`, with effectors, regulators and quantity
        ``"jacobian_mean"``.
    cluster
        Label of the cluster.
    mode
        ``"full reg"``: for each effector its regulators; ``"full eff"``: for each regulator its effectors; ``"reg"``:
        regulators by the mean over all effectors; ``"eff"``: effectors by the mean over all regulators; ``"int"``:
        pairs of effector and regulator; ``"switch"``: pairs of genes that inhibit each other, by the mean over cells of
        ``J_ij J_ji`` where both are negative, else 0.
    absolute
        Rank by means of absolute values: |J| of each cell, then the mean, so that cells of opposite sign do not cancel.
    exclude_diagonal
        Leave out what a gene does to itself.
    top
        How many rows (of each gene, in the full modes); all if not given.

    Returns
    -------
    pandas.DataFrame
        Columns ``effector``, ``regulator`` (as far as the mode has them) and ``value`` (1/time; 1/time^2 for
        ``"switch"``), by descending value; in the full modes one gene after the other, in the order of the run. Equal
        values keep that order. ``attrs``: ``cluster``, ``mode``, ``absolute`` and ``n_cells``.

    Raises
    ------
    MissingKeyError
        If `ds` lacks the means, or there is no such cluster.
    UsageError
        If there is no such mode, `top` is less than 1, or no gene is both effector and regulator.
    InputError
        If cells were selected: the means are over all cells of the run.

    References
    ----------
    Qiu et al. (2022). Mapping transcriptomic vector fields of single cells. Cell 185:690-711.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0)
    >>> adata = anndata.AnnData(np.array([[1.625, 1.625], [1.5, 1.7]]))
    >>> adata.var_names = ["A", "B"]
    >>> ds = sd.stability(sd.open_cells(adata), field, effectors=["A", "B"], regulators=["A", "B"],
    ...                   quantities=["jacobian_mean"])
    >>> sd.rank_elements(ds, "all", mode="int", top=2).round(2)
      effector regulator  value
    0        A         B  -0.99
    1        B         A  -1.27
    """
    import pandas as pd

    if mode not in MODES:
        raise UsageError(f"mode={mode!r}; expected one of {', '.join(map(repr, MODES))}")
    if mode == "switch" and absolute:
        raise UsageError(
            "mode='switch' is of negative elements, of which absolute=True leaves none; leave it out"
        )
    if top is not None and top < 1:
        raise UsageError(f"top={top}; expected at least 1, or None for all")
    values, n_cells = _means(ds, str(cluster), mode, absolute)
    effectors, regulators = (ds[f"block_{kind}"].to_numpy().astype(str) for kind in ("effector", "regulator"))
    same = effectors[:, None] == regulators
    if mode == "switch":
        # Products of mutual elements are the same both ways: each pair once.
        place = {str(gene): number for number, gene in enumerate(regulators)}
        own = np.asarray([place.get(str(gene), -1) for gene in effectors])
        kept = ~np.isnan(values) & (own[:, None] < np.arange(len(regulators)))
    else:
        kept = ~same if exclude_diagonal else np.ones(values.shape, dtype=bool)
    if mode in ("reg", "eff"):
        axis = 0 if mode == "reg" else 1
        counts = kept.sum(axis=axis)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(kept, values, 0.0).sum(axis=axis) / counts
        names = regulators if mode == "reg" else effectors
        found = pd.DataFrame({"regulator" if mode == "reg" else "effector": names, "value": means})
        found = found[counts > 0]
    else:
        rows, columns = np.nonzero(kept)
        if mode == "full eff":
            order = np.argsort(columns, kind="stable")
            rows, columns = rows[order], columns[order]
        found = pd.DataFrame(
            {"effector": effectors[rows], "regulator": regulators[columns], "value": values[rows, columns]}
        )
    table = _sorted(found, mode, top)
    table.attrs |= {"cluster": str(cluster), "mode": mode, "absolute": absolute, "n_cells": n_cells}
    return table


def _sorted(table: pd.DataFrame, mode: str, top: int | None) -> pd.DataFrame:
    if mode not in ("full reg", "full eff"):
        table = table.sort_values("value", ascending=False, kind="stable")
        return table.head(len(table) if top is None else top).reset_index(drop=True)
    gene = "effector" if mode == "full reg" else "regulator"
    groups = table.groupby(gene, sort=False, group_keys=False)
    order = table.assign(_group=groups.ngroup()).sort_values(
        ["_group", "value"], ascending=[True, False], kind="stable"
    )
    ranked = order.drop(columns="_group")
    if top is not None:
        ranked = ranked.groupby(gene, sort=False).head(top)
    return ranked.reset_index(drop=True)


def _means(ds: xr.Dataset, cluster: str, mode: str, absolute: bool) -> tuple[npt.NDArray[np.float64], int]:
    """Return the means to rank, ``(effector, regulator)``, and of how many cells they are."""
    name = "switch_mean" if mode == "switch" else "jacobian_abs_mean" if absolute else "jacobian_mean"
    if "jacobian_cells" not in ds:
        raise MissingKeyError(
            "the results hold no means of the Jacobian; run with effectors=, regulators= and quantities="
            "['default', 'jacobian_mean'] (--effectors, --regulators, --quantities default,jacobian_mean)"
        )
    if name not in ds:
        raise UsageError("no gene is both effector and regulator; mode 'switch' needs genes that are both")
    n_cells = ds.attrs.get("run", {}).get("n_cells")
    if "cell" in ds.dims and n_cells is not None and ds.sizes["cell"] != n_cells:
        raise InputError(
            f"cells of the results were selected ({ds.sizes['cell']:,} of {n_cells:,}), and means are over all cells "
            "of a cluster; pass the whole Dataset, or run on the cells selected"
        )
    if "cluster" not in ds.dims:
        raise InputError(
            "one cluster of the results was selected without its dimension; use e.g. isel(cluster=[0]), or pass the "
            "whole Dataset and name the cluster"
        )
    labels = [str(label) for label in ds["cluster"].to_numpy()]
    if cluster not in labels:
        raise MissingKeyError(f"no cluster {cluster!r}; {near_misses(cluster, labels, noun='clusters')}")
    one = ds[[name, "jacobian_cells"]].isel(cluster=labels.index(cluster)).compute()
    values = one[name].transpose("block_effector", "block_regulator").to_numpy().astype(np.float64)
    return values, int(one["jacobian_cells"])
