"""The page on the store: its code reads a store as it says, and other versions are met as it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import DamagedStoreError, InputError, StoreMismatchError
from stabdask.fields.storage import _FORMAT_VERSION as FIELD_FORMAT
from stabdask.runs.job import spec_fingerprint
from stabdask.runs.receipts import read_receipts
from stabdask.schema import FORMAT_VERSION, VARIABLES

pytestmark = pytest.mark.pages

PAGE = Path(__file__).parents[1] / "notebooks" / "store_format.md"


@pytest.fixture
def store(demo: Path, tmp_path: Path) -> Path:
    """Give a copy of the demo's store under the name that the page uses."""
    return Path(shutil.copytree(demo / "out.zarr", tmp_path / "out.zarr"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_the_code_reads_a_store(store: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (store.parent / "script.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=store.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = sd.status(store)
    receipt = read_receipts(store, state.fingerprint)[0]
    said = done.stdout.splitlines()
    assert said[0] == f"{FORMAT_VERSION} {state.fingerprint} 400 1/time"
    assert said[1] == f"0 {receipt.stop} {{'0': {receipt.stop}}}"
    assert said[2] == "True"
    ds = sd.open_results(store)
    assert said[3] == f"{float(ds['spectral_abscissa'].max())}"


def test_the_layout_is_that_of_a_store(store: Path) -> None:
    (layout,) = re.findall(r"```text\n(out.zarr/.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = re.findall(r"^  (?!\.\.\.)(\S[^ ]*(?: \S+/)*)(?:  |$)", layout, flags=re.MULTILINE)
    named = [name for line in names for name in line.split()]
    assert {"zarr.json", "eigenvalue/", "field/", "receipts/"} <= set(named)
    for name in named:
        assert (store / name).exists(), name
    group = zarr.open_group(str(store), mode="r")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE))
    # The demo is run from Python, and records no request of a command line.
    assert set(rows) == set(group.attrs) | {"request"}
    for name, array in group.arrays():
        codecs = [codec.to_dict()["name"] for codec in array.metadata.codecs]
        results = name in VARIABLES and VARIABLES[name].dims[0] in ("cell", "partition")
        kind = "vlen-utf8" if str(array.metadata.data_type) == "VariableLengthUTF8()" else "bytes"
        assert codecs == [kind, "blosc" if results else "zstd", "crc32c"], name
        if results:
            assert array.chunks[0] <= group.attrs["run"]["partition_cells"]
            assert group.attrs["run"]["partition_cells"] % array.chunks[0] == 0 or array.chunks[0] == 1
    assert (store / "receipts" / "00000000.json").is_file()


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1])
def test_another_version_is_named_and_nothing_is_touched(
    store: Path, demo: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (quoted,) = re.findall(r"```text\n(stabdask: error: .*?)```", PAGE.read_text(), flags=re.DOTALL)
    edit(store / "zarr.json", lambda document: document["attributes"].update(stabdask_format=version))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    job = [
        str(demo / "cells.h5ad"),
        "--field",
        str(demo / "field.zarr"),
        "--layer",
        "M_t",
        "--cluster-key",
        "cell_type",
    ]
    commands: list[list[str]] = [
        ["status", str(store)],
        ["summary", str(store)],
        ["verify", str(store)],
        ["run", *job, "--store", str(store), "--workers", "0"],
        ["run", *job, "--store", str(store), "--workers", "0", "--repair"],
    ]
    expected = (
        " ".join(quoted.split()).replace("out.zarr", str(store)).replace("format 3", f"format {version}")
    )
    for command in commands:
        assert main(command) == 5
        said = capsys.readouterr()
        assert said.out == ""
        assert " ".join(said.err.split()) == expected
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_options_of_a_later_version_are_no_damage(store: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        attributes = document["attributes"]
        attributes["run"]["options"]["later"] = True
        attributes["fingerprint"] = spec_fingerprint(attributes["run"])
        attributes["versions"]["stabdask"] = "9.0"

    edit(store / "zarr.json", add)
    with pytest.raises(
        StoreMismatchError, match=r"options that this version does not have .*later.* \(9\.0\)"
    ):
        sd.open_results(store)
    # The same without the fingerprint that goes with it is an edit.
    edit(store / "zarr.json", lambda document: document["attributes"].update(fingerprint="0"))
    with pytest.raises(DamagedStoreError, match="later"):
        sd.open_results(store)


def test_what_a_later_version_adds_is_passed_over(store: Path) -> None:
    receipt = store / "receipts" / "00000001.json"
    edit(receipt, lambda values: values.update(later=1))
    with pytest.raises(DamagedStoreError, match="later"):  # this version has written no such thing
        sd.status(store)
    edit(receipt, lambda values: values["versions"].update(stabdask="9.0"))
    edit(store / "zarr.json", lambda document: document["attributes"].update(later=1))
    assert sd.status(store).complete
    assert np.isfinite(sd.open_results(store)["spectral_abscissa"]).all()


def test_a_field_of_another_format_is_refused(store: Path, tmp_path: Path) -> None:
    edit(store / "field" / "zarr.json", lambda document: document["attributes"].update(format_version=9))
    with pytest.raises(InputError, match=f"a field in format 9, this version reads {FIELD_FORMAT}"):
        sd.read_field(store / "field")


def test_versions_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert f"is {FORMAT_VERSION} now" in text
    assert f"is {FIELD_FORMAT} now" in text
    assert f"- {FORMAT_VERSION - 1} to {FORMAT_VERSION}:" in text
