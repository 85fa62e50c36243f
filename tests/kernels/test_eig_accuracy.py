"""Accuracy of every backend on matrices that eigensolvers find hard."""

from __future__ import annotations

import importlib.util
import itertools
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from helpers import match_spectra, shared_data
from kernels.matrices import FAMILIES, matrix
from kernels.measures import Problem

from stabdask.kernels.eig import BACKENDS, EigResult, eig, inaccuracy_limit
from stabdask.kernels.threads import single_threaded_blas
from stabdask.schema import Status

Array = np.ndarray[Any, Any]

SIZES = (1, 2, 3, 4, 5, 8, 13, 16, 17, 31, 33)
VECTOR_SIZES = (1, 2, 3, 4, 5, 8, 13, 16, 17, 33)
LARGE_FAMILIES = (
    "normal",
    "positive",
    "hopfield_dense",
    "hopfield_sparse",
    "graded_1e12",
    "block_triangular",
    "orthogonal",
    "repeated_rotated",
    "companion_random",
    "entries_of_many_sizes",
    "grcar",
)

# No result may come with a warning of NumPy: what is wrong with it is in its status.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_family = pytest.mark.parametrize("family", list(FAMILIES))


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread() -> Iterator[None]:
    """What is measured here is small: more threads would only get into each other's way."""
    with single_threaded_blas():
        yield


@cache
def problem(family: str, k: int, dtype: str) -> Problem:
    """Return a problem, kept so that what LAPACK does with it is worked out once for all backends."""
    return Problem(matrix(family, k, dtype), n_probed=400 if k < 40 else 4)


@cache
def solved(
    backend: str, dtype: str, k: int, families: tuple[str, ...], vectors: Any, modes: int | None
) -> EigResult:
    """Solve all families of one size in one batch: a SIMD backend gets very different neighbors."""
    stack = np.stack([problem(family, k, dtype).matrix for family in families])
    result = eig(stack, vectors=vectors, modes=modes, backend=backend)
    assert result.backend == backend
    return result


def solve(
    backend: str, dtype: str, family: str, k: int, vectors: Any = "none", modes: int | None = None
) -> tuple[Problem, EigResult]:
    """Return a problem and its own part of the result of the batch it was solved in."""
    families = tuple(FAMILIES) if k < 40 else LARGE_FAMILIES
    whole, b = solved(backend, dtype, k, families, vectors, modes), families.index(family)
    return problem(family, k, dtype), part_of(whole, b)


def part_of(whole: EigResult, b: int) -> EigResult:
    """Return what a result holds on entry `b` of its batch, without the axis of the batch."""
    arrays = {name: value for name, value in vars(whole).items() if name != "backend"}
    own: dict[str, Any] = {name: value if value is None else value[b] for name, value in arrays.items()}
    return EigResult(**own, backend=whole.backend)


def test_a_compiled_backend_is_offered() -> None:
    """A build whose import fails must not end in a silent run on LAPACK alone, tests included."""
    package = importlib.util.find_spec("stabdask.kernels.lanes")
    built = package is not None and importlib.util.find_spec("stabdask.kernels.lanes._lanes") is not None
    assert "lapack" in BACKENDS
    assert "lanes" in BACKENDS or not built


# --- eigenvalues -------------------------------------------------------------------------------------------


def assert_closed_and_ordered(values: Array) -> None:
    """Check canonical order, and that values that are not real come in pairs equal to the last bit."""
    listed = values.tolist()
    keys = [(-v.real, -v.imag) for v in listed]
    assert keys == sorted(keys)
    counts = Counter((v.real, v.imag) for v in listed)
    assert all(counts[real, -imag] == count for (real, imag), count in counts.items())
    same_real = Counter(v.real for v in listed)
    for i, v in enumerate(listed):
        if v.imag > 0 and same_real[v.real] == 2:
            assert listed[i + 1] == v.conjugate()


def assert_trace_defect_is_true(case: Problem, result: EigResult) -> None:
    values = case.scaled_values(result.eigenvalues)
    norm = np.linalg.norm(case.scaled) or 1.0
    found = abs(values.sum() - np.trace(case.scaled)) / norm
    assert abs(float(result.trace_defect) - found) <= 4 * case.k * np.finfo(np.float64).eps
    assert result.trace_defect <= inaccuracy_limit(case.k, case.matrix.dtype)


