"""Complete spectra: the eigenvalues of the core together with those of all other genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "blockwise_spectrum",
    "cell_clusters",
    "complete_spectrum",
    "complete_values",
    "cores_are_whole",
    "in_canonical_order",
    "match_spectra",
]


def complete_spectrum(ds: xr.Dataset) -> xr.DataArray:
    """Return all eigenvalues of every Jacobian, lazily.

    The spectrum of a Jacobian is that of its core and -gamma_j for every gene j that is not an active
    regulator; only the core's is stored. Of a field over the axes of an embedding the core is the whole Jacobian.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`, with ``spectrum="full"``.

    Returns
    -------
    xarray.DataArray
        ``(cell, eigenvalue_rank)`` complex, 1/time, in canonical order; NaN for cells without a spectrum.

    Raises
    ------
    MissingKeyError
        If `ds` has no eigenvalues.
    InputError
        If it has only the leading ones.
    """
    import xarray as xr

    check_full(ds)
    if cores_are_whole(ds):
        data = ds["eigenvalue"].data
    else:
        data = blockwise_spectrum(ds, in_canonical_order, n_columns=ds.sizes["gene"])
    return xr.DataArray(
        data,
        dims=("cell", "eigenvalue_rank"),
        coords={name: ds[name] for name in ("cell", "cell_cluster") if name in ds.coords}
        | {"eigenvalue_rank": np.arange(data.shape[1])},
        name="complete_spectrum",
        attrs={"long_name": "complete spectrum", "units": "1/time"},
    )


def blockwise_spectrum(ds: xr.Dataset, function: Any, *, n_columns: int) -> Any:
    """Apply a function of complete spectra, ``(cell, eigenvalue)`` in any order, to blocks of cells.

    Returns a Dask array ``(cell, n_columns)`` of the dtype of the eigenvalues.
    """
    import dask.array as da

    check_full(ds)
    values = da.asarray(ds["eigenvalue"].data).rechunk({1: -1})
    rows = values.chunks[0]
    blocks, tables = [values], {}
    if not cores_are_whole(ds):
        blocks.append(da.asarray(ds["active"].data).rechunk({0: rows, 1: -1}))
        blocks.append(da.from_array(cell_clusters(ds)[0][:, None], chunks=(rows, 1)))
        genes = {str(gene): position for position, gene in enumerate(ds["gene"].to_numpy())}
        index = np.asarray([genes[str(name)] for name in ds["regulator"].to_numpy()], dtype=np.intp)
        tables = {"degradation": ds["degradation"].to_numpy(), "regulator_index": index}
    return da.map_blocks(
        _of_complete,
        *blocks,
        function=function,
        **tables,
        dtype=values.dtype,
        chunks=(rows, (n_columns,)),
        meta=np.empty((0, 0), dtype=values.dtype),
    )


def _of_complete(*blocks: npt.NDArray[Any], function: Any, **tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # A core that is the whole Jacobian has all there is.
    return function(complete_values(*blocks, **tables) if tables else blocks[0])  # type: ignore[no-any-return]


def cores_are_whole(ds: xr.Dataset) -> bool:
    """Return whether no eigenvalue lies outside the cores, as for fields over the axes of an embedding."""
    return bool(ds.attrs.get("run", {}).get("options", {}).get("whole_cores", False))


def check_full(ds: xr.Dataset) -> None:
    """Raise unless `ds` holds the whole spectrum of every core, and what completes it."""
    if "eigenvalue" not in ds:
        raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full'")
    for name in () if cores_are_whole(ds) else ("active", "degradation", "gene", "regulator"):
        if name not in ds.variables:
            raise _incomplete(name)
    cell_clusters(ds)
    run = ds.attrs.get("run", {})
    for dim, known in (("mode", run.get("n_modes")), ("gene", run.get("n_genes"))):
        if known is not None and ds.sizes.get(dim) != known:
            raise InputError(
                f"{dim}s of the results were selected ({ds.sizes.get(dim, 1)} of {known}), so no spectrum is complete; "
                "pass all of them and select afterwards"
            )
    options = run.get("options", {})
    if options.get("spectrum", "full") != "full":
        raise InputError("the results hold only leading eigenvalues; run with spectrum='full'")


def cell_clusters(ds: xr.Dataset) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Return the number of every cell's cluster, -1 for none, and the labels the numbers stand for.

    Raises
    ------
    MissingKeyError
        If `ds` lacks them.
    InputError
        If clusters were selected or reordered, so that the numbers stand for other labels.
    """
    for name in ("cluster_code", "cluster"):
        if name not in ds.variables:
            raise _incomplete(name)
    if "cell" not in ds["cluster_code"].dims:
        raise InputError(
            "one cell of the results was selected and lost its dimension; use e.g. isel(cell=[5])"
        )
    codes, labels = ds["cluster_code"].to_numpy().astype(np.intp), np.atleast_1d(ds["cluster"].to_numpy())
    if "cell_cluster" in ds.variables:
        labelled = codes >= 0
        known = codes[labelled]
        own = ds["cell_cluster"].to_numpy()[labelled]
        if known.max(initial=-1) >= len(labels) or not np.array_equal(labels[known], own):
            raise InputError(
                "the clusters of the results were selected or reordered; select cells instead, e.g. "
                "ds.isel(cell=ds['cell_cluster'] == 'B')"
            )
    return codes, labels


def _incomplete(name: str) -> MissingKeyError:
    return MissingKeyError(
        f"the results hold no {name!r}; pass the whole Dataset from open_results or stability"
    )


def complete_values(
    eigenvalue: npt.NDArray[Any],
    active: npt.NDArray[np.uint8],
    code: npt.NDArray[np.int32],
    *,
    degradation: npt.NDArray[np.float64],
    regulator_index: npt.NDArray[np.intp],
) -> npt.NDArray[Any]:
    """Return all eigenvalues of a block, ``(cell, gene)``, in no particular order; NaN for failed cells."""
    labels = code.reshape(-1)
    out = np.full((len(eigenvalue), degradation.shape[1]), complex(np.nan, np.nan), dtype=eigenvalue.dtype)
    computed = (active != 255).all(axis=1) & (labels >= 0)
    # A solved core has as many eigenvalues as active regulators; any other number is a failed cell.
    core = ~np.isnan(eigenvalue.real)
    own = active == 1
    computed &= own.sum(axis=1) == core.sum(axis=1)
    rows = np.flatnonzero(computed)
    out[rows] = -degradation[labels[rows]]
    # Both masks run row by row and have as many entries in each, so that each core lands in its own cell.
    cell, regulator = np.nonzero(own[rows])
    out[rows[cell], regulator_index[regulator]] = eigenvalue[rows][core[rows]]
    return out


def in_canonical_order(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return complex values of each cell, ``(cell, n)``, in canonical order, NaN last."""
    # NumPy sorts complex numbers by real part, then imaginary part, ascending, NaN last: negated, canonical.
    return -np.sort(-values, axis=1)


def match_spectra(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return the largest distance between two spectra under the matching that makes their total least.

    Parameters
    ----------
    a, b
        ``(n,)`` complex, in any order.
    """
    from scipy.optimize import linear_sum_assignment

    distance = np.abs(np.asarray(a)[:, None] - np.asarray(b)[None, :])
    rows, columns = linear_sum_assignment(distance)
    return float(distance[rows, columns].max(initial=0.0))
