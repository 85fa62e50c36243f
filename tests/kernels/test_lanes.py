"""The compiled module itself: its variants, and an installation without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stabdask.errors import BackendUnavailableError
from stabdask.kernels import lanes
from stabdask.kernels.eig import eig
from stabdask.kernels.results import Results
from stabdask.schema import Status

LANES = Path(__file__).parents[2] / "stabdask" / "kernels" / "lanes"

built = pytest.mark.skipif(not lanes.available(), reason="no compiled solver in this installation")


@pytest.fixture
def fresh() -> Any:
    lanes.instruction_set.cache_clear()
    yield
    lanes.instruction_set.cache_clear()


@built
def test_a_baseline_is_always_there() -> None:
    assert lanes.instruction_sets()[-1] == "baseline"
    assert lanes.instruction_set() in lanes.instruction_sets()
    assert lanes.why_not() is None


@built
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_every_variant_solves(dtype: Any, vectors: Any) -> None:
    rng = np.random.default_rng(3)
    cores = rng.normal(size=(37, 23, 23)).astype(dtype)
    cores[:, 15:, :9] = 0.0
    sizes = rng.integers(0, 24, size=37).astype(np.int64)
    eps = np.finfo(dtype).eps
    for name in lanes.instruction_sets():
        out = Results(37, 23, 6, vectors, np.dtype(dtype))
        lanes._module().solve(
            cores, sizes, out.eigenvalues, out.right, out.left, out.overlap, out.residual, out.trace_defect,
            out.outcome, name,
        )  # fmt: skip
        result = out.finish(sizes, "lanes")
        assert (result.status == Status.OK).all(), name
        for b, size in enumerate(sizes):
            A = cores[b, :size, :size].astype(np.float64)
            values = result.eigenvalues[b, :size]
            norm = max(1.0, np.linalg.norm(A))
            for value in values:
                smallest = np.linalg.svd(A - value * np.eye(size), compute_uv=False)[-1]
                assert smallest <= 30 * np.sqrt(size) * eps * norm, name
            if result.right is not None:
                for m in range(min(6, size)):
                    x = result.right[b, m, :size]
                    assert np.linalg.norm(A @ x - values[m] * x) <= 100 * np.sqrt(size) * eps * norm, name


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "part of larger rows": lambda A: np.concatenate([A, A + 1.0], axis=2)[:, :, : A.shape[2]],
    "part of longer records": lambda A: np.concatenate([A.reshape(len(A), -1), A[:, 0]], axis=1)[
        :, : A[0].size
    ].reshape(A.shape),
    "every other": lambda A: np.repeat(A, 2, axis=0)[::2],
    "backwards": lambda A: A[::-1].copy()[::-1],
    "transposed": lambda A: A.transpose(0, 2, 1).copy().transpose(0, 2, 1),
    "in a record of odd size": lambda A: np.rec.fromarrays(
        [A.reshape(len(A), -1), np.zeros(len(A), "u1")], dtype=[("core", A.dtype, A[0].size), ("rest", "u1")]
    )["core"].reshape(A.shape),
}


@built
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout: str, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    cores = rng.normal(size=(21, 9, 9)).astype(dtype)
    laid = LAYOUTS[layout](cores)
    assert not laid.flags.c_contiguous
    np.testing.assert_array_equal(laid, cores)
    sizes = rng.integers(1, 10, size=21)
    for vectors in ("none", "both"):
        one, other = (eig(A, sizes=sizes, vectors=vectors, backend="lanes") for A in (cores, laid))
        np.testing.assert_array_equal(one.eigenvalues, other.eigenvalues)
        np.testing.assert_array_equal(one.residual, other.residual)
    same = eig(np.broadcast_to(cores[0], cores.shape), backend="lanes").eigenvalues
    np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))


@built
def test_the_environment_names_the_variant(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABDASK_INSTRUCTION_SET", "baseline")
    assert lanes.instruction_set() == "baseline"
    lanes.instruction_set.cache_clear()
    monkeypatch.setenv("STABDASK_INSTRUCTION_SET", "avx1024")
    with pytest.raises(
        BackendUnavailableError, match=r"'avx1024' cannot run here; expected one of .*baseline"
    ):
        eig(np.eye(2)[None], backend="lanes")


@built
def test_the_module_checks_what_it_is_given() -> None:
    cores, sizes = np.zeros((2, 3, 3)), np.array([3, 3])
    out = Results(2, 3, 3, "both", np.dtype(np.float64))
    good = (out.eigenvalues, out.right, out.left, out.overlap, out.residual, out.trace_defect, out.outcome)
    solve = lanes._module().solve
    solve(cores, sizes, *good, "baseline")
    for position, wrong in (
        (0, np.zeros((2, 3, 4))),
        (1, np.array([3])),
        (1, np.array([3, 4])),
        (1, np.array([-1, 2])),
    ):
        arguments = [cores, sizes, *good]
        arguments[position] = wrong
        with pytest.raises(ValueError):
            solve(*arguments, "baseline")
    for position in range(2, 9):
        arguments = [cores, sizes, *good]
        arguments[position] = arguments[position][:1].copy()
        with pytest.raises(ValueError):
            solve(*arguments, "baseline")
    with pytest.raises(ValueError, match="cannot run the variant"):
        solve(cores, sizes, *good, "avx1024")
    scaled = lanes._module().solve_scaled
    few = np.zeros((2, 2), dtype=complex)
    with pytest.raises(ValueError, match="too few columns"):
        scaled(np.eye(3), np.ones(3), np.ones((2, 3)), few, np.zeros(2), np.zeros(2, np.uint8), "baseline")


WITHOUT = """
import sys
sys.modules["stabdask.kernels.lanes._lanes"] = None
from stabdask.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def without_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, env={**os.environ}
    )


def test_without_it_lapack_is_used_and_said_so(small: Any, tmp_path: Any) -> None:
    process = without_module(
        "run", str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state",
        "--store", str(tmp_path / "o.zarr"), "--workers", "0", "--quiet",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "with lapack" in process.stdout
    assert (
        "eigensolver  LAPACK, because the compiled one is not compiled into this installation"
        in process.stdout
    )
    doctor = without_module("doctor", "--scratch", str(tmp_path))
    assert "not compiled into this installation" in doctor.stdout
    asked = without_module(
        "run", str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state",
        "--store", str(tmp_path / "p.zarr"), "--backend", "lanes",
    )  # fmt: skip
    assert asked.returncode == 2
    assert "backend 'lanes' is not available here (not compiled into this installation" in asked.stderr


@pytest.mark.slow
def test_64_bit_arm(tmp_path: Path) -> None:
    compiler, machine = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or machine is None:
        pytest.skip(
            "needs aarch64-linux-gnu-g++ and qemu-aarch64-static (Debian: g++-aarch64-linux-gnu, qemu-user-static)"
        )
    flags = ("-std=gnu++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-static")
    chosen = ("-DLANES_NAMESPACE=lanes_baseline", "-DLANES_NAME=baseline", "-DLANES_BYTES=16", f"-I{LANES}")
    sources = (str(LANES / "variant.cpp"), str(Path(__file__).with_name("cross.cpp")))
    subprocess.run(
        [compiler, *flags, *chosen, *sources, "-o", str(tmp_path / "cross")], check=True, timeout=300
    )
    done = subprocess.run(
        [machine, str(tmp_path / "cross")], check=True, capture_output=True, text=True, timeout=300
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 12
    for _, k, roundings in found:
        assert 0 <= float(roundings) < 10 + int(k)
