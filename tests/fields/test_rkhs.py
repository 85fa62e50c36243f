"""The field of sums of kernels: against matrices summed center by center, differences along the flow, Q J Q^T."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from helpers import antisymmetric_norm, frobenius, match_spectra
from hypothesis import given
from hypothesis import strategies as st
from kernels.fake_gpu import FakeGpu
from small_rkhs import SmallRkhs, small_rkhs

from stabdask.errors import DamagedStoreError, InputError, StoreMismatchError, UsageError
from stabdask.fields import rkhs_linear
from stabdask.fields.rkhs import RKHSField
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.fields.storage import field_kind, open_field
from stabdask.files import open_group
from stabdask.kernels import cuda
from stabdask.kernels.eig import eig

Array = np.ndarray[Any, Any]

SHAPES: dict[str, dict[str, Any]] = {
    "lifted": {},
    "one axis": {"n_axes": 1, "n_genes": 3},
    "one center": {"n_centers": 1},
    "one axis, one center, one cell": {"n_axes": 1, "n_centers": 1, "n_cells": 1, "n_genes": 1},
    "as many genes as axes": {"n_axes": 5, "n_genes": 5},
    "two axes of an embedding": {"n_axes": 2, "basis": "umap", "lifted": False},
    "three axes": {"n_axes": 3, "basis": "p3", "lifted": False},
    "over genes": {"n_axes": 6, "basis": None},
    "many axes": {"n_axes": 70, "n_centers": 9, "n_genes": 80, "n_cells": 5},
}


@pytest.fixture(params=list(SHAPES), ids=lambda name: name.replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> SmallRkhs:
    return small_rkhs(3, **SHAPES[request.param])


def linear(case: SmallRkhs, dtype: str = "float64") -> RKHSLinearization:
    return case.field.linearize(case.x, 0, dtype=dtype)


def some_genes(case: SmallRkhs) -> tuple[Array, Array]:
    """Return effectors and regulators, repeated, of different numbers."""
    n = len(case.lift)
    return np.array([0, n - 1, 0]), np.array([n // 2, 0, n - 1, n - 1])


def modes_of(matrices: Array, n_modes: int) -> tuple[Array, Array, Array]:
    """Return leading eigenvalues, and right and left eigenvectors as rows."""
    solved = eig(matrices, vectors="both", modes=n_modes)
    assert solved.right is not None
    assert solved.left is not None
    return solved.eigenvalues[:, :n_modes], solved.right, solved.left


# --- velocity, Jacobian and what follows from them ---------------------------------------------------------


def test_velocity_and_jacobian(case: SmallRkhs) -> None:
    J = case.jacobian(case.x)
    np.testing.assert_allclose(case.field.velocity(case.x), case.velocity(case.x), rtol=1e-12, atol=1e-13)
    assert (frobenius(case.field.jacobian(case.x) - J) < 1e-12 * frobenius(J)).all()
    found = case.field.jacobian(case.x, method="numerical")
    assert (frobenius(found - J) < 1e-8 * (frobenius(J) + 1e-3)).all()


def test_single_precision_is_asked_for(case: SmallRkhs) -> None:
    J = case.jacobian(case.x)
    found = case.field.jacobian(case.x, dtype="float32")
    assert found.dtype == np.float32
    assert (frobenius(found - J) < 2e-5 * (frobenius(J) + 1e-2)).all()
    part = linear(case, "float32")
    assert part.cores(np.arange(len(case.x))).dtype == np.float32
    for name in ("velocity", "acceleration", "trace", "rotational_norm", "speed", "reactivity"):
        assert getattr(part, name)().dtype == np.float64


def test_closed_forms_are_those_of_dense_jacobians(case: SmallRkhs) -> None:
    J, part = case.jacobian(case.x), linear(case)
    size = frobenius(J)
    cells = np.arange(len(J))[::-1]
    assert (frobenius(part.cores(cells) - J[cells]) < 1e-12 * size[cells]).all()
    np.testing.assert_array_equal(part.sizes, J.shape[1])
    np.testing.assert_allclose(part.trace(), np.trace(J, axis1=1, axis2=2), atol=1e-12 * size.max())
    np.testing.assert_allclose(part.rotational_norm(), antisymmetric_norm(J), atol=1e-12 * size.max())
    np.testing.assert_allclose(part.squares_beyond_rest(), size**2, rtol=1e-12)
    symmetric = 0.5 * (J + J.transpose(0, 2, 1))
    np.testing.assert_allclose(
        part.reactivity(), np.linalg.eigvalsh(symmetric).max(axis=1), atol=1e-12 * size.max()
    )
    logs, signs = part.core_determinant()
    # One center alone has Jacobians of rank one, and their determinant is nothing but rounding.
    if len(case.centers) >= J.shape[1]:
        expected = np.linalg.det(J)
        np.testing.assert_array_equal(signs, np.sign(expected))
        np.testing.assert_allclose(np.exp(logs), np.abs(expected), rtol=1e-8)
    v = case.velocity(case.x)
    np.testing.assert_allclose(part.speed(), np.linalg.norm(v, axis=1), rtol=1e-12)
    np.testing.assert_allclose(part.velocity(), v, rtol=1e-11, atol=1e-13)
    along = np.einsum("cij,cj->ci", J, v)
    np.testing.assert_allclose(part.acceleration(), along, atol=1e-12 * np.abs(along).max())


def test_cores_of_cells_in_a_row_are_read_where_they_are(case: SmallRkhs) -> None:
    linear = case.field.linearize(np.resize(case.x, (6, case.x.shape[1])), 0)
    for cells in ([2, 3, 4], [4, 3], [1, 3], [5], [0, 0], []):
        index = np.array(cells, dtype=np.intp)
        read, own = linear.cores_to_read(index), linear.cores(index)
        np.testing.assert_array_equal(read, own)
        assert not np.shares_memory(own, linear.jacobians)
        assert np.shares_memory(read, linear.jacobians) == (cells in ([2, 3, 4], [5]))


def test_nothing_lies_outside_the_core(case: SmallRkhs) -> None:
    part, n = linear(case), len(case.x)
    np.testing.assert_array_equal(part.rest_leading(), np.full((n, 2), -np.inf))
    for counts in part.rest_counts(0.1):
        np.testing.assert_array_equal(counts, np.zeros(n))
    logs, signs = part.rest_determinant()
    np.testing.assert_array_equal(logs, np.zeros(n))
    np.testing.assert_array_equal(signs, np.ones(n))


@pytest.mark.parametrize("name", ["lifted", "one axis", "three axes"])
def test_the_path_of_a_cell(name: str) -> None:
    """Acceleration and jerk are differences of the velocity along the flow, followed by Runge and Kutta's steps."""
    case = small_rkhs(5, **SHAPES[name])
    part, h = linear(case), 2e-3

    def flow(time: float) -> Array:
        x, n_steps = case.x.copy(), 4
        step = time / n_steps
        for _ in range(n_steps):
            a = case.velocity(x)
            b = case.velocity(x + step / 2 * a)
            c = case.velocity(x + step / 2 * b)
            d = case.velocity(x + step * c)
            x = x + step / 6 * (a + 2 * b + 2 * c + d)
        return x

    before, now, after = (case.velocity(flow(time)) for time in (-h, 0.0, h))
    first, second = (after - before) / (2 * h), (after - 2 * now + before) / h**2
    np.testing.assert_allclose(part.acceleration(), first, rtol=0, atol=1e-3 * np.abs(first).max())
    np.testing.assert_allclose(part.jerk(), second, rtol=0, atol=1e-3 * np.abs(second).max())
    # The test would notice if the bend of the field were left out.
    without = np.einsum("cij,cj->ci", case.jacobian(case.x), part.acceleration())
    assert np.abs(without - second).max() > 0.05 * np.abs(second).max()


