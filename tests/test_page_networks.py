"""The page on networks: its code runs as it stands there, and so do its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stabdask as sd
from stabdask.cli.main import main

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "networks.md"


def test_the_code_and_the_commands_run(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stabdask-demo").symlink_to(demo)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "script.py").write_text("\n".join(blocks))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "path='low rank'" in done.stdout
    for figure in ("correlations", "changes", "precision", "timing"):
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    network = sd.network.PrecisionMatrix.open(tmp_path / "network.zarr")
    cells = sd.open_cells(tmp_path / "stabdask-demo/cells.h5ad", layer="M_t", cluster_key="cell_type")
    own = cells["expression"].values[cells["cluster"].values == "monocyte"].astype(float)
    S = np.cov(own.T, bias=True)
    n = len(S)
    expected = (1 - network.amount) * S + network.amount * np.trace(S) / n * np.eye(n)
    np.testing.assert_allclose(network.theta, np.linalg.inv(expected), rtol=1e-8, atol=1e-8)

    blocked = sd.network.BlockedPrecision.open(tmp_path / "blocked.zarr")
    assert blocked.amount == pytest.approx(network.amount)
    assert blocked.history[-1].path == "low rank"

    monkeypatch.chdir(tmp_path)
    genes = network.genes.tolist()
    (tmp_path / "pathways.csv").write_text(f"gene,a\n{genes[0]},0.1\n{genes[1]},0.2\n")
    lines = re.findall(r"^    stabdask (network .*)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        assert main(line.replace("atlas.h5ad", "stabdask-demo/cells.h5ad").split()) == 0
    assert "(networks.md)" in (PAGE.parent / "README.md").read_text()
