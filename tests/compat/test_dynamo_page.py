"""The page for users of dynamo: its code runs as it stands there, and its tables name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from compat.dynamo_fits import dynamo_fit

import stabdask as sd
from stabdask.compat import dynamo as dyn
from stabdask.schema import QUANTITIES, VARIABLES

PAGE = Path(__file__).parents[2] / "notebooks" / "from_dynamo.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all blocks as one script beside a small fit, as a reader would."""
    fit = dynamo_fit(1, n_cells=30)
    adata = fit.adata
    named = dict(zip(fit.genes[:3], ["GATA1", "SPI1", "KLF1"], strict=True))
    adata.var_names = [named.get(name, name) for name in adata.var_names]
    adata.obs["cell_type"] = pd.Categorical(np.where(np.arange(30) % 2 == 0, "progenitor", "mature"))
    folder = tmp_path_factory.mktemp("page")
    adata.write_h5ad(folder / "fitted.h5ad")
    ending = """
    table.to_csv("table.csv")
    ranked.to_csv("ranked.csv")
    adata.write_h5ad("after.h5ad")
"""
    script = "\n".join(blocks()) + ending
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (folder / "script.py").write_text(script.replace('memory="4GB"', "workers=0"))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return folder


def test_the_store_has_what_the_table_says(folder: Path) -> None:
    ds = sd.open_results(folder / "out.zarr")
    assert bool(ds.attrs["complete"])
    after = anndata.read_h5ad(folder / "after.h5ad")
    same = {
        "divergence_pca": ds["trace"],
        "jacobian_det_pca": ds["det_sign"] * np.exp(ds["logabsdet"]),
        "acceleration_pca": ds["acceleration_norm"],
        "curvature_pca": ds["curvature_norm"],
    }
    for column, values in same.items():
        np.testing.assert_allclose(after.obs[column], values, rtol=1e-9, err_msg=column)
    np.testing.assert_allclose(after.obsm["acceleration_pca"], ds["acceleration"], rtol=1e-9, atol=1e-12)
    stored = after.uns["jacobian_pca"]
    kept = ds["jacobian"].sel(
        block_effector=list(stored["effectors"]), block_regulator=list(stored["regulators"])
    )
    np.testing.assert_allclose(
        stored["jacobian_gene"],
        kept.transpose("block_effector", "block_regulator", "cell"),
        rtol=1e-5,
        atol=1e-9,
    )


def test_ranks_in_the_store_are_those_of_the_drop_in(folder: Path) -> None:
    after = anndata.read_h5ad(folder / "after.h5ad")
    dyn.vf.jacobian(after, regulators=["GATA1", "SPI1", "KLF1"])
    expected = dyn.vf.rank_jacobian_genes(after, groups="cell_type", mode="int", return_df=True)
    found = pd.read_csv(folder / "ranked.csv")
    assert (found["effector"] + " - " + found["regulator"]).tolist() == expected["progenitor"].tolist()
    np.testing.assert_allclose(found["value"], expected["progenitor_values"], rtol=1e-5)


def test_the_table_of_elements(folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv", index_col=0)
    assert table.columns.tolist() == ["GATA1->SPI1_jacobian"]
    assert len(table) == 30


def test_the_tables_name_what_exists() -> None:
    text = PAGE.read_text()
    assert len(blocks()) == 2
    assert set(re.findall(r"`vf\.(\w+)`", text)) == set(dyn.vf.__all__)
    for name in re.findall(r'ds\["(\w+)"\]', text):
        assert name in VARIABLES
    for name in re.findall(r"quantity `(\w+)`", text):
        assert name == "determinant" or name in QUANTITIES
    for name in re.findall(r"sd\.(\w+)", text):
        assert name in sd.__all__


def test_the_page_is_found() -> None:
    assert "(from_dynamo.md)" in (PAGE.parent / "README.md").read_text()
