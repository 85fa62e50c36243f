"""Checkpoints of fitted models (.h5sch), saved and loaded as scHopfield does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stabdask.errors import MissingKeyError, StabdaskWarning
from stabdask.fields.checkpoint import load_checkpoint, save_checkpoint
from stabdask.files import existing_path

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["load_model", "save_model"]


def save_model(
    adata: AnnData, filename: str | Path, overwrite: bool = False, compression: str | None = "gzip"
) -> None:
    """Write the fitted model in an AnnData to a checkpoint that scHopfield reads too.

    Parameters
    ----------
    adata
        With a fit of scHopfield.
    filename
        A file that is there is left alone, with a warning, unless `overwrite` is true; it is then replaced only
        by a complete one.
    overwrite
        Whether to replace a file.
    compression
        Of HDF5: ``"gzip"``, ``"lzf"`` or None.

    Raises
    ------
    MissingKeyError
        If there is no fit.
    InputError
        If it cannot be written in this format.
    OutputError
        If the file cannot be written.
    """
    if not _is_fitted(adata):
        raise MissingKeyError("no interaction matrix 'W_<cluster>' in varp of the AnnData; fit a model first")
    if Path(filename).exists() and not overwrite:
        warnings.warn(
            f"{filename} exists and was left alone; overwrite=True replaces it", StabdaskWarning, stacklevel=2
        )
        return
    save_checkpoint(adata, filename, compression=compression)


def load_model(adata: AnnData, filename: str | Path, overwrite: bool = False) -> None:
    """Put the fitted model of a checkpoint into an AnnData, aligned by gene name.

    Parameters
    ----------
    adata
        Changed in place. Genes that the checkpoint does not have get zeros, and False for ``scHopfield_used``.
    filename
        Written by `save_model`, here or in scHopfield.
    overwrite
        Whether to replace a fit that `adata` has; otherwise it is left alone, with a warning.

    Raises
    ------
    MissingFileError
        If there is no file.
    MissingKeyError
        If `adata` lacks genes of the checkpoint.
    InputError
        If the file is no checkpoint.
    """
    path = existing_path(filename, "checkpoint")
    if _is_fitted(adata) and not overwrite:
        warnings.warn(
            "the AnnData has a fitted model, which was left alone; overwrite=True replaces it",
            StabdaskWarning,
            stacklevel=2,
        )
        return
    load_checkpoint(adata, path)


def _is_fitted(adata: AnnData) -> bool:
    return any(str(key).startswith("W_") for key in adata.varp)
