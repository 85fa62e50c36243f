"""Which partitions a call computes: all of them, some by number, or the share of one of several tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stabdask.errors import UsageError

__all__ = ["Partitions", "Share", "chosen_partitions", "format_numbers", "parse_numbers"]


@dataclass(frozen=True)
class Share:
    """The partitions of one of several tasks that together compute all of them, each as many as any other or one more.

    Attributes
    ----------
    task
        Number of the task, from 0.
    n_tasks
        How many tasks there are. With more tasks than partitions, some have nothing to do.

    Examples
    --------
    >>> [list(Share(task, 3).of(10)) for task in range(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """

    task: int
    n_tasks: int

    def __post_init__(self) -> None:
        if self.n_tasks < 1:
            raise UsageError(f"n_tasks={self.n_tasks}; expected at least 1")
        if not 0 <= self.task < self.n_tasks:
            raise UsageError(
                f"task {self.task} of {self.n_tasks} does not exist; expected 0 to {self.n_tasks - 1} "
                "(--task-base 1 where tasks are numbered from 1)"
            )

    def of(self, n_partitions: int) -> range:
        """Return the partitions of this task."""
        return range(self.task * n_partitions // self.n_tasks, (self.task + 1) * n_partitions // self.n_tasks)


Partitions = Sequence[int] | Share | None
"""Which partitions to compute; all for None."""


def chosen_partitions(partitions: Partitions, n_partitions: int) -> list[int]:
    """Return the partitions to compute, each once, in the order given.

    Raises
    ------
    UsageError
        If one does not exist.
    """
    if partitions is None:
        return list(range(n_partitions))
    numbers = partitions.of(n_partitions) if isinstance(partitions, Share) else partitions
    order = list(dict.fromkeys(int(number) for number in numbers))
    wrong = [number for number in order if not 0 <= number < n_partitions]
    if wrong:
        raise UsageError(f"partition {wrong[0]} does not exist; expected 0 to {n_partitions - 1}")
    return order


def parse_numbers(text: str) -> list[int]:
    """Return the numbers in e.g. ``3``, ``0-9`` or ``0-9,12``.

    Raises
    ------
    UsageError
        If it is none of these.

    Examples
    --------
    >>> parse_numbers("0-3,7")
    [0, 1, 2, 3, 7]
    """
    numbers: list[int] = []
    for item in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", item)
        if found is None:
            raise UsageError(f"{text!r} names no partitions; expected e.g. 3, 0-9 or 0-9,12")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if last < first:
            raise UsageError(f"{item.strip()!r} in {text!r} runs backwards; expected e.g. {last}-{first}")
        numbers.extend(range(first, last + 1))
    return numbers


def format_numbers(numbers: Iterable[int], most: int = 20) -> str:
    """Return numbers as `parse_numbers` reads them, at most `most` runs of them and then how many more there are.

    Examples
    --------
    >>> format_numbers([7, 0, 1, 2, 3]), format_numbers([1, 3, 5], most=2)
    ('0-3,7', '1,3 and 1 more')
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ",".join("-".join(map(str, run)) for run in runs[:most])
    more = sum(run[-1] - run[0] + 1 for run in runs[most:])
    return f"{shown} and {more:,} more" if more else shown
