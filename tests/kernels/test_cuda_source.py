"""The CUDA source of the eigensolver compiles here, without a GPU, and asks for no more than GPUs have."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from stabdask.errors import BackendUnavailableError
from stabdask.kernels.cuda_engine import ARGUMENTS
from stabdask.kernels.cuda_launch import SIZE_CLASSES, Launch, Task, plan_launch
from stabdask.kernels.cuda_modules import ENTRY, OPTIONS, cuda_source, definitions
from stabdask.kernels.nvrtc import CompilationError, compile_cuda, load_nvrtc

SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
"""Bytes of shared memory a block can opt in to (CUDA C++ Programming Guide, technical specifications)."""

LEAST_SHARED, REGISTERS, LONGEST_STACK = 65_536, 65_536, 512
"""Bytes of shared memory of the smallest GPU meant (sm_75); registers of a multiprocessor; bytes spilled at most."""

THREADS = {"WarpTeam": 128, "BlockTeam": 256}

Kind = tuple[str, bool]
VARIANTS = list(
    itertools.product(
        Task, ("float32", "float64"), (("WarpTeam", True), ("BlockTeam", True), ("BlockTeam", False))
    )
)
"""Every kernel there is: task, precision, team, and whether the matrix lies in shared memory."""

PLAIN: list[tuple[str, Task, str, Kind]] = [
    ("sm_90", Task.VALUES, "float32", ("WarpTeam", True)),
    ("sm_90", Task.VALUES, "float64", ("WarpTeam", True)),
    ("sm_90", Task.VALUES, "float64", ("BlockTeam", False)),
    ("sm_90", Task.VECTORS, "float64", ("BlockTeam", True)),
    ("sm_90", Task.SCHUR, "float32", ("WarpTeam", True)),
    ("sm_80", Task.VALUES, "float64", ("BlockTeam", True)),
    ("sm_80", Task.VECTORS, "float32", ("WarpTeam", True)),
    ("sm_100", Task.VALUES, "float32", ("BlockTeam", False)),
    ("sm_100", Task.SCHUR, "float64", ("BlockTeam", True)),
]
"""Those compiled in every run, some three seconds each: all pairs of task, precision and team, of precision and place.

