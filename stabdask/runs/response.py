"""Responses to a sustained push, -J^-1, between chosen genes: of every cell, and their means by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stabdask.errors import UsageError
from stabdask.fields.base import Field
from stabdask.runs.lazy import stability

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["response"]


def response(
    cells: xr.Dataset,
    field: Field,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    effectors: Sequence[str] | None = None,
    regulators: Sequence[str] | None = None,
    missing_cluster: str = "error",
    dtype: str = "float64",
) -> xr.Dataset:
    """Return -J^-1 between chosen genes, lazily: where a push on the regulator, kept up, would shift the effector.

    A small constant push p on gene j, ``dx/dt = J x + p e_j``, ends at the shift ``-J^-1 e_j p`` where J is stable. It
    is the sum over all paths from j to i; the element ``J[i, j]`` is the direct one. Where J is unstable nothing
    settles, and the numbers say where the flow would have its zero: read them beside ``spectral_abscissa``.

    Only the core is inverted, of regulators or over axes; what it drives follows by products of matrices (the Woodbury
    identity for J = W diag(phi') - diag(gamma)). `stabdask.run` with the quantities ``"response"`` and
    ``"response_mean"`` writes the same to a store.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    field
        From `stabdask.read_field`.
    pairs
        ``(effector, regulator)`` names; or
    effectors, regulators
        names, for all of the ones by all of the others; all genes of the field where only one list is given.
    missing_cluster
        As in `stabdask.stability`.
    dtype
        Precision in which responses of each cell are kept.

    Returns
    -------
    xarray.Dataset
        ``response (cell, block_effector, block_regulator)`` in units of expression per expression/time,
        ``response_mean`` and ``response_abs_mean (cluster, block_effector, block_regulator)`` over the ``response_cells
        (cluster)`` whose ``response_status (cell)`` is 0, and ``response_condition (cell)``. With `pairs` the last two
        dimensions are one, ``pair``, with coordinates ``effector`` and ``pair_regulator``.

    Raises
    ------
    UsageError
        If neither or both of pairs and lists of genes are given.
    MissingKeyError
        If the field has no such gene.

    References
    ----------
    Yeung, Tegner & Collins (2002), PNAS 99:6163; Woodbury (1950), Inverting Modified Matrices.
    """
    if (pairs is None) == (effectors is None and regulators is None):
        raise UsageError(
            "expected either pairs=[(effector, regulator), ...] or effectors=[...] and regulators=[...]; found "
            + ("both" if pairs is not None else "neither")
        )
    if pairs is not None:
        pairs = [_pair(pair) for pair in pairs]
        if not pairs:
            raise UsageError("pairs is empty; expected at least one (effector, regulator)")
        effectors = list(dict.fromkeys(i for i, _ in pairs))
        regulators = list(dict.fromkeys(j for _, j in pairs))
    every = field.genes.tolist()
    ds = stability(
        cells,
        field,
        spectrum="none",
        quantities=["response", "response_mean"],
        effectors=every if effectors is None else effectors,
        regulators=every if regulators is None else regulators,
        missing_cluster=missing_cluster,
        dtype=dtype,
    )
    ds = ds[[name for name in ds.data_vars if str(name).startswith("response") or name == "status"]]
    ds = ds.drop_vars([name for name in ds.coords if not {*ds[name].dims} <= _used_dims(ds)])
    return ds if pairs is None else _between_pairs(ds, pairs)


def _used_dims(ds: xr.Dataset) -> set[Any]:
    return {dim for values in ds.data_vars.values() for dim in values.dims}


def _pair(pair: Any) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2:
        raise UsageError(f"pair {pair!r}; expected (effector, regulator)")
    return str(pair[0]), str(pair[1])


def _between_pairs(ds: xr.Dataset, pairs: Sequence[tuple[str, str]]) -> xr.Dataset:
    """Take the pairs out of blocks."""
    import xarray as xr

    effectors, regulators = zip(*pairs, strict=True)
    picked = ds.sel(
        block_effector=xr.DataArray(list(effectors), dims="pair"),
        block_regulator=xr.DataArray(list(regulators), dims="pair"),
    )
    named = {"effector": "block_effector", "pair_regulator": "block_regulator"}
    return picked.rename({old: new for new, old in named.items()}).assign_coords(
        pair=("pair", [f"{i}:{j}" for i, j in pairs])
    )
