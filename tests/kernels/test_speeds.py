"""Compiled speeds against plain products, in every variant that runs here; those by NumPy are tested with the field."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from stabdask.kernels import lanes


@pytest.fixture(params=lanes.instruction_sets(), autouse=True)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "instruction_set", lambda: request.param)


@pytest.mark.parametrize("cells", [0, 1, 7, 8, 33, 70])
@pytest.mark.parametrize(("genes", "regulators"), [(1, 1), (9, 0), (63, 5), (64, 64), (131, 20)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_speeds(cells: int, genes: int, regulators: int, dtype: str) -> None:
    rng = np.random.default_rng(cells + genes)
    W = rng.normal(size=(genes, regulators)) * (rng.random((genes, regulators)) < 0.1)
    gamma, bias = rng.random((2, genes))
    x, phi = rng.gamma(1, 1, (cells, genes)).astype(dtype), rng.random((cells, regulators))
    drive = scipy.sparse.csr_array(W)
    found = lanes.speeds(x, phi, drive, gamma, bias)
    expected = np.linalg.norm(phi @ W.T - gamma * x.astype("f8") + bias, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    # The same bits alone and in other layouts.
    for cell in range(0, cells, 5):
        assert lanes.speeds(x[cell : cell + 1], phi[cell : cell + 1], drive, gamma, bias)[0] == found[cell]
    np.testing.assert_array_equal(lanes.speeds(np.asfortranarray(x), phi, drive, gamma, bias), found)
    np.testing.assert_array_equal(lanes.speeds(np.repeat(x, 2, axis=0)[::2], phi, drive, gamma, bias), found)


def test_speeds_refuse_what_does_not_fit() -> None:
    x, phi, gamma = np.ones((2, 3)), np.ones((2, 2)), np.ones(3)
    drive = scipy.sparse.csr_array(np.eye(3, 2))
    with pytest.raises(ValueError, match="gamma has the wrong shape"):
        lanes.speeds(x, phi, drive, np.ones(2), gamma)
    with pytest.raises(ValueError, match="a column is out of range"):
        lanes.speeds(x, phi, scipy.sparse.csr_array(np.eye(3)), gamma, gamma)
    with pytest.raises(ValueError, match="activation has the wrong shape"):
        lanes.speeds(x, phi[:1], drive, gamma, gamma)
