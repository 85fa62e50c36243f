"""Results as tables, compared with the Dataset and with pandas, and read back from disk."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from random_atlas import random_atlas

import stabdask as sd
from stabdask.atlas import export_tables
from stabdask.atlas.export_tables import cell_table, summary_rows, write_table
from stabdask.errors import (
    BackendUnavailableError,
    InputError,
    MissingKeyError,
    OutputError,
    StoreMismatchError,
    UsageError,
)
from stabdask.schema import SCALARS, VARIABLES

PAIRS = [("gene1", "gene0"), ("gene4", "gene4")]
ODD = ["../x", 'quo"ted', "comma, line\nbreak", "☃", "a/b"]


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    atlas = random_atlas(5, n_cells=20, unlabelled=[2], broken=[4])
    adata = atlas.adata()
    adata.obs["odd"] = pd.Categorical(np.resize([*ODD, None], 20), categories=ODD[::-1])
    adata.obs["age"] = np.arange(20) / 3
    adata.obsm["X_umap"] = np.zeros((20, 2))
    cells = sd.open_cells(adata, cluster_key="kind", obs_keys=["odd", "age"], embeddings=["X_umap"])
    return sd.stability(cells, atlas.field, elements=PAIRS).compute()


def test_one_row_per_cell(ds: xr.Dataset) -> None:
    table = cell_table(ds)
    scalars = [name for name in SCALARS if name in ds]
    names = ["element_gene1:gene0", "element_gene4:gene4"]
    assert table.columns.tolist() == ["cell", "cluster", "age", "odd", *scalars, "status", *names]
    assert table["cell"].tolist() == ds["cell"].values.tolist()
    assert table["cluster"].cat.categories.tolist() == ds["cluster"].values.tolist()
    assert pd.isna(table["cluster"]).tolist() == [cell == 2 for cell in range(20)]
    assert table["odd"].cat.categories.tolist() == ODD[::-1]
    assert table["odd"].astype(object).where(table["odd"].notna(), "none").tolist() == [
        label if isinstance(label, str) else "none" for label in ds["odd"].values
    ]
    for name in scalars:
        values = ds[name].values
        if VARIABLES[name].kind == "count":
            assert table[name].dtype == "Int32"
            assert table[name].isna().tolist() == (values < 0).tolist()
            assert table[name].dropna().tolist() == values[values >= 0].tolist()
        else:
            np.testing.assert_array_equal(table[name], values)
    np.testing.assert_array_equal(table["status"], ds["status"].values)
    for number, name in enumerate(names):
        np.testing.assert_array_equal(table[name], ds["element"].values[:, number])


def test_chosen_columns(ds: xr.Dataset) -> None:
    table = cell_table(ds, quantities=["speed"], elements=[], prefix="s_")
    assert table.columns.tolist() == ["cell", "cluster", "age", "odd", "s_speed", "s_status"]
    with pytest.raises(MissingKeyError, match="no quantity 'sped'"):
        cell_table(ds, quantities=["sped"])
    clash = ds.rename({"age": "s_speed"})
    with pytest.raises(InputError, match="two columns would be called 's_speed'; choose another prefix"):
        cell_table(clash, prefix="s_")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_reads_back(ds: xr.Dataset, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cells{suffix}"
    table = cell_table(ds)
    write_table(table, path)
    back = pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])
    assert back.columns.tolist() == table.columns.tolist()
    for name in table:
        expected = table[name]
        if isinstance(expected.dtype, pd.CategoricalDtype):
            expected = expected.astype(object)
        np.testing.assert_array_equal(back[name].isna(), expected.isna())
        assert back[name].dropna().tolist() == expected.dropna().tolist(), name
    again = tmp_path / f"again{suffix}"
    write_table(table, again)
    assert again.read_bytes() == path.read_bytes()


def test_parquet_reads_back(ds: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "cells.parquet"
    table = cell_table(ds)
    write_table(table, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)


def test_parquet_without_pyarrow(ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        export_tables.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    with pytest.raises(BackendUnavailableError, match=r"needs pyarrow.*pip install 'stabdask\[parquet\]'"):
        write_table(cell_table(ds), tmp_path / "cells.parquet")
    assert not list(tmp_path.iterdir())


def test_two_labels_are_two_columns(ds: xr.Dataset) -> None:
    summary = sd.summarize(ds, by=["cluster", "odd"])
    rows = summary_rows(summary)
    assert rows.columns[:4].tolist() == ["cluster", "odd", "quantity", "units"]
    speed = rows[rows["quantity"] == "speed"].set_index(["cluster", "odd"])
    assert len(speed) == summary.sizes["cluster"] * summary.sizes["odd"]
    for (cluster, odd), row in speed.iterrows():
        one = summary.sel(cluster=cluster, odd=odd)
        assert row["n_cells"] == int(one["n_cells"])
        np.testing.assert_array_equal(row["median"], one["speed"].sel(statistic="median"))
        np.testing.assert_array_equal(row["unstable_fraction"], one["unstable_fraction"])


@pytest.mark.parametrize("by", ["cluster", "odd"])
def test_one_row_per_group_and_quantity(ds: xr.Dataset, by: str) -> None:
    rows = summary_rows(sd.summarize(ds, by=by))
    cells = cell_table(ds)
    scalars = [name for name in SCALARS if name in ds]
    quantities = [*scalars, "element_gene1:gene0", "element_gene4:gene4"]
    # Categories keep their order.
    groups = ODD[::-1] if by == "odd" else sorted(set(cells[by].dropna()))
    assert rows[by].tolist() == [group for group in groups for _ in quantities]
    assert rows["quantity"].tolist() == quantities * len(groups)
    for _, row in rows.iterrows():
        values = cells.loc[cells[by] == row[by], row["quantity"]].dropna().astype(float)
        found = [row[name] for name in ("count", "mean", "std", "min", "median", "max")]
        expected = [len(values), *(getattr(values, name)() for name in ("mean",)), values.std(ddof=0)]
        expected += [values.min(), values.median(), values.max()]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert row["n_cells"] == (cells[by] == row[by]).sum()
        assert row["n_failed"] == ((cells[by] == row[by]) & cells["status"].isin([1, 2, 3, 4])).sum()
        name = "element" if row["quantity"].startswith("element_") else row["quantity"]
        assert row["units"] == VARIABLES[name].units


def test_a_summary_of_nothing() -> None:
    atlas = random_atlas(5, n_cells=4)
    plain = sd.stability(atlas.cells(), atlas.field, quantities=["trace"], spectrum="none").compute()
    rows = summary_rows(sd.summarize(plain.drop_vars("trace")))
    assert rows.empty
    assert rows.columns.tolist()[:3] == ["cluster", "quantity", "units"]


def test_paths_that_are_refused(ds: xr.Dataset, tmp_path: Path) -> None:
    table = cell_table(ds, quantities=["speed"])
    (tmp_path / "folder.csv").mkdir()
    write_table(table, tmp_path / "there.csv")
    before = hashlib.sha256((tmp_path / "there.csv").read_bytes()).hexdigest()
    for name, error, message in (
        ("cells.xlsx", UsageError, r"is no table; expected a name that ends in .csv, .csv.gz, .parquet"),
        ("cells", UsageError, "is no table"),
        ("folder.csv", StoreMismatchError, "is a folder"),
        ("there.csv", StoreMismatchError, "exists; remove it, choose another path, or ask to overwrite"),
        ("there.csv/cells.csv", OutputError, "cannot write"),
    ):
        with pytest.raises(error, match=message):
            write_table(table, tmp_path / name)
    assert hashlib.sha256((tmp_path / "there.csv").read_bytes()).hexdigest() == before
    write_table(table[:3], tmp_path / "there.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "there.csv")) == 3


def test_a_table_appears_whole_or_not_at_all(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("what was there")

    def cut_short(table: pd.DataFrame, target: Path, **_: Any) -> None:
        Path(target).write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", cut_short)
    with pytest.raises(OutputError, match="No space left on device"):
        write_table(cell_table(ds), path, overwrite=True)
    assert path.read_text() == "what was there"
    assert [item.name for item in tmp_path.iterdir()] == ["cells.csv"]


def test_one_cell() -> None:
    atlas = random_atlas(5, n_cells=1)
    one = sd.stability(atlas.cells(), atlas.field).compute()
    assert len(cell_table(one)) == 1
    rows = summary_rows(sd.summarize(one))
    assert set(rows["count"]) == {1}
    assert rows["mean"].tolist() == rows["max"].tolist()
