"""The page on sampling: its code runs as it stands there, and it names the methods that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import stabdask as sd
from stabdask.atlas.sampling import METHODS
from stabdask.cli.main import build_parser

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "sampling.md"


def test_the_code_gives_what_the_page_says(tmp_path: Path) -> None:
    sd.simulate_atlas(tmp_path / "stabdask-demo", n_cells=1500, n_genes=40, n_regulators=20)
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (tmp_path / "script.py").write_text(script.replace('memory="4GB"', "workers=0, progress=False"))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "{'method': 'trn', 'n': 300, 'seed': 1, 'n_cells': 1500, 'basis': 'X_fate'}" in done.stdout
    ds = sd.open_results(tmp_path / "some.zarr")
    everything = sd.open_cells(tmp_path / "stabdask-demo" / "cells.h5ad", layer="M_t")
    at = ds["atlas_position"].values.astype(int)
    assert ds["cell"].values.tolist() == everything["cell"].values[at].tolist()
    assert len(set(at.tolist())) == 300


def test_the_page_names_what_there_is() -> None:
    text = PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(METHODS)
    line = next(line for line in text.splitlines() if "stabdask run ... --sample" in line)
    arguments = re.findall(r"stabdask run \.\.\. ([^`]*)`", line)[0].split()
    job = ["run", "cells.h5ad", "--field", "f", "--store", "s", *arguments]
    options = build_parser().parse_args(job)
    assert (options.sample, options.sample_method, options.sample_seed) == (300, "trn", 1)


def test_the_page_is_found() -> None:
    assert "(sampling.md)" in (PAGE.parent / "README.md").read_text()
