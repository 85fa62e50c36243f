"""`fixed-points`: where a field stands still, and of what kind these points are."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from stabdask.cli.arguments import add_input_arguments, open_inputs
from stabdask.cli.common import figure, fit_table, print_json
from stabdask.cli.scans import (
    add_output_arguments,
    add_workers_argument,
    check_scan,
    client_of,
    write_result,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["add_commands"]

_WORDS = {
    "converged": "to a fixed point",
    "boundary": "to the boundary",
    "left": "out of the region searched",
    "faded": "to where the field has faded out",
    "stalled": "nowhere",
    "not_finite": "not finite",
}


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fixed-points",
        help="fixed points of a field: attractors, saddles, repellers",
        description="Find where the velocity of a field is zero, by Newton's iteration from many cells of each "
        "cluster, and what kind of fixed points these are. Here eigenvalues mean what textbooks say.",
    )
    add_input_arguments(parser)
    what = parser.add_argument_group("search")
    what.add_argument(
        "--cluster", action="append", metavar="LABEL", help="may be repeated (those of the cells)"
    )
    what.add_argument("--starts", type=int, default=1000, metavar="N", help="cells of each cluster (1000)")
    what.add_argument("--seed", type=int, default=0, help="of the cells drawn (0)")
    what.add_argument(
        "--tolerance",
        type=float,
        help="real parts within +- this have no sign (a millionth of the point's largest eigenvalue)",
    )
    what.add_argument(
        "--boundary",
        action="store_true",
        help="also equilibria at which genes are held at zero expression: no fixed points of the field",
    )
    add_workers_argument(what)
    add_output_arguments(parser, "all of it to a .json, or the table to a .csv")
    parser.set_defaults(execute=_fixed_points)


def _fixed_points(options: argparse.Namespace) -> int:
    check_scan(options)
    from stabdask.analysis.fixed_point_table import fixed_point_table
    from stabdask.runs.fixed_points import fixed_points

    cells, field = open_inputs(options)
    with client_of(options) as client:
        ds = fixed_points(
            field,
            cells,
            n_starts=options.starts,
            seed=options.seed,
            cluster=options.cluster,
            tolerance=options.tolerance,
            boundary=options.boundary,
            client=client,
        )
    values = _values(ds)
    if options.output is not None:
        write_result(options.output, values, partial(fixed_point_table, ds))
    if options.json:
        print_json(values)
    else:
        print(_text(ds))
    return 0


def _values(ds: xr.Dataset) -> dict[str, Any]:
    """Return everything, one entry a fixed point."""
    names = [str(name) for name in ds.data_vars if ds[name].dims == ("fixed_point",)]
    axes = [str(name) for name in ds["axis"].to_numpy()]
    arrays = {name: ds[name].to_numpy() for name in (*names, "cluster", "location", "eigenvalue")}
    points = [
        {
            "cluster": arrays["cluster"][number],
            **{name: arrays[name][number] for name in names},
            "eigenvalue": [complex(value) for value in arrays["eigenvalue"][number]],
            "location": dict(zip(axes, arrays["location"][number].tolist(), strict=True)),
        }
        for number in range(ds.sizes["fixed_point"])
    ]
    return {"options": dict(ds.attrs), "starts": _counts(ds), "fixed_points": points}


def _counts(ds: xr.Dataset) -> dict[str, dict[str, int]]:
    outcomes = [str(name) for name in ds["outcome"].to_numpy()]
    return {
        str(label): dict(zip(outcomes, (int(n) for n in row), strict=True))
        for label, row in zip(ds["searched"].to_numpy(), ds["start_count"].to_numpy(), strict=True)
    }


def _text(ds: xr.Dataset) -> str:
    lines = []
    if ds.sizes["fixed_point"]:
        lines += [_table(ds), ""]
    lines += [
        f"{label}: {sum(counts.values()):,} starts; "
        + ", ".join(f"{n:,} {_WORDS[name]}" for name, n in counts.items() if n)
        for label, counts in _counts(ds).items()
    ]
    if not ds.sizes["fixed_point"]:
        lines.append("no fixed points found")
    n_boundary = int(ds["start_count"].sel(outcome="boundary").sum())
    if n_boundary and not ds.attrs["boundary"]:
        lines.append(
            "boundary: all else stands still, but genes at zero expression would be pushed below it; --boundary shows "
            "these points"
        )
    return "\n".join(lines)


def _table(ds: xr.Dataset) -> str:
    from stabdask.analysis.fixed_point_table import fixed_point_table

    table = fixed_point_table(ds, locations=False)
    rows = [
        [
            str(row["cluster"]),
            str(row["type"]),
            str(row["form"]),
            str(row["index"]),
            figure(row["abscissa"]),
            figure(row["frequency"]),
            f"{row['n_starts']:,}",
            *(["yes" if row["inside"] else "no", figure(row["distance"])] if "inside" in table else []),
            f"{row['residual']:.0e}",
            ", ".join(_notes(row)),
        ]
        for row in table.to_dict(orient="records")
    ]
    header = ["cluster", "type", "form", "index", "abscissa", "frequency", "starts"]
    header += [*(["inside", "distance"] if "inside" in table else []), "residual", "notes"]
    return fit_table(header, rows, n_left=3, spare=("residual", "distance", "frequency"))


def _notes(row: dict[Any, Any]) -> list[str]:
    notes = [] if row["isolated"] else ["not isolated"]
    notes += ["at a switch"] if row["near_switch"] else []
    return [*notes, f"{row['held_count']:,} held at 0"] if row["held_count"] else notes
