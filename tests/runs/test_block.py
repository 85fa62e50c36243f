"""The block function against dense linear algebra, cell by cell; and what must not change its results."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import DenseCluster, RandomField, antisymmetric_norm, match_spectra, random_field
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import RandomAtlas, planted, random_atlas

import stabdask as sd
from stabdask.errors import InputError
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldCluster
from stabdask.runs import block, shapes
from stabdask.runs.block import BlockTimes, compute_block
from stabdask.runs.options import make_options
from stabdask.runs.shapes import batch_cells, output_shapes
from stabdask.schema import DEFAULT_QUANTITIES, QUANTITIES, SCALARS, VARIABLES, Status

Array = np.ndarray[Any, Any]
Results = dict[str, Array]

FIELDS: dict[str, dict[str, Any]] = {
    "two clusters": {},
    "clusters that differ in size": {"clusters": ("C", "A", "B"), "n_regulators": (2, 7, 4), "n_genes": 12},
    "mostly inactive regulators": {"zeros": 0.8},
    "a cluster without regulators": {"n_regulators": (4, 0)},
    "no regulators at all": {"n_regulators": 0},
    "every gene regulates": {"n_regulators": 9},
    "one gene": {"n_genes": 1, "n_regulators": 1},
    "two genes": {"n_genes": 2, "n_regulators": 2},
    "cells that fail": {"unlabelled": (0, 5, 23), "broken": (3, 4, 16)},
}
TOLERANCE = 0.35


@pytest.fixture(params=list(FIELDS), ids=lambda name: name.replace(" ", "_"))
def atlas(request: pytest.FixtureRequest) -> RandomAtlas:
    return random_atlas(8, **FIELDS[request.param])


def solved(atlas: RandomAtlas, x: Array | None = None, codes: Array | None = None, **asked: Any) -> Results:
    options = make_options(atlas.field, **asked)
    x = atlas.x if x is None else x
    return compute_block(x, atlas.codes if codes is None else codes, atlas.field, options)


def one_cell(field: sd.HopfieldField, x: Array, **asked: Any) -> dict[str, Any]:
    """Return the results of a single cell of the first cluster, without the cell dimension."""
    out = compute_block(x, np.zeros(1, int), field, make_options(field, **asked))
    return {name: values[0] for name, values in out.items()}


def dense_gap(spectrum: Array) -> float:
    """Return the difference between the first two real parts, each conjugate pair taken once."""
    upper = np.sort(spectrum.real[spectrum.imag >= 0])[::-1]
    return float(upper[0] - upper[1]) if len(upper) > 1 else np.nan


# --- scalars -----------------------------------------------------------------------------------------------


def test_scalars_are_those_of_the_dense_jacobian(atlas: RandomAtlas) -> None:
    genes = atlas.field.genes
    rng = np.random.default_rng(0)
    pairs = [(str(i), str(j)) for i, j in rng.choice(genes, (12, 2))] + [(str(genes[0]), str(genes[0]))]
    pairs = list(dict.fromkeys(pairs))
    out = solved(atlas, elements=pairs, tolerance=TOLERANCE)
    index = {str(gene): position for position, gene in enumerate(genes)}
    for cell in np.flatnonzero(atlas.good):
        label = str(atlas.labels[cell])
        dense: DenseCluster = atlas.drawn.clusters[label]
        J = atlas.jacobian(cell)
        spectrum = np.linalg.eigvals(J)
        assert np.abs(np.abs(spectrum.real) - TOLERANCE).min() > 1e-6, (
            "an eigenvalue at the tolerance: other seed"
        )
        leading = spectrum[np.argmax(spectrum.real)]
        expected = {
            "spectral_abscissa": leading.real,
            "leading_frequency": abs(leading.imag),
            "spectral_gap": dense_gap(spectrum),
            "unstable_count": np.sum(spectrum.real > TOLERANCE),
            "stable_count": np.sum(spectrum.real < -TOLERANCE),
            "trace": np.trace(J),
            "rotational_norm": antisymmetric_norm(J),
            "speed": np.linalg.norm(dense.velocity(atlas.x[cell : cell + 1])),
        }
        for name, value in expected.items():
            assert out[name][cell] == pytest.approx(value, rel=1e-9, abs=1e-8, nan_ok=True), (name, cell)
        wanted = [J[index[i], index[j]] for i, j in pairs]
        np.testing.assert_allclose(out["element"][cell], wanted, rtol=1e-12, atol=1e-12)
        core = out["eigenvalue"][cell]
        assert np.sum(~np.isnan(core)) == out["active"][cell].sum() == dense.active(atlas.x[[cell]]).sum()
        assert 0 <= out["trace_defect"][cell] < 1e-12
        assert out["status"][cell] == Status.OK


def test_failed_cells_hold_fill_values_and_nothing_else_does(atlas: RandomAtlas) -> None:
    pairs = [(str(atlas.field.genes[0]), str(atlas.field.genes[-1]))]
    out = solved(atlas, elements=pairs, vectors="both")
    for name, values in out.items():
        variable = VARIABLES[name]
        assert values.dtype == variable.dtype()
        if name == "status":
            assert (values[~atlas.good] == Status.NON_FINITE_INPUT).all()
            continue
        bad = values[~atlas.good]
        filled = np.isnan(bad) if variable.kind in ("complex", "float") else bad == variable.fill
        assert filled.all(), name
        if variable.dims == ("cell",) and name not in ("spectral_gap", "residual"):
            assert np.isfinite(values[atlas.good]).all(), name
            assert (values[atlas.good] != variable.fill).all(), name
    assert (out["active"][atlas.good] <= 1).all()
    if (~atlas.good).any():
        # Neighbours do not notice: the same numbers as without the failed cells.
        alone = solved(atlas, atlas.x[atlas.good], atlas.codes[atlas.good], elements=pairs, vectors="both")
        for name, values in out.items():
            np.testing.assert_allclose(values[atlas.good], alone[name], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(out["eigenvalue"][atlas.good], alone["eigenvalue"])


GAPS = {
    "a pair, then a real": ([(0.5, 3.0), (-1.5, 0.0)], 2.0),
    "a real, then a pair": ([(0.5, 0.0), (0.25, 3.0)], 0.25),
    "two pairs": ([(0.5, 1.0), (-0.5, 4.0)], 1.0),
    "two pairs of one real part": ([(0.5, 1.0), (0.5, 4.0), (-3.0, 0.0)], 0.0),
    "a pair around a real of the same real part": ([(0.5, 3.0), (0.5, 0.0), (-3.0, 0.0)], 0.0),
    "the same real twice": ([(0.5, 0.0), (0.5, 0.0), (-3.0, 0.0)], 0.0),
    "a single real": ([(0.5, 0.0)], np.nan),
    "a single pair": ([(0.5, 3.0)], np.nan),
    "a pair, then a gene outside the core": ([(0.5, 3.0), (-1.0, 0.0)], 1.5),
    "a gene outside the core, then a pair": ([(-1.0, 0.0), (-4.0, 3.0)], 3.0),
    "a gene outside the core, then another": ([(-1.0, 0.0), (-1.0, 0.0), (-4.0, 3.0)], 0.0),
    "a pair outside of order": ([(-4.0, 3.0), (0.5, 2.0)], 4.5),
}


@pytest.mark.parametrize("case", list(GAPS), ids=lambda name: name.replace(" ", "_"))
def test_gap_and_frequency_of_planted_spectra(case: str) -> None:
    """Blocks [[a, -b], [b, a]] with eigenvalues a +- bi; a = -1 alone lies outside the core, for gamma is 1."""
    parts, gap = GAPS[case]
    size = sum(2 if b else 1 for _, b in parts)
    J = np.zeros((size, size))
    at = 0
    for a, b in parts:
        if b:
            J[at : at + 2, at : at + 2] = [[a, -b], [b, a]]
        else:
            J[at, at] = a
        at += 2 if b else 1
    for order in (np.arange(size), np.arange(size)[::-1]):
        field, x = planted(J[np.ix_(order, order)])
        np.testing.assert_allclose(field.jacobian(x, "all")[0], J[np.ix_(order, order)], atol=1e-14)
        out = one_cell(field, x)
        top = max(a for a, _ in parts)
        assert out["spectral_gap"] == pytest.approx(gap, abs=1e-12, nan_ok=True)
        assert out["spectral_abscissa"] == pytest.approx(top, abs=1e-12)
        if case not in ("two pairs of one real part", "a pair around a real of the same real part"):
            frequency = next(b for a, b in parts if a == top)
            assert out["leading_frequency"] == pytest.approx(frequency, abs=1e-12)
        outside = sum((a, b) == (-1.0, 0.0) for a, b in parts)
        assert out["active"].sum() == size - outside


def test_counts_and_tolerance_of_planted_spectra() -> None:
    """Reals 2, 0.5, 0, -0.5 in the core and three genes at -1 outside it."""
    field, x = planted(np.diag([2.0, 0.5, 0.0, -0.5, -1.0, -1.0, -1.0]))
    for tolerance, unstable, stable in ((0.0, 2, 4), (0.25, 2, 4), (0.75, 1, 3), (1.5, 1, 0), (3.0, 0, 0)):
        out = one_cell(field, x, tolerance=tolerance)
        # The planted 0 is 0 to rounding, on whichever side.
        slack = 1 if tolerance == 0 else 0
        assert 0 <= out["unstable_count"] - unstable <= slack
        assert 0 <= out["stable_count"] - stable <= slack
        assert out["spectral_abscissa"] == pytest.approx(2.0)


def test_elements_tell_effectors_from_regulators() -> None:
    J = np.array([[0.5, -2.0, 0.0], [3.0, -0.25, 7.0], [0.0, 0.125, -1.5]])
    field, x = planted(J)
    pairs = [(f"gene{i}", f"gene{j}") for i in range(3) for j in range(3)]
    out = one_cell(field, x, elements=pairs)
    np.testing.assert_allclose(out["element"].reshape(3, 3), J, atol=1e-14)
    assert out["rotational_norm"] == pytest.approx(np.linalg.norm((J - J.T) / 2))
    assert out["trace"] == pytest.approx(np.trace(J))


def test_regulators_at_a_switch_are_counted() -> None:
    """Two-component regulators within 1e-6 of the middle of their thresholds; others never count."""
    n = 6
    k1, k2 = np.full(n, 1.0), np.full(n, 3.0)
    mix = np.array([0.5, 0.5, 0.5, 1.0, 0.5, 0.5])  # gene 3 has one component
    W = np.ones((n, n))
    W[:, 4] = 0.0  # gene 4 does not regulate
    hill = HillParameters(k1, np.full(n, 2.0), k2, np.full(n, 4.0), mix)
    cluster = HopfieldCluster.from_dense(W, gamma=np.ones(n), bias=np.zeros(n), hill=hill)
    field = sd.HopfieldField([f"g{i}" for i in range(n)], {"all": cluster})
    far = np.full(n, 1.5)
    rows = {
        0: far,
        1: np.where(np.arange(n) == 1, 2.0, far),
        2: np.array([2 * (1 + 9e-7), 2 * (1 - 9e-7), 2 * (1 + 2e-6), 2.0, 2.0, 1.5]),
        3: np.full(n, 2.0) * np.array([1, 1, 1, 1, 1, 1 - 2e-6]),
    }
    x = np.stack(list(rows.values()))
    out = compute_block(x, np.zeros(4, int), field, make_options(field))
    assert out["near_switch_count"].tolist() == [0, 1, 2, 3]


# --- eigenvectors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [None, 1, 3])
@pytest.mark.parametrize("vectors", ["right", "both"])
def test_vectors_are_eigenvectors_of_the_dense_jacobian(
    atlas: RandomAtlas, vectors: str, modes: int | None
) -> None:
    out = solved(atlas, vectors=vectors, modes=modes)
    shown = min(modes or 10, atlas.field.largest_core)
    assert ("left_vector" in out) == (vectors == "both")
    assert out["right_vector"].shape == (len(atlas.x), shown, atlas.field.n_genes)
    n_checked = 0
    for cell in np.flatnonzero(atlas.good):
        J = atlas.jacobian(cell)
        scale = np.linalg.norm(J)
        size = int(out["active"][cell].sum())
        for name in ("right_vector", "left_vector"):
            if name not in out:
                continue
            found = out[name][cell]
            assert np.isnan(found[size:]).all()
            for mode in range(min(size, shown)):
                vector, value = found[mode], out["eigenvalue"][cell, mode]
                if name == "right_vector":
                    defect = J @ vector - value * vector
                else:
                    defect = vector.conj() @ J - value * vector.conj()
                assert np.linalg.norm(defect) < 1e-10 * max(scale, 1), (name, cell, mode)
                assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-12)
                pivot = vector[np.argmax(np.abs(vector) > np.abs(vector).max() * (1 - 1e-9))]
                assert pivot.imag == pytest.approx(0, abs=1e-9)
                assert pivot.real > 0
                n_checked += 1
        assert out["status"][cell] == Status.OK
        assert np.isnan(out["residual"][cell]) if size == 0 else out["residual"][cell] < 1e-12
    assert n_checked > 0 or atlas.field.largest_core == 0


def test_left_and_right_vectors_differ_and_belong_together() -> None:
    """Left vectors must not be right vectors: y^H x = 0 for different eigenvalues, not for the same."""
    atlas = random_atlas(8, zeros=0.0, n_regulators=6, n_genes=6)
    out = solved(atlas, vectors="both")
    for cell in range(len(atlas.x)):
        right, left = out["right_vector"][cell], out["left_vector"][cell]
        overlap = left.conj() @ right.T
        values = out["eigenvalue"][cell]
        apart = np.abs(values[:, None] - values[None, :]) > 1e-3
        assert np.abs(overlap[apart]).max() < 1e-9
        assert np.abs(np.diag(overlap)).min() > 1e-3
        assert np.abs(right - left).max() > 1e-2


def test_a_defective_jacobian_is_reported() -> None:
    """Gene 1 is driven by gene 0, and both decay at the same rate: one eigenvector for two eigenvalues."""
    J = np.array([[-1.0, 0.0], [2.0, -1.0]])
    field, x = planted(J)
    out = one_cell(field, x, vectors="both")
    assert out["active"].tolist() == [1]
    assert out["status"] == Status.DEFECTIVE
    np.testing.assert_allclose(out["eigenvalue"], [-1.0])
    np.testing.assert_allclose(out["right_vector"], [[0.0, 1.0]])
    np.testing.assert_allclose(out["left_vector"], [[1.0, 0.0]])
    assert out["spectral_abscissa"] == -1.0
    assert out["spectral_gap"] == 0.0
    assert out["stable_count"] == 2
    # Without vectors there is nothing wrong with it.
    assert one_cell(field, x)["status"] == Status.OK


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [1, 2, 3, 100])
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_leading_modes_keep_the_scalars_of_the_complete_spectrum(
    atlas: RandomAtlas, modes: int, vectors: str
) -> None:
    full = solved(atlas, vectors=vectors, modes=modes)
    leading = solved(atlas, spectrum="leading", vectors=vectors, modes=modes)
    kept = min(modes, atlas.field.largest_core)
    assert leading["eigenvalue"].shape[1] == kept
    np.testing.assert_array_equal(leading["eigenvalue"], full["eigenvalue"][:, :kept])
    assert leading.keys() == full.keys()
    for name in full.keys() - {"eigenvalue"}:
        np.testing.assert_array_equal(leading[name], full[name], err_msg=name)


def test_without_a_spectrum_only_closed_forms_are_computed(
    atlas: RandomAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = solved(atlas)
    monkeypatch.setattr(block, "_solve_batch", lambda *a, **k: pytest.fail("an eigensolver was called"))
    out = solved(atlas, spectrum="none")
    assert set(out) == {"trace", "rotational_norm", "speed", "near_switch_count", "active", "status"}
    for name, values in out.items():
        np.testing.assert_array_equal(values, full[name])


@pytest.mark.parametrize(
    "name", [name for name in SCALARS if name in QUANTITIES and name not in ("residual", "torsion")]
)
def test_a_single_quantity_is_the_same_as_among_all(name: str) -> None:
    atlas = random_atlas(1, broken=(2,))
    alone = solved(atlas, quantities=[name])
    assert set(alone) == {name, "eigenvalue", "active", "status"}
    everything = solved(atlas, quantities=["default", "reactivity", "acceleration_norm", "curvature_norm"])
    for key, values in alone.items():
        np.testing.assert_array_equal(values, everything[key])


def test_single_precision_is_as_accurate_as_it_can_be(atlas: RandomAtlas) -> None:
    out = solved(atlas, dtype="float32", vectors="both")
    double = solved(atlas, vectors="both")
    for name in ("eigenvalue", "right_vector", "left_vector"):
        assert out[name].dtype == np.complex64
    for name in ("trace", "rotational_norm", "speed", "near_switch_count", "active"):
        np.testing.assert_array_equal(out[name], double[name])
    for cell in np.flatnonzero(atlas.good):
        assert out["status"][cell] == Status.OK
        J = atlas.jacobian(cell)
        scale = np.linalg.norm(J)
        solid = ~np.isnan(out["eigenvalue"][cell])
        if not solid.any():
            continue
        exact = double["eigenvalue"][cell][solid]
        # Well-conditioned eigenvalues to single precision; the condition is 1 / |y^H x|.
        overlap = np.einsum("mg,mg->m", double["left_vector"][cell].conj(), double["right_vector"][cell])
        worst = 1 / np.abs(overlap[: len(exact)]).min()
        assert match_spectra(out["eigenvalue"][cell][solid], exact) < 2e-6 * scale * worst
        assert abs(out["spectral_abscissa"][cell] - double["spectral_abscissa"][cell]) < 2e-6 * scale * worst
        for mode in range(len(exact)):
            vector = out["right_vector"][cell, mode].astype(complex)
            defect = J @ vector - complex(out["eigenvalue"][cell, mode]) * vector
            assert np.linalg.norm(defect) < 3e-5 * scale


def test_times_are_added_up() -> None:
    atlas = random_atlas(1)
    times = BlockTimes()
    for _ in range(2):
        compute_block(
            atlas.x, atlas.codes, atlas.field, make_options(atlas.field, vectors="right"), times=times
        )
    assert min(times.closed_form_s, times.eig_s, times.lift_s) > 0


# --- statuses ----------------------------------------------------------------------------------------------


def test_statuses_of_cells_that_cannot_be_computed() -> None:
    atlas = random_atlas(1, n_cells=8)
    x, codes = atlas.x.copy(), atlas.codes.copy()
    x[1, 0], x[2, 3], x[3, 8] = np.nan, np.inf, -np.inf
    codes[4], codes[5] = block.NO_LABEL, block.SKIPPED
    x[4], x[5] = -1.0, np.nan  # nobody looks at these
    x[6], x[6, 2] = -5.0, np.nan  # not a number anyway
    out = solved(atlas, x, codes)
    assert out["status"].tolist() == [0, 3, 3, 3, 3, 5, 3, 0]
    for name in ("spectral_abscissa", "trace", "speed"):
        assert np.isfinite(out[name]).tolist() == [True, *[False] * 6, True]


def test_genes_the_field_does_not_know_may_hold_anything() -> None:
    atlas = random_atlas(1)
    wide = np.concatenate([np.full((24, 1), np.nan), atlas.x, np.full((24, 1), -3.0)], axis=1)
    options = make_options(atlas.field)
    columns = np.arange(1, 1 + atlas.field.n_genes)
    out = compute_block(wide, atlas.codes, atlas.field, options, columns=columns)
    for name, values in solved(atlas).items():
        np.testing.assert_array_equal(out[name], values)


def test_negative_expression_is_refused_by_name() -> None:
    atlas = random_atlas(1)
    x = atlas.x.copy()
    x[5, 2] = -0.5
    with pytest.raises(
        InputError, match=r"expression of gene 'gene2' in cell '5' is -0\.5; expected values >= 0"
    ):
        solved(atlas, x)
    names = np.array([f"AAAC-{i}" for i in range(24)])
    with pytest.raises(InputError, match="in cell 'AAAC-5' is"):
        compute_block(x, atlas.codes, atlas.field, make_options(atlas.field), cells=names)


def test_a_block_without_cells() -> None:
    atlas = random_atlas(1)
    options = make_options(atlas.field, vectors="both", elements=[("gene0", "gene1")])
    out = compute_block(atlas.x[:0], atlas.codes[:0], atlas.field, options)
    assert {name: values.shape for name, values in out.items()} == output_shapes(options, atlas.field, 0)


# --- what must not matter ----------------------------------------------------------------------------------


def same(a: Results, b: Results, *, vectors: bool = True) -> None:
    """Compare two results of the same cells: cores by the bit, what goes through products of blocks closely."""
    assert a.keys() == b.keys()
    for name, values in a.items():
        if name in ("eigenvalue", "active", "status", "unstable_count", "stable_count", "trace_defect"):
            np.testing.assert_array_equal(values, b[name], err_msg=name)
        elif vectors or not name.endswith("_vector"):
            np.testing.assert_allclose(values, b[name], rtol=1e-9, atol=1e-9, err_msg=name)


atlases = st.builds(
    random_atlas,
    st.integers(0, 5),
    n_cells=st.just(14),
    zeros=st.sampled_from([0.0, 0.3, 0.8]),
    n_regulators=st.sampled_from([(6, 2), (1, 9), (0, 4)]),
    broken=st.sampled_from([(), (3, 10)]),
    unlabelled=st.sampled_from([(), (0, 4)]),
)
ASKED: dict[str, Any] = {
    "vectors": "both",
    "elements": [("gene1", "gene0"), ("gene2", "gene2")],
    "quantities": ["default", "reactivity", "eigenvalue_condition", "participation", "sensitivity"],
}


@given(atlases, st.permutations(range(14)))
@settings(max_examples=25)
def test_the_order_of_cells_does_not_matter(atlas: RandomAtlas, order: list[int]) -> None:
    shuffled = solved(atlas, atlas.x[order], atlas.codes[order], **ASKED)
    whole = solved(atlas, **ASKED)
    same({n: v if VARIABLES[n].per_partition else v[order] for n, v in whole.items()}, shuffled)


@given(atlases, st.lists(st.integers(0, 14), max_size=5))
@settings(max_examples=25)
def test_the_cut_into_blocks_does_not_matter(atlas: RandomAtlas, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), 14]
    parts = [solved(atlas, atlas.x[a:b], atlas.codes[a:b], **ASKED) for a, b in pairwise(bounds)]
    whole = solved(atlas, **ASKED)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    # Sums over cells are added to, block by block.
    same(
        whole,
        {n: v.sum(axis=0, keepdims=True) if VARIABLES[n].per_partition else v for n, v in joined.items()},
    )


@given(atlases, st.lists(st.integers(0, 14), max_size=5), st.booleans())
@settings(max_examples=25)
def test_a_block_in_pieces_is_the_same_block(atlas: RandomAtlas, cuts: list[int], spare: bool) -> None:
    x = np.c_[atlas.x, atlas.x[:, 0]] if spare else atlas.x
    columns = np.arange(atlas.field.n_genes) if spare else None
    pieces = [x[a:b] for a, b in pairwise([0, *sorted(cuts), 14])]
    options = make_options(atlas.field, **ASKED)
    whole = compute_block(x, atlas.codes, atlas.field, options, columns=columns)
    parts = compute_block(pieces, atlas.codes, atlas.field, options, columns=columns)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)


@given(atlases, st.sampled_from([1, 700, 5_000]))
@settings(max_examples=25)
def test_the_size_of_batches_does_not_matter(atlas: RandomAtlas, n_bytes: int) -> None:
    whole = solved(atlas, **ASKED)
    options = make_options(atlas.field, **ASKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_BATCH_BYTES", n_bytes)
        assert batch_cells(options, atlas.field) < 14
        same(whole, solved(atlas, **ASKED))


@given(atlases, st.permutations(range(9)), st.integers(0, 3))
@settings(max_examples=25)
def test_the_order_and_number_of_genes_in_the_atlas_do_not_matter(
    atlas: RandomAtlas, order: list[int], more: int
) -> None:
    """Expression is put into the order of the field first, so results are the same to the bit."""
    wide = np.concatenate([atlas.x[:, order], np.full((14, more), 99.0)], axis=1)
    columns = np.argsort(order)
    options = make_options(atlas.field, **ASKED)
    out = compute_block(wide, atlas.codes, atlas.field, options, columns=columns)
    for name, values in solved(atlas, **ASKED).items():
        np.testing.assert_array_equal(out[name], values)


def permuted(drawn: RandomField, order: list[int]) -> sd.HopfieldField:
    """Return the field with its genes in another order, names and all."""
    clusters = {}
    for label, p in drawn.clusters.items():
        hill = HillParameters(*(values[order] for values in (p.k1, p.n1, p.k2, p.n2, p.mix)))
        clusters[label] = HopfieldCluster.from_dense(
            p.W[np.ix_(order, order)], gamma=p.gamma[order], bias=p.bias[order], hill=hill
        )
    return sd.HopfieldField([str(drawn.field.genes[i]) for i in order], clusters)


@given(atlases, st.permutations(range(9)))
@settings(max_examples=25)
def test_the_order_of_genes_in_the_field_does_not_matter(atlas: RandomAtlas, order: list[int]) -> None:
    field = permuted(atlas.drawn, order)
    before = solved(atlas, **ASKED)
    after = compute_block(atlas.x[:, order], atlas.codes, field, make_options(field, **ASKED))
    np.testing.assert_array_equal(before["status"], after["status"])
    for name in (*DEFAULT_QUANTITIES, "reactivity"):
        if name not in ("residual", "trace_defect"):
            np.testing.assert_allclose(after[name], before[name], rtol=1e-7, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(after["element"], before["element"], atol=1e-12)
    active = [
        dict(zip(f.regulators, a.T, strict=True))
        for f, a in ((atlas.field, before["active"]), (field, after["active"]))
    ]
    assert active[0].keys() == active[1].keys()
    for gene, values in active[0].items():
        np.testing.assert_array_equal(values, active[1][gene])
    for cell in np.flatnonzero(atlas.good):
        kept = ~np.isnan(before["eigenvalue"][cell])
        assert match_spectra(before["eigenvalue"][cell][kept], after["eigenvalue"][cell][kept]) < 1e-8


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool])
def test_the_type_of_expression_does_not_matter(dtype: Any) -> None:
    atlas = random_atlas(2)
    x = np.round(atlas.x) if dtype is not bool else atlas.x > 1
    out = solved(atlas, x.astype(dtype))
    for name, values in solved(atlas, x.astype(np.float64)).items():
        np.testing.assert_array_equal(out[name], values)


def test_weights_in_single_precision_are_computed_with_in_double() -> None:
    """A field whose W is kept as float32 gives what float64 gives for the same numbers."""
    drawn = random_field(3, dtype=np.float32)
    wide = {
        label: HopfieldCluster.from_dense(
            p.W, gamma=p.gamma, bias=p.bias, hill=HillParameters(p.k1, p.n1, p.k2, p.n2, p.mix)
        )
        for label, p in drawn.clusters.items()
    }
    twin = sd.HopfieldField(drawn.field.genes.tolist(), wide)
    assert drawn.field.parameters[0].weights.dtype == np.float32
    assert twin.parameters[0].weights.dtype == np.float64
    x, codes = drawn.expression(10), np.arange(10) % 2
    one, other = (compute_block(x, codes, f, make_options(f, **ASKED)) for f in (drawn.field, twin))
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-12, atol=1e-12, err_msg=name)
