"""The time limit of a case, ``--case-timeout``, and the ways to end a case that exceeds it.

An xdist worker ends itself by a C thread that needs neither Python's lock nor a signal, so a GPU kernel or driver call
that never returns is ended just like a Python loop. The controller finds out where the worker was, replaces it and does
not run the case again. In a run of one process, nothing can replace the process: an alarm interrupts the case, which
fails, and the other cases go on. If the case cannot be interrupted, the process ends, and finished cases are kept.

Waiting for a device, or for a result of another worker, does not count: the time begins anew after each wait.
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

# The time that an interrupted case has to end by itself, and that the process then has to print why it ends.
GRACE_SECONDS = 60.0
LAST_WORD_SECONDS = 5.0
# The key under which a process stores its clock.
CLOCK = pytest.StashKey["CaseClock"]()


class Alarm(Protocol):
    """An action when a case exceeds its time limit."""

    def start(self, place: Path) -> None:
        """Start the time limit; ``place`` is the file for the stack traces of the process."""

    def stop(self) -> None:
        """Cancel the alarm."""


class Exit:
    """Ends the process, whatever it is doing, and writes the stack trace of each thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stream: TextIO | None = None
        self._place = Path(os.devnull)

    def start(self, place: Path) -> None:
        """Start the limit; when it is exceeded, the stack traces are written to a file and the process ends."""
        self._place = place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._stream = place.open("w", encoding="utf-8")
        except OSError:
            # the disk may be full; the time limit still applies
            self._stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open until the case ends
        faulthandler.dump_traceback_later(self._seconds, file=self._stream, exit=True)

    def stop(self) -> None:
        """Cancel the alarm for the case, and remove its file, which is empty."""
        faulthandler.cancel_dump_traceback_later()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self._place.unlink(missing_ok=True)


class Interrupt:
    """Fails the case as soon as the process runs Python code again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def start(self, place: Path) -> None:
        """Start the limit; when it is exceeded, the case fails."""
        signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail(overdue(self._seconds), pytrace=False))
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        """Stop the limit."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class ExitWithMessage:
    """Ends the process with a line on the original stderr, even if pytest has captured stderr since."""

    def __init__(self, seconds: float, line: str) -> None:
        self._seconds = seconds
        self._line = line
        self._stderr = os.dup(2)
        self._timer: threading.Timer | None = None

    def start(self, place: Path) -> None:
        """Start the limit; when it is exceeded, the process prints which case hangs, and ends."""
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
    """Limits the time of each case and null run in this process; ``timed_id`` returns the id of a pytest item."""

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
    """Return the alarms for a worker, which xdist can replace."""
    return [Exit(seconds)]


def lone_alarms(seconds: float) -> list[Alarm]:
    """Return the alarms for a run of one process."""
    last = seconds + min(seconds, GRACE_SECONDS)
    line = f"{overdue(seconds)} and could not be interrupted; finished cases are kept, continue: --resume -n 1"
    return [Interrupt(seconds), ExitWithMessage(last, line), Exit(last + LAST_WORD_SECONDS)]


def overdue(seconds: float) -> str:
    """Return the message about a case that exceeded its time limit."""
    return f"exceeded --case-timeout ({seconds:g} s)"


def hang_of(directory: RunDirectory, case_id: str) -> Path | None:
    """Return the stack trace file of a worker whose case exceeded its limit, or None if it ended for another reason."""
    place = directory.hung(case_id)
    return place if place.is_file() and place.stat().st_size else None
