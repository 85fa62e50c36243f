"""A SLURM of two nodes on this host, in a folder of its own: everything it starts ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurm-client", "slurmctld", "slurmd", "munge")
_CONFIG = """
ClusterName=stabdask
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
KillWait=2
EnforcePartLimits=ALL
MinJobAge=3600
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port={first}-{second} CPUs=2 RealMemory=8000 Gres=gpu:1
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=1-0 State=UP
"""


def why_not() -> str | None:
    """Install what SLURM needs where it is missing; return why it cannot be started here, or None."""
    if os.geteuid() != 0:
        return "a SLURM of one's own takes root"
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        if shutil.which("apt-get") is None:
            return "neither SLURM nor apt-get is here"
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], check=True)
    return None


@contextmanager
def two_nodes(folder: Path, port: int = 16817) -> Iterator[dict[str, str]]:
    """Start munge, a controller and two nodes; give the environment in which their commands work."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # munge looks at the folders of its socket
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, first=port + 4, second=port + 5))
    os.mknod(folder / "gpu", 0o666 | 0o020000, os.makedev(1, 3))  # as /dev/null, in the place of a GPU
    (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(config)}
    try:
        files = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "munge.seed"}
        files |= {"pid-file": folder / "munged.pid", "log-file": folder / "munged.log"}
        _start(["munged", "--force", *(f"--{name}={path}" for name, path in files.items())], environment)
        _start(["slurmctld", "-c"], environment)
        for node in ("n1", "n2"):
            _start(["slurmd", "-N", node], environment)
        _wait_until_idle(environment)
        yield environment
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        time.sleep(1)
    finally:
        for pid_file in (*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munged.pid"):
            _stop(pid_file)


def _start(command: list[str], environment: dict[str, str]) -> None:
    found = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    subprocess.run([str(found), *command[1:]], env=environment, check=True, capture_output=True, text=True)


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
        )
        if done.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.2)
    raise TimeoutError(f"the nodes of SLURM are not idle: {done.stdout} {done.stderr}")


def _stop(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
