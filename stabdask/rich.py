"""How objects look in a notebook: what they say as text, laid out as a table."""

from __future__ import annotations

import re
from html import escape

__all__ = ["Rich", "card"]

_NAME_WIDTH = 13
"""Columns that names take in the text of an object; values follow."""
_LINK = re.compile(r"https?://[^\s;,&<>\"']+")
# Colors are those of the notebook, so that a dark one stays dark; nothing is fetched.
_TITLE = "font-weight:600;text-align:left;padding:.3em .8em .3em 0"
_NAME = "text-align:left;vertical-align:top;opacity:.65;font-weight:400;padding:.1em 1.2em .1em 0;white-space:nowrap"
_VALUE = "text-align:left;vertical-align:top;padding:.1em 0"


class Rich:
    """Mixin of objects whose text is lines of a name, in 13 columns, and a value."""

    _title = ""

    def _rich_text(self) -> str:
        """Return the lines; those without a name belong to the one before."""
        return str(self)

    def _repr_html_(self) -> str:
        return card(self._title or type(self).__name__, self._rich_text())


def card(title: str, text: str, *, share: float | None = None) -> str:
    """Return lines of names and values as a table in HTML, everything escaped, addresses as links.

    Parameters
    ----------
    title
        Its heading.
    text
        Lines of a name, in 13 columns, and a value.
    share
        Of a bar under the heading, 0 to 1; no bar if None.

    Examples
    --------
    >>> "<td" in card("Plan", "cells        <20>") and "&lt;20&gt;" in card("Plan", "cells        <20>")
    True
    """
    rows = "".join(_row(line[:_NAME_WIDTH].strip(), line[_NAME_WIDTH:]) for line in text.splitlines())
    bar = "" if share is None else f'<tr><td colspan="2">{_bar(share)}</td></tr>'
    return (
        '<table style="border-collapse:collapse"><thead><tr>'
        f'<th colspan="2" style="{_TITLE}">{escape(title)}</th></tr></thead><tbody>{bar}{rows}</tbody></table>'
    )


def _row(name: str, value: str) -> str:
    return f'<tr><th scope="row" style="{_NAME}">{escape(name)}</th><td style="{_VALUE}">{_linked(value)}</td></tr>'


def _linked(text: str) -> str:
    """Return text escaped, with its addresses as links."""
    return _LINK.sub(
        lambda found: f'<a href="{found[0]}" target="_blank" rel="noopener noreferrer">{found[0]}</a>',
        escape(text),
    )


def _bar(share: float) -> str:
    return f'<progress value="{share:.4f}" max="1" style="width:24em" aria-label="{share:.0%}"></progress>'
