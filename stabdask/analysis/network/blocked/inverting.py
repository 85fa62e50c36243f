"""How Theta follows Sigma: when a matrix is made, and from one generation to the next."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stabdask.analysis.network.blocked import building
from stabdask.analysis.network.blocked.changes import LARGEST_SHARE, change_sigma, change_theta
from stabdask.analysis.network.blocked.receipt import Receipt, write_receipt
from stabdask.analysis.network.blocked.solver import invert, probed
from stabdask.analysis.network.blocked.tiles import Columns, Tiles
from stabdask.analysis.network.blocked.workers import Workers
from stabdask.analysis.network.checks import Array, varying
from stabdask.analysis.network.precision import Change
from stabdask.errors import InputError, NotPositiveDefiniteError

__all__ = ["changed", "finish"]


def finish(
    folder: Path, made: building.Made, n_passes: int, drift_tolerance: float, workers: Workers
) -> None:
    """Invert Sigma in a folder that has no receipt yet, and write one.

    Raises
    ------
    NotPositiveDefiniteError
        If it has no inverse.
    InputError
        If a gene does not vary.
    """
    varying(made.diagonal, made.names)
    theta = Tiles(made.sigma.folder, "theta", made.sigma.grid, keep=True)
    try:
        done = invert(made.sigma, theta, made.diagonal, made.names, workers, building.discard)
    except NotPositiveDefiniteError as error:
        if made.cells is None:
            raise
        raise NotPositiveDefiniteError(
            f"the covariance of {made.cells.count:g} cells and {len(made.names):,} genes, shrunk by "
            f"{made.amount:g}, has no inverse: {error}; take shrinkage='ledoit-wolf', more cells or fewer genes"
        ) from error
    building.write_diagonals(made.sigma.folder, made.diagonal, done.theta_diagonal)
    write_receipt(
        folder,
        Receipt(
            generation=1,
            n_genes=len(made.names),
            tile=made.sigma.grid.tile,
            logdet=done.logdet,
            probe=done.probe,
            baseline=done.probe,
            drift_tolerance=float(drift_tolerance),
            amount=made.amount,
            count=None if made.cells is None else made.cells.count,
            ddof=None if made.cells is None else made.cells.ddof,
            n_skipped=made.n_skipped,
            n_passes=n_passes,
            n_refactorizations=0,
            history=(),
        ),
    )


def changed(
    store: Path,
    matrices: tuple[Tiles, Tiles],
    diagonal: Array,
    names: npt.NDArray[np.str_],
    before: Receipt,
    operation: str,
    columns: Array,
    sign: int,
    workers: Workers,
) -> Receipt:
    """Write the next generation of a matrix and return its receipt, which is yet to be written.

    Parameters
    ----------
    store
        Folder of the matrix.
    matrices, diagonal
        Sigma and Theta as they are, and the diagonal of Sigma.
    names
        Of genes.
    before
        The receipt that counts.
    operation
        For the history and for messages.
    columns, sign
        What is added, or taken away.
    workers
        Where steps run.

    Raises
    ------
    NotPositiveDefiniteError
        If the result has no inverse.
    """
    after, grid = before.next(), matrices[0].grid
    sigma, theta = building.new_generation(store, after, grid)
    X = Columns(sigma.folder, "columns", grid, columns.shape[1]).create()
    for i in range(grid.n_tiles):
        for piece in X.pieces:
            X.write(i, piece, columns[grid.cut(i), piece])
    change_sigma(matrices[0], sigma, X, sign, workers)
    diagonal = diagonal + sign * np.einsum("gd,gd->g", columns, columns)
    growth, direct, drifted, baseline = None, False, False, after.baseline
    if X.d <= max(1, min(LARGEST_SHARE * grid.n_genes, grid.tile)) and (diagonal > 0).all():
        growth = change_theta(matrices[1], theta, X, sign, workers)
    logdet, probe, theta_diagonal = after.logdet, float("nan"), np.empty(0)
    if growth is not None:
        found = probed(sigma, theta, diagonal, workers)
        logdet, probe, theta_diagonal = logdet + growth, found.probe, found.theta_diagonal
        drifted = not probe <= max(after.drift_tolerance, 10.0 * baseline)
    else:
        direct = True
    if direct or drifted:
        building.discard(theta)
        try:
            building.require_positive(diagonal, names)
            done = invert(sigma, theta, diagonal, names, workers, building.discard)
        except (NotPositiveDefiniteError, InputError) as error:
            raise NotPositiveDefiniteError(f"{operation} is refused, nothing has changed: {error}") from error
        logdet, probe, theta_diagonal = done.logdet, done.probe, done.theta_diagonal
        baseline = probe
    for name in ("columns", "product", "narrow"):
        shutil.rmtree(sigma.folder / name, ignore_errors=True)
    building.write_diagonals(sigma.folder, diagonal, theta_diagonal)
    change = Change(operation, X.d, "direct" if direct else "low rank", probe, drifted)
    return replace(
        after,
        logdet=logdet,
        probe=probe,
        baseline=baseline,
        n_refactorizations=after.n_refactorizations + int(drifted),
        history=(*after.history, change),
    )
