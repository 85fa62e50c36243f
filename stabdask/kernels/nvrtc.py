"""CUDA source to PTX and CUBIN with NVRTC, the compiler that needs neither a GPU nor a driver.

NVRTC is one shared library: it comes in a wheel (``nvidia-cuda-nvrtc``, which the `cuda12` and `cuda13` extras
bring), with a CUDA toolkit, or with conda. It is opened here through ctypes wherever it lies, so that what runs
on a GPU is compiled, and its errors are seen, on machines that have none. It has no standard headers:
source for it guards its ``#include`` lines with ``__CUDACC_RTC__``.

The functions called are described in https://docs.nvidia.com/cuda/nvrtc/.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from stabdask.errors import BackendUnavailableError, UsageError

__all__ = ["CompilationError", "Compiled", "Nvrtc", "compile_cuda", "load_nvrtc"]

_MAJORS = (13, 12)
"""Major versions of CUDA that are looked for, the first first."""
_WHEEL_FOLDERS = {13: "nvidia/cu13/lib", 12: "nvidia/cuda_nvrtc/lib"}
_ARCH = re.compile(r"(?:sm|compute)_(\d+)[af]?")
_LOG_CHARACTERS = 4000


class CompilationError(BackendUnavailableError):
    """CUDA source that NVRTC refuses; the message holds its log."""


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a source.

    Attributes
    ----------
    name, arch
        As asked for.
    ptx
        PTX text, without a final NUL.
    cubin
        Machine code of one architecture, or None for a virtual one (``compute_90``).
    log
        Warnings; empty if there were none.
    lowered
        Mangled name of each name expression, by which a loaded module finds its kernel.
    nvrtc_version
        Of the compiler.
    """

    name: str
    arch: str
    ptx: bytes
    cubin: bytes | None
    log: str
    lowered: Mapping[str, str]
    nvrtc_version: tuple[int, int]


