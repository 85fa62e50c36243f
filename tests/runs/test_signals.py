"""Ctrl-C, SIGTERM and SIGHUP: a clean stop that says how to resume, once or twice, to one process or to all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from durable import command

import stabdask as sd
from stabdask.cli.interrupts import EXIT_INTERRUPTED, interruptible
from stabdask.cli.main import main
from stabdask.runs.receipts import is_locked

HANG_S = 100


def start(small, store: Path, workers: int, ignored: int | None = None) -> subprocess.Popen[str]:
    """Start a run of 230 partitions in a session of its own, as a terminal or a batch job is."""
    return subprocess.Popen(
        command(small, store, "--workers", str(workers), "--partition-cells", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if ignored is None else (lambda: signal.signal(ignored, signal.SIG_IGN)),
    )


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def n_done(store: Path) -> int:
    return len(list((store / "receipts").glob("0*.json")))


def left_of(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (OSError, psutil.Error):
            continue
    return found


def check_stopped(process: subprocess.Popen[str], store: Path, says: tuple[str, ...]) -> None:
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == EXIT_INTERRUPTED, errors
    assert any(text in errors for text in says), errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    wait_until(lambda: not left_of(process.pid))
    assert not is_locked(store)


STOPS = [
    # workers, signal, to all processes, twice, a signal that is ignored from the start
    pytest.param(1, signal.SIGTERM, False, False, None, id="SIGTERM"),
    pytest.param(1, signal.SIGINT, True, False, None, id="Ctrl-C in a terminal"),
    pytest.param(1, signal.SIGTERM, True, True, None, id="SIGTERM to all, twice"),
    pytest.param(0, signal.SIGHUP, True, False, None, id="a terminal that closes"),
    pytest.param(0, signal.SIGTERM, False, False, signal.SIGINT, id="in the background of a shell"),
]


@pytest.mark.parametrize(("workers", "number", "to_all", "twice", "ignored"), STOPS)
def test_clean_stop(
    small, tmp_path: Path, workers: int, number: int, to_all: bool, twice: bool, ignored: int | None
) -> None:
    store = tmp_path / "o.zarr"
    process = start(small, store, workers, ignored)
    wait_until(lambda: n_done(store) > 1)
    send = os.killpg if to_all else os.kill
    send(process.pid, number)
    says = (
        f"interrupted by {signal.Signals(number).name}; what is finished is kept, the same command resumes",
    )
    if twice:
        time.sleep(0.1)
        if process.poll() is None:
            send(process.pid, number)
        says = (*says, "stopped at once")
    check_stopped(process, store, says)
    done = n_done(store)
    assert 1 < done < 230
    # The same command resumes with the next partition.
    assert sd.status(store).n_partitions_done == done
    assert not list(tmp_path.glob(".*.tmp"))


def test_signals_that_are_ignored_stay_so(small, tmp_path: Path) -> None:
    """As nohup has it."""
    store = tmp_path / "o.zarr"
    process = start(small, store, 0, ignored=signal.SIGHUP)
    wait_until(lambda: n_done(store) > 1)
    process.send_signal(signal.SIGHUP)
    done = n_done(store)
    wait_until(lambda: n_done(store) > done)
    process.send_signal(signal.SIGTERM)
    check_stopped(process, store, ("interrupted by SIGTERM",))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_signals_at_random_moments(small, tmp_path: Path, workers: int) -> None:
    """Also while workers are being started."""
    rng = np.random.default_rng(workers)
    for trial in range(12):
        store = tmp_path / f"{trial}.zarr"
        process = start(small, store, workers)
        wait_until(store.exists)
        time.sleep(rng.uniform(0.0, 3.0))
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[trial % 3]
        (os.killpg if trial % 2 else os.kill)(process.pid, number)
        check_stopped(process, store, (f"interrupted by {signal.Signals(number).name}",))
        assert n_done(store) == sd.status(store).n_partitions_done


def test_handlers_are_put_back_unless_the_program_ends() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with interruptible(is_program=False) as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # a second one does not disturb who cleans up
    assert interrupts.received == ["SIGTERM", "SIGINT"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_program_that_has_finished_is_not_interrupted(tmp_path: Path) -> None:
    code = (
        "import signal\nfrom stabdask.cli.interrupts import interruptible\n"
        "with interruptible(is_program=True): pass\nsignal.raise_signal(signal.SIGTERM)\nprint('here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"


def test_commands_that_cannot_resume_do_not_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("stabdask.runs.status.status", lambda path: signal.raise_signal(signal.SIGTERM))
    assert main(["status", str(tmp_path)]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "\nstabdask: interrupted by SIGTERM\n"


def test_workers_leave_what_terminals_send_to_the_client() -> None:
    """Also those that replace others."""
    from stabdask.clusters import local_client

    def handlers() -> tuple[bool, bool]:
        return tuple(signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGINT, signal.SIGHUP))

    with local_client(n_workers=1, memory_limit=None, dashboard=False) as client:
        (pid,) = client.run(os.getpid).values()
        assert list(client.run(handlers).values()) == [(True, True)]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: list(client.run(os.getpid, on_error="ignore").values()) not in ([], [pid]))
        wait_until(lambda: list(client.run(handlers).values()) == [(True, True)])
