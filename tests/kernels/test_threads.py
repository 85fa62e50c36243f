"""BLAS is held to one thread while a kernel runs, and only then."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from stabdask.kernels import lapack  # noqa: F401  (loads SciPy's BLAS beside NumPy's)
from stabdask.kernels import threads as module
from stabdask.kernels.threads import single_threaded_blas


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Let BLAS have two threads, so that a limit of one shows."""
    with threadpool_limits(2, user_api="blas"):
        if set(blas_threads()) != {2}:
            pytest.skip(f"this BLAS cannot be given two threads (it has {blas_threads()})")
        yield


def test_one_thread_inside_and_the_previous_limit_after() -> None:
    with single_threaded_blas():
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {2}


def test_limit_in_force_at_each_entry_is_the_one_restored() -> None:
    with single_threaded_blas():
        pass
    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        with single_threaded_blas():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def test_nested_uses_restore_once_at_the_end() -> None:
    with single_threaded_blas():
        with single_threaded_blas():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {2}


def test_overlapping_uses_from_threads_hold_until_the_last_one_leaves() -> None:
    entered, first_may_leave, first_left = threading.Event(), threading.Event(), threading.Event()
    seen: list[list[int]] = []

    def first() -> None:
        with single_threaded_blas():
            entered.set()
            first_may_leave.wait(10)
        first_left.set()

    worker = threading.Thread(target=first)
    worker.start()
    assert entered.wait(10)
    with single_threaded_blas():
        first_may_leave.set()
        assert first_left.wait(10)
        seen.append(blas_threads())
    worker.join(10)
    assert set(seen[0]) == {1}
    assert set(blas_threads()) == {2}


def test_an_error_inside_restores_the_limit() -> None:
    with pytest.raises(ZeroDivisionError), single_threaded_blas():
        raise ZeroDivisionError
    assert set(blas_threads()) == {2}


def test_many_threads_coming_and_going() -> None:
    wrong: list[list[int]] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait(10)
        for _ in range(20):
            with single_threaded_blas():
                now = blas_threads()
            if set(now) != {1}:
                wrong.append(now)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert wrong == []
    assert set(blas_threads()) == {2}


@pytest.mark.parametrize("main_comes_between", [False, True])
def test_no_thread_keeps_the_right_to_set_limits(main_comes_between: bool) -> None:
    """From 3.8 on threadpoolctl heeds but one thread: the main one here, which holds a limit of two."""
    seen: list[list[int]] = []
    done, stop = threading.Event(), threading.Event()

    def other() -> None:
        with single_threaded_blas():
            seen.append(blas_threads())
        done.set()
        stop.wait(10)

    worker = threading.Thread(target=other)
    worker.start()
    assert done.wait(10)
    after = blas_threads()
    if main_comes_between:
        with single_threaded_blas():
            seen.append(blas_threads())
    with threadpool_limits(3, user_api="blas"):  # of no effect were the other thread still in charge
        theirs = blas_threads()
    stop.set()
    worker.join(10)
    assert [set(threads) for threads in seen] == [{1}] * len(seen)
    assert set(after) == {2}
    assert set(theirs) == {3}
    assert set(blas_threads()) == {2}


class PerThreadLibrary:
    """A BLAS whose limit belongs to the calling thread, as MKL's does."""

    internal_api = "mkl"

    def __init__(self) -> None:
        self._own = threading.local()

    @property
    def num_threads(self) -> int:
        return getattr(self._own, "limit", 8)

    def set_num_threads(self, n_threads: int) -> None:
        self._own.limit = n_threads


def test_libraries_with_a_limit_per_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    library = PerThreadLibrary()
    monkeypatch.setattr(module, "_libraries", [library])
    seen: dict[str, int] = {}
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        library.set_num_threads(5)
        with single_threaded_blas():
            seen["inside"] = library.num_threads
            inside.set()
            leave.wait(10)
        seen["after"] = library.num_threads

    worker = threading.Thread(target=other)
    with single_threaded_blas():
        worker.start()
        assert inside.wait(10)
        with single_threaded_blas():
            pass
        assert library.num_threads == 1
    # Restored at once, though another thread is still inside.
    assert library.num_threads == 8
    leave.set()
    worker.join(10)
    assert seen == {"inside": 1, "after": 5}
