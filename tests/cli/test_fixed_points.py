"""`stabdask fixed-points`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import stabdask as sd
from stabdask.cli.main import main


@pytest.fixture
def toggle(tmp_path: Path) -> tuple[str, str]:
    """Return paths of an atlas with two clusters, of which only one is bistable, and of their field."""
    field = sd.HopfieldField.from_arrays(
        ["A", "B"],
        W={"switch": [[0.0, -4.0], [-4.0, 0.0]], "single": [[0.0, -1.0], [-1.0, 0.0]]},
        gamma=1.0,
        bias=4.0,
        threshold=1.0,
        exponent=2.0,
    )
    x = np.random.default_rng(0).uniform(0.0, 4.0, (120, 2))
    obs = pd.DataFrame({"kind": ["switch", "single"] * 60}, index=[f"c{i}" for i in range(120)])
    adata = anndata.AnnData(None, obs=obs, var=pd.DataFrame(index=["A", "B"]), layers={"M_t": x})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return str(tmp_path / "cells.h5ad"), str(field.save(tmp_path / "field.zarr"))


def run(toggle: tuple[str, str], *options: str) -> int:
    atlas, field = toggle
    command = ["fixed-points", atlas, "--field", field, "--layer", "M_t", "--cluster-key", "kind", *options]
    return main(command)


def test_table(toggle: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toggle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["cluster", "type", "form", "index", "abscissa", "frequency"]
    rows = [line.split() for line in lines[2:6]]
    assert [(row[0], row[1], row[3]) for row in rows[:1]] == [("single", "attractor", "0")]
    assert sorted((row[1], row[3]) for row in rows[1:]) == [("attractor", "0")] * 2 + [("saddle", "1")]
    assert lines[-2:] == ["single: 60 starts; 60 to a fixed point", "switch: 60 starts; 60 to a fixed point"]
    assert run(toggle, "--cluster", "single", "--starts", "7") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "single: 7 starts; 7 to a fixed point"


def test_json_is_what_python_gives(toggle: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toggle, "--json", "--starts", "30", "--seed", "3") == 0
    said = json.loads(capsys.readouterr().out)
    cells = sd.open_cells(toggle[0], layer="M_t", cluster_key="kind")
    fps = sd.fixed_points(sd.read_field(toggle[1]), cells, n_starts=30, seed=3)
    assert len(said["fixed_points"]) == fps.sizes["fixed_point"] == 4
    for number, point in enumerate(said["fixed_points"]):
        one = fps.isel(fixed_point=number)
        assert point["cluster"] == one["cluster"].item()
        assert (point["type"], point["form"], point["index"]) == tuple(
            one[n].item() for n in ("type", "form", "index")
        )
        assert point["location"] == dict(zip("AB", one["location"].values.tolist(), strict=True))
        values = [complex(value["real"], value["imag"]) for value in point["eigenvalue"]]
        assert values == one["eigenvalue"].values.tolist()
        assert point["inside"] is bool(one["inside"])
    assert said["starts"]["switch"]["converged"] == 30
    assert said["options"]["seed"] == 3


@pytest.mark.parametrize("workers", ["0", "1"])
def test_files(
    toggle: tuple[str, str], workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.csv"
    assert run(toggle, "-o", str(path), "--workers", workers) == 0
    assert "switch: 60 starts" in capsys.readouterr().out
    rows: list[dict[str, Any]] = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["cluster"] for row in rows] == ["single"] + ["switch"] * 3
    for row in rows:
        if row["cluster"] == "switch" and row["type"] == "attractor":
            assert float(row["A"]) * float(row["B"]) == pytest.approx(1.0)
    as_json = tmp_path / "out.json"
    assert run(toggle, "--output", str(as_json), "--json") == 0
    assert json.loads(as_json.read_text()) == json.loads(capsys.readouterr().out)


def test_none_found_is_said_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field = sd.HopfieldField.from_arrays(["A"], W=[[-1.0]], gamma=1.0, bias=-1.0, threshold=1.0, exponent=2.0)
    adata = anndata.AnnData(np.linspace(0.0, 3.0, 12)[:, None])
    adata.var_names = ["A"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    command = [
        "fixed-points",
        str(tmp_path / "cells.h5ad"),
        "--field",
        str(field.save(tmp_path / "field.zarr")),
    ]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["all: 12 starts; 12 to the boundary", "no fixed points found"]
    assert "--boundary shows" in lines[2]
    assert main([*command, "--boundary"]) == 0
    assert "1 held at 0" in capsys.readouterr().out
    assert main([*command, "--json", "-o", str(tmp_path / "none.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["fixed_points"] == []
    assert (tmp_path / "none.csv").read_text().startswith("cluster,type")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--output", "x.txt"], 2, "ends in .json or .csv"),
        (["--output", "nowhere/x.csv"], 3, "does not exist"),
        (["--cluster", "swich"], 3, "did you mean 'switch'"),
        (["--starts", "-1"], 2, "n_starts=-1"),
        (["--starts", "0"], 2, "at least one cell"),
        (["--starts", "many"], 2, "invalid int value"),
        (["--workers", "-1"], 2, "--workers -1"),
        (["--tolerance", "-1"], 2, "tolerance=-1.0"),
    ],
)
def test_refusals(
    toggle: tuple[str, str], options: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(toggle, *options) == code
    assert said in capsys.readouterr().err
