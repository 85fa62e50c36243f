"""What a sustained push on a gene of a Hopfield field does to others: -J^-1, from the core alone."""

from __future__ import annotations

import numpy as np

from stabdask.fields.base import Array, Index
from stabdask.fields.hopfield_model import ClusterModel
from stabdask.kernels.solve import inverse_or_nan

__all__ = ["block_response"]

_SOLVE_BYTES = 32 * 2**20


def block_response(
    model: ClusterModel, slope: Array, effectors: Index, regulators: Index
) -> tuple[Array, Array]:
    """Return ``-J^-1 [effectors, regulators]`` for the slopes phi' of some cells, and how well it is conditioned.

    With genes in the order (regulators of the cluster, rest), ``J = [[C, 0], [B, -Gamma]]``: a column of its inverse is
    ``C^-1 e`` on regulators and ``Gamma^-1 (B C^-1 e - e)`` on the rest.

    Parameters
    ----------
    model
        Of the cluster.
    slope
        ``(cell, r)``: phi' of its regulators, 0 where they are not active.
    effectors, regulators
        Positions among genes.

    Returns
    -------
    response
        ``(cell, effector, regulator)``, units of expression per expression/time; NaN where J is singular.
    condition
        ``(cell,)``: the 1-norm condition number of the core of all regulators of the cluster; infinite where J is
        singular.
    """
    n_genes, r = len(model.gamma), len(model.regulators)
    place = np.full(n_genes, -1)
    place[model.regulators] = np.arange(r)
    pushed, asked = place[regulators], place[effectors]
    among = np.flatnonzero(pushed >= 0)
    same = (effectors[:, None] == regulators).astype(np.float64)
    outside = np.flatnonzero(asked < 0)
    out = np.empty((len(slope), len(effectors), len(regulators)))
    condition = np.empty(len(slope))
    step = max(1, _SOLVE_BYTES // (8 * max(1, r * (3 * r + 2 * len(regulators)))))
    for first in range(0, len(slope), step):
        cells = slice(first, first + step)
        cores = model.core_weights * slope[cells, None, :]
        cores[:, np.arange(r), np.arange(r)] -= model.gamma[model.regulators]
        inverse, condition[cells] = inverse_or_nan(cores)
        found = np.zeros((len(cores), r, len(regulators)))
        found[:, :, among] = inverse[:, :, pushed[among]]
        # Where the core is singular, so is J, whichever column is asked for.
        found[np.isinf(condition[cells])] = np.nan
        out[cells, asked >= 0] = -found[:, asked[asked >= 0]]
        if outside.size:
            driven = model.weights[effectors[outside]].astype(np.float64) * slope[cells, None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                rest = (driven @ found - same[outside]) / model.gamma[effectors[outside], None]
            out[cells, outside] = np.where(np.isfinite(rest), -rest, np.nan)
    # A gene outside the core that does not decay makes J singular, whichever elements are asked for.
    others = np.ones(n_genes, dtype=bool)
    others[model.regulators] = False
    if (model.gamma[others] == 0).any():
        out[...], condition[...] = np.nan, np.inf
    return out + 0.0, condition
