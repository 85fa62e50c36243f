"""The live page in a real browser, while a real run goes on.

    pytest -m browser tests/live/test_browser.py -n 0

Pictures are saved where STABDASK_SCREENSHOTS says, else in pytest's temporary folder.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import TEXT, Tab, browser
from small_atlas import make_small

import stabdask as sd

pytestmark = pytest.mark.browser

SEVEN = (
    "HSC", "<script>alert(1)</script>", "Mono & DC", "$$\\frac{1}{2}$$", "<img src=x onerror=alert(2)>",
    "Erythroid progenitor, late stage (cycling)", "NK",
)  # fmt: skip
SIXTY = tuple(f"cluster {i:02d} of type {'xyz'[i % 3]}" for i in range(60))
_BOXES = """JSON.stringify((function all(node) {
  if (!node) return [];
  let found = [];
  if (node.tagName === "CANVAS") {
    const box = node.getBoundingClientRect();
    if (box.width > 0) found.push([box.x, box.y + scrollY, box.width, box.height]);
  }
  const inside = [...(node.shadowRoot ? [node.shadowRoot] : []), ...(node.children || [])];
  for (const child of inside) found.push(...all(child));
  return found;
})(document.body))"""


_SHOWN = f"""(() => {{
  const found = /([0-9,]+) of [0-9,]+ cells done/.exec(({TEXT})(document.body));
  return found ? Number(found[1].replaceAll(",", "")) : 0;
}})()"""


def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("STABDASK_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def done_cells(url: str) -> int:
    with urllib.request.urlopen(f"{url}/status", timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
    return found["cells"]["done"] if found["run"] else 0


def boxes(tab: Tab) -> list[tuple[float, float, float, float]]:
    return sorted({tuple(box) for box in json.loads(tab.evaluate(_BOXES))})


def assert_laid_out(tab: Tab, width: int) -> None:
    """No figure overlaps another or leaves the window, and nothing scrolls sideways."""
    found = boxes(tab)
    assert len(found) >= 5
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for i, (x, y, w, h) in enumerate(found):
        assert x >= 0
        assert x + w <= width
        for other_x, other_y, other_w, other_h in found[i + 1 :]:
            apart = (
                other_x >= x + w - 1
                or x >= other_x + other_w - 1
                or other_y >= y + h - 1
                or y >= other_y + other_h - 1
            )
            assert apart, f"{(x, y, w, h)} overlaps {(other_x, other_y, other_w, other_h)}"


@pytest.mark.parametrize(
    ("labels", "n_cells", "partition_cells"), [(SEVEN, 60_000, 400), (SIXTY, 60_000, 400)]
)
def test_the_page_during_a_run(
    tmp_path: Path, labels: tuple[str, ...], n_cells: int, partition_cells: int
) -> None:
    small = make_small(tmp_path, n_cells=n_cells, labels=labels)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    field = sd.read_field(small.field)
    saved, name = pictures(tmp_path), f"{len(labels)}-clusters"
    errors: list[BaseException] = []
    said: list[str] = []

    def compute(client: Any) -> None:
        try:
            sd.run(
                cells, field, tmp_path / "out.zarr", client=client, progress=False, vectors="right",
                partition_cells=partition_cells,
            )  # fmt: skip
        except BaseException as error:  # of the thread, for the test
            errors.append(error)

    with (
        browser(tmp_path) as tab,
        sd.cluster("local", workers=2, worker_memory="1GB", say=said.append) as client,
    ):
        url = said[0].split()[1]
        tab.open(url)
        tab.until_text("No run has been announced")
        tab.until_text("2 workers connected")
        tab.screenshot(saved / f"{name}-0-before.png")
        running = threading.Thread(target=compute, args=(client,))
        running.start()
        tab.until_text("Cells by status")
        tab.until_text("share")
        tab.screenshot(saved / f"{name}-1-beginning.png")
        first = tab.evaluate(_SHOWN)
        # Numbers move by themselves.
        tab.until(f"({_SHOWN}) > {first}")
        tab.until(f"({_SHOWN}) > {0.4 * n_cells}", 120)
        tab.screenshot(saved / f"{name}-2-middle.png")
        running.join(120)
        assert not errors
        tab.until_text("finished")
        tab.until(f"({_SHOWN}) === {n_cells}")
        assert done_cells(url) == n_cells
        tab.evaluate("new Promise(done => setTimeout(() => done(1), 1500))")
        assert_laid_out(tab, 1280)
        tab.screenshot(saved / f"{name}-3-end.png")
        # Names of clusters in the box under the mouse, too, are text.
        x, y, w, _ = max(boxes(tab), key=lambda box: box[2] * box[3])
        tab.evaluate(f"scrollTo(0, {y - 100})")
        above = tab.evaluate("scrollY")
        for step in range(30):
            tab.move(x + 0.3 * w, y + 60 + 7 * step - above)
            tab.evaluate("new Promise(done => setTimeout(() => done(1), 150))")
            if "above 0" in tab.text():
                break
        else:
            raise AssertionError("no box of numbers under the mouse")
        tab.screenshot(saved / f"{name}-4-hover.png", whole=False)
        tab.resize(800, 900)
        tab.evaluate("new Promise(done => setTimeout(() => done(1), 1500))")
        assert_laid_out(tab, 800)
        tab.screenshot(saved / f"{name}-5-narrow.png")
        tab.open(url.replace("/stabdask", "/status"))
        tab.until("document.querySelector(\"a[href='stabdask']\") && 1")
        tab.evaluate("new Promise(done => setTimeout(() => done(1), 4000))")
        tab.screenshot(saved / f"{name}-6-dask.png", whole=False)
        tab.open(url)
        tab.until_text("finished")
        complaints, requests = list(tab.complaints), list(tab.requests)
        assert not complaints
        assert tab.dialogs == 0
        assert {urlsplit(request).netloc for request in requests if "://" in request} == {
            urlsplit(url).netloc
        }
        client.cluster.close()
        tab.until_text("The scheduler no longer answers", 20)


def test_a_script_of_another_host_would_be_seen(tmp_path: Path) -> None:
    """What the test above finds nothing of, it would find."""
    page = tmp_path / "page.html"
    page.write_text(
        "<script src='http://localhost:9/x.js'></script><script>console.error('bad'); no()</script>"
    )
    with browser(tmp_path) as tab:
        tab.open(page.as_uri())
        tab.until("document.readyState === 'complete'")
        assert "http://localhost:9/x.js" in tab.requests
        assert len(tab.complaints) >= 2
