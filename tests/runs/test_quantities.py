"""Quantities read off cores and vectors, against dense formulas and against what changing a parameter does."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import RandomAtlas, planted, random_atlas

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError
from stabdask.fields.hopfield import HopfieldCluster, HopfieldField
from stabdask.kernels import lanczos
from stabdask.kernels.eig import BACKENDS, EigResult
from stabdask.runs import modes
from stabdask.runs import options as options_module
from stabdask.runs.block import compute_block
from stabdask.runs.means import merge_sums
from stabdask.runs.modes import cell_status
from stabdask.runs.options import make_options
from stabdask.schema import MODE_QUANTITIES, QUANTITIES, SCALARS, VARIABLES, Status

Array = np.ndarray[Any, Any]
EVERYTHING = ["default", "reactivity", *MODE_QUANTITIES]


def solved(atlas: RandomAtlas, field: sd.HopfieldField | None = None, **asked: Any) -> dict[str, Array]:
    field = field or atlas.field
    return compute_block(atlas.x, atlas.codes, field, make_options(field, **asked))


def dense_modes(J: Array) -> tuple[Array, Array, Array]:
    """Return eigenvalues, right vectors as columns and left vectors as rows with y^H x = 1."""
    values, right = np.linalg.eig(J)
    return values, right, np.linalg.inv(right)


ATLASES = st.builds(
    random_atlas,
    st.integers(0, 50),
    n_cells=st.just(6),
    zeros=st.sampled_from([0.0, 0.5]),
    n_genes=st.sampled_from([9, 40]),
    n_regulators=st.sampled_from([(6, 2), (1, 9), (0, 4)]),
    broken=st.sampled_from([(), (3,)]),
    unlabelled=st.sampled_from([(), (0,)]),
)


# --- scalars -----------------------------------------------------------------------------------------------


@given(ATLASES)
@settings(max_examples=40)
def test_scalars_are_those_of_dense_jacobians(atlas: RandomAtlas) -> None:
    out = solved(atlas, quantities=EVERYTHING)
    for cell in np.flatnonzero(atlas.good):
        J = atlas.jacobian(cell)
        norm = np.linalg.norm(J)
        values = np.linalg.eigvals(J)
        sign, log = np.linalg.slogdet(J)
        assert out["det_sign"][cell] == sign
        assert out["logabsdet"][cell] == pytest.approx(log, abs=1e-8)
        expected = np.linalg.eigvalsh((J + J.T) / 2)[-1]
        assert out["reactivity"][cell] == pytest.approx(expected, abs=1e-9 * norm)
        departure = max(0.0, norm**2 - (np.abs(values) ** 2).sum())
        assert out["henrici"][cell] ** 2 == pytest.approx(departure, abs=1e-10 * norm**2)
        assert out["spectral_abscissa"][cell] <= out["reactivity"][cell] + 1e-9 * norm
    for name in ("logabsdet", "det_sign", "henrici", "reactivity"):
        assert np.isnan(out[name][~atlas.good]).all()


@pytest.mark.parametrize("spectrum", ["none", "leading"])
def test_determinants_without_all_eigenvalues(spectrum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "_KRYLOV_FROM", 20)
    atlas = random_atlas(7, n_genes=60, n_regulators=(40, 30), n_cells=6, zeros=0.3)
    full = solved(atlas)
    asked: dict[str, Any] = {"quantities": ["logabsdet", "det_sign"], "spectrum": spectrum}
    out = solved(atlas, backend="krylov" if spectrum == "leading" else "auto", **asked)
    np.testing.assert_array_equal(out["det_sign"], full["det_sign"])
    np.testing.assert_allclose(out["logabsdet"], full["logabsdet"], rtol=1e-10)
    # Both take a factorization of each core, so neither comes unasked.
    usual = make_options(atlas.field, spectrum=spectrum)
    assert not {"logabsdet", "det_sign", "henrici"} & set(usual.quantities)
    asked["quantities"] = ["default", "det_sign"]
    assert "det_sign" in make_options(atlas.field, **asked).quantities


def test_a_singular_jacobian() -> None:
    field, x = planted(np.array([[1.0, 1.0], [1.0, 1.0]]))
    for spectrum in ("full", "none"):
        options = make_options(field, quantities=["logabsdet", "det_sign"], spectrum=spectrum)
        out = compute_block(x, np.zeros(1, int), field, options)
        assert out["logabsdet"][0] < -30
        assert out["det_sign"][0] in (-1, 0, 1)
    # A gene that nothing regulates and that does not decay.
    free = sd.HopfieldField.from_arrays(
        ["a", "b"], W=[[1.0, 0], [0, 0]], gamma=[1.0, 0.0], threshold=1.0, exponent=1.0
    )
    out = compute_block(np.ones((1, 2)), np.zeros(1, int), free, make_options(free))
    assert (out["logabsdet"][0], out["det_sign"][0]) == (-np.inf, 0)


def test_extreme_eigenvalues_have_determinants() -> None:
    for scale in (1e-200, 1e200):
        field, x = planted(scale * np.array([[0.0, 2.0], [-2.0, 0.0]]), gamma=scale)
        out = compute_block(
            x, np.zeros(1, int), field, make_options(field, quantities=["logabsdet", "det_sign"])
        )
        assert out["logabsdet"][0] == pytest.approx(2 * np.log(2 * scale))
        assert out["det_sign"][0] == 1


def test_normal_and_reactive_jacobians() -> None:
    wanted = ["henrici", "reactivity", "spectral_abscissa"]
    rotation, x = planted(np.array([[-1.0, 3.0], [-3.0, -1.0]]))
    out = compute_block(x, np.zeros(1, int), rotation, make_options(rotation, quantities=wanted))
    assert out["henrici"][0] == pytest.approx(0, abs=1e-7)
    assert out["reactivity"][0] == pytest.approx(-1)
    # Both eigenvalues are -1; by hand, (J + J^T)/2 = [[-1, 5], [5, -1]] and |J|^2 - sum |lambda|^2 = 100.
    shear, x = planted(np.array([[-1.0, 10.0], [0.0, -1.0]]), gamma=2.0)
    out = compute_block(x, np.zeros(1, int), shear, make_options(shear, quantities=wanted))
    assert out["spectral_abscissa"][0] == pytest.approx(-1)
    assert out["henrici"][0] == pytest.approx(10)
    assert out["reactivity"][0] == pytest.approx(4)


def test_reactivity_of_many_genes() -> None:
    """A sparse W, more genes than vectors in a basis, and rates that lie close together."""
    atlas = random_atlas(3, n_genes=300, n_regulators=(12, 5), density=0.05, n_cells=8)
    out = solved(atlas, quantities=["reactivity"], spectrum="none")
    for cell in range(8):
        J = atlas.jacobian(cell)
        assert out["reactivity"][cell] == pytest.approx(np.linalg.eigvalsh((J + J.T) / 2)[-1], abs=1e-8)


def test_reactivity_where_rates_crowd_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates over seven orders of magnitude: the iteration does not end, a dense solver does."""
    n = 150
    rng = np.random.default_rng(1)
    W = np.zeros((n, n))
    W[:, :3] = 1e-7 * rng.normal(size=(n, 3))
    names = [f"gene{i}" for i in range(n)]
    gamma = 10.0 ** rng.uniform(-6, 1, n)
    field = sd.HopfieldField.from_arrays(names, W=W, gamma=gamma, threshold=1.0, exponent=2.0)
    x = rng.gamma(2.0, size=(2, n))
    options = make_options(field, quantities=["reactivity"], spectrum="none")
    out = compute_block(x, np.zeros(2, int), field, options)
    for found, J in zip(out["reactivity"], field.jacobian(x, "all"), strict=True):
        assert found == pytest.approx(np.linalg.eigvalsh((J + J.T) / 2)[-1], abs=1e-12)
    # Too many genes for that: not found, and so it says.
    monkeypatch.setattr(lanczos, "DENSE_ORDER", n - 1)
    assert np.isnan(compute_block(x, np.zeros(2, int), field, options)["reactivity"]).all()


