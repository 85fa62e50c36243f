"""Samples of cells: what each method promises, against algorithms written out one step at a time."""

from __future__ import annotations

import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import shared_data
from hypothesis import given
from hypothesis import strategies as st
from random_atlas import random_atlas
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist
from small_atlas import Small

import stabdask as sd
from stabdask.atlas import coordinates as coordinates_module
from stabdask.atlas import neural_gas, sampling
from stabdask.atlas.coordinates import STRIP_CELLS, Coordinates
from stabdask.atlas.nearest import nearest_unused
from stabdask.atlas.neural_gas import draw_weighted, kmeans_centers, topology_nodes
from stabdask.atlas.sampling import METHODS, _shares
from stabdask.atlas.speeds import cell_speeds
from stabdask.cli.main import main
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]
QUIET: dict[str, Any] = {"workers": 0, "progress": False, "quantities": ["speed"]}
PLACED = ("trn", "kmeans")


def atlas(x: Array, labels: Any = None, **options: Any) -> xr.Dataset:
    """Return cells with expression `x`, and `x` as an embedding too."""
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(x))])
    if labels is not None:
        obs["kind"] = np.asarray(labels, dtype=object)
        options["cluster_key"] = "kind"
    adata = anndata.AnnData(x, obs=obs)
    adata.obsm["X_umap"] = x[:, :2] if x.shape[1] > 1 else x
    return sd.open_cells(adata, **{"block_cells": 16, "embeddings": ["X_umap"], **options})


