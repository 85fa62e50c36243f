"""Which figures a report has: those that its results have the data for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabdask.analysis.drivers import has_edges
from stabdask.report.html import figure

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["annotated", "driver_figures", "embedding_figures", "shown_clusters", "stability_figures"]

_MOST_TRENDS = 2
_MOST_PANELS = 18
_MOST_CLUSTERS = 30
"""Clusters with figures of their own; more would make a page that nobody reads."""


def annotated(ds: xr.Dataset, kind: str) -> list[str]:
    """Return the names of what was brought along from the atlas, of one kind: label, number or embedding."""
    return [str(name) for name in ds.variables if ds[name].attrs.get("annotation") == kind]


def shown_clusters(ds: xr.Dataset) -> tuple[list[str], str]:
    """Return the clusters that get figures or tables of their own, and a sentence on the others, if there are any."""
    labels = [str(label) for label in ds["cluster"].to_numpy()]
    others = ", ".join(labels[_MOST_CLUSTERS:])
    return labels[:_MOST_CLUSTERS], f"Not shown, for length: {others}." if others else ""


def stability_figures(ds: xr.Dataset) -> Iterator[str]:
    """Yield spectra and distributions per cluster, as HTML."""
    from stabdask import plotting as pl

    if "eigenvalue" in ds:
        yield figure(
            pl.spectra(ds),
            caption="Eigenvalues of the Jacobians in the complex plane, by cluster. Right of the dashed line modes "
            "grow, "
            "left of it they decay; off the horizontal they oscillate."
            + (
                " Genes outside the cores add the real values -gamma in the strip above each plane."
                if "degradation" in ds
                else ""
            ),
            alt="Eigenvalue spectra by cluster",
        )
    wanted = [name for name in ("unstable_count", "trace", "rotational_norm", "speed") if name in ds]
    if wanted:
        yield figure(
            pl.overview(ds, wanted),
            caption="Cells of each cluster: boxes are quartiles, whiskers reach 1.5 times their distance. Speed stands "
            "beside stability because eigenvalues say little far from a fixed point.",
            alt="Box plots of " + ", ".join(wanted) + " by cluster",
        )
    for name, caption in (
        ("spectral_abscissa", "The largest real part in each cell: above zero some small displacement grows."),
        ("reactivity", "The fastest growth that any displacement has at first: above zero beside a negative spectral "
         "abscissa, displacements grow before they decay."),
        ("curvature_norm", "How sharply the flow turns in each cell: one over the radius of its path."),
    ):  # fmt: skip
        if name in ds:
            drawing = pl.violin(ds, name).figure
            yield figure(drawing, caption=caption, alt=f"Distribution of {name} by cluster")  # type: ignore[arg-type]
    if "spectral_abscissa" in ds:
        for name in annotated(ds, "number")[:_MOST_TRENDS]:
            yield figure(
                pl.trend(ds, "spectral_abscissa", along=name).figure,  # type: ignore[arg-type]
                caption=f"Spectral abscissa along {name}: median and quartiles of cells in order of it.",
                alt=f"Spectral abscissa along {name}",
            )


def embedding_figures(ds: xr.Dataset, basis: str) -> str:
    """Return scalars and elements on an embedding, as HTML."""
    from stabdask import plotting as pl

    small = []
    for name in ("cell_cluster", "spectral_abscissa", "unstable_count", "rotational_norm", "speed"):
        if name in ds.variables:
            long_name = ds[name].attrs.get("long_name", "cluster" if name == "cell_cluster" else name)
            small.append(
                figure(
                    pl.embedding(ds, name, basis=basis).figure,  # type: ignore[arg-type]
                    caption=f"{long_name[:1].upper()}{long_name[1:]} on {basis}.",
                    alt=f"{name} on the embedding {basis}",
                )
            )
    out = f'<div class="pair">{"".join(small)}</div>'
    if "element" in ds and ds.sizes["pair"]:
        pairs = [str(pair) for pair in ds["pair"].to_numpy()[:_MOST_PANELS]]
        more = ds.sizes["pair"] - len(pairs)
        out += figure(
            pl.elements(ds, pairs, basis=basis),
            caption="Elements of the Jacobian, d(dx_effector/dt)/dx_regulator: red activates, blue inhibits, at that "
            "expression." + (f" {more:,} more pairs are in the store." if more else ""),
            alt="Elements of the Jacobian on the embedding",
        )
    return out


def driver_figures(ds: xr.Dataset, cluster: str) -> Iterator[str]:
    """Yield the driver genes and edges of a cluster, as HTML."""
    from stabdask import plotting as pl

    if "participation_mean" in ds:
        yield figure(
            pl.driver_genes(ds, cluster=cluster).figure,  # type: ignore[arg-type]
            caption=f"{cluster}: genes by participation in the leading mode, mean and standard deviation over cells.",
            alt=f"Driver genes of {cluster}",
        )
    if has_edges(ds):
        yield figure(
            pl.driver_network(ds, cluster=cluster).figure,  # type: ignore[arg-type]
            caption=f"{cluster}: the edges that the leading mode is most sensitive to.",
            alt=f"Driver network of {cluster}",
        )
