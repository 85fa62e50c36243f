"""Draws simulated cells: moments of integrated trajectories, measured with noise and dropout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from stabdask.atlas.krumsiek import CLUSTERS, PROGENITOR, TRANSCRIPTION_FACTORS, Network, assign_clusters
from stabdask.fields.base import Array

__all__ = ["TREE", "CellBlock", "CellSampler", "integrate_trajectories", "random_stream"]

Float32 = npt.NDArray[np.float32]

_DURATION = 10.0
_N_TIMES = 64
_STEPS_PER_TIME = 4
_INITIAL_SPREAD = 0.2
_NOISE = 0.15
"""Noise of the trajectories: its variance per time is this squared, times the expression."""

TREE: dict[str, tuple[float, float]] = {
    "progenitor": (0.0, 0.0),
    "MEP": (1.0, 0.0),
    "GMP": (-1.0, 0.0),
    "erythrocyte": (2.0, 1.0),
    "megakaryocyte": (2.0, -1.0),
    "monocyte": (-2.0, 1.0),
    "granulocyte": (-2.0, -1.0),
}
"""Where the embedding of fates aims to put each cell type: one decision to the side, the next up or down."""

_LEAK = 0.01
"""Expression no gene falls below before dropout: without dropout an atlas has no zeros."""

_BANK_BYTES = 64_000_000
_STRIP = 64
"""Cells worked on at once: their buffers stay in the processor's cache."""

_PILOT_ENTRIES = 2_000_000


