"""scHopfield's checkpoints (.h5sch): the parameters of a fit, from an AnnData to a file and back.

Layout: the dataset ``gene_names``; the attributes ``n_vars``, ``clusters`` (JSON) and ``uns_scHopfield`` (JSON); a
dataset per column in the group ``var`` and per ``W_<cluster>`` in the group ``varp``. The group ``hill_params`` is
ours: thresholds and exponents of each cluster, where a fit has them, which scHopfield leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stabdask.errors import InputError, MissingKeyError, near_misses
from stabdask.fields.parameter_source import AnnDataSource, ParameterSource, open_source
from stabdask.fields.schopfield import USED, under, used_genes
from stabdask.files import new_file

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["load_checkpoint", "save_checkpoint"]

_STRIP_BYTES = 32 * 2**20
_HILL = ("k", "n")
_SIGMOID = (
    "sigmoid_threshold",
    "sigmoid_exponent",
    "sigmoid_offset",
    "sigmoid_mse",
    "sigmoid_threshold2",
    "sigmoid_exponent2",
    "sigmoid_mix",
)


def save_checkpoint(adata: AnnData, path: str | Path, *, compression: str | None = "gzip") -> None:
    """Write the fit in an AnnData to a checkpoint.

    Clusters without a ``gamma_<cluster>`` get one, from the degradation rates of the fit: the file is whole.

    Parameters
    ----------
    adata
        With a fit of scHopfield.
    path
        Replaced only by a complete file.
    compression
        Of HDF5: ``"gzip"``, ``"lzf"`` or None.

    Raises
    ------
    MissingKeyError
        If there is no ``W_<cluster>``.
    InputError
        If a parameter is not numeric, or a label cannot be a name in an HDF5 file.
    OutputError
        If the file cannot be written.
    """
    import h5py

    source = AnnDataSource(adata)
    labels = _fitted(source.matrix_keys)
    if not labels:
        raise MissingKeyError("no interaction matrix 'W_<cluster>' in varp of the AnnData; fit a model first")
    _check_labels(labels)
    columns = _columns(source, labels)
    with new_file(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("gene_names", data=source.genes.tolist(), dtype=h5py.string_dtype())
        file.attrs["n_vars"] = len(source.genes)
        file.attrs["clusters"] = json.dumps(labels)
        file.attrs["uns_scHopfield"] = json.dumps(_primitive(source.metadata))
        for key, values in columns.items():
            file.create_dataset(f"var/{key}", data=values, compression=compression)
        for label in labels:
            _write_matrix(file, f"varp/W_{label}", source.matrix(f"W_{label}"), compression)
            for name, values in _hill_params(source, label).items():
                file.create_dataset(f"hill_params/{label}/{name}", data=values, compression=compression)


def _check_labels(labels: list[str]) -> None:
    """Refuse labels that HDF5, which reads slashes as groups, cannot keep apart or as they are."""
    for label in labels:
        parts = label.split("/")
        holder = next((other for other in labels if label.startswith(f"{other}/")), None)
        if holder is not None or (len(parts) > 1 and {"", "."} & set(parts)):
            beside = "" if holder is None else f" beside {holder!r}"
            raise InputError(
                f"cluster {label!r}{beside} cannot be a name in an HDF5 file, where slashes separate groups; rename it"
            )


def _fitted(keys: tuple[str, ...]) -> list[str]:
    return sorted(key[2:] for key in keys if key.startswith("W_"))


def _columns(source: ParameterSource, labels: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `var` that belong to the fit."""
    keys = [key for key in _SIGMOID if key in source.columns]
    columns = {key: _numbers(source, key) for key in keys}
    columns[USED] = used_genes(source)
    degradation = str(source.metadata.get("degradation_key") or "gamma")
    for label in labels:
        gamma = f"gamma_{label}"
        for key, origin in ((f"I_{label}", f"I_{label}"), (gamma, gamma), (gamma, degradation)):
            if key not in columns and origin in source.columns:
                columns[key] = _numbers(source, origin)
    return columns


def _numbers(source: ParameterSource, key: str) -> npt.NDArray[Any]:
    values = source.column(key)
    if values.dtype.kind not in "fiub":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"column {key!r} of {source.name} is not numeric (dtype {values.dtype})"
            ) from None
    return values