# --- modes -------------------------------------------------------------------------------------------------


def nearest(values: Array, target: complex) -> int:
    return int(np.abs(values - target).argmin())


@given(ATLASES)
@settings(max_examples=40)
def test_condition_and_participation_are_those_of_dense_jacobians(atlas: RandomAtlas) -> None:
    out = solved(atlas, quantities=EVERYTHING)
    own = atlas.field.regulator_index
    for cell in np.flatnonzero(atlas.good):
        J = atlas.jacobian(cell)
        values, right, left = dense_modes(J)
        apart = np.abs(values[:, None] - values).astype(float) + np.diag(np.full(len(J), np.inf))
        for mode in range(out["participation"].shape[1]):
            value = out["eigenvalue"][cell, mode]
            if np.isnan(value):
                assert np.isnan(out["participation"][cell, mode]).all()
                assert np.isnan(out["eigenvalue_condition"][cell, mode])
                continue
            m = nearest(values, value)
            condition = np.linalg.norm(right[:, m]) * np.linalg.norm(left[m])
            if apart[m].min() < 1e-3 or condition > 1e5:
                continue  # the dense vectors are no oracle there
            assert out["eigenvalue_condition"][cell, mode] == pytest.approx(condition, rel=1e-5)
            shares = left[m] * right[:, m]
            np.testing.assert_allclose(out["participation"][cell, mode], shares[own], atol=1e-6)
            assert out["participation"][cell, mode].sum() == pytest.approx(1)


