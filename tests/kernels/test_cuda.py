"""The backend on a real GPU, beyond what test_eig_accuracy.py and test_eig_batch.py ask of every backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from kernels.matrices import FAMILIES, matrix
from kernels.measures import Problem
from numpy.testing import assert_array_equal

from stabdask.errors import MemoryBudgetError, StabdaskWarning
from stabdask.kernels import cuda, cuda_engine, cuda_modules
from stabdask.kernels.cuda_launch import SIZE_CLASSES, Task, plan_launch
from stabdask.kernels.results import EigResult, Results, Vectors
from stabdask.kernels.scaled import ScaledSystem, gather_cores
from stabdask.schema import Status

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.gpu

OUTPUTS = ("eigenvalues", "right", "left", "overlap", "residual", "trace_defect", "outcome")
FINISHED = ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status")


@pytest.fixture(scope="module", autouse=True)
def cupy() -> Any:
    if not cuda.available():
        pytest.fail(f"tests marked gpu were asked for, but there is no GPU to use: {cuda.why_not()}")
    return pytest.importorskip("cupy")


def solved(cores: Array, sizes: Array | None = None, vectors: Vectors = "none", modes: int = 4) -> Results:
    out = Results(len(cores), cores.shape[1], modes, vectors, cores.dtype)
    cuda.solve(cores, np.full(len(cores), cores.shape[1]) if sizes is None else sizes, out)
    return out


def finished(out: Results) -> EigResult:
    return out.finish(np.full(len(out.outcome), out.eigenvalues.shape[1]), "cuda")


def bits(out: Results) -> list[bytes]:
    return [getattr(out, name).tobytes() for name in OUTPUTS if getattr(out, name) is not None]


def normal(batch: int, k: int, dtype: str = "float64", seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(batch, k, k)).astype(dtype)


# --- accuracy and bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_every_size_class(dtype: str, vectors: Vectors) -> None:
    """The largest order of each class, and the one after it."""
    for size in SIZE_CLASSES:
        for k in (size.largest, size.largest + 1):
            if k > (330 if vectors == "none" else 180):
                return
            stack = np.stack([matrix(name, k, dtype) for name in ("normal", "hopfield_sparse")])
            result = finished(solved(stack, None, vectors))
            assert (result.status == Status.OK).all(), k
            for b, core in enumerate(stack):
                case = Problem(core, n_probed=3)
                case.assert_spectrum_fits(result.eigenvalues[b], f"order {k}")
                if result.right is not None and result.left is not None:
                    shown = result.right.shape[1]
                    case.assert_vectors_fit(result.eigenvalues[b, :shown], result.right[b], result.left[b])


@pytest.mark.parametrize("vectors", ["none", "both"])
@pytest.mark.parametrize(
    ("k", "dtype"), [(20, "float64"), (50, "float32"), (120, "float64"), (200, "float32")]
)
def test_the_same_bits_every_time(k: int, dtype: str, vectors: Vectors) -> None:
    """A race would show as a difference between runs, if not in every one."""
    stack = np.concatenate([normal(300, k, dtype), np.stack([matrix(f, k, dtype) for f in FAMILIES])])
    first = bits(solved(stack, None, vectors))
    for _ in range(3):
        assert bits(solved(stack, None, vectors)) == first
    order = np.random.default_rng(1).permutation(len(stack))
    mixed = solved(stack[order], None, vectors)
    for name, whole in zip(
        OUTPUTS, map(partial(getattr, solved(stack, None, vectors)), OUTPUTS), strict=True
    ):
        if whole is not None:
            assert getattr(mixed, name).tobytes() == whole[order].tobytes(), name


@pytest.mark.parametrize("vectors", ["none", "both"])
def test_the_place_in_memory_changes_no_bit(monkeypatch: pytest.MonkeyPatch, vectors: Vectors) -> None:
    for k, dtype in ((40, "float64"), (100, "float64"), (150, "float32")):
        stack = normal(20, k, dtype)
        shared = bits(solved(stack, None, vectors))
        monkeypatch.setattr(cuda_engine, "plan_launch", partial(plan_launch, in_shared=False))
        assert bits(solved(stack, None, vectors)) == shared
        monkeypatch.undo()


def test_subnormal_numbers_in_and_out() -> None:
    """CuPy compiles with -ftz=true; what the caller gives and gets is exact all the same."""
    core = matrix("hopfield_dense", 6, "float32")
    for power in (-140, -130, 100):
        scaled = np.ldexp(core, power)
        expected = np.linalg.eigvals(scaled.astype(np.float64))
        found = solved(scaled[None]).eigenvalues[0]
        scale = float(np.ldexp(1.0, power))
        distance = np.abs(found.astype(np.complex128)[:, None] - expected).min(axis=1)
        assert distance.max() <= 1e-5 * scale * np.linalg.norm(core) + 2.0**-149


# --- on the device -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", ["none", "both"])
def test_results_stay_on_the_device(cupy: Any, vectors: Vectors) -> None:
    stack = np.stack([matrix(name, 24, "float64") for name in FAMILIES])
    stack[5, 2, 3] = np.nan
    expected = finished(solved(stack, None, vectors))
    made = cuda.solve_on_device(cupy.asarray(stack), vectors=vectors, modes=4)
    for name in FINISHED:
        assert_array_equal(cupy.asnumpy(getattr(made, name)), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("vectors", ["none", "right"])
def test_cores_are_never_formed(cupy: Any, vectors: Vectors) -> None:
    rng = np.random.default_rng(2)
    W = np.where(rng.random((60, 60)) < 0.2, rng.normal(size=(60, 60)), 0.0)
    g = rng.uniform(0.5, 2, size=60)
    s = np.where(rng.random((500, 60)) < 0.8, rng.uniform(size=(500, 60)), 0.0)
    cores, _, real = gather_cores(ScaledSystem.of(W, g), s)
    formed = cuda.solve_on_device(cupy.asarray(cores), real.sum(axis=1), vectors=vectors, modes=3)
    made = cuda.solve_scaled_on_device(*map(cupy.asarray, (W, g, s)), vectors=vectors, modes=3)
    for name in ("eigenvalues", "right", "residual", "trace_defect", "status"):
        assert_array_equal(
            cupy.asnumpy(getattr(made, name)), cupy.asnumpy(getattr(formed, name)), err_msg=name
        )


def test_streams_work_side_by_side(cupy: Any) -> None:
    stacks = [normal(400, 30 + 7 * i, seed=i) for i in range(6)]
    expected = [solved(stack).eigenvalues for stack in stacks]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in stacks]
    given = [cupy.asarray(stack) for stack in stacks]
    cupy.cuda.Device().synchronize()
    made = [cuda.solve_on_device(cores, stream=stream) for cores, stream in zip(given, streams, strict=True)]
    for result, stream, values in zip(made, streams, expected, strict=True):
        stream.synchronize()
        assert_array_equal(result.eigenvalues.get(), values)


def test_threads_do_not_disturb_each_other() -> None:
    stacks = [normal(200, 20 + 13 * i, seed=i) for i in range(4)]
    expected = [bits(solved(stack, None, "both")) for stack in stacks]
    found: list[list[list[bytes]]] = [[] for _ in stacks]

    def work(i: int) -> None:
        for _ in range(3):
            found[i].append(bits(solved(stacks[i], None, "both")))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(stacks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, wanted in zip(found, expected, strict=True):
        assert own == [wanted] * 3


def test_two_gpus_give_the_same_bits(cupy: Any) -> None:
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU is here; this test compares two")
    stack = normal(100, 64)
    made = []
    for device in range(2):
        with cupy.cuda.Device(device):
            made.append(bits(solved(stack, None, "both")))
    assert made[0] == made[1]


# --- memory and time ---------------------------------------------------------------------------------------


@pytest.fixture
def small_pool(cupy: Any) -> Iterator[Any]:
    """Let CuPy's pool have 64 MB, as if the rest of the GPU were taken."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + 64 * 2**20)
    yield pool
    pool.set_limit(size=0)


