"""Fixed points on two axes: where they are, what their markers say, which cells lie beneath."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError
from stabdask.plotting.style import MISSING, PALETTE

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def fake(
    kinds: list[str], forms: list[str], inside: list[bool] | None, place: Array | None = None
) -> xr.Dataset:
    """Return a Dataset of fixed points of the cluster "one"; the last is of "two"."""
    n = len(kinds)
    data: dict[str, Any] = {
        "location": (
            ("fixed_point", "axis"),
            np.arange(3.0 * n).reshape(n, 3) / n if place is None else place,
            {"units": "expression"},
        ),
        "type": ("fixed_point", np.array(kinds, dtype=object)),
        "form": ("fixed_point", np.array(forms, dtype=object)),
    }
    if inside is not None:
        data["inside"] = ("fixed_point", np.array(inside, dtype=bool))
    coords = {
        "axis": ["A", "$B$", "C"],
        "cluster": ("fixed_point", np.array([*["one"] * (n - 1), "two"][:n], dtype=object)),
        "searched": ["one", "two", "three"],
    }
    return xr.Dataset(data, coords=coords)


def drawn(ax: Axes) -> list[tuple[str, bool, list[list[float]]]]:
    """Return color, whether hollow, and places of every collection that has points."""
    out = []
    for points in ax.collections:
        if len(points.get_offsets()) and points.get_zorder() == 4:
            face, edge = points.get_facecolor()[0], points.get_edgecolor()[0]
            hollow = to_hex(face) == "#ffffff"
            out.append((to_hex(edge if hollow else face), hollow, np.asarray(points.get_offsets()).tolist()))
    return out


def legend(ax: Axes) -> list[str]:
    shown = ax.get_legend()
    return [] if shown is None else [text.get_text() for text in shown.get_texts()]


def test_types_have_their_markers_at_their_places() -> None:
    kinds = ["attractor", "saddle", "repeller", "attractor", "non-hyperbolic"]
    fps = fake(kinds, ["node", "spiral", "node", "node", "node"], [True, True, False, False, True])
    ax = sd.pl.fixed_points(fps, axes=("C", "A"))
    xy = fps["location"].values[:, [2, 0]].tolist()
    blue, orange, red, pink = (to_hex(PALETTE[i]) for i in (0, 1, 3, 4))
    # From the bottom up: an attractor inside the data is never hidden.
    assert drawn(ax) == [
        (pink, False, [xy[4]]),
        (red, True, [xy[2]]),
        (orange, False, [xy[1]]),
        (blue, True, [xy[3]]),
        (blue, False, [xy[0]]),
    ]
    rings = [c for c in ax.collections if c.get_zorder() == 3 and len(c.get_offsets())]
    assert [np.asarray(ring.get_offsets()).tolist() for ring in rings] == [[xy[1]]]
    assert legend(ax) == ["attractor", "saddle", "repeller", "non-hyperbolic", "spiral", "outside the data"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("C (expression)", "A (expression)")
    shapes = {c.get_paths()[0].vertices.shape for c in ax.collections if c.get_zorder() == 4}
    assert len(shapes) > 1


def test_cells_lie_beneath() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (50, 3))
    x[4, 2] = np.nan
    fps = fake(["attractor"], ["node"], [True], np.array([[1.0, 1.0, 1.0]]))
    ax = sd.pl.fixed_points(fps, (0, 2), cells=x)
    cells = ax.collections[0]
    expected = np.delete(x, 4, axis=0)[:, [0, 2]]
    np.testing.assert_array_equal(np.asarray(cells.get_offsets()), expected)
    assert to_hex(cells.get_facecolor()[0]) == MISSING.lower()
    assert cells.get_rasterized()
    assert cells.get_zorder() < 3
    assert legend(ax) == ["attractor", "cells"]
    few = sd.pl.fixed_points(fps, (0, 2), cells=x, max_cells=10)
    assert len(few.collections[0].get_offsets()) == 10


def test_cells_of_an_atlas_by_name_and_cluster() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (40, 3))
    adata = anndata.AnnData(x)
    adata.var_names = ["C", "$B$", "A"]
    adata.obs["kind"] = ["one", "two"] * 20
    cells = sd.open_cells(adata, cluster_key="kind")
    fps = fake(["attractor", "saddle"], ["node", "node"], [True, True], np.ones((2, 3)))
    ax = sd.pl.fixed_points(fps, ("A", "$B$"), cells=cells, cluster="two")
    np.testing.assert_array_equal(np.asarray(ax.collections[0].get_offsets()), x[1::2][:, [2, 1]])
    assert legend(ax) == ["saddle", "cells"]
    # A name with dollar signs is no formula.
    assert not ax.yaxis.label.get_parse_math()
    empty = sd.pl.fixed_points(fps, cells=cells, cluster="three")
    assert empty.get_title(loc="left") == "no fixed points found"
    assert len(empty.collections[0].get_offsets()) == 40


def test_what_is_far_away_does_not_squeeze_the_cells() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (50, 3))
    place = np.array([[1.0, 1.0, 1.0], [1e6, 1.0, 1.0], [4.0, 1.0, 1.0]])
    ax = sd.pl.fixed_points(fake(["attractor"] * 3, ["node"] * 3, [True, False, False], place), cells=x)
    low, high = ax.get_xlim()
    assert -1.0 < low < 0.0
    assert 4.0 < high < 5.0
    places = [xy for _, _, some in drawn(ax) for xy in some]
    assert [high, 1.0] in places
    assert [4.0, 1.0] in places
    assert ax.get_title(loc="left") == "1 fixed point far beyond, at the edge"


def test_without_cells_and_without_points() -> None:
    ax = sd.pl.fixed_points(fake(["attractor"], ["node"], None))
    assert legend(ax) == ["attractor"]
    none = sd.pl.fixed_points(fake([], [], None, np.zeros((0, 3))))
    assert none.get_title(loc="left") == "no fixed points found"
    one = sd.pl.fixed_points(fake(["saddle", "saddle"], ["node"] * 2, None).isel(fixed_point=1))
    assert len(drawn(one)[0][2]) == 1
    figure, own = plt.subplots()
    assert sd.pl.fixed_points(fake(["attractor"], ["node"], None), ax=own) is own
    assert own.figure is figure


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    fps = fake(["attractor", "saddle"], ["node", "spiral"], [True, False])
    for name in ("a.png", "b.png"):
        sd.pl.fixed_points(fps, cells=np.random.default_rng(0).uniform(0, 3, (50, 3)), save=tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"axes": "AB"}, UsageError, "two numbers or names"),
        ({"axes": (0,)}, UsageError, "two numbers or names"),
        ({"axes": (0, 3)}, UsageError, "from 0 to 2"),
        ({"axes": ("A", "D")}, MissingKeyError, "no axis 'D'; axes present: 'A'"),
        ({"cluster": "tw"}, MissingKeyError, "did you mean 'two'"),
        ({"cells": np.zeros((4, 2))}, InputError, r"shape \(4, 2\); expected \(cells, 3\)"),
        ({"max_cells": 0}, UsageError, "max_cells=0"),
        ({"save": "x.txt"}, UsageError, "ends in"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sd.pl.fixed_points(fake(["attractor"], ["node"], None), **options)


def test_other_data_is_refused() -> None:
    with pytest.raises(MissingKeyError, match=r"stabdask\.fixed_points"):
        sd.pl.fixed_points(xr.Dataset())
    adata = anndata.AnnData(np.ones((4, 2)))
    adata.var_names = ["A", "X"]
    with pytest.raises(InputError, match="no gene"):
        sd.pl.fixed_points(fake(["attractor"], ["node"], None), cells=sd.open_cells(adata))
