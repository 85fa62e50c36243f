"""Fixed points of three systems, from Python and from the command line: all found, classified right, none invented.

Repeat one by hand:

    stabdask fixed-points toggle.h5ad --field toggle.zarr
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from helpers import match_spectra, shared_data
from scipy.optimize import brentq
from smooth_fields import kernel_field, planted_kernels

import stabdask as sd

Array = np.ndarray[Any, Any]


def both_ways(field: sd.HopfieldField, x: Array, folder: Path, workers: int) -> Any:
    """Return the fixed points from cells `x` in a file, found in this process and by the command; they must agree."""
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    adata.write_h5ad(folder / "cells.h5ad")
    model = field.save(folder / "model.zarr")
    fps = sd.fixed_points(sd.read_field(model), sd.open_cells(folder / "cells.h5ad"))
    command = [
        sys.executable, "-m", "stabdask.cli.main", "fixed-points", str(folder / "cells.h5ad"), "--field", str(model),
        "--workers", str(workers), "--json", "-o", str(folder / "points.csv"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["fixed_points"]
    assert [point["type"] for point in said] == fps["type"].values.tolist()
    assert [point["index"] for point in said] == fps["index"].values.tolist()
    assert [point["n_starts"] for point in said] == fps["n_starts"].values.tolist()
    location = [[point["location"][gene] for gene in field.genes] for point in said]
    np.testing.assert_allclose(location, fps["location"].values, rtol=1e-10, atol=1e-12)
    assert len((folder / "points.csv").read_text().splitlines()) == 1 + fps.sizes["fixed_point"]
    return fps


def test_a_toggle_switch_has_two_attractors_and_a_saddle(tmp_path: Path) -> None:
    # x = 4 / (1 + y^4) and back: the two outer solutions mirror each other.
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=[[0.0, -4.0], [-4.0, 0.0]], gamma=1.0, bias=4.0, threshold=1.0, exponent=4.0
    )
    fps = both_ways(field, np.random.default_rng(0).uniform(0.0, 4.0, (400, 2)), tmp_path, workers=0)

    def rest(x: float) -> float:
        return 4.0 / (1.0 + (4.0 / (1.0 + x**4)) ** 4) - x

    low, middle, high = (brentq(rest, a, b, xtol=1e-15) for a, b in ((0.0, 0.5), (0.5, 2.0), (2.0, 4.0)))
    fps = fps.isel(fixed_point=np.argsort(fps["location"].values[:, 0]))
    np.testing.assert_allclose(fps["location"], [[low, high], [middle, middle], [high, low]], atol=1e-12)
    assert fps["type"].values.tolist() == ["attractor", "saddle", "attractor"]
    assert fps["index"].values.tolist() == [0, 1, 0]


def test_the_reference_toggle(tmp_path: Path) -> None:
    """Its three published equilibria are all attractors, so there is a saddle between each two neighbors as well."""
    z = np.load(shared_data("circuits.npz"))
    field = sd.HopfieldField.from_arrays(
        ["A", "B"], W=z["toggle_W"], gamma=z["toggle_gamma"], bias=z["toggle_I"], threshold=z["toggle_k"],
        exponent=z["toggle_n"],
    )  # fmt: skip
    np.testing.assert_allclose(field.velocity(z["toggle_X"], "all"), z["toggle_rhs"], atol=1e-12)
    fps = both_ways(field, z["toggle_X"], tmp_path, workers=0)
    location, kinds = fps["location"].values, fps["type"].values.tolist()
    for place, values in zip(z["toggle_equilibria"], z["toggle_equilibria_eigvals"], strict=True):
        row = int(np.linalg.norm(location - place, axis=1).argmin())
        np.testing.assert_allclose(location[row], place, atol=1e-7)
        assert match_spectra(fps["eigenvalue"].values[row], values) < 1e-6
        assert kinds[row] == "attractor"
        assert (values.real < 0).all()
    # That is all there are. On the diagonal H(x) + 4 - 3 x falls, and is 0 once. Off it, half of them have x < y: with
    # y from the first equation, the second changes sign twice; the other half are their mirror images.
    assert sorted(kinds) == ["attractor"] * 3 + ["saddle"] * 2

    def second(x: float) -> float:
        y = brentq(lambda y: 5.0 * hill(x) - 4.0 * hill(y) + 4.0 - 3.0 * x, 0.0, 1e4)
        return float(5.0 * hill(y) - 4.0 * hill(x) + 4.0 - 3.0 * y)

    values = np.array([second(x) for x in np.linspace(1e-3, 1.6, 1500)])
    assert (np.diff(np.sign(values)) != 0).sum() == 2


def hill(x: float) -> float:
    return x**4 / (1.0 + x**4)


def test_a_repressilator_turns_around_an_unstable_focus(tmp_path: Path) -> None:
    z = np.load(shared_data("circuits.npz"))
    field = sd.HopfieldField.from_arrays(
        ["A", "B", "C"], W=z["oscillator_W"], gamma=z["oscillator_gamma"], bias=z["oscillator_I"],
        threshold=z["oscillator_k"], exponent=z["oscillator_n"],
    )  # fmt: skip
    np.testing.assert_allclose(field.jacobian(z["oscillator_X"], "all"), z["oscillator_J"], atol=1e-12)
    fps = both_ways(field, z["oscillator_X"], tmp_path, workers=1)
    x = brentq(lambda x: 10.0 / (1.0 + x**4) - x, 0.0, 10.0, xtol=1e-15)
    np.testing.assert_allclose(fps["location"], [[x, x, x]], atol=1e-12)
    slope = 10.0 * 4.0 * x**3 / (1.0 + x**4) ** 2
    # J = -1 - slope * (a rotation of the three genes): its cube roots of -1.
    expected = -1.0 + slope * np.exp(1j * np.pi * np.array([1, -1, 3]) / 3)
    assert match_spectra(fps["eigenvalue"].values[0], expected) < 1e-10
    assert expected[0].real > 0
    assert (fps["type"].item(), fps["form"].item(), fps["index"].item()) == ("saddle", "spiral", 2)


def test_planted_points_in_thirty_dimensions() -> None:
    """Points of every type in a 30-d sum of Gaussian kernels; all that is found is a zero to 35 digits."""
    rng, d = np.random.default_rng(4), 30
    kinds = ["attractor", "saddle 1", "saddle 2", "repeller"]
    grows = [0, 1, 2, d]
    points = rng.normal(size=(4, d)) * 6.0 / np.sqrt(2 * d)
    jacobians = []
    for n in grows:
        Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        jacobians.append(Q @ np.diag(np.where(np.arange(d) < n, 1.0, -1.0) * rng.uniform(0.5, 2.0, d)) @ Q.T)
    beta = 0.05
    z, C = planted_kernels(points, np.stack(jacobians), beta=beta, radius=2.0)
    field = kernel_field(z, C, beta)
    x = points[rng.integers(4, size=300)] + rng.normal(size=(300, d)) * 1.5 / np.sqrt(d)
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    fps = sd.fixed_points(field, sd.open_cells(adata))
    location = fps["location"].values
    distance = np.linalg.norm(location[:, None] - points, axis=2)
    nearest = distance.argmin(axis=0)
    assert distance.min(axis=0).max() < 1e-9
    for kind, n, J, row in zip(kinds, grows, jacobians, nearest, strict=True):
        one = fps.isel(fixed_point=row)
        assert one["type"].item() == kind.split()[0]
        assert one["index"].item() == n
        assert bool(one["inside"])
        assert match_spectra(one["eigenvalue"].values, np.linalg.eigvals(J)) < 1e-8
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed: 40 digits are its")
    with mpmath.workdps(40):
        for place in location:
            assert newton_in_40_digits(mpmath, z, C, beta, place) < 1e-11, "a zero was invented"


def newton_in_40_digits(mpmath: Any, z: Array, C: Array, beta: float, place: Array) -> float:
    """Return how far a zero to 35 digits is from `place`: Newton's iteration with the Jacobian of `place`."""
    exact = [mpmath.mpf(float(value)) for value in place]
    C40 = [[mpmath.mpf(float(value)) for value in row] for row in C]
    inverse = np.linalg.inv(kernel_field(z, C, beta).jacobian(place[None])[0])
    for _ in range(12):
        v = [mpmath.mpf(0)] * len(exact)
        for center, row in zip(z, C40, strict=True):
            square = sum((a - mpmath.mpf(float(b))) ** 2 for a, b in zip(exact, center, strict=True))
            weight = mpmath.exp(-mpmath.mpf(beta) * square)
            v = [total + weight * value for total, value in zip(v, row, strict=True)]
        size = max(abs(value) for value in v)
        if size < mpmath.mpf(10) ** -35:
            return float(mpmath.sqrt(sum((a - float(b)) ** 2 for a, b in zip(exact, place, strict=True))))
        scale = float(size)
        step = inverse @ np.array([float(value / size) for value in v])
        exact = [a - mpmath.mpf(scale) * mpmath.mpf(float(b)) for a, b in zip(exact, step, strict=True)]
    return float("inf")


def test_a_fitted_field_without_zeros_among_its_cells() -> None:
    """A real SparseVFC fit: a solver that only asks for a small velocity finds 'fixed points' far out."""
    from scipy.optimize import root

    reference = np.load(shared_data("dynamo_pca.npz"))
    field = kernel_field(reference["vf_X_ctrl"], reference["vf_C"], float(reference["vf_beta"]))
    x = reference["X_pca"]
    np.testing.assert_allclose(field.velocity(x), reference["vf_V"], atol=1e-12)
    adata = anndata.AnnData(x)
    adata.var_names = field.genes.tolist()
    fps = sd.fixed_points(field, sd.open_cells(adata), n_starts=120)
    assert fps.sizes["fixed_point"] == 0
    assert fps["start_count"].sel(outcome="converged").item() == 0
    invented = 0
    for start in x[:20]:
        found = root(
            lambda y: field.velocity(y[None])[0], start, jac=lambda y: field.jacobian(y[None])[0], tol=1e-12
        )
        invented += bool(found.success and np.linalg.norm(x - found.x, axis=1).min() > 50.0)
    assert invented
