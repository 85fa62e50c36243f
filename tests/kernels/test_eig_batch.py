"""What a batch must not change: results of every backend are those of each matrix on its own, to the last bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.matrices import FAMILIES, matrix
from kernels.measures import Problem

from stabdask.kernels.eig import BACKENDS, EigResult, eig
from stabdask.kernels.threads import single_threaded_blas
from stabdask.schema import Status

Array = np.ndarray[Any, Any]
FIELDS = ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status")

# No result may come with a warning of NumPy: what is wrong with it is in its status.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_request = pytest.mark.parametrize(
    "options",
    [
        {"vectors": "none"},
        {"vectors": "right", "modes": 4},
        {"vectors": "both", "modes": 3},
        {"vectors": "both"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread() -> Iterator[None]:
    """What is measured here is small: more threads would only get into each other's way."""
    with single_threaded_blas():
        yield


def bits(result: EigResult, rows: Any = slice(None)) -> dict[str, bytes]:
    """Return every array of a result for some entries of its batch, as bytes: NaN and signed zeros count."""
    arrays = {name: getattr(result, name) for name in FIELDS}
    return {name: np.ascontiguousarray(a[rows]).tobytes() for name, a in arrays.items() if a is not None}


def mixed_batch(dtype: str, n: int, largest: int, seed: int = 0) -> tuple[Array, Array]:
    """Return matrices of many families and sizes, garbage past their sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, largest + 1, size=n)
    names = rng.choice(list(FAMILIES), size=n)
    cores = rng.choice([np.nan, np.inf, -1e30, 7.0], size=(n, largest, largest)).astype(dtype)
    for b, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if size:
            cores[b, :size, :size] = matrix(str(name), int(size), dtype)
    return cores, sizes


# --- neighbors ---------------------------------------------------------------------------------------------


@each_backend
@each_dtype
@each_request
def test_no_bit_depends_on_the_neighbors(backend: str, dtype: str, options: dict[str, Any]) -> None:
    cores, sizes = mixed_batch(dtype, 90, 18)
    whole = eig(cores, sizes=sizes, backend=backend, **options)
    assert (whole.status[sizes == 0] == Status.OK).all()
    for b in range(len(cores)):
        alone = eig(cores[b : b + 1], sizes=sizes[b : b + 1], backend=backend, **options)
        assert bits(alone) == bits(whole, slice(b, b + 1)), b
    rng = np.random.default_rng(1)
    for n in (2, 3, 7, 8, 9, 15, 16, 17, 31, 40):
        some = rng.permutation(len(cores))[:n]
        again = eig(cores[some], sizes=sizes[some], backend=backend, **options)
        assert bits(again) == bits(whole, some), some


@each_backend
@each_dtype
@pytest.mark.parametrize("vectors", ["none", "both"])
@pytest.mark.parametrize(("k", "n"), [(33, 37), (64, 19), (100, 5), (130, 3)])
def test_no_bit_depends_on_neighbors_of_one_size(
    backend: str, dtype: str, vectors: Any, k: int, n: int
) -> None:
    """Long rows too: a sum over a batch may be cut into pieces that depend on where a matrix lies."""
    cores = np.random.default_rng(k).normal(size=(n, k, k)).astype(dtype)
    whole = eig(cores, vectors=vectors, modes=4, backend=backend)
    backwards = eig(cores[::-1], vectors=vectors, modes=4, backend=backend)
    assert bits(backwards, slice(None, None, -1)) == bits(whole)
    for b in {0, 1, n // 2, n - 1}:
        alone = eig(cores[b : b + 1], vectors=vectors, modes=4, backend=backend)
        assert bits(alone) == bits(whole, slice(b, b + 1)), b


@each_backend
@each_dtype
@each_request
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_matrices_that_are_not_finite_are_alone_with_it(
    backend: str, dtype: str, options: dict[str, Any], poison: float
) -> None:
    clean, sizes = mixed_batch(dtype, 41, 9, seed=2)
    dirty, rng = clean.copy(), np.random.default_rng(3)
    bad = np.flatnonzero((sizes > 0) & (rng.random(len(sizes)) < 0.3))
    good = np.setdiff1d(np.arange(len(sizes)), bad)
    assert len(bad) > 5
    for b in bad:
        i, j = rng.integers(sizes[b], size=2)
        dirty[b, i, j] = poison
    result = eig(dirty, sizes=sizes, backend=backend, **options)
    assert (result.status[bad] == Status.NON_FINITE_INPUT).all()
    for name in FIELDS[:-1]:
        values = getattr(result, name)
        if values is not None:
            assert np.isnan(values[bad]).all(), name
    assert bits(result, good) == bits(eig(clean, sizes=sizes, backend=backend, **options), good)
    everything = eig(np.full((19, 3, 3), poison, dtype=dtype), backend=backend, **options)
    assert (everything.status == Status.NON_FINITE_INPUT).all()


@each_backend
@each_dtype
@each_request
def test_what_lies_past_a_size_is_not_looked_at(backend: str, dtype: str, options: dict[str, Any]) -> None:
    cores, sizes = mixed_batch(dtype, 30, 11, seed=4)
    other = cores.copy()
    past = np.arange(11) >= sizes[:, None]
    other[past[:, :, None] | past[:, None, :]] = 3.0
    result = eig(cores, sizes=sizes, backend=backend, **options)
    assert bits(result) == bits(eig(other, sizes=sizes, backend=backend, **options))
    assert (result.status != Status.NON_FINITE_INPUT).all()
    assert np.isnan(result.eigenvalues[past]).all()
    assert np.isfinite(result.eigenvalues[~past]).all()
    for vectors in (result.right, result.left):
        if vectors is not None:
            beyond = past[:, : vectors.shape[1], None] | past[:, None, :]
            assert (vectors[beyond] == 0).all()
            assert (np.abs(vectors[~past[:, : vectors.shape[1]]]).max(axis=-1) > 0).all()
    if result.condition is not None:
        beyond = past[:, : result.condition.shape[1]]
        assert np.isnan(result.condition[beyond]).all()
        assert not np.isnan(result.condition[~beyond]).any()


@each_backend
@each_dtype
@each_request
def test_a_padded_matrix_gives_what_it_gives_unpadded(
    backend: str, dtype: str, options: dict[str, Any]
) -> None:
    cores, sizes = mixed_batch(dtype, 25, 14, seed=5)
    padded = eig(cores, sizes=sizes, backend=backend, **options)
    for b, size in enumerate(sizes):
        exact = eig(cores[b : b + 1, :size, :size], backend=backend, **options)
        np.testing.assert_array_equal(padded.eigenvalues[b, :size], exact.eigenvalues[0])
        for name in ("status", "residual", "trace_defect"):
            np.testing.assert_array_equal(getattr(padded, name)[b], getattr(exact, name)[0], err_msg=name)
        for name in ("right", "left", "condition"):
            values, expected = getattr(padded, name), getattr(exact, name)
            if values is not None:
                shown = expected.shape[1]
                own = values[b, :shown, :size] if values.ndim == 3 else values[b, :shown]
                np.testing.assert_array_equal(own, expected[0], err_msg=name)


# --- empty things ------------------------------------------------------------------------------------------


@each_backend
@each_dtype
@each_request
def test_nothing_to_solve(backend: str, dtype: str, options: dict[str, Any]) -> None:
    modes = options.get("modes")
    for batch, k in ((0, 5), (0, 0), (4, 0)):
        result = eig(np.empty((batch, k, k), dtype=dtype), backend=backend, **options)
        shown = k if modes is None else min(modes, k)
        assert result.eigenvalues.shape == (batch, k)
        assert result.status.tolist() == [Status.OK] * batch
        assert result.trace_defect.tolist() == [0.0] * batch
        if options["vectors"] != "none":
            assert result.right is not None
            assert result.right.shape == (batch, shown, k)
    sizes = np.zeros(20, dtype=np.uint8)
    result = eig(np.full((20, 6, 6), np.nan, dtype=dtype), sizes=sizes, backend=backend, **options)
    assert (result.status == Status.OK).all()
    assert np.isnan(result.eigenvalues).all()


@each_backend
@pytest.mark.parametrize("vectors", ["right", "both"])
def test_no_modes(backend: str, vectors: Any) -> None:
    cores = np.random.default_rng(0).normal(size=(18, 5, 5))
    result = eig(cores, vectors=vectors, modes=0, backend=backend)
    assert result.right is not None
    assert result.right.shape == (18, 0, 5)
    assert (result.status == Status.OK).all()
    assert np.isnan(result.residual).all()
    for values, core in zip(result.eigenvalues, cores, strict=True):
        Problem(core).assert_spectrum_fits(values)


# --- the form of the input ---------------------------------------------------------------------------------


@each_backend
@each_dtype
@each_request
def test_the_layout_of_the_input_does_not_matter(backend: str, dtype: str, options: dict[str, Any]) -> None:
    cores = np.random.default_rng(6).normal(size=(21, 7, 7)).astype(dtype)
    expected = bits(eig(cores, backend=backend, **options))
    wide = np.full((42, 9, 16), np.nan, dtype=dtype)
    wide[::2, 1:8, 14:0:-2] = cores
    readonly = cores.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + cores.tobytes(), dtype=np.uint8)[1:].view(dtype).reshape(cores.shape)
    layouts = {
        "Fortran": np.asfortranarray(cores),
        "transposed": np.ascontiguousarray(cores.transpose(0, 2, 1)).transpose(0, 2, 1),
        "batch last": np.ascontiguousarray(cores.transpose(1, 2, 0)).transpose(2, 0, 1),
        "strided backwards": wide[::2, 1:8, 14:0:-2],
        "read only": readonly,
        "unaligned": unaligned,
    }
    for name, same in layouts.items():
        np.testing.assert_array_equal(same, cores)
        assert bits(eig(same, backend=backend, **options)) == expected, name
    repeated = np.broadcast_to(cores[:1], (18, 7, 7))
    alone = bits(eig(cores[:1], backend=backend, **options))
    for b in range(18):
        assert bits(eig(repeated, backend=backend, **options), slice(b, b + 1)) == alone


@each_backend
@each_dtype
@each_request
def test_the_type_of_the_input_does_not_matter(backend: str, dtype: str, options: dict[str, Any]) -> None:
    integers = np.random.default_rng(7).integers(-5, 6, size=(17, 6, 6))
    expected = bits(eig(integers.astype(dtype), backend=backend, **options))
    big_endian = np.dtype(dtype).newbyteorder(">")
    for other in ("int64", "int8", "float16", "float32", "float64", ">f8", ">f4", ">i2", big_endian):
        assert bits(eig(integers.astype(other), dtype=dtype, backend=backend, **options)) == expected, other
    listed = eig(integers.tolist(), dtype=dtype, backend=backend, **options)
    assert bits(listed) == expected
    flags = integers > 0
    assert bits(eig(flags, dtype=dtype, backend=backend, **options)) == bits(
        eig(flags.astype(dtype), backend=backend, **options)
    )
    sizes = np.resize([6, 0, 3, 1, 5], 17)
    with_sizes = bits(eig(integers.astype(dtype), sizes=sizes, backend=backend, **options))
    for kind in (np.uint8, np.int16, ">i4", np.uint64):
        again = eig(integers.astype(dtype), sizes=sizes.astype(kind), backend=backend, **options)
        assert bits(again) == with_sizes, kind


@each_backend
def test_the_byte_order_of_the_input_is_no_precision(backend: str) -> None:
    cores = np.random.default_rng(8).normal(size=(5, 4, 4))
    for dtype in (np.float32, np.float64):
        native = cores.astype(dtype)
        swapped = native.astype(np.dtype(dtype).newbyteorder(">"))
        assert bits(eig(swapped, backend=backend)) == bits(eig(native, backend=backend))


@each_backend
@each_request
def test_precision_is_that_asked_for(backend: str, options: dict[str, Any]) -> None:
    cores = np.random.default_rng(9).normal(size=(19, 12, 12))
    single = cores.astype(np.float32)
    # Single precision input is exact in double: the same bits as from doubles.
    widened = eig(single, dtype="float64", backend=backend, **options)
    assert widened.eigenvalues.dtype == np.complex128
    assert bits(widened) == bits(eig(single.astype(np.float64), backend=backend, **options))
    # Doubles are rounded once, before anything is computed; figures of merit may know what was rounded off.
    narrowed = eig(cores, dtype="float32", backend=backend, **options)
    assert narrowed.eigenvalues.dtype == np.complex64
    found, expected = bits(narrowed), bits(eig(single, backend=backend, **options))
    for name in found.keys() & {"eigenvalues", "right", "left", "condition", "status"}:
        assert found[name] == expected[name], name
    for b in range(len(cores)):
        Problem(single[b].astype(np.float64)).assert_spectrum_fits(widened.eigenvalues[b])
        # Double precision rounded at the end would be too good to be true.
        distance = np.abs(narrowed.eigenvalues[b, 0] - widened.eigenvalues[b]).min()
        assert distance < 1e-3
    assert not np.array_equal(narrowed.eigenvalues, widened.eigenvalues.astype(np.complex64))


@each_backend
@each_request
def test_the_input_is_left_alone(backend: str, options: dict[str, Any]) -> None:
    cores, sizes = mixed_batch("float64", 20, 8, seed=10)
    kept, kept_sizes = cores.copy(), sizes.copy()
    eig(cores, sizes=sizes, backend=backend, **options)
    np.testing.assert_array_equal(cores, kept)
    np.testing.assert_array_equal(sizes, kept_sizes)


# --- threads -----------------------------------------------------------------------------------------------


@each_backend
@each_dtype
@each_request
def test_threads_do_not_disturb_each_other(backend: str, dtype: str, options: dict[str, Any]) -> None:
    n_threads, n_rounds = 4, 3
    batches = [mixed_batch(dtype, 33, 24, seed=20 + t) for t in range(n_threads)]
    expected = [bits(eig(cores, sizes=sizes, backend=backend, **options)) for cores, sizes in batches]
    barrier = threading.Barrier(n_threads)
    found: list[list[dict[str, bytes]]] = [[] for _ in batches]

    def work(t: int) -> None:
        cores, sizes = batches[t]
        for _ in range(n_rounds):
            barrier.wait(timeout=60)
            found[t].append(bits(eig(cores, sizes=sizes, backend=backend, **options)))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, wanted in zip(found, expected, strict=True):
        assert own == [wanted] * n_rounds


# --- properties --------------------------------------------------------------------------------------------

REACH = {"float64": 280, "float32": 30}


@st.composite
def wild_matrices(draw: st.DrawFn, dtype: str, largest: int = 7) -> Array:
    """Entries that are zero, small integers or of any exponent: reducible, defective and badly scaled ones."""
    k = draw(st.integers(1, largest))
    zero, small = st.just(0.0), st.integers(-3, 3).map(float)
    reach = REACH[dtype]
    extreme = st.builds(
        lambda mantissa, power: mantissa * 10.0**power,
        st.sampled_from([-1.0, 1.0, 3.0]),
        st.integers(-reach, reach),
    )
    tame = st.floats(-4, 4, allow_subnormal=False, width=32)
    entry = draw(st.sampled_from([small, zero | small, zero | tame, zero | small | extreme, extreme]))
    flat = draw(st.lists(entry, min_size=k * k, max_size=k * k))
    return np.array(flat, dtype=dtype).reshape(k, k)


def solved_alone(core: Array, backend: str) -> Array:
    result = eig(core[None], backend=backend)
    assert result.status[0] == Status.OK
    return result.eigenvalues[0]


@each_backend
@each_dtype
@settings(max_examples=80)
@given(data=st.data())
def test_spectra_of_wild_matrices(backend: str, dtype: str, data: st.DataObject) -> None:
    """Trace, determinant and each eigenvalue, for the matrix, its transpose and a reordering of its genes."""
    core = data.draw(wild_matrices(dtype))
    order = data.draw(st.permutations(range(len(core))))
    # Errors count relative to the matrix as it is: how far balancing gets with it is not settled here.
    case = Problem(core, balanced=False)
    for name, same in {"itself": core, "transpose": core.T, "reordered": core[np.ix_(order, order)]}.items():
        values = solved_alone(same, backend)
        case.assert_spectrum_fits(values, name)
        listed = [(v.real, v.imag) for v in values.tolist()]
        assert sorted(listed) == sorted((real, -imag) for real, imag in listed)


@each_backend
@each_dtype
@settings(max_examples=50)
@given(data=st.data())
def test_the_spectrum_of_two_systems_side_by_side_is_that_of_both(
    backend: str, dtype: str, data: st.DataObject
) -> None:
    a, b = data.draw(wild_matrices(dtype, 5)), data.draw(wild_matrices(dtype, 5))
    together = scipy.linalg.block_diag(a, b).astype(dtype)
    case = Problem(together, balanced=False)
    case.assert_spectrum_fits(solved_alone(together, backend), "together")
    case.assert_spectrum_fits(
        np.concatenate([solved_alone(a, backend), solved_alone(b, backend)]), "one by one"
    )


@each_backend
@each_dtype
@settings(max_examples=60)
@given(data=st.data())
def test_vectors_of_wild_matrices(backend: str, dtype: str, data: st.DataObject) -> None:
    """Each vector is an eigenvector, or the status says that it is not."""
    core = data.draw(wild_matrices(dtype))
    result = eig(core[None], vectors="both", backend=backend)
    assert result.right is not None
    assert result.left is not None
    assert result.condition is not None
    assert result.status[0] in (Status.OK, Status.DEFECTIVE, Status.INACCURATE)
    case = Problem(core)
    right, left = result.right[0], result.left[0]
    for vectors in (right, left):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=20 * case.eps)
    own = case.residuals(case.scaled_values(result.eigenvalues[0]), right, None).max()
    limit = 1e3 * case.k * case.eps
    assert own < 1.01 * limit or result.status[0] != Status.OK
    assert abs(float(result.residual[0]) - own) <= case.k * case.eps + 1e-3 * own


@each_backend
@each_dtype
@settings(max_examples=25)
@given(data=st.data())
def test_no_bit_of_wild_batches_depends_on_the_batch(backend: str, dtype: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(wild_matrices(dtype, 6), min_size=2, max_size=20))
    sizes = np.array([len(core) for core in drawn])
    cores = np.full((len(drawn), 6, 6), np.nan, dtype=dtype)
    for b, core in enumerate(drawn):
        cores[b, : len(core), : len(core)] = core
    options: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"vectors": "both", "modes": 2}, {"vectors": "right"}])
    )
    whole = eig(cores, sizes=sizes, backend=backend, **options)
    cut = data.draw(st.integers(1, len(drawn) - 1))
    for part in (slice(None, cut), slice(cut, None)):
        piece = eig(cores[part], sizes=sizes[part], backend=backend, **options)
        assert bits(piece) == bits(whole, part)
