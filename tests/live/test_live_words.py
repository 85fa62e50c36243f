"""The page of documentation on the live page: its keys are those of the JSON, and it is found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from stabdask.live.model import Progressed, RunModel
from stabdask.live.status import MOST_SQUARES, live_status
from stabdask.live.told import Told, Workers
from stabdask.live.watch import _MOST_RUNS

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGE = NOTEBOOKS / "live_page.md"


def example() -> dict[str, Any]:
    model = RunModel(3, ["a"], [5])
    model.add_values(np.zeros(5, np.int8), np.arange(5.0), np.full(5, 1e-15))
    told = Told("t", "/out.zarr", "f" * 32, 5, 3, 0, 5, "running", {}, None)
    return live_status(told, model.progressed(visible=True), Workers(), began=0.0, now=1.0).to_dict()


def test_every_key_of_the_json_is_on_the_page_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    found = example()
    assert set(rows) == {*found, "runs"}
    for key, values in found.items():
        named = set(re.findall(r"`(\w+)`", rows[key]))
        if key == "status":
            continue
        inner = set(values)
        if key == "spectral_abscissa":
            inner |= set(values["clusters"][0])
        assert named == inner, key


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert f"{MOST_SQUARES:,} partitions" in text
    assert {20: "last twenty"}[_MOST_RUNS] in text
    states = re.findall(r"^States are (.*?)\. ", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", states[0])) == {"running", "finished", "failed", "stopped", "lost"}


def test_the_code_on_the_page_reads_the_json() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "live_page.md", "exec"), names)
    assert callable(names["cells_done"])
    assert example()["cells"]["done"] == 0
    assert Progressed(done=np.zeros(1, bool)).visible is None


def test_the_page_is_found() -> None:
    assert "(live_page.md)" in (NOTEBOOKS / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
