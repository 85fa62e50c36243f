"""Workers on GPUs: how they are started, and refused where they cannot be.

CuPy, dask-cuda, NVML and RMM are stand-ins (tests/fake_cuda.py), so that these tests run without a GPU: workers
are real processes, started as dask-cuda would be asked to. Where dask-cuda is installed, the real one starts
workers too, over a stand-in for NVML; with ``-m gpu``, on a real GPU.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from fake_cuda import GB, NO_DRIVER, FakeCuda, FakeRuntime, LocalCUDACluster
from small_atlas import Small

import stabdask as sd
from stabdask.clusters import gpu_client, local_client, worker_gpus
from stabdask.errors import BackendUnavailableError, UsageError
from stabdask.kernels.device import import_problem
from stabdask.runs.plan import gpu_request

# Workers get what this module sends them as it is: they cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    made = FakeCuda(monkeypatch, tmp_path)
    made.nothing()
    return made


@pytest.fixture
def host(bare: FakeCuda) -> FakeCuda:
    """Give a host with two GPUs and everything but RMM."""
    bare.cupy()
    bare.dask_cuda()
    return bare


def environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith(("OMP", "MALLOC", "MKL", "OPEN"))
    }


def job(small: Small) -> tuple[Any, Any]:
    return sd.open_cells(small.atlas, layer="M_t", cluster_key="state"), sd.read_field(small.field)


# ---------------------------------------------------------------------------------- starting workers


def test_one_worker_with_one_thread_per_gpu_on_loopback(host: FakeCuda) -> None:
    said: list[str] = []
    with local_client(n_workers=1, memory_limit=2 * GB, dashboard=False) as client:
        usual = next(iter(client.run(environment).values()))
    with gpu_client(n_workers=2, memory_limit=2 * GB, dashboard=True, say=said.append) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        found = list(client.run(environment).values())
        settings = client.run_on_scheduler(
            lambda dask_scheduler: (dask_scheduler.allowed_failures, list(dask_scheduler.extensions))
        )
        link = client.dashboard_link
    assert [(one["nthreads"], one["host"], one["memory_limit"]) for one in workers.values()] == [
        (1, "127.0.0.1", 2 * GB)
    ] * 2
    assert all(address.startswith("tcp://127.0.0.1:") for address in workers)
    assert link.startswith("http://127.0.0.1:")
    assert found == [usual] * 2
    assert usual["OMP_NUM_THREADS"] == "1"
    assert settings[0] == 3
    assert said == [
        "GPUs         2 x NVIDIA H100 80GB HBM3; one worker each; memory from CuPy's own pool (rmm is not installed)"
    ]
    (asked,) = LocalCUDACluster.asked
    assert (asked["n_workers"], asked["protocol"], asked["rmm_pool_size"]) == (2, "tcp", None)


def test_rmm_gives_cupy_a_pool_that_starts_small(host: FakeCuda) -> None:
    host.rmm()
    said: list[str] = []
    with gpu_client(n_workers=1, memory_limit=None, dashboard=False, say=said.append) as client:
        assert len(client.nthreads()) == 1
    (asked,) = LocalCUDACluster.asked
    assert (asked["rmm_pool_size"], asked["rmm_for"]) == (2**30, ["cupy"])
    assert asked["rmm_pool_size"] % 256 == 0
    assert asked["memory_limit"] == "auto"
    assert said[0].endswith(
        "1 x NVIDIA H100 80GB HBM3; one worker each; memory from an RMM pool of 1.07 GB at first"
    )


def test_the_real_cluster_takes_what_is_asked_for() -> None:
    problem = import_problem("dask_cuda")
    if problem is not None:
        pytest.skip(f'dask-cuda {problem}: pip install "stabdask[cuda13]"')
    from dask_cuda import LocalCUDACluster as Real

    named = set(inspect.signature(Real.__init__).parameters)
    assert {"n_workers", "threads_per_worker", "memory_limit", "protocol"} <= named
    assert {"rmm_pool_size", "rmm_allocator_external_lib_list"} <= named


# ------------------------------------------------------------------------------------ refusing early


def test_what_is_missing_is_said_with_what_to_install(bare: FakeCuda) -> None:
    with pytest.raises(BackendUnavailableError, match="CuPy is not installed"):
        worker_gpus()
    bare.cupy(FakeRuntime(problem=NO_DRIVER, driver=0))
    with pytest.raises(BackendUnavailableError, match=r"CuPy 14\.2\.0 is here, but no NVIDIA driver"):
        worker_gpus()
    bare.cupy()
    with pytest.raises(BackendUnavailableError) as caught:
        worker_gpus()
    message = str(caught.value)
    assert message.startswith(
        "2 GPU(s) are here, but workers cannot be started on them: dask-cuda is not installed"
    )
    assert 'pip install "stabdask[cuda13]", or "stabdask[cuda12]"' in message


def test_a_dask_cuda_without_its_extra_is_explained(
    bare: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.cupy()
    (tmp_path / "dask_cuda.py").write_text(
        """raise ImportError("cannot import name 'bindings' from 'cuda'")\n"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "dask_cuda")
    with pytest.raises(
        BackendUnavailableError, match="does not import: ImportError: cannot import name 'bindings'"
    ):
        worker_gpus()


