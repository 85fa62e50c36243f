"""Results back into an AnnData: which of them, under what names, for which cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.files import place_of
from stabdask.schema import SCALARS, VARIABLES, Status

if TYPE_CHECKING:
    import xarray as xr
    from anndata import AnnData

_MOST_REPEATED = 0.5
"""Share of the cells up to which names may repeat: all others hold their places."""

__all__ = ["Selection", "match_cells", "run_record", "select_results", "to_anndata"]


@dataclass(frozen=True)
class Selection:
    """What of a Dataset of results is exported, and what it is called.

    Attributes
    ----------
    quantities
        Scalars, in the order of the registry.
    pairs
        Positions of elements in the Dataset, and the name of each.
    status
        Whether there is a status.
    eigenvalues
        Whether eigenvalues of the cores go along.
    prefix
        Put before every name.
    """

    quantities: tuple[str, ...]
    pairs: tuple[tuple[int, str], ...]
    status: bool
    eigenvalues: bool
    prefix: str

    @property
    def columns(self) -> list[str]:
        """Names of the columns of obs."""
        names = [*self.quantities, *(["status"] if self.status else []), *(name for _, name in self.pairs)]
        return [f"{self.prefix}{name}" for name in names]

    @property
    def arrays(self) -> list[str]:
        """Keys of obsm."""
        return [f"{self.prefix}eigenvalue"] if self.eigenvalues else []

    @property
    def record(self) -> str:
        """The key of uns that says how the results were made."""
        return f"{self.prefix}run"

    def compute(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the variables needed, computed at once: tasks of a lazy Dataset compute all of them together."""
        shown = [*self.quantities]
        shown += [name for name, wanted in (("status", self.status), ("element", bool(self.pairs))) if wanted]
        return ds[[*shown, *(["eigenvalue"] if self.eigenvalues else [])]].compute()

    def column_values(self, ds: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of computed results, ``(cell,)`` each; counts not computed are NaN."""
        out: dict[str, npt.NDArray[Any]] = {}
        for name in self.quantities:
            values = ds[name].to_numpy()
            if VARIABLES[name].kind == "count":
                values = np.where(values < 0, np.nan, values)
            out[f"{self.prefix}{name}"] = values
        if self.status:
            out[f"{self.prefix}status"] = ds["status"].to_numpy()
        if self.pairs:
            elements = ds["element"].to_numpy()
            out |= {f"{self.prefix}{name}": elements[:, number] for number, name in self.pairs}
        return out

    def is_count(self, column: str) -> bool:
        """Return whether a column holds counts."""
        name = column.removeprefix(self.prefix)
        return name in self.quantities and VARIABLES[name].kind == "count"


def select_results(
    ds: xr.Dataset,
    *,
    prefix: str = "",
    quantities: Sequence[str] | None = None,
    elements: Sequence[tuple[str, str]] | None = None,
    eigenvalues: bool = False,
) -> Selection:
    """Choose what to export.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    prefix
        Put before every name.
    quantities
        Scalars; all there are if not given.
    elements
        Pairs (effector, regulator); all there are if not given.
    eigenvalues
        Whether the eigenvalues of the cores go along.

    Returns
    -------
    Selection
        Elements are called ``element_<effector>:<regulator>``, with ``_`` for ``/``, which no key of an AnnData
        file may hold.

    Raises
    ------
    MissingKeyError
        If something asked for is not there.
    InputError
        If two elements would have one name.
    """
    if "cell" not in ds.dims:
        raise InputError(
            "one cell of the results was selected and lost its dimension; use e.g. isel(cell=[5])"
        )
    known = [name for name in SCALARS if name in ds]
    for name in quantities or ():
        if name not in known:
            raise MissingKeyError(
                f"no quantity {name!r} in the results; {near_misses(name, known, noun='quantities')}"
            )
    if eigenvalues and "eigenvalue" not in ds:
        raise MissingKeyError("the results hold no eigenvalues; run with spectrum='full' or 'leading'")
    return Selection(
        quantities=tuple(name for name in known if quantities is None or name in quantities),
        pairs=_pairs(ds, elements),
        status="status" in ds,
        eigenvalues=eigenvalues,
        prefix=prefix,
    )


def _pairs(ds: xr.Dataset, elements: Sequence[tuple[str, str]] | None) -> tuple[tuple[int, str], ...]:
    stored = [str(pair) for pair in ds["pair"].to_numpy()] if "element" in ds else []
    wanted = list(range(len(stored)))
    if elements is not None:
        where: dict[tuple[str, str], int] = {}
        if stored:
            both = (ds[name].to_numpy().tolist() for name in ("effector", "pair_regulator"))
            where = {(str(i), str(j)): number for number, (i, j) in enumerate(zip(*both, strict=True))}
        for pair in elements:
            if tuple(pair) not in where:
                hint = near_misses(":".join(pair), stored, noun="elements")
                raise MissingKeyError(f"no element {':'.join(pair)!r} in the results; {hint}")
        wanted = [where[pair] for pair in dict.fromkeys((i, j) for i, j in elements)]
    names = [f"element_{stored[number]}".replace("/", "_") for number in wanted]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two elements would both be called {twice!r}; choose one of them with elements")
    return tuple(zip(wanted, names, strict=True))


def run_record(ds: xr.Dataset, chosen: Selection, *, store: str | Path | None = None) -> dict[str, str]:
    """Return how results were made, as a flat dictionary of strings, which every AnnData format can hold.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    chosen
        What is exported.
    store
        Where spectra, vectors and everything else of the run lie; where `ds` was opened from if not given.

    Returns
    -------
    dict
        ``fingerprint`` of run and ``field``, ``dtype``, ``backend``, ``store`` (absolute path or empty), and as
        JSON ``options``, ``versions`` and ``keys`` (what was exported, by ``obs`` and ``obsm``).
    """
    run = ds.attrs.get("run", {})
    options = run.get("options", {})
    place = store or ds.encoding.get("source", "")
    return {
        "fingerprint": str(ds.attrs.get("fingerprint", "")),
        "field": str(run.get("field", "")),
        "dtype": str(options.get("dtype", "")),
        "backend": str(options.get("backend", "")),
        "store": str(place_of(place).absolute()) if place else "",
        "options": json.dumps(options, sort_keys=True),
        "versions": json.dumps(ds.attrs.get("versions", {}), sort_keys=True),
        "keys": json.dumps({"obs": chosen.columns, "obsm": chosen.arrays}),
    }


def to_anndata(
    ds: xr.Dataset,
    adata: AnnData,
    *,
    prefix: str = "stability_",
    eigenvalues: bool = False,
    quantities: Sequence[str] | None = None,
    elements: Sequence[tuple[str, str]] | None = None,
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
    quantities
        Scalars to write; all there are if not given.
    elements
        Pairs (effector, regulator) to write; all there are if not given.

    Returns
    -------
    AnnData
        `adata`, with ``obs[prefix + name]`` for every scalar and for ``status``,
        ``obs[prefix + "element_<effector>:<regulator>"]`` for every pair (``_`` for a slash in a name), and
        ``uns[prefix + "run"]`` saying how they were made and where the store with the rest is.

    Raises
    ------
    InputError
        If cell names repeat, so that matching is ambiguous.
    MissingKeyError
        If no cell of `adata` has a result, or `ds` lacks what was asked for.

    See Also
    --------
    stabdask.atlas.export_files.export_atlas : the same into a file, without reading its expression.
    """
    chosen = select_results(
        ds, prefix=prefix, quantities=quantities, elements=elements, eigenvalues=eigenvalues
    )
    source = match_cells(ds, np.asarray(adata.obs_names))
    record = run_record(ds, chosen)
    ds = chosen.compute(ds)
    for name, values in chosen.column_values(ds).items():
        adata.obs[name] = spread_column(values, source, is_count=chosen.is_count(name))
    for name in chosen.arrays:
        adata.obsm[name] = spread(ds["eigenvalue"].to_numpy(), source, np.nan)
    adata.uns[chosen.record] = record
    return adata


def spread_column(
    values: npt.NDArray[Any], source: npt.NDArray[np.intp], *, is_count: bool
) -> npt.NDArray[Any]:
    """Return the values of the cells at `source` of the results, with what stands for "none" where that is -1."""
    if values.dtype == np.uint8:
        return spread(values, source, int(Status.NOT_COMPUTED))
    column = spread(values, source, np.nan)
    # Counts stay whole numbers where every cell has one.
    return column.astype(np.int32) if is_count and not np.isnan(column).any() else column


def spread(values: npt.NDArray[Any], source: npt.NDArray[np.intp], missing: float) -> npt.NDArray[Any]:
    """Return rows `source` of `values`, filled with `missing` where that is -1."""
    found = source >= 0
    dtype = np.result_type(values.dtype, np.min_scalar_type(missing))
    out = np.full((len(source), *values.shape[1:]), missing, dtype=dtype)
    out[found] = values[source[found]]
    return out


def match_cells(ds: xr.Dataset, names: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return, for every cell called by `names`, its position in `ds`, or -1.

    Raises
    ------
    InputError
        If names repeat, unless all names are the same in the same order and most of them are of one cell only: names
        that repeat say nothing of the order of the cells that share them.
    MissingKeyError
        If no cell has a result.
    """
    import pandas as pd

    known = pd.Index(ds["cell"].to_numpy().astype(str))
    wanted = pd.Index(np.asarray(names).astype(str))
    n_repeated = int(known.duplicated(keep=False).sum())
    if known.equals(wanted) and n_repeated <= _MOST_REPEATED * len(known):
        return np.arange(len(wanted))
    if not (known.is_unique and wanted.is_unique):
        repeated = (known if n_repeated else wanted).duplicated()
        name = str((known if n_repeated else wanted)[repeated][0])
        raise InputError(
            f"cell names repeat ({name!r}, say) and do not tell in which order cells are, so they cannot be matched; "
            "make obs_names unique before the run (adata.obs_names_make_unique()), or take results in the order of the "
            "run: ds['speed'].values, or a table (stabdask export STORE -o cells.csv)"
        )
    source: npt.NDArray[np.intp] = known.get_indexer(wanted)
    if not (source >= 0).any():
        raise MissingKeyError("none of the AnnData's cells has a result: the cell names are all different")
    return source
