"""Make the helpers beside this file importable and hypothesis repeatable."""

import ctypes
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# There is a process of tests on every core: a BLAS that has them all makes each wait for the others. Before NumPy is
# loaded, and for the processes that tests start too.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import anndata
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
# Processes that tests start import the package installed, as the tests do, not the sources in the current folder, which
# lack what was compiled.
os.environ["PYTHONSAFEPATH"] = "1"

from kernels.fake_gpu import compile_device
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.main import main
from stabdask.kernels import lanes

settings.register_profile("stabdask", deadline=None, derandomize=True, database=None)
settings.load_profile("stabdask")


@pytest.fixture(autouse=True)
def no_client_left_behind() -> Iterator[None]:
    """Hold each test to leaving no client that Dask would compute the arrays of later tests with."""

    def clients() -> dict[int, object]:
        distributed = sys.modules.get("distributed.client")
        return {} if distributed is None else dict(distributed._global_clients)

    before = clients()  # those of a fixture that other tests use too
    yield
    left = clients().keys() - before.keys()
    for number in left:
        sys.modules["distributed.client"]._global_clients.pop(number, None)
    assert not left, "a client outlived its test: close it, or make it with set_as_default=False"


Once = Callable[[str, Callable[[Path], object]], Path]

# Folders and files whose tests take longest, or start processes.
FIRST = (
    "test_random_kills.py",
    "test_cuda_source.py",
    "acceptance",
    "runs",
    "test_page*.py",
    "test_readme.py",
    "cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: at the end of the run every core has one of the many short ones."""

    def rank(item: pytest.Item) -> int:
        path = item.path
        hits = [i for i, name in enumerate(FIRST) if path.match(name) or path.parent.name == name]
        return hits[0] if hits else len(FIRST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Give a function that has a folder filled by the first process of tests that asks for it, for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def library(once: Once) -> ctypes.CDLL:
    """Give the kernel of the GPU compiled for this CPU."""
    return ctypes.CDLL(str(once("device", compile_device) / "device.so"))


@pytest.fixture(scope="session")
def demo(once: Once) -> Path:
    """Give the folder that a small ``stabdask demo`` keeps, for the code of pages to read, not to write to."""

    def run(folder: Path) -> None:
        kept = str(folder / "stabdask-demo")
        assert main(["demo", "--cells", "400", "--genes", "40", "--workers", "0", "--keep", kept]) == 0

    return once("demo", run) / "stabdask-demo"


LABELS = {"small": ("a", "b/c", "../x"), "fitted": ("a", "b c", "<x>")}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make what `small` and `fitted` give copies of."""
    folders = {name: tmp_path_factory.mktemp(name) for name in LABELS}
    for name, folder in folders.items():
        make_small(folder, labels=LABELS[name])
    fitted = folders["fitted"]
    adata = anndata.read_h5ad(fitted / "cells.h5ad")
    sd.HopfieldField.open(fitted / "field.zarr").to_anndata(adata)
    adata.write_h5ad(fitted / "fitted.h5ad")
    return folders


@pytest.fixture
def fitted(made: dict[str, Path], tmp_path: Path) -> Small:
    """Give the small atlas with labels that AnnData can write as keys, and the fit in an h5ad."""
    shutil.copytree(made["fitted"], tmp_path, dirs_exist_ok=True)
    return Small(tmp_path / "cells.h5ad", tmp_path / "fitted.h5ad")


@pytest.fixture
def small(made: dict[str, Path], tmp_path: Path) -> Small:
    """Give a small atlas on disk with its field."""
    shutil.copytree(made["small"], tmp_path, dirs_exist_ok=True)
    return Small(tmp_path / "cells.h5ad", tmp_path / "field.zarr")


@pytest.fixture(scope="module", params=["numpy", *lanes.instruction_sets()])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """By NumPy, as without a compiler, and by every compiled variant that runs here."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(lanes, "available", lambda: False)
        else:
            patch.setattr(lanes, "instruction_set", lambda: request.param)
        yield request.param
