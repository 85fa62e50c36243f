"""Fixed points of fields over principal components, through the field of the package."""

from __future__ import annotations

import numpy as np
import xarray as xr
from smooth_fields import planted_kernels

import stabdask as sd


def test_planted_zeros_of_a_kernel_field_are_found_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    d = 6
    points = np.stack([np.full(d, value) for value in (-4.0, 0.0, 4.0)])
    turns = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in points]
    wanted = [(-1.0,) * d, (1.0, -1.0, -1.0, -1.0, -1.0, -1.0), (1.0, 2.0, -1.0, -1.0, -1.0, -1.0)]
    J = np.stack([q @ np.diag(values) @ q.T for q, values in zip(turns, wanted, strict=True)])
    centers, coefficients = planted_kernels(points, J, beta=0.05, radius=1.5)
    loadings = np.linalg.qr(rng.normal(size=(20, d)))[0]
    field = sd.RKHSField(centers, coefficients, 0.05, loadings=loadings, genes=[f"g{i}" for i in range(20)])
    np.testing.assert_allclose(field.velocity(points), 0.0, atol=1e-9)
    np.testing.assert_allclose(field.jacobian(points), J, atol=1e-8)
    x = np.repeat(points, 60, axis=0) + 0.5 * rng.normal(size=(180, d))
    coords = {"axis": field.axes.astype(object), "cluster": ("cell", np.full(180, "a", dtype=object))}
    cells = xr.Dataset({"coordinates": (("cell", "axis"), x)}, coords=coords)
    found = sd.fixed_points(field, cells, n_starts=180)
    inside = found.isel(fixed_point=np.flatnonzero(found["inside"].values))
    for point, index in zip(points, (0, 1, 2), strict=True):
        distance = np.linalg.norm(inside["location"].values - point, axis=1)
        assert distance.min() < 1e-6
        assert int(inside["index"][int(distance.argmin())]) == index
    # Everything that is reported is a zero.
    speed = np.linalg.norm(field.velocity(found["location"].values), axis=1)
    assert speed.max() < 1e-8 * np.abs(coefficients).sum()
