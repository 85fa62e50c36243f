"""The page on extending: its two files and its code run as they stand there, on workers too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stabdask as sd

pytestmark = pytest.mark.pages

BOTH = "imbalance,repressilator"
PAGE = Path(__file__).parents[1] / "notebooks" / "extending.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def call(
    folder: Path, *command: str, plugins: str = "imbalance,repressilator"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STABDASK_PLUGINS": plugins, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def stabdask(
    folder: Path, *arguments: str, plugins: str = "imbalance,repressilator"
) -> subprocess.CompletedProcess[str]:
    return call(folder, sys.executable, "-m", "stabdask.cli.main", *arguments, plugins=plugins)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the files of the page, in which all its code has run."""
    folder = tmp_path_factory.mktemp("extending")
    quantity, field, use = blocks("python")
    (folder / "imbalance.py").write_text(quantity)
    (folder / "repressilator.py").write_text(field)
    (folder / "use.py").write_text(use)
    assert len(field.split("class Repressilator")[1].splitlines()) <= 40
    shell = blocks("sh")[0]
    bin_folder = Path(sys.executable).parent
    done = call(folder, "bash", "-ec", f'export PATH="{bin_folder}:$PATH"\n{shell}', plugins="")
    assert done.returncode == 0, done.stderr
    (folder / "summary.txt").write_text(done.stdout)
    done = call(folder, sys.executable, "use.py")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_quantity_is_in_store_and_summary(folder: Path) -> None:
    # Without the module: a store holds numbers, not code.
    ds = sd.open_results(folder / "out.zarr")
    cells = sd.open_cells(folder / "demo" / "cells.h5ad", layer="M_t", cluster_key="cell_type")
    field = sd.read_field(folder / "demo" / "field.zarr")
    x, labels = cells["expression"].values, cells["cluster"].values
    expected = np.empty(len(x))
    for cell, (own, label) in enumerate(zip(x, labels, strict=True)):
        p = field.parameters[field.cluster_number(label)]
        activation, _ = p.hill.take(p.regulators).evaluate(own[None, p.regulators].astype(float))
        parts = np.concatenate([p.weights * activation, -(p.gamma * own)[:, None], p.bias[:, None]], axis=1)
        expected[cell] = np.linalg.norm(parts.sum(axis=1)) / np.linalg.norm(np.abs(parts).sum(axis=1))
    np.testing.assert_allclose(ds["imbalance"], expected, rtol=1e-9)
    assert ds["imbalance"].attrs["long_name"] == "imbalance of production and decay"
    assert "imbalance" in (folder / "summary.txt").read_text()


def test_the_field_is_one_as_any_other(folder: Path) -> None:
    ds = sd.open_results(folder / "ring-out.zarr")
    import anndata

    x = np.asarray(anndata.read_h5ad(folder / "ring.h5ad").X)
    found = np.sort_complex(ds["eigenvalue"].values)
    for cell in range(0, 300, 50):
        J = np.diag([-1.0, -1.0, -1.0])
        for i in range(3):
            repressor = x[cell, i - 1]
            J[i, i - 1] += -30.0 * repressor**2 / (1 + repressor**3) ** 2
        np.testing.assert_allclose(found[cell], np.sort_complex(np.linalg.eigvals(J)), atol=1e-9)
    assert (folder / "ring.png").read_bytes().startswith(b"\x89PNG")


def test_its_fixed_point_is_what_the_page_says(folder: Path) -> None:
    code = (
        "import numpy as np, stabdask as sd\n"
        "field = sd.read_field('ring.zarr')\n"
        "cells = sd.open_cells('ring.h5ad', cluster_key='state')\n"
        "ds = sd.fixed_points(field, cells)\n"
        "import json\n"
        "table = sd.fixed_point_table(ds)\n"
        "print(table.to_json(orient='records'))\n"
    )
    done = call(folder, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(done.stdout.strip().splitlines()[-1])
    # x (1 + x^3) = 10, with slope f' = -3 x^3 / (1 + x^3) there: eigenvalues -1 + f' times the cube roots of 1.
    (root,) = [r.real for r in np.roots([1, 0, 0, 1, -10]) if abs(r.imag) < 1e-12 and r.real > 0]
    slope = -3 * root**3 / (1 + root**3)
    expected = -1 - slope / 2
    assert expected > 0
    assert "saddle" in json.dumps(point)
    assert any(isinstance(v, float) and abs(v - expected) < 1e-6 for v in point.values()), (point, expected)


def test_on_workers_and_reported(folder: Path) -> None:
    done = stabdask(
        folder, "run", "ring.h5ad", "--field", "ring.zarr", "--cluster-key", "state", "--store", "workers.zarr",
        "--quantities", "default,imbalance", "--workers", "1", "--no-dashboard",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = (sd.open_results(folder / name) for name in ("workers.zarr", "ring-out.zarr"))
    np.testing.assert_array_equal(a["imbalance"], b["imbalance"])
    done = stabdask(folder, "verify", "workers.zarr")
    assert done.returncode == 0, done.stdout + done.stderr
    done = stabdask(folder, "report", "workers.zarr", "-o", "ring.html")
    assert done.returncode == 0, done.stderr
    assert "imbalance" in (folder / "ring.html").read_text()
    done = stabdask(folder, "field", "show", "ring.zarr")
    assert done.returncode == 0, done.stderr
    assert "repressilator field, 3 genes" in done.stdout


def test_without_the_modules_it_says_what_to_do(folder: Path) -> None:
    run = [
        "run",
        "ring.h5ad",
        "--field",
        "ring.zarr",
        "--cluster-key",
        "state",
        "--store",
        "no.zarr",
        "--workers",
        "0",
    ]
    done = stabdask(folder, *run, plugins="imbalance")
    assert done.returncode == 3
    assert "kind 'repressilator'" in done.stderr
    assert "STABDASK_PLUGINS" in done.stderr
    done = stabdask(folder, *run, "--quantities", "imbalance", plugins="repressilator")
    assert done.returncode == 3
    assert "unknown quantity 'imbalance'" in done.stderr
    done = stabdask(folder, "demo", plugins="nowhere")
    assert done.returncode == 2
    assert (
        "the module 'nowhere' named in STABDASK_PLUGINS cannot be imported (ModuleNotFoundError"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = Quantity('trace', len, '1', 'x', 'x')", "'trace' of a module is one of stabdask already"),
        (
            "a = Quantity('x', len, '1', 'x', 'x')\nb = Quantity('x', len, '1', 'x', 'x')",
            "'x' is defined twice",
        ),
        ("a = Quantity('../x', len, '1', 'x', 'x')", "has a name that is none"),
        ("import stabdask.runs.options", "cannot be imported"),
        (
            "a = Quantity('two', lambda linear: linear.velocity(), '1', 'x', 'x')",
            "of shape (128, 3); expected numbers of shape (128,)",
        ),
    ],
)
def test_modules_that_do_not_fit(folder: Path, text: str, said: str) -> None:
    (folder / "odd.py").write_text(f"from stabdask.schema import Quantity\n{text}\n")
    done = stabdask(
        folder, "run", "ring.h5ad", "--field", "ring.zarr", "--cluster-key", "state", "--store", "odd.zarr",
        "--workers", "0", "--quantities", "default,two" if "two" in text else "default", plugins="repressilator,odd",
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
