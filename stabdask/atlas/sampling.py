"""`sample`: some cells that stand for an atlas."""

from __future__ import annotations

import operator
import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from stabdask.atlas.cells import cell_state, cluster_codes
from stabdask.errors import InputError, MissingKeyError, StabdaskWarning, UsageError, near_misses

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

    from stabdask.fields.base import Field

__all__ = ["METHODS", "POSITION", "Method", "sample", "sample_clusters"]

Index = npt.NDArray[np.intp]
Method = Literal["random", "velocity", "trn", "kmeans", "stratified"]

METHODS: tuple[str, ...] = get_args(Method)
POSITION = "atlas_position"
"""Coordinate with the positions of sampled cells in their atlas; a number that comes along into results."""

_POOL_BYTES = 128 * 2**20
"""Coordinates that nodes are placed by; of larger atlases a part that is drawn at random."""

_FEWEST_ROWS = 128


def sample(
    cells: xr.Dataset,
    n: int,
    *,
    method: Method = "random",
    seed: int = 0,
    field: Field | None = None,
    basis: str | None = None,
    missing_cluster: str = "error",
) -> xr.Dataset:
    """Choose `n` cells of an atlas.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`; lazy, and read block by block where the method has to look at it.
    n
        How many cells.
    method
        ``"random"``
            Every cell is as likely.
        ``"velocity"``
            Drawn one after the other, each with probability proportional to its speed |v(x)| in `field`.
        ``"trn"``
            Topology representing network: nodes spread over the cells by neural gas, and for each node the
            nearest cell that no nearer node has.
        ``"kmeans"``
            As ``"trn"``, with the centers of mini-batch k-means: nearer to all cells on average, with less regard for
            where cells are dense.
        ``"stratified"``
            From each cluster in proportion to its size, but at least one; at random within a cluster. Cells without a
            label belong to no cluster and are not chosen.
    seed
        Same seed, same cells: whatever the chunks of the atlas and the number of workers.
    field
        For ``"velocity"`` alone.
    basis
        For ``"trn"`` and ``"kmeans"``: embedding of the cells (see `stabdask.open_cells`) with the coordinates that
        distances are taken in. Without one, distances are those of the cell state, in its own units.
    missing_cluster
        For ``"velocity"``: what to do with cells whose cluster the field was not fitted for, as in `stabdask.run`:
        ``"error"``; ``"skip"`` to choose none of them; ``"W_<cluster>"`` to use that cluster's parameters.

    Returns
    -------
    xarray.Dataset
        The chosen cells, in the order of the atlas, each once, as lazy as they were. ``atlas_position(cell)`` is where
        in the atlas each was; it comes along into the results of a run, as numbers do (see `stabdask.open_cells`).
        ``attrs["sample"]`` says how they were chosen.

    Raises
    ------
    UsageError
        If there are fewer cells than `n`, or fewer that may be chosen: labels for ``"stratified"``, a positive speed
        for ``"velocity"``, finite coordinates for ``"trn"`` and ``"kmeans"``; if `n` is smaller than the number of
        clusters for ``"stratified"``; if an option is one that the method does not use.
    MissingKeyError
        If there is no such embedding, or the field lacks a cluster or the cells a gene.
    InputError
        If coordinates are no numbers, or the state of a cell is out of the field's domain.

    Warns
    -----
    StabdaskWarning
        If cells cannot be chosen because they have no label, no velocity or coordinates that are not finite.

    Notes
    -----
    Of a large atlas no more than a few hundred MB are in memory. ``"trn"`` takes time in proportion to the square of
    `n`: it compares 200 n cells with n nodes. Cells that the method places nodes by, at most 200 n and 128 MB of
    them, are drawn at random from larger atlases; the cell next to each node is looked for among all.

    References
    ----------
    Martinetz & Schulten 1994, Neural Networks 7(3), 507-522 (topology representing networks); Qiu et al. 2022,
    Cell 185(4), 690-711 (for sampling cells of a vector field); Efraimidis & Spirakis 2006, Information Processing
    Letters 97(5), 181-185; Arthur & Vassilvitskii 2007, SODA, 1027-1035; Sculley 2010, WWW, 1177-1178.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd, stabdask as sd
    >>> obs = pd.DataFrame({"state": ["a"] * 6 + ["b"] * 3}, index=[f"c{i}" for i in range(9)])
    >>> cells = sd.open_cells(anndata.AnnData(np.eye(9), obs=obs), cluster_key="state")
    >>> some = sd.sample(cells, 3, method="stratified")
    >>> some.cluster.values.tolist(), some.attrs["sample"]
    (['a', 'a', 'b'], {'method': 'stratified', 'n': 3, 'seed': 0, 'n_cells': 9})
    >>> bool((some.cell.values == cells.cell.values[some.atlas_position.values.astype(int)]).all())
    True
    """
    n_cells = int(cell_state(cells).sizes["cell"])
    n, seed = _checked(n, n_cells, method, seed, field, basis)
    _check_position(cells)
    rng = np.random.default_rng(seed)
    if method == "random":
        positions = rng.choice(n_cells, n, replace=False, shuffle=False)
    elif method == "stratified":
        positions = _stratified(cells, n, rng)
    elif method == "velocity":
        assert field is not None
        positions = _by_speed(cells, n, rng, field, missing_cluster)
    else:
        positions = _by_nodes(cells, n, rng, method, basis)
    made: dict[str, Any] = {"method": method, "n": n, "seed": seed, "n_cells": n_cells}
    if basis is not None:
        made["basis"] = basis
    return _selected(cells, np.sort(positions), made)