def test_curl_is_twice_the_rate_of_a_rotation() -> None:
    """One wide kernel with C = (w x z) around the origin turns space at an even rate near it."""
    centers = 3.0 * np.concatenate([np.eye(3), -np.eye(3)])
    w = np.array([0.3, -0.2, 0.5])
    field = RKHSField(centers, np.cross(w, centers), 0.02, basis="p3")
    part = field.linearize(np.zeros((1, 3)), 0)
    J = field.jacobian(np.zeros((1, 3)))[0]
    rate = J[1, 0] / w[2]
    assert rate > 0
    np.testing.assert_allclose(part.curl()[0], 2 * rate * w, rtol=1e-12)
    flat = RKHSField(centers[:, :2], np.cross(w, centers)[:, :2], 0.02, basis="umap")
    J = flat.jacobian(np.zeros((1, 2)))[0]
    np.testing.assert_allclose(flat.linearize(np.zeros((1, 2)), 0).curl(), [[J[1, 0] - J[0, 1]]], rtol=1e-12)


# --- between genes -----------------------------------------------------------------------------------------


def test_elements_and_blocks_are_q_j_q(case: SmallRkhs) -> None:
    whole = case.lift @ case.jacobian(case.x) @ case.lift.T
    part, scale = linear(case), 1e-12 * np.abs(whole).max()
    effectors, regulators = some_genes(case)
    pairs = np.array([0, len(case.lift) - 1, 0, 0])
    for found in (
        part.elements(pairs, regulators),
        case.field.jacobian_elements(case.x, "all", pairs, regulators),
    ):
        np.testing.assert_allclose(found, whole[:, pairs, regulators], atol=scale)
    cells = np.arange(len(case.x))[::2]
    np.testing.assert_allclose(
        part.block(cells, effectors, regulators),
        whole[cells][:, effectors][:, :, regulators],
        atol=scale,
    )


