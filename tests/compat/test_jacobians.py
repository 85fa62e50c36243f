"""scHopfield's Jacobian functions against dense matrices of NumPy: values, keys, dtypes, shapes and refusals."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from compat.fits import Fit, fit, used_names
from helpers import antisymmetric_norm, match_spectra
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stabdask.compat import schopfield as sch
from stabdask.compat.schopfield.cells import worker_count
from stabdask.errors import InputError, MemoryBudgetError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]
FLOAT32 = 4e-6


def assert_spectra(made: Fit, activation: str = "fitted", cells: Any = None) -> None:
    values = made.adata.obsm["jacobian_eigenvalues"]
    assert values.dtype == np.complex64
    assert values.shape == (made.adata.n_obs, len(used_names(made.adata)))
    for cell in range(len(values)) if cells is None else cells:
        J = made.jacobian(cell, activation)
        assert match_spectra(values[cell], np.linalg.eigvals(J)) < FLOAT32 * np.linalg.norm(J)


# --- signatures ---------------------------------------------------------------------------------------------

COMPUTE = {"spliced_key": "Ms", "degradation_key": "gamma", "cluster_key": "cell_type"}
BOXES = {"cluster_key": "cell_type", "order": None, "colors": None, "figsize": (15, 15)}
NEEDED = inspect.Parameter.empty
SIGNATURES = {
    "compute_jacobians": {
        "adata": NEEDED, **COMPUTE, "compute_eigenvectors": False, "device": "cpu", "n_jobs": -1, "copy": False,
    },
    "save_jacobians": {"adata": NEEDED, "filename": NEEDED, "cluster_key": "cell_type", "compression": "gzip"},
    "load_jacobians": {"adata": NEEDED, "filename": NEEDED, "load_eigenvectors": False},
    "compute_jacobian_stats": {"adata": NEEDED, "filename": None, "store_in_obs": True, "copy": False},
    "compute_jacobian_elements": {
        "adata": NEEDED, "gene_pairs": NEEDED, **COMPUTE, "device": "cpu", "store_in_obs": True, "copy": False,
    },
    "compute_rotational_part": {"adata": NEEDED, **COMPUTE, "device": "cpu", "copy": False},
    "save_model": {"adata": NEEDED, "filename": NEEDED, "overwrite": False, "compression": "gzip"},
    "load_model": {"adata": NEEDED, "filename": NEEDED, "overwrite": False},
    "plot_jacobian_eigenvalue_spectrum": {"adata": NEEDED, **BOXES, "sharex": True, "sharey": True},
    "plot_jacobian_eigenvalue_boxplots": {"adata": NEEDED, **BOXES},
    "plot_jacobian_stats_boxplots": {"adata": NEEDED, **BOXES},
    "plot_jacobian_element_grid": {
        "adata": NEEDED, "gene_pairs": NEEDED, "ncols": 2, "figsize": None, "scatter_kwargs": NEEDED,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_scHopfield_with_options_at_the_end(name: str) -> None:
    function = getattr(sch, name)
    given = inspect.signature(function).parameters
    own = {key: p for key, p in given.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY}
    assert {key: p.default for key, p in own.items()} == SIGNATURES[name]
    assert list(own) == list(SIGNATURES[name])
    assert set(given) - set(own) <= {"activation"}
    namespace = sch.pl if name.startswith("plot_") else sch.tl
    assert getattr(namespace, name) is function
    assert name in sch.__all__


# --- eigenvalues --------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    n_genes=st.integers(1, 12),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    activation=st.sampled_from(["fitted", "single"]),
    share=st.floats(0, 1),
)
def test_spectra_are_those_of_dense_jacobians(
    seed: int, n_genes: int, zeros: float, activation: str, share: float
) -> None:
    made = fit(seed, n_genes=n_genes, n_regulators=round(share * n_genes), zeros=zeros, n_cells=7)
    assert sch.tl.compute_jacobians(made.adata, activation=activation) is None
    assert_spectra(made, activation)


def test_the_two_activations_differ() -> None:
    made = fit(1)
    sch.tl.compute_jacobians(made.adata)
    two = made.adata.obsm["jacobian_eigenvalues"]
    sch.tl.compute_jacobians(made.adata, activation="single")
    assert np.abs(two - made.adata.obsm["jacobian_eigenvalues"]).max() > 0.1


def test_eigenvalues_are_in_canonical_order() -> None:
    made = fit(2, n_genes=14, n_regulators=9)
    sch.tl.compute_jacobians(made.adata)
    assert np.iscomplex(made.adata.obsm["jacobian_eigenvalues"]).any(axis=1).sum() > 5
    for values in made.adata.obsm["jacobian_eigenvalues"]:
        assert values.tolist() == sorted(values.tolist(), key=lambda z: (-z.real, -z.imag))


def dense(array: Array) -> Array:
    return array


@pytest.mark.parametrize("form", [dense, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.float32])
def test_layers_of_every_form(form: Any) -> None:
    made = fit(3)
    made.adata.layers["spliced"] = form(made.adata.layers.pop("Ms"))
    sch.tl.compute_jacobians(made.adata, spliced_key="spliced")
    assert_spectra(made)


def test_whole_numbers_are_expression_too() -> None:
    made = fit(3, zeros=0.0)
    counts = np.ceil(made.adata.layers["Ms"]).astype(np.int32)
    made.adata.layers["Ms"] = counts
    used = made.adata.var["scHopfield_used"].to_numpy()
    sch.tl.compute_jacobians(made.adata)
    assert_spectra(Fit(made.adata, counts[:, used].astype(float), made.labels, made.clusters))


def test_clusters_without_their_own_rates_use_the_column() -> None:
    made = fit(4)
    made.adata.var["decay"] = made.adata.var.pop("gamma_B")
    sch.tl.compute_jacobians(made.adata)
    with pytest.raises(AssertionError):
        assert_spectra(made)
    sch.tl.compute_jacobians(made.adata, degradation_key="decay")
    assert_spectra(made)


@pytest.mark.parametrize("n_jobs", [1, 2, -1, -2, None])
def test_any_number_of_threads_gives_the_same_bytes(n_jobs: int | None) -> None:
    made = fit(5, n_cells=300)
    sch.tl.compute_jacobians(made.adata, n_jobs=1, compute_eigenvectors=True)
    before = made.adata.obsm["jacobian_eigenvalues"], made.adata.uns["jacobian_eigenvectors_temp"]["data"]
    sch.tl.compute_jacobians(made.adata, n_jobs=n_jobs, compute_eigenvectors=True)
    np.testing.assert_array_equal(made.adata.obsm["jacobian_eigenvalues"], before[0])
    np.testing.assert_array_equal(made.adata.uns["jacobian_eigenvectors_temp"]["data"], before[1])


def test_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabdask.compat.schopfield.cells.cpu_count", lambda: 8)
    assert [worker_count(n) for n in (-1, -2, -100, 1, 3, None, np.int64(2))] == [8, 7, 1, 1, 3, 1, 2]
    for bad in (0, 1.5, True, "2"):
        with pytest.raises(UsageError, match="n_jobs"):
            worker_count(bad)  # type: ignore[arg-type]


def test_a_copy_is_returned_and_the_original_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    made = fit(6)
    before = made.adata.copy()
    copies = [
        sch.tl.compute_jacobians(made.adata, copy=True),
        sch.tl.compute_jacobian_elements(made.adata, [used_names(made.adata)[:2]], copy=True),
        sch.tl.compute_rotational_part(made.adata, copy=True),
    ]  # fmt: skip
    assert all(copy is not None for copy in copies)
    assert copies[0] is not None
    assert "jacobian_eigenvalues" in copies[0].obsm
    assert sch.tl.compute_jacobian_stats(copies[0]) is None
    assert made.adata.obs.equals(before.obs)
    assert made.adata.var.equals(before.var)
    assert list(made.adata.obsm) == ["X_umap"]
    assert list(made.adata.uns) == ["scHopfield"]
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


# --- eigenvectors -------------------------------------------------------------------------------------------


def assert_vectors(made: Fit, activation: str = "fitted") -> None:
    values = made.adata.obsm["jacobian_eigenvalues"]
    vectors = made.adata.uns["jacobian_eigenvectors_temp"]["data"]
    n = values.shape[1]
    assert vectors.dtype == np.complex64
    assert vectors.shape == (len(values), n, n)
    for cell, (own, V) in enumerate(zip(values, vectors, strict=True)):
        J = made.jacobian(cell, activation)
        assert np.abs(J @ V - V * own).max() < 2 * FLOAT32 * np.linalg.norm(J)
        np.testing.assert_allclose(np.linalg.norm(V, axis=0), 1.0, rtol=1e-5)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    n_genes=st.integers(1, 12),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    activation=st.sampled_from(["fitted", "single"]),
    share=st.floats(0, 1),
)
def test_columns_are_eigenvectors_of_their_eigenvalues(
    seed: int, n_genes: int, zeros: float, activation: str, share: float
) -> None:
    made = fit(seed, n_genes=n_genes, n_regulators=round(share * n_genes), zeros=zeros, n_cells=5)
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True, activation=activation)
    assert_spectra(made, activation)
    assert_vectors(made, activation)


def test_vectors_span_the_space_where_rates_repeat() -> None:
    made = fit(7, n_genes=12, n_regulators=4, density=1.0)
    for label in made.clusters:
        made.clusters[label].gamma[:] = 1.5
        made.adata.var[f"gamma_{label}"] = 1.5
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    assert_vectors(made)
    vectors = made.adata.uns["jacobian_eigenvectors_temp"]["data"]
    assert all(np.linalg.matrix_rank(V) == 12 for V in vectors)


def test_vectors_of_an_earlier_call_do_not_stay() -> None:
    made = fit(8)
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    sch.tl.compute_jacobians(made.adata, activation="single")
    assert "jacobian_eigenvectors_temp" not in made.adata.uns


def test_more_than_the_memory_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit(9)
    memory = namedtuple("memory", "available")
    n_cells, n = made.adata.n_obs, len(used_names(made.adata))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(8 * n_cells * n * (n + 1) - 1))
    sch.tl.compute_jacobians(made.adata)
    with pytest.raises(
        MemoryBudgetError, match=r"24 cells x 9 genes take .* GB.*stabdask\.run\(\.\.\., vectors='right'"
    ):
        sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    assert "jacobian_eigenvectors_temp" not in made.adata.uns
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(8 * n_cells * n * (n + 1)))
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    assert_vectors(made)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(8 * n_cells * n - 1))
    with pytest.raises(MemoryBudgetError, match="eigenvalues of 24 cells"):
        sch.tl.compute_jacobians(made.adata)


# --- elements and rotational part ---------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["fitted", "single"])
def test_elements_and_rotational_part(activation: str) -> None:
    made = fit(10, n_cells=40)
    names = used_names(made.adata)
    pairs = [(names[i], names[j]) for i, j in ((0, 1), (1, 0), (2, 2), (8, 5), (0, 1))]
    assert sch.tl.compute_jacobian_elements(made.adata, pairs, activation=activation) is None
    assert sch.tl.compute_rotational_part(made.adata, activation=activation) is None
    J = np.stack([made.jacobian(cell, activation) for cell in range(40)])
    for effector, regulator in pairs:
        column = made.adata.obs[f"jacobian_df_{effector}_dx_{regulator}"]
        assert column.dtype == np.float32
        np.testing.assert_allclose(
            column, J[:, names.index(effector), names.index(regulator)], rtol=1e-5, atol=1e-7
        )
    assert made.adata.obs["jacobian_rotational"].dtype == np.float32
    np.testing.assert_allclose(made.adata.obs["jacobian_rotational"], antisymmetric_norm(J), rtol=1e-5)


def test_elements_need_not_be_stored_and_may_be_none() -> None:
    made = fit(11)
    names = used_names(made.adata)
    before = list(made.adata.obs)
    sch.tl.compute_jacobian_elements(made.adata, [(names[0], names[1])], store_in_obs=False)
    sch.tl.compute_jacobian_elements(made.adata, [])
    assert list(made.adata.obs) == before


def test_genes_that_are_not_in_the_fit_are_refused() -> None:
    made = fit(11)
    names = used_names(made.adata)
    unused = next(name for name in made.adata.var_names if name not in names)
    with pytest.raises(
        ValueError, match=r"gene 'nothing' is not in the fit of the AnnData; genes of the fit present"
    ):
        sch.tl.compute_jacobian_elements(made.adata, [(names[0], "nothing")])
    with pytest.raises(MissingKeyError, match=f"gene '{unused}' is not in the fit"):
        sch.tl.compute_jacobian_elements(made.adata, [(unused, names[0])])
    for bad in ("g1", ["g1"], [("g1",)], [("g1", "g2", "g3")], [3]):
        with pytest.raises(UsageError, match="pair"):
            sch.tl.compute_jacobian_elements(made.adata, bad)  # type: ignore[arg-type]


# --- cells and clusters out of the ordinary -----------------------------------------------------------------


def everything(made: Fit, **options: Any) -> None:
    names = used_names(made.adata)
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True, **options)
    sch.tl.compute_jacobian_stats(made.adata)
    sch.tl.compute_jacobian_elements(made.adata, [(names[0], names[1])], **options)
    sch.tl.compute_rotational_part(made.adata, **options)


def test_cells_that_cannot_be_computed_are_nan_and_counted() -> None:
    made = fit(12, n_cells=10, labels=["A", None, "B", "A", np.nan, "B", "A", "A", "B", "B"])
    used = made.adata.var["scHopfield_used"].to_numpy()
    names = used_names(made.adata)
    made.adata.layers["Ms"][3, np.flatnonzero(used)[2]] = np.nan
    made.adata.layers["Ms"][5, np.flatnonzero(used)[0]] = np.inf
    # A gene that is not used is not looked at.
    made.adata.layers["Ms"][6, np.flatnonzero(~used)[0]] = np.nan
    with pytest.warns(
        StabdaskWarning,
        match=r"4 of 10 cells have no eigenvalues: 2 without a cluster label and 2 with .*'cell3' first",
    ):
        sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    with pytest.warns(StabdaskWarning, match="3 of 10 cells have no elements"):
        sch.tl.compute_jacobian_elements(made.adata, [(names[0], names[1])])
    with pytest.warns(StabdaskWarning, match="4 of 10 cells have no rotational part"):
        sch.tl.compute_rotational_part(made.adata)
    sch.tl.compute_jacobian_stats(made.adata)
    lost = [1, 3, 4, 5]
    kept = [cell for cell in range(10) if cell not in lost]
    assert_spectra(made, cells=kept)
    obs = made.adata.obs
    assert np.isnan(made.adata.obsm["jacobian_eigenvalues"][lost].real).all()
    assert np.isnan(made.adata.uns["jacobian_eigenvectors_temp"]["data"][lost].real).all()
    assert not np.isnan(made.adata.uns["jacobian_eigenvectors_temp"]["data"][kept].real).any()
    assert obs["jacobian_rotational"].isna().to_numpy().nonzero()[0].tolist() == lost
    for column in ("jacobian_eig1_real", "jacobian_eig1_imag", "jacobian_leading_real", "jacobian_trace"):
        assert obs[column].isna().to_numpy().nonzero()[0].tolist() == lost
    for column in ("jacobian_positive_evals", "jacobian_negative_evals"):
        assert obs[column].dtype == np.int64
        assert (obs[column] == -1).to_numpy().nonzero()[0].tolist() == lost


def test_labels_of_any_type_name_their_parameters() -> None:
    for labels, clusters in (
        ([0, 1, 1, 0], ("0", "1")),
        ([1.5, 2.5, 2.5, 1.5], ("1.5", "2.5")),
        ([True, False, False, True], ("True", "False")),
        (["../x", "_a", "_a", "../x"], ("../x", "_a")),
        ([1, "1", "b", "b"], ("1", "b")),
        (pd.array(["x", "y", "x", "y"], dtype="string"), ("x", "y")),
    ):
        made = fit(13, n_cells=4, labels=labels, clusters=clusters)
        everything(made)
        assert_spectra(made)


def test_categories_without_cells_need_no_parameters() -> None:
    made = fit(14)
    column = made.adata.obs["cell_type"].astype("category").cat.add_categories(["never"])
    made.adata.obs["cell_type"] = column
    everything(made)
    assert_spectra(made)


def test_names_of_cells_may_repeat() -> None:
    made = fit(15)
    made.adata.obs_names = ["same"] * made.adata.n_obs
    everything(made)
    assert_spectra(made)


def test_one_cell_and_thirty_clusters() -> None:
    one = fit(16, n_cells=1)
    everything(one)
    assert_spectra(one)
    many = fit(16, n_cells=60, clusters=[f"c{i}" for i in range(30)])
    everything(many)
    assert_spectra(many)


def test_no_slope_at_zero_in_the_single_activation() -> None:
    """scHopfield divides by 1 where expression is 0, so that its slope is 0 for every exponent."""
    made = fit(17, two_components=False, zeros=0.5)
    exponent = made.adata.var["sigmoid_exponent"].to_numpy().copy()
    exponent[::2] = 0.6
    exponent[1] = 1.0
    made.adata.var["sigmoid_exponent"] = exponent
    sch.tl.compute_jacobians(made.adata, activation="single")
    used = made.adata.var["scHopfield_used"].to_numpy()
    n, k = exponent[used], made.adata.var["sigmoid_threshold"].to_numpy()[used]
    s = made.x**n / (made.x**n + k**n)
    slope = n * s * (1 - s) / np.where(made.x == 0, 1.0, made.x)
    for cell, values in enumerate(made.adata.obsm["jacobian_eigenvalues"]):
        p = made.clusters[made.labels[cell]]
        J = p.W * slope[cell] - np.diag(p.gamma)
        assert match_spectra(values, np.linalg.eigvals(J)) < FLOAT32 * np.linalg.norm(J)
    with pytest.raises(InputError, match="its slope is infinite"):
        sch.tl.compute_jacobians(made.adata)


def test_what_is_missing_is_named() -> None:
    made = fit(18)
    with pytest.raises(KeyError, match=r"no layer 'MS' in the AnnData; did you mean 'Ms'\?"):
        sch.tl.compute_jacobians(made.adata, spliced_key="MS")
    with pytest.raises(
        KeyError, match=r"no column 'cell_typ' in obs of the AnnData; did you mean 'cell_type'\?"
    ):
        sch.tl.compute_rotational_part(made.adata, cluster_key="cell_typ")
    made.adata.obs["cell_type"] = ["A", "C"] * 12
    with pytest.raises(MissingKeyError, match="no 'W_C' in the AnnData for cluster 'C'"):
        sch.tl.compute_jacobians(made.adata)
    made.adata.obs["cell_type"] = np.nan
    with pytest.raises(InputError, match="no cell has a label in obs"):
        sch.tl.compute_jacobians(made.adata)
    with pytest.raises(UsageError, match="activation='both'; expected 'fitted' or 'single'"):
        sch.tl.compute_jacobians(made.adata, activation="both")
    other = fit(18).adata
    del other.varp["W_A"], other.varp["W_B"]
    with pytest.raises(MissingKeyError, match="no interaction matrix"):
        sch.tl.compute_jacobian_elements(other, [])
    other = fit(18).adata
    other.layers["Ms"] = other.layers["Ms"] > 1
    other.layers["text"] = np.full(other.shape, "x", dtype=object)
    with pytest.raises(InputError, match="layer 'text' of the AnnData has dtype object; expected numbers"):
        sch.tl.compute_jacobians(other, spliced_key="text")


def test_negative_expression_is_refused_and_nothing_is_written() -> None:
    made = fit(19)
    made.adata.layers["Ms"] -= 5.0
    with pytest.raises(InputError, match="expected values >= 0"):
        sch.tl.compute_jacobians(made.adata)
    assert list(made.adata.obsm) == ["X_umap"]


def test_without_a_gpu_a_warning_says_that_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabdask.kernels.cuda.why_not", lambda: "CuPy is not installed")
    made = fit(20)
    for compute in (sch.tl.compute_jacobians, sch.tl.compute_rotational_part):
        with pytest.warns(
            StabdaskWarning, match=r"no GPU can be used here \(CuPy is not installed\)"
        ) as caught:
            compute(made.adata, device="cuda")
        assert Path(caught[0].filename) == Path(__file__)
    assert_spectra(made)
    with pytest.raises(UsageError, match="device='tpu'; expected 'cpu' or 'cuda'"):
        sch.tl.compute_jacobians(made.adata, device="tpu")


# --- statistics ---------------------------------------------------------------------------------------------


def test_statistics_of_spectra_in_any_order() -> None:
    made = fit(21)
    values = np.array(
        [[1 - 2j, 3 + 0j, 1 + 2j, 0j], [-1, -2, -2, -3], [np.nan] * 4, [2 - 1j, 2 + 1j, -5, -6]]
    )
    adata = made.adata[:4].copy()
    adata.obsm["jacobian_eigenvalues"] = values.astype(np.complex64)
    sch.tl.compute_jacobian_stats(adata)
    obs = adata.obs
    np.testing.assert_array_equal(obs["jacobian_eig1_real"], np.float32([3, -1, np.nan, 2]))
    np.testing.assert_array_equal(obs["jacobian_eig1_imag"], np.float32([0, 0, np.nan, 1]))
    np.testing.assert_array_equal(obs["jacobian_leading_real"], np.float32([3, -1, np.nan, 2]))
    np.testing.assert_array_equal(obs["jacobian_trace"], np.float32([5, -8, np.nan, -7]))
    assert obs["jacobian_positive_evals"].tolist() == [3, 0, -1, 2]
    assert obs["jacobian_negative_evals"].tolist() == [0, 4, -1, 2]
    floats = ("eig1_real", "eig1_imag", "leading_real", "trace")
    assert all(obs[f"jacobian_{name}"].dtype == np.float32 for name in floats)


def test_statistics_need_eigenvalues(tmp_path: Path) -> None:
    made = fit(22)
    with pytest.raises(
        ValueError, match="no 'jacobian_eigenvalues' in obsm of the AnnData; run compute_jacobians first"
    ):
        sch.tl.compute_jacobian_stats(made.adata)
    sch.tl.compute_jacobians(made.adata)
    kept = sch.tl.compute_jacobian_stats(made.adata, copy=True)
    assert kept is not None
    assert "jacobian_trace" not in made.adata.obs
    sch.tl.compute_jacobian_stats(made.adata, store_in_obs=False)
    assert "jacobian_trace" not in made.adata.obs
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5")
    del made.adata.obsm["jacobian_eigenvalues"]
    sch.tl.compute_jacobian_stats(made.adata, filename=tmp_path / "j.h5")
    assert made.adata.obs.equals(kept.obs)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys; from stabdask.compat import schopfield; "
        "print(sorted({'cupy', 'distributed', 'matplotlib', 'dask', 'anndata', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
