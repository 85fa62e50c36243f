"""Jacobians of a sum of Gaussian kernels: products of matrices against the loop over cells, and against dynamo's own.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_rkhs.py --json FILE
    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_rkhs.py --dynamo PYTHON

makes cells along branches in PCA space and a field fitted to a flow over them (2,000 cells, 30 axes, 1,000 control
points, 2,000 genes) and times on one thread, in turns, so that what else the machine does meets all alike:

- the d x d Jacobians by ``(C.T * K) @ (x - z)``, one cell after the other, in NumPy, and by `RKHSField.jacobian` in
  double and single precision;
- the same with all eigenvalues (`stabdask.kernels.eig.eig`), against the loop without;
- 20 x 20 elements between genes from given Jacobians, cell by cell and by `RKHSLinearization.block`;
- what cannot be spared: the product of all kernel values with the products of coefficients and control points
  (`numpy.matmul`), as many exponentials (`numpy.exp`), and the eigensolver.

With ``--dynamo`` an interpreter that has dynamo 1.5 times dynamo's functions on the same arrays, in a process of its
own: the Jacobian cell by cell (as `dyn.vf.jacobian` calls it) and vectorized (200 cells, extrapolated), and elements
between genes. Its Jacobians are compared with ours.

Times are of the processor (`time.process_time`), per cell the least of all turns; ratios are the median of those of the
turns. A loop of small products, exponentials and full products gain differently from wide registers (AVX-512), so the
figures say which the machine has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import stabdask as sd
from stabdask.fields.rkhs_linear import RKHSLinearization
from stabdask.kernels.eig import eig, resolve_backend

Array = np.ndarray[Any, Any]

BESIDE_DYNAMO = """
import os, sys, json, time
import numpy as np
# dynamo shows progress on both.
shown, sys.stdout, sys.stderr = sys.stdout, open(os.devnull, "w"), open(os.devnull, "w")
from dynamo.vectorfield.utils import Jacobian_rkhs_gaussian, subset_jacobian_transformation
z = np.load(sys.argv[1])
field = {"X_ctrl": z["centers"], "C": z["coefficients"], "beta": float(z["beta"])}
def least(function, turns):
    seconds = []
    for _ in range(turns):
        begin = time.process_time()
        found = function()
        seconds.append(time.process_time() - begin)
    return min(seconds), found
