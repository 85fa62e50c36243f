"""Stand-ins for dask-jobqueue, dask-kubernetes and sbatch: they take what the real ones take, and start workers here.

Names and types are those of dask-jobqueue 0.9 and dask-kubernetes 2026.3.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from distributed import LocalCluster


class SLURMCluster(LocalCluster):
    """Stands for dask-jobqueue's cluster: one worker thread in this process, with the security that jobs would get."""

    asked: ClassVar[list[dict[str, Any]]] = []
    adapted: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        *,
        cores: int,
        processes: int,
        memory: str,
        walltime: str,
        job_name: str,
        protocol: str,
        security: Any,
        scheduler_options: dict[str, Any],
        worker_extra_args: list[str],
        job_script_prologue: list[str],
        log_directory: str,
        silence_logs: str,
        job_extra_directives: list[str] | None = None,
        queue: str | None = None,
        account: str | None = None,
        interface: str | None = None,
        python: str | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.asked.append(given)
        super().__init__(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            host="127.0.0.1",
            protocol=protocol,
            security=security,
            dashboard_address=scheduler_options["dashboard_address"],
        )

    def job_script(self) -> str:
        return "#!/bin/sh\n" + "\n".join(self.asked[-1]["job_script_prologue"])

    def adapt(self, **options: Any) -> None:
        self.adapted.append(options)


class KubeCluster(LocalCluster):
    """Stands for the operator's cluster."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self, *, custom_cluster_spec: dict[str, Any], quiet: bool, namespace: str | None = None
    ) -> None:
        self.asked.append({"spec": custom_cluster_spec, "namespace": namespace})
        super().__init__(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)


def make_cluster_spec(
    name: str, image: str, n_workers: int, resources: Any, env: Any, worker_command: Any
) -> dict[str, Any]:
    """Return a resource whose containers share `resources`, as the operator's does."""

    def pod(kind: str) -> dict[str, Any]:
        return {
            "containers": [
                {"name": kind, "image": image, "env": env, "resources": resources, "args": worker_command}
            ]
        }

    worker = {"replicas": n_workers, "spec": pod("worker")}
    return {"metadata": {"name": name}, "spec": {"worker": worker, "scheduler": {"spec": pod("scheduler")}}}


def show(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Put a module of that name in place."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def fake_slurm(monkeypatch: pytest.MonkeyPatch, folder: Path, refusal: str = "") -> None:
    """Put dask-jobqueue in place, and an sbatch that takes any job, or refuses all."""
    monkeypatch.setattr(SLURMCluster, "asked", [])
    monkeypatch.setattr(SLURMCluster, "adapted", [])
    show(monkeypatch, "dask_jobqueue", SLURMCluster=SLURMCluster)
    (folder / "bin").mkdir(exist_ok=True)
    sbatch = folder / "bin" / "sbatch"
    sbatch.write_text(
        f'#!/bin/sh\n[ "$1" = --test-only ] && [ -z "{refusal}" ] || {{ echo "{refusal}" >&2; exit 1; }}\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")


def fake_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put dask-kubernetes in place."""
    monkeypatch.setattr(KubeCluster, "asked", [])
    show(monkeypatch, "dask_kubernetes")
    show(
        monkeypatch, "dask_kubernetes.operator", KubeCluster=KubeCluster, make_cluster_spec=make_cluster_spec
    )
