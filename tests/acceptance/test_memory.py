"""The whole process tree stays within its budget, and the plan predicts what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree_memory import TreeMemory

import stabdask as sd


@pytest.mark.parametrize("vectors", ["none", "both"])
def test_process_tree_stays_within_the_plan(tmp_path: Path, vectors: str) -> None:
    n_cells = 3000 if vectors == "none" else 300
    atlas = sd.simulate_atlas(tmp_path, n_cells=n_cells, n_genes=1000, n_regulators=60, zero_fraction=0.4)
    cells = sd.open_cells(atlas.cells, layer=atlas.layer, cluster_key=atlas.cluster_key)
    plan = sd.plan(cells, sd.read_field(atlas.field), workers=2, memory="2GB", vectors=vectors)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "stabdask.cli.main", "run", str(atlas.cells), "--field", str(atlas.field),
            "--layer", atlas.layer, "--cluster-key", atlas.cluster_key, "--store", str(tmp_path / "out.zarr"),
            "--workers", "2", "--memory", "2GB", "--vectors", vectors, "--json", "--quiet", "--allow-failed", "1",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    watch = TreeMemory(process.pid)
    watch.start()
    output, _ = process.communicate()
    watch.stop()
    assert process.returncode == 0
    assert json.loads(output)["complete"]
    assert 200e6 < watch.peak <= plan.peak_bytes <= 2e9
