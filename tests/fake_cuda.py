"""Stand-ins for CuPy, dask-cuda, NVML and RMM, for tests of what surrounds a GPU on machines that have none.

They answer what stabdask asks of the real ones, with the names and types that CuPy 14.2, dask-cuda 26.10 and
nvidia-ml-py 13 use; none of them computes anything on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from distributed import LocalCluster

GB = 10**9


class CUDARuntimeError(RuntimeError):
    """Stands for ``cupy.cuda.runtime.CUDARuntimeError``, which carries CUDA's code as `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


NO_DRIVER = CUDARuntimeError(
    35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
)
NO_DEVICE = CUDARuntimeError(100, "cudaErrorNoDevice: no CUDA-capable device is detected")


@dataclass
class FakeRuntime:
    """Stands for ``cupy.cuda.runtime``; `problem` is what CUDA raises where a device is asked for."""

    names: tuple[str, ...] = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")
    problem: Exception | None = None
    driver: int = 13000
    memory_problem: Exception | None = None
    is_hip: bool = False
    current: list[int] = field(default_factory=list)

    def driverGetVersion(self) -> int:
        return self.driver

    def runtimeGetVersion(self) -> int:
        return 13020

    def getDeviceCount(self) -> int:
        if self.problem is not None:
            raise self.problem
        return len(self.names)

    def getDeviceProperties(self, index: int) -> dict[str, Any]:
        return {
            "name": self.names[index].encode(),
            "major": 9,
            "minor": 0,
            "totalGlobalMem": 80 * GB,
            "multiProcessorCount": 132,
            "sharedMemPerBlock": 48 * 1024,
            "sharedMemPerBlockOptin": 227 * 1024,
        }

    def memGetInfo(self) -> tuple[int, int]:
        if self.memory_problem is not None:
            raise self.memory_problem
        return (70 + self.current[-1]) * GB, 80 * GB


def fake_cupy(runtime: FakeRuntime) -> ModuleType:
    """Return a stand-in for CuPy over a runtime."""

    @contextmanager
    def device(index: int) -> Iterator[None]:
        runtime.current.append(index)
        yield
        runtime.current.pop()

    return _module("cupy", __version__="14.2.0", cuda=SimpleNamespace(runtime=runtime, Device=device))


class LocalCUDACluster(LocalCluster):
    """Stands for dask-cuda's cluster: starts plain workers, and remembers what it was asked for."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        n_workers: int | None = None,
        rmm_pool_size: int | None = None,
        rmm_allocator_external_lib_list: list[str] | None = None,
        **options: Any,
    ) -> None:
        pool = {"rmm_pool_size": rmm_pool_size, "rmm_for": rmm_allocator_external_lib_list}
        self.asked.append({"n_workers": n_workers, **pool, **options})
        super().__init__(n_workers=n_workers, processes=True, **options)


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    return module


@dataclass
class FakeCuda:
    """A pretended host; methods put parts of it in place or take them away."""

    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def nothing(self) -> None:
        """Pretend that neither driver nor any library of CUDA is here."""
        self.monkeypatch.setattr("stabdask.kernels.device._DRIVER", self.folder / "no-driver")
        self.monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.hide("cupy", "dask_cuda", "pynvml", "rmm")

    def hide(self, *names: str) -> None:
        for name in names:
            self.monkeypatch.setitem(sys.modules, name, None)

    def show(self, module: ModuleType) -> None:
        self.monkeypatch.setitem(sys.modules, module.__name__, module)

    def cupy(self, runtime: FakeRuntime | None = None) -> FakeRuntime:
        runtime = FakeRuntime() if runtime is None else runtime
        self.show(fake_cupy(runtime))
        return runtime

    def dask_cuda(self) -> list[dict[str, Any]]:
        """Put dask-cuda and NVML in place; return the list of what clusters will be asked for."""
        self.monkeypatch.setattr(LocalCUDACluster, "asked", [])
        self.show(_module("dask_cuda", LocalCUDACluster=LocalCUDACluster))
        self.show(_module("pynvml", nvmlInit=lambda: None))
        return LocalCUDACluster.asked

    def rmm(self) -> None:
        self.show(_module("rmm"))

    def driver(self, n_gpus: int = 2) -> None:
        """Pretend that Linux tells of a driver, as its files under /proc do."""
        folder = self.folder / "driver"
        for number in range(n_gpus):
            (folder / "gpus" / f"0000:{number:02d}:00.0").mkdir(parents=True)
        (folder / "version").write_text(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
        )
        self.monkeypatch.setattr("stabdask.kernels.device._DRIVER", folder)
