"""Responses to a sustained push, by cluster, and whether to trust them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from stabdask.analysis.responses import response_means, response_quality
from stabdask.report.figures import shown_clusters
from stabdask.report.html import figure, number, paragraph, percent, table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["responses"]

_TOP = 30


def responses(ds: xr.Dataset) -> Iterator[str]:
    """Yield what a section on responses holds, as HTML: a table of how good they are, a heat map for each cluster."""
    from stabdask import plotting as pl

    yield paragraph(
        "Elements of -J^-1 between the chosen genes: by what a small push on the regulator, kept up, would shift the "
        "effector once all settled, in units of time. Where a cell has an unstable mode nothing settles, and they are "
        "no prediction: see the share of unstable cells under Clusters. Cells whose Jacobian is singular, or so near "
        "to it that fewer than three digits hold, are in no mean."
    )
    yield _quality(ds)
    means = response_means(ds).compute()
    # Taken once, for all figures.
    held = ds.assign(response_mean=means.drop_vars("response_cells"), response_cells=means["response_cells"])
    labels, left_out = shown_clusters(ds)
    largest = max(ds.sizes["block_effector"], ds.sizes["block_regulator"])
    drawn = []
    for label in labels:
        one = means.isel(cluster=labels.index(label))
        if not np.isfinite(one.to_numpy()).any():
            left_out = f"{left_out} No cell of {label} has responses that can be trusted.".lstrip()
            continue
        cut = f" At most {_TOP} effectors and regulators, those with the largest." if largest > _TOP else ""
        drawn.append(
            figure(
                pl.response_heatmap(held, label, top=_TOP).figure,  # type: ignore[arg-type]
                caption=f"{label}: mean responses of effectors (rows) to regulators (columns).{cut}",
                alt=f"Responses of {label}",
            )
        )
    yield f'<div class="pair">{"".join(drawn)}</div>'
    if left_out:
        yield paragraph(left_out, kind="note")


def _quality(ds: xr.Dataset) -> str:
    header = ["cluster", "cells", "median condition number", "inaccurate", "singular", "not to be trusted"]
    rows = []
    for one in response_quality(ds).to_dict(orient="records"):
        n_cells, n_bad = one["n_cells"], one["n_inaccurate"] + one["n_singular"]
        row = [str(one["cluster"]), f"{n_cells:,}", number(one["condition"])]
        row += [f"{one['n_inaccurate']:,}", f"{one['n_singular']:,}"]
        rows.append([*row, percent(n_bad / n_cells if n_cells else np.nan)])
    note = "With a condition number of 1e6, responses have lost six of sixteen digits."
    return table(header, rows) + paragraph(note, kind="note")
