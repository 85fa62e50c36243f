"""What became of a cell, and counts of that as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

__all__ = ["Status", "count_failed", "counts_text", "explained", "named_counts"]


class Status(IntEnum):
    """What became of one cell."""

    OK = 0
    NOT_CONVERGED = 1
    INACCURATE = 2
    NON_FINITE_INPUT = 3
    DEFECTIVE = 4
    NO_MODEL = 5
    SINGULAR = 6
    NOT_COMPUTED = 255

    @property
    def failed(self) -> bool:
        """Whether a cell with this status counts as failed in a report and in the exit code.

        A cell without a model was left out because the caller asked for that, and one not computed is still to
        come, so they do not.
        """
        return self not in (Status.OK, Status.NO_MODEL, Status.NOT_COMPUTED)


_EXPLAINED = {
    Status.NOT_CONVERGED: "not converged: the eigensolver did not find every eigenvalue; what needs them is NaN",
    Status.INACCURATE: "inaccurate: a residual is larger than it should be",
    Status.DEFECTIVE: "defective: an eigenvalue with too few eigenvectors; its vectors are missing, eigenvalues stand",
}


def explained(counts: Mapping[int, int]) -> list[str]:
    """Return what is behind each status of ``{status code: cells}`` whose name does not say it, a line each.

    Examples
    --------
    >>> explained({0: 1200, 3: 2})
    []
    """
    return [text for status, text in _EXPLAINED.items() if counts.get(status)]


def count_failed(counts: Mapping[int, int]) -> int:
    """Return how many cells of ``{status code: cells}`` count as failed."""
    return sum(n for code, n in counts.items() if Status(code).failed)


def named_counts(counts: Mapping[int, int]) -> dict[str, int]:
    """Return ``{status code: cells}`` by the names of the codes, for JSON."""
    return {Status(code).name.lower(): n for code, n in counts.items()}


def counts_text(counts: Mapping[int, int]) -> str:
    """Return ``{status code: cells}`` as people read it.

    Examples
    --------
    >>> counts_text({0: 1200, 3: 2})
    '1,200 ok, 2 without finite input or label'
    """
    words = {Status.NON_FINITE_INPUT.name.lower(): "without finite input or label"}
    return ", ".join(
        f"{n:,} {words.get(name, name.replace('_', ' '))}" for name, n in named_counts(counts).items()
    )
