"""The time limit of a case, ``--case-timeout``, and the ways to end a case that exceeds it.

A worker of xdist ends itself, by a thread of C that needs neither Python's lock nor a signal: a kernel or a driver that
never returns is ended like a Python loop. The controller finds where it was, replaces the worker and does not run the
case again. A run of one process has nobody to replace it. There an alarm interrupts the case, which fails, and the
others go on; if it cannot be interrupted, the process ends, and finished cases are kept.

Waiting for a device, or for what another worker makes, does not count: the time begins anew after each wait.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import pytest

from invarlock.packer.runs.run_directory import RunDirectory

# Time for an interrupted case to end by itself, and then for the process to print why it ends.
GRACE_SECONDS = 60.0
LAST_WORD_SECONDS = 5.0
# Where the clock of a process is.
CLOCK = pytest.StashKey["CaseClock"]()


class Alarm(Protocol):
    """An action when a case exceeds its time limit."""

    def start(self, place: Path) -> None:
        """Start the limit; ``place`` is the file for the stacks of the process."""

    def stop(self) -> None:
        """Cancel the alarm."""


class Exit:
    """Ends the process, whatever it is doing, and writes the stack of each thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stream: TextIO | None = None
        self._place = Path(os.devnull)

    def start(self, place: Path) -> None:
        """Start the limit; when it is over, the stack of every thread is written to a file and the process ends."""
        self._place = place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._stream = place.open("w", encoding="utf-8")
        except OSError:
            # a disk that is full; the case ends in time all the same
            self._stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open until the case ends
        faulthandler.dump_traceback_later(self._seconds, file=self._stream, exit=True)

    def stop(self) -> None:
        """Forget the case, with the file that says nothing then."""
        faulthandler.cancel_dump_traceback_later()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self._place.unlink(missing_ok=True)


class Interrupt:
    """Fails the case, as soon as the process runs Python again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def start(self, place: Path) -> None:
        """Start the limit; when it is over, the case fails."""
        signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail(overdue(self._seconds), pytrace=False))
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        """Stop the limit."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class ExitWithMessage:
    """Ends the process with a line on stderr, which pytest may have captured since this was made."""

    def __init__(self, seconds: float, line: str) -> None:
        self._seconds = seconds
        self._line = line
        self._stderr = os.dup(2)
        self._timer: threading.Timer | None = None

    def start(self, place: Path) -> None:
        """Start the limit; when it is over, the process says which case hangs and ends."""
        self._timer = threading.Timer(self._seconds, self._end, [place.name.partition(".hung")[0]])
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Stop the limit."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, case: str) -> None:
        os.write(self._stderr, f"\ninvarlock: {case}: {self._line}\n".encode())
        os._exit(int(pytest.ExitCode.INTERRUPTED))


class CaseClock:
    """Counts the time of each case and null run of this process; ``timed_id`` names those of pytest's items."""

    def __init__(
        self, directory: RunDirectory, alarms: Sequence[Alarm], timed_id: Callable[[pytest.Item], str | None]
    ) -> None:
        self._directory = directory
        self._alarms = alarms
        self._timed_id = timed_id
        self._place: Path | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        timed_id = self._timed_id(item)
        self._place = None if timed_id is None else self._directory.hung(timed_id)
        self._start()
        try:
            return (yield)
        finally:
            self._stop()
            self._place = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Suspend the limit while this process waits for others, and restart it afterwards."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        if self._place is not None:
            for alarm in self._alarms:
                alarm.start(self._place)

    def _stop(self) -> None:
        for alarm in self._alarms:
            alarm.stop()


def worker_alarms(seconds: float) -> list[Alarm]:
    """Return the alarms of a worker, which xdist replaces."""
    return [Exit(seconds)]


def lone_alarms(seconds: float) -> list[Alarm]:
    """Return the alarms of a run of one process."""
    last = seconds + min(seconds, GRACE_SECONDS)
    line = f"{overdue(seconds)} and could not be interrupted; finished cases are kept, continue: --resume -n 1"
    return [Interrupt(seconds), ExitWithMessage(last, line), Exit(last + LAST_WORD_SECONDS)]


def overdue(seconds: float) -> str:
    """Return the message of a case that took too long."""
    return f"exceeded --case-timeout ({seconds:g} s)"


def hang_of(directory: RunDirectory, case_id: str) -> Path | None:
    """Return the file with the stacks of a worker whose case exceeded its limit, None if that was not the reason."""
    place = directory.hung(case_id)
    return place if place.is_file() and place.stat().st_size else None
