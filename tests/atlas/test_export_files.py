"""Results into AnnData files: the same as `to_anndata`, nothing else touched, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from random_atlas import RandomAtlas, random_atlas
from scipy import sparse

import stabdask as sd
from stabdask.atlas import export_files
from stabdask.atlas.export_files import AtlasExport, export_atlas
from stabdask.errors import (
    InputError,
    MissingFileError,
    MissingKeyError,
    OutputError,
    StoreMismatchError,
    UsageError,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*autosharding",
    "ignore:.*Consolidated metadata",
    "ignore:Writing zarr v2",
    "ignore:Observation names are not unique",
    "ignore:.*use of fork",
)

PAIRS = [("gene1", "gene0"), ("gene4", "gene4")]
FORMS = ["h5ad", "zarr2", "zarr3", "unconsolidated"]


@pytest.fixture(scope="module")
def atlas() -> RandomAtlas:
    return random_atlas(5, n_cells=20)


@pytest.fixture(scope="module")
def ds(atlas: RandomAtlas) -> xr.Dataset:
    return sd.stability(atlas.cells(), atlas.field, elements=PAIRS).compute()


def rich(atlas: RandomAtlas) -> anndata.AnnData:
    """Return the atlas with other cells in another order, and something of everything an AnnData may hold."""
    rng = np.random.default_rng(0)
    names = [*rng.permutation([f"cell{i}" for i in range(3, 20)]), "new0", "new1"]
    n = len(names)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(np.resize(["b", None, "../x"], n)),
            "whole": pd.array(np.resize([1, None], n), dtype="Int64"),
            "text": np.resize(["", "ü"], n).astype(object),
        },
        index=names,
    )
    adata = anndata.AnnData(sparse.random(n, 6, 0.5, "csr", random_state=0), obs=obs)
    adata.layers["M_t"] = rng.random((n, 6))
    adata.obsm["X_umap"] = rng.random((n, 2))
    adata.obsp["graph"] = sparse.eye(n, format="csr")
    adata.uns["own"] = {"a": np.arange(3), "b": "text"}
    return adata


def write(adata: anndata.AnnData, form: str, folder: Path) -> Path:
    path = folder / ("cells.h5ad" if form == "h5ad" else "cells.zarr")
    if form == "h5ad":
        adata.write_h5ad(path)
        return path
    with anndata.settings.override(zarr_write_format=2 if form == "zarr2" else 3):
        adata.write_zarr(path)
    if form == "unconsolidated":
        document = path / "zarr.json"
        values = json.loads(document.read_text())
        del values["consolidated_metadata"]
        document.write_text(json.dumps(values))
    return path


def read(path: Path) -> anndata.AnnData:
    return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)


def same(one: anndata.AnnData, two: anndata.AnnData) -> None:
    for frame, other in ((one.obs, two.obs), (one.var, two.var)):
        pd.testing.assert_frame_equal(frame, other)
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        arrays, others = dict(getattr(one, name)), dict(getattr(two, name))
        assert arrays.keys() == others.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(dense(array), dense(others[key]), strict=True)
    assert (one.X is None) == (two.X is None)
    if one.X is not None:
        np.testing.assert_array_equal(dense(one.X), dense(two.X), strict=True)
    same_uns(one.uns, two.uns)


def dense(array: Any) -> Any:
    return array.toarray() if hasattr(array, "toarray") else np.asarray(array)


def same_uns(one: Any, two: Any) -> None:
    if not isinstance(one, Mapping):
        np.testing.assert_array_equal(one, two)
        return
    assert one.keys() == two.keys()
    for key in one:
        same_uns(one[key], two[key])


def files_of(path: Path) -> dict[str, str]:
    found = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return {str(item.relative_to(path)): hashlib.sha256(item.read_bytes()).hexdigest() for item in found}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_gets_what_an_object_gets(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str, in_place: bool
) -> None:
    path = write(rich(atlas), form, tmp_path)
    expected = sd.to_anndata(ds, read(path), eigenvalues=True)
    before = files_of(path)
    output = None if in_place else tmp_path / f"out{path.suffix}"
    report = export_atlas(ds, path, output, eigenvalues=True)
    assert report == AtlasExport(
        output=str(output or path),
        added=[key for keys in json.loads(expected.uns["stability_run"]["keys"]).values() for key in keys],
        removed=[],
        n_cells=19,
        n_matched=17,
    )
    same(read(output or path), expected)
    if not in_place:
        assert files_of(path) == before
        # The same export gives the same AnnData again; nothing temporary is left.
        assert {item.name for item in tmp_path.iterdir()} == {path.name, output.name}
    if form != "h5ad":
        # What was there is untouched, but for the lists of what there is.
        after = files_of(output or path)
        changed = {name for name, digest in before.items() if after.get(name) != digest}
        assert changed <= {"zarr.json", ".zmetadata", "obs/zarr.json", "obs/.zattrs"}
        assert not [name for name in after if "pending" in name]


@pytest.mark.parametrize("form", ["h5ad", "zarr2", "unconsolidated"])
def test_a_second_export_replaces_the_first(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str
) -> None:
    adata = rich(atlas)
    adata.obs["stability_mine"] = 1.0  # has the prefix, but is not ours
    path = write(adata, form, tmp_path)
    export_atlas(ds, path, quantities=["speed", "spectral_abscissa"], eigenvalues=True)
    later = ds.assign(speed=ds["speed"] + 1)
    report = export_atlas(later, path, quantities=["speed", "trace"], elements=PAIRS[:1])
    assert report.added == [
        "stability_trace",
        "stability_speed",
        "stability_status",
        "stability_element_gene1:gene0",
    ]
    assert "stability_eigenvalue" in report.removed
    assert "stability_spectral_abscissa" in report.removed
    back = read(path)
    assert sorted(name for name in back.obs if "stability_" in name) == sorted(
        ["stability_mine", *report.added]
    )
    expected = sd.to_anndata(later, adata, quantities=["speed", "trace"], elements=PAIRS[:1])
    back.obs = back.obs[expected.obs.columns]  # columns that were replaced keep their places
    same(back, expected)
    # An export under another prefix is another one.
    export_atlas(ds, path, prefix="b_", quantities=["speed"])
    assert {"b_speed", "stability_speed"} <= set(read(path).obs)


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_what_no_export_wrote_is_not_replaced(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str
) -> None:
    adata = rich(atlas)
    adata.obs["stability_speed"] = 7.0
    path = write(adata, form, tmp_path)
    before = files_of(path)
    with pytest.raises(
        StoreMismatchError, match="has 'stability_speed' in obs already, which no export noted"
    ):
        export_atlas(ds, path)
    assert files_of(path) == before
    export_atlas(ds, path, quantities=["trace"])
    assert read(path).obs["stability_speed"].tolist() == [7.0] * 19
    export_atlas(ds, path, overwrite=True)
    assert list(read(path).obs)[3] == "stability_speed"  # keeps its place
    back, expected = read(path), sd.to_anndata(ds, adata)
    back.obs = back.obs[expected.obs.columns]
    same(back, expected)


def test_what_an_object_got_is_replaced_too(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path) -> None:
    path = write(sd.to_anndata(ds, rich(atlas)), "h5ad", tmp_path)
    report = export_atlas(ds, path, quantities=["speed"], elements=[])
    assert "stability_trace" in report.removed
    assert [name for name in read(path).obs if "stab" in name] == ["stability_speed", "stability_status"]


@pytest.mark.parametrize("in_place", [False, True])
def test_expression_is_not_read(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, in_place: bool) -> None:
    path = write(rich(atlas), "h5ad", tmp_path)
    with h5py.File(path, "r+") as file:  # whoever reads the layer fails now
        del file["layers/M_t"]
        broken = file.create_dataset("layers/M_t", (19, 6), "f4", chunks=(19, 6), compression="gzip")
        broken.id.write_direct_chunk((0, 0), b"no gzip")
    output = None if in_place else tmp_path / "out.h5ad"
    export_atlas(ds, path, output)
    with h5py.File(output or path) as file:
        assert file["obs/stability_speed"].shape == (19,)
        with pytest.raises(OSError, match="read"):
            file["layers/M_t"][...]


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_other_cells_are_refused(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str) -> None:
    adata = rich(atlas)
    adata.obs_names = [f"other{i}" for i in range(19)]
    path = write(adata, form, tmp_path)
    before = files_of(path)
    with pytest.raises(MissingKeyError, match="none of the AnnData's cells has a result"):
        export_atlas(ds, path)
    adata.obs_names = ["cell3"] * 19
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path = write(adata, form, tmp_path)
    before = files_of(path)
    with pytest.raises(InputError, match="cell names repeat"):
        export_atlas(ds, path)
    assert files_of(path) == before


@pytest.mark.filterwarnings("ignore")
def test_repeated_names_of_the_same_cells_and_one_cell(tmp_path: Path) -> None:
    for n in (6, 1):
        atlas = random_atlas(5, n_cells=n)
        adata = atlas.adata()
        adata.obs_names = ["same", "same", "a", "b", "c", "d"][:n]
        results = sd.stability(sd.open_cells(adata, cluster_key="kind"), atlas.field)
        path = tmp_path / f"{n}.h5ad"
        adata.write_h5ad(path)
        export_atlas(results, path)
        np.testing.assert_array_equal(read(path).obs["stability_speed"], results["speed"].values)


def test_a_file_without_uns_and_obsm(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path) -> None:
    path = write(rich(atlas), "h5ad", tmp_path)
    with h5py.File(path, "r+") as file:
        del file["uns"], file["obsm"]
        file["obs"].attrs["column-order"] = np.array([], dtype=float)
    export_atlas(ds, path, eigenvalues=True)
    back = read(path)
    assert list(back.obsm) == ["stability_eigenvalue"]
    assert list(back.uns) == ["stability_run"]
    export_atlas(ds, path, eigenvalues=True)
    same(read(path), back)


def test_a_key_of_obsm_is_no_column_of_obs(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path) -> None:
    adata = rich(atlas)
    adata.obs["stability_eigenvalue"] = "mine"
    path = write(adata, "h5ad", tmp_path)
    export_atlas(ds, path, eigenvalues=True)
    report = export_atlas(ds, path)
    assert report.removed == ["stability_eigenvalue"]
    back = read(path)
    assert set(back.obs["stability_eigenvalue"]) == {"mine"}
    assert "stability_eigenvalue" not in back.obsm


@pytest.mark.parametrize("keys", ["no JSON", "[]", '{"obs": 3, "obsm": []}'])
def test_a_note_that_no_export_wrote(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, keys: str) -> None:
    adata = rich(atlas)
    adata.uns["stability_run"] = {"fingerprint": "x", "keys": keys}
    path = write(adata, "h5ad", tmp_path)
    before = files_of(path)
    with pytest.raises(InputError, match="is not what an export writes"):
        export_atlas(ds, path)
    assert files_of(path) == before


def test_the_run_is_noted(atlas: RandomAtlas, tmp_path: Path) -> None:
    path = write(atlas.adata(), "h5ad", tmp_path)
    store = tmp_path / "out.zarr"
    run = sd.run(atlas.cells(), atlas.field, store, workers=0, progress=False)
    results = sd.open_results(store)
    export_atlas(results, path)
    record = read(path).uns["stability_run"]
    assert record["store"] == str(store)
    assert record["fingerprint"] == run.fingerprint
    assert json.loads(record["options"])["backend"] == run.backend
    assert json.loads(record["versions"]) == results.attrs["versions"]


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_a_dry_run_writes_nothing_and_refuses_the_same(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str
) -> None:
    path = write(rich(atlas), form, tmp_path)
    before = files_of(tmp_path)
    planned = export_atlas(ds, path, tmp_path / f"out{path.suffix}", dry_run=True, eigenvalues=True)
    assert files_of(tmp_path) == before
    assert export_atlas(ds, path, tmp_path / f"out{path.suffix}", eigenvalues=True) == planned
    with pytest.raises(StoreMismatchError, match="exists"):
        export_atlas(ds, path, tmp_path / f"out{path.suffix}", dry_run=True)


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_an_output_that_exists(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str) -> None:
    path = write(rich(atlas), form, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    export_atlas(ds, path, output, quantities=["trace"], elements=[])
    before = files_of(output)
    with pytest.raises(
        StoreMismatchError, match=r"exists; remove it, choose another path, or ask to overwrite"
    ):
        export_atlas(ds, path, output)
    assert files_of(output) == before
    export_atlas(ds, path, output, quantities=["speed"], overwrite=True)
    assert [name for name in read(output).obs if "stab" in name][:2] == [
        "stability_speed",
        "stability_status",
    ]
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_outputs_that_are_refused(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path) -> None:
    h5ad, zarr = (write(rich(atlas), form, tmp_path) for form in ("h5ad", "zarr3"))
    store = tmp_path / "out.zarr"
    sd.run(atlas.cells(), atlas.field, store, workers=0, progress=False)
    (tmp_path / "text.h5ad").write_text("precious")
    before = files_of(tmp_path)
    for source, target, error, message in (
        (h5ad, tmp_path / "new.zarr", UsageError, "does not end in .h5ad"),
        (zarr, tmp_path / "new.h5ad", UsageError, "does not end in .zarr"),
        (h5ad, h5ad, UsageError, "is the atlas itself"),
        (zarr, zarr, UsageError, "is the atlas itself"),
        (zarr, zarr / "new.zarr", UsageError, "lies inside the atlas"),
        (zarr, store, StoreMismatchError, "is no AnnData, so it is not overwritten"),
        (h5ad, tmp_path / "text.h5ad", StoreMismatchError, "is no AnnData, so it is not overwritten"),
        (store, tmp_path / "new.zarr", InputError, "has no table 'obs'"),
        (
            tmp_path / "text.h5ad",
            tmp_path / "new.h5ad",
            InputError,
            "neither an h5ad file nor a zarr AnnData",
        ),
        (tmp_path / "nowhere.h5ad", tmp_path / "new.h5ad", MissingFileError, "no atlas at"),
    ):
        with pytest.raises(error, match=message):
            export_atlas(ds, source, target, overwrite=True)
    with pytest.raises(UsageError, match="the prefix 'a/b' holds a slash"):
        export_atlas(ds, h5ad, tmp_path / "new.h5ad", prefix="a/b")
    with pytest.raises(OutputError, match="cannot write"):
        export_atlas(ds, h5ad, tmp_path / "text.h5ad" / "new.h5ad")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_a_read_only_atlas_is_left_alone(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str
) -> None:
    path = write(rich(atlas), form, tmp_path)
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    before = files_of(path)
    with pytest.raises(OutputError, match="is read-only; write a copy instead"):
        export_atlas(ds, path)
    assert files_of(path) == before
    export_atlas(ds, path, tmp_path / f"out{path.suffix}")
    path.chmod(mode)


def test_a_file_that_another_program_uses(atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path) -> None:
    path = write(rich(atlas), "h5ad", tmp_path)
    before = files_of(path)
    with h5py.File(path, "r"), pytest.raises(OutputError, match="is another program using it"):
        export_atlas(ds, path)
    assert files_of(path) == before


def test_more_columns_than_hdf5_can_list(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5ad, zarr = (write(rich(atlas), form, tmp_path) for form in ("h5ad", "zarr3"))
    monkeypatch.setattr(export_files, "_MOST_COLUMNS_HDF5", 10)
    with pytest.raises(InputError, match="HDF5 can list about 10"):
        export_atlas(ds, h5ad)
    export_atlas(ds, zarr)
    assert export_atlas(ds, h5ad, quantities=["speed"]).n_matched == 17


def test_as_many_columns_as_allowed_can_be_listed(tmp_path: Path) -> None:
    """The limit is one that HDF5 keeps."""
    names = [f"stability_element_{i:05d}:{'x' * 30}" for i in range(export_files._MOST_COLUMNS_HDF5)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        export_files._SettleFile(tmp_path / "a.h5").list_columns(file, names)
        assert list(file.attrs["column-order"]) == names


# ------------------------------------------------------------------------------------ cut short


class Killed(BaseException):
    """Stands for the end of a process where files stay as they are."""


def events(monkeypatch: Any, at: int, stop: Callable[[], Any]) -> list[str]:
    """Count every step of writing, and stop before number `at`."""
    seen: list[str] = []

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            if len(seen) == at:
                stop()
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, step)

    for settle in (export_files._SettleFile, export_files._SettleFolder):
        for name in ("__call__", "list_columns", "move"):
            counted(settle, name)
    counted(export_files, "_write_into")
    return seen


def killed(at: int, export: Callable[[], Any]) -> bool:
    """Run `export` in a process that is killed before its step number `at`; return whether it got that far."""
    child = os.fork()
    if not child:
        with pytest.MonkeyPatch.context() as patch:
            events(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            try:
                export()
                os._exit(0)
            except BaseException:
                os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("form", ["h5ad", "zarr3"])
def test_a_killed_copy_leaves_the_target_as_it_was(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str
) -> None:
    path = write(rich(atlas), form, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    before = files_of(path)
    at = 0
    while killed(at, lambda: export_atlas(ds, path, output, quantities=["trace"], elements=[])):
        assert not output.exists()
        at += 1
    assert at > 5
    undisturbed = read(output)
    there = files_of(output)
    for step in (0, 2, 5):
        assert killed(step, lambda: export_atlas(ds, path, output, quantities=["speed"], overwrite=True))
        assert files_of(output) == there
    assert files_of(path) == before
    same(undisturbed, sd.to_anndata(ds, read(path), quantities=["trace"], elements=[]))


@pytest.mark.parametrize(("form", "again"), [("h5ad", False), ("h5ad", True), ("zarr3", True)])
def test_a_killed_export_in_place_leaves_an_anndata(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, form: str, again: bool
) -> None:
    """Killed before any step, the file has its own data and old results or none, and is finished later."""
    original = write(rich(atlas), form, tmp_path)
    own = read(original)
    later = ds.assign(speed=ds["speed"] + 1)
    chosen: dict[str, Any] = {"quantities": ["speed"], "elements": []}
    if again:
        export_atlas(ds, original, quantities=["speed", "trace"], elements=[])
    old = read(original)
    finished = sd.to_anndata(later, own.copy(), **chosen)
    path = tmp_path / "work" / original.name
    at = 0
    while True:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        shutil.copytree(original, path) if original.is_dir() else shutil.copyfile(original, path)
        cut = killed(at, lambda: export_atlas(later, path, **chosen))
        back = read(path)
        for name in own.obs:
            pd.testing.assert_series_equal(back.obs[name], own.obs[name])
        np.testing.assert_array_equal(back.layers["M_t"], own.layers["M_t"])
        for name in (name for name in back.obs if name.startswith("stability_")):
            if cut:
                pd.testing.assert_series_equal(back.obs[name], old.obs[name])
        if not cut:
            same(back, finished)
            break
        export_atlas(later, path, **chosen)
        same(read(path), finished)
        at += 1 if form == "h5ad" else 2  # folders take their time
    assert at > 5


def test_an_interrupted_export_cleans_up(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise Killed

    h5ad, zarr = (write(rich(atlas), form, tmp_path) for form in ("h5ad", "zarr3"))
    before = files_of(tmp_path)
    for path in (h5ad, zarr):
        with monkeypatch.context() as patch:
            events(patch, 3, stop)
            with pytest.raises(Killed):
                export_atlas(ds, path, tmp_path / f"out{path.suffix}")
    assert files_of(tmp_path) == before


def test_a_full_disk_is_said(
    atlas: RandomAtlas, ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(rich(atlas), "h5ad", tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_files.shutil, "copyfile", full)
    with pytest.raises(OutputError, match=r"cannot write .*out.h5ad: No space left on device"):
        export_atlas(ds, path, tmp_path / "out.h5ad")
    assert {item.name for item in tmp_path.iterdir()} == {"cells.h5ad"}
