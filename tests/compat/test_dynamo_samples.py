"""Samples of cells through the drop-in: which cells they are, and that they are never more than there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compat.dynamo_fits import Flow, apart, dynamo_fit
from scipy.spatial.distance import cdist

from stabdask.compat import dynamo as dyn
from stabdask.errors import StabdaskWarning, UsageError


@pytest.mark.parametrize("function", ["jacobian", "sensitivity"])
@pytest.mark.parametrize("sampling", ["random", "velocity", "trn", "kmeans"])
def test_samples(function: str, sampling: str) -> None:
    fit = dynamo_fit(n_cells=60)
    options: dict[str, Any] = {"sampling": sampling, "sample_ncells": 12, "store_in_adata": False}
    found = getattr(dyn.vf, function)(fit.adata, fit.genes[:2], **options)
    cells = found["cell_idx"]
    assert len(cells) == 12
    assert (np.diff(cells) > 0).all()
    again = getattr(dyn.vf, function)(fit.adata, **options)
    np.testing.assert_array_equal(again["cell_idx"], cells)
    if function == "jacobian":
        assert apart(found["jacobian"], fit.jacobians(fit.x[cells]).transpose(1, 2, 0)) < 1e-13


def test_divergence_of_a_sample() -> None:
    fit = dynamo_fit(n_cells=60)
    dyn.vf.divergence(fit.adata, sampling="trn", sample_ncells=7)
    column = fit.adata.obs["divergence_pca"].to_numpy()
    known = np.flatnonzero(~np.isnan(column))
    assert len(known) == 7
    np.testing.assert_allclose(column[known], [np.trace(J) for J in fit.jacobians(fit.x[known])], rtol=1e-10)


def test_fast_cells_are_sampled_more_often() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2))
    speed = np.where(np.arange(400) < 200, 1.0, 30.0)
    fit = dynamo_fit(n_cells=400, n_axes=2)
    fit.adata.obsm["X_pca"] = x
    place = {tuple(point): v for point, v in zip(x.tolist(), speed, strict=True)}
    flow = Flow(
        lambda p: np.stack([[place[tuple(point)], 0.0] for point in p.tolist()]),
        lambda p: np.zeros((2, 2, len(p))),
    )
    options: dict[str, Any] = {"vector_field_class": flow, "sample_ncells": 100, "store_in_adata": False}
    cells = dyn.vf.jacobian(fit.adata, sampling="velocity", **options)["cell_idx"]
    assert (cells >= 200).sum() > 85
    cells = dyn.vf.jacobian(fit.adata, sampling="random", **options)["cell_idx"]
    assert 30 < (cells >= 200).sum() < 70


def test_a_network_covers_the_cells() -> None:
    """Nine of ten cells are in one heap: drawn at random, few of the others are near a cell of the sample."""
    fit = dynamo_fit(n_cells=500, n_axes=2)
    rng = np.random.default_rng(0)
    x = np.concatenate([0.1 * rng.normal(size=(450, 2)), 5.0 * rng.normal(size=(50, 2))])
    fit.adata.obsm["X_pca"] = x
    del fit.adata.uns["VecFld_pca"]["X"]

    def reach(sampling: str) -> float:
        cells = dyn.vf.jacobian(fit.adata, sampling=sampling, sample_ncells=25, store_in_adata=False)[
            "cell_idx"
        ]
        return float(cdist(x, x[cells]).min(axis=1).max())

    assert reach("trn") < reach("random")


def test_all_cells_are_a_sample() -> None:
    fit = dynamo_fit()
    for sampling in ("random", "trn"):
        found = dyn.vf.jacobian(fit.adata, sampling=sampling, sample_ncells=25, store_in_adata=False)
        np.testing.assert_array_equal(found["cell_idx"], np.arange(25))
    everything = dyn.vf.jacobian(fit.adata, sampling="all", store_in_adata=False)
    assert len(everything["cell_idx"]) == 25
    # Cells that are named come first, as in dynamo.
    named = dyn.vf.jacobian(fit.adata, cell_idx=[3], sampling="random", store_in_adata=False)
    np.testing.assert_array_equal(named["cell_idx"], [3])


def test_impossible_samples() -> None:
    fit = dynamo_fit()
    for sampling in ("random", "velocity", "trn"):
        with pytest.raises(UsageError, match="sample_ncells=1,000, and there are 25 cells"):
            dyn.vf.jacobian(fit.adata, sampling=sampling)
    with pytest.raises(UsageError, match="sampling='stratified'; expected one of 'random', 'velocity'"):
        dyn.vf.jacobian(fit.adata, sampling="stratified", sample_ncells=3)
    for bad in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="sample_ncells="):
            dyn.vf.jacobian(fit.adata, sampling="random", sample_ncells=bad)  # type: ignore[arg-type]
    still = Flow(lambda x: np.zeros_like(x))
    with pytest.raises(UsageError, match="0 of 25 cells have a speed above zero"):
        dyn.vf.jacobian(fit.adata, sampling="velocity", sample_ncells=2, vector_field_class=still)


def test_cells_without_coordinates_have_no_speed() -> None:
    fit = dynamo_fit()
    fit.adata.obsm["X_pca"][4] = np.nan
    del fit.adata.uns["VecFld_pca"]["X"]
    with pytest.warns(StabdaskWarning, match="1 of 25 cells"):
        found = dyn.vf.jacobian(fit.adata, sampling="velocity", sample_ncells=24, store_in_adata=False)
    np.testing.assert_array_equal(found["cell_idx"], np.delete(np.arange(25), 4))
