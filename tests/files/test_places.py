"""Places on a disk and in a bucket behave alike; the bucket is one in memory here."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr
from s3_server import files_of, objects_of, upload

import stabdask as sd
from stabdask.errors import (
    BackendUnavailableError,
    InputError,
    MissingFileError,
    MissingKeyError,
    OutputError,
    StoreLockedError,
    StoreMismatchError,
    UnreachableInputError,
    UnreachableOutputError,
    UsageError,
)
from stabdask.files import bucket_client, existing_place, leases, new_directory, open_group, place_of
from stabdask.files.buckets import MAKING, BucketPlace

obstore = pytest.importorskip("obstore")
STORE = "s3://bucket/runs/out.zarr"
OPTIONS = {"partition_cells": 50, "workers": 0, "progress": False, "elements": [("g00", "g01")]}


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch):
    """Put buckets in memory."""
    from obstore.store import MemoryStore

    buckets: dict[str, MemoryStore] = {}
    monkeypatch.setattr(
        bucket_client, "_client", lambda bucket, *_: buckets.setdefault(bucket, MemoryStore())
    )
    return buckets


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://AKID:TOPSECRET@bucket/out.zarr", "credentials and signatures are not taken from addresses"),
        ("s3://bucket/out.zarr?X-Amz-Signature=TOPSECRET", "credentials and signatures"),
        ("s3://bucket", "is a whole bucket"),
        ("s3://bucket/", "is a whole bucket"),
        ("s3://Bucket_1/out.zarr", "is no name of a bucket"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/a/../b", "empty part"),
        ("gs://bucket/TOPSECRET", "begin with gs:// are not supported"),
        ("https://user:TOPSECRET@host/out.zarr", "begin with https:// are not supported"),
    ],
)
def test_addresses_that_are_refused(address: str, says: str) -> None:
    for opening in (place_of, sd.open_results, sd.status, sd.read_field, sd.open_cells):
        with pytest.raises(UsageError, match=says) as caught:
            opening(address)
        assert "TOPSECRET" not in str(caught.value)


def test_a_path_object_drops_a_slash_and_means_the_same() -> None:
    assert str(place_of(Path("s3://bucket/a/b"))) == "s3://bucket/a/b"
    assert place_of("folder/s3:/x").local == Path("folder/s3:/x")
    assert str(place_of("s3://bucket/a/") / "b") == "s3://bucket/a/b"


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_what_a_place_does(where: str, tmp_path: Path) -> None:
    root = place_of(tmp_path / "thing" if where == "disk" else "s3://bucket/thing")
    assert not root.exists()
    assert not root.is_folder()
    assert root.names() == []
    with pytest.raises(MissingFileError, match="no store at"):
        existing_place(root, "store")
    with pytest.raises(FileNotFoundError):
        (root / "a.json").read()
    if where == "disk":
        (tmp_path / "thing").mkdir()
    for name in ("b.json", "a.json"):
        (root / name).write(name.encode())
    (root / "a.json").write(b"again")
    assert root.exists()
    assert root.is_folder()
    assert not (root / "a.json").is_folder()
    assert (root / "a.json").exists()
    assert root.names() == ["a.json", "b.json"]
    assert list(root.read_many(["b.json", "a.json"])) == [b"b.json", b"again"]
    assert not (root / "a").exists()
    root.check_writable()
    group = zarr.open_group(*root.group_address()[:1], path=root.group_address()[1], mode="a")
    group.create_array("x", shape=(3,), dtype="f8")[...] = [1.0, 2.0, 3.0]
    assert open_group(root)["x"][1] == 2.0
    with pytest.raises(MissingFileError, match="is not a Zarr group"):
        open_group(root / "y")


def test_a_misspelt_name_is_told() -> None:
    place_of("s3://bucket/runs/out.zarr/zarr.json").write(b"{}")
    with pytest.raises(
        MissingFileError, match=r"no store at s3://bucket/runs/oot.zarr; did you mean 'out.zarr'\?"
    ):
        sd.status("s3://bucket/runs/oot.zarr")


def zarr_atlas(small, folder: Path, sparse: bool = False) -> Path:
    from scipy import sparse as sp

    adata = anndata.read_h5ad(small.atlas)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    if sparse:
        adata.layers["M_t"] = sp.csr_matrix(adata.layers["M_t"])
    adata.write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_a_run_in_a_bucket_has_the_bytes_of_one_on_disk(small, tmp_path: Path, sparse: bool) -> None:
    atlas = zarr_atlas(small, tmp_path, sparse)
    upload(atlas, "s3://bucket/cells.zarr")
    sd.read_field(small.field).save("s3://bucket/field.zarr")
    assert objects_of("s3://bucket/field.zarr") == files_of(small.field)
    how = {"layer": "M_t", "cluster_key": "state", "embeddings": ["X_umap"]}
    disk, bucket = sd.open_cells(atlas, **how), sd.open_cells("s3://bucket/cells.zarr", **how)
    np.testing.assert_array_equal(disk["expression"].to_numpy(), bucket["expression"].to_numpy())
    field = sd.read_field("s3://bucket/field.zarr")
    assert field.fingerprint == sd.read_field(small.field).fingerprint
    sd.run(disk, field, tmp_path / "out.zarr", **OPTIONS)
    assert not sd.run(bucket, field, STORE, partitions=[3, 1], **OPTIONS).complete
    with pytest.warns(sd.errors.StabdaskWarning, match="3 of 5 partitions are missing"):
        sd.open_results(STORE)
    assert sd.status(STORE).n_partitions_done == 2
    assert sd.run(bucket, field, STORE, **OPTIONS).n_partitions_computed == 3
    again = sd.run(bucket, field, STORE, **OPTIONS)
    assert again.complete
    assert again.n_partitions_computed == 0
    assert not sd.status(STORE).running
    here, there = files_of(tmp_path / "out.zarr"), objects_of(STORE)
    assert here.keys() == there.keys()
    # The attributes hold where the cells came from.
    assert [name for name in here if here[name] != there[name]] == ["zarr.json"]
    assert sd.verify(STORE, n_cells=2).ok
    results = sd.open_results(STORE)
    assert results.drop_attrs().identical(sd.open_results(tmp_path / "out.zarr").drop_attrs())
    one, two = sd.summarize(results), sd.summarize(sd.open_results(tmp_path / "out.zarr"))
    assert one.drop_attrs().identical(two.drop_attrs())
    done = sd.to_anndata(results, anndata.read_h5ad(small.atlas))
    assert done.uns["stability_run"]["store"] == STORE


def finished(small, tmp_path: Path) -> None:
    upload(zarr_atlas(small, tmp_path), "s3://bucket/cells.zarr")
    cells = sd.open_cells("s3://bucket/cells.zarr", layer="M_t", cluster_key="state")
    sd.run(cells, sd.read_field(small.field), STORE, **OPTIONS)


def test_verify_finds_a_flipped_byte(small, tmp_path: Path) -> None:
    finished(small, tmp_path)
    chunk = place_of(f"{STORE}/trace/c/2")
    data = bytearray(chunk.read())
    data[len(data) // 2] ^= 0x10
    chunk.write(bytes(data))
    assert sd.verify(STORE, n_cells=0).damaged == [(2, "trace")]
    place_of(f"{STORE}/receipts").delete(["00000002.json"])
    cells = sd.open_cells("s3://bucket/cells.zarr", layer="M_t", cluster_key="state")
    assert sd.run(cells, sd.read_field(small.field), STORE, **OPTIONS).n_partitions_computed == 1
    assert sd.verify(STORE, n_cells=2).ok


def test_one_chunk_changed_between_runs_is_noticed(small, tmp_path: Path) -> None:
    finished(small, tmp_path)
    array = open_group("s3://bucket/cells.zarr", mode="r+")["layers/M_t"]
    array[229, 19] += 1.0  # a cell that no look at a sample of the cells need find
    cells = sd.open_cells("s3://bucket/cells.zarr", layer="M_t", cluster_key="state")
    with pytest.raises(
        StoreMismatchError, match=r"the expression of the cells is another \(content changed\)"
    ):
        sd.run(cells, sd.read_field(small.field), STORE, **OPTIONS)
    facts = cells.attrs["sources"][0]
    assert facts["path"] == "s3://bucket/cells.zarr"
    assert set(facts["documents"]["layers/M_t/.zarray"]) == {"bytes", "e_tag", "modified"}


def test_another_run_and_what_is_no_store_are_refused(small, tmp_path: Path) -> None:
    finished(small, tmp_path)
    cells = sd.open_cells("s3://bucket/cells.zarr", layer="M_t", cluster_key="state")
    field = sd.read_field(small.field)
    before = objects_of(STORE)
    with pytest.raises(StoreMismatchError, match="Nothing was changed"):
        sd.run(cells, field, STORE, **{**OPTIONS, "tolerance": 0.5})
    place_of("s3://bucket/thesis/chapter.tex").write(b"years of work")
    for theirs in ("s3://bucket/thesis", "s3://bucket/thesis/chapter.tex", "s3://bucket/cells.zarr"):
        with pytest.raises(StoreMismatchError, match="is not a stabdask store"):
            sd.run(cells, field, theirs, **OPTIONS)
    with pytest.raises(StoreMismatchError, match="exists; remove it"):
        field.save("s3://bucket/cells.zarr")
    assert objects_of(STORE) == before


def test_a_field_is_replaced_only_when_asked(small) -> None:
    field = sd.read_field(small.field)
    field.save("s3://bucket/field.zarr")
    place_of("s3://bucket/field.zarr/stale/zarr.json").write(b"{}")
    with pytest.raises(StoreMismatchError, match="exists"):
        field.save("s3://bucket/field.zarr")
    assert field.save("s3://bucket/field.zarr", overwrite=True) == "s3://bucket/field.zarr"
    assert objects_of("s3://bucket/field.zarr") == files_of(small.field)


@pytest.mark.parametrize("after", [0, 1, 7, "root"])
def test_what_is_half_made_is_nothing_and_is_made_again(small, after: int | str) -> None:
    """Fail after some uploads, or at the last, and leave everything as a process that is killed would."""
    field, address = sd.read_field(small.field), "s3://bucket/field.zarr"
    original, n_uploads = BucketPlace.put, []

    def failing(self, data, mode="overwrite"):
        if self.name == "zarr.json" and mode == "create" and self.key.count("/") == 1:
            raise UnreachableOutputError("the cable was pulled")
        if isinstance(data, Path):
            n_uploads.append(1)
            if after != "root" and len(n_uploads) > after:
                raise UnreachableOutputError("the cable was pulled")
        return original(self, data, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketPlace, "put", failing)
        patch.setattr(BucketPlace, "delete", lambda self, names=None: None)  # nor could it clean up
        with pytest.raises(UnreachableOutputError, match="the cable was pulled"):
            field.save(address)
    place_of(f"{address}/of_another_shape/zarr.json").write(b"{}")  # which the next try has not
    assert (place_of(address) / MAKING).exists()
    assert not place_of(address).exists()
    with pytest.raises(MissingFileError, match="no field at"):
        sd.read_field(address)
    with pytest.raises(StoreLockedError, match=r"is making s3://bucket/field\.zarr"):
        field.save(address)  # whoever made it may still be at it
    orphan(place_of(address) / MAKING)
    field.save(address)
    assert objects_of(address) == files_of(small.field)


def orphan(place: BucketPlace) -> None:
    """Make a lease that of a process of this machine that is gone."""
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    document = json.loads(place.read())
    place.write(json.dumps({**document, "process": int(gone.stdout)}).encode())


LOCK = "s3://bucket/out.zarr/receipts/lock"


def test_only_one_holds_a_lease() -> None:
    place = place_of(LOCK)
    assert not leases.is_held(place)
    with leases.held(place, "writing to it") as check:
        assert leases.is_held(place)
        check()
        with (
            pytest.raises(
                StoreLockedError, match=r"another run \(process \d+ on .*\) is writing to it"
            ) as caught,
            leases.held(place, "writing to it"),
        ):
            pass
        assert "at once when you delete s3://bucket/out.zarr/receipts/lock" in str(caught.value)
        assert place_of("s3://bucket/out.zarr/receipts").names() == ["lock"]
    assert not leases.is_held(place)
    assert place_of("s3://bucket/out.zarr/receipts").names() == []


def test_sharers_hold_it_together_and_keep_out_who_wants_it_alone() -> None:
    place = place_of(LOCK)
    with leases.held(place, "writing", shared=True), leases.held(place, "writing", shared=True):
        assert leases.is_held(place)
        with pytest.raises(StoreLockedError, match="another run"), leases.held(place, "writing"):
            pass
        assert not place.exists()
    assert not leases.is_held(place)
    with (
        leases.held(place, "writing"),
        pytest.raises(StoreLockedError, match="another run"),
        leases.held(place, "writing", shared=True),
    ):
        pass
    assert place_of("s3://bucket/out.zarr/receipts").names() == []
    share = place_of(f"{LOCK}s/of_a_process_that_is_gone")
    with leases.held(place, "writing"):
        share.write(place.read())
    orphan(share)
    assert not leases.is_held(place)
    with leases.held(place, "writing"):
        assert not share.exists()


def test_a_lease_of_a_process_that_is_gone_is_taken_over_at_once() -> None:
    place = place_of(LOCK)
    with leases.held(place, "writing"):
        document = place.read()
    place.write(document)
    assert leases.is_held(place)  # this process lives
    orphan(place)
    assert not leases.is_held(place)
    with leases.held(place, "writing"):
        assert leases.is_held(place)


def test_a_lease_of_another_machine_is_taken_over_when_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(LOCK)
    place.write(b'{"holder": "process 1 on elsewhere", "machine": "elsewhere"}')
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"), leases.held(place, "writing"):
        pass
    monkeypatch.setattr(leases, "EXPIRY_S", 0.2)
    time.sleep(0.3)
    assert not leases.is_held(place)
    monkeypatch.setattr(leases, "EXPIRY_S", 60.0)
    original = leases._Lease._now
    monkeypatch.setattr(
        leases._Lease,
        "_now",
        lambda self: original(self).astimezone(UTC).replace(year=datetime.now(UTC).year + 1),
    )
    with leases.held(place, "writing"):
        assert leases.is_held(place)


def test_a_lease_is_kept_by_beats_and_lost_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    place = place_of(LOCK)
    with pytest.raises(StoreLockedError, match="was lost"):
        hold_until_another_takes_it(place)
    assert json.loads(place.read())["token"] == "of another"  # which is not ours to delete


def hold_until_another_takes_it(place: BucketPlace) -> None:
    with leases.held(place, "writing") as check:
        deadline = time.monotonic() + 20
        while json.loads(place.read())["n_beats"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        check()
        place.write(b'{"token": "of another"}')
        while time.monotonic() < deadline:
            check()
            time.sleep(0.02)


def test_a_lease_without_beats_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXPIRY_S", 0.1)
    with (
        pytest.raises(StoreLockedError, match="gave no sign of life"),
        leases.held(place_of(LOCK), "writing"),
    ):
        time.sleep(0.2)


def test_a_lease_that_cannot_be_deleted_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self, names=None) -> None:
        raise UnreachableOutputError("the cable was pulled")

    monkeypatch.setattr(BucketPlace, "delete", unreachable)
    with leases.held(place_of(LOCK), "writing"):
        pass  # and what was done in here is done
    assert leases.is_held(place_of(LOCK))


def test_a_run_that_lost_its_lease_stops(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.02)
    lock = place_of(f"{STORE}/receipts/lock")

    def take(progress) -> None:
        if progress.n_new:
            lock.write(b'{"token": "of another"}')
            time.sleep(0.5)

    cells, field = sd.open_cells(small.atlas, layer="M_t", cluster_key="state"), sd.read_field(small.field)
    with pytest.raises(StoreLockedError, match="was lost"):
        sd.run(cells, field, STORE, **{**OPTIONS, "progress": take})
    assert sd.status(STORE).n_partitions_done == 1
    lock.delete()
    assert sd.run(cells, field, STORE, **OPTIONS).complete


def test_h5ad_and_other_files_are_not_read_from_buckets(small) -> None:
    place_of("s3://bucket/cells.h5ad").write(small.atlas.read_bytes())
    with pytest.raises(
        UsageError, match=r"cells.h5ad\) cannot be in a bucket.*download it, or convert it to Zarr"
    ):
        sd.open_cells("s3://bucket/cells.h5ad", layer="M_t")
    with pytest.raises(UsageError, match="cannot be in a bucket"):
        sd.read_field("s3://bucket/cells.h5ad")


def test_no_folder_named_after_an_address_is_made(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabdask.atlas.export_tables import write_table

    monkeypatch.chdir(tmp_path)
    finished(small, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ds = sd.open_results(STORE)
    with pytest.raises(UsageError, match="cannot be in a bucket"):
        write_table(sd.summarize(ds)["trace"].to_pandas(), "s3://bucket/table.csv")
    with pytest.raises(UsageError, match="cannot be in a bucket"):
        sd.pl.spectra(ds, save="s3://bucket/figure.png")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_layer_is_named_as_on_disk(small, tmp_path: Path) -> None:
    upload(zarr_atlas(small, tmp_path), "s3://bucket/cells.zarr")
    with pytest.raises(MissingKeyError, match=r"no layer 'Mt' in cells.zarr; did you mean 'M_t'\?"):
        sd.open_cells("s3://bucket/cells.zarr", layer="Mt")


@pytest.mark.parametrize("kind", [UnreachableInputError, UnreachableOutputError])
def test_errors_travel(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened")))
    assert str(error) == "what happened"
    assert type(error) is kind
    assert isinstance(error, ConnectionError)
    assert isinstance(error, InputError if kind is UnreachableInputError else OutputError)


def test_what_travels_to_workers_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    from stabdask.files.bucket_store import BucketStore

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETOFTHETESTS")
    data = pickle.dumps([BucketStore("bucket"), place_of(STORE)])
    assert b"SECRETOFTHETESTS" not in data
    store, place = pickle.loads(data)
    assert store == BucketStore("bucket")
    assert str(place) == STORE


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "zarr.json").write_text("{}")
        raise RuntimeError

    with pytest.raises(RuntimeError), new_directory("s3://bucket/new.zarr") as folder:
        fail(folder)
    assert not place_of("s3://bucket/new.zarr").exists()
    assert not folder.exists()


def test_a_missing_library_is_named() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None; import stabdask as sd\n"
        "try: sd.status('s3://bucket/out.zarr')\n"
        "except sd.errors.BackendUnavailableError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'stabdask[s3]'" in done.stdout
    assert issubclass(BackendUnavailableError, RuntimeError)
