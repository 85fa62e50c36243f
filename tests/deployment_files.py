"""The deployment files as what they amount to: kustomizations built, pods, command lines with their variables in."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
DEPLOYMENTS = REPOSITORY / "deployments"
KUBERNETES = DEPLOYMENTS / "kubernetes"
APPLIED = ("setup", "jobs", "jobs-gpu", "dask-cluster", "dask-cluster-gpu", "dask-job", "dask-job-gpu")
"""Folders that a user applies."""

_KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "images", "generatorOptions",
    "configMapGenerator", "patches", "replacements",
}  # fmt: skip
_OF_PODS = ("spec/template/spec", "spec/worker/spec", "spec/scheduler/spec", "spec/job/spec",
            "spec/cluster/spec/worker/spec", "spec/cluster/spec/scheduler/spec")  # fmt: skip


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def build(folder: Path) -> list[dict[str, Any]]:
    """Return what ``kubectl kustomize`` makes of a folder, for the part of kustomize that is used here.

    Anything that names nothing (a file, a resource, a field) is an error, where kustomize lets some of it pass.
    """
    return _transform(folder, [])


def _transform(folder: Path, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (made,) = documents(folder / "kustomization.yaml")
    assert set(made) <= _KNOWN, f"{folder}: {set(made) - _KNOWN}"
    for name in made.get("resources", []):
        place = folder / name
        found += _transform(place, []) if place.is_dir() else documents(place)
    if "configMapGenerator" in made:
        assert made["generatorOptions"] == {"disableNameSuffixHash": True}, folder
    for generator in made.get("configMapGenerator", []):
        assert set(generator) <= {"name", "envs", "literals"}, generator
        lines = list(generator.get("literals", []))
        for name in generator.get("envs", []):
            lines += [line for line in (folder / name).read_text().splitlines() if line[:1] not in ("", "#")]
        data = dict(line.split("=", 1) for line in lines)
        assert len(data) == len(lines), f"{folder} sets a variable twice"
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": generator["name"]},
                "data": data,
            }
        )
    for name in made.get("components", []):
        assert documents(folder / name / "kustomization.yaml")[0]["kind"] == "Component"
        found = _transform(folder / name, found)
    for patch in made.get("patches", []):
        operations = yaml.safe_load(
            patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        )
        for document in _selected(found, patch["target"]):
            for operation in operations:
                _apply(document, operation)
    for replacement in made.get("replacements", []):
        _replace(found, replacement)
    for image in made.get("images", []):
        used = [container for pod in map(pods, found) for _, spec in pod for container in of_pod(spec)]
        assert any(container["image"] == image["name"] for container in used), f"{folder}: {image['name']}"
        for container in used:
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    if "namespace" in made:
        for document in found:
            if document["kind"] == "Namespace":
                document["metadata"]["name"] = made["namespace"]
            else:
                document["metadata"]["namespace"] = made["namespace"]
    return found


def _selected(found: list[dict[str, Any]], target: dict[str, str]) -> list[dict[str, Any]]:
    return [
        document
        for document in found
        if document["kind"] == target["kind"]
        and re.fullmatch(target.get("name", ".*"), document["metadata"]["name"])
    ]


def _apply(document: dict[str, Any], operation: dict[str, Any]) -> None:
    *parents, last = [part.replace("~1", "/") for part in operation["path"].strip("/").split("/")]
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    value = copy.deepcopy(operation["value"])
    if isinstance(place, list):
        assert (operation["op"], last) == ("add", "-"), operation
        place.append(value)
        return
    assert (last in place) == (operation["op"] == "replace"), f"{operation['path']}: {operation['op']}"
    place[last] = value


def _replace(found: list[dict[str, Any]], replacement: dict[str, Any]) -> None:
    (source,) = _selected(found, replacement["source"])
    value: Any = source
    for part in replacement["source"]["fieldPath"].split("."):
        value = value[part]
    n_replaced = 0
    for target in replacement["targets"]:
        for document in _selected(found, target["select"]):
            for path in target["fieldPaths"]:
                *parents, last = re.findall(r"\[\w+=\w+\]|[^.\[\]]+", path)
                place: Any = document
                for part in parents:
                    if part.startswith("["):
                        key, wanted = part.strip("[]").split("=")
                        (place,) = [item for item in place if item[key] == wanted]
                    else:
                        place = place[part]
                assert last in place, f"{path} is not in {document['kind']} {document['metadata']['name']}"
                place[last] = int(value) if isinstance(place[last], int) else value
                n_replaced += 1
    assert n_replaced, f"{replacement['source']['fieldPath']} goes nowhere"


def pods(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the specifications of pods in a document, with where they are."""
    for path in _OF_PODS:
        place: Any = document
        for part in path.split("/"):
            place = place.get(part, {}) if isinstance(place, dict) else {}
        if "containers" in place:
            yield f"{document['kind']} {document['metadata']['name']} {path}", place


def of_pod(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def containers(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in found:
        for where, spec in pods(document):
            for container in of_pod(spec):
                yield f"{where} {container['name']}", container


def environment(container: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the variables of a container, with what Kubernetes and the operator would add."""
    values = {"JOB_COMPLETION_INDEX": "0", "DASK_WORKER_NAME": "stabdask-default-worker-0"}
    maps = {
        item["metadata"]["name"]: item for item in [*found, *build(KUBERNETES / "setup")] if "data" in item
    }
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            values |= maps[source["configMapRef"]["name"]]["data"]
        else:
            assert source["secretRef"] == {"name": "stabdask-object-storage", "optional": True}
    for item in container.get("env", []):
        if "value" in item:
            values[item["name"]] = _expand(item["value"], values)
        elif "resourceFieldRef" in item["valueFrom"]:
            values[item["name"]] = str(bytes_of(container["resources"]["limits"]["memory"]))
        else:
            assert item["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['dask.org/cluster-name']"
            values[item["name"]] = "stabdask"
    return values


def command_line(container: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """Return the words that a container runs, variables put in as Kubernetes does."""
    values = environment(container, found)
    words = [*container.get("command", ["stabdask"]), *container.get("args", [])]
    assert all(isinstance(word, str) for word in words), words
    return [_expand(word, values) for word in words]


def _expand(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], text)


def bytes_of(text: str) -> int:
    """Return the bytes of ``8Gi`` or ``7GB``."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30, "GB": 10**9}[unit]
