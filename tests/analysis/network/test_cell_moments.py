"""Co-moments of atlases: one pass over files, by label, with cells that are not finite."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import dask
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stabdask as sd
from stabdask.analysis.network import cell_moments
from stabdask.analysis.network.moments import CoMoments
from stabdask.errors import InputError, MemoryBudgetError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]


def atlas(n_cells: int = 500, n_genes: int = 6, seed: int = 0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 2.0, (n_cells, n_genes)).astype(np.float32)
    x[rng.random(x.shape) < 0.4] = 0.0
    obs = pd.DataFrame(
        {
            "state": pd.Categorical(
                rng.choice(["b", "a", "c"], n_cells), categories=["c", "unused", "b", "a"]
            ),
            "batch": rng.integers(0, 2, n_cells),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small atlases into many stretches too."""
    monkeypatch.setattr(cell_moments, "_STRETCH_CELLS", 37)
    monkeypatch.setattr(cell_moments, "_STRETCH_CELLS_OF_LABEL", 11)
    monkeypatch.setattr(cell_moments, "_STRETCHES", 9)


def assert_like(found: CoMoments, x: Array) -> None:
    expected = CoMoments.of(np.asarray(x, dtype=np.float64), found.genes)
    assert found.count == expected.count
    for name in ("mean", "comoment", "third", "fourth"):
        value = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-10, atol=1e-10 * np.abs(value).max())
    np.testing.assert_allclose(found.covariance(), np.cov(x, rowvar=False, dtype=np.float64), atol=1e-10)


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "zarr", "memory"])
def test_every_kind_of_file(kind: str, tmp_path: Path, stretches: None) -> None:
    adata = atlas()
    x = adata.X.copy()
    if kind in ("csr", "csc"):
        adata.X = sparse.csr_array(x) if kind == "csr" else sparse.csc_array(x)
    source: Any = adata
    if kind == "zarr":
        source = tmp_path / "cells.zarr"
        adata.write_zarr(source)
    elif kind != "memory":
        source = tmp_path / "cells.h5ad"
        adata.write_h5ad(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabdaskWarning)  # a CSC file is scanned for every block
        cells = sd.open_cells(source, cluster_key="state", block_cells=64)
    assert_like(CoMoments.from_cells(cells), x)
    found = CoMoments.from_cells(cells, by="cluster")
    assert list(found) == ["c", "b", "a"]
    for label, moments in found.items():
        assert_like(moments, x[(adata.obs["state"] == label).to_numpy()])
        assert moments.genes.tolist() == [f"g{i}" for i in range(6)]
    total = sum(found.values())
    np.testing.assert_allclose(total.covariance(), np.cov(x, rowvar=False), atol=1e-10)


def test_the_same_bits_however_it_is_computed(stretches: None) -> None:
    adata = atlas(700)
    results = []
    for block, scheduler in ((700, "synchronous"), (64, "threads"), (17, "threads"), (64, "synchronous")):
        with dask.config.set(scheduler=scheduler, num_workers=4):
            results.append(CoMoments.from_cells(sd.open_cells(adata, block_cells=block)))
    for other in results[1:]:
        np.testing.assert_array_equal(other.comoment, results[0].comoment)
        np.testing.assert_array_equal(other.mean, results[0].mean)
        assert other.fourth == results[0].fourth


def test_on_a_cluster(tmp_path: Path, stretches: None) -> None:
    from distributed import Client, LocalCluster

    adata = atlas()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = sd.open_cells(tmp_path / "cells.h5ad", cluster_key="state", block_cells=50)
    here = CoMoments.from_cells(cells, by="cluster")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        there = CoMoments.from_cells(cells, by="cluster", client=client)
        with pytest.raises(UsageError, match="persisted"):
            CoMoments.from_cells(cells.assign(expression=client.persist(cells["expression"])), client=client)
    for label, moments in here.items():
        np.testing.assert_array_equal(moments.comoment, there[label].comoment)


def test_the_first_cell_that_is_not_finite_is_named(stretches: None) -> None:
    adata = atlas()
    adata.X[321, 2] = np.nan
    adata.X[77, 0] = np.inf
    adata.X[480, 0] = -np.inf
    cells = sd.open_cells(adata, cluster_key="state", block_cells=32)
    for by in (None, "cluster"):
        with pytest.raises(InputError, match=r"cell 'c77', number 77 of 500 is not finite"):
            CoMoments.from_cells(cells, by=by)
    bad = np.zeros(500, dtype=bool)
    bad[[77, 321, 480]] = True
    moments = CoMoments.from_cells(cells, missing="skip")
    assert moments.n_skipped == 3
    assert_like(moments, adata.X[~bad])
    found = CoMoments.from_cells(cells, by="cluster", missing="skip")
    assert sum(own.n_skipped for own in found.values()) == 3
    for label, own in found.items():
        members = (adata.obs["state"] == label).to_numpy()
        assert own.n_skipped == int((members & bad).sum())
        assert_like(own, adata.X[members & ~bad])


