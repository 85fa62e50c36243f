"""Pages about deployments: what they tell to type is what the programs take, and files they name are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from deployment_files import DEPLOYMENTS, REPOSITORY
from stabdask_words import parse_command

PAGES = [
    *sorted(DEPLOYMENTS.rglob("README.md")),
    *(REPOSITORY / f"notebooks/{name}.md" for name in ("gpu", "kubernetes")),
]


def commands(page: Path) -> list[list[str]]:
    """Return the command lines of stabdask on a page: in blocks, in running text, and as arguments of images."""
    text = page.read_text()
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in re.sub(r"\\\n", "", block).splitlines()
    ]
    lines += [
        line
        for line in re.findall(r"`(stabdask [^`]*)`", text)
        if "..." not in line and "run --gpu" not in line
    ]
    found = []
    for words in map(shlex.split, lines):
        if words[:1] == ["stabdask"] and len(words) > 2:  # not a mere name
            found.append(words)
        if words[:2] == ["docker", "run"]:
            (image,) = [i for i, word in enumerate(words) if word.startswith("registry.example.org/stabdask")]
            found.append(["stabdask", *words[image + 1 :]])
        if words and words[0] == "deployments/gpu/one-node.sh":
            found.append(["stabdask", "run", *words[1:], "--gpu"])
        if words and words[0] == "deployments/gpu/run.sh":
            found.append(["stabdask", "run", *words[2:]])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        parse_command(words)


def test_commands_are_found() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_named_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / name).exists(), name
    for name in re.findall(r"(?<![\w/])((?:deployments|tests)/[\w/.-]*\w)", text):
        assert (REPOSITORY / name).exists(), name


def test_the_pages_are_found() -> None:
    listed = (REPOSITORY / "notebooks/README.md").read_text()
    assert "(gpu.md)" in listed
    assert "(kubernetes.md)" in listed
    index = (DEPLOYMENTS / "README.md").read_text()
    for folder in ("docker", "gpu", "kubernetes"):
        assert f"({folder}/README.md)" in index