class Nvrtc:
    """An opened NVRTC library.

    Attributes
    ----------
    path
        Of the library, or the bare name under which the dynamic loader found it.
    version
        Major and minor.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.path = path
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def architectures(self) -> tuple[int, ...]:
        """Return the compute capabilities it compiles for, as in ``sm_<number>``."""
        n = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(n))
        numbers = (ctypes.c_int * n.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return tuple(numbers)

    def compile(
        self,
        source: str,
        *,
        name: str,
        arch: str,
        options: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        expressions: Sequence[str] = (),
    ) -> Compiled:
        """Compile with this library; see `compile_cuda`."""
        self._check_arch(arch)
        included = dict(headers or {})
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.encode(),
            name.encode(),
            len(included),
            _strings(included.values()),
            _strings(included),
        )
        try:
            for expression in expressions:
                self._call("nvrtcAddNameExpression", program, expression.encode())
            flags = (f"--gpu-architecture={arch}", *options)
            code = self._library.nvrtcCompileProgram(program, len(flags), _strings(flags))
            log = self._read(program, "ProgramLog").decode(errors="replace").strip()
            if code:
                raise CompilationError(self._refusal(name, arch, code, log))
            return Compiled(
                name=name,
                arch=arch,
                ptx=self._read(program, "PTX"),
                cubin=self._read(program, "CUBIN") if arch.startswith("sm_") else None,
                log=log,
                lowered={expression: self._lowered(program, expression) for expression in expressions},
                nvrtc_version=self.version,
            )
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _check_arch(self, arch: str) -> None:
        match = _ARCH.fullmatch(arch)
        if match is None:
            raise UsageError(f"arch={arch!r}; expected e.g. 'sm_90' for machine code or 'compute_90' for PTX")
        known = self.architectures()
        if int(match[1]) not in known:
            listed = ", ".join(f"sm_{number}" for number in known)
            raise UsageError(f"arch={arch!r}, but NVRTC {self._version_text} compiles for {listed}")

    @property
    def _version_text(self) -> str:
        return "{}.{}".format(*self.version)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise CompilationError(
                f"{function} of {self.path} failed with {self._explain(code)}; expected a whole NVRTC of CUDA 12 "
                "or 13 there: reinstall it"
            )

    def _explain(self, code: int) -> str:
        return bytes(self._library.nvrtcGetErrorString(code) or b"unknown error").decode()

    def _refusal(self, name: str, arch: str, code: int, log: str) -> str:
        shown = log[:_LOG_CHARACTERS]
        if len(log) > len(shown):
            shown += f"\n... and {len(log) - len(shown):,} more characters"
        text = f"NVRTC {self._version_text} refuses {name} for {arch} ({self._explain(code)}):\n{shown}"
        if "could not open source file" in log:
            text += (
                "\nNVRTC has no standard headers: pass the file in headers, or guard its #include with "
                "#ifndef __CUDACC_RTC__"
            )
        return text

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        """Return what ``nvrtcGet<what>`` writes, without the NUL that ends text."""
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        self._call(f"nvrtcGet{what}", program, buffer)
        data = buffer.raw[: size.value]
        return data if what == "CUBIN" else data.rstrip(b"\0")

    def _lowered(self, program: ctypes.c_void_p, expression: str) -> str:
        lowered = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(lowered))
        return (lowered.value or b"").decode()


def compile_cuda(
    source: str,
    *,
    name: str,
    arch: str,
    options: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    expressions: Sequence[str] = (),
) -> Compiled:
    """Compile CUDA C++ with the NVRTC of this installation; no GPU and no driver are needed.

    Parameters
    ----------
    source
        The source itself.
    name
        Its name in messages, e.g. ``"eig.cu"``.
    arch
        ``"sm_90"``: machine code for GPUs of compute capability 9.0, and PTX. ``"compute_90"``: PTX only,
        which a driver compiles for GPUs of capability 9.0 and later.
    options
        Options of the compiler, e.g. ``("--std=c++17", "--fmad=false")``.
    headers
        Contents of the files that the source includes, by the name it includes them under.
    expressions
        Instances of templates to compile, e.g. ``("solve<float>",)``; their mangled names are in ``lowered``.

    Returns
    -------
    Compiled

    Raises
    ------
    BackendUnavailableError
        If there is no NVRTC; the message says where it was looked for and what to install.
    CompilationError
        If the source does not compile.
    UsageError
        If `arch` is none that this NVRTC knows.
    """
    return load_nvrtc().compile(
        source, name=name, arch=arch, options=options, headers=headers, expressions=expressions
    )


def load_nvrtc() -> Nvrtc:
    """Open the NVRTC of this installation: that of CuPy's CUDA version if CuPy is installed, else the newest.

    Raises
    ------
    BackendUnavailableError
        If there is none, or none that opens.
    """
    problems = []
    for path in _candidates():
        try:
            return _open(path)
        except (OSError, AttributeError, CompilationError) as error:
            problems.append(str(error))
    raise BackendUnavailableError(
        "there is no NVRTC to compile CUDA source with: looked in Python's site-packages, CUDA_PATH, CUDA_HOME, "
        f"conda, /usr/local/cuda and where the dynamic loader looks ({'; '.join(problems)}); expected "
        "libnvrtc.so.13 or .12: pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12 (CUDA 12)"
    )


@functools.cache
def _open(path: str) -> Nvrtc:
    return Nvrtc(path)


def _candidates() -> Iterator[str]:
    """Give the places where NVRTC may be, best first: whole paths that exist, and names for the dynamic loader."""
    for major in sorted(_MAJORS, key=_cupy_is_for, reverse=True):
        file = f"libnvrtc.so.{major}"
        for folder in (*_wheel_folders(major), *_toolkit_folders()):
            if (folder / file).is_file():
                yield str(folder / file)
        yield file


def _cupy_is_for(major: int) -> bool:
    """Return whether the CuPy that is installed uses this major version: one process, one CUDA."""
    try:
        distribution(f"cupy-cuda{major}x")
    except PackageNotFoundError:
        return False
    return True


def _wheel_folders(major: int) -> list[Path]:
    return [Path(entry) / _WHEEL_FOLDERS[major] for entry in sys.path if entry]


def _toolkit_folders() -> list[Path]:
    compiler = shutil.which("nvcc")
    roots = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX")]
    roots += [str(Path(compiler).resolve().parents[1]) if compiler else None, "/usr/local/cuda"]
    below = ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")
    return [Path(root) / folder for root in roots if root for folder in below]


def _strings(texts: Iterable[str]) -> Any:
    """Return texts as an array of C strings; NULL if there are none."""
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded) if encoded else None