@each_backend
@each_dtype
@each_family
def test_spectra_are_those_of_matrices_nearby(backend: str, dtype: str, family: str) -> None:
    for k in SIZES:
        case, result = solve(backend, dtype, family, k)
        name = f"{family} {k}"
        assert result.status == Status.OK, name
        assert result.eigenvalues.dtype == np.result_type(dtype, np.complex64)
        case.assert_spectrum_fits(result.eigenvalues, name)
        assert_closed_and_ordered(result.eigenvalues)
        assert_trace_defect_is_true(case, result)


@each_backend
@each_dtype
@pytest.mark.parametrize("k", [48, 64, 65, 100, 128, 150])
def test_larger_spectra_are_those_of_matrices_nearby(backend: str, dtype: str, k: int) -> None:
    for family in LARGE_FAMILIES:
        case, result = solve(backend, dtype, family, k)
        assert result.status == Status.OK, family
        case.assert_spectrum_fits(result.eigenvalues, f"{family} {k}")
        assert_closed_and_ordered(result.eigenvalues)
        assert_trace_defect_is_true(case, result)


@each_backend
@each_dtype
@pytest.mark.parametrize("k", [200, 300])
def test_largest_spectra(backend: str, dtype: str, k: int) -> None:
    cases = [problem(family, k, dtype) for family in ("normal", "hopfield_sparse", "orthogonal")]
    result = eig(np.stack([case.matrix for case in cases]), backend=backend)
    for b, case in enumerate(cases):
        assert result.status[b] == Status.OK
        case.assert_spectrum_fits(result.eigenvalues[b])
        assert_closed_and_ordered(result.eigenvalues[b])


@pytest.mark.slow
@each_backend
@each_dtype
@pytest.mark.parametrize("family", LARGE_FAMILIES)
def test_every_size(backend: str, dtype: str, family: str) -> None:
    """No size is a special one: blocks, lanes and workspaces end everywhere."""
    for k in range(1, 131):
        case = Problem(matrix(family, k, dtype), n_probed=3)
        result = part_of(eig(case.matrix[None], vectors="both", modes=4, backend=backend), 0)
        case.assert_spectrum_fits(result.eigenvalues, f"{family} {k}")
        assert_vectors_fit(case, result, f"{family} {k}")
        alone = eig(case.matrix[None], backend=backend)
        assert alone.status[0] == Status.OK
        case.assert_spectrum_fits(alone.eigenvalues[0], f"{family} {k}")


@each_backend
@each_dtype
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_diagonals_and_triangles_are_exact(backend: str, dtype: str, vectors: Any) -> None:
    for k, family in itertools.product((1, 2, 7, 20), ("diagonal", "identity", "zero", "diagonal_repeated")):
        case, result = solve(backend, dtype, family, k, "none")
        with_vectors = eig(case.matrix[None], vectors=vectors, backend=backend)
        expected = np.sort(np.diag(case.matrix))[::-1]
        np.testing.assert_array_equal(result.eigenvalues, expected)
        np.testing.assert_array_equal(with_vectors.eigenvalues[0], expected)
    for k in (2, 7, 20):  # permuted or not, no two genes regulate each other
        _, permuted = solve(backend, dtype, "strictly_triangular", k)
        np.testing.assert_array_equal(permuted.eigenvalues, 0)
        case, triangle = solve(backend, dtype, "triangular", k)
        np.testing.assert_array_equal(triangle.eigenvalues, np.sort(np.diag(case.matrix))[::-1])


