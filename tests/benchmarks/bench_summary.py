"""Statistics of a million cells: seconds and peak memory of whole, fresh processes.

    python tests/benchmarks/bench_summary.py --cells 1000000 --keep /tmp/million

simulates an atlas of few genes and runs the real job on it (both in a process of their own, half a minute for a
million cells), with ``batch``, ``pseudotime`` and an embedding brought along. Then each of these in a fresh process:
opening, `summarize` by cluster, by cluster and batch, the same out of core, by batch, `compare`, and on the command
line the summary, the report and its size. Seconds and seconds of CPU (which a busy machine does not stretch) are those
of the whole process, imports and all; memory is its peak resident memory. With ``--keep`` the store stays in the folder
and is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEASURED = ("open", "cluster", "two labels", "out of core", "batch", "compare")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=24)
    parser.add_argument("--regulators", type=int, default=12)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where to keep the store (a temporary folder)"
    )
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options)
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stabdask-bench-"))
    try:
        figures = measure(folder, options)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and bytes of everything; this process imports nothing heavy, for memory is inherited."""
    store = folder / "out.zarr"
    if not (folder / "made.txt").exists():
        sizes = ["--cells", str(options.cells), "--genes", str(options.genes)]
        made = fresh("make", folder, [*sizes, "--regulators", str(options.regulators)])
        print(f"simulated and run in {made['process_s']:.0f} s", file=sys.stderr)
    figures: dict[str, Any] = {"n_cells": int((folder / "made.txt").read_text()), "cores": os.cpu_count()}
    for name in MEASURED:
        figures[name] = fresh(name, store)
        report(name, figures[name])
    page = folder / "report.html"
    lines = {
        "cli": ["summary", str(store)],
        "cli by two": ["summary", str(store), "--by", "cluster,batch"],
        "cli compare": ["summary", str(store), "--compare", "MEP", "GMP"],
        "report": ["report", str(store), "-o", str(page), "--overwrite"],
    }
    for name, arguments in lines.items():
        command = [sys.executable, "-m", "stabdask.cli.main", *arguments]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, code, usage = os.wait4(process.pid, 0)
        if code:
            raise SystemExit(f"{command} ended with {code}")
        figures[name] = {
            "process_s": time.perf_counter() - begin,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
        }
        report(name, figures[name])
    figures["report"]["page_bytes"] = page.stat().st_size
    print(f"page         {page.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return figures


def fresh(name: str, path: Path, more: list[str] | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, str(path), *(more or [])]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(done.stdout), "process_s": time.perf_counter() - begin}


def report(name: str, figures: dict[str, Any]) -> None:
    call = f"  ({figures['call_s']:.1f} s of it the call)" if "call_s" in figures else ""
    seconds, cpu = figures["process_s"], figures["cpu_s"]
    print(
        f"{name:12} {seconds:5.1f} s  {cpu:5.1f} s of CPU  {figures['peak_bytes'] / 1e9:5.2f} GB{call}",
        file=sys.stderr,
    )


def child(name: str, path: Path, options: argparse.Namespace) -> None:
    import stabdask as sd

    if name == "make":
        make(path, options)
        print("{}")
        return
    ds = sd.open_results(path)
    begin = time.perf_counter()
    calls = {
        "open": lambda: ds,
        "cluster": lambda: sd.summarize(ds),
        "batch": lambda: sd.summarize(ds, by="batch"),
        "two labels": lambda: sd.summarize(ds, by=["cluster", "batch"]),
        "out of core": lambda: sd.summarize(ds, by=["cluster", "batch"], memory=0),
        "compare": lambda: sd.compare(ds, "MEP", "GMP"),
    }
    calls[name]()
    call_s, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    print(json.dumps({"call_s": call_s, "cpu_s": cpu_s, "peak_bytes": usage.ru_maxrss * 1024}))


def make(folder: Path, options: argparse.Namespace) -> None:
    """Simulate an atlas and run it, with a label, a number and an embedding of its cells brought along."""
    import stabdask as sd

    folder.mkdir(parents=True, exist_ok=True)
    atlas = sd.simulate_atlas(
        folder, n_cells=options.cells, n_genes=options.genes, n_regulators=options.regulators, overwrite=True
    )
    cells = sd.open_cells(
        atlas.cells,
        layer=atlas.layer,
        cluster_key=atlas.cluster_key,
        obs_keys=["batch", "pseudotime"],
        embeddings={"X_umap": "X_fate"},
    )
    field = sd.read_field(atlas.field)
    pairs = [("GATA1", "SPI1"), ("SPI1", "GATA1"), ("KLF1", "FLI1")]
    shutil.rmtree(folder / "out.zarr", ignore_errors=True)
    sd.run(
        cells, field, folder / "out.zarr", workers=0, progress=False, elements=pairs,
        quantities=["default", "drivers"], modes=2,
    )  # fmt: skip
    (folder / "made.txt").write_text(f"{options.cells}\n")


if __name__ == "__main__":
    main()
