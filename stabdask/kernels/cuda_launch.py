"""How batches of matrices are laid out on a GPU: teams of threads by order, memory, sizes of launches.

Arithmetic alone, so that it is tested where no GPU is. The figures of memory are those of ``Needs`` in
``lanes/team_solver.hpp`` and of the scratch in ``lanes/device.cuh``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SIZE_CLASSES", "Launch", "Needs", "SizeClass", "Task", "plan_launch", "size_groups"]

Index = npt.NDArray[np.int64]


class Task(IntEnum):
    """What a kernel computes, by the numbers of ``Task`` in ``lanes/team_solver.hpp``."""

    VALUES = 0
    VECTORS = 1
    SCHUR = 2

    @property
    def words(self) -> str:
        """The task as messages name it."""
        return {0: "eigenvalues", 1: "eigenvectors", 2: "eigenvectors from Schur forms"}[int(self)]


@dataclass(frozen=True)
class SizeClass:
    """Matrices that are launched together.

    Attributes
    ----------
    largest
        The largest order among them.
    threads
        Threads of the team that solves one.
    """

    largest: int
    threads: int


def _size_classes() -> Iterator[SizeClass]:
    """Give the table of classes.

    The number of threads decides the order of sums, and so the last bits of a result: it depends on the order of a
    matrix and on nothing else. What a launch costs in memory is decided by its largest matrix, and memory decides
    how many matrices a multiprocessor holds at once: hence steps finer than the number of threads asks for.

    - Up to 32 a warp: a thread for each column, and no barrier of a block. Four warps make a block, because a
      multiprocessor holds more warps than blocks.
    - Up to 64 and 128, blocks of as many threads: the passes over a matrix give each thread a column, then a row;
      more threads would have nothing to do, and the sweeps between two passes occupy a single warp.
    - Beyond that 256: two or more columns a thread, and eight warps to hide the latency of memory, shared or not.
    """
    for threads, step, end in ((32, 8, 32), (64, 8, 64), (128, 16, 128), (256, 16, 256)):
        for largest in range(end // 2 + step if threads > 32 else step, end + 1, step):
            yield SizeClass(largest, threads)
    largest = 256
    while largest < 2**20:
        largest += largest // 4
        yield SizeClass(largest, 256)


SIZE_CLASSES = tuple(_size_classes())
"""In ascending order; the last is larger than any matrix that fits a GPU."""

_BOUNDS = np.array([c.largest for c in SIZE_CLASSES])
_WARP = 32
_WARPS_IN_BLOCK = 4
_SCRATCH_BYTES = 320  # kScratchBytes
_WORKSPACE_STEP = 256


@dataclass(frozen=True)
class Needs:
    """What a team needs for a matrix of order n: numbers and integers at hand, and other numbers."""

    n: int
    task: Task

    @property
    def cells(self) -> int:
        """Numbers of a matrix with a row and a column of zeros, its leading dimension odd."""
        return (self.n + 1) * ((self.n + 1) | 1)

    @property
    def numbers(self) -> int:
        """One matrix, and lists of n + 3 numbers."""
        return self.cells + (9 if self.task == Task.VALUES else 19) * (self.n + 3)

    @property
    def other_numbers(self) -> int:
        """The other matrices."""
        return {Task.VALUES: 0, Task.VECTORS: 2, Task.SCHUR: 3}[self.task] * self.cells

    @property
    def integers(self) -> int:
        """Four lists, and n rows of n bits."""
        return 4 * self.n + self.n * -(-self.n // 32)


@dataclass(frozen=True)
class Launch:
    """How matrices of one class are solved.

    Attributes
    ----------
    task
        What is computed.
    largest
        The largest order in this launch.
    team
        ``"WarpTeam"`` or ``"BlockTeam"``, of ``lanes/device.cuh``.
    in_shared
        Whether the matrix at work lies in shared memory, else in the workspace.
    threads, teams
        Of a block.
    team_shared_bytes, team_workspace_bytes
        Of one team.
    """

    task: Task
    largest: int
    team: str
    in_shared: bool
    threads: int
    teams: int
    team_shared_bytes: int
    team_workspace_bytes: int

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.teams * self.team_shared_bytes

    def blocks(self, n_matrices: int, resident: int, workspace_bytes: int) -> int:
        """Return the number of blocks to start: they take matrices from a queue until it is empty.

        Parameters
        ----------
        n_matrices
            How long the queue is.
        resident
            Blocks that the whole GPU holds at once: more would only wait.
        workspace_bytes
            The most the workspace of all teams may take.
        """
        wanted = min(-(-n_matrices // self.teams), resident)
        if self.team_workspace_bytes:
            wanted = min(wanted, workspace_bytes // (self.teams * self.team_workspace_bytes))
        return max(1, wanted)

    def __str__(self) -> str:
        where = "shared memory" if self.in_shared else "global memory"
        return (
            f"{self.task.words} of matrices of order up to {self.largest}, {self.threads} threads, in {where}"
        )


def plan_launch(
    largest: int, task: Task, dtype: npt.DTypeLike, shared_limit: int, *, in_shared: bool = True
) -> Launch:
    """Return how to solve matrices of orders up to `largest` that are of one class.

    Parameters
    ----------
    largest
        The largest order among them.
    task
        What to compute.
    dtype
        Of the arithmetic.
    shared_limit
        Bytes of shared memory that a block can opt in to on this GPU.
    in_shared
        Whether to keep the matrix at work in shared memory if it fits. Results have the same bits either way.
    """
    itemsize, needs = np.dtype(dtype).itemsize, Needs(largest, task)
    threads = SIZE_CLASSES[int(np.searchsorted(_BOUNDS, largest))].threads
    teams = _WARPS_IN_BLOCK if threads == _WARP else 1
    at_hand = itemsize * needs.numbers + 4 * needs.integers
    others = itemsize * needs.other_numbers
    shared = _round_up(_SCRATCH_BYTES + at_hand, 16)
    fits = in_shared and teams * shared <= shared_limit
    return Launch(
        task=task,
        largest=largest,
        team="WarpTeam" if threads == _WARP else "BlockTeam",
        in_shared=fits,
        threads=threads * teams,
        teams=teams,
        team_shared_bytes=shared if fits else _SCRATCH_BYTES,
        team_workspace_bytes=_round_up(others if fits else others + at_hand, _WORKSPACE_STEP),
    )


def size_groups(sizes: npt.NDArray[np.integer[Any]], members: Index | None = None) -> list[Index]:
    """Return the positions of `sizes`, or those of `members`, one array a class, the largest matrices first.

    Large matrices take longest: whoever starts them first waits least for the last one.
    """
    places = np.arange(len(sizes), dtype=np.int64) if members is None else members
    order = places[np.argsort(-sizes[places].astype(np.int64), kind="stable")]
    classes = np.searchsorted(_BOUNDS, sizes[order])
    cuts = np.flatnonzero(np.diff(classes)) + 1
    return [part for part in np.split(order, cuts) if len(part)]


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