turns = int(sys.argv[3])
loop, J = least(lambda: Jacobian_rkhs_gaussian(z["x"], field), turns)
few = z["x"][:200]
vectorized, _ = least(lambda: Jacobian_rkhs_gaussian(few, field, vectorize=True), 1)
between, _ = least(lambda: subset_jacobian_transformation(J, z["rows"], z["columns"]), turns)
np.save(sys.argv[2], J)
json.dump({"loop": loop, "vectorized": vectorized * len(z["x"]) / len(few), "between": between}, shown)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--axes", type=int, default=30)
    parser.add_argument("--centers", type=int, default=1_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--chosen", type=int, default=20, help="effectors, and regulators, of elements (20)")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--dynamo", metavar="PYTHON", help="an interpreter that has dynamo 1.5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    with threadpool_limits(1):
        figures = measure(options)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(options: argparse.Namespace) -> dict[str, object]:
    x, field = make(options)
    rng = np.random.default_rng(1)
    effectors, regulators = (
        np.sort(rng.choice(options.genes, options.chosen, replace=False)) for _ in range(2)
    )
    cells, d = np.arange(len(x)), options.axes
    J = loop_jacobians(field, x)
    given = field.linearize(x, 0)
    assert isinstance(given, RKHSLinearization)
    theirs = loop_between(field, J, effectors, regulators)
    off = {
        "float64": off_by(field.jacobian(x), J),
        "float32": off_by(field.jacobian(x, dtype="float32"), J),
        "elements": off_by(given.block(cells, effectors, regulators), theirs),
    }
    work: dict[str, Callable[[], object]] = {
        "loop": lambda: loop_jacobians(field, x),
        "loop_between_genes": lambda: loop_between(field, J, effectors, regulators),
        "between_genes": lambda: given.block(cells, effectors, regulators),
    }
    for dtype in ("float64", "float32"):
        exponents = -3.0 * rng.random((256, options.centers), dtype=dtype)
        kernel, out = np.exp(exponents), np.empty((1024, d * d), dtype=dtype)
        many = np.resize(kernel, (1024, options.centers))
        products = rng.random((options.centers, d * d), dtype=dtype)
        work |= {
            f"jacobians_{dtype}": partial(field.jacobian, x, dtype=dtype),
            f"jacobians_and_spectra_{dtype}": partial(jacobians_and_spectra, field, x, dtype),
            f"eigensolver_{dtype}": partial(eig, J.astype(dtype), dtype=dtype),
            f"product_{dtype}": partial(np.matmul, many, products, out=out),
            f"exponentials_{dtype}": partial(np.exp, exponents, out=kernel),
        }
    n_cells = {name: len(x) for name in work}
    for dtype in ("float64", "float32"):
        n_cells |= {f"product_{dtype}": 1024, f"exponentials_{dtype}": 256}
    turns: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(options.turns):
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr, flush=True)
        for name, call in work.items():
            begin = time.process_time()
            call()
            turns[name].append(1e3 * (time.process_time() - begin) / n_cells[name])
    figures: dict[str, object] = {
        "cells": options.cells,
        "axes": options.axes,
        "centers": options.centers,
        "genes": options.genes,
        "chosen_effectors_and_regulators": options.chosen,
        "turns": options.turns,
        "cores": os.cpu_count(),
        "avx512": has_avx512(),
        "backend": resolve_backend("auto", options.axes),
        "ms_per_cell": {name: round(min(values), 5) for name, values in turns.items()},
        "product_gflop_per_s": {
            dtype: round(2e-6 * options.centers * d * d / min(turns[f"product_{dtype}"]), 1)
            for dtype in ("float64", "float32")
        },
        **ratios(turns),
        "largest_relative_difference": off,
    }
    if options.dynamo:
        figures["dynamo"] = beside_dynamo(options, field, x, J, (effectors, regulators), turns)
    return figures


def jacobians_and_spectra(field: sd.RKHSField, x: Array, dtype: str) -> object:
    return eig(field.jacobian(x, dtype=dtype), dtype=dtype)


def ratios(turns: dict[str, list[float]]) -> dict[str, object]:
    """Return the medians over the turns of what the loop takes over what ours takes, and of what cannot be spared."""

    def median(above: str, *below: str) -> float:
        pairs = zip(turns[above], zip(*(turns[name] for name in below), strict=True), strict=True)
        return round(statistics.median(a / sum(b) for a, b in pairs), 2)

    found: dict[str, object] = {
        "loop_over_between_genes": median("loop_between_genes", "between_genes"),
    }
    for dtype in ("float64", "float32"):
        product, exponentials, solver = (
            f"{part}_{dtype}" for part in ("product", "exponentials", "eigensolver")
        )
        found[dtype] = {
            "loop_over_jacobians": median("loop", f"jacobians_{dtype}"),
            "loop_over_jacobians_and_spectra": median("loop", f"jacobians_and_spectra_{dtype}"),
            "loop_over_product_alone": median("loop", product),
            "loop_over_product_and_exponentials": median("loop", product, exponentials),
            "jacobians_over_product": median(f"jacobians_{dtype}", product),
            "jacobians_over_product_and_exponentials": median(f"jacobians_{dtype}", product, exponentials),
            "all_over_product_and_eigensolver": median(f"jacobians_and_spectra_{dtype}", product, solver),
        }
    return found


