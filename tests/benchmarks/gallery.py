"""Every figure of a store, to be looked at, with the seconds each takes and the bytes of its file as JSON.

    python tests/benchmarks/gallery.py STORE FOLDER [--adata ATLAS.h5ad] [--basis X_umap] [--along dpt_pseudotime]

What the store lacks for a figure is said on stderr, and the figure left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import stabdask as sd
from stabdask.errors import MissingKeyError
from stabdask.schema import SCALARS


def figures(ds: Any, options: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """Return what draws each figure, by the name of its file; each takes `save`."""
    adata = None
    if options.adata is not None:
        import anndata

        adata = anndata.read_h5ad(options.adata, backed="r")
    on = {"basis": options.basis, "adata": adata}
    scalars = [name for name in SCALARS if name in ds]
    out: dict[str, Callable[..., Any]] = {
        "spectrum": partial(sd.pl.spectrum, ds),
        "spectrum-points": partial(sd.pl.spectrum, ds, kind="points"),
        "spectrum-density": partial(sd.pl.spectrum, ds, kind="density"),
        "spectra": partial(sd.pl.spectra, ds),
        "positive-parts": partial(sd.pl.positive_parts, ds),
        "overview": partial(sd.pl.overview, ds),
        "embedding-cluster": partial(sd.pl.embedding, ds, "cluster", **on),
        "elements": partial(sd.pl.elements, ds, **on),
    }
    for name in scalars:
        out[f"boxplot-{name}"] = partial(sd.pl.boxplot, ds, name)
        out[f"violin-{name}"] = partial(sd.pl.violin, ds, name)
        out[f"embedding-{name}"] = partial(sd.pl.embedding, ds, name, **on)
    for name in ("spectral_abscissa", "speed"):
        out[f"trend-{name}"] = partial(sd.pl.trend, ds, name, along=options.along)
        out[f"trend-{name}-by-cluster"] = partial(sd.pl.trend, ds, name, along=options.along, by="cluster")
    # By number: labels may be no names of files.
    for number, label in enumerate(ds["cluster"].to_numpy()):
        for name in ("driver_genes", "driver_edges", "driver_network"):
            out[f"{name}-{number}"] = partial(getattr(sd.pl, name), ds, cluster=str(label))
        for name in ("driver_heatmap", "response_heatmap"):
            out[f"{name}-{number}"] = partial(getattr(sd.pl, name), ds, str(label))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="store of a run")
    parser.add_argument("folder", type=Path, help="where to put the figures")
    parser.add_argument("--adata", type=Path, help="h5ad with the embedding")
    parser.add_argument("--basis", default="X_umap", help="name of the embedding")
    parser.add_argument("--along", default="dpt_pseudotime", help="number of the cells to draw trends along")
    parser.add_argument("--kind", default="png", choices=("png", "pdf", "svg"))
    options = parser.parse_args()
    ds = sd.open_results(options.store)
    options.folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, dict[str, float]] = {}
    said = set()
    for name, draw in figures(ds, options).items():
        path, start = options.folder / f"{name}.{options.kind}", time.perf_counter()
        try:
            draw(save=path)
        except MissingKeyError as error:
            # Once is enough of what many figures lack.
            if str(error) not in said:
                print(f"{name} and any others that need it: left out: {error}", file=sys.stderr)
            said.add(str(error))
            continue
        drawn[path.name] = {"seconds": round(time.perf_counter() - start, 2), "bytes": path.stat().st_size}
    print(json.dumps(drawn, indent=2))


if __name__ == "__main__":
    main()
