"""`stabdask knockouts`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import stabdask as sd
from stabdask.cli.main import main


@pytest.fixture
def toggle(tmp_path: Path) -> tuple[str, str]:
    """Return paths of cells at the saddle of a toggle switch and at one of its attractors, and of their field."""
    W = [[0.0, -4.0, 0.0], [-4.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "C"],
        W={"saddle": W, "stable": W},
        gamma=[1.0, 1.0, 0.4],
        bias=4.0,
        threshold=1.0,
        exponent=2.0,
    )
    x = np.repeat([[1.379, 1.379, 1.0], [3.732, 0.268, 1.0]], 20, axis=0)
    obs = pd.DataFrame({"kind": ["saddle"] * 20 + ["stable"] * 20}, index=[f"c{i}" for i in range(40)])
    var = pd.DataFrame(index=["A", "B", "C"])
    anndata.AnnData(None, obs=obs, var=var, layers={"M_t": x}).write_h5ad(tmp_path / "cells.h5ad")
    return str(tmp_path / "cells.h5ad"), str(field.save(tmp_path / "field.zarr"))


def run(toggle: tuple[str, str], *options: str) -> int:
    atlas, field = toggle
    command = ["knockouts", atlas, "--field", field, "--layer", "M_t", "--cluster-key", "kind", *options]
    return main(command)


def test_table(toggle: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toggle, "--n-cells", "5") == 0
    text = capsys.readouterr().out
    for column in ("shift", "median", "predicted", "stabilized", "destabilized", "unstable", "cells"):
        assert re.search(rf"\b{column}(, median)?: ", text), column
    lines = text.splitlines()
    assert lines[0].split()[:5] == ["cluster", "knockout", "shift", "median", "predicted"]
    rows = [line.split() for line in lines[2:4]]
    # Without A or B the switch is gone, and C, with its -0.4, leads.
    assert [row[:2] for row in rows] == [["saddle", "A"], ["saddle", "B"]]
    assert [float(row[2]) for row in rows] == pytest.approx([-0.711, -0.711], abs=2e-3)
    assert [row[5] for row in rows] == ["100.0%"] * 2
    # At the attractor C leads with or without them.
    assert lines[-2:] == [
        "2 knockouts in 10 cells",
        "(shown: 2 of 4 rows, of which 2 do not move; -o has all)",
    ]


def test_json_is_what_python_gives(toggle: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--json", "--pairs", "A:C,B:C", "--n-cells", "7", "--seed", "3", "--tolerance", "0.1")
    assert run(toggle, *options) == 0
    said = json.loads(capsys.readouterr().out)
    cells = sd.open_cells(toggle[0], layer="M_t", cluster_key="kind")
    ds = sd.knockouts(
        cells,
        sd.read_field(toggle[1]),
        pairs=[("A", "C"), ("B", "C")],
        n_cells=7,
        seed=3,
        tolerance=0.1,
    )
    assert said["knockouts"] == sd.rank_knockouts(ds).to_dict(orient="records")
    assert said["options"]["order"] == 2
    assert said["options"]["seed"] == 3
    assert (said["n_cells"], said["n_failed"]) == (14, 0)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_files(
    toggle: tuple[str, str], workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.csv"
    options = ("--regulators", "A,B,C", "--order", "2", "--screen", "1", "--workers", workers)
    assert run(toggle, "-o", str(path), *options) == 0
    assert "of 3 knockouts the 1 of each cluster" in capsys.readouterr().out
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {row["knockout"] for row in rows} == {"A+B", "A+C", "B+C"}
    assert [row["mean_shift"] != "" for row in rows] == [True, False, False] * 2
    as_json = tmp_path / "out.json"
    assert run(toggle, "--output", str(as_json), "--json", *options) == 0
    assert json.loads(as_json.read_text()) == json.loads(capsys.readouterr().out)


def test_what_makes_no_sense_is_refused(
    toggle: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, code, said in (
        (
            ("--regulators", "A,X"),
            3,
            "gene 'X' to knock out is not in the field; regulators present: 'A', 'B'",
        ),
        (("--regulators", ","), 2, "names no gene"),
        (("--pairs", "AB"), 2, "--pairs 'AB' is no pair; expected GENE:GENE"),
        (("--pairs", "A:X"), 3, "gene 'X' in --pairs"),
        (("--order", "3"), 2, "--order"),
        (("--screen", "0"), 2, "screen=0"),
        (("--n-cells", "0"), 2, "n_cells=0"),
        (("--top", "0"), 2, "--top 0"),
        (("--workers", "-1"), 2, "--workers -1"),
        (("--memory", "1kB"), 3, "2 knockouts in 40 cells take 2.12 kB of memory, and 1 kB are allowed"),
        (("--memory", "much"), 2, "memory 'much' is no size"),
        (("-o", str(tmp_path / "table.txt")), 2, "ends in .json or .csv"),
        (("-o", str(tmp_path / "nowhere" / "table.csv")), 3, "does not exist"),
    ):
        assert run(toggle, *options) == code, options
        assert said in capsys.readouterr().err
