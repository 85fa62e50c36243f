"""A myeloid differentiation network as a Hopfield field: eleven transcription factors and genes they drive.

The transcription factors and the signs of their interactions are those of the Boolean model of Krumsiek,
Marr, Schroeder and Theis (2011), "Hierarchical differentiation of myeloid progenitors is encoded in the
transcription factor network", PLoS ONE 6(8): e22649:

======  ===================================  =========================================
symbol  name in the paper                    rule
======  ===================================  =========================================
GATA2   GATA-2                               GATA2 and not (GATA1 and ZFPM1), not SPI1
GATA1   GATA-1                               (GATA1 or GATA2 or FLI1) and not SPI1
ZFPM1   FOG-1                                GATA1
KLF1    EKLF                                 GATA1 and not FLI1
FLI1    Fli-1                                GATA1 and not KLF1
TAL1    SCL                                  GATA1 and not SPI1
CEBPA   C/EBPalpha                           CEBPA and not (GATA1 and ZFPM1 and TAL1)
SPI1    PU.1                                 (CEBPA or SPI1) and not (GATA1 or GATA2)
JUN     cJun                                 SPI1 and not GFI1
EGR1    EgrNab (Egr-1, -2 and Nab-2)         SPI1 and JUN and not GFI1
GFI1    Gfi-1                                CEBPA and not EGR1
======  ===================================  =========================================

The strengths are ours. They are chosen so that the four fates are stable fixed points with every level
positive (an inhibited gene rests at a small level because its bias balances its inhibitors), and so that the
progenitor sits near the thresholds of the toggles GATA1-SPI1, KLF1-FLI1 and EGR1-GFI1: noise decides.
A conjunction of regulators becomes a sum of weights that reaches the threshold only with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.special import expit

from stabdask.fields.base import Array
from stabdask.fields.hill import HillParameters
from stabdask.fields.hopfield import HopfieldCluster, HopfieldField

__all__ = [
    "CLUSTERS",
    "FATES",
    "PROGENITOR",
    "TRANSCRIPTION_FACTORS",
    "Network",
    "assign_clusters",
    "grow_network",
    "myeloid_network",
    "network_field",
]

_RULES: dict[str, tuple[float, dict[str, float]]] = {
    "GATA2": (0.80, {"GATA2": 0.75, "GATA1": -0.40, "ZFPM1": -0.36, "SPI1": -0.76}),
    "GATA1": (0.68, {"GATA1": 0.78, "GATA2": 0.22, "FLI1": 0.15, "SPI1": -0.62}),
    "ZFPM1": (0.04, {"GATA1": 1.35}),
    "KLF1": (0.06, {"GATA1": 1.60, "FLI1": -1.55}),
    "FLI1": (0.06, {"GATA1": 1.60, "KLF1": -1.55}),
    "TAL1": (0.45, {"GATA1": 1.00, "SPI1": -0.40}),
    "CEBPA": (0.92, {"CEBPA": 0.60, "GATA1": -0.35, "ZFPM1": -0.25, "TAL1": -0.25}),
    "SPI1": (0.66, {"CEBPA": 0.30, "SPI1": 0.52, "GATA1": -0.60, "GATA2": -0.20}),
    "JUN": (0.06, {"SPI1": 1.50, "GFI1": -1.45}),
    "EGR1": (0.05, {"SPI1": 0.75, "JUN": 0.80, "GFI1": -0.72}),
    "GFI1": (0.08, {"CEBPA": 1.50, "EGR1": -1.44}),
}
"""Bias and weights of each effector, in units of its gamma (so that they are levels of expression)."""

_SHAPES: dict[str, tuple[float, float, float]] = {
    "GATA2": (0.8, 0.60, 4.0),
    "GATA1": (1.0, 0.85, 6.0),
    "ZFPM1": (0.9, 0.70, 4.0),
    "KLF1": (1.1, 0.75, 4.0),
    "FLI1": (1.1, 0.75, 4.0),
    "TAL1": (0.9, 0.70, 4.0),
    "CEBPA": (0.8, 0.95, 5.0),
    "SPI1": (1.0, 0.70, 5.0),
    "JUN": (1.2, 0.75, 4.0),
    "EGR1": (1.2, 0.75, 4.0),
    "GFI1": (0.7, 0.88, 4.0),
}
"""Degradation rate, Hill threshold and Hill exponent of each transcription factor."""

TRANSCRIPTION_FACTORS: tuple[str, ...] = tuple(_RULES)
"""The eleven transcription factors, the first genes of every network made here."""

FATES: dict[str, tuple[str, ...]] = {
    "erythrocyte": ("GATA1", "ZFPM1", "KLF1", "TAL1"),
    "megakaryocyte": ("GATA1", "ZFPM1", "FLI1", "TAL1"),
    "monocyte": ("CEBPA", "SPI1", "JUN", "EGR1"),
    "granulocyte": ("CEBPA", "SPI1", "GFI1"),
}
"""The transcription factors that are on in each terminal cell type; all others are off."""

CLUSTERS: tuple[str, ...] = ("progenitor", "MEP", "GMP", *FATES)
"""Cell types: uncommitted, committed to one of two lineages, committed to one of four fates."""

PROGENITOR: dict[str, float] = {
    **dict.fromkeys(TRANSCRIPTION_FACTORS, 0.1),
    **{"GATA2": 1.2, "CEBPA": 1.3, "SPI1": 0.7, "GATA1": 0.7, "GFI1": 0.5, "EGR1": 0.4},
    **{"JUN": 0.3, "ZFPM1": 0.3, "TAL1": 0.3},
}
"""Expression from which differentiation starts."""

_TOGGLES = (("GATA1", "SPI1"), ("KLF1", "FLI1"), ("EGR1", "GFI1"))
_MARGIN = 0.9
"""Difference, in units of the thresholds, from which a toggle counts as decided."""

_TF_SHARE = 0.7
"""Chance that a regulator of a further gene is a transcription factor."""

_FEEDBACK = 0.5
"""Strength of further regulators upon each other: below 1, their loops alone cannot become unstable."""

_ONTO_TF = 0.03
"""Strength of further regulators upon transcription factors: seen in the spectra, too weak to move a fate."""

_WEIGHT_NOISE = 0.05


@dataclass(frozen=True)
class Network:
    """A regulatory network whose first genes are its regulators.

    Attributes
    ----------
    genes
        Names of all genes.
    weights
        Sparse ``(gene, regulator)``: W, effectors x regulators, in units of expression/time.
    gamma, bias
        ``(gene,)`` degradation rates (1/time) and I (expression/time).
    hill
        Activation of every gene.
    """

    genes: tuple[str, ...]
    weights: Any
    gamma: Array
    bias: Array
    hill: HillParameters

    @property
    def n_regulators(self) -> int:
        """Number of regulators."""
        return int(self.weights.shape[1])

    def activation(self, x: npt.NDArray[Any]) -> Array:
        """Return phi at the expression of the regulators, ``(cell, regulator)``, which must be positive."""
        own = self.hill.take(np.arange(self.n_regulators))
        log_x = np.log(x)
        phi = np.asarray(expit(own.exponent * (log_x - np.log(own.threshold))))
        two = np.flatnonzero(own.mix < 1)
        if len(two):
            k, n = own.take(two).branch(x[:, two])
            phi[:, two] = expit(n * (log_x[:, two] - np.log(k)))
        return phi


def myeloid_network() -> Network:
    """Return the network of the eleven transcription factors alone.

    Examples
    --------
    >>> network = myeloid_network()
    >>> network.genes[:4], network.n_regulators
    (('GATA2', 'GATA1', 'ZFPM1', 'KLF1'), 11)
    >>> spi1, gata1 = network.genes.index("SPI1"), network.genes.index("GATA1")
    >>> network.weights.toarray()[spi1, gata1] < 0
    np.True_
    """
    names = TRANSCRIPTION_FACTORS
    gamma, threshold, exponent = np.array([_SHAPES[name] for name in names]).T
    edges = [(i, names.index(j), w) for i, name in enumerate(names) for j, w in _RULES[name][1].items()]
    rows, columns, values = (np.array(column) for column in zip(*edges, strict=True))
    return Network(
        genes=names,
        weights=coo_array((values * gamma[rows], (rows, columns)), shape=(len(names),) * 2).tocsr(),
        gamma=gamma,
        bias=gamma * np.array([_RULES[name][0] for name in names]),
        hill=HillParameters.single(threshold, exponent),
    )


def grow_network(n_genes: int, n_regulators: int, rng: np.random.Generator) -> Network:
    """Return the myeloid network with further regulators and target genes.

    Every further gene has one to six regulators, most of them transcription factors, and a bias that keeps
    its steady state positive. Genes from 11 to `n_regulators` regulate too: each other at half strength, the
    transcription factors weakly (three of them at most upon each), and other genes. About 30 % of them have a
    two-component activation.

    Parameters
    ----------
    n_genes, n_regulators
        ``11 <= n_regulators <= n_genes``.
    rng
        Source of the edges and parameters of the further genes.

    Returns
    -------
    Network
        Genes in the order: transcription factors, further regulators, targets.
    """
    core = myeloid_network()
    n_tf, n_further = len(core.genes), n_genes - len(core.genes)
    if n_further == 0:
        return core
    gamma = np.exp(rng.uniform(np.log(0.35), np.log(2.0), n_further))
    level = rng.lognormal(0.0, 0.3, n_further)
    effectors, regulators = _edges_of_further_genes(n_tf, n_regulators, n_genes, rng)
    share = rng.uniform(0.5, 1.0, len(effectors))
    share /= np.bincount(effectors - n_tf, weights=share, minlength=n_further)[effectors - n_tf]
    strength = np.where((regulators >= n_tf) & (effectors < n_regulators), _FEEDBACK, 1.0)
    sign = np.where(rng.random(len(effectors)) < 0.65, 1.0, -1.0)
    weights = sign * strength * share * (gamma * level)[effectors - n_tf]
    # The bias carries the full load of the repressors, so that the steady state stays above the basal level.
    basal = gamma * level * rng.uniform(0.04, 0.12, n_further)
    load = np.bincount(effectors - n_tf, weights=np.minimum(weights, 0.0), minlength=n_further)

    onto, by, feedback = _edges_onto_factors(core, n_regulators, rng)
    inner = core.weights.tocoo()
    values = np.r_[inner.data, weights, feedback]
    edges = (np.r_[inner.row, effectors, onto], np.r_[inner.col, regulators, by])
    W = coo_array((values, edges), shape=(n_genes, n_regulators)).tocsr()
    tf_bias = core.bias - 0.5 * np.bincount(onto, weights=feedback, minlength=n_tf)
    return Network(
        genes=(
            *core.genes,
            *(f"REG{i:05d}" for i in range(1, n_regulators - n_tf + 1)),
            *(f"GENE{i:05d}" for i in range(1, n_genes - n_regulators + 1)),
        ),
        weights=W,
        gamma=np.r_[core.gamma, gamma],
        bias=np.r_[tf_bias, basal - load],
        hill=_hill_of_further_genes(core.hill, level, n_regulators - n_tf, rng),
    )


def _edges_of_further_genes(
    n_tf: int, n_regulators: int, n_genes: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Draw effectors and regulators of the edges upon all genes but the transcription factors."""
    effectors = np.repeat(np.arange(n_tf, n_genes), rng.integers(1, 7, n_genes - n_tf))
    factor = rng.integers(0, n_tf, len(effectors))
    further = rng.integers(n_tf, max(n_regulators, n_tf + 1), len(effectors))
    use_factor = (rng.random(len(effectors)) < _TF_SHARE) | (further == effectors) | (n_regulators == n_tf)
    pairs = np.unique(effectors * n_regulators + np.where(use_factor, factor, further))
    idle = np.setdiff1d(np.arange(n_tf, n_regulators), pairs % n_regulators)
    if n_genes - n_tf > 1:
        # Every further regulator regulates something: the gene drawn is never itself.
        other = n_tf + (idle - n_tf + rng.integers(1, n_genes - n_tf, len(idle))) % (n_genes - n_tf)
        pairs = np.union1d(pairs, other * n_regulators + idle)
    return pairs // n_regulators, pairs % n_regulators