def test_nvml_is_tried_before_a_run(host: FakeCuda) -> None:
    class LibraryNotFoundError(Exception):
        pass

    def fail() -> None:
        raise LibraryNotFoundError("NVML Shared Library Not Found")

    vars(sys.modules["pynvml"])["nvmlInit"] = fail
    with pytest.raises(
        BackendUnavailableError, match="NVML about GPUs, which fails with LibraryNotFoundError"
    ):
        worker_gpus()


def test_workers_that_do_not_start(host: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("std::bad_alloc: out_of_memory")

    monkeypatch.setattr(LocalCUDACluster, "__init__", fail)
    with (
        pytest.raises(
            BackendUnavailableError, match=r"could not start 1 GPU worker.*MemoryError: std::bad_alloc"
        ),
        gpu_client(n_workers=1, memory_limit=None),
    ):
        pass


def test_workers_that_die_at_once_are_not_waited_for(host: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = LocalCUDACluster.__init__

    def one_fewer(cluster: LocalCUDACluster, n_workers: int, **options: Any) -> None:
        begin(cluster, n_workers=n_workers - 1, **options)

    monkeypatch.setattr(LocalCUDACluster, "__init__", one_fewer)
    monkeypatch.setattr("stabdask.clusters.local._START_S", 0.2)
    with (
        pytest.raises(BackendUnavailableError, match=r"1 of 2 GPU worker\(s\) started; expected all of them"),
        gpu_client(n_workers=2, memory_limit=None, dashboard=False),
    ):
        pass


# --------------------------------------------------------------------------------------- in a run


def test_gpu_implies_the_cuda_backend_unless_one_is_named(host: FakeCuda) -> None:
    assert gpu_request({"modes": 3}, gpu=True, workers=None) == (2, {"modes": 3, "backend": "auto:cuda"})
    assert gpu_request({"backend": "auto"}, gpu=True, workers=1) == (2, {"backend": "auto:cuda"})
    assert gpu_request({"backend": "lapack"}, gpu=True, workers=2) == (2, {"backend": "lapack"})
    assert gpu_request({"backend": "auto"}, gpu=False, workers=9) == (0, {"backend": "auto"})
    with pytest.raises(UsageError, match=r"workers=3, but 2 GPU\(s\) are visible"):
        gpu_request({}, gpu=True, workers=3)


def test_this_process_needs_a_gpu_but_no_dask_cuda(bare: FakeCuda) -> None:
    bare.cupy()
    assert gpu_request({}, gpu=True, workers=0) == (1, {"backend": "auto:cuda"})


def test_a_run_uses_every_gpu(host: FakeCuda, small: Small, tmp_path: Path, capsys: Any) -> None:
    cells, field = job(small)
    sd.run(
        cells, field, tmp_path / "cpu.zarr", workers=0, backend="lapack", partition_cells=64, progress=False
    )
    report = sd.run(cells, field, tmp_path / "gpu.zarr", gpu=True, backend="lapack", partition_cells=64)
    assert report.complete
    assert (report.n_workers, report.backend) == (2, "lapack")
    assert "GPUs         2 x NVIDIA H100 80GB HBM3; one worker each" in capsys.readouterr().err
    expected, found = (sd.open_results(tmp_path / name) for name in ("cpu.zarr", "gpu.zarr"))
    np.testing.assert_array_equal(found["eigenvalue"], expected["eigenvalue"])


def test_a_run_asks_for_a_backend_on_the_gpu(
    host: FakeCuda, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def prepare(*_: Any, backend: str, **__: Any) -> None:
        asked.append(backend)
        raise BackendUnavailableError("stop here")

    monkeypatch.setattr("stabdask.runs.runner.prepare", prepare)
    cells, field = job(small)
    with pytest.raises(BackendUnavailableError, match="stop here"):
        sd.run(cells, field, tmp_path / "out.zarr", gpu=True)
    assert asked == ["auto:cuda"]


def test_fewer_workers_and_small_jobs_leave_gpus_alone(host: FakeCuda, small: Small) -> None:
    cells, field = job(small)

    def planned(**options: Any) -> tuple[int, int]:
        made = sd.plan(cells, field, gpu=True, backend="lapack", **options)
        return made.n_workers, made.n_gpus

    assert planned(partition_cells=64) == (2, 2)
    assert planned(partition_cells=64, workers=1) == (1, 1)
    assert planned(partition_cells=1000) == (1, 1)
    assert planned(workers=0) == (0, 1)


def test_plans_count_gpus_and_their_memory(host: FakeCuda, small: Small) -> None:
    cells, field = job(small)
    cpu = sd.plan(cells, field, workers=2)
    gpu = sd.plan(cells, field, gpu=True, backend="lapack", workers=2)
    assert (cpu.n_gpus, gpu.n_gpus) == (0, 2)
    assert gpu.worker_peak_bytes > cpu.worker_peak_bytes
    assert gpu.seconds > 0
    assert "workers      2 on 2 GPU(s), at most" in str(gpu)
    assert "GPU" not in str(cpu)


def test_a_run_without_a_gpu_writes_nothing(bare: FakeCuda, small: Small, tmp_path: Path) -> None:
    cells, field = job(small)
    for options in ({}, {"backend": "lapack"}, {"workers": 0}):
        with pytest.raises(BackendUnavailableError, match="no GPU can be used here: CuPy is not installed"):
            sd.run(cells, field, tmp_path / "out.zarr", gpu=True, **options)
        with pytest.raises(BackendUnavailableError, match="no GPU can be used here"):
            sd.plan(cells, field, gpu=True, **options)
    assert not (tmp_path / "out.zarr").exists()


def test_a_client_has_its_own_workers(host: FakeCuda, small: Small, tmp_path: Path) -> None:
    cells, field = job(small)
    client: Any = object()
    with pytest.raises(UsageError, match="gpu starts workers; with a client, which has its own"):
        sd.run(cells, field, tmp_path / "out.zarr", client=client, gpu=True)
    assert not (tmp_path / "out.zarr").exists()


# ------------------------------------------------------------------- the real dask-cuda, a real GPU

_FAKE_NVML = '''
"""Stands for NVML on a host with two GPUs."""
from types import SimpleNamespace

class NVMLError(Exception): pass
for _name in "NotSupported LibraryNotFound DriverNotLoaded Unknown NotFound InvalidArgument".split():
    globals()[f"NVMLError_{_name}"] = type(f"NVMLError_{_name}", (NVMLError,), {})
NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE = 0, 1

def _no(*_): raise NVMLError_NotSupported()

nvmlDeviceGetMigMode = _no
nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 2
nvmlDeviceGetHandleByIndex = lambda index: int(index or 0)
nvmlDeviceGetHandleByUUID = lambda uuid: int(str(uuid)[-1])
nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=80 * 10**9, free=79 * 10**9, used=10**9)
nvmlDeviceGetCpuAffinity = lambda handle, n: [2**64 - 1] * n
nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
nvmlDeviceGetIndex = lambda handle: handle
nvmlDeviceGetComputeRunningProcesses = nvmlDeviceGetComputeRunningProcesses_v2 = lambda handle: []
nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=0, memory=0)
nvmlDeviceGetName = lambda handle: "Pretend GPU"
nvmlSystemGetDriverVersion = lambda: "580.65.06"
'''
_REAL = """
import os, sys, stabdask.clusters.local as clusters
from stabdask.kernels.device import Gpu

if __name__ == "__main__":
    sys.modules["rmm"] = None  # it needs a driver
    clusters.require_gpus = lambda: tuple(
        Gpu(index, "Pretend GPU", (9, 0), 80 * 10**9, None, 132, 232448) for index in range(2)
    )
    with clusters.gpu_client(n_workers=2, memory_limit=None, dashboard=False, say=print) as client:
        print(sorted(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values()))
        print(set(client.run(lambda: os.environ["OMP_NUM_THREADS"]).values()), set(client.nthreads().values()))
        print(client.submit(sum, [1, 2]).result())
"""


def test_the_real_dask_cuda_gives_each_worker_its_gpu(tmp_path: Path) -> None:
    problem = import_problem("dask_cuda")
    if problem is not None:
        pytest.skip(f'dask-cuda {problem}: pip install "stabdask[cuda13]"')
    (tmp_path / "pynvml.py").write_text(_FAKE_NVML)
    script = tmp_path / "start.py"
    script.write_text(_REAL)
    paths = [str(tmp_path), str(Path(sd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    there = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**there, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["['0,1', '1,0']", "{'1'} {1}", "3"]


@pytest.mark.gpu
def test_a_real_gpu_computes_in_its_worker(small: Small, tmp_path: Path) -> None:
    with gpu_client(n_workers=1, memory_limit=None, dashboard=False) as client:
        answer = client.submit(_sum_on_gpu, 1000).result(timeout=120)
    assert answer == sum(range(1000))


def _sum_on_gpu(n: int) -> int:
    import cupy

    return int(cupy.arange(n).sum())
