"""What is damaged in a store is found, named, and made again with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from durable import assert_same, bytes_of, command, flip, run_small
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import DamagedStoreError, StoreMismatchError
from stabdask.runs import store as store_module
from stabdask.runs.repair import Repair

N_PARTITIONS = 5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "o.zarr"
    assert run_small(small, store).n_partitions == N_PARTITIONS
    return store


@pytest.fixture
def store(undisturbed: Path, tmp_path: Path) -> Path:
    """Give a copy of the undisturbed store, to be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "o.zarr"))


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


CHUNKS = ["eigenvalue/c/2/0", "status/c/4", "element/c/0/0", "participation_sum/c/3/0/0/0"]


@pytest.mark.parametrize(
    ("chunk", "damage"),
    [
        *((CHUNKS[0], damage) for damage in (half, middle, Path.unlink)),
        *zip(CHUNKS[1:], (half, middle, Path.unlink), strict=True),
    ],
)
def test_damaged_results_are_computed_again(
    small, undisturbed: Path, store: Path, chunk: str, damage: Callable[[Path], object]
) -> None:
    """Also in the last partition, whose chunk is not full."""
    name, number = chunk.split("/")[0], int(chunk.split("/")[2])
    damage(store / chunk)
    found = sd.verify(store, n_cells=0)
    assert found.damaged == [(number, name)]
    assert "--repair" in str(found)
    report = run_small(small, store, repair=True)
    assert report.n_partitions_computed == 1
    assert list(report.repaired_partitions) == [number]
    assert name in report.repaired_partitions[number]
    if damage is Path.unlink:
        assert report.repaired_partitions[number] == f"a chunk of {name} is missing"
    assert f"partition {number}: " in str(report)
    assert report.repaired_metadata == {}
    assert_same(store, undisturbed)


def test_without_repair_damage_stays(small, store: Path) -> None:
    middle(store / CHUNKS[0])
    before = bytes_of(store)
    assert run_small(small, store).n_partitions_computed == 0
    assert bytes_of(store) == before


def test_readers_make_no_numbers_of_a_damaged_chunk(store: Path) -> None:
    """Blosc alone does: of a short chunk it reads on in memory, and a flipped bit it decompresses."""
    for chunk, damage in (("status/c/4", half), ("trace/c/1", middle), ("element/c/0/0", middle)):
        damage(store / chunk)
        with pytest.raises(ValueError, match="checksum"):
            sd.open_results(store)[chunk.split("/")[0]].compute()


RECEIPTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (half, "its receipt cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "its receipt cannot be read"),
    "no object": (lambda path: path.write_bytes(b"[]"), "its receipt cannot be read"),
    "another run": (lambda path: edit(path, lambda d: d.update(fingerprint="0" * 32)), "not one of this run"),
    "another partition": (lambda path: edit(path, lambda d: d.update(partition=3)), "not one of this run"),
    "another range": (lambda path: edit(path, lambda d: d.update(stop=99)), "not one of this run"),
    "a checksum less": (
        lambda path: edit(path, lambda d: d["checksums"].pop("trace")),
        "not one of this run",
    ),
    "another checksum": (
        lambda path: edit(path, lambda d: d["checksums"].update(trace="0" * 32)),
        "trace does not match its checksum",
    ),
}


@pytest.mark.parametrize("what", RECEIPTS)
def test_damaged_receipts_are_made_again(small, undisturbed: Path, store: Path, what: str) -> None:
    damage, why = RECEIPTS[what]
    damage(store / "receipts" / "00000001.json")
    report = run_small(small, store, repair=True)
    assert report.n_partitions_computed == 1
    assert why in report.repaired_partitions[1]
    assert_same(store, undisturbed)


def test_receipts_that_belong_to_no_partition_go(small, undisturbed: Path, store: Path) -> None:
    shutil.copy(store / "receipts" / "00000001.json", store / "receipts" / "00000077.json")
    shutil.copy(store / "receipts" / "00000001.json", store / "receipts" / "1 (copy).json")
    report = run_small(small, store, repair=True)
    assert report.n_partitions_computed == 0
    assert not (store / "receipts" / "00000077.json").exists()
    assert_same(store, undisturbed)


