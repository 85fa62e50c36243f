"""Atlases from files and objects: the same values, names and labels whatever the source and the layout."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import cloudpickle
import dask
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from anndata.experimental import read_lazy
from helpers import labels_of
from scipy import sparse

from stabdask.atlas.cells import block_rows, cell_names, cluster_codes, open_cells
from stabdask.errors import InputError, MissingFileError, MissingKeyError, StabdaskWarning, UsageError

Array = np.ndarray[Any, Any]

N_CELLS, N_GENES = 37, 11
GENES = [f"g{i}" for i in range(N_GENES)]
LAYOUTS = ("dense", "chunked", "csr", "csc", "counts")
KINDS = ("h5ad", "zarr v2", "zarr v3", "memory", "lazy h5ad", "lazy zarr", "backed")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in (
        "autosharding",
        "Consolidated metadata",
        "without encoding metadata",
        "very old version",
        "Variable names",
    )
]
SCATTERED = "ignore:.*stores the layer by columns:stabdask.errors.StabdaskWarning"


def values(seed: int = 0, n_cells: int = N_CELLS, n_genes: int = N_GENES) -> Array:
    """Return integer-valued expression, half of it zero, no two rows alike."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 1000, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.5)
    x[:, 0] = 2000 + np.arange(n_cells)
    return x


def make(x: Array, *, prefix: str = "c", genes: list[str] = GENES, states: Any = None) -> anndata.AnnData:
    """Return an AnnData of `x` in every layout; X is `x`, the layers are multiples of it."""
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(len(x))])
    if states is not None:
        obs["state"] = states
    return anndata.AnnData(
        x.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=genes),
        layers={
            "dense": 2.0 * x,
            "chunked": (3 * x).astype(np.float32),
            "csr": sparse.csr_matrix(4 * x.astype(np.float32)),
            "csc": sparse.csc_matrix(5.0 * x),
            "counts": sparse.csr_matrix(6 * x.astype(np.int32)),
        },
    )


FACTORS = dict(zip(LAYOUTS, range(2, 7), strict=True))
DTYPES = {"dense": "f8", "chunked": "f4", "csr": "f4", "csc": "f8", "counts": "f8"}