Nothing in the source depends on the architecture.
"""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """Where there is no NVRTC, say so and skip."""
    try:
        load_nvrtc()
    except BackendUnavailableError as error:
        pytest.skip(f"nothing compiles CUDA source here: {error}")


def launch_like(task: Task, dtype: str, kind: Kind, shared: int) -> Launch:
    """Return a launch of some size class that uses the kernel meant."""
    for size_class in SIZE_CLASSES:
        made = plan_launch(size_class.largest, task, dtype, shared, in_shared=kind[1])
        if (made.team, made.in_shared) == kind:
            return made
    raise AssertionError(f"no size class is launched as {kind[0]}, in_shared={kind[1]}")


def check(arch: str, task: Task, dtype: str, kind: Kind) -> None:
    """Compile a kernel as CuPy does, and read what the compiler says of it."""
    launch = launch_like(task, dtype, kind, SHARED[arch])
    # CuPy appends an option of its own.
    options = (*OPTIONS, *definitions(dtype, launch), "-ftz=true", "--ptxas-options=-v")
    made = compile_cuda(cuda_source(), name="device.cu", arch=arch, options=options)
    assert made.cubin is not None
    assert made.cubin[:4] == b"\x7fELF"
    assert ENTRY.encode() in made.cubin
    ptx = made.ptx.decode()
    assert re.findall(r"\.visible \.entry (\w+)\(", ptx) == [ENTRY]
    assert f".b8 {ENTRY}_param_0[{ARGUMENTS.itemsize}]" in ptx
    # All shared memory is asked for at the launch: what is declared has no size.
    assert set(re.findall(r"\.shared \.align \d+ \.b8 \w+\[(\d*)\]", ptx)) <= {""}
    assert "warning" not in made.log.lower(), made.log
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", made.log)]
    stack = [int(n) for n in re.findall(r"(\d+) bytes stack frame", made.log)]
    assert len(registers) == 1, made.log
    print(f"{arch} {task.name} {dtype} {kind}: {registers[0]} registers, {max(stack)} bytes of stack")
    assert registers[0] * THREADS[launch.team] <= REGISTERS
    assert max(stack) <= LONGEST_STACK
    if launch.in_shared and task == Task.VALUES:
        assert max(stack) <= 64


@pytest.mark.parametrize(("arch", "task", "dtype", "kind"), PLAIN)
def test_kernels_compile(arch: str, task: Task, dtype: str, kind: Kind) -> None:
    check(arch, task, dtype, kind)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize(("task", "dtype", "kind"), VARIANTS)
def test_every_kernel_compiles_for_every_gpu(arch: str, task: Task, dtype: str, kind: Kind) -> None:
    check(arch, task, dtype, kind)


def test_a_mistake_in_the_source_is_an_error_that_says_where() -> None:
    broken = cuda_source().replace("kExceptional", "kExcepional", 1)
    launch = launch_like(Task.VALUES, "float32", ("WarpTeam", True), SHARED["sm_90"])
    with pytest.raises(CompilationError, match=r"francis\.hpp\(\d+\): error: identifier \"kExceptional\""):
        compile_cuda(
            broken, name="device.cu", arch="sm_90", options=(*OPTIONS, *definitions("float32", launch))
        )


def test_the_source_is_one_text() -> None:
    source = cuda_source()
    assert '#include "' not in source
    assert "#pragma once" not in source
    for name in ("pack.hpp", "francis.hpp", "team_solver.hpp", "device.cuh"):
        assert source.count(f'#line 1 "{name}"') == 1, name


# --- launches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [LEAST_SHARED, *set(SHARED.values())])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_launches_keep_within_the_limits_of_gpus(limit: int, dtype: str) -> None:
    for task, n in itertools.product(Task, (*range(700), SIZE_CLASSES[-1].largest)):
        launch = plan_launch(n, task, dtype, limit)
        assert launch.shared_bytes <= limit
        assert launch.threads % 32 == 0
        assert launch.threads <= THREADS[launch.team]
        assert launch.in_shared or launch.team == "BlockTeam"
        assert launch.in_shared or launch.team_workspace_bytes > 0
        assert launch.team_shared_bytes % 16 == 0
        assert launch.team_workspace_bytes % 256 == 0


def test_matrices_stay_in_shared_memory_as_long_as_they_fit() -> None:
    def largest(dtype: str, task: Task, limit: int) -> int:
        fits = [plan_launch(n, task, dtype, limit).in_shared for n in range(400)]
        assert fits == sorted(fits, reverse=True)
        return sum(fits) - 1

    assert largest("float64", Task.VALUES, SHARED["sm_90"]) >= 160
    assert largest("float32", Task.VALUES, SHARED["sm_90"]) >= 225
    assert largest("float64", Task.VECTORS, SHARED["sm_90"]) >= 150
    assert min(largest("float64", task, LEAST_SHARED) for task in Task) >= 64


def test_threads_depend_on_the_order_alone() -> None:
    """They decide the order of sums: no bit may depend on the GPU, the task or the place in memory."""
    for n in range(0, 500, 3):
        found = {
            (launch.team, launch.threads)
            for task, limit, shared in itertools.product(
                Task, (LEAST_SHARED, *SHARED.values()), (True, False)
            )
            for launch in [plan_launch(n, task, "float64", limit, in_shared=shared)]
        }
        assert len(found) == 1, n


def test_the_queue_is_worked_off_by_as_many_blocks_as_fit() -> None:
    launch = plan_launch(20, Task.VALUES, np.float64, SHARED["sm_90"])
    assert (launch.teams, launch.team_workspace_bytes) == (4, 0)
    assert launch.blocks(1, 264, 0) == 1
    assert launch.blocks(9, 264, 0) == 3
    assert launch.blocks(10**6, 264, 0) == 264
    large = plan_launch(500, Task.VECTORS, np.float64, SHARED["sm_90"])
    assert not large.in_shared
    assert large.blocks(10**6, 264, 10 * large.team_workspace_bytes + 5) == 10
    assert large.blocks(10**6, 264, 0) == 1
