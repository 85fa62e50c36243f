"""dynamo's vector calculus and sensitivities against matrices summed cell by cell, and flows worked by hand."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pytest
from compat.dynamo_fits import DynamoFit, Flow, apart, dynamo_fit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import fsolve

import stabdask as sd
from stabdask.compat import dynamo as dyn
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]


def accelerations(fit: DynamoFit) -> Array:
    return np.stack([J @ v for J, v in zip(fit.jacobians(), fit.velocities(), strict=True)])


def curvatures(fit: DynamoFit) -> Array:
    out = [
        (a * (v @ v) - v * (v @ a)) / np.linalg.norm(v) ** 4
        for v, a in zip(fit.velocities(), accelerations(fit), strict=True)
    ]
    return np.stack(out)


def test_speed() -> None:
    fit = dynamo_fit()
    assert dyn.vf.speed(fit.adata, basis="pca") is None
    assert apart(fit.adata.obs["speed_pca"], np.linalg.norm(fit.velocities(), axis=1)) < 1e-13
    dyn.vf.speed(fit.adata, basis="pca", method="numeric")
    given_speed = np.linalg.norm(fit.adata.obsm["velocity_pca"], axis=1)
    np.testing.assert_allclose(fit.adata.obs["speed_pca"], given_speed)
    with pytest.raises(MissingKeyError, match="velocity_umap"):
        dyn.vf.speed(fit.adata, method="numeric")
    with pytest.raises(UsageError, match="method='exact'"):
        dyn.vf.speed(fit.adata, basis="pca", method="exact")
    with pytest.raises(UsageError, match="needs an embedding"):
        dyn.vf.speed(fit.adata, basis=None, method="numeric")


def test_divergence() -> None:
    fit = dynamo_fit()
    traces = np.array([np.trace(J) for J in fit.jacobians()])
    assert dyn.vf.divergence(fit.adata) is None
    assert apart(fit.adata.obs["divergence_pca"], traces) < 1e-12
    # Others keep what they had.
    fit.adata.obs["divergence_pca"] = 7.0
    dyn.vf.divergence(fit.adata, cell_idx=["cell4", "cell2"])
    np.testing.assert_allclose(fit.adata.obs["divergence_pca"].iloc[[4, 2]], traces[[4, 2]], rtol=1e-10)
    assert (fit.adata.obs["divergence_pca"] == 7.0).sum() == 23
    found = dyn.vf.divergence(fit.adata, cell_idx=[9, 1], store_in_adata=False, vectorize_size=1)
    np.testing.assert_allclose(found, traces[[9, 1]], rtol=1e-10)
    numeric = dyn.vf.divergence(fit.adata, method="numerical", store_in_adata=False)
    np.testing.assert_allclose(numeric, traces, atol=1e-8)
    with pytest.raises(UsageError, match="no option 'cell_id'"):
        dyn.vf.divergence(fit.adata, cell_id=[3])


@pytest.mark.parametrize("stored", [[3, 7, 11], [11, 7, 3], [24, 1]])
@pytest.mark.parametrize("wanted", [[3, 7, 11], [7, 3], [0, 1, 2]])
def test_divergence_takes_no_jacobians_of_other_cells(stored: list[int], wanted: list[int]) -> None:
    """Dynamo looks stored ones up by position where as many are stored as wanted, else by number of the cell."""
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata, cell_idx=stored)
    found = dyn.vf.divergence(fit.adata, cell_idx=wanted, store_in_adata=False)
    np.testing.assert_allclose(found, [np.trace(J) for J in fit.jacobians(fit.x[wanted])], rtol=1e-10)


@pytest.mark.parametrize("name", ["acceleration", "curvature"])
def test_vectors_along_the_path(name: str) -> None:
    fit = dynamo_fit()
    expected = {"acceleration": accelerations, "curvature": curvatures}[name](fit)
    getattr(dyn.vf, name)(fit.adata, basis="pca")
    assert apart(fit.adata.obsm[f"{name}_pca"], expected) < 1e-12
    assert apart(fit.adata.obs[f"{name}_pca"], np.linalg.norm(expected, axis=1)) < 1e-12
    layer = fit.adata.layers[name]
    used = fit.adata.var["use_for_pca"].to_numpy()
    assert np.isnan(layer[:, ~used]).all()
    assert fit.adata.var_names[used].tolist() == fit.genes
    assert apart(layer[:, used], expected @ fit.loadings.T) < 1e-12


def test_curvature_by_the_first_formula_is_its_norm() -> None:
    """Dynamo takes |v| |a| for |v x a|, and then fails."""
    fit = dynamo_fit()
    dyn.vf.curvature(fit.adata, formula=1)
    assert apart(fit.adata.obs["curvature_pca"], np.linalg.norm(curvatures(fit), axis=1)) < 1e-12
    assert "curvature_pca" not in fit.adata.obsm
    with pytest.raises(UsageError, match="formula=3"):
        dyn.vf.curvature(fit.adata, formula=3)


def points(x: Array, basis: str = "umap") -> Any:
    fit = dynamo_fit(n_cells=len(x), n_axes=x.shape[1], basis=basis)
    fit.adata.obsm[f"X_{basis}"] = x
    del fit.adata.uns["VecFld_umap"]
    return fit.adata


def test_a_circle_is_as_curved_as_it_is_small() -> None:
    x = np.array([[2.0, 0.0], [0.0, 0.5], [3.0, 4.0], [0.0, 0.0]])
    turning = Flow(lambda x: np.stack([-x[:, 1], x[:, 0]], axis=1))
    adata = points(x)
    for formula in (1, 2):
        dyn.vf.curvature(adata, basis="umap", vector_field_class=turning, formula=formula)
        np.testing.assert_allclose(adata.obs["curvature_umap"], [0.5, 2.0, 0.2, np.nan], rtol=1e-8)
    dyn.vf.curl(adata, vector_field_class=turning)
    np.testing.assert_allclose(adata.obs["curl_umap"], 2.0, rtol=1e-8)
    assert "curvature" not in adata.layers


def test_curl_of_a_rotation_is_twice_its_rate() -> None:
    """Dynamo's, of three axes, is too large by the square root of three."""
    omega = np.array([1.0, -2.0, 2.0])
    spin = Flow(lambda x: np.cross(omega, x))
    adata = points(np.random.default_rng(0).normal(size=(5, 3)))
    dyn.vf.curl(adata, vector_field_class=spin)
    np.testing.assert_allclose(adata.obs["curl_umap"], 6.0, rtol=1e-8)
    np.testing.assert_allclose(adata.obsm["curl_umap"], np.tile(2 * omega, (5, 1)), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("d", [2, 3])
def test_curl_of_a_fitted_field(d: int) -> None:
    fit = dynamo_fit(n_axes=d, basis="umap")
    fit.adata.obsm["X_pca"] = fit.adata.obsm["X_umap"]
    J = fit.jacobians()
    dyn.vf.curl(fit.adata)
    if d == 2:
        assert apart(fit.adata.obs["curl_umap"], J[:, 1, 0] - J[:, 0, 1]) < 1e-12
        return
    expected = np.stack([J[:, i, j] - J[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
    assert apart(fit.adata.obsm["curl_umap"], expected) < 1e-12


def test_torsion_of_a_helix() -> None:
    """Radius r and rise c per radian: torsion c / (r^2 + c^2), curvature r / (r^2 + c^2)."""
    rise = 0.5
    helix = Flow(lambda x: np.stack([-x[:, 1], x[:, 0], np.full(len(x), rise)], axis=1))
    x = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 5.0], [0.0, 0.0, 1.0]])
    adata = points(x)
    dyn.vf.torsion(adata, vector_field_class=helix)
    r = np.array([1.0, 2.0])
    np.testing.assert_allclose(adata.obs["torsion_umap"].iloc[:2], rise / (r**2 + rise**2), rtol=1e-7)
    assert np.isnan(adata.obs["torsion_umap"].iloc[2])
    dyn.vf.curvature(adata, basis="umap", vector_field_class=helix)
    np.testing.assert_allclose(adata.obs["curvature_umap"].iloc[:2], r / (r**2 + rise**2), rtol=1e-7)


def test_torsion_of_a_given_function_is_that_of_the_field_it_is() -> None:
    """The third derivative along the path: in closed form, and from differences of Jacobians."""
    fit = dynamo_fit(n_axes=3, basis="umap")
    dyn.vf.torsion(fit.adata)
    closed = fit.adata.obs["torsion_umap"].to_numpy().copy()
    fit.adata.obsm["X_pca"] = fit.adata.obsm["X_umap"]
    flow = Flow(
        lambda x: np.stack([fit.velocity(p) for p in x]), lambda x: fit.jacobians(x).transpose(1, 2, 0)
    )
    dyn.vf.torsion(fit.adata, vector_field_class=flow)
    assert apart(fit.adata.obs["torsion_umap"], closed) < 1e-6
    dyn.vf.torsion(fit.adata, method="numerical")
    assert apart(fit.adata.obs["torsion_umap"], closed) < 1e-4
    # A path integrated a little way both ways has the same torsion.
    cell, h = 3, 1e-2
    path = _path(fit, fit.x[cell], h)
    first, second = (path[2] - path[0]) / (2 * h), (path[2] - 2 * path[1] + path[0]) / h**2
    third = (_path(fit, path[2], h)[2] - 2 * path[2] + 2 * path[0] - _path(fit, path[0], h)[0]) / (2 * h**3)
    normal = np.cross(first, second)
    assert closed[cell] == pytest.approx(normal @ third / (normal @ normal), rel=2e-2)


def _path(fit: DynamoFit, x: Array, h: float) -> list[Array]:
    """Return the point a time h before, the point, and that after, by Runge and Kutta."""
    out = [x]
    for step in (-h, h):
        k1 = fit.velocity(x)
        k2 = fit.velocity(x + step / 2 * k1)
        k3 = fit.velocity(x + step / 2 * k2)
        k4 = fit.velocity(x + step * k3)
        out.append(x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return [out[1], out[0], out[2]]


def test_curl_and_torsion_are_of_few_axes() -> None:
    fit = dynamo_fit()
    with pytest.raises(InputError, match=r"4 axes, and a curl is of two or three.*rotational_norm"):
        dyn.vf.curl(fit.adata, basis="pca")
    with pytest.raises(InputError, match="4 axes, and torsion is of paths in three"):
        dyn.vf.torsion(fit.adata, basis="pca")
    for name in ("acceleration", "curvature", "curl", "torsion"):
        with pytest.raises(UsageError, match=f"{name} has no option 'core'; did you mean 'cores'"):
            getattr(dyn.vf, name)(fit.adata, basis="pca", core=3)


# --- fixed points -------------------------------------------------------------------------------------------


def test_where_a_solver_stalls_is_no_fixed_point() -> None:
    """Dynamo takes what its solver ends at, and types it by the solver's approximate Jacobian."""
    centers, coefficients, beta = np.array([[-1.5], [1.5]]), np.ones((2, 1)), 0.5
    cells = np.linspace(-1.0, 1.0, 41)[:, None]
    adata = anndata.AnnData(obsm={"X_umap": cells})
    adata.uns["VecFld_umap"] = {"X": cells, "X_ctrl": centers, "C": coefficients, "beta": beta}
    field = sd.RKHSField.from_anndata(adata, basis="umap")
    assert (field.velocity(cells) > 0.6).all()
    end, _, outcome, _ = fsolve(lambda x: field.velocity(x[None])[0], [0.5], full_output=True)
    assert outcome != 1, "the case must be one in which a solver stalls"
    assert abs(end[0]) < 1, "among the cells"
    found = sd.fixed_points(field, sd.open_cells(adata, obsm="X_umap"))
    assert found.sizes["fixed_point"] == 0


# --- sensitivities ------------------------------------------------------------------------------------------


def by_definition(J: Array) -> Array:
    inverse = np.linalg.inv(np.eye(len(J)) - J)
    return inverse @ np.diag(1 / np.diag(inverse))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n_axes=st.integers(1, 5), n_genes=st.integers(1, 5))
def test_sensitivities_are_by_definition(seed: int, n_axes: int, n_genes: int) -> None:
    fit = dynamo_fit(seed, n_cells=6, n_axes=n_axes)
    rng = np.random.default_rng(seed)
    regulators = [str(g) for g in rng.choice(fit.genes, n_genes, replace=False)]
    effectors = [str(g) for g in rng.choice(fit.genes, 2, replace=False)]
    assert dyn.vf.sensitivity(fit.adata, regulators, effectors) is fit.adata
    found = fit.adata.uns["sensitivity_pca"]
    expected = np.stack([by_definition(J) for J in fit.jacobians()], axis=-1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found["sensitivity"], expected, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(
        fit.adata.obs["sensitivity_det_pca"],
        [np.linalg.det(S) for S in expected.transpose(2, 0, 1)],
        rtol=1e-6,
    )
    union = [name for name in fit.adata.var_names if name in {*regulators, *effectors}]
    assert found["regulators"] == found["effectors"] == union
    J = fit.between(union, union)
    genes = np.stack([by_definition(J[:, :, cell]) for cell in range(6)], axis=-1)
    assert found["sensitivity_gene"].dtype == np.float32
    np.testing.assert_allclose(found["sensitivity_gene"], genes, rtol=1e-4, atol=1e-6 * np.abs(genes).max())


def test_sensitivities_of_some_cells() -> None:
    """Dynamo computes all cells, and then cannot keep their determinants."""
    fit = dynamo_fit()
    dyn.vf.sensitivity(fit.adata, fit.genes[:2], cell_idx=["cell5", "cell2"])
    found = fit.adata.uns["sensitivity_pca"]
    np.testing.assert_array_equal(found["cell_idx"], [5, 2])
    expected = np.stack([by_definition(J) for J in fit.jacobians(fit.x[[5, 2]])], axis=-1)
    assert apart(found["sensitivity"], expected) < 1e-10
    assert fit.adata.obs["sensitivity_det_pca"].notna().sum() == 2
    bare = dyn.vf.sensitivity(fit.adata, store_in_adata=False)
    assert list(bare) == ["sensitivity", "cell_idx"]


def test_sensitivities_lifted_directly() -> None:
    fit = dynamo_fit()
    options = {"projection_method": "direct", "store_in_adata": False}
    found = dyn.vf.sensitivity(fit.adata, fit.genes[:3], fit.genes[2:4], **options)
    S = np.stack([by_definition(J) for J in fit.jacobians()])
    rows, columns = fit.loadings[2:4], fit.loadings[:3]
    assert (found["regulators"], found["effectors"]) == (fit.genes[:3], fit.genes[2:4])
    assert apart(found["sensitivity_gene"], np.einsum("ia,cab,jb->ijc", rows, S, columns)) < 1e-6
    single = dyn.vf.sensitivity(fit.adata, fit.genes[0], fit.genes[2], **options)["sensitivity_gene"]
    assert (single.shape, single.dtype) == ((25,), np.float64)
    assert apart(single, np.einsum("a,cab,b->c", rows[0], S, columns[0])) < 1e-10
    with pytest.raises(UsageError, match="projection_method='from_jacoian'"):
        dyn.vf.sensitivity(fit.adata, projection_method="from_jacoian")


def test_a_column_of_var_names_genes_of_sensitivities() -> None:
    """Dynamo looks for a gene of that name."""
    fit = dynamo_fit()
    fit.adata.var["TF"] = fit.adata.var_names.isin(fit.genes[3:6])
    found = dyn.vf.sensitivity(fit.adata, regulators="TF", store_in_adata=False)
    assert found["regulators"] == fit.genes[3:6]
    one = dyn.vf.sensitivity(fit.adata, regulators=fit.genes[0], store_in_adata=False)
    np.testing.assert_allclose(one["sensitivity_gene"], np.ones((1, 1, 25)), rtol=1e-6)


def test_singular_cells_have_no_sensitivity() -> None:
    adata = points(np.array([[1.0, 0.0], [2.0, 0.0]]))
    flow = Flow(
        lambda x: x,
        lambda x: np.stack([np.eye(2) if p[0] == 1 else np.zeros((2, 2)) for p in x], axis=-1),
    )
    found = dyn.vf.sensitivity(adata, basis="umap", vector_field_class=flow, store_in_adata=False)
    assert np.isnan(found["sensitivity"][:, :, 0]).all()
    np.testing.assert_array_equal(found["sensitivity"][:, :, 1], np.eye(2))


def test_calculus_of_cells_without_coordinates() -> None:
    fit = dynamo_fit()
    fit.adata.obsm["X_pca"][2, 0] = np.nan
    del fit.adata.uns["VecFld_pca"]["X"]
    with pytest.warns(StabdaskWarning, match="1 of 25 cells"):
        dyn.vf.acceleration(fit.adata, basis="pca")
    assert np.flatnonzero(fit.adata.obs["acceleration_pca"].isna()).tolist() == [2]
    with pytest.warns(StabdaskWarning, match="1 of 25 cells"):
        dyn.vf.divergence(fit.adata)
    assert np.flatnonzero(fit.adata.obs["divergence_pca"].isna()).tolist() == [2]
    with pytest.warns(StabdaskWarning, match="1 of 25 cells"):
        dyn.vf.sensitivity(fit.adata, fit.genes[:2])
    assert np.isnan(fit.adata.uns["sensitivity_pca"]["sensitivity_gene"][:, :, 2]).all()
