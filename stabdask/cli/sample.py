"""Arguments that choose some cells of an atlas."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stabdask.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.atlas.sampling import Method
    from stabdask.fields.base import Field

__all__ = ["add_sample_arguments", "sampled_cells"]


def add_sample_arguments(group: Any) -> None:
    """Add --sample and what goes with it."""
    group.add_argument("--sample", type=int, metavar="N", help="compute N cells only, chosen as follows")
    group.add_argument(
        "--sample-method",
        choices=("random", "velocity", "trn", "kmeans", "stratified"),
        help="by chance (default), by speed, by neural gas or k-means, or by cluster",
    )
    group.add_argument("--sample-seed", type=int, metavar="SEED", help="same seed, same cells (0)")
    group.add_argument(
        "--sample-basis",
        metavar="NAME",
        help="embedding, one of those of --embedding, whose distances trn and kmeans go by",
    )


def sampled_cells(cells: xr.Dataset, field: Field, options: argparse.Namespace) -> xr.Dataset:
    """Return the cells that the arguments choose: all without --sample.

    Raises
    ------
    UsageError
        If the arguments say how to choose cells, but not how many, or not so that `stabdask.sample` can.
    """
    if options.sample is None:
        for name in ("method", "seed", "basis"):
            if getattr(options, f"sample_{name}") is not None:
                raise UsageError(
                    f"--sample-{name} says how to choose cells, but not how many; give --sample N"
                )
        return cells
    from stabdask.atlas.sampling import sample

    method: Method = options.sample_method or "random"
    return sample(
        cells,
        options.sample,
        method=method,
        seed=options.sample_seed or 0,
        field=field if method == "velocity" else None,
        basis=options.sample_basis,
        missing_cluster=options.missing_cluster,
    )
