"""The page on knockouts: its code runs as it stands there, and its words are those of the results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stabdask.cli.main import main
from stabdask.runs.knockout_results import KNOCKOUT_ATTRS

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "knockouts.md"


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
    out = said[1]
    assert "progenitor" in out
    assert "SPI1" in out
    assert "of 55 knockouts the 5 of each cluster" in out
    assert re.search(r"\w+\+\w+ +-?\d", out)
    correlation = re.search(r"correlation: (\S+)", out)
    assert correlation is not None
    assert 0.8 < float(correlation[1]) < 1.0
    for figure in ("shifts", "pairs"):
        assert (said[0] / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_runs(
    said: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(said[0])
    command = re.search(r"`stabdask (knockouts [^`]*)`", PAGE.read_text())
    assert command is not None
    assert main([*command[1].split(), "-o", "knockouts.csv"]) == 0
    assert "knockouts in 140 cells" in capsys.readouterr().out
    assert "GATA1" in (said[0] / "knockouts.csv").read_text()


def test_words_are_those_of_results() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    results = set(KNOCKOUT_ATTRS) | {"status"}
    table = {"stabilized", "destabilized", "unstable_change"}
    assert {"knockout_abscissa", "abscissa", "predicted_shift"} | table <= named
    assert named <= results | table | {"attrs"}


def test_the_page_is_found() -> None:
    assert "(knockouts.md)" in (PAGE.parent / "README.md").read_text()
    for page in re.findall(r"\((\w+\.md)\)", PAGE.read_text()):
        assert (PAGE.parent / page).is_file()
