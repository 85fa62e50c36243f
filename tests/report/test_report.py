"""The page of a run: whole, self-contained, safe with odd names, and honest about what is missing."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from random_atlas import random_atlas

import stabdask as sd
from stabdask.cli.main import build_parser, main
from stabdask.errors import (
    InputError,
    MissingFileError,
    MissingKeyError,
    OutputError,
    StabdaskWarning,
    StoreMismatchError,
)

VOID = {"meta", "img", "br", "link"}
LABELS = ("<script>alert(1)</script>", "../x & y", "_long " + "name " * 12)


class Page(HTMLParser):
    """A page taken apart; raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store with everything: odd labels, failed cells, drivers, elements, an embedding, a number."""
    folder = tmp_path_factory.mktemp("report")
    atlas = random_atlas(4, n_cells=60, clusters=LABELS, broken=(3,), unlabelled=(8,))
    adata = atlas.adata()
    adata.obs["pseudotime"] = np.linspace(0, 1, 60)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    adata.write_h5ad(folder / "cells.h5ad")
    cells = sd.open_cells(
        folder / "cells.h5ad",
        cluster_key="kind",
        obs_keys=["pseudotime"],
        embeddings=["X_umap"],
        block_cells=8,
    )
    sd.run(
        cells, atlas.field, folder / "out.zarr", workers=0, progress=False, partition_cells=16,
        elements=[("gene0", "gene1"), ("gene2", "gene2")], quantities=["default", "reactivity", "drivers"],
    )  # fmt: skip
    return folder / "out.zarr"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store of one cluster with an embedding, beside its atlas: a page of few figures."""
    folder = tmp_path_factory.mktemp("plain")
    atlas = random_atlas(2, n_cells=60, clusters=("A",))
    adata = atlas.adata()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    adata.write_h5ad(folder / "cells.h5ad")
    cells = sd.open_cells(folder / "cells.h5ad", cluster_key="kind", embeddings=["X_umap"])
    asked = {"quantities": ["spectral_abscissa"], "spectrum": "leading"}
    sd.run(cells, atlas.field, folder / "out.zarr", workers=0, progress=False, **asked)
    return folder / "out.zarr"


@pytest.fixture(scope="module")
def written(store: Path) -> Path:
    """Give the page of that store."""
    return sd.write_report(store, store.parent / "r.html", title="My <atlas>")


def test_a_page_of_everything(store: Path, written: Path) -> None:
    page = Page(written.read_text())
    headings = [t for t in page.texts if t in ("Clusters", "Stability", "Embedding", "Drivers", "Methods")]
    assert len(set(headings)) == 5
    assert "My <atlas>" in page.texts
    assert "Responses" not in page.texts
    # Spectra, boxes, two violins, a trend, five embeddings, elements, two figures for each cluster.
    assert len(page.of("img")) == 1 + 1 + 2 + 1 + 5 + 1 + 2 * len(LABELS)
    assert all(image["alt"] for image in page.of("img"))
    ds = sd.open_results(store)
    summary = sd.summarize(ds)
    for label in LABELS:
        assert label in page.texts
        mean = float(summary["spectral_abscissa"].sel(cluster=label, statistic="mean"))
        assert f"{mean:.4g} ±" in page.text
    for needed in (
        ds.attrs["fingerprint"],
        sd.__version__,
        "Neubert",
        "Caswell",
        "without finite input or label",
        "speed",
    ):
        assert needed in page.text
    assert written.stat().st_size < 5e6


def test_nothing_is_fetched_and_nothing_runs(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert not page.of("script")
    assert not page.of("link")
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.of("img"))
    assert all(str(link["href"]).startswith("#") for link in page.of("a"))
    anchors = {str(section["id"]) for section in page.of("section")}
    assert {str(link["href"])[1:] for link in page.of("a")} == anchors
    assert "url(" not in text.partition("</style>")[0]
    assert "default-src 'none'" in text


def test_the_same_page_again(store: Path, written: Path, tmp_path: Path) -> None:
    again = sd.write_report(store, tmp_path / "r.html", title="My <atlas>")
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.parametrize("spectrum", ["none", "leading"])
def test_a_store_that_holds_little(spectrum: str, tmp_path: Path) -> None:
    atlas = random_atlas(2, n_cells=20)
    run: dict[str, Any] = {"workers": 0, "progress": False, "spectrum": spectrum}
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **run)
    page = Page(sd.write_report(tmp_path / "out.zarr", tmp_path / "r.html").read_text())
    assert "The results hold no embedding" in page.text
    assert "Drivers" not in page.texts
    assert ("No eigenvalues were computed" in page.text) == (spectrum == "none")
    assert ("abscissa" in page.texts) == (spectrum != "none")


