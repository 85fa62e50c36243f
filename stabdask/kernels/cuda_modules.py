"""CUDA source of the eigensolver, its compilation through CuPy, and CuPy's errors in words.

The source is that of the CPU: the headers in ``lanes/``, put together into one text. CuPy compiles it with NVRTC at
the first use on a machine and keeps the machine code on disk, under a hash of text and options; includes would not
be part of that hash.
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import BackendUnavailableError, GpuError, MemoryBudgetError
from stabdask.kernels.cuda_launch import Launch
from stabdask.kernels.device import Gpu, require_gpus, survey_gpus

__all__ = [
    "ENTRY",
    "OPTIONS",
    "Kernel",
    "cuda_source",
    "current_gpu",
    "definitions",
    "guarded",
    "load_kernel",
    "on_gpu",
]

ENTRY = "lanes_solve"
"""Name of the kernel."""

OPTIONS = ("--std=c++17", "--fmad=false")
"""Compiler options. Every multiply-add that may be fused is written as one; no other is."""

_NUMBERS = {"float32": "float", "float64": "double"}
_INCLUDE = re.compile(r'#include "([\w.]+)"')

_kernels: dict[tuple[int, str, str, bool, int], Any] = {}
_lock = threading.Lock()


@functools.cache
def cuda_source() -> str:
    """Return ``lanes/device.cuh`` with everything it includes, each file once; lines keep their names and numbers."""
    seen: set[str] = set()

    def lines(name: str) -> Iterator[str]:
        seen.add(name)
        yield f'#line 1 "{name}"'
        text = (files("stabdask.kernels.lanes") / name).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            included = _INCLUDE.fullmatch(line)
            if included is not None and included[1] not in seen:
                yield from lines(included[1])
                yield f'#line {number + 1} "{name}"'
            else:
                yield "" if included is not None or line == "#pragma once" else line

    return "\n".join(lines("device.cuh")) + "\n"


def definitions(dtype: npt.DTypeLike, launch: Launch) -> tuple[str, ...]:
    """Return the options that choose one kernel of the source."""
    return (
        f"-DLANES_NUMBER={_NUMBERS[np.dtype(dtype).name]}",
        f"-DLANES_TASK={int(launch.task)}",
        f"-DLANES_TEAM={launch.team}",
        f"-DLANES_IN_SHARED={str(launch.in_shared).lower()}",
    )


@functools.cache
def _gpus() -> tuple[Gpu, ...]:
    return survey_gpus().gpus


def current_gpu() -> Gpu:
    """Return the GPU that this thread uses."""
    cupy = importlib.import_module("cupy")
    number = int(cupy.cuda.runtime.getDevice())
    found = _gpus()
    if number >= len(found):
        raise BackendUnavailableError(
            f"the current GPU is number {number}, but {len(found)} can be used here; 'stabdask doctor' shows which"
        )
    return found[number]


@dataclass(frozen=True)
class Kernel:
    """A kernel loaded on one GPU, for one launch."""

    function: Any
    launch: Launch
    gpu: Gpu

    def resident_blocks(self) -> int:
        """Return how many blocks the GPU holds at once."""
        driver = importlib.import_module("cupy").cuda.driver
        with guarded(str(self.launch), self.gpu):
            each = driver.occupancyMaxActiveBlocksPerMultiprocessor(
                self.function.kernel.ptr, self.launch.threads, self.launch.shared_bytes
            )
        if not each:
            raise GpuError(
                f"{self.gpu.name} (number {self.gpu.index}) has no room for one block of the kernel for {self.launch}, "
                f"which takes {self.launch.shared_bytes:,} bytes of shared memory; expected at least one. "
                "Use the backend 'lanes' or 'lapack' there, and report this"
            )
        return int(each) * self.gpu.n_multiprocessors

    def start(self, blocks: int, arguments: tuple[Any, ...]) -> None:
        """Start it on the current stream."""
        launch = self.launch
        with guarded(str(launch), self.gpu):
            self.function((blocks,), (launch.threads,), arguments, shared_mem=launch.shared_bytes)


def load_kernel(dtype: npt.DTypeLike, launch: Launch, gpu: Gpu) -> Kernel:
    """Return the kernel for a launch on the current GPU, compiled if it has never been used on this machine.

    Raises
    ------
    BackendUnavailableError
        If it cannot be compiled or loaded; the message holds the compiler's first words.
    """
    key = (gpu.index, np.dtype(dtype).name, launch.team, launch.in_shared, int(launch.task))
    with _lock:
        if key not in _kernels:
            _kernels[key] = _compile(dtype, launch, gpu)
        return Kernel(_kernels[key], launch, gpu)


def _compile(dtype: npt.DTypeLike, launch: Launch, gpu: Gpu) -> Any:
    cupy = importlib.import_module("cupy")
    options = OPTIONS + definitions(dtype, launch)
    try:
        function = cupy.RawModule(code=cuda_source(), options=options).get_function(ENTRY)
        # More than 48 KB have to be asked for; what a launch takes is up to the launch.
        function.max_dynamic_shared_size_bytes = gpu.shared_memory_bytes
        # Shared memory and the first cache are one: as much of it as can be for whichever holds the matrix.
        function.preferred_shared_memory_carveout = 100 if launch.in_shared else 0
    except Exception as error:  # of the compiler, of loading NVRTC, or of the driver
        shown = str(error).strip()[:1500]
        raise BackendUnavailableError(
            f"the kernel for {launch} cannot be compiled and loaded on {gpu.name} (number {gpu.index}, {gpu.arch}): "
            f'{type(error).__name__}: {shown}; expected CuPy with its NVRTC (pip install "cupy-cuda13x[ctk]", or the '
            "same for cuda12x) and a GPU of compute capability 7.5 or later. Until then use the backend 'lanes'"
        ) from error
    return function


@contextmanager
def guarded(what: str, gpu: Gpu) -> Iterator[None]:
    """Turn errors of CUDA into `GpuError`; running out of memory stays a MemoryError."""
    cupy = importlib.import_module("cupy")
    try:
        yield
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
        raise GpuError(
            f"{gpu.name} (number {gpu.index}) failed at {what}: {error}. Nothing of this batch is kept, and this "
            "process may not be able to use the GPU any more: start the run again, which resumes; 'nvidia-smi' and "
            "the kernel log (Xid) tell of broken hardware; backend='lanes' does without a GPU"
        ) from error


@contextmanager
def on_gpu(what: str, cure: str) -> Iterator[Any]:
    """Give CuPy, for work on the current GPU.

    Parameters
    ----------
    what
        The work in words, for messages.
    cure
        What to do where its memory is too small, the end of a sentence.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU that can be used.
    GpuError
        If it fails.
    MemoryBudgetError
        If its memory is too small.
    """
    if not _gpus():
        require_gpus()
    gpu = current_gpu()
    try:
        with guarded(what, gpu):
            yield importlib.import_module("cupy")
    except MemoryError as error:
        raise MemoryBudgetError(
            f"{what} does not fit in what is free of the {gpu.memory_bytes / 1e9:.3g} GB of {gpu.name} (number "
            f"{gpu.index}): {error}; {cure}"
        ) from error
