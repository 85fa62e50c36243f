"""The page on reading stability: its code runs as it stands there, and its words are those of the registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stabdask as sd
from stabdask.schema import MODE_QUANTITIES, SCALARS, VARIABLES

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "reading_stability.md"
CHECKS = {"residual", "trace_defect", "near_switch_count"}


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all blocks as one script beside a small demo, as a reader would."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "stabdask-demo").symlink_to(demo)
    script = "\n".join(blocks())
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (folder / "script.py").write_text(script.replace('memory="4GB"', "workers=0, progress=False"))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=None)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_the_code_gives_what_the_page_says(folder: Path) -> None:
    ds = sd.open_results(folder / "stability.zarr")
    assert np.isfinite(ds["reactivity"]).all()
    assert (ds["spectral_abscissa"] <= ds["reactivity"] + 1e-9).all()
    for figure in ("spectra", "abscissa", "embedding", "elements", "network", "trend"):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert "Drivers" in (folder / "report.html").read_text()
    said = (folder / "said.txt").read_text()
    assert "Neubert & Caswell 1997" in said
    assert "cliffs_delta" in said
    # The myeloid network's switch between the erythroid and the myeloid fate.
    genes = sd.driver_genes(ds, "progenitor", top=4)["gene"].tolist()
    assert {"GATA1", "SPI1"} < set(genes)


def test_every_quantity_is_on_the_page_and_nothing_else() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(SCALARS) - CHECKS <= named
    first = {
        n
        for row in re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
        for n in re.findall(r"`(\w+)`", row)
    }
    assert first <= set(SCALARS) | set(VARIABLES) | set(MODE_QUANTITIES)


def test_the_page_is_found() -> None:
    assert "(reading_stability.md)" in (PAGE.parent / "README.md").read_text()