def sample_clusters(cells: xr.Dataset, n: int, *, seed: int = 0) -> xr.Dataset:
    """Choose up to `n` cells of each cluster at random.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    n
        How many of each cluster; all of a cluster that has no more. Cells without a label are not chosen.
    seed
        Each cluster has a draw of its own: it does not depend on which others there are.

    Returns
    -------
    xarray.Dataset
        As `sample` returns it.

    Raises
    ------
    UsageError
        If `n` or `seed` is no whole number, or too small.
    InputError
        If no cell has a label.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}={value!r}; expected a whole number, at least {least}")
    _check_position(cells)
    codes, labels = cluster_codes(cells)
    chosen = [
        np.random.default_rng([seed, *label.encode()]).permutation(np.flatnonzero(codes == code))[:n]
        for code, label in enumerate(labels)
    ]
    if not chosen:
        raise InputError(
            "no cell has a cluster label; give a column of labels as cluster_key= (--cluster-key)"
        )
    _warn_left_out(int((codes < 0).sum()), len(codes), "have no cluster label")
    made = {"method": "clusters", "n": int(n), "seed": int(seed), "n_cells": len(codes)}
    return _selected(cells, np.sort(np.concatenate(chosen)), made)


def _checked(
    n: int, n_cells: int, method: str, seed: int, field: Field | None, basis: str | None
) -> tuple[int, int]:
    """Return `n` and `seed` as plain integers."""
    if method not in METHODS:
        raise UsageError(
            f"method={method!r} is not known; {near_misses(str(method), METHODS, noun='methods')}"
        )
    numbers = []
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        try:
            number = operator.index(value)
        except TypeError:
            number = least - 1
        if isinstance(value, bool | np.bool_) or number < least:
            raise UsageError(f"{name}={value!r}; expected a whole number, at least {least}")
        numbers.append(number)
    if numbers[0] > n_cells:
        raise UsageError(
            f"n={numbers[0]:,} cells of {n_cells:,}: there are fewer; expected n of at most {n_cells:,}"
        )
    if method == "velocity" and field is None:
        raise UsageError("method='velocity' needs the field whose velocities it is about; give field=")
    if method != "velocity" and field is not None:
        raise UsageError(
            f"field= is for method='velocity'; method={method!r} does not look at it, leave it out"
        )
    if method not in ("trn", "kmeans") and basis is not None:
        raise UsageError(
            f"basis={basis!r} is for 'trn' and 'kmeans'; method={method!r} has no use for it, leave it out"
        )
    return numbers[0], numbers[1]


def _check_position(cells: xr.Dataset) -> None:
    if POSITION in cells.variables and "sample" not in cells.attrs:
        raise UsageError(
            f"the cells have {POSITION!r} already, and not from sample(); bring it along under another name with a "
            f"mapping, e.g. obs_keys={{'previous_position': {POSITION!r}}}"
        )


def _stratified(cells: xr.Dataset, n: int, rng: np.random.Generator) -> Index:
    codes, labels = cluster_codes(cells)
    sizes = np.bincount(codes[codes >= 0], minlength=len(labels))
    n_labeled = int(sizes.sum())
    if n > n_labeled:
        raise UsageError(
            f"n={n:,}, but {n_labeled:,} of {len(codes):,} cells have a cluster label; give fewer"
        )
    if n < len(labels):
        raise UsageError(
            f"n={n:,} is less than one cell for each of {len(labels):,} clusters; give at least {len(labels):,}, or "
            "use another method"
        )
    _warn_left_out(len(codes) - n_labeled, len(codes), "have no cluster label")
    order = rng.random(len(codes))
    chosen = []
    for code, share in enumerate(_shares(sizes, n)):
        members = np.flatnonzero(codes == code)
        chosen.append(members[np.argsort(order[members], kind="stable")[:share]])
    return np.concatenate(chosen)


def _shares(sizes: npt.NDArray[np.integer[Any]], n: int) -> npt.NDArray[np.intp]:
    """Return how many of `n` cells each cluster gives: in proportion, by largest remainders, at least one.

    Examples
    --------
    >>> _shares(np.array([60, 25, 15]), 10).tolist(), _shares(np.array([980, 10, 10]), 10).tolist()
    ([6, 3, 1], [8, 1, 1])
    """
    shares = np.ones(len(sizes), dtype=np.intp)
    large = np.arange(len(sizes))
    while True:
        # What clusters of less than one cell take is not there for the others.
        quotas = (n - (len(sizes) - len(large))) * sizes[large] / max(1, sizes[large].sum())
        if not (quotas < 1).any():
            break
        large = large[quotas >= 1]
    shares[large] = np.floor(quotas).astype(np.intp)
    # Of equal remainders that of the larger cluster counts, then that of the first.
    order = np.lexsort((-sizes[large], -(quotas - shares[large])))
    shares[large[order[: n - shares.sum()]]] += 1
    return shares


def _by_speed(
    cells: xr.Dataset, n: int, rng: np.random.Generator, field: Field, missing_cluster: str
) -> Index:
    from stabdask.atlas.neural_gas import draw_weighted
    from stabdask.atlas.speeds import cell_speeds
    from stabdask.fields.base import Field

    if not isinstance(field, Field):
        raise UsageError(
            f"field is a {type(field).__name__}; expected a Field, e.g. from stabdask.read_field"
        )
    speeds = cell_speeds(cells, field, missing_cluster=missing_cluster)
    n_unknown = int((~np.isfinite(speeds)).sum())
    n_moving = int((speeds[np.isfinite(speeds)] > 0).sum())
    if n > n_moving:
        raise UsageError(
            f"n={n:,}, but {n_moving:,} of {len(speeds):,} cells have a positive speed ({n_unknown:,} have none that "
            f"is finite, {len(speeds) - n_unknown - n_moving:,} do not move); give fewer, or use another method"
        )
    _warn_left_out(n_unknown, len(speeds), "have no finite velocity (no label, no model, or no finite state)")
    return draw_weighted(speeds, n, rng)


def _by_nodes(cells: xr.Dataset, n: int, rng: np.random.Generator, method: str, basis: str | None) -> Index:
    from stabdask.atlas.coordinates import Coordinates
    from stabdask.atlas.nearest import nearest_unused
    from stabdask.atlas.neural_gas import N_PRESENTATIONS, kmeans_centers, topology_nodes

    values = cell_state(cells) if basis is None else _embedding(cells, basis)
    coordinates = Coordinates(values)
    n_pool = max(n, min(N_PRESENTATIONS * n, _POOL_BYTES // coordinates.row_bytes))
    finite, points = coordinates.look(_some(np.arange(coordinates.n_cells), n_pool, rng))
    usable = np.flatnonzero(finite)
    if n > len(usable):
        raise UsageError(
            f"n={n:,}, but {len(usable):,} of {len(finite):,} cells have finite coordinates in {values.name!r}; "
            "give fewer"
        )
    _warn_left_out(
        len(finite) - len(usable), len(finite), f"have coordinates in {values.name!r} that are not finite"
    )
    if n == len(usable):
        return usable
    if len(points) < min(n_pool, len(usable)):  # cells that are not finite took places in the pool
        points = coordinates.look(_some(usable, n_pool, rng))[1]
    nodes = (topology_nodes if method == "trn" else kmeans_centers)(points, n, rng)
    return nearest_unused(coordinates, finite, nodes)


def _some(positions: Index, n: int, rng: np.random.Generator) -> Index:
    if n >= len(positions):
        return positions
    return positions[np.sort(rng.choice(len(positions), n, replace=False, shuffle=False))]


def _embedding(cells: xr.Dataset, basis: str) -> xr.DataArray:
    known = [str(name) for name in cells.data_vars if cells[name].attrs.get("annotation") == "embedding"]
    if basis not in known:
        hint = near_misses(str(basis), known, noun="embeddings")
        raise MissingKeyError(
            f"the cells have no embedding {basis!r}; {hint}. Bring it along with "
            f"open_cells(embeddings=[...]) (--embedding {basis})"
        )
    if cells[basis].ndim != 2 or cells[basis].dims[0] != "cell":
        raise InputError(
            f"{basis!r} of the cells has dimensions {cells[basis].dims}; expected ('cell', axis)"
        )
    return cells[basis]


def _warn_left_out(n: int, n_cells: int, why: str) -> None:
    if n:
        warnings.warn(f"{n:,} of {n_cells:,} cells {why}: they are not chosen", StabdaskWarning, stacklevel=4)


def _selected(cells: xr.Dataset, positions: Index, made: dict[str, Any]) -> xr.Dataset:
    """Return the cells at ascending `positions`, with the position of each, and in what way they were chosen."""
    import dask.array as da

    if "sample" in cells.attrs:  # of a sample: positions stay those in the first atlas
        made["of"] = cells.attrs["sample"]
    if POSITION not in cells.variables:
        cells = cells.assign_coords({POSITION: ("cell", np.arange(made["n_cells"], dtype=np.float64))})
        cells[POSITION].attrs["annotation"] = "number"
    if len(positions) == made["n_cells"]:
        return cells.assign_attrs(sample=made)
    order = list(cells.data_vars)
    lazy = {
        name: cells[name].variable
        for name in order
        if isinstance(cells[name].data, da.Array) and cells[name].dims[:1] == ("cell",)
    }
    chosen = cells.drop_vars(list(lazy)).isel(cell=positions)
    rows = {name: (v.dims, _take(v.data, positions), v.attrs) for name, v in lazy.items()}
    return chosen.assign(rows)[order].assign_attrs(sample=made)


def _take(array: da.Array, positions: Index) -> da.Array:
    """Return rows of a Dask array in chunks of about as many as came from a chunk, but at least 128.

    One indexing of the whole array would put all rows in a chunk or two of usual size. Whoever looked at any of them,
    such as each partition of a run, would read every block that holds one of the others.
    """
    import dask.array as da

    stops = np.cumsum(array.chunks[0])
    n_chunks = len(np.unique(np.searchsorted(stops, positions, side="right")))
    rows = max(_FEWEST_ROWS, 1 << ((len(positions) // n_chunks).bit_length() - 1))
    starts = range(0, len(positions), rows)
    parts = [array[positions[start : start + rows]].rechunk({0: -1}) for start in starts]
    joined: da.Array = da.concatenate(parts, axis=0)
    return joined