def _edges_onto_factors(
    core: Network, n_regulators: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
    """Draw effectors, regulators and weights of the weak edges from further regulators to factors."""
    n_tf = len(core.genes)
    n_each = min(3, n_regulators - n_tf)
    onto = np.repeat(np.arange(n_tf), n_each)
    drawn = [rng.choice(np.arange(n_tf, n_regulators), n_each, replace=False) for _ in range(n_tf)]
    by = np.concatenate(drawn).astype(np.intp)
    return onto, by, core.gamma[onto] * _ONTO_TF * rng.choice([-1.0, 1.0], len(onto))


def _hill_of_further_genes(
    core: HillParameters, level: Array, n_extra: int, rng: np.random.Generator
) -> HillParameters:
    """Draw activations with thresholds near the middle of each gene's range."""
    n = len(level)
    threshold, exponent = level * rng.uniform(0.4, 0.6, n), rng.uniform(2.0, 4.0, n)
    threshold2, exponent2 = threshold * rng.uniform(1.5, 2.2, n), rng.uniform(2.0, 5.0, n)
    two = (rng.random(n) < 0.3) & (np.arange(n) < n_extra)
    return HillParameters(
        np.r_[core.threshold, threshold],
        np.r_[core.exponent, exponent],
        np.r_[core.threshold2, np.where(two, threshold2, threshold)],
        np.r_[core.exponent2, np.where(two, exponent2, exponent)],
        np.r_[core.mix, np.where(two, rng.uniform(0.3, 0.7, n), 1.0)],
    )


def network_field(network: Network, clusters: tuple[str, ...], rng: np.random.Generator) -> HopfieldField:
    """Return a field with one W per cluster: the network's, with 5 % noise on each weight.

    Parameters
    ----------
    network
        The network all clusters share.
    clusters
        Cluster labels.
    rng
        Source of the noise that makes the weights of the clusters differ, as separate fits do.

    Returns
    -------
    HopfieldField
    """
    parameters = {}
    for label in clusters:
        own = network.weights.copy()
        own.data = own.data * (1.0 + _WEIGHT_NOISE * rng.standard_normal(len(own.data)))
        parameters[label] = HopfieldCluster(
            regulators=np.arange(network.n_regulators),
            weights=own.astype(np.float32).toarray(),
            gamma=network.gamma,
            bias=network.bias,
            hill=network.hill,
        )
    return HopfieldField(network.genes, parameters)


def assign_clusters(trajectories: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return the cell type at every point of some trajectories, as a position in `CLUSTERS`.

    A cell is a progenitor until the toggle GATA1-SPI1 is decided for good, then MEP (GATA1) or GMP (SPI1)
    until the toggle of that lineage is, then what it becomes.

    Parameters
    ----------
    trajectories
        ``(time, trajectory, regulator)`` expression, the transcription factors first.

    Returns
    -------
    numpy.ndarray
        ``(time, trajectory)``.
    """
    at = [[TRANSCRIPTION_FACTORS.index(name) for name in pair] for pair in _TOGGLES]
    threshold = np.array([_SHAPES[name][1] for name in TRANSCRIPTION_FACTORS])
    lead = [trajectories[..., a] / threshold[a] - trajectories[..., b] / threshold[b] for a, b in at]
    time = np.arange(len(trajectories))[:, None]
    open_until = [np.where(np.abs(d) < _MARGIN, time, -1).max(axis=0) for d in lead]
    erythroid = lead[0][-1] > 0
    lineage = np.where(erythroid, 1, 2)
    fate = np.where(erythroid, np.where(lead[1][-1] > 0, 3, 4), np.where(lead[2][-1] > 0, 5, 6))
    second = np.maximum(open_until[0], np.where(erythroid, open_until[1], open_until[2]))
    return np.where(time <= open_until[0], 0, np.where(time <= second, lineage, fate)).astype(np.int8)
