"""scHopfield's ``device="cuda"`` goes to the GPU: a pretended one, with the real kernel run on this CPU."""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compat.fits import fit, used_names
from fake_cuda import FakeCuda
from kernels.fake_gpu import FakeGpu, fresh_caches

from stabdask.compat import schopfield as sch
from stabdask.kernels import cuda


def test_everything_is_computed_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: ctypes.CDLL
) -> None:
    here, there = fit(0, n_cells=40), fit(0, n_cells=40)
    pair = tuple(used_names(here.adata)[:2])
    uploads: list[int] = []
    host = FakeCuda(monkeypatch, tmp_path)
    host.nothing()
    with fresh_caches(), warnings.catch_warnings():
        warnings.simplefilter("error")
        FakeGpu(library).install(host)
        upload = cuda.upload
        monkeypatch.setattr(cuda, "upload", lambda x: uploads.append(len(x)) or upload(x))
        for made, device in ((here, "cpu"), (there, "cuda")):
            sch.tl.compute_jacobians(made.adata, compute_eigenvectors=True, device=device)
            sch.tl.compute_jacobian_elements(made.adata, [pair], device=device)
            sch.tl.compute_rotational_part(made.adata, device=device)
            # A block is the cells of a cluster.
            assert uploads == ([] if device == "cpu" else [20] * 6)
    for key in ("jacobian_rotational", f"jacobian_df_{pair[0]}_dx_{pair[1]}"):
        np.testing.assert_allclose(there.adata.obs[key], here.adata.obs[key], rtol=1e-6)
    compare: Any = np.testing.assert_allclose
    compare(there.adata.obsm["jacobian_eigenvalues"], here.adata.obsm["jacobian_eigenvalues"], atol=1e-5)
    vectors = [made.adata.uns["jacobian_eigenvectors_temp"]["data"] for made in (here, there)]
    compare(*vectors, atol=1e-4)
