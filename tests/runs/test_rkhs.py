"""Runs of fields over principal components: the pipeline does not know which field it has."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rkhs import SmallRkhs, small_rkhs

import stabdask as sd
from stabdask.analysis.spectra import match_spectra
from stabdask.cli.main import main
from stabdask.errors import InputError, MissingKeyError, OutputError, UsageError
from stabdask.runs.block import compute_block
from stabdask.runs.options import Options, make_options

Array = np.ndarray[Any, Any]

CASES = st.builds(
    small_rkhs,
    st.integers(0, 100),
    n_cells=st.just(6),
    n_axes=st.sampled_from([1, 2, 3, 5]),
    n_centers=st.sampled_from([1, 3, 20]),
    n_genes=st.sampled_from([5, 9]),
    basis=st.sampled_from(["pca", None]),
    lifted=st.booleans(),
    n_labels=st.sampled_from([1, 2]),
)


def solved(case: SmallRkhs, **asked: Any) -> dict[str, Array]:
    codes = np.zeros(len(case.x), dtype=int)
    return compute_block(case.x, codes, case.field, make_options(case.field, **asked))


# --- spectra and closed forms ------------------------------------------------------------------------------


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_spectra_and_scalars_are_those_of_the_jacobian_over_axes(case: SmallRkhs) -> None:
    out = solved(case, quantities=["default", "reactivity", "acceleration_norm", "curvature_norm"])
    J, v = case.jacobian(case.x), case.velocity(case.x)
    assert "active" not in out
    for cell in range(len(J)):
        dense = np.linalg.eigvals(J[cell])
        scale = np.linalg.norm(J[cell])
        assert match_spectra(out["eigenvalue"][cell], dense) <= 1e-9 * scale + 1e-12
        assert out["spectral_abscissa"][cell] == pytest.approx(dense.real.max(), abs=1e-9 * scale)
        sign, logabs = np.linalg.slogdet(J[cell])
        if np.linalg.cond(J[cell]) < 1e8:
            assert out["logabsdet"][cell] == pytest.approx(logabs, abs=1e-6)
            assert out["det_sign"][cell] == sign
    np.testing.assert_allclose(out["trace"], np.trace(J, axis1=1, axis2=2), atol=1e-12)
    np.testing.assert_allclose(
        out["rotational_norm"], np.linalg.norm(0.5 * (J - J.transpose(0, 2, 1)), axis=(1, 2)), atol=1e-12
    )
    top = np.linalg.eigvalsh(0.5 * (J + J.transpose(0, 2, 1)))[:, -1]
    np.testing.assert_allclose(out["reactivity"], top, atol=1e-12)
    np.testing.assert_allclose(out["speed"], np.linalg.norm(v, axis=1), atol=1e-12)
    a = np.einsum("cij,cj->ci", J, v)
    np.testing.assert_allclose(out["acceleration_norm"], np.linalg.norm(a, axis=1), atol=1e-12)
    assert (out["spectral_abscissa"] <= out["reactivity"] + 1e-9).all()


def test_vectors_are_eigenvectors_between_genes() -> None:
    case = small_rkhs(3)
    out = solved(case, vectors="both")
    between = case.lift @ case.jacobian(case.x) @ case.lift.T
    for cell in range(len(between)):
        for mode in range(4):
            value = out["eigenvalue"][cell, mode]
            right, left = out["right_vector"][cell, mode], out["left_vector"][cell, mode]
            assert np.linalg.norm(right) == pytest.approx(1.0)
            assert np.abs(between[cell] @ right - value * right).max() < 1e-12
            assert np.abs(left.conj() @ between[cell] - value * left.conj()).max() < 1e-12


def test_single_precision_is_that_of_the_products() -> None:
    case = small_rkhs(1, n_cells=40)
    double, single = (solved(case, dtype=dtype) for dtype in ("float64", "float32"))
    assert single["eigenvalue"].dtype == np.complex64
    scale = np.abs(double["eigenvalue"]).max()
    assert (
        np.abs(np.sort_complex(single["eigenvalue"]) - np.sort_complex(double["eigenvalue"])).max()
        < 1e-3 * scale
    )
    np.testing.assert_allclose(single["trace"], double["trace"], atol=1e-5 * scale)
    assert not np.array_equal(single["trace"], double["trace"])


# --- the path of the flow ----------------------------------------------------------------------------------


def path(case: SmallRkhs, start: Array, step: float) -> Array:
    """Return five points on the path through `start`, by small Runge-Kutta steps."""
    points = {0: start}
    for sign in (-1, 1):
        x = start
        for number in (1, 2):
            for _ in range(20):
                h = sign * step / 20
                k1 = case.velocity(x)
                k2 = case.velocity(x + h / 2 * k1)
                k3 = case.velocity(x + h / 2 * k2)
                k4 = case.velocity(x + h * k3)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            points[sign * number] = x
    return np.stack([points[number] for number in range(-2, 3)])


def test_curvature_and_torsion_are_those_of_the_path() -> None:
    case = small_rkhs(5, n_axes=3, lifted=False, basis="p3")
    out = solved(
        case,
        quantities=["velocity", "acceleration", "curvature", "curvature_norm", "torsion"],
        spectrum="none",
    )
    h = 1e-2
    p = path(case, case.x, h)
    first = (p[0] - 8 * p[1] + 8 * p[3] - p[4]) / (12 * h)
    second = (-p[0] + 16 * p[1] - 30 * p[2] + 16 * p[3] - p[4]) / (12 * h * h)
    third = (-p[0] + 2 * p[1] - 2 * p[3] + p[4]) / (2 * h**3)
    np.testing.assert_allclose(out["velocity"], first, atol=1e-3)
    np.testing.assert_allclose(out["acceleration"], second, atol=1e-2)
    normal = np.cross(first, second)
    bend = np.linalg.norm(normal, axis=1) / np.linalg.norm(first, axis=1) ** 3
    np.testing.assert_allclose(out["curvature_norm"], bend, rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(out["curvature"], axis=1), out["curvature_norm"])
    # The curvature vector is normal to the path.
    assert np.abs(np.einsum("ci,ci->c", out["curvature"], out["velocity"])).max() < 1e-12 * bend.max()
    twist = np.einsum("ci,ci->c", normal, third) / (normal**2).sum(axis=1)
    clear = np.linalg.norm(normal, axis=1) > 0.05
    assert clear.sum() > 10
    np.testing.assert_allclose(out["torsion"][clear], twist[clear], rtol=0.02, atol=0.02)


def test_curl_in_two_and_three_dimensions() -> None:
    flat, solid = (small_rkhs(2, n_axes=d, lifted=False, basis="umap") for d in (2, 3))
    J = flat.jacobian(flat.x)
    out = solved(flat, quantities=["default", "curl"])
    assert out["curl"].shape == (24, 1)
    np.testing.assert_allclose(out["curl"][:, 0], J[:, 1, 0] - J[:, 0, 1], atol=1e-13)
    # In two dimensions the rotational part has the curl twice.
    np.testing.assert_allclose(np.abs(out["curl"][:, 0]), np.sqrt(2) * out["rotational_norm"], atol=1e-13)
    J = solid.jacobian(solid.x)
    curl = solved(solid, quantities=["curl"], spectrum="none")["curl"]
    expected = np.stack([J[:, 2, 1] - J[:, 1, 2], J[:, 0, 2] - J[:, 2, 0], J[:, 1, 0] - J[:, 0, 1]], axis=1)
    np.testing.assert_allclose(curl, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        ("curl", "two or three axes, this one has 4"),
        ("torsion", "three axes, this one has 4"),
        ("near_switch_count", "no jumps"),
        ("sensitivity", "no network of edges; ask for 'sensitivity_mean'"),
        ("jacobian", "give effectors= and regulators="),
    ],
)
def test_what_a_field_lacks_is_refused(quantity: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_options(small_rkhs().field, quantities=["default", quantity])


# --- elements between genes --------------------------------------------------------------------------------


@pytest.mark.parametrize("lifted", [True, False])
def test_blocks_and_elements_are_lifted(lifted: bool) -> None:
    case = small_rkhs(7, lifted=lifted)
    genes = case.field.genes.tolist()
    effectors, regulators = [genes[3], genes[0], genes[1]], [genes[1], genes[2]]
    out = solved(
        case,
        effectors=effectors,
        regulators=regulators,
        elements=[(genes[3], genes[2]), (genes[1], genes[1])],
        quantities=["default", "jacobian", "response", "dynamo_sensitivity"],
    )
    J = case.jacobian(case.x)
    between = case.lift @ J @ case.lift.T
    rows, columns = np.ix_([3, 0, 1], [1, 2])
    np.testing.assert_allclose(out["jacobian"], between[:, rows, columns], atol=1e-13)
    np.testing.assert_allclose(out["element"], between[:, [3, 1], [2, 1]], atol=1e-13)
    response = -case.lift @ np.linalg.inv(J) @ case.lift.T
    np.testing.assert_allclose(out["response"], response[:, rows, columns], rtol=1e-8, atol=1e-10)
    union = np.ix_([0, 1, 2, 3], [0, 1, 2, 3])
    inverse = np.linalg.inv(np.eye(4) - between[:, union[0], union[1]])
    expected = inverse @ np.stack([np.diag(1 / np.diag(one)) for one in inverse])
    np.testing.assert_allclose(out["dynamo_sensitivity"], expected[:, [[3], [0], [1]], [1, 2]], rtol=1e-9)


def test_drivers_are_lifted() -> None:
    case = small_rkhs(11, n_labels=1)
    ds = sd.stability(
        case.cells(), case.field, quantities=["default", "drivers"], modes=2, vectors="both"
    ).compute()
    between = case.lift @ case.jacobian(case.x) @ case.lift.T
    right, left = ds["right_vector"].to_numpy(), ds["left_vector"].to_numpy()
    overlap = np.einsum("cmg,cmg->cm", left.conj(), right)
    shares = (left.conj() * right / overlap[:, :, None]).real
    for mode in (0, 1):
        genes = sd.driver_genes(ds, "kind 0", mode=mode)
        expected = shares[:, mode].mean(axis=0)
        found = genes.set_index("gene")["participation"].reindex(case.genes).to_numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert found.sum() == pytest.approx(1.0)
    pairs = np.einsum("cg,ch->cgh", left[:, 0].conj(), right[:, 0]) / overlap[:, :1, None]
    edges = sd.driver_edges(ds, "kind 0")
    assert len(edges) == 144
    table = edges.pivot(index="effector", columns="regulator", values="sensitivity").to_numpy()
    np.testing.assert_allclose(table, pairs.real.mean(axis=0), atol=1e-12)
    weight = edges.pivot(index="effector", columns="regulator", values="weight").to_numpy()
    np.testing.assert_allclose(weight, between.mean(axis=0), atol=1e-12)
    assert edges["std"].isna().all()
    assert edges.attrs["of"] == "J"
    few = sd.driver_edges(ds, "kind 0", top=5)
    assert few.equals(edges.head(5))


def test_contributions_of_one_cell_sum_to_the_growth_rate() -> None:
    case = small_rkhs(12, n_cells=1, n_labels=1)
    ds = sd.stability(case.cells(), case.field, quantities=["default", "drivers"]).compute()
    edges = sd.driver_edges(ds, "kind 0")
    assert edges["contribution"].sum() == pytest.approx(float(ds["spectral_abscissa"][0]))


def test_means_and_rankings_are_of_all_cells() -> None:
    case = small_rkhs(13, n_labels=2)
    effectors, regulators = ["g03", "g00", "g05"], ["g00", "g03", "g07"]
    ds = sd.stability(
        case.cells(),
        case.field,
        effectors=effectors,
        regulators=regulators,
        quantities=["jacobian", "jacobian_mean"],
    ).compute()
    own = ds["cell_cluster"].to_numpy() == "kind 1"
    J = ds["jacobian"].to_numpy()[own]
    one = ds.sel(cluster="kind 1")
    assert int(one["jacobian_cells"]) == own.sum()
    np.testing.assert_allclose(one["jacobian_mean"], J.mean(axis=0))
    np.testing.assert_allclose(one["jacobian_abs_mean"], np.abs(J).mean(axis=0))
    # g03 by g00, and g00 by g03, where they inhibit each other.
    products = np.where((J[:, 0, 0] < 0) & (J[:, 1, 1] < 0), J[:, 0, 0] * J[:, 1, 1], 0.0)
    assert products.any()
    assert float(one["switch_mean"][0, 0]) == pytest.approx(products.mean())
    assert float(one["switch_mean"][1, 1]) == pytest.approx(products.mean())
    assert float(one["switch_mean"][0, 1]) == pytest.approx((np.minimum(J[:, 0, 1], 0.0) ** 2).mean())
    assert np.isnan(one["switch_mean"][2]).all()
    assert np.isnan(one["switch_mean"][:, 2]).all()
    ranked = sd.rank_elements(ds, "kind 1", mode="int", absolute=True)
    np.testing.assert_allclose(ranked["value"], np.sort(np.abs(J).mean(axis=0).ravel())[::-1])
    switch = sd.rank_elements(ds, "kind 1", mode="switch")
    assert switch[["effector", "regulator"]].to_numpy().tolist() == [["g00", "g03"]]


# --- through a store, and back -----------------------------------------------------------------------------


def everything(case: SmallRkhs) -> dict[str, Any]:
    return {
        "effectors": case.genes[:3],
        "regulators": case.genes[2:5],
        "elements": [(case.genes[0], case.genes[1])],
        "quantities": ["default", "drivers", "jacobian", "jacobian_mean", "velocity", "curvature"],
        "vectors": "both",
    }


def test_a_run_holds_what_the_lazy_view_computes(tmp_path: Path) -> None:
    case = small_rkhs(21, n_cells=50)
    asked = everything(case)
    report = sd.run(
        case.cells(),
        case.field,
        tmp_path / "out.zarr",
        workers=0,
        progress=False,
        partition_cells=16,
        **asked,
    )
    assert report.n_partitions == 4
    stored = sd.open_results(tmp_path / "out.zarr").compute()
    lazy = sd.stability(case.cells(), case.field, **asked).compute()
    assert set(stored.data_vars) == set(lazy.data_vars)
    for name in stored.data_vars:
        assert stored[name].dims == lazy[name].dims
        if name.endswith(("_mean", "_std")):
            np.testing.assert_allclose(stored[name], lazy[name], atol=1e-7, err_msg=str(name))
        else:
            np.testing.assert_array_equal(stored[name], lazy[name], err_msg=str(name))
    for name in ("gene", "regulator", "axis", "axis_effector", "block_effector", "block_regulator"):
        assert stored[name].to_numpy().tolist() == lazy[name].to_numpy().tolist()
    verified = sd.verify(tmp_path / "out.zarr", cells=case.cells())
    assert verified.ok
    assert verified.n_cells_checked == 8
    assert verified.n_elements == 1 + 3 * 3
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r+")
    group["jacobian"][...] = group["jacobian"][...] + 1e-3
    wrong = sd.verify(tmp_path / "out.zarr", cells=case.cells())
    assert {name for _, name in wrong.damaged} == {"jacobian"}
    assert sd.complete_spectrum(stored).shape == (50, 4)
    lifted = stored["velocity"] @ stored["loading"]
    np.testing.assert_allclose(lifted, case.velocity(case.x) @ case.lift.T, atol=1e-12)


def test_a_field_over_genes_runs_on_expression(tmp_path: Path) -> None:
    case = small_rkhs(22, basis=None, n_axes=5)
    report = sd.run(
        case.cells(), case.field, tmp_path / "out.zarr", workers=0, progress=False, elements=[("g01", "g00")]
    )
    assert report.n_failed == 0
    ds = sd.open_results(tmp_path / "out.zarr")
    np.testing.assert_allclose(ds["element"][:, 0], case.jacobian(case.x)[:, 1, 0], atol=1e-13)
    assert "loading" not in ds


def test_many_axes_and_few_are_matched_by_name() -> None:
    case = small_rkhs(23)
    adata = case.adata()
    adata.obsm["X_pca"] = np.hstack([case.x, np.full((24, 3), np.nan)])
    ds = sd.stability(sd.open_cells(adata, obsm="X_pca"), case.field)
    np.testing.assert_allclose(ds["trace"], np.trace(case.jacobian(case.x), axis1=1, axis2=2), atol=1e-12)
    adata.obsm["X_pca"] = case.x[:, :3]
    with pytest.raises(MissingKeyError, match="lacks 1 of the field's 4 axes: 'pca_4'"):
        sd.stability(sd.open_cells(adata, obsm="X_pca"), case.field)


def test_cells_that_do_not_fit_the_field_are_refused() -> None:
    over_genes, over_axes = small_rkhs(24, basis=None), small_rkhs(24)
    with pytest.raises(InputError, match=r"4 axes of 'X_pca'.*open_cells\(\.\.\., obsm='X_pca'\)"):
        sd.stability(over_genes.cells(), over_axes.field)
    with pytest.raises(InputError, match=r"field is over genes.*coordinates of 'X_pca'"):
        sd.stability(over_axes.cells(), over_genes.field)
    with pytest.raises(MissingKeyError, match=r"no coordinates 'X_pac' in obsm.*X_pca"):
        sd.open_cells(over_axes.adata(), obsm="X_pac")
    with pytest.raises(UsageError, match="obsm='X_pca' and layer"):
        sd.open_cells(over_axes.adata(), obsm="X_pca", layer="M_t")


def test_points_that_are_not_finite_get_a_status() -> None:
    case = small_rkhs(25)
    case.x[3, 1] = np.nan
    ds = sd.stability(case.cells(), case.field).compute()
    assert ds["status"].to_numpy().tolist() == [3 if cell == 3 else 0 for cell in range(24)]
    assert np.isnan(ds["trace"][3])


def test_options_of_older_stores_keep_their_fingerprint() -> None:
    from random_atlas import random_atlas

    atlas = random_atlas(0)
    options = make_options(atlas.field)
    assert not {"effectors", "regulators", "whole_cores"} & options.to_dict().keys()
    assert Options.from_dict(options.to_dict()) == options
    over_axes = make_options(small_rkhs().field, effectors=["g01"], regulators=["g00"])
    assert over_axes.to_dict()["whole_cores"] is True
    assert Options.from_dict(over_axes.to_dict()) == over_axes


def test_blocks_that_no_disk_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_rkhs(26)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    asked: dict[str, Any] = {
        "effectors": case.genes,
        "regulators": case.genes,
        "workers": 0,
        "progress": False,
    }
    with pytest.raises(OutputError, match=r"12 effectors and 12 regulators takes 27.6 kB, and 1 kB are free"):
        sd.run(case.cells(), case.field, tmp_path / "out.zarr", **asked)
    assert not (tmp_path / "out.zarr").exists()
    sd.run(case.cells(), case.field, tmp_path / "out.zarr", **asked, quantities=["default", "jacobian_mean"])
    assert sd.status(tmp_path / "out.zarr").complete


# --- the command line --------------------------------------------------------------------------------------


def test_the_commands_take_a_field_over_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = small_rkhs(31, n_cells=40)
    case.adata().write_h5ad(tmp_path / "cells.h5ad")
    case.field.save(tmp_path / "field.zarr")
    job = [
        str(tmp_path / "cells.h5ad"), "--field", str(tmp_path / "field.zarr"), "--cluster-key", "kind",
        "--effectors", "g00,g01", "--regulators", "g01,g02",
        "--quantities", "default,drivers,jacobian,jacobian_mean,curvature_norm", "--workers", "0",
    ]  # fmt: skip
    assert main(["plan", *job]) == 0
    shown = capsys.readouterr().out
    assert "1.28 kB for jacobian (10^3.1 bytes)" in shown
    store = str(tmp_path / "out.zarr")
    assert main(["run", *job, "--store", store, "--quiet"]) == 0
    assert main(["verify", store]) == 0
    assert main(["drivers", store, "--top", "3"]) == 0
    assert main(["rank", store, "--mode", "full reg", "--absolute"]) == 0
    assert "full reg, mean |J| over 14 cells (1/time)" in capsys.readouterr().out
    assert main(["summary", store]) == 0
    assert main(["report", store, "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "4 axes of pca, lifted to 12 genes" in page
    assert "sum_m C_m exp(-beta |x - z_m|^2)" in page
    assert "Ma J., Zhao J." in page


def test_a_plain_run_without_clusters_answers_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No variable but the code of the cluster has to do with clusters then, and no core has genes outside it."""
    case = small_rkhs(32, n_cells=20)
    atlas, field, store = (str(tmp_path / name) for name in ("cells.h5ad", "field.zarr", "out.zarr"))
    case.adata().write_h5ad(atlas)
    case.field.save(field)
    assert main(["run", atlas, "--field", field, "--store", store, "--workers", "0", "--quiet"]) == 0
    capsys.readouterr()
    for command, lacking in (("drivers", "'participation_mean'"), ("rank", "means of the Jacobian")):
        for more in ([], ["--cluster", "all"]):
            assert main([command, store, *more]) == 3
            message = capsys.readouterr().err
            assert message.startswith(f"stabdask: error: the results hold no {lacking}; run with ")
            assert "--quantities default," in message
    for arguments in (
        ["summary", store],
        ["status", store],
        ["verify", store],
        ["export", store, "-o", str(tmp_path / "cells.csv")],
        ["export", store, "--summary", "-o", str(tmp_path / "groups.csv")],
        ["export", store, "--atlas", atlas, "-o", str(tmp_path / "with.h5ad"), "--eigenvalues"],
    ):
        assert main(arguments) == 0, arguments
    capsys.readouterr()
    assert main(["summary", store, "--extremes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["all"]
    spectra = np.linalg.eigvals(case.jacobian(case.x))
    for side, pick in (("largest", np.argmax), ("smallest", np.argmin)):
        cell, number = divmod(int(pick(spectra.real)), spectra.shape[1])
        assert found[side]["real"] == pytest.approx(spectra[cell, number].real, rel=1e-9)
        assert found[f"{side}_cell"] == f"cell{cell}"


def test_one_of_several_fields_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pca, umap = small_rkhs(41, n_cells=30), small_rkhs(42, n_cells=30, n_axes=2, lifted=False, basis="umap")
    adata = pca.adata()
    adata.obsm["X_umap"] = umap.x
    for case in (pca, umap):
        adata.uns[f"VecFld_{case.basis}"] = {
            "X": case.x, "X_ctrl": case.centers, "C": case.coefficients, "beta": case.beta
        }  # fmt: skip
    path, store = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.zarr")
    adata.write_h5ad(path)
    job = ["run", path, "--field", path, "--basis", "umap", "--store", store, "--workers", "0", "--quiet"]
    assert main([*job, "--quantities", "default,curl"]) == 0
    found = sd.open_results(store)
    J = umap.jacobian(umap.x)
    np.testing.assert_allclose(found["curl"][:, 0], J[:, 1, 0] - J[:, 0, 1], atol=1e-12)
    assert main(["plan", path, "--field", path, "--loadings", "none"]) == 0
    assert "30 x 4 axes of pca, cores up to 4 x 4" in capsys.readouterr().out


def test_cells_opened_by_another_embedding_are_told_which() -> None:
    case, other = small_rkhs(25), small_rkhs(25, basis="umap", n_axes=2, lifted=False)
    with pytest.raises(MissingKeyError, match=r"axes of 'X_pca', .* opened with 'X_umap'; .*--obsm X_pca"):
        sd.stability(other.cells(), case.field)
