"""Reading and writing scHopfield's keys: every container, every layout, and what is refused and how."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import RandomField, random_field
from scipy import sparse

from stabdask.errors import InputError, MissingFileError, MissingKeyError
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldCluster, HopfieldField
from stabdask.fields.schopfield import read_schopfield, write_schopfield

Array = np.ndarray[Any, Any]

N = 6
GENES = ["Gata1", "Spi1", "Klf1", "Cebpa", "Fli1", "Gfi1"]
USED = np.array([True, True, False, True, True, True])
LABELS = ("Ery", "Mye loid")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Writing zarr v2 data",
    "ignore:zarr v3 autosharding",
    "ignore:Consolidated metadata is currently not part",
    "ignore:Forward slashes will be disallowed",
    "ignore:Element .* was written without encoding metadata",
)


def parameters(label: str, seed: int = 0) -> dict[str, Array]:
    """Return dense parameters over all genes: Klf1 is not used, Gfi1 does not regulate."""
    rng = np.random.default_rng([seed, *label.encode()])
    W = rng.normal(size=(N, N))
    W[:, 5] = 0.0
    return {"W": W, "gamma": rng.uniform(0.5, 2, N), "bias": rng.normal(size=N)}


def shared() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        "sigmoid_threshold": rng.uniform(0.5, 2, N),
        "sigmoid_exponent": rng.uniform(1, 4, N),
        "sigmoid_threshold2": rng.uniform(0.5, 2, N),
        "sigmoid_exponent2": rng.uniform(1, 4, N),
        "sigmoid_mix": np.array([0.5, 1.0, 0.2, 0.7, 1.0, 0.5]),
    }


def fitted(labels: tuple[str, ...] = LABELS, *, wrap: Callable[[Array], Any] = np.array) -> anndata.AnnData:
    """Return an AnnData with the keys that scHopfield writes."""
    adata = anndata.AnnData(np.ones((3, N)), var=pd.DataFrame(index=GENES))
    adata.var["scHopfield_used"] = USED
    for key, values in shared().items():
        adata.var[key] = values
    for label in labels:
        p = parameters(label)
        adata.var[f"I_{label}"] = p["bias"]
        adata.var[f"gamma_{label}"] = p["gamma"]
        adata.varp[f"W_{label}"] = wrap(p["W"])
    adata.uns["scHopfield"] = {"degradation_key": "gamma", "cluster_key": "cell_type"}
    return adata


def cut(values: Array) -> Array:
    return values[USED]


def assert_parameters(
    field: HopfieldField, label: str, *, expected: dict[str, Array] | None = None, rtol: float = 0.0
) -> None:
    """Compare what was read for a cluster with what was written, cut to the genes used by hand."""
    own = parameters(label) | shared() | (expected or {})
    got = field.parameters[field.clusters.index(label)]
    W = cut(own["W"])[:, USED]
    dense = np.zeros_like(W)
    dense[:, got.regulators] = got.weights
    np.testing.assert_allclose(dense, W, rtol=rtol)
    np.testing.assert_array_equal(got.gamma, cut(own["gamma"]))
    np.testing.assert_array_equal(got.bias, cut(own["bias"]))
    np.testing.assert_array_equal(
        got.hill.stacked(),
        np.stack([cut(own[key]) for key in shared()]),
    )
    assert field.genes.tolist() == [gene for gene, used in zip(GENES, USED, strict=True) if used]


def write_checkpoint(path: Path, adata: anndata.AnnData, *, as_text: bool = False) -> Path:
    """Write an .h5sch file the way scHopfield does: plain HDF5, metadata as JSON."""
    labels = [key[2:] for key in adata.varp]
    with h5py.File(path, "w") as root:
        root.attrs["n_vars"] = str(adata.n_vars)
        root.attrs["clusters"] = json.dumps(labels)
        root.attrs["uns_scHopfield"] = json.dumps(
            adata.uns.get("scHopfield", {}), default=lambda array: np.asarray(array).tolist()
        )
        root["gene_names"] = np.asarray(adata.var_names.tolist(), dtype=h5py.string_dtype())
        root.require_group("var")
        for key in adata.var:
            values = np.asarray(adata.var[key])
            if as_text and values.dtype == bool:
                values = np.asarray([str(v) for v in values], dtype=h5py.string_dtype())
            root[f"var/{key}"] = values
        root.require_group("varp")
        for key in adata.varp:
            root[f"varp/{key}"] = np.asarray(adata.varp[key])
    return path


CONTAINERS = ("memory", "backed", "h5ad", "h5ad str", "zarr", "lazy h5ad", "lazy zarr", "h5sch")


@pytest.fixture
def contain(tmp_path: Path) -> Iterator[Callable[[anndata.AnnData, str], Any]]:
    """Put an AnnData into a container and return what `read_schopfield` is to be given."""
    opened: list[Any] = []

    def put(adata: anndata.AnnData, container: str) -> Any:
        if container == "memory":
            return adata
        if container == "h5sch":
            return write_checkpoint(tmp_path / "model.h5sch", adata)
        path = tmp_path / f"{container.replace(' ', '_')}.{'zarr' if 'zarr' in container else 'h5ad'}"
        adata.copy().write_zarr(path) if "zarr" in container else adata.copy().write_h5ad(path)
        if container == "backed":
            opened.append(anndata.read_h5ad(path, backed="r"))
            return opened[-1]
        if container.startswith("lazy"):
            return anndata.experimental.read_lazy(path)
        return str(path) if container == "h5ad str" else path

    yield put
    for adata in opened:
        adata.file.close()


# --- containers and layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container(contain: Any, container: str) -> None:
    field = read_schopfield(contain(fitted(), container))
    assert field.clusters == LABELS
    for label in LABELS:
        assert_parameters(field, label)
    assert field.regulators.tolist() == ["Gata1", "Spi1", "Cebpa", "Fli1"]
    assert field.fingerprint == read_schopfield(fitted()).fingerprint


@pytest.mark.parametrize("wrap", [np.array, sparse.csr_matrix])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_both_zarr_formats(tmp_path: Path, zarr_format: Any, wrap: Any) -> None:
    with anndata.settings.override(zarr_write_format=zarr_format):
        fitted(wrap=wrap).write_zarr(tmp_path / "fit.zarr")
    assert (tmp_path / "fit.zarr" / "zarr.json").exists() == (zarr_format == 3)
    field = read_schopfield(tmp_path / "fit.zarr")
    assert field.fingerprint == read_schopfield(fitted()).fingerprint


@pytest.mark.parametrize("container", ["memory", "h5ad", "lazy h5ad", "lazy zarr"])
@pytest.mark.parametrize("layout", ["csr", "csc", "csr array", "csc array"])
def test_sparse_layouts(contain: Any, container: str, layout: str) -> None:
    wrap = {
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "csr array": sparse.csr_array,
        "csc array": sparse.csc_array,
    }[layout]
    adata = fitted(wrap=wrap)
    assert sparse.issparse(adata.varp["W_Ery"])
    field = read_schopfield(contain(adata, container))
    for label in LABELS:
        assert_parameters(field, label)
    assert field.fingerprint == read_schopfield(fitted()).fingerprint


class Stub:
    """What reading needs of an AnnData, for layouts an AnnData itself would convert."""

    def __init__(self, adata: anndata.AnnData, varp: dict[str, Any]) -> None:
        self.var, self.var_names, self.uns, self.varp = adata.var, adata.var_names, adata.uns, varp


@pytest.mark.parametrize("all_used", [False, True])
@pytest.mark.parametrize(
    "wrap", [sparse.coo_matrix, sparse.coo_array, sparse.lil_matrix, sparse.dia_matrix, pd.DataFrame]
)
def test_layouts_that_cannot_be_indexed(wrap: Any, all_used: bool) -> None:
    adata = fitted()
    if all_used:
        adata.var["scHopfield_used"] = True
    varp = {key: wrap(adata.varp[key]) for key in adata.varp}
    expected = read_schopfield(adata).fingerprint
    assert read_schopfield(Stub(adata, varp)).fingerprint == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("container", ["memory", "h5ad", "lazy h5ad"])
@pytest.mark.parametrize("all_used", [False, True])
def test_explicit_zeros_and_duplicates_do_not_make_regulators(
    contain: Any, container: str, all_used: bool
) -> None:
    adata = fitted(("Ery",))
    if all_used:
        adata.var["scHopfield_used"] = True
    # Column 0 is an explicit zero, column 1 two entries that cancel, column 3 two that add up to 3.
    rows, columns, values = [2, 1, 1, 4, 4], [0, 1, 1, 3, 3], [0.0, 2.0, -2.0, 1.0, 2.0]
    matrix = sparse.csc_matrix((N, N))
    matrix.indices, matrix.data = np.array(rows, np.int32), np.array(values)
    matrix.indptr = np.searchsorted(columns, np.arange(N + 1)).astype(np.int32)
    adata.varp["W_Ery"] = matrix
    field = read_schopfield(contain(adata, container))
    assert field.regulators.tolist() == ["Cebpa"]
    weights = field.parameters[0].weights[:, 0]
    assert dict(zip(field.genes.tolist(), weights.tolist(), strict=True))["Fli1"] == 3.0
    assert np.count_nonzero(weights) == 1


@pytest.mark.parametrize("wrap", [np.array, sparse.csr_matrix, sparse.csc_matrix])
def test_reading_changes_nothing_in_the_anndata(wrap: Any) -> None:
    adata = fitted(wrap=wrap)
    adata.var["scHopfield_used"] = True
    adata.var["sigmoid_exponent2"] = adata.var["sigmoid_exponent"]
    if sparse.issparse(adata.varp["W_Ery"]):
        adata.varp["W_Ery"].data[:3] = 0.0
    before = {key: adata.varp[key].copy() for key in adata.varp}
    frame = adata.var.copy()
    read_schopfield(adata)
    pd.testing.assert_frame_equal(adata.var, frame)
    for key, matrix in before.items():
        if sparse.issparse(matrix):
            np.testing.assert_array_equal(adata.varp[key].data, matrix.data)
            np.testing.assert_array_equal(adata.varp[key].indices, matrix.indices)
        else:
            np.testing.assert_array_equal(adata.varp[key], matrix)


def test_a_field_does_not_change_with_the_anndata_it_was_read_from() -> None:
    adata = with_hill_params(("Ery",))
    adata.var["scHopfield_used"] = True
    field = read_schopfield(adata)
    before = pickle.dumps(field)
    adata.varp["W_Ery"][...] = 7.0
    for key in ("gamma_Ery", "I_Ery"):
        values = adata.var[key].to_numpy()
        values.flags.writeable = True
        values[...] = 7.0
    for values in adata.uns["scHopfield"]["hill_params"]["Ery"].values():
        values[...] = 7.0
    assert pickle.dumps(field) == before


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_expression_is_not_read(contain: Any, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = contain(fitted(), container)
    touched: list[str] = []
    real = h5py.Dataset.__getitem__

    def spy(self: h5py.Dataset, args: Any) -> Any:
        touched.append(self.name)
        return real(self, args)

    if container == "zarr":
        files = [file for file in (path / "X").rglob("*") if file.is_file()]
        chunks = [file for file in files if file.name not in (".zarray", ".zattrs", "zarr.json")]
        assert chunks
        for chunk in chunks:  # reading it would now be an error
            chunk.write_bytes(b"not a chunk")
    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    assert_parameters(read_schopfield(path), "Ery")
    assert not any(name.startswith(("/X", "/layers", "/obs")) for name in touched)


@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_keep_their_precision(contain: Any, container: str) -> None:
    field = read_schopfield(contain(fitted(wrap=lambda W: W.astype(np.float32)), container))
    assert field.parameters[0].weights.dtype == np.float32
    assert_parameters(field, "Ery", expected={"W": parameters("Ery")["W"].astype(np.float32)})
    assert read_schopfield(fitted()).parameters[0].weights.dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (np.int8, np.array),
        (np.int64, np.array),
        (np.bool_, np.array),
        (np.float16, np.array),
        (np.int8, sparse.csr_matrix),
        (np.int64, sparse.csc_matrix),
        (np.bool_, sparse.csr_matrix),
    ],
)
def test_weights_of_other_dtypes_become_double(dtype: Any, layout: Any) -> None:
    W = np.sign(parameters("Ery")["W"]).astype(dtype)
    adata = fitted(("Ery",), wrap=lambda _: layout(W))
    field = read_schopfield(adata)
    assert field.parameters[0].weights.dtype == np.float64
    assert_parameters(field, "Ery", expected={"W": W.astype(float)})


@pytest.mark.parametrize("layout", [np.array, sparse.csr_matrix, sparse.csc_matrix])
def test_weights_already_cut_to_the_genes_used(layout: Any) -> None:
    adata = fitted()
    varp = {key: layout(np.asarray(adata.varp[key])[np.ix_(USED, USED)]) for key in adata.varp}
    field = read_schopfield(Stub(adata, varp))  # type: ignore[arg-type]
    assert field.fingerprint == read_schopfield(adata).fingerprint


def test_genes_keep_the_order_of_the_source(contain: Any) -> None:
    order = [4, 0, 5, 2, 1, 3]
    adata = fitted()[:, order].copy()
    for container in ("memory", "h5ad", "zarr", "h5sch"):
        field = read_schopfield(contain(adata, container))
        assert field.genes.tolist() == ["Fli1", "Gata1", "Gfi1", "Spi1", "Cebpa"]
        straight = read_schopfield(fitted())
        x = np.random.default_rng(3).uniform(0.2, 3, (4, 5))
        position = [straight.genes.tolist().index(gene) for gene in field.genes]
        J = straight.jacobian(x, "Ery")
        np.testing.assert_array_equal(field.jacobian(x[:, position], "Ery"), J[:, position][:, :, position])


def test_the_jacobian_of_what_was_read_is_that_of_the_parameters() -> None:
    """By hand, on genes used only: rows are effectors in the file as well."""
    field = read_schopfield(fitted())
    x = np.full((1, 5), 1e-3)  # far below every threshold difference: the lower threshold is in force
    own, act = parameters("Ery"), shared()
    first, second = cut(act["sigmoid_threshold"]), cut(act["sigmoid_threshold2"])
    use_second = (cut(act["sigmoid_mix"]) < 1) & (second < first)
    k = np.where(use_second, second, first)
    n = np.where(use_second, cut(act["sigmoid_exponent2"]), cut(act["sigmoid_exponent"]))
    slope = n * k**n * x[0] ** (n - 1) / (x[0] ** n + k**n) ** 2
    W = own["W"][np.ix_(USED, USED)]
    np.testing.assert_allclose(
        field.jacobian(x, "Ery")[0], W * slope - np.diag(cut(own["gamma"])), rtol=1e-12
    )


# --- the mask of used genes --------------------------------------------------------------------------------

MASKS: dict[str, Any] = {
    "bool": USED,
    "True and False": [str(v) for v in USED],
    "lower case": [str(v).lower() for v in USED],
    "bytes": np.asarray([str(v).encode() for v in USED], dtype=object),
    "fixed bytes": np.asarray([str(v).encode() for v in USED]),
    "int": USED.astype(int),
    "uint8": USED.astype(np.uint8),
    "float": USED.astype(float),
    "categorical of strings": pd.Categorical([str(v) for v in USED]),
    "categorical of bools": pd.Categorical(USED),
    "nullable": pd.array(USED, dtype="boolean"),
    "object bools": np.asarray(USED, dtype=object),
}


@pytest.mark.parametrize("mask", list(MASKS))
def test_masks_in_memory(mask: str) -> None:
    adata = fitted()
    adata.var["scHopfield_used"] = MASKS[mask]
    assert read_schopfield(adata).fingerprint == read_schopfield(fitted()).fingerprint


@pytest.mark.parametrize("container", ["h5ad", "zarr", "lazy h5ad"])
@pytest.mark.parametrize(
    "mask", ["True and False", "int", "categorical of strings", "categorical of bools", "nullable"]
)
def test_masks_on_disk(contain: Any, container: str, mask: str) -> None:
    adata = fitted()
    adata.var["scHopfield_used"] = MASKS[mask]
    assert read_schopfield(contain(adata, container)).fingerprint == read_schopfield(fitted()).fingerprint


def test_a_mask_of_text_in_a_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m.h5sch", fitted(), as_text=True)
    assert read_schopfield(path).fingerprint == read_schopfield(fitted()).fingerprint
    with h5py.File(path, "r+") as root:
        del root["var/scHopfield_used"]
        root["var/scHopfield_used"] = np.asarray([str(v).encode() for v in USED])
    assert read_schopfield(path).fingerprint == read_schopfield(fitted()).fingerprint


def test_a_categorical_mask_in_a_checkpoint(tmp_path: Path) -> None:
    from anndata.io import write_elem

    path = write_checkpoint(tmp_path / "m.h5sch", fitted())
    with h5py.File(path, "r+") as root:
        del root["var/scHopfield_used"]
        write_elem(root["var"], "scHopfield_used", pd.Categorical([str(v) for v in USED]))
    assert read_schopfield(path).fingerprint == read_schopfield(fitted()).fingerprint


def test_without_a_mask_every_gene_is_used() -> None:
    adata = fitted()
    del adata.var["scHopfield_used"]
    assert read_schopfield(adata).genes.tolist() == GENES


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([False] * N, "marks no gene"),
        (["False"] * N, "marks no gene"),
        (["True", "maybe", "False", "True", "True", "True"], "holds 'maybe'; expected booleans"),
        ([1.0, np.nan, 0.0, 1.0, 1.0, 1.0], "holds 'nan'"),
        ([1, 2, 0, 1, 1, 1], "holds '2'"),
    ],
)
def test_masks_that_mean_nothing(mask: Any, message: str) -> None:
    adata = fitted()
    adata.var["scHopfield_used"] = mask
    with pytest.raises(InputError, match=f"scHopfield_used .*{message}"):
        read_schopfield(adata)


# --- which rates, which activation -------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_degradation_column_stands_in_for_a_missing_gamma(contain: Any, container: str) -> None:
    adata = fitted()
    del adata.var["gamma_Ery"]
    adata.var["my rates"] = np.arange(1.0, N + 1)
    adata.uns["scHopfield"] = {"degradation_key": "my rates"}
    field = read_schopfield(contain(adata, container))
    assert_parameters(field, "Ery", expected={"gamma": np.arange(1.0, N + 1)})
    assert_parameters(field, "Mye loid")


def test_the_degradation_column_that_the_caller_names_wins() -> None:
    adata = fitted()
    del adata.var["gamma_Ery"]
    adata.var["gamma"], adata.var["rates"] = 1.0, 2.0
    assert read_schopfield(adata).parameters[0].gamma.tolist() == [1.0] * 5
    assert read_schopfield(adata, degradation_key="rates").parameters[0].gamma.tolist() == [2.0] * 5
    del adata.uns["scHopfield"]
    assert read_schopfield(adata).parameters[0].gamma.tolist() == [1.0] * 5


def test_one_component_where_the_second_is_absent() -> None:
    adata = fitted()
    for key in ("sigmoid_threshold2", "sigmoid_exponent2", "sigmoid_mix"):
        del adata.var[key]
    act = shared()
    single = {
        "sigmoid_threshold2": act["sigmoid_threshold"],
        "sigmoid_exponent2": act["sigmoid_exponent"],
        "sigmoid_mix": np.ones(N),
    }
    assert_parameters(read_schopfield(adata), "Ery", expected=single)
    # The same as asking for the first component of two.
    assert_parameters(read_schopfield(fitted(), activation="single"), "Ery", expected=single)


@pytest.mark.parametrize("missing", ["sigmoid_threshold2", "sigmoid_exponent2", "sigmoid_mix"])
def test_half_a_second_component_is_refused(missing: str) -> None:
    adata = fitted()
    del adata.var[missing]
    with pytest.raises(MissingKeyError, match=f"no column '{missing}'"):
        read_schopfield(adata)


def with_hill_params(labels: tuple[str, ...], *, cut_to_used: bool = False) -> anndata.AnnData:
    adata = fitted(labels)
    for key in shared():
        del adata.var[key]
    hill = {}
    for i, label in enumerate(labels):
        k, n = np.arange(1.0, N + 1) * (i + 1), np.arange(1.0, N + 1) / 2 + i
        hill[label] = {"k": cut(k) if cut_to_used else k, "n": cut(n) if cut_to_used else n}
    adata.uns["scHopfield"] = {"hill_params": hill}
    return adata


def per_cluster_hill(i: int) -> dict[str, Array]:
    k, n = np.arange(1.0, N + 1) * (i + 1), np.arange(1.0, N + 1) / 2 + i
    return {
        "sigmoid_threshold": k,
        "sigmoid_exponent": n,
        "sigmoid_threshold2": k,
        "sigmoid_exponent2": n,
        "sigmoid_mix": np.ones(N),
    }


@pytest.mark.parametrize("container", CONTAINERS)
def test_hill_parameters_per_cluster(contain: Any, container: str) -> None:
    field = read_schopfield(contain(with_hill_params(LABELS), container))
    for i, label in enumerate(LABELS):
        assert_parameters(field, label, expected=per_cluster_hill(i))


@pytest.mark.parametrize("container", ["memory", "h5ad", "h5sch"])
def test_hill_parameters_already_cut_to_the_genes_used(contain: Any, container: str) -> None:
    field = read_schopfield(contain(with_hill_params(LABELS, cut_to_used=True), container))
    assert field.fingerprint == read_schopfield(with_hill_params(LABELS)).fingerprint


def test_hill_parameters_of_some_clusters_leave_the_others_with_the_columns() -> None:
    adata = fitted()
    adata.uns["scHopfield"] = {"hill_params": {"Ery": {"k": np.arange(1.0, N + 1), "n": np.ones(N) * 2}}}
    field = read_schopfield(adata)
    k = np.arange(1.0, N + 1)
    assert_parameters(field, "Mye loid")
    own = dict(zip(shared(), [k, np.ones(N) * 2, k, np.ones(N) * 2, np.ones(N)], strict=True))
    assert_parameters(field, "Ery", expected=own)


def test_hill_parameters_under_numbers_belong_to_the_cluster_of_that_name() -> None:
    adata = with_hill_params(("0", "1"))
    hill = adata.uns["scHopfield"]["hill_params"]
    adata.uns["scHopfield"] = {"hill_params": {int(label): value for label, value in hill.items()}}
    field = read_schopfield(adata)
    for i, label in enumerate(("0", "1")):
        assert_parameters(field, label, expected=per_cluster_hill(i))


def test_hill_parameters_of_another_length_are_refused() -> None:
    adata = with_hill_params(LABELS)
    adata.uns["scHopfield"]["hill_params"]["Ery"]["k"] = np.ones(4)
    with pytest.raises(InputError, match=r"hill_params\['Ery'\]\['k'\] .* has shape \(4,\); expected \(6,\)"):
        read_schopfield(adata)


# --- cluster names -----------------------------------------------------------------------------------------

STRANGE = ("T cell", "../x", "<script>", "Ery/Mega", "Ery/Meg/late", "été π", "0", "it's", "W_W", "all")


@pytest.mark.parametrize("container", CONTAINERS)
def test_strange_cluster_names(contain: Any, container: str) -> None:
    """AnnData before 0.13 writes slashes to h5ad, and cannot open such a file; it can still be read from here."""
    labels = STRANGE
    refuses = tuple(int(part) for part in version("anndata").split(".")[:2]) >= (0, 13)
    if "zarr" in container or container in ("backed", "lazy h5ad") or (refuses and "h5ad" in container):
        labels = tuple(label for label in STRANGE if "/" not in label)
    adata = with_hill_params(labels)
    field = read_schopfield(contain(adata, container))
    assert sorted(field.clusters) == sorted(labels)
    for i, label in enumerate(labels):
        assert_parameters(field, label, expected=per_cluster_hill(i))
    assert field.fingerprint == read_schopfield(adata).fingerprint


def test_the_order_of_clusters_does_not_depend_on_the_container(contain: Any) -> None:
    adata = fitted(("zeta", "alpha", "Mid"))
    prints = {c: read_schopfield(contain(adata, c)).fingerprint for c in CONTAINERS}
    assert len(set(prints.values())) == 1, prints


def test_chosen_clusters() -> None:
    adata = fitted(("a", "b", "c"))
    field = read_schopfield(adata, clusters=["c", "a"])
    assert field.clusters == ("a", "c")
    for label in ("c", "a"):
        assert_parameters(field, label)
    del adata.var["I_b"]
    assert read_schopfield(adata, clusters=["c"]).clusters == ("c",)


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmoid_threshold": "sigmoid_treshold"}, r"no column 'sigmoid_threshold'.*'sigmoid_t"),
        ({"sigmoid_exponent": "sigmoid_Exponent"}, r"no column 'sigmoid_exponent'.*mean 'sigmoid_Exponent'"),
        ({"I_Ery": "I_ery"}, r"no column 'I_Ery' in var of the AnnData; did you mean 'I_ery'"),
        ({"gamma_Ery": "gama_Ery"}, r"neither 'gamma_Ery' nor 'gamma' in var.*'gama_Ery'"),
    ],
)
def test_a_missing_column_is_named_with_its_near_misses(change: dict[str, str], message: str) -> None:
    adata = fitted()
    adata.var = adata.var.rename(columns=change)
    with pytest.raises(MissingKeyError, match=message) as caught:
        read_schopfield(adata)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, InputError)
    assert not str(caught.value).startswith('"'), "KeyError would quote the message"


@pytest.mark.parametrize("container", ["h5ad", "zarr", "h5sch"])
def test_messages_name_the_file(contain: Any, container: str) -> None:
    adata = fitted()
    del adata.var["I_Ery"]
    path = contain(adata, container)
    with pytest.raises(MissingKeyError, match=f"no column 'I_Ery' in var of {path.name}"):
        read_schopfield(path)


def test_a_missing_cluster_is_named_with_its_near_misses() -> None:
    with pytest.raises(MissingKeyError, match=r"no 'W_Myeloid' .* did you mean 'Mye loid'\?"):
        read_schopfield(fitted(), clusters=["Ery", "Myeloid"])
    with pytest.raises(MissingKeyError, match=r"no 'W_zzz' .* fitted clusters present: 'Ery', 'Mye loid'"):
        read_schopfield(fitted(), clusters=["zzz"])
    with pytest.raises(MissingKeyError, match="no clusters"):
        read_schopfield(fitted(), clusters=[])


@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr", "h5sch"])
def test_an_anndata_without_a_fit(contain: Any, container: str) -> None:
    adata = anndata.AnnData(np.ones((2, N)), var=pd.DataFrame(index=GENES))
    with pytest.raises(MissingKeyError, match=r"no interaction matrix 'W_<cluster>' .*fit one"):
        read_schopfield(contain(adata, container))


@pytest.mark.parametrize("wrap", [np.array, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(wrap: Any, bad: float) -> None:
    W = parameters("Ery")["W"]
    W[3, 4] = bad
    with pytest.raises(
        InputError, match=rf"W of cluster 'Ery' is {bad} at effector 'Cebpa', regulator 'Fli1'"
    ):
        read_schopfield(fitted(("Ery",), wrap=lambda _: wrap(W)))
    # Between genes that are not used it does not matter.
    W = parameters("Ery")["W"]
    W[2, :] = W[:, 2] = bad
    assert_parameters(read_schopfield(fitted(("Ery",), wrap=lambda _: wrap(W))), "Ery")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize(
    "key", ["sigmoid_threshold", "sigmoid_exponent", "sigmoid_threshold2", "sigmoid_exponent2"]
)
def test_impossible_activation_is_refused_for_regulators_only(key: str, value: float) -> None:
    for gene in ("Klf1", "Gfi1"):  # not used; used but no regulator
        adata = fitted()
        adata.var.loc[gene, key] = value
        read_schopfield(adata)
    adata = fitted()
    adata.var.loc["Cebpa", key] = value
    with pytest.raises(InputError, match=rf"{key} in cluster 'Ery' .*: Cebpa \({value:g}\)"):
        read_schopfield(adata)
    if key.endswith("2"):  # nor for the second component of a gene that has but one
        adata = fitted()
        adata.var.loc["Spi1", key] = value
        read_schopfield(adata)


@pytest.mark.parametrize("key", ["gamma_Ery", "I_Ery"])
def test_missing_values_are_refused_for_genes_used_only(key: str) -> None:
    adata = fitted()
    adata.var.loc["Klf1", key] = np.nan
    read_schopfield(adata)
    adata.var.loc["Gfi1", key] = np.nan
    with pytest.raises(InputError, match=r"not finite: Gfi1 \(nan\)"):
        read_schopfield(adata)


def test_gene_names_that_repeat() -> None:
    adata = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata.var_names = ["Gata1", "Spi1", "Klf1", "Gata1", "Fli1", "Gfi1"]
        with pytest.raises(InputError, match=r"gene names repeat in the field \('Gata1'\)"):
            read_schopfield(adata)
        # A gene that is not used may share a name.
        adata.var_names = ["Gata1", "Spi1", "Gata1", "Cebpa", "Fli1", "Gfi1"]
        assert read_schopfield(adata).genes.tolist() == ["Gata1", "Spi1", "Cebpa", "Fli1", "Gfi1"]


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (6, 5), (5, 6)])
def test_weights_of_another_shape(shape: tuple[int, int]) -> None:
    adata = fitted()
    for wrap in (np.array, sparse.csr_matrix):
        varp = {"W_Ery": wrap(np.ones(shape))}
        with pytest.raises(
            InputError, match=r"'W_Ery' .*; expected \(6, 6\), or \(5, 5\) for the genes used"
        ):
            read_schopfield(Stub(adata, varp))  # type: ignore[arg-type]


def test_a_column_of_text() -> None:
    adata = fitted()
    adata.var["sigmoid_threshold"] = ["a"] * N
    with pytest.raises(InputError, match=r"column 'sigmoid_threshold' .* is not numeric"):
        read_schopfield(adata)


@pytest.mark.parametrize("activation", ["", "double", None])
def test_an_activation_that_does_not_exist(activation: Any) -> None:
    with pytest.raises(InputError, match="expected 'fitted' or 'single'"):
        read_schopfield(fitted(), activation=activation)


@pytest.mark.parametrize("source", [42, None, {"W": 1}, np.ones(3)])
def test_a_source_that_is_no_anndata(source: Any) -> None:
    with pytest.raises(InputError, match="expected an AnnData or a path, found"):
        read_schopfield(source)


def test_files_that_are_not_there_or_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "other.h5ad").write_bytes(b"")
    with pytest.raises(MissingFileError, match=r"no model file at .*fit.h5ad; .*other.h5ad"):
        read_schopfield(tmp_path / "fit.h5ad")
    with pytest.raises(MissingFileError, match=r"folder .* does not exist"):
        read_schopfield(tmp_path / "nowhere" / "fit.h5ad")
    with pytest.raises(InputError, match="not an HDF5 file"):
        read_schopfield(tmp_path / "other.h5ad")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingFileError, match="not a Zarr group"):
        read_schopfield(tmp_path / "folder")
    with h5py.File(tmp_path / "loose.h5", "w") as root:
        root["x"] = 1
    with pytest.raises(InputError, match="neither an AnnData nor a scHopfield checkpoint"):
        read_schopfield(tmp_path / "loose.h5")
    import zarr

    zarr.open_group(str(tmp_path / "loose.zarr"), mode="w").create_group("x")
    with pytest.raises(InputError, match=r"loose.zarr holds neither an AnnData nor"):
        read_schopfield(tmp_path / "loose.zarr")


@pytest.mark.parametrize("needed", ["gene_names", "var", "varp"])
def test_a_checkpoint_without_one_of_its_parts(tmp_path: Path, needed: str) -> None:
    path = write_checkpoint(tmp_path / "m.h5sch", fitted())
    with h5py.File(path, "r+") as root:
        del root[needed]
    with pytest.raises(InputError, match=f"no '{needed}'; expected a checkpoint written by scHopfield"):
        read_schopfield(path)


def test_a_checkpoint_that_contradicts_itself(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m.h5sch", fitted())
    with h5py.File(path, "r+") as root:
        root.attrs["n_vars"] = "7"
    with pytest.raises(InputError, match="says n_vars = 7 but names 6 genes"):
        read_schopfield(path)
    with h5py.File(path, "r+") as root:
        root.attrs["n_vars"] = 6
        root.attrs["uns_scHopfield"] = "{not json"
    with pytest.raises(InputError, match=r"'uns_scHopfield' .* is not JSON"):
        read_schopfield(path)
    with h5py.File(path, "r+") as root:
        del root.attrs["uns_scHopfield"], root.attrs["n_vars"]
    assert read_schopfield(path).fingerprint == read_schopfield(fitted()).fingerprint


def test_a_checkpoint_under_another_suffix_and_sparse_weights_in_one(tmp_path: Path) -> None:
    from anndata.io import write_elem

    path = write_checkpoint(tmp_path / "model.h5", fitted())
    with h5py.File(path, "r+") as root:
        W = root["varp/W_Ery"][...]
        del root["varp/W_Ery"]
        write_elem(root["varp"], "W_Ery", sparse.csr_matrix(W))
    assert read_schopfield(path).fingerprint == read_schopfield(fitted()).fingerprint


def test_the_file_is_closed_after_reading(tmp_path: Path) -> None:
    for name in ("m.h5sch", "fit.h5ad"):
        path = tmp_path / name
        write_checkpoint(path, fitted()) if name.endswith("sch") else fitted().write_h5ad(path)
        read_schopfield(path)
        with h5py.File(path, "r+") as root:  # refused by HDF5 while it is open for reading
            root.attrs["touched"] = 1
        with pytest.raises(MissingKeyError):
            read_schopfield(path, clusters=["nobody"])
        with h5py.File(path, "r+") as root:
            root.attrs["touched"] = 2


# --- writing -----------------------------------------------------------------------------------------------


def blank(genes: list[str]) -> anndata.AnnData:
    return anndata.AnnData(np.ones((2, len(genes))), var=pd.DataFrame(index=genes))


def drawn_field(**options: Any) -> RandomField:
    """Return a field whose clusters share one activation, as scHopfield's columns can hold."""
    drawn = random_field(21, **options)
    hill = drawn.field.parameters[0].hill
    same = {
        label: HopfieldCluster(p.regulators, p.weights, p.gamma, p.bias, hill)
        for label, p in zip(drawn.field.clusters, drawn.field.parameters, strict=True)
    }
    return RandomField(HopfieldField(drawn.field.genes.tolist(), same), drawn.clusters, drawn.rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("two_components", [False, True])
def test_round_trip_through_an_anndata_of_the_same_genes(two_components: bool, dtype: Any) -> None:
    field = drawn_field(two_components=two_components, dtype=dtype).field
    adata = blank(field.genes.tolist())
    field.to_anndata(adata)
    assert isinstance(adata.varp["W_A"], np.ndarray)
    again = HopfieldField.from_anndata(adata)
    assert again.fingerprint == field.fingerprint
    assert again.parameters[0].weights.dtype == dtype


@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr", "lazy h5ad", "h5sch"])
def test_round_trip_through_more_genes_in_another_order(contain: Any, container: str) -> None:
    field = drawn_field().field
    rng = np.random.default_rng(2)
    names = [f"extra{i}" for i in range(7)] + field.genes.tolist()
    adata = blank([names[i] for i in rng.permutation(len(names))])
    write_schopfield(field, adata)
    assert sparse.issparse(adata.varp["W_A"])
    if container == "h5sch":
        for key in list(adata.varp):
            adata.varp[key] = adata.varp[key].toarray()
    again = read_schopfield(contain(adata, container))
    assert sorted(again.genes) == sorted(field.genes)
    order = [field.genes.tolist().index(gene) for gene in again.genes]
    x = rng.uniform(0.1, 3, (4, field.n_genes))
    for label in field.clusters:
        J = field.jacobian(x, label)
        np.testing.assert_array_equal(again.jacobian(x[:, order], label), J[:, order][:, :, order])
        np.testing.assert_allclose(
            again.velocity(x[:, order], label), field.velocity(x, label)[:, order], atol=1e-13
        )
    # In the order of the field it is the same field.
    superset = blank([*field.genes.tolist(), "extra"])
    field.to_anndata(superset)
    assert read_schopfield(superset).fingerprint == field.fingerprint
    back = blank(field.genes.tolist())
    again.to_anndata(back)
    assert read_schopfield(back).fingerprint == field.fingerprint


def test_round_trip_of_clusters_that_are_not_sorted() -> None:
    field = drawn_field(clusters=("b", "a")).field
    adata = blank(field.genes.tolist())
    field.to_anndata(adata)
    assert read_schopfield(adata).fingerprint == field.fingerprint


def test_round_trip_of_activations_per_cluster() -> None:
    field = random_field(22, two_components=False).field
    for names in (field.genes.tolist(), ["x", *field.genes.tolist()]):
        adata = blank(names)
        field.to_anndata(adata)
        assert set(adata.uns["scHopfield"]["hill_params"]) == {"A", "B"}
        assert read_schopfield(adata).fingerprint == field.fingerprint


def test_activations_of_an_earlier_fit_do_not_come_back() -> None:
    per_cluster, plain = random_field(22, two_components=False).field, drawn_field().field
    adata = blank(plain.genes.tolist())
    per_cluster.to_anndata(adata)
    adata.uns["scHopfield"]["cluster_key"] = "cell_type"
    plain.to_anndata(adata)
    assert read_schopfield(adata).fingerprint == plain.fingerprint
    assert adata.uns["scHopfield"] == {"cluster_key": "cell_type"}


def test_missing_values_of_genes_that_do_not_regulate_are_no_difference() -> None:
    """Two clusters with the same two-component activation, unknown for a gene that does not regulate."""
    adata = fitted()
    for key in shared():
        adata.var.loc["Gfi1", key] = np.nan
    field = read_schopfield(adata)
    out = blank(field.genes.tolist())
    field.to_anndata(out)
    assert "hill_params" not in out.uns["scHopfield"]
    assert read_schopfield(out).fingerprint == field.fingerprint


def test_what_the_keys_cannot_hold_is_refused_before_anything_is_written() -> None:
    field = random_field(23).field
    adata = blank(field.genes.tolist())
    with pytest.raises(InputError, match=r"different two-component activations.*use field.save"):
        field.to_anndata(adata)
    assert not len(adata.var.columns)
    assert not len(adata.varp)
    assert "scHopfield" not in adata.uns


def test_an_anndata_that_lacks_genes() -> None:
    field = drawn_field().field
    adata = blank([gene.replace("gene3", "Gene3") for gene in field.genes.tolist()])
    with pytest.raises(
        MissingKeyError, match=r"lacks 1 genes of the field, 'gene3' first; did you mean 'Gene3'"
    ):
        field.to_anndata(adata)
    assert not len(adata.var.columns)


def test_genes_outside_the_field_are_marked_and_carry_no_numbers() -> None:
    field = drawn_field().field
    adata = blank(["other", *field.genes.tolist()])
    field.to_anndata(adata)
    assert adata.var["scHopfield_used"].tolist() == [False] + [True] * 9
    assert np.isnan(adata.var.loc["other", ["gamma_A", "I_A", "sigmoid_threshold"]].astype(float)).all()
    W = adata.varp["W_A"].toarray()
    assert not W[0].any()
    assert not W[:, 0].any()
    expected = np.zeros((9, 9))
    expected[:, field.parameters[0].regulators] = field.parameters[0].weights
    np.testing.assert_array_equal(W[1:, 1:], expected)


def test_a_field_of_one_component_reads_as_such() -> None:
    field = HopfieldField(
        ["a", "b"],
        {
            "c": HopfieldCluster.from_dense(
                np.eye(2), gamma=[1.0, 2.0], bias=[0.0, 0.0], hill=HillParameters.single([1.0, 2.0], 3.0)
            )
        },
    )
    adata = blank(["a", "b"])
    field.to_anndata(adata)
    assert read_schopfield(adata, activation="single").fingerprint == field.fingerprint
    assert read_schopfield(adata).fingerprint == field.fingerprint


@pytest.mark.parametrize("wrap", [np.array, sparse.csr_matrix])
@pytest.mark.parametrize("cut_to_used", [None, False, True])
def test_a_part_of_the_genes(wrap: Any, cut_to_used: bool | None) -> None:
    adata = fitted(wrap=wrap) if cut_to_used is None else with_hill_params(LABELS, cut_to_used=cut_to_used)
    whole = read_schopfield(adata)
    part = read_schopfield(adata, genes=["Fli1", "Gata1", "Fli1"])
    assert part.genes.tolist() == ["Gata1", "Fli1"]
    where = [whole.genes.tolist().index(gene) for gene in part.genes]
    x = np.random.default_rng(0).gamma(2.0, 1.0, (4, whole.n_genes))
    for label in LABELS:
        J = whole.jacobian(x, label)
        np.testing.assert_array_equal(part.jacobian(x[:, where], label), J[:, where][:, :, where])
    # Reading leaves the marks of the genes alone.
    assert adata.var["scHopfield_used"].tolist() == USED.tolist()
    assert read_schopfield(adata, genes=whole.genes.tolist()).fingerprint == whole.fingerprint


def test_genes_outside_the_fit_are_refused() -> None:
    for gene in ("Klf1", "nothing"):
        with pytest.raises(MissingKeyError, match=f"gene '{gene}' is not in the fit of the AnnData; "):
            read_schopfield(fitted(), genes=["Gata1", gene])
