"""Files of Jacobians and models: layout, round trips, what is refused, and what an interruption leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from compat.fits import Fit, fit, used_names
from scipy import sparse

import stabdask as sd
from stabdask.compat import schopfield as sch
from stabdask.compat.schopfield import storage
from stabdask.errors import InputError, MissingFileError, MissingKeyError, OutputError, StabdaskWarning
from stabdask.fields.schopfield import read_schopfield

Array = np.ndarray[Any, Any]


@pytest.fixture
def made() -> Fit:
    made = fit(1)
    sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True)
    return made


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Jacobians ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_jacobians_come_back(made: Fit, tmp_path: Path, compression: str | None) -> None:
    values = made.adata.obsm["jacobian_eigenvalues"]
    vectors = made.adata.uns["jacobian_eigenvectors_temp"]["data"]
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5", compression=compression)
    # They take too much memory to be kept twice.
    assert "jacobian_eigenvectors_temp" not in made.adata.uns
    del made.adata.obsm["jacobian_eigenvalues"]
    assert sch.tl.load_jacobians(made.adata, str(tmp_path / "j.h5")) is None
    np.testing.assert_array_equal(made.adata.obsm["jacobian_eigenvalues"], values)
    assert made.adata.obsm["jacobian_eigenvalues"].dtype == np.complex64
    loaded = sch.tl.load_jacobians(made.adata, tmp_path / "j.h5", load_eigenvectors=True)
    assert loaded is not None
    np.testing.assert_array_equal(loaded, vectors)
    assert loaded.dtype == np.complex64
    assert left_behind(tmp_path) == ["j.h5"]


def test_the_layout_is_that_of_scHopfield(made: Fit, tmp_path: Path) -> None:
    n_cells, n = made.adata.obsm["jacobian_eigenvalues"].shape
    values = made.adata.obsm["jacobian_eigenvalues"]
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5", cluster_key="kind")
    with h5py.File(tmp_path / "j.h5") as file:
        shapes = {name: (item.shape, item.dtype, item.compression) for name, item in file.items()}
        assert shapes == {
            "eigenvalues_real": ((n_cells, n), np.float32, "gzip"),
            "eigenvalues_imag": ((n_cells, n), np.float32, "gzip"),
            "eigenvectors_real": ((n_cells, n, n), np.float32, "gzip"),
            "eigenvectors_imag": ((n_cells, n, n), np.float32, "gzip"),
        }
        assert dict(file.attrs) == {"n_cells": n_cells, "n_genes": n, "cluster_key": "kind"}
        np.testing.assert_array_equal(file["eigenvalues_imag"], values.imag)


def test_a_file_of_scHopfield_loads_in_its_own_order(made: Fit, tmp_path: Path) -> None:
    shape = made.adata.obsm["jacobian_eigenvalues"].shape
    values = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["eigenvalues_real"], file["eigenvalues_imag"] = values[..., 0], values[..., 1]
        file.attrs.update({"n_cells": shape[0], "n_genes": shape[1], "cluster_key": "cell_type"})
    assert sch.tl.load_jacobians(made.adata, tmp_path / "theirs.h5", load_eigenvectors=True) is None
    np.testing.assert_array_equal(
        made.adata.obsm["jacobian_eigenvalues"], values[..., 0] + 1j * values[..., 1]
    )
    sch.tl.compute_jacobian_stats(made.adata)
    np.testing.assert_array_equal(made.adata.obs["jacobian_eig1_real"], values[..., 0].max(axis=1))


def test_many_small_reads_and_writes_give_the_same(
    made: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = made.adata.uns["jacobian_eigenvectors_temp"]["data"]
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 5 * 8 * vectors[0].size)
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5")
    loaded = sch.tl.load_jacobians(made.adata, tmp_path / "j.h5", load_eigenvectors=True)
    assert loaded is not None
    np.testing.assert_array_equal(loaded, vectors)


def test_eigenvectors_alone(made: Fit, tmp_path: Path) -> None:
    del made.adata.obsm["jacobian_eigenvalues"]
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5")
    assert sch.tl.load_jacobians(made.adata, tmp_path / "j.h5", load_eigenvectors=True) is not None
    assert "jacobian_eigenvalues" not in made.adata.obsm
    with pytest.raises(InputError, match="holds no eigenvalues, only eigenvectors"):
        sch.tl.compute_jacobian_stats(made.adata, filename=tmp_path / "j.h5")


def test_files_that_do_not_fit_are_refused(made: Fit, tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match="neither obsm"):
        sch.tl.save_jacobians(fit(2).adata, tmp_path / "j.h5")
    assert left_behind(tmp_path) == []
    sch.tl.save_jacobians(made.adata, tmp_path / "j.h5")
    with pytest.raises(InputError, match=r"eigenvalues_real of .* has shape \(24, 9\); expected \(23, 9\)"):
        sch.tl.load_jacobians(made.adata[1:].copy(), tmp_path / "j.h5")
    fewer = made.adata.copy()
    fewer.var.loc[used_names(fewer)[0], "scHopfield_used"] = False
    with pytest.raises(InputError, match=r"eigenvectors_real .* expected \(24, 8, 8\)"):
        sch.tl.load_jacobians(fewer, tmp_path / "j.h5", load_eigenvectors=True)
    with pytest.raises(
        FileNotFoundError, match=r"no file of Jacobians at .*none\.h5; files of that kind there: j\.h5"
    ):
        sch.tl.load_jacobians(made.adata, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        sch.tl.load_jacobians(made.adata, tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["X"] = np.zeros(3)
    with pytest.raises(InputError, match="holds neither 'eigenvalues_real' nor 'eigenvectors_real'"):
        sch.tl.load_jacobians(made.adata, tmp_path / "other.h5")
    with h5py.File(tmp_path / "half.h5", "w") as file:
        file["eigenvalues_real"] = np.zeros((24, 9))
    with pytest.raises(InputError, match=r"eigenvalues_imag of .* has shape None"):
        sch.tl.load_jacobians(made.adata, tmp_path / "half.h5")


def test_an_interrupted_write_leaves_the_old_file(
    made: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j.h5"
    sch.tl.save_jacobians(made.adata, path)
    before = path.read_bytes()
    sch.tl.compute_jacobians(made.adata, activation="single", compute_eigenvectors=True)
    monkeypatch.setattr(storage, "_write", interrupted)
    with pytest.raises(OutputError, match=r"cannot write .*j\.h5: No space left"):
        sch.tl.save_jacobians(made.adata, path)
    assert path.read_bytes() == before
    assert left_behind(tmp_path) == ["j.h5"]
    # What could not be written is not lost.
    assert "jacobian_eigenvectors_temp" in made.adata.uns


def interrupted(file: Any, name: str, values: Array, compression: str | None) -> None:
    file["eigenvalues_real"] = values.real
    raise OSError(28, "No space left on device")


# --- models -------------------------------------------------------------------------------------------------


def bare(names: list[str]) -> anndata.AnnData:
    return anndata.AnnData(np.ones((2, len(names))), var=pd.DataFrame(index=names))


def fingerprint(source: Any, **options: Any) -> str:
    return read_schopfield(source, **options).fingerprint


def test_a_model_comes_back(tmp_path: Path) -> None:
    made = fit(3)
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    other = bare(made.adata.var_names.tolist())
    sch.tl.load_model(other, str(tmp_path / "m.h5sch"))
    for activation in ("fitted", "single"):
        expected = fingerprint(made.adata, activation=activation)
        assert fingerprint(other, activation=activation) == expected
        assert fingerprint(tmp_path / "m.h5sch", activation=activation) == expected
    assert other.uns["scHopfield"] == made.adata.uns["scHopfield"]
    assert other.var["scHopfield_used"].tolist() == made.adata.var["scHopfield_used"].tolist()
    assert other.var["scHopfield_used"].dtype == bool
    for label in ("A", "B"):
        np.testing.assert_array_equal(other.varp[f"W_{label}"], made.adata.varp[f"W_{label}"])
    assert left_behind(tmp_path) == ["m.h5sch"]
    assert sd.read_field(tmp_path / "m.h5sch").clusters == ("A", "B")


def test_the_layout_of_a_model_is_that_of_scHopfield(tmp_path: Path) -> None:
    made = fit(3)
    made.adata.uns["scHopfield"] |= {"numbers": np.arange(3), "n": np.int64(3), "flag": np.bool_(False)}
    made.adata.var["sigmoid_offset"] = 0.5
    made.adata.var["note"] = "not part of the model"
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    with h5py.File(tmp_path / "m.h5sch") as file:
        assert set(file) == {"gene_names", "var", "varp"}
        assert file["gene_names"].asstr()[...].tolist() == made.adata.var_names.tolist()
        assert file.attrs["n_vars"] == made.adata.n_vars
        assert json.loads(file.attrs["clusters"]) == ["A", "B"]
        meta = {
            "spliced_key": "Ms",
            "degradation_key": "gamma",
            "sigmoid_bimodal": True,
            "n": 3,
            "flag": False,
        }
        assert json.loads(file.attrs["uns_scHopfield"]) == meta
        sigmoid = {"threshold", "exponent", "threshold2", "exponent2", "mix", "offset"}
        own = {
            "scHopfield_used",
            "I_A",
            "I_B",
            "gamma_A",
            "gamma_B",
            *(f"sigmoid_{name}" for name in sigmoid),
        }
        assert set(file["var"]) == own
        assert file["var/scHopfield_used"].dtype == bool
        assert set(file["varp"]) == {"W_A", "W_B"}


def test_other_genes_get_zeros_and_are_not_used(tmp_path: Path) -> None:
    made = fit(4)
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    names = ["x1", *made.adata.var_names[::-1], "x2"]
    other = bare(names)
    sch.tl.load_model(other, tmp_path / "m.h5sch")
    assert other.shape == (2, len(names))
    assert sorted(used_names(other)) == sorted(used_names(made.adata))
    for key in ("sigmoid_threshold", "I_A", "gamma_B"):
        assert other.var.loc[["x1", "x2"], key].tolist() == [0.0, 0.0]
        pd.testing.assert_series_equal(
            other.var[key].drop(["x1", "x2"])[::-1], made.adata.var[key], check_index=True
        )
    W = pd.DataFrame(other.varp["W_A"], index=names, columns=names)
    assert isinstance(other.varp["W_A"], np.ndarray)
    assert not W.loc[["x1", "x2"]].to_numpy().any()
    assert not W[["x1", "x2"]].to_numpy().any()
    own = made.adata.var_names
    np.testing.assert_array_equal(W.loc[own, own], made.adata.varp["W_A"])
    # The same Jacobians, of cells that hold the genes in another order.
    cells = anndata.AnnData(
        obs=made.adata.obs[["cell_type"]], var=other.var, varp=dict(other.varp), uns=other.uns
    )
    x = made.adata.to_df("Ms").reindex(columns=names, fill_value=1.0).to_numpy()
    cells.layers["Ms"] = x
    sch.tl.compute_jacobians(cells)
    sch.tl.compute_jacobians(made.adata)
    np.testing.assert_allclose(
        cells.obsm["jacobian_eigenvalues"], made.adata.obsm["jacobian_eigenvalues"], rtol=1e-4, atol=1e-4
    )


def test_rates_shared_by_clusters_are_in_the_file(tmp_path: Path) -> None:
    made = fit(5)
    expected = fingerprint(made.adata)
    made.adata.var["rate"] = made.adata.var.pop("gamma_B")
    made.adata.uns["scHopfield"]["degradation_key"] = "rate"
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    assert fingerprint(tmp_path / "m.h5sch") == expected


@pytest.mark.parametrize("cut_to_used", [False, True])
def test_thresholds_of_each_cluster_come_back(tmp_path: Path, cut_to_used: bool) -> None:
    made = fit(6, clusters=("A", "b/c"))
    n = len(used_names(made.adata)) if cut_to_used else made.adata.n_vars
    rng = np.random.default_rng(0)
    hill = {label: {"k": rng.uniform(1, 2, n), "n": rng.uniform(1, 4, n)} for label in ("A", "b/c")}
    made.adata.uns["scHopfield"]["hill_params"] = hill
    expected = fingerprint(made.adata)
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    other = bare(["first", *made.adata.var_names])
    sch.tl.load_model(other, tmp_path / "m.h5sch")
    assert fingerprint(other) == fingerprint(tmp_path / "m.h5sch") == expected
    del made.adata.uns["scHopfield"]["hill_params"]
    assert fingerprint(made.adata) != expected


def test_sparse_interactions_are_written_densely(tmp_path: Path) -> None:
    made = fit(7)
    expected = fingerprint(made.adata)
    for label in ("A", "B"):
        made.adata.varp[f"W_{label}"] = sparse.csr_matrix(made.adata.varp[f"W_{label}"])
    sch.tl.save_model(made.adata, tmp_path / "m.h5sch")
    with h5py.File(tmp_path / "m.h5sch") as file:
        assert file["varp/W_A"].shape == (made.adata.n_vars,) * 2
    assert fingerprint(tmp_path / "m.h5sch") == expected


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "m.h5sch"
    made, newer = fit(8), fit(9)
    sch.tl.save_model(made.adata, path)
    before = path.read_bytes()
    with pytest.warns(
        StabdaskWarning, match=r"m\.h5sch exists and was left alone; overwrite=True replaces it"
    ) as caught:
        sch.tl.save_model(newer.adata, path)
    assert Path(caught[0].filename) == Path(__file__)
    assert path.read_bytes() == before
    sch.tl.save_model(newer.adata, path, overwrite=True)
    assert fingerprint(path) == fingerprint(newer.adata)
    expected = fingerprint(made.adata)
    with pytest.warns(
        StabdaskWarning, match="the AnnData has a fitted model, which was left alone"
    ) as caught:
        sch.tl.load_model(made.adata, path)
    assert Path(caught[0].filename) == Path(__file__)
    assert fingerprint(made.adata) == expected


def test_nothing_of_an_old_model_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.h5sch"
    new = fit(10, clusters=("A",), two_components=False)
    for key in ("sigmoid_threshold2", "sigmoid_exponent2", "sigmoid_mix"):
        del new.adata.var[key]
    sch.tl.save_model(new.adata, path)
    old = fit(11, clusters=("A", "B", "C"))
    old.adata.uns["scHopfield"]["hill_params"] = {"A": {"k": np.ones(12), "n": np.ones(12) * 2}}
    old.adata.var["note"] = "stays"
    sch.tl.load_model(old.adata, path, overwrite=True)
    assert sorted(old.adata.varp) == ["W_A"]
    assert not {"I_B", "gamma_C", "sigmoid_mix"} & set(old.adata.var)
    assert "hill_params" not in old.adata.uns["scHopfield"]
    assert "note" in old.adata.var
    assert "gamma" in old.adata.var
    assert fingerprint(old.adata) == fingerprint(new.adata)


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = fit(12)
    path = tmp_path / "m.h5sch"
    with pytest.raises(ValueError, match="no interaction matrix 'W_<cluster>' in varp of the AnnData"):
        sch.tl.save_model(bare(["a"]), path)
    assert left_behind(tmp_path) == []
    sch.tl.save_model(made.adata, path)
    with pytest.raises(MissingFileError, match="no checkpoint at"):
        sch.tl.load_model(bare(["a"]), tmp_path / "none.h5sch")
    few = bare(made.adata.var_names[1:].tolist())
    with pytest.raises(ValueError, match=r"the AnnData lacks 1 of the 12 genes of m\.h5sch, 'g0' first"):
        sch.tl.load_model(few, path)
    assert list(few.varp) == []
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        twice = bare([*made.adata.var_names, "g0"])
    with pytest.raises(InputError, match="gene names repeat in the AnnData"):
        sch.tl.load_model(twice, path)
    with h5py.File(path, "a") as file:
        del file["varp/W_A"]
        file["varp/W_A"] = np.zeros((3, 3))
    with pytest.raises(InputError, match=r"'W_A' of m\.h5sch has shape \(3, 3\); expected \(12, 12\)"):
        sch.tl.load_model(bare(made.adata.var_names.tolist()), path)
    for labels, refused in ((("a", "a/b"), "'a/b' beside 'a'"), (("a//b",), "'a//b'"), (("./b",), "'./b'")):
        with pytest.raises(InputError, match=f"cluster {refused} cannot be a name in an HDF5 file"):
            sch.tl.save_model(fit(12, clusters=labels).adata, tmp_path / "clash.h5sch")
    text = fit(12)
    text.adata.var["I_A"] = "x"
    with pytest.raises(InputError, match="column 'I_A' of the AnnData is not numeric"):
        sch.tl.save_model(text.adata, tmp_path / "text.h5sch")
    assert left_behind(tmp_path) == ["m.h5sch"]
