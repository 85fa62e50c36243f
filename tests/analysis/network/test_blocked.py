"""Precision matrices in tiles, against numpy.linalg.inv and the classes in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stabdask as sd
from stabdask.analysis.network import BlockedPrecision, CoMoments, PrecisionMatrix
from stabdask.analysis.network.blocked import building, inverting, moments, receipt, workers
from stabdask.analysis.network.blocked.plan import _STEP_TILES
from stabdask.analysis.network.blocked.tiles import Tiles
from stabdask.errors import (
    DamagedStoreError,
    InputError,
    MemoryBudgetError,
    MissingFileError,
    NotPositiveDefiniteError,
    OutputError,
    StoreLockedError,
    StoreMismatchError,
    UsageError,
)

Array = np.ndarray[Any, Any]

SHAPES = [(37, 10), (32, 16), (37, 64), (37, 36), (1, 4), (3, 1)]


def covariance(n: int, seed: int = 42, d: int = 3) -> tuple[Array, Array]:
    """Return the covariance of a model of factors, and loadings of pathways."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(0, 0.1, (n, 10))
    return factors @ factors.T + np.diag(rng.uniform(0.01, 0.05, n)), rng.normal(0, 0.05, (n, d))


def atlas(n_cells: int = 300, n_genes: int = 37, *, dtype: str = "float32", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 2.0, (n_cells, n_genes)) @ (
        np.eye(n_genes) + 0.1 * rng.normal(size=(n_genes, n_genes))
    )
    return (x + 50.0).astype(dtype)


def opened(x: Any) -> Any:
    return sd.open_cells(anndata.AnnData(x))


def check(blocked: BlockedPrecision, sigma: Array, tolerance: float = 1e-9) -> None:
    """Assert that everything in it is that of `sigma`."""
    inverse = np.linalg.inv(sigma)
    theta = blocked.theta.compute()
    np.testing.assert_allclose(blocked.sigma.compute(), sigma, rtol=0, atol=tolerance * np.abs(sigma).max())
    np.testing.assert_allclose(theta, inverse, rtol=0, atol=tolerance * np.abs(inverse).max())
    assert np.array_equal(theta, theta.T)
    assert blocked.logdet == pytest.approx(np.linalg.slogdet(sigma)[1], abs=1e-8 * len(sigma))
    assert blocked.probe() == blocked.recorded_probe < 1e-9
    rho = sd.network.partial_correlations(theta)
    np.testing.assert_array_equal(blocked.partial_correlations().compute(), rho)


@pytest.mark.parametrize(("n", "tile"), SHAPES)
def test_the_inverse_of_a_covariance_matrix(n: int, tile: int, tmp_path: Path) -> None:
    sigma, _ = covariance(n)
    genes = [f"g{i}" for i in range(n)]
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", genes, tile=tile)
    check(blocked, sigma)
    assert blocked.tile == min(tile, n)
    assert blocked.cells is None
    rho = blocked.partial_correlations().compute()
    told, expected = blocked.statistics(0.15), sd.network.statistics(rho, 0.15)
    assert told == pytest.approx(expected, nan_ok=True)
    for asked in ({"top": 7}, {"threshold": 0.1}, {"top": 10_000}, {"threshold": 0.0}):
        found, wanted = blocked.edges(**asked), sd.network.edges(rho, genes, **asked)  # type: ignore[arg-type]
        assert found.equals(wanted), asked
    again = BlockedPrecision.open(tmp_path / "p.zarr")
    assert again.genes.tolist() == genes
    assert (again.logdet, again.recorded_probe) == (blocked.logdet, blocked.recorded_probe)
    if n > 1:
        np.testing.assert_allclose(
            again.to_precision_matrix().theta, np.linalg.inv(sigma), rtol=1e-8, atol=1e-8
        )