def test_an_unreadable_receipt_says_what_to_do(small, store: Path) -> None:
    half(store / "receipts" / "00000001.json")
    for look in (sd.status, sd.verify, lambda path: run_small(small, path)):
        with pytest.raises(DamagedStoreError, match="--repair"):
            look(store)


# What lies beside results, how it is damaged, and what the report calls it.
METADATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    "description of results, truncated": ("eigenvalue/zarr.json", half),
    "description of results, gone": ("trace/zarr.json", Path.unlink),
    "another fill value": (
        "trace/zarr.json",
        lambda path: edit(path, lambda d: d.update(fill_value=0.0)),
    ),
    "other chunks": (
        "trace/zarr.json",
        lambda path: edit(path, lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[10])),
    ),
    "names of cells, flipped": ("cell/c/0", middle),
    "names of cells, gone": ("cell/c/0", Path.unlink),
    "names of genes": ("gene/c/0", half),
    "description of names": ("regulator/zarr.json", half),
    "labels": ("cluster_code/c/0", half),
    "degradation": ("degradation/c/0/0", middle),
    "pairs": ("pair/c/0", middle),
}


@pytest.mark.parametrize("what", METADATA)
def test_damaged_metadata_is_written_again(small, undisturbed: Path, store: Path, what: str) -> None:
    place, damage = METADATA[what]
    damage(store / place)
    assert place.split("/")[0] in sd.verify(store, n_cells=0).damaged_parameters
    report = run_small(small, store, repair=True)
    assert report.n_partitions_computed == 0
    assert list(report.repaired_metadata) == [place.split("/")[0]]
    assert "written again" in str(report)
    assert_same(store, undisturbed)
    assert sd.verify(store, n_cells=0).ok


@pytest.mark.parametrize("damage", [middle, Path.unlink], ids=["flipped", "removed"])
def test_a_damaged_field_is_refused_and_written_again(
    small, undisturbed: Path, store: Path, damage: Callable[[Path], object]
) -> None:
    damage(store / "field" / "gamma" / "c" / "0" / "0")
    assert sd.verify(store).damaged_parameters == ["field"]
    with pytest.raises(DamagedStoreError, match=r"the field at .* --repair"):
        run_small(small, store)
    report = run_small(small, store, repair=True)
    assert list(report.repaired_metadata) == ["field"]
    assert_same(store, undisturbed)
    shutil.rmtree(store / "field")
    with pytest.raises(DamagedStoreError, match=r"no saved field .* --repair"):
        run_small(small, store)
    run_small(small, store, repair=True)
    assert_same(store, undisturbed)


def test_a_damaged_description_of_results_stops_the_run_by_name(small, tmp_path: Path) -> None:
    store = tmp_path / "o.zarr"
    run_small(small, store, partitions=[0])
    for damage in (half, Path.unlink):
        damage(store / "trace" / "zarr.json")
        store_module._open_arrays.cache_clear()  # as another process would find it
        with pytest.raises(DamagedStoreError, match=r"results in .* --repair"):
            run_small(small, store, partitions=[1])
    assert list(run_small(small, store, repair=True).repaired_metadata) == ["trace"]
    assert sd.verify(store, n_cells=3).ok


@pytest.mark.parametrize(("backend", "damage"), [("auto", half), ("lapack", Path.unlink)])
def test_damaged_attributes_are_written_again_where_receipts_vouch_for_them(
    small, tmp_path: Path, damage: Callable[[Path], object], backend: str
) -> None:
    calm, store = tmp_path / "calm.zarr", tmp_path / "o.zarr"
    run_small(small, calm, backend=backend)
    shutil.copytree(calm, store)
    damage(store / "zarr.json")
    for look in (sd.status, sd.verify, lambda path: run_small(small, path)):
        with pytest.raises(DamagedStoreError, match="--repair"):
            look(store)
    # The backend is that of the receipts, whatever this machine would choose.
    report = run_small(small, store, repair=True)
    assert report.n_partitions_computed == 0
    assert "zarr.json" in report.repaired_metadata
    assert_same(store, calm)


def test_edited_attributes_are_written_again(small, undisturbed: Path, store: Path) -> None:
    edit(store / "zarr.json", lambda d: d["attributes"]["run"]["options"].update(tolerance=1.0))
    run_small(small, store, repair=True)
    assert_same(store, undisturbed)


