"""The whole way of a cell on a GPU, from expression to scalars: what is computed, what goes wrong, what comes back.

CuPy is a stand-in whose arrays refuse to mix with NumPy's; the kernel is that of the GPU, run on this CPU. With
``-m gpu`` the same goes through CuPy on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from fake_cuda import CUDARuntimeError, FakeCuda
from kernels.device_array import DeviceArray, OutOfMemoryError
from kernels.fake_gpu import FakeGpu, fresh_caches
from random_atlas import RandomAtlas, random_atlas

import stabdask as sd
from stabdask.errors import BackendUnavailableError, GpuError, MemoryBudgetError, StabdaskWarning, UsageError
from stabdask.fields.hopfield_linear import HopfieldLinearization
from stabdask.kernels import cuda
from stabdask.runs import block, shapes
from stabdask.runs import options as options_module
from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options
from stabdask.runs.sizing import block_and_partition
from stabdask.schema import Status

Array = np.ndarray[Any, Any]
ELEMENTS = [("gene1", "gene0"), ("gene2", "gene2"), ("gene0", "gene1")]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: ctypes.CDLL) -> Iterator[FakeGpu]:
    host = FakeCuda(monkeypatch, tmp_path)
    host.nothing()
    with fresh_caches():
        made = FakeGpu(library)
        made.install(host)
        yield made


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the shapes of the blocks of expression that go to the GPU."""
    shapes: list[tuple[int, ...]] = []
    original = cuda.upload

    def counted(array: Array) -> Any:
        shapes.append(array.shape)
        return original(array)

    monkeypatch.setattr(cuda, "upload", counted)
    return shapes


def solved(atlas: RandomAtlas, backend: str, **asked: Any) -> dict[str, Array]:
    options = make_options(atlas.field, backend=backend, **asked)
    audited = np.ones(len(atlas.x), dtype=bool)
    return compute_block(atlas.x, atlas.codes, atlas.field, options, audited=audited)


def assert_close(found: dict[str, Array], expected: dict[str, Array], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        if name in (
            "active",
            "status",
            "unstable_count",
            "stable_count",
            "near_switch_count",
            "audit_missed",
            "driver_cells",
            "det_sign",
        ):
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        elif name not in ("residual", "trace_defect", "audit_difference"):
            # Henrici's departure is the root of a difference that is all rounding where a Jacobian is normal.
            smallest = np.sqrt(tolerance) * 1e-2 if name == "henrici" else tolerance
            np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=smallest, err_msg=name)


ATLASES: dict[str, Callable[[], RandomAtlas]] = {
    "two clusters": lambda: random_atlas(1),
    "two components": lambda: random_atlas(4, zeros=0.5, n_genes=12),
    "cells that fail": lambda: random_atlas(2, unlabelled=(0, 5), broken=(3, 4)),
    "a cluster without regulators": lambda: random_atlas(3, n_regulators=(4, 0)),
    "no regulators at all": lambda: random_atlas(3, n_regulators=0),
    "one gene": lambda: random_atlas(3, n_genes=1, n_regulators=1),
}


# --- the same numbers as on the host -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ATLASES)
@pytest.mark.parametrize("vectors", ["none", "both", "drivers"])
def test_results_are_those_of_the_host(gpu: FakeGpu, uploads: list[Any], name: str, vectors: str) -> None:
    atlas = ATLASES[name]()
    asked: dict[str, Any] = {"vectors": vectors}
    if vectors == "drivers":
        wanted = ["default", "reactivity", "eigenvalue_condition", "participation", "sensitivity"]
        asked = {"vectors": "none", "quantities": wanted}
    if atlas.field.n_genes > 2:
        asked["elements"] = ELEMENTS
    found = solved(atlas, "cuda", **asked)
    assert_close(found, solved(atlas, "lapack", **asked))
    assert sum(shape[0] for shape in uploads) == atlas.good.sum()
    assert gpu.launches or not found["active"].any()


