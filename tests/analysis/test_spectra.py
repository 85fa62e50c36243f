"""Complete spectra from stored cores against eigenvalues of the dense Jacobians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers import labels_of, match_spectra
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import RandomAtlas, count_blocks, planted, random_atlas

import stabdask as sd
from stabdask.analysis import spectra
from stabdask.errors import InputError, MissingKeyError
from stabdask.fields.hopfield_linear import HopfieldLinearization
from stabdask.kernels.eig import EigResult
from stabdask.schema import Status

Array = np.ndarray[Any, Any]

FIELDS: dict[str, dict[str, Any]] = {
    "two clusters": {},
    "three clusters with regulators of their own": {
        "clusters": ("C", "A", "B"),
        "n_regulators": (2, 7, 4),
        "n_genes": 12,
    },
    "mostly inactive regulators": {"zeros": 0.8},
    "a cluster without regulators": {"n_regulators": (4, 0)},
    "no regulators at all": {"n_regulators": 0},
    "every gene regulates": {"n_regulators": 9},
    "one gene": {"n_genes": 1, "n_regulators": 1},
    "cells that fail": {"unlabelled": (0, 5, 23), "broken": (3, 4, 16)},
    "a whole block that fails": {"broken": range(8, 16)},
}


def is_canonical(values: Array) -> bool:
    """Whether real parts descend, and imaginary parts where real parts are equal."""
    pairs = [(-value.real, -value.imag) for value in values]
    return pairs == sorted(pairs)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", list(FIELDS), ids=lambda name: name.replace(" ", "_"))
def test_complete_spectra_are_those_of_dense_jacobians(case: str, seed: int) -> None:
    atlas = random_atlas(seed, **FIELDS[case])
    complete = sd.complete_spectrum(sd.stability(atlas.cells(), atlas.field))
    assert complete.dims == ("cell", "eigenvalue_rank")
    assert complete.shape == atlas.x.shape
    assert complete["eigenvalue_rank"].values.tolist() == list(range(atlas.field.n_genes))
    assert complete["cell"].values.tolist() == [f"cell{i}" for i in range(len(atlas.x))]
    assert labels_of(complete["cell_cluster"]) == atlas.labels
    assert complete.attrs["units"] == "1/time"
    values = complete.to_numpy()
    assert values.dtype == complete.dtype == np.complex128
    assert atlas.good.any()
    for cell, good in enumerate(atlas.good):
        if not good:
            assert np.isnan(values[cell].real).all()
            assert np.isnan(values[cell].imag).all()
            continue
        J = atlas.jacobian(cell)
        assert match_spectra(values[cell], np.linalg.eigvals(J)) < 1e-9 * max(1.0, np.linalg.norm(J))
        assert is_canonical(values[cell])


def test_the_store_gives_the_same_as_the_lazy_dataset(tmp_path: Path) -> None:
    atlas = random_atlas(2, **FIELDS["cells that fail"])
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", partition_cells=5, workers=0, progress=False)
    stored = sd.complete_spectrum(sd.open_results(tmp_path / "out.zarr"))
    lazy = sd.complete_spectrum(sd.stability(atlas.cells(), atlas.field))
    assert stored.chunks[0] == (5, 5, 5, 5, 4)
    xr.testing.assert_identical(stored.compute(), lazy.compute())


@given(st.data())
@settings(max_examples=25)
def test_any_selection_of_cells_in_any_chunks(data: st.DataObject) -> None:
    atlas = random_atlas(3, unlabelled=(2,), broken=(9,))
    ds = computed_once(atlas)
    rows = data.draw(st.lists(st.integers(0, 23), min_size=1, max_size=30))
    chunk = data.draw(st.integers(1, 30))
    expected = sd.complete_spectrum(ds).to_numpy()[rows]
    got = sd.complete_spectrum(ds.isel(cell=rows).chunk({"cell": chunk, "mode": 2, "regulator": 3}))
    np.testing.assert_array_equal(got.to_numpy(), expected)


_COMPUTED: list[xr.Dataset] = []


def computed_once(atlas: RandomAtlas) -> xr.Dataset:
    if not _COMPUTED:
        _COMPUTED.append(sd.stability(atlas.cells(), atlas.field).compute())
    return _COMPUTED[0]


def test_nothing_is_computed_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_blocks(monkeypatch)
    atlas = random_atlas(4)
    complete = sd.complete_spectrum(sd.stability(atlas.cells(), atlas.field))
    assert computed == []
    complete[3].compute(scheduler="synchronous")
    assert computed == [8]
    complete.compute(scheduler="synchronous")
    assert computed == [8, 8, 8, 8]


def test_single_precision_stays_single() -> None:
    atlas = random_atlas(4)
    complete = sd.complete_spectrum(sd.stability(atlas.cells(), atlas.field, dtype="float32")).compute()
    assert complete.dtype == np.complex64
    for cell in range(len(atlas.x)):
        J = atlas.jacobian(cell)
        assert match_spectra(complete.values[cell], np.linalg.eigvals(J)) < 3e-4 * np.linalg.norm(J)


def test_cells_that_the_solver_gave_up_on_are_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a cell has active regulators and a label, and no eigenvalues: the rest alone would look complete."""
    original = HopfieldLinearization.solve

    def gives_up(linear: HopfieldLinearization, cells: Array, **options: Any) -> EigResult:
        result = original(linear, cells, **options)
        values, status = result.eigenvalues.copy(), result.status.copy()
        values[0], status[0] = np.nan, Status.NOT_CONVERGED
        return replace(result, eigenvalues=values, status=status)

    monkeypatch.setattr(HopfieldLinearization, "solve", gives_up)
    atlas = random_atlas(4, zeros=0.0, n_regulators=5)
    ds = sd.stability(atlas.cells(), atlas.field).compute()
    failed = ds["status"].values == Status.NOT_CONVERGED
    assert 0 < failed.sum() < 24
    values = sd.complete_spectrum(ds).to_numpy()
    np.testing.assert_array_equal(np.isnan(values).any(axis=1), failed)
    np.testing.assert_array_equal(np.isnan(values).all(axis=1), failed)
    assert np.isnan(ds["spectral_abscissa"].values[failed]).all()
    assert (ds["unstable_count"].values[failed] == -1).all()
    assert (ds["stable_count"].values[failed] == -1).all()
    assert np.isfinite(ds["trace"].values).all()