BY_HAND: dict[str, tuple[list[list[float]], list[complex]]] = {
    "real pair": ([[1, 2], [3, 2]], [4, -1]),
    "complex pair": ([[1, -4], [1, 1]], [1 + 2j, 1 - 2j]),
    "equal": ([[3, 0], [0, 3]], [3, 3]),
    "defective": ([[2, 1], [0, 2]], [2, 2]),
    "nilpotent": ([[0, 1], [0, 0]], [0, 0]),
    "nilpotent, lower": ([[0, 0], [5, 0]], [0, 0]),
    "rotation": ([[0, -3], [3, 0]], [3j, -3j]),
    "swap": ([[0, 1], [1, 0]], [1, -1]),
    "tiny coupling": ([[1, 1e-25], [1e-25, -1]], [1, -1]),
    "lopsided": ([[0, 2.0**60], [2.0**-60, 0]], [1, -1]),
    "lopsided rotation": ([[0, 2.0**60], [-(2.0**-60), 0]], [1j, -1j]),
    "small beside large": ([[1, 0], [0, 1e-20]], [1, 1e-20]),
    "cycle": ([[0, 0, 1], [1, 0, 0], [0, 1, 0]], [1, -0.5 + 0.75**0.5 * 1j, -0.5 - 0.75**0.5 * 1j]),
    "one gene switched off": ([[-1, 5, 0], [0, -2, 0], [7, 1, -3]], [-1, -2, -3]),
    "ring of activators": ([[-1, 0, 8], [1, -1, 0], [0, 1, -1]], [1, -2 + 3**0.5 * 1j, -2 - 3**0.5 * 1j]),
}


@each_backend
@each_dtype
@pytest.mark.parametrize("name", list(BY_HAND))
@pytest.mark.parametrize("vectors", ["none", "both"])
def test_small_systems_by_hand(backend: str, dtype: str, name: str, vectors: Any) -> None:
    core, expected = BY_HAND[name]
    result = eig(np.array([core], dtype=dtype), vectors=vectors, backend=backend)
    tolerance = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(result.eigenvalues[0].real, np.real(expected), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.eigenvalues[0].imag, np.imag(expected), rtol=tolerance, atol=tolerance)


@each_backend
@each_dtype
@pytest.mark.parametrize("k", [2, 3])
def test_every_matrix_of_small_integers(backend: str, dtype: str, k: int) -> None:
    """All 2 x 2 matrices of -4..4 and all 3 x 3 matrices of -1..1 against their characteristic polynomials."""
    entries = {2: range(-4, 5), 3: range(-1, 2)}[k]
    matrices = np.array(list(itertools.product(entries, repeat=k * k)), dtype=dtype).reshape(-1, k, k)
    result = eig(matrices, backend=backend)
    assert (result.status == Status.OK).all()
    exact = matrices.astype(np.float64)
    values = result.eigenvalues.astype(np.complex128)
    size = np.maximum(np.abs(exact).sum(axis=2).max(axis=1), 1)
    traces = np.trace(exact, axis1=1, axis2=2)
    minors = (traces**2 - np.trace(exact @ exact, axis1=1, axis2=2)) / 2
    sums = values.sum(axis=1)
    pairs = (sums**2 - (values**2).sum(axis=1)) / 2
    tolerance = 20 * np.finfo(dtype).eps
    assert (np.abs(sums - traces) <= tolerance * size).all()
    assert (np.abs(pairs - minors) <= tolerance * size**2).all()
    assert (np.abs(values.prod(axis=1) - np.round(np.linalg.det(exact))) <= tolerance * size**k).all()
    assert (np.sort_complex(values) == np.sort_complex(values.conj())).all()


def assert_traces_of_powers(matrices: Array, backend: str) -> None:
    result = eig(matrices, backend=backend)
    assert (result.status == Status.OK).all()
    exact, values = matrices.astype(np.float64), result.eigenvalues.astype(np.complex128)
    size = np.maximum(np.linalg.norm(exact, axis=(1, 2)), 1)
    k, power = exact.shape[-1], np.broadcast_to(np.eye(exact.shape[-1]), exact.shape)
    for p in range(1, k + 1):
        power = power @ exact
        off = np.abs((values**p).sum(axis=1) - np.trace(power, axis1=1, axis2=2))
        assert (off <= 20 * k * np.finfo(matrices.dtype).eps * size**p).all()


@each_backend
@each_dtype
def test_many_regulatory_graphs(backend: str, dtype: str) -> None:
    """Some 20,000 graphs on 4 to 6 genes, reducible and cyclic ones among them, by traces of powers."""
    rng = np.random.default_rng(1)
    for k in (4, 5, 6):
        assert_traces_of_powers(rng.choice([-1, 0, 0, 1], size=(7000, k, k)).astype(dtype), backend)


@pytest.mark.slow
@each_backend
@each_dtype
def test_every_graph_of_four_genes(backend: str, dtype: str) -> None:
    """All 65,536, then half a million with inhibition: none may stall."""
    every = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    assert_traces_of_powers(every.reshape(-1, 4, 4).astype(dtype), backend)
    rng = np.random.default_rng(2)
    for _ in range(5):
        assert_traces_of_powers(rng.integers(-1, 2, size=(100_000, 4, 4)).astype(dtype), backend)


