"""What objects look like in a notebook: all that their text says, escaped, and nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from durable import open_small, run_small
from small_atlas import make_small
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.rich import card


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not {name for name, _ in attrs} & {"src", "onclick", "onload"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def texts(html: str) -> str:
    parser = Texts()
    parser.feed(html)
    assert not parser.open
    return " ".join(parser.found)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_a_report_explains_what_is_wrong_with_cells(tmp_path: Path) -> None:
    report = run_small(make_small(tmp_path), tmp_path / "out.zarr")
    assert "status " not in str(report)
    said = str(replace(report, status_counts={0: 3, 1: 1, 3: 1, 4: 2}))
    assert "3 ok, 1 not converged, 1 without finite input or label, 2 defective" in said
    explained = [line for line in said.splitlines() if line.startswith("status ")]
    assert [line.split()[1] for line in explained] == ["not", "defective:"]
    assert "eigenvalues stand" in explained[1]


def test_reports_say_what_they_say_as_text(tmp_path: Path) -> None:
    small = make_small(tmp_path, labels=("<script>alert(1)</script>", "b", "c"))
    store = tmp_path / "out.zarr"
    report = run_small(small, store)
    cells, field = open_small(small)
    shown = [
        report,
        sd.plan(cells, field, workers=0),
        sd.status(store),
        sd.verify(store),
        sd.network.plan(300),
    ]
    for thing in shown:
        said = squeezed(texts(thing._repr_html_()))
        for line in str(thing).splitlines():
            assert squeezed(line) in said
    html = field._repr_html_()
    assert "<script>" not in html
    assert field.fingerprint in texts(html)
    assert "3: <script>alert(1)</script>, b, c" in texts(html)
    assert "up to 7 x 7" in texts(html)


def test_a_field_over_components() -> None:
    html = small_rkhs().field._repr_html_()
    assert html.startswith("<table")
    assert "RKHSField" in html


@pytest.mark.parametrize("text", ["http://127.0.0.1:8787/status", "https://example.org/a?b=1"])
def test_addresses_are_links_that_cannot_break_out(text: str) -> None:
    assert f'<a href="{text}"' in card("x", f"dashboard    {text}; from elsewhere")
    hostile = card("x", f'dashboard    {text}"onmouseover="alert(1)')
    assert 'onmouseover="' not in hostile
    assert f'<a href="{text}"' in hostile
    assert "javascript:" not in re.findall(r'href="[^"]*"', card("x", "a            javascript:alert(1)"))
