"""Clusters by name, file and address: what they are asked for, who may connect, and which workers are refused."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_jobs import KubeCluster, SLURMCluster, fake_kubernetes, fake_slurm
from small_atlas import Small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.clusters import checks
from stabdask.clusters.checks import check_paths, check_versions, essential_versions, version_problems
from stabdask.clusters.dashboard import dashboard_text
from stabdask.clusters.options import cluster_request, parse_walltime
from stabdask.clusters.security import address_security
from stabdask.clusters.settings import SETTINGS, remote_environment
from stabdask.clusters.slurm import lifetime
from stabdask.errors import ClusterError, StabdaskWarning, UnfitWorkerError, UsageError

DEPLOYMENTS = Path(__file__).parents[1] / "deployments"


def job(small: Small) -> tuple[Any, Any]:
    return sd.open_cells(small.atlas, layer="M_t", cluster_key="state"), sd.read_field(small.field)


# ---------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ("slrum", {}, "did you mean 'slurm'"),
        ("address", {}, "there is no cluster 'address'"),
        ("slurm", {"wall_time": "1:00"}, "no option 'wall_time' (cluster); did you mean 'walltime'?"),
        ("local", {"walltime": "01:00:00"}, "it is one of slurm"),
        ("slurm", {"workers": 0}, "workers=0; expected a whole number, at least 1"),
        ("slurm", {"workers": True}, "workers=True"),
        ("slurm", {"workers": 2, "adaptive": "0:4"}, "workers and adaptive both say how many workers"),
        ("slurm", {"adaptive": "4:2"}, "adaptive=4:2; expected 0 <= MIN <= MAX"),
        ("slurm", {"adaptive": "many"}, "expected 'MIN:MAX' workers"),
        ("slurm", {"walltime": "1h"}, "walltime='1h'; expected SLURM's form"),
        ("slurm", {"walltime": "00:01:00"}, "is 60 s; expected at least 2 minutes"),
        ("slurm", {"worker_memory": "much"}, "worker_memory='much' is no size"),
        (
            "slurm",
            {"worker_memory": "4"},
            "'4' is too small for a worker ('4' is 4 bytes: did you mean '4GB'?)",
        ),
        ("slurm", {"job_options": "--gres=gpu:1"}, "expected a list of texts"),
        ("kubernetes", {"env": ["A=1"]}, "expected values by name"),
        ("cluster.yaml", {}, "cluster.yaml cannot be read"),
    ],
)
def test_impossible_options(what: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        cluster_request(what, options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers: 3", "has no kind"),
        ("- 1", "has no kind"),
        ("kind: [", "is no YAML"),
        ("kind: slurms", "did you mean 'slurm'"),
        ("kind: slurm\nqueues: long", "did you mean 'queue'"),
        ("kind: slurm\nwalltime: 1:00:00", "walltime=3600 is no text; expected SLURM's form"),
        (
            "kind: slurm\nadaptive: 1:30",
            "adaptive=90; expected 'MIN:MAX' workers, e.g. '0:20'; in a file put it in quotes",
        ),
        ("kind: address", "needs its address"),
        ("kind: local\nhost: !!python/object/apply:os.system ['touch pwned']", "is no YAML"),
    ],
)
def test_impossible_files(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        cluster_request("cluster.yaml", {})
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]


def test_files_and_what_takes_their_place(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: slurm\nqueue: long\nworker_memory: 2GB\nadaptive: [0, 8]\naccount:\n")
    request = cluster_request(path, {"queue": "short", "walltime": None})
    assert (request.kind, request.values) == (
        "slurm",
        {"queue": "short", "worker_memory": 2 * 10**9, "adaptive": (0, 8)},
    )


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "slurm").glob("*.yaml")), ids=lambda path: path.name)
def test_files_in_deployments_are_right_also_where_commented(path: Path, tmp_path: Path) -> None:
    assert cluster_request(path, {}).kind == "slurm"
    options = re.sub(r"^# ((?:\w+:|  - ))", r"\1", path.read_text(), flags=re.MULTILINE)
    (tmp_path / path.name).write_text(options)
    assert len(cluster_request(tmp_path / path.name, {}).values) > 3


def test_workers_end_before_they_are_killed() -> None:
    for walltime in ("00:02:00", "00:30:00", "12:00:00", "7-00:00:00"):
        ends, stagger = lifetime(walltime)
        assert ends - stagger > 60
        assert ends + stagger <= parse_walltime(walltime) - 30


# ------------------------------------------------------------------------------------------ SLURM


def test_slurm_jobs(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    cells, field = job(small)
    said: list[str] = []
    options = {
        "workers": 3,
        "walltime": "02:00:00",
        "worker_memory": "2GB",
        "processes": 2,
        "interface": "ib0",
    }
    shared = tmp_path / "shared"
    with sd.cluster(
        "slurm",
        **options,
        job_options=["--gres=gpu:1"],
        prologue=["module load x"],
        shared_folder=shared,
        say=said.append,
    ) as client:
        assert client.scheduler.address.startswith("tls://")
        (folder,) = shared.iterdir()
        modes = [path.stat().st_mode & 0o777 for path in (folder, *sorted(folder.iterdir()))]
        assert modes == [0o700, 0o600, 0o600]
        report = sd.run(cells, field, tmp_path / "out.zarr", client=client, progress=False)
        assert report.complete
    assert not list(shared.iterdir())
    (asked,) = SLURMCluster.asked
    assert (asked["cores"], asked["processes"], asked["memory"]) == (2, 2, "4000000000 B")
    assert asked["security"].require_encryption
    assert asked["worker_extra_args"] == [
        "--lifetime", "6780s", "--lifetime-stagger", "120s", "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
    ]  # fmt: skip
    assert asked["job_script_prologue"][0] == "module load x"
    exported = dict(line.removeprefix("export ").split("=") for line in asked["job_script_prologue"][1:])
    assert exported == remote_environment()
    assert exported["OPENBLAS_NUM_THREADS"] == "1"
    assert exported["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "False"
    assert asked["job_extra_directives"] == ["--gres=gpu:1"]
    assert asked["scheduler_options"]["dashboard_address"].startswith("127.0.0.1:")
    assert asked["queue"] is None
    # Whole jobs; a range of one size, so that jobs that end are replaced.
    ((least, most),) = [(one["minimum"], one["maximum"]) for one in SLURMCluster.adapted]
    assert (least, most) == (4, 4)
    assert said[0].startswith("SLURM        4 workers, 2 a job of 02:00:00; what jobs say is in ")
    assert re.search(
        r"dashboard    http://127\.0\.0\.1:\d+/stabdask \(Dask's own: /status\); from elsewhere: "
        r"ssh -L 8787:127\.0\.0\.1:\d+ \S+, then http://127\.0\.0\.1:8787/stabdask$",
        said[1],
    )


def test_what_slurm_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(monkeypatch, tmp_path, refusal="invalid partition specified: nowhere")
    with (
        pytest.raises(ClusterError, match="SLURM does not take jobs for workers: invalid partition"),
        sd.cluster("slurm", shared_folder=tmp_path / "shared", dashboard=False),
    ):
        pass
    assert not list((tmp_path / "shared").iterdir())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="there is no sbatch here"), sd.cluster("slurm"):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r'pip install "stabdask\[slurm\]"'), sd.cluster("slurm"):
        pass


def test_the_real_dask_jobqueue_takes_what_is_asked_for(tmp_path: Path) -> None:
    real = pytest.importorskip("dask_jobqueue.slurm")
    from stabdask.clusters.security import security_files
    from stabdask.clusters.slurm import slurm_arguments

    request = cluster_request(
        "slurm", {"queue": "q", "interface": "lo", "walltime": "00:10:00", "processes": 2}
    )
    with security_files(tmp_path) as security:
        arguments = slurm_arguments(request, security)
        of_cluster = {"scheduler_options", "silence_logs"}
        made = real.SLURMJob(
            "tls://10.0.0.1:8786", name="w", **{k: v for k, v in arguments.items() if k not in of_cluster}
        )
        assert of_cluster <= set(inspect.signature(real.JobQueueCluster.__init__).parameters)
        script = made.job_script()
        key = Path(security.tls_worker_key).read_text().splitlines()[1]
    assert "#SBATCH -t 00:10:00" in script
    assert "#SBATCH --cpus-per-task=2" in script
    assert "export OMP_NUM_THREADS=1" in script
    assert "--nthreads 1" in script
    assert "--nworkers 2" in script
    assert "--tls-key " in script
    assert key not in script


# ------------------------------------------------------------------------------------- Kubernetes


def test_pods(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubernetes(monkeypatch)
    with pytest.raises(UsageError, match="NetworkPolicy"), sd.cluster("kubernetes", image="x"):
        pass
    with pytest.raises(UsageError, match="needs an image"), sd.cluster("kubernetes", insecure_tcp=True):
        pass
    options = {"image": "stabdask:0.1", "namespace": "lab", "workers": 4, "gpus": 1, "env": {"A": "1"}}
    with sd.cluster("kubernetes", worker_memory="2GB", insecure_tcp=True, **options) as client:
        assert len(client.nthreads()) == 1
    (asked,) = KubeCluster.asked
    assert asked["namespace"] == "lab"
    worker, scheduler = (asked["spec"]["spec"][kind] for kind in ("worker", "scheduler"))
    assert worker["replicas"] == 4
    (container,) = worker["spec"]["containers"]
    assert container["env"] == {**remote_environment(), "A": "1"}
    assert container["args"] == ["dask", "worker", "--nthreads", "1", "--memory-limit", "2000000000"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "2000000000", "nvidia.com/gpu": "1"}
    assert "nvidia.com/gpu" not in scheduler["spec"]["containers"][0]["resources"]["limits"]
    assert scheduler["spec"]["containers"][0]["args"][-2:] == ["--preload", "stabdask.live.preload"]
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with (
        pytest.raises(ClusterError, match=r'pip install "stabdask\[kubernetes\]"'),
        sd.cluster("kubernetes", image="x", insecure_tcp=True),
    ):
        pass


# --------------------------------------------------------------------------------------- security


@pytest.mark.parametrize(
    ("address", "options", "error", "says"),
    [
        ("tcp://10.0.0.7:8786", {}, UsageError, "neither on this host nor encrypted: .* say --insecure-tcp"),
        ("tcp://0.0.0.0:8786", {}, UsageError, "neither on this host nor encrypted"),
        ("ucx://10.0.0.7:8786", {}, UsageError, "is no address of a scheduler"),
        ("tls://", {}, UsageError, "is no address of a scheduler"),
        ("tcp://127.0.0.1:8786", {"ca": "x"}, UsageError, "does not use them"),
        ("tls://10.0.0.7:8786", {}, ClusterError, "--tls-ca and --tls-cert missing"),
        ("tls://10.0.0.7:8786", {"ca": "/nowhere"}, ClusterError, "/nowhere is not there"),
        ("tls://10.0.0.7:8786", {"ca": __file__, "cert": __file__}, ClusterError, "cannot be used"),
    ],
)
def test_addresses_that_are_refused(address: str, options: dict[str, str], error: Any, says: str) -> None:
    given: Any = {"ca": None, "cert": None, "key": None, "insecure_tcp": False} | options
    with pytest.raises(error, match=says):
        address_security(address, **given)


def test_addresses_that_are_not() -> None:
    for address, allowed in (
        ("tcp://127.0.0.1:1", False),
        ("tcp://localhost:1", False),
        ("tcp://10.0.0.7:1", True),
    ):
        assert address_security(address, ca=None, cert=None, key=None, insecure_tcp=allowed) is None


_STRANGERS = """
import os, sys
from distributed import Client
from distributed.security import Security

