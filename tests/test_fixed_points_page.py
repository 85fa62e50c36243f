"""The page on fixed points: its code runs as it stands there, and its words are those of the results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stabdask.analysis.fixed_points import classify
from stabdask.analysis.roots import Outcome
from stabdask.cli.main import main
from stabdask.runs.fixed_point_results import FIXED_POINT_ATTRS

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "fixed_points.md"


@pytest.fixture(scope="module")
def said(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run all blocks as one script beside a small demo, as a reader would."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "stabdask-demo").symlink_to(demo)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (folder / "script.py").write_text("\n".join(blocks))
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_code_gives_what_the_page_says(said: tuple[Path, str]) -> None:
    folder, out = said
    assert (folder / "fixed_points.png").read_bytes().startswith(b"\x89PNG")
    assert "attractor" in out
    assert "saddle" in out
    assert re.search(r"[1-9]\d* of [1-9]\d* are inside the data", out)
    assert "converged" in out


def test_the_command_runs(said: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(said[0])
    command = re.search(r"`stabdask (fixed-points [^`]*)`", PAGE.read_text())
    assert command is not None
    assert main([*command[1].split(), "-o", "points.csv"]) == 0
    assert "attractor" in capsys.readouterr().out
    assert "GATA1" in (said[0] / "points.csv").read_text().splitlines()[0]


def test_words_are_those_of_results() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`(\w+)`", text))
    results = set(FIXED_POINT_ATTRS)
    options = {"tolerance", "margin", "boundary"}
    outcomes = {outcome.name.lower() for outcome in Outcome}
    assert outcomes - {"converged", "not_finite"} <= named
    assert named <= results | options | outcomes
    kinds = set(re.findall(r"^\| ([a-z-]+) \|", text, re.MULTILINE))
    spectra = np.array([[-1, -1], [1, -1], [1, 1], [0, -1]], dtype=complex)
    assert kinds == set(classify(spectra)[0].tolist())


def test_the_page_is_found() -> None:
    assert "(fixed_points.md)" in (PAGE.parent / "README.md").read_text()
    assert "(reading_stability.md)" in PAGE.read_text()
