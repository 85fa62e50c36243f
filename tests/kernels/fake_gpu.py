"""A stand-in for CuPy whose arrays lie on the host and whose kernel is that of the GPU, run on this CPU (device.cpp).

What stabdask.kernels.cuda asks of CuPy 14 is here under the same names; anything else fails.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_cuda import CUDARuntimeError, FakeCuda, FakeRuntime, fake_cupy
from kernels.device_array import DeviceArray, OutOfMemoryError, add_functions

__all__ = ["CUDADriverError", "FakeGpu", "OutOfMemoryError", "compile_device"]

_LANES = Path(__file__).parents[2] / "stabdask" / "kernels" / "lanes"


class CUDADriverError(RuntimeError):
    """Stands for ``cupy.cuda.driver.CUDADriverError``."""


def compile_device(folder: Path) -> ctypes.CDLL:
    """Compile device.cpp, or skip the test where nothing does."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to compile the kernel for this CPU")
    library = folder / "device.so"
    flags = ("-std=c++20", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
    source = Path(__file__).with_name("device.cpp")
    command = [compiler, *flags, f"-I{_LANES}", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@dataclass
class FakeGpu:
    """A pretended GPU.

    Attributes
    ----------
    library
        Of `compile_device`; None for a kernel that only looks at its argument.
    free
        Bytes that it says are free.
    largest
        Bytes of the largest array that it gives memory for.
    resident
        Blocks that a multiprocessor holds.
    shared_limit
        Bytes of shared memory that a block can opt in to.
    launches, compiled, streams, waits
        What has been asked for: definitions, blocks, threads and shared bytes; options; streams; waits for the
        current stream.
    compile_problem, launch_problem, finish_problem
        Raised by the compiler, at a launch, when the stream is waited for.
    runs
        What runs in place of the kernel, given its argument.
    """

    library: ctypes.CDLL | None = None
    free: int = 10**9
    largest: int = 10**9
    resident: int = 2
    shared_limit: int = 232448
    launches: list[dict[str, Any]] = field(default_factory=list)
    compiled: list[tuple[str, ...]] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    compile_problem: Exception | None = None
    launch_problem: Exception | None = None
    finish_problem: Exception | None = None
    runs: Callable[[Any], None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "largest":
            DeviceArray.largest = value
        super().__setattr__(name, value)

    def install(self, host: FakeCuda) -> None:
        """Put the stand-in in place of CuPy."""
        runtime = FakeRuntime(names=("Pretend GPU",))
        module = fake_cupy(runtime)
        shown = runtime.getDeviceProperties

        def properties(index: int) -> dict[str, Any]:
            return {**shown(index), "sharedMemPerBlockOptin": self.shared_limit, "multiProcessorCount": 2}

        runtime.getDeviceProperties = properties  # type: ignore[method-assign]
        runtime.memGetInfo = lambda: (self.free, 10**12)  # type: ignore[method-assign]
        runtime.getDevice = lambda: 0  # type: ignore[attr-defined]
        runtime.CUDARuntimeError = CUDARuntimeError  # type: ignore[attr-defined]
        module.cuda.driver = SimpleNamespace(
            CUDADriverError=CUDADriverError,
            occupancyMaxActiveBlocksPerMultiprocessor=lambda _kernel, _threads, _shared: self.resident,
        )
        module.cuda.memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        module.cuda.Stream = self._stream
        module.cuda.get_current_stream = lambda: SimpleNamespace(
            synchronize=lambda: self.waits.append("stream")
        )
        self._arrays(module)
        module.RawModule = self._module  # type: ignore[attr-defined]
        host.show(module)

    def _arrays(self, module: ModuleType) -> None:
        add_functions(module)
        pool = SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
        module.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]

    def _stream(self, **options: Any) -> Any:
        gpu = self

        class Stream:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def synchronize(self) -> None:
                if gpu.finish_problem is not None:
                    raise gpu.finish_problem

        self.streams.append(options)
        return Stream()

    def _module(self, *, code: str, options: tuple[str, ...]) -> Any:
        if self.compile_problem is not None:
            raise self.compile_problem
        assert "lanes_solve" in code
        self.compiled.append(options)
        chosen = dict(
            match.groups() for match in map(re.compile(r"-DLANES_(\w+)=(\w+)").match, options) if match
        )

        def get_function(name: str) -> Any:
            assert name == "lanes_solve"
            return _Kernel(self, chosen)

        return SimpleNamespace(get_function=get_function)

    def run(self, chosen: dict[str, str], blocks: int, threads: int, shared: int, argument: Any) -> None:
        """Run the kernel that the definitions choose."""
        if self.launch_problem is not None:
            raise self.launch_problem
        self.launches.append({**chosen, "blocks": blocks, "threads": threads, "shared": shared})
        if self.runs is not None:
            self.runs(argument)
            return
        assert self.library is not None
        made = self.library.launch_kernel(
            chosen["NUMBER"] == "float",
            int(chosen["TASK"]),
            chosen["TEAM"] == "WarpTeam",
            chosen["IN_SHARED"] == "true",
            blocks,
            threads,
            shared,
            ctypes.c_void_p(argument.ctypes.data),
        )
        assert made, f"device.cpp does not compile this kernel: {chosen}"


class _Kernel:
    """Stands for ``cupy.RawKernel``."""

    def __init__(self, gpu: FakeGpu, chosen: dict[str, str]) -> None:
        self._gpu = gpu
        self._chosen = chosen
        self.kernel = SimpleNamespace(ptr=1)
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert (len(grid), len(block), len(args)) == (1, 1, 1)
        (argument,) = args
        assert argument.size == 1
        self._gpu.run(self._chosen, grid[0], block[0], shared_mem, argument)


@contextmanager
def fresh_caches() -> Iterator[None]:
    """Forget what `stabdask.kernels.cuda` remembers of GPUs, before and after."""
    from stabdask.kernels import cuda, cuda_modules

    def forget() -> None:
        cuda.available.cache_clear()
        cuda.why_not.cache_clear()
        cuda_modules._gpus.cache_clear()
        cuda_modules._kernels.clear()
        vars(cuda._streams).clear()

    forget()
    yield
    forget()
