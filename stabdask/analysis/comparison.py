"""Two groups of cells side by side: effect sizes first, p-values after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.groups import group_cells, require_labels
from stabdask.analysis.statistics import as_float
from stabdask.errors import MissingKeyError, UsageError, near_misses
from stabdask.schema import SCALARS, VARIABLES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["compare"]

Floats = npt.NDArray[np.float64]

_COLUMNS = (
    "n_a", "n_b", "mean_a", "mean_b", "difference", "cohens_d", "cliffs_delta", "mann_whitney_u", "p_value",
    "p_adjusted", "note",
)  # fmt: skip

_FEW, _EXACT_PAIRS = 8, 20_000

_CHECKS = ("residual", "trace_defect", "near_switch_count")
"""Scalars that say how well a cell could be computed, which nobody compares unasked."""


def compare(
    ds: xr.Dataset,
    a: Any,
    b: Any,
    *,
    by: str = "cluster",
    quantities: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compare every quantity between two groups of cells.

    Read the effect sizes first. Cells of one sample are no independent replicates: p-values computed over
    cells describe these cells and not the population that the samples were drawn from, and with thousands of
    cells any difference is significant (pseudoreplication [1]_). To test a condition over samples, take one
    value per sample from `summarize` with ``by=[condition, sample]`` and test those.

    Parameters
    ----------
    ds
        From `stabdask.open_results` or `stabdask.stability`.
    a, b
        Two labels of `by`.
    by
        ``"cluster"``, or any other label ``(cell,)`` of `ds`, as in `summarize`.
    quantities
        Scalars, ``"element"`` for all chosen elements of the Jacobian, or single ones as ``"effector:regulator"``;
        if None, all elements and all scalars but those that check the computation (``residual``,
        ``trace_defect``, ``near_switch_count``).

    Returns
    -------
    pandas.DataFrame
        One row per quantity (elements as ``"element effector:regulator"``), the largest ``|cliffs_delta|`` first
        and undefined ones last:

        ``n_a``, ``n_b``
            cells with a value (NaN and uncomputed ones are left out)
        ``mean_a``, ``mean_b``, ``difference``
            mean of a, of b, and the former minus the latter, in the units of
            the quantity
        ``cohens_d``
            difference over the pooled standard deviation [2]_; NaN where that is 0
        ``cliffs_delta``
            P(value of a > value of b) - P(a < b) for a random cell of each, from -1 to 1 [3]_:
            the rank-biserial correlation, 2 U / (n_a n_b) - 1 [4]_
        ``mann_whitney_u``, ``p_value``
            of the two-sided Mann-Whitney U test: exact if a group has 8 values or
            fewer, none are tied and there are at most 20,000 pairs; else by the normal approximation with
            corrections for ties and continuity, which is rough for so few values (then `note` says so)
        ``p_adjusted``
            p-values adjusted over the quantities by Benjamini and Hochberg [5]_
        ``note``
            why something is NaN or rough, else empty

        ``attrs`` holds ``a``, ``b``, ``by``, and ``n_cells_a``, ``n_cells_b``: all cells of each.

    Raises
    ------
    MissingKeyError
        If there is no such label or quantity.
    InputError
        If clusters of `ds` were selected or reordered.
    UsageError
        If `a` and `b` are the same.

    Notes
    -----
    The quantities of the cells of both groups are held in memory, 8 bytes each.

    References
    ----------
    .. [1] Squair et al. 2021, Confronting false discoveries in single-cell differential expression, Nature
       Communications 12, 5692.
    .. [2] Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., section 2.5.
    .. [3] Cliff 1993, Dominance statistics: ordinal analyses to answer ordinal questions, Psychological Bulletin
       114(3), 494-509.
    .. [4] Wendt 1972, Dealing with a common problem in social science: a simplified rank-biserial coefficient of
       correlation based on the U statistic, European Journal of Social Psychology 2(4), 463-465.
    .. [5] Benjamini & Hochberg 1995, Controlling the false discovery rate, Journal of the Royal Statistical
       Society B 57(1), 289-300.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(["A"], W=[[4.0]], gamma=1.0, threshold=1.0, exponent=2.0)
    >>> obs = pd.DataFrame({"day": ["d0", "d0", "d2", "d2"]}, index=list("pqrs"))
    >>> adata = anndata.AnnData(np.array([[1.0], [0.5], [3.0], [4.0]]), obs=obs)
    >>> adata.var_names = ["A"]
    >>> ds = sd.stability(sd.open_cells(adata), field).assign_coords(day=("cell", adata.obs["day"].to_numpy()))
    >>> table = sd.compare(ds, "d0", "d2", by="day", quantities=["spectral_abscissa", "speed"])
    >>> table["cliffs_delta"].to_dict()
    {'spectral_abscissa': 1.0, 'speed': 0.5}
    """
    import pandas as pd
    from scipy.stats import false_discovery_control

    if not isinstance(by, str):
        raise UsageError(f"by={by!r}; expected the name of one label, e.g. 'cluster'")
    require_labels(ds, [by])
    chosen = _chosen(ds, quantities)
    names = list(chosen)
    more = [name for name in ("cluster_code", "cluster", by) if name in ds.variables and name not in names]
    ds = ds[[*names, *more]]
    # The label first: if it is to be computed, all is, together.
    if by in ds.data_vars and ds[by].chunks is not None:
        ds = ds.compute()
    groups = group_cells(ds, by)
    numbers = [_position(label, groups.labels[0], by) for label in (a, b)]
    if numbers[0] == numbers[1]:
        raise UsageError(f"a and b are both {a!r}; expected two labels of {by!r}")
    cells = np.flatnonzero(np.isin(groups.codes, numbers))
    own = groups.codes[cells]
    values = ds[names].isel(cell=cells).compute()
    sides = [own == number for number in numbers]
    rows = {
        row: _compared(column[sides[0]], column[sides[1]], (a, b))
        for name in names
        for row, column in _columns(values, name, chosen[name])
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))
    table.index.name = "quantity"
    tested = table["p_value"].notna()
    if tested.any():
        table.loc[tested, "p_adjusted"] = false_discovery_control(table.loc[tested, "p_value"].to_numpy())
    table = table.sort_values("cliffs_delta", key=_descending_size, kind="stable", na_position="last")
    table.attrs = {
        "a": str(a), "b": str(b), "by": by, "n_cells_a": int(sides[0].sum()), "n_cells_b": int(sides[1].sum()),
    }  # fmt: skip
    return table


