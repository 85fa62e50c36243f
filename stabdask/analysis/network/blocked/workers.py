"""Steps as Dask tasks: on threads of this process or on the workers of a cluster, so many at once and no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from stabdask.errors import UsageError
from stabdask.kernels.machine import cpu_count
from stabdask.kernels.threads import single_threaded_blas

__all__ = ["Step", "Workers", "slot"]

Key = TypeVar("Key", bound=Hashable)

_turn = threading.Condition()
_running = 0


@contextmanager
def slot(limit: int) -> Iterator[None]:
    """Wait until fewer than `limit` steps run in this process, and count as one of them."""
    global _running
    with _turn:
        while _running >= limit:
            _turn.wait()
        _running += 1
    try:
        yield
    finally:
        with _turn:
            _running -= 1
            _turn.notify_all()


class Step(NamedTuple):
    """What to call, and which steps come before it."""

    call: Callable[[], Any]
    after: tuple[Any, ...] = ()


class _Task:
    """A step in a slot, with BLAS on one thread: the same bits on any worker. Not a function, for names of tasks."""

    def __init__(self, call: Callable[[], Any], at_once: int) -> None:
        self.call, self.at_once = call, at_once

    def __call__(self, *_: Any) -> Any:
        with slot(self.at_once), single_threaded_blas():
            return self.call()


class Workers:
    """Where steps run.

    Parameters
    ----------
    client
        Client of a Dask cluster whose workers have the same file system, or None for threads of this process.
    at_once
        Most steps at once in each process, which bounds its memory.

    Raises
    ------
    UsageError
        If the client is asynchronous.
    """

    def __init__(self, client: Any, at_once: int) -> None:
        if client is not None and client.asynchronous:
            raise UsageError("the client is asynchronous; expected one made with asynchronous=False")
        self.client, self.at_once = client, at_once

    def n_steps(self, at_once: int | None = None) -> int:
        """Return how many steps run at the same time on all workers, with at most `at_once` in a process."""
        limit = self.at_once if at_once is None else at_once
        return sum(min(limit, threads) for threads in worker_threads(self.client))

    def run(self, steps: dict[Key, Step], *, at_once: int | None = None) -> dict[Key, Any]:
        """Run steps, each after those it names, and return what each gave.

        An error in one of them is raised when all that had begun have ended.
        """
        from dask.base import compute
        from dask.delayed import delayed

        limit = self.at_once if at_once is None else at_once
        tasks: dict[Any, Any] = {}
        for key, step in _in_order(steps):
            task = delayed(_Task(step.call, limit), pure=False, traverse=False)
            tasks[key] = task(*(tasks[before] for before in step.after))
        parts = [tasks[key] for key in steps]
        if self.client is not None:
            return dict(zip(steps, self.client.compute(parts, sync=True), strict=True))
        threads = min(limit, cpu_count())
        with ThreadPoolExecutor(threads) as pool:
            found = compute(*parts, scheduler="threads", pool=pool, num_workers=threads)
        return dict(zip(steps, found, strict=True))


def worker_threads(client: Any) -> list[int]:
    """Return the threads of each process that works."""
    if client is None:
        return [cpu_count()]
    return [int(n) for n in client.nthreads().values()] or [1]


def _in_order(steps: dict[Key, Step]) -> Iterable[tuple[Key, Step]]:
    """Yield steps so that each comes after those it names, as they were put in already."""
    done: set[Any] = set()
    for key, step in steps.items():
        assert done.issuperset(step.after), f"step {key} comes before one that it waits for"
        done.add(key)
        yield key, step
