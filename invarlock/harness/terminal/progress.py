"""The progress of a run: ``state/progress.json`` for other programs; a line per case and a bar on the terminal.

With ``-q`` only pytest's dots are shown; with ``-v`` pytest's line about a case is shown above ours.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.catalog.node_ids import parameter_id
from invarlock.documents.runs import ProgressDocument
from invarlock.errors import printable
from invarlock.harness.ending.pytest_report import RERUN
from invarlock.harness.planning.plan import REUSED
from invarlock.harness.session import Controller
from invarlock.harness.terminal.bar import CaseBar
from invarlock.harness.terminal.worker_stages import StagesOfWorkers, stages_folder
from invarlock.jsonio import check_schema, write_json
from invarlock.moments import format_moment, utc_now
from invarlock.pages.parts import counted
from invarlock.stage_line import PLAIN_SECONDS, left_text
from invarlock.stages import StageEvent, listening

FORMAT = "progress-v1"
# A case takes a fixed time plus a time that grows with the model; on one worker, the fixed time is about that of this
# many bytes of weights.
FIXED_COST_BYTES = 300_000_000
BAR_SECONDS = 0.5
# Reading an existing baseline takes less time than this.
SHOWN_SECONDS = 0.1
MAX_STAGE_CHARACTERS = 500

_log = logging.getLogger(__name__)


class Progress:
    """Counts the cases of a run as they begin and end; its memory use grows only with the number of failures."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._cases: dict[str, Case] = {}
        self._total = 0
        self._done = 0
        self._cost_left = 0
        self._cost_done = 0
        self._failed: dict[str, None] = {}
        self._running: dict[str, str] = {}
        # for each running case: the report that decides its outcome, and its seconds so far
        self._shown: dict[str, pytest.TestReport] = {}
        self._seconds: dict[str, float] = {}
        self._began = time.monotonic()
        self._state = "running"
        self._stage: str | None = None
        self._stage_due = 0.0
        self._shared_seconds = 0.0
        self._reused = 0
        self._workers: StagesOfWorkers | None = None
        self._listening = ExitStack()
        self._terminal: Any = None
        self._bar: CaseBar | None = None

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._begin(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if self._workers is not None:
            self._workers.forget(f"worker_{node.gateway.id.removeprefix('gw')}")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._begin([item.nodeid for item in session.items])

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if parameter_id(nodeid) in self._cases:
            self._running[nodeid] = utc_now()
            self._write()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Omit pytest's dot when our own line replaces it."""
        # pytest calls this again for its summary after the run
        ours = self._state == "running" and self._verbosity == 0 and parameter_id(report.nodeid) in self._cases
        if not ours or report.outcome == RERUN or (report.when != "call" and report.passed):
            return None
        return "error" if report.failed and report.when in ("setup", "teardown") else report.outcome, "", ""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node = report.nodeid
        if report.when == "teardown":
            self._reused += int(str(dict(report.user_properties).get(REUSED, 0)))
        case = self._cases.get(parameter_id(node))
        if case is None or node not in self._running:
            return
        self._seconds[node] = self._seconds.get(node, 0.0) + report.duration
        if report.failed or report.when == "call":
            self._shown.setdefault(node, report)
        if report.outcome == RERUN:
            # the worker died, and another worker will run the case again
            del self._running[node], self._seconds[node]
        elif report.when in ("teardown", "???"):
            self._end(case, node)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        self._clear_bar()
        self._say_reused()
        if not self._cases:
            return (yield)
        if self._terminal is not None and self._verbosity >= 0:
            self._terminal.write_line(
                "invarlock: compiling the verdict from the reports, and making the pack", flush=True
            )
        self._state, self._stage = "finishing", None
        self._write()
        try:
            return (yield)
        finally:
            self._state = "ended"
            self._listening.close()
            if self._workers is not None:
                self._workers.stop()
            self._running.clear()
            self._write()

    def _say_reused(self) -> None:
        """Say how many null runs were not measured, because the preset cache has them."""
        terminal = self.controller.config.pluginmanager.getplugin("terminalreporter")
        if self._reused and terminal is not None and self._verbosity >= 0:
            reused, folder = counted(self._reused, "null run"), self.controller.run.settings.preset_cache
            terminal.write_line(printable(f"invarlock: {reused} reused from the preset cache {folder}"))

    def seconds_left(self) -> float | None:
        """Return the estimated seconds for the remaining cases at the speed so far; None before a case is done."""
        if not self._cost_done:
            return None
        # baselines and null runs are made once while all workers wait, so their time does not count for the rest
        spent = max(0.0, time.monotonic() - self._began - self._shared_seconds / self.controller.run.workers)
        return spent * self._cost_left / self._cost_done

    @property
    def _verbosity(self) -> int:
        return int(self.controller.config.get_verbosity())

    def _begin(self, node_ids: Sequence[str]) -> None:
        """Record which cases will run; only the first call has an effect."""
        if self._cases or not self.controller.planned:
            return
        self._cases = {case.id: case for case in self.controller.planned}
        found = [case for case in map(parameter_id, node_ids) if case in self._cases]
        self._total = len(found)
        self._cost_left = sum(cost(self._cases[case]) for case in found)
        self._began = time.monotonic()
        self._terminal = self.controller.config.pluginmanager.getplugin("terminalreporter")
        if self._terminal is not None and self._verbosity == 0:
            # our lines name the cases, so pytest need not show their file
            self._terminal.showfspath = False
        if self._terminal is not None and self._terminal.isatty and "CI" not in os.environ:
            writer = self.controller.config.get_terminal_writer()
            self._bar = CaseBar(self._terminal, self._cost_left, lambda: writer.fullwidth)
        self._stage_due = self._began + (0 if self._bar is not None else PLAIN_SECONDS)
        self._listen()
        self._write()

    def _listen(self) -> None:
        """Show the stages of this process, or those of its workers."""
        config = self.controller.config
        if getattr(config.option, "dist", "no") == "no":
            self._listening.enter_context(listening(self._show_stage))
            return
        scheduler = config.pluginmanager.getplugin("dsession")
        if hasattr(scheduler, "queue"):
            folder = stages_folder(self.controller.run.directory)
            self._workers = StagesOfWorkers(scheduler, folder, self._show_stage)
            self._workers.start()

    def _show_stage(self, event: StageEvent) -> None:
        """Show the stage of the running case: on a terminal at most twice a second, otherwise now and then."""
        self._stage = str(event)[:MAX_STAGE_CHARACTERS] or None
        now = time.monotonic()
        if now < self._stage_due or self._state != "running":
            return
        self._stage_due = now + (BAR_SECONDS if self._bar is not None else PLAIN_SECONDS)
        self._write()
        if self._bar is not None:
            self._draw_bar()
        elif self._terminal is not None and self._verbosity >= 0:
            self._terminal.write_line(printable(f"{self._done}/{self._total} cases · {event}"))

    def _end(self, case: Case, node: str) -> None:
        del self._running[node]
        seconds, shown = self._seconds.pop(node), self._shown.pop(node, None)
        facts = dict(shown.user_properties) if shown is not None else {}
        shared = min(seconds, float(str(facts.get("preparation_seconds", 0.0))))
        seconds -= shared
        self._shared_seconds += shared
        self._stage = None
        failed = shown is not None and shown.failed
        if failed:
            self._failed[node] = None
        self._done += 1
        self._cost_left -= cost(case)
        self._cost_done += cost(case)
        self._write()
        how = "FAILED" if failed else "passed" if shown is None else shown.outcome
        line = case_line(case, facts, seconds, how)
        _log.info("%s", line)
        if self._terminal is not None and self._verbosity >= 0:
            self._clear_bar()
            self._terminal.write_line(printable(line), **({"red": True} if failed else {}))
            self._draw_bar()

    def _draw_bar(self) -> None:
        if self._bar is not None and self._done < self._total:
            failed = f", {len(self._failed)} failed" if self._failed else ""
            left = self.seconds_left()
            rest = "" if left is None else f", {left_text(left)}"
            doing = f" · {self._stage}" if self._stage else ""
            self._bar.draw(printable(f"{self._done}/{self._total} cases{failed}{rest}{doing}"), self._cost_done)

    def _clear_bar(self) -> None:
        if self._bar is not None:
            self._bar.clear()

    def _write(self) -> None:
        """Write ``state/progress.json``; write errors are ignored."""
        document = self._document()
        check_schema(document, "progress", where="progress.json")
        try:
            write_json(self.controller.run.directory.state / "progress.json", document)
        except OSError as error:
            _log.warning("state/progress.json cannot be written: %s", error.strerror)

    def _document(self) -> ProgressDocument:
        left, ending = self.seconds_left(), self.controller.ending
        return {
            "format": FORMAT,
            "suite": self.controller.catalog.suite,
            "state": self._state,
            "stage": self._stage,
            "workers": self.controller.run.workers,
            "cases": {
                "total": self._total,
                "done": self._done,
                "passed": self._done - len(self._failed),
                "failed": len(self._failed),
            },
            "failed": [parameter_id(node) for node in self._failed],
            "running": [{"case": parameter_id(node), "since": since} for node, since in self._running.items()],
            "started_at": format_moment(self.controller.run.started),
            "updated_at": utc_now(),
            "elapsed_seconds": round(time.monotonic() - self._began, 3),
            "estimated_seconds_left": None if left is None else round(left, 1),
            "verdict": None if ending is None else "PASS" if ending.passed else "FAIL",
        }


def cost(case: Case) -> int:
    """Return the relative duration of a case, expressed in bytes of weights."""
    return FIXED_COST_BYTES + case.model.weight_bytes


def case_line(case: Case, facts: Mapping[str, object], seconds: float, how: str) -> str:
    """Return the line of a finished case: outcome, model, scenario, edit, ratio, guards, seconds."""
    run = "" if case.run == 1 else f" (run {case.run})"
    spec = f"  {facts['spec']}" if facts.get("spec", case.scenario.id) != case.scenario.id else ""
    measured = f"ratio {facts['ratio']}  guards {facts['guards']}" if "ratio" in facts else "no report"
    measured = f"{measured}{spec}"
    shared = float(str(facts.get("preparation_seconds", 0.0)))
    before = f", after {shared:.1f} s of preparation" if shared >= SHOWN_SECONDS else ""
    return f"{how}  {case.model.short_name}  {case.scenario.id}{run}  {measured}  {seconds:.1f} s{before}"
