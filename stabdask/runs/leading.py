"""Leading modes of large cores by Krylov iteration, and the audit that tells how far to trust them.

An iteration finds eigenvalues; it cannot know that it has found all it should. So every run solves a random sample
of its cells densely as well, by LAPACK, and the store says what came of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.fields.base import Field, Index, Linearization
from stabdask.kernels.eig import eig
from stabdask.kernels.krylov import LeadingResult, leading_eigenvalues
from stabdask.runs.options import Options
from stabdask.schema import Status

__all__ = [
    "BASIS_BYTES",
    "audit_sample",
    "audit_spectra",
    "core_counts",
    "leading_batch_cells",
    "solve_leading",
]

BASIS_BYTES = 256 * 2**20
"""Krylov bases of the cells that are iterated on together."""
_AUDITED_SHARE = 0.01
_FEWEST_AUDITED = 8
_SCALAR_MODES = 4
"""Modes that scalars need: a conjugate pair, what follows it, and one more to tell a count from."""


def leading_batch_cells(options: Options, field: Field) -> int:
    """Return how many cells are iterated on together: at most 256 MB of bases, and at most 128 cells.

    More would not fit the caches, fewer would leave the product with W short of rows.
    """
    modes = max(options.modes, _SCALAR_MODES)
    vectors = 3 * max(12, 1.2 * modes + 10) + 4 * modes
    return int(np.clip(BASIS_BYTES // (2 * 8 * vectors * max(1, field.largest_core)), 1, 128))


def solve_leading(
    linear: Linearization, cells: Index, options: Options, start: npt.NDArray[Any] | None
) -> LeadingResult:
    """Return the leading modes of the cores of `cells`, begun from what an earlier batch of the cluster ended with."""
    return leading_eigenvalues(
        linear.operator(cells),
        modes=max(options.modes, _SCALAR_MODES),
        tolerance=options.residual_tolerance,
        start=start,
        vectors=options.solved_vectors,
    )


def core_counts(result: LeadingResult, tolerance: float) -> tuple[Index, Index]:
    """Return the numbers of unstable and stable eigenvalues of each core, -1 where they are not certain."""
    unstable = result.certain_unstable_count(tolerance)
    not_stable = unstable if tolerance == 0 else result.certain_unstable_count(-tolerance)
    if tolerance == 0:
        # An eigenvalue of exactly zero is neither.
        zeros = (result.eigenvalues.real == 0).sum(axis=1)
        not_stable = np.where(unstable >= 0, unstable + zeros, -1)
    return unstable, np.where(not_stable >= 0, result.sizes - not_stable, -1)


def audit_sample(codes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Choose the cells to audit: of each cluster 1 %, at least 8 (or all it has).

    Parameters
    ----------
    codes
        ``(cell,)``: number of each cell's cluster, negative for cells that are not computed.

    Returns
    -------
    ``(cell,)``. It depends on the codes alone, so that a resumed run audits the same cells.
    """
    chosen = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes[codes >= 0]):
        members = np.flatnonzero(codes == code)
        count = min(len(members), max(_FEWEST_AUDITED, -(-len(members) * _AUDITED_SHARE // 1)))
        stream = np.random.Generator(np.random.PCG64(int(code)))
        chosen[stream.choice(members, size=int(count), replace=False)] = True
    return chosen


def audit_spectra(
    linear: Linearization, cells: Index, found: npt.NDArray[Any], tolerance: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Compare leading eigenvalues with dense spectra.

    Parameters
    ----------
    linear, cells
        Whose cores to solve.
    found
        ``(len(cells), mode)`` eigenvalues in canonical order, NaN where there are none.
    tolerance
        The relative residual they were asked for.

    Returns
    -------
    difference
        ``(len(cells),)``: the largest distance from one found to the dense spectrum, relative to ``|C|``; NaN
        where nothing was found or the dense solver failed.
    missed
        ``(len(cells),)``: how many dense eigenvalues clearly right of the last one found were not; -1 there.
    """
    difference = np.full(len(cells), np.nan)
    missed = np.full(len(cells), -1, dtype=np.intp)
    for number, cell in enumerate(cells):
        core = linear.cores(np.asarray([cell]))
        values = found[number][~np.isnan(found[number].real)]
        dense = eig(core, backend="lapack")
        if dense.status[0] != Status.OK or not len(values):
            continue
        norm = float(np.linalg.norm(core[0])) or 1.0
        spectrum = dense.eigenvalues[0]
        difference[number] = np.abs(values[:, None] - spectrum).min(axis=1).max() / norm
        # By number, not by matching: neither a value found twice nor one close by can hide what is missing.
        slack = 10 * max(tolerance, float(difference[number])) * norm
        edge = values[-1].real + slack
        missed[number] = max(
            0, int((spectrum.real > edge + slack).sum() - (values.real > edge - slack).sum())
        )
    return difference, missed
