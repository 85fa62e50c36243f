"""Every block of code of the README and of the pages is held to something; a new one fails until it is.

A block is executed, by its page's own test or here; or it is a command that is parsed, and run here where it takes
seconds and no cluster; or what a block prints; or a message, data, a directive of the book, or a formula.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from page_blocks import (
    BOOK,
    PAGES,
    ROOT,
    Block,
    assert_said,
    blocks_of,
    command_lines,
    shell_environment,
    shown,
)
from stabdask_words import parse_command

import stabdask as sd
from stabdask.cli.main import build_parser, main

TESTED = {
    "README.md": "tests/test_readme.py",
    "notebooks/extending.md": "tests/test_page_extending.py",
    "notebooks/fixed_points.md": "tests/test_fixed_points_page.py",
    "notebooks/from_dynamo.md": "tests/compat/test_dynamo_page.py",
    "notebooks/from_schopfield.md": "tests/compat/test_page.py",
    "notebooks/knockouts.md": "tests/test_knockouts_page.py",
    "notebooks/live_page.md": "tests/live/test_live_words.py",
    "notebooks/memory.md": "tests/test_page_memory.py",
    "notebooks/networks.md": "tests/test_page_networks.py",
    "notebooks/object_storage.md": "tests/test_page_object_storage.py",
    "notebooks/reading_stability.md": "tests/test_pages.py",
    "notebooks/responses.md": "tests/test_page_responses.py",
    "notebooks/resuming.md": "tests/test_page_resuming.py",
    "notebooks/sampling.md": "tests/test_page_sampling.py",
    "notebooks/store_format.md": "tests/test_page_store_format.py",
    "notebooks/vector_fields.md": "tests/test_page_vector_fields.py",
}
"""Pages whose ``python`` blocks a test of their own executes, all of them."""

RUN_THERE = {
    "README.md", "notebooks/extending.md", "notebooks/memory.md", "notebooks/networks.md", "notebooks/resuming.md",
}  # fmt: skip
"""Pages whose own test runs their commands too."""

PYTHON_HERE = {"notebooks/api.md", "notebooks/slurm.md"}
"""Pages whose ``python`` blocks are executed here."""

SUBSTITUTED = {
    # In place of a cluster of SLURM, a worker on this host.
    'sd.cluster("slurm", adaptive="0:50", walltime="02:00:00", queue="cpu", say=print)': "sd.cluster("
    '"local", workers=1, dashboard=False)',
}
"""What is replaced in the ``python`` block of the page on clusters."""

BEFORE = """import stabdask as sd
cells = sd.open_cells("atlas.h5ad", layer="M_t", cluster_key="cell_type")
field = sd.read_field("model.h5sch")
"""
"""What the README has said, and the page on clusters takes as said."""

COMMANDS_HERE: dict[str, dict[str, str]] = {
    "notebooks/durability.md": {"--repair": "--repair --workers 0 --quiet"},
    # Of a GPU there is none, and of cells there are few.
    "notebooks/gpu.md": {"--sample 20000 --gpu": "--sample 100 --workers 0"},
    "notebooks/install.md": {},
    "notebooks/slurm.md": {
        "'$SLURM_ARRAY_TASK_ID' --n-tasks 20": '"$SLURM_ARRAY_TASK_ID" --n-tasks 2 --workers 0'
    },
}
"""Pages whose lines of ``stabdask`` are run here, on a small demo, and what is replaced in them."""

NOT_RUN = {
    "notebooks/object_storage.md": "needs a bucket: its own test does the same by Python on a server of buckets",
    "notebooks/live_page.md": "starts a scheduler that does not end, and tunnels to other hosts",
}
"""Pages with ``sh`` blocks that are parsed alone, and why."""

INSTALLS = {
    "README.md", "notebooks/README.md", "notebooks/contributing.md", "notebooks/index.md", "notebooks/install.md",
}  # fmt: skip
"""Pages with ``text`` blocks and indented lines that install: their syntax, extras and files are checked."""

MESSAGES = {
    ("README.md", "cluster "): ("tests/test_code_blocks.py", "def test_the_table_of_the_demo"),
    ("notebooks/live_page.md", "dashboard "): (
        "tests/test_code_blocks.py",
        "def test_the_line_with_the_address",
    ),
    ("notebooks/memory.md", "stabdask: error: 1 p"): (
        "tests/test_page_memory.py",
        '"KilledWorker" in block.text',
    ),
    ("notebooks/resuming.md", "stabdask: inter"): (
        "tests/test_page_resuming.py",
        'message("interrupted by")',
    ),
    ("notebooks/resuming.md", "stabdask: error: p"): (
        "tests/test_page_resuming.py",
        'message("No space left")',
    ),
    ("notebooks/store_format.md", "out.zarr/"): ("tests/test_page_store_format.py", r"```text\n(out.zarr/"),
    ("notebooks/store_format.md", "stabdask:"): (
        "tests/test_page_store_format.py",
        r"```text\n(stabdask: error",
    ),
}
"""``text`` blocks that no block above prints, by page and beginning: the test that holds each, and where in it."""

FORMULAS = {
    "notebooks/concepts.md": 2, "notebooks/knockouts.md": 2, "notebooks/networks.md": 2, "notebooks/responses.md": 2,
}  # fmt: skip
"""How many indented formulas a page has."""

DIRECTIVE = re.compile(r"\{(toctree|include|figure|public-names|quantities|commands|house)\}")
FORMULA = re.compile(r"[\w\[\](){} ,.;+*/^'=-]+ = [\w\[\](){} ,.;+*/^'=-]+\n")
READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load,
}  # fmt: skip
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def name_of(block: Block) -> str:
    path = block.page
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def is_python(block: Block) -> bool:
    return block.language == "python" or (
        block.language == "indented" and block.text.startswith("import stabdask as sd\n")
    )


def is_shell(block: Block) -> bool:
    """Return whether a block is of commands: ``sh``, or, where a page installs or tests, what only looks like text."""
    commands = {"pip", "python3", "conda", "pytest", "stabdask"}
    return block.language == "sh" or (
        block.language in ("text", "indented") and block.text.split()[0] in commands
    )


def is_output(block: Block) -> bool:
    return block.language == "text" and block.follows is not None and not is_shell(block)


def is_message(block: Block) -> bool:
    return block.language == "text" and block.follows is None and not is_shell(block)


def is_directive(block: Block) -> bool:
    return DIRECTIVE.match(block.language) is not None


def is_formula(block: Block) -> bool:
    return (
        block.language == "indented"
        and name_of(block) in FORMULAS
        and FORMULA.fullmatch(block.text) is not None
    )


def is_data(block: Block) -> bool:
    return block.language in READERS


CLASSES = (is_python, is_shell, is_output, is_message, is_directive, is_formula, is_data)
ALL = [block for page in PAGES for block in blocks_of(page)]


def blocks_that(is_one: Callable[[Block], bool]) -> list[Block]:
    return [block for block in ALL if is_one(block)]


def pages_with(is_one: Callable[[Block], bool]) -> set[str]:
    return {name_of(block) for block in blocks_that(is_one)}


def test_every_block_is_found() -> None:
    for page in PAGES:
        text = page.read_text()
        found = blocks_of(page)
        fences = len(re.findall(r"^ *(?:```|~~~)", text, flags=re.MULTILINE))
        assert 2 * sum(block.language != "indented" for block in found) == fences, page
        inside = {n for block in found for n in range(block.line, block.line + block.text.count("\n") + 2)}
        for number, line in enumerate(text.splitlines(), 1):
            assert number in inside or not line.startswith("    "), f"{page.name}:{number}: {line}"


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_is_of_one_class(block: Block) -> None:
    found = [is_one.__name__ for is_one in CLASSES if is_one(block)]
    assert len(found) == 1, (
        f"{block} is {found or 'of no class that a test holds to anything'}:\n{block.text}"
    )


@pytest.mark.parametrize("name", sorted(pages_with(is_python)))
def test_python_is_executed_by_one_test(name: str) -> None:
    assert (name in TESTED) != (name in PYTHON_HERE), f"no test executes the code of {name}: write one"
    if name in TESTED:
        test = (ROOT / TESTED[name]).read_text()
        assert f'"{Path(name).name}"' in test
        # It takes all blocks: by a pattern, or from the list of blocks.
        assert "```python" in test or "run_page(" in test or "```{language}" in test, TESTED[name]


@pytest.mark.parametrize("name", sorted({name_of(b) for b in blocks_that(is_shell) if b.language == "sh"}))
def test_commands_are_run_or_it_is_said_why_not(name: str) -> None:
    declared = (name in RUN_THERE, name in COMMANDS_HERE, name in NOT_RUN)
    assert sum(declared) == 1, f"nothing runs the commands of {name}: add it to one of the lists"
    assert name in TESTED or name not in RUN_THERE


def test_no_declaration_is_stale() -> None:
    assert set(TESTED) | PYTHON_HERE == pages_with(is_python) | pages_with(is_output)
    assert set(COMMANDS_HERE) | set(NOT_RUN) | RUN_THERE | INSTALLS == pages_with(is_shell)
    assert set(FORMULAS) == pages_with(is_formula)
    for name, number in FORMULAS.items():
        assert sum(is_formula(block) for block in blocks_of(ROOT / name)) == number, name
    messages = [(name_of(block), block.text) for block in blocks_that(is_message)]
    for name, start in MESSAGES:
        assert sum(there == name and text.startswith(start) for there, text in messages) == 1, (name, start)


def test_data_is_read() -> None:
    for block in blocks_that(is_data):
        assert READERS[block.language](block.text) is not None, str(block)
    for read in READERS.values():
        with pytest.raises(Exception, match=r"."):
            read("a: [1\nb")


@pytest.mark.parametrize("block", blocks_that(is_shell), ids=str)
def test_commands_are_what_programs_take(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in command_lines(block.text):
        check_command([re.sub(r"\$\w+", "1", word) for word in shlex.split(line)])


def check_command(words: list[str]) -> None:
    """Check a command as far as can be told without running it."""
    program = Path(words[0]).name
    if program == "stabdask":
        parse_stabdask(words[1:])
    elif program == "dask":
        for option, module in pairwise(words):
            assert option != "--preload" or (ROOT / (module.replace(".", "/") + ".py")).is_file()
        parse_command(words)
    elif program == "pip":
        check_pip(words[1:])
    elif program == "pytest":
        assert all((ROOT / word).is_file() for word in words if word.startswith("tests/"))
        assert all(word in markers() for option, word in pairwise(words) if option == "-m")
    elif program == "sphinx-build":
        assert (ROOT / words[-2] / "conf.py").is_file()
    elif program == "python3":
        assert words[1:3] == ["-m", "venv"]
        assert len(words) == 4
    elif program == "conda":
        assert words[1] in ("create", "activate")
    elif program == "kubectl":
        deployed = "".join(path.read_text() for path in (ROOT / "deployments/kubernetes").rglob("*.yaml"))
        for word in words:
            kind, _, name = word.partition("/")
            # The operator calls the scheduler of a cluster by the name of the cluster.
            named = rf"^ *name: {re.escape(name.removesuffix('-scheduler'))}$"
            assert kind != "deployment" or re.search(named, deployed, re.MULTILINE), word
    else:
        # Of these only the syntax of the shell can be checked, or the page runs as it stands.
        assert program in ("ssh", "ls", "truncate", "export"), f"what is {shlex.join(words)}?"


def parse_stabdask(words: list[str]) -> None:
    """Parse the arguments of a command, in which no option may be abbreviated."""
    parser = build_parser()
    try:
        assert parser.parse_args(words).execute
    except SystemExit:
        raise AssertionError(f"not a command line of stabdask: {shlex.join(words)}") from None
    known: set[str] = set()
    for word in words:
        for action in parser._actions:
            if isinstance(action.choices, dict) and word in action.choices:
                parser = action.choices[word]
                known |= {option for own in parser._actions for option in own.option_strings}
                break
    assert {word for word in words if word.startswith("--")} <= known, words


def check_pip(words: list[str]) -> None:
    assert words[0] in ("install", "wheel")
    for word in words[1:]:
        found = re.fullmatch(r"(\.|stabdask)\[([\w,-]+)\]", word)
        if found is not None:
            assert set(found[2].split(",")) <= set(EXTRAS), word
        elif not word.startswith("-") and word not in (".", "stabdask", "wheels"):
            named = "".join(EXTRAS["cuda12"] + EXTRAS["cuda13"])
            assert word.split("[")[0] in named or word in ("rmm-cu12", "rmm-cu13"), word


@cache
def markers() -> set[str]:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    return {marker.partition(":")[0] for marker in options["markers"]}


@pytest.fixture
def folder(demo: Path, tmp_path: Path) -> Path:
    """Give a folder with the files of a small demo under the names that pages use for those of the reader."""
    (tmp_path / "atlas.h5ad").symlink_to(demo / "cells.h5ad")
    (tmp_path / "model.h5sch").symlink_to(demo / "field.zarr")
    return tmp_path


def replaced(text: str, pairs: dict[str, str]) -> str:
    for there, instead in pairs.items():
        assert there in text, there
        text = text.replace(there, instead)
    return text


def test_the_import_on_the_page_of_the_reference() -> None:
    names: dict[str, object] = {}
    for block in blocks_of(BOOK / "api.md"):
        if is_python(block):
            exec(compile(block.text, "api.md", "exec"), names)
    assert names["sd"] is sd


@pytest.mark.pages
def test_python_on_the_page_on_clusters(folder: Path) -> None:
    script = "\n".join(block.text for block in blocks_of(BOOK / "slurm.md") if is_python(block))
    script = BEFORE + replaced(script, SUBSTITUTED)
    indented = "\n".join(f"    {line}" for line in script.splitlines())
    (folder / "script.py").write_text(f'if __name__ == "__main__":\n{indented}\n')
    command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sd.status(folder / "out.zarr").complete


def run_lines(lines: list[str], folder: Path) -> str:
    script = "\n".join(["set -e", *lines])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=shell_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def lines_of(name: str) -> list[str]:
    """Return the lines of ``stabdask`` in the ``sh`` blocks of a page, with what is replaced in them."""
    blocks = [block for block in blocks_of(ROOT / name) if block.language == "sh"]
    lines = "\n".join(line for block in blocks for line in command_lines(block.text))
    return re.findall(r"^stabdask .*$", replaced(lines, COMMANDS_HERE[name]), flags=re.MULTILINE)


@pytest.mark.pages
def test_repair_as_on_the_page_on_durability(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, repair = lines_of("notebooks/durability.md")
    monkeypatch.chdir(folder)
    assert main(shlex.split(repair.replace("--repair", ""))[1:]) == 0
    assert main(shlex.split(verify)[1:]) == 0
    os.truncate(folder / "out.zarr" / "trace" / "c" / "1", 20)
    assert main(shlex.split(verify)[1:]) == 5
    said = run_lines([repair, verify], folder)
    assert "damaged      partition 1: trace" in said
    assert "out.zarr: ok" in said


@pytest.mark.pages
def test_first_steps_on_a_gpu_but_on_the_cpu(folder: Path) -> None:
    doctor, run, verify = lines_of("notebooks/gpu.md")
    said = run_lines([doctor, run, verify], folder)
    assert "gpu" in said.lower()
    assert "try.zarr: ok" in said
    assert sd.status(folder / "try.zarr").n_cells == 100


def test_doctor_as_on_the_page_on_installing(folder: Path) -> None:
    (doctor,) = lines_of("notebooks/install.md")
    assert f"stabdask {sd.__version__}" in " ".join(run_lines([doctor], folder).split())


@pytest.mark.pages
def test_array_jobs_as_on_the_page_on_clusters(folder: Path) -> None:
    init, run, finalize, on_slurm = lines_of("notebooks/slurm.md")
    assert "--cluster slurm" in on_slurm  # parsed alone: tests/slurm starts a real one
    tasks = [f"export SLURM_ARRAY_TASK_ID={task}; {run}" for task in range(2)]
    said = run_lines([init, *tasks, finalize], folder)
    assert "nothing to do: every partition has its receipt" in said
    assert sd.status(folder / "out.zarr").complete


@pytest.mark.pages
def test_the_table_of_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table,) = [block for block in blocks_of(ROOT / "README.md") if is_message(block)]
    assert main(["demo", "--keep", str(tmp_path / "demo"), "--workers", "0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = table.text.splitlines()
    assert lines.count("...") == 1
    assert set(lines) - {"..."} <= set(printed)


def test_the_line_with_the_address() -> None:
    (block,) = [block for block in blocks_of(BOOK / "live_page.md") if is_message(block)]
    label, address, rest = block.text.split(maxsplit=2)
    assert address == "http://127.0.0.1:8787/stabdask"
    assert f'say(f"{label}    {{text}}")' in (ROOT / "stabdask/runs/executors.py").read_text()
    assert rest.strip() in (ROOT / "stabdask/clusters/dashboard.py").read_text()


@pytest.mark.parametrize("block", blocks_that(is_output), ids=str)
def test_outputs_are_held_against_what_is_printed(block: Block) -> None:
    test = TESTED[name_of(block)]
    assert "assert_as_shown(" in (ROOT / test).read_text(), f"{test} compares nothing with {block}"
    assert block.follows is not None
    assert shown(block.page)[block.follows] == block.text


@pytest.mark.parametrize("block", blocks_that(is_message), ids=str)
def test_messages_are_held_to_something(block: Block) -> None:
    tests = [
        held
        for (name, start), held in MESSAGES.items()
        if name == name_of(block) and block.text.startswith(start)
    ]
    assert len(tests) == 1, f"no test says what {block} is:\n{block.text}"
    path, where = tests[0]
    # Not here, where the declaration itself has these words.
    assert re.search(
        "^[^(]*" * where.startswith("def ") + re.escape(where), (ROOT / path).read_text(), re.MULTILINE
    )


def test_a_block_that_nothing_holds_fails(tmp_path: Path) -> None:
    page = tmp_path / "new.md"
    page.write_text(
        "# New\n\n```ruby\nputs 1\n```\n\n```yaml\na: 1\n```\n\n~~~python\nimport os\n~~~\n\n"
        "    rm -rf x\n\n    y = x\n\n```\nplain\n```\n"
    )
    found = blocks_of(page)
    assert [block.language for block in found] == ["ruby", "yaml", "python", "indented", "indented", ""]
    classes = [[is_one.__name__ for is_one in CLASSES if is_one(block)] for block in found]
    assert classes == [[], ["is_data"], ["is_python"], [], [], []]


@pytest.mark.parametrize(
    "line",
    [
        "stabdask run a --field f --stor s", "stabdask nothing", "stabdask network plan --n-gene 4",
        "pip install .[gpu]", "pip install cupy-cuda11x", "pytest tests/test_nothing.py", "pytest -m fast",
        "dask scheduler --preload no.module", "kubectl logs deployment/other", "sphinx-build book site", "rm -rf x",
    ],
)  # fmt: skip
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(shlex.split(line))


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("a b", "a c"), ("a ...", "b c"), ("1 file", "1 files"),
        ("about 3.91 MB in the store", "about 4.2 MB in the store"), ("a", "about 3.91 MB in the store"),
    ],
)  # fmt: skip
def test_what_is_shown_is_compared_strictly(expected: str, found: str) -> None:
    with pytest.raises(AssertionError):
        assert_said(expected, found)


def test_commands_are_cut_and_joined() -> None:
    text = "a --b \\\n    c  # why\nd && e 'x # y'\n\n# nothing\nf; g\n"
    assert list(command_lines(text)) == ["a --b c", "d", "e 'x # y'", "f", "g"]
    assert_said("a ... c, about 3.91 MB in the store\n", "a b c, about 3.92 MB in the store")
