"""CUDA source compiles here, without a GPU, for the GPUs that are meant."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stabdask.errors import BackendUnavailableError, UsageError
from stabdask.kernels import nvrtc
from stabdask.kernels.nvrtc import CompilationError, Compiled, Nvrtc, compile_cuda, load_nvrtc

EM_CUDA = 190  # machine number of a CUBIN, which is an ELF file

HEADER = """
#ifndef __CUDACC_RTC__
#include <cstddef>
#endif
template <typename T> __device__ inline T twice(T x) { return x + x; }
"""
SOURCE = """
#include "twice.hpp"
template <typename T> __global__ void doubled(T* x, long long n) {
    long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i < n) x[i] = twice(x[i]);
}
"""


@pytest.fixture(scope="module")
def compiler() -> Nvrtc:
    """Give NVRTC; where there is none, say so and skip."""
    try:
        return load_nvrtc()
    except BackendUnavailableError as error:
        pytest.skip(f"nothing compiles CUDA source here: {error}")


def doubled(arch: str) -> Compiled:
    return compile_cuda(
        SOURCE,
        name="doubled.cu",
        arch=arch,
        options=("--std=c++17",),
        headers={"twice.hpp": HEADER},
        expressions=("doubled<float>", "doubled<double>"),
    )


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_machine_code(compiler: Nvrtc, arch: str) -> None:
    made = doubled(arch)
    assert made.cubin is not None
    assert made.cubin[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", made.cubin, 18) == (EM_CUDA,)
    assert f".target {arch}".encode() in made.ptx
    assert set(made.lowered) == {"doubled<float>", "doubled<double>"}
    for mangled in made.lowered.values():
        assert mangled.encode() in made.cubin
        assert f".entry {mangled}".encode() in made.ptx
    assert made.ptx[-1] != 0
    assert (made.log, made.arch, made.nvrtc_version) == ("", arch, compiler.version)
    assert doubled(arch).cubin == made.cubin


def test_a_virtual_architecture_gives_ptx_alone(compiler: Nvrtc) -> None:
    made = doubled("compute_90")
    assert made.cubin is None
    assert b".target sm_90" in made.ptx


def test_warnings_are_kept(compiler: Nvrtc) -> None:
    source = "__global__ void k(int* x) { int unused; x[0] = 1; }"
    assert "unused" in compile_cuda(source, name="w.cu", arch="sm_90").log


def test_an_error_shows_the_log(compiler: Nvrtc) -> None:
    with pytest.raises(CompilationError) as caught:
        compile_cuda("__global__ void k(int* x) { x[0] = missing; }", name="wrong.cu", arch="sm_90")
    message = str(caught.value)
    assert 'wrong.cu(1): error: identifier "missing" is undefined' in message
    assert "refuses wrong.cu for sm_90 (NVRTC_ERROR_COMPILATION)" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_an_error_in_a_header_names_the_header(compiler: Nvrtc) -> None:
    with pytest.raises(CompilationError, match=r'own\.hpp\(1\): error: identifier "missing" is undefined'):
        compile_cuda('#include "own.hpp"', name="k.cu", arch="sm_90", headers={"own.hpp": "int y = missing;"})


def test_a_missing_header_is_explained(compiler: Nvrtc) -> None:
    with pytest.raises(CompilationError, match="NVRTC has no standard headers: pass the file in headers"):
        compile_cuda("#include <no_such_header>", name="k.cu", arch="sm_90")


def test_long_logs_are_cut(compiler: Nvrtc) -> None:
    source = "\n".join(f"int x{n} = missing{n};" for n in range(90))
    with pytest.raises(CompilationError, match=r"and [0-9,]+ more characters") as caught:
        compile_cuda(source, name="k.cu", arch="sm_90")
    assert len(str(caught.value)) < 4500


def test_options_and_expressions_are_checked_by_nvrtc(compiler: Nvrtc) -> None:
    with pytest.raises(CompilationError, match="unrecognized option --nonsense"):
        compile_cuda("", name="k.cu", arch="sm_90", options=("--nonsense",))
    with pytest.raises(CompilationError, match='identifier "nothing" is undefined'):
        compile_cuda("", name="k.cu", arch="sm_90", expressions=("nothing<int>",))


def test_unknown_architectures_are_refused(compiler: Nvrtc) -> None:
    with pytest.raises(UsageError, match=r"arch='sm_20', but NVRTC [0-9.]+ compiles for sm_"):
        compile_cuda("", name="k.cu", arch="sm_20")
    for arch in ("hopper", "90", "sm_", "sm_90 --x"):
        with pytest.raises(UsageError, match=r"expected e\.g\. 'sm_90' for machine code"):
            compile_cuda("", name="k.cu", arch=arch)


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_MAJORS", (98, 97))
    monkeypatch.setattr(nvrtc, "_WHEEL_FOLDERS", {98: "nowhere", 97: "nowhere"})
    with pytest.raises(BackendUnavailableError) as caught:
        compile_cuda(SOURCE, name="k.cu", arch="sm_90")
    message = str(caught.value)
    assert "libnvrtc.so.98: cannot open shared object file" in message
    assert "pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12 (CUDA 12)" in message
    assert not isinstance(caught.value, CompilationError)


def test_a_library_that_is_no_nvrtc_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: Nvrtc
) -> None:
    text = tmp_path / "libnvrtc.so.13"
    text.write_text("not a library")

    def candidates() -> Iterator[str]:
        yield str(text)
        yield "libc.so.6"
        yield compiler.path

    monkeypatch.setattr(nvrtc, "_candidates", candidates)
    assert load_nvrtc() is compiler
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter([str(text), "libc.so.6"]))
    with pytest.raises(BackendUnavailableError, match=r"invalid ELF header|file too short"):
        load_nvrtc()


def test_the_cuda_of_cupy_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    both = [tmp_path / "nvidia/cu13/lib/libnvrtc.so.13", tmp_path / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"]
    for path in both:
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert [path for path in nvrtc._candidates() if path.startswith(str(tmp_path))] == list(map(str, both))
    (tmp_path / "cupy_cuda12x-14.2.0.dist-info").mkdir()
    (tmp_path / "cupy_cuda12x-14.2.0.dist-info" / "METADATA").write_text(
        "Name: cupy-cuda12x\nVersion: 14.2.0\n"
    )
    assert next(iter(nvrtc._candidates())) == str(both[1])
    toolkit = tmp_path / "toolkit" / "lib64" / "libnvrtc.so.12"
    toolkit.parent.mkdir(parents=True)
    toolkit.touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "toolkit"))
    assert str(toolkit) in nvrtc._candidates()
