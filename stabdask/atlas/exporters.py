"""Results back into an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError
from stabdask.schema import SCALARS, VARIABLES, Status

if TYPE_CHECKING:
    import xarray as xr
    from anndata import AnnData

__all__ = ["to_anndata"]


def to_anndata(
    ds: xr.Dataset, adata: AnnData, *, prefix: str = "stability_", eigenvalues: bool = False
) -> AnnData:
    """Write results into an AnnData, matched by cell name.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    adata
        Changed in place. It may hold other cells, or the same in another order; cells without results get NaN
        (status 255, counts as NaN).
    prefix
        Put before every key.
    eigenvalues
        Whether to add the eigenvalues of the cores too, ``obsm[prefix + "eigenvalue"]``, complex.

    Returns
    -------
    AnnData
        `adata`, with ``obs[prefix + name]`` for every scalar and for ``status``,
        ``obs[prefix + "element_<effector>:<regulator>"]`` for every pair, and ``uns[prefix + "run"]`` saying how
        they were made.

    Raises
    ------
    InputError
        If cell names repeat, so that matching is ambiguous.
    MissingKeyError
        If no cell of `adata` has a result, or `ds` has no eigenvalues to add.
    """
    source = _positions(ds, adata)
    found = source >= 0
    if not found.any():
        raise MissingKeyError("none of the AnnData's cells has a result: the cell names are all different")

    # All at once: the tasks of a lazy Dataset compute every variable together.
    shown = [name for name in (*SCALARS, "status", "element") if name in ds]
    if eigenvalues:
        if "eigenvalue" not in ds:
            raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full' or 'leading'")
        shown.append("eigenvalue")
    ds = ds[shown].compute()

    def spread(values: npt.NDArray[np.generic], missing: float) -> npt.NDArray[np.generic]:
        dtype = np.result_type(values.dtype, np.min_scalar_type(missing))
        out = np.full((adata.n_obs, *values.shape[1:]), missing, dtype=dtype)
        out[found] = values[source[found]]
        return out

    for name in SCALARS:
        if name in ds:
            values = ds[name].to_numpy()
            if VARIABLES[name].kind == "count":
                values = np.where(values < 0, np.nan, values)
                # Counts stay whole numbers where every cell has one.
                column = spread(values.astype(np.float64), np.nan)
                whole = not np.isnan(column).any()
                adata.obs[prefix + name] = column.astype(np.int32) if whole else column
            else:
                adata.obs[prefix + name] = spread(values, np.nan)
    if "status" in ds:
        adata.obs[f"{prefix}status"] = spread(ds["status"].to_numpy(), int(Status.NOT_COMPUTED))
    if "element" in ds:
        elements = ds["element"].to_numpy()
        for number, pair in enumerate(ds["pair"].to_numpy()):
            adata.obs[f"{prefix}element_{pair}"] = spread(elements[:, number], np.nan)
    if eigenvalues:
        adata.obsm[f"{prefix}eigenvalue"] = spread(ds["eigenvalue"].to_numpy(), np.nan)
    run = ds.attrs.get("run", {})
    adata.uns[f"{prefix}run"] = {
        "fingerprint": str(ds.attrs.get("fingerprint", "")),
        "field": str(run.get("field", "")),
        "dtype": str(run.get("options", {}).get("dtype", "")),
        "backend": str(run.get("options", {}).get("backend", "")),
    }
    return adata


def _positions(ds: xr.Dataset, adata: AnnData) -> npt.NDArray[np.intp]:
    """Return, for every cell of `adata`, its position in `ds`, or -1."""
    import pandas as pd

    names = pd.Index(ds["cell"].to_numpy().astype(str))
    wanted = pd.Index(np.asarray(adata.obs_names).astype(str))
    if names.equals(wanted):
        return np.arange(len(wanted))
    if not (names.is_unique and wanted.is_unique):
        raise InputError(
            "cell names repeat and the cells are not the same in the same order, so they cannot be matched; make "
            "obs_names unique before the run"
        )
    return names.get_indexer(wanted)  # type: ignore[no-any-return]
