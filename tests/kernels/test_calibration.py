"""The choice between the compiled solver and LAPACK: measured once, remembered, never in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stabdask.errors import BackendUnavailableError
from stabdask.kernels import calibration, lanes
from stabdask.kernels.calibration import cache_path, crossover, machine_key
from stabdask.kernels.eig import eig, resolve_backend

pytestmark = pytest.mark.skipif(not lanes.available(), reason="no compiled solver: LAPACK is all there is")

FLOAT64 = np.dtype(np.float64)


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the orders measured, on a machine whose LAPACK wins above order 250."""
    measured: list[int] = []

    def measure(order: int, dtype: Any, vectors: Any) -> float:
        measured.append(order)
        return 250 / order

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "_measure", measure)
    monkeypatch.setattr(calibration, "_measured", {})
    return measured


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as a new process does."""
    monkeypatch.setattr(calibration, "_measured", {})


def test_lapack_takes_over_where_it_is_faster(orders: list[int]) -> None:
    assert crossover(150, dtype=FLOAT64, vectors="none") is None
    assert orders == [32, 100, 200]
    assert crossover(1000, dtype=FLOAT64, vectors="none") == 200
    assert orders == [32, 100, 200, 300]
    assert resolve_backend("auto", 150) == "lanes"
    assert resolve_backend("auto", 250) == "lanes:200"
    assert resolve_backend("lanes", 5000) == "lanes"
    assert orders == [32, 100, 200, 300]


def test_vectors_and_precision_are_measured_on_their_own(orders: list[int]) -> None:
    crossover(10, dtype=FLOAT64, vectors="none")
    crossover(10, dtype=np.dtype(np.float32), vectors="none")
    crossover(10, dtype=FLOAT64, vectors="right")
    crossover(10, dtype=FLOAT64, vectors="both")
    assert orders == [32, 32, 32]


def test_a_machine_on_which_lapack_always_wins(orders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_measure", lambda *_: 0.5)
    assert resolve_backend("auto", 20) == "lapack"


def test_nothing_is_claimed_beyond_what_was_measured(
    orders: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_measure", lambda *_: 2.0)
    assert resolve_backend("auto", 900) == "lanes"
    assert resolve_backend("auto", 901) == "lanes:900"


def test_figures_are_remembered(orders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    crossover(150, dtype=FLOAT64, vectors="none")
    stored = json.loads(cache_path().read_text())
    assert list(stored) == [machine_key()]
    orders.clear()
    forget(monkeypatch)
    assert crossover(150, dtype=FLOAT64, vectors="none") is None
    assert orders == []
    # Those of another machine stay, and do not count.
    cache_path().write_text(json.dumps({"another": {"float64-values": {"32": 0.1}}}))
    forget(monkeypatch)
    assert crossover(20, dtype=FLOAT64, vectors="none") is None
    assert set(json.loads(cache_path().read_text())) == {"another", machine_key()}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"KEY": 3}', '{"KEY": {"float64-values": {"32": "x"}}}', "\x00\xff"]
)
def test_a_damaged_file_is_measured_over(orders: list[int], text: str) -> None:
    cache_path().parent.mkdir(parents=True)
    cache_path().write_text(text.replace("KEY", machine_key()))
    assert crossover(20, dtype=FLOAT64, vectors="none") is None
    assert orders == [32]
    assert json.loads(cache_path().read_text())[machine_key()] == {"float64-values": {"32": 250 / 32}}


def test_a_folder_that_cannot_be_written(
    orders: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert crossover(20, dtype=FLOAT64, vectors="none") is None
    assert crossover(20, dtype=FLOAT64, vectors="none") is None
    assert orders == [32]


def test_a_real_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget(monkeypatch)
    crossover(20, dtype=FLOAT64, vectors="both")
    assert json.loads(cache_path().read_text())[machine_key()]["float64-vectors"]["32"] > 0


def test_a_mixed_batch(orders: list[int]) -> None:
    rng = np.random.default_rng(0)
    cores = rng.normal(size=(7, 12, 12))
    sizes = np.array([3, 12, 5, 11, 6, 12, 0])
    mixed = eig(cores, sizes=sizes, vectors="both", modes=4, backend="lanes:6")
    for name, rows in (("lanes", sizes <= 6), ("lapack", sizes > 6)):
        own = eig(cores[rows], sizes=sizes[rows], vectors="both", modes=4, backend=name)
        for attribute in ("eigenvalues", "right", "left", "condition", "residual", "trace_defect", "status"):
            np.testing.assert_array_equal(
                getattr(mixed, attribute)[rows], getattr(own, attribute), err_msg=attribute
            )


@pytest.mark.parametrize("backend", ["lanes:", "lanes:x", "lanes:-1", "cpu:100", ":100", "", "lanes :3"])
def test_no_such_backend(backend: str) -> None:
    with pytest.raises(BackendUnavailableError, match="is not available here"):
        resolve_backend(backend, 10)
