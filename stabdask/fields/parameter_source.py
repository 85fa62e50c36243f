"""Where fitted parameters are read from: an AnnData or a file of one, or an .h5sch checkpoint.

Only the elements asked for are read; the expression matrices are never touched.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import InputError, MissingKeyError
from stabdask.files import existing_place, local_path, open_group

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["AnnDataSource", "ParameterSource", "open_source"]


class ParameterSource(ABC):
    """Named columns per gene, named gene x gene matrices, and metadata."""

    name: str
    genes: npt.NDArray[np.str_]
    columns: tuple[str, ...]
    matrix_keys: tuple[str, ...]
    metadata: Mapping[str, Any]

    @abstractmethod
    def column(self, key: str) -> npt.NDArray[Any]:
        """Return the column `key`, one value per gene."""

    @abstractmethod
    def matrix(self, key: str) -> Any:
        """Return the matrix `key`, dense or SciPy sparse."""

    def keys(self, *where: str) -> tuple[str, ...]:
        """Return the names of the elements at a place such as ``("uns", "VecFld_pca")``; none if nothing is there."""
        return ()

    def element(self, *where: str) -> Any:
        """Return the element at a place such as ``("varm", "PCs")``; `keys` tells which there are."""
        raise MissingKeyError(f"{self.name} has no {'/'.join(where)}")

    def stored(self, *where: str) -> Any:
        """Return the element at a place as it is stored: of a file, what can be read row by row."""
        return self.element(*where)


class AnnDataSource(ParameterSource):
    """An AnnData object, in memory, backed or lazy."""

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        # Every look at adata.varp checks all of it.
        self._varp = adata.varp
        self.name = "the AnnData"
        self.genes = np.asarray([str(name) for name in adata.var_names], dtype=np.str_)
        self.columns = tuple(str(key) for key in adata.var.keys())  # noqa: SIM118
        self.matrix_keys = tuple(str(key) for key in self._varp)
        meta = adata.uns.get("scHopfield", {})
        self.metadata = meta if isinstance(meta, Mapping) else {}

    def column(self, key: str) -> npt.NDArray[Any]:
        """Return a column of `var`."""
        return np.asarray(self._adata.var[key])

    def matrix(self, key: str) -> Any:
        """Return an element of `varp`."""
        return _in_memory(self._varp[key])

    def keys(self, *where: str) -> tuple[str, ...]:
        """Return the names below an attribute such as `uns`."""
        item = self._at(where)
        return tuple(str(key) for key in item) if isinstance(item, Mapping) else ()

    def element(self, *where: str) -> Any:
        """Return an element of `uns`, `varm` or another attribute."""
        return self._at(where)

    def _at(self, where: tuple[str, ...]) -> Any:
        item = getattr(self._adata, where[0], {})
        for key in where[1:]:
            item = item[key]
        return item


class _ElementSource(ParameterSource):
    """An AnnData on disk (HDF5 or Zarr), read element by element."""

    def __init__(self, root: Any, name: str) -> None:
        self.name = name
        if "var" not in root:
            raise InputError(f"{name} holds neither an AnnData nor a saved field: it has no 'var'")
        self._root = root
        self._varp = root.get("varp", {})
        self._var = root["var"]
        self.matrix_keys = tuple(_leaves(self._varp))
        self.genes = np.asarray([str(n) for n in self._frame.index], dtype=np.str_)
        self.columns = tuple(str(key) for key in self._frame.columns)
        self._uns = root.get("uns", {})

    @cached_property
    def _frame(self) -> Any:
        from anndata.io import read_elem

        return read_elem(self._var)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:  # type: ignore[override]
        from anndata.io import read_elem

        if "scHopfield" not in self._uns:
            return {}
        meta = read_elem(self._uns["scHopfield"])
        return meta if isinstance(meta, Mapping) else {}

    def column(self, key: str) -> npt.NDArray[Any]:
        return np.asarray(self._frame[key])

    def matrix(self, key: str) -> Any:
        from anndata.io import read_elem

        return _in_memory(read_elem(self._varp[key]))

    def keys(self, *where: str) -> tuple[str, ...]:
        item = self._at(where)
        return tuple(str(key) for key in item) if hasattr(item, "keys") else ()

    def element(self, *where: str) -> Any:
        from anndata.io import read_elem

        return read_elem(self._at(where))

    def stored(self, *where: str) -> Any:
        return self._at(where)

    def _at(self, where: tuple[str, ...]) -> Any:
        item = self._root.get(where[0], {})
        for key in where[1:]:
            item = item[key]
        return item


class _CheckpointSource(ParameterSource):
    """scHopfield's own HDF5 checkpoint (.h5sch)."""

    def __init__(self, root: Any, name: str) -> None:
        self.name = name
        for needed in ("gene_names", "var", "varp"):
            if needed not in root:
                raise InputError(f"{name} has no {needed!r}; expected a checkpoint written by scHopfield")
        self._var, self._varp = root["var"], root["varp"]
        self.genes = np.asarray(root["gene_names"].asstr()[...], dtype=np.str_)
        self.columns = tuple(_leaves(self._var))
        self.matrix_keys = tuple(_leaves(self._varp))
        n_vars = int(root.attrs.get("n_vars", len(self.genes)))
        if n_vars != len(self.genes):
            raise InputError(
                f"{name} says n_vars = {n_vars} but names {len(self.genes)} genes; write it again"
            )
        try:
            meta = json.loads(root.attrs.get("uns_scHopfield", "{}"))
        except json.JSONDecodeError as error:
            raise InputError(f"the attribute 'uns_scHopfield' of {name} is not JSON ({error})") from error
        self.metadata = meta if isinstance(meta, Mapping) else {}
        if "hill_params" in root:
            self.metadata = {**self.metadata, "hill_params": _nested(root["hill_params"])}

    def column(self, key: str) -> npt.NDArray[Any]:
        import h5py
        from anndata.io import read_elem

        dataset = self._var[key]
        if "encoding-type" in dataset.attrs:
            return np.asarray(read_elem(dataset))
        return np.asarray(dataset.asstr()[...] if h5py.check_string_dtype(dataset.dtype) else dataset[...])

    def matrix(self, key: str) -> Any:
        from anndata.io import read_elem

        element = self._varp[key]
        return _in_memory(read_elem(element) if "encoding-type" in element.attrs else element[...])