def test_edges_that_tie_stand_in_the_order_of_genes(tmp_path: Path) -> None:
    theta = np.eye(12) * 4.0
    for a, b in ((0, 11), (3, 4), (2, 9), (1, 5), (7, 10)):
        theta[a, b] = theta[b, a] = -1.0 if a % 2 else 1.0
    blocked = BlockedPrecision.from_covariance(np.linalg.inv(theta), tmp_path / "p.zarr", tile=5)
    rho = blocked.partial_correlations().compute().round(12)
    for top in (1, 2, 3, 5):
        found = blocked.edges(top=top)
        assert len(found) == top
        assert np.abs(found["partial_correlation"]).round(12).unique().tolist() == [0.25]
    assert set(blocked.edges(threshold=0.2)["gene_a"]) == {"0", "1", "2", "3", "7"}
    assert np.array_equal(rho, rho.T)


@pytest.mark.parametrize("kind", ["dask", "zarr", "memmap", "list"])
def test_where_a_covariance_matrix_may_be(kind: str, tmp_path: Path) -> None:
    sigma, _ = covariance(23)
    given: Any = sigma.tolist()
    if kind == "dask":
        given = da.from_array(sigma, chunks=(7, 11)) * 1.0
    elif kind == "zarr":
        given = zarr.create_array(str(tmp_path / "sigma.zarr"), data=sigma, chunks=(9, 9))
    elif kind == "memmap":
        np.save(tmp_path / "sigma.npy", sigma)
        given = np.load(tmp_path / "sigma.npy", mmap_mode="r")
    check(BlockedPrecision.from_covariance(given, tmp_path / "p.zarr", tile=6), sigma)


