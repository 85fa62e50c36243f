"""dynamo's `jacobian` against matrices summed cell by cell: values, layout, which cells and genes, refusals."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import psutil
import pytest
from compat.dynamo_fits import Flow, apart, dynamo_fit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stabdask as sd
from stabdask.compat import dynamo as dyn
from stabdask.compat.dynamo.fits import open_fit
from stabdask.errors import InputError, MemoryBudgetError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]
NEEDED = inspect.Parameter.empty
CELLS = {"cell_idx": None, "sampling": None, "sample_ncells": 1000}
SIGNATURES: dict[str, dict[str, Any]] = {
    "jacobian": {
        "adata": NEEDED, "regulators": None, "effectors": None, **CELLS, "basis": "pca", "Qkey": "PCs",
        "vector_field_class": None, "method": "analytical", "store_in_adata": True,
    },
    "sensitivity": {
        "adata": NEEDED, "regulators": None, "effectors": None, **CELLS, "basis": "pca", "Qkey": "PCs",
        "vector_field_class": None, "method": "analytical", "projection_method": "from_jacobian",
        "store_in_adata": True,
    },
    "divergence": {
        "adata": NEEDED, **CELLS, "basis": "pca", "vector_field_class": None, "method": "analytical",
        "store_in_adata": True,
    },
    "speed": {"adata": NEEDED, "basis": "umap", "vector_field_class": None, "method": "analytical"},
    "acceleration": {
        "adata": NEEDED, "basis": "umap", "vector_field_class": None, "Qkey": "PCs", "method": "analytical",
    },
    "curvature": {
        "adata": NEEDED, "basis": "pca", "vector_field_class": None, "formula": 2, "Qkey": "PCs",
        "method": "analytical",
    },
    "curl": {"adata": NEEDED, "basis": "umap", "vector_field_class": None, "method": "analytical"},
    "torsion": {"adata": NEEDED, "basis": "umap", "vector_field_class": None},
    "rank_jacobian_genes": {
        "adata": NEEDED, "groups": None, "jkey": "jacobian_pca", "abs": False, "mode": "full reg",
        "exclude_diagonal": False, "normalize": False, "return_df": False,
    },
    "rank_sensitivity_genes": {
        "adata": NEEDED, "groups": None, "skey": "sensitivity_pca", "abs": False, "mode": "full reg",
        "exclude_diagonal": False,
    },
    "get_jacobian": {
        "adata": NEEDED, "regulators": NEEDED, "effectors": NEEDED, "jkey": "jacobian", "j_basis": "pca",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_dynamo(name: str) -> None:
    parameters = list(inspect.signature(getattr(dyn.vf, name)).parameters.values())
    wanted = SIGNATURES[name]
    assert {p.name: p.default for p in parameters[: len(wanted)]} == wanted
    assert getattr(dyn, name) is getattr(dyn.vf, name)
    # What dynamo passes on is refused with a near miss, not swallowed.
    assert all(p.default is not NEEDED for p in parameters[len(wanted) :] if p.kind != p.VAR_KEYWORD)


def test_the_layout_is_that_of_dynamo() -> None:
    fit = dynamo_fit()
    n, d = fit.x.shape
    regulators, effectors = fit.genes[2:7], fit.genes[5:8]
    assert dyn.vf.jacobian(fit.adata, regulators, effectors) is fit.adata
    found = fit.adata.uns["jacobian_pca"]
    assert list(found) == ["jacobian", "cell_idx", "jacobian_gene", "regulators", "effectors"]
    assert (found["jacobian"].shape, found["jacobian"].dtype) == ((d, d, n), np.float64)
    assert (found["jacobian_gene"].shape, found["jacobian_gene"].dtype) == ((3, 5, n), np.float32)
    assert (found["regulators"], found["effectors"]) == (regulators, effectors)
    np.testing.assert_array_equal(found["cell_idx"], np.arange(n))
    assert apart(found["jacobian"], fit.jacobians().transpose(1, 2, 0)) < 1e-13
    assert apart(found["jacobian_gene"], fit.between(effectors, regulators)) < 1e-7
    determinants = np.linalg.det(fit.jacobians())
    np.testing.assert_allclose(fit.adata.obs["jacobian_det_pca"], determinants, rtol=1e-10)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n_cells=st.integers(1, 9),
    n_axes=st.integers(1, 6),
    n_centers=st.integers(1, 9),
    more_columns=st.integers(0, 2),
    n_regulators=st.integers(1, 4),
    n_effectors=st.integers(1, 4),
)
def test_any_shape(
    seed: int,
    n_cells: int,
    n_axes: int,
    n_centers: int,
    more_columns: int,
    n_regulators: int,
    n_effectors: int,
) -> None:
    fit = dynamo_fit(
        seed, n_cells=n_cells, n_axes=n_axes, n_centers=n_centers, more_columns=more_columns, n_genes=10
    )
    x = fit.x[:, :n_axes]
    rng = np.random.default_rng(seed)
    regulators = [str(g) for g in rng.choice(fit.genes, n_regulators, replace=False)]
    effectors = [str(g) for g in rng.choice(fit.genes, n_effectors, replace=False)]
    found = dyn.vf.jacobian(fit.adata, regulators, effectors, store_in_adata=False)
    np.testing.assert_allclose(found["jacobian"], fit.jacobians(x).transpose(1, 2, 0), rtol=1e-10, atol=1e-12)
    expected = fit.between(found["effectors"], found["regulators"], x)
    if n_regulators == n_effectors == 1:
        expected = expected[0, 0]
        assert found["jacobian_gene"].dtype == np.float64
    np.testing.assert_allclose(found["jacobian_gene"], expected, rtol=1e-5, atol=1e-7)


def test_without_genes_there_are_no_elements_between_them() -> None:
    fit = dynamo_fit()
    del fit.adata.uns["PCs"]  # loadings are not needed
    found = dyn.vf.jacobian(fit.adata, store_in_adata=False)
    assert list(found) == ["jacobian", "cell_idx"]


def test_nothing_is_kept_unless_asked_for() -> None:
    fit = dynamo_fit()
    before = fit.adata.copy()
    dyn.vf.jacobian(fit.adata, fit.genes[:3], cell_idx=[3, 4], store_in_adata=False)
    dyn.vf.sensitivity(fit.adata, fit.genes[:3], cell_idx=[3, 4], store_in_adata=False)
    assert fit.adata.obs.equals(before.obs)
    assert sorted(fit.adata.uns) == sorted(before.uns)


# --- genes --------------------------------------------------------------------------------------------------


def test_genes_come_once_and_in_the_order_of_var() -> None:
    fit = dynamo_fit()
    asked = [fit.genes[9], fit.genes[2], fit.genes[9], fit.genes[5]]
    found = dyn.vf.jacobian(fit.adata, regulators=asked, store_in_adata=False)
    in_order = [name for name in fit.adata.var_names if name in asked]
    assert found["regulators"] == found["effectors"] == in_order
    assert in_order != sorted(in_order), "the case must tell the order of var from that of the alphabet"
    assert apart(found["jacobian_gene"], fit.between(in_order, in_order)) < 1e-7
    same = dyn.vf.jacobian(fit.adata, effectors=np.array(asked), store_in_adata=False)
    np.testing.assert_array_equal(same["jacobian_gene"], found["jacobian_gene"])


def test_a_column_of_var_names_genes() -> None:
    fit = dynamo_fit()
    fit.adata.var["TF"] = fit.adata.var_names.isin(fit.genes[3:6])
    fit.adata.var["weight"] = 1.0
    found = dyn.vf.jacobian(fit.adata, regulators="TF", effectors=fit.genes[0], store_in_adata=False)
    assert found["regulators"] == fit.genes[3:6]
    assert found["effectors"] == [fit.genes[0]]
    assert found["jacobian_gene"].shape == (1, 3, len(fit.x))
    with pytest.raises(InputError, match="'weight' is a column of var with dtype float64"):
        dyn.vf.jacobian(fit.adata, regulators="weight")


def test_a_single_pair_has_one_dimension() -> None:
    fit = dynamo_fit()
    i, j = fit.genes[4], fit.genes[7]
    found = dyn.vf.jacobian(fit.adata, regulators=j, effectors=[i], store_in_adata=False)
    assert found["jacobian_gene"].shape == (len(fit.x),)
    assert apart(found["jacobian_gene"], fit.between([i], [j])[0, 0]) < 1e-13


def test_unknown_genes_are_named() -> None:
    fit = dynamo_fit()
    outside = next(name for name in fit.adata.var_names if name not in fit.genes)
    with pytest.warns(StabdaskWarning, match=f"2 of 4 regulators .* left out: 'SOX2', '{outside}'") as said:
        found = dyn.vf.jacobian(
            fit.adata, [fit.genes[0], "SOX2", outside, fit.genes[1]], fit.genes[:1], store_in_adata=False
        )
    assert found["regulators"] == fit.genes[:2]
    assert said[0].filename == __file__, "the warning points to the line that called"
    with pytest.raises(InputError, match="none of the effectors 'SOX2', 'NANOG'"):
        dyn.vf.jacobian(fit.adata, fit.genes[:2], ["SOX2", "NANOG"])
    with pytest.raises(InputError, match="the list is empty"):
        dyn.vf.jacobian(fit.adata, regulators=[])
    with pytest.raises(UsageError, match=r"regulators hold .*True"):
        dyn.vf.jacobian(fit.adata, regulators=[True, False])
    with pytest.raises(UsageError, match="regulators hold 3"):
        dyn.vf.jacobian(fit.adata, regulators=3)


def test_rows_of_loadings_are_those_of_the_pca_whatever_dynamics_say() -> None:
    """Dynamo looks them up among the genes of use_for_dynamics alone, and takes other genes' rows."""
    fit = dynamo_fit()
    dynamics = fit.adata.var["use_for_pca"].to_numpy().copy()
    dynamics[np.flatnonzero(dynamics)[[0, 3]]] = False
    fit.adata.var["use_for_dynamics"] = dynamics
    asked = fit.genes[2:8]
    found = dyn.vf.jacobian(fit.adata, asked, store_in_adata=False)
    assert found["regulators"] == asked
    assert apart(found["jacobian_gene"], fit.between(asked, asked)) < 1e-7


