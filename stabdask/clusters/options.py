"""What a cluster may be asked for: options of each kind, from Python, the command line or a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabdask.errors import UsageError, near_misses
from stabdask.sizes import bytes_hint

__all__ = ["KINDS", "ClusterRequest", "cluster_request", "parse_walltime"]

KINDS = ("local", "cuda", "slurm", "kubernetes", "address")


@dataclass(frozen=True)
class ClusterRequest:
    """A kind of cluster and its options, checked; those not given are absent.

    Attributes
    ----------
    kind
        One of `KINDS`.
    values
        By name of the option.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an option, or `default` if it was not given."""
        return self.values.get(name, default)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name}={value!r}; expected a whole number, at least 1")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise UsageError(f"{name}={value!r}; expected a text")
    return str(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r}; expected true or false")
    return value


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name}={value!r}; expected a list of texts")
    return list(value)


def _by_name(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}={value!r}; expected values by name")
    return {str(key): str(item) for key, item in value.items()}


def _size(name: str, value: Any) -> int:
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(value))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name}={value!r} is no size; expected e.g. '4GB'") from error
    if size <= 0:
        raise UsageError(f"{name}={value!r} is not positive; expected e.g. '4GB'")
    if hint := bytes_hint(value):
        raise UsageError(f"{name}={value!r} is too small for a worker{hint}")
    return size


def _range(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", value)):
        value = (int(found[1]), int(found[2]))
    if not (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    ):
        quoted = "; in a file put it in quotes" if isinstance(value, int) else ""
        raise UsageError(f"{name}={value!r}; expected 'MIN:MAX' workers, e.g. '0:20'{quoted}")
    least, most = value
    if not 0 <= least <= most or most < 1:
        raise UsageError(f"{name}={least}:{most}; expected 0 <= MIN <= MAX and at least 1 worker at most")
    return least, most


def parse_walltime(value: Any) -> int:
    """Return the seconds of a time as SLURM writes it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.

    Raises
    ------
    UsageError
        If it is none.

    Examples
    --------
    >>> parse_walltime("01:30:00"), parse_walltime("90"), parse_walltime("1-12")
    (5400, 5400, 129600)
    """
    expected = "expected SLURM's form, e.g. '02:00:00' or '1-12:00:00'"
    if not isinstance(value, str):
        raise UsageError(f"walltime={value!r} is no text; {expected}; in a file put it in quotes")
    found = re.fullmatch(r"\s*(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?\s*", value)
    if found is None:
        raise UsageError(f"walltime={value!r}; {expected}")
    days, *rest = found.groups()
    first, second, third = (int(part or 0) for part in rest)
    if days is not None:
        return ((int(days) * 24 + first) * 60 + second) * 60 + third
    if rest[2] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def _walltime(name: str, value: Any) -> str:
    seconds = parse_walltime(value)
    if seconds < 120:
        raise UsageError(
            f"walltime={value!r} is {seconds} s; expected at least 2 minutes, better an hour or more"
        )
    return str(value).strip()


_Check = Callable[[str, Any], Any]
_SIZE: dict[str, _Check] = {"workers": _whole, "worker_memory": _size}
_OPTIONS: dict[str, dict[str, _Check]] = {
    "local": {**_SIZE, "adaptive": _range, "host": _text, "dashboard": _flag},
    "cuda": {**_SIZE, "dashboard": _flag},
    "slurm": {
        **_SIZE,
        "jobs": _whole,
        "adaptive": _range,
        "walltime": _walltime,
        "processes": _whole,
        "queue": _text,
        "account": _text,
        "interface": _text,
        "host": _text,
        "job_options": _texts,
        "prologue": _texts,
        "python": _text,
        "shared_folder": _text,
        "log_folder": _text,
        "dashboard": _flag,
    },
    "kubernetes": {
        **_SIZE,
        "adaptive": _range,
        "name": _text,
        "namespace": _text,
        "image": _text,
        "gpus": _whole,
        "env": _by_name,
        "insecure_tcp": _flag,
    },
    "address": {
        "address": _text,
        "tls_ca": _text,
        "tls_cert": _text,
        "tls_key": _text,
        "insecure_tcp": _flag,
    },
}


def cluster_request(what: str | Path, options: Mapping[str, Any]) -> ClusterRequest:
    """Return the kind of cluster that `what` names, with options checked; None as a value is as not given.

    Raises
    ------
    UsageError
        If there is no such kind, file or option, or a value is impossible.
    """
    given = {name: value for name, value in options.items() if value is not None}
    text = str(what)
    if "://" in text:
        return _checked("address", {"address": text, **given}, "cluster")
    if text in KINDS and text != "address":
        return _checked(text, given, "cluster")
    if not text.endswith((".yaml", ".yml")):
        hint = near_misses(text, [kind for kind in KINDS if kind != "address"], noun="kinds of cluster")
        raise UsageError(
            f"there is no cluster {text!r}; {hint}; expected one of these, a file that ends in .yaml, or an address "
            "such as tls://HOST:PORT"
        )
    kind, values = _from_file(Path(text))
    return _checked(kind, {**values, **given}, text)


def _from_file(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the cluster file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"the cluster file {path} is no YAML: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise UsageError(
            f"the cluster file {path} has no kind; expected e.g. 'kind: slurm' and options, one a line"
        )
    values = {str(name): value for name, value in found.items() if name != "kind" and value is not None}
    if found["kind"] not in KINDS:
        raise UsageError(
            f"kind {found['kind']!r} in {path}; {near_misses(found['kind'], KINDS, noun='kinds')}"
        )
    return found["kind"], values


def _checked(kind: str, values: Mapping[str, Any], where: str) -> ClusterRequest:
    known = _OPTIONS[kind]
    for name in values:
        if name not in known:
            elsewhere = [other for other in KINDS if name in _OPTIONS[other]]
            hint = (
                f"it is one of {' and '.join(elsewhere)}"
                if elsewhere
                else near_misses(name, known, noun="options")
            )
            raise UsageError(f"a cluster of kind {kind!r} has no option {name!r} ({where}); {hint}")
    checked = {name: known[name](name, value) for name, value in values.items()}
    sizes = [name for name in ("workers", "jobs", "adaptive") if name in checked]
    if len(sizes) > 1:
        raise UsageError(
            f"{' and '.join(sizes)} both say how many workers there are; give one of them ({where})"
        )
    if kind == "address" and "address" not in checked:
        raise UsageError(
            f"a cluster of kind 'address' needs its address ({where}); expected e.g. tls://HOST:PORT"
        )
    return ClusterRequest(kind, checked)
