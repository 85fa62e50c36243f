"""Sums over cells that co-moments are made of: of blocks, of two sets of cells together, of one without another.

All are about the mean of their own cells, so that nothing is lost where the mean is large beside the spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.arrays import XArray, array_module, to_host

__all__ = [
    "SPARSE_DENSITY",
    "Accumulator",
    "Sums",
    "dense_sums",
    "joined",
    "slab_rows",
    "sparse_sums",
    "without",
]

Array = npt.NDArray[np.float64]

SPARSE_DENSITY = 0.05
"""Share of entries that are stored below which the product of sparse matrices is quicker than that of dense ones."""
_SLAB_ENTRIES = 2**22
_FEWEST_ROWS = 256
_ENOUGH_ROWS = 1_024
_MOST_ROWS = 16_384
_SPARSE_ROWS = 16_384
_STRIP_ENTRIES = 2**17
"""Entries worked on at once: they stay in the processor's cache."""


@dataclass
class Sums:
    """Sums over some cells, where d is a cell minus their mean.

    Attributes
    ----------
    count
        Number of cells.
    mean
        ``(gene,)``, zero without cells.
    comoment
        ``(gene, gene)`` sum of d d^T, both triangles.
    third, fourth
        ``(gene,)`` sum of |d|^2 d, and sum of |d|^4; None where they are not kept.
    """

    count: int
    mean: Array
    comoment: Array
    third: Array | None
    fourth: float | None

    @classmethod
    def empty(cls, n_genes: int, *, fourth: bool, xp: Any = np) -> Sums:
        """Return the sums over no cells, in arrays of NumPy or of the module `xp`."""
        return cls(
            count=0,
            mean=xp.zeros(n_genes),
            comoment=xp.zeros((n_genes, n_genes)),
            third=xp.zeros(n_genes) if fourth else None,
            fourth=0.0 if fourth else None,
        )

    def on_host(self) -> Sums:
        """Return the same in arrays of NumPy."""
        third = None if self.third is None else to_host(self.third)
        return Sums(self.count, to_host(self.mean), to_host(self.comoment), third, self.fourth)


