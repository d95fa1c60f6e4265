"""Ctrl-C in a run with workers: each worker stops its case at once, and no report that a worker sent is lost.

xdist gives its workers five seconds before it interrupts them; during that time they run further cases, whose results
are lost. This module makes the controller interrupt them at once, read what they still send, and end those that do not
stop.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty
from types import FrameType
from typing import Any

import pytest

# The time a worker has to stop its case and report it; a PyTorch operation that takes longer is cut off.
STOP_SECONDS = 2.5
# The time a worker's process then has to end.
EXIT_SECONDS = 0.3
# The xdist messages that workers send about finished cases.
REPORTS = ("testreport", "logstart", "logfinish")
ENDED = ("workerfinished", "errordown", "internal_error")


class Interruption:
    """Stops the workers of an interrupted run, in the process that started them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        distributed: Any = self._config.pluginmanager.getplugin("dsession")
        manager = getattr(distributed, "nodemanager", None)
        if manager is None:
            return
        # Ctrl-C in a terminal reaches the workers too, but a signal sent to one process does not
        for process in _processes(manager):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        self._read_reports(distributed)
        manager.group.terminate(EXIT_SECONDS)

    def _read_reports(self, distributed: Any) -> None:
        """Process the workers' messages until all workers have ended or the time is over."""
        deadline = time.monotonic() + STOP_SECONDS
        alive = {node.gateway.id for node in distributed._active_nodes}
        while alive and (left := deadline - time.monotonic()) > 0:
            try:
                event, given = distributed.queue.get(timeout=left)
            except Empty:
                return
            if event in ENDED:
                alive.discard(given["node"].gateway.id)
            elif event in REPORTS:
                getattr(distributed, f"worker_{event}")(**given)


def _processes(manager: Any) -> Iterator[Any]:
    """Yield the processes of xdist's workers on this machine."""
    for gateway in manager.group:
        process = getattr(gateway._io, "popen", None)
        if process is not None:
            yield process


class InterruptedCase:
    """Lets the first interrupt of a worker stop its case, and ignores what the case reports afterwards.

    The terminal and the controller both send an interrupt, and a second one would cut off the worker's reports. Errors
    that a case raises while it is being stopped (an interrupt that a library turns into its own error, a lock that no
    longer exists) say nothing about the case.
    """

    def __init__(self) -> None:
        self._stopped = False
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._stopped = True
        raise KeyboardInterrupt

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> None:
        if self._stopped and call.excinfo is not None:
            raise KeyboardInterrupt
