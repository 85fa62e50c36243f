"""Precision matrices that are updated, against inversions from scratch.

    python tests/benchmarks/bench_network.py [--genes 500 2000] [--rank 5] [--repeats 7] [--crossover] [--json]
                                             [--figures FIGURES.json] [--plot FILE.png]

For each number of genes, a covariance matrix of ten factors to which a change of low rank is added. Timed in turns in
one run, the best of all turns: `numpy.linalg.inv` of the changed matrix; its inversion through Cholesky factors; the
Woodbury formula as it is written, in NumPy; `woodbury_update`, which gives a full matrix; and
`PrecisionMatrix.update`, which keeps covariance and inverse in step and probes them (in place, one triangle of each;
reading `theta` afterwards, timed as well, fills the other). With --crossover, also the rank from which inversion
through Cholesky factors is the faster. With --plot, a figure of the seconds over numbers of genes; with --figures, of
what --json printed before, without measuring again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stabdask import plotting
from stabdask.analysis.network import PrecisionMatrix
from stabdask.kernels import lowrank

Array = np.ndarray[Any, Any]
GENES = (50, 100, 200, 500, 1000, 2000, 4000)
DRAWN = {
    "numpy_inv": "numpy.linalg.inv",
    "cholesky": "inversion by Cholesky factors",
    "update": "PrecisionMatrix.update",
}
"""What of the seconds is drawn, and under which names."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, nargs="+", default=GENES)
    parser.add_argument("--rank", type=int, default=5, help="of the change (5)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (7)")
    parser.add_argument(
        "--crossover", action="store_true", help="find the rank from which inversion is faster"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON on stdout")
    parser.add_argument("--figures", type=Path, help="take what --json printed from here; measure nothing")
    parser.add_argument("--plot", type=Path, help="draw the seconds into this file (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    if options.figures is not None:
        figures = json.loads(options.figures.read_text())
    else:
        figures = [measured(n, options.rank, options.repeats, options.crossover) for n in options.genes]
    if options.json:
        print(json.dumps(figures, indent=2))
    if options.plot is not None:
        plotting.update_timing(timings(figures), direct=DRAWN["numpy_inv"], save=options.plot)


def timings(figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table that is drawn: a row for each number of genes, a column of seconds for each way."""
    return [
        {"n_genes": one["n_genes"], "rank": one["rank"]}
        | {name: one["seconds"][way] for way, name in DRAWN.items()}
        for one in figures
    ]


def factor_model(n: int, d: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(42)
    loadings = rng.normal(0, 0.1, (n, 10))
    return loadings @ loadings.T + np.diag(rng.uniform(0.01, 0.05, n)), rng.normal(0, 0.05, (n, d))


def naive(P: Array, X: Array) -> Array:
    return P - P @ X @ np.linalg.inv(np.eye(X.shape[1]) + X.T @ P @ X) @ X.T @ P


def measured(n: int, d: int, repeats: int, crossover: bool) -> dict[str, Any]:
    base, X = factor_model(n, d)
    changed = base + X @ X.T
    P = np.asfortranarray(np.linalg.inv(base))
    precision = PrecisionMatrix.from_covariance(base, crossover=1.0)

    def cholesky() -> Array:
        return lowrank.mirror(lowrank.invert_definite(changed)[0])

    def update() -> None:
        precision.update(X)

    def read() -> Array:
        return precision.theta

    ways: dict[str, Callable[[], Any]] = {
        "numpy_inv": lambda: np.linalg.inv(changed),
        "cholesky": cholesky,
        "naive": lambda: naive(P, X),
        "woodbury_update": lambda: lowrank.woodbury_update(P, X),
        "update": update,
        "read_theta": read,
    }
    error = float(np.abs(lowrank.woodbury_update(P, X) - np.linalg.inv(changed)).max())
    seconds = in_turns(ways, repeats)
    figures: dict[str, Any] = {"n_genes": n, "rank": d, "seconds": seconds, "max_difference": error}
    for way in ("woodbury_update", "update", "naive", "cholesky"):
        figures[f"{way}_times_faster"] = seconds["numpy_inv"] / seconds[way]
    say(
        f"{n:5,} genes  numpy.linalg.inv {seconds['numpy_inv'] * 1e3:8.2f} ms  "
        + "  ".join(
            f"{way} {seconds[way] * 1e3:.2f} ms ({seconds['numpy_inv'] / seconds[way]:.1f}x)"
            for way in list(ways)[1:]
        )
        + f"  differ by {error:.1e}"
    )
    if crossover:
        figures["crossover_rank"] = crossing(P, changed, repeats)
        found = figures["crossover_rank"]
        say(f"{n:5,} genes  inversion is faster from rank {found if found else 'n on'}")
    return figures


def crossing(P: Array, changed: Array, repeats: int) -> int | None:
    """Return the first of a few ranks at which inversion is faster, or None up to the number of genes."""
    n = len(P)
    rng = np.random.default_rng(0)
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0):
        X = rng.normal(0, 0.05, (n, max(1, int(share * n))))
        ways = {
            "update": lambda X=X: lowrank.woodbury_update(P, X),
            "direct": lambda: lowrank.mirror(lowrank.invert_definite(changed)[0]),
        }
        seconds = in_turns(ways, repeats)
        if seconds["direct"] < seconds["update"]:
            return X.shape[1]
    return None


def in_turns(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the best time of each, in turns so that a busy moment falls on all, with pauses and warm starts."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            # NumPy and SciPy bring a BLAS each, whose threads spin for some 30 ms after their work.
            time.sleep(0.05)
            way()  # what it works with comes back into the cache
            begin = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
