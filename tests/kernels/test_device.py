"""What is told of GPUs, and refused without them; CuPy is a stand-in (tests/fake_cuda.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import GB, NO_DEVICE, NO_DRIVER, CUDARuntimeError, FakeCuda, FakeRuntime

from stabdask.errors import BackendUnavailableError
from stabdask.kernels.device import import_problem, require_gpus, survey_gpus


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    made = FakeCuda(monkeypatch, tmp_path)
    made.nothing()
    return made


def test_gpus_are_described(host: FakeCuda) -> None:
    host.cupy(FakeRuntime(names=("NVIDIA H100", "NVIDIA A100")))
    host.driver()
    found = survey_gpus()
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA H100", "NVIDIA A100"]
    assert [gpu.index for gpu in found.gpus] == [0, 1]
    first = found.gpus[0]
    assert (first.capability, first.arch) == ((9, 0), "sm_90")
    assert (first.memory_bytes, first.n_multiprocessors, first.shared_memory_bytes) == (80 * GB, 132, 232448)
    assert (found.why_not, found.cupy) == (None, "14.2.0")
    assert (found.driver, found.cuda_driver, found.cuda_runtime) == ("580.65.06", "13.0", "13.2")
    assert require_gpus() == found.gpus


def test_free_memory_is_asked_of_each_device_and_only_on_request(host: FakeCuda) -> None:
    runtime = host.cupy()
    assert [gpu.free_bytes for gpu in survey_gpus().gpus] == [None, None]
    assert [gpu.free_bytes for gpu in survey_gpus(free_memory=True).gpus] == [70 * GB, 71 * GB]
    runtime.memory_problem = CUDARuntimeError(46, "cudaErrorDevicesUnavailable")
    assert [gpu.free_bytes for gpu in survey_gpus(free_memory=True).gpus] == [None, None]


@pytest.mark.parametrize(
    ("runtime", "says"),
    [
        (FakeRuntime(problem=NO_DRIVER, driver=0), "CuPy 14.2.0 is here, but no NVIDIA driver"),
        (
            FakeRuntime(problem=NO_DRIVER, driver=12040),
            "(the driver supports CUDA 12.4, CuPy 14.2.0 uses 13.2)",
        ),
        (FakeRuntime(problem=NO_DEVICE), "a driver for CUDA 13.0 is here, but no GPU is visible"),
        (FakeRuntime(names=()), "no GPU is visible"),
        (FakeRuntime(is_hip=True), "CuPy 14.2.0 is built for ROCm; expected one for CUDA"),
    ],
    ids=["no driver", "old driver", "no device", "no visible device", "ROCm"],
)
def test_why_there_is_none(host: FakeCuda, runtime: FakeRuntime, says: str) -> None:
    host.cupy(runtime)
    found = survey_gpus()
    assert found.gpus == ()
    assert found.why_not is not None
    assert found.why_not.endswith(says)
    with pytest.raises(BackendUnavailableError) as caught:
        require_gpus()
    message = str(caught.value)
    assert says in message
    assert 'pip install "stabdask[cuda13]"' in message
    assert '"stabdask[cuda12]"' in message


def test_hidden_devices_are_named(host: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    host.cupy(FakeRuntime(problem=NO_DEVICE))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert str(survey_gpus().why_not).endswith("no GPU is visible (CUDA_VISIBLE_DEVICES is '')")


def test_without_cupy(host: FakeCuda) -> None:
    assert survey_gpus().why_not == "CuPy is not installed"
    host.driver()
    found = survey_gpus()
    assert found.why_not == "CuPy is not installed, though NVIDIA driver 580.65.06 with 2 GPU(s) is here"
    assert found.driver == "580.65.06"
    with pytest.raises(BackendUnavailableError, match="no GPU can be used here: CuPy is not installed"):
        require_gpus()


def test_a_cupy_that_does_not_import(host: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy")
    assert survey_gpus().why_not == (
        "CuPy is installed, but does not import: ImportError: libcudart.so.13: cannot open shared object file"
    )
    assert import_problem("no_such_module") == "is not installed"


def test_a_cupy_that_is_an_empty_folder(
    host: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cupy").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "cupy")
    assert str(survey_gpus().why_not).startswith("CuPy is damaged (module 'cupy' has no attribute")


def test_import_loads_no_gpu_library() -> None:
    code = (
        "import sys, stabdask.kernels.device, stabdask.kernels.nvrtc, stabdask.clusters; "
        "print(sorted({'cupy', 'pynvml', 'dask_cuda', 'rmm', 'cuda', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_a_real_gpu() -> None:
    found = survey_gpus(free_memory=True)
    assert found.why_not is None
    for gpu in found.gpus:
        assert gpu.name
        assert gpu.capability >= (6, 0)
        assert gpu.free_bytes is not None
        assert 0 < gpu.free_bytes <= gpu.memory_bytes
        assert gpu.shared_memory_bytes >= 48 * 1024
