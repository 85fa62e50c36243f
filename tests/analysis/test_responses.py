"""Responses by cluster: means over cells that can be trusted, and how many those are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_results import fake_responses, fake_results
from random_atlas import random_atlas

import stabdask as sd
from stabdask.analysis.responses import response_means, response_quality
from stabdask.errors import InputError, MissingKeyError


def test_means_of_cells_are_those_that_a_run_sums() -> None:
    atlas = random_atlas(3, n_cells=30, broken=(4,))
    genes = atlas.field.genes.tolist()
    ds = sd.stability(
        atlas.cells(),
        atlas.field,
        quantities=["response", "response_mean"],
        effectors=genes[:5],
        regulators=genes[:3],
    )
    own, summed = response_means(ds.drop_vars("response_mean")), response_means(ds)
    assert own.dims == summed.dims == ("cluster", "block_effector", "block_regulator")
    np.testing.assert_allclose(own, summed, rtol=1e-10)
    assert own["response_cells"].values.tolist() == summed["response_cells"].values.tolist()
    assert own.attrs["units"] == "time"
    # Nothing is computed before it is asked for.
    assert own.chunks is not None


def test_clusters_without_cells_have_no_means() -> None:
    ds = fake_responses(["MEP", "GMP", "none"]).assign_coords(cluster=["MEP", "GMP", "none"])
    ds = ds.isel(cell=ds["cell_cluster"] != "none")
    means = response_means(ds)
    assert np.isnan(means.sel(cluster="none")).all()
    assert np.isfinite(means.sel(cluster=["MEP", "GMP"])).all()
    assert means["response_cells"].values.tolist() == [3, 3, 0]


def test_quality_counts_what_cannot_be_trusted() -> None:
    ds = fake_responses()
    condition = ds["response_condition"].values
    expected = pd.DataFrame(
        {
            "cluster": ["MEP", "GMP"],
            "n_cells": [6, 5],
            "condition": [np.median(condition[::2]), np.median(condition[[1, 5, 7, 9, 11]])],
            "n_inaccurate": [0, 1],
            "n_singular": [1, 0],
        }
    )
    pd.testing.assert_frame_equal(response_quality(ds), expected, check_dtype=False)
    nothing = response_quality(ds.assign(response_status=ds["response_status"] * 0 + 255))
    assert nothing["n_cells"].tolist() == [0, 0]
    assert nothing["condition"].isna().all()


def test_what_is_refused() -> None:
    with pytest.raises(MissingKeyError, match="hold no responses"):
        response_means(fake_results())
    with pytest.raises(MissingKeyError, match="hold no 'response_status'"):
        response_quality(fake_results())
    with pytest.raises(InputError, match="were selected or reordered"):
        response_means(fake_responses().isel(cluster=[1]))
