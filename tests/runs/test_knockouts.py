"""Knockouts against dense Jacobians with the rows and columns deleted, and predictions against their definition."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest
import xarray as xr
from helpers import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import RandomAtlas, planted, random_atlas

import stabdask as sd
from stabdask.analysis import knockouts as kernel
from stabdask.errors import InputError, MemoryBudgetError, MissingKeyError, StabdaskWarning, UsageError
from stabdask.fields.hopfield_linear import HopfieldLinearization
from stabdask.runs.knockout_results import KNOCKOUT_ATTRS
from stabdask.schema import Status

Array = np.ndarray[Any, Any]


def without(J: Array, genes: Any) -> Array:
    """Return the spectrum of J with rows and columns deleted."""
    kept = np.delete(np.arange(len(J)), genes)
    return np.linalg.eigvals(J[np.ix_(kept, kept)])


def positions(field: sd.Field, name: str) -> list[int]:
    return [field.genes.tolist().index(gene) for gene in name.split("+")]


def check_exact(atlas: RandomAtlas, ds: xr.Dataset, tolerance: float = 0.0) -> None:
    """Compare all knockouts of all good cells with dense eigenvalues."""
    for cell in np.flatnonzero(atlas.good):
        J = atlas.jacobian(int(cell))
        scale = 1.0 + np.abs(J).max()
        one = ds.isel(cell=cell)
        whole = np.linalg.eigvals(J)
        assert abs(float(one["abscissa"]) - whole.real.max()) < 1e-9 * scale
        assert int(one["unstable_count"]) == (whole.real > tolerance).sum()
        for name in ds["knockout"].values:
            values = without(J, positions(atlas.field, name))
            found = one.sel(knockout=name)
            assert abs(float(found["knockout_abscissa"]) - values.real.max()) < 1e-9 * scale
            # Counts can only differ for an eigenvalue on the line.
            sure = np.abs(values.real - tolerance).min() > 1e-9 * scale
            if sure:
                assert int(found["knockout_unstable_count"]) == (values.real > tolerance).sum()


def first_order(J: Array, C_genes: Array, removed: list[int], gamma: Array | None = None) -> float:
    """Return Re(y^H dC x / y^H x) of the leading mode of the core, dC written out edge by edge.

    Without `gamma`, what of the diagonal is an edge is not known.
    """
    C = J[np.ix_(C_genes, C_genes)]
    values, right = np.linalg.eig(C)
    lead = int(np.lexsort((-values.imag, -values.real))[0])
    left_values, left = np.linalg.eig(C.T)
    # y^H C = lambda y^H: the transpose has conj(y) as right vector.
    y = left[:, np.argmin(np.abs(left_values - values[lead]))]
    x = right[:, lead]
    dC = np.zeros_like(C)
    for i, j in np.ndindex(*C.shape):
        if i != j and (C_genes[i] in removed or C_genes[j] in removed):
            dC[i, j] = -C[i, j]
        if i == j and C_genes[i] in removed and gamma is not None:
            dC[i, i] = -(C[i, i] + gamma[C_genes[i]])
    return float(((y @ dC @ x) / (y @ x)).real)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_regulators=st.integers(1, 6),
    density=st.sampled_from([0.15, 0.5, 1.0]),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    order=st.sampled_from([1, 2]),
)
def test_every_knockout_is_that_of_the_dense_jacobian(
    seed: int, n_regulators: int, density: float, zeros: float, order: int
) -> None:
    atlas = random_atlas(seed, n_cells=5, n_genes=7, n_regulators=n_regulators, density=density, zeros=zeros)
    genes = atlas.field.genes.tolist()  # those that regulate nowhere, too
    ds = sd.knockouts(atlas.cells(), atlas.field, regulators=genes, order=order)
    assert ds.sizes["knockout"] == len(genes) * (len(genes) - 1) // 2 if order == 2 else len(genes)
    assert (ds["status"] == Status.OK).all()
    check_exact(atlas, ds)


@pytest.mark.parametrize("backend", ["lapack", "auto"])
@pytest.mark.parametrize("order", [1, 2])
def test_clusters_tolerance_and_backends(backend: str, order: int) -> None:
    atlas = random_atlas(3, n_cells=12, n_genes=10, n_regulators=[7, 4], zeros=0.2)
    ds = sd.knockouts(atlas.cells(), atlas.field, order=order, tolerance=0.3, backend=backend)
    n = len(atlas.field.regulators)
    assert ds.sizes["knockout"] == (n if order == 1 else n * (n - 1) // 2)
    check_exact(atlas, ds, tolerance=0.3)
    assert ds.attrs["tolerance"] == 0.3
    assert ds.attrs["order"] == order


def test_prediction_is_first_order_by_its_definition() -> None:
    atlas = random_atlas(11, n_cells=10, n_genes=8, n_regulators=6, density=1.0, zeros=0.1)
    seen = 0
    for order in (1, 2):
        ds = sd.knockouts(atlas.cells(), atlas.field, regulators=atlas.field.genes.tolist(), order=order)
        for cell in range(10):
            J = atlas.jacobian(cell)
            core = np.flatnonzero(atlas.drawn.clusters[str(atlas.labels[cell])].active(atlas.x[[cell]])[0])
            rest = np.delete(np.diag(J), core)
            leads = np.linalg.eigvals(J[np.ix_(core, core)]).real.max() >= rest.max(initial=-np.inf)
            for name in ds["knockout"].values:
                found = float(ds["predicted_shift"].isel(cell=cell).sel(knockout=name))
                gamma = atlas.drawn.clusters[str(atlas.labels[cell])].gamma
                expected = first_order(J, core, positions(atlas.field, name), gamma) if leads else 0.0
                assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)
                seen += leads
    assert seen > 100


def test_prediction_is_the_derivative() -> None:
    """Scaling the edges of a gene by 1 - t moves the abscissa at the rate predicted."""
    rng = np.random.default_rng(5)
    J = rng.normal(size=(5, 5))
    field, x = planted(J, gamma=3.0)
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    ds = sd.knockouts(sd.open_cells(adata), field)
    t = 1e-6
    for g in range(5):

        def abscissa(t: float, g: int = g) -> float:
            scaled = J.copy()
            scaled[g] *= 1 - t
            scaled[:, g] *= 1 - t
            scaled[g, g] = J[g, g] - t * (J[g, g] + 3.0)
            return float(np.linalg.eigvals(scaled).real.max())

        slope = (abscissa(t) - abscissa(-t)) / (2 * t)
        assert float(ds["predicted_shift"][0, g]) == pytest.approx(slope, abs=1e-6)


def test_a_mode_of_self_activation_is_predicted_to_go() -> None:
    J = np.diag([0.5, -0.2, -0.4])
    field, x = planted(J, gamma=1.0)
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    ds = sd.knockouts(sd.open_cells(adata), field)
    np.testing.assert_allclose(ds["predicted_shift"][0], [-1.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(ds["knockout_abscissa"][0], [-0.2, 0.5, 0.5], atol=1e-12)


def test_inactive_regulators_need_no_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(2, n_cells=6, n_genes=8, n_regulators=5, zeros=1.0, clusters=("A",))
    solved: list[int] = []
    original = HopfieldLinearization.solve_without

    def counted(self: Any, cells: Any, taken: Any, **options: Any) -> Any:
        solved.append(len(cells))
        return original(self, cells, taken, **options)

    monkeypatch.setattr(HopfieldLinearization, "solve_without", counted)
    ds = sd.knockouts(atlas.cells(), atlas.field, order=2)
    # No regulator is active where nothing is expressed: one empty core a cell.
    assert sum(solved) == 6
    check_exact(atlas, ds)
    assert (ds["predicted_shift"] == 0).all()


def test_pairs_with_one_inactive_share_the_core_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(4, n_cells=1, n_genes=8, n_regulators=5, zeros=0.0, clusters=("A",))
    cluster = atlas.drawn.clusters["A"]
    regulators = np.flatnonzero((cluster.W != 0).any(axis=0))
    atlas.x[0, regulators[:2]] = 0.0
    shapes: list[int] = []
    original = HopfieldLinearization.solve_without

    def counted(self: Any, cells: Any, taken: Any, **options: Any) -> Any:
        shapes.append(len(cells))
        return original(self, cells, taken, **options)

    monkeypatch.setattr(HopfieldLinearization, "solve_without", counted)
    ds = sd.knockouts(atlas.cells(), atlas.field, order=2)
    # Of 10 pairs: the core whole, without each of three, without each of three pairs.
    assert sum(shapes) == 1 + 3 + 3
    check_exact(atlas, ds)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(8, n_cells=9, n_genes=8, n_regulators=6)
    whole = sd.knockouts(atlas.cells(), atlas.field, backend="lapack")
    monkeypatch.setattr(kernel, "_BATCH_BYTES", 1)
    xr.testing.assert_identical(sd.knockouts(atlas.cells(), atlas.field, backend="lapack"), whole)


def test_broken_cells_have_a_status() -> None:
    atlas = random_atlas(1, n_cells=10, broken=(2, 5), unlabelled=(3,))
    ds = sd.knockouts(atlas.cells(), atlas.field, order=2)
    bad = ~atlas.good
    assert bad.sum() == 3
    assert (ds["status"].values[bad] == Status.NON_FINITE_INPUT).all()
    assert (ds["status"].values[~bad] == Status.OK).all()
    for name in ("knockout_abscissa", "predicted_shift", "abscissa"):
        assert np.isnan(ds[name].values[bad]).all()
        assert np.isfinite(ds[name].values[~bad]).all()
    for name in ("knockout_unstable_count", "unstable_count"):
        assert (ds[name].values[bad] == -1).all()
        assert (ds[name].values[~bad] >= 0).all()
    check_exact(atlas, ds)


def test_cells_of_clusters_without_a_model() -> None:
    atlas = random_atlas(1, n_cells=8)
    cells = atlas.cells()
    one = sd.HopfieldField(atlas.field.genes.tolist(), {"A": atlas.field.parameters[0]})
    with pytest.raises(MissingKeyError, match="'B'"):
        sd.knockouts(cells, one)
    ds = sd.knockouts(cells, one, missing_cluster="skip")
    left_out = np.array([label == "B" for label in atlas.labels])
    assert (ds["status"].values == np.where(left_out, Status.NO_MODEL, Status.OK)).all()
    assert np.isnan(ds["knockout_abscissa"].values[left_out]).all()


def test_pairs_by_name_come_once() -> None:
    atlas = random_atlas(6, n_cells=4)
    a, b, c = atlas.field.regulators[:3].tolist()
    ds = sd.knockouts(atlas.cells(), atlas.field, pairs=[(b, a), (a, c), (a, b)])
    assert ds["knockout"].values.tolist() == [f"{b}+{a}", f"{a}+{c}"]
    assert (ds["gene_a"].values.tolist(), ds["gene_b"].values.tolist()) == ([b, a], [a, c])
    check_exact(atlas, ds)
    both = sd.knockouts(atlas.cells(), atlas.field, regulators=[a, b, c], order=2)
    assert both["knockout"].values.tolist() == ["+".join(pair) for pair in combinations((a, b, c), 2)]
    np.testing.assert_allclose(
        both["predicted_shift"].sel(knockout=f"{a}+{b}"), ds["predicted_shift"].sel(knockout=f"{b}+{a}")
    )


def test_what_makes_no_sense_is_refused() -> None:
    atlas = random_atlas(6, n_cells=4)
    cells, field = atlas.cells(), atlas.field
    for options, said in (
        ({"regulators": ["gene1", "gen2"]}, "'gen2' to knock out is not in the field; did you mean"),
        ({"pairs": [("gene1", "nothing")]}, "'nothing' to knock out"),
    ):
        with pytest.raises(MissingKeyError, match=said):
            sd.knockouts(cells, field, **options)  # type: ignore[arg-type]
    for options, said in (
        ({"regulators": "gene1"}, "sequence of gene names"),
        ({"regulators": []}, "at least one"),
        ({"order": 3}, "order=3"),
        ({"order": True}, "order=True"),
        ({"pairs": [("gene1",)]}, "two gene names"),
        ({"pairs": ["ab"]}, "two gene names"),
        ({"pairs": [("gene1", "gene1")]}, "names a gene twice"),
        ({"pairs": [("gene1", "gene2")], "regulators": ["gene1"]}, "one of them"),
        ({"regulators": ["gene1"], "order": 2}, "nothing to remove"),
        ({"screen": 0}, "screen=0"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"n_cells": 2, "seed": -1}, "seed=-1"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"backend": "krylov"}, "krylov"),
    ):
        with pytest.raises(UsageError, match=said):
            sd.knockouts(cells, field, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a Field"):
        sd.knockouts(cells, "field")  # type: ignore[arg-type]
    single = sd.HopfieldField.from_arrays(["A"], W=[[1.0]], gamma=1.0, threshold=1.0, exponent=2.0)
    with pytest.raises(UsageError, match="nothing is left"):
        sd.knockouts(cells, single)
    unlabelled = random_atlas(6, n_cells=4, unlabelled=range(4))
    with pytest.raises(InputError, match="no cell has a cluster label"):
        sd.knockouts(unlabelled.cells(), unlabelled.field, n_cells=2)


def rkhs(basis: str | None, loadings: Array | None) -> sd.RKHSField:
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(5)] if basis is None or loadings is not None else None
    centers, coefficients = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    return sd.RKHSField(centers, coefficients, 0.3, basis=basis, loadings=loadings, genes=genes)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_field_over_genes_loses_rows_and_columns(order: int, dtype: str) -> None:
    field = rkhs(None, None)
    x = np.random.default_rng(1).normal(size=(7, 5))
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    ds = sd.knockouts(sd.open_cells(adata), field, order=order, dtype=dtype)
    close = {"float64": 1e-10, "float32": 1e-4}[dtype]
    for cell, J in enumerate(field.jacobian(x)):
        for number, name in enumerate(ds["knockout"].values):
            values = without(J, positions(field, name))
            assert float(ds["knockout_abscissa"][cell, number]) == pytest.approx(values.real.max(), abs=close)
            predicted = first_order(J, np.arange(5), positions(field, name))
            assert float(ds["predicted_shift"][cell, number]) == pytest.approx(predicted, abs=10 * close)


def test_a_field_over_axes_is_refused() -> None:
    loadings = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    adata = anndata.AnnData(np.zeros((2, 5)), obsm={"X_pca": np.zeros((2, 5))})
    for field in (rkhs("pca", loadings), rkhs("umap", None)):
        with pytest.raises(UsageError, match="over axes of"):
            sd.knockouts(sd.open_cells(adata, obsm="X_pca"), field)


@pytest.mark.parametrize("order", [1, 2])
def test_screening_solves_the_most_promising_of_each_cluster(order: int) -> None:
    atlas = random_atlas(9, n_cells=40, n_genes=10, n_regulators=7, broken=(4,), unlabelled=(7,))
    whole = sd.knockouts(atlas.cells(), atlas.field, order=order)
    ds = sd.knockouts(atlas.cells(), atlas.field, order=order, screen=3)
    xr.testing.assert_identical(ds["predicted_shift"], whole["predicted_shift"])
    for label in "AB":
        own = np.array([one == label for one in atlas.labels]) & atlas.good
        mean = np.abs(whole["predicted_shift"].values[own].mean(axis=0))
        best = np.sort(np.argsort(-mean, kind="stable")[:3])
        solved = np.isfinite(ds["knockout_abscissa"].values[own])
        assert (solved == solved[:1]).all()
        assert np.flatnonzero(solved[0]).tolist() == best.tolist()
        assert ((ds["knockout_unstable_count"].values[own] >= 0) == solved).all()
        # Other cores are in a batch: to rounding.
        np.testing.assert_allclose(
            ds["knockout_abscissa"].values[own][:, best],
            whole["knockout_abscissa"].values[own][:, best],
            rtol=1e-9,
            atol=1e-9,
        )
    assert ds.attrs["screen"] == 3
    assert "the others are NaN and -1" in ds.attrs["screened"]
    assert (ds["status"] == whole["status"]).all()
    n = ds.sizes["knockout"]
    everything = sd.knockouts(atlas.cells(), atlas.field, order=order, screen=n)
    assert "screen" not in everything.attrs
    xr.testing.assert_identical(everything, whole)


def test_some_cells_of_each_cluster() -> None:
    atlas = random_atlas(9, n_cells=40, unlabelled=(7,))
    with pytest.warns(StabdaskWarning, match="1 of 40 cells have no cluster label"):
        ds = sd.knockouts(atlas.cells(), atlas.field, n_cells=6, seed=3)
    assert ds["cell_cluster"].to_series().value_counts().to_dict() == {"A": 6, "B": 6}
    rows = ds["atlas_position"].values.astype(int)
    assert (np.diff(rows) > 0).all()
    whole = sd.knockouts(atlas.cells(), atlas.field).isel(cell=rows)
    np.testing.assert_allclose(ds["knockout_abscissa"], whole["knockout_abscissa"], rtol=1e-10, atol=1e-10)
    assert (ds.attrs["n_cells"], ds.attrs["seed"]) == (6, 3)
    # The draw of a cluster does not depend on the others, nor on how the atlas is cut.
    only = random_atlas(9, n_cells=40, unlabelled=[*range(0, 40, 2), 7])
    with pytest.warns(StabdaskWarning, match="no cluster label"):
        alone = sd.knockouts(only.cells(block_cells=5), only.field, n_cells=6, seed=3)
    assert set(alone["cell"].values) == set(ds["cell"].values[ds["cell_cluster"].values == "B"])


def test_workers_compute_the_same() -> None:
    from distributed import Client

    atlas = random_atlas(12, n_cells=33, n_genes=9, n_regulators=6, broken=(4,), unlabelled=(7,))
    # Cells come in several tasks.
    cells = atlas.cells(block_cells=8)
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        for options in ({"order": 1}, {"order": 2, "screen": 4}):
            here = sd.knockouts(cells, atlas.field, **options)
            there = sd.knockouts(cells, atlas.field, client=client, **options)
            xr.testing.assert_identical(here, there)


def test_what_fails_on_a_worker_is_raised_and_the_rest_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    atlas = random_atlas(12, n_cells=33, n_genes=9, n_regulators=6)
    original = HopfieldLinearization.solve_without

    def failing(self: Any, cells: Any, taken: Any, **options: Any) -> Any:
        if len(self.active) < 5:
            raise InputError("cell 'c32' cannot be computed")
        return original(self, cells, taken, **options)

    monkeypatch.setattr(HopfieldLinearization, "solve_without", failing)
    cells = atlas.cells(block_cells=8)
    with pytest.raises(InputError, match="'c32'"):
        sd.knockouts(cells, atlas.field)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        with pytest.raises(InputError, match="'c32'"):
            sd.knockouts(cells, atlas.field, client=client)
        assert not client.futures
    with pytest.raises(UsageError, match="asynchronous"):
        sd.knockouts(cells, atlas.field, client=SimpleNamespace(asynchronous=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [1, 2])
def test_results_that_do_not_fit_are_refused_before_any_work(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    atlas = random_atlas(9, n_cells=40, n_genes=10, n_regulators=7)
    n = len(atlas.field.regulators)
    n = n * (n - 1) // 2 if order == 2 else n
    needed = 40 * (20 * n + 13)
    ds = sd.knockouts(atlas.cells(), atlas.field, order=order, memory=needed)
    assert sum(ds[name].nbytes for name in (*KNOCKOUT_ATTRS, "status")) == needed
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    xr.testing.assert_identical(sd.knockouts(atlas.cells(), atlas.field, order=order, memory=needed), ds)
    assert sd.knockouts(atlas.cells(), atlas.field, order=order, n_cells=19).sizes["cell"] == 38
    monkeypatch.setattr("stabdask.runs.knockouts.prepare", None)
    said = rf"{n} knockouts in 40 cells take .* are available; 39 cells would fit: draw .* n_cells=.* regulators="
    for more in ({}, {"screen": 2}):
        with pytest.raises(MemoryBudgetError, match=said):
            sd.knockouts(atlas.cells(), atlas.field, order=order, **more)  # type: ignore[arg-type]
    with pytest.raises(
        MemoryBudgetError, match=r"and 100 B are allowed by memory= \(100 is 100 bytes.* not one cell"
    ):
        sd.knockouts(atlas.cells(), atlas.field, order=order, memory=100)
    with pytest.raises(UsageError, match="memory 'much' is no size"):
        sd.knockouts(atlas.cells(), atlas.field, memory="much")


def test_genes_of_the_atlas_in_another_order_and_precision() -> None:
    atlas = random_atlas(14, n_cells=10, n_genes=9, n_regulators=6)
    ds = sd.knockouts(atlas.cells(), atlas.field)
    adata = atlas.adata()
    more = adata[:, ::-1].copy()
    more.X = more.X.astype(np.float32)
    cells = sd.open_cells(more, cluster_key="kind")
    again = sd.knockouts(cells, atlas.field, dtype="float32")
    assert again["knockout"].values.tolist() == ds["knockout"].values.tolist()
    for name in ("knockout_abscissa", "predicted_shift"):
        np.testing.assert_allclose(again[name], ds[name], rtol=1e-2, atol=1e-2)
    assert again.attrs["dtype"] == "float32"


def test_a_defective_mode_has_no_prediction() -> None:
    J = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.3, -2.0]])
    field, x = planted(J, gamma=3.0)
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    ds = sd.knockouts(sd.open_cells(adata), field)
    assert np.isnan(ds["predicted_shift"]).all()
    # What is exact is there all the same.
    np.testing.assert_allclose(ds["knockout_abscissa"][0], [-1.0, -1.0, -1.0], atol=1e-12)
    assert (ds["status"] == Status.OK).all()


def test_small_and_empty_things() -> None:
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0.0, 0.0], [0.0, 0.0]], gamma=[1.0, 2.0], threshold=1.0, exponent=2.0
    )
    adata = anndata.AnnData(np.ones((1, 2)))
    adata.var_names = ["A", "B"]
    cells = sd.open_cells(adata)
    with pytest.raises(UsageError, match="0 regulate"):
        sd.knockouts(cells, field)
    ds = sd.knockouts(cells, field, regulators=["B", "A", "B"])
    assert ds["knockout"].values.tolist() == ["B", "A"]
    assert ds["knockout_abscissa"].values.tolist() == [[-1.0, -2.0]]
    assert ds["predicted_shift"].values.tolist() == [[0.0, 0.0]]
    with pytest.raises(UsageError, match="nothing is left"):
        sd.knockouts(cells, field, pairs=[("A", "B")])
    three = sd.HopfieldField.from_arrays(
        ["A", "B", "C"], W=np.zeros((3, 3)), gamma=[1.0, -2.0, 0.5], threshold=1.0, exponent=2.0
    )
    adata = anndata.AnnData(np.ones((1, 3)))
    adata.var_names = ["A", "B", "C"]
    ds = sd.knockouts(sd.open_cells(adata), three, regulators=["A", "B", "C"], order=2)
    assert ds["knockout"].values.tolist() == ["A+B", "A+C", "B+C"]
    assert ds["knockout_abscissa"].values.tolist() == [[-0.5, 2.0, -1.0]]
    assert ds["knockout_unstable_count"].values.tolist() == [[0, 1, 0]]
    nothing = anndata.AnnData(np.full((2, 3), np.nan))
    nothing.var_names = ["A", "B", "C"]
    ds = sd.knockouts(sd.open_cells(nothing), three, regulators=["A", "C"], screen=1)
    assert (ds["status"] == Status.NON_FINITE_INPUT).all()
    assert np.isnan(ds["knockout_abscissa"]).all()
    assert sd.rank_knockouts(ds)["mean_shift"].isna().all()


def test_a_solver_that_gives_up_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(15, n_cells=4, n_genes=8, n_regulators=6, zeros=0.0, clusters=("A",))
    whole = sd.knockouts(atlas.cells(), atlas.field)
    original = HopfieldLinearization.solve_without
    lost = 2

    def failing(self: Any, cells: Any, taken: Any, **options: Any) -> Any:
        found = original(self, cells, taken, **options)
        bad = taken[:, lost] & (cells == 1)
        found.eigenvalues[bad] = np.nan
        found.status[bad] = Status.NOT_CONVERGED
        return found

    monkeypatch.setattr(HopfieldLinearization, "solve_without", failing)
    ds = sd.knockouts(atlas.cells(), atlas.field)
    assert ds["status"].values.tolist() == [0, Status.NOT_CONVERGED, 0, 0]
    missing = np.isnan(ds["knockout_abscissa"].values)
    assert np.argwhere(missing).tolist() == [[1, lost]]
    assert ((ds["knockout_unstable_count"].values == -1) == missing).all()
    np.testing.assert_array_equal(
        ds["knockout_abscissa"].values[~missing], whole["knockout_abscissa"].values[~missing]
    )
    row = sd.rank_knockouts(ds).set_index("knockout").loc[ds["knockout"].values[lost]]
    assert row["n_cells"] == 3
    assert row["predicted_shift"] == pytest.approx(ds["predicted_shift"].values[[0, 2, 3], lost].mean())


@pytest.mark.parametrize("name", ["hopfield_bifurcating", "hopfield_pancreas50"])
def test_real_fits(name: str) -> None:
    """The predictions find the knockouts that matter, and what is exact is that of the dense Jacobian."""
    field = sd.read_field(shared_data(f"{name}.h5sch"))
    cells = sd.open_cells(shared_data(f"{name}.h5ad"), layer="Ms", cluster_key="cell_type")
    ds = sd.knockouts(cells, field, n_cells=15)
    assert (ds["status"] == Status.OK).all()
    x = cells["expression"].sel(gene=field.genes.tolist()).values
    for cell in range(0, ds.sizes["cell"], 20):
        row = int(ds["atlas_position"][cell])
        J = field.jacobian(x[row : row + 1], str(ds["cell_cluster"].values[cell]))[0]
        for number in range(0, ds.sizes["knockout"], 11):
            values = without(J, positions(field, str(ds["knockout"].values[number])))
            found = float(ds["knockout_abscissa"][cell, number])
            assert abs(found - values.real.max()) < 1e-12 * np.abs(J).max()
    for _, rows in sd.rank_knockouts(ds).groupby("cluster"):
        strongest = set(rows.loc[rows["mean_shift"].abs().nlargest(5).index, "knockout"])
        predicted = set(rows.loc[rows["predicted_shift"].abs().nlargest(10).index, "knockout"])
        assert len(strongest & predicted) >= 4
