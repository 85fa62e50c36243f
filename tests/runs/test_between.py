"""Elements between chosen genes, responses and the path of the flow, of Hopfield fields: against dense formulas."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import RandomAtlas, planted, random_atlas
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError
from stabdask.runs import between, sizing
from stabdask.runs.between import dynamo_sensitivities, write_between
from stabdask.runs.block import compute_block
from stabdask.runs.calculus import curvature_vectors, torsions
from stabdask.runs.options import make_options
from stabdask.runs.shapes import empty_arrays

Array = np.ndarray[Any, Any]

ATLASES = st.builds(
    random_atlas,
    st.integers(0, 50),
    n_cells=st.just(8),
    zeros=st.sampled_from([0.0, 0.5]),
    n_genes=st.sampled_from([9, 30]),
    n_regulators=st.sampled_from([(6, 2), (1, 9), (0, 4)]),
    broken=st.sampled_from([(), (3,)]),
    unlabelled=st.sampled_from([(), (0,)]),
)


def solved(atlas: RandomAtlas, **asked: Any) -> dict[str, Array]:
    return compute_block(atlas.x, atlas.codes, atlas.field, make_options(atlas.field, **asked))


def genes_between(atlas: RandomAtlas, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    genes = atlas.field.genes.tolist()
    return [list(map(str, rng.choice(genes, size, replace=False))) for size in (4, 5)]  # type: ignore[return-value]


@given(ATLASES, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_blocks_are_those_of_the_dense_jacobian(atlas: RandomAtlas, seed: int) -> None:
    effectors, regulators = genes_between(atlas, seed)
    out = solved(
        atlas,
        effectors=effectors,
        regulators=regulators,
        quantities=[
            "default",
            "jacobian",
            "response",
            "dynamo_sensitivity",
            "acceleration",
            "curvature_norm",
        ],
    )
    place = {gene: number for number, gene in enumerate(atlas.field.genes.tolist())}
    rows, columns = ([place[gene] for gene in genes] for genes in (effectors, regulators))
    union = sorted({*rows, *columns})
    for cell in range(len(atlas.x)):
        if not atlas.good[cell]:
            assert np.isnan(out["jacobian"][cell]).all()
            assert np.isnan(out["response"][cell]).all()
            continue
        J = atlas.jacobian(cell)
        np.testing.assert_allclose(out["jacobian"][cell], J[np.ix_(rows, columns)], rtol=1e-12, atol=1e-12)
        if np.linalg.cond(J) < 1e8:
            dense = -np.linalg.inv(J)[np.ix_(rows, columns)]
            np.testing.assert_allclose(out["response"][cell], dense, rtol=1e-6, atol=1e-8)
        inverse = np.linalg.inv(np.eye(len(union)) - J[np.ix_(union, union)])
        dense = inverse / np.diag(inverse)
        asked = np.ix_([union.index(i) for i in rows], [union.index(j) for j in columns])
        np.testing.assert_allclose(out["dynamo_sensitivity"][cell], dense[asked], rtol=1e-6, atol=1e-8)
        v = atlas.field.velocity(atlas.x[cell : cell + 1], str(atlas.labels[cell]))[0]
        np.testing.assert_allclose(out["acceleration"][cell], J @ v, rtol=1e-9, atol=1e-9)
        a = J @ v
        bend = np.sqrt(max((a @ a) * (v @ v) - (a @ v) ** 2, 0.0)) / (v @ v) ** 1.5
        assert out["curvature_norm"][cell] == pytest.approx(
            bend, rel=1e-5, abs=1e-8 * np.linalg.norm(a) / (v @ v)
        )


def test_few_cells_at_a_time_are_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(3, n_cells=20)
    effectors, regulators = genes_between(atlas, 0)
    asked: dict[str, Any] = {
        "effectors": effectors,
        "regulators": [*regulators, *effectors],
        "quantities": ["jacobian", "jacobian_mean", "response"],
    }
    whole = solved(atlas, **asked)
    monkeypatch.setattr(between, "BETWEEN_BYTES", 1)
    few = solved(atlas, **asked)
    for name, values in whole.items():
        np.testing.assert_allclose(few[name], values, rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_singular_jacobian_has_no_response() -> None:
    field, x = planted(np.array([[1.0, 2.0], [2.0, 4.0]]))
    out = compute_block(
        x,
        np.zeros(len(x), dtype=int),
        field,
        make_options(
            field,
            effectors=field.genes[:1].tolist(),
            regulators=field.genes.tolist(),
            quantities=["response"],
        ),
    )
    assert np.isnan(out["response"]).all() or np.abs(out["response"]).max() > 1e12
    # A gene that does not decay and regulates nothing is no direction that the field restores.
    loose = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0.5, 0.0], [1.0, 0.0]], gamma=[1.0, 0.0], threshold=1.0, exponent=2.0
    )
    x = np.array([[1.0, 1.0]])
    options = make_options(loose, effectors=["A"], regulators=["A"], quantities=["response", "jacobian"])
    out = compute_block(x, np.zeros(1, dtype=int), loose, options)
    assert np.isnan(out["response"]).all()
    assert np.isfinite(out["jacobian"]).all()


def test_dynamo_sensitivity_by_hand() -> None:
    # x_0 = 0.5 x_1, x_1 = 0.25 x_0 + push: with x_1 held at 1, x_0 is a half.
    J = np.array([[[0.0, 0.5], [0.25, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    found = dynamo_sensitivities(J)
    np.testing.assert_allclose(found[0], [[1.0, 0.5], [0.25, 1.0]])
    assert np.isnan(found[1]).all()


def test_paths_by_hand() -> None:
    # A helix of radius 2 and pitch 2 pi: curvature 2 / (4 + 1), torsion 1 / (4 + 1).
    t = np.linspace(0.0, 3.0, 7)
    velocity = np.stack([-2 * np.sin(t), 2 * np.cos(t), np.ones_like(t)], axis=1)
    acceleration = np.stack([-2 * np.cos(t), -2 * np.sin(t), np.zeros_like(t)], axis=1)
    jerk = np.stack([2 * np.sin(t), -2 * np.cos(t), np.zeros_like(t)], axis=1)
    np.testing.assert_allclose(np.linalg.norm(curvature_vectors(velocity, acceleration), axis=1), 0.4)
    np.testing.assert_allclose(torsions(velocity, acceleration, jerk), 0.2)
    still, straight = np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0]])
    assert np.isnan(curvature_vectors(still, straight)).all()
    np.testing.assert_array_equal(curvature_vectors(straight, straight), 0.0)
    assert np.isnan(torsions(straight, 2.0 * straight, straight)).all()
    tiny = curvature_vectors(1e-120 * velocity, 1e-240 * acceleration)
    np.testing.assert_allclose(np.linalg.norm(tiny, axis=1), 0.4)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"effectors": ["gene0"]}, UsageError, "effectors were given without regulators"),
        ({"regulators": ["gene0"]}, UsageError, "regulators were given without effectors"),
        (
            {"effectors": "gene0", "regulators": ["gene0"]},
            UsageError,
            "effectors='gene0'; expected a sequence",
        ),
        ({"effectors": [], "regulators": ["gene0"]}, UsageError, r"effectors=\[\]; .* at least one"),
        (
            {"effectors": ["gene0"], "regulators": ["gen1"]},
            MissingKeyError,
            "'gen1' in regulators .* 'gene1'",
        ),
        (
            {"effectors": ["gene0"], "regulators": ["gene0"], "quantities": ["default"]},
            UsageError,
            "no quantity between them is asked for; expected one of jacobian, response",
        ),
        ({"quantities": ["jacobian_mean"]}, UsageError, "give effectors= and regulators="),
        ({"quantities": ["curl"]}, UsageError, "cannot be had of this HopfieldField"),
    ],
)
def test_refusals(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_options(random_atlas(0).field, **asked)


def test_groups_of_names() -> None:
    field = random_atlas(0).field
    assert make_options(field, quantities=["divergence"]).quantities == ("trace",)
    assert make_options(field, quantities=["determinant"]).quantities == ("logabsdet", "det_sign")
    both = make_options(field, effectors=["gene0", "gene1", "gene0"], regulators=["gene1"])
    assert both.effectors == ("gene0", "gene1")
    assert "jacobian" in both.quantities
    assert "spectral_abscissa" in both.quantities


def test_rankings_refuse_what_they_cannot_rank() -> None:
    atlas = random_atlas(4, clusters=("A", "B"))
    asked: dict[str, Any] = {"effectors": ["gene0"], "regulators": ["gene1"]}
    ds = sd.stability(atlas.cells(), atlas.field, quantities=["jacobian_mean"], **asked).compute()
    with pytest.raises(UsageError, match="mode='best'; expected one of 'full reg'"):
        sd.rank_elements(ds, "A", mode="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no gene is both effector and regulator"):
        sd.rank_elements(ds, "A", mode="switch")
    with pytest.raises(UsageError, match="absolute=True leaves none"):
        sd.rank_elements(ds, "A", mode="switch", absolute=True)
    with pytest.raises(MissingKeyError, match="no cluster 'C'"):
        sd.rank_elements(ds, "C")
    with pytest.raises(UsageError, match="top=0"):
        sd.rank_elements(ds, "A", top=0)
    bare = sd.stability(atlas.cells(), atlas.field).compute()
    with pytest.raises(MissingKeyError, match="no means of the Jacobian; run with effectors="):
        sd.rank_elements(bare, "A")


def test_full_rankings_go_gene_by_gene() -> None:
    atlas = random_atlas(5, clusters=("A",))
    effectors, regulators = ["gene3", "gene1"], ["gene1", "gene0", "gene2"]
    asked: dict[str, Any] = {"effectors": effectors, "regulators": regulators}
    ds = sd.stability(atlas.cells(), atlas.field, quantities=["jacobian", "jacobian_mean"], **asked).compute()
    mean = np.nanmean(ds["jacobian"].to_numpy(), axis=0)
    full = sd.rank_elements(ds, "A", mode="full reg")
    assert full["effector"].tolist() == ["gene3"] * 3 + ["gene1"] * 3
    np.testing.assert_allclose(full["value"][:3], np.sort(mean[0])[::-1])
    back = sd.rank_elements(ds, "A", mode="full eff", top=1)
    assert back["regulator"].tolist() == regulators
    np.testing.assert_allclose(back["value"], mean.max(axis=0))
    by_regulator = sd.rank_elements(ds, "A", mode="reg").set_index("regulator")["value"]
    np.testing.assert_allclose(by_regulator[regulators], mean.mean(axis=0))
    alone = sd.rank_elements(ds, "A", mode="reg", exclude_diagonal=True).set_index("regulator")["value"]
    assert alone["gene1"] == pytest.approx(mean[0, 0])
    assert len(sd.rank_elements(ds, "A", mode="int", exclude_diagonal=True)) == 5


@pytest.mark.parametrize(
    ("quantity", "n_cells", "shape"),
    [
        ("jacobian_mean", 700, (60, 60)),
        ("jacobian", 4, (700, 700)),
        ("jacobian_mean", 2, (1500, 1500)),
        ("response", 700, (1, 700)),
        ("response", 4, (700, 700)),
        ("dynamo_sensitivity", 2, (450, 450)),
        ("dynamo_sensitivity", 700, (20, 20)),
    ],
)
def test_blocks_between_genes_take_what_is_planned_for_them(
    quantity: str, n_cells: int, shape: tuple[int, int]
) -> None:
    case = small_rkhs(0, n_cells=n_cells, n_axes=20, n_genes=1600)
    asked = {"effectors": case.genes[: shape[0]], "regulators": case.genes[-shape[1] :]}
    options = make_options(case.field, spectrum="none", quantities=[quantity], **asked)  # type: ignore[arg-type]
    linear = case.field.linearize(case.x, 0)
    out = empty_arrays(options, case.field, n_cells)
    assert linear.cores(np.arange(1)).any()  # Jacobians are made once
    rows, labels = np.arange(n_cells), np.zeros(n_cells, int)
    tracemalloc.start()
    try:
        write_between(linear, rows, labels, *options.block_index(case.field), out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= sizing._between_bytes(options)