def write_all(adata: anndata.AnnData, folder: Path, chunks: tuple[int, int] = (5, 3)) -> None:
    """Write an h5ad with one layer in small two-dimensional compressed chunks, and zarr in both formats."""
    adata.write_h5ad(folder / "atlas.h5ad")
    with h5py.File(folder / "atlas.h5ad", "a") as root:
        attrs, stored = dict(root["layers/chunked"].attrs), root["layers/chunked"][...]
        del root["layers/chunked"]
        chunked = root.create_dataset("layers/chunked", data=stored, chunks=chunks, compression="gzip")
        chunked.attrs.update(attrs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # format 2 is old, and still what AnnData writes
        for version in (2, 3):
            with anndata.settings.override(zarr_write_format=version):
                adata.write_zarr(folder / f"atlas{version}.zarr", chunks=chunks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("atlas")
    states = pd.Categorical(np.resize(["b", "a/é", "b", "c"], N_CELLS), categories=["z", "c", "b", "a/é"])
    write_all(make(values(), states=states), path)
    return path


def source(folder: Path, kind: str) -> Any:
    if kind == "memory":
        return anndata.read_h5ad(folder / "atlas.h5ad")
    if kind == "backed":
        return anndata.read_h5ad(folder / "atlas.h5ad", backed="r")
    if kind.startswith("lazy"):
        return read_lazy(folder / ("atlas.h5ad" if kind == "lazy h5ad" else "atlas3.zarr"))
    return folder / {"h5ad": "atlas.h5ad", "zarr v2": "atlas2.zarr", "zarr v3": "atlas3.zarr"}[kind]


# --- values ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("genes", [None, ["g7", "g0", "g10"]], ids=["all genes", "some genes"])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@pytest.mark.parametrize("kind", KINDS)
def test_values_names_and_labels_are_those_of_the_source(
    folder: Path, kind: str, layout: str | None, genes: list[str] | None
) -> None:
    cells = open_cells(source(folder, kind), layer=layout, cluster_key="state", genes=genes, block_cells=8)
    expected = FACTORS.get(str(layout), 1) * values()
    columns = list(range(N_GENES)) if genes is None else [GENES.index(gene) for gene in genes]
    read = cells["expression"].to_numpy()
    np.testing.assert_array_equal(read, expected[:, columns])
    assert cells["expression"].dims == ("cell", "gene")
    assert read.dtype == cells["expression"].dtype == np.dtype(DTYPES.get(str(layout), "f4"))
    # Whole rows, whatever the chunks on disk.
    assert cells["expression"].chunks == ((8, 8, 8, 8, 5), (len(columns),))
    assert cells["gene"].values.tolist() == (genes or GENES)
    assert cells["cell"].values.tolist() == [f"c{i}" for i in range(N_CELLS)]
    assert cells["cluster"].values.tolist() == np.resize(["b", "a/é", "b", "c"], N_CELLS).tolist()
    # The order of the categories, without the one that no cell has.
    codes, labels = cluster_codes(cells)
    assert labels == ("c", "b", "a/é")
    assert np.array(labels)[codes].tolist() == cells["cluster"].values.tolist()


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("block", [None, 1, 36, 37, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_block_size_gives_the_same_values(folder: Path, layout: str, block: int | None) -> None:
    cells = open_cells(folder / "atlas.h5ad", layer=layout, block_cells=block)
    np.testing.assert_array_equal(cells["expression"].to_numpy(), FACTORS[layout] * values())
    rows = cells["expression"].chunks[0]
    assert max(rows) == min(block or N_CELLS, N_CELLS)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f4", "f4"), ("f8", "f8"), (">f4", "f8"), ("f2", "f8"), ("i4", "f8"), ("u1", "f8"), ("?", "f8")],
)
@pytest.mark.parametrize("form", ["dense", "csr", "csc", "fortran", "view"])
def test_matrices_in_memory_of_any_type(form: str, dtype: str, expected: str) -> None:
    if form in ("csr", "csc") and dtype in (">f4", "f2"):
        form = "view"  # SciPy has no sparse matrices of these types
    x = (values() % 2).astype(dtype)
    matrix: Any = {
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "fortran": np.asfortranarray,
    }.get(form, np.asarray)(x)
    adata = anndata.AnnData(layers={"m": matrix}, obs=pd.DataFrame(index=np.arange(N_CELLS).astype(str)))
    if form == "view":
        adata, x = adata[::-2], x[::-2]
    cells = open_cells(adata, layer="m", block_cells=10)
    assert cells["expression"].dtype == np.dtype(expected)
    computed = cells["expression"].to_numpy()
    assert computed.dtype == np.dtype(expected)
    np.testing.assert_array_equal(computed, x.astype(np.float64))


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_dask_arrays_chunked_along_genes_come_in_whole_rows(form: str) -> None:
    import dask.array as da

    x = values().astype(np.float32)
    lazy = da.from_array(x, chunks=(6, 4))
    if form == "csr":
        lazy = lazy.map_blocks(sparse.csr_matrix, dtype=x.dtype)
    adata = anndata.AnnData(lazy, var=pd.DataFrame(index=GENES))
    cells = open_cells(adata, block_cells=16, genes=GENES[::-1])
    assert cells["expression"].chunks == ((16, 16, 5), (N_GENES,))
    np.testing.assert_array_equal(cells["expression"].to_numpy(), x[:, ::-1])


def test_a_changed_object_is_not_read_through_its_file(folder: Path) -> None:
    """A backed AnnData keeps X in the file; names and labels may have been changed since."""
    adata = anndata.read_h5ad(folder / "atlas.h5ad", backed="r")
    adata.obs["new"] = [f"k{i % 2}" for i in range(N_CELLS)]
    adata.obs["state"] = "other"
    adata.obs_names = [f"renamed{i}" for i in range(N_CELLS)]
    adata.var_names = [f"G{i}" for i in range(N_GENES)]
    for key in ("new", "state"):
        cells = open_cells(adata, cluster_key=key)
        assert cells["cluster"].values.tolist() == adata.obs[key].tolist()
        assert cells["cell"].values[0] == "renamed0"
        assert cells["gene"].values[-1] == f"G{N_GENES - 1}"
        assert cells.attrs["sources"][0]["cluster_key"] == key
        np.testing.assert_array_equal(cells["expression"].to_numpy(), values())


def test_views_of_backed_objects(folder: Path) -> None:
    view = anndata.read_h5ad(folder / "atlas.h5ad", backed="r")[3:9]
    with pytest.raises(InputError, match=r"view of a backed AnnData .* \.to_memory\(\)"):
        open_cells(view)
    cells = open_cells(view, layer="csr")
    np.testing.assert_array_equal(cells["expression"].to_numpy(), FACTORS["csr"] * values()[3:9])


# --- several sources ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("genes", [None, GENES[4:1:-1]], ids=["all genes", "some genes"])
def test_a_list_is_one_atlas_with_genes_aligned_by_name(tmp_path: Path, genes: list[str] | None) -> None:
    shuffled = np.random.default_rng(1).permutation(N_GENES)
    first, second, third = values(1, 5), values(2, 7), values(3, 4)
    more = np.concatenate([second[:, shuffled], np.full((7, 2), 77)], axis=1)
    names = [GENES[i] for i in shuffled]
    make(first, prefix="a", states=["x"] * 5).write_h5ad(tmp_path / "one.h5ad")
    make(more, prefix="b", genes=[*names, "extra", "other"], states=["y"] * 7).write_h5ad(
        tmp_path / "two.h5ad"
    )
    object_ = make(third[:, ::-1], prefix="c", genes=GENES[::-1], states=["w"] * 4)
    for layer in (None, *LAYOUTS):
        cells = open_cells(
            [str(tmp_path / "one.h5ad"), tmp_path / "two.h5ad", object_],
            layer=layer,
            cluster_key="state",
            genes=genes,
            block_cells=3,
        )
        columns = slice(None) if genes is None else [GENES.index(gene) for gene in genes]
        expected = FACTORS.get(str(layer), 1) * np.concatenate([first, second, third])[:, columns]
        np.testing.assert_array_equal(cells["expression"].to_numpy(), expected)
        assert cells["expression"].chunks[0] == (3, 2, 3, 3, 1, 3, 1)
        assert cells["gene"].values.tolist() == (genes or GENES)
        assert cells["cell"].values[[0, 4, 5, 11, 12, 15]].tolist() == ["a0", "a4", "b0", "b6", "c0", "c3"]
        assert cells["cluster"].values.tolist() == ["x"] * 5 + ["y"] * 7 + ["w"] * 4
        assert cluster_codes(cells)[1] == ("x", "y", "w")
        assert [Path(facts["path"]).name for facts in cells.attrs["sources"]] == ["one.h5ad", "two.h5ad", ""]


def test_a_source_that_lacks_genes_is_refused() -> None:
    whole = make(values())
    part = make(values()[:, :4], genes=["g0", "g1", "g2", "G7"])
    with pytest.raises(MissingKeyError, match=r"lacks gene 'g3', 'g4', .* and 3 more; genes present: .*'G7'"):
        open_cells([whole, part])
    with pytest.raises(MissingKeyError, match=r"lacks gene 'g7'; did you mean 'G7'"):
        open_cells([whole, part], genes=["g0", "g7"])
    # The other way round the first source decides, and the second has all it asks for.
    assert open_cells([make(values()[:, :2], genes=["g1", "g0"]), whole]).sizes["gene"] == 2


# --- tasks -------------------------------------------------------------------------------------------------


def task_bytes(cells: xr.Dataset) -> int:
    """Return the pickled size of the tasks of cells 16 to 40, as a worker would get them."""
    (part,) = dask.optimize(cells["expression"].data[16:40])
    return len(cloudpickle.dumps(part))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_a_slice_of_an_object_carries_its_own_rows_only(form: Callable[[Array], Any]) -> None:
    sizes = []
    for n_cells in (64, 6400):
        x = np.tile(values(0, 64, 50).astype(np.float32), (n_cells // 64, 1))
        sizes.append(task_bytes(open_cells(anndata.AnnData(form(x)), block_cells=16)))
    assert sizes[1] < sizes[0] + 200
    assert sizes[1] < 4 * 50 * 32 * 2.5 + 4000


@pytest.mark.filterwarnings(SCATTERED)
def test_tasks_of_files_carry_no_expression(folder: Path, tmp_path: Path) -> None:
    big = np.tile(values(), (60, 1))
    write_all(make(big), tmp_path, chunks=(500, N_GENES))
    for kind in ("h5ad", "zarr v2", "zarr v3"):
        for layout in LAYOUTS:
            small = task_bytes(open_cells(source(folder, kind), layer=layout, block_cells=8))
            large = task_bytes(open_cells(source(tmp_path, kind), layer=layout, block_cells=8))
            # Row pointers of a CSR matrix may travel along; expression would be 100 kB and more.
            pointers = 8 * (len(big) - N_CELLS) if layout in ("csr", "counts") else 0
            assert large - small < pointers + 2000, f"{kind}, {layout}"


@pytest.mark.parametrize("layout", ["dense", "chunked", "csr"])
def test_a_block_reads_its_own_rows_only(folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    cells = open_cells(folder / "atlas.h5ad", layer=layout, block_cells=10)
    read: dict[str, int] = {}
    original = h5py.Dataset.__getitem__

    def counted(self: h5py.Dataset, *args: Any, **kwargs: Any) -> Any:
        out = original(self, *args, **kwargs)
        read[self.name] = read.get(self.name, 0) + np.size(out)
        return out

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    block = cells["expression"][20:30].compute(scheduler="synchronous").to_numpy()
    monkeypatch.undo()
    expected = FACTORS[layout] * values()[20:30]
    np.testing.assert_array_equal(block, expected)
    if layout == "csr":
        assert read["/layers/csr/data"] == np.count_nonzero(expected)
    else:
        assert read[f"/layers/{layout}"] == expected.size


@pytest.mark.filterwarnings(SCATTERED)
def test_tasks_run_in_other_processes(folder: Path) -> None:
    expected = []
    parts = []
    for kind in ("h5ad", "zarr v2", "zarr v3", "memory"):
        for layout in LAYOUTS:
            cells = open_cells(source(folder, kind), layer=layout, genes=GENES[::-1], block_cells=30)
            parts.append(cells["expression"][28:].data)
            expected.append(FACTORS[layout] * values()[28:, ::-1])
    computed = dask.compute(*parts, scheduler="processes", num_workers=1)
    for part, want in zip(computed, expected, strict=True):
        np.testing.assert_array_equal(part, want)


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["h5ad", "zarr v2", "zarr v3"])
def test_relative_paths_outlive_a_change_of_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: str
) -> None:
    monkeypatch.chdir(folder)
    cells = open_cells(source(Path(), kind), layer=layout)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(cells["expression"].to_numpy(), FACTORS[layout] * values())


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["h5ad", "zarr v2", "zarr v3"])
def test_a_file_that_is_not_there_anymore_is_an_error_not_zeros(
    folder: Path, tmp_path: Path, kind: str, layout: str
) -> None:
    there = source(folder, kind)
    path = tmp_path / there.name
    shutil.copytree(there, path) if there.is_dir() else shutil.copy(there, path)
    cells = open_cells(path, layer=layout)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises((FileNotFoundError, KeyError)):
        cells["expression"].compute(scheduler="synchronous")


def test_opening_reads_no_expression(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = h5py.Dataset.__getitem__

    def guarded(self: h5py.Dataset, *args: Any, **kwargs: Any) -> Any:
        name = str(self.name)
        # Row pointers of CSR matrices are read at once: 8 bytes a cell.
        assert not name.startswith(("/X", "/layers")) or name.endswith("/indptr"), f"{name} was read"
        return original(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", guarded)
    for layout in ("dense", "chunked", "csr", "counts"):
        open_cells(folder / "atlas.h5ad", layer=layout, cluster_key="state")


# --- block sizes and warnings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_genes", "chunk", "expected"),
    [
        (2000, None, 1024),  # 8 MB
        (2000, 100, 1000),  # ten whole chunks
        (2000, 1024, 1024),
        (2000, 1500, 1500),  # one chunk, though more than a block
        (2000, 8192, 8192),
        (2000, 1, 1024),
        (10, None, 2048),
        (10, 3, 2046),
        (10_000_000, None, 16),
        (1, 1, 2048),
        (0, None, 2048),
    ],
)
def test_blocks_are_whole_chunks_of_about_8_mb(n_genes: int, chunk: int | None, expected: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabdaskWarning)
        assert block_rows(n_genes, chunk, "an atlas") == expected


def test_chunks_much_larger_than_a_block_are_warned_of(tmp_path: Path) -> None:
    n_genes, n_cells = 40_000, 300  # a block is 32 rows
    with h5py.File(tmp_path / "tall.h5ad", "w") as root:
        anndata.io.write_elem(root, "obs", pd.DataFrame(index=np.arange(n_cells).astype(str)))
        anndata.io.write_elem(root, "var", pd.DataFrame(index=np.arange(n_genes).astype(str)))
        root.create_dataset("X", (n_cells, n_genes), "f4", chunks=(n_cells, 10))  # holds nothing yet
    with pytest.warns(StabdaskWarning, match=r"tall.h5ad is chunked in 300 rows, more than .* of 32: each chunk is "
                                             r"read 10 times; rewrite it with smaller chunks") as caught:  # fmt: skip
        cells = open_cells(tmp_path / "tall.h5ad")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert cells["expression"].chunks[0][0] == 32


def test_scattered_rows_are_warned_of(folder: Path) -> None:
    text = r"atlas.h5ad stores the layer by columns \(CSC\): each of 5 blocks scans all of it, 0.0 GB .*\.tocsr\(\)"
    with pytest.warns(StabdaskWarning, match=text) as caught:
        open_cells(folder / "atlas.h5ad", layer="csc", block_cells=8)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabdaskWarning)
        for layer in (None, "dense", "chunked", "csr"):
            open_cells(folder / "atlas.h5ad", layer=layer)
        # In memory, columns become rows once.
        open_cells(anndata.read_h5ad(folder / "atlas.h5ad"), layer="csc")


@pytest.mark.filterwarnings(SCATTERED)
@pytest.mark.parametrize("entries", [1, 7, 50])
def test_csc_matrices_are_scanned_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Empty columns at the start, in the middle and at the end; pieces smaller than a column."""
    monkeypatch.setattr("stabdask.atlas.matrix_blocks._SCAN_ENTRIES", entries)
    x = values()
    x[:, [0, 1, 5, N_GENES - 1]] = 0
    x[12] = 0
    make(x).write_h5ad(tmp_path / "holes.h5ad")
    for genes in (None, ["g9", "g1", "g4"]):
        cells = open_cells(tmp_path / "holes.h5ad", layer="csc", genes=genes, block_cells=6)
        columns = slice(None) if genes is None else [9, 1, 4]
        np.testing.assert_array_equal(cells["expression"].to_numpy(), 5 * x[:, columns])


# --- labels ------------------------------------------------------------------------------------------------

LABELS = {
    "categories in their order": (
        pd.Categorical(["t", "s", None, "t"], categories=["unused", "t", "s"]),
        ["t", "s", None, "t"],
        ("t", "s"),
    ),
    "text is sorted": (["b", "a/c", "ü →", "../x"], ["b", "a/c", "ü →", "../x"], ("../x", "a/c", "b", "ü →")),
    "missing text": (pd.array(["b", None, "a", "b"], dtype=object), ["b", None, "a", "b"], ("a", "b")),
    "integers, by value": ([10, 9, 10, 2], ["10", "9", "10", "2"], ("2", "9", "10")),
    "whole floats": ([1.0, np.nan, 0.0, 1.0], ["1", None, "0", "1"], ("0", "1")),
    "fractions": ([0.5, 0.25, 0.5, 2.0], ["0.5", "0.25", "0.5", "2"], ("0.25", "0.5", "2")),
    "booleans": ([True, False, False, True], ["True", "False", "False", "True"], ("False", "True")),
    "nullable integers": (pd.array([3, None, 1, 3], dtype="Int64"), ["3", None, "1", "3"], ("1", "3")),
    "nullable booleans": (pd.array([True, None, True, None], dtype="boolean"), ["True", None] * 2, ("True",)),
    "integer categories": (
        pd.Categorical([0, 1, 1, 2], categories=[2, 1, 0]),
        ["0", "1", "1", "2"],
        ("2", "1", "0"),
    ),
    "nothing but missing": (pd.Categorical([None] * 4, categories=["a"]), [None] * 4, ()),
}


@pytest.mark.parametrize("where", ["memory", "h5ad", "zarr", "backed", "lazy"])
@pytest.mark.parametrize("case", list(LABELS), ids=lambda name: name.replace(" ", "_"))
def test_labels(tmp_path: Path, case: str, where: str) -> None:
    column, expected, order = LABELS[case]
    adata = anndata.AnnData(np.ones((4, 2), np.float32), obs=pd.DataFrame({"k": column}, index=list("wxyz")))
    given: Any = adata
    if where == "zarr":
        with anndata.settings.override(zarr_write_format=3):
            adata.write_zarr(tmp_path / "a.zarr")
        given = tmp_path / "a.zarr"
    elif where != "memory":
        adata.write_h5ad(tmp_path / "a.h5ad")
        given = {
            "h5ad": lambda path: path,
            "backed": lambda path: anndata.read_h5ad(path, backed="r"),
            "lazy": read_lazy,
        }[where](tmp_path / "a.h5ad")
    cells = open_cells(given, cluster_key="k")
    assert labels_of(cells["cluster"]) == expected
    codes, labels = cluster_codes(cells)
    assert labels == order
    assert [labels[code] if code >= 0 else None for code in codes] == expected


def test_without_a_key_there_is_one_cluster(folder: Path) -> None:
    for kind in KINDS:
        cells = open_cells(source(folder, kind))
        assert set(cells["cluster"].values) == {"all"}
        assert cluster_codes(cells)[1] == ("all",)


def test_cluster_codes_of_datasets_made_by_hand() -> None:
    def coded(given: list[Any], **attrs: Any) -> tuple[list[int], tuple[str, ...]]:
        cells = xr.Dataset(coords={"cluster": ("cell", np.asarray(given, dtype=object), attrs)})
        codes, names = cluster_codes(cells)
        assert codes.dtype == np.int32
        return codes.tolist(), names

    assert coded(["b", "a", None, "b"]) == ([1, 0, -1, 1], ("a", "b"))
    assert coded(["b", "a", np.nan, "c"], labels=["c", "x", "a"]) == ([2, 1, -1, 0], ("c", "a", "b"))
    assert coded([2, 10, 2]) == ([1, 0, 1], ("10", "2"))
    assert coded([]) == ([], ())
    # What selecting cells leaves behind: labels without cells are left out.
    cells = open_cells(make(values(), states=np.resize(["p", "q"], N_CELLS)), cluster_key="state")
    assert cluster_codes(cells.isel(cell=slice(1, None, 2)))[1] == ("q",)


def test_cells_without_names_are_numbered() -> None:
    cells = open_cells(make(values()))
    assert cell_names(cells)[:2].tolist() == ["c0", "c1"]
    assert cell_names(cells.drop_vars("cell"))[:2].tolist() == [0, 1]


# --- files of older releases -------------------------------------------------------------------------------


def test_files_of_anndata_0_7_are_read(tmp_path: Path) -> None:
    """Dense arrays without an encoding, categories beside the columns: the layout of 2020."""
    text = h5py.string_dtype()
    with h5py.File(tmp_path / "old.h5ad", "w") as root:
        root["X"] = values().astype(np.float32)
        counts = root.create_group("layers").create_group("counts")
        counts.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        counts.attrs["shape"] = (N_CELLS, N_GENES)
        matrix = sparse.csr_matrix(values())
        for part in ("data", "indices", "indptr"):
            counts[part] = getattr(matrix, part)
        for frame, names in (("obs", [f"c{i}" for i in range(N_CELLS)]), ("var", GENES)):
            group = root.create_group(frame)
            group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
            group.attrs.create("column-order", ["state"] if frame == "obs" else [], dtype=text)
            group["index"] = np.asarray(names, dtype=text)
        root["obs/__categories/state"] = np.asarray(["late", "early"], dtype=text)
        root["obs/state"] = np.resize(np.array([0, 1, 1], np.int8), N_CELLS)
        root["obs/state"].attrs["categories"] = root["obs/__categories/state"].ref
    oracle = anndata.read_h5ad(tmp_path / "old.h5ad")
    for layer in (None, "counts"):
        cells = open_cells(tmp_path / "old.h5ad", layer=layer, cluster_key="state", block_cells=10)
        np.testing.assert_array_equal(cells["expression"].to_numpy(), values())
        assert cells["cell"].values.tolist() == oracle.obs_names.tolist()
        assert cells["cluster"].values.tolist() == oracle.obs["state"].tolist()
        assert cluster_codes(cells)[1] == ("late", "early")
    with pytest.raises(MissingKeyError, match=r"no column 'State' in obs of old\.h5ad; did you mean 'state'"):
        open_cells(tmp_path / "old.h5ad", cluster_key="State")


def test_files_older_than_that_are_refused_with_advice(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ancient.h5ad", "w") as root:
        root["X"] = values()
        for frame, n in (("obs", N_CELLS), ("var", N_GENES)):
            root[frame] = np.array([(f"n{i}".encode(),) for i in range(n)], dtype=[("index", "S5")])
    with pytest.raises(InputError, match=r"older than 0\.7; write it anew with anndata\.read_h5ad"):
        open_cells(tmp_path / "ancient.h5ad")
    # The advice helps.
    anndata.read_h5ad(tmp_path / "ancient.h5ad").write_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(open_cells(tmp_path / "new.h5ad")["expression"].to_numpy(), values())


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_missing_keys_name_near_misses(folder: Path, kind: str) -> None:
    given = source(folder, kind)
    with pytest.raises(MissingKeyError, match=r"^no layer 'Dense' in .*; did you mean 'dense'"):
        open_cells(given, layer="Dense")
    with pytest.raises(MissingKeyError, match=r"^no layer 'zzz' in .*; layers present: .*'csc'"):
        open_cells(given, layer="zzz")
    with pytest.raises(MissingKeyError, match=r"^no column 'states' in obs of .*; did you mean 'state'"):
        open_cells(given, cluster_key="states")
    with pytest.raises(MissingKeyError, match=r"lacks gene 'G3'; did you mean 'g3'"):
        open_cells(given, genes=["g1", "G3"])
    with pytest.raises(KeyError):
        open_cells(given, layer="Dense")


def test_an_atlas_without_x_names_its_layers(tmp_path: Path) -> None:
    adata = make(values())
    del adata.X
    adata.write_h5ad(tmp_path / "no_x.h5ad")
    with anndata.settings.override(zarr_write_format=3):
        adata.write_zarr(tmp_path / "no_x.zarr")
    for given in (adata, tmp_path / "no_x.h5ad", tmp_path / "no_x.zarr"):
        with pytest.raises(MissingKeyError, match=r"has no X; choose a layer: .*'dense'"):
            open_cells(given)
        assert open_cells(given, layer="dense").sizes["cell"] == N_CELLS
    bare = anndata.AnnData(obs=adata.obs, var=adata.var)
    with pytest.raises(MissingKeyError, match="has no X; choose a layer: none"):
        open_cells(bare)


def test_paths_that_are_no_atlas(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_text("not HDF5")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "plain.h5", "w") as root:
        root["x"] = 1.0
    cases = {
        "cell.h5ad": (MissingFileError, r"no atlas at .*cell\.h5ad; files of that kind there: cells\.h5ad"),
        "nowhere/cells.h5ad": (MissingFileError, r"the folder .*nowhere does not exist"),
        "cells.h5ad": (InputError, r"cells\.h5ad is neither an h5ad file nor a zarr AnnData"),
        "folder": (MissingFileError, r"folder is not a Zarr group"),
        "plain.h5": (InputError, r"plain\.h5 has no 'obs'; expected an AnnData file"),
    }
    for name, (error, text) in cases.items():
        for given in (tmp_path / name, str(tmp_path / name), [tmp_path / name]):
            with pytest.raises(error, match=text):
                open_cells(given)


@pytest.mark.parametrize("given", [5, None, np.eye(3), {"X": 1}, pd.DataFrame(np.eye(3))])
def test_objects_that_are_no_atlas(given: Any) -> None:
    with pytest.raises(InputError, match=f"expected a path or an AnnData, found {type(given).__name__}"):
        open_cells(given)


def test_matrices_that_are_neither_dense_nor_sparse(folder: Path, tmp_path: Path) -> None:
    anndata.read_h5ad(folder / "atlas.h5ad").write_h5ad(tmp_path / "odd.h5ad")
    with h5py.File(tmp_path / "odd.h5ad", "a") as root:
        del root["X"], root["layers/dense"], root["layers/csr"]
        anndata.io.write_elem(root, "X", None)
        anndata.io.write_elem(root["layers"], "dense", pd.DataFrame(values(), columns=GENES))
        anndata.io.write_elem(root["layers"], "csr", sparse.csr_matrix(values()[:, 1:]))
    with pytest.raises(
        InputError, match=r"layers/dense of odd\.h5ad is stored as 'dataframe'; expected a dense"
    ):
        open_cells(tmp_path / "odd.h5ad", layer="dense")
    with pytest.raises(InputError, match=r"X of odd\.h5ad is stored as 'null'; expected a dense"):
        open_cells(tmp_path / "odd.h5ad")
    with pytest.raises(
        InputError, match=r"layers/csr of odd\.h5ad has shape \(37, 10\); expected \(37, 11\)"
    ):
        open_cells(tmp_path / "odd.h5ad", layer="csr")


@pytest.mark.filterwarnings(SCATTERED)
def test_an_atlas_without_cells_is_refused(tmp_path: Path) -> None:
    empty = make(values())[:0].copy()
    empty.write_h5ad(tmp_path / "empty.h5ad")
    with anndata.settings.override(zarr_write_format=3):
        empty.write_zarr(tmp_path / "empty.zarr")
    for given in (empty, tmp_path / "empty.h5ad", tmp_path / "empty.zarr"):
        for layer in (None, *LAYOUTS):
            with pytest.raises(InputError, match="has no cells"):
                open_cells(given, layer=layer)
    # Beside others it does no harm.
    both = open_cells([empty, make(values()), tmp_path / "empty.h5ad"])
    np.testing.assert_array_equal(both["expression"].to_numpy(), values())


def test_repeated_genes_are_refused(tmp_path: Path) -> None:
    twice = make(values(), genes=["g0", "g0", *GENES[2:]])
    twice.write_h5ad(tmp_path / "twice.h5ad")
    for given in (twice, tmp_path / "twice.h5ad", [make(values()), twice]):
        for genes in (None, ["g4"]):
            with pytest.raises(
                InputError, match=r"gene names repeat in .*\('g0'\); make them unique, e\.g\. adata"
            ):
                open_cells(given, genes=genes)
    with pytest.raises(InputError, match=r"gene names repeat in genes= \('g4'\); name each once"):
        open_cells(make(values()), genes=["g4", "g1", "g4"])
    # What the message advises helps, also for an object whose file keeps the repeated names.
    backed = anndata.read_h5ad(tmp_path / "twice.h5ad", backed="r")
    backed.var_names_make_unique()
    np.testing.assert_array_equal(open_cells(backed)["expression"].to_numpy(), values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"block_cells": 0}, "block_cells=0; expected at least 1"),
        ({"block_cells": -3}, "block_cells=-3; expected at least 1"),
        ({"genes": []}, r"genes=\[\]; expected a sequence of gene names"),
        ({"genes": "g1"}, "genes='g1'; expected a sequence of gene names"),
    ],
)
def test_impossible_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        open_cells(make(values()), **options)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one source"):
        open_cells([])


def test_facts_tell_files_apart(folder: Path, tmp_path: Path) -> None:
    """What a fingerprint is made of changes with the file, the element and the key, and with nothing else."""
    path = folder / "atlas.h5ad"
    facts = open_cells(path, layer="csr", cluster_key="state").attrs["sources"][0]
    assert facts == open_cells(str(path), layer="csr", cluster_key="state", genes=["g1"]).attrs["sources"][0]
    assert facts["path"] == str(path.resolve())
    assert facts["bytes"] == path.stat().st_size
    assert facts["element"] == "layers/csr"
    for options in ({"layer": "dense", "cluster_key": "state"}, {"layer": "csr"}):
        assert open_cells(path, **options).attrs["sources"][0] != facts
    copy = tmp_path / "atlas.h5ad"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    changed = open_cells(copy, layer="csr", cluster_key="state").attrs["sources"][0]
    assert {key for key in facts if facts[key] != changed[key]} == {"path", "modified_ns"}
