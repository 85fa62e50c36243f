"""Reads what has landed in the store of a run since the last look: new receipts, and results of their cells alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import StabdaskError
from stabdask.files import Place, open_group, place_of
from stabdask.live.model import Progressed, RunModel
from stabdask.live.told import Told
from stabdask.runs.job import RunSpec
from stabdask.runs.receipts import Receipt, receipt_folder, receipt_names, receipt_place
from stabdask.runs.store import read_spec

__all__ = ["StoreReader"]

_RESULTS = ("spectral_abscissa", "residual")
_MOST_RECEIPTS = 100
"""Read at a time: of a store with thousands the first numbers are shown before the last is read."""
_MOST_CELLS = 500_000
_MOST_SHOWN = 5
_TRIES = 3
_BROKEN_AGAIN_S = 30.0
"""How long a receipt that could not be read is left alone."""


class StoreReader:
    """Looks at the store of one run, and adds up what it finds.

    Whatever is wrong with the store becomes a sentence in `Progressed.problems`; nothing is raised. Sentences name the
    store and files in it, and kinds of errors, but not what these say: that may be about other files.

    Parameters
    ----------
    told
        What the client told of the run.
    clock
        Seconds, for when partitions landed.
    """

    def __init__(self, told: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self._told, self._clock = told, clock
        self._place: Place = place_of(told.store)
        self._spec: RunSpec | None = None
        self._reset()

    @property
    def in_bucket(self) -> bool:
        """Whether each look costs requests."""
        return self._place.local is None

    def _reset(self) -> None:
        self._model = RunModel(self._told.n_partitions, with_abscissa=False, with_residual=False)
        self._arrays: dict[str, Any] = {}
        self._codes: npt.NDArray[np.integer] = np.empty(0, np.int8)
        self._known: set[str] = set()
        self._broken: dict[str, tuple[float, str]] = {}
        # Partitions whose results could not be read, and how often that was tried.
        self._unread: dict[int, int] = {}
        self._trouble = ""

    def looks(self) -> Iterator[Progressed]:
        """Read all that is new, giving the numbers after each part of it, at least once."""
        begin = self._clock()
        try:
            fresh = self._fresh()
            self._add_all([number for number, tries in self._unread.items() if tries < _TRIES])
            while True:
                part = fresh[:_MOST_RECEIPTS]
                fresh = fresh[_MOST_RECEIPTS:]
                self._read(part)
                yield self._progressed(True, self._clock() - begin)
                if not fresh:
                    return
        except Exception as error:  # a damaged store can make readers raise anything
            problem = f"the scheduler cannot read the store at {self._told.store} ({_kind(error)})"
            visible = self._spec is not None
            if not visible:
                problem += "; partitions that workers are at are shown, results are not"
            yield self._progressed(visible, self._clock() - begin, problem)

    def _progressed(self, visible: bool | None, look_s: float, *problems: str) -> Progressed:
        broken = [text for _, text in self._broken.values()]
        more = len(broken) - _MOST_SHOWN
        found = [
            *problems,
            *broken[:_MOST_SHOWN],
            *([f"{more:,} more receipts cannot be read"] if more > 0 else []),
        ]
        if self._unread:
            found.append(
                f"results of {len(self._unread):,} finished partitions cannot be read ({self._trouble}); "
                "they are not in the figures of results"
            )
        if found and visible and (broken or self._unread):
            found.append("'stabdask verify' says what is damaged, and a run with --repair computes it again")
        spec = self._spec
        n_unread = 0 if spec is None else sum(np.ptp(spec.bounds(number)) for number in self._unread)
        return self._model.progressed(
            visible=visible, problems=found, n_unread=int(n_unread), look_s=round(look_s, 4)
        )

    def _fresh(self) -> list[str]:
        """Return the names of receipts not read yet."""
        if self._spec is None:
            self._open()
        names = receipt_names(self._place)
        gone = self._known - set(names)
        if gone or (not names and not self._place.exists()):
            # A store that was deleted, and perhaps made again.
            self._spec = None
            self._reset()
            self._open()
            names = receipt_names(self._place)
        now = self._clock()
        again = {name for name, (since, _) in self._broken.items() if now - since >= _BROKEN_AGAIN_S}
        return [
            name for name in names if name not in self._known and (name not in self._broken or name in again)
        ]

    def _open(self) -> None:
        spec = read_spec(self._place)
        if spec.fingerprint != self._told.fingerprint:
            raise _AnotherRunError
        group = open_group(self._place)
        codes = group["cluster_code"][...]
        names = set(spec.options.variables())
        arrays: dict[str, Any] = {name: group[name] for name in _RESULTS if name in names}
        self._spec = spec
        # The smallest integers that do: there may be ten million of them, in a process that others need.
        self._codes = codes.astype(np.int16 if len(spec.labels) < 2**15 else np.int32)
        self._arrays = arrays
        labelled = self._codes[self._codes >= 0]
        self._model = RunModel(
            spec.n_partitions,
            spec.labels,
            np.bincount(labelled, minlength=len(spec.labels)).tolist(),
            with_abscissa="spectral_abscissa" in arrays,
            with_residual="residual" in arrays,
            backend=spec.options.backend,
        )

    def _read(self, names: list[str]) -> None:
        """Read receipts, count them, and add the results of their cells."""
        receipts = []
        for name, found in self._receipts(names):
            if isinstance(found, Receipt):
                receipts.append(found)
                self._known.add(name)
                self._broken.pop(name, None)
            else:
                self._broken[name] = (self._clock(), f"receipt {name} cannot be read ({found})")
        self._model.land(receipts, self._clock())
        for receipt in receipts:
            self._unread[receipt.partition] = 0
        self._add_all([receipt.partition for receipt in receipts])

    def _add_all(self, numbers: list[int]) -> None:
        assert self._spec is not None
        most = max(1, _MOST_CELLS // self._spec.partition_cells)
        for span in _spans(sorted(numbers), most):
            self._add_results(span)

    def _receipts(self, names: list[str]) -> Iterator[tuple[str, Receipt | str]]:
        """Give each receipt, or what is wrong with it."""
        folder = receipt_folder(self._place)
        todo = list(names)
        while todo:
            documents = folder.read_many(list(todo))
            while todo:
                name = todo.pop(0)
                try:
                    yield name, self._checked(name, next(documents))
                except ConnectionError:
                    raise
                except (StabdaskError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                    yield name, _kind(error)
                    break  # what gives the documents may have ended with the error

    def _checked(self, name: str, data: bytes) -> Receipt:
        receipt = Receipt.from_json(data)
        spec = self._spec
        assert spec is not None
        if receipt.fingerprint != spec.fingerprint:
            raise _AnotherRunError
        number = receipt.partition
        cells = (receipt.start, receipt.stop)
        if (
            name != receipt_place(self._place, number).name
            or number >= spec.n_partitions
            or cells != spec.bounds(number)
        ):
            raise ValueError(name)
        return receipt

    def _add_results(self, numbers: list[int]) -> None:
        """Add the results of partitions that follow one another."""
        spec = self._spec
        assert spec is not None
        cells = slice(spec.bounds(numbers[0])[0], spec.bounds(numbers[-1])[1])
        try:
            values = {name: np.asarray(array[cells]) for name, array in self._arrays.items()}
        except ConnectionError:
            raise
        except Exception as error:  # of Zarr, its codecs, or the disk
            self._trouble = _kind(error)
            if len(numbers) > 1:
                # One damaged chunk is not to hide its neighbors.
                for number in numbers:
                    self._add_results([number])
                return
            self._unread[numbers[0]] += 1
            return
        self._model.add_values(self._codes[cells], values.get("spectral_abscissa"), values.get("residual"))
        for number in numbers:
            self._unread.pop(number, None)


class _AnotherRunError(ValueError):
    """What was read belongs to another run."""


def _kind(error: Exception) -> str:
    if isinstance(error, _AnotherRunError):
        return "it belongs to another run"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _spans(numbers: list[int], most: int) -> Iterator[list[int]]:
    """Give numbers that follow one another together, at most so many.

    Examples
    --------
    >>> list(_spans([0, 1, 2, 5, 6], 2))
    [[0, 1], [2], [5, 6]]
    """
    span: list[int] = []
    for number in numbers:
        if span and (number != span[-1] + 1 or len(span) == most):
            yield span
            span = []
        span.append(number)
    if span:
        yield span
