"""`stabdask network`: the textbook case from files, networks of an atlas, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_atlas import Small

import stabdask as sd
from stabdask.cli.main import main


def textbook(
    folder: Path, n_genes: int = 500
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    """Write a base covariance of ten factors and five pathways, and return both with the names of genes."""
    rng = np.random.default_rng(42)
    loadings = rng.normal(0.0, 0.1, (n_genes, 10))
    sigma = loadings @ loadings.T + np.diag(rng.uniform(0.01, 0.05, n_genes))
    pathways = rng.normal(0.0, 0.05, (n_genes, 5))
    genes = [f"g{i}" for i in range(n_genes)]
    pd.DataFrame(sigma, index=genes, columns=genes).to_csv(folder / "sigma.csv")
    # Rows in another order, without the names of some that no pathway has.
    pathways[-3:] = 0.0
    order = rng.permutation(n_genes - 3)
    table = pd.DataFrame(pathways[order], index=[genes[i] for i in order], columns=list("abcde"))
    table.to_csv(folder / "pathways.csv")
    return sigma, pathways, genes


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["network", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def dense(sigma: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    theta = np.linalg.inv(sigma)
    rho = -theta / np.sqrt(np.outer(theta.diagonal(), theta.diagonal()))
    np.fill_diagonal(rho, 0.0)
    return rho


def test_the_textbook_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sigma, pathways, genes = textbook(tmp_path)
    before, after = tmp_path / "before.zarr", tmp_path / "after.zarr"
    made = json.loads(run(capsys, "fit", "--covariance", tmp_path / "sigma.csv", "-o", before, "--json"))
    assert (made["n_genes"], made["n_cells"], made["shrinkage"]) == (500, None, 0.0)
    done = json.loads(
        run(capsys, "update", before, "--pathways", tmp_path / "pathways.csv", "-o", after, "--json")
    )
    assert done["n_pathways"] == 5
    assert done["drift"] < 1e-10
    changed = sigma + pathways @ pathways.T
    found = sd.network.PrecisionMatrix.open(after)
    exact = np.linalg.inv(changed)
    assert np.abs(found.theta - exact).max() <= 1e-10 * np.abs(exact).max()

    told = json.loads(run(capsys, "compare", before, after, "--top", "20", "--json"))
    old, new = dense(sigma), dense(changed)
    upper = np.triu_indices(500, k=1)
    for name, rho in (("before", old), ("after", new)):
        size = np.abs(rho[upper])
        assert told[name]["n_strong"] == int((size >= 0.15).sum())
        assert told[name]["density"] == pytest.approx((size >= 0.15).mean())
        assert told[name]["mean_absolute"] == pytest.approx(size.mean())
        assert told[name]["max_absolute"] == pytest.approx(size.max())
    change = (new - old)[upper]
    strongest = np.sort(np.abs(change))[::-1][:20]
    np.testing.assert_allclose([abs(row["change"]) for row in told["changes"]], strongest, rtol=1e-8)

    shown = run(capsys, "edges", after, "--threshold", "0.05", "-o", tmp_path / "edges.csv")
    table = pd.read_csv(tmp_path / "edges.csv")
    assert len(table) == int((np.abs(new[upper]) >= 0.05).sum()) > 0
    one = table.iloc[0]
    assert one["partial_correlation"] == pytest.approx(
        new[genes.index(one["gene_a"]), genes.index(one["gene_b"])]
    )
    assert str(one["gene_a"]) in shown
    back = tmp_path / "back.zarr"
    text = run(capsys, "update", after, "--remove", "--pathways", tmp_path / "pathways.csv", "-o", back)
    assert "5 taken away" in text
    np.testing.assert_allclose(
        sd.network.PrecisionMatrix.open(back).theta, np.linalg.inv(sigma), rtol=1e-7, atol=1e-7
    )


def test_an_atlas(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    label = str(cells["cluster"].values[0])
    asked = [small.atlas, "--layer", "M_t", "--shrinkage", "ledoit-wolf"]
    text = run(capsys, "fit", *asked, "-o", tmp_path / "all.zarr")
    assert f"{cells.sizes['cell']:,} cells" in text
    genes = cells["gene"].values.astype(str).tolist()[:4]
    some = ["--cluster-key", "state", "--cluster", label, "--genes", ",".join(genes)]
    run(capsys, "fit", *asked, *some, "-o", tmp_path / "some.zarr")
    network = sd.network.PrecisionMatrix.open(tmp_path / "some.zarr")
    assert network.genes.tolist() == genes
    own = cells["expression"].values[cells["cluster"].values == label][:, :4].astype(float)
    S = np.cov(own.T, bias=True)
    expected = (1 - network.amount) * S + network.amount * np.trace(S) / 4 * np.eye(4)
    np.testing.assert_allclose(network.sigma, expected, rtol=1e-10, atol=1e-14)
    told = json.loads(run(capsys, "edges", tmp_path / "some.zarr", "--fdr", "0.9", "--json"))
    assert {"statistics", "edges"} == set(told)
    assert "edges with |rho| >= 0.15" in run(capsys, "edges", tmp_path / "some.zarr")


def test_what_is_refused(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    textbook(tmp_path, n_genes=12)
    net = tmp_path / "n.zarr"
    refused = ["network", "fit", "--covariance", str(tmp_path / "sigma.csv"), "-o", str(net), "--gpu"]
    assert main(refused) == 2
    assert "not for a covariance matrix" in capsys.readouterr().err
    run(capsys, "fit", "--covariance", tmp_path / "sigma.csv", "-o", net)
    pd.DataFrame({"a": [1.0]}, index=["gg1"]).to_csv(tmp_path / "unknown.csv")
    pd.DataFrame({"a": [1.0, 2.0]}, index=["g1", "g1"]).to_csv(tmp_path / "twice.csv")
    pd.DataFrame({"a": [9.0]}, index=["g1"]).to_csv(tmp_path / "large.csv")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "bad.npy", np.array([[1.0, 2.0], [2.0, 1.0]]))
    out = ["-o", tmp_path / "o.zarr"]
    cases: list[tuple[list[Any], str]] = [
        (["fit", *out], "expected an atlas or --covariance"),
        (["fit", small.atlas, "--shrinkage", "fixed", *out], "needs --amount"),
        (["fit", small.atlas, "--cluster", "A", *out], "--cluster needs --cluster-key"),
        (["fit", small.atlas, "--layer", "M_t", "--genes", "nope", *out], "no gene 'nope'"),
        (
            ["fit", small.atlas, "--layer", "M_t", "--cluster-key", "state", "--cluster", "nope", *out],
            "'nope'",
        ),
        (["fit", "--covariance", tmp_path / "sigma.csv", "--genes", "g1", *out], "are of an atlas"),
        (["fit", "--covariance", tmp_path / "objects.npy", *out], "no table of numbers"),
        (["fit", "--covariance", tmp_path / "sigma.txt", *out], "expected a .csv or a .npy"),
        (["fit", "--covariance", tmp_path / "bad.npy", *out], "eigenvalue"),
        (["fit", "--covariance", tmp_path / "sigma.csv", "-o", net], "overwrite"),
        (
            ["update", net, "--pathways", tmp_path / "unknown.csv", *out],
            "gene 'gg1' that the network has not; did you",
        ),
        (["update", net, "--pathways", tmp_path / "twice.csv", *out], "'g1' twice"),
        (["update", net, "--remove", "--pathways", tmp_path / "large.csv", *out], "eigenvalue"),
        (["edges", net, "--fdr", "0.1"], "n_cells"),
        (["edges", net, "-o", tmp_path / "e.txt"], "ends in .csv"),
        (["compare", net, tmp_path / "nothing.zarr"], "nothing.zarr"),
    ]
    for arguments, message in cases:
        assert main(["network", *map(str, arguments)]) in (2, 3, 5), arguments
        said = capsys.readouterr().err
        assert message in said, (arguments, said)
        assert "Traceback" not in said
    assert not (tmp_path / "o.zarr").exists()


def test_a_network_in_tiles(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    textbook(tmp_path, n_genes=30)
    planned = json.loads(run(capsys, "plan", "--n-genes", "20000", "--memory", "2GB", "--json"))
    assert not planned["in_memory"]
    assert planned["peak_bytes"] <= 2e9
    assert "fits in 4 GB" in run(capsys, "plan", "--covariance", tmp_path / "sigma.csv")
    atlas = [small.atlas, "--layer", "M_t", "--shrinkage", "ledoit-wolf"]
    assert "passes" not in run(capsys, "plan", *atlas)
    chosen = ["--cluster-key", "state", "--memory", "4GB"]
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    label = str(cells["cluster"].values[0])
    text = run(capsys, "fit", *atlas, *chosen, "--cluster", label, "--dry-run", "-o", tmp_path / "no.zarr")
    assert f"{int((cells['cluster'].values == label).sum()):,} cells" in text
    assert not (tmp_path / "no.zarr").exists()
    assert main(["network", "fit", *map(str, atlas), "--memory", "4GB", "-o", str(tmp_path / "m.zarr")]) == 0
    assert "in memory" in capsys.readouterr().err
    assert main(["network", "plan"]) == 2
    assert main(["network", "plan", "--n-genes", "30000", "--memory", "1MB"]) == 3
    assert "at least" in capsys.readouterr().err


def test_a_network_that_does_not_fit_is_made_in_tiles(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sigma, pathways, _ = textbook(tmp_path, n_genes=30)
    np.save(tmp_path / "sigma.npy", sigma)
    # Matrices of thirty genes fit anywhere: let them look large.
    monkeypatch.setattr(sys.modules["stabdask.analysis.network.blocked.plan"], "_COPIES", 10**9)
    before, after = tmp_path / "before.zarr", tmp_path / "after.zarr"
    fit = [
        "network",
        "fit",
        "--covariance",
        str(tmp_path / "sigma.npy"),
        "--memory",
        "1GB",
        "-o",
        str(before),
    ]
    assert main([*fit, "--json"]) == 0
    told = capsys.readouterr()
    assert "blocked, in 1 tiles of 30 genes" in told.err
    assert json.loads(told.out)["tile"] == 30
    np.save(tmp_path / "pathways.npy", pathways)
    text = run(capsys, "update", before, "--pathways", tmp_path / "pathways.npy", "-o", after)
    assert "low rank" in text
    found = sd.network.BlockedPrecision.open(after)
    np.testing.assert_allclose(
        found.theta.compute(), np.linalg.inv(sigma + pathways @ pathways.T), rtol=1e-8, atol=1e-8
    )
    shown = json.loads(run(capsys, "edges", after, "--top", "3", "--json"))
    assert [len(shown["edges"]), shown["statistics"]["n_genes"]] == [3, 30]
    assert "edges" in run(capsys, "compare", before, after, "--top", "3")
    assert main(["network", "edges", str(after), "--fdr", "0.1"]) == 2
    assert "--threshold or --top" in capsys.readouterr().err
    assert main(fit) == 5
    cells = ["--shrinkage", "fixed", "--amount", "0.1", "--memory", "1GB"]
    run(capsys, "fit", small.atlas, "--layer", "M_t", *cells, "-o", tmp_path / "cells.zarr")
    network = sd.network.BlockedPrecision.open(tmp_path / "cells.zarr")
    known = sd.network.PrecisionMatrix.from_moments(
        sd.network.CoMoments.from_cells(sd.open_cells(small.atlas, layer="M_t")), "fixed", 0.1
    )
    np.testing.assert_allclose(network.theta.compute(), known.theta, rtol=1e-8)
