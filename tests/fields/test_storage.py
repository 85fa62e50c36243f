"""Saved fields: round trips, refusals, damage; `read_field`; and errors that travel between processes."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from helpers import RandomField, random_field

from stabdask import errors
from stabdask.errors import (
    DamagedStoreError,
    InputError,
    MissingFileError,
    OutputError,
    StabdaskError,
    StoreMismatchError,
    near_misses,
)
from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.reading import read_field
from stabdask.fields.storage import field_kind, open_field, open_field_cached, save_field

STRANGE = ("T cell", "../x", "a/b", "<script>", "été π", "")


def same(a: HopfieldField, b: HopfieldField) -> None:
    """Compare every parameter, also those the fingerprint leaves out."""
    assert a.genes.tolist() == b.genes.tolist()
    assert a.clusters == b.clusters
    for p, q in zip(a.parameters, b.parameters, strict=True):
        for name in ("regulators", "weights", "gamma", "bias"):
            x, y = getattr(p, name), getattr(q, name)
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(p.hill.stacked(), q.hill.stacked())
    assert a.fingerprint == b.fingerprint


# --- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": np.float32},
        {"clusters": STRANGE},
        {"n_regulators": (4, 0)},
        {"n_regulators": 0},
        {"n_genes": 1, "n_regulators": 1},
        {"two_components": False},
    ],
    ids=["plain", "float32", "names", "no_regulators", "none_at_all", "one_gene", "one_component"],
)
def test_round_trip(tmp_path: Path, options: dict[str, Any]) -> None:
    field = random_field(31, **options).field
    path = field.save(tmp_path / "deep" / "er" / "model.zarr")
    assert path == tmp_path / "deep" / "er" / "model.zarr"
    for again in (HopfieldField.open(path), open_field(str(path)), read_field(path)):
        assert isinstance(again, HopfieldField)
        same(again, field)
    assert field_kind(path) == "hopfield"
    # Nothing is left beside it, and no name from the field became a path.
    assert [p.name for p in path.parent.iterdir()] == ["model.zarr"]
    assert {p.name for p in path.iterdir() if p.is_dir()} == {
        "gene",
        "cluster",
        "gamma",
        "bias",
        "hill",
        "weights",
        "regulators",
    }


def test_strange_gene_names(tmp_path: Path) -> None:
    genes = ["HLA-DRB1/2", "../../etc", "α-SMA", "<b>", "日本", " leading", "a" * 300]
    field = HopfieldField.from_arrays(genes, W=np.eye(7), gamma=1.0, threshold=1.0, exponent=2.0)
    same(HopfieldField.open(field.save(tmp_path / "m.zarr")), field)


def test_a_saved_field_computes_the_same_numbers(tmp_path: Path) -> None:
    drawn = random_field(32)
    x = drawn.expression(4)
    again = HopfieldField.open(drawn.field.save(tmp_path / "m.zarr"))
    np.testing.assert_array_equal(again.jacobian(x, "B"), drawn.field.jacobian(x, "B"))
    np.testing.assert_array_equal(again.velocity(x, "B"), drawn.field.velocity(x, "B"))


def test_parameters_of_genes_that_do_not_regulate_are_kept_as_they_are(tmp_path: Path) -> None:
    field = HopfieldField.from_arrays(
        ["a", "b"], W=[[1.0, 0.0], [1.0, 0.0]], gamma=1.0, threshold=[1.0, np.nan], exponent=[2.0, -1.0]
    )
    same(HopfieldField.open(field.save(tmp_path / "m.zarr")), field)


# --- refusals ----------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    first, second = random_field(33).field, random_field(34).field
    path = first.save(tmp_path / "m.zarr")
    with pytest.raises(StoreMismatchError, match=r"m.zarr exists; remove it, choose another path"):
        second.save(path)
    same(HopfieldField.open(path), first)
    second.save(path, overwrite=True)
    same(HopfieldField.open(path), second)
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    occupied = tmp_path / "file"
    occupied.write_text("precious")
    with pytest.raises(FileExistsError):
        first.save(occupied)
    assert occupied.read_text() == "precious"


def test_a_save_that_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stabdask.fields import storage

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    old, new = random_field(35).field, random_field(36).field
    kept = old.save(tmp_path / "kept.zarr")
    monkeypatch.setattr(storage, "write_array", full)
    with pytest.raises(OutputError, match=r"cannot write .*new.zarr: No space left on device"):
        new.save(tmp_path / "new.zarr")
    with pytest.raises(OutputError):
        new.save(kept, overwrite=True)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.zarr"]
    same(HopfieldField.open(kept), old)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        random_field(37).field.save(tmp_path / "file" / "model.zarr")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    try:
        if os.access(locked, os.W_OK):
            pytest.skip("this user may write to a folder without write permission")
        with pytest.raises(OutputError, match=r"cannot write .*model.zarr: Permission denied"):
            random_field(38).field.save(locked / "model.zarr")
    finally:
        locked.chmod(0o755)


def test_paths_that_hold_no_field(tmp_path: Path) -> None:
    random_field(39).field.save(tmp_path / "model.zarr")
    with pytest.raises(MissingFileError, match=r"no saved field at .*modle.zarr; .*model.zarr"):
        HopfieldField.open(tmp_path / "modle.zarr")
    with pytest.raises(MissingFileError, match=r"no field at .*modle.zarr; .*model.zarr"):
        read_field(tmp_path / "modle.zarr")
    (tmp_path / "empty").mkdir()
    for function in (HopfieldField.open, read_field):
        with pytest.raises(MissingFileError, match="not a Zarr group"):
            function(tmp_path / "empty")
    group = zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(MissingFileError, match="holds no saved hopfield field"):
        HopfieldField.open(tmp_path / "other.zarr")
    group.attrs["stabdask_field"] = "neural"
    assert field_kind(tmp_path / "other.zarr") == "neural"
    with pytest.raises(InputError, match="format None, this version reads 1"):
        read_field(tmp_path / "other.zarr")
    group.attrs["format_version"] = 1
    with pytest.raises(InputError, match="field of kind 'neural', which this version cannot read"):
        read_field(tmp_path / "other.zarr")
    assert field_kind(tmp_path / "empty") is None
    assert field_kind(tmp_path / "nowhere") is None


# --- damage ------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[RandomField, Path]:
    # Every gene regulates, so every parameter counts.
    labels = ("haematopoietic stem cell", "megakaryocyte, late", "pro-B")
    drawn = random_field(40, n_genes=5, n_regulators=5, density=1.0, clusters=labels)
    return drawn, drawn.field.save(tmp_path / "model.zarr")


@pytest.mark.parametrize(
    "array",
    [
        "gamma",
        "bias",
        "hill",
        "gene",
        "cluster",
        "weights/0",
        "weights/1",
        "regulators/0",
        "regulators/1",
    ],
)
def test_a_flipped_bit_in_any_array_is_found(saved: tuple[RandomField, Path], array: str) -> None:
    drawn, path = saved
    chunks = [p for p in (path / array / "c").rglob("*") if p.is_file()]
    assert chunks
    found = []
    for chunk in chunks:
        whole = chunk.read_bytes()
        # Not the first half of a chunk of names: a bit of the number of names in its header makes the codec
        # allocate gigabytes before it finds out.
        first = len(whole) // 2 if array in ("gene", "cluster") else 0
        for position in np.linspace(first, len(whole) - 1, 12).astype(int):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            chunk.write_bytes(damaged)
            try:
                again = HopfieldField.open(path)
            except DamagedStoreError as error:
                found.append(str(error))
            else:  # a bit of the compression frame that carries nothing
                same(again, drawn.field)
        chunk.write_bytes(whole)
    assert len(found) >= 5
    assert all("model.zarr" in message and "write it again" in message for message in found)
    same(HopfieldField.open(path), drawn.field)


@pytest.mark.parametrize("array", ["gamma", "bias", "hill", "gene", "cluster", "weights/1", "regulators/0"])
@pytest.mark.parametrize("part", ["chunks", "metadata", "everything", "garbled metadata"])
def test_missing_and_garbled_parts_are_found(saved: tuple[RandomField, Path], array: str, part: str) -> None:
    _, path = saved
    folder = path / array
    if part == "chunks":
        shutil.rmtree(folder / "c")
    elif part == "metadata":
        (folder / "zarr.json").unlink()
    elif part == "everything":
        shutil.rmtree(folder)
    else:
        (folder / "zarr.json").write_text("{}")
    with pytest.raises(DamagedStoreError, match=r"model.zarr"):
        HopfieldField.open(path)
    with pytest.raises(DamagedStoreError):
        read_field(path)


def test_a_store_without_its_fingerprint_is_damaged(saved: tuple[RandomField, Path]) -> None:
    _, path = saved
    group = zarr.open_group(str(path), mode="r+")
    del group.attrs["fingerprint"]
    with pytest.raises(DamagedStoreError, match="fingerprint"):
        HopfieldField.open(path)


def test_values_changed_through_zarr_are_found(saved: tuple[RandomField, Path]) -> None:
    _, path = saved
    zarr.open_group(str(path), mode="r+")["weights/1"][2, 3] = 0.125
    with pytest.raises(DamagedStoreError, match="differs from its own fingerprint"):
        HopfieldField.open(path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    saved: tuple[RandomField, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stabdask.fields import storage

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "read_names", broken)
    with pytest.raises(OSError, match="Input/output error"):
        HopfieldField.open(saved[1])


def test_the_cached_field_is_the_one_asked_for(tmp_path: Path) -> None:
    first, second = random_field(41).field, random_field(42).field
    path = str(first.save(tmp_path / "m.zarr"))
    held = open_field_cached(path, first.fingerprint)
    assert held is open_field_cached(path, first.fingerprint)
    with pytest.raises(DamagedStoreError, match="not the one this run was planned with"):
        open_field_cached(path, second.fingerprint)
    save_field(second, path, overwrite=True)
    assert open_field_cached(path, second.fingerprint).fingerprint == second.fingerprint


# --- read_field --------------------------------------------------------------------------------------------


def fitted_anndata() -> anndata.AnnData:
    field = HopfieldField.from_arrays(
        ["a", "b"], W={"c": np.eye(2), "d": np.ones((2, 2))}, gamma=1.0, threshold=1.0, exponent=2.0
    )
    adata = anndata.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["a", "b"]))
    field.to_anndata(adata)
    return adata


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_read_field_tells_an_anndata_in_zarr_from_a_saved_field(tmp_path: Path) -> None:
    adata = fitted_anndata()
    expected = HopfieldField.from_anndata(adata)
    adata.write_zarr(tmp_path / "fit.zarr")
    adata.write_h5ad(tmp_path / "fit.h5ad")
    assert field_kind(tmp_path / "fit.zarr") is None
    for name in ("fit.zarr", "fit.h5ad"):
        assert read_field(tmp_path / name).fingerprint == expected.fingerprint
        assert read_field(str(tmp_path / name), clusters=["d"]).clusters == ("d",)


def test_a_saved_field_takes_no_options(tmp_path: Path) -> None:
    path = random_field(43).field.save(tmp_path / "m.zarr")
    with pytest.raises(InputError, match="takes no options, found activation, clusters"):
        read_field(path, clusters=["A"], activation="single")


# --- errors ------------------------------------------------------------------------------------------------

ERRORS = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, (StabdaskError, Warning)) and cls.__module__ == errors.__name__
]


def test_every_error_is_exported() -> None:
    assert {cls.__name__ for cls in ERRORS} | {"OVERWRITE", "near_misses"} == set(errors.__all__)
    assert len(ERRORS) >= 13


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_errors_travel_between_processes(cls: type[Exception]) -> None:
    import distributed  # noqa: F401  (through tblib it changes how every exception is pickled)

    message = "no layer 'Mt' in atlas.h5ad; did you mean 'M_t'?"
    error = cls(message)
    error.__cause__ = KeyError("x")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert str(again) == str(error) == message
        assert again.args == (message,)
        assert getattr(again, "exit_code", None) == getattr(cls, "exit_code", None)


@pytest.mark.parametrize(
    "cls", [cls for cls in ERRORS if issubclass(cls, StabdaskError) and cls is not StabdaskError]
)
def test_every_error_is_a_standard_one_too_and_has_an_exit_code(cls: type[StabdaskError]) -> None:
    standard = [base for base in cls.__mro__ if base.__module__ == "builtins"]
    assert set(standard) - {Exception, BaseException, object}
    assert cls.exit_code in (1, 2, 3, 5)


def test_errors_without_a_message_print() -> None:
    for cls in ERRORS:
        assert str(cls()) == ""


def test_near_misses() -> None:
    assert near_misses("Gata1", ["GATA1", "SPI1"]) == "did you mean 'GATA1'?"
    assert near_misses("x", []) == "there are no options"
    assert near_misses("zzz", "abc", noun="layers") == "layers present: 'a', 'b', 'c'"
    many = near_misses("zzz", [f"gene{i}" for i in range(2000)], noun="genes")
    assert many.endswith("and 1,992 more")
    assert len(many) < 200
