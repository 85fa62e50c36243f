"""The solver that a GPU runs, run by threads of this CPU: accuracy, races, memory (team.cpp)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernels.matrices import FAMILIES, matrix
from kernels.measures import Problem
from kernels.team import Team, TeamRun, compile_team
from numpy.testing import assert_array_equal

from stabdask.kernels.cuda_launch import Needs, Task
from stabdask.kernels.scaled import ScaledSystem, gather_cores
from stabdask.schema import Status

Array = np.ndarray[Any, Any]

HARD = (
    "normal",
    "hopfield_sparse",
    "graded_1e12",
    "block_triangular",
    "repeated_rotated",
    "jordan_rotated",
    "companion_random",
    "entries_of_many_sizes",
)
OUTPUTS = ("eigenvalues", "right", "left", "overlap", "residual", "trace_defect", "outcome")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    folder = tmp_path_factory.mktemp("team")
    return Team(compile_team(folder, "-O1", "-march=native"), folder)


def stack_of(families: tuple[str, ...], k: int, dtype: str) -> Array:
    return np.stack([matrix(family, k, dtype) for family in families])


def bits(run: TeamRun, rows: Any = slice(None)) -> list[bytes]:
    arrays = [getattr(run.raw, name) for name in OUTPUTS]
    return [np.ascontiguousarray(array[rows]).tobytes() for array in arrays if array is not None]


def assert_fits(run: TeamRun, families: tuple[str, ...], k: int, dtype: str) -> None:
    """Check spectra, vectors and figures of merit of every matrix of a batch."""
    result = run.result
    for b, family in enumerate(families):
        case = Problem(matrix(family, k, dtype), n_probed=8)
        name = f"{family} {k} {dtype}"
        values = result.eigenvalues[b]
        allowed = (Status.OK,) if result.right is None else (Status.OK, Status.DEFECTIVE, Status.INACCURATE)
        assert result.status[b] in allowed, name
        case.assert_spectrum_fits(values, name)
        keys = [(-v.real, -v.imag) for v in values.tolist()]
        assert keys == sorted(keys), name
        assert sorted(keys) == sorted((real, -imag) for real, imag in keys), name
        if result.right is None:
            continue
        shown = result.right.shape[1]
        left = None if result.left is None else result.left[b]
        case.assert_vectors_fit(values[:shown], result.right[b], left, name)
        np.testing.assert_allclose(np.linalg.norm(result.right[b], axis=1), 1, atol=(10 + k) * case.eps)
        own = case.residuals(case.scaled_values(values)[:shown], result.right[b], None).max()
        assert abs(result.residual[b] - own) <= k * case.eps + 1e-3 * own, name
        if left is not None:
            overlap = np.abs((left.conj() * result.right[b]).sum(axis=1))
            assert (np.abs(run.raw.overlap[b] - overlap) <= 2 * k * case.eps).all(), name


# --- accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "threads", "dtype"),
    [
        *((k, threads, "float64") for k, threads in ((1, 4), (2, 3), (3, 4), (5, 8), (8, 4), (13, 6))),
        *((k, threads, "float32") for k, threads in ((2, 3), (5, 4), (13, 6))),
    ],
)
def test_spectra_of_all_families(team: Team, dtype: str, k: int, threads: int) -> None:
    families = tuple(FAMILIES)
    run = team.solve(stack_of(families, k, dtype), dtype=dtype, threads=threads, flush=dtype == "float32")
    assert_fits(run, families, k, dtype)


@pytest.mark.parametrize(("k", "dtype"), [(2, "float64"), (5, "float32"), (8, "float64")])
def test_vectors_of_all_families(team: Team, k: int, dtype: str) -> None:
    families = tuple(FAMILIES)
    stack = stack_of(families, k, dtype)
    run = team.solve(stack, dtype=dtype, vectors="both", threads=4, flush=dtype == "float32")
    assert_fits(run, families, k, dtype)
    assert run.again.any()
    assert not run.again.all()


@pytest.mark.parametrize(
    ("k", "threads", "dtype"), [(33, 4, "float64"), (40, 8, "float32"), (100, 4, "float64")]
)
def test_larger_spectra(team: Team, k: int, threads: int, dtype: str) -> None:
    families = HARD[:4] if k > 40 else HARD
    run = team.solve(stack_of(families, k, dtype), dtype=dtype, threads=threads)
    assert_fits(run, families, k, dtype)


@pytest.mark.parametrize(("k", "modes", "vectors"), [(17, 17, "right"), (33, 6, "both"), (64, 2, "both")])
def test_larger_vectors(team: Team, k: int, modes: int, vectors: Any) -> None:
    families = HARD[:3] if k > 40 else HARD
    run = team.solve(stack_of(families, k, "float64"), vectors=vectors, modes=modes)
    assert_fits(run, families, k, "float64")


def test_crowded_eigenvalues_have_independent_vectors(team: Team) -> None:
    """Inverse iteration alone would give one vector again and again: these go on to their Schur forms."""
    for family in ("repeated_rotated", "block_copies", "identity"):
        A = matrix(family, 12, "float64")
        run = team.solve(A[None], vectors="both")
        assert run.again.tolist() == [1]
        assert run.result.status[0] == Status.OK
        assert run.result.right is not None
        values = run.result.eigenvalues[0]
        near = np.abs(values[:, None] - values) <= 1e-3 * np.abs(A).max()
        for group in np.unique(near, axis=0):
            assert np.linalg.svd(run.result.right[0][group], compute_uv=False)[-1] > 1e-5
    assert (
        team.solve(matrix("jordan", 8, "float64")[None], vectors="both").result.status[0] == Status.DEFECTIVE
    )


def test_triangles_are_exact_in_any_order(team: Team) -> None:
    families = ("strictly_triangular", "triangular_permuted", "diagonal", "zero")
    for k in (1, 2, 7, 40):
        stack = stack_of(families, k, "float64")
        for vectors in ("none", "both"):
            run = team.solve(stack, vectors=vectors, modes=2)
            for b, A in enumerate(stack):
                assert_array_equal(run.result.eigenvalues[b], np.sort(np.diag(A))[::-1], err_msg=families[b])


# --- teams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 8])
def test_any_number_of_threads_does(team: Team, threads: int) -> None:
    """Sums in another order move results within their errors; whether a pair is a pair is not their business."""
    stack = stack_of(HARD, 16, "float64")
    run = team.solve(stack, vectors="both", threads=threads)
    assert_fits(run, HARD, 16, "float64")
    again = team.solve(stack, vectors="both", threads=threads)
    assert bits(again) == bits(run)


def test_no_bit_depends_on_neighbors_order_or_teams(team: Team) -> None:
    rng = np.random.default_rng(0)
    names = tuple(rng.choice(list(FAMILIES), size=40))
    sizes = rng.integers(0, 11, size=40)
    cores = np.full((40, 10, 10), np.inf)
    for b, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if size:
            cores[b, :size, :size] = matrix(str(name), int(size), "float64")
    for vectors in ("none", "both"):
        whole = team.solve(cores, sizes=sizes, vectors=vectors, modes=3)
        mixed = team.solve(
            cores, sizes=sizes, vectors=vectors, modes=3, teams=3, listed=rng.permutation(40).tolist()
        )
        assert bits(mixed) == bits(whole)
        for b in (0, 7, 21):
            alone = team.solve(cores[b : b + 1], sizes=sizes[b : b + 1], vectors=vectors, modes=3)
            assert bits(alone) == bits(whole, slice(b, b + 1))
    assert (whole.result.status[sizes == 0] == Status.OK).all()
    assert (whole.raw.trace_defect[sizes == 0] == 0).all()


def test_only_what_is_listed_is_touched(team: Team) -> None:
    stack = stack_of(HARD, 6, "float64")
    run = team.solve(stack, vectors="both", listed=[5, 1])
    rest = np.setdiff1d(np.arange(len(HARD)), [5, 1])
    assert (run.raw.outcome[rest] == Status.NOT_COMPUTED).all()
    assert (run.raw.outcome[[1, 5]] == Status.OK).all()
    assert run.raw.right is not None
    assert np.isnan(run.raw.right[rest]).all()


# --- input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", ["none", "both"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_matrices_that_are_not_finite_are_alone_with_it(team: Team, vectors: Any, poison: float) -> None:
    clean = stack_of(HARD, 7, "float64")
    dirty, bad = clean.copy(), np.array([0, 3, 4])
    dirty[bad, [6, 0, 2], [0, 0, 5]] = poison
    good = np.setdiff1d(np.arange(len(HARD)), bad)
    run = team.solve(dirty, vectors=vectors, modes=2)
    assert (run.result.status[bad] == Status.NON_FINITE_INPUT).all()
    assert np.isnan(run.result.eigenvalues[bad]).all()
    assert bits(run, good) == bits(team.solve(clean, vectors=vectors, modes=2), good)


@pytest.mark.parametrize("power", [-100, 100])
def test_scaling_by_a_power_of_two_changes_no_bit(team: Team, power: int) -> None:
    for dtype in ("float64", "float32"):
        A = stack_of(("normal", "hopfield_sparse", "graded_1e4", "cyclic", "repeated_rotated"), 9, dtype)
        first = team.solve(A, vectors="both", modes=3, dtype=dtype)
        second = team.solve(np.ldexp(A, power), vectors="both", modes=3, dtype=dtype)
        expected = np.ldexp(first.raw.eigenvalues.view(dtype), power)
        assert_array_equal(second.raw.eigenvalues.view(dtype), expected)
        assert bits(second)[1:] == bits(first)[1:]


def test_precision_is_that_asked_for(team: Team) -> None:
    single = np.random.default_rng(3).normal(size=(4, 9, 9)).astype(np.float32)
    wide = team.solve(single, dtype="float64", vectors="both")
    assert bits(wide) == bits(team.solve(single.astype(np.float64), dtype="float64", vectors="both"))
    narrow = team.solve(single.astype(np.float64), dtype="float32")
    assert bits(narrow) == bits(team.solve(single, dtype="float32"))
    assert np.abs(narrow.result.eigenvalues - wide.result.eigenvalues).max() > 1e-9


@pytest.mark.parametrize("vectors", ["none", "both"])
def test_cores_that_are_never_formed(team: Team, vectors: Any) -> None:
    """W[R, R] diag(s_R) - diag(g_R), entry by entry, has the bits of the same matrix formed first."""
    rng = np.random.default_rng(5)
    W = np.where(rng.random((13, 13)) < 0.3, rng.normal(size=(13, 13)), 0.0)
    g = rng.uniform(0.5, 2.0, size=13)
    s = np.where(rng.random((9, 13)) < 0.7, rng.uniform(0.1, 1.0, size=(9, 13)), 0.0)
    s[0], s[1] = 0.0, 1.0
    cores, _, real = gather_cores(ScaledSystem.of(W, g), s)
    formed = team.solve(cores, sizes=real.sum(axis=1), vectors=vectors, modes=4)
    scaled = team.solve((W, g, s), vectors=vectors, modes=4)
    assert (scaled.result.status == formed.result.status).all()
    assert bits(scaled) == bits(formed)


# --- memory and races --------------------------------------------------------------------------------------


def test_python_plans_with_the_figures_of_the_header(team: Team) -> None:
    rows = team.needs
    assert len(rows) == 401 * 3
    for n, task, numbers, others, integers in rows.tolist():
        needs = Needs(n, Task(task))
        assert (needs.numbers, needs.other_numbers, needs.integers) == (numbers, others, integers)


def provoke(team: Team) -> None:
    """Run every part of the solver with few and many threads."""
    families = tuple(FAMILIES)
    for k, dtype, vectors, threads, teams in (
        (8, "float64", "none", 4, 2),
        (7, "float32", "both", 5, 1),
        (8, "float64", "both", 8, 1),
        (33, "float64", "none", 4, 1),
    ):
        team.solve(stack_of(families, k, dtype), dtype=dtype, vectors=vectors, threads=threads, teams=teams)  # type: ignore[arg-type]
    team.solve(stack_of(HARD, 24, "float64"), vectors="both", modes=5, threads=3)
    rng = np.random.default_rng(0)
    team.solve((rng.normal(size=(12, 12)), np.ones(12), rng.uniform(size=(4, 12)).round(1)), vectors="both")


@pytest.mark.slow
def test_no_races(tmp_path: Path) -> None:
    """A barrier too few, and two threads write and read the same number: the sanitizer would stop the program."""
    provoke(Team(compile_team(tmp_path, "-O1", "-g", "-fsanitize=thread"), tmp_path))


@pytest.mark.slow
def test_the_sanitizer_sees_a_missing_barrier(tmp_path: Path) -> None:
    careless = Team(
        compile_team(tmp_path, "-O1", "-fsanitize=thread", "-DTEAM_WITHOUT_LEADERS_BARRIER"), tmp_path
    )
    with pytest.raises(AssertionError, match="data race"):
        provoke(careless)


@pytest.mark.slow
def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    provoke(Team(compile_team(tmp_path, *flags), tmp_path))
