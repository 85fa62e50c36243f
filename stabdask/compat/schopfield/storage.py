"""HDF5 files of eigenvalues and eigenvectors, in scHopfield's layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.compat.memory import refuse_memory
from stabdask.errors import InputError, MissingKeyError
from stabdask.fields.parameter_source import AnnDataSource
from stabdask.fields.schopfield import used_genes
from stabdask.files import existing_path, new_file

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["EIGENVALUES", "EIGENVECTORS", "load_jacobians", "read_eigenvalues", "save_jacobians"]

EIGENVALUES = "jacobian_eigenvalues"
EIGENVECTORS = "jacobian_eigenvectors_temp"

_BLOCK_BYTES = 32 * 2**20


def save_jacobians(
    adata: AnnData,
    filename: str | Path,
    cluster_key: str = "cell_type",
    compression: str | None = "gzip",
) -> None:
    """Write the eigenvalues, and eigenvectors if there are any, to an HDF5 file that scHopfield reads too.

    Parameters
    ----------
    adata
        With ``obsm["jacobian_eigenvalues"]``, ``uns["jacobian_eigenvectors_temp"]`` or both, as
        `compute_jacobians` leaves them. The eigenvectors are deleted from `uns` once they are on disk.
    filename
        Replaced only by a complete file.
    cluster_key
        Noted in the file.
    compression
        Of HDF5: ``"gzip"``, ``"lzf"`` or None.

    Raises
    ------
    MissingKeyError
        If there is nothing to write.
    OutputError
        If the file cannot be written.
    """
    import h5py

    arrays: dict[str, npt.NDArray[Any]] = {}
    if EIGENVALUES in adata.obsm:
        arrays["eigenvalues"] = np.asarray(adata.obsm[EIGENVALUES])
    if EIGENVECTORS in adata.uns:
        arrays["eigenvectors"] = np.asarray(adata.uns[EIGENVECTORS]["data"])
    if not arrays:
        raise MissingKeyError(
            f"the AnnData has neither obsm[{EIGENVALUES!r}] nor uns[{EIGENVECTORS!r}]; run compute_jacobians first"
        )
    with new_file(Path(filename)) as temporary, h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            _write(file, name, values, compression)
        n_genes = next(iter(arrays.values())).shape[1]
        file.attrs.update({"n_cells": adata.n_obs, "n_genes": n_genes, "cluster_key": cluster_key})
    adata.uns.pop(EIGENVECTORS, None)


def _write(file: Any, name: str, values: npt.NDArray[Any], compression: str | None) -> None:
    """Write real and imaginary parts, a few cells at a time."""
    parts = [
        file.create_dataset(
            f"{name}_{part}", shape=values.shape, dtype=values.real.dtype, compression=compression
        )
        for part in ("real", "imag")
    ]
    for rows in _rows(values.shape):
        parts[0][rows], parts[1][rows] = values[rows].real, values[rows].imag


def _rows(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (8 * int(np.prod(shape[1:], dtype=np.int64)) or 1))
    for first in range(0, shape[0], step):
        yield slice(first, first + step)


def load_jacobians(
    adata: AnnData, filename: str | Path, load_eigenvectors: bool = False
) -> npt.NDArray[np.complex64] | None:
    """Read the eigenvalues of a file into an AnnData, and return its eigenvectors if asked to.

    Parameters
    ----------
    adata
        With the cells of the file, in its order; ``obsm["jacobian_eigenvalues"]`` is set, ``(cell, gene used)``.
    filename
        Written by `save_jacobians`, here or in scHopfield. Modes keep the order of the file, which is canonical in
        files written here alone.
    load_eigenvectors
        Whether to read them.

    Returns
    -------
    numpy.ndarray or None
        ``(cell, gene, mode)``, or None if not asked for or not in the file.

    Raises
    ------
    MissingFileError
        If there is no file.
    InputError
        If it holds no Jacobians, or those of another number of cells or genes.
    MemoryBudgetError
        If the eigenvectors are larger than the memory available.
    """
    n_genes = int(used_genes(AnnDataSource(adata)).sum())
    with _open(filename) as file:
        vectors = None
        if load_eigenvectors and "eigenvectors_real" in file:
            shape = file["eigenvectors_real"].shape
            refuse_memory(
                8 * int(np.prod(shape, dtype=np.int64)),
                f"the eigenvectors in {file.filename}",
                "read some cells of it with h5py",
            )
            vectors = _read(file, "eigenvectors", (adata.n_obs, n_genes, n_genes))
        if "eigenvalues_real" in file:
            adata.obsm[EIGENVALUES] = _read(file, "eigenvalues", (adata.n_obs, n_genes))
    return vectors


def read_eigenvalues(filename: str | Path, n_cells: int) -> npt.NDArray[np.complex64]:
    """Return the eigenvalues in a file, ``(n_cells, gene)``.

    Raises
    ------
    MissingFileError, InputError
        If there is no such file, or it holds no eigenvalues of so many cells.
    """
    with _open(filename) as file:
        if "eigenvalues_real" not in file:
            raise InputError(
                f"{file.filename} holds no eigenvalues, only eigenvectors; compute_jacobians gives both"
            )
        return _read(file, "eigenvalues", (n_cells, *file["eigenvalues_real"].shape[1:]))


@contextmanager
def _open(filename: str | Path) -> Iterator[Any]:
    import h5py

    path = existing_path(filename, "file of Jacobians")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file ({error})") from error
    with file:
        if not {"eigenvalues_real", "eigenvectors_real"} & set(file):
            raise InputError(
                f"{path} holds neither 'eigenvalues_real' nor 'eigenvectors_real'; expected a file of save_jacobians"
            )
        yield file


def _read(file: Any, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.complex64]:
    for part in ("real", "imag"):
        found = file[f"{name}_{part}"].shape if f"{name}_{part}" in file else None
        if found != shape:
            raise InputError(
                f"{name}_{part} of {file.filename} has shape {found}; expected {shape} for the cells and genes used of "
                "this AnnData"
            )
    out = np.empty(shape, dtype=np.complex64)
    for rows in _rows(shape):
        out[rows].real = file[f"{name}_real"][rows]
        out[rows].imag = file[f"{name}_imag"][rows]
    return out
