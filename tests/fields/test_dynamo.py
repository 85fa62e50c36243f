"""dynamo's fields out of AnnData: every container and layout, what is refused and how, dynamo's own numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import frobenius, random_field, shared_data
from small_rkhs import SmallRkhs, small_rkhs

import stabdask as sd
from stabdask.cli.main import main
from stabdask.errors import InputError, MissingKeyError, StabdaskError, StabdaskWarning, UsageError
from stabdask.fields.dynamo import fitted_fields, fitted_points, read_dynamo, sparse_vfc
from stabdask.fields.parameter_source import AnnDataSource
from stabdask.fields.rkhs import RKHSField

Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data"),
    pytest.mark.filterwarnings("error::stabdask.errors.StabdaskWarning"),
]

OTHERS = 5
"""Genes of the AnnData that the PCA was not made of; they lie among the others."""
CASE = small_rkhs(1)
DELETED = object()


def fitted(
    case: SmallRkhs = CASE,
    *,
    var: dict[str, Any] | None = None,
    uns: dict[str, Any] | None = None,
    **fit: Any,
) -> anndata.AnnData:
    """Return an AnnData as dynamo leaves it, with changes; the genes of the PCA are in the order of their names."""
    n = len(case.genes) + OTHERS
    used = np.zeros(n, dtype=bool)
    used[np.sort(np.random.default_rng(2).choice(n, len(case.genes), replace=False))] = True
    names = np.array([f"other{i}" for i in range(n)], dtype=object)
    names[used] = case.genes
    adata = anndata.AnnData(
        np.zeros((len(case.x), n), dtype=np.float32),
        var=pd.DataFrame({"use_for_pca": used, "use_for_dynamics": used}, index=names),
    )
    adata.obsm["X_pca"] = case.x.copy()
    adata.uns["PCs"] = case.loadings
    adata.uns["VecFld_pca"] = {
        "X": case.x.copy(), "Y": case.velocity(case.x), "X_ctrl": case.centers, "C": case.coefficients,
        "beta": np.float64(case.beta), "method": "SparseVFC", "normalize": False, "grid": None, "iteration": 3,
    }  # fmt: skip
    change(adata.uns["VecFld_pca"], fit)
    change(adata.uns, uns or {})
    for key, values in (var or {}).items():
        if values is DELETED:
            del adata.var[key]
        else:
            adata.var[key] = values
    return adata


def change(mapping: Any, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is DELETED:
            del mapping[key]
        else:
            mapping[key] = value


def over_genes(**fit: Any) -> anndata.AnnData:
    """Return an AnnData with a field fitted to genes directly, as ``VectorField(basis=None)`` leaves it."""
    case = small_rkhs(1, basis=None)
    adata = fitted(case, uns={"PCs": DELETED, "VecFld_pca": DELETED})
    adata.var = adata.var.rename(columns={"use_for_pca": "use_for_transition"})
    adata.uns["VecFld"] = {
        "X": np.expm1(case.x), "X_ctrl": case.centers, "C": case.coefficients, "beta": case.beta,
        "method": "SparseVFC", "layer": "X", "genes": None, "velocity_key": "velocity_S",
    }  # fmt: skip
    change(adata.uns["VecFld"], fit)
    return adata


@pytest.fixture(params=["memory", "view", "backed", "h5ad", "zarr"])
def contain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[anndata.AnnData], Any]]:
    """Give a function that puts an AnnData into a container."""
    opened, numbers = [], count()

    def put(adata: anndata.AnnData) -> Any:
        if request.param == "memory":
            return adata
        if request.param == "view":
            return adata[:, :]
        path = tmp_path / f"fit{next(numbers)}.{'zarr' if request.param == 'zarr' else 'h5ad'}"
        if request.param == "zarr":
            adata.write_zarr(path)
        else:
            adata.write_h5ad(path)
        if request.param == "backed":
            opened.append(anndata.read_h5ad(path, backed="r"))
            return opened[-1]
        return path

    yield put
    for adata in opened:
        adata.file.close()


def flags(n_true: int, n: int = len(CASE.genes) + OTHERS) -> Array:
    return np.arange(n) < n_true


# --- what is read ------------------------------------------------------------------------------------------


def test_every_container_holds_the_same_field(contain: Callable[[anndata.AnnData], Any]) -> None:
    source = contain(fitted())
    field = RKHSField.from_anndata(source)
    assert field.fingerprint == CASE.field.fingerprint
    assert field.genes.tolist() == CASE.genes
    np.testing.assert_array_equal(field.centers, CASE.centers)
    np.testing.assert_array_equal(field.loadings, CASE.loadings)
    np.testing.assert_array_equal(fitted_points(source, "pca"), CASE.x)
    if isinstance(source, Path):
        assert sd.read_field(source).fingerprint == field.fingerprint
        assert sd.read_field(str(source), kind="rkhs", basis="pca").fingerprint == field.fingerprint


def test_expression_and_other_results_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "fit.h5ad"
    fitted().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        # What nobody could read would be noticed.
        for name in ("X", "uns/VecFld_pca/Y", "uns/VecFld_pca/iteration"):
            del file[name]
            file.create_group(name).attrs.update({"encoding-type": "of tomorrow", "encoding-version": "9"})
        file["uns"].create_dataset("topography", data=np.void(b"\x80\x04pickle"))
    assert sd.read_field(path).fingerprint == CASE.field.fingerprint


@pytest.mark.parametrize(
    "fit",
    [
        {"method": DELETED},
        {"method": "sparsevfc"},
        {"method": b"SparseVFC"},
        {"method": np.array("SparseVFC", dtype=object)},
        {"normalize": DELETED},
        {"normalize": np.bool_(False)},
        {"normalize": None, "div_cur_free_kernels": False},
        {"beta": CASE.beta},
        {"beta": np.array(CASE.beta)},
        {"beta": np.array([CASE.beta])},
        {"X": DELETED, "Y": DELETED},
        {"dims": None},
        {"dims": 4},
        {"dims": [0, 1, 2, 3]},
        {"dims": np.arange(4)},
        {"X_ctrl": CASE.centers.tolist()},
        {"C": np.asfortranarray(CASE.coefficients).astype(object)},
    ],
)
def test_what_says_the_same(fit: dict[str, Any]) -> None:
    assert read_dynamo(fitted(**fit)).fingerprint == CASE.field.fingerprint


def test_the_old_name(contain: Callable[[anndata.AnnData], Any]) -> None:
    adata = fitted()
    adata.uns["VecFld"] = adata.uns.pop("VecFld_pca")
    source = contain(adata)
    assert read_dynamo(source).fingerprint == CASE.field.fingerprint
    np.testing.assert_array_equal(fitted_points(source), CASE.x)
    # Where there are both, the one that says its basis.
    both = fitted()
    both.uns["VecFld"] = {**both.uns["VecFld_pca"], "beta": 7.0}
    assert read_dynamo(both).beta == CASE.beta
    assert fitted_fields(AnnDataSource(both)) == ("VecFld", "VecFld_pca")


def test_points_of_a_fit_that_kept_none() -> None:
    assert fitted_points(fitted(X=DELETED)) is None
    with pytest.raises(InputError, match="is no table of numbers"):
        fitted_points(fitted(X=np.full((3, 2), "x")))
    with pytest.raises(MissingKeyError, match="no 'VecFld_umap' in uns; there is one for basis='pca'"):
        fitted_points(fitted(), "umap")


# --- rows of the loadings, by name -------------------------------------------------------------------------


def test_dynamics_may_be_a_subset_of_the_pca() -> None:
    """All genes of the PCA are kept, and rows of Q are theirs, however many have dynamics."""
    adata = fitted()
    dynamics = np.zeros(adata.n_vars, dtype=bool)
    dynamics[np.flatnonzero(adata.var["use_for_pca"])[[1, 4, 5]]] = True
    adata.var["use_for_dynamics"] = dynamics
    field = read_dynamo(adata)
    assert field.genes.tolist() == CASE.genes
    assert field.loadings is not None
    chosen = adata.var_names[dynamics].tolist()
    rows = [field.genes.tolist().index(gene) for gene in chosen]
    assert CASE.loadings is not None
    np.testing.assert_array_equal(field.loadings[rows], CASE.loadings[[1, 4, 5]])


@pytest.mark.parametrize(
    "var",
    [
        {"use_for_dynamics": DELETED},
        {"use_for_dynamics": False},
        {"use_for_pca": DELETED},
        {"use_for_pca": True},
        {"use_for_pca": False},
    ],
)
def test_the_mask_that_has_as_many(var: dict[str, Any]) -> None:
    assert read_dynamo(fitted(var=var)).fingerprint == CASE.field.fingerprint


def test_masks_in_words(contain: Callable[[anndata.AnnData], Any]) -> None:
    adata = fitted(var={"use_for_dynamics": DELETED})
    adata.var["use_for_pca"] = np.where(adata.var["use_for_pca"], "True", "False")
    assert read_dynamo(contain(adata)).fingerprint == CASE.field.fingerprint
    adata.var["use_for_pca"] = [None, *adata.var["use_for_pca"].tolist()[1:]]
    with pytest.raises(InputError, match=r"var\['use_for_pca'\].* holds .*; expected booleans"):
        read_dynamo(adata)


def test_genes_without_masks() -> None:
    adata = fitted(var={"use_for_dynamics": DELETED, "use_for_pca": DELETED})
    only = adata[:, CASE.genes].copy()
    assert read_dynamo(only).fingerprint == CASE.field.fingerprint
    with pytest.raises(InputError, match=r"12 rows, .* but no column marks of the 17 genes there are now"):
        read_dynamo(adata)


def test_two_masks_that_differ() -> None:
    adata = fitted()
    adata.var["use_for_dynamics"] = adata.var["use_for_pca"].to_numpy()[::-1]
    message = (
        r"uns\['PCs'\] of the AnnData has 12 rows, and var\['use_for_pca'\] and var\['use_for_dynamics'\] mark as many "
        "genes, but not the same: .* Name the genes of its rows with genes="
    )
    with pytest.raises(InputError, match=message):
        read_dynamo(adata)
    assert read_dynamo(adata, genes=CASE.genes).fingerprint == CASE.field.fingerprint


def test_genes_removed_after_the_fit(contain: Callable[[anndata.AnnData], Any]) -> None:
    source = contain(fitted()[:, 3:].copy())
    with pytest.raises(
        InputError, match=r"has 12 rows, .* marks \d+.* genes were removed or chosen anew since"
    ):
        read_dynamo(source)
    # Names that the AnnData no longer has are names all the same.
    assert read_dynamo(source, genes=CASE.genes).fingerprint == CASE.field.fingerprint
    assert read_dynamo(source, Qkey=None).loadings is None


def test_cells_removed_after_the_fit_do_not_matter() -> None:
    with pytest.warns(StabdaskWarning, match="fitted to other points"):
        assert read_dynamo(fitted()[::3].copy()).fingerprint == CASE.field.fingerprint


def test_names_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"genes= names 3 genes, but .* has 12 rows"):
        read_dynamo(fitted(), genes=["a", "b", "c"])
    with pytest.raises(InputError, match="gene names repeat"):
        read_dynamo(fitted(), genes=["a"] * 12)
    with pytest.raises(UsageError, match="the basis 'pca' is read without; give Qkey="):
        read_dynamo(fitted(), genes=CASE.genes, Qkey=None)


@pytest.mark.parametrize("rest", [0.0, np.nan])
def test_loadings_of_every_gene(contain: Callable[[anndata.AnnData], Any], rest: float) -> None:
    """In varm there is a row for each gene; those outside the PCA have zeros, as scanpy has it, or nothing."""
    adata = fitted(uns={"PCs": DELETED})
    whole = np.full((adata.n_vars, 4), rest)
    whole[adata.var["use_for_pca"]] = CASE.loadings
    adata.varm["PCs"] = whole
    # Masks have no say here.
    adata.var["use_for_pca"] = flags(2)
    source = contain(adata)
    assert read_dynamo(source).fingerprint == CASE.field.fingerprint
    with pytest.raises(UsageError, match="one row for each gene of the AnnData; leave genes= out"):
        read_dynamo(source, genes=CASE.genes)


def test_loadings_with_holes() -> None:
    adata = fitted(uns={"PCs": DELETED})
    adata.varm["PCs"] = np.where(np.eye(adata.n_vars, 4) > 0, np.nan, 0.5)
    with pytest.raises(InputError, match="loadings hold 4 values that are not finite"):
        read_dynamo(adata)


def test_columns_of_the_loadings() -> None:
    """A field of fewer axes than there are components is one of the first."""
    wide = np.linalg.qr(np.hstack([CASE.loadings, np.random.default_rng(0).normal(size=(12, 3))]))[0]
    field = read_dynamo(fitted(uns={"PCs": wide}))
    np.testing.assert_array_equal(field.loadings, wide[:, :4])
    with pytest.raises(InputError, match="has 3 columns, but the field has 4 axes"):
        read_dynamo(fitted(uns={"PCs": wide[:, :3]}))
    for wrong in (wide[:, 0], "PCs", [[1.0], [2.0, 3.0]]):
        with pytest.raises(InputError, match=r"uns\['PCs'\] of the AnnData"):
            read_dynamo(fitted(uns={"PCs": wrong}))


def test_loadings_that_are_not_orthonormal() -> None:
    assert CASE.loadings is not None
    skewed = CASE.loadings * [1.0, 1.0, 1.0 + 1e-5, 1.0]
    with pytest.warns(StabdaskWarning, match=r"not orthonormal over its 12 genes \(off by 2.0e-05\)"):
        field = read_dynamo(fitted(uns={"PCs": skewed}))
    np.testing.assert_array_equal(field.loadings, skewed)
    # Rounding to single precision is none of that.
    read_dynamo(fitted(uns={"PCs": CASE.loadings.astype(np.float32)}))
    read_dynamo(fitted(uns={"PCs": CASE.loadings * (1 + 1e-7)}))


def test_where_loadings_are_looked_for() -> None:
    with pytest.raises(
        MissingKeyError, match=r"no loadings 'PCz' in uns or varm; did you mean 'PCs'.* Qkey=None"
    ):
        read_dynamo(fitted(), Qkey="PCz")
    with pytest.raises(MissingKeyError, match="no loadings 'PCs' in uns or varm; there are no such keys"):
        read_dynamo(fitted(uns={"PCs": DELETED}))
    flat = read_dynamo(fitted(uns={"PCs": DELETED}), Qkey=None)
    assert flat.loadings is None
    assert flat.genes.tolist() == ["pca_1", "pca_2", "pca_3", "pca_4"]
    # Of two, that in uns, as dynamo has it.
    adata = fitted()
    adata.varm["PCs"] = np.eye(adata.n_vars, 4)
    assert read_dynamo(adata).fingerprint == CASE.field.fingerprint


def test_other_embeddings_have_no_loadings_unless_named() -> None:
    adata = fitted()
    adata.uns["VecFld_umap"] = adata.uns["VecFld_pca"]
    field = read_dynamo(adata, basis="umap")
    assert (field.loadings, field.basis, field.obsm) == (None, "umap", "X_umap")
    assert field.genes.tolist() == ["umap_1", "umap_2", "umap_3", "umap_4"]
    adata.uns["ICs"] = CASE.loadings
    assert read_dynamo(adata, basis="umap", Qkey="ICs").genes.tolist() == CASE.genes
    with pytest.raises(UsageError, match="the basis 'umap' is read without"):
        read_dynamo(adata, basis="umap", genes=CASE.genes)


@pytest.mark.parametrize("dims", [[0, 2, 3, 5], [1, 2, 3, 4], [3, 2, 1, 0]])
def test_columns_that_are_not_the_first(contain: Callable[[anndata.AnnData], Any], dims: list[int]) -> None:
    """dynamo would lift such a field by the loadings of other components."""
    with pytest.raises(InputError, match=rf"fitted to the columns \{dims}.*; expected the first 4"):
        read_dynamo(contain(fitted(dims=dims)))


def test_one_column_that_is_not_the_first(contain: Callable[[anndata.AnnData], Any]) -> None:
    fit = {"X_ctrl": CASE.centers[:, :1], "C": CASE.coefficients[:, :1]}
    with pytest.raises(InputError, match=r"fitted to the columns \[2\].*; expected the first 1"):
        read_dynamo(contain(fitted(dims=[2], X=DELETED, **fit)))
    assert read_dynamo(contain(fitted(dims=1, X=DELETED, **fit))).largest_core == 1


# --- fields over genes -------------------------------------------------------------------------------------


def test_a_field_over_genes(contain: Callable[[anndata.AnnData], Any]) -> None:
    source = contain(over_genes())
    with pytest.warns(StabdaskWarning, match=r"undoes the logarithm of the layer \(here 'X'\)"):
        field = read_dynamo(source, basis=None)
    assert field.fingerprint == small_rkhs(1, basis=None).field.fingerprint
    assert field.axes.tolist() == ["g00", "g01", "g02", "g03"]
    with pytest.raises(MissingKeyError, match="no 'VecFld_pca' in uns; there is one for basis=None"):
        read_dynamo(source)


def test_genes_of_a_field_over_genes() -> None:
    names = ["a", "b", "c", "d"]
    with pytest.warns(StabdaskWarning, match="undoes the logarithm"):
        assert read_dynamo(over_genes(genes=names), basis=None, genes=names).axes.tolist() == names
    with pytest.raises(
        InputError, match=r"does not keep the order it puts them in; .* 'velocity_S_SparseVFC'"
    ):
        read_dynamo(over_genes(genes=names), basis=None)
    with pytest.raises(InputError, match="needs their names; found 2"):
        read_dynamo(over_genes(), basis=None, genes=["a", "b"])
    fewer = over_genes()
    fewer.var["use_for_transition"] = flags(3, fewer.n_vars)
    with pytest.raises(
        InputError, match=r"of 4 genes, but var\['use_for_transition'\] marks 3: genes were removed"
    ):
        read_dynamo(fewer, basis=None)
    del fewer.var["use_for_transition"]
    with pytest.raises(MissingKeyError, match=r"no var\['use_for_transition'\], which marks the 4 genes"):
        read_dynamo(fewer, basis=None)
    old = fitted()
    old.uns["VecFld"] = old.uns.pop("VecFld_pca")
    with pytest.raises(InputError, match=r"does not say that it is a field over genes; .*genes=.*basis="):
        read_dynamo(old, basis=None)
    assert read_dynamo(old, basis=None, genes=names).basis is None


# --- what is no such field ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        ({"method": "dynode"}, InputError, "was fitted by 'dynode'; expected 'SparseVFC'"),
        (
            {"normalize": True},
            InputError,
            "was fitted with normalize=True.*; fit it again with normalize=False",
        ),
        (
            {"normalize": True, "C": DELETED, "X_ctrl": DELETED, "beta": DELETED},
            InputError,
            "was fitted with normalize=True",
        ),
        (
            {"div_cur_free_kernels": True, "C": np.ones((60, 1)), "sigma": 0.8, "eta": 0.5},
            InputError,
            "divergence-free and curl-free kernels .* not supported",
        ),
        (
            {"C": DELETED},
            MissingKeyError,
            "has no 'C'; expected control points 'X_ctrl'.* found 'X_ctrl', 'beta'",
        ),
        ({"C": None, "beta": None}, MissingKeyError, "has no 'C', 'beta'"),
        ({"C": np.ones((15, 3))}, InputError, r"centers have shape \(15, 4\) and coefficients \(15, 3\)"),
        ({"C": np.ones(15)}, InputError, r"'C' of uns\['VecFld_pca'\] of the AnnData has shape \(15,\)"),
        ({"X_ctrl": [["a", "b"]]}, InputError, r"'X_ctrl' of uns\['VecFld_pca'\] .* is no table of numbers"),
        ({"X_ctrl": [{"z": 1}]}, InputError, r"'X_ctrl' of uns\['VecFld_pca'\] .* is no table of numbers"),
        ({"beta": [1.0, 2.0]}, InputError, "beta is .*; expected one number"),
        ({"beta": -1.0}, InputError, "beta is -1.0; expected a finite number above zero"),
    ],
)
def test_fits_of_another_kind(fit: dict[str, Any], error: type[StabdaskError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_dynamo(fitted(**fit))


def test_a_fit_as_a_mapping() -> None:
    given = {"X_ctrl": CASE.centers, "C": CASE.coefficients, "beta": CASE.beta}
    assert sparse_vfc(given, "a fit") == (CASE.centers, CASE.coefficients, CASE.beta)
    with pytest.raises(MissingKeyError, match=r"a fit has no .*found nothing"):
        sparse_vfc({}, "a fit")


def test_no_field_at_all(contain: Callable[[anndata.AnnData], Any]) -> None:
    source = contain(fitted(uns={"VecFld_pca": DELETED}))
    with pytest.raises(MissingKeyError, match="no vector field of dynamo: no 'VecFld_pca' in uns; fit one"):
        read_dynamo(source)
    if isinstance(source, Path):
        with pytest.raises(
            MissingKeyError, match=r"holds no fitted field: it has neither .*'W_<cluster>'.*VecFld"
        ):
            sd.read_field(source)


def test_names_are_no_paths(contain: Callable[[anndata.AnnData], Any]) -> None:
    source = contain(fitted())
    for basis in ("pca/X_ctrl", "../../X", "pca/../VecFld_pca", ""):
        with pytest.raises(MissingKeyError, match=r"no 'VecFld_.*' in uns; there is one for basis='pca'"):
            read_dynamo(source, basis=basis)
    with pytest.raises(MissingKeyError, match="no loadings 'VecFld_pca/C'"):
        read_dynamo(source, Qkey="VecFld_pca/C")


# --- which of two fits -------------------------------------------------------------------------------------


def both_fits() -> anndata.AnnData:
    adata = fitted()
    drawn = random_field(7, n_genes=adata.n_vars, two_components=False).field
    adata.var_names = drawn.genes.tolist()
    drawn.to_anndata(adata)
    return adata


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_an_anndata_with_two_fits(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"fit.{container}"
    adata = both_fits()
    adata.write_h5ad(path) if container == "h5ad" else adata.write_zarr(path)
    message = (
        r"a fit of scHopfield \('W_.*' in varp\) and a vector field of dynamo \('VecFld_pca' in uns\); choose"
    )
    with pytest.raises(InputError, match=message):
        sd.read_field(path)
    assert sd.read_field(path, kind="hopfield").kind == "hopfield"
    assert sd.read_field(path, kind="rkhs").kind == "rkhs"
    with pytest.raises(UsageError, match="kind='spline'; expected 'hopfield' or 'rkhs'"):
        sd.read_field(path, kind="spline")  # type: ignore[call-overload]
    saved = sd.read_field(path, kind="rkhs").save(tmp_path / "saved.zarr")
    with pytest.raises(InputError, match="a saved field takes no options, found basis, kind"):
        sd.read_field(saved, kind="rkhs", basis="pca")


def test_a_checkpoint_holds_no_field_of_dynamo(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "fit.h5sch", "w") as file:
        file["gene_names"] = ["a", "b"]
        file.create_group("var")
        file.create_group("varp")
    with pytest.raises(MissingKeyError, match=r"fit\.h5sch has no vector field of dynamo"):
        sd.read_field(tmp_path / "fit.h5sch", kind="rkhs")


# --- the command line --------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_show_and_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit, saved = tmp_path / "fit.h5ad", tmp_path / "field.zarr"
    fitted().write_h5ad(fit)
    assert "would write" in run(capsys, "field", "convert", fit, saved, "--dry-run")
    assert not saved.exists()
    run(capsys, "field", "convert", fit, saved)
    assert sd.read_field(saved).fingerprint == CASE.field.fingerprint
    facts = json.loads(run(capsys, "field", "show", saved, "--json"))
    assert facts["loadings_off_orthonormal"] < 1e-14
    assert {key: facts[key] for key in facts if key not in ("field", "loadings_off_orthonormal")} == {
        "kind": "rkhs", "fingerprint": CASE.field.fingerprint, "n_genes": 12, "n_regulators": 12, "largest_core": 4,
        "clusters": {}, "basis": "pca", "n_axes": 4, "n_control_points": 15, "beta": 0.4,
        "kernel_width": pytest.approx(1.118034), "n_loadings": 12,
    }  # fmt: skip
    shown = run(capsys, "field", "show", fit)
    assert (
        f"rkhs field over 4 axes of 'pca', cores up to 4 x 4, fingerprint {CASE.field.fingerprint}" in shown
    )
    assert "0.4  (kernels 1.118 wide)" in shown
    assert "12 genes, orthonormal to " in shown
    assert "none: results are over the axes alone" in run(capsys, "field", "show", fit, "--loadings", "none")


def test_which_field_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, genes, names = tmp_path / "both.h5ad", tmp_path / "genes.h5ad", tmp_path / "names.txt"
    both_fits().write_h5ad(both)
    names.write_text("\n".join(CASE.genes) + "\n\n")
    assert "holds a fit of scHopfield" in run(capsys, "field", "show", both, code=3)
    assert "hopfield field, 17 genes" in run(capsys, "field", "show", both, "--kind", "hopfield")
    assert "rkhs field over 4 axes" in run(capsys, "field", "show", both, "--kind", "rkhs")
    # What only fields of dynamo have says which is meant.
    assert "rkhs field over 4 axes" in run(capsys, "field", "show", both, "--basis", "pca")
    arguments = ("field", "show", both, "--gene-names", names, "--json")
    assert json.loads(run(capsys, *arguments))["fingerprint"] == CASE.field.fingerprint
    message = run(capsys, "field", "show", both, "--kind", "hopfield", "--basis", "pca", code=2)
    assert "are of fields of dynamo" in message
    message = run(capsys, "field", "show", both, "--gene-names", tmp_path / "none.txt", code=2)
    assert "none.txt cannot be read" in message
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabdaskWarning)
        over_genes().write_h5ad(genes)
        shown = run(capsys, "field", "show", genes, "--basis", "genes")
    assert "rkhs field over 4 genes" in shown
    assert "none needed" in shown


# --- dynamo's own numbers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> tuple[RKHSField, Any]:
    return read_dynamo(shared_data("dynamo_pca.h5ad")), np.load(shared_data("dynamo_pca.npz"))


def test_jacobians_are_those_of_dynamo(reference: tuple[RKHSField, Any]) -> None:
    field, z = reference
    assert field.genes.tolist() == z["var_names"].tolist()
    J = z["jacobian"].transpose(2, 0, 1)
    cells = np.arange(len(J))
    part = field.linearize(z["X_pca"], 0)
    for found in (field.jacobian(z["X_pca"]), part.cores(cells)):
        assert (frobenius(found - J) < 1e-10 * frobenius(J)).all()
        # Agreement is that of rounding.
        assert (frobenius(found - J) < 1e-12 * frobenius(J)).all()
    single = field.jacobian(z["X_pca"], dtype="float32")
    # Coefficients up to 20 nearly cancel here: so do their digits.
    assert (frobenius(single - J) < 5e-5 * frobenius(J)).all()
    numerical = field.jacobian(z["X_pca"][:40], method="numerical")
    assert (frobenius(numerical - J[:40]) < 1e-7 * frobenius(J[:40])).all()


def test_elements_between_genes_are_those_of_dynamo(reference: tuple[RKHSField, Any]) -> None:
    field, z = reference
    genes = field.genes.tolist()
    effectors, regulators = (np.array([genes.index(g) for g in z[n]]) for n in ("effectors", "regulators"))
    expected = z["jacobian_gene"].transpose(2, 0, 1)
    assert expected.dtype == np.float32
    part = field.linearize(z["X_pca"], 0)
    found = part.block(np.arange(len(expected)), effectors, regulators)
    # Each element of dynamo's is rounded to single precision.
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-12)
    pairs = part.elements(effectors[[0, 3]], regulators[[7, 19]])
    np.testing.assert_allclose(pairs, expected[:, [0, 3], [7, 19]], rtol=2e-7, atol=1e-12)


def test_vector_calculus_is_that_of_dynamo(reference: tuple[RKHSField, Any]) -> None:
    field, z = reference
    part = field.linearize(z["X_pca"], 0)
    logs, signs = part.core_determinant()
    np.testing.assert_allclose(signs * np.exp(logs), z["jacobian_det_pca"], rtol=1e-9)
    np.testing.assert_allclose(part.trace(), z["divergence_pca"], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(part.velocity(), z["vf_V"], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(part.speed(), z["speed_pca"], rtol=1e-10)
    np.testing.assert_allclose(part.acceleration(), z["acceleration_pca"], rtol=1e-9, atol=1e-12)


def test_the_reference_is_read_as_it_was_fitted(reference: tuple[RKHSField, Any]) -> None:
    field, z = reference
    np.testing.assert_array_equal(fitted_points(shared_data("dynamo_pca.h5ad")), z["vf_X"])
    np.testing.assert_array_equal(field.centers, z["vf_X_ctrl"])
    np.testing.assert_array_equal(field.coefficients, z["vf_C"])
    assert field.beta == float(z["vf_beta"])
    np.testing.assert_array_equal(field.loadings, z["PCs"])