@pytest.mark.parametrize("method", ["none", "fixed", "ledoit-wolf"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_inverse_of_the_covariance_of_cells(method: Any, kind: str, tmp_path: Path) -> None:
    x = atlas()
    amount = 0.2 if method == "fixed" else None
    cells = opened(x if kind == "dense" else sparse.csr_matrix(x))
    blocked = BlockedPrecision.from_cells(
        cells, tmp_path / "p.zarr", shrinkage=method, amount=amount, tile=13
    )
    known = PrecisionMatrix.from_moments(CoMoments.from_cells(cells), method, amount)
    assert blocked.amount == pytest.approx(known.amount, rel=1e-8)
    check(blocked, known.sigma)
    assert blocked.cells is not None
    assert known.cells is not None
    assert (blocked.cells.count, blocked.cells.ddof) == (known.cells.count, known.cells.ddof)
    np.testing.assert_allclose(blocked.cells.mean, known.cells.mean, rtol=1e-12)
    assert blocked.genes.tolist() == known.genes.tolist()
    assert blocked.n_passes >= 2


def test_bits_do_not_depend_on_workers_blocks_or_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = atlas(300, 24)
    monkeypatch.setattr(moments, "_STRETCH_CELLS", 90)
    monkeypatch.setattr(moments, "slab_rows", lambda n_genes: 64)
    made = []
    for number, (block, threads) in enumerate([(300, 1), (37, 5)]):
        monkeypatch.setattr(workers, "cpu_count", lambda threads=threads: threads)
        cells = opened(x).chunk({"cell": block})
        path = tmp_path / f"{number}.zarr"
        blocked = BlockedPrecision.from_cells(cells, path, shrinkage="ledoit-wolf", tile=8)
        blocked.update(np.linspace(-1.0, 1.0, 24))
        made.append(blocked)
    assert len({blocked.n_passes for blocked in made}) > 1
    for blocked in made[1:]:
        assert np.array_equal(blocked.theta.compute(), made[0].theta.compute())
        assert np.array_equal(blocked.sigma.compute(), made[0].sigma.compute())
        assert (blocked.amount, blocked.logdet) == (made[0].amount, made[0].logdet)


@settings(max_examples=4)
@given(n=st.integers(1, 16), n_tiles=st.integers(1, 3), seed=st.integers(0, 99))
def test_tiles_do_not_matter_but_for_rounding(
    n: int, n_tiles: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sigma, X = covariance(n, seed, d=1)
    tile = -(-n // n_tiles)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path_factory.mktemp("t") / "p.zarr", tile=tile)
    check(blocked, sigma)
    blocked.update(X)
    check(blocked, sigma + X @ X.T)


@pytest.mark.parametrize("d", [1, 9, 30])
def test_changes(d: int, tmp_path: Path) -> None:
    n, tile = 37, 19
    sigma, X = covariance(n, d=d)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", tile=tile)
    blocked.update(X)
    check(blocked, sigma + X @ X.T)
    blocked.downdate(X)
    check(blocked, sigma, 1e-8)
    way = "low rank" if d <= max(1, min(n / 4, tile)) else "direct"
    assert [change[:3] for change in blocked.history] == [("update", d, way), ("downdate", d, way)]
    again = BlockedPrecision.open(tmp_path / "p.zarr")
    assert again.history == blocked.history
    assert sorted(path.name for path in (tmp_path / "p.zarr").glob("generation_*")) == ["generation_3"]
    assert sorted(path.name for path in (tmp_path / "p.zarr" / "generation_3").iterdir()) == [
        "sigma",
        "sigma_diagonal",
        "theta",
        "theta_diagonal",
        "zarr.json",
    ]
    blocked.update(np.zeros((n, 0)))
    assert blocked.history[-1].rank == 0
    with pytest.raises(NotPositiveDefiniteError, match="nothing has changed"):
        blocked.downdate(10.0 * X)
    with pytest.raises(InputError, match="shape"):
        blocked.update(np.ones((n + 1, 1)))
    check(blocked, sigma, 1e-8)


def test_what_has_drifted_is_inverted_anew(tmp_path: Path) -> None:
    sigma, X = covariance(20)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", tile=6, drift_tolerance=1e-300)
    scaled = receipt.read_receipt(blocked.path)
    receipt.write_receipt(blocked.path, inverting.replace(scaled, baseline=0.0))
    blocked.update(X)
    assert blocked.n_refactorizations == 1
    assert blocked.history[-1].refactorized
    check(blocked, sigma + X @ X.T)


def test_a_copy_is_one_of_its_own(tmp_path: Path) -> None:
    sigma, X = covariance(20)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", tile=6)
    other = blocked.copy(tmp_path / "q.zarr")
    other.update(X)
    check(blocked, sigma)
    check(other, sigma + X @ X.T)
    with pytest.raises(StoreMismatchError):
        blocked.copy(tmp_path / "q.zarr")


def test_arrays_of_before_a_change_say_so_after_it(tmp_path: Path) -> None:
    sigma, X = covariance(20)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", tile=6)
    other = BlockedPrecision.open(tmp_path / "p.zarr")
    theta = blocked.theta
    blocked.update(X)
    with pytest.raises(DamagedStoreError, match="changed"):
        theta.compute()
    other.update(X)  # reads the receipt first
    check(other, sigma + 2 * X @ X.T)


def test_an_error_in_a_change_leaves_the_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigma, X = covariance(37)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr", tile=13)
    whole = Tiles.write
    for limit in (0, 5, 6, 11):
        left = [limit]

        def fails(self: Tiles, *arguments: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            whole(self, *arguments)

        monkeypatch.setattr(Tiles, "write", fails)
        with pytest.raises(OSError, match="No space"):
            blocked.update(X)
        monkeypatch.setattr(Tiles, "write", whole)
        assert [path.name for path in blocked.path.glob("generation_*")] == ["generation_1"]
        check(BlockedPrecision.open(blocked.path), sigma)
        assert blocked.history == ()
    blocked.update(X)
    check(blocked, sigma + X @ X.T)


KILLED = """
import sys, os, signal, numpy as np
from stabdask.analysis.network.blocked import receipt
from stabdask.analysis.network import BlockedPrecision
path, when = sys.argv[1:]
written = receipt.write_atomically
def receive(file, data):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    written(file, data)
    os.kill(os.getpid(), signal.SIGKILL)
receipt.write_atomically = receive
BlockedPrecision.open(path).update(np.load(path + ".npy"))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_the_middle_of_a_change(when: str, tmp_path: Path) -> None:
    sigma, X = covariance(37)
    path = tmp_path / "p.zarr"
    BlockedPrecision.from_covariance(sigma, path, tile=13)
    np.save(f"{path}.npy", X)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert len(list(path.glob("generation_*"))) == 2
    blocked = BlockedPrecision.open(path)
    changed = sigma + X @ X.T if when == "after" else sigma
    check(blocked, changed)
    blocked.update(X)
    check(blocked, changed + X @ X.T)
    assert len(list(path.glob("generation_*"))) == 1


def test_one_change_at_a_time(tmp_path: Path) -> None:
    sigma, X = covariance(9)
    blocked = BlockedPrecision.from_covariance(sigma, tmp_path / "p.zarr")
    with receipt.locked(blocked.path), pytest.raises(StoreLockedError, match="is changing"):
        blocked.update(X)
    blocked.update(X)


def flip(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "tile": lambda p: flip(p / "generation_1/theta/c/1/0"),
    "cut": lambda p: (p / "generation_1/sigma/c/2/1").write_bytes(b"short"),
    "missing": lambda p: (p / "generation_1/theta/c/2/0").unlink(),
    "receipt": lambda p: flip(p / "receipt.json", 45),
    "no receipt": lambda p: (p / "receipt.json").unlink(),
    "names": lambda p: flip(p / "gene/c/0", 20),
    "diagonal": lambda p: flip(p / "generation_1/theta_diagonal/c/0", 20),
    "array": lambda p: (p / "generation_1/theta/zarr.json").write_text("{"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    BlockedPrecision.from_covariance(covariance(20)[0], path, tile=8)
    DAMAGE[kind](path)
    with pytest.raises(DamagedStoreError):
        BlockedPrecision.open(path).probe()


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigma, _ = covariance(12)
    path = tmp_path / "p.zarr"
    make = BlockedPrecision.from_covariance
    asymmetric, nan = sigma.copy(), sigma.copy()
    asymmetric[2, 9] += 1.0
    nan[9, 2] = np.nan
    constant = sigma.copy()
    constant[3] = constant[:, 3] = 0.0
    indefinite = sigma.copy()
    indefinite[3, 9] = indefinite[9, 3] = 1.0
    names = [f"g{i}" for i in range(12)]
    for bad, error, words in (
        (asymmetric, InputError, r"not symmetric: entries \(g\d+, g\d+\)"),
        (nan, InputError, r"1 entries that are NaN or infinite, the first at genes \(g9, g2\)"),
        (constant, InputError, "no positive variance: g3"),
        (sigma[:3], InputError, "shape"),
        (sigma.astype(complex), InputError, "real numbers"),
        (np.ones((12, 12)), NotPositiveDefiniteError, "g1 .* is left"),
        (indefinite, NotPositiveDefiniteError, "not positive definite"),
    ):
        with pytest.raises(error, match=words):
            make(bad, path, names if len(bad) == 12 else None, tile=5)
        assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="more than once"):
        make(sigma, path, ["a"] * 12)
    with pytest.raises(UsageError, match="tile"):
        make(sigma, path, tile=0)
    with pytest.raises(UsageError, match="drift_tolerance"):
        make(sigma, path, drift_tolerance=0.0)
    with pytest.raises(MemoryBudgetError, match="at least"):
        make(sigma, path, memory="1MB")
    with monkeypatch.context() as patched:
        patched.setattr(building.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(OutputError, match="10 B left"):
            make(sigma, path)
    assert not list(tmp_path.iterdir())
    blocked = make(sigma, path, names, tile=5)
    with pytest.raises(StoreMismatchError, match="exists"):
        make(sigma, path)
    make(2 * sigma, path, names, tile=5, overwrite=True)
    check(BlockedPrecision.open(path), 2 * sigma)
    for choice in ({}, {"top": 0}, {"threshold": 2.0}, {"top": 1, "threshold": 0.1}):
        with pytest.raises(UsageError):
            blocked.edges(**choice)
    with pytest.raises(UsageError, match="threshold"):
        blocked.statistics(3.0)
    monkeypatch.setattr(building, "available_bytes", lambda: 10)
    with pytest.raises(MemoryBudgetError, match="available"):
        blocked.to_precision_matrix()
    with pytest.raises(MissingFileError, match=r"nothing\.zarr"):
        BlockedPrecision.open(tmp_path / "nothing.zarr")
    PrecisionMatrix.from_covariance(sigma).save(tmp_path / "memory.zarr")
    with pytest.raises(MissingFileError, match="but 'precision'"):
        BlockedPrecision.open(tmp_path / "memory.zarr")


def test_cells_that_are_refused(tmp_path: Path) -> None:
    x = atlas(60).astype(np.float64)
    make, path = BlockedPrecision.from_cells, tmp_path / "p.zarr"
    with pytest.raises(NotPositiveDefiniteError, match="20 cells and 37 genes"):
        make(opened(x[:20]), path)
    assert make(opened(x[:20]), tmp_path / "few.zarr", shrinkage="ledoit-wolf", tile=19).amount > 0
    constant = x.copy()
    constant[:, 5] = 3.3
    with pytest.raises(InputError, match="no positive variance: 5"):
        make(opened(constant), path, tile=19)
    shrunk = make(opened(constant), tmp_path / "c.zarr", tile=19, shrinkage="ledoit-wolf")
    assert float(shrunk.sigma[5, 6].compute()) == 0.0
    twice = x.copy()
    twice[:, 30] = twice[:, 2]
    with pytest.raises(NotPositiveDefiniteError, match="more than rounding errors"):
        make(opened(twice), path, tile=19)
    nan = x.copy()
    nan[[7, 50], 3] = np.nan
    with pytest.raises(InputError, match="number 7 of 60"):
        make(opened(nan), path, tile=19)
    skipped = make(opened(nan), tmp_path / "s.zarr", tile=19, missing="skip")
    assert skipped.n_skipped == 2
    check(skipped, np.cov(np.delete(x, [7, 50], axis=0).T), 1e-8)
    nan[:38] = np.nan
    with pytest.raises(NotPositiveDefiniteError, match="21 cells"):
        make(opened(nan), path, tile=19, missing="skip")
    with pytest.raises(InputError, match="rescale"):
        make(opened(x * 1e155), path, tile=19)
    with pytest.raises(UsageError, match="method"):
        make(opened(x), path, shrinkage="some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="amount"):
        make(opened(x), path, shrinkage="fixed")
    with pytest.raises(UsageError, match="missing"):
        make(opened(x), path, missing="drop")  # type: ignore[arg-type]
    assert not path.exists()
    assert not list(tmp_path.glob(".p.zarr*"))


def test_plans() -> None:
    small = sd.network.plan(2_000)
    assert small.in_memory
    assert "fits" in str(small)
    large = sd.network.plan(30_000, memory="2GB")
    assert not large.in_memory
    assert "blocked" in str(large)
    assert large.peak_bytes <= large.memory_bytes
    assert large.to_dict()["tile"] == large.tile
    with pytest.raises(MemoryBudgetError) as caught:
        sd.network.plan(30_000, memory="300MB")
    least = str(caught.value).split("at least ")[1].split(" ")[0]
    assert sd.network.plan(30_000, memory=least).peak_bytes <= float(least.removesuffix("GB")) * 1e9
    cells = opened(atlas(100))
    assert sd.network.plan(cells).n_cells == 100
    with pytest.raises(NotPositiveDefiniteError, match="no inverse"):
        sd.network.plan(opened(atlas(20)))
    assert sd.network.plan(opened(atlas(20)), shrinkage="ledoit-wolf").n_cells == 20
    for bad in (0, -3):
        with pytest.raises(InputError, match="at least one"):
            sd.network.plan(bad)
    for options in ({"memory": "much"}, {"shrinkage": "some"}, {"tile": 0}, {"tile": 2.5}):
        with pytest.raises(UsageError):
            sd.network.plan(100, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="number of genes"):
        sd.network.plan("100")  # type: ignore[arg-type]


@given(n=st.integers(1, 200_000), gigabytes=st.floats(0.3, 64.0))
@settings(max_examples=40)
def test_plans_stay_within_their_budget(n: int, gigabytes: float) -> None:
    try:
        planned = sd.network.plan(n, memory=int(gigabytes * 1e9))
    except MemoryBudgetError:
        return
    assert planned.peak_bytes <= planned.memory_bytes
    assert 1 <= planned.tile <= n
    assert planned.n_at_once >= 1
    assert planned.n_passes >= 2


def test_memory_does_not_grow_with_the_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, tile = 960, 240
    sigma, X = covariance(n)
    np.save(tmp_path / "sigma.npy", sigma)
    mapped = np.load(tmp_path / "sigma.npy", mmap_mode="r")
    monkeypatch.setattr(workers, "cpu_count", lambda: 1)
    BlockedPrecision.from_covariance(np.eye(4), tmp_path / "warm.zarr", tile=2).edges(top=1)
    tracemalloc.start()
    blocked = BlockedPrecision.from_covariance(mapped, tmp_path / "p.zarr", tile=tile)
    blocked.update(X)
    blocked.edges(top=5)
    blocked.statistics()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Graphs of tasks and vectors take some too; a matrix alone would be 7.4 MB.
    allowed = _STEP_TILES * 8 * tile**2 + 1_000_000
    assert peak < allowed < 8 * n * n
    inverse = np.linalg.inv(sigma + X @ X.T)
    np.testing.assert_allclose(blocked.theta.compute(), inverse, rtol=0, atol=1e-9 * np.abs(inverse).max())


def test_no_more_steps_at_once_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cpu_count", lambda: 6)
    live: list[int] = []
    most, lock = [0], threading.Lock()

    def step(number: int) -> int:
        with lock:
            live.append(number)
            most[0] = max(most[0], len(live))
        time.sleep(0.005)
        with lock:
            live.remove(number)
        return number

    for at_once in (1, 2, 4):
        most[0] = 0
        steps = {number: workers.Step(partial(step, number)) for number in range(12)}
        assert workers.Workers(None, 4).run(steps, at_once=at_once) == {n: n for n in range(12)}
        assert most[0] <= at_once


def test_on_the_workers_of_a_cluster(tmp_path: Path) -> None:
    from distributed import Client

    x = atlas(80, 12)
    here = BlockedPrecision.from_cells(opened(x), tmp_path / "here.zarr", tile=5)
    with Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        there = BlockedPrecision.from_cells(opened(x), tmp_path / "there.zarr", tile=5, client=client)
        there.update(np.ones(12))
        known = np.cov(x.astype(float).T)
        given = da.from_array(known, chunks=7)
        other = BlockedPrecision.from_covariance(given, tmp_path / "o.zarr", tile=5, client=client)
        assert there.edges(top=3).shape == (3, 3)
        with pytest.raises(NotPositiveDefiniteError):
            there.downdate(np.full(12, 1e3))
    np.testing.assert_allclose(other.sigma.compute(), here.sigma.compute(), rtol=1e-9)
    here.update(np.ones(12))
    assert np.array_equal(here.theta.compute(), there.theta.compute())
