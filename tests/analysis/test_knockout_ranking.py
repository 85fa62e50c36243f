"""Ranked knockouts: means, fractions and order worked out cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
from random_atlas import random_atlas

import stabdask as sd
from stabdask.errors import MissingKeyError, UsageError


def test_figures_are_those_of_the_cells() -> None:
    atlas = random_atlas(5, n_cells=30, n_genes=8, n_regulators=5, broken=(2,), unlabelled=(9,))
    ds = sd.knockouts(atlas.cells(), atlas.field)
    table = sd.rank_knockouts(ds)
    assert len(table) == 2 * ds.sizes["knockout"]
    assert table.attrs["n_failed"] == 2
    changed = 0
    for label in "AB":
        rows = table[table["cluster"] == label]
        assert (np.diff(rows["mean_shift"]) >= 0).all()
        own = np.flatnonzero([one == label for one in atlas.labels] & atlas.good)
        for row in rows.itertuples():
            shifts, stable, unstable, change = [], [], [], []
            for cell in own:
                J = atlas.jacobian(int(cell))
                g = atlas.field.genes.tolist().index(row.knockout)
                before = np.linalg.eigvals(J)
                after = np.linalg.eigvals(np.delete(np.delete(J, g, 0), g, 1))
                shifts.append(after.real.max() - before.real.max())
                n_before, n_after = (before.real > 0).sum(), (after.real > 0).sum()
                stable.append(n_before > 0 and n_after == 0)
                unstable.append(n_before == 0 and n_after > 0)
                change.append(n_after - n_before)
            assert row.mean_shift == pytest.approx(np.mean(shifts), abs=1e-9)
            assert row.median_shift == pytest.approx(np.median(shifts), abs=1e-9)
            assert row.stabilized == pytest.approx(np.mean(stable))
            assert row.destabilized == pytest.approx(np.mean(unstable))
            assert row.unstable_change == pytest.approx(np.mean(change))
            assert row.predicted_shift == pytest.approx(
                float(ds["predicted_shift"].isel(cell=own).sel(knockout=row.knockout).mean())
            )
            assert row.n_cells == len(own)
            changed += row.stabilized > 0
    assert changed


def test_screened_knockouts_come_last_with_their_prediction() -> None:
    atlas = random_atlas(5, n_cells=20, n_genes=8, n_regulators=6)
    ds = sd.knockouts(atlas.cells(), atlas.field, screen=2)
    table = sd.rank_knockouts(ds)
    for _, rows in table.groupby("cluster"):
        assert rows["mean_shift"].notna().tolist() == [True] * 2 + [False] * (len(rows) - 2)
        assert rows["predicted_shift"].notna().all()
        assert (rows["n_cells"] == 10).all()
        assert rows["stabilized"].isna().tolist() == rows["mean_shift"].isna().tolist()


def test_ends() -> None:
    atlas = random_atlas(5, n_cells=20, n_genes=8, n_regulators=6)
    ds = sd.knockouts(atlas.cells(), atlas.field)
    whole, ends = sd.rank_knockouts(ds), sd.rank_knockouts(ds, top=1)
    for label, rows in ends.groupby("cluster"):
        shifts = whole[whole["cluster"] == label]["mean_shift"]
        expected = [value for value in (shifts.min(),) if value < 0]
        expected += [value for value in (shifts.max(),) if value > 0]
        assert rows["mean_shift"].tolist() == expected
    assert len(ends) >= 2


def test_other_labels_and_selections() -> None:
    atlas = random_atlas(5, n_cells=20, n_genes=8, n_regulators=6)
    ds = sd.knockouts(atlas.cells(), atlas.field)
    ds = ds.assign_coords(batch=("cell", np.resize(np.array(["x", "y", "z"], dtype=object), 20)))
    table = sd.rank_knockouts(ds, by=["cluster", "batch"])
    assert table.columns[:3].tolist() == ["cluster", "batch", "knockout"]
    one = ds.isel(cell=[i for i in range(20) if i % 3 == 1 and i % 2 == 0])
    name = ds["knockout"].values[2]
    row = table[(table["cluster"] == "A") & (table["batch"] == "y") & (table["knockout"] == name)]
    expected = float((one["knockout_abscissa"].sel(knockout=name) - one["abscissa"]).mean())
    assert row["mean_shift"].item() == pytest.approx(expected)
    # One knockout, and no cell at all.
    single = sd.rank_knockouts(ds.isel(knockout=2), by="batch")
    assert single["knockout"].tolist() == [name] * 3
    assert sd.rank_knockouts(ds.isel(cell=[])).columns.tolist() == sd.rank_knockouts(ds).columns.tolist()


def test_what_makes_no_sense_is_refused() -> None:
    atlas = random_atlas(5, n_cells=4)
    ds = sd.knockouts(atlas.cells(), atlas.field)
    with pytest.raises(MissingKeyError, match="knockout_abscissa"):
        sd.rank_knockouts(sd.stability(atlas.cells(), atlas.field))
    with pytest.raises(MissingKeyError, match="no label 'clutser'"):
        sd.rank_knockouts(ds, by="clutser")
    with pytest.raises(UsageError, match="top=0"):
        sd.rank_knockouts(ds, top=0)