def test_single_precision(gpu: FakeGpu) -> None:
    atlas = random_atlas(1)
    assert_close(solved(atlas, "cuda", dtype="float32"), solved(atlas, "lapack", dtype="float32"), 2e-5)


def test_a_symmetric_jacobian_and_a_defective_one(gpu: FakeGpu) -> None:
    for W in ([[0.0, 4.0], [4.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]):
        field = sd.HopfieldField.from_arrays(["gene0", "gene1"], W=W, gamma=1.0, threshold=1.0, exponent=1.0)
        options = [make_options(field, backend=backend, vectors="both") for backend in ("cuda", "lapack")]
        found, expected = (compute_block(np.ones((1, 2)), np.zeros(1, int), field, one) for one in options)
        np.testing.assert_array_equal(found["status"], expected["status"])
        np.testing.assert_allclose(found["rotational_norm"], expected["rotational_norm"], atol=1e-15)


def test_leading_modes_are_iterated_for_on_the_gpu(
    gpu: FakeGpu, uploads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options_module, "_KRYLOV_FROM", 30)
    atlas = random_atlas(5, n_genes=60, n_regulators=(40, 50), n_cells=8)
    asked: dict[str, Any] = {"spectrum": "leading", "modes": 3, "vectors": "both", "residual_tolerance": 1e-9}
    options = make_options(atlas.field, backend="auto:cuda", **asked)
    assert (options.backend, options.iterates, options.on_gpu) == ("krylov:cuda", True, True)
    assert_close(solved(atlas, "krylov:cuda", **asked), solved(atlas, "krylov", **asked), 1e-6)
    assert sum(shape[0] for shape in uploads) == 8


def test_a_run(gpu: FakeGpu, uploads: list[Any], tmp_path: Path) -> None:
    atlas = random_atlas(2, n_cells=40, unlabelled=(1,), broken=(7,))
    run: dict[str, Any] = {"workers": 0, "progress": False, "elements": ELEMENTS}
    report = sd.run(atlas.cells(), atlas.field, tmp_path / "gpu.zarr", gpu=True, **run)
    assert (report.backend, report.complete, report.n_gpu_halvings) == ("cuda", True, 0)
    sd.run(atlas.cells(), atlas.field, tmp_path / "cpu.zarr", backend="lapack", **run)
    found, expected = (sd.open_results(tmp_path / name).load() for name in ("gpu.zarr", "cpu.zarr"))
    for name in ("eigenvalue", "spectral_abscissa", "trace", "rotational_norm", "speed", "element"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert uploads


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATLASES)
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_results_of_a_real_gpu_are_those_of_the_host(name: str, vectors: str, uploads: list[Any]) -> None:
    assert cuda.available(), cuda.why_not()
    atlas = ATLASES[name]()
    asked: dict[str, Any] = {"vectors": vectors}
    if atlas.field.n_genes > 2:
        asked["elements"] = ELEMENTS
    assert_close(solved(atlas, "cuda", **asked), solved(atlas, "lapack", **asked))
    assert uploads


@pytest.mark.gpu
def test_a_run_on_a_real_gpu(tmp_path: Path, uploads: list[Any]) -> None:
    atlas = random_atlas(5, n_genes=600, n_regulators=(420, 500), n_cells=40)
    for spectrum in ("full", "leading"):
        run: dict[str, Any] = {"workers": 0, "progress": False, "spectrum": spectrum, "modes": 3}
        report = sd.run(atlas.cells(), atlas.field, tmp_path / f"{spectrum}.zarr", gpu=True, **run)
        assert report.backend == {"full": "cuda", "leading": "krylov:cuda"}[spectrum]
        sd.run(atlas.cells(), atlas.field, tmp_path / f"{spectrum}-cpu.zarr", backend="lapack", **run)
        found, expected = (
            sd.open_results(tmp_path / f"{spectrum}{kind}.zarr")["eigenvalue"][:, :3] for kind in ("", "-cpu")
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert uploads


def test_parameters_are_on_the_gpu_before_another_thread_sees_them(gpu: FakeGpu) -> None:
    atlas = random_atlas(1)
    solved(atlas, "cuda")
    assert len(gpu.waits) == len(atlas.field.clusters) == 2
    with dask.config.set(scheduler="threads", num_workers=4):
        found = sd.stability(atlas.cells(block_cells=3), atlas.field, backend="cuda")["speed"].values
    np.testing.assert_allclose(found, solved(atlas, "lapack")["speed"], rtol=1e-12)


# --- memory and failures -----------------------------------------------------------------------------------


def test_less_free_memory_halves_the_batch_beforehand(gpu: FakeGpu, uploads: list[Any]) -> None:
    atlas = random_atlas(1)
    whole = solved(atlas, "cuda", vectors="right")
    assert sorted(uploads) == [(12, 9), (12, 9)]
    uploads.clear()
    gpu.free, before = 40_000, cuda.halvings()
    with pytest.warns(StabdaskWarning, match=r"was halved \d time\(s\), to [36] cells with cores"):
        assert_close(solved(atlas, "cuda", vectors="right"), whole, 1e-12)
    assert cuda.halvings() > before
    assert {len_ for len_, _ in uploads} <= {3, 6}


def test_how_many_go_together_depends_on_the_field_and_the_options(
    gpu: FakeGpu, uploads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = random_atlas(1)
    whole = solved(atlas, "cuda")
    uploads.clear()
    monkeypatch.setattr(block, "_GPU_BYTES", 9_000)
    for gpu.free in (10**9, 10**6):
        assert_close(solved(atlas, "cuda"), whole, 1e-12)
    assert uploads[: len(uploads) // 2] == uploads[len(uploads) // 2 :]
    assert len(uploads) > 4


def test_full_memory_halves_the_batch_and_is_counted(
    gpu: FakeGpu, uploads: list[Any], tmp_path: Path
) -> None:
    atlas = random_atlas(1)
    whole = solved(atlas, "cuda")
    uploads.clear()
    # Room for the expression of seven cells: a batch of twelve is halved once, in each of two clusters.
    gpu.largest = 7 * atlas.field.n_genes * 8
    with pytest.warns(
        StabdaskWarning, match=r"was full: the batch was halved 1 time\(s\), to 6 cells with cores"
    ):
        report = sd.run(
            atlas.cells(block_cells=24),
            atlas.field,
            tmp_path / "gpu.zarr",
            gpu=True,
            workers=0,
            progress=False,
        )
    assert report.n_gpu_halvings == 2
    assert "halved 2 times" in str(report)
    found = sd.open_results(tmp_path / "gpu.zarr")
    np.testing.assert_array_equal(found["eigenvalue"], whole["eigenvalue"])
    np.testing.assert_allclose(found["speed"], whole["speed"], rtol=1e-12)


def test_what_is_done_again_for_want_of_memory_is_counted_once(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = random_atlas(1)
    asked: dict[str, Any] = {"quantities": ["participation", "sensitivity"]}
    whole = solved(atlas, "cuda", **asked)
    original, calls = HopfieldLinearization.solve, []

    def full_at_the_second_batch(self: HopfieldLinearization, cells: Array, **options: Any) -> Any:
        calls.append(len(cells))
        if len(calls) == 2:
            raise OutOfMemoryError("Out of memory")
        return original(self, cells, **options)

    monkeypatch.setattr(HopfieldLinearization, "solve", full_at_the_second_batch)
    monkeypatch.setattr(shapes, "_BATCH_BYTES", 4 * 2**10)
    with pytest.warns(StabdaskWarning, match=r"was halved 1 time\(s\)"):
        found = solved(atlas, "cuda", **asked)
    assert calls[0] < 12
    assert_close(found, whole)


def test_a_cell_too_large_for_the_gpu(gpu: FakeGpu) -> None:
    gpu.largest = 8
    with pytest.raises(MemoryBudgetError, match=r"1 cells with cores of order up to \d+ .* do not fit"):
        solved(random_atlas(1), "cuda")


def test_a_gpu_that_fails_stops_the_run_which_resumes(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = random_atlas(1, n_cells=60)
    store = tmp_path / "gpu.zarr"
    run: dict[str, Any] = {"gpu": True, "workers": 0, "partition_cells": 20, "progress": False}
    original = HopfieldLinearization.speed
    calls: list[int] = []

    def fails(self: HopfieldLinearization) -> Array:
        calls.append(1)
        if len(calls) == 4:
            raise CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access was encountered")
        return original(self)

    monkeypatch.setattr(HopfieldLinearization, "speed", fails)
    with pytest.raises(GpuError, match=r"Pretend GPU .* failed at a batch of .* cells .*start the run again"):
        sd.run(atlas.cells(), atlas.field, store, **run)
    done = sd.status(store).n_partitions_done
    assert 0 < done < 3
    report = sd.run(atlas.cells(), atlas.field, store, **run)
    assert (report.complete, report.n_partitions_computed) == (True, 3 - done)
    np.testing.assert_array_equal(sd.open_results(store)["eigenvalue"], solved(atlas, "cuda")["eigenvalue"])


def test_matrices_that_the_gpu_leaves_out_are_an_error(gpu: FakeGpu) -> None:
    gpu.runs = lambda _: None
    with pytest.raises(GpuError, match="left out 12 of 12 matrices without reporting an error"):
        solved(random_atlas(1), "cuda")


# --- what is asked for -------------------------------------------------------------------------------------


def test_what_auto_means_on_a_gpu(gpu: FakeGpu) -> None:
    field = random_atlas(1).field
    assert make_options(field, backend="auto:cuda").backend == "cuda"
    assert make_options(field, backend="auto:cuda", spectrum="leading").backend == "cuda"
    named = make_options(field, backend="krylov:cuda", spectrum="leading")
    assert (named.backend, named.on_gpu) == ("krylov:cuda", True)
    with pytest.raises(UsageError, match="backend='krylov:cuda' finds leading modes"):
        make_options(field, backend="krylov:cuda")
    assert not make_options(field, backend="lapack").on_gpu


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeCuda(monkeypatch, tmp_path).nothing()
    with fresh_caches():
        for backend in ("auto:cuda", "krylov:cuda"):
            with pytest.raises(BackendUnavailableError, match="CuPy is not installed"):
                make_options(random_atlas(1).field, backend=backend, spectrum="leading")


def test_a_partition_is_one_block_for_a_gpu(gpu: FakeGpu) -> None:
    atlas = random_atlas(1, n_cells=400)
    expression = atlas.cells()["expression"].data
    for backend, blocks in (("lapack", 2), ("cuda", 1)):
        rows, cells = block_and_partition(
            expression, atlas.field, make_options(atlas.field, backend=backend), None
        )
        assert cells == blocks * rows


def test_the_stand_in_refuses_what_cupy_refuses(gpu: FakeGpu) -> None:
    array = DeviceArray(np.ones(3))
    for wrong in (
        lambda: array + np.ones(3),
        lambda: np.asarray(array),
        lambda: np.where(array > 0, array, np.ones(3)),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(AssertionError):
        array[np.array([0, 1])]
    gpu.largest = 8
    with pytest.raises(OutOfMemoryError):
        DeviceArray(np.ones(3))
    assert int(Status.OK) == 0


def test_knockouts(gpu: FakeGpu) -> None:
    atlas = random_atlas(3, n_cells=12, n_genes=9, n_regulators=6, broken=(2,))
    there = sd.knockouts(atlas.cells(), atlas.field, order=2, backend="cuda")
    here = sd.knockouts(atlas.cells(), atlas.field, order=2, backend="lapack")
    assert there.attrs["backend"] == "cuda"
    for name in ("knockout_abscissa", "abscissa", "predicted_shift"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-9, atol=1e-9)
    for name in ("knockout_unstable_count", "status"):
        np.testing.assert_array_equal(there[name], here[name])