def perturbed(
    field: HopfieldField, cluster: str, effector: int, regulator: int, step: float
) -> HopfieldField:
    """Return the field with one weight changed."""
    clusters = dict(zip(field.clusters, field.parameters, strict=True))
    old = clusters[cluster]
    weights = np.array(old.weights, dtype=float)
    weights[effector, list(old.regulators).index(regulator)] += step
    clusters[cluster] = HopfieldCluster(old.regulators, weights, old.gamma, old.bias, old.hill)
    return HopfieldField(field.genes.tolist(), clusters)


@pytest.mark.parametrize("seed", [1, 2, 6])
def test_sensitivity_is_what_changing_a_weight_does(seed: int) -> None:
    atlas = random_atlas(seed, n_cells=4, zeros=0.0, n_regulators=4, clusters=("A",))
    field, own = atlas.field, atlas.field.regulator_index
    step = 1e-6
    for cell in range(4):
        one = RandomAtlas(atlas.drawn, atlas.x[cell : cell + 1], ["A"])
        out = solved(one, quantities=["sensitivity"])
        found = out["sensitivity_sum"][0, 0]
        assert out["driver_cells"][0, 0, 0] == 1
        for i, j in np.ndindex(found.shape):
            ends = [
                solved(one, perturbed(field, "A", int(own[i]), int(own[j]), sign * step))["eigenvalue"][
                    0, 0
                ].real
                for sign in (1, -1)
            ]
            assert found[i, j] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
        np.testing.assert_allclose(out["sensitivity_squares"][0, 0], found**2, atol=1e-14)


