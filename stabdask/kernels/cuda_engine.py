"""A batch of matrices on a GPU: its arrays, and the launches that solve it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.kernels.cuda_launch import Index, Launch, Task, plan_launch, size_groups
from stabdask.kernels.cuda_modules import guarded, load_kernel
from stabdask.kernels.cuda_results import DeviceResults
from stabdask.kernels.device import Gpu

__all__ = ["ARGUMENTS", "Batch", "Source", "free_bytes"]

ARGUMENTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("entries", "shifts", "scales", "orders", "k", "wide"),
            *(
                "eigenvalues",
                "right",
                "left",
                "overlap",
                "residual",
                "trace_defect",
                "outcome",
                "width",
                "modes",
            ),
            *(
                "again",
                "members",
                "count",
                "queue",
                "largest",
                "shared_bytes",
                "workspace",
                "workspace_bytes",
            ),
        )
    ]
)
"""The argument of the kernel, passed by value: ``Arguments`` in ``lanes/device.cuh``, pointers as integers."""

_WORKSPACE_SHARE = 0.25
"""The share of the free memory that a workspace may take."""


@dataclass(frozen=True)
class Source:
    """The matrices of a batch on the device; see ``Source`` in ``lanes/team_source.hpp``.

    Attributes
    ----------
    entries
        ``(batch, k, k)``, or ``(k, k)`` weights where there are scales.
    sizes
        ``(batch,)`` orders, on the host.
    orders
        The same on the device.
    shifts, scales
        ``(k,)`` and ``(batch, k)``, or None.
    """

    entries: Any
    sizes: npt.NDArray[np.int64]
    orders: Any
    shifts: Any = None
    scales: Any = None

    def arguments(self) -> dict[str, int]:
        """Return what the kernel is told of it."""
        names = ("entries", "shifts", "scales", "orders")
        pointers = {name: _pointer(getattr(self, name)) for name in names}
        return pointers | {"k": self.entries.shape[-1], "wide": self.entries.dtype.itemsize == 8}


@dataclass(frozen=True)
class Batch:
    """A batch under way on the current stream of the current GPU."""

    cupy: Any
    gpu: Gpu
    source: Source
    out: DeviceResults
    precision: np.dtype[Any]

    def run(self) -> None:
        """Start all kernels; with vectors, wait for those that tell which matrices need more work."""
        first = Task.VALUES if self.out.right is None else Task.VECTORS
        with guarded(first.words, self.gpu):
            self._launch_groups(first, size_groups(self.source.sizes))
            if first == Task.VECTORS:
                marked = np.flatnonzero(self.out.again.get())
                self._launch_groups(Task.SCHUR, size_groups(self.source.sizes, marked))

    def _launch_groups(self, task: Task, groups: list[Index]) -> None:
        if not groups:
            return
        queues = self.cupy.zeros(len(groups), dtype=np.uint64)
        for number, members in enumerate(groups):
            largest = int(self.source.sizes[members[0]])
            launch = plan_launch(largest, task, self.precision, self.gpu.shared_memory_bytes)
            self._launch(launch, members, queues[number : number + 1])

    def _launch(self, launch: Launch, members: Index, queue: Any) -> None:
        kernel = load_kernel(self.precision, launch, self.gpu)
        budget = int(_WORKSPACE_SHARE * free_bytes(self.cupy))
        blocks = launch.blocks(len(members), kernel.resident_blocks(), budget)
        blocks, workspace = self._workspace(launch, blocks)
        listed, out = self.cupy.asarray(members), self.out
        told = {
            **self.source.arguments(),
            **{field.name: _pointer(getattr(out, field.name)) for field in fields(out)},
            "width": out.eigenvalues.shape[1],
            "modes": 0 if out.right is None else out.right.shape[1],
            "members": _pointer(listed),
            "count": len(members),
            "queue": _pointer(queue),
            "largest": launch.largest,
            "shared_bytes": launch.team_shared_bytes,
            "workspace": _pointer(workspace),
            "workspace_bytes": launch.team_workspace_bytes,
        }
        argument = np.zeros(1, dtype=ARGUMENTS)
        for name, value in told.items():
            argument[name] = value
        kernel.start(blocks, (argument,))

    def _workspace(self, launch: Launch, blocks: int) -> tuple[int, Any]:
        """Return a workspace and the number of blocks it is enough for, fewer where memory is short."""
        if not launch.team_workspace_bytes:
            return blocks, None
        while True:
            try:
                size = blocks * launch.teams * launch.team_workspace_bytes
                return blocks, self.cupy.empty(size, dtype=np.uint8)
            except MemoryError:
                self.cupy.get_default_memory_pool().free_all_blocks()
                if blocks == 1:
                    raise
                blocks //= 2


def _pointer(array: Any) -> int:
    """Return where an array of CuPy lies; 0 for None."""
    return 0 if array is None else int(array.data.ptr)


def free_bytes(cupy: Any) -> int:
    """Bytes that can be allocated: of the device, and those that CuPy keeps to hand out again."""
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())
