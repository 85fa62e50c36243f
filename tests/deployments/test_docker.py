"""Images: everything pinned, nothing run as root, files copied there and let through, versions the project's."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from deployment_files import APPLIED, DEPLOYMENTS, KUBERNETES, REPOSITORY, documents
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKER = DEPLOYMENTS / "docker"
FILES = ("Dockerfile", "Dockerfile.cuda")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONSTRAINTS = {"Dockerfile": "constraints.txt", "Dockerfile.cuda": "constraints-cuda.txt"}
EXTRAS = {"Dockerfile": ("s3", "parquet"), "Dockerfile.cuda": ("cuda13", "s3", "parquet")}


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, continued lines joined."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def pinned(name: str) -> dict[str, str]:
    lines = [line for line in (DOCKER / name).read_text().splitlines() if line and not line.startswith("#")]
    found = dict(re.fullmatch(r"([\w.-]+)==([\w.!+-]+)", line).groups() for line in lines)
    assert len(found) == len(lines)
    return {canonicalize_name(key): value for key, value in found.items()}


@pytest.mark.parametrize("name", FILES)
def test_base_images_are_pinned(name: str) -> None:
    bases = [words for instruction, words in instructions(name) if instruction == "FROM"]
    assert len(bases) >= 2
    for words in bases:
        image = words.split()[0]
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+", image), image
    # The wheel and its environment have one Python, or one that the wheel runs on too.
    assert "compile" not in bases[-1]


@pytest.mark.parametrize("name", FILES)
def test_the_image_runs_as_nobody_in_particular(name: str) -> None:
    found = instructions(name)
    last = max(i for i, (instruction, _) in enumerate(found) if instruction == "FROM")
    final = found[last:]
    users = [words for instruction, words in final if instruction == "USER"]
    assert users == ["10001:10001"]  # as in deployments/kubernetes
    after = [instruction for instruction, _ in final[[i for i, _ in final].index("USER") :]]
    assert "RUN" not in after
    assert "COPY" not in after
    runs = " ".join(words for instruction, words in final if instruction == "RUN")
    assert not re.search(r"g\+\+|gcc|build-essential|pip install", runs)
    words = dict(final)
    assert json.loads(words["ENTRYPOINT"]) == ["stabdask"]
    assert words["HEALTHCHECK"] == "NONE"
    assert 'org.opencontainers.image.version="' + PROJECT["project"]["version"] + '"' in words["LABEL"]
    assert not [words for instruction, words in found if instruction == "ADD"]
    assert not [
        words for instruction, words in found if instruction == "ENV" and re.search("AWS|TOKEN|SECRET", words)
    ]


@pytest.mark.parametrize("name", FILES)
def test_files_copied_are_there_and_let_through(name: str) -> None:
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    stages = {
        words.split()[-1]
        for instruction, words in instructions(name)
        if instruction == "FROM" and " AS " in words
    }
    sources = []
    for instruction, words in instructions(name):
        if instruction != "COPY":
            continue
        if words.startswith("--from="):
            assert words.split()[0].removeprefix("--from=") in stages
        else:
            sources += words.split()[:-1]
    assert {"pyproject.toml", "README.md", "LICENSE", "stabdask"} <= set(sources)
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in allowed), source


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_the_project_takes(name: str) -> None:
    versions = pinned(CONSTRAINTS[name])
    project = PROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        wanted += project["optional-dependencies"][extra]
    for text in wanted:
        requirement = Requirement(text)
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}: {version}"
    install = next(words for instruction, words in instructions(name) if "--only-binary" in words)
    assert f"[{','.join(EXTRAS[name])}]" in install
    assert f"--constraint /build/{CONSTRAINTS[name]}" in install
    if name == "Dockerfile.cuda":
        assert {"cupy-cuda13x", "rmm-cu13", "dask-cuda", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"} <= set(
            versions
        )
    assert "stabdask" not in versions
    made = (DOCKER / CONSTRAINTS[name]).read_text()
    assert "http" not in made
    assert "file:" not in made


def test_what_builds_is_pinned_and_enough() -> None:
    versions = pinned("build-requirements.txt")
    for text in PROJECT["build-system"]["requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    assert {"cmake", "ninja"} <= set(versions)


def test_the_kernel_is_built_for_every_machine() -> None:
    build = (REPOSITORY / "stabdask/kernels/lanes/CMakeLists.txt").read_text()
    assert "lanes_variant(baseline 16)" in build
    for path in (REPOSITORY / "stabdask/kernels/lanes/CMakeLists.txt", *(DOCKER / name for name in FILES)):
        assert "native" not in path.read_text().replace("-DNATIVE", ""), path
    assert set(re.findall(r"-march=([\w-]+)", build)) == {"x86-64-v3", "x86-64-v4"}


def test_images_are_those_that_pods_run() -> None:
    built = {}
    for name in FILES:
        tag = re.search(r"--tag (\S+)", (DOCKER / name).read_text())[1]
        built[name.endswith("cuda")] = tag
    for folder in APPLIED:
        for image in documents(KUBERNETES / folder / "kustomization.yaml")[0].get("images", []):
            assert f"{image['newName']}:{image['newTag']}" == built[folder.endswith("-gpu")]


@pytest.mark.parametrize("name", FILES)
def test_hadolint(name: str) -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (the extra deploy-test)")
    done = subprocess.run([hadolint, str(DOCKER / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_of_the_image_work(tmp_path: Path) -> None:
    """Carry out the pip steps of Dockerfile as they stand, in other folders, with a Python 3.12 of this machine."""
    python = shutil.which("python3.12") if sys.version_info[:2] != (3, 12) else sys.executable
    probe = [python or "", "-c", "import sys; print(sys.version_info[:2])"]
    if python is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no Python 3.12 here, which the image has")
    folders = {"/build": str(tmp_path / "build"), "/opt/stabdask": str(tmp_path / "environment")}

    def here(text: str) -> str:
        for folder, ours in folders.items():
            text = re.sub(rf"(?<![\w.]){folder}\b", ours, text)
        return re.sub(r"(^|&& )python -m venv", rf"\1{python} -m venv", text)

    (tmp_path / "build").mkdir()
    for instruction, words in instructions("Dockerfile"):
        if instruction == "FROM" and " AS " not in words:
            break
        if instruction == "COPY":
            *sources, target = here(words).split()
            Path(target).mkdir(parents=True, exist_ok=target.endswith("/"))
            for source in sources:
                place = REPOSITORY / source
                if place.is_dir():
                    unwanted = shutil.ignore_patterns("*.so", "__pycache__")
                    shutil.copytree(place, target, dirs_exist_ok=True, ignore=unwanted)
                else:
                    shutil.copy(place, target)
        if instruction == "RUN" and "apt-get" not in words:
            done = subprocess.run(
                ["sh", "-ec", here(words)], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    program = tmp_path / "environment/bin/stabdask"
    done = subprocess.run(
        [program, "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lanes"]["built"]
    versions = pinned("constraints.txt")
    for name, version in found["versions"].items():
        assert name == "stabdask" or versions[canonicalize_name(name)] == version