def test_loadings_in_varm() -> None:
    fit = dynamo_fit()
    expected = dyn.vf.jacobian(fit.adata, fit.genes[:4], store_in_adata=False)["jacobian_gene"]
    rows = np.zeros((fit.adata.n_vars, fit.loadings.shape[1]))
    rows[fit.adata.var["use_for_pca"].to_numpy()] = fit.loadings
    fit.adata.varm["Q"] = rows
    del fit.adata.uns["PCs"]
    found = dyn.vf.jacobian(fit.adata, fit.genes[:4], Qkey="Q", store_in_adata=False)
    np.testing.assert_array_equal(found["jacobian_gene"], expected)
    with pytest.raises(MissingKeyError, match="no loadings 'PCs'"):
        dyn.vf.jacobian(fit.adata, fit.genes[:4])


# --- cells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell_idx",
    [[4, 0, 17], np.array([4, 0, 17], dtype=np.int32), ["cell4", "cell0", "cell17"], [4, -25, -8]],
    ids=["numbers", "array", "names", "from the end"],
)
def test_cells_in_the_order_given(cell_idx: Any) -> None:
    fit = dynamo_fit()
    found = dyn.vf.jacobian(fit.adata, fit.genes[:2], cell_idx=cell_idx, store_in_adata=False)
    rows = np.array([4, 0, 17])
    np.testing.assert_array_equal(found["cell_idx"], rows)
    assert apart(found["jacobian"], fit.jacobians(fit.x[rows]).transpose(1, 2, 0)) < 1e-13
    assert apart(found["jacobian_gene"], fit.between(fit.genes[:2], fit.genes[:2], fit.x[rows])) < 1e-7
    dyn.vf.jacobian(fit.adata, cell_idx=cell_idx)
    known = fit.adata.obs["jacobian_det_pca"].notna().to_numpy()
    assert sorted(np.flatnonzero(known)) == [0, 4, 17]
    np.testing.assert_allclose(
        fit.adata.obs["jacobian_det_pca"].iloc[rows], np.linalg.det(fit.jacobians(fit.x[rows])), rtol=1e-10
    )