tls = sys.argv[1]
for address, security in ((tls.replace("tls://", "tcp://"), None), (tls, None), (tls, Security.temporary())):
    try:
        Client(address, security=security, timeout=2)
        print("connected")
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
os._exit(0)
"""


def test_only_who_has_the_certificate_connects(tmp_path: Path) -> None:
    with sd.cluster("local", workers=1, host="0.0.0.0") as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3
        # The dashboard, and what workers serve over HTTP, listen on loopback; the rest asks for the certificate.
        listening = [
            (one.pid, connection.laddr.ip, connection.laddr.port)
            for one in (psutil.Process(), *psutil.Process().children(recursive=True))
            for connection in one.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        http = client.scheduler_info(n_workers=-1)
        ports = {
            http["services"]["dashboard"],
            *(one["services"]["dashboard"] for one in http["workers"].values()),
        }
        found = {ip for _, ip, port in listening if port in ports}
        assert found == {"127.0.0.1"}
        # In a process of its own: a client that fails leaves parts of itself behind.
        done = subprocess.run(
            [sys.executable, "-c", _STRANGERS, address], capture_output=True, text=True, check=True
        )
        refused = done.stdout.splitlines()
        assert len(refused) == 3, done.stdout
        assert not any("connected" in line for line in refused)
        assert "TLS certificate does not match" in refused[2]
        # By files, as one's own scheduler would be reached.
        ours = client.security
        for name, text in (("cert.pem", ours.tls_client_cert), ("key.pem", ours.tls_client_key)):
            (tmp_path / name).write_text(text)
        files = {
            "tls_ca": tmp_path / "cert.pem",
            "tls_cert": tmp_path / "cert.pem",
            "tls_key": tmp_path / "key.pem",
        }
        with sd.cluster(address, **files) as another:
            assert another.submit(sum, [3, 4]).result() == 7


# ------------------------------------------------------------------------------ started and closed by hand


def test_started_in_one_cell_and_closed_in_another() -> None:
    said: list[str] = []
    made = sd.cluster("local", workers=1, worker_memory="2GB", say=said.append)
    assert repr(made) == "Cluster(local, not started)"
    assert "start()" in made._repr_html_()
    assert not said
    made.close()
    for _ in range(2):
        client = made.start()
        assert made.start() is client
        assert client.submit(sum, [1, 2]).result() == 3
        assert repr(made) == f"Cluster(local, {client.scheduler.address})"
        assert "/stabdask" in made._repr_html_()
        workers = worker_processes()
        assert workers
        made.close()
        made.close()
        assert client.status == "closed"
        assert not psutil.wait_procs(workers, timeout=30)[1]
    assert len(said) == 2


def test_what_nobody_closed_ends_with_python() -> None:
    script = """if __name__ == "__main__":
    import psutil, stabdask as sd
    client = sd.cluster("local", workers=1, dashboard=False, worker_memory="2GB").start()
    print(*[child.pid for child in psutil.Process().children(recursive=True)])  # with what Python itself starts
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def worker_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_impossible_options_are_refused_before_it_is_started() -> None:
    with pytest.raises(UsageError, match="workers=0"):
        sd.cluster("local", workers=0)


