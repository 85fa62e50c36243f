"""The page on clusters: its commands parse, its options exist, its messages are those that are raised."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from stabdask.cli.main import build_parser
from stabdask.clusters.options import KINDS, cluster_request

PAGE = Path(__file__).parents[1] / "notebooks" / "slurm.md"
SCRIPTS = Path(__file__).parents[1] / "deployments" / "slurm"


def test_the_commands_parse() -> None:
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "3"), comments=True)
        options = build_parser().parse_args(words[1:])
        if getattr(options, "cluster", None):
            given = {
                "jobs": options.jobs,
                "walltime": options.walltime,
                "worker_memory": options.worker_memory,
            }
            assert cluster_request(options.cluster, given).kind == "slurm"


def test_options_and_kinds_are_those_that_there_are() -> None:
    rows = re.findall(
        r"^\| `(local|cuda|slurm|kubernetes)` \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE
    )
    assert {kind for kind, _ in rows} == set(KINDS) - {"address"}
    values = {
        "workers": 2,
        "jobs": 2,
        "adaptive": "0:2",
        "walltime": "01:00:00",
        "job_options": [],
        "prologue": [],
    }
    values |= {"processes": 1, "gpus": 1, "env": {}, "worker_memory": "1GB"}
    for kind, text in rows:
        for name in re.findall(r"`(\w+)`", text.partition("extra")[0]):
            cluster_request(kind, {name: values.get(name, "x")})


def test_scripts_are_found_and_say_what_can_be_set() -> None:
    text = (SCRIPTS / "README.md").read_text() + PAGE.read_text()
    for path in {*SCRIPTS.iterdir()} - {SCRIPTS / "README.md"}:
        assert path.name in text
    for path in SCRIPTS.glob("*.sh"):
        script = path.read_text()
        head = "\n".join(line for line in script.splitlines() if line.startswith("#"))
        for name in re.findall(r"\$\{(\w+):[?-]", script):
            assert name in head, f"{path.name} reads {name}, and does not say so"
    assert "(slurm.md)" in (PAGE.parent / "README.md").read_text()
