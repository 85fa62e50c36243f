"""Timings: what is drawn is what was measured, and speed-ups are ratios of it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fake_results import fake_timings

import stabdask as sd
from stabdask.errors import InputError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def test_lines_are_seconds_and_labels_ratios() -> None:
    rows = fake_timings()
    for table in (rows, rows[::-1], pd.DataFrame(rows)):
        ax = sd.pl.update_timing(table)
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        for line, name in zip(ax.lines, ("direct", "_slow", "$fast$"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [50, 200, 1000])
            np.testing.assert_array_equal(line.get_ydata(), [row[name] for row in rows])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["direct", "_slow", "$fast$"]
        # Of the way that is the faster for the most genes, at its point: 1e-9 n^3 over 1e-9 n^2.
        assert [(text.get_text(), text.xy[0]) for text in ax.texts] == [
            ("50×", 50), ("200×", 200), ("1,000×", 1000)
        ]  # fmt: skip
        assert ax.get_title() == "×: how much faster than direct; updates of rank 5"
        ax.figure.canvas.draw()
        assert [text.get_text() for text in ax.get_xticklabels()] == ["50", "200", "1,000"]
        assert {"1 ms", "1 s"} <= {text.get_text() for text in ax.get_yticklabels()}


def test_slower_is_said_too() -> None:
    ax = sd.pl.update_timing([{"n_genes": 10, "a": 1e-5, "b": 2e-5}], direct="a")
    assert [text.get_text() for text in ax.texts] == ["0.5×"]
    assert ax.get_title() == "×: how much faster than a"
    low, high = ax.get_ylim()
    assert (low, high) == pytest.approx((1e-6, 1e-4))


def test_numbers_of_many_sizes_do_not_cover_each_other() -> None:
    ax = sd.pl.update_timing(fake_timings(range(100, 3100, 100)))
    ax.figure.canvas.draw()
    for texts in (ax.texts, ax.get_xticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert 5 < len(boxes) < 15
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert ax.get_xticklabels()[-1].get_text() == "3,000"


def test_what_is_refused() -> None:
    rows = fake_timings()
    with pytest.raises(InputError, match="no column 'n_genes'"):
        sd.pl.update_timing([{"direct": 1.0, "a": 1.0}])
    with pytest.raises(InputError, match="no column 'direkt'; did you mean 'direct'"):
        sd.pl.update_timing(rows, direct="direkt")
    with pytest.raises(InputError, match="no column of updates beside 'direct'"):
        sd.pl.update_timing([{"n_genes": 5, "rank": 1, "direct": 1.0}])
    with pytest.raises(InputError, match="no rows"):
        sd.pl.update_timing(pd.DataFrame(rows)[:0])
    with pytest.raises(InputError, match="a number of genes twice"):
        sd.pl.update_timing([*rows, rows[0]])
    for wrong in (0.0, -1.0, None, "fast", float("inf")):
        with pytest.raises(InputError, match="in the column '_slow' of timings; expected a positive number"):
            sd.pl.update_timing([*rows[1:], rows[0] | {"_slow": wrong}])
    with pytest.raises(InputError, match="no table of timings"):
        sd.pl.update_timing(5)  # type: ignore[arg-type]


def test_the_benchmark_draws_what_it_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = BENCHMARKS / "results" / "network_rank5_2core.json"
    main = runpy.run_path(str(BENCHMARKS / "bench_network.py"))["main"]
    asked = []

    def draw(table: list[dict[str, float]], **options: object) -> None:
        asked.append((table, options))

    monkeypatch.setattr(sd.pl, "update_timing", draw)
    main(["--figures", str(printed), "--plot", str(tmp_path / "timing.png")])
    ((table, options),) = asked
    assert options == {"direct": "numpy.linalg.inv", "save": tmp_path / "timing.png"}
    for row, figures in zip(table, json.loads(printed.read_text()), strict=True):
        assert row["n_genes"] == figures["n_genes"]
        assert row["numpy.linalg.inv"] == figures["seconds"]["numpy_inv"]
        assert row["PrecisionMatrix.update"] == figures["seconds"]["update"]
