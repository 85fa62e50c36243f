"""dynamo's rankings and `get_jacobian`, against tables made cell by cell, and what they refuse to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from compat.dynamo_fits import DynamoFit, dynamo_fit
from hypothesis import given, settings
from hypothesis import strategies as st

from stabdask.compat import dynamo as dyn
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]
MODES = ("full reg", "full eff", "reg", "eff", "int", "switch")


def ranked_fit(n_effectors: int = 4, n_regulators: int = 6, **options: Any) -> DynamoFit:
    fit = dynamo_fit(**options)
    dyn.vf.jacobian(fit.adata, fit.genes[:n_regulators], fit.genes[2 : 2 + n_effectors])
    return fit


def group_means(fit: DynamoFit, groups: str | None, change: Any = lambda J: J) -> dict[str, Array]:
    """Return the mean matrix of each group, the group of the first cell first."""
    stored = fit.adata.uns["jacobian_pca"]
    J = change(np.array(stored["jacobian_gene"], dtype=np.float64))
    labels = ["all"] * J.shape[2] if groups is None else fit.adata.obs[groups].tolist()
    labels = [labels[cell] for cell in stored["cell_idx"]] if groups is not None else labels
    out: dict[str, list[Array]] = {}
    for cell, label in enumerate(labels):
        out.setdefault(label, []).append(J[:, :, cell])
    return {label: np.mean(parts, axis=0) for label, parts in out.items()}


def in_order(values: Array, names: list[str], order: int = -1) -> tuple[list[str], list[float]]:
    pairs = sorted(zip(values.tolist(), names, strict=True), key=lambda pair: order * pair[0])
    return [name for _, name in pairs], [value for value, _ in pairs]


def check(table: pd.DataFrame, name: str, values: Array, names: list[str], order: int = -1) -> None:
    expected_names, expected = in_order(values, names, order)
    assert table[name].tolist() == expected_names
    np.testing.assert_allclose(table[f"{name}_values"], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("order", [-1, 1])
@pytest.mark.parametrize("groups", [None, "group"])
@pytest.mark.parametrize("mode", MODES[:5])
def test_ranks_of_means(mode: str, groups: str | None, order: int) -> None:
    fit = ranked_fit()
    stored = fit.adata.uns["jacobian_pca"]
    regulators, effectors = stored["regulators"], stored["effectors"]
    found = dyn.vf.rank_jacobian_genes(
        fit.adata, groups=groups, mode=mode.replace(" ", "_"), return_df=True, order=order
    )
    means = group_means(fit, groups)
    if mode.startswith("full"):
        assert list(found) == list(means)
    else:
        assert found.columns.tolist() == [c for label in means for c in (label, f"{label}_values")]
    for label, mean in means.items():
        if mode == "full reg":
            assert found[label].shape == (6, 8)
            for row, gene in enumerate(effectors):
                check(found[label], gene, mean[row], regulators, order)
        elif mode == "full eff":
            for column, gene in enumerate(regulators):
                check(found[label], gene, mean[:, column], effectors, order)
        elif mode == "reg":
            check(found, label, mean.mean(axis=0), regulators, order)
        elif mode == "eff":
            check(found, label, mean.mean(axis=1), effectors, order)
        else:
            pairs = [f"{i} - {j}" for i in effectors for j in regulators]
            check(found, label, mean.ravel(), pairs, order)


def test_absolute_and_normalized_values() -> None:
    fit = ranked_fit()
    regulators = fit.adata.uns["jacobian_pca"]["regulators"]
    found = dyn.vf.rank_jacobian_genes(fit.adata, abs=True, mode="reg", return_df=True)
    check(found, "all", group_means(fit, None, np.abs)["all"].mean(axis=0), regulators)
    found = dyn.vf.rank_jacobian_genes(fit.adata, normalize=True, mode="reg", return_df=True)
    scaled = group_means(fit, None, lambda J: J / np.abs(J).max(axis=2, keepdims=True))
    check(found, "all", scaled["all"].mean(axis=0), regulators)
    # An element that is 0 everywhere stays 0.
    fit.adata.uns["jacobian_pca"]["jacobian_gene"] = np.zeros((4, 6, 25), dtype=np.float32)
    found = dyn.vf.rank_jacobian_genes(fit.adata, normalize=True, mode="int", return_df=True)
    assert (found["all_values"] == 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_stored_stays_as_it_is(mode: str, normalize: bool) -> None:
    """Dynamo adds the cells of a group to the first of them, in place, and scales in place."""
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata, fit.genes[:6])
    stored = fit.adata.uns["jacobian_pca"]
    stored["jacobian_gene"] = np.array(stored["jacobian_gene"], order="C")
    before = stored["jacobian_gene"].copy()
    options: dict[str, Any] = {"groups": "group", "mode": mode, "normalize": normalize, "return_df": True}
    first = dyn.vf.rank_jacobian_genes(fit.adata, **options)
    np.testing.assert_array_equal(stored["jacobian_gene"], before)
    again = dyn.vf.rank_jacobian_genes(fit.adata, **options)
    for label in first:
        assert first[label].equals(again[label])


def test_without_a_gene_on_itself() -> None:
    fit = ranked_fit()
    stored = fit.adata.uns["jacobian_pca"]
    regulators, effectors = stored["regulators"], stored["effectors"]
    mean = group_means(fit, None)["all"]
    own = np.array(effectors)[:, None] == np.array(regulators)[None, :]
    assert own.sum() == 4
    options: dict[str, Any] = {"exclude_diagonal": True, "return_df": True}
    found = dyn.vf.rank_jacobian_genes(fit.adata, mode="reg", **options)
    check(found, "all", np.nanmean(np.where(own, np.nan, mean), axis=0), regulators)
    pairs = dyn.vf.rank_jacobian_genes(fit.adata, mode="int", **options)
    kept = [(mean[i, j], f"{effectors[i]} - {regulators[j]}") for i, j in np.argwhere(~own)]
    assert pairs["all"].tolist() == [name for _, name in sorted(kept, reverse=True)]
    # Of six regulators four are effectors too: their columns end with nothing.
    by_regulator = dyn.vf.rank_jacobian_genes(fit.adata, mode="full eff", **options)["all"]
    for gene in regulators:
        names = by_regulator[gene].tolist()
        assert gene not in names
        assert len(names) == 4
        assert (names[-1] == "") == np.isnan(by_regulator[f"{gene}_values"].iloc[-1]) == (gene in effectors)


def test_switches_are_pairs_that_inhibit_each_other() -> None:
    fit = ranked_fit()
    stored = fit.adata.uns["jacobian_pca"]
    regulators, effectors = stored["regulators"], stored["effectors"]
    with pytest.warns(StabdaskWarning, match="2 genes that are not both effector and regulator"):
        found = dyn.vf.rank_jacobian_genes(fit.adata, groups="group", mode="switch", return_df=True)
    J = np.array(stored["jacobian_gene"], dtype=np.float64)
    both = [gene for gene in effectors if gene in regulators]
    for label in fit.adata.obs["group"].unique():
        cells = np.flatnonzero(fit.adata.obs["group"] == label)
        expected = {}
        for i in both:
            for j in both:
                there = J[effectors.index(i), regulators.index(j), cells]
                back = J[effectors.index(j), regulators.index(i), cells]
                expected[f"{i} - {j}"] = np.where((there < 0) & (back < 0), there * back, 0.0).mean()
        assert len(found[label]) == len(both) ** 2
        values = found[f"{label}_values"].to_numpy()
        assert (np.diff(values) <= 0).all()
        for name, value in zip(found[label], values, strict=True):
            assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-12)
    dyn.vf.jacobian(fit.adata, fit.genes[:2], fit.genes[4:6])
    with pytest.raises(InputError, match="no gene is both effector and regulator"):
        dyn.vf.rank_jacobian_genes(fit.adata, mode="switch")
    with pytest.raises(UsageError, match="abs=True leaves none"):
        dyn.vf.rank_jacobian_genes(fit.adata, mode="switch", abs=True)


def test_results_go_where_dynamo_puts_them() -> None:
    fit = ranked_fit()
    assert dyn.vf.rank_jacobian_genes(fit.adata, groups="group", mode="full_reg") is None
    assert list(fit.adata.uns["full reg"]) == fit.adata.obs["group"].unique().tolist()
    found = dyn.vf.rank_jacobian_genes(fit.adata, mode="int", output_values=False, return_df=True)
    assert found.columns.tolist() == ["all"]
    assert found["all"].dtype == object
    found = dyn.vf.rank_jacobian_genes(fit.adata, mode="int", return_df=True)
    assert found["all_values"].dtype == np.float32


def test_labels_of_any_kind() -> None:
    fit = ranked_fit()
    numbers = np.arange(25) % 3
    found = dyn.vf.rank_jacobian_genes(fit.adata, groups=numbers, mode="reg", return_df=True)
    assert found.columns.tolist() == [0, "0_values", 1, "1_values", 2, "2_values"]
    fit.adata.obs["kind"] = pd.Categorical(numbers.astype(str), categories=["2", "1", "0", "none"])
    same = dyn.vf.rank_jacobian_genes(fit.adata, groups="kind", mode="reg", return_df=True)
    np.testing.assert_array_equal(found.to_numpy(), same.to_numpy())
    with pytest.raises(
        MissingKeyError, match="no column 'groop' in obs of the AnnData; did you mean 'group'"
    ):
        dyn.vf.rank_jacobian_genes(fit.adata, groups="groop")
    with pytest.raises(InputError, match=r"groups have shape \(3,\); expected a label for each of 25"):
        dyn.vf.rank_jacobian_genes(fit.adata, groups=["a", "b", "c"])
    with pytest.raises(InputError, match="no cell has a label"):
        dyn.vf.rank_jacobian_genes(fit.adata, groups=[None] * 25)


def test_cells_that_count_in_no_mean_are_counted() -> None:
    fit = ranked_fit()
    expected = dyn.vf.rank_jacobian_genes(fit.adata, groups="group", mode="int", return_df=True)
    labels = fit.adata.obs["group"].astype(object)
    more = fit.adata.uns["jacobian_pca"]
    more["jacobian_gene"] = np.concatenate([more["jacobian_gene"], np.full((4, 6, 2), np.nan)], axis=2)
    more["jacobian"] = np.concatenate([more["jacobian"], more["jacobian"][:, :, :2]], axis=2)
    more["cell_idx"] = np.append(more["cell_idx"], [0, 1])
    with pytest.warns(
        StabdaskWarning, match="0 cells without a label and 2 with elements that are not finite"
    ):
        found = dyn.vf.rank_jacobian_genes(fit.adata, groups=labels, mode="int", return_df=True)
    assert (found[labels.unique()] == expected[labels.unique()]).all(axis=None)
    labels[labels == "G1"] = None
    with pytest.warns(StabdaskWarning, match="cells without a label"):
        found = dyn.vf.rank_jacobian_genes(fit.adata, groups=labels, mode="int", return_df=True)
    assert "G1" not in found
    assert found["G0"].tolist() == expected["G0"].tolist()


def test_blocks_of_cells_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = ranked_fit(n_cells=40)
    options: dict[str, Any] = {"groups": "group", "mode": "int", "normalize": True, "return_df": True}
    whole = dyn.vf.rank_jacobian_genes(fit.adata, **options)
    monkeypatch.setattr("stabdask.compat.dynamo.ranking._BYTES", 8 * 24 * 7)
    parts = dyn.vf.rank_jacobian_genes(fit.adata, **options)
    pd.testing.assert_frame_equal(whole, parts, check_exact=False, rtol=1e-6)


def test_a_single_pair_is_ranked() -> None:
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata, fit.genes[1], fit.genes[4])
    found = dyn.vf.rank_jacobian_genes(fit.adata, mode="int", return_df=True)
    assert found["all"].tolist() == [f"{fit.genes[4]} - {fit.genes[1]}"]


def test_rank_sensitivities() -> None:
    fit = dynamo_fit()
    dyn.vf.sensitivity(fit.adata, fit.genes[:4])
    S = np.array(fit.adata.uns["sensitivity_pca"]["sensitivity_gene"], dtype=np.float64).mean(axis=2)
    names = fit.adata.uns["sensitivity_pca"]["regulators"]
    found = dyn.vf.rank_sensitivity_genes(fit.adata, mode="full reg", output_values=True)["all"]
    for row, gene in enumerate(names):
        check(found, gene, S[row], names)
    assert dyn.vf.rank_sensitivity_genes(fit.adata, mode="int").columns.tolist() == ["all"]
    with pytest.raises(UsageError, match="'switch' is of Jacobians"):
        dyn.vf.rank_sensitivity_genes(fit.adata, mode="switch")
    with pytest.raises(MissingKeyError, match="run jacobian first"):
        dyn.vf.rank_jacobian_genes(fit.adata)


def test_what_cannot_be_ranked() -> None:
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata)
    with pytest.raises(InputError, match="no elements between genes"):
        dyn.vf.rank_jacobian_genes(fit.adata)
    fit = ranked_fit()
    with pytest.raises(UsageError, match="mode='regs'; expected one of 'full reg'"):
        dyn.vf.rank_jacobian_genes(fit.adata, mode="regs")
    with pytest.raises(UsageError, match="order=0"):
        dyn.vf.rank_jacobian_genes(fit.adata, order=0)
    with pytest.raises(UsageError, match="no option 'group'; did you mean 'groups'"):
        dyn.vf.rank_jacobian_genes(fit.adata, group="group")
    with pytest.raises(MissingKeyError, match=r"no 'jacobian_umap'.*did you mean 'jacobian_pca'"):
        dyn.vf.rank_jacobian_genes(fit.adata, jkey="jacobian_umap")
    with pytest.raises(MissingKeyError, match="has no 'jacobian'"):
        dyn.vf.rank_jacobian_genes(fit.adata, jkey="VecFld_pca")
    fit.adata.uns["jacobian_pca"]["regulators"] = ["one"]
    with pytest.raises(InputError, match=r"shape \(4, 6, 25\); expected \(4, 1, 25\)"):
        dyn.vf.rank_jacobian_genes(fit.adata)


# --- results of other cells ---------------------------------------------------------------------------------


def test_results_of_other_cells_are_refused() -> None:
    """A subset keeps `uns` as it was: dynamo then averages other cells than it says."""
    fit = ranked_fit()
    with pytest.raises(InputError, match="not of the 5 cells of this AnnData"):
        dyn.vf.rank_jacobian_genes(fit.adata[:5].copy(), mode="reg")
    fit = dynamo_fit()
    dyn.vf.jacobian(fit.adata, fit.genes[:3], cell_idx=[0, 1, 2, 3])
    turned = fit.adata[::-1].copy()
    turned.obs["jacobian_det_pca"] = turned.obs["jacobian_det_pca"].fillna(1.0)
    with pytest.raises(InputError, match=r"determinants are not those in obs\['jacobian_det_pca'\]"):
        dyn.vf.get_jacobian(turned, fit.genes[:2], fit.genes[:2])
    dyn.vf.rank_jacobian_genes(fit.adata[:7].copy(), mode="reg")  # its cells are where they were
    fit.adata.uns["jacobian_pca"]["cell_idx"] = np.arange(3)
    with pytest.raises(InputError, match="cell_idx has 3 cells, its matrices 4"):
        dyn.vf.rank_jacobian_genes(fit.adata, mode="reg")


def test_a_shuffled_atlas_is_noticed() -> None:
    fit = ranked_fit()
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="was a subset taken since"):
        dyn.vf.rank_jacobian_genes(fit.adata[rng.permutation(25)].copy(), mode="reg")
    del fit.adata.obs["jacobian_det_pca"]
    dyn.vf.rank_jacobian_genes(fit.adata, mode="reg")


# --- tables -------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    regulators=st.lists(st.integers(0, 5), min_size=1, unique=True),
    effectors=st.lists(st.integers(2, 5), min_size=1, unique=True),
)
def test_tables_of_elements(regulators: list[int], effectors: list[int]) -> None:
    fit = dynamo_fit(n_cells=5)
    dyn.vf.jacobian(fit.adata, fit.genes[:6], fit.genes[2:6], cell_idx=[3, 0])
    stored = fit.adata.uns["jacobian_pca"]
    found = dyn.vf.get_jacobian(
        fit.adata, [fit.genes[g] for g in regulators], [fit.genes[g] for g in effectors]
    )
    assert found.index.tolist() == ["cell3", "cell0"]
    pairs = [(j, i) for j in sorted(regulators) for i in sorted(effectors)]
    assert found.columns.tolist() == [f"{fit.genes[j]}->{fit.genes[i]}_jacobian" for j, i in pairs]
    assert (found.dtypes == np.float64).all()
    for column, (j, i) in zip(found, pairs, strict=True):
        np.testing.assert_array_equal(found[column], stored["jacobian_gene"][i - 2, j])


def test_tables_without_names() -> None:
    fit = dynamo_fit(n_cells=3, n_axes=2)
    dyn.vf.jacobian(fit.adata)
    found = dyn.vf.get_jacobian(fit.adata, None, None)
    assert found.columns.tolist() == [f"pca_{j}->pca_{i}_jacobian" for j in (0, 1) for i in (0, 1)]
    np.testing.assert_array_equal(
        found["pca_1->pca_0_jacobian"], fit.adata.uns["jacobian_pca"]["jacobian"][0, 1]
    )
    dyn.vf.jacobian(fit.adata, fit.genes[:3], fit.genes[1:3])
    everything = dyn.vf.get_jacobian(fit.adata, None, None)
    assert everything.shape == (3, 6)
    assert dyn.vf.get_jacobian(fit.adata, fit.genes[1], None).shape == (3, 1)
    assert dyn.vf.get_jacobian(fit.adata, None, fit.genes[1:3]).shape == (3, 4)
    with pytest.warns(StabdaskWarning, match="1 of 2 effectors .*'SOX2'"):
        assert dyn.vf.get_jacobian(fit.adata, fit.genes[0], [fit.genes[1], "SOX2"]).shape == (3, 1)
    with pytest.raises(InputError, match="none of the regulators 'SOX2'"):
        dyn.vf.get_jacobian(fit.adata, "SOX2", fit.genes[1])
    dyn.vf.sensitivity(fit.adata, fit.genes[:2])
    table = dyn.vf.get_jacobian(fit.adata, fit.genes[0], fit.genes[1], jkey="sensitivity")
    np.testing.assert_array_equal(
        table.iloc[:, 0], fit.adata.uns["sensitivity_pca"]["sensitivity_gene"][1, 0]
    )
