"""`demo`: the main job on a simulated atlas, from nothing to a table and a figure."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.cli.common import add_json, print_json, summary_table
from stabdask.cli.job import report_exit_code
from stabdask.errors import InputError, OutputError

if TYPE_CHECKING:
    from stabdask.atlas.simulate import SimulatedAtlas

__all__ = ["add_commands"]

_LAYER, _CLUSTER_KEY = "M_t", "cell_type"
_COLUMNS, _EMBEDDINGS = ("pseudotime", "batch"), ("X_pca", "X_fate")
_PAIRS = (("GATA1", "SPI1"), ("SPI1", "GATA1"), ("KLF1", "FLI1"), ("EGR1", "GFI1"))


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="simulate a differentiating atlas and compute the stability of every cell of it",
        description="Simulate myeloid differentiation (network of Krumsiek et al. 2011), run the whole job on it, "
        "print the per-cluster table, draw the cells by their spectral abscissa, and the spectra. Nothing is "
        "downloaded.",
    )
    demo.add_argument("--cells", type=int, default=20_000, metavar="N", help="cells (20,000)")
    demo.add_argument("--genes", type=int, default=500, metavar="N", help="genes (500)")
    demo.add_argument("--regulators", type=int, default=11, metavar="N", help="regulators, at least 11 (11)")
    demo.add_argument("--seed", type=int, default=0, help="of the simulation (0)")
    demo.add_argument(
        "--keep", type=Path, default=Path("stabdask-demo"), metavar="FOLDER", help="where (./stabdask-demo)"
    )
    demo.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    demo.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    add_json(demo)
    demo.set_defaults(execute=_demo)


def _demo(options: argparse.Namespace) -> int:
    folder: Path = options.keep
    if options.dry_run:
        print(
            f"would simulate {options.cells:,} cells x {options.genes:,} genes into {folder}, compute their stability "
            f"on {options.workers} worker(s) into {folder / 'out.zarr'} and draw {folder / 'cells.png'} and "
            f"{folder / 'spectrum.png'}"
        )
        return 0
    from stabdask.analysis.aggregate import summarize
    from stabdask.atlas.cells import open_cells
    from stabdask.fields.reading import read_field
    from stabdask.runs.results import open_results
    from stabdask.runs.runner import run

    begin = time.monotonic()
    _say(f"1. a simulated atlas: {options.cells:,} cells x {options.genes:,} genes in {folder}")
    atlas = _simulated(options, folder)
    _say("2. the stability of every cell")
    field = read_field(atlas.field)
    cells = open_cells(
        atlas.cells, layer=_LAYER, cluster_key=_CLUSTER_KEY, obs_keys=_COLUMNS, embeddings=_EMBEDDINGS
    )
    store = folder / "out.zarr"
    report = run(
        cells,
        field,
        store,
        workers=options.workers,
        elements=list(_PAIRS),
        quantities=["default", "drivers"],
    )
    ds = open_results(store)
    summary = summarize(ds)
    figures = {"cells": folder / "cells.png", "spectrum": folder / "spectrum.png"}
    _say("3. figures of the cells and of their spectra")
    _draw(ds, figures)
    seconds = time.monotonic() - begin
    if options.json:
        print_json(
            {
                **report.to_dict(),
                "clusters": {
                    str(label): float(summary["spectral_abscissa"].sel(cluster=label, statistic="mean"))
                    for label in summary["cluster"].to_numpy()
                },
                "figures": {name: str(path) for name, path in figures.items()},
                "demo_seconds": seconds,
            }
        )
    else:
        print(_text(report, summary, figures, folder, seconds))
    return report_exit_code(report, 0.0)


def _simulated(options: argparse.Namespace, folder: Path) -> SimulatedAtlas:
    """Simulate the atlas, or take the one an earlier demo left if it is the same."""
    from stabdask.atlas.simulate import SimulatedAtlas, simulate_atlas
    from stabdask.files import write_atomically

    wanted = f"{options.cells} {options.genes} {options.regulators} {options.seed}\n".encode()
    marker = folder / "simulated.txt"
    cells, field = folder / "cells.h5ad", folder / "field.zarr"
    if cells.exists() or field.exists():
        if not marker.exists() or marker.read_bytes() != wanted or not (cells.exists() and field.exists()):
            raise InputError(
                f"{folder} holds another atlas than the one asked for; remove it or choose another folder with --keep"
            )
        _say("   there already, from an earlier demo")
        return SimulatedAtlas(
            cells=cells, field=field, n_cells=options.cells, n_genes=options.genes, clusters=(), layer=_LAYER,
            cluster_key=_CLUSTER_KEY,
        )  # fmt: skip
    atlas = simulate_atlas(
        folder,
        n_cells=options.cells,
        n_genes=options.genes,
        n_regulators=options.regulators,
        seed=options.seed,
        layer=_LAYER,
        cluster_key=_CLUSTER_KEY,
    )
    write_atomically(marker, wanted)
    return atlas


def _draw(ds: Any, figures: dict[str, Path]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from stabdask.plotting.embeddings import embedding
    from stabdask.plotting.spectrum import spectrum

    titles = {
        "cells": "Cells between their fates: red ones give way, blue ones hold",
        "spectrum": "Eigenvalues of the Jacobian cores, by cluster",
    }
    for name, path in figures.items():
        drawing, ax = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
        if name == "cells":
            embedding(ds, basis="X_fate", ax=ax)
        else:
            spectrum(ds, ax=ax)
        ax.set_title(titles[name], fontsize="medium")
        try:
            drawing.savefig(path, dpi=150)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        plt.close(drawing)


def _text(report: Any, summary: Any, figures: dict[str, Path], folder: Path, seconds: float) -> str:
    store = folder / "out.zarr"
    return "\n".join(
        (
            "",
            summary_table(summary),
            "",
            "abscissa: largest real part of the eigenvalues (1/time), mean, std and max over cells; above 0 some small",
            "displacement grows. unstable: how many such modes a cell has, and in how many cells there are any.",
            "speed: how far cells are from a fixed point; the farther, the less eigenvalues say.",
            "",
            str(report),
            f"figures      {', '.join(str(path) for path in figures.values())}",
            f"demo         {seconds:.0f} s in all, simulation, imports and figures among them",
            "",
            "Try next:",
            f"  stabdask report {store} -o {folder / 'report.html'}",
            f"  stabdask drivers {store} --cluster {summary['cluster'].to_numpy()[0]}",
            f"  stabdask summary {store} --quantity element",
            f"  stabdask verify {store}",
            f"  stabdask export {store} --atlas {folder / 'cells.h5ad'} -o {folder / 'with_stability.h5ad'}",
        )
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
