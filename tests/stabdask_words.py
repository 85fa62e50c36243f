"""What command lines and settings of deployments are held against: the program's parser, Dask's, and its settings."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest
from deployment_files import DEPLOYMENTS

from stabdask.cli.main import build_parser


def _settings() -> dict[str, Any]:
    name = "stabdask.clusters.settings"
    clusters = importlib.import_module("stabdask.clusters")
    if hasattr(clusters, "__path__") and find_spec(name):
        return importlib.import_module(name).SETTINGS
    return clusters._SETTINGS


SETTINGS = _settings()


def _commands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in build_parser()._actions if isinstance(action.choices, dict)]
    return commands.choices


def parse_command(words: Sequence[str]) -> Any:
    """Parse a command line of stabdask or dask as the program does; fail the test if it is wrong."""
    if words[0] == "dask":
        return _parse_dask(list(words[1:]))
    if words[0] == "python":
        option, program = words[1:]
        assert option == "-c"
        return compile(program, "-c", "exec")
    assert words[0] == "stabdask", words
    commands = _commands()
    if "init" not in commands and (words[1] in ("init", "finalize") or "--n-tasks" in words):
        pytest.skip("this stabdask has no array jobs yet (init, run --task, finalize)")
    known = {option for action in commands[words[1]]._actions for option in action.option_strings}
    if "--cluster" in words and "--cluster" not in known:
        pytest.skip("this stabdask has no 'run --cluster' yet")
    # The parser takes abbreviations, which can come to mean something else.
    abbreviated = {word for word in words if word.startswith("--")} - known
    assert not abbreviated, f"{words[1]} has no {', '.join(sorted(abbreviated))}"
    try:
        return build_parser().parse_args(list(words[1:]))
    except SystemExit:
        raise AssertionError(f"not a command line of stabdask: {shlex.join(words)}") from None


_CUDA_WORKER = {
    "--scheduler-file", "--worker-port", "--nthreads", "--name", "--memory-limit", "--rmm-pool-size",
    "--set-rmm-allocator-for-libs", "--dashboard-address", "--local-directory", "--protocol", "--interface",
    "--death-timeout",
}  # fmt: skip
"""Options with a value of ``dask cuda worker`` of dask-cuda 26.10, which takes unknown ones without a word."""


def _parse_dask(words: list[str]) -> None:
    if words[0] == "cuda":
        assert words[1] == "worker"
        options = [word for word in words[2:] if word.startswith("--") and word != "--no-dashboard"]
        assert set(options) <= _CUDA_WORKER, set(options) - _CUDA_WORKER
        assert len(set(options)) == len(options)
        try:
            command = importlib.import_module("dask_cuda.cli").worker
        except ImportError:  # dask-cuda, or the libraries it wants, are not here
            return
        known = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        assert known >= _CUDA_WORKER | {"--no-dashboard"}, _CUDA_WORKER - known
        words = words[1:]
    else:
        command = importlib.import_module(f"distributed.cli.dask_{words[0]}").main
    context = command.make_context(words[0], words[1:])
    assert not context.params.get("preload_argv"), f"stray words: {context.params['preload_argv']}"


def readme_settings() -> dict[str, str]:
    """Return the variables that deployments/README.md tells to export."""
    text = (DEPLOYMENTS / "README.md").read_text()
    (block,) = [
        block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "OMP_NUM_THREADS" in block
    ]
    words = [word for line in block.splitlines() for word in shlex.split(line) if word != "export"]
    return dict(word.split("=", 1) for word in words)