def test_cells_by_flags_and_index() -> None:
    fit = dynamo_fit()
    flags = fit.adata.obs["group"] == "G1"
    found = dyn.vf.jacobian(fit.adata, cell_idx=flags, store_in_adata=False)
    np.testing.assert_array_equal(found["cell_idx"], np.flatnonzero(flags))
    by_name = dyn.vf.jacobian(fit.adata, cell_idx=fit.adata.obs_names[flags], store_in_adata=False)
    np.testing.assert_array_equal(by_name["jacobian"], found["jacobian"])
    one = dyn.vf.jacobian(fit.adata, cell_idx="cell3", store_in_adata=False)
    np.testing.assert_array_equal(one["cell_idx"], [3])


def test_cells_that_are_not_there() -> None:
    fit = dynamo_fit()
    with pytest.raises(MissingKeyError, match=r"no cell 'cel7' .*did you mean 'cell7'"):
        dyn.vf.jacobian(fit.adata, cell_idx=["cel7", "cell2"])
    with pytest.raises(InputError, match="from 0 to 25; expected numbers of the 25 cells"):
        dyn.vf.jacobian(fit.adata, cell_idx=[0, 25])
    with pytest.raises(InputError, match="2 flags for 25 cells"):
        dyn.vf.jacobian(fit.adata, cell_idx=[True, False])
    for bad in ([], [0.5], [[0, 1]], [None]):
        with pytest.raises(UsageError, match="cell_idx"):
            dyn.vf.jacobian(fit.adata, cell_idx=bad)
    fit.adata.obs_names = ["same"] * 25
    with pytest.raises(InputError, match="names of cells repeat"):
        dyn.vf.jacobian(fit.adata, cell_idx=["same"])