def slab_rows(n_genes: int, n_at_once: int = 1) -> int:
    """Return how many cells to multiply at a time, where `n_at_once` slabs are held.

    Together they take 32 MB, or as much as the co-moments of as many sets of cells, within limits: products of few rows
    spend their time on writing the result.

    Examples
    --------
    >>> slab_rows(2_000), slab_rows(2_000, 20), slab_rows(300, 20), slab_rows(10)
    (2097, 1024, 699, 16384)
    """
    rows = max(_SLAB_ENTRIES // max(1, n_genes * n_at_once), min(n_genes, _ENOUGH_ROWS))
    return int(np.clip(rows, _FEWEST_ROWS, _MOST_ROWS))


class Accumulator:
    """Adds up cells as they come, in slabs of a fixed number of rows: the sums do not depend on how they were cut.

    Parameters
    ----------
    n_genes
        Number of genes.
    fourth
        Whether to keep the sums of third and fourth order.
    rows
        Cells in a slab.
    work
        ``(gene, gene)`` memory for products, which several accumulators may share. Where it is, an array of NumPy or of
        CuPy, slabs are multiplied and sums kept.
    """

    def __init__(self, n_genes: int, *, fourth: bool, rows: int, work: XArray | None = None) -> None:
        self._work = np.empty((n_genes, n_genes)) if work is None else work
        self._xp = array_module(self._work)
        self._sums = Sums.empty(n_genes, fourth=fourth, xp=self._xp)
        self._rows = rows
        # One row more than cells: see _flush.
        self._slab: Array | None = None
        self._filled = 0

    def add(self, x: npt.NDArray[Any]) -> None:
        """Add cells, ``(cell, gene)``, all finite."""
        begin = 0
        while begin < len(x):
            if self._slab is None:
                self._slab = np.empty((self._rows + 1, x.shape[1]))
            piece = x[begin : begin + self._rows - self._filled]
            self._slab[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            begin += len(piece)
            if self._filled == self._rows:
                self._flush()

    def result(self) -> Sums:
        """Return the sums over all cells added, in arrays of NumPy; nothing can be added after."""
        self._flush()
        self._slab = None
        return self._sums.on_host()

    def _flush(self) -> None:
        """Add the slab.

        Its cells are centered on one of them first and on their mean then: a gene that does not vary has exactly no
        variance. The difference between the means of the slab and of the cells before it, times the root of its
        weight in the pairwise update, is one more row of the product of matrices.
        """
        if not self._filled:
            return
        assert self._slab is not None
        sums, m, xp = self._sums, self._filled, self._xp
        slab = self._slab if xp is np else xp.asarray(self._slab[: m + 1])
        # On the host in strips that stay in its cache.
        strip = max(1, _STRIP_ENTRIES // max(1, slab.shape[1])) if xp is np else m
        strips = [slab[start : min(start + strip, m)] for start in range(0, m, strip)]
        with np.errstate(over="ignore", invalid="ignore"):
            first, shift = slab[0].copy(), xp.zeros(slab.shape[1])
            for x in strips:
                x -= first
                shift += x.sum(axis=0)
            shift /= m
            first += shift
            total = sums.count + m
            step = first - sums.mean if sums.count else xp.zeros_like(first)
            mean = sums.mean + step * (m / total) if sums.count else first
            if sums.third is not None:
                sums.third, sums.fourth = _about(sums, step * (-m / total))
            to_mean = step * (sums.count / total)
            for x in strips:
                x -= shift
                if sums.third is not None and sums.fourth is not None:
                    squares = xp.einsum("cg,cg->c", x, x) + 2.0 * (x @ to_mean) + to_mean @ to_mean
                    xp.maximum(squares, 0.0, out=squares)
                    sums.third += squares @ x + squares.sum() * to_mean
                    sums.fourth += float(squares @ squares)
            slab[m] = step * math.sqrt(sums.count * m / total)
            # NumPy multiplies a matrix by its own transpose with syrk, and unlike SciPy's lets other threads run.
            if sums.count:
                used = slab[: m + 1]
                xp.matmul(used.T, used, out=self._work)
                sums.comoment += self._work
            else:
                used = slab[:m]
                xp.matmul(used.T, used, out=sums.comoment)
        sums.mean, sums.count = mean, total
        self._filled = 0


def dense_sums(x: npt.NDArray[Any], *, fourth: bool) -> Sums:
    """Return the sums over the cells of a dense block, ``(cell, gene)``."""
    sums = Accumulator(x.shape[1], fourth=fourth, rows=min(max(1, len(x)), slab_rows(x.shape[1])))
    sums.add(x)
    return sums.result()


def sparse_sums(x: Any, *, fourth: bool) -> Sums:
    """Return the sums over the cells of a CSR block, ``(cell, gene)``, never dense over all cells.

    Below `SPARSE_DENSITY`, ``X^T X - n m m^T`` of the genes that are not zero in at most half of the cells: by
    Cauchy-Schwarz the second term is at most half of the first on the diagonal, so that no more than a factor of two
    is lost. The few other genes are centered first, as all are in denser blocks.
    """
    n_cells, n_genes = x.shape
    if x.nnz >= SPARSE_DENSITY * n_cells * n_genes:
        rows = min(max(1, n_cells), slab_rows(n_genes))
        sums = Accumulator(n_genes, fourth=fourth, rows=rows)
        for start in range(0, n_cells, rows):
            sums.add(x[start : start + rows].toarray())
        return sums.result()
    out = Sums.empty(n_genes, fourth=fourth)
    for start in range(0, n_cells, _SPARSE_ROWS):
        out = joined(out, _sparse_slab(x[start : start + _SPARSE_ROWS].astype(np.float64), fourth))
    return out


def _sparse_slab(x: Any, fourth: bool) -> Sums:
    n, n_genes = x.shape
    often = np.bincount(x.indices, minlength=n_genes) > n // 2
    rare, dense = np.flatnonzero(~often), np.flatnonzero(often)
    s, d = x[:, rare], x[:, dense].toarray()
    with np.errstate(over="ignore", invalid="ignore"):
        first = d[0].copy()
        d -= first
        shift = d.mean(axis=0)
        d -= shift
        mean = np.empty(n_genes)
        mean[dense] = first + shift
        s_mean = np.asarray(s.sum(axis=0)).reshape(-1) / n
        mean[rare] = s_mean
        comoment = np.empty((n_genes, n_genes))
        products = (s.T @ s).toarray()
        _add_outer(products, s_mean, -float(n))
        comoment[np.ix_(rare, rare)] = products
        mixed = s.T @ d - np.outer(s_mean, d.sum(axis=0))
        comoment[np.ix_(rare, dense)] = mixed
        comoment[np.ix_(dense, rare)] = mixed.T
        comoment[np.ix_(dense, dense)] = d.T @ d
        out = Sums(n, mean, comoment, None, None)
        if fourth:
            squares = np.asarray(s.multiply(s).sum(axis=1)).reshape(-1) - 2.0 * (s @ s_mean) + s_mean @ s_mean
            squares += np.einsum("cg,cg->c", d, d)
            np.maximum(squares, 0.0, out=squares)
            third = np.empty(n_genes)
            third[rare] = s.T @ squares - squares.sum() * s_mean
            third[dense] = squares @ d
            out.third, out.fourth = third, float(squares @ squares)
    return out


def joined(a: Sums, b: Sums) -> Sums:
    """Return the sums over the cells of both.

    References
    ----------
    Chan, Golub & LeVeque 1983, The American Statistician 37(3), 242-247. With `s` = sum of |d|^2, the sums of higher
    order about a mean that is further by -e, which is to say d + e in place of d, are
    ``sum |d + e|^2 (d + e) = t + s e + 2 C e + n |e|^2 e`` and
    ``sum |d + e|^4 = q + 4 e^T C e + 4 e^T t + 2 |e|^2 s + n |e|^4``, because sum d = 0.
    """
    if not a.count or not b.count:
        return b if not a.count else a
    n = a.count + b.count
    with np.errstate(over="ignore", invalid="ignore"):
        step = b.mean - a.mean
        comoment = a.comoment + b.comoment
        _add_outer(comoment, step, a.count * b.count / n)
        out = Sums(n, a.mean + step * (b.count / n), comoment, None, None)
        if a.third is not None and b.third is not None:
            third_a, fourth_a = _about(a, step * (-b.count / n))
            third_b, fourth_b = _about(b, step * (a.count / n))
            out.third, out.fourth = third_a + third_b, fourth_a + fourth_b
    return out


def without(whole: Sums, part: Sums) -> Sums:
    """Return the sums over the cells of `whole` that are not in `part`: `joined` solved for them.

    There is at least one cell in `part`, and one left.
    """
    n = whole.count - part.count
    with np.errstate(over="ignore", invalid="ignore"):
        back = (whole.mean - part.mean) * (part.count / n)  # from the mean of the whole to that of the rest
        comoment = whole.comoment - part.comoment
        # The means of part and rest differ by -back whole/part; its weight is that in `joined`.
        _add_outer(comoment, back, -n * (whole.count / part.count))
        rest = Sums(n, whole.mean + back, comoment, None, None)
        if whole.third is not None and part.third is not None:
            assert whole.fourth is not None
            third_part, fourth_part = _about(part, part.mean - whole.mean)
            s, along, square = float(np.trace(comoment)), comoment @ back, float(back @ back)
            third = whole.third - third_part - s * back - 2.0 * along - n * square * back
            rest.third = third
            rest.fourth = (
                whole.fourth
                - fourth_part
                - float(4.0 * (back @ along) + 4.0 * (back @ third) + 2.0 * square * s + n * square**2)
            )
    return rest


def _about(sums: Sums, shift: Array) -> tuple[Array, float]:
    """Return the sums of third and fourth order of d + shift."""
    assert sums.third is not None
    assert sums.fourth is not None
    if not shift.any():
        return sums.third.copy(), sums.fourth
    s, along, square = float(sums.comoment.trace()), sums.comoment @ shift, float(shift @ shift)
    third = sums.third + (s + sums.count * square) * shift + 2.0 * along
    fourth = sums.fourth + float(
        4.0 * (shift @ along) + 4.0 * (shift @ sums.third) + 2.0 * square * s + sums.count * square**2
    )
    return third, fourth


def _add_outer(matrix: Array, vector: Array, weight: float) -> None:
    """Add ``weight v v^T`` in place, a few rows at a time, so that no second matrix is made."""
    rows = max(1, _STRIP_ENTRIES // max(1, len(vector)))
    for start in range(0, len(vector), rows):
        cut = slice(start, start + rows)
        # Symmetric to the last bit: v_i v_j first, the weight then.
        matrix[cut] += weight * np.multiply.outer(vector[cut], vector)