def test_a_full_gpu_gets_half_the_batch(small_pool: Any) -> None:
    stack = normal(30_000, 30)
    with pytest.warns(StabdaskWarning, match="was full"):
        few = solved(stack)
    small_pool.set_limit(size=0)
    assert bits(few) == bits(solved(stack))


def test_a_matrix_too_large_for_the_gpu(small_pool: Any) -> None:
    with pytest.raises(MemoryBudgetError, match="1 matrices of order up to 3000"):
        solved(np.eye(3000)[None])


def test_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print how long the first use of kernels takes: to compile, from CuPy's cache on disk, and once loaded."""
    unseen = (*cuda_modules.OPTIONS, f"-DFIRST_CALL={time.time_ns()}")
    monkeypatch.setattr(cuda_modules, "OPTIONS", unseen)
    for state in ("compiled", "from disk", "loaded"):
        if state != "loaded":
            monkeypatch.setattr(cuda_modules, "_kernels", {})
        for vectors in ("none", "both"):
            begin = time.perf_counter()
            solved(normal(4, 40), None, cast(Vectors, vectors))
            print(f"first call, {state}, vectors={vectors}: {time.perf_counter() - begin:.2f} s")


def test_registers_and_shared_memory_of_the_loaded_kernels(cupy: Any) -> None:
    gpu = cuda_modules.current_gpu()
    for task in Task:
        for k in (20, 60, 150, 300):
            launch = plan_launch(k, task, np.float64, gpu.shared_memory_bytes)
            kernel = cuda_modules.load_kernel(np.float64, launch, gpu)
            function = kernel.function
            print(
                f"{launch}: {function.num_regs} registers, {function.local_size_bytes} bytes of local memory"
            )
            assert function.shared_size_bytes == 0
            assert function.max_dynamic_shared_size_bytes >= launch.shared_bytes
            assert function.max_threads_per_block >= launch.threads
            assert kernel.resident_blocks() > 0
