"""``--gpu`` and what ``doctor`` tells of GPUs, compilers and the CPU kernel, over stand-ins (tests/fake_cuda.py)."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_cuda import FakeCuda, FakeRuntime
from small_atlas import Small

from stabdask.cli.main import main
from stabdask.errors import BackendUnavailableError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    made = FakeCuda(monkeypatch, tmp_path)
    made.nothing()
    return made


def job(small: Small, *more: str) -> list[str]:
    return [str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state", *more]


def doctor(capsys: Any, folder: Path, *more: str) -> str:
    assert main(["doctor", "--scratch", str(folder), *more]) == 0
    return str(capsys.readouterr().out)


def lanes(**facts: Any) -> ModuleType:
    """Return a stand-in for the compiled CPU kernel."""

    def answer(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    module = ModuleType("stabdask.kernels.lanes")
    for name, value in {"available": True, "instruction_set": "avx512", "why_not": None, **facts}.items():
        setattr(module, name, partial(answer, value))
    return module


def test_gpu_is_refused_before_any_work(bare: FakeCuda, small: Small, capsys: Any, tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    for command in (["run", *job(small, "--store", str(store))], ["plan", *job(small)]):
        assert main([*command, "--gpu"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("stabdask: error: no GPU can be used here: CuPy is not installed")
        assert 'pip install "stabdask[cuda13]"' in err
    assert not store.exists()


def test_gpu_runs_with_a_named_backend(bare: FakeCuda, small: Small, capsys: Any, tmp_path: Path) -> None:
    bare.cupy()
    bare.dask_cuda()
    more = ["--gpu", "--backend", "lapack", "--partition-cells", "100", "--json"]
    assert main(["plan", *job(small, *more)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["n_gpus"], planned["n_workers"]) == (2, 2)
    assert main(["run", *job(small, "--store", str(tmp_path / "out.zarr"), *more)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["n_workers"] == 2
    assert "memory from CuPy's own pool (rmm is not installed)" in err
    assert main(["run", *job(small, "--store", str(tmp_path / "o.zarr"), *more, "--workers", "3")]) == 2
    assert "workers=3, but 2 GPU(s) are visible" in capsys.readouterr().err


def test_doctor_lists_gpus(bare: FakeCuda, capsys: Any, tmp_path: Path) -> None:
    runtime = bare.cupy(FakeRuntime(names=("NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB")))
    bare.dask_cuda()
    bare.driver()
    found = json.loads(doctor(capsys, tmp_path, "--json"))["gpu"]
    first = found["devices"][0]
    assert first == {
        "index": 0,
        "name": "NVIDIA H100 PCIe",
        "capability": "9.0",
        "memory_bytes": 80 * 10**9,
        "free_bytes": 70 * 10**9,
        "n_multiprocessors": 132,
    }
    assert (found["driver"], found["cuda_driver"], found["cuda_runtime"]) == ("580.65.06", "13.0", "13.2")
    assert found["dask_cuda"]["why_not"] is None
    assert found["rmm"]["why_not"] == "rmm is not installed"
    text = doctor(capsys, tmp_path)
    assert "GPU 1        NVIDIA A100-SXM4-40GB, 71 GB free of 80 GB, compute capability 9.0, 132" in text
    assert "CUDA         driver 580.65.06 for CUDA 13.0; CuPy 14.2.0 with CUDA 13.2; dask-cuda" in text
    assert text.rstrip().splitlines()[-1].startswith("  ")
    runtime.memory_problem = RuntimeError("busy")
    assert "NVIDIA A100-SXM4-40GB, 80 GB, compute" in doctor(capsys, tmp_path)


def test_doctor_says_why_there_is_no_gpu(bare: FakeCuda, capsys: Any, tmp_path: Path) -> None:
    text = doctor(capsys, tmp_path)
    assert 'GPUs         none: CuPy is not installed; for GPUs pip install "stabdask[cuda13]"' in text
    found = json.loads(doctor(capsys, tmp_path, "--json"))["gpu"]
    assert found["devices"] == []
    assert found["why_not"] == "CuPy is not installed"
    assert found["dask_cuda"]["why_not"] == "dask-cuda is not installed"


def test_doctor_tells_of_nvrtc(
    bare: FakeCuda, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise BackendUnavailableError("there is no NVRTC; pip install it")

    class Compiler:
        version, path = (13, 5), "/somewhere/libnvrtc.so.13"

    monkeypatch.setattr("stabdask.kernels.nvrtc.load_nvrtc", missing)
    assert "NVRTC        there is no NVRTC; pip install it" in doctor(capsys, tmp_path)
    monkeypatch.setattr("stabdask.kernels.nvrtc.load_nvrtc", Compiler)
    assert "NVRTC        13.5 in /somewhere/libnvrtc.so.13" in doctor(capsys, tmp_path)
    found = json.loads(doctor(capsys, tmp_path, "--json"))["nvrtc"]
    assert found == {"version": "13.5", "library": "/somewhere/libnvrtc.so.13", "why_not": None}


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (lanes(), "CPU kernel   lanes (avx512)"),
        (
            lanes(available=False, why_not="no C++ compiler was found"),
            "CPU kernel   lanes not built: no C++ compiler was found; LAPACK is used",
        ),
        (
            lanes(instruction_set=BackendUnavailableError("avx512 cannot run here")),
            "CPU kernel   lanes cannot be used: avx512 cannot run here; LAPACK is used",
        ),
        (ModuleType("stabdask.kernels.lanes"), "CPU kernel   lanes not built: AttributeError: "),
    ],
    ids=["built", "not built", "not for this processor", "broken"],
)
def test_doctor_tells_of_the_cpu_kernel(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "stabdask.kernels.lanes", module)
    assert says in doctor(capsys, tmp_path)


def test_doctor_without_a_cpu_kernel(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stabdask.kernels.lanes", None)
    assert "CPU kernel" not in doctor(capsys, tmp_path)
    assert json.loads(doctor(capsys, tmp_path, "--json"))["lanes"] is None