def test_a_subset_is_evaluated_where_its_cells_are() -> None:
    """Dynamo would take the first cells of the fit."""
    fit = dynamo_fit()
    whole = dyn.vf.jacobian(fit.adata, fit.genes[:3], store_in_adata=False)
    rows = np.array([20, 3, 11, 7])
    part = fit.adata[rows].copy()
    with pytest.warns(StabdaskWarning, match=r"fitted to 25 cells x 4 axes.*evaluated at obsm\['X_pca'\]"):
        found = dyn.vf.jacobian(part, fit.genes[:3], store_in_adata=False)
    for name in ("jacobian", "jacobian_gene"):
        np.testing.assert_allclose(found[name], whole[name][:, :, rows], rtol=1e-12, atol=1e-14)
    with pytest.warns(StabdaskWarning, match="of 24 of 25 cells is not what"):
        shuffled = dyn.vf.jacobian(fit.adata[np.roll(np.arange(25), 1)[[1, 0, *range(2, 25)]]].copy())
    assert shuffled.uns["jacobian_pca"]["jacobian"].shape == (4, 4, 25)


def test_what_is_said_is_said_once_and_of_the_line_that_called() -> None:
    fit = dynamo_fit()
    fit.adata.uns["PCs"] = 2.0 * fit.adata.uns["PCs"]
    part = fit.adata[:7].copy()
    with pytest.warns(StabdaskWarning) as said:
        dyn.vf.jacobian(part, fit.genes[:2])
    texts = sorted(str(warning.message) for warning in said)
    assert len(texts) == 2
    assert "not orthonormal" in texts[0]
    assert "fitted to 25 cells" in texts[1]
    assert {warning.filename for warning in said} == {__file__}


def test_embeddings_may_be_tables_or_sparse() -> None:
    fit = dynamo_fit()
    expected = dyn.vf.jacobian(fit.adata, store_in_adata=False)["jacobian"]
    x = fit.adata.obsm["X_pca"]
    for made in (pd.DataFrame(x, index=fit.adata.obs_names), sparse.csr_array(x)):
        fit.adata.obsm["X_pca"] = made
        found = dyn.vf.jacobian(fit.adata, store_in_adata=False)["jacobian"]
        np.testing.assert_array_equal(found, expected)
    fit.adata.obsm["X_pca"] = pd.DataFrame({"a": ["b"] * 25}, index=fit.adata.obs_names)
    with pytest.raises(InputError, match="holds no numbers"):
        dyn.vf.jacobian(fit.adata, vector_field_class=Flow(lambda x: x))


def test_views_and_files_on_disk(tmp_path: Path) -> None:
    fit = dynamo_fit()
    expected = dyn.vf.jacobian(fit.adata, fit.genes[:2], store_in_adata=False)
    fit.adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    dyn.vf.jacobian(backed, fit.genes[:2])
    np.testing.assert_array_equal(backed.uns["jacobian_pca"]["jacobian_gene"], expected["jacobian_gene"])
    view = fit.adata[[4, 2]]
    with pytest.warns(StabdaskWarning, match="2 x 4"):
        found = dyn.vf.jacobian(view, fit.genes[:2], store_in_adata=False)
    assert view.is_view
    np.testing.assert_allclose(found["jacobian"], expected["jacobian"][:, :, [4, 2]], rtol=1e-12)