@given(ATLASES)
@settings(max_examples=30)
def test_edges_and_degradation_make_up_the_leading_eigenvalue(atlas: RandomAtlas) -> None:
    """Re(lambda) = sum_ij W_ij d Re(lambda)/d W_ij - sum_i gamma_i Re(p_i), exactly."""
    for cell in np.flatnonzero(atlas.good):
        label = atlas.labels[cell]
        assert label is not None
        one = RandomAtlas(atlas.drawn, atlas.x[cell : cell + 1], [label])
        out = solved(one, quantities=["participation", "sensitivity_mean"])
        number = atlas.field.clusters.index(label)
        if not out["active"].any() or out["status"][0] != Status.OK:
            continue
        if not out["driver_cells"][0, number, 0]:
            continue
        weights = atlas.field.regulator_weights(number)
        own = atlas.field.regulator_index
        np.testing.assert_array_equal(weights, atlas.drawn.clusters[label].W[np.ix_(own, own)])
        edges = (weights * out["sensitivity_sum"][0, number]).sum()
        decay = (atlas.drawn.clusters[label].gamma[own] * out["participation"][0, 0].real).sum()
        assert edges - decay == pytest.approx(out["eigenvalue"][0, 0].real, abs=1e-6)


def test_top_edges_are_the_largest_of_the_network() -> None:
    atlas = random_atlas(4, n_cells=5, n_regulators=6, zeros=0.2, clusters=("A",), density=0.6)
    weights = atlas.field.regulator_weights(0)
    for cell in range(5):
        one = RandomAtlas(atlas.drawn, atlas.x[cell : cell + 1], ["A"])
        out = solved(one, quantities=["sensitivity"])
        dense = np.where(weights != 0, out["sensitivity_sum"][0, 0], 0.0)
        order = np.argsort(-np.abs(dense).ravel(), kind="stable")[:10]
        order = order[np.abs(dense).ravel()[order] > 1e-12]
        n = len(order)
        np.testing.assert_allclose(out["top_edge_sensitivity"][0, :n], dense.ravel()[order], atol=1e-14)
        assert np.isnan(out["top_edge_sensitivity"][0, n:]).all()
        assert (out["top_edge_effector"][0, n:] == -1).all()
        i, j = out["top_edge_effector"][0, :n], out["top_edge_regulator"][0, :n]
        np.testing.assert_allclose(dense[i, j], out["top_edge_sensitivity"][0, :n], atol=1e-14)