# ------------------------------------------------------------------------------ one plain cluster


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with sd.cluster("local", workers=2, dashboard=False, worker_memory="2GB") as made:
        yield made


def test_workers_have_the_settings_of_runs(client: Any) -> None:
    expected = {name: str(value) for name, value in SETTINGS["distributed.nanny.pre-spawn-environ"].items()}
    for found in client.run(lambda: dict(os.environ)).values():
        assert expected.items() <= found.items()
    assert set(client.nthreads().values()) == {1}
    assert all(address.startswith("tcp://127.0.0.1:") for address in client.nthreads())
    assert dashboard_text(client) is None or "127.0.0.1" in str(dashboard_text(client))


def test_the_command_line_connects_by_address(client: Any, small: Small, capsys: Any) -> None:
    store = small.atlas.parent / "out.zarr"
    command = [
        "run",
        str(small.atlas),
        "--field",
        str(small.field),
        "--layer",
        "M_t",
        "--cluster-key",
        "state",
    ]
    command += ["--store", str(store), "--partition-cells", "50", "--cluster"]
    assert main([*command, client.scheduler.address, "--json"]) == 0
    out, err = capsys.readouterr()
    assert '"n_workers": 2' in out
    assert "Traceback" not in err
    for more, says in (
        (["slrum"], "did you mean 'slurm'"),
        (["tcp://10.0.0.7:8786"], "neither on this host nor encrypted"),
        (["slurm", "--memory", "4GB"], "give --worker-memory"),
        (["slurm", "--gpu"], "give --cluster cuda"),
        (["local", "--workers", "0"], "leave --cluster out"),
        (["local", "--walltime", "01:00:00"], "it is one of slurm"),
    ):
        assert main([*command, *more]) == 2, more
        assert says in capsys.readouterr().err
    assert main([*command[:-1], "--jobs", "3"]) == 2
    assert "--jobs is of a cluster; give --cluster too" in capsys.readouterr().err


