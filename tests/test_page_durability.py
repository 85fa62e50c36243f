"""The page on durability: the commands and tests that it names are there, and its counts are those of the tests."""

from __future__ import annotations

import re
from pathlib import Path

from stabdask.cli.main import build_parser

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "notebooks" / "durability.md"


def test_commands_and_tests_are_there() -> None:
    text = PAGE.read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for line in block.splitlines():
        assert build_parser().parse_args(line.split()[1:]).execute
    named = re.findall(r"tests/runs/\w+\.py", text)
    assert len(named) == 6
    assert all((TESTS.parent / name).is_file() for name in named)
    assert "(durability.md)" in (PAGE.parent / "README.md").read_text()
    assert "(notebooks/durability.md)" in (TESTS.parent / "README.md").read_text()


def test_kills_are_counted_as_they_are_tried() -> None:
    tests = (TESTS / "runs" / "test_random_kills.py").read_text()
    tried = re.findall(r'"n_kills",\s*\[(?:pytest\.param\()?(\d+).*?pytest\.param\((\d+)', tests)
    assert len(tried) == 4
    plain = [int(few) for few, _ in tried]
    slow = [int(many) for _, many in tried]
    assert sum(plain) == 10
    assert sum(slow) + slow[2] >= 100  # the third is tried for the client and for the whole tree
    page = PAGE.read_text()
    rows = ("a run in one process", "a worker |", "client with its", "scheduler that is")
    for row, few, many in zip(rows, plain, slow, strict=True):
        (line,) = re.findall(rf"^\| SIGKILL of .*{re.escape(row)}.*$", page, flags=re.MULTILINE)
        assert f"| {few}" in line
        assert f"| {many} more |" in line
