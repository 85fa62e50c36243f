"""Tables of drivers: hand-worked circuits, agreement with cells one by one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import xarray as xr
from random_atlas import random_atlas

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import MissingKeyError, UsageError
from stabdask.report import write_report


def toggle() -> xr.Dataset:
    """Return two cells on the saddle of a symmetric toggle switch: gene A activates itself and inhibits B, and back."""
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "target"],
        W=[[5.0, -4.0, 0.0], [-4.0, 5.0, 0.0], [9.0, 9.0, 0.0]],
        gamma=3.0,
        bias=4.0,
        threshold=1.0,
        exponent=4.0,
    )
    adata = anndata.AnnData(np.full((2, 3), 1.625))
    adata.var_names = ["A", "B", "target"]
    return sd.stability(sd.open_cells(adata), field, quantities=["default", "drivers"])


def test_a_toggle_switch_by_hand() -> None:
    """The leading mode is (1, -1)/sqrt(2) on both sides, so shares are 1/2 and sensitivities +- phi'/2."""
    ds = toggle()
    genes = sd.driver_genes(ds, "all")
    assert set(genes["gene"]) == {"A", "B"}
    np.testing.assert_allclose(genes["participation"], 0.5)
    np.testing.assert_allclose(genes["std"], 0.0, atol=1e-7)
    assert genes.attrs == {"cluster": "all", "mode": 0, "n_cells": 2, "leading_fraction": 1.0}
    x = 1.625
    slope = 4 * x**3 / (x**4 + 1) ** 2
    edges = sd.driver_edges(ds, "all")
    assert len(edges) == 4
    expected = {("A", "A"): 0.5, ("B", "B"): 0.5, ("A", "B"): -0.5, ("B", "A"): -0.5}
    for edge in edges.itertuples():
        assert edge.sensitivity == pytest.approx(slope * expected[edge.regulator, edge.effector])
        assert edge.weight == (5.0 if edge.regulator == edge.effector else -4.0)
        assert edge.contribution == pytest.approx(edge.weight * edge.sensitivity)
    # lambda = (5 + 4) phi' - 3, made of the edges less the degradation.
    assert edges["contribution"].sum() - 3.0 == pytest.approx(9 * slope - 3.0)
    np.testing.assert_allclose(ds["spectral_abscissa"], 9 * slope - 3.0)


def test_ranks_and_what_could_be() -> None:
    atlas = random_atlas(3, n_cells=30, density=0.4, clusters=("A", "B"))
    ds = sd.stability(atlas.cells(), atlas.field, quantities=["drivers"], modes=2).compute()
    for label in ("A", "B"):
        genes = sd.driver_genes(ds, label, mode=1)
        assert genes["participation"].abs().is_monotonic_decreasing
        assert set(genes["gene"]) == set(atlas.field.regulators)
        for by in ("sensitivity", "contribution"):
            edges = sd.driver_edges(ds, label, by=by)
            assert edges[by].abs().is_monotonic_decreasing
            assert (edges["weight"] != 0).all()
        possible = sd.driver_edges(ds, label, existing=False)
        assert len(possible) == len(atlas.field.regulators) ** 2 > len(edges)
        assert sd.driver_edges(ds, label, top=3).equals(sd.driver_edges(ds, label)[:3])


def test_where_a_gene_outside_the_core_leads() -> None:
    """A self-inhibiting regulator and a target that hardly decays: the target sets the abscissa."""
    field = sd.HopfieldField.from_arrays(
        ["A", "slow"], W=[[-8.0, 0.0], [1.0, 0.0]], gamma=[1.0, 0.1], threshold=1.0, exponent=1.0
    )
    adata = anndata.AnnData(np.ones((3, 2)))
    adata.var_names = ["A", "slow"]
    ds = sd.stability(sd.open_cells(adata), field, quantities=["default", "drivers"])
    np.testing.assert_allclose(ds["spectral_abscissa"], -0.1)
    table = sd.driver_genes(ds, "all")
    assert table.attrs["leading_fraction"] == 0
    assert table.attrs["n_cells"] == 3


def test_clusters_without_cells_to_speak_of() -> None:
    atlas = random_atlas(3, n_cells=4, broken=(1, 3), clusters=("A", "B"))
    ds = sd.stability(atlas.cells(), atlas.field, quantities=["drivers"])
    table = sd.driver_genes(ds, "B")
    assert table["participation"].isna().all()
    assert table.attrs["n_cells"] == 0
    assert np.isnan(table.attrs["leading_fraction"])
    assert sd.driver_edges(ds, "B")["sensitivity"].isna().all()


def test_a_field_without_regulators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas = random_atlas(3, n_regulators=0)
    store = tmp_path / "out.zarr"
    run = {"workers": 0, "progress": False, "quantities": ["default", "drivers"]}
    sd.run(atlas.cells(), atlas.field, store, **run)  # type: ignore[arg-type]
    for ds in (sd.open_results(store), sd.stability(atlas.cells(), atlas.field, quantities=["drivers"])):
        genes, edges = sd.driver_genes(ds, "A"), sd.driver_edges(ds, "A")
        assert len(genes) == len(edges) == 0
        assert genes.attrs["n_cells"] == edges.attrs["n_cells"] == 0
    assert main(["drivers", str(store)]) == 0
    assert "A: mode 0 of 0 cells" in capsys.readouterr().out
    write_report(store, tmp_path / "report.html")
    assert "No cell of this cluster" in (tmp_path / "report.html").read_text()


def test_from_a_store(tmp_path: Path) -> None:
    atlas = random_atlas(3, n_cells=30)
    run = {"workers": 0, "progress": False, "quantities": ["drivers"], "partition_cells": 8}
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **run)  # type: ignore[arg-type]
    ds = sd.open_results(tmp_path / "out.zarr")
    lazy = sd.stability(atlas.cells(), atlas.field, quantities=["drivers"])
    for label in ds["cluster"].values:
        found, expected = (
            sd.driver_edges(one, label).sort_values(["regulator", "effector"]) for one in (ds, lazy)
        )
        assert found["regulator"].tolist() == expected["regulator"].tolist()
        np.testing.assert_allclose(found["sensitivity"], expected["sensitivity"], atol=1e-12)


def test_what_is_refused_and_how() -> None:
    ds = toggle()
    with pytest.raises(MissingKeyError, match="no cluster 'al'; did you mean 'all'"):
        sd.driver_genes(ds, "al")
    with pytest.raises(UsageError, match="mode=2; expected 0 to 1"):
        sd.driver_genes(ds, "all", mode=2)
    with pytest.raises(UsageError, match="by='weight'; expected 'sensitivity'"):
        sd.driver_edges(ds, "all", by="weight")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top=0"):
        sd.driver_edges(ds, "all", top=0)
    without = ds.drop_vars("sensitivity_mean")
    with pytest.raises(MissingKeyError, match="--quantities default,drivers"):
        sd.driver_edges(without, "all")
