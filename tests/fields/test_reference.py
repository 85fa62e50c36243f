"""Fields of published tools against reference outputs, where the reference data lie beside the checkout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import frobenius, match_spectra, shared_data

from stabdask.fields.hopfield import HopfieldField
from stabdask.fields.schopfield import read_schopfield

Array = np.ndarray[Any, Any]

NAMES = ("bifurcating", "dense_linear", "pancreas50")


@dataclass(frozen=True)
class Fit:
    """One real fit: its field, its cells in the field's order of genes, and what to expect of them."""

    field: HopfieldField
    x: Array
    labels: Array
    reference: dict[str, Array]
    order: Array  # of the field's genes in the reference

    def groups(self) -> Any:
        """Give, per cluster of the cells, the rows of its cells and their linearization."""
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)
            yield rows, self.field.linearize(self.x[rows], self.field.cluster_number(label))


@lru_cache(maxsize=4)
def load(name: str, activation: str, folder: Path) -> Fit:
    import anndata

    adata = anndata.read_h5ad(folder / f"hopfield_{name}.h5ad")
    field = read_schopfield(folder / f"hopfield_{name}.h5sch", activation=activation)
    with np.load(folder / f"hopfield_{name}.npz") as stored:
        reference = {key: stored[key] for key in stored.files}
    assert reference["cell"].tolist() == adata.obs_names.tolist()
    position = {str(gene): i for i, gene in enumerate(reference["gene"])}
    order = np.array([position[gene] for gene in field.genes.tolist()])
    x = np.asarray(adata[:, field.genes.tolist()].layers["Ms"], dtype=np.float64)
    return Fit(field, x, np.asarray(adata.obs["cell_type"], dtype=str), reference, order)


@pytest.fixture(params=[(name, act) for name in NAMES for act in ("two", "single")], ids="-".join)
def fit(request: pytest.FixtureRequest) -> tuple[Fit, str]:
    name, prefix = request.param
    folder = shared_data(f"hopfield_{name}.h5sch").parent
    return load(name, {"two": "fitted", "single": "single"}[prefix], folder), prefix


def test_every_gene_of_the_reference_is_in_the_field(fit: tuple[Fit, str]) -> None:
    case, prefix = fit
    assert sorted(case.order.tolist()) == list(range(len(case.reference["gene"])))
    assert len(np.unique(case.labels)) >= 2
    assert case.reference[f"{prefix}_eigenvalues"].shape == case.x.shape


def test_jacobians(fit: tuple[Fit, str]) -> None:
    case, prefix = fit
    expected = case.reference[f"{prefix}_jacobian_first4"][:, case.order][:, :, case.order]
    for c in range(4):
        J = case.field.jacobian(case.x[c : c + 1], case.labels[c])[0]
        assert np.abs(J - expected[c]).max() < 1e-12 * np.linalg.norm(expected[c])


def test_spectra(fit: tuple[Fit, str]) -> None:
    case, prefix = fit
    expected = case.reference[f"{prefix}_eigenvalues"]
    # Matching takes a while: some of the cells, all clusters among them.
    step = 4 if prefix == "two" else 10
    worst, n_cells, n_unstable = 0.0, 0, 0
    for rows, part in case.groups():
        number = case.field.cluster_number(case.labels[rows[0]])
        rest = case.field.rest_eigenvalues(number)
        for c in range(0, len(rows), step):
            k = part.sizes[c]
            outside = np.ones(case.field.n_genes, dtype=bool)
            outside[case.field.regulator_index[part.active[c]]] = False
            core = np.linalg.eigvals(part.cores(np.array([c]))[0])
            assert core.size == k
            spectrum = np.concatenate([core, rest[outside]])
            norm = np.linalg.norm(case.field.jacobian(case.x[rows[c : c + 1]], case.labels[rows[c]]))
            worst = max(worst, match_spectra(spectrum, expected[rows[c]]) / norm)
            n_cells += 1
            n_unstable += int((expected[rows[c]].real > 0).any())
    assert worst < 1e-10
    assert n_cells >= len(case.x) // step
    assert n_unstable > 0, "a reference without instability would test little"


def test_closed_forms(fit: tuple[Fit, str]) -> None:
    case, prefix = fit
    for rows, part in case.groups():
        np.testing.assert_allclose(part.trace(), case.reference[f"{prefix}_trace"][rows], rtol=1e-11)
        np.testing.assert_allclose(
            part.rotational_norm(), case.reference[f"{prefix}_rotational"][rows], rtol=1e-9
        )


