"""Progress on a terminal, in a log, and in a notebook."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from stabdask.runs import progress as module
from stabdask.runs.progress import NotebookDisplay, Progress, ProgressWriter, progress_display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def snapshots(n: int = 5) -> list[Progress]:
    return [Progress(100 * i, 100 * (n - 1), 100 * i, i // 3, 2.0 * i) for i in range(n)]


def test_a_log_has_lines_and_no_carriage_returns() -> None:
    stream, now = io.StringIO(), [0.0]
    writer = ProgressWriter(stream, lambda: now[0])
    writer.message("dashboard    http://127.0.0.1:8787/status")
    for snapshot in snapshots():
        writer(snapshot)
        now[0] += 6.0
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    # Every ten seconds, and the end.
    assert [line.split("%")[0].strip() for line in lines[1:]] == ["0", "50", "100"]
    assert lines[2] == " 50%  200 of 400 cells, 50 cells/s, 4 s left"
    assert lines[3].endswith("1 failed")


def test_a_terminal_has_one_line_that_is_rewritten() -> None:
    stream = Terminal()
    writer = ProgressWriter(stream)
    for snapshot in snapshots():
        writer(snapshot)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.split("\r")[-1].startswith("[" + "#" * 28 + "]")
    # A line that is shorter than the one before leaves nothing of it.
    widths = [len(line.rstrip("\n")) for line in text.split("\r")[1:]]
    assert widths == sorted(widths)


def test_a_message_on_a_terminal_does_not_run_into_the_bar() -> None:
    stream = Terminal()
    writer = ProgressWriter(stream)
    writer.message("first")
    writer(snapshots()[1])
    writer.message("second")
    assert stream.getvalue().startswith("first\n\r[")
    assert stream.getvalue().endswith("\nsecond\n")


class Shell:
    """Stands for IPython: what is displayed, and updated."""

    def __init__(self) -> None:
        self.kernel = object()
        self.shown: list[str] = []
        self.displays = 0

    def display(self, html: Any, display_id: bool) -> Any:
        assert display_id
        self.displays += 1
        self.shown.append(html)
        return SimpleNamespace(update=self.shown.append)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell()
    shows = SimpleNamespace(HTML=str, display=made.display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: made, display=shows))
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    return made


def test_a_notebook_has_one_bar_that_is_updated(shell: Shell) -> None:
    now = [0.0]
    display = progress_display()
    assert isinstance(display, NotebookDisplay)
    display = NotebookDisplay(lambda: now[0])
    display.message("dashboard    http://127.0.0.1:8787/status")
    for snapshot in snapshots():
        now[0] += 0.1
        display(snapshot)
    assert shell.displays == 1
    # Four times a second at most, and the end.
    assert len(shell.shown) == 3
    assert 'value="1.0000"' in shell.shown[-1]
    assert '<a href="http://127.0.0.1:8787/status"' in shell.shown[-1]
    assert "400 of 400 cells" in shell.shown[-1]


def test_elsewhere_it_is_stderr(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    del shell.kernel  # IPython on a terminal
    assert isinstance(progress_display(), ProgressWriter)
    monkeypatch.delitem(sys.modules, "IPython")
    assert isinstance(progress_display(), ProgressWriter)
    assert module._in_notebook() is False


def test_no_cells_are_all_of_them() -> None:
    assert Progress(0, 0, 0, 0, 0.0).share == 1.0
    assert Progress(0, 5, 0, 0, 0.0).seconds_left is None
