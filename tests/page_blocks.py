"""Blocks of code of README and pages: found, parsed as commands, run in order, and held against what pages show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "notebooks"
PAGES = [ROOT / "README.md", *sorted(BOOK.glob("*.md"))]
_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}) *(?P<language>.*?) *$")
_PROGRESS = re.compile(r"^ *\d+%  .*\n", flags=re.MULTILINE)
_STORED = re.compile(r"about (\S+ \w?B) in the store")
_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True)
class Block:
    """A fenced block, or lines that are indented as code (`language` is ``"indented"``)."""

    page: Path
    line: int
    language: str
    text: str
    follows: int | None = None
    """Line of the block right before, with nothing but an empty line between: what it prints is here."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} ({self.language or 'no language'})"


def blocks_of(page: Path) -> list[Block]:
    """Return all blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number, ended = 0, None
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        indented = lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if fence is None and not indented:
            number += 1
            continue
        first = number
        if fence is not None:
            end = re.compile(rf"^ *{re.escape(fence['marks'])}[`~]* *$")
            number += 1
            while not end.match(lines[number]):
                number += 1
            text = "\n".join(lines[first + 1 : number])
            language = fence["language"]
            number += 1
        else:
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            text, language = "\n".join(line[4:] for line in lines[first:number]), "indented"
        previous = found[-1].line if found and ended == first - 1 else None
        found.append(Block(page, first + 1, language, text + "\n", previous))
        ended = number
    return found


def command_lines(text: str) -> Iterator[str]:
    """Give the command lines of a block: joined where they are continued, cut where several are on one."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        words.whitespace_split, words.commenters = True, "#"
        command: list[str] = []
        for word in words:
            if set(word) <= set("&|;"):
                yield shlex.join(command)
                command = []
            else:
                command.append(word)
        if command:
            yield shlex.join(command)


@dataclass
class Ran:
    """What the blocks of a page printed and how they ended, by the line that they begin in."""

    said: dict[int, str] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)


def run_page(page: Path, folder: Path, *, python: bool = True) -> Ran:
    """Run the ``sh`` blocks of a page in one shell, then its ``python`` blocks in one interpreter, in a folder.

    Nothing is replaced. What goes to stderr is kept in its place, but for the lines that say how far a run is.
    """
    blocks = blocks_of(page)
    mark = "--- block"
    script = ["exec 2>&1"]
    for block in blocks:
        if block.language == "sh":
            script += [f"echo '{mark} {block.line}'", f"( set -e\n{block.text})", 'echo "--- code $?"']
    ran = Ran()
    environment = shell_environment()
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for part in done.stdout.split(f"{mark} ")[1:]:
        line, _, said = part.partition("\n")
        said, _, code = said.rpartition("--- code ")
        ran.said[int(line)], ran.codes[int(line)] = _PROGRESS.sub("", said), int(code)
    if not python:
        return ran
    lines = []
    for block in blocks:
        if block.language == "python":
            lines += [f"print('{mark} {block.line}', flush=True)", block.text]
    (folder / "page.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}: {done.stdout}{done.stderr}"
    for part in done.stdout.split(f"{mark} ")[1:]:
        line, _, said = part.partition("\n")
        ran.said[int(line)], ran.codes[int(line)] = said, 0
    return ran


def shell_environment(**more: str) -> dict[str, str]:
    """Return an environment in which the installed program is found, and prints in the order of what it does."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("STABDASK")}
    path = f"{Path(sys.executable).parent}:{found['PATH']}"
    return {**found, "PATH": path, "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8", "COLUMNS": "100", **more}


def shown(page: Path) -> dict[int, str]:
    """Return what a page shows that its blocks print, by the line of the block."""
    return {
        block.follows: block.text
        for block in blocks_of(page)
        if block.language == "text" and block.follows is not None
    }


def assert_as_shown(page: Path, ran: Ran, exits: Mapping[str, int]) -> None:
    """Hold what a page shows against what its blocks printed, three dots standing for anything.

    `exits` has the exit codes other than 0, by what only the block of that command has in it.
    """
    expected = shown(page)
    assert expected, page
    for block in blocks_of(page):
        if block.language not in ("sh", "python"):
            continue
        wanted = [code for word, code in exits.items() if word in block.text]
        assert ran.codes[block.line] == (wanted[0] if wanted else 0), f"{block}: {ran.said[block.line]}"
        if block.line in expected:
            assert_said(expected[block.line], ran.said[block.line], str(block))
    used = [word for word in exits if any(word in block.text for block in blocks_of(page))]
    assert used == list(exits)


def assert_said(expected: str, found: str, where: str = "") -> None:
    """Hold the words of a text against another's, three dots standing for anything, a size in a store within 3 %."""
    # Without a compiler there is another eigensolver, which a page cannot know.
    found = re.sub(r"\blapack\b", "lanes", found)
    sizes = [[_size(text) for text in _STORED.findall(some)] for some in (expected, found)]
    assert len(sizes[0]) == len(sizes[1]), where
    assert all(abs(a - b) <= 0.03 * b for a, b in zip(*sizes, strict=True)), (where, sizes)
    pattern, plain = (_STORED.sub("about (size) in the store", some) for some in (expected, found))
    # Long lines are broken on a page.
    pattern, plain = " ".join(pattern.split()), " ".join(plain.split())
    regex = ".*?".join(re.escape(part) for part in pattern.split("..."))
    assert re.fullmatch(regex, plain), f"{where}\nshown:\n{expected}\nprinted:\n{found}"


def _size(text: str) -> float:
    number, unit = text.split()
    return float(number) * _UNITS[unit]