def test_cells_without_a_label_are_left_out(stretches: None) -> None:
    adata = atlas()
    adata.obs.loc[adata.obs_names[:20], "state"] = np.nan
    adata.X[3] = np.nan  # of no cluster: nobody's cell
    cells = sd.open_cells(adata, cluster_key="state")
    with pytest.warns(StabdaskWarning, match="20 of 500 cells have no label in 'cluster'"):
        found = CoMoments.from_cells(cells, by="cluster")
    for label, own in found.items():
        assert_like(own, adata.X[(adata.obs["state"] == label).to_numpy()])
        assert own.n_skipped == 0
    adata.obs["state"] = pd.Categorical([np.nan] * 500, categories=["a"])
    with pytest.raises(InputError, match="no cell has a label"):
        CoMoments.from_cells(sd.open_cells(adata, cluster_key="state"), by="cluster")


def test_by_another_label_and_in_other_spaces() -> None:
    adata = atlas()
    adata.obsm["X_pca"] = np.random.default_rng(1).normal(size=(500, 3))
    cells = sd.open_cells(adata, obsm="X_pca", obs_keys=["batch"], cluster_key="state")
    found = CoMoments.from_cells(cells, by="batch")
    assert list(found) == [0.0, 1.0]
    assert_like(found[1.0], adata.obsm["X_pca"][adata.obs["batch"] == 1])
    assert found[1.0].genes.tolist() == ["pca_1", "pca_2", "pca_3"]
    with pytest.raises(MissingKeyError, match="did you mean 'batch'"):
        CoMoments.from_cells(cells, by="batches")
    with pytest.raises(UsageError, match="the name of one label"):
        CoMoments.from_cells(cells, by=["batch"])  # type: ignore[call-overload]


def test_chosen_genes_and_cells() -> None:
    adata = atlas()
    cells = sd.open_cells(adata, genes=["g4", "g1"])
    moments = CoMoments.from_cells(cells.isel(cell=slice(3, None, 2)), fourth=False)
    assert moments.genes.tolist() == ["g4", "g1"]
    assert moments.fourth is None
    np.testing.assert_allclose(moments.covariance(), np.cov(adata.X[3::2, [4, 1]], rowvar=False), atol=1e-10)
    assert_like(CoMoments.from_cells(cells.compute()), adata.X[:, [4, 1]])
    assert_like(CoMoments.from_cells(cells.chunk({"gene": 1})), adata.X[:, [4, 1]])


def test_blocks_that_are_sparse(stretches: None) -> None:
    adata = atlas()
    cells = sd.open_cells(adata, block_cells=64)
    blocks = cells["expression"].data.map_blocks(sparse.csr_array, meta=np.empty((0, 0), dtype=np.float32))
    assert_like(CoMoments.from_cells(cells.assign(expression=(("cell", "gene"), blocks))), adata.X)


def test_one_cell_and_one_gene() -> None:
    assert CoMoments.from_cells(sd.open_cells(atlas(1))).count == 1
    moments = CoMoments.from_cells(sd.open_cells(atlas(50, 1)))
    assert moments.comoment.shape == (1, 1)


def test_what_does_not_fit_in_memory_is_refused_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    cells = sd.open_cells(atlas(), cluster_key="state")
    # Three labels of 6 x 6 numbers twice, and one more.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 36 * 7))
    assert len(CoMoments.from_cells(cells, by="cluster")) == 3
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 36 * 7 - 1))
    with pytest.raises(MemoryBudgetError, match="for each of 3 labels take at least"):
        CoMoments.from_cells(cells, by="cluster")
    assert CoMoments.from_cells(cells).count == 500


def test_bad_cells() -> None:
    cells = sd.open_cells(atlas(10))
    with pytest.raises(MissingKeyError, match="neither 'expression' nor 'coordinates'"):
        CoMoments.from_cells(cells.drop_vars("expression"))
    with pytest.raises(InputError, match="gene names repeat"):
        CoMoments.from_cells(cells.assign_coords(gene=["a"] * 6))
    with pytest.raises(InputError, match="at least one cell"):
        CoMoments.from_cells(cells.isel(cell=[]))
    with pytest.raises(InputError, match="dimensions"):
        CoMoments.from_cells(cells.isel(cell=0))
    with pytest.raises(InputError, match="dtype complex"):
        CoMoments.from_cells(cells.astype(complex))
    with pytest.raises(UsageError, match="asynchronous"):
        CoMoments.from_cells(cells, client=SimpleNamespace(asynchronous=True))
    with pytest.raises(UsageError, match="missing="):
        CoMoments.from_cells(cells, missing="drop")  # type: ignore[call-overload]