def _descending_size(column: Any) -> Any:
    return -column.abs()


def _chosen(ds: xr.Dataset, quantities: Sequence[str] | None) -> dict[str, list[str] | None]:
    """Return the variables to compare, and of elements which pairs (None for all)."""
    names = [name for name in (*SCALARS, "element") if name in ds]
    if quantities is None:
        return dict.fromkeys(name for name in names if name not in _CHECKS)
    if isinstance(quantities, str):
        raise UsageError(f"quantities={quantities!r}; expected a list, e.g. [{quantities!r}]")
    pairs = [str(pair) for pair in ds["pair"].to_numpy()] if "element" in names else []
    out: dict[str, list[str] | None] = {}
    for quantity in quantities:
        pair = quantity.removeprefix("element ")
        if quantity in names:
            out[quantity] = None
        elif pair in pairs:
            picked = out.setdefault("element", [])
            if picked is not None and pair not in picked:
                picked.append(pair)
        else:
            raise MissingKeyError(
                f"no quantity {quantity!r} in the results; {near_misses(pair, [*names, *pairs], noun='quantities')}"
            )
    if not out:
        raise UsageError("quantities is empty; expected at least one, or None for all")
    return out


def _position(label: Any, labels: npt.NDArray[Any], by: str) -> int:
    """Return which of `labels` is meant: the same, or the same as text (what a command line knows)."""
    known = labels.tolist()
    for number, own in enumerate(known):
        if label == own:
            return number
    texts = [str(own) for own in known]
    if str(label) in texts:
        return texts.index(str(label))
    raise MissingKeyError(
        f"no cells have the label {str(label)!r} of {by!r}; {near_misses(str(label), texts, noun='labels')}"
    )


def _columns(values: xr.Dataset, name: str, pairs: list[str] | None) -> Iterator[tuple[str, Floats]]:
    """Give the columns of a variable by the names of their rows."""
    array = as_float(values[name].to_numpy(), is_count=VARIABLES[name].kind == "count")
    if array.ndim == 1:
        yield name, array
        return
    for number, pair in enumerate(values["pair"].to_numpy()):
        if pairs is None or pair in pairs:
            yield f"{name} {pair}", array[:, number]


def _compared(of_a: Floats, of_b: Floats, labels: tuple[Any, Any]) -> tuple[Any, ...]:
    """Return one row, in the order of `_COLUMNS`."""
    from scipy.stats import mannwhitneyu

    x, y = of_a[~np.isnan(of_a)], of_b[~np.isnan(of_b)]
    nan = float("nan")
    means = [float(side.mean()) if len(side) else nan for side in (x, y)]
    missing = [
        f"no cells in {label!r}" if not len(all_values) else f"no values in {label!r}"
        for label, all_values, side in zip(labels, (of_a, of_b), (x, y), strict=True)
        if not len(side)
    ]
    if missing:
        return (len(x), len(y), *means, nan, nan, nan, nan, nan, nan, "; ".join(missing))
    d, note = _cohens_d(x, y)
    few = min(len(x), len(y)) <= _FEW
    # The exact distribution takes minutes for a handful of cells against a hundred thousand.
    exact = few and len(x) * len(y) <= _EXACT_PAIRS and len(np.unique(np.r_[x, y])) == len(x) + len(y)
    test = mannwhitneyu(x, y, alternative="two-sided", method="exact" if exact else "asymptotic")
    if few and not exact:
        note = "; ".join(filter(None, (note, f"a group has at most {_FEW} values: p is rough")))
    # Values that are all equal: SciPy from 1.18 on has no p for them; no difference is as likely as can be.
    p = 1.0 if (np.r_[x, y] == x[0]).all() else float(test.pvalue)
    u = float(test.statistic)
    delta = 2.0 * u / (float(len(x)) * float(len(y))) - 1.0
    return (len(x), len(y), *means, means[0] - means[1], d, delta, u, p, nan, note)


def _cohens_d(x: Floats, y: Floats) -> tuple[float, str]:
    """Return the difference of means over the pooled standard deviation, or NaN and why."""
    freedom = len(x) + len(y) - 2
    if freedom < 1:
        return float("nan"), "one value each: no standard deviation"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan"), "infinite values: no standard deviation"
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (x, y))
    # Equal values may leave a rounding error in place of 0.
    if squares == 0 or (np.ptp(x) == 0 and np.ptp(y) == 0):
        return float("nan"), "all values of each are equal: no standard deviation"
    return float((x.mean() - y.mean()) / np.sqrt(squares / freedom)), ""