def test_versions_that_differ(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions(client)
    ours = dict(essential_versions())
    monkeypatch.setattr(checks, "essential_versions", lambda: {**ours, "zarr": "3.0.0", "cloudpickle": "1.0"})
    with pytest.raises(UnfitWorkerError) as caught:
        check_versions(client)
    message = str(caught.value)
    assert f"the scheduler has cloudpickle {ours['cloudpickle']}, this process 1.0" in message
    assert re.search(
        rf"the worker tcp://127.0.0.1:\d+ on \S+ has zarr {ours['zarr']}, this process 3.0.0", message
    )
    assert "start scheduler and workers from the environment of this process" in message
    monkeypatch.setattr(checks, "essential_versions", lambda: {**ours, "scipy": "1.0.0"})
    with pytest.warns(StabdaskWarning, match="may differ in the last bits"):
        check_versions(client)


def test_which_versions_matter() -> None:
    ours = {
        "python": "3.11.7",
        "numpy": "2.4.6",
        "stabdask": "0.1.0",
        "zarr": "3.1.6",
        "dask": "1",
        "distributed": "1",
    }
    ours["cloudpickle"] = "3.1"
    assert version_problems({**ours, "python": "3.11.2", "numpy": "2.1.0", "scipy": "0.1"}, ours, "w") == []
    for name, value in (
        ("python", "3.12.7"),
        ("numpy", "1.26.4"),
        ("stabdask", "0.1.1"),
        ("dask", "2"),
        ("zarr", None),
    ):
        (problem,) = version_problems({**ours, name: value}, ours, "w")
        assert problem == f"w has {f'{name} {value}' if value else f'no {name}'}, this process {ours[name]}"


def test_files_that_workers_do_not_see(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_paths(client, tmp_path, [str(Path(__file__))])
    with pytest.raises(
        UnfitWorkerError, match=r"worker tcp://\S+ on \S+ does not see /nowhere.h5ad, or may not read it"
    ):
        check_paths(client, tmp_path, ["/nowhere.h5ad"])
    monkeypatch.setattr(checks, "_VISIBLE_S", 0.1)

    async def look_elsewhere(probe: str, *_: Any) -> str:  # as on hosts that mount something else there
        from stabdask.clusters.checks import _look

        return await _look(probe.replace("/.probe", "/elsewhere/.probe"), "", [], 0.1)

    monkeypatch.setattr(checks, "_look", look_elsewhere)
    with pytest.raises(
        UnfitWorkerError, match=r"does not see the store at .*Expected store and atlas at the same paths"
    ):
        check_paths(client, tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_ends_while_it_is_asked_is_passed_over() -> None:
    class Answers:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def run(self, *_: Any, on_error: str) -> dict[str, Any]:
            assert on_error == "return"
            return {"tcp://1": "", "tcp://2": self.answer}

    asked: Any = Answers(ConnectionResetError("gone"))
    check_paths(asked, None, [])
    with pytest.raises(UnfitWorkerError, match="tcp://2 does not see it"):
        check_paths(Answers("does not see it"), None, [])  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="broken"):
        check_paths(Answers(KeyError("broken")), None, [])  # type: ignore[arg-type]


def test_a_worker_that_joins_with_another_version_is_dismissed(
    client: Any, small: Small, tmp_path: Path
) -> None:
    """Last of those that share the cluster, which is smaller then."""
    cells, field = job(small)

    def lie() -> None:
        from stabdask.runs import partition

        ours = partition.essential_versions()
        partition.essential_versions = lambda: {**ours, "stabdask": "0.0.1"}

    liar, honest = sorted(client.nthreads())
    client.run(lie, workers=[liar])
    report = sd.run(cells, field, tmp_path / "out.zarr", client=client, partition_cells=20, progress=False)
    assert report.complete
    assert set(client.nthreads()) & {liar, honest} == {honest}
    for receipt in (tmp_path / "out.zarr" / "receipts").glob("0*.json"):
        assert '"attempt": 1' in receipt.read_text()
    others = [address for address in client.nthreads() if address != honest]
    if others:
        client.retire_workers(others)
    client.run(lie)
    with pytest.raises(
        UnfitWorkerError, match=r"has stabdask 0\.0\.1, this process .*it joined after the others"
    ):
        sd.run(cells, field, tmp_path / "o.zarr", client=client, partition_cells=20, progress=False)


def test_a_refusal_travels_with_the_address_of_the_worker() -> None:
    error = UnfitWorkerError("no")
    error.worker = "tcp://127.0.0.1:1"
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.worker) == ("no", "tcp://127.0.0.1:1")
    assert UnfitWorkerError("no").worker == ""


def test_a_script_that_every_worker_imports_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from stabdask.clusters import local_client\n"
        "with local_client(n_workers=1, memory_limit=None, dashboard=False):\n"
        "    raise SystemExit('workers started')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=200
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("stabdask.errors.ClusterError: the worker processes did not start")
    assert "if __name__ == '__main__':" in last
    assert "UsageError: a worker process that imports this script" in done.stderr
