"""dynamo's field through the command line, on two worker processes, against dynamo's own outputs.

Repeat by hand:

    stabdask run dynamo_pca.h5ad --field dynamo_pca.h5ad --cluster-key group --store out.zarr --workers 2
    stabdask verify out.zarr
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers import match_spectra, shared_data

import stabdask as sd

QUANTITIES = (
    *("default", "jacobian", "jacobian_mean", "dynamo_sensitivity"),
    *("velocity", "acceleration", "acceleration_norm", "curvature", "curvature_norm"),
)


def stabdask(*arguments: str) -> str:
    command = [sys.executable, "-m", "stabdask.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray[Any, Any]]:
    return dict(np.load(shared_data("dynamo_pca.npz")))


@pytest.fixture(scope="module")
def store(reference: dict[str, np.ndarray[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    atlas, store = str(shared_data("dynamo_pca.h5ad")), tmp_path_factory.mktemp("rkhs") / "out.zarr"
    report = json.loads(
        stabdask(
            "run", atlas, "--field", atlas, "--cluster-key", "group", "--store", str(store), "--workers", "2",
            "--memory", "4GB", "--no-dashboard", "--json", "--quantities", ",".join(QUANTITIES),
            "--effectors", ",".join(reference["effectors"]), "--regulators", ",".join(reference["regulators"]),
        )
    )  # fmt: skip
    assert report["complete"]
    assert report["n_failed"] == 0
    return store


@pytest.fixture(scope="module")
def ds(store: Path) -> xr.Dataset:
    return sd.open_results(store).compute()


def test_spectra_are_those_of_dynamos_jacobians(ds: xr.Dataset, reference: dict[str, Any]) -> None:
    J = np.moveaxis(reference["jacobian"], 2, 0)
    assert ds["cell"].values.tolist() == reference["obs_names"].tolist()
    for cell in range(len(J)):
        dense = np.linalg.eigvals(J[cell])
        scale = np.linalg.norm(J[cell])
        assert match_spectra(ds["eigenvalue"].values[cell], dense) < 1e-9 * scale
        assert abs(float(ds["spectral_abscissa"][cell]) - dense.real.max()) < 1e-9 * scale
    determinant = ds["det_sign"].values * np.exp(ds["logabsdet"].values)
    np.testing.assert_allclose(determinant, reference["jacobian_det_pca"], rtol=1e-8)


def test_closed_forms_are_dynamos(ds: xr.Dataset, reference: dict[str, Any]) -> None:
    for ours, theirs in {
        "trace": "divergence_pca",
        "speed": "speed_pca",
        "velocity": "vf_V",
        "acceleration": "acceleration_pca",
        "acceleration_norm": "acceleration_norm",
        "curvature": "curvature_pca",
        "curvature_norm": "curvature_norm",
    }.items():
        np.testing.assert_allclose(ds[ours].values, reference[theirs], rtol=1e-9, atol=1e-12, err_msg=ours)


def test_elements_between_genes_are_dynamos(ds: xr.Dataset, reference: dict[str, Any]) -> None:
    assert ds["block_effector"].values.tolist() == reference["effectors"].tolist()
    single = np.moveaxis(reference["jacobian_gene"], 2, 0)
    np.testing.assert_allclose(ds["jacobian"].values, single, atol=1e-7 * np.abs(single).max())
    union = reference["sensitivity_genes"].tolist()
    rows, columns = ([union.index(g) for g in reference[kind]] for kind in ("effectors", "regulators"))
    single = np.moveaxis(reference["sensitivity_gene_first50"], 2, 0)[:, rows][:, :, columns]
    np.testing.assert_allclose(ds["dynamo_sensitivity"].values[:50], single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["full reg", "full eff", "reg", "eff", "int"])
def test_rankings_are_dynamos(store: Path, mode: str) -> None:
    expected = json.loads(shared_data("dynamo_pca_ranks_by_group.json").read_text())[mode]
    found = json.loads(stabdask("rank", str(store), "--mode", mode, "--top", "5", "--json"))
    for cluster, values in found.items():
        rows = values["rows"]
        if mode in ("full reg", "full eff"):
            fixed, ranked = ("effector", "regulator") if mode == "full reg" else ("regulator", "effector")
            for gene in {row[fixed] for row in rows}:
                own = [row for row in rows if row[fixed] == gene]
                assert [row[ranked] for row in own] == expected[cluster][gene]
                their = expected[cluster][f"{gene}_values"]
                np.testing.assert_allclose([row["value"] for row in own], their, rtol=1e-4, atol=1e-9)
            continue
        names = {
            "reg": lambda row: row["regulator"],
            "eff": lambda row: row["effector"],
            "int": lambda row: f"{row['effector']} - {row['regulator']}",
        }[mode]
        assert [names(row) for row in rows] == expected[cluster]
        their = [float(value) for value in expected[f"{cluster}_values"]]
        np.testing.assert_allclose([row["value"] for row in rows], their, rtol=1e-4, atol=1e-9)


def test_the_store_verifies(store: Path) -> None:
    assert "ok" in stabdask("verify", str(store)).splitlines()[0]
