"""Leading eigenvalues of many large cores at once, against LAPACK and ARPACK one core at a time.

    python tests/benchmarks/bench_krylov.py [--k 1000] [--cells 64] [--quick]

Every method works on the same cores on one BLAS thread, in turns, and the best of the turns counts, in seconds
of processor time. ARPACK gets the core as W, slopes and degradation too, the subspace that is best for it, and
the residual that we stop at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigs

from stabdask.kernels.krylov import LeadingResult, ScaledOperator, leading_eigenvalues
from stabdask.kernels.threads import single_threaded_blas

Array = np.ndarray[Any, Any]
MODES = 5
SUBSPACES = (20, 30, 40, 60)


def circular(rng: np.random.Generator, k: int) -> Array:
    return rng.standard_normal((k, k)) / np.sqrt(k)


def low_rank_plus_sparse(rng: np.random.Generator, k: int) -> Array:
    rank, share = 10, 0.01
    smooth = rng.standard_normal((k, rank)) @ rng.standard_normal((rank, k)) / k
    links = (rng.random((k, k)) < share) * rng.standard_normal((k, k))
    return smooth + 0.5 * links / np.sqrt(share * k)


PROBLEMS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "circular law": circular,
    "low rank plus sparse": low_rank_plus_sparse,
}


class Cores:
    """The cores of the cells of one cluster."""

    def __init__(self, weights: Array, n_cells: int, rng: np.random.Generator) -> None:
        k = len(weights)
        self.weights = weights
        self.slope = rng.uniform(0.5, 1.5, (n_cells, k))
        self.gamma = rng.uniform(0.5, 1.5, k)
        self.operator = ScaledOperator(weights, self.slope, self.gamma, np.ones((n_cells, k), dtype=bool))

    def dense(self, cell: int) -> Array:
        return self.weights * self.slope[cell] - np.diag(self.gamma)

    def arpack(self, cell: int, subspace: int, limit: float) -> tuple[Array, int]:
        """Return leading eigenvalues with residuals of at most `limit`, and the number of products."""
        slope, count = self.slope[cell], 0
        # ARPACK's tolerance is relative to the eigenvalue: moved right, all of them are about as large.
        shift = 2.0
        shifted = shift - self.gamma

        def product(x: Array) -> Array:
            nonlocal count
            count += 1
            return self.weights @ (slope * x) + shifted * x

        operator = LinearOperator(self.weights.shape, matvec=product, dtype=np.float64)
        start = np.random.default_rng(cell).standard_normal(len(slope))
        values = eigs(
            operator, k=MODES, which="LR", ncv=subspace, tol=limit / shift, v0=start, maxiter=10_000,
            return_eigenvectors=False,
        )  # fmt: skip
        return values - shift, count


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def largest_error(cores: Cores, found: LeadingResult, n_dense: int) -> float:
    """Return the largest distance of a leading eigenvalue from one of LAPACK's, relative to the spectral radius."""
    worst = 0.0
    for cell in range(n_dense):
        values = np.linalg.eigvals(cores.dense(cell))
        near = np.abs(found.eigenvalues[cell][:, None] - values).min(axis=1).max()
        worst = max(worst, float(near / np.abs(values).max()))
    return worst


def solve(cores: Cores, tolerance: float, **options: Any) -> LeadingResult:
    return leading_eigenvalues(cores.operator, modes=MODES, tolerance=tolerance, **options)


def compare(
    cores: Cores, tolerance: float, turns: int, n_arpack: int, subspaces: list[int]
) -> dict[str, Any]:
    n_cells = cores.operator.batch
    floor = np.linalg.norm(cores.dense(0)) / np.sqrt(len(cores.weights))
    ours, unconfirmed, dense, found = [], [], [], None
    arpack: dict[int, list[float]] = {subspace: [] for subspace in subspaces}
    products: dict[int, float] = {}
    for _ in range(turns):
        seconds, found = timed(lambda: solve(cores, tolerance))
        ours.append(seconds / n_cells)
        unconfirmed.append(timed(lambda: solve(cores, tolerance, confirm_modes=False))[0] / n_cells)
        dense.append(timed(lambda: np.linalg.eigvals(cores.dense(0)))[0])
        for subspace in subspaces:
            runs = [
                timed(lambda c=c, s=subspace: cores.arpack(c, s, tolerance * floor)) for c in range(n_arpack)
            ]
            arpack[subspace].append(float(np.mean([seconds for seconds, _ in runs])))
            products[subspace] = float(np.mean([count for _, (_, count) in runs]))
    best = min(arpack, key=lambda subspace: min(arpack[subspace]))
    return {
        "ms_per_cell": {
            "stabdask": 1e3 * min(ours),
            "stabdask unconfirmed": 1e3 * min(unconfirmed),
            "eigvals": 1e3 * min(dense),
            "arpack": 1e3 * min(arpack[best]),
        },
        "times_faster": {
            "than eigvals": min(dense) / min(ours),
            "than arpack": min(arpack[best]) / min(ours),
            # ARPACK does not look for eigenvalues it may have missed either.
            "than arpack, unconfirmed": min(arpack[best]) / min(unconfirmed),
        },
        "products": {"stabdask": float(found.n_products.mean()), "arpack": products[best], "ncv": best},
        "ok": int((found.status == 0).sum()),
        "confirmed": int(found.confirmed.sum()),
        "error_to_radius": largest_error(cores, found, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="one turn, few cells for ARPACK")
    options = parser.parse_args()
    report: dict[str, Any] = {"k": options.k, "cells": options.cells, "modes": MODES}
    with single_threaded_blas():
        for name, weights in PROBLEMS.items():
            rng = np.random.default_rng(0)
            cores = Cores(weights(rng, options.k), options.cells, rng)
            for tolerance in (1e-3, 1e-6):
                turns, n_arpack = (1, 4) if options.quick else (5, 12)
                subspaces = [30, 40] if options.quick else list(SUBSPACES)
                report[f"{name}, {tolerance:g}"] = compare(cores, tolerance, turns, n_arpack, subspaces)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