def test_top_edges_take_the_memory_that_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "EDGE_BYTES", 2**20)
    rng = np.random.default_rng(0)
    n_cells, n = 60, 150
    vectors = rng.normal(size=(2, n_cells, n)) + 1j * rng.normal(size=(2, n_cells, n))
    edges = np.indices((n, n)).reshape(2, -1)
    kinds = {"effector": np.int32, "regulator": np.int32, "sensitivity": np.float64}
    out: dict[str, Array] = {
        f"top_edge_{name}": np.zeros((n_cells, 10), dtype=kind) for name, kind in kinds.items()
    }
    tracemalloc.start()
    modes._write_top_edges((edges[0], edges[1]), np.arange(n_cells), *vectors, 1e-13, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * 2**20
    every = (vectors[0, :, :, None] * vectors[1, :, None, :]).real.reshape(n_cells, -1)
    expected = -np.sort(-np.abs(every), axis=1)[:, :10]
    np.testing.assert_allclose(np.abs(out["top_edge_sensitivity"]), expected)


def test_sums_are_of_the_cells_of_a_label() -> None:
    atlas = random_atlas(5, n_cells=12, broken=(2,), unlabelled=(5,))
    out = solved(atlas, quantities=["participation", "sensitivity"])
    for number in range(2):
        members = np.flatnonzero((atlas.codes == number) & atlas.good & (out["status"] == Status.OK))
        shares = np.nan_to_num(out["participation"][members].real)
        np.testing.assert_allclose(out["participation_sum"][0, number], shares.sum(axis=0), atol=1e-12)
        np.testing.assert_allclose(
            out["participation_squares"][0, number], (shares**2).sum(axis=0), atol=1e-12
        )
        there = (~np.isnan(out["participation"][members, :, 0])).sum(axis=0)
        np.testing.assert_array_equal(out["driver_cells"][0, number], there)


def test_a_defective_mode_is_in_no_mean() -> None:
    field, x = planted(np.array([[-1.0, 3.0], [0.0, -1.0]]), gamma=2.0)
    out = compute_block(x, np.zeros(1, int), field, make_options(field, quantities=EVERYTHING))
    assert out["status"][0] == Status.OK
    assert out["eigenvalue_condition"][0, 0] > 1e7
    assert np.isnan(out["participation"]).all()
    assert not out["driver_cells"].any()
    assert not out["sensitivity_sum"].any()
    # A cell whose vectors are kept says so itself.
    kept = compute_block(
        x, np.zeros(1, int), field, make_options(field, quantities=EVERYTHING, vectors="right")
    )
    assert kept["status"][0] == Status.DEFECTIVE


def test_a_defective_cell_without_finite_eigenvalues_is_inaccurate() -> None:
    unit = np.ones((2, 1, 1), dtype=complex)
    result = EigResult(
        eigenvalues=np.array([[np.inf + 0j], [1.0 + 0j]]),
        right=unit,
        left=unit,
        condition=None,
        residual=np.full(2, np.nan),
        trace_defect=np.full(2, np.nan),
        status=np.full(2, Status.DEFECTIVE, dtype=np.uint8),
        backend="lapack",
    )
    found = cell_status(result, np.ones(2, dtype=np.intp), keeps_vectors=False)
    assert found.tolist() == [Status.INACCURATE, Status.OK]


def test_a_defective_mode_leaves_the_leading_one_alone() -> None:
    J = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 3.0], [0.0, 0.0, -1.0]])
    field, x = planted(J, gamma=2.0)
    out = compute_block(x, np.zeros(1, int), field, make_options(field, quantities=["drivers"]))
    assert out["driver_cells"][0, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(out["participation_sum"][0, 0, 0], [1, 0, 0], atol=1e-12)


def test_a_mode_that_collapses_onto_a_target_leaves_the_others_alone() -> None:
    """A source regulator has the eigenvalue -gamma of its target: a Jordan block. The leading mode has none."""
    J = np.array([[2.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1.0, 3.0, -1.0]])
    field, x = planted(J)
    out = compute_block(
        x, np.zeros(1, int), field, make_options(field, quantities=["eigenvalue_condition"], modes=2)
    )
    _, right, left = dense_modes(J[[0, 2]][:, [0, 2]])
    expected = np.linalg.norm(right[:, 0]) * np.linalg.norm(left[0])
    np.testing.assert_allclose(out["eigenvalue_condition"], [[expected, np.inf]])


def test_vectors_are_computed_for_quantities_but_not_kept() -> None:
    field = random_atlas(0).field
    options = make_options(field, quantities=["sensitivity_mean"])
    assert (options.vectors, options.solved_vectors, options.vector_modes(field)) == ("none", "both", 1)
    assert "right_vector" not in options.variables()
    assert make_options(field, quantities=["participation"], modes=4).vector_modes(field) == 4
    assert make_options(field, quantities=["participation"]).vector_modes(field) == 3
    assert make_options(field, quantities=["participation"], vectors="right").modes == 10
    assert "residual" in make_options(field, quantities=["default", "drivers"]).quantities


def test_what_cannot_be_had_is_refused() -> None:
    field = random_atlas(0, n_genes=30, n_regulators=25).field
    with pytest.raises(UsageError, match="'sensitivity' needs a spectrum"):
        make_options(field, spectrum="none", quantities=["sensitivity"])
    with pytest.raises(UsageError, match="'drivers' needs a spectrum"):
        make_options(field, spectrum="none", quantities=["default", "drivers"])
    with pytest.raises(UsageError, match="'henrici' needs all eigenvalues"):
        make_options(field, spectrum="leading", backend="krylov", quantities=["henrici"])
    with pytest.raises(MissingKeyError, match="did you mean 'sensitivity'"):
        make_options(field, quantities=["sensitivty"])


def test_every_variable_can_be_read_up() -> None:
    assert set(SCALARS) - set(QUANTITIES) == {"response_condition"}  # which comes with responses
    for name in ("reactivity", "henrici", "eigenvalue_condition", "participation", "top_edge_sensitivity"):
        assert VARIABLES[name].attrs["references"]
    for parts in MODE_QUANTITIES.values():
        assert set(parts) <= VARIABLES.keys()


# --- through a store ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition_cells", [7, 64])
def test_means_of_a_store_are_those_of_its_cells(tmp_path: Path, partition_cells: int) -> None:
    atlas = random_atlas(6, n_cells=60, broken=(3,), unlabelled=(8,), clusters=("A", "B", "C"))
    asked: dict[str, Any] = {"quantities": EVERYTHING, "modes": 3}
    store = tmp_path / "out.zarr"
    run: dict[str, Any] = {"workers": 0, "progress": False, "partition_cells": partition_cells}
    sd.run(atlas.cells(), atlas.field, store, **run, **asked)
    assert sd.verify(store, cells=atlas.cells(), n_cells=3).ok
    ds = sd.open_results(store)
    lazy = sd.stability(atlas.cells(), atlas.field, **asked)
    assert set(ds.data_vars) == set(lazy.data_vars)
    assert "partition" not in ds.dims
    shares = ds["participation"].values.real
    sound = ds["status"].values == Status.OK
    for number, label in enumerate(ds["cluster"].values):
        members = (ds["cell_cluster"].values == label) & sound
        own = shares[members]
        there = (~np.isnan(own[:, :, 0])).sum(axis=0)
        np.testing.assert_array_equal(ds["driver_cells"].sel(cluster=label), there)
        found = ds[["participation_mean", "participation_std"]].sel(cluster=label)
        usual = there > 0
        np.testing.assert_allclose(
            found["participation_mean"][usual], np.nanmean(own[:, usual], axis=0), atol=1e-12
        )
        np.testing.assert_allclose(
            found["participation_std"][usual], np.nanstd(own[:, usual], axis=0), atol=1e-7
        )
        np.testing.assert_array_equal(ds["weight"][number], atlas.field.regulator_weights(number))
    for name in ("participation_mean", "participation_std", "sensitivity_mean", "sensitivity_std", "weight"):
        np.testing.assert_allclose(ds[name], lazy[name], atol=1e-7, err_msg=name)
        assert ds[name].attrs.keys() >= {"long_name", "units"}
    for name in ds.data_vars:
        if name != "cluster_code":
            assert ds[name].attrs == lazy[name].attrs, name
    assert ds["core_effector"].values.tolist() == ds["regulator"].values.tolist()


def test_parameters_that_were_changed_in_a_store_are_found(tmp_path: Path) -> None:
    atlas = random_atlas(6)
    store = tmp_path / "out.zarr"
    sd.run(atlas.cells(), atlas.field, store, workers=0, progress=False, quantities=["drivers"])
    group = zarr.open_group(str(store), mode="r+")
    assert sd.verify(store, n_cells=0).ok
    for name in ("weight", "degradation"):
        before = group[name][...]
        group[name][...] = before + 1e-9
        report = sd.verify(store, n_cells=0)
        assert (report.ok, report.damaged_parameters) == (False, [name])
        assert f"parameters: {name}" in str(report)
        group[name][...] = before
    assert sd.verify(store, n_cells=0).ok
    field = zarr.open_group(str(store / "field"), mode="r+")
    field["gamma"][...] = field["gamma"][...] + 1e-9
    assert sd.verify(store).damaged_parameters == ["field"]


def test_labels_that_share_parameters_have_means_of_their_own(tmp_path: Path) -> None:
    atlas = random_atlas(6, n_cells=40, clusters=("all", "B"))
    cells = atlas.cells().load().chunk({"cell": 8})
    names = np.where(np.arange(40) % 3 == 0, "new", cells["cluster"].values)
    cells = cells.assign_coords(cluster=("cell", names.astype(object)))
    asked: dict[str, Any] = {"quantities": ["participation", "sensitivity"], "missing_cluster": "W_all"}
    sd.run(cells, atlas.field, tmp_path / "out.zarr", workers=0, progress=False, **asked)
    ds = sd.open_results(tmp_path / "out.zarr")
    members = ds["participation"].values.real[(names == "new") & (ds["status"].values == 0)]
    np.testing.assert_allclose(
        ds["participation_mean"].sel(cluster="new")[0], np.nanmean(members[:, 0], axis=0), atol=1e-12
    )
    np.testing.assert_array_equal(ds["weight"].sel(cluster="new"), ds["weight"].sel(cluster="all"))


def test_partitions_that_are_missing_add_nothing(tmp_path: Path) -> None:
    atlas = random_atlas(6, n_cells=40)
    store = tmp_path / "out.zarr"
    run: dict[str, Any] = {"workers": 0, "progress": False, "partition_cells": 10, "quantities": ["drivers"]}
    sd.run(atlas.cells(), atlas.field, store, partitions=[1], **run)
    with pytest.warns(sd.errors.StabdaskWarning, match="not complete"):
        part = sd.open_results(store)
    assert int(part["driver_cells"].isel(vector_mode=0).sum()) <= 10
    sd.run(atlas.cells(), atlas.field, store, **run)
    whole = sd.open_results(store)
    assert int(whole["driver_cells"].isel(vector_mode=0).sum()) > 10
    assert whole["sensitivity_mean"].notnull().all()


def test_a_sum_that_is_not_finite_shows_in_the_mean() -> None:
    atlas = random_atlas(6, n_cells=12, clusters=("A",))
    out = solved(atlas, quantities=["drivers"])
    missing = {name: VARIABLES[name].empty(values.shape) for name, values in out.items()}
    out["sensitivity_sum"][0, 0, 0, 0] = np.nan
    names = [name for name in out if VARIABLES[name].per_partition]
    ds = merge_sums(
        xr.Dataset(
            {name: (VARIABLES[name].dims, np.concatenate([out[name], missing[name]])) for name in names}
        )
    )
    assert np.isnan(ds["sensitivity_mean"].values[0, 0, 0])
    assert np.isfinite(ds["sensitivity_mean"].values.ravel()[1:]).all()
    assert np.isfinite(ds["participation_mean"].values).all()


# --- other ways to the same modes --------------------------------------------------------------------------

DRIVERS = ("participation_sum", "participation_squares", "sensitivity_sum", "sensitivity_squares")


def test_iterated_modes_have_the_same_drivers() -> None:
    atlas = random_atlas(5, n_genes=60, n_regulators=(40, 50), n_cells=8)
    asked: dict[str, Any] = {"spectrum": "leading", "modes": 3, "quantities": list(MODE_QUANTITIES)}
    found = solved(atlas, backend="krylov", residual_tolerance=1e-10, **asked)
    expected = solved(atlas, backend="lapack", **asked)
    assert found["driver_cells"].any()
    np.testing.assert_array_equal(found["driver_cells"], expected["driver_cells"])
    np.testing.assert_array_equal(found["leading_cells"], expected["leading_cells"])
    for name in (*DRIVERS, "eigenvalue_condition", "top_edge_sensitivity"):
        scale = np.nanmax(np.abs(expected[name]))
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("backend", ["lanes", "lapack"])
def test_single_precision_is_close(backend: str) -> None:
    atlas = random_atlas(5, n_genes=30, n_regulators=(12, 20), n_cells=12)
    if backend not in BACKENDS:
        pytest.skip("the compiled eigensolver is not installed")
    asked: dict[str, Any] = {"quantities": EVERYTHING, "backend": backend}
    single, double = solved(atlas, dtype="float32", **asked), solved(atlas, **asked)
    for name in ("logabsdet", "reactivity", *DRIVERS):
        scale = max(1.0, np.nanmax(np.abs(double[name])))
        np.testing.assert_allclose(single[name], double[name], atol=1e-2 * scale, err_msg=name)
    assert single["participation"].dtype == np.complex64
