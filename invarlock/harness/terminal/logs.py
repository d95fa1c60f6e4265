"""Logs of a run in ``logs/``: one file for each worker and each case.

A failure message ends with the last lines of the case's log. Code logs to a logger below ``invarlock``, such as
``getLogger(__name__)``. Logs stay in the run directory and are not put into packs.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest._code.code import ExceptionRepr

from invarlock.catalog.cases import Case
from invarlock.catalog.node_ids import parameter_id
from invarlock.harness.session import case_of
from invarlock.harness.state.run import Run

LOGGER = logging.getLogger("invarlock")
LAST_LINES = 8
# The log of a case has about twenty lines; its last lines are searched in this many bytes at its end.
TAIL_BYTES = 4096

_log = logging.getLogger(__name__)


class Logs:
    """Opens this process's log at its first case, and the log of each case while the case runs."""

    def __init__(self, run: Run, process: str) -> None:
        self.run = run
        self.process = process
        self._own: logging.Handler | None = None
        self._began = 0.0
        self._level = LOGGER.level

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        # the log is not opened earlier, since the run directory may not exist before the first case
        if self._own is None:
            LOGGER.setLevel(self.run.settings.log_level.upper())
            self._own = _open(self.run.directory.logs / f"{self.process}.log")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        case = case_of(item)
        if case is None:
            return (yield)
        self.pytest_runtest_logstart()
        handler = _open(self.run.directory.log(case))
        self._began = time.monotonic()
        _log.info("%s: begins", case.id)
        try:
            return (yield)
        finally:
            _close(handler)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        case = case_of(item)
        if case is not None:
            if report.failed:
                self._explain(case, report)
            elif report.when == "call":
                # the evaluation runs in the test's setup, so the duration of the call alone would be nearly zero
                _log.info("%s: %s after %.2f s", case.id, report.outcome, time.monotonic() - self._began)
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Show the end of a case's log when its worker died; the message in the pack stays unchanged."""
        for case in self.run.catalog.planned([parameter_id(crashitem)]):
            path = self.run.directory.log(case)
            lines = last_lines(path)
            if lines:
                report.sections.append((self._title(path), "\n".join(lines)))

    def pytest_unconfigure(self) -> None:
        """Close this process's log file."""
        if self._own is not None:
            _close(self._own)
            LOGGER.setLevel(self._level)

    def _explain(self, case: Case, report: pytest.TestReport) -> None:
        """Log a failure, and put the last lines of the case's log below its message.

        The lines are a separate section of the message, because only its first part goes into the pack.
        """
        path = self.run.directory.log(case)
        lines = last_lines(path)
        seconds = time.monotonic() - self._began
        _log.error("%s: failed in %s after %.2f s: %s", case.id, report.when, seconds, _first_line(report))
        # remove pytest's own copy of the same lines
        report.sections = [section for section in report.sections if not section[0].startswith("Captured log")]
        if lines and isinstance(report.longrepr, ExceptionRepr):
            report.longrepr.addsection(self._title(path), "\n".join(lines))

    def _title(self, path: Path) -> str:
        return f"last lines of {path.relative_to(self.run.directory.path)}"


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a log, or an empty list if the file does not exist."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - TAIL_BYTES))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    # the first line may be incomplete
    return (lines if size <= TAIL_BYTES else lines[1:])[-LAST_LINES:]


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr)
    return text.splitlines()[0].removeprefix("Failed: ") if text else "no message"


class _LogFile(logging.FileHandler):
    """A log file that ignores write errors: on a full disk, the case reports the problem and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _open(path: Path) -> logging.Handler:
    handler: logging.Handler
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8")
    except OSError:
        handler = logging.NullHandler()
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    LOGGER.addHandler(handler)
    return handler


def _close(handler: logging.Handler) -> None:
    LOGGER.removeHandler(handler)
    with suppress(OSError):
        handler.close()
