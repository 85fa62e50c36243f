"""Adds up receipts and results of cells as partitions land: from arrays to numbers, without Dask and Bokeh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stabdask.analysis.quantiles import Counts, count_rounded, merge_counts, quantiles_of_counts
from stabdask.runs.receipts import Receipt

__all__ = ["DECADES", "QUANTILES", "ClusterRow", "Progressed", "RunModel"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the spectral abscissa in each cluster."""
DECADES = tuple(range(-17, 1))
"""Powers of ten between which residuals are counted."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClusterRow:
    """The spectral abscissa in one cluster so far.

    Attributes
    ----------
    name
        Of the cluster.
    n_cells, n_done
        Cells in all and with a result that could be read.
    n_values
        Of these, cells whose abscissa is a number.
    n_positive
        Of these, cells with an abscissa above 0.
    lowest, quantiles, highest
        Of the abscissa: extremes, and `QUANTILES`; None without values. Units: 1/time.
    """

    name: str
    n_cells: int
    n_done: int
    n_values: int
    n_positive: int
    lowest: float | None
    quantiles: tuple[float, ...] | None
    highest: float | None


@dataclass(frozen=True)
class Progressed:
    """What has been read from the store of a run; a new one after each look.

    Attributes
    ----------
    visible
        Whether the scheduler sees the store; None before the first look has ended.
    problems
        Sentences on what could not be read.
    done
        ``(partition,)``: whether it has a receipt.
    n_cells_done, n_unread
        Cells in those, and how many of these have results that could not be read.
    status_counts
        Cells by status code.
    clusters
        Abscissae by cluster; empty where the run computes none.
    residuals
        ``(len(DECADES) + 1,)``: cells by decade of their residual, below the first, between, from the last on.
    n_residuals
        Cells with a residual that is a number.
    with_residual
        Whether the run computes residuals.
    peak_worker_bytes
        Largest resident memory of any worker.
    backend
        Eigensolver backend.
    landings
        Times, on the clock of the page, and cells done by then.
    look_s
        How long the last look at the store took.
    """

    done: npt.NDArray[np.bool_]
    visible: bool | None = None
    problems: tuple[str, ...] = ()
    n_cells_done: int = 0
    n_unread: int = 0
    status_counts: Mapping[int, int] = field(default_factory=dict)
    clusters: tuple[ClusterRow, ...] = ()
    residuals: tuple[int, ...] = (0,) * (len(DECADES) + 1)
    n_residuals: int = 0
    with_residual: bool = False
    peak_worker_bytes: int = 0
    backend: str = ""
    landings: tuple[tuple[float, int], ...] = ()
    look_s: float = 0.0


class RunModel:
    """Adds up the partitions of one run as they land; see `Progressed`.

    Parameters
    ----------
    n_partitions
        Of the run.
    labels
        Names of clusters.
    n_cells
        ``(cluster,)``: cells of each.
    with_abscissa, with_residual
        Whether the run computes the abscissa, and residuals.
    backend
        Eigensolver backend.
    """

    def __init__(
        self,
        n_partitions: int,
        labels: Sequence[str] = (),
        n_cells: Sequence[int] = (),
        *,
        with_abscissa: bool = True,
        with_residual: bool = True,
        backend: str = "",
    ) -> None:
        n = len(labels)
        self._labels, self._n_cells = tuple(labels), tuple(int(count) for count in n_cells)
        self._with_abscissa, self._with_residual, self._backend = with_abscissa, with_residual, backend
        self._done = np.zeros(n_partitions, bool)
        self._n_cells_done = 0
        self._status: Counter[int] = Counter()
        self._peak = 0
        self._landings: list[tuple[float, int]] = []
        empty = np.empty(0, np.int64)
        self._counts = Counts(empty, empty)
        self._n_read, self._n_values, self._n_positive = (np.zeros(n, np.int64) for _ in range(3))
        self._lowest, self._highest = np.full(n, np.inf), np.full(n, -np.inf)
        self._residuals = np.zeros(len(DECADES) + 1, np.int64)

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """``(partition,)``: whether it has landed."""
        return self._done

    def land(self, receipts: Sequence[Receipt], now: float) -> None:
        """Count partitions that are there since `now`."""
        new = [receipt for receipt in receipts if not self._done[receipt.partition]]
        for receipt in new:
            self._done[receipt.partition] = True
            self._n_cells_done += receipt.n_cells
            self._status.update(receipt.status_counts)
            self._peak = max(self._peak, receipt.peak_bytes)
        if new:
            self._landings.append((now, self._n_cells_done))

    def add_values(
        self, codes: npt.NDArray[np.integer], abscissa: Floats | None, residual: Floats | None
    ) -> None:
        """Add results of cells.

        Parameters
        ----------
        codes
            ``(cell,)``: their clusters, -1 for none.
        abscissa, residual
            ``(cell,)``, None where the run has none.
        """
        n = len(self._labels)
        labelled = codes >= 0
        self._n_read += np.bincount(codes[labelled], minlength=n)
        if abscissa is not None and n:
            kept = labelled & ~np.isnan(abscissa)
            values, groups = abscissa[kept].astype(np.float64), codes[kept]
            self._n_values += np.bincount(groups, minlength=n)
            self._n_positive += np.bincount(groups[values > 0], minlength=n)
            np.minimum.at(self._lowest, groups, values)
            np.maximum.at(self._highest, groups, values)
            self._counts = merge_counts([self._counts, count_rounded(values, groups)])
        if residual is not None:
            found = residual[residual >= 0].astype(np.float64)  # NaN is not
            places = np.searchsorted(10.0 ** np.array(DECADES, dtype=float), found, side="right")
            self._residuals += np.bincount(places, minlength=len(DECADES) + 1)

    def progressed(
        self, *, visible: bool | None, problems: Sequence[str] = (), n_unread: int = 0, look_s: float = 0.0
    ) -> Progressed:
        """Return the numbers so far."""
        return Progressed(
            visible=visible,
            problems=tuple(problems),
            done=self._done.copy(),
            n_cells_done=self._n_cells_done,
            n_unread=n_unread,
            status_counts=dict(sorted(self._status.items())),
            clusters=self._rows() if self._with_abscissa else (),
            residuals=tuple(self._residuals.tolist()),
            n_residuals=int(self._residuals.sum()),
            with_residual=self._with_residual,
            peak_worker_bytes=self._peak,
            backend=self._backend,
            landings=tuple(self._landings),
            look_s=look_s,
        )

    def _rows(self) -> tuple[ClusterRow, ...]:
        found = quantiles_of_counts(self._counts, len(self._labels), QUANTILES)
        rows = []
        for i, name in enumerate(self._labels):
            some = self._n_values[i] > 0
            # Quantiles come from rounded values, extremes do not.
            inner = np.clip(found[i], self._lowest[i], self._highest[i]) if some else found[i]
            rows.append(
                ClusterRow(
                    name=name,
                    n_cells=self._n_cells[i],
                    n_done=int(self._n_read[i]),
                    n_values=int(self._n_values[i]),
                    n_positive=int(self._n_positive[i]),
                    lowest=float(self._lowest[i]) if some else None,
                    quantiles=tuple(inner.tolist()) if some else None,
                    highest=float(self._highest[i]) if some else None,
                )
            )
        return tuple(rows)
