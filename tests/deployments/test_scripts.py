"""Shell scripts: clean, and what they start is what the programs take. GPUs and schedulers are programs of the test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from deployment_files import DEPLOYMENTS, KUBERNETES, build, command_line, containers, environment
from distributed import Client, Security
from stabdask_words import SETTINGS, parse_command, readme_settings

GPU = DEPLOYMENTS / "gpu"
SCRIPTS = sorted(DEPLOYMENTS.rglob("*.sh"))
JOB = ["atlas.h5ad", "--field", "model.h5sch", "--store", "out.zarr", "--layer", "M_t"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck (the extra test)")
    command = [shellcheck, "--external-sources", str(script.relative_to(DEPLOYMENTS.parent))]
    done = subprocess.run(command, cwd=DEPLOYMENTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    if script.name != "settings.sh":
        assert os.access(script, os.X_OK)
        assert "set -euo pipefail" in script.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a machine with two GPUs, whose programs write down what they were started with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    note = """\
        #!{python}
        import json, os, sys
        name = os.path.basename(sys.argv[0])
        if "doctor" not in sys.argv:
            with open({notes!r}, "a") as notes:
                notes.write(json.dumps([[name, *sys.argv[1:]], dict(os.environ)]) + "\\n")
        """
    for name in ("stabdask", "dask"):
        _program(programs / name, note.format(python=sys.executable, notes=str(tmp_path / "notes")))
    gpus = """\
        #!/bin/sh
        case "$*" in *--id=7*) echo "No devices were found"; exit 6 ;; esac
        echo "0, NVIDIA H100, 80000, Default"
        case "$*" in *--id=0*) ;; *) echo "1, NVIDIA H100, ${FREE:-79000}, Default" ;; esac
        """
    _program(programs / "nvidia-smi", gpus)
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)


def start(machine: Path, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DASK_", "CUDA_", "OMP_"))
    }
    path = f"{machine / 'bin'}:/usr/bin:/bin"
    return subprocess.run(
        [str(GPU / script), *words],
        cwd=machine,
        env={**kept, "PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def started(machine: Path) -> tuple[list[str], dict[str, str]]:
    (line,) = (machine / "notes").read_text().splitlines()
    words, environment = json.loads(line)
    return words, environment


def check_settings(environment: dict[str, str]) -> None:
    assert readme_settings().items() <= environment.items()
    config = dask.config.collect_env(environment)
    for name, value in SETTINGS.items():
        if not isinstance(value, dict):
            assert dask.config.get(name, config=config) == value, name


def test_one_node_takes_all_gpus(machine: Path) -> None:
    done = start(machine, "one-node.sh", *JOB)
    assert done.returncode == 0, done.stderr
    words, environment = started(machine)
    assert words == ["stabdask", "run", *JOB, "--gpu", "--workers", "2"]
    options = parse_command(words)
    assert options.gpu
    assert options.workers == 2
    check_settings(environment)
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert not [name for name in environment if "UCX" in name]


def test_one_node_takes_the_gpus_chosen(machine: Path) -> None:
    done = start(machine, "one-node.sh", *JOB, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 0, done.stderr
    words, environment = started(machine)
    assert words[-1] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FREE": "100"}, "GPU 1 has 100 MiB free"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "hides every GPU"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "No devices were found"),
    ],
)
def test_one_node_refuses_before_it_starts(machine: Path, variables: dict[str, str], said: str) -> None:
    done = start(machine, "one-node.sh", *JOB, **variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (machine / "notes").exists()


def test_one_node_without_gpus(machine: Path) -> None:
    (machine / "bin/nvidia-smi").unlink()
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has GPUs")
    done = start(machine, "one-node.sh", *JOB)
    assert done.returncode == 2
    assert "no nvidia-smi" in done.stderr
    assert start(machine, "one-node.sh").returncode == 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("cluster") / "tls"
    subprocess.run([DEPLOYMENTS / "make-certificates.sh", folder, "2"], capture_output=True, check=True)
    return folder


def test_certificates(certificates: Path) -> None:
    assert sorted(path.name for path in certificates.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert {path.stat().st_mode & 0o777 for path in certificates.iterdir()} == {0o600}
    assert certificates.stat().st_mode & 0o777 == 0o700
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    for flag in (["-x509_strict"], []):
        chain = ["openssl", "verify", *flag, "-CAfile", certificates / "ca.pem", certificates / "cert.pem"]
        subprocess.run(chain, capture_output=True, check=True)
    again = subprocess.run(
        [DEPLOYMENTS / "make-certificates.sh", certificates], capture_output=True, check=False
    )
    assert again.returncode != 0  # never over others
    assert (
        subprocess.run([DEPLOYMENTS / "make-certificates.sh"], capture_output=True, check=False).returncode
        == 2
    )


def cluster_folder(machine: Path, certificates: Path) -> str:
    folder = machine / "cluster"
    shutil.copytree(certificates, folder / "tls")
    (folder / "scheduler.json").write_text(json.dumps({"address": "tls://10.0.0.1:8786"}))
    return str(folder)


@pytest.mark.parametrize("script", ["scheduler.sh", "workers.sh", "run.sh"])
def test_several_nodes(machine: Path, certificates: Path, script: str) -> None:
    folder = cluster_folder(machine, certificates)
    job = JOB if script == "run.sh" else []
    done = start(machine, script, folder, *job, INTERFACE="eth0", MEMORY_LIMIT="8GB")
    assert done.returncode == 0, done.stderr
    words, environment = started(machine)
    check_settings(environment)
    config = dask.config.collect_env(environment)
    assert dask.config.get("distributed.comm.require-encryption", config=config) is True
    assert dask.config.get("distributed.comm.tls.ca-file", config=config) == f"{folder}/tls/ca.pem"
    for role in ("scheduler", "worker", "client"):
        found = dask.config.get(f"distributed.comm.tls.{role}", config=config)
        assert found == {"cert": f"{folder}/tls/cert.pem", "key": f"{folder}/tls/key.pem"}
    if script == "run.sh":
        assert words[-2:] == ["--cluster", "tls://10.0.0.1:8786"]
        assert words[words.index("--backend") + 1] == "cuda"
    else:
        assert words[words.index("--protocol") + 1] == "tls"
        assert words[words.index("--scheduler-file") + 1] == f"{folder}/scheduler.json"
    if script == "scheduler.sh":
        assert words[words.index("--dashboard-address") + 1].startswith("127.0.0.1:")
    if script == "workers.sh":
        assert words[1:3] == ["cuda", "worker"]
        assert words[words.index("--rmm-pool-size") + 1] == "1GiB"
        assert words[words.index("--nthreads") + 1] == "1"
    parse_command(words)


def test_the_pool_can_be_left_off(machine: Path, certificates: Path) -> None:
    folder = cluster_folder(machine, certificates)
    assert start(machine, "workers.sh", folder, RMM_POOL_SIZE="").returncode == 0
    words, _ = started(machine)
    assert not [word for word in words if "rmm" in word]


@pytest.mark.parametrize("script", ["scheduler.sh", "workers.sh", "run.sh"])
def test_several_nodes_need_certificates_and_a_scheduler(
    machine: Path, certificates: Path, script: str
) -> None:
    job = JOB if script == "run.sh" else []
    (machine / "cluster").mkdir()
    done = start(machine, script, str(machine / "cluster"), *job)
    assert done.returncode == 2
    assert "make-certificates.sh" in done.stderr
    assert start(machine, script).returncode == 2
    if script == "scheduler.sh":
        return
    shutil.copytree(certificates, machine / "cluster/tls")
    done = start(machine, script, str(machine / "cluster"), *job, PATIENCE_S="0")
    assert done.returncode == 2
    assert "is scheduler.sh running?" in done.stderr
    assert not (machine / "notes").exists()


@pytest.fixture(scope="module")
def scheduler(certificates: Path) -> Iterator[Path]:
    """Start a real scheduler with the script, on a port of its own."""
    folder = certificates.parent
    variables = {**os.environ, "PORT": "0", "DASHBOARD_PORT": "0"}
    variables["PATH"] = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([GPU / "scheduler.sh", folder], env=variables, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if (folder / "scheduler.json").exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert (folder / "scheduler.json").exists(), (folder / "log").read_text()
            yield folder
        finally:
            process.terminate()
            process.wait(30)


def test_a_real_scheduler_knows_its_own(scheduler: Path) -> None:
    """TLS both ways; what is started with the variables of a pod, and the words of its worker, is one of its own."""
    found = build(KUBERNETES / "dask-job")
    by_name = {container["name"]: container for _, container in containers(found)}
    address = json.loads((scheduler / "scheduler.json").read_text())["address"]
    assert address.startswith("tls://")
    variables = {
        name: value.replace("/tls/", f"{scheduler}/tls/").replace("/home/stabdask", str(scheduler))
        for name, value in environment(by_name["worker"], found).items()
    }
    variables |= {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin", "DASK_SCHEDULER_ADDRESS": address}
    variables |= {"MEMORY_LIMIT": str(10**9), "TMPDIR": str(scheduler)}

    port = free_port()
    words = command_line(by_name["worker"], found)
    others = {"8788": "0", "8789": "0", "127.0.0.1:8790": f"127.0.0.1:{port}", "/tmp": str(scheduler)}
    others |= {words[2]: address}
    worker = subprocess.Popen(
        [others.get(word, word) for word in words],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # What the pod of a run waits with ends when the worker is there.
        waits = [sys.executable, *command_line(by_name["wait"], found)[1:]]
        done = subprocess.run(waits, env=variables, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        probe = by_name["worker"]["livenessProbe"]["exec"]["command"][2]
        for here, code in ((port, 0), (1, 1)):
            asked = [sys.executable, "-c", probe.replace("8790", str(here))]
            assert subprocess.run(asked, capture_output=True, check=False).returncode == code
        ask_for_settings(address, scheduler / "tls")
    finally:
        worker.terminate()
        worker.wait(30)
    # A client that fails would leave itself behind as what Dask computes with.
    refused = {"timeout": 3, "set_as_default": False}
    with pytest.raises(OSError), Client(address.replace("tls", "tcp"), **refused):
        pass
    with pytest.raises((TypeError, OSError, ValueError)), Client(address, security=Security(), **refused):
        pass


def ask_for_settings(address: str, tls: Path) -> None:
    """Make sure that scheduler and workers have the settings, whatever Dask's own defaults are."""
    security = Security(
        tls_ca_file=str(tls / "ca.pem"),
        tls_client_cert=str(tls / "cert.pem"),
        tls_client_key=str(tls / "key.pem"),
        require_encryption=True,
    )
    with Client(address, security=security, timeout=30) as client:
        scheduler = client.run_on_scheduler(lambda: __import__("dask").config.config)
        ((worker, variables),) = client.run(
            lambda: (__import__("dask").config.config, dict(__import__("os").environ))
        ).values()
    for name, value in SETTINGS.items():
        if not isinstance(value, dict):
            assert dask.config.get(name, config=scheduler) == value, name
            assert dask.config.get(name, config=worker) == value, name
    assert readme_settings().items() <= variables.items()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