def _primitive(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of the metadata."""
    out = {}
    for key, value in metadata.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, str | int | float | bool | None):
            out[str(key)] = plain
    return out


def _hill_params(source: ParameterSource, label: str) -> dict[str, npt.NDArray[Any]]:
    hill = source.metadata.get("hill_params")
    fitted = under(hill, label) if isinstance(hill, Mapping) else None
    if not isinstance(fitted, Mapping):
        return {}
    return {name: np.asarray(fitted[name], dtype=np.float64) for name in _HILL if name in fitted}


def _write_matrix(file: Any, name: str, matrix: Any, compression: str | None) -> None:
    """Write a matrix densely, as scHopfield expects it, some rows at a time."""
    n_rows, n_columns = matrix.shape
    if sparse.issparse(matrix):
        matrix = matrix.tocsr()
    dataset = file.create_dataset(name, shape=matrix.shape, dtype=matrix.dtype, compression=compression)
    step = max(1, _STRIP_BYTES // (8 * max(1, n_columns)))
    for first in range(0, n_rows, step):
        strip = matrix[first : first + step]
        dataset[first : first + step] = strip.toarray() if sparse.issparse(strip) else strip


def load_checkpoint(adata: AnnData, path: str | Path) -> None:
    """Put the fit of a checkpoint into an AnnData, aligned by gene name, in place of any fit it has.

    Genes that the checkpoint does not have get zeros, and False for ``scHopfield_used``. W is dense.

    Parameters
    ----------
    adata
        Changed in place, once everything has been read.
    path
        Written by `save_checkpoint` or scHopfield.

    Raises
    ------
    MissingFileError
        If there is no file.
    MissingKeyError
        If `adata` lacks genes of the file.
    InputError
        If the file is no checkpoint, or gene names repeat.
    """
    names = [str(name) for name in adata.var_names]
    where = {name: position for position, name in enumerate(names)}
    with open_source(path) as source:
        index = _positions(source, names, where)
        marked = used_genes(source)
        used = np.zeros(len(names), dtype=bool)
        used[index] = marked
        labels = _fitted(source.matrix_keys)
        wanted = {*_SIGMOID, *(f"{kind}_{label}" for kind in ("I", "gamma") for label in labels)}
        columns = {
            key: _spread(_numbers(source, key), index, len(names)) for key in source.columns if key in wanted
        }
        matrices = {f"W_{label}": _dense(source, f"W_{label}", index, len(names)) for label in labels}
        metadata = _primitive(source.metadata)
        hill = {
            label: {
                name: _spread(values, index if len(values) == len(index) else index[marked], len(names))
                for name, values in params.items()
            }
            for label in labels
            if (params := _hill_params(source, label))
        }
    _forget(adata)
    adata.var[USED] = used
    for key, values in columns.items():
        adata.var[key] = values
    for key, matrix in matrices.items():
        adata.varp[key] = matrix
    adata.uns["scHopfield"] = metadata | ({"hill_params": hill} if hill else {})


def _positions(source: ParameterSource, names: list[str], where: dict[str, int]) -> npt.NDArray[np.intp]:
    """Return where the genes of a checkpoint are among `names`."""
    genes = source.genes.tolist()
    for what, listed in (("the AnnData", names), (source.name, genes)):
        if len(set(listed)) < len(listed):
            raise InputError(
                f"gene names repeat in {what}; make them unique, e.g. adata.var_names_make_unique()"
            )
    missing = [gene for gene in genes if gene not in where]
    if missing:
        raise MissingKeyError(
            f"the AnnData lacks {len(missing):,} of the {len(genes):,} genes of {source.name}, {missing[0]!r} first; "
            + near_misses(missing[0], names, noun="genes")
        )
    return np.asarray([where[gene] for gene in genes], dtype=np.intp)


def _spread(values: npt.NDArray[Any], index: npt.NDArray[np.intp], n: int) -> npt.NDArray[Any]:
    if values.shape != index.shape:
        raise InputError(f"a column of the checkpoint has shape {values.shape}; expected {index.shape}")
    out = np.zeros(n, dtype=values.dtype)
    out[index] = values
    return out


def _dense(source: ParameterSource, key: str, index: npt.NDArray[np.intp], n: int) -> npt.NDArray[Any]:
    matrix = source.matrix(key)
    matrix = matrix.toarray() if sparse.issparse(matrix) else matrix
    if matrix.shape != (len(index), len(index)):
        raise InputError(f"{key!r} of {source.name} has shape {matrix.shape}; expected {(len(index),) * 2}")
    if np.array_equal(index, np.arange(n)):
        return np.asarray(matrix)
    out = np.zeros((n, n), dtype=matrix.dtype)
    out[np.ix_(index, index)] = matrix
    return out


def _forget(adata: AnnData) -> None:
    """Delete the fit that an AnnData has: what a new one does not have would be taken for part of it."""
    labels = _fitted(tuple(str(key) for key in adata.varp))
    for label in labels:
        del adata.varp[f"W_{label}"]
    old = {*_SIGMOID, *(f"{kind}_{label}" for kind in ("I", "gamma") for label in labels)}
    for key in [key for key in adata.var.columns if key in old]:
        del adata.var[key]
    adata.uns.pop("scHopfield", None)
