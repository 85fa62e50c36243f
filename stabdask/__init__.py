"""Local stability of every cell of an atlas, out of core and distributed.

The Jacobian of a fitted gene-regulatory velocity field at each cell, its eigenvalues and eigenvectors, and what
biologists read off them. Start with `open_cells`, `read_field`, `run` and `open_results`.

Names load on first use, so that importing the package stays fast.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabdask import plotting as pl
    from stabdask.analysis import network
    from stabdask.analysis.aggregate import extremes, summarize
    from stabdask.analysis.comparison import compare
    from stabdask.analysis.drivers import driver_edges, driver_genes
    from stabdask.analysis.fixed_point_table import fixed_point_table
    from stabdask.analysis.knockout_ranking import rank_knockouts
    from stabdask.analysis.rankings import rank_elements
    from stabdask.analysis.spectra import complete_spectrum
    from stabdask.atlas.cells import open_cells
    from stabdask.atlas.exporters import to_anndata
    from stabdask.atlas.sampling import sample
    from stabdask.atlas.simulate import SimulatedAtlas, simulate_atlas
    from stabdask.clusters.opened import Cluster
    from stabdask.clusters.presets import cluster
    from stabdask.fields.base import Field
    from stabdask.fields.hopfield import HopfieldField
    from stabdask.fields.reading import read_field
    from stabdask.fields.rkhs import RKHSField
    from stabdask.report.document import write_report
    from stabdask.runs.array_jobs import finalize, initialize
    from stabdask.runs.fixed_points import fixed_points
    from stabdask.runs.handle import RunHandle
    from stabdask.runs.knockouts import knockouts
    from stabdask.runs.lazy import stability
    from stabdask.runs.plan import Plan, plan
    from stabdask.runs.response import response
    from stabdask.runs.results import open_results
    from stabdask.runs.run_report import RunReport
    from stabdask.runs.runner import run
    from stabdask.runs.shares import Share
    from stabdask.runs.status import StoreStatus, status
    from stabdask.runs.verify import VerifyReport, verify

__version__ = "0.1.0"

_HOMES = {
    "Cluster": "stabdask.clusters.opened",
    "Field": "stabdask.fields.base",
    "HopfieldField": "stabdask.fields.hopfield",
    "Plan": "stabdask.runs.plan",
    "RKHSField": "stabdask.fields.rkhs",
    "RunHandle": "stabdask.runs.handle",
    "RunReport": "stabdask.runs.run_report",
    "Share": "stabdask.runs.shares",
    "SimulatedAtlas": "stabdask.atlas.simulate",
    "StoreStatus": "stabdask.runs.status",
    "VerifyReport": "stabdask.runs.verify",
    "cluster": "stabdask.clusters.presets",
    "compare": "stabdask.analysis.comparison",
    "complete_spectrum": "stabdask.analysis.spectra",
    "driver_edges": "stabdask.analysis.drivers",
    "driver_genes": "stabdask.analysis.drivers",
    "extremes": "stabdask.analysis.aggregate",
    "finalize": "stabdask.runs.array_jobs",
    "fixed_point_table": "stabdask.analysis.fixed_point_table",
    "fixed_points": "stabdask.runs.fixed_points",
    "initialize": "stabdask.runs.array_jobs",
    "knockouts": "stabdask.runs.knockouts",
    "open_cells": "stabdask.atlas.cells",
    "open_results": "stabdask.runs.results",
    "plan": "stabdask.runs.plan",
    "rank_elements": "stabdask.analysis.rankings",
    "rank_knockouts": "stabdask.analysis.knockout_ranking",
    "read_field": "stabdask.fields.reading",
    "response": "stabdask.runs.response",
    "run": "stabdask.runs.runner",
    "sample": "stabdask.atlas.sampling",
    "simulate_atlas": "stabdask.atlas.simulate",
    "stability": "stabdask.runs.lazy",
    "status": "stabdask.runs.status",
    "summarize": "stabdask.analysis.aggregate",
    "to_anndata": "stabdask.atlas.exporters",
    "verify": "stabdask.runs.verify",
    "write_report": "stabdask.report.document",
}
_MODULES = {"network": "stabdask.analysis.network", "pl": "stabdask.plotting"}

__all__ = [
    "Cluster",
    "Field",
    "HopfieldField",
    "Plan",
    "RKHSField",
    "RunHandle",
    "RunReport",
    "Share",
    "SimulatedAtlas",
    "StoreStatus",
    "VerifyReport",
    "__version__",
    "cluster",
    "compare",
    "complete_spectrum",
    "driver_edges",
    "driver_genes",
    "extremes",
    "finalize",
    "fixed_point_table",
    "fixed_points",
    "initialize",
    "knockouts",
    "network",
    "open_cells",
    "open_results",
    "pl",
    "plan",
    "rank_elements",
    "rank_knockouts",
    "read_field",
    "response",
    "run",
    "sample",
    "simulate_atlas",
    "stability",
    "status",
    "summarize",
    "to_anndata",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'stabdask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if os.environ.get("STABDASK_PLUGINS"):
    from stabdask.errors import StabdaskError

    # Before anything else of the package, half of which they may import. What is wrong with them is said where the
    # names of quantities are first needed.
    with suppress(StabdaskError):
        importlib.import_module("stabdask.schema")