@given(st.integers(0, 50), st.integers(1, 6), st.integers(0, 4))
def test_response_is_minus_the_inverse_along_the_axes(seed: int, n_axes: int, n_more: int) -> None:
    case = small_rkhs(seed, n_axes=n_axes, n_genes=n_axes + n_more, n_cells=4)
    J = case.jacobian(case.x)
    effectors, regulators = some_genes(case)
    found, condition = linear(case).response(np.arange(4), effectors, regulators)
    np.testing.assert_allclose(condition, np.linalg.cond(J, 1), rtol=1e-6)
    # The pseudo-inverse of Q J Q^T, because the columns of Q are orthonormal.
    expected = -case.lift @ np.linalg.inv(J) @ case.lift.T
    limit = 1e-13 * condition[:, None, None] * np.abs(expected).max(axis=(1, 2), keepdims=True)
    assert (np.abs(found - expected[:, effectors][:, :, regulators]) < limit).all()


def test_a_singular_jacobian_has_no_response() -> None:
    case = small_rkhs(0)
    far = np.concatenate([case.x[:1], case.x[:1] + 1e3, case.x[1:2]])
    part = case.field.linearize(far, 0)
    found, condition = part.response(np.arange(3), np.array([0]), np.array([1, 2]))
    assert np.isnan(found[1]).all()
    assert np.isinf(condition).tolist() == [False, True, False]
    assert np.isfinite(found[[0, 2]]).all()
    logs, signs = part.core_determinant()
    assert (logs[1], signs[1]) == (-np.inf, 0.0)


def test_modes_lifted_are_eigenvectors_between_genes(case: SmallRkhs) -> None:
    J = case.jacobian(case.x)
    whole, cells = case.lift @ J @ case.lift.T, np.arange(len(J))
    part = linear(case)
    n_modes = J.shape[1]
    values, right, left = modes_of(part.cores(cells), n_modes)
    lifted, degenerate = part.lift_right(cells, values, right)
    assert not degenerate.any()
    size = frobenius(whole)[:, None, None]
    assert lifted.shape == (len(J), right.shape[1], len(case.lift))
    assert (np.abs(lifted @ whole.transpose(0, 2, 1) - values[:, :, None] * lifted) < 1e-10 * size).all()
    other = part.lift_left(cells, left)
    assert (np.abs(other.conj() @ whole - values[:, :, None] * other.conj()) < 1e-10 * size).all()
    # No length is lost: the columns of Q are orthonormal.
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=2), np.linalg.norm(right, axis=2), rtol=1e-12)
    # Of the spectrum of Q J Q^T the core has all but zeros.
    for cell in cells[:3]:
        zeros = np.zeros(len(case.lift) - n_modes)
        assert match_spectra(np.linalg.eigvals(whole[cell]), [*values[cell], *zeros]) < 1e-6 * size.max()


