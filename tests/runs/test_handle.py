"""Runs in the background: asked meanwhile, cancelled, failed, left behind; the store is that of an undisturbed run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import psutil
import pytest
from durable import OPTIONS, assert_same, open_small, run_small
from small_atlas import Small

import stabdask as sd
from stabdask.errors import (
    InputError,
    RunTimeoutError,
    StabdaskWarning,
    StoreLockedError,
    StoreMismatchError,
)
from stabdask.runs.progress import Progress


class Gate:
    """A progress function that lets a run come as far as a number of cells, and no further until it is opened."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> None:
        if progress.n_done >= self.n_cells:
            self.reached.set()
            assert self.opened.wait(60)


def start(small: Small, store: Path, **options: Any) -> sd.RunHandle:
    cells, field = open_small(small)
    asked: dict[str, Any] = {"workers": 0, **OPTIONS, **options}
    return sd.run(cells, field, store, wait=False, **asked)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_ends_as_a_run_that_one_waits_for(small: Small, tmp_path: Path) -> None:
    handle = start(small, tmp_path / "a.zarr")
    report = handle.wait(60)
    assert report.complete
    assert report.n_cells == 230
    assert (handle.state, handle.running) == ("done", False)
    assert handle.progress().n_done == 230
    assert handle.wait() is report
    handle.cancel()
    assert handle.state == "done"
    run_small(small, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    np.testing.assert_array_equal(
        handle.results()["trace"], sd.open_results(tmp_path / "b.zarr")["trace"].values
    )
    # Again there is nothing to do, and no worker to wait for.
    again = start(small, tmp_path / "a.zarr")
    assert again.wait(60).n_partitions_computed == 0


def test_what_is_there_can_be_looked_at_meanwhile(small: Small, tmp_path: Path) -> None:
    gate = Gate(100)
    handle = start(small, tmp_path / "out.zarr", progress=gate)
    assert gate.reached.wait(60)
    progress = handle.progress()
    assert (handle.state, progress.n_done, progress.n_cells) == ("running", 100, 230)
    with pytest.warns(StabdaskWarning, match="3 of 5 partitions are missing"):
        ds = handle.results()
    assert np.isfinite(ds["spectral_abscissa"].values).tolist() == [True] * 100 + [False] * 130
    assert not ds.attrs["complete"]
    # The lock of the run is held.
    with pytest.raises(StoreLockedError):
        start(small, tmp_path / "out.zarr")
    with pytest.raises(RunTimeoutError, match=r"still goes on after 0\.1 s"):
        handle.wait(0.1)
    shown = handle._repr_html_()
    assert 'value="0.4348"' in shown
    assert "running" in shown
    assert "100 of 230 cells" in repr(handle)
    gate.opened.set()
    assert handle.wait(60).complete


@pytest.mark.parametrize("workers", [0, 1])
def test_cancelled_and_resumed(small: Small, tmp_path: Path, workers: int) -> None:
    gate = Gate(50)
    handle = start(small, tmp_path / "out.zarr", progress=gate, workers=workers)
    assert gate.reached.wait(60)
    if workers:
        assert handle.dashboard is None or "127.0.0.1" in handle.dashboard
    closer = threading.Timer(0.3, gate.opened.set)
    closer.start()
    handle.cancel()
    assert (handle.state, handle.running) == ("cancelled", False)
    report = handle.wait()
    assert not report.complete
    done = report.n_partitions - report.n_partitions_missing
    assert 1 <= done <= 4
    assert not sd.status(tmp_path / "out.zarr").running
    assert run_small(small, tmp_path / "out.zarr").n_partitions_computed <= 5 - done
    run_small(small, tmp_path / "whole.zarr")
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_what_is_half_written_is_not_shown(small: Small, tmp_path: Path) -> None:
    """Arrays are written one after another: what has no receipt when results are opened is hidden, also later."""
    store = tmp_path / "out.zarr"
    run_small(small, store, vectors="both")
    whole = sd.open_results(store).load()
    receipt = next(path for path in store.glob("receipts/*.json") if path.stem.strip("0") == "2")
    receipt.unlink()
    with pytest.warns(StabdaskWarning, match="1 of 5 partitions are missing"):
        ds = sd.open_results(store)
    there = np.r_[0:100, 150:230]
    assert (ds["status"].values[100:150] == 255).all()
    assert np.isnan(ds["spectral_abscissa"].values[100:150]).all()
    assert (ds["unstable_count"].values[100:150] == -1).all()
    for name, values in ds.data_vars.items():
        assert values.dtype == whole[name].dtype
        assert values.attrs == whole[name].attrs
        if values.dims[:1] == ("cell",):
            np.testing.assert_array_equal(values.values[there], whole[name].values[there], err_msg=str(name))
    assert ds["driver_cells"].sum() < whole["driver_cells"].sum()


def test_a_block_ends_with_what_is_left_cancelled(small: Small, tmp_path: Path) -> None:
    gate = Gate(50)
    gate.opened.set()
    with start(small, tmp_path / "out.zarr", progress=gate) as handle:
        assert gate.reached.wait(60)
    assert handle.state in ("cancelled", "done")


def test_what_is_refused_is_refused_at_once(small: Small, tmp_path: Path) -> None:
    run_small(small, tmp_path / "out.zarr")
    before = threading.active_count()
    with pytest.raises(StoreMismatchError):
        start(small, tmp_path / "out.zarr", dtype="float32")
    with pytest.raises(InputError):
        start(small, tmp_path / "other.zarr", elements=[("g00", "nowhere")])
    until(lambda: threading.active_count() <= before)


def test_one_that_fails_says_so_where_one_waits(small: Small, tmp_path: Path) -> None:
    # Beyond what is looked at before a run: the file changes under it.
    adata = anndata.read_h5ad(small.atlas)
    gate = Gate(50)
    handle = start(small, tmp_path / "late.zarr", progress=gate)
    assert gate.reached.wait(60)
    adata.layers["M_t"][200, 3] = -1.0
    adata.write_h5ad(small.atlas)
    gate.opened.set()
    with pytest.raises(Exception, match=r"expected values >= 0|changed"):
        handle.wait(60)
    assert handle.state == "failed"
    assert "error" in handle._repr_html_()
    assert sd.status(tmp_path / "late.zarr").n_partitions_done >= 1


def test_workers_are_not_those_of_what_else_is_computed(small: Small, tmp_path: Path) -> None:
    import distributed

    gate = Gate(50)
    handle = start(small, tmp_path / "out.zarr", progress=gate, workers=1)
    assert gate.reached.wait(60)
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()
    children = psutil.Process().children(recursive=True)
    assert children
    gate.opened.set()
    assert handle.wait(60).complete
    until(lambda: not [child for child in children if child.is_running() and "spawn_main" in cmdline(child)])


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


SCRIPT = """
import sys, time
import stabdask as sd
if __name__ == "__main__":
    cells = sd.open_cells(sys.argv[1], layer="M_t", cluster_key="state")
    seen = []
    handle = sd.run(cells, sd.read_field(sys.argv[2]), sys.argv[3], wait=False, workers=1, dashboard=False,
                    partition_cells=1, progress=seen.append)
    while len(seen) < 3:
        time.sleep(0.01)
    print(handle.state)
"""


def test_a_process_that_ends_stops_it_in_order(small: Small, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    store = tmp_path / "out.zarr"
    done = subprocess.run(
        [sys.executable, "script.py", str(small.atlas), str(small.field), str(store)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("running", "done")
    assert "Traceback" not in done.stderr
    status = sd.status(store)
    assert status.n_partitions_done >= 2
    assert not status.running
    assert not [process for process in psutil.process_iter() if str(store) in cmdline(process)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabdaskWarning)
        assert np.isfinite(sd.open_results(store)["trace"].values).any()


def test_names_are_escaped(tmp_path: Path) -> None:
    hostile = tmp_path / "<script>alert(1)<" / "out.zarr"
    hostile.parent.mkdir()
    from small_atlas import make_small

    handle = start(make_small(tmp_path), hostile)
    handle.wait(60)
    assert "<script>" not in handle._repr_html_()
    assert "&lt;script&gt;" in handle._repr_html_()
