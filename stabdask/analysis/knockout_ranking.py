"""Which knockouts stabilize or destabilize the cells of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.groups import group_cells
from stabdask.errors import MissingKeyError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["rank_knockouts", "strongest_ends"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_BY_KNOCKOUT = ("knockout_abscissa", "knockout_unstable_count", "predicted_shift")
_NEEDED = (*_BY_KNOCKOUT, "abscissa", "unstable_count")
_FIGURES = (
    "mean_shift",
    "median_shift",
    "stabilized",
    "destabilized",
    "unstable_change",
    "predicted_shift",
    "n_cells",
)

_SLICE_BYTES = 4 * 2**20
"""Numbers of some knockouts that are worked on together, with temporaries as large."""


def rank_knockouts(
    ds: xr.Dataset, by: str | Sequence[str] = "cluster", *, top: int | None = None
) -> pd.DataFrame:
    """Rank knockouts by how much they move the spectral abscissa of the cells of each group.

    The shift of a cell is its spectral abscissa without the gene, less that with it: negative where the knockout
    stabilizes. Read the predicted shift beside it: where both agree, the edges of the gene drive the leading mode;
    where the exact shift is smaller, another mode takes over.

    Parameters
    ----------
    ds
        From `stabdask.knockouts`.
    by
        One label of cells or several: ``"cluster"``, or what was brought along from the atlas.
    top
        For each group only this many that stabilize most and as many that destabilize most; all if not given.

    Returns
    -------
    pandas.DataFrame
        One row a group and knockout. Groups are in their order, within each the knockouts from the mean shift that is
        lowest (most stabilizing) to the highest (most destabilizing), then those that were not solved. Columns: the
        labels; ``knockout``; ``mean_shift`` and ``median_shift`` (1/time); ``stabilized``, the fraction of cells that
        have unstable directions with the gene and none without it; ``destabilized``, the reverse;
        ``unstable_change``, the mean change of the number of unstable directions; ``predicted_shift``, the mean to
        first order; ``n_cells`` in these means: those of the group with a shift (where none has, with a prediction).
        ``attrs["n_failed"]``: cells that could not be computed.

    Raises
    ------
    MissingKeyError
        If `ds` is of another kind, or there is no such label.
    UsageError
        If `top` is less than 1, or `by` names no label.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B", "C"], W=[[0.0, -4.0, 0.0], [-4.0, 0.0, 0.0], [1.0, 0.0, 0.0]], gamma=[1.0, 1.0, 0.5], bias=4.0,
    ...     threshold=1.0, exponent=2.0)
    >>> adata = anndata.AnnData(np.array([[1.379, 1.379, 1.0], [1.3, 1.45, 1.0]]))
    >>> adata.var_names = ["A", "B", "C"]
    >>> ds = sd.knockouts(sd.open_cells(adata), field, regulators=["A", "C"])
    >>> sd.rank_knockouts(ds)[["knockout", "mean_shift", "stabilized", "predicted_shift"]].round(2)
      knockout  mean_shift  stabilized  predicted_shift
    0        A       -0.81         1.0            -1.31
    1        C        0.00         0.0             0.00
    """
    import pandas as pd

    for name in _NEEDED:
        if name not in getattr(ds, "variables", {}):
            raise MissingKeyError(f"no variable {name!r}; expected a Dataset from stabdask.knockouts")
    if top is not None and (not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1):
        raise UsageError(f"top={top!r}; expected a whole number, at least 1, or None for all")
    groups = group_cells(ds, by)
    names = np.atleast_1d(ds["knockout"].to_numpy())
    arrays = {name: ds[name].transpose("cell", ...).to_numpy() for name in _NEEDED}
    # Of a Dataset of which one knockout was selected, too; a number of each cell is a column.
    arrays = {
        name: values.reshape(len(groups.codes), len(names) if name in _BY_KNOCKOUT else 1)
        for name, values in arrays.items()
    }
    tables = []
    for number, place in enumerate(np.ndindex(groups.shape)):
        rows = np.flatnonzero(groups.codes == number)
        if not len(rows):
            continue
        table = _means(arrays, rows)
        table.insert(0, "knockout", names)
        for position, (name, labels) in enumerate(zip(groups.names, groups.labels, strict=True)):
            table.insert(position, name, labels[place[position]])
        table = table.sort_values("mean_shift", kind="stable", na_position="last")
        if top is not None:
            table = strongest_ends(table, int(top))
        tables.append(table)
    columns = [*groups.names, "knockout", *_FIGURES]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    table.attrs["n_failed"] = int(np.isnan(arrays["abscissa"]).sum())
    return table


def _means(arrays: dict[str, npt.NDArray[Any]], rows: Index) -> pd.DataFrame:
    """Return the figures of each knockout over the cells of a group, those of some knockouts after those of others."""
    import pandas as pd

    n_knockouts = arrays["knockout_abscissa"].shape[1]
    step = max(1, _SLICE_BYTES // (8 * len(rows)))
    parts = [
        _means_of_some(
            {
                name: values[rows, first : first + step] if name in _BY_KNOCKOUT else values[rows]
                for name, values in arrays.items()
            }
        )
        for first in range(0, n_knockouts, step)
    ]
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in _FIGURES})


def _means_of_some(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the figures of all knockouts over all cells of `arrays`."""
    shift = arrays["knockout_abscissa"] - arrays["abscissa"]
    known = ~np.isnan(shift)
    n_known = known.sum(axis=0)
    solved = n_known > 0
    median = np.full(shift.shape[1], np.nan)
    median[solved] = np.nanmedian(shift[:, solved], axis=0)
    before, after = arrays["unstable_count"], arrays["knockout_unstable_count"]
    predicted = arrays["predicted_shift"]
    # Beside what was solved, the prediction for the same cells.
    counted = ~np.isnan(predicted) & (known | ~solved)
    figures = (
        _mean(shift, known),
        median,
        _mean((before > 0) & (after == 0), known),
        _mean((before == 0) & (after > 0), known),
        _mean(after - before, known),
        _mean(predicted, counted),
        np.where(solved, n_known, counted.sum(axis=0)),
    )
    return dict(zip(_FIGURES, figures, strict=True))


def _mean(values: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> Array:
    """Return the mean of each column over some of its rows, NaN over none."""
    n = where.sum(axis=0)
    total = np.where(where, values, 0.0).sum(axis=0)
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan), dtype=np.float64)


def strongest_ends(table: pd.DataFrame, top: int) -> pd.DataFrame:
    """Return the `top` rows that stabilize most and the `top` that destabilize most, of a sorted table of one group."""
    import pandas as pd

    down, up = table[table["mean_shift"] < 0], table[table["mean_shift"] > 0]
    return pd.concat([down.head(top), up.tail(top)])
