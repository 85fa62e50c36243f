"""`write_report`: what a run did and found, on one page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stabdask.analysis.drivers import driver_edges, has_edges
from stabdask.errors import (
    OVERWRITE,
    InputError,
    MissingKeyError,
    StoreMismatchError,
    UsageError,
    near_misses,
)
from stabdask.files import place_of, require_folder, write_atomically
from stabdask.report.figures import (
    annotated,
    driver_figures,
    embedding_figures,
    shown_clusters,
    stability_figures,
)
from stabdask.report.html import Section, facts, number, page, paragraph, percent, table
from stabdask.report.methods import methods_text, references
from stabdask.report.responses import responses
from stabdask.runs.plan import format_seconds
from stabdask.runs.receipts import read_receipts
from stabdask.runs.results import open_results
from stabdask.runs.store import open_store_field, package_versions, read_spec
from stabdask.runs.totals import Totals, total
from stabdask.schema import VARIABLES, count_failed, counts_text
from stabdask.sizes import format_bytes

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.fields.base import Field
    from stabdask.runs.job import RunSpec

__all__ = ["write_report"]

_TOP = 10
_COLUMNS = (
    ("abscissa", "spectral_abscissa", "mean ± std"),
    ("at most", "spectral_abscissa", "max"),
    ("speed", "speed", "mean ± std"),
    ("unstable modes", "unstable_count", "mean"),
    ("frequency", "leading_frequency", "mean"),
    ("reactivity", "reactivity", "mean"),
    ("trace", "trace", "mean"),
    ("rotation", "rotational_norm", "mean"),
)
"""Speed stands beside the abscissa: far from a fixed point eigenvalues say little."""


def write_report(
    store: str | Path,
    path: str | Path,
    *,
    title: str | None = None,
    atlas: str | Path | None = None,
    basis: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report of a run as one page of HTML that needs no network and prints well.

    It says what was run (options, versions, fingerprints, hardware, seconds, cells with a failed status), and shows the
    per-cluster table, spectra, distributions, embeddings, drivers and responses as far as the store holds them, how
    accurate the results are, and a text on methods with references to paste.

    Parameters
    ----------
    store
        The store of a run, complete or not.
    path
        Where to write the page.
    title
        Heading of the page; the name of the store if not given.
    atlas
        An AnnData file to take the embedding from, where the run brought none along.
    basis
        Key of the embedding, e.g. ``"X_umap"``: one that the run brought along (the first of them if not given), or
        one in `obsm` of `atlas`.
    overwrite
        Whether to replace a file that is there.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    MissingFileError, StoreMismatchError
        If there is no store.
    MissingKeyError
        If there is no such embedding.
    UsageError
        If `path` does not end in .html.
    StoreMismatchError
        If the page exists already and `overwrite` is false.
    OutputError
        If it cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{target} is no name of a page; expected one that ends in .html")
    if target.exists() and not overwrite:
        raise StoreMismatchError(f"{target} exists; remove it, choose another path, or {OVERWRITE}")
    require_folder(target)
    ds = open_results(store)
    spec = read_spec(store)
    field = open_store_field(store)
    totals = total(read_receipts(store, spec.fingerprint))
    # Means of clusters are small, and looked at many times.
    ds = ds.assign(ds[[name for name in ds.data_vars if "cell" not in ds[name].dims]].compute())
    ds, basis = _with_embedding(ds, atlas, basis)
    sections = [
        Section("glance", "At a glance", _glance(ds, spec, field, totals)),
        Section("clusters", "Clusters", _clusters(ds)),
        Section("stability", "Stability", "".join(stability_figures(ds))),
    ]
    drawn = _NO_EMBEDDING if basis is None else embedding_figures(ds, basis)
    sections.append(Section("embedding", "Embedding", drawn))
    if "driver_cells" in ds:
        sections.append(Section("drivers", "Drivers", "".join(_drivers(ds))))
    if "jacobian_mean" in ds:
        sections.append(Section("interactions", "Interactions", "".join(_interactions(ds))))
    if "response_status" in ds:
        sections.append(Section("responses", "Responses", "".join(responses(ds))))
    sections += [
        Section("accuracy", "Accuracy", _accuracy(ds, totals)),
        Section("run", "What was run", _run(spec, field, totals)),
        Section("methods", "Methods", _methods(spec, field)),
    ]
    place = place_of(store)
    heading = title or (place.local.resolve().name if place.local is not None else place.name)
    subtitle = f"Local stability of {spec.n_cells:,} cells, by stabdask {package_versions()['stabdask']}"
    write_atomically(target, page(heading, subtitle, sections).encode())
    return target


_NO_EMBEDDING = paragraph(
    "The results hold no embedding to draw cells on: name the atlas that has one (stabdask report --atlas ATLAS "
    "--basis X_umap), or let the run bring it along (stabdask run --embedding X_umap).",
    kind="note",
)


def _with_embedding(
    ds: xr.Dataset, atlas: str | Path | None, basis: str | None
) -> tuple[xr.Dataset, str | None]:
    """Return the results with the embedding to draw on, and its name; None if there is none to be had."""
    known = annotated(ds, "embedding")
    if atlas is None:
        if basis is not None and basis not in known:
            raise MissingKeyError(
                f"the results hold no embedding {basis!r}; {near_misses(basis, known, noun='embeddings')}; bring it "
                "along with the run (--embedding), or name the atlas it is in (--atlas)"
            )
        return ds, basis or (known[0] if known else None)
    from stabdask.atlas.cells import open_cells

    key = basis or "X_umap"
    cells = open_cells(str(atlas), embeddings=[key])
    if not np.array_equal(cells["cell"].to_numpy().astype(str), ds["cell"].to_numpy().astype(str)):
        raise InputError(f"the cells of {atlas} are not those of the run; give the atlas that the run read")
    return ds.drop_vars([key], errors="ignore").assign({key: cells[key]}), key


def _glance(ds: xr.Dataset, spec: RunSpec, field: Field, totals: Totals) -> str:
    failed = count_failed(totals.status_counts)
    items = [
        ("cells", f"{spec.n_cells:,}"),
        ("space", field.space),
        ("clusters", f"{len(spec.labels):,}"),
        ("largest core", f"{field.largest_core:,}"),
    ]
    if "unstable_count" in ds:
        counts = ds["unstable_count"].to_numpy()
        known = counts[counts >= 0]
        share = f"{(known > 0).mean():.1%}" if len(known) else "not known"
        items.append(("cells with an unstable mode", share))
    items.append(("cells with a failed status", f"{failed:,}"))
    parts = [facts(items)]
    if totals.n_partitions < spec.n_partitions:
        parts.append(
            paragraph(
                f"This run is not complete: {spec.n_partitions - totals.n_partitions:,} of {spec.n_partitions:,} "
                "partitions are missing, and their cells are in no figure.",
                kind="warning",
            )
        )
    parts.append(
        paragraph(
            "Most cells are not at a fixed point of the fitted field. Eigenvalues tell what becomes of small "
            "displacements over times in which the cell itself moves little: read them beside the speed |v(x)|. At a "
            "fixed point they tell it for good: 'stabdask fixed-points' finds those of the field, with their spectra "
            "and types."
        )
    )
    return "".join(parts)


def _clusters(ds: xr.Dataset) -> str:
    from stabdask.analysis.aggregate import summarize

    summary = summarize(ds)
    shown = [column for column in _COLUMNS if column[1] in summary]
    header = ["cluster", "cells", "failed", "unstable cells", *(name for name, _, _ in shown)]
    rows = []
    for place, label in enumerate(summary["cluster"].to_numpy()):
        one = summary.isel(cluster=place)
        share = float(one["unstable_fraction"]) if "unstable_fraction" in one else math.nan
        rows.append(
            [
                str(label),
                f"{int(one['n_cells']):,}",
                f"{int(one['n_failed']):,}",
                percent(share),
                *(_statistic(one[name], statistic) for _, name, statistic in shown),
            ]
        )
    by_unit: dict[str, list[str]] = {}
    for name, variable, _ in shown:
        if VARIABLES[variable].units != "1" and name != "at most":
            by_unit.setdefault(VARIABLES[variable].units, []).append(name)
    units = "; ".join(f"{', '.join(names)} in {unit}" for unit, names in by_unit.items())
    note = f"Means over cells, ± standard deviation; at most: the largest abscissa. {units[:1].upper()}{units[1:]}."
    return table(header, rows) + paragraph(note, kind="note")


def _drivers(ds: xr.Dataset) -> Iterator[str]:
    yield paragraph(
        "Which genes the leading mode of the core belongs to, and which edges move its growth rate. A positive "
        "sensitivity: more weight destabilizes, for an inhibiting edge less inhibition does. A contribution is weight "
        "times sensitivity, what the edge gives to the growth rate as it stands."
        + (
            " Here the weight is the mean element of the Jacobian between two genes, lifted from the axes of the field."
            if "axis_sensitivity_mean" in ds
            else ""
        )
    )
    labels, left_out = shown_clusters(ds)
    for label in labels:
        yield from _drivers_of(ds, label)
    if left_out:
        yield paragraph(f"{left_out} See stabdask drivers.", kind="note")


def _drivers_of(ds: xr.Dataset, label: str) -> Iterator[str]:
    from html import escape

    yield f"<h3>{escape(label)}</h3>"
    count = int(ds["driver_cells"].isel(vector_mode=slice(1)).sel(cluster=label).sum())
    if not count:
        yield paragraph("No cell of this cluster has a leading mode that is not defective.", kind="note")
        return
    if has_edges(ds):
        edges = driver_edges(ds, label, top=_TOP)
        numbers = edges[["sensitivity", "std", "weight", "contribution"]].to_numpy(dtype=float)
        rows = [
            [f"{regulator} {'⊣' if values[2] < 0 else '→'} {effector}", *map(number, values)]
            for regulator, effector, values in zip(
                edges["regulator"], edges["effector"], numbers, strict=True
            )
        ]
        weight = "mean J" if edges.attrs["of"] == "J" else "weight"
        header = ["edge", "sensitivity", "± std", weight, "contribution"]
        yield f'<div class="pair">{"".join(driver_figures(ds, label))}</div>'
        yield table(header, rows, caption=f"Edges of {label} by sensitivity, mean over {count:,} cells")
    else:
        yield "".join(driver_figures(ds, label))


def _interactions(ds: xr.Dataset) -> Iterator[str]:
    from stabdask.analysis.rankings import rank_elements

    yield paragraph(
        "Elements of the mean Jacobian between the chosen genes, d(dx_effector/dt)/dx_regulator: positive activates, "
        "negative inhibits, at the expression of the cells of a cluster. By the mean of absolute values, in which "
        "cells of opposite sign do not cancel."
    )
    labels, left_out = shown_clusters(ds)
    for label in labels:
        sizes = rank_elements(ds, label, mode="int", absolute=True, exclude_diagonal=True, top=_TOP)
        means = rank_elements(ds, label, mode="int").set_index(["effector", "regulator"])["value"]
        rows = [
            [f"{regulator} {'⊣' if means[effector, regulator] < 0 else '→'} {effector}", number(size),
             number(float(means[effector, regulator]))]
            for effector, regulator, size in zip(sizes["effector"], sizes["regulator"], sizes["value"], strict=True)
        ]  # fmt: skip
        yield table(
            ["pair", "mean |J|", "mean J"],
            rows,
            caption=f"{label}: mean over {sizes.attrs['n_cells']:,} cells, 1/time",
        )
    if left_out:
        yield paragraph(f"{left_out} See stabdask rank.", kind="note")


def _accuracy(ds: xr.Dataset, totals: Totals) -> str:
    items = [("cells by status", counts_text(totals.status_counts) or "none yet")]
    for name, text in (
        ("residual", "largest residual |C u - λ u| / |C|"),
        ("trace_defect", "largest trace defect |Σλ - tr C| / |C|"),
    ):
        if name in ds:
            values = ds[name].to_numpy()
            known = values[np.isfinite(values)]
            if len(known):
                items.append((text, f"{known.max():.1e} (median {np.median(known):.1e})"))
    if totals.n_near_switch:
        items.append(("cells at a switch of an activation, where J jumps", f"{totals.n_near_switch:,}"))
    if totals.audit:
        items += [
            ("audited against dense spectra", f"{int(totals.audit['n_cells']):,} cells"),
            ("leading modes missed in them", f"{int(totals.audit['n_missed']):,}"),
            ("largest difference, of |C|", f"{totals.audit['worst_difference']:.1e}"),
        ]
    parts = [facts(items)]
    if len(totals.kernels) > 1:
        parts.append(
            paragraph(
                f"Computed on {' and '.join(totals.kernels)}: results of unlike ones differ in the last bits.",
                kind="warning",
            )
        )
    if totals.n_gpu_halvings:
        parts.append(
            paragraph(
                f"Batches were halved {totals.n_gpu_halvings:,} times to fit the memory of the GPU; last bits may "
                f"differ.",
                kind="warning",
            )
        )
    parts.append(
        paragraph(
            "A cell that could not be computed has a status and NaN, and is in no mean; one with a defective mode "
            "lacks vectors of it, and its eigenvalues are as good as any. stabdask verify recomputes checksums and "
            "compares a sample of cells with dense Jacobians.",
            kind="note",
        )
    )
    return "".join(parts)


def _run(spec: RunSpec, field: Field, totals: Totals) -> str:
    options = spec.options
    spent = totals.worker_seconds
    sources = [
        str(source.get("path") or source.get("name") or "memory") for source in spec.cells.get("sources", [])
    ]
    asked: list[tuple[str, Any]] = [
        ("spectrum", options.spectrum),
        ("modes with vectors", options.vector_modes(field) if options.solved_vectors != "none" else None),
        ("vectors kept", options.vectors),
        ("precision", options.dtype),
        ("tolerance", f"{options.tolerance:g}/time"),
        ("quantities", ", ".join(options.quantities)),
        ("elements", f"{len(options.elements):,} pairs" if options.elements else None),
    ]
    how: list[tuple[str, Any]] = [
        ("eigensolver", options.backend),
        ("instruction set or GPU", ", ".join(totals.kernels) or None),
        ("hardware", "; ".join(totals.hardware) or None),
        ("worker time", format_seconds(spent.get("total_s", 0.0))),
        ("of which eigensolver", format_seconds(spent["eig_s"]) if "eig_s" in spent else None),
        (
            "memory of a worker",
            f"at most {format_bytes(totals.peak_worker_bytes)}" if totals.peak_worker_bytes else None,
        ),
        (
            "partitions",
            f"{totals.n_partitions:,} of {spec.n_partitions:,}, {spec.partition_cells:,} cells each",
        ),
    ]
    identity: list[tuple[str, Any]] = [
        ("cells from", "; ".join(sources) or "memory"),
        ("field", f"{field.kind}, fingerprint {field.fingerprint}"),
        ("run", spec.fingerprint),
        ("versions", ", ".join(f"{name} {version}" for name, version in totals.versions.items()) or None),
    ]
    return "".join(
        f"<h3>{heading}</h3>" + facts([(name, str(value)) for name, value in items if value is not None])
        for heading, items in (("Asked for", asked), ("Computed by", how), ("Identity", identity))
    )


def _methods(spec: RunSpec, field: Field) -> str:
    from html import escape

    version = package_versions()["stabdask"]
    text = methods_text(spec, field, version)
    entries = "".join(f"<li>{escape(entry)}</li>" for entry in references(text, version))
    return f'<p class="copy">{escape(text)}</p><h3>References</h3><ol class="references">{entries}</ol>'


def _statistic(values: xr.DataArray, statistic: str) -> str:
    return " ± ".join(number(float(values.sel(statistic=name))) for name in statistic.split(" ± "))