@each_backend
@each_dtype
@pytest.mark.parametrize("vectors", ["none", "both"])
@pytest.mark.parametrize("power", [-100, -1, 1, 100])
def test_scaling_by_a_power_of_two_changes_no_bit(backend: str, dtype: str, vectors: Any, power: int) -> None:
    for family, k in itertools.product(("normal", "hopfield_sparse", "cyclic", "graded_1e4"), (2, 5, 16)):
        A = matrix(family, k, dtype)
        # Both in one batch, and the scaled one beside a third of yet another norm.
        result = eig(np.stack([A, np.ldexp(A, power), 3 * A]), vectors=vectors, modes=3, backend=backend)
        scaled = np.ldexp(result.eigenvalues[0].view(dtype), power)
        np.testing.assert_array_equal(result.eigenvalues[1].view(dtype), scaled)
        for name in ("right", "left", "condition", "residual", "trace_defect", "status"):
            values = getattr(result, name)
            if values is not None:
                np.testing.assert_array_equal(values[0], values[1], err_msg=f"{name} of {family} {k}")


# --- vectors -----------------------------------------------------------------------------------------------


def assert_convention(vectors: Array, values: Array, eps: float) -> None:
    """Check unit norm, the largest component real and positive, and conjugate vectors of conjugate values."""
    exact = vectors.astype(np.complex128)
    shown, k = vectors.shape
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, atol=(10 + k) * eps)
    size = np.abs(exact)
    largest = size.max(axis=1, keepdims=True)
    # The first of the components equally large is taken; rounding may decide at the edge of that.
    pivot = (size >= largest * (1 - 1e-6 - 8 * eps)) & (vectors.imag == 0) & (vectors.real > 0)
    assert pivot.any(axis=1).all()
    earlier = np.arange(k) < pivot.argmax(axis=1)[:, None]
    assert (size < largest * (1 - 1e-6 + 8 * eps))[earlier].all()
    assert (vectors.imag[values[:shown].imag == 0] == 0).all()
    same_real = Counter(values.real.tolist())
    for i in range(shown - 1):
        if values[i].imag > 0 and same_real[values[i].real.item()] == 2:
            np.testing.assert_array_equal(vectors[i + 1], vectors[i].conj())


def assert_vectors_fit(case: Problem, result: EigResult, name: str) -> None:
    """Check vectors, and the figures of merit that come with them, against the matrix."""
    values, right, left, k, eps = result.eigenvalues, result.right, result.left, case.k, case.eps
    assert right is not None
    shown = len(right)
    assert_convention(right, values, eps)
    scaled = case.scaled_values(values)[:shown]
    own = case.residuals(scaled, right, None)
    assert abs(float(result.residual) - own.max()) <= k * eps + 1e-3 * own.max(), name
    limit = inaccuracy_limit(k, case.matrix.dtype)
    assert result.status in (Status.OK, Status.DEFECTIVE, Status.INACCURATE), name
    # Vectors of badly scaled matrices may miss, but not unnoticed, and never those of others.
    assert (own.max() > 0.99 * limit) or result.status != Status.INACCURATE, name
    assert (own.max() < 1.01 * limit) or result.status != Status.OK, name
    case.assert_vectors_fit(values[:shown], right, left, name)
    if left is not None:
        assert_convention(left, values, eps)
        assert result.condition is not None
        overlap = np.abs(np.sum(left.astype(np.complex128).conj() * right, axis=1))
        with np.errstate(divide="ignore"):
            assert (np.abs(1 / result.condition - overlap) <= 2 * k * eps).all(), name
        assert (result.condition >= 1 - 2 * k * eps).all(), name
        if result.status == Status.DEFECTIVE:
            assert result.condition.max() > 1e-2 / (k * eps), name


@each_backend
@each_dtype
@each_family
def test_vectors_of_all_modes(backend: str, dtype: str, family: str) -> None:
    for k in VECTOR_SIZES:
        case, result = solve(backend, dtype, family, k, "both")
        assert result.right is not None
        assert result.right.shape == (k, k)
        assert_closed_and_ordered(result.eigenvalues)
        case.assert_spectrum_fits(result.eigenvalues, f"{family} {k}")
        assert_vectors_fit(case, result, f"{family} {k}")


