"""The same run started twice: the second session stops whatever its task, and a killed session blocks no other."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest
from invarlock.packer.runs.run_directory import RunDirectory
from processes import start_pytest

from invarlock.errors import UsageError
from invarlock.harness.state.run_lock import RunLock
from invarlock.problems import Code

ROOT = Path(__file__).parents[3]
RunPytest = Callable[..., Any]
# A session that begins, says so with a file and then hangs. It is killed before it imports torch.
WAITING = """

def pytest_runtest_setup(item):
    import time
    (item.config.rootpath / "waiting").touch()
    time.sleep(300)
"""


@contextmanager
def session(suites: Path, directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a session that waits in its first case, and kill it at the end."""
    ours = ("-p", "invarlock.harness.plugin", "--rootdir", suites.parent, "-k", "mistral and noop")
    given = (suites, *ours, "--output-dir", directory, *arguments)
    waiting = suites.parent / "waiting"
    waiting.unlink(missing_ok=True)
    process = start_pytest(*given, cwd=suites.parent, output=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    try:
        while not waiting.is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        holder = (directory / "state/session.txt").read_text()
        assert holder.startswith(f"pid {process.pid} ")
        yield process
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)


def test_a_second_session_in_the_same_directory_stops_and_names_the_first_one(
    run_pytest: RunPytest, own_suites: Path, tmp_path: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(WAITING)
    directory = tmp_path / "run"

    with session(own_suites, directory) as first:
        before = contents(directory)
        same = run_pytest("-k", "mistral and noop", suites=own_suites, directory=directory)
        presets = ("--suite-mode", "calibrate-only", "--resume")
        nulls = run_pytest(*presets, suites=own_suites, directory=directory, DRIFT_CALIBRATION_RUNS="2")
        after = contents(directory)
    with session(own_suites, directory, "--resume"):
        pass

    message = f"--output-dir: {directory} is in use by pid {first.pid} on {socket.gethostname()} since "
    for ran in (same, nulls):
        assert (ran.status, ran.output.count(message)) == (4, 1), ran.output
        assert "exists and is not empty" not in ran.output
    assert after == before


def contents(directory: Path) -> dict[str, bytes]:
    """Return a run's files, except those that its session writes while it waits."""
    watched = ("progress.json", "disk_pressure.json")
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.parent.name != "logs" and not path.name.removeprefix(".").startswith(watched) and path.is_file()
    }


def test_a_session_that_finds_the_lock_taken_leaves_the_folders(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    first = filelock.FileLock(directory.session_lock)

    class TakenMeanwhile(RunDirectory):
        """A run directory whose lock another session takes after this one made its folders, but before it locks."""

        @property
        def session_lock(self) -> Path:
            first.acquire()
            return directory.session_lock

    late = RunLock(TakenMeanwhile(tmp_path / "run"))

    with pytest.raises(UsageError, match="is in use by another session") as refused:
        late.take()
    assert refused.value.code is Code.RUN_IN_USE
    late.give_up()

    assert first.is_locked
    assert directory.state.is_dir()
