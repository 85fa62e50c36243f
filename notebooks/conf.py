"""The book: notebooks and pages of this folder, and what is drawn from the code when it is built.

Built with ``sphinx-build -W --keep-going notebooks site``.
"""

from __future__ import annotations

import os
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import stabdask

project = "stabdask"
author = "the stabdask developers"
project_copyright = "the stabdask developers"
version = release = stabdask.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md", "_build"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
html_theme = "furo"
html_title = f"stabdask {release}"
html_static_path: list[str] = []
html_show_sourcelink = False
# Headings can be linked to from other pages.
myst_heading_anchors = 3
# Notebooks are kept without outputs: a book is built with them, which takes some minutes once (and, where nobody is to
# read it, without: ``-D nb_execution_mode=off``).
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_output_stderr = "remove"
# Most pages link files of the repository that are not part of the book; tests look whether they are there.
suppress_warnings = ["myst.xref_missing"]

# Docstrings say what types and shapes there are, better than annotations can.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_use_unqualified_type_names = True
# Docstrings name what they mean in single backquotes.
default_role = "code"


class PublicNames(SphinxDirective):
    """All that a module offers, from its docstrings, in the order of its ``__all__``."""

    required_arguments = 1
    option_spec = {"members": directives.flag}  # noqa: RUF012 - as docutils has it

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the names."""
        import importlib
        import inspect

        module = importlib.import_module(self.arguments[0])
        lines = [".. currentmodule:: " + module.__name__, ""]
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or name.startswith("__"):
                continue
            if inspect.isclass(value):
                # Fields of a named tuple are among its attributes already.
                fields = ", ".join(getattr(value, "_fields", ()))
                hidden = [f"   :exclude-members: {fields}"] if fields else []
                lines += [f".. autoclass:: {name}", "   :members:", "   :show-inheritance:", *hidden, ""]
            elif callable(value):
                lines += [f".. autofunction:: {name}", ""]
            else:
                lines += [f".. py:data:: {name}", ""]
        text = StringList(["```{eval-rst}", *lines, "```"], source=module.__name__)
        found = nodes.section()
        found.document = self.state.document
        self.state.nested_parse(text, 0, found)
        return list(found.children)


class Quantities(SphinxDirective):
    """The registry of variables as a list of definitions."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the list."""
        from stabdask.schema import VARIABLES

        found = nodes.definition_list()
        for variable in VARIABLES.values():
            asked = ", on request" if variable.on_request else ""
            what = f" ({', '.join(variable.dims)}), {variable.units}: {variable.long_name}{asked}"
            term = nodes.term("", "", nodes.literal(text=variable.name), nodes.Text(what))
            body = variable.description + (f" [{variable.source}]" if variable.source else "")
            definition = nodes.definition("", nodes.paragraph(text=body))
            found += nodes.definition_list_item("", term, definition)
        return [found]


class Commands(SphinxDirective):
    """What every command says of itself."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes of all commands."""
        from stabdask.cli.main import build_parser

        os.environ["COLUMNS"] = "88"
        found: list[nodes.Node] = []
        for name, parser in _parsers(build_parser(), "stabdask"):
            found.append(nodes.rubric(text=name))
            found.append(nodes.literal_block(text=parser.format_help(), language="text"))
        return found


def _parsers(parser: Any, name: str) -> list[tuple[str, Any]]:
    """Return a parser and those of its subcommands, with their names."""
    found = [(name, parser)]
    for action in parser._actions:
        if isinstance(getattr(action, "choices", None), dict):
            for command, own in action.choices.items():
                found += _parsers(own, f"{name} {command}")
    return found


class House(SphinxDirective):
    """The layers of the package, as the test of imports has them."""

    def run(self) -> list[nodes.Node]:
        """Return a drawing in text."""
        import ast
        from pathlib import Path

        test = Path(__file__).parents[1] / "tests" / "test_layers.py"
        for node in ast.parse(test.read_text()).body:
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "LAYERS":
                assert node.value is not None
                layers = ast.literal_eval(node.value)
        width = max(len("   ".join(sorted(layer))) for layer in layers) + 4
        rule = "+" + "-" * width + "+"
        rows = [f"|{'   '.join(sorted(layer)).center(width)}|" for layer in reversed(layers)]
        text = "\n".join([rule, *(line for row in rows for line in (row, rule))])
        return [nodes.literal_block(text=text, language="text")]


def _readable(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Make of a docstring, which is written to be read as it stands, what RST takes for the same."""
    text = "\n".join(lines)
    # Footnotes have numbers within a docstring only: they are paragraphs of the page here.
    text = re.sub(
        r"^\.\. (\[\d+\]) ((?:.|\n +)*)",
        lambda found: f"{found[1]} " + re.sub(r"\n +", " ", found[2]) + "\n",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r"(\[\d+\])_", r"\1", text)
    # |x| is an absolute value.
    parts = re.split(r"(``.*?``|`.*?`)", text)
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")
    _plain[name] = list(lines)


_plain: dict[str, list[str]] = {}


def _as_it_was(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Put an attribute's docstring back: what is before its first colon has been taken for a type."""
    if what in ("attribute", "property"):
        lines[:] = _plain[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is drawn from the code."""
    app.connect("autodoc-process-docstring", _readable, priority=100)
    app.connect("autodoc-process-docstring", _as_it_was, priority=900)
    app.add_directive("public-names", PublicNames)
    app.add_directive("quantities", Quantities)
    app.add_directive("commands", Commands)
    app.add_directive("house", House)
    return {"parallel_read_safe": True}
