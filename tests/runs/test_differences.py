"""What tells two runs apart, in words: causes alone, as options are called, and no hashes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from random_atlas import RandomAtlas, random_atlas
from small_atlas import Small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import StoreMismatchError
from stabdask.runs.differences import differences, touch_hint
from stabdask.runs.job import RunSpec, prepare

ATLAS = random_atlas(5, clusters=("A", "B", "all"), n_genes=12)
HASH = re.compile(r"[0-9a-f]{16}")
Options = dict[str, Any]


def spec_of(change: Callable[[anndata.AnnData], None] | None = None, **asked: Any) -> RunSpec:
    """Return the run of the cells of `ATLAS`, after a change, with options of `open_cells`, `sample` and `prepare`."""
    adata = ATLAS.adata()
    adata.layers["M_t"] = adata.X + 1.0
    adata.obs["other"] = ["A"] * 24
    adata.obsm["X_umap"] = np.zeros((24, 2))
    if change is not None:
        change(adata)
    opened = {key: asked.pop(key) for key in ("layer", "obs_keys", "embeddings") if key in asked}
    cells = sd.open_cells(adata, cluster_key=asked.pop("cluster_key", "kind"), **opened)
    for sampled in asked.pop("samples", ()):
        cells = sd.sample(cells, **sampled)
    return prepare(cells, asked.pop("field", ATLAS.field), **asked).spec


def gamma(atlas: RandomAtlas) -> sd.HopfieldField:
    field = atlas.field
    clusters = dict(zip(field.clusters, field.parameters, strict=True))
    clusters["A"] = replace(clusters["A"], gamma=clusters["A"].gamma * 2)
    return sd.HopfieldField(field.genes.tolist(), clusters)


def expression(adata: anndata.AnnData) -> None:
    adata.X[3, 2] += 1.0


def relabel(adata: anndata.AnnData) -> None:
    adata.obs["kind"] = ["all" if label == "B" else label for label in adata.obs["kind"]]


def swap(adata: anndata.AnnData) -> None:
    adata.obs["kind"] = adata.obs["kind"].to_numpy()[::-1]


def rename(adata: anndata.AnnData) -> None:
    adata.obs_names = [f"other{i}" for i in range(24)]


def single(adata: anndata.AnnData) -> None:
    adata.X = adata.X.astype(np.float32)


def moved(adata: anndata.AnnData) -> None:
    adata.obsm["X_umap"][0, 0] = 1.0


SAMPLE = {"samples": [{"n": 12, "seed": 1}]}
CASES: list[tuple[Options, Options, list[str]]] = [
    ({}, {"cluster_key": None}, ["--cluster-key: 'kind' there, none here"]),
    ({"cluster_key": "other"}, {}, ["--cluster-key: 'other' there, 'kind' here"]),
    ({}, {"change": expression}, ["the expression of the cells is another (content changed)"]),
    ({}, {"change": relabel}, ["the cells are in other clusters: 'B' there alone"]),
    ({}, {"change": swap}, ["the cells are in other clusters"]),
    ({}, {"change": rename}, ["the cells are others: other names, or another order"]),
    ({}, {"change": single}, ["the expression of the cells has dtype float64 there, float32 here"]),
    ({}, {"layer": "M_t"}, ["--layer: none there, 'M_t' here"]),
    ({}, {"field": gamma(ATLAS)}, ["--field: another field, or one with other parameters"]),
    ({}, SAMPLE, ["--sample: none there, 12 here"]),
    (SAMPLE, {"samples": [{"n": 13, "seed": 1}]}, ["--sample: 12 there, 13 here"]),
    (SAMPLE, {"samples": [{"n": 12, "seed": 2}]}, ["--sample: 12 there, other 12 here (seed, method or basis)"]),
    ({}, {"obs_keys": ["other"]}, ["--obs: 'other' here alone"]),
    ({"embeddings": ["X_umap"]}, {}, ["--embedding: 'X_umap' there alone"]),
    (
        {"embeddings": ["X_umap"]},
        {"embeddings": ["X_umap"], "change": moved},
        ["--embedding: 'X_umap' has other values"],
    ),
    (
        {"field": sd.HopfieldField(ATLAS.field.genes.tolist(), {"A": ATLAS.field.parameters[0]}),
         "missing_cluster": "skip"},
        {"field": sd.HopfieldField(ATLAS.field.genes.tolist(), {"A": ATLAS.field.parameters[0]}),
         "missing_cluster": "W_A"},
        ["--missing-cluster: cells of 'B' are left out there, as 'A' here"],
    ),
    # Vectors bring residuals and more modes along, drivers another number of modes, genes their Jacobian.
    ({}, {"vectors": "right"}, ["--vectors: 'none' there, 'right' here"]),
    ({}, {"quantities": ["default", "drivers"]}, ["--quantities: 'drivers' here alone"]),
    ({"quantities": ["default", "reactivity"]}, {}, ["--quantities: 'reactivity' there alone"]),
    ({}, {"spectrum": "leading"}, ["--spectrum: 'full' there, 'leading' here"]),
    ({}, {"spectrum": "none"}, ["--spectrum: 'full' there, 'none' here"]),
    ({"vectors": "right"}, {"vectors": "right", "modes": 4}, ["--modes: 10 there, 4 here"]),
    ({}, {"dtype": "float32"}, ["--dtype: 'float64' there, 'float32' here"]),
    ({"backend": "lapack"}, {"backend": "lanes:300"}, ["--backend: 'lapack' there, 'lanes:300' here"]),
    ({}, {"tolerance": 0.5}, ["--tolerance: 0.0 there, 0.5 here"]),
    ({}, {"residual_tolerance": 1e-3}, ["--residual-tolerance: 1e-06 there, 0.001 here"]),
    ({}, {"partition_cells": 6}, ["--partition-cells: 128 there, 6 here"]),
    (
        {"elements": [("gene0", "gene1"), ("gene2", "gene2")]},
        {"elements": [("gene2", "gene2"), ("gene2", "gene1")]},
        ["--elements: 'gene0:gene1' there alone, 'gene2:gene1' here alone"],
    ),
    (
        {"elements": [("gene0", "gene1"), ("gene2", "gene2")]},
        {"elements": [("gene2", "gene2"), ("gene0", "gene1")]},
        ["--elements in another order"],
    ),
    (
        {},
        {"effectors": ["gene0"], "regulators": [f"gene{i}" for i in range(6)]},
        [
            "--effectors: 'gene0' here alone",
            "--regulators: 'gene0', 'gene1', 'gene2', 'gene3' and 2 more here alone",
        ],
    ),
    (
        {},
        {"cluster_key": None, "tolerance": 0.5, "change": expression},
        [
            "the expression of the cells is another (content changed)",
            "--cluster-key: 'kind' there, none here",
            "--tolerance: 0.0 there, 0.5 here",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("there", "here", "says"), CASES, ids=[" ".join(case[2])[:60] for case in CASES])
def test_causes_are_named_alone(there: Options, here: Options, says: list[str]) -> None:
    first, second = spec_of(**there), spec_of(**here)
    assert first.fingerprint != second.fingerprint
    assert differences(first, second, command_line=True) == says
    for a, b in ((first, second), (second, first)):
        found = differences(a, b)
        assert len(found) == len(says)
        assert not any("--" in line or HASH.search(line) for line in found)


def test_options_are_called_what_they_are_in_python() -> None:
    found = differences(
        spec_of(obs_keys=["other"]),
        spec_of(cluster_key=None, embeddings=["X_umap"], partition_cells=6, **SAMPLE),
    )
    assert found == [
        "cells of stabdask.sample: none there, 12 here",
        "embeddings: 'X_umap' here alone",
        "obs_keys: 'other' there alone",
        "cluster_key: 'kind' there, none here",
    ]
    assert differences(spec_of(), spec_of(partition_cells=6)) == ["partition_cells: 128 there, 6 here"]
    assert differences(spec_of(), spec_of()) == []


def test_what_no_cause_explains_is_named_as_it_is() -> None:
    """As where another version chooses otherwise."""
    spec = spec_of()
    found = differences(spec, replace(spec, block_cells=3, n_vector_modes=2))
    assert len(found) == 1
    assert "block_cells, n_vector_modes" in found[0]


def test_facts_on_what_is_not_compared_whole() -> None:
    def spec(**facts: Any) -> RunSpec:
        return replace(spec_of(), cells={**spec_of().cells, "sources": [{"path": "s3://b/c.zarr", **facts}]})

    (found,) = differences(spec(objects="0" * 32), spec(objects="1" * 32))
    assert found == "what lies at s3://b/c.zarr was written anew"
    (found,) = differences(spec(bytes=1_000, modified_ns=1), spec(bytes=2_000, modified_ns=2))
    assert found == "s3://b/c.zarr has another size: 1,000 bytes there, 2,000 here"
    assert not touch_hint(spec(bytes=1_000, modified_ns=1), spec(bytes=2_000, modified_ns=2))
    (found,) = differences(spec(bytes=1_000, modified_ns=1), spec(bytes=1_000, modified_ns=2))
    assert found == "s3://b/c.zarr has another time of change"
    assert "touch -d @0.000000001 's3://b/c.zarr'" in touch_hint(
        spec(bytes=1_000, modified_ns=1), spec(bytes=1_000, modified_ns=2)
    )


def test_files_and_objects_are_told_apart(small: Small) -> None:
    field, adata = sd.read_field(small.field), anndata.read_h5ad(small.atlas)

    def spec(*sources: Any) -> RunSpec:
        return prepare(sd.open_cells(list(sources), layer="M_t", cluster_key="state"), field).spec

    one, memory = spec(small.atlas), spec(adata)
    assert differences(one, memory) == ["the cells come from a file there, from an AnnData in memory here"]
    assert differences(memory, spec(adata[:100], adata[100:])) == [
        "number of files of the atlas: 1 there, 2 here"
    ]
    assert differences(spec(adata[:100]), spec(adata)) == ["the cells are others: 100 there, 230 here"]


def test_a_store_of_the_command_line_says_how_to_go_on(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas, field, store = str(small.atlas), str(small.field), str(tmp_path / "out.zarr")
    job = ["run", atlas, "--field", field, "--layer", "M_t", "--store", store, "--workers", "0", "--quiet"]
    assert main([*job, "--cluster-key", "state"]) == 0
    capsys.readouterr()
    for more in ([], ["--dry-run"]):
        assert main([*job, "--cluster-key", "state", "--tolerance", "0.5", *more]) == 5
        assert capsys.readouterr().err == (
            f"stabdask: error: {store} belongs to another run: --tolerance: 0.0 there, 0.5 here. Nothing was changed: "
            f"choose another store, or repeat the run it belongs to: 'stabdask run --store {store}'\n"
        )
    assert main(["run", "--store", store, "--quiet"]) == 0
    cells = sd.open_cells(atlas, layer="M_t", cluster_key="state")
    with pytest.raises(StoreMismatchError, match=r"another run: tolerance: 0\.0 there, 0\.5 here\. Nothing"):
        sd.run(cells, sd.read_field(field), store, workers=0, progress=False, tolerance=0.5)
    made = str(tmp_path / "python.zarr")
    sd.run(cells, sd.read_field(field), made, workers=0, progress=False)
    with pytest.raises(StoreMismatchError, match=r"or repeat the run it belongs to$"):
        sd.run(cells, sd.read_field(field), made, workers=0, progress=False, tolerance=0.5)