def mixture(n_cells: int, n_axes: int, seed: int = 0, n_clusters: int = 5) -> tuple[Array, Array]:
    """Return cells of clusters of different size and width, and their clusters."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(n_clusters, n_cells, p=rng.dirichlet(np.full(n_clusters, 3.0)))
    centers = rng.normal(scale=3.0, size=(n_clusters, n_axes))
    width = rng.uniform(0.5, 1.5, n_clusters)
    return centers[codes] + rng.normal(size=(n_cells, n_axes)) * width[codes, None], codes


def quantization_error(x: Array, nodes: Array) -> float:
    """Return the mean distance from cells to the nearest node."""
    return float(cdist(x, nodes).min(axis=1).mean())


def one_at_a_time(x: Array, n: int, rng: np.random.Generator) -> Array:
    """Return the nodes of neural gas as its authors wrote it down, one presentation after the other."""
    nodes = x[rng.choice(len(x), n, replace=False, shuffle=False)].copy()
    total = 200 * n
    for t in range(1, total + 1):
        shown = x[rng.integers(len(x), size=1)[0]]
        reach = 0.2 * n * (0.01 / (0.2 * n)) ** (t / total)
        step = 0.3 * (0.05 / 0.3) ** (t / total)
        rank = np.argsort(np.argsort(((nodes - shown) ** 2).sum(axis=1)))
        nodes += step * np.exp(-rank / reach)[:, None] * (shown - nodes)
    return nodes


def closest_pairs(x: Array, nodes: Array) -> Array:
    """Return a cell for each node: of all pairs the closest, then the closest of the rest, and so on."""
    chosen = np.full(len(nodes), -1)
    distance = cdist(nodes, x)
    for node, cell in zip(*np.unravel_index(np.argsort(distance, axis=None), distance.shape), strict=True):
        if chosen[node] < 0 and cell not in chosen:
            chosen[node] = cell
    return chosen


def still_field(n_genes: int = 2) -> sd.HopfieldField:
    """Return a field without regulation: v = 1 - x, so that a cell at 1 does not move."""
    genes = [str(i) for i in range(n_genes)]
    W = np.zeros((n_genes, n_genes))
    return sd.HopfieldField.from_arrays(genes, W=W, gamma=1.0, bias=1.0, threshold=1.0, exponent=2.0)


def positions(sample: xr.Dataset) -> list[int]:
    return sample["atlas_position"].values.astype(int).tolist()


# ------------------------------------------------------------------------------------ what all methods promise


@pytest.mark.parametrize("method", METHODS)
def test_cells_are_those_of_the_atlas_sorted_and_unique(method: str) -> None:
    x, codes = mixture(300, 4)
    x = np.abs(x)
    cells = atlas(x, [f"k{code}" for code in codes])
    field = still_field(4) if method == "velocity" else None
    missing = {"missing_cluster": "W_all"} if method == "velocity" else {}
    some = sd.sample(cells, 40, method=method, seed=3, field=field, **missing)  # type: ignore[arg-type]
    at = positions(some)
    assert len(at) == 40
    assert at == sorted(set(at))
    np.testing.assert_array_equal(some["expression"].values, x[at])
    np.testing.assert_array_equal(some["X_umap"].values, x[at, :2])
    assert some["cell"].values.tolist() == [f"c{i}" for i in at]
    assert some["cluster"].values.tolist() == [f"k{codes[i]}" for i in at]
    assert some["cluster"].attrs == cells["cluster"].attrs
    assert some["expression"].chunks is not None
    assert list(some.data_vars) == list(cells.data_vars)
    assert some["atlas_position"].attrs == {"annotation": "number"}
    assert some.attrs == {
        **cells.attrs,
        "sample": {"method": method, "n": 40, "seed": 3, "n_cells": 300},
    }
    json.dumps(some.attrs["sample"])
    assert "sample" not in cells.attrs
    assert "atlas_position" not in cells.variables


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_chunks_do_not(method: str, tmp_path: Path) -> None:
    drawn = random_atlas(4, n_cells=2 * STRIP_CELLS + 100)
    options: dict[str, Any] = {"field": drawn.field} if method == "velocity" else {}

    def chosen(seed: int, cells: xr.Dataset) -> list[int]:
        return positions(sd.sample(cells, 6, method=method, seed=seed, **options))  # type: ignore[arg-type]

    whole = drawn.cells(block_cells=5000)
    expected = chosen(0, whole)
    assert chosen(0, whole) == expected
    assert chosen(1, whole) != expected
    assert chosen(0, drawn.cells(block_cells=37)) == expected
    assert chosen(0, drawn.cells(block_cells=STRIP_CELLS + 1)) == expected
    assert chosen(0, whole.chunk({"cell": 1000, "gene": 4})) == expected
    assert chosen(0, whole.load()) == expected
    drawn.adata().write_h5ad(tmp_path / "cells.h5ad")
    file = sd.open_cells(tmp_path / "cells.h5ad", cluster_key="kind", block_cells=300)
    assert chosen(0, file) == expected


@pytest.mark.parametrize("method", METHODS)
def test_all_cells(method: str) -> None:
    x = np.random.default_rng(0).random((20, 3)) + 2.0
    cells = atlas(x, ["a", "b"] * 10)
    options: dict[str, Any] = {"missing_cluster": "W_all", "field": still_field(3)}
    some = sd.sample(cells, 20, method=method, **(options if method == "velocity" else {}))  # type: ignore[arg-type]
    assert positions(some) == list(range(20))
    assert some.attrs["sample"]["n"] == 20
    np.testing.assert_array_equal(some["expression"].values, x)


@pytest.mark.parametrize("method", METHODS)
def test_one_cell(method: str) -> None:
    options: dict[str, Any] = {"field": still_field()} if method == "velocity" else {}
    alone = atlas(np.full((1, 2), 3.0))
    assert positions(sd.sample(alone, 1, method=method, **options)) == [0]  # type: ignore[arg-type]
    many = atlas(np.abs(mixture(50, 2)[0]))
    assert len(positions(sd.sample(many, 1, method=method, **options))) == 1  # type: ignore[arg-type]


def test_a_sample_of_a_sample_says_where_cells_were_at_first() -> None:
    cells = atlas(mixture(200, 3)[0])
    first = sd.sample(cells, 60, seed=1)
    second = sd.sample(first, 10, method="trn", seed=2)
    assert set(positions(second)) < set(positions(first))
    np.testing.assert_array_equal(second["expression"].values, cells["expression"].values[positions(second)])
    assert second.attrs["sample"] == {
        "method": "trn",
        "n": 10,
        "seed": 2,
        "n_cells": 60,
        "of": {"method": "random", "n": 60, "seed": 1, "n_cells": 200},
    }


@pytest.mark.parametrize("method", METHODS)
def test_more_cells_than_there_are(method: str) -> None:
    cells = atlas(mixture(1234, 2)[0])
    field = still_field() if method == "velocity" else None
    with pytest.raises(UsageError, match=r"n=1,235 cells of 1,234: there are fewer"):
        sd.sample(cells, 1235, method=method, field=field)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -3, 2.5, True, "7", None, np.nan])
def test_numbers_of_cells_that_make_no_sense(n: Any) -> None:
    with pytest.raises(UsageError, match=r"n=.*; expected a whole number, at least 1"):
        sd.sample(atlas(mixture(20, 2)[0]), n)


def test_options_that_make_no_sense() -> None:
    cells = atlas(mixture(20, 2)[0])
    assert positions(sd.sample(cells, np.int64(3), seed=np.int32(2)))  # type: ignore[arg-type]
    for seed in (-1, 0.5, None):
        with pytest.raises(UsageError, match=r"seed=.*; expected a whole number, at least 0"):
            sd.sample(cells, 3, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"method='kmean' is not known; did you mean 'kmeans'\?"):
        sd.sample(cells, 3, method="kmean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="method='velocity' needs the field"):
        sd.sample(cells, 3, method="velocity")
    with pytest.raises(UsageError, match="field is a str; expected a Field"):
        sd.sample(cells, 3, method="velocity", field="model.zarr")  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"field= is for method='velocity'; method='trn' does not look at it"
    ):
        sd.sample(cells, 3, method="trn", field=still_field())
    with pytest.raises(UsageError, match=r"basis='X_umap' is for 'trn' and 'kmeans'; method='random'"):
        sd.sample(cells, 3, basis="X_umap")
    with pytest.raises(MissingKeyError, match=r"no embedding 'X_unap'; did you mean 'X_umap'\?"):
        sd.sample(cells, 3, method="trn", basis="X_unap")
    with pytest.raises(MissingKeyError, match="neither 'expression' nor 'coordinates'"):
        sd.sample(cells.drop_vars("expression"), 3)
    taken = cells.assign_coords(atlas_position=("cell", np.arange(20.0)))
    with pytest.raises(UsageError, match="have 'atlas_position' already"):
        sd.sample(taken, 3)


# ------------------------------------------------------------------------------------ runs over samples


def test_a_run_over_a_sample_writes_which_cells(tmp_path: Path) -> None:
    drawn = random_atlas(1, n_cells=150)
    cells = drawn.cells()
    sd.run(cells, drawn.field, tmp_path / "all.zarr", **QUIET)
    some = sd.sample(cells, 40, method="velocity", field=drawn.field, seed=5)
    sd.run(some, drawn.field, tmp_path / "some.zarr", partition_cells=16, **QUIET)
    ds, everything = sd.open_results(tmp_path / "some.zarr"), sd.open_results(tmp_path / "all.zarr")
    assert ds["atlas_position"].values.tolist() == positions(some)
    assert ds["atlas_position"].attrs["annotation"] == "number"
    at = ds["atlas_position"].values.astype(int)
    assert ds["cell"].values.tolist() == everything["cell"].values[at].tolist()
    for name in ("speed", "status", "eigenvalue"):
        np.testing.assert_allclose(ds[name].values, everything[name].values[at], rtol=1e-12)
    assert sd.verify(tmp_path / "some.zarr").ok


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_runs_of_different_samples_have_different_fingerprints() -> None:
    # Cells alike in everything but where they were: even then samples are told apart.
    drawn = random_atlas(1, n_cells=4)
    adata = anndata.concat([drawn.adata()] * 8)
    adata.obs_names = [f"cell{i % 4}" for i in range(32)]
    adata.X[:] = adata.X[0]
    adata.obs["kind"] = "A"
    with pytest.warns(StabdaskWarning, match="have names that other cells have too"):
        cells = sd.open_cells([adata[:16].copy(), adata[16:].copy()], cluster_key="kind")
    seen = {
        sd.stability(sd.sample(cells, 8, seed=seed), drawn.field).attrs["fingerprint"] for seed in range(5)
    }
    assert len(seen) == 5
    again = sd.stability(sd.sample(cells, 8, seed=0), drawn.field).attrs["fingerprint"]
    assert again in seen


def tracked(n_cells: int, chunk: int, n_genes: int = 3) -> tuple[xr.Dataset, list[int], list[int]]:
    """Return cells whose blocks are counted: number of each block read, and how many were alive at each reading."""
    read: list[int] = []
    alive: list[int] = []
    held: set[int] = set()

    def block(start: int) -> Array:
        flat = np.repeat(np.arange(start, min(start + chunk, n_cells), dtype=np.float64), n_genes)
        read.append(start // chunk)
        held.add(start)
        weakref.finalize(flat, held.discard, start)  # views keep it alive
        alive.append(len(held))
        return flat.reshape(-1, n_genes)

    name = "tracked"
    starts = range(0, n_cells, chunk)
    graph = {(name, i, 0): (block, start) for i, start in enumerate(starts)}
    sizes = tuple(min(chunk, n_cells - start) for start in starts)
    x = da.Array(graph, name, chunks=(sizes, (n_genes,)), dtype=np.float64)
    labels = np.full(n_cells, "all", dtype=object)
    cells = xr.Dataset(
        {"expression": (("cell", "gene"), x)},
        coords={
            "cell": np.arange(n_cells),
            "gene": [str(i) for i in range(n_genes)],
            "cluster": ("cell", labels, {"labels": ["all"]}),
        },
    )
    return cells, read, alive


def test_of_a_million_cells_only_the_blocks_needed_are_read() -> None:
    n_cells, chunk = 1_000_000, 2048
    cells, read, alive = tracked(n_cells, chunk)
    some = sd.sample(cells, 500, seed=1)
    assert not read
    at = np.asarray(positions(some))
    chunks = some["expression"].chunks
    assert chunks is not None
    assert chunks[0] == (128, 128, 128, 116)
    first = some["expression"].data.blocks[0].compute(scheduler="synchronous")
    np.testing.assert_array_equal(first[:, 0], at[:128])
    # What holds the first 128 cells, each block once, and no more than a few at the same time.
    assert sorted(read) == np.unique(at[:128] // chunk).tolist()
    assert max(alive) <= 3
    read.clear()
    np.testing.assert_array_equal(some["expression"].data.compute(scheduler="synchronous")[:, 0], at)
    assert set(read) == set((at // chunk).tolist())
    assert max(alive) <= 3
    part = some["expression"].data[300:303]
    assert len(part.__dask_optimize__(part.__dask_graph__(), part.__dask_keys__())) < 3 * 128


def test_dense_samples_keep_chunks_of_the_size_of_blocks() -> None:
    cells, _, _ = tracked(16_000, 2000)
    chunks = sd.sample(cells, 8_000)["expression"].chunks
    assert chunks is not None
    assert set(chunks[0][:-1]) == {512}
    small, _, _ = tracked(4_000, 10)
    chunks = sd.sample(small, 2_000)["expression"].chunks
    assert chunks is not None
    assert set(chunks[0][:-1]) == {128}


def test_a_run_over_a_sample_holds_few_blocks(tmp_path: Path) -> None:
    cells, read, alive = tracked(64_000, 256)
    some = sd.sample(cells, 500, seed=1)
    sd.run(some, still_field(3), tmp_path / "out.zarr", spectrum="none", **QUIET)
    assert sd.status(tmp_path / "out.zarr").complete
    assert set(read) <= set((np.asarray(positions(some)) // 256).tolist())
    assert max(alive) <= 6  # one chunk is read ahead


@pytest.mark.parametrize("method", PLACED)
def test_coordinates_that_are_not_kept_give_the_same_cells(
    monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    x, _ = mixture(5000, 3)
    x[[3, 4000]] = np.nan
    cells = atlas(x, block_cells=200)
    with pytest.warns(StabdaskWarning, match="2 of 5,000 cells"):
        kept = positions(sd.sample(cells, 20, method=method))
    monkeypatch.setattr(coordinates_module, "_KEPT_BYTES", 0)
    with pytest.warns(StabdaskWarning, match="2 of 5,000 cells"):
        assert positions(sd.sample(cells, 20, method=method)) == kept
    # A pool of 100 cells is another sample, and still a good one.
    monkeypatch.setattr(sampling, "_POOL_BYTES", 100 * 3 * 8)
    with pytest.warns(StabdaskWarning, match="2 of 5,000 cells"):
        pooled = positions(sd.sample(cells, 20, method=method))
    assert pooled != kept
    good = np.isfinite(x).all(axis=1)
    assert quantization_error(x[good], x[pooled]) < 1.25 * quantization_error(x[good], x[kept])


@pytest.mark.parametrize("method", PLACED)
def test_large_coordinates_are_never_held_whole(monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    monkeypatch.setattr(coordinates_module, "_KEPT_BYTES", 0)
    monkeypatch.setattr(sampling, "_POOL_BYTES", 2000 * 3 * 8)
    cells, read, alive = tracked(60_000, 500)
    some = sd.sample(cells, 30, method=method)
    assert max(alive) <= 2
    assert len(read) == 2 * 120  # one pass for the pool, one for the nearest cells
    # Cells lie on a line: nodes are about evenly spaced.
    gaps = np.diff([-1000, *positions(some), 61_000])
    assert gaps.max() < 4 * 2000
    assert gaps.min() > 2000 / 8


# ------------------------------------------------------------------------------------ by chance


def test_random_samples_are_uniform() -> None:
    cells = atlas(mixture(12, 2)[0])
    counts = np.zeros(12)
    for seed in range(200):
        counts[positions(sd.sample(cells, 6, seed=seed))] += 1
    # 100 expected of each; the standard deviation is 7.1.
    assert counts.sum() == 1200
    assert np.abs(counts - 100).max() < 4 * 7.1


def test_weighted_draws_are_sequential_draws_without_replacement() -> None:
    weights = np.array([5.0, 1.0, 0.0, 3.0, 1.0])
    expected: dict[tuple[int, ...], float] = {}
    for first, second in itertools.permutations([0, 1, 3, 4], 2):
        chance = weights[first] / 10 * weights[second] / (10 - weights[first])
        pair = (min(first, second), max(first, second))
        expected[pair] = expected.get(pair, 0.0) + chance
    assert sum(expected.values()) == pytest.approx(1.0)
    rng, n = np.random.default_rng(0), 20_000
    found = [tuple(draw_weighted(weights, 2, rng).tolist()) for _ in range(n)]
    for pair, chance in expected.items():
        assert abs(found.count(pair) / n - chance) < 4 * np.sqrt(chance * (1 - chance) / n)
    assert set(found) == set(expected)


def test_weights_of_any_size() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([1e-320, 1e-300, np.inf, 1e300, -1.0, 1e308, np.nan])
    assert draw_weighted(weights, 4, rng).tolist() == [0, 1, 3, 5]
    assert {tuple(draw_weighted(weights, 2, rng).tolist()) for _ in range(50)} == {(3, 5)}


def test_speeds_are_norms_of_velocities() -> None:
    drawn = random_atlas(7, n_cells=60, unlabelled=[3], broken=[8, 11])
    speeds = cell_speeds(drawn.cells(block_cells=7), drawn.field)
    for cell in range(60):
        if drawn.good[cell]:
            v = drawn.drawn.clusters[str(drawn.labels[cell])].velocity(drawn.x[cell : cell + 1])
            assert speeds[cell] == pytest.approx(np.linalg.norm(v), rel=1e-12)
        else:
            assert np.isnan(speeds[cell])
    # Genes of the atlas in another order, and more of them.
    adata = drawn.adata()[:, ::-1].copy()
    more = anndata.concat(
        [adata, anndata.AnnData(np.ones((60, 1)), obs=adata.obs[[]])], axis=1, merge="first"
    )
    more.obs["kind"] = drawn.labels
    again = cell_speeds(sd.open_cells(more, cluster_key="kind"), drawn.field)
    np.testing.assert_allclose(again, speeds, rtol=1e-12)
    del more
    with pytest.raises(MissingKeyError, match=r"lacks 1 of the field's 9 genes: 'gene0'"):
        cell_speeds(sd.open_cells(adata[:, :-1].copy(), cluster_key="kind"), drawn.field)


def test_speeds_in_a_field_over_an_embedding() -> None:
    rng = np.random.default_rng(0)
    x, centers, weights = rng.normal(size=(40, 3)), rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    field = sd.RKHSField(centers, weights, 0.3, basis="pca")
    obs = pd.DataFrame({"kind": ["a", "b"] * 20}, index=[f"c{i}" for i in range(40)])
    adata = anndata.AnnData(np.ones((40, 4)), obs=obs, obsm={"X_pca": x})
    cells = sd.open_cells(adata, obsm="X_pca", cluster_key="kind", block_cells=7)
    expected = np.linalg.norm(np.exp(-0.3 * cdist(x, centers) ** 2) @ weights, axis=1)
    np.testing.assert_allclose(cell_speeds(cells, field), expected, rtol=1e-12)
    some = sd.sample(cells, 10, method="velocity", field=field)
    assert some["coordinates"].shape == (10, 3)
    nameless = cells.drop_vars("axis")
    np.testing.assert_allclose(cell_speeds(nameless, field), expected, rtol=1e-12)
    with pytest.raises(InputError, match="2 axes without names; expected 3"):
        cell_speeds(nameless.isel(axis=[0, 1]), field)
    with pytest.raises(InputError, match=r"lives on 3 axes of 'X_pca', and the cells .* obsm='X_pca'"):
        sd.sample(sd.open_cells(adata), 10, method="velocity", field=field)


def test_fast_cells_are_drawn_more_often() -> None:
    x = np.concatenate([np.full((50, 2), 1.5), np.full((50, 2), 10.0)])
    cells, counts = atlas(x), np.zeros(100)
    for seed in range(20):
        counts[positions(sd.sample(cells, 15, method="velocity", field=still_field(), seed=seed))] += 1
    # Speeds 0.7 and 12.7, so about 1 in 17 is of the slow half.
    assert 1 / 40 < counts[:50].sum() / 300 < 1 / 9


def test_cells_that_do_not_move_are_never_drawn() -> None:
    x = np.ones((30, 2))
    x[[4, 9, 17]] = 2.0
    x[20] = np.nan
    cells = atlas(x)
    with pytest.warns(StabdaskWarning, match="1 of 30 cells have no finite velocity"):
        some = sd.sample(cells, 3, method="velocity", field=still_field())
    assert positions(some) == [4, 9, 17]
    with pytest.raises(
        UsageError, match=r"n=4, but 3 of 30 cells have a positive speed \(1 .*, 26 do not move\)"
    ):
        sd.sample(cells, 4, method="velocity", field=still_field())


def test_clusters_that_the_field_does_not_know() -> None:
    drawn = random_atlas(3, n_cells=40)
    adata = drawn.adata()
    adata.obs["kind"] = ["A", "new"] * 20
    cells = sd.open_cells(adata, cluster_key="kind")
    with pytest.raises(MissingKeyError, match=r"no parameters \(W_<cluster>\) for 'new'"):
        sd.sample(cells, 5, method="velocity", field=drawn.field)
    with pytest.raises(MissingKeyError, match=r"missing_cluster='W_b' is not possible; did you mean 'W_B'"):
        sd.sample(cells, 5, method="velocity", field=drawn.field, missing_cluster="W_b")
    with pytest.warns(StabdaskWarning, match="20 of 40 cells have no finite velocity"):
        some = sd.sample(cells, 15, method="velocity", field=drawn.field, missing_cluster="skip")
    assert set(some["cluster"].values) == {"A"}
    both = sd.sample(cells, 30, method="velocity", field=drawn.field, missing_cluster="W_B")
    assert set(both["cluster"].values) == {"A", "new"}


def test_states_outside_the_domain_are_refused() -> None:
    x = np.ones((5, 2))
    x[3, 1] = -1.0
    with pytest.raises(InputError, match="gene '1' in cell 'c3' is -1"):
        sd.sample(atlas(x), 2, method="velocity", field=still_field())


# ------------------------------------------------------------------------------------ by cluster


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12), data=st.data())
def test_shares_are_proportional(sizes: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(len(sizes), sum(sizes)))
    shares, counts = _shares(np.array(sizes), n), np.array(sizes)
    assert shares.sum() == n
    assert (shares >= 1).all()
    assert (shares <= counts).all()
    quotas = n * counts / counts.sum()
    if (quotas >= 1).all():
        assert (np.abs(shares - quotas) < 1).all()
    else:
        assert (shares < quotas + 1).all()
    order = np.argsort(counts, kind="stable")
    assert (np.diff(shares[order])[np.diff(counts[order]) > 0] >= 0).all()


def test_each_cluster_gives_its_share() -> None:
    labels = np.array(["a"] * 700 + ["b"] * 250 + ["c"] * 48 + ["d"] * 2)
    labels = labels[np.random.default_rng(0).permutation(1000)]
    cells = atlas(np.arange(2000.0).reshape(1000, 2), labels)
    chosen = [sd.sample(cells, 100, method="stratified", seed=seed) for seed in range(30)]
    for some in chosen:
        names, counts = np.unique(some["cluster"].values.astype(str), return_counts=True)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"a": 69, "b": 25, "c": 5, "d": 1}
    # At random within a cluster: both cells of the smallest come up.
    last = {tuple(some["cell"].values[some["cluster"].values == "d"]) for some in chosen}
    assert len(last) == 2


def test_cells_without_a_label_are_in_no_stratum() -> None:
    labels = [None, "a", "b", "a", None] * 8
    cells = atlas(mixture(40, 2)[0], labels)
    with pytest.warns(StabdaskWarning, match="16 of 40 cells have no cluster label: they are not chosen"):
        some = sd.sample(cells, 24, method="stratified")
    assert positions(some) == [i for i in range(40) if labels[i]]
    with pytest.raises(UsageError, match="n=25, but 24 of 40 cells have a cluster label"):
        sd.sample(cells, 25, method="stratified")
    with pytest.raises(UsageError, match="n=1 is less than one cell for each of 2 clusters"):
        sd.sample(cells, 1, method="stratified")


# ------------------------------------------------------------------------------------ nodes


@pytest.mark.parametrize(("n", "n_axes"), [(1, 2), (2, 3), (7, 1), (20, 4)])
def test_batches_of_one_are_the_algorithm_itself(
    monkeypatch: pytest.MonkeyPatch, n: int, n_axes: int
) -> None:
    monkeypatch.setattr(neural_gas, "_NODES_PER_SHOWN", 1000)
    monkeypatch.setattr(neural_gas, "_LEFT_OUT", 1e-12)
    x = mixture(60, n_axes)[0] + 5.0
    nodes = topology_nodes(x, n, np.random.default_rng(3))
    np.testing.assert_allclose(nodes, one_at_a_time(x, n, np.random.default_rng(3)), atol=2e-4)


def test_a_batch_moves_nodes_as_its_presentations_would_one_after_the_other() -> None:
    x = mixture(40, 3)[0]
    scaled = neural_gas._Scaled.of(x, 10)
    start = scaled.rows[:10, :3].copy()
    pull = np.array([0.3, 0.2, 0.1, 0.05])
    nodes, shown = start.copy(), scaled.rows[20, :3]
    neural_gas._move(nodes, scaled, np.full(6, 20), -np.log1p(-pull))
    expected = start.copy()
    nearest = np.argsort(((start - shown) ** 2).sum(axis=1))
    for _ in range(6):
        expected[nearest[:4]] += pull[:, None] * (shown - expected[nearest[:4]])
    np.testing.assert_allclose(nodes, expected, atol=1e-6)
    assert (nodes[nearest[4:]] == start[nearest[4:]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_nodes", "n"), [(1, 1), (2, 1), (5, 5), (33, 7), (1000, 12)])
def test_ranks_are_those_of_a_sort(dtype: Any, n_nodes: int, n: int) -> None:
    rng = np.random.default_rng(n_nodes)
    steps = 1.0 + np.arange(n_nodes) / 100  # further apart than the bits that are used up
    distance = np.stack([rng.permutation(steps) for _ in range(9)]).astype(dtype)
    expected = np.argsort(distance, axis=1)[:, :n]
    np.testing.assert_array_equal(neural_gas._nearest(distance.copy(), n), expected)
    distance[:, 0] = -1e-9  # what rounding may leave of a zero
    assert (neural_gas._nearest(distance, n)[:, 0] == 0).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_sums_by_node(monkeypatch: pytest.MonkeyPatch, sparse: bool) -> None:
    monkeypatch.setattr(neural_gas, "_SPARSE", 0 if sparse else 10**9)
    rng = np.random.default_rng(0)
    rows, weights = rng.random((30, 4)), rng.random(3)
    ranked = np.stack([rng.permutation(8)[:3] for _ in range(30)])
    expected = np.zeros((8, 4))
    for row, rank in np.ndindex(30, 3):
        expected[ranked[row, rank]] += weights[rank] * rows[row]
    np.testing.assert_allclose(neural_gas._sums_of(rows, ranked, weights, 8), expected, rtol=1e-12)


def test_neural_gas_is_as_good_as_one_at_a_time() -> None:
    x, codes = mixture(600, 10, seed=2)
    cells = atlas(x)
    rng = np.random.default_rng(0)
    ours = [topology_nodes(x, 50, np.random.default_rng(seed)) for seed in range(3)]
    honest = one_at_a_time(x, 50, rng)
    error = quantization_error(x, honest)
    assert np.mean([quantization_error(x, nodes) for nodes in ours]) < 1.015 * error
    chosen = positions(sd.sample(cells, 50, method="trn"))
    honest_cells = quantization_error(x, x[closest_pairs(x, honest)])
    assert quantization_error(x, x[chosen]) < 1.02 * honest_cells
    random = [quantization_error(x, x[rng.choice(600, 50, replace=False)]) for _ in range(20)]
    assert quantization_error(x, x[chosen]) < 0.95 * min(random)
    # Every cluster has about its share.
    share, of_all = (np.bincount(c, minlength=5) / len(c) for c in (codes[chosen], codes))
    assert np.abs(share - of_all).sum() < 0.25
    assert (share > 0).all()


def test_neural_gas_is_as_good_as_dynamos() -> None:
    data = np.load(shared_data("dynamo_pca.npz"))
    x = data["X_pca"].astype(np.float64)
    theirs = quantization_error(x, x[data["cell_idx_trn"]])
    cells = atlas(x)
    ours = [
        quantization_error(x, x[positions(sd.sample(cells, 60, method="trn", seed=seed))])
        for seed in range(5)
    ]
    assert max(ours) < 1.03 * theirs
    assert np.mean(ours) < 1.01 * theirs
    assert theirs < 0.75 * quantization_error(x, x[data["cell_idx_random"]])


@pytest.mark.parametrize("n", [5, 100])
def test_kmeans_is_as_good_as_lloyds(n: int) -> None:
    x, _ = mixture(1500, 6, seed=4)

    def squared(nodes: Array) -> float:
        return float((cdist(x, nodes).min(axis=1) ** 2).mean())

    for seed in range(3):
        ours = squared(kmeans_centers(x, n, np.random.default_rng(seed)))
        # All iterations of Lloyd's algorithm over all cells, from the same first centers.
        scaled = neural_gas._Scaled.of(x, n)
        start = x[neural_gas._spread(scaled, np.arange(1500), n, np.random.default_rng(seed))]
        assert ours < 1.06 * squared(kmeans2(x, start, iter=100, minit="matrix")[0])
        assert ours < 0.9 * squared(start)


def test_far_clusters_are_told_apart() -> None:
    # The width of a cluster is a millionth of the distance between them: single precision would not do.
    rng = np.random.default_rng(0)
    x = rng.random((400, 2))
    x[200:] += 1e6
    apart = [one_at_a_time(part, 20, rng) for part in (x[:200], x[200:])]
    centers = kmeans_centers(x, 40, rng)
    assert quantization_error(x, centers) < 1.05 * quantization_error(x, np.concatenate(apart))
    # Neural gas leaves nodes in the void between, but not more than it does by itself.
    nodes = topology_nodes(x, 40, rng)
    assert quantization_error(x, nodes) < quantization_error(x, one_at_a_time(x, 40, rng))
    assert neural_gas._Scaled.of(x, 40).rows.dtype == np.float64
    assert neural_gas._Scaled.of(x[:200], 40).rows.dtype == np.float32


@pytest.mark.parametrize("method", PLACED)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e290])
def test_units_and_origin_do_not_matter(method: Any, scale: float) -> None:
    x = np.round(mixture(200, 2)[0] * 64) / 64
    plain = positions(sd.sample(atlas(x), 20, method=method))
    with np.errstate(all="raise"):
        assert positions(sd.sample(atlas(x * scale), 20, method=method)) == plain
    moved = positions(sd.sample(atlas(x + 1024.0), 20, method=method))
    assert quantization_error(x, x[moved]) < 1.1 * quantization_error(x, x[plain])


@pytest.mark.parametrize("method", PLACED)
def test_an_outlier_beyond_all_numbers(method: Any) -> None:
    x = mixture(100, 2)[0]
    x[50] = [1e300, -1e300]
    x[51] = 1e-320
    some = sd.sample(atlas(x), 99, method=method)
    assert len(set(positions(some))) == 99
    x[52] = np.finfo(np.float64).max
    with pytest.warns(
        StabdaskWarning, match="1 of 100 cells have coordinates in 'expression' that are not finite"
    ):
        some = sd.sample(atlas(x), 98, method=method)
    assert 52 not in positions(some)


@pytest.mark.parametrize("method", PLACED)
def test_cells_that_are_not_finite_are_never_chosen(method: Any) -> None:
    x = mixture(200, 3)[0]
    x[::3, 1] = np.nan
    x[1, 0], x[4, 2] = np.inf, -np.inf
    cells = atlas(x)
    good = np.flatnonzero(np.isfinite(x).all(axis=1))
    for n in (1, 40, len(good)):
        message = f"{200 - len(good)} of 200 cells have coordinates in 'expression' that are not finite: they are not"
        with pytest.warns(StabdaskWarning, match=message) as caught:
            some = sd.sample(cells, n, method=method)
        assert Path(caught[0].filename).name == Path(__file__).name
        assert set(positions(some)) <= set(good.tolist())
        assert len(positions(some)) == n
    with pytest.raises(UsageError, match=f"n={len(good) + 1}, but {len(good)} of 200 cells have finite"):
        sd.sample(cells, len(good) + 1, method=method)
    with pytest.raises(UsageError, match="n=1, but 0 of 20 cells have finite"):
        sd.sample(atlas(np.full((20, 2), np.nan)), 1, method=method)


@pytest.mark.parametrize("method", PLACED)
def test_few_finite_cells_among_many(monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    monkeypatch.setattr(
        sampling, "_POOL_BYTES", 0
    )  # a pool of n cells: most of those drawn first are not finite
    x = np.full((3000, 2), np.nan)
    x[::100] = mixture(30, 2)[0]
    with pytest.warns(StabdaskWarning, match="2,970 of 3,000"):
        some = sd.sample(atlas(x), 20, method=method)
    assert len(positions(some)) == 20
    assert all(position % 100 == 0 for position in positions(some))


@pytest.mark.parametrize("method", PLACED)
@pytest.mark.parametrize("n", [1, 2, 33, 199])
def test_cells_that_are_all_the_same(method: Any, n: int) -> None:
    some = sd.sample(atlas(np.full((200, 3), 0.1)), n, method=method)
    assert len(set(positions(some))) == n


@pytest.mark.parametrize("method", PLACED)
def test_duplicates(method: Any) -> None:
    points = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    x = points[np.arange(300) % 3]
    some = sd.sample(atlas(x), 3, method=method)
    assert {position % 3 for position in positions(some)} == {0, 1, 2}
    more = sd.sample(atlas(x), 250, method=method)
    assert len(set(positions(more))) == 250


@pytest.mark.parametrize("method", PLACED)
def test_distances_in_an_embedding(method: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.repeat([0.0, 100.0], 50), np.zeros(100), rng.normal(scale=1e4, size=100)])
    cells = atlas(x)  # the embedding is the first two columns
    some = sd.sample(cells, 2, method=method, basis="X_umap")
    assert [position // 50 for position in positions(some)] == [0, 1]
    assert some.attrs["sample"]["basis"] == "X_umap"
    wide = cells.assign(X_wide=(("cell",), np.zeros(100), {"annotation": "embedding"}))
    with pytest.raises(InputError, match=r"'X_wide' of the cells has dimensions \('cell',\)"):
        sd.sample(wide, 2, method=method, basis="X_wide")


@pytest.mark.parametrize("method", PLACED)
def test_a_state_over_axes(method: Any) -> None:
    x = mixture(120, 4)[0]
    cells = xr.Dataset(
        {"coordinates": (("cell", "axis"), da.from_array(x, chunks=(50, 4)))},
        coords={"cell": [f"c{i}" for i in range(120)], "cluster": ("cell", ["all"] * 120)},
    )
    some = sd.sample(cells, 12, method=method)
    assert positions(some) == positions(sd.sample(atlas(x), 12, method=method))
    np.testing.assert_array_equal(some["coordinates"].values, x[positions(some)])


def test_coordinates_that_are_none() -> None:
    cells = atlas(mixture(20, 2)[0])
    text = cells.assign(expression=(("cell", "gene"), np.full((20, 2), "x")))
    with pytest.raises(InputError, match="'expression' of the cells has dtype <U1; expected real numbers"):
        sd.sample(text, 3, method="trn")
    with pytest.raises(InputError, match="has no columns"):
        sd.sample(cells.isel(gene=slice(0)), 3, method="trn")
    whole = cells.assign(expression=(("cell", "gene"), np.arange(40).reshape(20, 2)))
    assert len(positions(sd.sample(whole, 3, method="trn"))) == 3


# ------------------------------------------------------------------------------------ nearest cells


def coordinates(x: Array, chunk: int = 64) -> Coordinates:
    return Coordinates(xr.DataArray(da.from_array(x, chunks=(chunk, -1)), dims=("cell", "axis"), name="x"))


@pytest.mark.parametrize(("n_cells", "n"), [(10, 10), (300, 1), (300, 40), (300, 299), (2500, 700)])
def test_closest_pairs_come_first(n_cells: int, n: int) -> None:
    x, _ = mixture(n_cells, 3)
    nodes = mixture(n, 3, seed=9)[0]
    found = nearest_unused(coordinates(x), np.ones(n_cells, dtype=bool), nodes)
    np.testing.assert_array_equal(found, closest_pairs(x, nodes))


@given(
    seed=st.integers(0, 2**32 - 1),
    n_cells=st.integers(1, 40),
    grid=st.integers(1, 6),
    data=st.data(),
)
def test_no_node_and_cell_would_rather_have_each_other(
    seed: int, n_cells: int, grid: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, grid, (n_cells, 2)).astype(np.float64)  # many ties
    usable = rng.random(n_cells) < 0.8
    usable[rng.integers(n_cells)] = True
    n = data.draw(st.integers(1, int(usable.sum())))
    nodes = rng.integers(0, grid, (n, 2)) + rng.choice([0.0, 0.5], (n, 2))
    found = nearest_unused(coordinates(x, 7), usable, nodes)
    assert len(set(found.tolist())) == n
    assert usable[found].all()
    distance = ((nodes[:, None] - x[None]) ** 2).sum(axis=2)
    own = distance[np.arange(n), found]
    holder = np.full(n_cells, np.inf)
    holder[found] = own
    would = (distance < own[:, None] - 1e-9) & (distance < holder - 1e-9) & usable
    assert not would.any()


def test_the_strips_do_not_depend_on_chunks() -> None:
    x = np.random.default_rng(0).random((2 * STRIP_CELLS + 7, 3)).astype(np.float32)
    for chunk in (100, STRIP_CELLS, 3 * STRIP_CELLS):
        strips = [(start, strip.copy()) for start, strip in coordinates(x, chunk).strips()]
        assert [start for start, _ in strips] == [0, STRIP_CELLS, 2 * STRIP_CELLS]
        np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips]), x)


# ------------------------------------------------------------------------------------ the command line


def command(small: Small, name: str, *more: str) -> list[str]:
    job = [str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state"]
    return [name, *job, "--workers", "0", *more]


@pytest.mark.parametrize("method", METHODS)
def test_run_computes_a_sample(small: Small, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = small.atlas.parent / "out.zarr"
    sampled = ["--sample", "25", "--sample-method", method, "--sample-seed", "4"]
    arguments = command(small, "run", "--store", str(store), "--quiet", *sampled)
    assert main(arguments) == 0
    ds = sd.open_results(store)
    cells = sd.open_cells(small.atlas, layer="M_t", cluster_key="state")
    field = sd.read_field(small.field) if method == "velocity" else None
    expected = sd.sample(cells, 25, method=method, seed=4, field=field)  # type: ignore[arg-type]
    assert ds["atlas_position"].values.tolist() == positions(expected)
    capsys.readouterr()
    # The same line resumes; another sample is another run.
    assert main(arguments) == 0
    assert main([*arguments[:-1], "5"]) == 5
    assert (
        "another run: --sample: 25 there, other 25 here (seed, method or basis). " in capsys.readouterr().err
    )


def test_plan_of_a_sample(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(small, "plan", "--json", "--sample", "25")) == 0
    assert json.loads(capsys.readouterr().out)["n_cells"] == 25


def test_an_embedding_on_the_command_line(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    adata = anndata.read_h5ad(small.atlas)
    adata.obsm["X_umap"] = np.column_stack([np.arange(230.0), np.zeros(230)])
    adata.write_h5ad(small.atlas)
    store = small.atlas.parent / "out.zarr"
    more = ["--embedding", "X_umap", "--sample", "10", "--sample-method", "trn", "--sample-basis", "X_umap"]
    assert main(command(small, "run", "--store", str(store), "--quiet", *more)) == 0
    gaps = np.diff(sd.open_results(store)["atlas_position"].values)
    assert gaps.min() > 10
    assert gaps.max() < 40


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--sample", "231"], 2, "n=231 cells of 230: there are fewer"),
        (["--sample", "0"], 2, "n=0; expected a whole number, at least 1"),
        (["--sample-method", "trn"], 2, "--sample-method says how to choose cells, but not how many"),
        (["--sample-seed", "0"], 2, "--sample-seed says how"),
        (["--sample", "5", "--sample-seed", "-1"], 2, "seed=-1; expected a whole number, at least 0"),
        (["--sample", "5", "--sample-method", "trn", "--sample-basis", "u"], 3, "no embedding 'u'"),
        (["--sample", "5", "--sample-method", "trn", "--sample-basis", "u"], 3, "--embedding u"),
    ],
)
def test_bad_arguments(
    small: Small, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    store = small.atlas.parent / "out.zarr"
    assert main(command(small, "run", "--store", str(store), *arguments)) == code
    assert message in capsys.readouterr().err
    assert not store.exists()
