"""What surrounds the kernels: batches, memory, errors, caches; the kernel itself on a CPU that plays GPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import CUDARuntimeError, FakeCuda
from kernels.fake_gpu import CUDADriverError, FakeGpu, fresh_caches
from kernels.matrices import FAMILIES, matrix
from kernels.measures import Problem
from numpy.testing import assert_array_equal

from stabdask.errors import (
    BackendUnavailableError,
    GpuError,
    MemoryBudgetError,
    StabdaskWarning,
    UsageError,
)
from stabdask.kernels import cuda, cuda_engine
from stabdask.kernels.arrays import to_host
from stabdask.kernels.cuda_engine import ARGUMENTS
from stabdask.kernels.cuda_launch import plan_launch, size_groups
from stabdask.kernels.cuda_results import DeviceResults, judge
from stabdask.kernels.eig import eig
from stabdask.kernels.results import EigResult, Results
from stabdask.kernels.scaled import ScaledSystem, gather_cores
from stabdask.schema import Status

Array = np.ndarray[Any, Any]

FEW = ("normal", "hopfield_sparse", "repeated_rotated", "graded_1e12", "block_triangular", "jordan", "zero")
OUTPUTS = ("eigenvalues", "right", "left", "overlap", "residual", "trace_defect", "outcome")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCuda]:
    made = FakeCuda(monkeypatch, tmp_path)
    made.nothing()
    with fresh_caches():
        yield made


@pytest.fixture
def gpu(host: FakeCuda, library: ctypes.CDLL) -> FakeGpu:
    made = FakeGpu(library)
    made.install(host)
    return made


@pytest.fixture
def idle(host: FakeCuda) -> FakeGpu:
    """Give a GPU whose kernel only says that all has been solved."""

    def run(argument: Any) -> None:
        members = (ctypes.c_int64 * int(argument["count"][0])).from_address(int(argument["members"][0]))
        for b in members:
            ctypes.c_uint8.from_address(int(argument["outcome"][0]) + b).value = 0

    made = FakeGpu(runs=run)
    made.install(host)
    return made


def mixed(names: tuple[str, ...], largest: int, dtype: str = "float64", seed: int = 0) -> tuple[Array, Array]:
    """Return matrices of many orders, 0 and the largest among them, with NaN past their orders."""
    sizes = np.random.default_rng(seed).integers(1, largest + 1, size=len(names))
    sizes[0], sizes[-1] = largest, 0
    cores = np.full((len(names), largest, largest), np.nan, dtype=dtype)
    for b, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if size:
            cores[b, :size, :size] = matrix(name, int(size), dtype)
    return cores, sizes


def solved(
    cores: Array, sizes: Array, vectors: Any = "none", modes: int = 3, dtype: str = "float64"
) -> Results:
    out = Results(len(cores), cores.shape[1], modes, vectors, np.dtype(dtype))
    cuda.solve(cores, sizes, out)
    return out


def bits(out: Any, rows: Any = slice(None)) -> list[bytes]:
    arrays = [getattr(out, name) for name in OUTPUTS]
    return [np.ascontiguousarray(array[rows]).tobytes() for array in arrays if array is not None]


def assert_fits(result: EigResult, cores: Array, sizes: Array) -> None:
    assert np.isin(result.status, (Status.OK, Status.DEFECTIVE)).all()
    for b, n in enumerate(sizes.tolist()):
        if not n:
            continue
        case = Problem(cores[b, :n, :n], n_probed=6)
        case.assert_spectrum_fits(result.eigenvalues[b, :n], f"matrix {b}")
        if result.right is not None:
            m = min(n, result.right.shape[1])
            left = None if result.left is None else result.left[b, :m, :n]
            case.assert_vectors_fit(result.eigenvalues[b, :m], result.right[b, :m, :n], left, f"matrix {b}")


# --- the kernel, through all that surrounds it -------------------------------------------------------------


def test_the_argument_is_laid_out_as_the_kernel_reads_it(library: ctypes.CDLL) -> None:
    assert library.argument_bytes() == ARGUMENTS.itemsize
    assert (
        library.scratch_bytes() == plan_launch(500, cuda_engine.Task.VALUES, np.float64, 10**5).shared_bytes
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_eigenvalues_by_warps(gpu: FakeGpu, dtype: str) -> None:
    cores, sizes = mixed(tuple(FAMILIES)[::2], 10, dtype)
    assert_fits(solved(cores, sizes, dtype=dtype).finish(sizes, "cuda"), cores, sizes)
    assert {launch["TEAM"] for launch in gpu.launches} == {"WarpTeam"}
    assert [launch["threads"] for launch in gpu.launches] == [128, 128]


def test_vectors_by_warps(gpu: FakeGpu) -> None:
    cores, sizes = mixed((*FEW, "normal"), 9)
    assert_fits(solved(cores, sizes, "both").finish(sizes, "cuda"), cores, sizes)
    assert [launch["TASK"] for launch in gpu.launches] == ["1", "1", "2"]


@pytest.mark.parametrize("in_shared", [True, False])
def test_blocks(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, in_shared: bool) -> None:
    monkeypatch.setattr(cuda_engine, "plan_launch", partial(plan_launch, in_shared=in_shared))
    stack = np.stack([matrix(name, 34, "float64") for name in ("hopfield_sparse", "repeated_rotated")])
    sizes = np.array([34, 33])
    values = solved(stack, sizes)
    assert_fits(values.finish(sizes, "cuda"), stack, sizes)
    vectors = solved(stack, sizes, "both", modes=2)
    assert_fits(vectors.finish(sizes, "cuda"), stack, sizes)
    assert {(x["TEAM"], x["IN_SHARED"], x["threads"]) for x in gpu.launches} == {
        ("BlockTeam", str(in_shared).lower(), 64)
    }
    assert [launch["TASK"] for launch in gpu.launches] == ["0", "1", "2"]
    # Where a matrix lies changes no bit.
    monkeypatch.setattr(cuda_engine, "plan_launch", partial(plan_launch, in_shared=not in_shared))
    assert bits(solved(stack[:1], sizes[:1])) == bits(values, slice(0, 1))


def test_cores_are_read_as_weights_and_scales(gpu: FakeGpu) -> None:
    rng = np.random.default_rng(5)
    W = np.where(rng.random((9, 9)) < 0.4, rng.normal(size=(9, 9)), 0.0)
    g, s = rng.uniform(0.5, 2, size=9), np.where(rng.random((6, 9)) < 0.7, rng.uniform(size=(6, 9)), 0.0)
    cores, _, real = gather_cores(ScaledSystem.of(W, g), s)
    sizes = real.sum(axis=1)
    expected = bits(solved(cores, sizes))
    out = Results(6, cores.shape[1], 0, "none", np.dtype(np.float64))
    assert cuda.solve_scaled(W, g, s, out) == 0
    assert bits(out) == expected
    formed = cuda.solve_on_device(gpu_array(cores), sizes, vectors="right", modes=2)
    made = cuda.solve_scaled_on_device(*map(gpu_array, (W, g, s)), vectors="right", modes=2)
    for name in ("eigenvalues", "right", "residual", "trace_defect", "status"):
        assert_array_equal(to_host(getattr(made, name)), to_host(getattr(formed, name)), err_msg=name)
    assert made.left is None


def test_results_on_the_device_are_those_on_the_host(gpu: FakeGpu) -> None:
    cores, sizes = mixed(FEW, 7)
    cores[1, 0, 0] = np.inf
    for vectors in ("none", "both"):
        expected = solved(cores, sizes, vectors).finish(sizes, "cuda")
        made = cuda.solve_on_device(gpu_array(cores), gpu_array(sizes), vectors=vectors, modes=3)  # type: ignore[arg-type]
        for name in ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status"):
            found = getattr(made, name)
            assert_array_equal(found if found is None else found.get(), getattr(expected, name), err_msg=name)


def test_one_function_for_matrices_wherever_they_are(gpu: FakeGpu) -> None:
    cores, sizes = mixed(FEW, 7)
    expected = eig(cores, sizes=sizes, vectors="right", modes=2, backend="cuda")
    for backend in ("auto", "cuda"):
        found = eig(gpu_array(cores), sizes=sizes, vectors="right", modes=2, backend=backend)
        assert found.backend == "cuda"
        assert_array_equal(found.eigenvalues.get(), expected.eigenvalues)  # type: ignore[attr-defined]
        assert_array_equal(found.right.get(), expected.right)  # type: ignore[union-attr]
    assert eig(cores, sizes=sizes).backend != "cuda"
    with pytest.raises(UsageError, match="backend='lapack' and matrices on a GPU; expected 'auto' or 'cuda'"):
        eig(gpu_array(cores), backend="lapack")


def gpu_array(array: Array) -> Any:
    import cupy

    return cupy.asarray(array)


# --- batches and memory ------------------------------------------------------------------------------------


def test_batches_fit_the_free_memory_and_change_no_bit(gpu: FakeGpu) -> None:
    cores, sizes = mixed(tuple(FAMILIES)[:40], 6)
    whole = solved(cores, sizes, "both", modes=2)
    n_launches, before = len(gpu.launches), cuda.halvings()
    gpu.free = 2 * 10 * (8 * 36 + 64 + 16 * 6 * 5 + 16)
    some = solved(cores, sizes, "both", modes=2)
    assert len(gpu.launches) >= n_launches + 4
    assert bits(some) == bits(whole)
    assert cuda.halvings() == before


def test_a_full_gpu_gets_half_the_batch(gpu: FakeGpu) -> None:
    cores, sizes = mixed(tuple(FAMILIES)[:32], 8)
    expected = bits(solved(cores, sizes))
    gpu.largest = 10 * 8 * 64
    out, before = Results(32, 8, 3, "none", np.dtype(np.float64)), cuda.halvings()
    with pytest.warns(
        StabdaskWarning, match=r"memory of Pretend GPU \(number 0\) was full: .* halved 2 time"
    ):
        n_halved = cuda.solve(cores, sizes, out)
    assert bits(out) == expected
    assert (n_halved, cuda.halvings()) == (2, before + 2)


def test_a_matrix_too_large_for_the_gpu(idle: FakeGpu) -> None:
    cores = gpu_array(np.zeros((3, 20, 20)))
    idle.largest = 1000
    with pytest.raises(
        MemoryBudgetError, match=r"1 matrices of order up to 20 .* do not fit in what is free of"
    ):
        solved(np.zeros((3, 20, 20)), np.full(3, 20))
    with pytest.raises(MemoryBudgetError, match=r"3 matrices of order up to 20"):
        cuda.solve_on_device(cores)


def test_a_workspace_too_large_gets_fewer_blocks(idle: FakeGpu) -> None:
    cores, sizes = np.zeros((9, 300, 300)), np.full(9, 300)
    each = plan_launch(300, cuda_engine.Task.VECTORS, np.float64, 232448).team_workspace_bytes
    idle.resident = 4
    solved(cores, sizes, "right")
    assert idle.launches[-1]["blocks"] == 8
    # A quarter of what is free.
    idle.free = 4 * 3 * each
    cuda.solve_on_device(gpu_array(cores), vectors="right", modes=3)
    assert idle.launches[-1]["blocks"] == 3
    # What is free may lie in pieces.
    idle.free, idle.largest = 10**9, 7 * each
    solved(cores, sizes, "right")
    assert idle.launches[-1]["blocks"] == 4


def test_classes_go_largest_first() -> None:
    sizes = np.array([3, 100, 33, 0, 8, 9, 40, 64, 100])
    groups = size_groups(sizes)
    assert [sizes[group].tolist() for group in groups] == [[100, 100], [64], [40, 33], [9], [8, 3, 0]]
    assert [group.tolist() for group in size_groups(sizes, np.array([3, 6, 1]))] == [[1], [6], [3]]
    assert size_groups(sizes, np.array([], dtype=np.int64)) == []


def test_nothing_to_solve(idle: FakeGpu) -> None:
    assert (
        cuda.solve(np.zeros((0, 5, 5)), np.zeros(0, dtype=np.int64), Results(0, 5, 0, "none", np.dtype("f8")))
        == 0
    )
    assert idle.launches == []
    empty = cuda.solve_on_device(gpu_array(np.zeros((0, 5, 5))))
    assert empty.eigenvalues.shape == (0, 5)


# --- errors ------------------------------------------------------------------------------------------------


def test_a_launch_that_fails(idle: FakeGpu) -> None:
    idle.launch_problem = CUDADriverError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested")
    with pytest.raises(GpuError) as caught:
        solved(np.zeros((3, 40, 40)), np.full(3, 40))
    message = str(caught.value)
    assert "Pretend GPU (number 0) failed at eigenvalues of matrices of order up to 40, 64 threads" in message
    assert "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" in message
    assert "start the run again, which resumes" in message


def test_a_kernel_that_fails_while_it_runs(idle: FakeGpu) -> None:
    idle.finish_problem = CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access")
    with pytest.raises(GpuError, match=r"failed at the kernels of a batch.*cudaErrorIllegalAddress"):
        solved(np.zeros((3, 4, 4)), np.full(3, 4))


def test_a_kernel_that_leaves_matrices_out(idle: FakeGpu) -> None:
    idle.runs = lambda _: None
    with pytest.raises(GpuError, match="left out 3 of 3 matrices without reporting an error"):
        solved(np.zeros((3, 4, 4)), np.full(3, 4))
    status = cuda.solve_on_device(gpu_array(np.zeros((3, 4, 4)))).status
    assert (status == Status.NOT_COMPUTED).all()


def test_a_kernel_that_does_not_compile(idle: FakeGpu) -> None:
    idle.compile_problem = RuntimeError("francis.hpp(7): error: nonsense")
    with pytest.raises(BackendUnavailableError) as caught:
        solved(np.zeros((3, 4, 4)), np.full(3, 4))
    for words in ("eigenvalues of matrices", "Pretend GPU", "sm_90", "francis.hpp(7)", "cupy-cuda13x[ctk]"):
        assert words in str(caught.value)


def test_a_gpu_without_room_for_a_block(idle: FakeGpu) -> None:
    idle.resident = 0
    with pytest.raises(GpuError, match=r"has no room for one block .* bytes of shared memory"):
        solved(np.zeros((3, 4, 4)), np.full(3, 4))


def test_arguments_that_make_no_sense(idle: FakeGpu) -> None:
    with pytest.raises(UsageError, match="expected \\(batch, k, k\\)"):
        cuda.solve_on_device(gpu_array(np.zeros((3, 4, 5))))
    with pytest.raises(UsageError, match="dtype int64; expected float32 or float64"):
        cuda.solve_on_device(gpu_array(np.zeros((3, 4, 4), dtype=np.int64)))
    for sizes in ([1, 2], [1, 2, 5], [-1, 0, 0]):
        with pytest.raises(UsageError, match="sizes must be 3 integers from 0 to 4"):
            cuda.solve_on_device(gpu_array(np.zeros((3, 4, 4))), np.array(sizes))
    with pytest.raises(UsageError, match="vectors='left'"):
        cuda.solve_on_device(gpu_array(np.zeros((3, 4, 4))), vectors="left")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"expected \(r, r\), \(r,\) and \(cell, r\)"):
        cuda.solve_scaled_on_device(*map(gpu_array, (np.zeros((4, 4)), np.zeros(4), np.zeros((3, 5)))))


def test_without_a_gpu(host: FakeCuda) -> None:
    assert not cuda.available()
    assert cuda.why_not() == "CuPy is not installed"


# --- caches and streams ------------------------------------------------------------------------------------


def test_kernels_are_compiled_once_for_each_kind(idle: FakeGpu) -> None:
    for _ in range(2):
        for dtype in ("float64", "float32"):
            for k in (4, 12, 40, 64, 100, 200):
                solved(np.zeros((2, k, k)), np.full(2, k), dtype=dtype)
    # Warps, blocks in shared memory, blocks in the workspace; in single precision order 200 stays in shared memory.
    assert len(idle.compiled) == len(set(idle.compiled)) == 5
    solved(np.zeros((2, 4, 4)), np.full(2, 4), "right")
    assert len(idle.compiled) == 6
    assert all({"--std=c++17", "--fmad=false"} <= set(options) for options in idle.compiled)
    assert not any("fast" in option for options in idle.compiled for option in options)


def test_each_thread_has_a_stream_of_its_own(idle: FakeGpu) -> None:
    def work() -> None:
        for _ in range(2):
            solved(np.zeros((2, 4, 4)), np.full(2, 4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert idle.streams == [{"non_blocking": True}] * 3


def test_statuses_on_the_device_are_those_of_the_host() -> None:
    """The same judgement as `Results.finish`, on arrays that meet every branch of it."""
    rng = np.random.default_rng(0)
    for vectors in ("none", "right", "both"):
        batch, width, modes = 60, 4, 2
        own = DeviceResults.blank(np, batch, width, modes, vectors, np.float64)  # type: ignore[arg-type]
        out = Results(batch, width, modes, vectors, np.dtype(np.float64))  # type: ignore[arg-type]
        sizes = rng.integers(0, width + 1, size=batch)
        drawn = {
            "eigenvalues": rng.choice([1.0, np.inf, np.nan], size=(batch, width), p=[0.9, 0.05, 0.05]) + 0j,
            "residual": rng.choice([0.0, 1.0, np.nan], size=batch),
            "trace_defect": rng.choice([0.0, 1.0], size=batch, p=[0.8, 0.2]),
            "outcome": rng.choice([0, 1, 3], size=batch, p=[0.8, 0.1, 0.1]),
            "overlap": rng.choice([1.0, 1e-20, np.nan], size=(batch, modes)),
        }
        for name, values in drawn.items():
            for target in (own, out):
                if getattr(target, name) is not None:
                    getattr(target, name)[...] = values
        expected, made = out.finish(sizes, "cuda"), judge(np, own, sizes, np.float64)
        assert len(np.unique(made.status)) >= 4
        for name in ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status"):
            assert_array_equal(getattr(made, name), getattr(expected, name), err_msg=name)