def test_participation_and_edges(case: SmallRkhs) -> None:
    J, cells = case.jacobian(case.x), np.arange(len(case.x))
    part = linear(case)
    values, right, left = modes_of(J, 1)
    shares = part.participation(cells, right, left)
    expected = (left.conj() @ case.lift.T) * (right @ case.lift.T)
    np.testing.assert_allclose(shares, expected / expected.sum(axis=2, keepdims=True), rtol=1e-9, atol=1e-12)
    effect, cause = part.edge_factors(cells, right[:, 0], left[:, 0])
    # Against what a small change of each element does to the eigenvalue.
    cell, h = 0, 1e-6
    value = values[cell, 0]
    gap = np.sort(np.abs(np.linalg.eigvals(J[cell]) - value))
    if len(gap) == 1 or gap[1] > 1e-2:
        for a in range(min(3, J.shape[1])):
            for b in range(min(3, J.shape[1])):
                moved = J[cell].copy()
                moved[a, b] += h
                nearest = np.linalg.eigvals(moved)
                slope = (nearest[np.abs(nearest - value).argmin()] - value) / h
                assert abs(effect[cell, a] * cause[cell, b] - slope) < 1e-3 * max(1.0, abs(slope))


# --- any point, any number of them -------------------------------------------------------------------------


def test_no_cells() -> None:
    field = small_rkhs(0).field
    assert field.velocity(np.empty((0, 4))).shape == (0, 4)
    assert field.jacobian(np.empty((0, 4))).shape == (0, 4, 4)
    part = field.linearize(np.empty((0, 4)), 0)
    assert part.trace().shape == part.speed().shape == part.reactivity().shape == (0,)
    found, condition = part.response(np.empty(0, int), np.array([0]), np.array([1]))
    assert (found.shape, condition.shape) == ((0, 1, 1), (0,))


