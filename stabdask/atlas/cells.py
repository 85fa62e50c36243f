"""`open_cells`: an atlas as a lazy, labelled Dataset whose expression comes in whole-row blocks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.annotation_sources import cluster_colors, read_annotations
from stabdask.atlas.annotations import attach_annotations, requested_names
from stabdask.atlas.sources import CellSource, open_cell_source
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError, near_misses

if TYPE_CHECKING:
    import xarray as xr
    from anndata import AnnData

__all__ = ["block_rows", "cell_names", "cell_state", "cluster_codes", "open_cells"]

_BLOCK_BYTES = 8 * 2**20
_MOST_ROWS = 2048
_FEWEST_ROWS = 16


def open_cells(
    source: AnnData | str | Path | Sequence[AnnData | str | Path],
    *,
    layer: str | None = None,
    cluster_key: str | None = None,
    genes: Sequence[str] | None = None,
    obsm: str | None = None,
    block_cells: int | None = None,
    obs_keys: Sequence[str] | Mapping[str, str] | None = None,
    embeddings: Sequence[str] | Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Open an atlas lazily.

    Parameters
    ----------
    source
        An h5ad file (dense, CSR or CSC), a zarr AnnData on a disk or in a bucket (``s3://bucket/atlas.zarr``), an
        AnnData object (in memory, backed or lazy), or a
        list of these that is read as one atlas, in the order given.
    layer
        Layer with the expression; ``X`` if not given.
    cluster_key
        Column of `obs` with cluster labels. Without one, every cell belongs to the cluster ``"all"``.
    genes
        Keep only these genes, in this order (``field.genes`` spares holding the others). All genes of the
        first source if not given.
    obsm
        Key of `obsm` with coordinates of cells, such as ``"X_pca"``, for a field that lives on its axes; they take the
        place of expression.
    block_cells
        Cells in a block; by default about 8 MB of expression, whole chunks of the file where it has chunks.
    obs_keys
        Columns of `obs` to bring along into results, or a mapping of new names to columns. Categories, strings
        and booleans (``"False"``, ``"True"``) become labels, integers and floats become numbers.
    embeddings
        Keys of `obsm` to bring along, of at most 50 columns, or a mapping of new names to keys.

    Returns
    -------
    xarray.Dataset
        ``expression(cell, gene)`` on Dask, in blocks of whole rows, in the units of the layer (with `obsm`
        ``coordinates(cell, axis)``, axes named ``pca_1``, ``pca_2`` and so on); coordinates
        ``cell``, ``gene`` and ``cluster(cell)`` (NaN where a cell has no label). Columns brought along are
        coordinates ``<name>(cell)``: labels are strings, NaN for none, in the order of ``attrs["labels"]``, with
        ``attrs["colors"]`` where ``uns["<column>_colors"]`` has them; numbers are float64. Embeddings are variables
        ``<name>(cell, <name>_axis)``. ``cluster`` has its colors too, where they are known.

    Raises
    ------
    MissingFileError
        If a path does not exist.
    MissingKeyError
        If a layer, column, embedding or gene is missing; the message names near misses.
    InputError
        If gene names repeat, there are no cells, a file is no AnnData, or what is to be brought along is neither
        label nor number nor embedding.
    UsageError
        If a name to bring along is one that results use themselves, such as ``status`` or ``speed``.

    Notes
    -----
    Nothing but names and labels is read until the expression is computed, and tasks carry paths, not data, so
    the Dataset works on process and remote workers that see the same paths. Rows of a CSC matrix are scattered
    over the whole file: each block scans it once, and a warning says so.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"state": ["a", "a", "b"]}, index=["c1", "c2", "c3"])
    >>> adata = anndata.AnnData(np.eye(3, dtype="float32"), obs=obs)
    >>> cells = open_cells(adata, cluster_key="state")
    >>> dict(cells.sizes), cells.cluster.values.tolist()
    ({'cell': 3, 'gene': 3}, ['a', 'a', 'b'])
    >>> open_cells(adata, obs_keys={"kind": "state"}).kind.attrs
    {'annotation': 'label', 'labels': ['a', 'b']}
    """
    import dask.array as da
    import xarray as xr

    items = list(source) if isinstance(source, list | tuple) else [source]
    if not items:
        raise UsageError("open_cells needs at least one source")
    if isinstance(genes, str) or (genes is not None and not len(genes)):
        raise UsageError(f"genes={genes!r}; expected a sequence of gene names, or None for all")
    if block_cells is not None and block_cells < 1:
        raise UsageError(f"block_cells={block_cells}; expected at least 1")
    if obsm is not None and (layer is not None or genes is not None):
        given = "layer" if layer is not None else "genes"
        raise UsageError(f"obsm={obsm!r} and {given} were given; coordinates take the place of expression")
    keys, arrays = requested_names(obs_keys, embeddings)
    opened = [open_cell_source(item, layer=layer, cluster_key=cluster_key, obsm=obsm) for item in items]
    names = np.asarray(opened[0].genes if genes is None else [str(gene) for gene in genes], dtype=np.str_)
    _check_unique(names, opened[0].name if genes is None else "genes=")
    parts = []
    for part in opened:
        columns = _columns(part, names)
        rows = block_cells or block_rows(len(part.genes), part.chunk_rows, part.name)
        parts.append(part.blocks(rows, columns))
        _warn_if_scattered(part, rows)
    n_cells = sum(len(part.cells) for part in opened)
    _warn_if_repeated(np.concatenate([part.cells for part in opened]), n_sources=len(opened))
    if n_cells == 0:
        raise InputError(f"{', '.join(part.name for part in opened)} has no cells")
    brought = read_annotations(items, opened, keys, arrays)
    labels = list(dict.fromkeys(label for part in opened for label in part.label_order))
    colors = cluster_colors(items, opened, cluster_key)
    attrs: dict[str, Any] = {"labels": labels}
    if labels and all(label in colors for label in labels):
        attrs["colors"] = [colors[label] for label in labels]
    variable, dim = ("expression", "gene") if obsm is None else ("coordinates", "axis")
    place = {"layer": layer or "X"} if obsm is None else {"obsm": obsm}
    cells = xr.Dataset(
        {variable: (("cell", dim), da.concatenate(parts, axis=0))},
        coords={
            "cell": np.concatenate([part.cells for part in opened]),
            dim: names.astype(object),
            "cluster": (
                "cell",
                np.concatenate([part.labels for part in opened]),
                attrs,
            ),
        },
        attrs={
            **place,
            "cluster_key": cluster_key or "",
            "sources": [part.facts for part in opened],
        },
    )
    return attach_annotations(cells, brought)


