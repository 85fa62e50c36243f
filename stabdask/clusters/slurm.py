"""Workers as SLURM jobs, through dask-jobqueue: the scheduler is here, jobs come and go."""

from __future__ import annotations

import importlib
import math
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabdask.clusters.dashboard import dashboard_address, note_dashboard, page_settings
from stabdask.clusters.options import ClusterRequest, parse_walltime
from stabdask.clusters.security import security_files
from stabdask.clusters.settings import SETTINGS, remote_environment
from stabdask.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["lifetime", "slurm_arguments", "slurm_client"]

_WALLTIME = "01:00:00"
_MEMORY_BYTES = 4 * 10**9
_SHARED = Path.home() / ".cache" / "stabdask"
_LOGS = "stabdask-logs"


def lifetime(walltime: str) -> tuple[int, int]:
    """Return after how many seconds a worker is to end itself, and by how many more or less each differs at random.

    Before SLURM kills it at the end of its `walltime`, so that what it was working on goes elsewhere in order, and
    not all at once.

    Examples
    --------
    >>> lifetime("01:00:00"), lifetime("00:10:00")
    ((3180, 120), (510, 30))
    """
    seconds = parse_walltime(walltime)
    margin = min(300, max(30, seconds // 10))
    stagger = min(120, seconds // 20)
    return seconds - margin - stagger, stagger


def slurm_arguments(request: ClusterRequest, security: Any) -> dict[str, Any]:
    """Return the arguments of ``dask_jobqueue.SLURMCluster``."""
    processes = request.get("processes", 1)
    walltime = request.get("walltime", _WALLTIME)
    ends, stagger = lifetime(walltime)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in remote_environment().items()]
    shows = request.get("dashboard", True)
    scheduler: dict[str, Any] = {"dashboard": shows, "dashboard_address": dashboard_address(shows)}
    if request.get("host"):
        scheduler["host"] = request.get("host")
    arguments = {
        # One thread a process: of a job's cores each has one.
        "cores": processes,
        "processes": processes,
        "memory": f"{request.get('worker_memory', _MEMORY_BYTES) * processes} B",
        "walltime": walltime,
        "job_name": "stabdask",
        "protocol": "tls://",
        "security": security,
        "scheduler_options": scheduler,
        "worker_extra_args": [
            "--lifetime", f"{ends}s", "--lifetime-stagger", f"{stagger}s",
            # What workers serve over HTTP has no authentication.
            "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
        ],
        # The user's lines come first: modules they load may set the number of threads.
        "job_script_prologue": [*request.get("prologue", ()), *exports],
        "log_directory": str(Path(request.get("log_folder", _LOGS)).absolute()),
        "job_extra_directives": request.get("job_options"),
        "silence_logs": "ERROR",
    }  # fmt: skip
    same = {name: request.get(name) for name in ("queue", "account", "interface", "python")}
    return {name: value for name, value in (arguments | same).items() if value is not None}


@contextmanager
def slurm_client(request: ClusterRequest, say: Callable[[str], None] | None) -> Iterator[Client]:
    """Start a scheduler here and submit jobs for workers; all end with the block.

    Raises
    ------
    ClusterError
        If dask-jobqueue or SLURM are not here, or SLURM does not take such a job.
    """
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise ClusterError(
            f'workers as SLURM jobs need dask-jobqueue ({error}); pip install "stabdask[slurm]"'
        ) from error
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "there is no sbatch here; start this on a login node of SLURM, or in one of its jobs"
        )
    import dask
    from distributed import Client

    least, most = _size(request)
    shared = Path(request.get("shared_folder", _SHARED)).expanduser().absolute()
    settings = SETTINGS | page_settings(request.get("dashboard", True))
    with security_files(shared) as security, dask.config.set(settings):
        arguments = slurm_arguments(request, security)
        with jobqueue.SLURMCluster(**arguments) as cluster, Client(cluster) as client:
            note_dashboard(client, request.get("dashboard", True))
            _try_submission(cluster.job_script())
            # A range also where a fixed number is asked for: jobs that end are then replaced.
            cluster.adapt(minimum=least, maximum=most, interval="2s", target_duration="1s", wait_count=10)
            if say is not None:
                count = f"{most}" if least == most else f"{least} to {most}"
                say(
                    f"SLURM        {count} workers, {request.get('processes', 1)} a job of {arguments['walltime']}; "
                    f"what jobs say is in {arguments['log_directory']}"
                )
            yield client


def _size(request: ClusterRequest) -> tuple[int, int]:
    """Return the fewest and the most workers, in whole jobs."""
    processes = request.get("processes", 1)
    if request.get("adaptive"):
        least, most = request.get("adaptive")
    else:
        least = most = request.get("workers") or request.get("jobs", 1) * processes
    least, most = (math.ceil(number / processes) * processes for number in (least, most))
    return least, most


def _try_submission(script: str) -> None:
    """Let SLURM say now what it has against such a job: later nothing would happen but waiting."""
    with tempfile.NamedTemporaryFile("w", prefix="stabdask-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(  # noqa: S603 - the script is the one that would be submitted
            ["sbatch", "--test-only", file.name],  # noqa: S607 - where SLURM is, differs from site to site
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ClusterError(
            f"SLURM does not take jobs for workers: {done.stderr.strip() or done.stdout.strip()}; mend queue, account, "
            "walltime, worker_memory or job_options"
        )
