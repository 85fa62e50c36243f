"""`stabdask summary`: tables that fit, JSON that nests, groups by any label, two groups side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from small_atlas import make_small

import stabdask as sd
from stabdask.cli.common import fit_table, shorten, summary_table
from stabdask.cli.main import main
from stabdask.errors import StabdaskWarning
from stabdask.files import open_group, write_array, write_names

BATCHES = ("day 2", "day 10", "_x")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store with labels of cells beside the clusters."""
    small = make_small(tmp_path_factory.mktemp("summary"))
    path = small.atlas.parent / "out.zarr"
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    sd.run(cells, sd.read_field(small.field), path, workers=0, progress=False, elements=[("g00", "g01")])
    group = open_group(path, mode="r+")
    write_names(group, "batch", np.resize(BATCHES, 230), "cell")
    write_names(group, "a,b", np.resize(["u", "v"], 230), "cell")
    write_array(group, "hours", np.resize([0.0, 6.5, np.nan], 230), ("cell",))
    return path


def out(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(["summary", *map(str, arguments)]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    return text


def failed(capsys: pytest.CaptureFixture[str], code: int, *arguments: Any) -> str:
    assert main(["summary", *map(str, arguments)]) == code
    text, err = capsys.readouterr()
    assert text == ""
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--by", "batch"),
        ("--by", "cluster,batch"),
        ("--by", "hours"),
        ("--quantity", "spectral_abscissa"),
        ("--quantity", "element"),
        ("--quantity", "element", "--by", "batch,cluster"),
        ("--extremes",),
        ("--compare", "a", "b/c"),
        ("--compare", "day 2", "_x", "--by", "batch", "--quantity", "spectral_abscissa"),
        ("--compare", "a", "b/c", "--quantity", "element"),
    ],
)
def test_tables_fit_and_show_speed(store: Path, capsys: pytest.CaptureFixture[str], arguments: Any) -> None:
    text = out(capsys, store, *arguments)
    assert max(map(len, text.splitlines())) <= 110
    table = text.split("\nRead effect sizes")[0]
    assert max(map(len, table.splitlines())) <= 100
    assert "speed" in table


def test_two_labels_nest_in_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(out(capsys, store, "--by", "cluster,batch", "--json"))
    assert set(found) == {"a", "b/c", "../x"}
    ds = sd.open_results(store)
    batch = np.resize(BATCHES, 230)
    for cluster, inner in found.items():
        assert set(inner) == set(BATCHES)
        for label, entry in inner.items():
            member = (ds["cell_cluster"].values == cluster) & (batch == label)
            assert entry["n_cells"] == member.sum()
            assert entry["quantile_method"] == "exact"
            values = ds["speed"].values[member]
            assert entry["speed"]["median"] == pytest.approx(np.median(values), rel=1e-12)
            assert entry["speed"]["q95"] == pytest.approx(np.quantile(values, 0.95), rel=1e-12)
            counts = ds["unstable_count"].values[member]
            assert entry["unstable_fraction"] == pytest.approx((counts > 0).mean())
            assert set(entry["element"]) == {"g00:g01"}
    one = json.loads(out(capsys, store, "--by", "batch", "--json", "--quantity", "trace"))
    assert set(one["day 2"]) == {
        "n_cells", "n_computed", "n_failed", "failed_fraction", "unstable_fraction", "quantile_method", "trace",
    }  # fmt: skip
    # A label whose name has a comma is one label.
    assert set(json.loads(out(capsys, store, "--by", "a,b", "--json"))) == {"u", "v"}
    assert set(json.loads(out(capsys, store, "--by", "hours", "--json"))) == {"0.0", "6.5"}


