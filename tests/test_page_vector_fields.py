"""The page on vector fields: its code runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.schema import QUANTITIES

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "vector_fields.md"


def test_the_code_runs(tmp_path: Path) -> None:
    case = small_rkhs(0, n_cells=60, n_genes=10)
    adata = anndata.AnnData(
        np.zeros((60, 10)), obs=case.adata().obs, var=pd.DataFrame(index=case.genes), obsm={"X_pca": case.x}
    )
    adata.obs["group"] = np.resize(["A", "B"], 60)
    adata.obsm["X_umap"] = case.x[:, :2]
    adata.uns["PCs"] = case.lift
    adata.var["use_for_pca"] = True
    adata.uns["VecFld_pca"] = {
        "X": case.x, "X_ctrl": case.centers, "C": case.coefficients, "beta": case.beta, "method": "SparseVFC"
    }  # fmt: skip
    adata.write_h5ad(tmp_path / "atlas.h5ad")
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (tmp_path / "script.py").write_text(script.replace('memory="4GB"', "workers=0, progress=False"))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "RKHSField(4 axes of 'pca', 15 control points, lifted to 10 genes)" in done.stdout
    assert "('cell', 'gene')" in done.stdout
    ds = sd.open_results(tmp_path / "stability.zarr")
    assert ds["jacobian"].shape == (60, 6, 4)


def test_quantities_on_the_page_exist() -> None:
    rows = re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.MULTILINE)
    assert set(rows) == {"jacobian", "jacobian_mean", "response", "dynamo_sensitivity"}
    assert set(rows) <= set(QUANTITIES)
    assert "(vector_fields.md)" in (PAGE.parent / "README.md").read_text()
