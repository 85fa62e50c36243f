"""Co-moments on a GPU: the same as on the host, its errors in words. With ``-m gpu`` through CuPy on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from fake_cuda import CUDARuntimeError, FakeCuda
from kernels.device_array import DeviceArray
from kernels.fake_gpu import FakeGpu, fresh_caches

import stabdask as sd
from stabdask.analysis.network import CoMoments, cell_moments
from stabdask.errors import BackendUnavailableError, GpuError, InputError, MemoryBudgetError


def atlas() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    x = rng.gamma(1.0, 2.0, (300, 7)).astype(np.float32)
    x[:, 3] = 2.5  # does not vary
    obs = pd.DataFrame({"state": rng.choice(["a", "b"], len(x))}, index=[f"c{i}" for i in range(len(x))])
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(7)]))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGpu]:
    host = FakeCuda(monkeypatch, tmp_path)
    host.nothing()
    with fresh_caches():
        made = FakeGpu()
        made.install(host)
        yield made


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def any_gpu(request: pytest.FixtureRequest) -> None:
    if request.param == "stand-in":
        request.getfixturevalue("gpu")


def assert_same(found: CoMoments, expected: CoMoments) -> None:
    assert (found.count, found.n_skipped) == (expected.count, expected.n_skipped)
    for name in ("mean", "comoment", "third", "fourth"):
        value = getattr(expected, name)
        assert type(getattr(found, name)) is type(value), name
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=1e-11, atol=1e-11 * np.abs(value).max(), err_msg=name
        )


@pytest.mark.usefixtures("any_gpu")
@pytest.mark.parametrize("fourth", [True, False])
def test_the_same_as_on_the_host(monkeypatch: pytest.MonkeyPatch, fourth: bool) -> None:
    # Several stretches, slabs that fill up and one that does not.
    monkeypatch.setattr(cell_moments, "_STRETCH_CELLS", 130)
    monkeypatch.setattr(cell_moments, "_STRETCH_CELLS_OF_LABEL", 60)
    monkeypatch.setattr(cell_moments, "slab_rows", lambda *_: 50)
    cells = sd.open_cells(atlas(), cluster_key="state", block_cells=64)
    found = CoMoments.from_cells(cells, gpu=True, fourth=fourth)
    expected = CoMoments.from_cells(cells, fourth=fourth)
    if fourth:
        assert_same(found, expected)
        assert sd.network.shrink(found, "ledoit-wolf").amount == pytest.approx(
            sd.network.shrink(expected, "ledoit-wolf").amount, rel=1e-9
        )
    else:
        assert (found.third, found.fourth) == (None, None)
        np.testing.assert_allclose(found.comoment, expected.comoment, rtol=1e-11, atol=1e-9)
    assert found.constant.tolist() == [i == 3 for i in range(7)]
    ours, theirs = (CoMoments.from_cells(cells, by="cluster", gpu=where) for where in (True, False))
    assert list(ours) == list(theirs) == ["a", "b"]
    for label in ours:
        assert_same(ours[label], CoMoments.from_cells(cells, by="cluster")[label])


def test_it_is_multiplied_there(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = DeviceArray.__matmul__
    monkeypatch.setattr(
        DeviceArray, "__matmul__", lambda a, b: made.append(a.shape) or original(a, b), raising=False
    )
    CoMoments.from_cells(sd.open_cells(atlas()), gpu=True)
    assert made


def test_cells_that_are_not_finite(gpu: FakeGpu) -> None:
    adata = atlas()
    adata.X[5, 2] = np.nan
    cells = sd.open_cells(adata, cluster_key="state")
    assert CoMoments.from_cells(cells, gpu=True, missing="skip").n_skipped == 1
    with pytest.raises(InputError, match=r"'c5', number 5 of 300"):
        CoMoments.from_cells(cells, gpu=True)


def test_memory_that_is_too_small(gpu: FakeGpu) -> None:
    gpu.largest = 300
    with pytest.raises(MemoryBudgetError, match=r"7 genes for each of 2 labels does not fit .* gpu=False"):
        CoMoments.from_cells(sd.open_cells(atlas(), cluster_key="state"), by="cluster", gpu=True)


def test_a_gpu_that_fails(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CUDARuntimeError(700, "cudaErrorIllegalAddress")

    monkeypatch.setattr(cell_moments, "finite_rows", fail)
    with pytest.raises(GpuError, match=r"failed at one co-moment matrix of 7 genes: cudaErrorIllegalAddress"):
        CoMoments.from_cells(sd.open_cells(atlas()), gpu=True)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeCuda(monkeypatch, tmp_path).nothing()
    with fresh_caches(), pytest.raises(BackendUnavailableError, match="no GPU can be used here"):
        CoMoments.from_cells(sd.open_cells(atlas()), gpu=True)