def test_clusters_left_out_are_nan() -> None:
    atlas = random_atlas(6, clusters=("A", "B", "C"))
    cells = atlas.cells()
    part = sd.HopfieldField(
        atlas.field.genes,
        {label: atlas.field.parameters[atlas.field.clusters.index(label)] for label in ("A", "C")},
    )
    ds = sd.stability(cells, part, missing_cluster="skip").compute()
    values = sd.complete_spectrum(ds).to_numpy()
    for cell, label in enumerate(atlas.labels):
        if label == "B":
            assert np.isnan(values[cell]).all()
        else:
            assert match_spectra(values[cell], atlas.spectrum(cell)) < 1e-9


def test_conjugates_come_upper_first_and_ties_in_order() -> None:
    J = np.zeros((5, 5))
    J[:2, :2] = [[0.5, -3.0], [3.0, 0.5]]  # 0.5 +- 3i
    J[2, 2], J[3, 3], J[4, 4] = 0.5, -2.0, -1.0  # the last is outside the core
    field, x = planted(J)
    import anndata

    adata = anndata.AnnData(x)
    adata.var_names = field.genes
    ds = sd.stability(sd.open_cells(adata), field).compute()
    assert ds["active"].values.tolist() == [[1, 1, 1, 1]]
    np.testing.assert_allclose(
        sd.complete_spectrum(ds).to_numpy()[0], [0.5 + 3j, 0.5, 0.5 - 3j, -1.0, -2.0], atol=1e-12
    )


@pytest.mark.parametrize("function", [sd.complete_spectrum, sd.extremes])
@pytest.mark.parametrize("lazily", [True, False])
def test_results_without_the_whole_spectrum_are_refused(tmp_path: Path, function: Any, lazily: bool) -> None:
    atlas = random_atlas(0)

    def results(**options: Any) -> xr.Dataset:
        if lazily:
            return sd.stability(atlas.cells(), atlas.field, **options)
        store = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        sd.run(atlas.cells(), atlas.field, store, workers=0, progress=False, **options)
        return sd.open_results(store)

    with pytest.raises(InputError, match="only leading eigenvalues; run with spectrum='full'"):
        function(results(spectrum="leading", modes=3))
    # Ten modes would be all there are, but not for every atlas.
    with pytest.raises(InputError, match="only leading eigenvalues"):
        function(results(spectrum="leading"))
    with pytest.raises(MissingKeyError, match="no eigenvalues; run with spectrum='full'"):
        function(results(spectrum="none"))


@pytest.mark.parametrize("function", [sd.complete_spectrum, sd.extremes])
def test_parts_of_a_dataset_are_refused(function: Any) -> None:
    atlas = random_atlas(0)
    ds = sd.stability(atlas.cells(), atlas.field).compute()
    for missing in ("active", "degradation", "cluster_code"):
        with pytest.raises(MissingKeyError, match=f"hold no '{missing}'; pass the whole Dataset"):
            function(ds.drop_vars(missing))
    with pytest.raises(MissingKeyError, match="pass the whole Dataset"):
        function(ds[["eigenvalue", "status"]])


@pytest.mark.parametrize("function", [sd.complete_spectrum, sd.extremes, sd.summarize, sd.pl.spectrum])
def test_clusters_that_were_selected_are_refused(function: Any) -> None:
    """Codes would stand for other labels, and the wrong degradation rates would complete the spectra."""
    atlas = random_atlas(0, clusters=("A", "B"))
    ds = sd.stability(atlas.cells(), atlas.field).compute()
    for selected in (
        ds.sel(cluster=["B"]),
        ds.sel(cluster=["B", "A"]),
        ds.sel(cluster=["A"]),
        ds.sel(cluster="A"),
    ):
        with pytest.raises(
            InputError, match="clusters of the results were selected or reordered; select cells"
        ):
            function(selected)
    # What the message advises.
    function(ds.isel(cell=ds["cell_cluster"] == "B"))


def test_match_spectra_pairs_by_distance() -> None:
    a = np.array([1 + 1j, 1 - 1j, -3])
    assert spectra.match_spectra(a, a[[2, 0, 1]]) == 0
    assert spectra.match_spectra(a, a + 0.25) == pytest.approx(0.25)
    assert spectra.match_spectra(a, np.array([1 + 1j, 1 + 1j, -3])) == pytest.approx(2.0)
    assert spectra.match_spectra(np.empty(0), np.empty(0)) == 0