def test_a_few_cells_at_a_time_are_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_rkhs(0)
    cells, genes = np.arange(len(case.x))[::-1], np.arange(12)

    def numbers() -> tuple[Array, Array]:
        part = linear(case)
        return part.block(cells, genes[:5], genes[4:]), part.rotational_norm()

    together = numbers()
    for size in (1, 8 * 4 * (4 + 8) * 7):
        monkeypatch.setattr(rkhs_linear, "_CACHED_BYTES", size)
        for found, expected in zip(numbers(), together, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def test_labels_do_not_matter() -> None:
    case = small_rkhs(0)
    np.testing.assert_array_equal(case.field.jacobian(case.x, "anything"), case.field.jacobian(case.x))
    assert case.field.model_of("anything") == "all"
    assert case.field.clusters == ("all",)
    assert case.field.cluster_number("all") == 0


def test_what_a_field_says_of_itself() -> None:
    lifted, flat, genes = (
        small_rkhs(0).field,
        small_rkhs(0, lifted=False).field,
        small_rkhs(0, basis=None).field,
    )
    assert repr(lifted) == "RKHSField(4 axes of 'pca', 15 control points, lifted to 12 genes)"
    assert repr(flat) == "RKHSField(4 axes of 'pca', 15 control points)"
    assert repr(genes) == "RKHSField(4 genes, 15 control points)"
    assert lifted.axes.tolist() == flat.genes.tolist() == ["pca_1", "pca_2", "pca_3", "pca_4"]
    assert genes.axes.tolist() == genes.genes.tolist() == ["g00", "g01", "g02", "g03"]
    assert (lifted.n_genes, lifted.largest_core, len(lifted.regulators)) == (12, 4, 12)
    assert (lifted.obsm, genes.obsm) == ("X_pca", None)
    assert lifted.n_bytes > lifted.centers.nbytes + lifted.coefficients.nbytes
    for array in (lifted.centers, lifted.coefficients, lifted.loadings):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1.0


def test_arrays_given_stay_their_owners() -> None:
    case = small_rkhs(0)
    field, before = case.field, case.field.fingerprint
    case.centers[:] = 0.0
    assert field.fingerprint == before
    assert case.centers.flags.writeable


# --- saved, opened, sent -----------------------------------------------------------------------------------


def test_a_field_is_saved_opened_and_sent(case: SmallRkhs, tmp_path: Path) -> None:
    field = case.field
    expected = field.jacobian(case.x)
    path = field.save(tmp_path / "field.zarr")
    assert field_kind(path) == "rkhs"
    for again in (RKHSField.open(path), open_field(path), pickle.loads(pickle.dumps(field))):
        assert isinstance(again, RKHSField)
        assert again.fingerprint == field.fingerprint
        assert (again.basis, repr(again)) == (field.basis, repr(field))
        assert again.genes.tolist() == field.genes.tolist()
        np.testing.assert_array_equal(again.jacobian(case.x), expected)
    with pytest.raises(StoreMismatchError, match="exists"):
        field.save(path)
    small_rkhs(9).field.save(path, overwrite=True)
    assert RKHSField.open(path).fingerprint == small_rkhs(9).field.fingerprint


def test_every_parameter_is_in_the_fingerprint() -> None:
    case = small_rkhs(0)
    assert case.loadings is not None
    others = [
        case,
        case._replace(centers=case.centers + 1e-9),
        case._replace(coefficients=case.coefficients * (1 + 1e-12)),
        case._replace(beta=0.4 + 1e-12),
        case._replace(loadings=case.loadings[::-1]),
        case._replace(loadings=None),
        case._replace(basis="pcb"),
        case._replace(genes=case.genes[::-1]),
        case._replace(loadings=None, basis=None, genes=["a", "b", "c", "d"]),
    ]
    assert len({other.field.fingerprint for other in others}) == len(others)
    assert small_rkhs(0).field.fingerprint == case.field.fingerprint


@pytest.mark.parametrize("name", ["centers", "coefficients", "beta", "loadings"])
def test_a_damaged_field_is_not_opened(tmp_path: Path, name: str) -> None:
    path = small_rkhs(0).field.save(tmp_path / "field.zarr")
    group = open_group(path, mode="r+")
    values = group[name][...]
    values.flat[0] += 0.5
    group[name][...] = values
    with pytest.raises(DamagedStoreError, match="differs from its own fingerprint"):
        RKHSField.open(path)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centers": np.zeros((15, 3))}, r"centers have shape \(15, 3\) and coefficients \(15, 4\); expected the same"),
        ({"centers": np.zeros(4)}, r"centers have shape \(4,\); expected a table"),
        ({"centers": np.zeros((0, 4)), "coefficients": np.zeros((0, 4))}, r"centers have shape \(0, 4\)"),
        ({"coefficients": [["a"] * 4] * 15}, "coefficients are no table of numbers"),
        ({"coefficients": [[1.0], [1.0, 2.0]]}, "coefficients are no table of numbers"),
        ({"centers": np.full((15, 4), np.nan)}, "centers hold 60 values that are not finite"),
        ({"loadings": np.full((12, 4), np.inf)}, "loadings hold 48 values that are not finite"),
        ({"beta": 0.0}, "beta is 0.0; expected a finite number above zero"),
        ({"beta": -1}, "beta is -1.0"),
        ({"beta": np.nan}, "beta is nan"),
        ({"beta": [1.0, 2.0]}, r"beta is \[1.0, 2.0\]; expected one number"),
        ({"beta": "wide"}, "beta is 'wide'; expected one number"),
        ({"genes": ["g"] * 12}, r"gene names repeat in the field \('g'\)"),
        ({"genes": ["a", "b"]}, r"loadings have shape \(12, 4\), beside 4 axes and 2 names of genes"),
        ({"genes": None}, "beside 4 axes and no names of genes"),
        ({"loadings": np.zeros((12, 3))}, r"loadings have shape \(12, 3\), beside 4 axes"),
        ({"loadings": None}, "genes were given for the embedding 'pca' without loadings"),
        ({"basis": None}, "loadings were given for a field over genes"),
        ({"basis": None, "loadings": None}, "a field over 4 genes needs their names; found 12"),
        ({"basis": None, "loadings": None, "genes": None}, "a field over 4 genes needs their names; found none"),
    ],
)  # fmt: skip
def test_impossible_parameters(changes: dict[str, Any], message: str) -> None:
    case = small_rkhs(0)
    given = {
        "centers": case.centers, "coefficients": case.coefficients, "beta": case.beta, "basis": "pca",
        "loadings": case.loadings, "genes": case.genes, **changes,
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        RKHSField(**given)


def test_impossible_questions() -> None:
    case = small_rkhs(0)
    for x in (case.x[0], case.x[:, :3], case.x[None]):
        with pytest.raises(InputError, match=r"points have shape .*; expected \(cells, 4\)"):
            case.field.velocity(x)
    with pytest.raises(UsageError, match="method='symbolic'; expected 'analytical' or 'numerical'"):
        case.field.jacobian(case.x, method="symbolic")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="dtype='float16'; expected 'float64' or 'float32'"):
        case.field.jacobian(case.x, dtype="float16")
    for quantity, reason in {
        "curl": "two or three axes, this one has 4", "torsion": "three axes, this one has 4",
        "near_switch_count": "no jumps", "sensitivity": "no network",
    }.items():  # fmt: skip
        assert reason in str(case.field.why_not(quantity))
    assert case.field.why_not("trace") is None