@each_backend
@each_dtype
@each_family
@pytest.mark.parametrize(("modes", "vectors"), [(3, "right"), (3, "both"), (10, "both")])
def test_vectors_of_leading_modes(backend: str, dtype: str, family: str, modes: int, vectors: Any) -> None:
    for k in (2, 5, 13, 17, 33):
        case, result = solve(backend, dtype, family, k, vectors, modes)
        assert result.right is not None
        assert result.right.shape == (min(modes, k), k)
        assert (result.left is not None) == (vectors == "both")
        assert_vectors_fit(case, result, f"{family} {k}")


@each_backend
@each_dtype
@pytest.mark.parametrize("k", [64, 100, 150])
def test_vectors_of_leading_modes_of_larger_matrices(backend: str, dtype: str, k: int) -> None:
    for family in LARGE_FAMILIES:
        case, result = solve(backend, dtype, family, k, "both", 10)
        assert_vectors_fit(case, result, f"{family} {k}")


@each_backend
@each_dtype
def test_fewer_modes_change_no_bit_of_the_others(backend: str, dtype: str) -> None:
    for family, k in itertools.product(("normal", "hopfield_sparse", "repeated_rotated", "jordan"), (5, 17)):
        _, every = solve(backend, dtype, family, k, "both")
        _, some = solve(backend, dtype, family, k, "both", 3)
        np.testing.assert_array_equal(some.eigenvalues, every.eigenvalues)
        for name in ("right", "left", "condition"):
            np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:3], err_msg=family)


def simple_conditions(A: Array, eps: float) -> Iterator[tuple[complex, float, float]]:
    """Give the eigenvalues that are well apart, with their condition and the relative error it may have.

    To first order a perturbation E turns the vectors by cond(V) |E| / gap.
    """
    values, left, right = scipy.linalg.eig(A, left=True, right=True)
    overlap = np.abs(np.sum(left.conj() * right, axis=0))
    apart = np.abs(values[:, None] - values) + np.where(np.eye(len(A)), np.inf, 0)
    spread = np.linalg.cond(right) ** 2 * len(A) * eps * np.linalg.norm(A, 2)
    for value, cosine, gap in zip(values, overlap, apart.min(axis=1), strict=True):
        if 20 * spread < 0.1 * gap:
            yield value, 1 / cosine, 20 * spread / gap


@each_backend
@each_dtype
def test_conditions_of_simple_eigenvalues(backend: str, dtype: str) -> None:
    n_tested = Counter[str]()
    families = (
        "normal",
        "hopfield_dense",
        "hopfield_saturated",
        "tridiagonal_toeplitz",
        "triangular",
        "orthogonal",
    )
    for family, k in itertools.product(families, (2, 3, 5, 8, 13)):
        case, result = solve(backend, dtype, family, k, "both")
        assert result.condition is not None
        for value, expected, error in simple_conditions(case.matrix.astype(np.float64), case.eps):
            nearest = np.abs(result.eigenvalues - value).argmin()
            np.testing.assert_allclose(
                result.condition[nearest], expected, rtol=error, err_msg=f"{family} {k}"
            )
            n_tested[family] += 1
    assert min(n_tested[family] for family in families) >= 5, n_tested


# How near to dependent the vectors may be: exact blocks leave no doubt, rounding gives all a little freedom.
SEMISIMPLE = {
    "zero": 1e-2,
    "identity": 1e-2,
    "diagonal_repeated": 1e-2,
    "pairs_equal": 1e-2,
    "pairs_real": 1e-2,
    "pairs_complex": 1e-2,
    "pairs_rotation": 1e-2,
    "block_copies": 1e-2,
    "cycles_of_three": 1e-2,
    "repeated_rotated": 1e-5,
    "repeated_skewed": 1e-5,
}


