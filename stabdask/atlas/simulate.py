"""Atlases of any size with a known velocity field: simulated myeloid differentiation, written block by block.

The regulators of a few hundred trajectories are integrated once; a cell is one stored moment of one of them,
with its target genes at steady state, its own measurement noise and its own dropout. A block of cells depends
on the seed and its number only, so memory does not grow with the atlas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.krumsiek import CLUSTERS, TRANSCRIPTION_FACTORS, Network, grow_network, network_field
from stabdask.atlas.sampler import CellBlock, CellSampler, random_stream
from stabdask.errors import OutputError, StoreMismatchError, UsageError
from stabdask.files import new_file
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["SimulatedAtlas", "simulate_atlas"]

_BATCHES = ("batch1", "batch2")


@dataclass(frozen=True)
class SimulatedAtlas:
    """What `simulate_atlas` wrote.

    Attributes
    ----------
    cells
        The h5ad file of the cells.
    field
        The saved `HopfieldField` the cells were simulated with.
    n_cells, n_genes
        Size of the expression matrix.
    clusters
        Every cluster label of the field; small atlases may have no cell of some of them.
    layer, cluster_key
        Where in the h5ad file expression and cluster labels are.
    """

    cells: Path
    field: Path
    n_cells: int
    n_genes: int
    clusters: tuple[str, ...]
    layer: str
    cluster_key: str


def simulate_atlas(
    path: str | Path,
    *,
    n_cells: int = 20_000,
    n_genes: int = 500,
    n_regulators: int = 11,
    zero_fraction: float = 0.2,
    seed: int = 0,
    layer: str = "M_t",
    cluster_key: str = "cell_type",
    block_cells: int = 4096,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> SimulatedAtlas:
    """Simulate myeloid differentiation and write its cells and its velocity field.

    The folder gets ``field.zarr`` and ``cells.h5ad``: the layer of expression, ``obs`` with cluster,
    pseudotime and batch (a label without an effect), and in ``obsm`` two embeddings of the transcription
    factors before dropout, ``X_pca`` (principal components) and ``X_fate`` (the tree of cell types).
    Both appear only when they are complete.

    Parameters
    ----------
    path
        Folder to write to; made if missing.
    n_cells
        Number of cells.
    n_genes
        Number of genes: 11 transcription factors (see `stabdask.atlas.krumsiek`), then further regulators,
        then targets.
    n_regulators
        Number of genes that regulate others, from 11 to `n_genes`.
    zero_fraction
        Fraction of zeros in the expression matrix, over its transcription factors, its other regulators and
        its targets alike. Genes with little expression drop out first.
    seed
        Everything drawn follows from it.
    layer, cluster_key
        Names of the layer of expression and of the column of cluster labels.
    block_cells
        Cells drawn from one stream of random numbers and written at once: another value draws other cells.
    overwrite
        Replace what an earlier simulation left in the folder.
    progress
        Called with the number of cells done and `n_cells` after each block.

    Returns
    -------
    SimulatedAtlas

    Raises
    ------
    UsageError
        If an option is out of range.
    StoreMismatchError
        If the folder has an atlas and `overwrite` is false.
    OutputError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import anndata
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atlas = simulate_atlas(folder, n_cells=100, n_genes=20)
    ...     anndata.read_h5ad(atlas.cells).layers["M_t"].shape
    (100, 20)
    """
    _check_sizes(n_cells, n_genes, n_regulators, block_cells)
    _check_options(zero_fraction, seed, layer, cluster_key)
    folder = Path(path)
    cells, saved_field = folder / "cells.h5ad", folder / "field.zarr"
    if not overwrite:
        _refuse_existing(cells, saved_field)
    layout = _Layout(n_cells, block_cells, layer, cluster_key)
    with single_threaded_blas(), new_file(cells) as temporary:
        network = grow_network(n_genes, n_regulators, random_stream(seed, "network"))
        sampler = CellSampler.of(network, zero_fraction, seed)
        _write_cells(temporary, network, layout, _blocks(sampler, layout, seed), progress)
        # An old atlas goes first: cells never lie beside a field that is not theirs.
        cells.unlink(missing_ok=True)
        field = network_field(network, CLUSTERS, random_stream(seed, "field"))
        field.save(saved_field, overwrite=overwrite)
    return SimulatedAtlas(cells, saved_field, n_cells, n_genes, CLUSTERS, layer, cluster_key)


@dataclass(frozen=True)
class _Layout:
    """How many cells, in what blocks, under what names."""

    n_cells: int
    block_cells: int
    layer: str
    cluster_key: str


def _check_sizes(n_cells: int, n_genes: int, n_regulators: int, block_cells: int) -> None:
    n_factors = len(TRANSCRIPTION_FACTORS)
    if n_cells < 1:
        raise UsageError(f"n_cells is {n_cells}; expected at least 1")
    if block_cells < 1:
        raise UsageError(f"block_cells is {block_cells}; expected at least 1")
    if n_regulators < n_factors:
        raise UsageError(
            f"n_regulators is {n_regulators}; expected at least {n_factors}, the transcription factors"
        )
    if n_genes < n_regulators:
        raise UsageError(
            f"n_genes is {n_genes}, fewer than n_regulators = {n_regulators}: regulators are genes too; "
            "raise n_genes or lower n_regulators"
        )


def _check_options(zero_fraction: float, seed: int, layer: str, cluster_key: str) -> None:
    if not 0.0 <= zero_fraction <= 0.95:
        raise UsageError(f"zero_fraction is {zero_fraction}; expected a fraction from 0 to 0.95")
    if seed < 0:
        raise UsageError(f"seed is {seed}; expected an integer >= 0")
    for option, name in (("layer", layer), ("cluster_key", cluster_key)):
        if not name or "/" in name:
            raise UsageError(f"{option} is {name!r}; expected a name that is not empty and has no '/'")
    taken = ("_index", "pseudotime", "batch")
    if cluster_key in taken:
        raise UsageError(f"cluster_key is {cluster_key!r}, a column the atlas has already; choose another")


def _refuse_existing(*targets: Path) -> None:
    for target in targets:
        try:
            exists = target.exists()
        except OSError as error:
            raise OutputError(f"cannot look into {target.parent}: {error.strerror or error}") from error
        if exists:
            raise StoreMismatchError(
                f"{target} exists; choose another folder, or ask to overwrite (overwrite=True)"
            )


def _blocks(sampler: CellSampler, layout: _Layout, seed: int) -> Iterator[tuple[slice, CellBlock]]:
    """Draw the cells, each block from its own stream; a block lasts until the next is asked for."""
    largest = min(layout.block_cells, layout.n_cells)
    memory = np.empty((largest, sampler.n_genes), dtype=np.float32)
    for number, start in enumerate(range(0, layout.n_cells, largest)):
        n = min(largest, layout.n_cells - start)
        rng = np.random.default_rng([seed, number])
        yield slice(start, start + n), sampler.draw(n, rng, out=memory[:n])


def _write_cells(
    path: Path,
    network: Network,
    layout: _Layout,
    blocks: Iterator[tuple[slice, CellBlock]],
    progress: Callable[[int, int], object] | None,
) -> None:
    """Write an AnnData file without ever holding more than a block of it.

    The encoding attributes are those of AnnData's on-disk format, which lets a column be filled in parts.
    """
    import h5py

    n_cells = layout.n_cells
    with h5py.File(path, "w") as file:
        _write_frame_of_anndata(file, network)
        obs = _new_frame(file, "obs", [layout.cluster_key, "pseudotime", "batch"])
        names = obs.create_dataset("_index", shape=(n_cells,), dtype=h5py.string_dtype())
        _encode(names, "string-array", "0.2.0")
        cluster = _new_categorical(obs, layout.cluster_key, CLUSTERS, n_cells)
        batch = _new_categorical(obs, "batch", _BATCHES, n_cells)
        pseudotime = _new_array(obs, "pseudotime", (n_cells,), np.float64)
        expression = _new_array(file["layers"], layout.layer, (n_cells, len(network.genes)), np.float32)
        pca, fate = (_new_array(file["obsm"], key, (n_cells, 2), np.float32) for key in ("X_pca", "X_fate"))
        for rows, block in blocks:
            expression[rows] = block.expression
            pca[rows], fate[rows] = block.pca, block.fate
            names[rows] = [f"cell_{cell:07d}" for cell in range(rows.start, rows.stop)]
            cluster[rows], batch[rows], pseudotime[rows] = block.cluster, block.batch, block.pseudotime
            if progress is not None:
                progress(rows.stop, n_cells)


def _write_frame_of_anndata(file: Any, network: Network) -> None:
    """Write everything of an AnnData file that does not grow with the number of cells."""
    from anndata.io import write_elem

    _encode(file, "anndata", "0.1.0")
    for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        write_elem(file, name, {})
    var = _new_frame(file, "var", ["regulator"])
    write_elem(var, "_index", np.array(network.genes, dtype=object))
    write_elem(var, "regulator", np.arange(len(network.genes)) < network.n_regulators)


def _new_frame(file: Any, name: str, columns: list[str]) -> Any:
    import h5py

    frame = file.create_group(name)
    order = np.array(columns, dtype=h5py.string_dtype())
    _encode(frame, "dataframe", "0.2.0", {"_index": "_index", "column-order": order})
    return frame


def _encode(node: Any, kind: str, version: str, more: dict[str, Any] | None = None) -> None:
    node.attrs.update({"encoding-type": kind, "encoding-version": version, **(more or {})})


def _new_array(group: Any, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    array = group.create_dataset(name, shape=shape, dtype=dtype, fill_time="never")
    _encode(array, "array", "0.2.0")
    return array


def _new_categorical(obs: Any, name: str, categories: tuple[str, ...], n_cells: int) -> Any:
    from anndata.io import write_elem

    group = obs.create_group(name)
    _encode(group, "categorical", "0.2.0", {"ordered": False})
    write_elem(group, "categories", np.array(categories, dtype=object))
    return _new_array(group, "codes", (n_cells,), np.int8)
