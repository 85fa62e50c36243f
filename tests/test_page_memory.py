"""The page on memory: its commands and its code give what it shows, and its numbers are those of the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from page_blocks import Ran, assert_as_shown, assert_said, blocks_of, run_page

import stabdask as sd
from stabdask.cli.arguments import job_options
from stabdask.cli.main import build_parser
from stabdask.files import place_of
from stabdask.kernels import cuda
from stabdask.runs import plan as plan_module
from stabdask.runs import runner, sizing
from stabdask.runs.job import prepare
from stabdask.sizes import format_bytes

pytestmark = pytest.mark.pages

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "notebooks" / "memory.md"
EXITS = {"--memory 700MB": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the atlas and the field that ``stabdask demo`` leaves."""
    folder = tmp_path_factory.mktemp("memory")
    sd.simulate_atlas(folder / "stabdask-demo")
    return folder


def test_it_gives_what_the_page_shows(folder: Path) -> None:
    ran: Ran = run_page(PAGE, folder)
    assert_as_shown(PAGE, ran, EXITS)


def test_bytes_of_each_result(folder: Path) -> None:
    cells = sd.open_cells(folder / "stabdask-demo/cells.h5ad", layer="M_t", cluster_key="cell_type")
    field = sd.read_field(folder / "stabdask-demo/field.zarr")
    n, k, m = field.n_genes, field.largest_core, 3
    rows = re.findall(
        r"^\| (`--[^|]*`|the default[^|]*) \| ([^|]*) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert len(rows) == 11
    default = 0
    taken = {}
    for what, _, number in rows:
        words = what.strip("`").split() if what.startswith("`") else []
        options = build_parser().parse_args(["plan", "a", "--field", "f", *words])
        spec = prepare(cells, field, **job_options(options, field)).spec
        taken[what] = sizing.output_bytes(field, spec.options)
        assert taken[what] == int(number.replace(",", "")), what
        if not words:
            default = taken[what]
    formulas = {what: formula for what, formula, _ in rows}
    assert default == 16 * k + k + 93
    for what, formula in formulas.items():
        if re.fullmatch(r"(?:\d+(?: [knm])*(?: \+ )?)+", formula):
            product = re.sub(r"(?<=[\dknm]) (?=[knm])", "*", formula)
            added = eval(compile(ast.parse(product, mode="eval"), "page", "eval"), {"n": n, "k": k, "m": m})
            assert taken[what] - (0 if what.startswith("the default") else default) == added, what
    assert "32 n m + 8" in formulas.values()
    assert 32 * 2000 * 10 == 640_000


def test_numbers_are_those_of_the_program() -> None:
    text = PAGE.read_text()
    assert f"Of these {format_bytes(plan_module._CLIENT_BYTES)} are there for no cells" in text
    assert f"Of these {format_bytes(plan_module._WORKER_BYTES)} are Python" in text
    assert "200 bytes are for each cell" in text
    assert format_bytes(plan_module._CLIENT_BYTES + 200 * 20_000) == "319 MB"
    assert sizing._PARTITION_BYTES == 64 * 2**20
    assert f"{sizing._MOST_CELLS:,} cells or fewer" in text
    assert cuda._BATCH_SHARE == 0.5


def test_messages_are_those_of_the_program() -> None:
    (quoted,) = [block.text for block in blocks_of(PAGE) if "KilledWorker" in block.text]
    error = runner._failed({3: "KilledWorker: its words"}, place_of("out.zarr"))
    assert_said(quoted, f"stabdask: error: {error}")
    assert error.exit_code == 1
    said = (ROOT / "stabdask/kernels/cuda.py").read_text() + (ROOT / "stabdask/atlas/cells.py").read_text()
    for message in re.findall(
        r"\"([^\"\n=]+)\"", re.sub(r"```.*?```|`[^`]*`", "", PAGE.read_text(), flags=re.DOTALL)
    ):
        assert message == "Killed" or message in said, message


def test_the_page_is_found() -> None:
    assert "(memory.md)" in (PAGE.parent / "README.md").read_text()
    assert "notebooks/memory.md" in (ROOT / "README.md").read_text()
