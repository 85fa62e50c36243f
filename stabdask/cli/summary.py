"""`summary`: statistics of groups of cells, two groups side by side, extreme eigenvalues."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.cli.common import (
    add_json,
    add_store,
    figure,
    fit_table,
    group_labels,
    group_rows,
    print_json,
    summary_table,
    unseen_groups,
)
from stabdask.errors import MissingKeyError, UsageError, near_misses

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    summary = commands.add_parser(
        "summary",
        help="statistics of a store per cluster, or by other labels",
        description="Print a table of the stability and the speed of cells by cluster or another label: means of the "
        "largest real part of the eigenvalues (abscissa), of the number of unstable modes, and more.",
    )
    add_store(summary)
    summary.add_argument(
        "--by",
        default="cluster",
        metavar="LABEL[,LABEL]",
        help="group cells by this label, or by the combinations of two (cluster)",
    )
    summary.add_argument("--quantity", metavar="NAME", help="all statistics of one quantity")
    what = summary.add_mutually_exclusive_group()
    what.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two of the groups side by side: effect sizes and p-values",
    )
    what.add_argument(
        "--extremes", action="store_true", help="extreme eigenvalues per cluster, and whose they are"
    )
    add_json(summary)
    summary.set_defaults(execute=_summary)


def _summary(options: argparse.Namespace) -> int:
    from stabdask.runs.results import open_results

    if options.extremes and (options.by != "cluster" or options.quantity is not None):
        raise UsageError("--extremes are those of clusters; leave out --by and --quantity")
    ds = open_results(options.store)
    if options.extremes:
        _print_extremes(ds, as_json=options.json)
    elif options.compare is not None:
        _print_comparison(ds, options)
    else:
        _print_summary(ds, options)
    return 0


def _print_summary(ds: xr.Dataset, options: argparse.Namespace) -> None:
    from stabdask.analysis.aggregate import PER_GROUP, summarize

    quantity = options.quantity
    result = summarize(ds, by=group_labels(ds, options.by))
    known = [str(name) for name in result.data_vars if "statistic" in result[name].dims]
    if quantity is not None and quantity not in known:
        raise MissingKeyError(
            f"no quantity {quantity!r} in {options.store}; {near_misses(quantity, known, noun='quantities')}"
        )
    methods = {str(result[name].attrs["quantile_method"]) for name in known} - {"exact"}
    if methods:
        print(f"stabdask: quantiles are approximate: {'; '.join(sorted(methods))}", file=sys.stderr)
    if options.json:
        kept = known if quantity is None else [quantity]
        print_json(_nested(result[[*kept, *(name for name in PER_GROUP if name in result.data_vars)]]))
    elif quantity is not None:
        print(_one_quantity(result, quantity))
    else:
        print(summary_table(result))


def _nested(result: xr.Dataset) -> dict[str, Any]:
    """Return label (-> other label) -> quantity -> statistic -> value (elements by pair before that)."""
    from stabdask.analysis.aggregate import PER_GROUP

    statistics = [str(name) for name in result["statistic"].to_numpy()]
    arrays = {str(name): result[name].to_numpy() for name in result.data_vars}
    methods = {str(result[name].attrs["quantile_method"]) for name in arrays if name not in PER_GROUP}
    pairs = [str(pair) for pair in result["pair"].to_numpy()] if "pair" in result.dims else []
    dims = result["n_cells"].dims
    out: dict[str, Any] = {}
    for place, labels in group_rows(result, unseen=True):
        entry: dict[str, Any] = {name: arrays[name][place] for name in PER_GROUP if name in arrays}
        entry["quantile_method"] = "; ".join(sorted(methods))
        for name in (name for name in arrays if name not in PER_GROUP):
            values = arrays[name][place]
            if "pair" in result[name].dims:
                entry[name] = {
                    pair: dict(zip(statistics, values[:, p], strict=True)) for p, pair in enumerate(pairs)
                }
            else:
                entry[name] = dict(zip(statistics, values, strict=True))
        inner = out
        for label in labels[: len(dims) - 1]:
            inner = inner.setdefault(label, {})
        inner[labels[-1]] = entry
    return out


def _one_quantity(result: xr.Dataset, quantity: str) -> str:
    """Return all statistics of a quantity, and the mean speed beside them."""
    array = result[quantity]
    values = array.to_numpy()
    statistics = [str(name) for name in array["statistic"].to_numpy()]
    pairs = [str(pair) for pair in array["pair"].to_numpy()] if "pair" in array.dims else []
    speed = None
    if "speed" in result.data_vars and quantity != "speed":
        speed = result["speed"].sel(statistic="mean").to_numpy()
    rows = []
    for place, labels in group_rows(result):
        beside = [] if speed is None else [figure(speed[place])]
        columns = [([pair], values[place][:, p]) for p, pair in enumerate(pairs)] or [([], values[place])]
        rows += [
            [*labels, *name, f"{numbers[0]:,.0f}", *map(figure, numbers[1:]), *beside]
            for name, numbers in columns
        ]
    labels = [*map(str, result["n_cells"].dims), *(["element"] if pairs else [])]
    header = [*labels, *statistics, *([] if speed is None else ["mean speed"])]
    table = fit_table(header, rows, n_left=len(labels), spare=("q05", "q95", "min", "max", "count"))
    return f"{array.attrs.get('long_name', quantity)} ({array.attrs.get('units', '1')})\n{table}{unseen_groups(result)}"


def _print_comparison(ds: xr.Dataset, options: argparse.Namespace) -> None:
    from stabdask.analysis.comparison import compare

    labels = group_labels(ds, options.by)
    if len(labels) != 1:
        raise UsageError(f"--by {options.by} with --compare; expected one label")
    quantities = None
    if options.quantity is not None:
        # Speed stands beside whatever is said of stability.
        quantities = list(dict.fromkeys([options.quantity, *(["speed"] if "speed" in ds else [])]))
    table = compare(ds, *options.compare, by=labels[0], quantities=quantities)
    if options.json:
        print_json({**table.attrs, "quantities": table.to_dict(orient="index")})
        return
    about = table.attrs
    print(
        f"a: {about['a']} ({about['n_cells_a']:,} cells)   b: {about['b']} ({about['n_cells_b']:,} cells)\n"
    )
    print(_comparison_table(table))
    print(
        "\nRead effect sizes first: cliff = P(a > b) - P(a < b), from -1 to 1; d = difference in standard deviations.\n"
        "Cells of one sample are no independent replicates: p (Mann-Whitney, adjusted after Benjamini and\n"
        "Hochberg) describes these cells, not the population the samples come from."
    )


def _comparison_table(table: pd.DataFrame) -> str:
    rows = [
        [
            str(name),
            f"{row['n_a']:,}",
            f"{row['n_b']:,}",
            *(figure(row[key]) for key in ("mean_a", "mean_b", "difference")),
            *("-" if row[key] != row[key] else f"{row[key]:.3f}" for key in ("cohens_d", "cliffs_delta")),
            _p_value(row["p_adjusted"]),
        ]
        for name, row in table.to_dict(orient="index").items()
    ]
    header = ["quantity", "n a", "n b", "mean a", "mean b", "difference", "d", "cliff", "p adjusted"]
    text = fit_table(header, rows, spare=("n a", "n b"))
    notes: dict[str, list[str]] = {}
    for name, note in table["note"].items():
        notes.setdefault(note, []).append(str(name))
    lines = [_wrapped(f"{', '.join(names)}: {note}") for note, names in notes.items() if note]
    return "\n".join([text, *lines])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False)


def _p_value(p: float) -> str:
    # Below that the test's normal tail is rounded to 0.
    return "-" if p != p else "<1e-300" if p < 1e-300 else f"{p:.2g}"


def _print_extremes(ds: xr.Dataset, *, as_json: bool) -> None:
    from stabdask.analysis.aggregate import extremes

    table = extremes(ds)
    columns = {str(name): table[name].to_numpy() for name in table.data_vars}
    labels = [str(label) for label in table["cluster"].to_numpy()]
    if as_json:
        print_json(
            {label: {name: values[i] for name, values in columns.items()} for i, label in enumerate(labels)}
        )
        return
    rows = [[label, *(_entry(values[i]) for values in columns.values())] for i, label in enumerate(labels)]
    print(fit_table(["cluster", *columns], rows, spare=("smallest_speed",)))


def _entry(value: Any) -> str:
    if isinstance(value, complex | np.complexfloating):
        return f"{value.real:.4g}{value.imag:+.4g}i"
    return figure(value) if isinstance(value, float) else str(value)