def make(options: argparse.Namespace) -> tuple[Array, sd.RKHSField]:
    """Return cells along branches, and a field fitted to a flow over them, its kernels as wide as dynamo makes them."""
    rng = np.random.default_rng(0)
    spread = 6.0 / np.sqrt(1.0 + np.arange(options.axes))
    middles = rng.standard_normal((8, options.axes)) * spread
    near = middles[rng.integers(0, 8, options.cells)]
    x = near + 0.4 * rng.standard_normal((options.cells, options.axes)) * spread
    centers = x[rng.choice(options.cells, options.centers, replace=options.centers > options.cells)]
    turn = 0.3 * rng.standard_normal((options.axes, options.axes)) / np.sqrt(options.axes)
    flow = np.tanh(centers / spread) @ turn.T * spread - 0.1 * centers
    squares = ((centers[:, None] - centers[None]) ** 2).sum(axis=2)
    beta = 2.25 / np.sort(squares, axis=1)[:, 1 : max(2, options.centers // 5)].mean()
    kernel = np.exp(-beta * squares)
    coefficients = np.linalg.solve(kernel + 1e-3 * np.eye(len(centers)), flow)
    loadings = np.linalg.qr(rng.standard_normal((options.genes, options.axes)))[0]
    genes = [f"gene{number}" for number in range(options.genes)]
    return x, sd.RKHSField(centers, coefficients, float(beta), loadings=loadings, genes=genes)


def loop_jacobians(field: sd.RKHSField, x: Array) -> Array:
    C, z, beta = field.coefficients, field.centers, field.beta
    out = np.empty((len(x), x.shape[1], x.shape[1]))
    for cell, point in enumerate(x):
        away = point - z
        K = np.exp(-beta * (away**2).sum(axis=1))
        out[cell] = -2.0 * beta * ((C.T * K) @ away)
    return out


def loop_between(field: sd.RKHSField, J: Array, effectors: Array, regulators: Array) -> Array:
    assert field.loadings is not None
    rows, columns = field.loadings[effectors], field.loadings[regulators].T
    out = np.empty((len(J), len(effectors), len(regulators)))
    for cell, matrix in enumerate(J):
        out[cell] = rows @ matrix @ columns
    return out


def off_by(found: Array, expected: Array) -> float:
    """Return the largest error of a matrix over its Frobenius norm."""
    apart = np.sqrt(((found - expected) ** 2).sum(axis=(1, 2)) / (expected**2).sum(axis=(1, 2)))
    return float(f"{apart.max():.2e}")


def beside_dynamo(
    options: argparse.Namespace,
    field: sd.RKHSField,
    x: Array,
    J: Array,
    chosen: tuple[Array, Array],
    turns: dict[str, list[float]],
) -> dict[str, object]:
    assert field.loadings is not None
    with tempfile.TemporaryDirectory(prefix="stabdask-bench-") as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npy"
        np.savez(
            given, x=x, centers=field.centers, coefficients=field.coefficients, beta=field.beta,
            rows=field.loadings[chosen[0]], columns=field.loadings[chosen[1]],
        )  # fmt: skip
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
        apart = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")
        }
        command = [options.dynamo, "-c", BESIDE_DYNAMO, str(given), str(made), "3"]
        print("dynamo", file=sys.stderr, flush=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**apart, **threads})
        if done.returncode:
            raise SystemExit(f"{options.dynamo} failed: {done.stderr[-2000:] or done.stdout[-2000:]}")
        seconds = json.loads(done.stdout)
        theirs = np.load(made).transpose(2, 0, 1)
    ms = {name: 1e3 * value / len(x) for name, value in seconds.items()}
    ours = {name: min(values) for name, values in turns.items()}
    return {
        "ms_per_cell": {name: round(value, 5) for name, value in ms.items()},
        "loop_over_jacobians": {
            dtype: round(ms["loop"] / ours[f"jacobians_{dtype}"], 2) for dtype in ("float64", "float32")
        },
        "loop_over_jacobians_and_spectra": {
            dtype: round(ms["loop"] / ours[f"jacobians_and_spectra_{dtype}"], 2)
            for dtype in ("float64", "float32")
        },
        "vectorized_over_jacobians": round(ms["vectorized"] / ours["jacobians_float64"], 2),
        "between_over_between_genes": round(ms["between"] / ours["between_genes"], 2),
        "largest_relative_difference": off_by(theirs, J),
    }


def has_avx512() -> bool | None:
    """Return whether NumPy finds AVX-512; None where it does not tell."""
    found = list(np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", []))
    return any(name.startswith(("AVX512", "X86_V4")) for name in found) if found else None


if __name__ == "__main__":
    main()