def test_no_cells() -> None:
    fit = dynamo_fit()
    with pytest.warns(StabdaskWarning):
        found = dyn.vf.jacobian(fit.adata[[]].copy(), fit.genes[:2], store_in_adata=False)
    assert found["jacobian"].shape == (4, 4, 0)
    assert found["jacobian_gene"].shape == (2, 2, 0)


def test_cells_as_at_the_fit_say_nothing() -> None:
    fit = dynamo_fit()
    fit.adata.obsm["X_pca"] = fit.adata.obsm["X_pca"].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dyn.vf.jacobian(fit.adata, fit.genes[:3])
        del fit.adata.uns["VecFld_pca"]["X"]
        fit.adata.obsm["X_pca"][0] += 1.0
        dyn.vf.jacobian(fit.adata)


def test_cells_without_coordinates_are_nan() -> None:
    fit = dynamo_fit()
    expected = dyn.vf.jacobian(fit.adata, fit.genes[:2], store_in_adata=False)
    fit.adata.obsm["X_pca"][3, 1] = np.nan
    fit.adata.obsm["X_pca"][8, 0] = np.inf
    del fit.adata.uns["VecFld_pca"]["X"]
    with pytest.warns(StabdaskWarning, match="2 of 25 cells have coordinates that are not finite"):
        dyn.vf.jacobian(fit.adata, fit.genes[:2])
    found = fit.adata.uns["jacobian_pca"]
    good = np.setdiff1d(np.arange(25), [3, 8])
    for name in ("jacobian", "jacobian_gene"):
        assert np.isnan(found[name][:, :, [3, 8]]).all()
        np.testing.assert_allclose(found[name][:, :, good], expected[name][:, :, good], rtol=1e-12)
    assert fit.adata.obs["jacobian_det_pca"].isna().sum() == 2


def test_no_cells_with_coordinates_at_all() -> None:
    fit = dynamo_fit(n_cells=2)
    fit.adata.obsm["X_pca"][:] = np.nan
    with pytest.warns(StabdaskWarning):
        found = dyn.vf.jacobian(fit.adata, fit.genes[:2], store_in_adata=False)
    assert np.isnan(found["jacobian"]).all()


def test_blocks_and_cores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = dynamo_fit(n_cells=40)
    whole = dyn.vf.jacobian(fit.adata, fit.genes[:5], fit.genes[3:9], store_in_adata=False)
    monkeypatch.setattr("stabdask.compat.dynamo.fits._MOST_CELLS", 7)
    for cores in (1, 3, None, np.int64(2)):
        found = dyn.vf.jacobian(fit.adata, fit.genes[:5], fit.genes[3:9], store_in_adata=False, cores=cores)
        for name in ("jacobian", "jacobian_gene"):
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-6, atol=1e-12)
    for bad in (0, -1, True, 1.5):
        with pytest.raises(UsageError, match="cores="):
            dyn.vf.jacobian(fit.adata, cores=bad)  # type: ignore[arg-type]


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabdask.compat.dynamo.fits._MOST_CELLS", 5)

    def fails(x: Array) -> Array:
        raise ZeroDivisionError("of the field")

    fit = dynamo_fit()
    with pytest.raises(ZeroDivisionError):
        dyn.vf.jacobian(fit.adata, vector_field_class=Flow(fails), cores=2)


# --- other fields -------------------------------------------------------------------------------------------


def test_the_numerical_method_agrees() -> None:
    fit = dynamo_fit()
    found = dyn.vf.jacobian(fit.adata, fit.genes[:3], method="numerical", store_in_adata=False)
    assert apart(found["jacobian"], fit.jacobians().transpose(1, 2, 0)) < 1e-8
    assert apart(found["jacobian_gene"], fit.between(fit.genes[:3], fit.genes[:3])) < 1e-7
    exact = dyn.vf.jacobian(fit.adata, method="parallel", store_in_adata=False)["jacobian"]
    assert apart(found["jacobian"], exact) > 0
    with pytest.raises(UsageError, match="method='exact'"):
        dyn.vf.jacobian(fit.adata, method="exact")


def as_object(fit: Any, **changes: Any) -> Any:
    """Return an object like dynamo's own class, with its parameters and data."""
    flow = Flow(lambda x: np.stack([fit.velocity(point) for point in x]))
    flow.get_Jacobian = lambda method: lambda x: fit.jacobians(x).transpose(1, 2, 0)  # type: ignore[method-assign]
    flow.vf_dict = {**fit.adata.uns["VecFld_pca"], **changes}  # type: ignore[attr-defined]
    flow.data = {"X": fit.adata.uns["VecFld_pca"]["X"]}  # type: ignore[attr-defined]
    return flow


