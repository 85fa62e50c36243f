"""The tutorials: notebooks without outputs that run as they are, from any folder, and leave nothing behind."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from stabdask.cli.main import build_parser
from stabdask.clusters.options import cluster_request

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIRST = "01_stability_of_a_differentiating_atlas.ipynb"
MARK = "STABDASK_TESTED_NOTEBOOK"
"""A variable of the kernel and of all processes that descend from it."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_they_are_numbered() -> None:
    assert len(NOTEBOOKS) >= 5
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{n:02d}_" for n in range(1, len(NOTEBOOKS) + 1)]


@each
def test_notebooks_are_valid_and_hold_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in cells_of(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert cell.metadata == {}
        assert cell.source.strip()


@each
def test_notebooks_have_one_title_and_are_found(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    prose = "\n".join(
        re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL) for cell in cells_of(path, "markdown")
    )
    assert len(re.findall(r"^# ", prose, flags=re.MULTILINE)) == 1
    title = first.source.splitlines()[0].removeprefix("# ")
    assert title
    assert path.match("0*")  # what the index of the book lists
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert target.startswith("https://") or (FOLDER / target).is_file(), target


@each
def test_names_of_the_package_exist(path: Path) -> None:
    code = "\n".join(cell.source for cell in cells_of(path, "code"))
    homes = {"sd": "stabdask", "sch": "stabdask.compat.schopfield", "dyn": "stabdask.compat.dynamo"}
    used = re.findall(rf"\b({'|'.join(homes)})((?:\.[A-Za-z_]\w*)+)", code)
    assert len(used) > 10
    for home, names in used:
        found: Any = importlib.import_module(homes[home])
        for name in names.split(".")[1:]:
            if home == "sd" and found.__name__ == "stabdask":
                assert name in found.__all__, f"sd{names}"
            found = getattr(found, name)


@each
def test_code_in_prose_would_run(path: Path) -> None:
    prose = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    for block in re.findall(r"```sh\n(.*?)```", prose, flags=re.DOTALL):
        for command in re.findall(r"stabdask ([^'\n]+)", block):
            words = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "0"))
            assert build_parser().parse_args(words).execute
    for block in re.findall(r"```python\n(.*?)```", prose, flags=re.DOTALL):
        for call in ast.walk(ast.parse(block)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "sd.cluster":
                (what,) = map(ast.literal_eval, call.args)
                options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg != "say"}
                assert cluster_request(what, options).kind == what


def descendants(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.pages if path.name == FIRST else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
)
def test_notebooks_run_and_leave_nothing_behind(path: Path, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(here)}},
    )
    environment = {
        **os.environ,
        MARK: mark,
        "TMPDIR": str(temporary),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    done = client.execute(env=environment)
    text = "\n".join(
        output.text
        for cell in done.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert re.search(r"^dashboard    http://127\.0\.0\.1:\d+/stabdask", text.split("; from")[0], re.MULTILINE)
    assert list(here.iterdir()) == []
    # Dask keeps the folder that folders of workers were in, and its locks.
    scratch = temporary / "dask-scratch-space"
    assert set(temporary.iterdir()) <= {scratch}
    assert not [path for path in scratch.glob("*") if path.is_dir()]
    deadline = time.monotonic() + 15
    while left := list(descendants(mark)):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
