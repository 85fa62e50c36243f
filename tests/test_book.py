"""The book: builds without a warning, fetches nothing, leaves no page and no public name out, quotes what is said."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "notebooks"
PAGES = sorted(path for path in BOOK.glob("*.md") if path.name != "README.md")


def text_of(path: Path) -> str:
    return path.read_text()


def test_every_page_is_in_the_index() -> None:
    index = text_of(BOOK / "index.md")
    listed = {
        line
        for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
        for line in block.splitlines()
    }
    for page in PAGES:
        assert page.stem in listed or page.stem == "index", page.name
    assert {name for name in listed if re.fullmatch(r"[a-z_]+", name)} == {p.stem for p in PAGES} - {"index"}
    assert "0*" in listed


@pytest.mark.parametrize("page", [*PAGES, BOOK / "README.md", ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target or target.startswith("#"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve()
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(there), re.MULTILINE)
            names = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in names, target


def test_the_extras_are_those_there_are() -> None:
    table = re.search(r"\| extra \|.*?\n\n", text_of(BOOK / "install.md"), re.DOTALL)
    assert table is not None
    rows = [line.split("|")[1] for line in table[0].splitlines() if line]
    named = re.findall(r"`([a-z0-9-]+)`", "".join(rows))
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    assert sorted(named) == sorted(extras)


def said_in(path: Path) -> str:
    """Return all strings of a module, one after another, with what is filled in left out."""
    strings = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            strings.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    return "\n".join(strings)


def test_quoted_messages_are_those_of_the_program() -> None:
    quoted = re.findall(r"\"([^\"]+)\"", re.sub(r"`[^`]*`", "", text_of(BOOK / "troubleshooting.md")))
    quoted = [message for message in quoted if message != "unstable"]
    assert len(quoted) >= 15
    said = "\n".join(said_in(path) for path in (ROOT / "stabdask").rglob("*.py"))
    for message in quoted:
        assert message in said, message


def test_every_public_name_is_in_the_reference() -> None:
    modules = re.findall(r"{public-names} (\S+)", text_of(BOOK / "api.md"))
    assert {"stabdask", "stabdask.plotting", "stabdask.analysis.network", "stabdask.errors"} <= set(modules)
    for name in modules:
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            assert not callable(value) or (value.__doc__ or "").strip(), f"{name}.{public}"


def build(folder: Path, *options: str) -> Path:
    """Build the book in a folder and return where its pages are."""
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_nb") is None:
        pytest.skip("needs the docs extra, which .ci/run installs")
    site, doctrees = folder / "site", folder / "doctrees"
    command = [
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        *options,
        "-d",
        str(doctrees),
        str(BOOK),
        str(site),
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Tests of their own run the notebooks.
    return build(tmp_path_factory.mktemp("book"), "-D", "nb_execution_mode=off")


@pytest.mark.slow
def test_tutorials_have_their_outputs(tmp_path: Path) -> None:
    site = build(tmp_path)
    for notebook in sorted(BOOK.glob("0*.ipynb")):
        page = (site / f"{notebook.stem}.html").read_text()
        figures = re.findall(r"<img [^>]*src=\"(_images/[^\"]+\.png)\"", page)
        assert len(figures) >= 2, notebook.name
        assert all((site / figure).stat().st_size > 1000 for figure in figures)
        assert "Traceback" not in page


@pytest.mark.pages
def test_it_is_built_without_a_warning(site: Path) -> None:
    for page in PAGES:
        assert (site / f"{page.stem}.html").exists()


@pytest.mark.pages
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\bsrc=[\"'](?:https?:)?//|<link[^>]*href=[\"'](?:https?:)?//"
    )
    for page in site.rglob("*.html"):
        found = [m[0] for m in loads.finditer(page.read_text()) if 'rel="canonical"' not in m[0]]
        assert not found, (page.name, found)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import [\"'](?:https?:)?//", style.read_text()), (
            style.name
        )


@pytest.mark.pages
def test_the_reference_has_what_the_docstrings_say(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for name in (
        "sd.run",
        "RunHandle",
        "open_results",
        "PrecisionMatrix",
        "StoreLockedError",
        "FormulaField",
    ):
        assert name.removeprefix("sd.") in text
    assert "spectral_abscissa" in (site / "quantities.html").read_text()
    assert "stabdask finalize" in (site / "command_line.html").read_text()
    assert "schema" in (site / "contributing.html").read_text()
