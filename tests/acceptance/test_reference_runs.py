"""The whole job on real fits, from h5ad and from .h5sch, against reference outputs.

Repeat one by hand:

    stabdask run hopfield_pancreas50.h5ad --field hopfield_pancreas50.h5sch --layer Ms --cluster-key cell_type \
        --store out.zarr --workers 2
    stabdask verify out.zarr
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from helpers import match_spectra, shared_data

import stabdask as sd
from stabdask.cli.main import main

CASES = ("bifurcating", "dense_linear", "pancreas50")


def run_case(
    folder: Path,
    atlas: Path,
    field: Path,
    pairs: np.ndarray,
    workers: int,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    store = folder / "out.zarr"
    command = [
        "run", str(atlas), "--field", str(field), "--layer", "Ms", "--cluster-key", "cell_type",
        "--store", str(store), "--memory", "4GB", "--no-dashboard", "--json",
        "--elements", ",".join(":".join(pair) for pair in pairs), "--workers",
    ]  # fmt: skip
    if workers == 0:
        assert main([*command, "0"]) == 0
        report = json.loads(capsys.readouterr().out)
    else:
        program = [sys.executable, "-m", "stabdask.cli.main", *command, str(workers)]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
    assert report["complete"]
    assert report["n_failed"] == 0
    assert report["n_workers"] in ((0,) if workers == 0 else (1, 2))
    return store


@pytest.fixture(params=["h5sch", "h5ad"])
def case_field(request, tmp_path: Path):
    """Return a function that gives the atlas and the model of a case, the model in a file of either kind."""

    def make(name: str) -> tuple[Path, Path]:
        atlas, checkpoint = shared_data(f"hopfield_{name}.h5ad"), shared_data(f"hopfield_{name}.h5sch")
        if request.param == "h5sch":
            return atlas, checkpoint
        fitted = anndata.read_h5ad(atlas)
        sd.HopfieldField.from_anndata(checkpoint).to_anndata(fitted)
        path = tmp_path / "fitted.h5ad"
        fitted.write_h5ad(path)
        return path, path

    return make


@pytest.mark.parametrize("name", CASES)
def test_run_agrees_with_reference_and_dense_spectra(
    case_field, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On two worker processes for the largest; the others in this process."""
    atlas, model = case_field(name)
    reference = np.load(shared_data(f"hopfield_{name}.npz"))
    store = run_case(tmp_path, atlas, model, reference["pairs"], 2 if name == "pancreas50" else 0, capsys)
    ds = sd.open_results(store)
    assert ds["cell"].values.tolist() == reference["cell"].tolist()
    field = sd.read_field(model)
    adata = anndata.read_h5ad(atlas)
    x, labels = adata.layers["Ms"].astype(float), adata.obs["cell_type"].astype(str).to_numpy()
    spectrum = sd.complete_spectrum(ds).values
    expected = reference["two_eigenvalues"]
    sample = np.random.default_rng(0).permutation(len(x))[:12]
    for cell in sample:
        J = field.jacobian(x[cell : cell + 1], labels[cell])[0]
        limit = 1e-10 * np.linalg.norm(J)
        assert match_spectra(spectrum[cell], np.linalg.eigvals(J)) < limit
        assert match_spectra(spectrum[cell], expected[cell]) < limit
        i, j = np.random.default_rng(cell).integers(len(J), size=(2, 20))
        np.testing.assert_allclose(
            J[i, j], difference(field, x[cell], labels[cell], i, j), rtol=2e-5, atol=1e3 * limit
        )
    np.testing.assert_allclose(ds["spectral_abscissa"], expected.real.max(axis=1), atol=1e-10)
    clear = (np.abs(expected.real) > 1e-10).all(axis=1)
    assert clear.any()
    for variable, sign in (("unstable_count", 1), ("stable_count", -1)):
        np.testing.assert_array_equal(
            ds[variable].values[clear], (sign * expected.real > 0).sum(axis=1)[clear]
        )
    np.testing.assert_allclose(ds["trace"], reference["two_trace"], rtol=1e-12)
    np.testing.assert_allclose(ds["rotational_norm"], reference["two_rotational"], rtol=1e-10)
    genes = reference["gene"].tolist()
    for number, (effector, regulator) in enumerate(reference["pairs"]):
        first = reference["two_jacobian_first4"][:, genes.index(effector), genes.index(regulator)]
        np.testing.assert_allclose(ds["element"].values[:4, number], first, rtol=1e-10, atol=1e-12)
    ends = sd.extremes(ds)
    for cluster in ends["cluster"].values:
        real = expected[labels == cluster].real
        assert abs(complex(ends["largest"].sel(cluster=cluster)).real - real.max()) < 1e-9
        assert abs(complex(ends["smallest"].sel(cluster=cluster)).real - real.min()) < 1e-9
    assert sd.verify(store, n_cells=2).ok


def difference(field, x: np.ndarray, label: str, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return central finite differences of the velocity, d v_i / d x_j, staying on the cell's own branch."""
    out = np.empty(len(i))
    for number, (row, column) in enumerate(zip(i, j, strict=True)):
        step = 1e-6 * max(x[column], 1e-3)
        points = np.tile(x, (2, 1))
        points[0, column] += step
        points[1, column] = max(0.0, x[column] - step)
        v = field.velocity(points, label)[:, row]
        out[number] = (v[0] - v[1]) / (points[0, column] - points[1, column])
    return out


def test_two_component_field_agrees_with_finite_differences(tmp_path: Path) -> None:
    z = np.load(shared_data("hopfield_two_component.npz"))
    genes = [f"g{i}" for i in range(8)]
    field = sd.HopfieldField.from_arrays(
        genes, W=z["W"], gamma=z["gamma"], threshold=z["k1"], exponent=z["n1"], threshold2=z["k2"],
        exponent2=z["n2"], mix=z["mix"],
    )  # fmt: skip
    adata = anndata.AnnData(z["X"])
    adata.var_names = genes
    pairs = [(i, j) for i in genes for j in genes]
    report = sd.run(
        sd.open_cells(adata), field, tmp_path / "out.zarr", workers=2, elements=pairs, progress=False,
        dashboard=False,
    )  # fmt: skip
    assert report.n_failed == 0
    ds = sd.open_results(tmp_path / "out.zarr")
    J = ds["element"].values.reshape(-1, 8, 8)
    scale = np.abs(z["fd_model"]).max()
    assert np.abs(J - z["fd_model"]).max() < 1e-6 * scale
    # The single-component Jacobian is visibly another one, so this test can tell the two apart.
    assert np.abs(z["peer_elements"] - z["fd_model"]).max() > 1e-2 * scale
    spectrum = sd.complete_spectrum(ds).values
    for cell in range(0, 240, 7):
        assert match_spectra(spectrum[cell], np.linalg.eigvals(J[cell])) < 1e-10 * np.linalg.norm(J[cell])
    np.testing.assert_allclose(ds["rotational_norm"], z["fd_rotational"], rtol=1e-6)
