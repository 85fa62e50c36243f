"""Responses to a sustained push: against dense inverses, where they cannot be trusted, and their means by cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import planted, random_atlas
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError
from stabdask.kernels.solve import inverse_or_nan
from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options
from stabdask.schema import Status


def planted_response(J: Any) -> dict[str, Any]:
    field, x = planted(np.asarray(J, dtype=float))
    genes = field.genes.tolist()
    asked = {"effectors": genes, "regulators": genes, "quantities": ["response", "response_mean"]}
    return compute_block(x, np.zeros(1, dtype=int), field, make_options(field, **asked))


@settings(max_examples=30)
@given(st.integers(0, 50), st.sampled_from([0.0, 0.5]), st.sampled_from([(6, 2), (0, 4), (9, 9)]))
def test_values_and_conditions_are_those_of_dense_inverses(
    seed: int, zeros: float, sizes: tuple[int, int]
) -> None:
    atlas = random_atlas(seed, n_cells=6, zeros=zeros, n_genes=12, n_regulators=sizes)
    field, rng = atlas.field, np.random.default_rng(seed)
    effectors, regulators = (rng.choice(field.genes, 5, replace=False).tolist() for _ in range(2))
    ds = sd.response(atlas.cells(), field, effectors=effectors, regulators=regulators).compute()
    assert ds["response"].dims == ("cell", "block_effector", "block_regulator")
    for cell in range(6):
        J = atlas.jacobian(cell)
        label = str(atlas.labels[cell])
        own = np.flatnonzero(atlas.drawn.clusters[label].W.any(axis=0))
        model = field.parameters[field.clusters.index(label)]
        assert set(own) <= set(model.regulators)
        core = J[np.ix_(model.regulators, model.regulators)]
        condition = np.linalg.cond(core, 1) if len(core) else 1.0
        np.testing.assert_allclose(ds["response_condition"][cell], condition, rtol=1e-6)
        expected = -np.linalg.inv(J)
        for i in effectors:
            for j in regulators:
                value = float(ds["response"].sel(block_effector=i, block_regulator=j)[cell])
                at = field.genes.tolist().index(i), field.genes.tolist().index(j)
                limit = 1e-12 * np.linalg.cond(J) * np.abs(expected).max()
                assert abs(value - expected[at]) <= limit
    assert (ds["response_status"] == Status.OK).all()


def test_what_became_of_them() -> None:
    fine = planted_response([[-2.0, 0.5], [0.5, -3.0]])
    assert fine["response_status"][0] == Status.OK
    # The determinant is 5.75; the largest sum of a column is 3.5, here and among the cofactors.
    assert fine["response_condition"][0] == pytest.approx(3.5 * 3.5 / 5.75)
    np.testing.assert_allclose(fine["response"][0], np.array([[3.0, 0.5], [0.5, 2.0]]) / 5.75)
    assert fine["response_cells"].sum() == 1
    near = planted_response([[-1.0, 1.0], [1.0, -1.0 - 1e-13]])
    assert near["response_status"][0] == Status.INACCURATE
    assert 1e13 < near["response_condition"][0] < np.inf
    assert np.isfinite(near["response"]).all()
    singular = planted_response([[-1.0, 1.0], [1.0, -1.0]])
    assert singular["response_status"][0] == Status.SINGULAR
    assert singular["response_condition"][0] == np.inf
    assert np.isnan(singular["response"]).all()
    for out in (near, singular):
        assert out["response_cells"].sum() == 0
        assert not out["response_sum"].any()


def test_a_field_in_single_precision_is_inaccurate_sooner() -> None:
    case = small_rkhs(0, n_axes=3, n_genes=3, n_cells=40)
    genes, codes = case.field.genes.tolist(), np.zeros(40, dtype=int)
    for dtype in ("float64", "float32"):
        options = make_options(
            case.field, effectors=genes, regulators=genes, quantities=["response"], dtype=dtype
        )
        out = compute_block(case.x, codes, case.field, options)
        worst = 1e-3 / np.finfo(dtype).eps
        expected = np.where(out["response_condition"] > worst, Status.INACCURATE, Status.OK)
        np.testing.assert_array_equal(out["response_status"], expected)


def test_cells_that_were_not_computed_say_so() -> None:
    atlas = random_atlas(2, n_cells=9, broken=(1, 4), unlabelled=(3,))
    genes = atlas.field.genes.tolist()[:2]
    ds = sd.response(atlas.cells(), atlas.field, effectors=genes, regulators=genes).compute()
    bad = [1, 3, 4]
    assert (ds["response_status"][bad] == Status.NOT_COMPUTED).all()
    assert np.isnan(ds["response_condition"][bad]).all()
    assert np.isnan(ds["response"][bad]).all()
    assert (np.delete(ds["response_status"].values, bad) == Status.OK).all()
    assert int(ds["response_cells"].sum()) == 6


def test_means_by_cluster_from_a_run(tmp_path: Path) -> None:
    atlas = random_atlas(4, n_cells=30, broken=(2,))
    genes = atlas.field.genes.tolist()
    asked: dict[str, Any] = {"effectors": genes[:4], "regulators": genes[2:5]}
    lazily = sd.response(atlas.cells(), atlas.field, **asked)
    for dim, quantities in (("both", ["response", "response_mean"]), ("mean", ["response_mean"])):
        store = tmp_path / f"{dim}.zarr"
        sd.run(
            atlas.cells(), atlas.field, store, workers=0, partition_cells=8, spectrum="none",
            quantities=["default", *quantities], **asked,
        )  # fmt: skip
        ds = sd.open_results(store)
        assert ("response" in ds) == (dim == "both")
        for label in atlas.field.clusters:
            own = lazily["response"].values[(np.array(atlas.labels) == label) & atlas.good]
            here = ds.sel(cluster=label)
            assert int(here["response_cells"]) == len(own)
            np.testing.assert_allclose(here["response_mean"], own.mean(axis=0), rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(
                here["response_abs_mean"], np.abs(own).mean(axis=0), rtol=1e-12, atol=1e-14
            )
    assert ds["response_mean"].attrs["units"] == "time"


def test_pairs_are_elements_of_blocks() -> None:
    atlas = random_atlas(5)
    g = atlas.field.genes.tolist()
    pairs = [(g[3], g[0]), (g[0], g[0]), (g[3], g[0]), (g[1], g[4])]
    ds = sd.response(atlas.cells(), atlas.field, pairs=pairs)
    blocks = sd.response(atlas.cells(), atlas.field, effectors=g, regulators=g)
    assert ds["response"].dims == ("cell", "pair")
    assert ds["pair"].values.tolist() == [f"{i}:{j}" for i, j in pairs]
    assert list(zip(ds["effector"].values, ds["pair_regulator"].values, strict=True)) == pairs
    for number, (i, j) in enumerate(pairs):
        for name in ("response", "response_mean"):
            np.testing.assert_allclose(
                ds[name].isel(pair=number), blocks[name].sel(block_effector=i, block_regulator=j), rtol=1e-10
            )


def test_one_list_is_by_all_genes() -> None:
    atlas = random_atlas(6)
    genes = atlas.field.genes.tolist()
    ds = sd.response(atlas.cells(), atlas.field, regulators=genes[:2])
    assert ds["response"].shape[1:] == (len(genes), 2)


def test_what_is_refused() -> None:
    atlas = random_atlas(7)
    cells, field = atlas.cells(), atlas.field
    with pytest.raises(UsageError, match="found neither"):
        sd.response(cells, field)
    with pytest.raises(UsageError, match="found both"):
        sd.response(cells, field, pairs=[("gene0", "gene1")], effectors=["gene0"])
    with pytest.raises(UsageError, match="pairs is empty"):
        sd.response(cells, field, pairs=[])
    with pytest.raises(UsageError, match="'gene0'; expected"):
        sd.response(cells, field, pairs=["gene0"])  # type: ignore[list-item]
    with pytest.raises(MissingKeyError, match="gene99"):
        sd.response(cells, field, pairs=[("gene99", "gene1")])


@given(st.integers(0, 100), st.integers(0, 6))
def test_condition_numbers_are_numpys(seed: int, n: int) -> None:
    matrices = np.random.default_rng(seed).normal(size=(4, n, n))
    inverse, condition = inverse_or_nan(matrices)
    if n:
        np.testing.assert_allclose(condition, np.linalg.cond(matrices, 1), rtol=1e-8)
        np.testing.assert_allclose(matrices @ inverse, np.broadcast_to(np.eye(n), (4, n, n)), atol=1e-8)
    else:
        assert condition.tolist() == [1.0] * 4