def test_the_published_tool_agrees_where_it_looks_at_one_component(fit: tuple[Fit, str]) -> None:
    """Its Jacobian is that of the first component alone, in single precision."""
    case, prefix = fit
    names = case.field.genes.tolist()
    effectors, regulators = (
        np.array([names.index(gene) for gene in side]) for side in case.reference["pairs"].T
    )
    published, norms = case.reference["peer_elements"], case.reference["peer_rotational"]
    off = []
    for rows, part in case.groups():
        off.append(np.abs(part.rotational_norm() / norms[rows] - 1).max())
        if prefix == "single":
            got = part.elements(effectors, regulators)
            assert np.abs(got - published[rows]).max() < 1e-6 * np.abs(published).max()
    # On all these data the second component makes a difference.
    assert max(off) < 1e-5 if prefix == "single" else max(off) > 1e-2


def test_two_components_against_finite_differences() -> None:
    with np.load(shared_data("hopfield_two_component.npz")) as stored:
        data = {key: stored[key] for key in stored.files}
    field = HopfieldField.from_arrays(
        [f"g{i}" for i in range(8)],
        W=data["W"],
        gamma=data["gamma"],
        threshold=data["k1"],
        exponent=data["n1"],
        threshold2=data["k2"],
        exponent2=data["n2"],
        mix=data["mix"],
    )
    X, expected = data["X"], data["fd_model"]
    J = field.jacobian(X, "all")
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    assert (np.abs(J - expected) < 1e-6 * scale).all()
    part = field.linearize(X, 0)
    np.testing.assert_allclose(part.rotational_norm(), data["fd_rotational"], rtol=1e-6)
    cores, sizes, rest = part.cores(np.arange(len(X))), part.sizes, field.rest_eigenvalues(0)
    for c in range(len(X)):
        inactive = np.ones(8, dtype=bool)
        inactive[field.regulator_index[part.active[c]]] = False
        core = np.linalg.eigvals(cores[c, : sizes[c], : sizes[c]])
        spectrum = np.concatenate([core, rest[inactive]])
        assert match_spectra(spectrum, data["fd_eigenvalues"][c]) < 1e-5 * frobenius(expected[c])


@pytest.mark.parametrize("name", ["toggle", "oscillator"])
def test_circuits(name: str) -> None:
    with np.load(shared_data("circuits.npz")) as stored:
        data = {key.removeprefix(f"{name}_"): stored[key] for key in stored.files if key.startswith(name)}
    n = len(data["W"])
    field = HopfieldField.from_arrays(
        [f"g{i}" for i in range(n)],
        W=data["W"],
        gamma=data["gamma"],
        bias=data["I"],
        threshold=data["k"],
        exponent=data["n"],
    )
    X = data["X"]
    np.testing.assert_allclose(field.velocity(X, "all"), data["rhs"], atol=1e-12)
    np.testing.assert_allclose(field.jacobian(X, "all"), data["J"], atol=1e-12)
    part = field.linearize(X, 0)
    assert (part.sizes == n).all()
    np.testing.assert_allclose(part.speed(), np.linalg.norm(data["rhs"], axis=1), atol=1e-12)
    for c, core in enumerate(part.cores(np.arange(len(X)))):
        assert match_spectra(np.linalg.eigvals(core), data["eigvals"][c]) < 1e-10 * frobenius(data["J"][c])


def test_equilibria_of_the_toggle_switch() -> None:
    with np.load(shared_data("circuits.npz")) as stored:
        data = {key.removeprefix("toggle_"): stored[key] for key in stored.files if key.startswith("toggle")}
    field = HopfieldField.from_arrays(
        ["a", "b"], W=data["W"], gamma=data["gamma"], bias=data["I"], threshold=data["k"], exponent=data["n"]
    )
    points = data["equilibria"]
    part = field.linearize(points, 0)
    assert (part.speed() < 1e-8).all()
    abscissae = []
    for core, expected in zip(part.cores(np.arange(3)), data["equilibria_eigvals"], strict=True):
        values = np.linalg.eigvals(core)
        assert match_spectra(values, expected) < 1e-8
        abscissae.append(values.real.max())
    assert max(abscissae) < 0, "all three states of this switch are stable"
