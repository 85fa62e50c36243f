"""Results as tables: one row per cell, or one per group and quantity; as CSV or Parquet."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.aggregate import PER_GROUP
from stabdask.atlas.exporters import select_results
from stabdask.errors import OVERWRITE, BackendUnavailableError, InputError, StoreMismatchError, UsageError
from stabdask.files import new_file, require_folder

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["TABLE_SUFFIXES", "cell_table", "check_table_path", "summary_rows", "table_format", "write_table"]

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def cell_table(
    ds: xr.Dataset,
    *,
    prefix: str = "",
    quantities: Sequence[str] | None = None,
    elements: Sequence[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Return results as a table with one row per cell.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    prefix
        Put before the names of results.
    quantities
        Scalars; all there are if not given.
    elements
        Pairs (effector, regulator); all there are if not given.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``cluster``, labels and numbers brought along from the atlas, the scalars (counts as nullable
        integers), ``status``, and ``element_<effector>:<regulator>``. Labels are categorical, in their order.

    Raises
    ------
    MissingKeyError
        If something asked for is not there.
    InputError
        If two columns would have one name.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(["A"], W=[[4.0]], gamma=1.0, threshold=1.0, exponent=2.0)
    >>> adata = anndata.AnnData(np.array([[1.0], [0.5]]))
    >>> adata.var_names = ["A"]
    >>> table = cell_table(sd.stability(sd.open_cells(adata), field), quantities=["trace", "stable_count"])
    >>> table.columns.tolist(), table["trace"].round(2).tolist()
    (['cell', 'cluster', 'stable_count', 'trace', 'status'], [1.0, 1.56])
    """
    import pandas as pd

    chosen = select_results(ds, prefix=prefix, quantities=quantities, elements=elements)
    columns: dict[str, Any] = {
        "cell": ds["cell"].to_numpy(),
        "cluster": pd.Categorical(ds["cell_cluster"].to_numpy(), categories=ds["cluster"].to_numpy()),
    }
    for name in (str(name) for name in ds.coords):
        kind, values = ds[name].attrs.get("annotation"), ds[name].to_numpy()
        if kind == "label":
            columns[name] = pd.Categorical(values, categories=ds[name].attrs["labels"])
        elif kind == "number":
            columns[name] = values
    twice = [name for name in chosen.columns if name in columns]
    if twice:
        raise InputError(f"two columns would be called {twice[0]!r}; choose another prefix")
    for name, values in chosen.column_values(chosen.compute(ds)).items():
        columns[name] = pd.array(values, dtype="Int32") if chosen.is_count(name) else values
    return pd.DataFrame(columns)


def summary_rows(summary: xr.Dataset) -> pd.DataFrame:
    """Return a summary as a tidy table with one row per group and quantity.

    Parameters
    ----------
    summary
        From `stabdask.summarize`.

    Returns
    -------
    pandas.DataFrame
        The group (a column for each of its labels), ``quantity`` (elements as ``element_<effector>:<regulator>``),
        ``units``, one column per statistic, and of the group ``n_cells``, ``n_computed``, ``n_failed``,
        ``failed_fraction`` and ``unstable_fraction``.
    """
    import pandas as pd

    by = [str(name) for name in summary["n_cells"].dims]
    index = pd.MultiIndex.from_product([summary[name].to_numpy() for name in by], names=by)
    groups = index.to_frame(index=False)
    statistics = [str(name) for name in summary["statistic"].to_numpy()]
    shared = [name for name in PER_GROUP if name in summary]
    for name in shared:
        groups[name] = summary[name].transpose(*by).to_numpy().reshape(-1)
    frames = []
    for name in (str(name) for name in summary.data_vars if "statistic" in summary[name].dims):
        for label, array in _parts(summary[name], name):
            values = array.transpose(*by, "statistic").to_numpy().reshape(len(groups), -1)
            columns = dict(zip(statistics, values.T, strict=True))
            units = array.attrs.get("units", "")
            frames.append(groups[by].assign(quantity=label, units=units, **columns).join(groups[shared]))
    if not frames:
        return pd.DataFrame(columns=[*by, "quantity", "units", *statistics, *shared])
    table = pd.concat(frames, ignore_index=True)
    if "count" in table:
        table["count"] = table["count"].astype(np.int64)
    # Groups together, in their order, quantities in theirs.
    order = np.argsort(np.tile(np.arange(len(groups)), len(frames)), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _parts(array: xr.DataArray, name: str) -> list[tuple[str, xr.DataArray]]:
    """Return name and statistics per group of everything in one variable of a summary."""
    if "pair" not in array.dims:
        return [(name, array)]
    labels = [str(pair).replace("/", "_") for pair in array["pair"].to_numpy()]
    return [(f"{name}_{label}", array.isel(pair=number)) for number, label in enumerate(labels)]


def table_format(path: str | Path) -> str | None:
    """Return ``csv`` or ``parquet`` by the suffix of a path, None for any other.

    Examples
    --------
    >>> table_format("cells.csv.gz"), table_format("cells.parquet"), table_format("cells.h5ad")
    ('csv', 'parquet', None)
    """
    name = Path(path).name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return "csv"
    return "parquet" if name.endswith(".parquet") else None


def check_table_path(path: Path, *, overwrite: bool) -> None:
    """Make sure that a table can be written to `path`, before anything is computed.

    Raises
    ------
    UsageError
        If its suffix is that of no table.
    BackendUnavailableError
        If it is Parquet, and pyarrow is not installed.
    StoreMismatchError
        If it exists and `overwrite` is false, or is a folder.
    """
    if table_format(path) is None:
        raise UsageError(f"{path} is no table; expected a name that ends in {', '.join(TABLE_SUFFIXES)}")
    if table_format(path) == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BackendUnavailableError(
            f"{path} is to be Parquet, which needs pyarrow, and it is not installed; pip install 'stabdask[parquet]', "
            "or write .csv.gz"
        )
    require_folder(path)
    if path.is_dir():
        raise StoreMismatchError(f"{path} is a folder; choose another path")
    if path.exists() and not overwrite:
        raise StoreMismatchError(f"{path} exists; remove it, choose another path, or {OVERWRITE}")


def write_table(table: pd.DataFrame, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a table as CSV (``.csv``, ``.csv.gz``) or Parquet (``.parquet``); it appears whole or not at all.

    CSV has an empty field where a value is missing, and so cannot tell a missing label from an empty one; numbers
    have as many digits as it takes to read the same ones back.

    Raises
    ------
    UsageError, BackendUnavailableError, StoreMismatchError
        As `check_table_path`.
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    check_table_path(path, overwrite=overwrite)
    with new_file(path) as temporary:
        if table_format(path) == "parquet":
            table.to_parquet(temporary, index=False)
            return
        if not path.name.lower().endswith(".gz"):
            table.to_csv(temporary, index=False, lineterminator="\n", compression=None)
            return
        # Neither time nor name in the file: the same table gives the same bytes.
        with temporary.open("wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
            table.to_csv(packed, index=False, lineterminator="\n", compression=None)