# --- on a GPU ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give CuPy, or what stands for it and refuses what CuPy refuses."""
    if request.param == "gpu":
        if not cuda.available():
            pytest.fail(f"tests marked gpu were asked for, but there is no GPU to use: {cuda.why_not()}")
    else:
        host = FakeCuda(monkeypatch, tmp_path)
        host.nothing()
        FakeGpu().install(host)
    return pytest.importorskip("cupy")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gpu_gives_the_same(case: SmallRkhs, cupy: Any, dtype: str) -> None:
    cells, (effectors, regulators) = np.arange(len(case.x))[::2], some_genes(case)
    pairs = np.array([0, len(case.lift) - 1, 0, 0])
    values, right, left = modes_of(case.jacobian(case.x)[cells], 2)
    host = linear(case)
    device = case.field.linearize(cupy.asarray(case.x), 0, dtype=dtype)
    there = {id(array): cupy.asarray(array) for array in (values, right, left)}

    def every_number(part: RKHSLinearization, at: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: getattr(part, name)()
            for name in (
                "trace", "rotational_norm", "squares_beyond_rest", "reactivity", "speed", "velocity", "acceleration",
                "jerk", "rest_leading", "near_switch_count",
            )
        }  # fmt: skip
        if case.x.shape[1] in (2, 3):
            found["curl"] = part.curl()
        if len(case.centers) >= case.x.shape[1]:
            found["determinant"], found["sign"] = part.core_determinant()
            found["response"], found["condition"] = part.response(cells, effectors, regulators)
        found["elements"] = part.elements(pairs, regulators)
        found["block"] = part.block(cells, effectors, regulators)
        found["participation"] = part.participation(cells, at(right), at(left))
        found["effect"], found["cause"] = part.edge_factors(cells, at(right)[:, 0], at(left)[:, 0])
        return found

    expected = every_number(host, lambda array: array)
    tolerance = 1e-9 if dtype == "float64" else 5e-3
    for name, numbers in every_number(device, lambda array: there[id(array)]).items():
        assert isinstance(numbers, np.ndarray), name
        assert numbers.dtype == expected[name].dtype
        scale = np.abs(expected[name][np.isfinite(expected[name])]).max(initial=1e-3)
        np.testing.assert_allclose(
            numbers, expected[name], rtol=tolerance, atol=tolerance * scale, err_msg=name
        )
    # Cores and vectors stay where they are: an eigensolver and a normalization come next.
    lifted, _ = device.lift_right(cells, there[id(values)], there[id(right)])
    for here, array in (
        (device.cores(cells), host.cores(cells)),
        (lifted, host.lift_right(cells, values, right)[0]),
        (device.lift_left(cells, there[id(left)]), host.lift_left(cells, left)),
    ):
        assert not isinstance(here, np.ndarray)
        np.testing.assert_allclose(here.get(), array, atol=tolerance * np.abs(array).max())