@pytest.mark.parametrize("held", ["response", "response_mean"])
def test_responses_of_every_cluster(held: str, tmp_path: Path) -> None:
    atlas = random_atlas(4, n_cells=40, clusters=LABELS, broken=(3,))
    genes = atlas.field.genes.tolist()
    run: dict[str, Any] = {"workers": 0, "progress": False, "partition_cells": 16, "spectrum": "none"}
    between: dict[str, Any] = {
        "effectors": genes[:5],
        "regulators": genes[:3],
        "quantities": ["default", held],
    }
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **run, **between)
    page = Page(sd.write_report(tmp_path / "out.zarr", tmp_path / "r.html").read_text())
    assert "Responses" in page.texts
    images = [str(image["alt"]) for image in page.of("img") if str(image["alt"]).startswith("Responses")]
    assert images == [f"Responses of {label}" for label in sorted(LABELS)]
    condition = sd.open_results(tmp_path / "out.zarr")["response_condition"].values
    for label in LABELS:
        own = condition[np.array([name == label for name in atlas.labels]) & atlas.good]
        assert f"{np.median(own):.4g}" in page.texts
    assert not page.of("script")
    assert "sustained small push" in page.text


def test_responses_that_cannot_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = random_atlas(4, n_cells=40, clusters=LABELS)
    genes = atlas.field.genes.tolist()
    run: dict[str, Any] = {"workers": 0, "progress": False, "spectrum": "none", "quantities": ["response"]}
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", effectors=genes, regulators=genes[:3], **run)
    ds = sd.open_results(tmp_path / "out.zarr").compute()
    bad = np.array([name == LABELS[1] for name in atlas.labels])
    ds["response_status"][bad] = 6
    monkeypatch.setattr("stabdask.report.document.open_results", lambda _: ds)
    page = Page(sd.write_report(tmp_path / "out.zarr", tmp_path / "r.html").read_text())
    # A count, and no figure.
    assert f"No cell of {LABELS[1]} has responses that can be trusted." in page.texts
    assert "100.0%" in page.texts
    assert len([image for image in page.of("img") if "Responses of" in str(image["alt"])]) == 2


def test_one_cell_that_failed(tmp_path: Path) -> None:
    atlas = random_atlas(2, n_cells=1, broken=(0,))
    run: dict[str, Any] = {"workers": 0, "progress": False, "quantities": ["default", "drivers"]}
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **run)
    page = Page(sd.write_report(tmp_path / "out.zarr", tmp_path / "r.html").read_text())
    assert "1 without finite input or label" in page.text
    assert "not known" in page.texts
    assert "No cell of this cluster has a leading mode that is not defective." in page.texts
    # How to have cells drawn: the options that are named exist.
    assert "stabdask report --atlas ATLAS --basis X_umap" in page.text
    assert build_parser().parse_args(
        ["report", "out.zarr", "-o", "r.html", "--atlas", "a", "--basis", "X_umap"]
    )


def test_a_run_that_is_not_complete_says_so(tmp_path: Path) -> None:
    atlas = random_atlas(2, n_cells=40)
    run: dict[str, Any] = {"workers": 0, "progress": False, "partition_cells": 10, "partitions": [0, 2]}
    sd.run(atlas.cells(), atlas.field, tmp_path / "out.zarr", **run)
    with pytest.warns(StabdaskWarning, match="not complete"):
        page = Page(sd.write_report(tmp_path / "out.zarr", tmp_path / "r.html").read_text())
    assert "This run is not complete: 2 of 4 partitions are missing" in page.text


def test_an_embedding_from_the_atlas(plain: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(plain.parent / "cells.h5ad")
    adata.obsm["X_tsne"] = adata.obsm["X_umap"][:, ::-1].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    page = Page(
        sd.write_report(plain, tmp_path / "r.html", atlas=tmp_path / "cells.h5ad", basis="X_tsne").read_text()
    )
    assert "Spectral abscissa on X_tsne." in page.texts
    with pytest.raises(MissingKeyError, match=r"no embedding 'X_tsne'; embeddings present: .*--atlas"):
        sd.write_report(plain, tmp_path / "s.html", basis="X_tsne")
    other = anndata.AnnData(np.zeros((60, 2)), obs=pd.DataFrame(index=[f"other{i}" for i in range(60)]))
    other.obsm["X_umap"] = np.zeros((60, 2))
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="are not those of the run"):
        sd.write_report(plain, tmp_path / "s.html", atlas=tmp_path / "other.h5ad")
    assert not (tmp_path / "s.html").exists()


def test_what_is_there_is_not_overwritten(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    target.write_text("mine")
    with pytest.raises(StoreMismatchError, match="exists; remove it"):
        sd.write_report(plain, target)
    assert target.read_text() == "mine"
    sd.write_report(plain, target, overwrite=True)
    assert target.read_text().startswith("<!doctype html>")
    with pytest.raises(OutputError, match="cannot write"):
        sd.write_report(plain, tmp_path / "nowhere" / "r.html")
    with pytest.raises(MissingFileError):
        sd.write_report(tmp_path / "no.zarr", tmp_path / "s.html")


def test_on_the_command_line(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r.html"
    assert main(["report", str(plain), "-o", str(target), "--dry-run"]) == 0
    assert not target.exists()
    capsys.readouterr()
    assert main(["report", str(plain), "-o", str(target), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"report": str(target), "bytes": target.stat().st_size}
    assert main(["report", str(plain), "-o", str(target)]) == 5
    assert "ask to overwrite" in capsys.readouterr().err
    assert main(["report", str(plain), "-o", str(tmp_path / "r.pdf")]) == 2
    assert "ends in .html" in capsys.readouterr().err
