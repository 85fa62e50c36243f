"""Fixed points as a table, one a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabdask.errors import MissingKeyError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["fixed_point_table"]

_COLUMNS = (
    "cluster",
    "type",
    "form",
    "index",
    "abscissa",
    "frequency",
    "n_starts",
    "inside",
    "distance",
    "distance_limit",
    "residual",
    "speed",
    "location_error",
    "near_switch",
    "isolated",
    "held_count",
)


def fixed_point_table(ds: xr.Dataset, *, locations: bool = True) -> pd.DataFrame:
    """Return fixed points as a table.

    Parameters
    ----------
    ds
        From `stabdask.fixed_points`.
    locations
        Whether to add a column for each axis.

    Returns
    -------
    pandas.DataFrame
        One row a fixed point, in their order: ``cluster``, ``type``, ``form``, ``index`` (modes that grow),
        ``abscissa`` and ``frequency`` of the leading mode, ``n_starts`` and further scalars of `ds`, then the location.
        An axis with the name of such a column is ``location:<name>``.

    Raises
    ------
    MissingKeyError
        If `ds` is of another kind.
    """
    import pandas as pd

    for name in ("location", "type", "index"):
        if name not in getattr(ds, "variables", {}):
            raise MissingKeyError(f"no variable {name!r}; expected a Dataset from stabdask.fixed_points")
    one = ds if "fixed_point" in ds.dims else ds.expand_dims("fixed_point")
    scalars = {name: one[name].to_numpy() for name in _COLUMNS if name in one.variables}
    table = pd.DataFrame(scalars)
    if not locations:
        return table
    names = [str(name) for name in one["axis"].to_numpy()]
    names = [f"location:{name}" if name in scalars else name for name in names]
    places = pd.DataFrame(one["location"].transpose("fixed_point", "axis").to_numpy(), columns=names)
    return pd.concat([table, places], axis=1)
