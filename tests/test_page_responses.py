"""The page on responses: its code runs as it stands there, and says what is true of the demo."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stabdask as sd

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "responses.md"


def test_the_code_runs(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "stabdask-demo").symlink_to(demo)
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (tmp_path / "script.py").write_text(script.replace('memory="4GB"', "workers=0, progress=False"))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "SPI1:GATA1" in done.stdout
    assert "\n0 cells with responses that are inaccurate" in done.stdout

    assert (tmp_path / "responses.png").read_bytes().startswith(b"\x89PNG")
    assert "Responses of progenitor" in (tmp_path / "report.html").read_text()
    ds = sd.open_results(tmp_path / "responses.zarr")
    cells = sd.open_cells(tmp_path / "stabdask-demo/cells.h5ad", layer="M_t", cluster_key="cell_type")
    field = sd.read_field(tmp_path / "stabdask-demo/field.zarr")
    cell, genes = 17, field.genes.tolist()
    label = str(cells["cluster"].values[cell])
    J = field.jacobian(cells["expression"][cell : cell + 1].values, label)[0]
    asked = np.ix_(
        [genes.index(i) for i in ("GATA1", "SPI1", "KLF1")], [genes.index(j) for j in ("GATA1", "SPI1")]
    )
    np.testing.assert_allclose(ds["response"][cell], -np.linalg.inv(J)[asked], rtol=1e-8, atol=1e-10)
    assert "(responses.md)" in (PAGE.parent / "README.md").read_text()