def test_fields_given_as_objects() -> None:
    fit = dynamo_fit()
    stored = dyn.vf.jacobian(fit.adata, fit.genes[:3], store_in_adata=False)
    parameters = fit.adata.uns.pop("VecFld_pca")
    fit.adata.uns["VecFld_pca"] = parameters
    flow = as_object(fit)
    del fit.adata.uns["VecFld_pca"]
    field = sd.RKHSField(
        fit.centers, fit.coefficients, fit.beta, loadings=fit.loadings, genes=fit.genes, basis="pca"
    )
    bare = Flow(flow.func, fit_jacobian(fit))
    for given_field in (flow, parameters, field, bare, Flow(flow.func)):
        found = dyn.vf.jacobian(
            fit.adata, fit.genes[:3], vector_field_class=given_field, store_in_adata=False
        )
        for name in ("jacobian", "jacobian_gene"):
            assert apart(found[name], stored[name]) < 1e-6
        assert found["regulators"] == stored["regulators"]


def fit_jacobian(fit: Any) -> Any:
    return lambda x: fit.jacobians(x).transpose(1, 2, 0)


def test_a_changed_function_is_what_counts() -> None:
    """A knockout keeps the parameters of the field it is made of, but is another function."""
    fit = dynamo_fit()
    flow = as_object(fit)
    flow.func = lambda x: 3.0 * np.stack([fit.velocity(point) for point in x])
    flow.get_Jacobian = lambda method: lambda x: 3.0 * fit.jacobians(x).transpose(1, 2, 0)
    found = dyn.vf.jacobian(fit.adata, vector_field_class=flow, store_in_adata=False)
    assert apart(found["jacobian"], 3.0 * fit.jacobians().transpose(1, 2, 0)) < 1e-13


def test_a_given_field_is_evaluated_at_the_cells_given() -> None:
    fit = dynamo_fit()
    flow = as_object(fit)
    part = fit.adata[[4, 9]].copy()
    with pytest.warns(StabdaskWarning, match="fitted to 25 cells"):
        found = dyn.vf.jacobian(part, vector_field_class=flow, store_in_adata=False)
    assert apart(found["jacobian"], fit.jacobians(fit.x[[4, 9]]).transpose(1, 2, 0)) < 1e-13
    # Where the AnnData has no such embedding, its own data serve, if they are of as many cells.
    del fit.adata.obsm["X_pca"]
    found = dyn.vf.jacobian(fit.adata, vector_field_class=simple_flow(flow), store_in_adata=False)
    assert apart(found["jacobian"], fit.jacobians(flow.data["X"]).transpose(1, 2, 0)) < 1e-13
    with pytest.raises(InputError, match="which are which is not known"):
        dyn.vf.jacobian(fit.adata[:4].copy(), vector_field_class=simple_flow(flow))


def simple_flow(flow: Any) -> Flow:
    simple = Flow(flow.func, flow.get_Jacobian(method="analytical"))
    simple.data = flow.data  # type: ignore[attr-defined]
    return simple


def test_what_is_no_field_is_refused() -> None:
    fit = dynamo_fit()
    with pytest.raises(UsageError, match="vector_field_class is a str"):
        dyn.vf.jacobian(fit.adata, vector_field_class="sparsevfc")
    with pytest.raises(MissingKeyError, match="no 'C'; expected 'X_ctrl', 'C' and 'beta'"):
        dyn.vf.jacobian(fit.adata, vector_field_class={"X_ctrl": fit.centers, "beta": 1.0})
    with pytest.raises(InputError, match=r"func of vector_field_class returns shape \(25,\)"):
        dyn.vf.jacobian(fit.adata, vector_field_class=Flow(lambda x: x[:, 0]))
    with pytest.raises(InputError, match=r"gives shape \(25, 4, 4\).* expected \(4, 4, 25\)"):
        dyn.vf.jacobian(fit.adata, vector_field_class=Flow(lambda x: x, lambda x: np.zeros((len(x), 4, 4))))
    jacobian_alone = Flow(None, fit_jacobian(fit))
    found = dyn.vf.jacobian(fit.adata, vector_field_class=jacobian_alone, store_in_adata=False)
    assert apart(found["jacobian"], fit.jacobians().transpose(1, 2, 0)) < 1e-13
    with pytest.raises(UsageError, match="has no func"):
        dyn.vf.acceleration(fit.adata, basis="pca", vector_field_class=jacobian_alone)
    other = sd.RKHSField([[0.0, 0.0]], [[1.0, 2.0]], 0.5, basis="umap")
    with pytest.raises(InputError, match="the field is over 'umap', and basis='pca'"):
        dyn.vf.jacobian(fit.adata, vector_field_class=other)


