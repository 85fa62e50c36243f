"""The page for users of scHopfield: its code runs as it stands there, and its tables name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compat.fits import fit

import stabdask as sd
from stabdask.compat import schopfield as sch

PAGE = Path(__file__).parents[2] / "notebooks" / "from_schopfield.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all blocks as one script beside a small fit, as a reader would."""
    made = fit(1, n_cells=20, n_unused=0)
    made.adata.var_names = ["GATA1", "GATA2", *made.adata.var_names[2:]]
    folder = tmp_path_factory.mktemp("page")
    made.adata.write_h5ad(folder / "fitted.h5ad")
    ending = """
    import numpy as np
    np.save("eig1.npy", adata.obs["jacobian_eig1_real"])
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


def test_the_code_gives_what_the_tables_say(folder: Path) -> None:
    assert len(blocks()) == 4
    ds = sd.open_results(folder / "out.zarr")
    assert bool(ds.attrs["complete"])
    np.testing.assert_allclose(ds["spectral_abscissa"], np.load(folder / "eig1.npy"), rtol=1e-5, atol=1e-5)
    import anndata

    after = anndata.read_h5ad(folder / "after.h5ad")
    same = {
        "jacobian_leading_real": ds["spectral_abscissa"],
        "jacobian_positive_evals": ds["unstable_count"],
        "jacobian_negative_evals": ds["stable_count"],
        "jacobian_trace": ds["trace"],
        "jacobian_rotational": ds["rotational_norm"],
        "jacobian_df_GATA1_dx_GATA2": ds["element"].sel(pair="GATA1:GATA2"),
    }
    for column, values in same.items():
        np.testing.assert_allclose(after.obs[column], values, rtol=1e-4, atol=1e-5, err_msg=column)
    assert sd.complete_spectrum(ds).shape == after.obsm["jacobian_eigenvalues"].shape


def test_the_table_lists_every_function() -> None:
    for namespace, module in (("tl", sch.tl), ("pl", sch.pl)):
        assert set(re.findall(rf"`{namespace}\.(\w+)`", PAGE.read_text())) == set(module.__all__)


def test_the_page_is_found() -> None:
    assert "(from_schopfield.md)" in (PAGE.parent / "README.md").read_text()
