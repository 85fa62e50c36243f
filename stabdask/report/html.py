"""Pieces of a page, with everything that comes from data escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "facts", "figure", "number", "page", "paragraph", "percent", "table"]

_DPI = 160
_SHOWN_DPI = 96
"""Points of a screen to an inch of a figure; images have more, to be sharp on paper."""


@dataclass(frozen=True)
class Section:
    """A section of the page: its name in the address, its heading, its HTML."""

    anchor: str
    heading: str
    body: str


def paragraph(text: str, *, kind: str = "") -> str:
    """Return text as a paragraph, of CSS class `kind` if given."""
    attribute = f' class="{escape(kind)}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a list of definitions."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items)
    return f'<dl class="facts">{rows}</dl>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", texts: int = 1) -> str:
    """Return a table; all but the first `texts` columns hold numbers, and wide ones scroll on their own."""
    head = "".join(
        f"<th scope='col'{'' if i < texts else ' class=number'}>{escape(name)}</th>"
        for i, name in enumerate(header)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<th scope='row'>{escape(cell)}</th>"
            if i == 0
            else f"<td{'' if i < texts else ' class=number'}>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number(value: float) -> str:
    """Return a number as tables show it.

    Examples
    --------
    >>> number(0.123456), number(float("nan"))
    ('0.1235', '–')
    """
    return "–" if math.isnan(value) else f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share as tables show it.

    Examples
    --------
    >>> percent(0.5), percent(float("nan"))
    ('50.0%', '–')
    """
    return "–" if math.isnan(share) else f"{share:.1%}"


def figure(drawing: Figure, *, caption: str, alt: str) -> str:
    """Return a figure as an image that is part of the page, and close it."""
    import matplotlib.pyplot as plt

    buffer = BytesIO()
    drawing.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    width = round(drawing.get_size_inches()[0] * _SHOWN_DPI)
    plt.close(drawing)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the whole page."""
    style = files("stabdask.report").joinpath("style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{escape(s.anchor)}">{escape(s.heading)}</a>' for s in sections)
    bodies = "".join(
        f'<section id="{escape(s.anchor)}"><h2>{escape(s.heading)}</h2>{s.body}</section>' for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched: what the page shows is in it.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{bodies}</main></body></html>\n"
    )