def test_a_single_cell_of_a_given_field() -> None:
    """Functions may drop the dimension of one cell."""
    fit = dynamo_fit(n_cells=1, n_centers=3)
    flow = Flow(lambda x: fit.velocity(x[0]), lambda x: fit.jacobian(x[0]))
    found = dyn.vf.jacobian(fit.adata, vector_field_class=flow, store_in_adata=False)
    assert apart(found["jacobian"][:, :, 0], fit.jacobian(fit.x[0])) < 1e-13


def over_genes(fit: Any) -> anndata.AnnData:
    """Return the same field as one over four genes, as dynamo keeps one."""
    names = ["a", "b", "c", "d", "e"]
    adata = anndata.AnnData(
        np.zeros((len(fit.x), 5), dtype=np.float32),
        obs=fit.adata.obs.copy(),
        uns={"VecFld": {**fit.adata.uns["VecFld_pca"], "layer": "M_s", "velocity_key": "velocity_S"}},
    )
    adata.var_names = names
    adata.var["use_for_transition"] = [True, True, False, True, True]
    adata.var["use_for_dynamics"] = True
    return adata


def test_a_field_over_genes() -> None:
    """Dynamo gives the whole Jacobian whatever genes it is asked for."""
    fit = dynamo_fit()
    adata = over_genes(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dyn.vf.jacobian(adata, regulators=["e", "b"], effectors=["d"], basis=None)
    found = adata.uns["jacobian"]
    assert (found["regulators"], found["effectors"]) == (["b", "e"], ["d"])
    expected = fit.jacobians().transpose(1, 2, 0)
    assert apart(found["jacobian"], expected) < 1e-13
    np.testing.assert_allclose(found["jacobian_gene"], expected[2:3][:, [1, 3]], rtol=1e-6)
    np.testing.assert_allclose(adata.obs["jacobian_det"], np.linalg.det(fit.jacobians()), rtol=1e-10)
    with pytest.raises(InputError, match="none of the regulators 'c'"):
        dyn.vf.jacobian(adata, regulators="c", basis=None)
    with pytest.raises(InputError, match="fitted to 25 cells x 4 genes, and the AnnData has 3 cells"):
        dyn.vf.jacobian(adata[:3].copy(), basis=None)
    del adata.uns["VecFld"]["X"]
    with pytest.raises(InputError, match="does not say what it was fitted to"):
        dyn.vf.jacobian(adata, basis=None)


def test_a_given_function_over_genes() -> None:
    fit = dynamo_fit()
    adata = over_genes(fit)[:, [0, 1, 3, 4]].copy()
    del adata.uns["VecFld"]
    flow = simple_flow(as_object(fit))
    found = dyn.vf.jacobian(adata, ["e", "a"], basis=None, vector_field_class=flow, store_in_adata=False)
    assert found["regulators"] == ["a", "e"]
    np.testing.assert_allclose(
        found["jacobian_gene"], fit.jacobians().transpose(1, 2, 0)[[0, 3]][:, [0, 3]], rtol=1e-6
    )


def test_an_embedding_without_loadings() -> None:
    fit = dynamo_fit(n_axes=2, basis="umap")
    dyn.vf.jacobian(fit.adata, basis="umap", cell_idx=[3])
    assert fit.adata.uns["jacobian_umap"]["jacobian"].shape == (2, 2, 1)
    assert fit.adata.obs["jacobian_det_umap"].notna().sum() == 1
    with pytest.raises(InputError, match="no linear map of genes"):
        dyn.vf.jacobian(fit.adata, fit.genes[:2], basis="umap")
    flow = Flow(lambda x: x)
    del fit.adata.uns["PCs"]
    with pytest.raises(InputError, match="no linear map of genes"):
        dyn.vf.jacobian(fit.adata, fit.genes[:2], basis="umap", vector_field_class=flow)


def test_missing_fields_and_embeddings() -> None:
    fit = dynamo_fit()
    with pytest.raises(MissingKeyError, match=r"VecFld_umap.*basis='pca'"):
        dyn.vf.jacobian(fit.adata, basis="umap")
    del fit.adata.obsm["X_pca"]
    with pytest.raises(MissingKeyError, match=r"no obsm\['X_pca'\]"):
        dyn.vf.jacobian(fit.adata)
    fit.adata.obsm["X_pca"] = fit.x_short if hasattr(fit, "x_short") else np.zeros((25, 3))
    with pytest.raises(InputError, match="3 columns; the field has 4 axes"):
        dyn.vf.jacobian(fit.adata)
    fit.adata.uns["VecFld_pca"]["method"] = "dynode"
    with pytest.raises(InputError, match="dynode"):
        dyn.vf.jacobian(fit.adata)
    with pytest.raises(UsageError, match=r"no option 'regulator'; did you mean 'regulators'"):
        dyn.vf.jacobian(fit.adata, regulator="a")


# --- size, files, imports -----------------------------------------------------------------------------------


def test_what_does_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = dynamo_fit()
    memory = namedtuple("memory", ["available"])
    n, d = fit.x.shape
    bytes_needed = n * (8 * d * d + 4 * 3 * 5)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(bytes_needed - 1))
    said = r"25 cells over 4 x 4 axes, and 5 x 3 elements between genes, take .*stabdask.run\(.*effectors=.*regulators="
    with pytest.raises(MemoryBudgetError, match=said):
        dyn.vf.jacobian(fit.adata, fit.genes[:3], fit.genes[:5])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(bytes_needed))
    dyn.vf.jacobian(fit.adata, fit.genes[:3], fit.genes[:5])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(n * fit.adata.n_vars * 8 - 1))
    with pytest.raises(MemoryBudgetError, match=r"layers\['acceleration'\] of 25 cells x 21 genes"):
        dyn.vf.acceleration(fit.adata, basis="pca")
    with pytest.raises(MemoryBudgetError, match=r"layers\['curvature'\]"):
        dyn.vf.curvature(fit.adata)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(100))
    with pytest.raises(MemoryBudgetError, match="dynamo_sensitivity"):
        dyn.vf.sensitivity(fit.adata, fit.genes[:3])
    with pytest.raises(MemoryBudgetError, match="15 elements of 25 cells"):
        dyn.vf.get_jacobian(fit.adata, None, None)