@contextmanager
def open_source(source: AnnData | str | Path | ParameterSource) -> Iterator[ParameterSource]:
    """Open parameters for reading; a source that is open already is given as it is.

    Raises
    ------
    MissingFileError
        If there is no file.
    InputError
        If it is neither an AnnData nor an .h5sch checkpoint.
    """
    if isinstance(source, ParameterSource):
        yield source
        return
    if not isinstance(source, str | Path):
        if not hasattr(source, "varp"):
            raise InputError(f"expected an AnnData or a path, found {type(source).__name__}")
        yield AnnDataSource(source)
        return
    place = existing_place(source, "model file")
    if place.is_folder():
        yield _ElementSource(open_group(place), place.name)
        return
    path = local_path(place.origin, "an h5ad or .h5sch file")
    import h5py

    try:
        root = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file ({error})") from error
    with root:
        if "gene_names" in root or path.suffix == ".h5sch":
            yield _CheckpointSource(root, path.name)
        elif "var" in root:
            yield _ElementSource(root, path.name)
        else:
            raise InputError(f"{path} holds neither an AnnData nor a scHopfield checkpoint")


def _leaves(group: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of the elements below `group`; a name with slashes is stored as nested groups."""
    for key in group:
        item = group[key]
        nested = hasattr(item, "keys") and "encoding-type" not in item.attrs
        if nested:
            yield from _leaves(item, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}"


def _nested(group: Any) -> dict[str, Any]:
    """Return the datasets below `group` as arrays in nested dictionaries."""
    return {key: _nested(item) if hasattr(item, "keys") else item[...] for key, item in group.items()}


def _in_memory(matrix: Any) -> Any:
    """Return a dense array or a SciPy matrix for what AnnData may hold: lazy, backed or in memory."""
    from scipy import sparse

    if hasattr(matrix, "compute"):
        matrix = matrix.compute()
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    return matrix if sparse.issparse(matrix) else np.asarray(matrix)
