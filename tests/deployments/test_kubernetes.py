"""Kubernetes: every file is what its schema says, every command line parses, every pod is confined."""

from __future__ import annotations

import copy
import functools
import importlib
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from deployment_files import (
    APPLIED,
    KUBERNETES,
    build,
    bytes_of,
    command_line,
    containers,
    documents,
    environment,
    of_pod,
    pods,
)
from stabdask_words import SETTINGS, parse_command, readme_settings

VERSIONS = ("1.34",)
COMPUTING = [name for name in APPLIED if name != "setup"]
DASK = [name for name in APPLIED if name.startswith("dask")]


@pytest.mark.parametrize("folder", APPLIED)
@pytest.mark.parametrize("version", VERSIONS)
def test_fields_are_those_of_kubernetes(folder: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs the extra deploy-test")
    kinds = set()
    for document in build(KUBERNETES / folder):
        if document["apiVersion"].startswith("kubernetes.dask.org"):
            continue
        validator.validate(document, version, strict=True)
        kinds.add(document["kind"])
    assert kinds


def test_a_misspelt_field_is_found() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs the extra deploy-test")
    (job,) = documents(KUBERNETES / "base/jobs/run.yaml")
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsNonRoots"] = True
    with pytest.raises(validator.ValidationError):
        validator.validate(job, VERSIONS[0], strict=True)


@functools.cache
def operator_schema(kind: str) -> Any:
    """Return a validator of one of the operator's kinds, which refuses unknown fields."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra deploy-test")
    if find_spec("dask_kubernetes") is None:
        pytest.skip("needs dask-kubernetes (the extra deploy-test), which has the schemas of its kinds")
    root = Path(find_spec("dask_kubernetes").submodule_search_locations[0])
    crds = root / "operator/deployment/helm/dask-kubernetes-operator/crds"
    (definition,) = documents(crds / f"{kind.lower()}.yaml")
    (version,) = definition["spec"]["versions"]
    assert (definition["spec"]["group"], version["name"]) == ("kubernetes.dask.org", "v1")
    schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)


@pytest.mark.parametrize("folder", DASK)
def test_fields_are_those_of_the_operator(folder: str) -> None:
    found = [document for document in build(KUBERNETES / folder) if document["kind"].startswith("Dask")]
    assert len(found) == 1
    schema = operator_schema(found[0]["kind"])
    assert [error.message for error in schema.iter_errors(found[0])] == []
    wrong = copy.deepcopy(found[0])
    _, spec = next(pods(wrong))
    spec["containers"][0]["resource"] = {}
    assert not schema.is_valid(wrong)


@pytest.mark.parametrize("folder", APPLIED)
def test_kustomize_makes_the_same(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, whose kustomize would be compared with")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, check=False
    )
    if done.returncode and "unknown" in done.stderr:
        pytest.skip("this kubectl has no kustomize")
    assert done.returncode == 0, done.stderr

    def ordered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(found, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert ordered(list(yaml.safe_load_all(done.stdout))) == ordered(build(KUBERNETES / folder))


def test_every_file_is_part_of_something() -> None:
    named = {KUBERNETES / "README.md"}
    for path in KUBERNETES.rglob("kustomization.yaml"):
        named.add(path)
        (made,) = documents(path)
        files = [
            *made.get("resources", []),
            *(patch["path"] for patch in made.get("patches", []) if "path" in patch),
        ]
        files += [
            name for generator in made.get("configMapGenerator", []) for name in generator.get("envs", [])
        ]
        for name in files + made.get("components", []):
            place = (path.parent / name).resolve()
            assert place.exists(), f"{path}: {name}"
            named.add(place)
    assert {path for path in KUBERNETES.rglob("*") if path.is_file()} <= named
    for optional in ("object-storage",):  # named in comments
        assert build(KUBERNETES / "components" / optional)


@pytest.mark.parametrize("folder", COMPUTING)
def test_command_lines_parse(folder: str) -> None:
    found = build(KUBERNETES / folder)
    lines = [command_line(container, found) for _, container in containers(found)]
    assert lines
    for words in lines:
        assert not [word for word in words if "$(" in word]
        parse_command(words)


def test_all_commands_are_there() -> None:
    def commands(folder: str) -> list[str]:
        found = build(KUBERNETES / folder)
        return sorted(command_line(container, found)[1] for _, container in containers(found))

    assert commands("jobs") == commands("jobs-gpu") == ["finalize", "init", "run"]
    assert commands("dask-cluster") == ["scheduler", "worker"]
    assert commands("dask-job") == ["-c", "run", "scheduler", "worker"]
    assert commands("dask-job-gpu") == ["-c", "cuda", "run", "scheduler"]


@pytest.mark.parametrize("folder", COMPUTING)
def test_processes_get_the_settings(folder: str) -> None:
    found = build(KUBERNETES / folder)
    expected = {name: str(value) for name, value in SETTINGS["distributed.nanny.pre-spawn-environ"].items()}
    assert readme_settings() == expected
    for where, container in containers(found):
        values = environment(container, found)
        assert expected.items() <= values.items(), where
        if folder.startswith("dask"):
            config = dask.config.collect_env(values)
            for name, value in SETTINGS.items():
                if not isinstance(value, dict):
                    assert dask.config.get(name, config=config) == value, f"{where}: {name}"
            assert dask.config.get("distributed.comm.require-encryption", config=config) is True
            tls = dask.config.get("distributed.comm.tls", config=config)
            assert {
                tls[role][kind] for role in ("scheduler", "worker", "client") for kind in ("cert", "key")
            } == {
                "/tls/cert.pem",
                "/tls/key.pem",
            }


@pytest.mark.parametrize("folder", COMPUTING)
def test_pods_are_confined(folder: str) -> None:
    found = build(KUBERNETES / folder)
    seen = 0
    for document in found:
        for where, spec in pods(document):
            seen += 1
            assert spec["serviceAccountName"] == "stabdask", where
            assert spec["automountServiceAccountToken"] is False, where
            assert spec["enableServiceLinks"] is False, where
            assert spec["terminationGracePeriodSeconds"] >= 60, where
            assert not {"hostNetwork", "hostPID", "hostIPC", "nodeName"} & set(spec), where
            context = spec["securityContext"]
            assert context["runAsNonRoot"] is True, where
            assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001, where
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            assert not any("hostPath" in volume for volume in volumes.values()), where
            assert "sizeLimit" in volumes["scratch"]["emptyDir"], where
            assert "sizeLimit" in volumes["home"]["emptyDir"], where
            for container in of_pod(spec):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "privileged": False,
                    "capabilities": {"drop": ["ALL"]},
                }, where
                mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
                assert {"scratch", "home"} <= {mount["name"] for mount in mounts.values()} <= set(volumes), (
                    where
                )
                assert container in spec.get("initContainers", []) or len(mounts) == len(volumes), where
                values = environment(container, found)
                assert {values["HOME"], values["TMPDIR"]} <= set(mounts), where
                assert mounts.get("/tls", {"readOnly": True})["readOnly"] is True, where
                resources = container["resources"]
                assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}, where
                assert resources["requests"].items() <= resources["limits"].items(), where
                scratch = sum(
                    bytes_of(volumes[name]["emptyDir"]["sizeLimit"]) for name in ("scratch", "home")
                )
                assert scratch < bytes_of(resources["limits"]["ephemeral-storage"]), where
                assert re.fullmatch(r"registry\.example\.org/stabdask:[\w.-]+", container["image"]), where
    assert seen


@pytest.mark.parametrize("folder", COMPUTING)
def test_gpus_are_asked_for_where_they_are_used(folder: str) -> None:
    found = build(KUBERNETES / folder)
    n_gpus = 0
    for document in found:
        for where, spec in pods(document):
            for container in spec["containers"]:
                words = command_line(container, found)
                uses = "--gpu" in words or words[:2] == ["dask", "cuda"] or "cuda" in words
                n_gpus += uses
                assert container["resources"]["limits"].get("nvidia.com/gpu") == ("1" if uses else None), (
                    where
                )
                tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
                assert spec.get("tolerations") == (tolerations if uses else None), where
                assert container["image"].endswith("-cuda13") == folder.endswith("-gpu"), where
                if "--backend" in words:
                    assert words[words.index("--backend") + 1] == (
                        "cuda" if folder.endswith("-gpu") else "auto"
                    )
    assert bool(n_gpus) == folder.endswith("-gpu")


@pytest.mark.parametrize("folder", ["jobs", "jobs-gpu"])
def test_jobs_are_repeated_where_that_helps(folder: str) -> None:
    jobs = {
        item["metadata"]["name"]: item["spec"] for item in build(KUBERNETES / folder) if item["kind"] == "Job"
    }
    assert set(jobs) == {"stabdask-init", "stabdask-run", "stabdask-finalize"}
    for name, job in jobs.items():
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
        assert job["podReplacementPolicy"] == "Failed"
        assert job["ttlSecondsAfterFinished"] > 0
        assert job["suspend"] == (name != "stabdask-init")
        preempted, hopeless = job["podFailurePolicy"]["rules"]
        assert preempted == {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        }
        codes = hopeless["onExitCodes"]
        assert (hopeless["action"], codes["operator"]) == ("FailJob", "In")
        assert codes["containerName"] == job["template"]["spec"]["containers"][0]["name"]
        # 1 is partitions that failed, 130 an interruption, 137 a kill: worth another try, but not of a check.
        assert codes["values"] == ([1, 2, 3, 4, 5] if name == "stabdask-finalize" else [2, 3, 5])
    run = jobs["stabdask-run"]
    assert run["completionMode"] == "Indexed"
    assert run["backoffLimitPerIndex"] > 0
    assert "backoffLimit" not in run


@pytest.mark.parametrize("folder", ["jobs", "jobs-gpu"])
def test_counts_agree(folder: str) -> None:
    found = build(KUBERNETES / folder)
    (run,) = [item for item in found if item["metadata"]["name"] == "stabdask-run"]
    (container,) = run["spec"]["template"]["spec"]["containers"]
    values = environment(container, found)
    words = command_line(container, found)
    assert words[words.index("--n-tasks") + 1] == str(run["spec"]["completions"])
    assert run["spec"]["parallelism"] <= run["spec"]["completions"]
    assert int(values["WORKERS"]) <= int(container["resources"]["limits"]["cpu"])
    assert bytes_of(values["MEMORY"]) < 0.95 * bytes_of(container["resources"]["limits"]["memory"])


def test_the_exit_codes_are_those_of_the_program() -> None:
    from stabdask import errors
    from stabdask.cli.job import EXIT_CELLS_FAILED

    assert EXIT_CELLS_FAILED == 4
    assert (
        errors.UsageError.exit_code,
        errors.InputError.exit_code,
        errors.StoreMismatchError.exit_code,
    ) == (2, 3, 5)
    assert errors.RunFailedError.exit_code == 1


@pytest.mark.parametrize("folder", DASK)
def test_only_the_clusters_own_pods_reach_each_other(folder: str) -> None:
    found = build(KUBERNETES / folder)
    (cluster,) = [item for item in found if item["kind"].startswith("Dask")]
    name = cluster["metadata"]["name"]
    (policy,) = [item for item in found if item["kind"] == "NetworkPolicy"]
    own = {"podSelector": {"matchLabels": {"dask.org/cluster-name": name}}}
    assert policy["spec"]["podSelector"] == own["podSelector"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["spec"]["ingress"]
    among, names = policy["spec"]["egress"]
    assert ingress["from"] == among["to"] == [own]
    assert ingress["ports"] == among["ports"]
    assert {port["port"] for port in names["ports"]} == {53}

    listening = set()
    for _, container in containers(found):
        words = command_line(container, found)
        listening |= {
            int(words[i + 1]) for i, word in enumerate(words) if re.fullmatch(r"--(\w+-)?port", word)
        }
        for i, word in enumerate(words):
            if word == "--dashboard-address":
                assert words[i + 1].startswith("127.0.0.1:")
        if words[0] == "dask":
            assert words[words.index("--protocol") + 1] == "tls"
    assert listening <= {port["port"] for port in ingress["ports"]}

    spec = cluster["spec"] if "scheduler" in cluster["spec"] else cluster["spec"]["cluster"]["spec"]
    service = spec["scheduler"]["service"]
    assert service["selector"] == {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    assert [port["port"] for port in service["ports"]] == [8786]
    assert service["type"] == "ClusterIP"


def test_nothing_else_is_allowed() -> None:
    (policy,) = [item for item in build(KUBERNETES / "setup") if item["kind"] == "NetworkPolicy"]
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (namespace,) = [item for item in build(KUBERNETES / "setup") if item["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", DASK)
def test_probes_ask_where_the_server_listens(folder: str) -> None:
    found = build(KUBERNETES / folder)
    for where, container in containers(found):
        words = command_line(container, found)
        probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
        if words[0] != "dask":
            assert not probes
            continue
        assert {"startupProbe", "livenessProbe"} <= set(probes), where
        host, port = words[words.index("--dashboard-address") + 1].split(":")
        for probe in probes.values():
            python, option, program = probe["exec"]["command"]
            assert (python, option) == ("python", "-c")
            compile(program, where, "exec")
            assert f"('{host}', {port}," in program
        liveness = probes["livenessProbe"]
        # A worker may be slow to answer while it computes; two minutes of silence is what Dask allows it too.
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 120


def test_cluster_and_job_have_the_same_cluster() -> None:
    (cluster,) = documents(KUBERNETES / "base/dask-cluster/dask-cluster.yaml")
    (job,) = documents(KUBERNETES / "base/dask-job/dask-job.yaml")
    inner = copy.deepcopy(job["spec"]["cluster"]["spec"])
    inner["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = cluster["metadata"]["name"]
    assert inner == cluster["spec"]
    assert (KUBERNETES / "base/dask-cluster/dask.env").read_text() == (
        KUBERNETES / "base/dask-job/dask.env"
    ).read_text()


def test_the_operator_reads_what_is_written_here() -> None:
    """The operator takes pods as they are, and adds these variables only where they are not set."""
    if find_spec("dask_kubernetes") is None:
        pytest.skip("needs dask-kubernetes (the extra deploy-test)")
    controller = importlib.import_module("dask_kubernetes.operator.controller.controller")
    found = build(KUBERNETES / "dask-job")
    (job,) = [item for item in found if item["kind"] == "DaskJob"]
    worker = controller.build_worker_deployment_spec(
        worker_group_name="stabdask-job-default", namespace="stabdask", cluster_name="stabdask-job", uuid="0",
        pod_spec=job["spec"]["cluster"]["spec"]["worker"]["spec"], annotations={}, labels={},
    )  # fmt: skip
    runner = controller.build_job_pod_spec(
        job_name="stabdask-job", cluster_name="stabdask-job", namespace="stabdask", spec=job["spec"]["job"]["spec"],
        annotations={}, labels={},
    )  # fmt: skip
    template = worker["spec"]["template"]
    for metadata, spec in ((template["metadata"], template["spec"]), (runner["metadata"], runner["spec"])):
        assert metadata["labels"]["dask.org/cluster-name"] == "stabdask-job"
        (container,) = spec["containers"]
        addresses = [item["value"] for item in container["env"] if item["name"] == "DASK_SCHEDULER_ADDRESS"]
        assert addresses == ["tls://$(CLUSTER_NAME)-scheduler:8786"]
    assert "DASK_WORKER_NAME" in {item["name"] for item in template["spec"]["containers"][0]["env"]}
    scheduler = controller.build_scheduler_deployment_spec(
        "stabdask-job", job["spec"]["cluster"]["spec"]["scheduler"]["spec"], {}, {}
    )
    validator = pytest.importorskip("kubernetes_validate", reason="needs the extra deploy-test")
    for made in (worker, runner, scheduler):
        validator.validate(made, VERSIONS[0], strict=True)


def test_the_page_names_what_is_there() -> None:
    text = (KUBERNETES / "README.md").read_text()
    for folder in re.findall(r"deployments/kubernetes/([\w/-]+)", text):
        assert (KUBERNETES / folder).exists(), folder
    names = {item["metadata"]["name"] for folder in APPLIED for item in build(KUBERNETES / folder)}
    names |= {"stabdask-scheduler", "stabdask-tls", "stabdask-object-storage", "stabdask-job-runner"}
    named = re.findall(r"(?:job/|deployment/|pod/|secret generic |daskjob |patch job )(stabdask[\w-]*)", text)
    assert len(named) > 10
    for name in named:
        assert name in names, name
    for folder in APPLIED:
        assert f"`{folder}`" in text, folder