def random_stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers for one purpose; those of block b of cells are ``default_rng([seed, b])``."""
    # Trailing zeros of a seed sequence do not count, so the last number must not be 0.
    purposes = ("network", "field", "trajectories", "genes", "pilot")
    return np.random.default_rng([seed, 0, 1 + purposes.index(name)])


@dataclass(frozen=True)
class CellBlock:
    """Some simulated cells.

    Attributes
    ----------
    expression
        ``(cell, gene)``, not negative.
    cluster
        ``(cell,)`` positions in `stabdask.atlas.krumsiek.CLUSTERS`.
    pseudotime
        ``(cell,)``, from 0 to 1.
    batch
        ``(cell,)``, 0 or 1: labels without an effect.
    pca, fate
        ``(cell, 2)`` embeddings of the transcription factors before dropout: two principal components, and
        the tree of cell types (see `TREE`).
    """

    expression: Float32
    cluster: npt.NDArray[np.int8]
    pseudotime: Array
    batch: npt.NDArray[np.int8]
    pca: Float32
    fate: Float32


def integrate_trajectories(
    network: Network, n_trajectories: int, rng: np.random.Generator, *, noise: float = _NOISE
) -> Float32:
    """Integrate the regulators from progenitors that differ, with noise (Euler-Maruyama).

    ``dx = (W phi(x) - gamma x + I) dt + noise sqrt(x) dB``, kept above a small positive leak.

    Parameters
    ----------
    network
        The network; its targets are left out.
    n_trajectories
        How many.
    rng
        Source of the initial spread and of the noise.
    noise
        Strength of the noise, in sqrt(expression/time).

    Returns
    -------
    numpy.ndarray
        ``(64, n_trajectories, regulator)`` expression at times evenly spaced from 0 to 10.
    """
    r = network.n_regulators
    W, gamma, bias = network.weights[:r], network.gamma[:r], network.bias[:r]
    n_factors = len(TRANSCRIPTION_FACTORS)
    # Trajectories run along memory: the layout a sparse product gives.
    x = np.ones((n_trajectories, r), order="F")
    x[:, :n_factors] = list(PROGENITOR.values())
    x[:, :n_factors] *= np.exp(_INITIAL_SPREAD * rng.standard_normal((n_trajectories, n_factors)))
    for _ in range(20):  # Further regulators start where these factors hold them.
        x[:, n_factors:] = (((W @ network.activation(x).T).T + bias) / gamma)[:, n_factors:]
        np.maximum(x, _LEAK, out=x)
    dt = _DURATION / ((_N_TIMES - 1) * _STEPS_PER_TIME)
    out = np.empty((_N_TIMES, n_trajectories, r), dtype=np.float32)
    for moment in range(_N_TIMES):
        out[moment] = x
        for _ in range(_STEPS_PER_TIME):
            drift = (W @ network.activation(x).T).T + bias - gamma * x
            x += dt * drift + noise * np.sqrt(dt * x) * rng.standard_normal(x.shape[::-1]).T
            np.maximum(x, _LEAK, out=x)
    return out


@dataclass(frozen=True)
class CellSampler:
    """Draws cells from integrated trajectories.

    Attributes
    ----------
    regulators, activation
        ``(state, regulator)``: every stored moment of every trajectory, and phi there.
    cluster, pseudotime
        ``(state,)``.
    targets, base
        Sparse ``(target, regulator)`` W / gamma, and ``(target,)`` I / gamma.
    spread
        ``(gene,)`` standard deviation of log expression that measurement adds.
    axes, offset
        ``(factor, 4)`` and ``(4,)``: both embeddings of log1p expression of the transcription factors.
    capture
        ``(gene,)``: an entry x stays with probability ``1 - exp(-capture x)``; None keeps all.
    """

    regulators: Float32
    activation: Float32
    cluster: npt.NDArray[np.int8]
    pseudotime: Array
    targets: Any
    base: Float32
    spread: Float32
    axes: Array
    offset: Array
    capture: Float32 | None = None

    @classmethod
    def of(cls, network: Network, zero_fraction: float, seed: int) -> CellSampler:
        """Integrate trajectories of `network` and calibrate the dropout."""
        r, n_genes, n_factors = network.n_regulators, len(network.genes), len(TRANSCRIPTION_FACTORS)
        n_trajectories = int(np.clip(_BANK_BYTES // (8 * _N_TIMES * r), 128, 512))
        moments = integrate_trajectories(network, n_trajectories, random_stream(seed, "trajectories"))
        states = moments.reshape(-1, r)
        activation = np.empty_like(states)
        for start in range(0, len(states), 1024):
            activation[start : start + 1024] = network.activation(states[start : start + 1024])
        target_gamma = network.gamma[r:]
        targets = network.weights[r:].copy()
        targets.data /= np.repeat(target_gamma, np.diff(targets.indptr))
        cluster = assign_clusters(moments).ravel()
        axes, offset = _embedding(np.log1p(states[:, :n_factors].astype(np.float64)), cluster)
        spread = random_stream(seed, "genes").uniform(0.15, 0.35, n_genes).astype(np.float32)
        spread[:n_factors] = 0.15
        sampler = cls(
            regulators=states,
            activation=activation,
            cluster=cluster,
            pseudotime=np.repeat(np.linspace(0.0, 1.0, _N_TIMES), n_trajectories),
            targets=targets.astype(np.float32),
            base=(network.bias[r:] / target_gamma).astype(np.float32),
            spread=spread,
            axes=axes,
            offset=offset,
        )
        return sampler if zero_fraction == 0 else sampler._calibrated(zero_fraction, seed)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.spread)

    def draw(self, n_cells: int, rng: np.random.Generator, *, out: Float32 | None = None) -> CellBlock:
        """Draw cells.

        Parameters
        ----------
        n_cells
            How many; another number draws others.
        rng
            Source of everything drawn.
        out
            ``(n_cells, gene)`` memory for the expression; new memory if None.

        Returns
        -------
        CellBlock
        """
        state = rng.integers(0, len(self.regulators), n_cells)
        batch = rng.integers(0, 2, n_cells, dtype=np.int8)
        x = np.empty((n_cells, self.n_genes), dtype=np.float32) if out is None else out
        embedding = np.empty((n_cells, 4), dtype=np.float32)
        draw = np.empty((min(n_cells, _STRIP), self.n_genes), dtype=np.float32)
        work, kept = np.empty_like(draw), np.empty(draw.shape, dtype=bool)
        _, exponential = _quantiles()
        n_factors = len(TRANSCRIPTION_FACTORS)
        for start in range(0, n_cells, _STRIP):
            own = x[start : start + _STRIP]
            a, b, c = (buffer[: len(own)] for buffer in (draw, work, kept))
            self._measure(state[start : start + _STRIP], rng, out=own, work=a)
            embedding[start : start + _STRIP] = np.log1p(own[:, :n_factors]) @ self.axes + self.offset
            if self.capture is not None:
                _fill(a, exponential, rng)
                np.multiply(own, self.capture, out=b)
                np.greater_equal(b, a, out=c)
                np.multiply(own, c, out=own)
        cluster, pseudotime = self.cluster[state], self.pseudotime[state]
        return CellBlock(x, cluster, pseudotime, batch, embedding[:, :2], embedding[:, 2:])

    def _measure(
        self, state: npt.NDArray[np.int64], rng: np.random.Generator, *, out: Float32, work: Float32
    ) -> None:
        """Fill `out` with expression of cells at the given states, with noise and before dropout."""
        r = self.regulators.shape[1]
        out[:, :r] = self.regulators[state]
        out[:, r:] = (self.targets @ self.activation[state].T).T
        out[:, r:] += self.base
        _fill(work, _quantiles()[0], rng)
        np.multiply(work, self.spread, out=work)
        np.exp(work, out=work)
        np.multiply(out, work, out=out)
        np.maximum(out, np.float32(_LEAK), out=out)

    def _calibrated(self, zero_fraction: float, seed: int) -> CellSampler:
        """Return a sampler whose factors, other regulators and targets each lose `zero_fraction`."""
        n_pilot = int(np.clip(_PILOT_ENTRIES // self.n_genes, 256, 4096))
        pilot = self.draw(n_pilot, random_stream(seed, "pilot")).expression
        bounds = (0, len(TRANSCRIPTION_FACTORS), self.regulators.shape[1], self.n_genes)
        capture = np.empty(self.n_genes, dtype=np.float32)
        for start, stop in pairwise(bounds):
            if start < stop:
                capture[start:stop] = _capture_rate(pilot[:, start:stop], zero_fraction)
        return replace(self, capture=capture)


@lru_cache(maxsize=1)
def _quantiles() -> tuple[Float32, Float32]:
    """Return 65,536 quantiles of the standard normal and of the standard exponential distribution.

    Drawing from them takes a quarter of the time of drawing numbers of full precision, and noise needs no
    more.
    """
    p = (np.arange(65_536) + 0.5) / 65_536
    return ndtri(p).astype(np.float32), (-np.log1p(-p)).astype(np.float32)


def _fill(out: Float32, quantiles: Float32, rng: np.random.Generator) -> None:
    """Fill `out` with numbers drawn from tabulated quantiles."""
    index = rng.integers(0, len(quantiles), size=out.shape, dtype=np.uint16)
    np.take(quantiles, index, out=out, mode="clip")


def _capture_rate(x: Float32, zero_fraction: float) -> float:
    """Return the rate c for which the mean of exp(-c x) is `zero_fraction`, by bisection on log c."""
    low, high = np.log(1e-4), np.log(1e6)
    for _ in range(40):
        middle = 0.5 * (low + high)
        if float(np.exp(-np.float32(np.exp(middle)) * x).mean(dtype=np.float64)) > zero_fraction:
            low = middle
        else:
            high = middle
    return float(np.exp(0.5 * (low + high)))


def _embedding(x: Array, cluster: npt.NDArray[np.int8]) -> tuple[Array, Array]:
    """Return the axes and offset of two principal components and of a least-squares fit to the tree."""
    center = x.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    principal = vectors[:, :-3:-1]
    principal = principal * np.sign(principal[np.abs(principal).argmax(axis=0), [0, 1]])
    goal = np.array([TREE[label] for label in CLUSTERS])[cluster]
    tree = np.linalg.lstsq(x - center, goal - goal.mean(axis=0))[0]
    axes = np.hstack([principal, tree])
    return axes, np.r_[0.0, 0.0, goal.mean(axis=0)] - center @ axes
