"""Partitions that find no memory: tried again, then named with what to change; never cut in halves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from durable import OPTIONS, assert_same, open_small, run_small
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.atlas.cells import cell_state
from stabdask.errors import RunFailedError
from stabdask.runs import executors
from stabdask.runs import partition as partition_module
from stabdask.runs.block import compute_block
from stabdask.runs.job import prepare

ADVICE = r"--memory or fewer --workers.*fewer --partition-cells"
LIMIT = 700 * 2**20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def calm(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("calm") / "o.zarr"
    run_small(small, store)
    return store


def takes_too_much(folder: Path, times: int) -> object:
    """Return a worker plugin: writing partition 2 takes more memory than a worker may have, so many times."""
    from distributed import WorkerPlugin

    class TakesTooMuch(WorkerPlugin):  # a local class, which goes to workers by value
        def setup(self, worker: object) -> None:
            from stabdask.runs import partition

            original = partition.write_partition

            def write(path, spec, number, arrays):
                tries = len(list(folder.iterdir()))
                if number == 2 and tries < times:
                    (folder / f"{tries}").touch()
                    held = []
                    while True:  # until the nanny ends this process
                        held.append(np.ones(2**22))
                return original(path, spec, number, arrays)

            partition.write_partition = write

    return TakesTooMuch()


@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
def test_worker_killed_for_its_memory(
    small, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    from stabdask.clusters import local_client
    from stabdask.clusters.settings import SETTINGS

    # Every worker that is killed takes seconds; random kills have as many as it takes.
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 1)
    store, folder = tmp_path / "o.zarr", tmp_path / "tries"
    folder.mkdir()
    with local_client(n_workers=1, memory_limit=LIMIT, dashboard=False) as client:
        client.register_plugin(takes_too_much(folder, times), name="greedy")
        if times == 1:
            assert run_small(small, store, workers=None, client=client).complete
            assert len(list(folder.iterdir())) == 1
        else:
            with pytest.raises(RunFailedError, match=rf"number [23] with KilledWorker.*{ADVICE}"):
                run_small(small, store, workers=None, client=client)
            # The others are finished, but for one that may have waited in each of the workers that were killed: Dask
            # cannot know which of the two it was.
            done = sd.status(store).n_partitions_done
            assert done in (3, 4)
            assert run_small(small, store).n_partitions_computed == 5 - done
    assert_same(store, calm)


def too_large(times: int):
    """Return a `write_partition` that asks for more than any machine has, so many times, in partition 3."""
    original, tries = partition_module.write_partition, []

    def write(path, spec, number, arrays):
        if number == 3 and len(tries) < times:
            tries.append(number)
            np.empty(1 << 55, dtype=np.uint8)
        return original(path, spec, number, arrays)

    return write


@pytest.mark.parametrize("times", [2, 99])
def test_memory_error_in_this_process(
    small, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    store = tmp_path / "o.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(partition_module, "write_partition", too_large(times))
        if times < executors._TRIES:
            assert run_small(small, store).complete
        else:
            with pytest.raises(RunFailedError, match=rf"number 3 with _?[A-Za-z]*MemoryError.*{ADVICE}"):
                run_small(small, store)
            assert sd.status(store).n_partitions_done == 4
    run_small(small, store)
    assert_same(store, calm)


@pytest.mark.parametrize("times", [1, 99])
def test_memory_error_in_a_worker(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    from distributed import Client

    store = tmp_path / "o.zarr"
    monkeypatch.setattr(partition_module, "write_partition", too_large(times))
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        if times == 1:
            assert run_small(small, store, workers=None, client=client).complete
        else:
            with pytest.raises(RunFailedError, match=rf"number 3 with _?[A-Za-z]*MemoryError.*{ADVICE}"):
                run_small(small, store, workers=None, client=client)
            assert sd.status(store).n_partitions_done == 4


def test_a_limit_on_address_space(small, tmp_path: Path) -> None:
    """What ulimit -v and some batch systems do."""
    store = tmp_path / "o.zarr"
    code = f"""
import resource
import numpy as np
import stabdask as sd
from stabdask.runs import partition
original = partition.write_partition
def write(path, spec, number, arrays):
    if number == 3:
        resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.RLIM_INFINITY))
        try:
            np.ones(2**34, dtype=np.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return original(path, spec, number, arrays)
partition.write_partition = write
cells = sd.open_cells({str(small.atlas)!r}, layer="M_t", cluster_key="state")
try:
    sd.run(cells, sd.read_field({str(small.field)!r}), {str(store)!r}, workers=0, **{OPTIONS!r})
except sd.errors.RunFailedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "memory ran out" in done.stdout
    assert sd.status(store).n_partitions_done == 4
    assert run_small(small, store).n_partitions_computed == 1


def test_blocks_of_half_the_size_may_give_other_bits(small) -> None:
    """Why partitions are not cut in halves where memory runs out: results would depend on the memory of a machine.

    Products of matrices have other last bits with other numbers of rows; what is solved cell by cell has not.
    """
    cells, field = open_small(small)
    job = prepare(cells, field, quantities=OPTIONS["quantities"])
    x = np.asarray(cell_state(cells).data)

    def compute(n_cells: int) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for first in range(0, len(x), n_cells):
            rows = slice(first, first + n_cells)
            for name, values in compute_block(
                x[rows], job.model_codes[rows], field, job.spec.options
            ).items():
                found.setdefault(name, []).append(values.tobytes())
        return found

    whole, halves = compute(230), compute(115)
    assert b"".join(whole["eigenvalue"]) == b"".join(halves["eigenvalue"])
    norms = (np.frombuffer(b"".join(found["rotational_norm"])) for found in (whole, halves))
    np.testing.assert_allclose(*norms, rtol=1e-12)
