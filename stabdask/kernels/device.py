"""Which GPUs this machine has, asked through CuPy; what is missing is told, and raised only where it is needed.

CuPy imports without a GPU or a driver, so "CuPy is there" and "a GPU is there" are two questions. Neither the
import of this module nor `survey_gpus` ever raises.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stabdask.errors import BackendUnavailableError

__all__ = ["GPU_INSTALL_HINT", "Gpu", "GpuSurvey", "import_problem", "require_gpus", "survey_gpus"]

GPU_INSTALL_HINT = (
    'pip install "stabdask[cuda13]", or "stabdask[cuda12]" where the NVIDIA driver is older than version 580'
)
_DRIVER = Path("/proc/driver/nvidia")
_NO_DEVICE = 100  # cudaErrorNoDevice


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes
    ----------
    index
        Its number among the visible devices.
    name
        As the driver calls it.
    capability
        Compute capability, major and minor.
    memory_bytes
        Of the device.
    free_bytes
        Of that, free now; None if that was not asked for or could not be found out.
    n_multiprocessors
        Streaming multiprocessors.
    shared_memory_bytes
        The most shared memory that one block can opt in to.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int | None
    n_multiprocessors: int
    shared_memory_bytes: int

    @property
    def arch(self) -> str:
        """The architecture to compile for.

        Examples
        --------
        >>> Gpu(0, "NVIDIA H100", (9, 0), 80 * 10**9, None, 132, 227 * 1024).arch
        'sm_90'
        """
        major, minor = self.capability
        return f"sm_{major}{minor}"


@dataclass(frozen=True)
class GpuSurvey:
    """What a look for GPUs found.

    Attributes
    ----------
    gpus
        The devices that can be used.
    why_not
        Why there are none; None where there are some.
    cupy
        Version of CuPy, or None if it is not installed or does not import.
    driver
        Version of the NVIDIA driver, or None where it is not loaded or not told.
    cuda_driver, cuda_runtime
        CUDA version that the driver supports and that CuPy uses, e.g. ``"13.0"``; None where unknown.
    """

    gpus: tuple[Gpu, ...] = ()
    why_not: str | None = None
    cupy: str | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    cuda_runtime: str | None = None


def survey_gpus(*, free_memory: bool = False) -> GpuSurvey:
    """Look for GPUs that can be used from this process; never raises.

    Parameters
    ----------
    free_memory
        Whether to ask how much memory is free. That makes a CUDA context on every device, which takes a second
        and some of its memory: for looking, not before a run.
    """
    driver, n_devices = _kernel_driver()
    problem = import_problem("cupy")
    if problem is not None:
        seen = f", though NVIDIA driver {driver} with {n_devices} GPU(s) is here" if driver else ""
        return GpuSurvey(why_not=f"CuPy {problem}{seen}", driver=driver)
    cupy = importlib.import_module("cupy")
    try:
        found = GpuSurvey(cupy=str(cupy.__version__), driver=driver)
        runtime = cupy.cuda.runtime
    except AttributeError as error:  # the folder that an uninstalled CuPy may leave behind imports too
        return GpuSurvey(why_not=f"CuPy is damaged ({error}); reinstall it", driver=driver)
    if getattr(runtime, "is_hip", False):
        return replace(found, why_not=f"CuPy {found.cupy} is built for ROCm; expected one for CUDA")
    supported, used = _version(runtime.driverGetVersion), _version(runtime.runtimeGetVersion)
    found = replace(found, cuda_driver=supported, cuda_runtime=used)
    try:
        n_gpus = int(runtime.getDeviceCount())
        gpus = tuple(_describe(cupy, index, free_memory) for index in range(n_gpus))
    except Exception as error:  # whatever CUDA says here, there is no GPU to use
        return replace(found, why_not=_reason(error, found))
    return replace(found, gpus=gpus, why_not=None if gpus else "no GPU is visible" + _visible_devices())


def require_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine.

    Raises
    ------
    BackendUnavailableError
        If there is none that can be used; the message says what was found and what to install.
    """
    found = survey_gpus()
    if not found.gpus:
        raise BackendUnavailableError(
            f"no GPU can be used here: {found.why_not}; expected an NVIDIA GPU with its driver, and CuPy: "
            f"{GPU_INSTALL_HINT}. 'stabdask doctor' shows what is here"
        )
    return found.gpus


def import_problem(module: str) -> str | None:
    """Return why a module cannot be imported, as the end of a sentence, or None if it can.

    Examples
    --------
    >>> import_problem("math") is None
    True
    >>> import_problem("no_such_module")
    'is not installed'
    """
    try:
        if find_spec(module) is None:
            return "is not installed"
        importlib.import_module(module)
    except Exception as error:  # libraries of CUDA that do not fit each other fail in many ways
        return f"is installed, but does not import: {type(error).__name__}: {error}"
    return None


def _describe(cupy: Any, index: int, free_memory: bool) -> Gpu:
    facts = cupy.cuda.runtime.getDeviceProperties(index)
    name = facts["name"]
    return Gpu(
        index=index,
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        capability=(int(facts["major"]), int(facts["minor"])),
        memory_bytes=int(facts["totalGlobalMem"]),
        free_bytes=_free_bytes(cupy, index) if free_memory else None,
        n_multiprocessors=int(facts["multiProcessorCount"]),
        shared_memory_bytes=int(facts.get("sharedMemPerBlockOptin", facts["sharedMemPerBlock"])),
    )


def _free_bytes(cupy: Any, index: int) -> int | None:
    try:
        with cupy.cuda.Device(index):
            free, _ = cupy.cuda.runtime.memGetInfo()
    except Exception:  # a device in exclusive use, or full
        return None
    return int(free)


def _reason(error: Exception, found: GpuSurvey) -> str:
    """Return why CUDA found no device."""
    if found.cuda_driver is None:
        return f"CuPy {found.cupy} is here, but no NVIDIA driver" + (
            f" that it can talk to (version {found.driver} is loaded)" if found.driver else ""
        )
    if getattr(error, "status", None) == _NO_DEVICE:
        return f"a driver for CUDA {found.cuda_driver} is here, but no GPU is visible{_visible_devices()}"
    return (
        f"CUDA fails with {error} (the driver supports CUDA {found.cuda_driver}, CuPy {found.cupy} uses "
        f"{found.cuda_runtime})"
    )


def _visible_devices() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"


def _version(ask: Callable[[], int]) -> str | None:
    """Return a CUDA version as people write it, from the 1000 * major + 10 * minor that CUDA gives."""
    try:
        number = int(ask())
    except Exception:
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _kernel_driver() -> tuple[str | None, int]:
    """Return the version of the loaded NVIDIA driver and its number of GPUs, as Linux tells them."""
    try:
        text = (_DRIVER / "version").read_text()
        n_devices = len(list((_DRIVER / "gpus").iterdir()))
    except OSError:
        return None, 0
    match = re.search(r"\d+\.\d+(\.\d+)?", text)
    return (match[0] if match else "of unknown version"), n_devices
