"""Where dynamo leaves its vector fields, and how one is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stabdask.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from stabdask.fields.rkhs import RKHSField

__all__ = ["read_dynamo"]


def read_dynamo(adata: AnnData | str | Path, *, basis: str | None = "pca", Qkey: str = "PCs") -> RKHSField:
    """Read the vector field of dynamo from an AnnData."""
    raise InputError("dynamo's fields cannot be read yet")
