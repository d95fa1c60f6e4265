"""The locks for artifacts that are made once and shared by workers, between two owners and two processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.errors import EvaluationError
from invarlock.harness.state.locks import TIMES_CASE_TIMEOUT, Locks
from invarlock.problems import Code

# Takes a lock, prints a line, and holds the lock until its standard input is closed.
HOLDER = (
    "import sys; from pathlib import Path; from invarlock.harness.state.locks import Locks\n"
    "from invarlock.packer.runs.run_directory import RunDirectory\n"
    "with Locks(RunDirectory(Path(sys.argv[1])), 60).acquire('piece'):\n"
    "    print('acquired', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@contextmanager
def another_process(directory: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock of ``piece``."""
    command = [sys.executable, "-c", HOLDER, str(directory.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "acquired\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_claim_is_refused_while_another_process_has_the_lock(directory: RunDirectory) -> None:
    locks = Locks(directory, 60)
    with another_process(directory) as process:
        with locks.try_acquire("piece") as ours:
            assert not ours
        with locks.try_acquire("another piece") as ours:
            assert ours

        process.kill()
        process.wait(10)

        # the kernel releases the lock of a process that died
        with locks.try_acquire("piece") as ours:
            assert ours


def test_a_lock_that_stays_taken_is_an_error_after_twice_the_time_of_a_case(directory: RunDirectory) -> None:
    waits = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append("began")
        try:
            yield
        finally:
            waits.append("ended")

    locks = Locks(directory, 0.1 / TIMES_CASE_TIMEOUT, waiting)
    with another_process(directory), pytest.raises(EvaluationError, match="piece") as caught, locks.acquire("piece"):
        pass

    # the case's clock is paused during the wait and resumes after it
    assert waits == ["began", "ended"]
    assert caught.value.code is Code.RUN_IN_USE


def test_a_lock_is_released_when_its_owner_fails(directory: RunDirectory) -> None:
    first, second = Locks(directory, 60), Locks(directory, 60)

    for taken in (first.acquire("piece"), first.try_acquire("piece")):
        with pytest.raises(ZeroDivisionError), taken:
            raise ZeroDivisionError
        with second.try_acquire("piece") as ours:
            assert ours
