"""A field that dynamo fitted, through the drop-in: its own outputs reproduced."""

from __future__ import annotations

import json
from typing import Any

import anndata
import numpy as np
import pytest
from helpers import shared_data

from stabdask.compat import dynamo as dyn

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def reference() -> Any:
    return np.load(shared_data("dynamo_pca.npz"))


@pytest.fixture(scope="module")
def adata(reference: Any) -> anndata.AnnData:
    """Return the case as it was before dynamo's vector calculus, after ours."""
    adata = anndata.read_h5ad(shared_data("dynamo_pca.h5ad"))
    del adata.uns["jacobian_pca"]
    for column in [c for c in adata.obs if c.endswith("_pca") and c.split("_")[0] in MADE]:
        del adata.obs[column]
    for name in ("acceleration", "curvature"):
        del adata.obsm[f"{name}_pca"], adata.layers[name]
    regulators, effectors = (reference[f"{kind}_in"].tolist() for kind in ("regulators", "effectors"))
    dyn.vf.jacobian(adata, regulators=regulators, effectors=effectors)
    dyn.vf.sensitivity(adata, regulators=regulators, effectors=effectors)
    dyn.vf.divergence(adata)
    dyn.vf.speed(adata, basis="pca")
    dyn.vf.acceleration(adata, basis="pca")
    dyn.vf.curvature(adata)
    return adata


MADE = ("jacobian", "divergence", "speed", "acceleration", "curvature", "sensitivity")


def relative(found: Any, expected: Array) -> float:
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_jacobians(adata: anndata.AnnData, reference: Any) -> None:
    found = adata.uns["jacobian_pca"]
    for name in ("jacobian", "jacobian_gene"):
        assert found[name].dtype == reference[name].dtype
    J = reference["jacobian"]
    assert found["jacobian"].shape == J.shape
    norms = np.sqrt((J**2).sum(axis=(0, 1)))
    assert (np.sqrt(((found["jacobian"] - J) ** 2).sum(axis=(0, 1))) < 1e-10 * norms).all()
    assert relative(found["jacobian_gene"], reference["jacobian_gene"]) < 2**-23
    for name in ("regulators", "effectors", "cell_idx"):
        assert list(found[name]) == reference[name].tolist()
    np.testing.assert_allclose(adata.obs["jacobian_det_pca"], reference["jacobian_det_pca"], rtol=1e-10)


def test_what_dynamo_itself_left_is_read(reference: Any) -> None:
    """Tables and ranks are taken of results that dynamo wrote to the file."""
    theirs = anndata.read_h5ad(shared_data("dynamo_pca.h5ad"))
    table = dyn.vf.get_jacobian(theirs, reference["regulators_in"], reference["effectors_in"])
    assert table.columns.tolist() == reference["get_jacobian_columns"].tolist()
    assert table.index.tolist() == reference["obs_names"].tolist()
    np.testing.assert_array_equal(table.to_numpy()[:5], reference["get_jacobian_first5"])


def test_columns_and_vectors(adata: anndata.AnnData, reference: Any) -> None:
    assert relative(adata.obs["divergence_pca"], reference["divergence_pca"]) < 1e-12
    assert relative(adata.obs["speed_pca"], reference["speed_pca"]) < 1e-12
    theirs = anndata.read_h5ad(shared_data("dynamo_pca.h5ad"))
    for name in ("acceleration", "curvature"):
        assert relative(adata.obsm[f"{name}_pca"], reference[f"{name}_pca"]) < 1e-11
        assert relative(adata.obs[f"{name}_pca"], reference[f"{name}_norm"]) < 1e-11
        assert relative(adata.layers[name], theirs.layers[name]) < 1e-11


def test_sensitivities(adata: anndata.AnnData, reference: Any) -> None:
    found = adata.uns["sensitivity_pca"]
    assert relative(found["sensitivity"][:, :, :50], reference["sensitivity_pcs_first50"]) < 1e-12
    assert found["regulators"] == found["effectors"] == reference["sensitivity_genes"].tolist()
    assert found["sensitivity_gene"].dtype == np.float32
    assert relative(found["sensitivity_gene"][:, :, :50], reference["sensitivity_gene_first50"]) < 1e-6
    np.testing.assert_allclose(adata.obs["sensitivity_det_pca"], reference["sensitivity_det_pca"], rtol=1e-10)


@pytest.mark.parametrize("mode", ["full reg", "full eff", "reg", "eff", "int"])
def test_ranks_by_group(adata: anndata.AnnData, mode: str) -> None:
    expected = json.loads(shared_data("dynamo_pca_ranks_by_group.json").read_text())[mode]
    found: Any = dyn.vf.rank_jacobian_genes(adata, groups="group", mode=mode, return_df=True)
    if not mode.startswith("full"):
        expected, found = {"": expected}, {"": found}
    assert list(found) == list(expected)
    for group, columns in expected.items():
        assert list(found[group]) == list(columns)
        for name, values in columns.items():
            top = found[group][name].iloc[: len(values)]
            if name.endswith("_values"):
                np.testing.assert_allclose(top, np.array(values, dtype=float), rtol=1e-4, atol=1e-9)
            else:
                assert top.tolist() == values


def test_a_random_sample_is_that_of_dynamo(reference: Any) -> None:
    adata = anndata.read_h5ad(shared_data("dynamo_pca.h5ad"))
    found = dyn.vf.jacobian(adata, sampling="random", sample_ncells=60, store_in_adata=False)
    assert found["cell_idx"].tolist() == sorted(reference["cell_idx_random"].tolist())
    assert relative(found["jacobian"], reference["jacobian"][:, :, found["cell_idx"]]) < 1e-12
