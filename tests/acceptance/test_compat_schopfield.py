"""Real fits through the drop-in for scHopfield: its own outputs reproduced, and those of the activation as fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from helpers import match_spectra, shared_data

from stabdask.compat import schopfield as sch
from stabdask.fields.schopfield import read_schopfield

CASES = ("bifurcating", "dense_linear", "pancreas50")
ACTIVATIONS = {"single": "peer", "fitted": "two"}


def computed(name: str, activation: str, **options: Any) -> tuple[anndata.AnnData, Any]:
    """Return a case as scHopfield's user has it after calling everything, and the reference outputs."""
    adata = anndata.read_h5ad(shared_data(f"hopfield_{name}.h5ad"))
    reference = np.load(shared_data(f"hopfield_{name}.npz"))
    sch.tl.load_model(adata, shared_data(f"hopfield_{name}.h5sch"))
    assert adata.obs_names.tolist() == reference["cell"].tolist()
    sch.tl.compute_jacobians(adata, activation=activation, **options)
    sch.tl.compute_jacobian_stats(adata)
    pairs = [(str(i), str(j)) for i, j in reference["pairs"]]
    sch.tl.compute_jacobian_elements(adata, pairs, activation=activation)
    sch.tl.compute_rotational_part(adata, activation=activation)
    return adata, reference


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_columns_are_those_of_the_reference(name: str, activation: str) -> None:
    adata, reference = computed(name, activation)
    kind = ACTIVATIONS[activation]
    expected = reference[f"{kind}_eigenvalues"]
    values = adata.obsm["jacobian_eigenvalues"]
    assert (values.shape, values.dtype) == (expected.shape, np.complex64)
    radius = np.abs(expected).max(axis=1)
    for cell in range(0, len(values), 5):
        assert match_spectra(values[cell], expected[cell]) < 2e-6 * radius[cell]
    obs = adata.obs
    leading = expected.real.max(axis=1)
    np.testing.assert_allclose(obs["jacobian_eig1_real"], leading, atol=2e-6 * radius.max())
    np.testing.assert_allclose(obs["jacobian_leading_real"], leading, atol=2e-6 * radius.max())
    clear = (np.abs(expected.real) > 1e-4).all(axis=1)
    assert clear.mean() > 0.9
    for column, sign in (("jacobian_positive_evals", 1), ("jacobian_negative_evals", -1)):
        count = (sign * expected.real > 0).sum(axis=1)
        np.testing.assert_array_equal(obs[column].to_numpy()[clear], count[clear])
    np.testing.assert_allclose(obs["jacobian_trace"], reference[f"{kind}_trace"], rtol=1e-5)
    np.testing.assert_allclose(obs["jacobian_rotational"], reference[f"{kind}_rotational"], rtol=1e-5)
    columns = [f"jacobian_df_{i}_dx_{j}" for i, j in reference["pairs"]]
    elements = obs[columns].to_numpy()
    if kind == "peer":
        # Its slopes are float32: where an activation saturates, 1 - s has lost its digits.
        np.testing.assert_allclose(elements, reference["peer_elements"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(
            obs["jacobian_positive_evals"][clear], reference["peer_positive"][clear]
        )
        np.testing.assert_array_equal(
            obs["jacobian_negative_evals"][clear], reference["peer_negative"][clear]
        )
        np.testing.assert_allclose(
            obs["jacobian_leading_real"], reference["peer_leading"], atol=2e-6 * radius.max()
        )
    else:
        genes = reference["gene"].tolist()
        for number, (i, j) in enumerate(reference["pairs"]):
            own = reference["two_jacobian_first4"][:, genes.index(i), genes.index(j)]
            np.testing.assert_allclose(elements[:4, number], own, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("name", "percent"), [("bifurcating", 18), ("dense_linear", 76), ("pancreas50", 74)])
def test_the_second_component_changes_the_counts(name: str, percent: int) -> None:
    """These are the figures in notebooks/from_schopfield.md."""
    single, _ = computed(name, "single")
    fitted, _ = computed(name, "fitted")
    other = single.obs["jacobian_positive_evals"] != fitted.obs["jacobian_positive_evals"]
    assert round(100 * other.mean()) == percent


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_vectors_belong_to_their_eigenvalues(name: str, activation: str, tmp_path: Path) -> None:
    whole = anndata.read_h5ad(shared_data(f"hopfield_{name}.h5ad"))
    adata = whole[:: max(1, whole.n_obs // 12)].copy()
    sch.tl.load_model(adata, shared_data(f"hopfield_{name}.h5sch"))
    sch.tl.compute_jacobians(adata, activation=activation, compute_eigenvectors=True)
    field = read_schopfield(adata, activation=activation)
    x, labels = adata.layers["Ms"].astype(float), adata.obs["cell_type"].astype(str)
    for cell, V in enumerate(adata.uns["jacobian_eigenvectors_temp"]["data"]):
        J = field.jacobian(x[cell : cell + 1], labels.iloc[cell])[0]
        residual = np.abs(J @ V - V * adata.obsm["jacobian_eigenvalues"][cell])
        assert residual.max() < 1e-6 * np.linalg.norm(J)
        np.testing.assert_allclose(np.linalg.norm(V, axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_come_back(name: str, tmp_path: Path) -> None:
    original = shared_data(f"hopfield_{name}.h5sch")
    adata = anndata.read_h5ad(shared_data(f"hopfield_{name}.h5ad"))
    sch.tl.load_model(adata, original)
    sch.tl.save_model(adata, tmp_path / "again.h5sch")
    assert read_schopfield(tmp_path / "again.h5sch").fingerprint == read_schopfield(original).fingerprint
    assert read_schopfield(adata).fingerprint == read_schopfield(original).fingerprint
