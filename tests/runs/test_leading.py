"""Leading modes by iteration: what the store holds, the audit, and what is only given where it is certain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_atlas import random_atlas

import stabdask as sd
from stabdask.errors import UsageError
from stabdask.kernels.eig import eig
from stabdask.runs import leading
from stabdask.runs.block import compute_block
from stabdask.runs.leading import audit_sample, audit_spectra
from stabdask.runs.options import make_options
from stabdask.schema import Status

SIZE = 90
ATLAS = random_atlas(4, n_cells=40, n_genes=110, n_regulators=(SIZE, SIZE - 20), broken=[7])
FIELD = ATLAS.field
LEADING: dict[str, Any] = {"spectrum": "leading", "modes": 6, "backend": "krylov", "residual_tolerance": 1e-9}


def test_the_iteration_is_for_large_cores() -> None:
    assert make_options(FIELD, spectrum="leading").backend != "krylov"
    large = random_atlas(1, n_cells=2, n_genes=420, n_regulators=(410, 405)).field
    assert make_options(large, spectrum="leading").backend == "krylov"
    assert make_options(large).backend != "krylov"
    assert make_options(large, spectrum="leading", backend="lapack").backend == "lapack"
    with pytest.raises(UsageError, match="expected spectrum='leading'"):
        make_options(FIELD, backend="krylov")
    for wrong in (0, 1, -1e-3, "x", np.nan):
        with pytest.raises(UsageError, match="residual_tolerance"):
            make_options(FIELD, residual_tolerance=wrong)  # type: ignore[arg-type]


def test_modes_are_those_of_the_dense_solver() -> None:
    found = compute_block(ATLAS.x, ATLAS.codes, FIELD, make_options(FIELD, **LEADING))
    exact = compute_block(
        ATLAS.x, ATLAS.codes, FIELD, make_options(FIELD, **{**LEADING, "backend": "lapack"})
    )
    good = exact["status"] == Status.OK
    assert good.sum() == 39
    np.testing.assert_array_equal(found["status"], exact["status"])
    np.testing.assert_allclose(found["eigenvalue"][good], exact["eigenvalue"][good], atol=1e-7)
    assert np.isnan(found["eigenvalue"][7]).all()
    for name in ("spectral_abscissa", "leading_frequency", "spectral_gap"):
        np.testing.assert_allclose(found[name][good], exact[name][good], atol=1e-7, err_msg=name)
    for name in ("trace", "speed", "rotational_norm"):
        np.testing.assert_array_equal(found[name], exact[name])


def test_counts_are_given_only_where_they_are_certain() -> None:
    found = compute_block(ATLAS.x, ATLAS.codes, FIELD, make_options(FIELD, **{**LEADING, "modes": 30}))
    exact = compute_block(ATLAS.x, ATLAS.codes, FIELD, make_options(FIELD, backend="lapack"))
    for name in ("unstable_count", "stable_count"):
        certain = found[name] >= 0
        assert certain.sum() > 5, name
        np.testing.assert_array_equal(found[name][certain], exact[name][certain])
    few = compute_block(ATLAS.x, ATLAS.codes, FIELD, make_options(FIELD, **{**LEADING, "modes": 1}))
    many_unstable = exact["unstable_count"] > 6
    assert many_unstable.any()
    assert (few["unstable_count"][many_unstable] == -1).all()
    assert (few["stable_count"][many_unstable] == -1).all()


def test_vectors_are_those_of_the_jacobian() -> None:
    options = make_options(FIELD, **LEADING, vectors="both")
    found = compute_block(ATLAS.x, ATLAS.codes, FIELD, options)
    for cell in (0, 1, 5):
        J = FIELD.jacobian(ATLAS.x[cell : cell + 1], str(ATLAS.labels[cell]))[0]
        norm = np.linalg.norm(J)
        for mode in range(6):
            value = found["eigenvalue"][cell, mode]
            x, y = found["right_vector"][cell, mode], found["left_vector"][cell, mode]
            assert np.linalg.norm(J @ x - value * x) < 1e-6 * norm
            assert np.linalg.norm(y.conj() @ J - value * y.conj()) < 1e-6 * norm
            assert np.linalg.norm(x) == pytest.approx(1)
    assert (found["residual"][[0, 1, 5]] < 1e-8).all()


def test_a_run_audits_and_says_so(tmp_path: Path) -> None:
    options = {**LEADING, "progress": False, "partition_cells": 16}
    one = sd.run(ATLAS.cells(), FIELD, tmp_path / "one.zarr", workers=0, **options)
    assert one.backend == "krylov"
    assert one.audit["n_cells"] == 16  # 8 of each of two clusters
    assert one.audit["n_missed"] == 0
    assert 0 < one.audit["worst_difference"] < 1e-7
    assert "audit        16 cells against dense spectra: no leading mode missed" in str(one)
    ds = sd.open_results(tmp_path / "one.zarr")
    assert int((ds["audit_missed"] >= 0).sum()) == 16
    assert float(ds["audit_difference"].max()) == one.audit["worst_difference"]
    assert np.isnan(ds["audit_difference"].to_numpy()[ds["audit_missed"].to_numpy() < 0]).all()
    # The same cells, whatever was computed before.
    sd.run(ATLAS.cells(), FIELD, tmp_path / "two.zarr", workers=0, partitions=[2, 0], **options)
    two = sd.run(ATLAS.cells(), FIELD, tmp_path / "two.zarr", workers=0, **options)
    assert two.audit == one.audit
    sd.verify(tmp_path / "two.zarr")
    # Dense solvers have nothing to audit.
    dense = sd.run(
        ATLAS.cells(), FIELD, tmp_path / "dense.zarr", workers=0, progress=False, spectrum="leading"
    )
    assert dense.audit == {}
    assert "audit_missed" not in sd.open_results(tmp_path / "dense.zarr")


def test_an_audit_notices_what_is_missing() -> None:
    linear = FIELD.linearize(ATLAS.x[:1], FIELD.cluster_number(str(ATLAS.labels[0])))
    exact = eig(linear.cores(np.array([0])), backend="lapack").eigenvalues[0]
    norm = np.linalg.norm(linear.cores(np.array([0])))
    here = np.array([0])
    difference, missed = audit_spectra(linear, here, exact[None, :6], 1e-9)
    assert difference[0] < 1e-12
    assert missed[0] == 0
    # The second pair left out: two are missing.
    without = np.delete(exact, [1, 2])[None, :6]
    assert audit_spectra(linear, here, without, 1e-9)[1][0] == 2
    # A copy of the first in place of the second hides nothing.
    copied = exact[None, :6].copy()
    copied[0, 1:3] = copied[0, 0]
    assert audit_spectra(linear, here, np.sort_complex(copied)[:, ::-1], 1e-9)[1][0] >= 0
    wrong = exact[None, :6] + 1e-3 * norm
    assert audit_spectra(linear, here, wrong, 1e-9)[0][0] > 1e-5
    nothing = np.full((1, 6), complex(np.nan, np.nan))
    difference, missed = audit_spectra(linear, here, nothing, 1e-9)
    assert np.isnan(difference[0])
    assert missed[0] == -1


def test_the_sample() -> None:
    codes = np.repeat([0, 1, 2, -1, -2], [2000, 300, 5, 40, 40])
    chosen = audit_sample(codes)
    assert [int(chosen[codes == code].sum()) for code in (0, 1, 2, -1, -2)] == [20, 8, 5, 0, 0]
    np.testing.assert_array_equal(chosen, audit_sample(codes))
    assert audit_sample(np.empty(0, dtype=int)).shape == (0,)


def test_a_cell_that_does_not_converge_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    original = leading.leading_eigenvalues

    def hurried(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options, max_products=3)

    monkeypatch.setattr(leading, "leading_eigenvalues", hurried)
    large = random_atlas(1, n_cells=3, n_genes=420, n_regulators=(410, 405))
    options = make_options(large.field, spectrum="leading", residual_tolerance=1e-11)
    out = compute_block(large.x, large.codes, large.field, options)
    assert (out["status"] == Status.NOT_CONVERGED).all()
    assert np.isnan(out["spectral_abscissa"]).all()
    assert (out["unstable_count"] == -1).all()
