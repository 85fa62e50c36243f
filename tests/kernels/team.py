"""The GPU's solver on threads of this CPU (team.cpp): compile it, run it, give its results as a backend would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stabdask.kernels.results import EigResult, Results, Vectors

__all__ = ["SCALED", "Team", "TeamRun", "compile_team"]

Array = np.ndarray[Any, Any]

_LANES = Path(__file__).parents[2] / "stabdask" / "kernels" / "lanes"
_FLAGS = ("-std=c++20", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
_SECONDS = 200

SCALED = tuple[Array, Array, Array]
"""Weights ``(r, r)``, shifts ``(r,)`` and scales ``(batch, r)`` of matrices W[R, R] diag(s_R) - diag(g_R)."""


def compile_team(folder: Path, *flags: str) -> Path:
    """Compile team.cpp, or skip the test where nothing compiles C++20."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("neither g++ nor clang++ is here to compile the GPU's solver for this CPU")
    program = folder / "team"
    source = Path(__file__).with_name("team.cpp")
    command = [compiler, *_FLAGS, *flags, f"-I{_LANES}", str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode and "c++20" in done.stderr:
        pytest.skip(f"{compiler} knows no C++20")
    assert done.returncode == 0, done.stderr
    return program


@dataclass(frozen=True)
class TeamRun:
    """What one run gave: the result, and which matrices were solved a second time."""

    result: EigResult
    again: Array
    raw: Results


@dataclass(frozen=True)
class Team:
    """A compiled team.cpp and a folder for its files."""

    program: Path
    folder: Path

    @cached_property
    def needs(self) -> Array:
        """Rows of order, task, numbers, other numbers, integers."""
        text = self._run("needs", "400").stdout
        return np.array([line.split() for line in text.splitlines()], dtype=np.int64)

    def solve(
        self,
        cores: Array | SCALED,
        *,
        sizes: Array | None = None,
        listed: Sequence[int] | None = None,
        modes: int | None = None,
        vectors: Vectors = "none",
        dtype: str = "float64",
        threads: int = 4,
        teams: int = 1,
        flush: bool = False,
    ) -> TeamRun:
        """Solve as `stabdask.kernels.eig.eig` does; of `listed` matrices only, if given."""
        arrays, batch, k, sizes = _source(cores, sizes)
        width = int(sizes.max(initial=0)) if len(arrays) > 1 else k
        wanted = width if modes is None else min(modes, width)
        out = Results(batch, width, wanted, vectors, np.dtype(dtype))
        rows = np.arange(batch) if listed is None else np.asarray(listed)
        numbers = [np.dtype(dtype).itemsize, arrays[0].itemsize, threads, teams, batch, len(rows), k, width]
        flags = [len(arrays) > 1, vectors != "none", vectors == "both", flush]
        header = np.array([*numbers, wanted, *flags], dtype=np.int64)
        given, made = self.folder / "given", self.folder / "made"
        parts = (header, sizes.astype(np.int64), rows.astype(np.int64), *arrays)
        given.write_bytes(b"".join(part.tobytes() for part in parts))
        self._run(str(given), str(made))
        again = np.zeros(batch, dtype=np.uint8)
        data = made.read_bytes()
        outputs = (
            out.eigenvalues,
            out.right,
            out.left,
            out.overlap,
            out.residual,
            out.trace_defect,
            out.outcome,
        )
        for array in (*outputs, again):
            if array is not None:
                array.reshape(-1)[:] = np.frombuffer(data, dtype=array.dtype, count=array.size)
                data = data[array.nbytes :]
        assert not data
        return TeamRun(out.finish(sizes, "team"), again, out)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.program), *words], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        assert done.returncode == 0, done.stderr[:5000]
        return done


def _source(cores: Array | SCALED, sizes: Array | None) -> tuple[list[Array], int, int, Array]:
    """Return the arrays of a source as they are written to file, their batch, their k and the orders."""
    if isinstance(cores, tuple):
        weights, shifts, scales = (np.ascontiguousarray(part, dtype=np.float64) for part in cores)
        return [weights, shifts, scales], len(scales), len(weights), (scales != 0).sum(axis=1)
    dense = np.ascontiguousarray(cores)
    batch, k, _ = dense.shape
    return [dense], batch, k, np.full(batch, k) if sizes is None else np.asarray(sizes)
