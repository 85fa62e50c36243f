"""Fields over axes on a GPU: the same numbers as on the host, with nothing mixed.

CuPy is a stand-in whose arrays refuse to mix with NumPy's; with ``-m gpu`` the same goes through CuPy on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from kernels.fake_gpu import FakeGpu, fresh_caches
from random_atlas import random_atlas
from small_rkhs import small_rkhs

from stabdask.runs.block import compute_block
from stabdask.runs.options import make_options

Array = np.ndarray[Any, Any]
CASES: dict[str, dict[str, Any]] = {
    "lifted": {},
    "three axes": {"n_axes": 3, "lifted": False, "basis": "p3"},
    "two axes": {"n_axes": 2, "lifted": False, "basis": "umap"},
    "over genes": {"basis": None, "n_axes": 5},
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: ctypes.CDLL) -> Iterator[FakeGpu]:
    host = FakeCuda(monkeypatch, tmp_path)
    host.nothing()
    with fresh_caches():
        made = FakeGpu(library)
        made.install(host)
        yield made


def compare(name: str, dtype: str = "float64") -> None:
    case = small_rkhs(2, **CASES[name])
    genes, n_axes = case.field.genes.tolist(), case.x.shape[1]
    asked: dict[str, Any] = {
        "vectors": "both",
        "dtype": dtype,
        "elements": [(genes[0], genes[1]), (genes[1], genes[1])],
        "effectors": genes[:2],
        "regulators": genes[1:],
        "quantities": [
            *("default", "reactivity", "drivers", "eigenvalue_condition", "participation"),
            *("jacobian", "jacobian_mean", "response", "dynamo_sensitivity"),
            *("velocity", "acceleration", "curvature", "curvature_norm"),
            *(["curl"] if n_axes < 4 else []),
            *(["torsion"] if n_axes == 3 else []),
        ],
    }
    codes = np.zeros(len(case.x), dtype=int)
    host, found = (
        compute_block(case.x, codes, case.field, make_options(case.field, backend=backend, **asked))
        for backend in ("lapack", "cuda")
    )
    assert found.keys() == host.keys()
    tolerance = 1e-8 if dtype == "float64" else 2e-3
    for variable, values in host.items():
        assert isinstance(found[variable], np.ndarray)
        assert found[variable].dtype == values.dtype
        if variable not in ("residual", "trace_defect"):
            np.testing.assert_allclose(
                found[variable], values, rtol=tolerance, atol=tolerance, err_msg=variable
            )


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_host(gpu: FakeGpu, name: str) -> None:
    compare(name)
    assert gpu.launches


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_results_on_a_gpu_are_those_of_the_host(name: str) -> None:
    compare(name)


def hopfield(backend: str) -> dict[str, Array]:
    atlas = random_atlas(4, zeros=0.5, n_genes=12)
    genes = atlas.field.genes.tolist()
    options = make_options(
        atlas.field,
        backend=backend,
        effectors=genes[:4],
        regulators=genes[2:6],
        quantities=[
            "jacobian",
            "response",
            "dynamo_sensitivity",
            "jacobian_mean",
            "acceleration",
            "curvature_norm",
        ],
    )
    return compute_block(atlas.x, atlas.codes, atlas.field, options)


def test_blocks_of_a_hopfield_field(gpu: FakeGpu) -> None:
    host, found = hopfield("lapack"), hopfield("cuda")
    for name, values in host.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.gpu
def test_blocks_of_a_hopfield_field_on_a_gpu() -> None:
    host, found = hopfield("lapack"), hopfield("cuda")
    for name, values in host.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8, err_msg=name)
