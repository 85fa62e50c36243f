"""What tells two runs apart, in the words of whoever asked for them: for the message that refuses to mix them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stabdask.atlas.sampling import POSITION
from stabdask.runs.options import GROUPS, Options, default_modes
from stabdask.schema import DEFAULT_QUANTITIES

if TYPE_CHECKING:
    from stabdask.runs.job import RunSpec

__all__ = ["FILE_FACTS", "differences", "touch_hint"]

FILE_FACTS = ("bytes", "modified_ns")
"""Facts on files that stand in for content that is not hashed."""

_MOST_NAMES = 4
_IN_PYTHON = {"obs": "obs_keys", "embedding": "embeddings"}
_OF_SOLVER = ("spectrum", "vectors", "dtype", "backend", "tolerance", "residual_tolerance")
_OF_SIZE = (
    "spectrum",
    "modes",
    "vectors",
    "elements",
    "effectors",
    "regulators",
    "quantities",
    "dtype",
    "backend",
)
"""Options that the size of a partition follows from, unless it is given."""


def differences(there: RunSpec, here: RunSpec, *, command_line: bool = False) -> list[str]:
    """Return what differs between the run of a store and the one asked for, the causes first.

    What merely follows from another difference is left out.

    Parameters
    ----------
    there, here
        The run of the store, and the one asked for.
    command_line
        Whether options are to be called what they are on the command line, and not in Python.

    Returns
    -------
    list of str
        Empty only if there is no difference.
    """
    compared = _Compared(there, here, command_line)
    found = [*compared.inputs(), *compared.clusters(), *compared.options()]
    if not found and there.fingerprint != here.fingerprint:
        keys = ", ".join(sorted(_different(there, here)))
        found = [f"what was chosen for it ({keys}): it reads cells in other blocks, or by another stabdask"]
    return found


class _Compared:
    """Two runs, and which of the causes of differences were found so far."""

    def __init__(self, there: RunSpec, here: RunSpec, command_line: bool) -> None:
        self.there, self.here = there, here
        self.command_line = command_line
        self.other_field = there.field != here.field
        self.other_cells = any(
            there.cells.get(key) != here.cells.get(key) for key in ("names", "genes", "dtype")
        )
        self.other_genes = there.cells.get("genes") != here.cells.get("genes")
        sources = there.cells["sources"], here.cells["sources"]
        self.sources = list(zip(*sources, strict=True)) if len(sources[0]) == len(sources[1]) else []
        self.other_element = any(a.get("element") != b.get("element") for a, b in self.sources)

    def option(self, name: str) -> str:
        """Return what an option is called."""
        return f"--{name.replace('_', '-')}" if self.command_line else _IN_PYTHON.get(name, name)

    def inputs(self) -> Iterator[str]:
        """Yield what differs of the field and of the cells, but for their clusters."""
        if self.other_field:
            yield f"{self.option('field')}: another field, or one with other parameters"
        yield from self._places()
        there, here = self.there.cells, self.here.cells
        sampled = self._sampled()
        if sampled:
            yield sampled
        elif there.get("names") != here.get("names"):
            n = self.there.n_cells, self.here.n_cells
            numbers = f"{n[0]:,} there, {n[1]:,} here" if n[0] != n[1] else "other names, or another order"
            yield f"the cells are others: {numbers}"
        # On the command line the genes that are read are those of the field.
        if self.other_genes and not self.other_element and not (self.other_field and self.command_line):
            yield "the genes of the cells are others, or in another order"
        if there.get("dtype") != here.get("dtype") and not self.other_element:
            yield f"the expression of the cells has dtype {there.get('dtype')} there, {here.get('dtype')} here"
        if not (self.other_cells or self.other_element) and there.get("content") != here.get("content"):
            yield "the expression of the cells is another (content changed)"
        elif not self.other_cells and not self.other_element:
            yield from self._file_facts()
        yield from self._annotations()

    def _places(self) -> Iterator[str]:
        """Yield what part of the files is read that was not, or the reverse."""
        n = len(self.there.cells["sources"]), len(self.here.cells["sources"])
        if n[0] != n[1]:
            yield f"number of files of the atlas: {n[0]:,} there, {n[1]:,} here"
        for a, b in self.sources:
            if a.get("element") == b.get("element"):
                continue
            (option, key), (other, value) = self._element(a), self._element(b)
            if option != other:
                yield f"{option} {_shown(key)} there, {other} {_shown(value)} here"
            elif key != value:
                yield f"{option}: {_shown(key)} there, {_shown(value)} here"
            else:
                yield f"the cells come from {_kind(a)} there, from {_kind(b)} here"
            return

    def _element(self, source: dict[str, Any]) -> tuple[str, str | None]:
        """Return the option that chooses the matrix, and its value."""
        folder, _, key = str(source.get("element", "X")).rpartition("/")
        if folder == "obsm":
            return self.option("obsm"), key
        return self.option("layer"), None if not folder and key == "X" else key

    def _sampled(self) -> str:
        """Return what differs of a sample, if it is that which makes the cells others."""
        found = [spec.cells.get("annotations", {}).get(POSITION) for spec in (self.there, self.here)]
        if found[0] == found[1]:
            return ""
        numbers = [
            "none" if position is None else f"{spec.n_cells:,}"
            for position, spec in zip(found, (self.there, self.here), strict=True)
        ]
        head = self.option("sample") if self.command_line else "cells of stabdask.sample"
        if numbers[0] == numbers[1]:
            return f"{head}: {numbers[0]} there, other {numbers[1]} here (seed, method or basis)"
        return f"{head}: {numbers[0]} there, {numbers[1]} here"

    def _file_facts(self) -> Iterator[str]:
        """Yield how files differ of which only a sample is compared."""
        for a, b in self.sources:
            name = b.get("path") or "the atlas"
            facts = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
            facts -= {"path", "element", "cluster_key"}
            if "bytes" in facts:
                yield f"{name} has another size: {a.get('bytes'):,} bytes there, {b.get('bytes'):,} here"
            elif "modified_ns" in facts:
                yield f"{name} has another time of change"
            elif facts:
                yield f"what lies at {name} was written anew"

    def _annotations(self) -> Iterator[str]:
        """Yield what is brought along that was not, or the reverse, or has other values."""
        there, here = (spec.cells.get("annotations", {}) for spec in (self.there, self.here))
        same_cells = self.there.cells.get("names") == self.here.cells.get("names")
        for name in sorted((there.keys() | here.keys()) - {POSITION}):
            if there.get(name) == here.get(name):
                continue
            kind = str(here.get(name, there.get(name))).split()[0]
            option = self.option("embedding" if kind == "embedding" else "obs")
            if name in there and name in here:
                if same_cells:
                    yield f"{option}: {name!r} has other values"
            else:
                yield f"{option}: {name!r} {'here' if name in here else 'there'} alone"

    def clusters(self) -> Iterator[str]:
        """Yield what differs of the labels of cells, and of the clusters of the field that they stand for."""
        keys = [
            next((str(s["cluster_key"]) for s in spec.cells["sources"] if s.get("cluster_key")), None)
            for spec in (self.there, self.here)
        ]
        labels = [list(spec.labels) for spec in (self.there, self.here)]
        changed = self.there.cells.get("labels") != self.here.cells.get("labels") or labels[0] != labels[1]
        if keys[0] != keys[1]:
            yield f"{self.option('cluster_key')}: {_shown(keys[0])} there, {_shown(keys[1])} here"
        elif changed and self.there.cells.get("names") == self.here.cells.get("names"):
            yield f"the cells are in other clusters{_listed(*labels)}"
        elif not changed and not self.other_field and self.there.models != self.here.models:
            pairs = zip(labels[1], self.there.models, self.here.models, strict=True)
            label, a, b = next(pair for pair in pairs if pair[1] != pair[2])
            says = [
                f"left out {at}" if m is None else f"as {m!r} {at}" for m, at in ((a, "there"), (b, "here"))
            ]
            yield f"{self.option('missing_cluster')}: cells of {label!r} are {says[0]}, {says[1]}"

    def options(self) -> Iterator[str]:
        """Yield what differs of what is computed, and of partitions where that follows from nothing else."""
        there, here = self.there.options, self.here.options
        changed = {name for name in (*_OF_SIZE, *_OF_SOLVER) if getattr(there, name) != getattr(here, name)}
        for name in ("elements", "effectors", "regulators"):
            if name in changed:
                lists = _names(there, name), _names(here, name)
                yield f"{self.option(name)}{_listed(*lists) or ' in another order'}"
        if all(o.modes == default_modes(o.spectrum, o.vectors, o.solved_vectors) for o in (there, here)):
            changed -= {"modes"}
        own = self._quantities(there, here, changed) if "quantities" in changed else ()
        if any(own):
            yield f"{self.option('quantities')}: {_added_removed(*own)}"
        for name in ("spectrum", "modes", "vectors", "dtype", "backend", "tolerance", "residual_tolerance"):
            if name in changed:
                values = _shown(getattr(there, name)), _shown(getattr(here, name))
                yield f"{self.option(name)}: {values[0]} there, {values[1]} here"
        follows = self.other_field or self.other_cells or self.other_element or changed & set(_OF_SIZE)
        sizes = self.there.partition_cells, self.here.partition_cells
        if sizes[0] != sizes[1] and not follows:
            yield f"{self.option('partition_cells')}: {sizes[0]:,} there, {sizes[1]:,} here"

    def _quantities(self, there: Options, here: Options, changed: set[str]) -> tuple[list[str], ...]:
        """Return quantities that are here alone, and those that are there alone, as they are asked for."""
        follow: set[str] = set()
        if there.solved_vectors != here.solved_vectors:
            follow |= {"residual"}
        if changed & {"spectrum", "vectors", "backend"} or self.other_field:
            follow |= {*DEFAULT_QUANTITIES, "residual"}
        if bool(there.effectors) != bool(here.effectors):
            follow |= {"jacobian"}
        missing = {*there.quantities} ^ {*here.quantities}
        return tuple(
            _grouped([name for name in options.quantities if name in missing - follow])
            for options in (here, there)
        )


def _grouped(names: list[str]) -> list[str]:
    """Return names with the name of a group in place of all its members."""
    for group, members in GROUPS.items():
        if len(members) > 1 and set(members) <= set(names):
            names = [group, *(name for name in names if name not in members)]
    return names


def _names(options: Options, name: str) -> list[str]:
    values: Sequence[Any] = getattr(options, name)
    return [":".join(value) if isinstance(value, tuple) else str(value) for value in values]


def _listed(there: list[str], here: list[str]) -> str:
    """Return what one of two lists has alone, if anything."""
    lists = [name for name in here if name not in there], [name for name in there if name not in here]
    return f": {_added_removed(*lists)}" if any(lists) else ""


def _added_removed(here: Sequence[str], there: Sequence[str]) -> str:
    parts = [f"{_some(names)} {where} alone" for names, where in ((there, "there"), (here, "here")) if names]
    return ", ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def _kind(source: dict[str, Any]) -> str:
    return "a file" if source.get("path") else "an AnnData in memory"


def _different(there: RunSpec, here: RunSpec) -> set[str]:
    """Return the names of all values that differ, but for where the input lies."""
    mine, theirs = _flat(there.to_dict()), _flat(here.to_dict())
    return {
        key
        for key in mine.keys() | theirs.keys()
        if mine.get(key) != theirs.get(key)
        and not (key.startswith("cells.sources[") and key.endswith(".path"))
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                out |= _flat(item, f"{prefix}{key}[{number}].")
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def touch_hint(there: RunSpec, here: RunSpec) -> str:
    """Return how to go on with files that differ in nothing but their time: of a large atlas not all is compared."""
    if not all(key.endswith(".modified_ns") for key in _different(there, here)):
        return ""
    pairs = zip(there.cells["sources"], here.cells["sources"], strict=True)
    lines = [
        f"touch -d @{old['modified_ns'] // 10**9}.{old['modified_ns'] % 10**9:09d} '{new['path']}'"
        for old, new in pairs
        if old.get("modified_ns") != new.get("modified_ns")
    ]
    return (
        ". Of an atlas of this size only a sample is compared, so that the time of the file counts; if it is the same "
        f"file, copied or touched, give its time back: {'; '.join(lines)}"
    )