def cell_state(cells: xr.Dataset) -> xr.DataArray:
    """Return what fields are evaluated at: ``expression (cell, gene)`` or ``coordinates (cell, axis)``.

    Raises
    ------
    MissingKeyError
        If the cells have neither.
    """
    for name in ("expression", "coordinates"):
        if name in getattr(cells, "variables", {}):
            return cells[name]
    raise MissingKeyError(
        "the cells have neither 'expression' nor 'coordinates'; expected a Dataset from open_cells"
    )


def cell_names(cells: xr.Dataset) -> npt.NDArray[Any]:
    """Return the names of the cells, or their numbers where they have none, ``(cell,)``."""
    return cells["cell"].to_numpy() if "cell" in cells.coords else np.arange(cells.sizes["cell"])


def cluster_codes(cells: xr.Dataset) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return the cluster of every cell as a number, -1 for none, and the labels the numbers stand for.

    Labels keep the order of their categories where they came from a categorical column, and are sorted
    otherwise; labels that no cell has are left out.
    """
    import pandas as pd

    values = cells["cluster"].to_numpy()
    codes, uniques = pd.factorize(np.asarray(values, dtype=object), use_na_sentinel=True)
    present = [str(label) for label in uniques]
    found = set(present)
    order = [label for label in cells["cluster"].attrs.get("labels", []) if label in found]
    labels = order + sorted(found - set(order))
    position = {label: number for number, label in enumerate(labels)}
    lookup = np.asarray([position[label] for label in present] + [-1], dtype=np.int32)
    return lookup[codes], tuple(labels)


def block_rows(n_genes: int, chunk_rows: int | None, name: str) -> int:
    """Return how many rows to read at a time: about 8 MB, in whole chunks of the file where it has chunks."""
    rows = _BLOCK_BYTES // (4 * max(1, n_genes))
    rows = 1 << (min(max(rows, _FEWEST_ROWS), _MOST_ROWS).bit_length() - 1)
    if chunk_rows is None:
        return rows
    if chunk_rows <= 8 * rows:
        return int(chunk_rows * max(1, rows // chunk_rows))
    warnings.warn(
        f"{name} is chunked in {chunk_rows:,} rows, more than fits a block of {rows:,}: each chunk is read "
        f"{-(-chunk_rows // rows)} times; rewrite it with smaller chunks if reading is slow",
        StabdaskWarning,
        stacklevel=3,
    )
    return rows


def _columns(part: CellSource, names: npt.NDArray[np.str_]) -> npt.NDArray[np.intp] | None:
    """Return where the wanted genes are in a source, or None if it has just them in order."""
    if np.array_equal(part.genes, names):
        return None
    _check_unique(part.genes, part.name)
    where = {str(gene): position for position, gene in enumerate(part.genes)}
    missing = [str(gene) for gene in names if str(gene) not in where]
    if missing:
        hint = near_misses(missing[0], where, noun="genes")
        shown = ", ".join(repr(gene) for gene in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise MissingKeyError(f"{part.name} lacks gene {shown}{more}; {hint}")
    return np.asarray([where[str(gene)] for gene in names], dtype=np.intp)


def _check_unique(names: npt.NDArray[np.str_], where: str) -> None:
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        repeated = ", ".join(repr(str(name)) for name in unique[counts > 1][:5])
        cure = (
            "name each once" if where == "genes=" else "make them unique, e.g. adata.var_names_make_unique()"
        )
        raise InputError(f"gene names repeat in {where} ({repeated}); {cure}")


def _warn_if_repeated(names: npt.NDArray[Any], *, n_sources: int) -> None:
    """Warn before the run where cells share names, by which exports match them."""
    import pandas as pd

    n_repeated = int(pd.Index(names).duplicated().sum())
    if n_repeated:
        twice = ": is a source given twice?" if n_sources > 1 else "."
        warnings.warn(
            f"{n_repeated:,} cells have names that other cells have too{twice} Results cannot be matched to them by "
            "name; make obs_names unique, e.g. with a prefix for each sample",
            StabdaskWarning,
            stacklevel=3,
        )


def _warn_if_scattered(part: CellSource, rows: int) -> None:
    if not part.scattered:
        return
    scans = -(-len(part.cells) // rows)
    warnings.warn(
        f"{part.name} stores the layer by columns (CSC): each of {scans:,} blocks scans all of it, "
        f"{scans * part.n_bytes / 1e9:.1f} GB read in total; for a large atlas convert it once "
        "(adata.layers[...] = adata.layers[...].tocsr())",
        StabdaskWarning,
        stacklevel=3,
    )
