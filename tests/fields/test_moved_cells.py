"""dynamo evaluates a field where it was fitted; where the cells are elsewhere now, readers are told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from small_rkhs import small_rkhs

import stabdask as sd
from stabdask.errors import StabdaskWarning


def fitted(**changes: Any) -> anndata.AnnData:
    case = small_rkhs()
    adata = case.adata()
    adata.uns["VecFld_pca"] = {
        "X": case.x.copy(), "X_ctrl": case.centers, "C": case.coefficients, "beta": case.beta, **changes,
    }  # fmt: skip
    return adata


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_cells_elsewhere_are_told_of(kind: str, tmp_path: Path) -> None:
    def read(adata: anndata.AnnData, name: str) -> sd.RKHSField:
        if kind == "h5ad":
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
        if kind == "zarr":
            adata.write_zarr(tmp_path / f"{name}.zarr")
        return sd.RKHSField.from_anndata(
            adata if kind == "memory" else tmp_path / f"{name}.{kind}", Qkey=None
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error", StabdaskWarning)
        same = read(fitted(), "same")
    moved = fitted()
    moved.obsm["X_pca"] = moved.obsm["X_pca"] + 1.0
    with pytest.warns(StabdaskWarning, match="of 24 cells looked at, 24 lie elsewhere in obsm"):
        assert read(moved, "moved").fingerprint == same.fingerprint
    with pytest.warns(StabdaskWarning, match="it has 24 points, obsm.* 10 cells"):
        read(fitted()[:10].copy(), "subset")
    # More columns of the embedding than the field has axes are no difference.
    wider = fitted()
    wider.obsm["X_pca"] = np.hstack([wider.obsm["X_pca"], np.ones((24, 2))])
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabdaskWarning)
        read(wider, "wider")


def test_cells_without_coordinates_at_the_fit_have_not_moved() -> None:
    adata = fitted()
    adata.uns["VecFld_pca"]["X"] = adata.uns["VecFld_pca"]["X"].copy()
    for points in (adata.uns["VecFld_pca"]["X"], adata.obsm["X_pca"]):
        points[3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabdaskWarning)
        sd.RKHSField.from_anndata(adata, Qkey=None)
