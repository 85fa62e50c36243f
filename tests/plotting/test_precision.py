"""Figures of networks: what is drawn is what was given, and what cannot be drawn is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stabdask as sd
from stabdask.errors import InputError, UsageError


def correlations(seed: int, n: int = 30) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    A = np.random.default_rng(seed).normal(size=(2 * n, n))
    return sd.network.partial_correlations(np.linalg.inv(A.T @ A))


def test_pairs_are_counted(tmp_path: Path) -> None:
    one, other = correlations(0), correlations(1)
    ax = sd.pl.partial_correlations(one, other, threshold=0.2, save=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]
    for patch in ax.patches:
        heights = patch.get_xy()[:, 1]
        assert heights[1:-1:2].sum() == 30 * 29 / 2
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-0.2, 0.2]
    assert sd.pl.partial_correlations(one).get_legend() is None


def test_changes_are_drawn_from_before_to_after(tmp_path: Path) -> None:
    one, other = correlations(0), correlations(1)
    table = sd.network.compare(one, other, 12)
    ax = sd.pl.edge_changes(table, top=5, save=tmp_path / "c.svg")
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{a} – {b}" for a, b in zip(table["gene_a"][:5], table["gene_b"][:5], strict=True)
    ]
    for bar, (_, row) in zip(ax.patches, table.iterrows(), strict=False):
        np.testing.assert_allclose(
            sorted([bar.get_x(), bar.get_x() + bar.get_width()]), sorted([row["before"], row["after"]])
        )
    assert ax.get_title(loc="left") == "the 5 edges that changed most"
    # No circle or disk is cut by the frame.
    low, high = ax.get_xlim()
    both = table[["before", "after"]][:5].to_numpy()
    assert low < both.min() - 0.02 * (high - low)
    assert high > both.max() + 0.02 * (high - low)


def test_two_conditions_have_their_names() -> None:
    one, other = correlations(0), correlations(1)
    figures = [
        sd.pl.partial_correlations(one, other, labels=("con$trol$", "knockout")),
        sd.pl.edge_changes(sd.network.compare(one, other, 12), labels=("con$trol$", "knockout")),
    ]
    for ax in figures:
        texts = ax.get_legend().get_texts()
        assert [text.get_text() for text in texts] == ["con$trol$", "knockout"]
        assert not any(text.get_parse_math() for text in texts)


def test_names_are_not_taken_for_mathematics() -> None:
    one, other = correlations(0, 3), correlations(1, 3)
    ax = sd.pl.edge_changes(sd.network.compare(one, other, 2, genes=["a$b$", "<c>", "$d"]))
    ax.figure.canvas.draw()
    assert not any(label.get_parse_math() for label in ax.get_yticklabels())


def test_what_is_refused() -> None:
    one = correlations(0)
    with pytest.raises(InputError, match="different numbers"):
        sd.pl.partial_correlations(one, correlations(1, 20))
    with pytest.raises(InputError, match="shape"):
        sd.pl.partial_correlations(one[:3])
    with pytest.raises(InputError, match="not finite"):
        sd.pl.partial_correlations(np.full((3, 3), np.nan))
    with pytest.raises(UsageError, match="bins=0"):
        sd.pl.partial_correlations(one, bins=0)
    with pytest.raises(InputError, match="lacks before"):
        sd.pl.edge_changes(pd.DataFrame({"gene_a": ["a"], "gene_b": ["b"], "after": [1.0], "change": [1.0]}))
    table = sd.network.compare(one, correlations(1), 3)
    with pytest.raises(InputError, match="no rows"):
        sd.pl.edge_changes(table.head(0))
    with pytest.raises(UsageError, match="top=0"):
        sd.pl.edge_changes(table, top=0)
