"""The page on resuming: its commands and its code give what it shows, and so do an interrupt and a full disk."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_blocks import Ran, assert_as_shown, assert_said, blocks_of, run_page, shell_environment

import stabdask as sd
from stabdask.cli.main import build_parser, main
from stabdask.runs import store as store_module

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "resuming.md"
EXITS = {"--dtype float32": 5, "--task 2": 1, "truncate": 5}
SAME = ("spectrum", "modes", "vectors", "elements", "quantities", "obs", "embedding", "sample")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the atlas and the field that ``stabdask demo`` leaves."""
    folder = tmp_path_factory.mktemp("resuming")
    sd.simulate_atlas(folder / "stabdask-demo")
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    return run_page(PAGE, folder)


def message(start: str) -> str:
    """Return the block of the page that shows a message by itself."""
    (found,) = [
        block.text
        for block in blocks_of(PAGE)
        if block.language == "text" and block.follows is None and start in block.text
    ]
    return found


@pytest.mark.timeout(600)  # a dozen processes one after another, on whatever else a machine has to do
def test_it_gives_what_the_page_shows(ran: Ran, folder: Path) -> None:
    assert_as_shown(PAGE, ran, EXITS)
    assert sd.status(folder / "out.zarr").complete
    assert sd.status(folder / "parts.zarr").complete


def test_an_interrupt_says_what_the_page_says(ran: Ran, folder: Path) -> None:
    job = ["stabdask-demo/cells.h5ad", "--field", "stabdask-demo/field.zarr", "--layer", "M_t"]
    more = [
        "--cluster-key",
        "cell_type",
        "--store",
        "stopped.zarr",
        "--workers",
        "0",
        "--partition-cells",
        "64",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "stabdask.cli.main", "run", *job, *more],
        cwd=folder, env=shell_environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    receipt = folder / "stopped.zarr" / "receipts" / "00000000.json"
    while not receipt.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == message("interrupted by").strip()
    state = sd.status(folder / "stopped.zarr")
    assert 0 < state.n_partitions_done < state.n_partitions


def test_a_full_disk_says_what_the_page_says(
    ran: Ran, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "out.zarr" / "receipts" / "00000007.json").unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module, "_fsync_chunks", full)
    assert main(["run", "--store", "out.zarr", "--workers", "0", "--quiet"]) == 3
    assert_said(message("No space left"), capsys.readouterr().err)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["run", "--store", "out.zarr", "--workers", "0", "--quiet"]) == 0
    assert sd.status(folder / "out.zarr").complete


def test_what_may_change_changes_nothing_and_what_may_not_is_refused(
    ran: Ran, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| ([^|]*) \| ([^|]*) \|$", text, flags=re.MULTILINE)
    same, free = (set(re.findall(r"`--([\w-]+)`", " ".join(side))) for side in zip(*rows, strict=True))
    assert same == {*SAME, "dtype", "tolerance", "partition-cells", "backend"}
    (commands,) = [action for action in build_parser()._actions if isinstance(action.choices, dict)]
    known = {option for action in commands.choices["run"]._actions for option in action.option_strings}
    assert {f"--{name}" for name in same | free} <= known
    job = ["run", "stabdask-demo/cells.h5ad", "--field", "stabdask-demo/field.zarr", "--layer", "M_t"]
    job += ["--cluster-key", "cell_type", "--store", "out.zarr"]
    monkeypatch.chdir(folder)
    quiet = ["--quiet", "--workers", "0"]
    for more in (["--memory", "1GB"], ["--no-dashboard"], ["--allow-failed", "0.5"], ["--no-lock"]):
        assert main([*job, *quiet, *more]) == 0
        assert "nothing to do" in capsys.readouterr().out
    refused = (
        ["--spectrum", "leading", "--modes", "2"], ["--vectors", "right"], ["--elements", "GATA1:SPI1"],
        ["--quantities", "trace"], ["--obs", "batch"], ["--embedding", "X_pca"], ["--sample", "100"],
        ["--tolerance", "0.1"], ["--partition-cells", "1024"], ["--backend", "lapack"],
    )  # fmt: skip
    for more in refused:
        if more[1] == sd.status("out.zarr").backend:  # no compiler here
            continue
        assert main([*job, *quiet, *more]) == 5, more
        assert "belongs to another run" in capsys.readouterr().err


def test_the_page_is_found() -> None:
    assert "(resuming.md)" in (PAGE.parent / "README.md").read_text()
    assert "notebooks/resuming.md" in (PAGE.parents[1] / "README.md").read_text()