def test_memory_stays_near_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of cells are linearized one after another, however many cells there are."""
    sizes: list[int] = []
    fit = dynamo_fit(n_cells=60)
    opened = open_fit(fit.adata, basis="pca", Qkey="PCs")
    monkeypatch.setattr(
        "stabdask.compat.dynamo.fits._BLOCK_BYTES", 10 * (8 * (4 * 16 + 32) + 16 * 30 + 64 * 5)
    )

    def seen(adata: Any, **options: Any) -> Any:
        def linearize(x: Array) -> Any:
            sizes.append(len(x))
            return opened.linearize(x)

        return type(opened)(linearize, opened.points, opened.loadings, opened.genes)

    monkeypatch.setattr("stabdask.compat.dynamo.jacobians.open_fit", seen)
    dyn.vf.jacobian(fit.adata, fit.genes[:5], fit.genes[:6])
    assert sizes == [10] * 6


def test_results_survive_a_file(tmp_path: Path) -> None:
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata, fit.genes[:3], fit.genes[2:6], cell_idx=[2, 5, 7])
    dyn.vf.sensitivity(fit.adata, fit.genes[:3])
    for mode in ("full reg", "int"):
        dyn.vf.rank_jacobian_genes(fit.adata, groups="group", mode=mode, exclude_diagonal=True)
    fit.adata.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    for key in ("jacobian_pca", "sensitivity_pca"):
        for name, value in fit.adata.uns[key].items():
            np.testing.assert_array_equal(again.uns[key][name], value)
    table = dyn.vf.get_jacobian(again, fit.genes[:3], fit.genes[2:6])
    assert table.equals(dyn.vf.get_jacobian(fit.adata, fit.genes[:3], fit.genes[2:6]))
    ranked = dyn.vf.rank_jacobian_genes(again, groups="group", mode="int", return_df=True)
    assert len(ranked) == 12


def test_the_import_is_light() -> None:
    code = (
        "import sys; from stabdask.compat import dynamo; "
        "print(sorted({'dask', 'xarray', 'pandas', 'matplotlib', 'anndata', 'zarr', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