@each_backend
@each_dtype
@pytest.mark.parametrize("family", list(SEMISIMPLE))
@pytest.mark.parametrize("modes", [None, 5])
def test_repeated_eigenvalues_have_independent_vectors(
    backend: str, dtype: str, family: str, modes: int | None
) -> None:
    """As many as the eigenvalue is repeated, also where those asked for are only some of them."""
    n_repeated = 0
    for k in (2, 6, 12, 24):
        if family == "cycles_of_three" and k % 3:
            continue
        A = matrix(family, k, dtype)
        result = part_of(eig(A[None], vectors="both", modes=modes, backend=backend), 0)
        assert result.status == Status.OK, k
        values = result.eigenvalues[:modes]
        near = np.abs(values[:, None] - values) <= 1e-3 * np.abs(A).max()
        for group in np.unique(near, axis=0):
            for vectors in (result.right, result.left):
                assert vectors is not None
                singular = np.linalg.svd(vectors[group], compute_uv=False)
                assert singular[-1] > SEMISIMPLE[family], (k, int(group.sum()))
            n_repeated = max(n_repeated, int(group.sum()))
    assert n_repeated >= 2


@each_backend
@each_dtype
@pytest.mark.parametrize(
    "family", ["jordan", "jordan_several", "shift", "strictly_triangular", "pairs_nilpotent"]
)
def test_exactly_defective_matrices_are_called_so(backend: str, dtype: str, family: str) -> None:
    for k in (2, 8, 17):
        for modes in (None, 3):
            _, result = solve(backend, dtype, family, k, "both", modes)
            assert result.status == Status.DEFECTIVE, (k, modes)


@each_backend
@each_dtype
@pytest.mark.parametrize("family", ["jordan_rotated", "jordan_skewed", "pairs_defective", "redheffer"])
def test_hidden_jordan_blocks_are_ill_conditioned(backend: str, dtype: str, family: str) -> None:
    for k in (8, 17):
        case, result = solve(backend, dtype, family, k, "both")
        assert result.condition is not None
        assert result.condition.max() > 0.05 / np.sqrt(case.eps), k


# --- real cores --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def fitted_cores() -> list[Array]:
    """Return a few cores of each cluster of three real fits, as they come: sparse, saturated, some stiff."""
    import anndata

    from stabdask.fields.schopfield import read_schopfield

    cores = []
    for name in ("bifurcating", "dense_linear", "pancreas50"):
        atlas, fit = shared_data(f"hopfield_{name}.h5ad"), shared_data(f"hopfield_{name}.h5sch")
        adata, field = anndata.read_h5ad(atlas), read_schopfield(fit)
        x = np.asarray(adata[:, field.genes.tolist()].layers["Ms"], dtype=np.float64)
        labels = np.asarray(adata.obs["cell_type"], dtype=str)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)[:2]
            part = field.linearize(x[rows], field.cluster_number(label))
            stack = part.cores(np.arange(len(rows)))
            cores += [core[:size, :size] for core, size in zip(stack, part.sizes, strict=True)]
    return cores


@each_backend
@each_dtype
def test_cores_of_real_fits(backend: str, dtype: str) -> None:
    cores = fitted_cores()
    assert len(cores) >= 10
    sizes = np.array([len(core) for core in cores])
    stack = np.full((len(cores), sizes.max(), sizes.max()), np.nan)
    for b, core in enumerate(cores):
        stack[b, : len(core), : len(core)] = core
    stack = stack.astype(dtype)
    alone = eig(stack, sizes=sizes, backend=backend)
    assert (alone.status == Status.OK).all()
    result = eig(stack, sizes=sizes, vectors="both", modes=6, backend=backend)
    for b, size in enumerate(sizes):
        case = Problem(stack[b, :size, :size], n_probed=6)
        case.assert_spectrum_fits(alone.eigenvalues[b, :size])
        own = part_of(result, b)
        assert own.right is not None
        assert own.left is not None
        assert own.condition is not None
        shown = min(6, size)
        cut = EigResult(
            eigenvalues=own.eigenvalues[:size],
            right=own.right[:shown, :size],
            left=own.left[:shown, :size],
            condition=own.condition[:shown],
            residual=own.residual,
            trace_defect=own.trace_defect,
            status=own.status,
            backend=own.backend,
        )
        case.assert_spectrum_fits(cut.eigenvalues)
        assert_vectors_fit(case, cut, f"core {b}")
    if dtype == "float64":
        worst = max(
            match_spectra(alone.eigenvalues[b, :size], np.linalg.eigvals(cores[b])) / np.linalg.norm(cores[b])
            for b, size in enumerate(sizes)
        )
        assert worst < 1e-9
