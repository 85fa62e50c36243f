"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import stabdask as sd
from stabdask.cli.main import build_parser

README = Path(__file__).parents[1] / "README.md"
GENES = ["GATA1", "GATA2", "FLI1", "KLF1", "T1", "T2"]


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(found) == 1, f"the README has {len(found)} blocks of {language}"
    return found[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold an atlas and a scHopfield checkpoint under the names that the README uses."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": rng.choice(["early", "late"], 60)}, index=[f"c{i}" for i in range(60)])
    layers = {"M_t": rng.gamma(2.0, 1.0, (60, len(GENES)))}
    anndata.AnnData(None, obs=obs, var=pd.DataFrame(index=GENES), layers=layers).write_h5ad(
        tmp_path / "atlas.h5ad"
    )
    with h5py.File(tmp_path / "model.h5sch", "w") as file:
        file["gene_names"] = GENES
        file.attrs["n_vars"] = len(GENES)
        columns = {"scHopfield_used": np.ones(6, bool), "sigmoid_threshold": np.ones(6)}
        columns["sigmoid_exponent"] = np.full(6, 2.0)
        for label in ("early", "late"):
            W = np.zeros((6, 6))
            W[:, :4] = rng.normal(size=(6, 4))
            file[f"varp/W_{label}"] = W
            columns |= {f"I_{label}": np.zeros(6), f"gamma_{label}": np.ones(6)}
        for name, values in columns.items():
            file[f"var/{name}"] = values
    return tmp_path


def test_five_lines_beside_the_demo(demo: Path, tmp_path: Path) -> None:
    found = re.search(r"In five lines, .*:\n\n((?:    .*\n){5})\n", README.read_text())
    assert found is not None
    folder = tmp_path
    (folder / "stabdask-demo").symlink_to(demo)
    (folder / "script.py").write_text(re.sub(r"^    ", "", found[1], flags=re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first.split() == ["statistic", "median", "q05", "q95"]  # nothing is cut
    assert rows[1].split()[0] == "progenitor"


def test_python_block(folder: Path) -> None:
    (folder / "script.py").write_text(block("python"))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "early" in done.stdout
    assert "sensitivity" in done.stdout
    assert sd.status(folder / "stability.zarr").complete


def test_shell_block(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", block("sh")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "abscissa" in done.stdout
    ds = sd.open_results(folder / "out.zarr")
    assert ds["pair"].values.tolist() == ["GATA1:GATA2", "FLI1:KLF1"]


def test_the_two_commands_are_in_the_first_screen() -> None:
    first = README.read_text().splitlines()[:24]
    assert "    python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/stabdask demo" in first
    assert '    python3 -m venv .venv && .venv/bin/pip install ".[test]" && .venv/bin/pytest' in first


def test_every_command_is_listed() -> None:
    usage = build_parser().format_help()
    listed = set(re.findall(r"^\| `stabdask ([\w-]+)` \|", README.read_text(), flags=re.MULTILINE))
    offered = set(re.findall(r"^    ([a-z][\w-]*)(?: +\w|$)", usage, flags=re.MULTILINE))
    assert listed == offered
    assert {"demo", "run", "summary", "drivers", "report", "export"} < listed
