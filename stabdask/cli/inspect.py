"""`status`, `verify` and `summary`: looking at a store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stabdask.cli.common import add_json, add_store, format_table, print_json, summary_table
from stabdask.errors import DamagedStoreError, MissingKeyError, UsageError, near_misses

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    status = commands.add_parser("status", help="how far a run is")
    add_store(status)
    add_json(status)
    status.set_defaults(execute=_status)

    verify = commands.add_parser(
        "verify", help="check a store: checksums, and a sample against dense Jacobians"
    )
    add_store(verify)
    verify.add_argument(
        "--cells", type=int, default=8, metavar="N", help="cells to compare with the oracle (8)"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    verify.add_argument("--atlas", nargs="+", type=Path, help="where the atlas is now, if it has moved")
    add_json(verify)
    verify.set_defaults(execute=_verify)

    summary = commands.add_parser("summary", help="per-cluster statistics of a store")
    add_store(summary)
    summary.add_argument("--quantity", metavar="NAME", help="all statistics of one quantity")
    summary.add_argument("--extremes", action="store_true", help="extreme eigenvalues per cluster instead")
    add_json(summary)
    summary.set_defaults(execute=_summary)


def _status(options: argparse.Namespace) -> int:
    from stabdask.runs.status import status

    result = status(options.store)
    print_json(result.to_dict()) if options.json else print(result)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from stabdask.runs.verify import reopen_cells, verify

    if options.cells < 0:
        raise UsageError(f"--cells {options.cells}; expected 0 or more")
    cells = None if options.atlas is None else reopen_cells(options.store, options.atlas)
    result = verify(options.store, cells=cells, n_cells=options.cells, seed=options.seed)
    print_json(result.to_dict()) if options.json else print(result)
    return 0 if result.ok else DamagedStoreError.exit_code


def _summary(options: argparse.Namespace) -> int:
    from stabdask.analysis.aggregate import extremes, summarize
    from stabdask.runs.results import open_results

    ds = open_results(options.store)
    if options.extremes:
        table = extremes(ds)
        names = list(table.data_vars)
        if options.json:
            print_json(_by_cluster(table, {str(name): table[name].to_numpy() for name in names}))
        else:
            rows = [
                [str(label), *(_complex(table[name].to_numpy()[i]) for name in names)]
                for i, label in enumerate(table["cluster"].to_numpy())
            ]
            print(format_table(["cluster", *(str(name) for name in names)], rows))
        return 0
    result = summarize(ds)
    if options.quantity is not None:
        if options.quantity not in result or "statistic" not in result[options.quantity].dims:
            known = [str(name) for name in result if "statistic" in result[name].dims]
            raise MissingKeyError(
                f"no quantity {options.quantity!r} in {options.store}; "
                + near_misses(options.quantity, known, noun="quantities")
            )
        result = result[[options.quantity, "n_cells", "n_failed"]]
    if options.json:
        print_json(_nested(result))
    elif options.quantity is not None:
        print(_one_quantity(result[options.quantity]))
    else:
        print(summary_table(result))
    return 0


def _nested(result: Any) -> dict[str, Any]:
    """Return cluster -> quantity -> statistic -> value (-> pair for elements)."""
    statistics = [str(name) for name in result["statistic"].to_numpy()]
    out: dict[str, Any] = {}
    for i, label in enumerate(result["cluster"].to_numpy()):
        one = result.isel(cluster=i)
        entry: dict[str, Any] = {name: int(one[name]) for name in ("n_cells", "n_failed")}
        for name in (str(name) for name in one.data_vars if "statistic" in one[name].dims):
            values = one[name].to_numpy()
            if "pair" in one[name].dims:
                pairs = [str(pair) for pair in one["pair"].to_numpy()]
                entry[name] = {
                    pair: dict(zip(statistics, values[:, p], strict=True)) for p, pair in enumerate(pairs)
                }
            else:
                entry[name] = dict(zip(statistics, values, strict=True))
        out[str(label)] = entry
    return out


def _by_cluster(table: Any, columns: dict[str, Any]) -> dict[str, Any]:
    return {
        str(label): {name: values[i] for name, values in columns.items()}
        for i, label in enumerate(table["cluster"].to_numpy())
    }


def _one_quantity(array: Any) -> str:
    statistics = [str(name) for name in array["statistic"].to_numpy()]
    clusters = [str(name) for name in array["cluster"].to_numpy()]
    pairs = [str(pair) for pair in array["pair"].to_numpy()] if "pair" in array.dims else [""]
    rows = []
    for i, label in enumerate(clusters):
        for p, pair in enumerate(pairs):
            values = array.to_numpy()[i, :, p] if pair else array.to_numpy()[i]
            rows.append([" ".join(filter(None, (label, pair))), *(f"{value:.6g}" for value in values)])
    return f"{array.attrs['long_name']} ({array.attrs['units']})\n" + format_table(
        ["cluster", *statistics], rows
    )


def _complex(value: Any) -> str:
    return f"{value.real:.4g}{value.imag:+.4g}i" if isinstance(value, complex | int | float) else str(value)
