"""Make the helpers beside this file importable and hypothesis repeatable."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
# Processes that tests start import the package installed, as the tests do, not the sources in the current folder, which
# lack what was compiled.
os.environ["PYTHONSAFEPATH"] = "1"

from small_atlas import Small, make_small

import stabdask as sd
from stabdask.kernels import lanes

settings.register_profile("stabdask", deadline=None, derandomize=True, database=None)
settings.load_profile("stabdask")


@pytest.fixture
def fitted(tmp_path: Path) -> Small:
    """Give the small atlas with labels that AnnData can write as keys, and the fit in an h5ad."""
    made = make_small(tmp_path, labels=("a", "b c", "<x>"))
    adata = anndata.read_h5ad(made.atlas)
    sd.HopfieldField.open(made.field).to_anndata(adata)
    adata.write_h5ad(tmp_path / "fitted.h5ad")
    return Small(made.atlas, tmp_path / "fitted.h5ad")


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Give a small atlas on disk with its field."""
    return make_small(tmp_path)


@pytest.fixture(scope="module", params=["numpy", *lanes.instruction_sets()])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """By NumPy, as without a compiler, and by every compiled variant that runs here."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(lanes, "available", lambda: False)
        else:
            patch.setattr(lanes, "instruction_set", lambda: request.param)
        yield request.param