def test_damaged_attributes_of_another_run_are_left_alone(small, store: Path) -> None:
    half(store / "zarr.json")
    before = bytes_of(store)
    with pytest.raises(DamagedStoreError, match=r"belong to another run\. Nothing was changed"):
        run_small(small, store, repair=True, dtype="float32")
    for receipt in (store / "receipts").glob("0*.json"):
        half(receipt)
    with pytest.raises(DamagedStoreError, match=r"or there are none\. Nothing was changed"):
        run_small(small, store, repair=True)
    assert bytes_of(store) == before


def test_another_run_is_not_repaired_away(small, store: Path, tmp_path: Path) -> None:
    before = bytes_of(store)
    with pytest.raises(StoreMismatchError, match="belongs to another run"):
        run_small(small, store, repair=True, dtype="float32")
    assert bytes_of(store) == before
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreMismatchError, match="is not a stabdask store"):
        run_small(small, tmp_path / "folder", repair=True)


def test_the_folder_of_receipts_is_made_again(small, undisturbed: Path, store: Path) -> None:
    (store / "receipts" / "zarr.json").write_text("{")
    run_small(small, store, repair=True)
    assert (store / "receipts" / "zarr.json").read_bytes() == (
        undisturbed / "receipts" / "zarr.json"
    ).read_bytes()
    shutil.rmtree(store / "receipts")
    with pytest.raises(DamagedStoreError, match=r"no folder receipts; .* --repair"):
        run_small(small, store)
    assert run_small(small, store, repair=True).n_partitions_computed == N_PARTITIONS
    assert_same(store, undisturbed)


def test_damaged_annotations_are_written_again(small, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(small.atlas)
    atlas = tmp_path / "annotated.h5ad"
    adata.obs["batch"] = ["x", "y"] * (adata.n_obs // 2)
    adata.obs["age"] = np.arange(adata.n_obs) / 7
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype("float32")
    adata.write_h5ad(atlas)
    cells = sd.open_cells(
        atlas, layer="M_t", cluster_key="state", obs_keys=["batch", "age"], embeddings=["X_umap"]
    )
    calm, store = tmp_path / "calm.zarr", tmp_path / "o.zarr"
    how = {"workers": 0, "progress": False, "quantities": ["trace"], "spectrum": "none"}
    sd.run(cells, sd.read_field(small.field), calm, **how)
    shutil.copytree(calm, store)
    for number in (0, 2):
        middle(next(path for path in (store / f"annotation_{number}" / "c").rglob("*") if path.is_file()))
    half(store / "annotation_1" / "zarr.json")
    assert len(sd.verify(store, n_cells=0).damaged_annotations) == 3
    report = sd.run(cells, sd.read_field(small.field), store, repair=True, **how)
    assert list(report.repaired_metadata) == [f"annotation_{number}" for number in range(3)]
    assert_same(store, calm)


def test_many_damages_at_once(small, undisturbed: Path, store: Path) -> None:
    rng = np.random.default_rng(5)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != "lock")
    # Attributes are made again only where receipts are intact, which here they may not be.
    files = [path for path in files if path != store / "zarr.json"]
    for path in rng.choice(np.asarray(files, dtype=object), 25, replace=False):
        (half, middle, Path.unlink)[rng.integers(3)](path)
    report = run_small(small, store, repair=True)
    assert report.repaired_partitions
    assert_same(store, undisturbed)
    assert str(Repair()) == "repaired     nothing: no damage found"


def test_command_line(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "o.zarr"
    line = command(small, store, "--workers", "0", "--partition-cells", "25")[3:]
    assert main(line) == 0
    middle(store / "trace" / "c" / "7")
    assert main(["verify", str(store), "--cells", "0"]) == DamagedStoreError.exit_code
    capsys.readouterr()
    assert main([*line, "--repair", "--json"]) == 0
    said = capsys.readouterr()
    assert "damaged      partition 7: trace" in said.err
    document = json.loads(said.out)
    assert document["n_partitions_computed"] == 1
    assert list(document["repaired_partitions"]) == ["7"]
    assert main([*line, "--repair"]) == 0
    assert "repaired     nothing: no damage found" in capsys.readouterr().err
    assert main([*line, "--repair", "--dry-run"]) == 2
    assert "stabdask verify" in capsys.readouterr().err