def test_cells_still_to_be_computed_are_told_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_small(tmp_path)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    asked: dict[str, Any] = {"workers": 0, "progress": False, "partition_cells": 60}
    path = tmp_path / "part.zarr"
    sd.run(cells, sd.read_field(small.field), path, partitions=[1], **asked)
    done = cells["cluster"].values[60:120]
    for memory in ("1GB", 0):
        with pytest.warns(StabdaskWarning, match="is not complete"):
            table = sd.summarize(sd.open_results(path), memory=memory)
        assert table["n_cells"].sum() == 230
        counts = dict(zip(table["cluster"].values, table["n_computed"].values, strict=True))
        assert counts == {label: (done == label).sum() for label in counts}
        assert table["n_computed"].sum() == 60
        assert table["n_failed"].sum() == 0
    assert main(["summary", str(path), "--json"]) == 0
    text, err = capsys.readouterr()
    assert "is not complete: 3 of 4 partitions are missing" in err
    assert {label: entry["n_computed"] for label, entry in json.loads(text).items()} == counts
    assert main(["summary", str(path)]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["cluster", "cells", "computed", "failed"]
    assert {row.split()[0]: int(row.split()[2]) for row in rows if not row.startswith("(")} == counts
    sd.run(cells, sd.read_field(small.field), path, **asked)
    assert out(capsys, path).splitlines()[0].split()[:3] == ["cluster", "cells", "failed"]
    assert {entry["n_computed"] for entry in json.loads(out(capsys, path, "--json")).values()} == {
        entry["n_cells"] for entry in json.loads(out(capsys, path, "--json")).values()
    }


def test_combinations_without_cells_are_counted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = sd.open_results(store)
    n_seen = len(set(zip(ds["cell_cluster"].values, ds["unstable_count"].values, strict=True)))
    text = out(capsys, store, "--by", "cluster,unstable_count")
    n_all = 3 * len(np.unique(ds["unstable_count"]))
    if n_all > n_seen:
        assert f"(not shown: {n_all - n_seen} combinations that no cell has)" in text
    assert len([line for line in text.splitlines() if line.endswith(tuple("0123456789"))]) == n_seen
    nested = json.loads(out(capsys, store, "--by", "cluster,unstable_count", "--json"))
    assert sum(len(inner) for inner in nested.values()) == n_all


def test_compare(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, store, "--compare", "a", "b/c")
    ds = sd.open_results(store)
    table = sd.compare(ds, "a", "b/c")
    rows = [line.split()[0] for line in text.splitlines()[4:] if line[:1].isalpha()]
    assert rows[: len(table)] == [name.split()[0] for name in table.index]
    assert "no independent replicates" in text
    found = json.loads(out(capsys, store, "--compare", "a", "b/c", "--json"))
    assert found["n_cells_a"] == (ds["cell_cluster"].values == "a").sum()
    assert list(found["quantities"]) == table.index.tolist()
    for name, row in found["quantities"].items():
        assert row["cliffs_delta"] == pytest.approx(table.loc[name, "cliffs_delta"])
        assert row["p_adjusted"] == pytest.approx(table.loc[name, "p_adjusted"])
    by = json.loads(
        out(capsys, store, "--by", "hours", "--compare", "0.0", "6.5", "--quantity", "trace", "--json")
    )
    assert set(by["quantities"]) == {"trace", "speed"}


def test_what_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'batch'" in failed(capsys, 3, store, "--by", "bach")
    assert "did you mean 'day 2'" in failed(capsys, 3, store, "--by", "batch", "--compare", "day2", "_x")
    assert "expected one label" in failed(capsys, 2, store, "--by", "cluster,batch", "--compare", "a", "b/c")
    assert "are both 'a'" in failed(capsys, 2, store, "--compare", "a", "a")
    assert "those of clusters" in failed(capsys, 2, store, "--extremes", "--by", "batch")
    assert "not allowed with" in failed(capsys, 2, store, "--extremes", "--compare", "a", "b/c")
    assert "did you mean 'trace'" in failed(capsys, 3, store, "--compare", "a", "b/c", "--quantity", "trce")
    assert "names a label twice" in failed(capsys, 2, store, "--by", "batch,batch")


def test_approximate_quantiles_are_said_to_be(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabdask.analysis import aggregate

    monkeypatch.setitem(aggregate.summarize.__kwdefaults__, "memory", 0)
    assert main(["summary", str(store), "--json"]) == 0
    text, err = capsys.readouterr()
    assert "quantiles are approximate: counts of values rounded to 11 significant bits" in err
    assert "2^-11" in json.loads(text)["a"]["quantile_method"]


def test_long_and_odd_labels_stay_in_the_table() -> None:
    labels = ["x" * 80, "esc\x1b[31m\nred", "ß" * 50]
    ds = xr.Dataset(
        {
            **{
                name: ("cell", np.full(3, 1234.5678))
                for name in ("speed", "spectral_abscissa", "trace", "rotational_norm", "leading_frequency")
            },
            "unstable_count": ("cell", np.ones(3, dtype=np.int32)),
            "status": ("cell", np.zeros(3, dtype=np.uint8)),
            "cluster_code": ("cell", np.arange(3, dtype=np.int32)),
        },
        coords={"cluster": np.array(labels, dtype=object), "batch": ("cell", np.array(labels, dtype=object))},
    )
    for by in ("cluster", ["cluster", "batch"]):
        text = summary_table(sd.summarize(ds, by=by))
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text
        assert "speed" in text.splitlines()[0]
        assert ".." in text
        assert "left out to fit 100 columns: rotation" in text


def test_shorten_and_fit() -> None:
    assert shorten("abc", 5) == "abc"
    assert shorten("abcdefghij", 6) == "ab..ij"
    assert shorten("abcdefghij", 7) == "abc..ij"
    header = ["name", *(f"column{i}" for i in range(10))]
    rows = [["n", *["1" * 10] * 10]]
    lines = fit_table(header, rows, spare=("column3", "column1")).splitlines()
    assert lines[0].split() == [name for name in header if name not in ("column3", "column1")]
    assert lines[-1] == "(left out to fit 100 columns: column3, column1; --json has all)"
    assert "left out" not in fit_table(header[:4], [row[:4] for row in rows], spare=("column1",))
