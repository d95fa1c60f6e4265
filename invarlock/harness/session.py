"""A pytest session over a suites folder: cases at collection, a plan before the first case, a verdict at the end.

The controller (pytest itself without xdist, otherwise the process that starts the workers) plans and finishes the run;
a worker only runs cases. Both collect the same cases from the same files.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from invarlock.catalog.cases import Case
from invarlock.catalog.node_ids import parameter_id
from invarlock.errors import InvarLockError, UsageError, disk_refuses, printable, printable_lines
from invarlock.harness.cases.sentinels import SENTINELS, sentinel_problems
from invarlock.harness.ending.pytest_report import RERUN, ask_for_json_report
from invarlock.harness.opening import OpenSuite
from invarlock.harness.planning.piece_file import PieceFile
from invarlock.harness.planning.plan import (
    CALIBRATE_ONLY,
    PlannedNullRun,
    calibration_lines,
    plan_lines,
    scenario_lines,
)
from invarlock.harness.planning.sharding import Collected, own_cases
from invarlock.harness.selection.selected_cases import SENTINEL_MARK
from invarlock.harness.state.disk_pressure import DiskPressure
from invarlock.harness.state.run import Run
from invarlock.harness.state.run_lock import RunLock
from invarlock.harness.stopping.case_clock import hang_of, overdue
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code
from invarlock.runtime.handover import check_code
from invarlock.text_tables import fit_line

if TYPE_CHECKING:
    from invarlock.harness.ending.finishing import Ending

WORKER_KEY = "invarlock"
# The key under which a process stores its session.
SESSION = pytest.StashKey["SuiteSession"]()
# The beginnings of lines with a command or a path. Such lines are not folded, because people copy them.
COMMANDS = ("verify it with: ", "run the cases with them: ", "when all ", "evidence pack: ", "overview: ", "presets: ")


class SuiteSession(ABC):
    """The part that controller and worker share: the catalog, its cases as parameters, and the selection."""

    def __init__(self, suite: OpenSuite, config: pytest.Config) -> None:
        self.suite = suite
        self.config = config
        self.catalog, self.settings = suite.catalog, suite.settings
        # all selected cases, before the shard is chosen
        self.whole: list[Case] = []
        # true on a node of a fleet whose piece only measures a baseline
        self.baseline_only = False
        for mark in self.catalog.known_marks():
            config.addinivalue_line("markers", f"{mark}: cases of InvarLock")

    @property
    @abstractmethod
    def run(self) -> Run:
        """The run that the cases belong to."""

    def _run(self, directory: Path, workers: int, started: datetime, worker: int = 0) -> Run:
        option = self.config.option
        expression = {"-m": option.markexpr, "-k": option.keyword, "suite": self.catalog.suite}
        ids = self.settings.scenario_ids
        return Run(
            suites_folder=self.suite.folder,
            settings=self.settings,
            catalog=self.catalog,
            directory=RunDirectory(directory),
            workers=workers,
            started=started,
            expression={**expression, "--scenario-ids": ",".join(ids or ())},
            worker=worker,
            image=None if self.suite.handover is None else self.suite.handover.image,
            launch_problems=self.suite.launch_problems,
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(self) -> Generator[None, object, object]:
        """Skip tests that this mode does not run: cases if presets are made, null runs if cases are run."""
        made = yield
        left_out = Case if self.calibrates_only else PlannedNullRun
        return [one for one in made if _parameter(one, left_out) is None] if isinstance(made, list) else made

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise tests that take a case, a null run or a sentinel."""
        if "sentinel" in metafunc.fixturenames:
            metafunc.parametrize("sentinel", [pytest.param(name, marks=pytest.mark.sentinel) for name in SENTINELS])
        if "null_run" in metafunc.fixturenames:
            rows = [
                pytest.param(
                    null_run,
                    id=null_run.id,
                    marks=[getattr(pytest.mark, mark) for mark in self.catalog.model_marks(null_run.model)],
                )
                for null_run in self._null_runs()
            ]
            metafunc.parametrize("null_run", rows)
        if "case" not in metafunc.fixturenames:
            return
        params = [
            pytest.param(case, id=case.id, marks=[getattr(pytest.mark, mark) for mark in self.catalog.marks(case)])
            for case in self.catalog.cases
            # cases of other suites are not created, since there may be many times as many
            if self.catalog.selects(case, None)
        ]
        metafunc.parametrize("case", params)

    def _selects(self, item: pytest.Item) -> bool:
        if item.get_closest_marker(SENTINEL_MARK) is not None:
            return self.catalog.sentinels
        case, null_run = _parameter(item, Case), _parameter(item, PlannedNullRun)
        if null_run is not None:
            return self.catalog.has_model(null_run.model)
        return case is None or self.catalog.selects(case, self.settings.scenario_ids)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        selected = {item: self._selects(item) for item in items}
        self.whole = [case for item in items if selected[item] and (case := _parameter(item, Case)) is not None]
        own: set[str] | None = None
        if self.settings.piece is not None:
            piece = PieceFile.read(Path(self.settings.piece))
            own, others, self.whole = set(piece.cases), False, self.catalog.planned(piece.whole)
            self.baseline_only = piece.baseline_only
        elif self.settings.shard is not None:
            own = {case.id for case in own_cases(self.whole, self.settings.shard)}
            # a test that runs no case belongs to the first shard
            others = self.settings.shard[0] == 1
        if own is not None:
            selected = {
                item: kept and (others if (case := _parameter(item, Case)) is None else case.id in own)
                for item, kept in selected.items()
            }
        kept = [item for item in items if selected[item]]
        dropped = [item for item in items if not selected[item]]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    @property
    def calibrates_only(self) -> bool:
        """Whether the session makes presets and runs no case."""
        return bool(self.settings.suite_mode == CALIBRATE_ONLY)

    def _null_runs(self) -> list[PlannedNullRun]:
        models = {case.model.id: case.model for case in self.catalog.cases}.values()
        # for an empty list, pytest would create a skipped test
        numbers = range(1, max(1, self.settings.calibration_runs) + 1)
        return [PlannedNullRun(model, number) for model in models for number in numbers]


class Worker(SuiteSession):
    """An xdist worker, which gets the run directory from the controller."""

    def __init__(self, suite: OpenSuite, config: pytest.Config) -> None:
        # imported here: collecting needs none of it
        from invarlock.harness.state.leftovers import die_with_parent
        from invarlock.harness.stopping.interrupting import InterruptedCase

        die_with_parent()
        config.pluginmanager.register(InterruptedCase(), "invarlock-interrupted-case")
        super().__init__(suite, config)
        given: dict[str, Any] = config.workerinput[WORKER_KEY]  # type: ignore[attr-defined]  # xdist sets it
        started = datetime.fromisoformat(given["started"])
        number = int(config.workerinput["workerid"].removeprefix("gw"))  # type: ignore[attr-defined]  # xdist sets it
        self._of = self._run(Path(given["run_directory"]), int(given["workers"]), started, number)

    @property
    def run(self) -> Run:
        """Return the run that the controller planned."""
        return self._of

    def pytest_collection_finish(self) -> None:
        """Write the ids of all selected cases if the controller needs them to divide the run into shards."""
        given = self.config.workerinput[WORKER_KEY]  # type: ignore[attr-defined]  # xdist sets it
        if given["collected"] is not None:
            Collected(Path(given["collected"])).write(self.whole)


class Controller(SuiteSession):
    """The process that plans the run, and at the end compiles the verdict and builds the pack."""

    def __init__(self, suite: OpenSuite, config: pytest.Config) -> None:
        super().__init__(suite, config)
        settings = suite.settings
        if suite.handover is not None:
            check_code(suite.handover)
        option = config.option
        started = datetime.now(UTC)
        shard = self.settings.shard
        part = "" if shard is None else f"_shard_{shard[0]}_of_{shard[1]}"
        default = f"evidence_pack_runs/{self.catalog.suite}_{started:%Y%m%d_%H%M%S}{part}"
        if settings.resume and not settings.output_dir:
            default = newest_run(config.invocation_params.dir, self.catalog.suite, part) or default
        directory = config.invocation_params.dir / (settings.output_dir or default)
        distributed = getattr(option, "dist", "no") != "no"
        self._of = self._run(directory.resolve(), max(1, len(option.tx)) if distributed else 1, started)
        self.planned: list[Case] = []
        self._null_runs_planned: list[PlannedNullRun] = []
        self._collected = Collected() if shard is not None and distributed and not shows_only(option) else None
        self._lost: set[str] = set()
        self.ending: Ending | None = None
        self.nothing_selected = False
        self._lock = RunLock(self._of.directory)
        self._pressure = DiskPressure(self._of.directory)
        if not shows_only(option):
            ask_for_json_report(option)

    @property
    def run(self) -> Run:
        """Return the run, which is known from the start."""
        return self._of

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[WORKER_KEY] = {
            "run_directory": str(self.run.directory.path),
            "workers": self.run.workers,
            "started": self.run.started.isoformat(),
            "collected": None if self._collected is None else str(self._collected.path),
        }

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._plan(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Run a case whose worker died once more on another worker; a case that kills a second worker fails.

        A case that exceeded its time limit is not repeated, since it would exceed the limit again.
        """
        hang = hang_of(self.run.directory, parameter_id(crashitem))
        if hang is not None:
            where = hang.relative_to(self.run.directory.path)
            timeout = self.settings.case_timeout
            report.longrepr = f"{overdue(timeout)}; its worker is replaced; stack traces: {where}"
            return
        if crashitem in self._lost:
            return
        self._lost.add(crashitem)
        report.outcome = RERUN  # type: ignore[assignment]  # what pytest counts by itself, and not as a failure
        sched.mark_test_pending(crashitem)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan the run from the collected cases if the run has only one process."""
        # with xdist the controller collects nothing; its workers report the cases that they found
        if session.items and not shows_only(session.config.option):
            self._plan([item.nodeid for item in session.items])

    def pytest_report_collectionfinish(self, config: pytest.Config, items: list[pytest.Item]) -> list[str]:
        """Return the lines shown below the number of collected cases: what the run will do and need."""
        ids = [item.nodeid for item in items]
        if self.calibrates_only:
            return calibration_lines(self.run, self._planned_null_runs(ids))
        cases = self._cases(ids)
        if not cases:
            return []
        return plan_lines(self.run, cases) + (scenario_lines(self.run, cases) if shows_only(config.option) else [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if not self.planned and not self._null_runs_planned:
            self.nothing_selected = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
            return
        # imported here: collecting needs none of it, nor does a worker
        from invarlock.harness.ending.finishing import Ending
        from invarlock.harness.ending.job import write_job_summary
        from invarlock.harness.state.leftovers import remove_unfinished

        report = getattr(getattr(self.config, "_json_report", None), "report", None) or {"tests": []}
        interrupted = exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or bool(
            session.shouldstop or session.shouldfail
        )
        self._pressure.stop()
        # workers that died may have left unfinished work
        remove_unfinished(self.run)
        try:
            self.ending = self._finish(report, interrupted=interrupted)
        except OSError as error:
            self.ending = Ending(False, (f"there is no verdict: {disk_refuses(error)}, then continue with --resume",))
        write_job_summary(self.ending)
        if session.exitstatus == pytest.ExitCode.OK and not self.ending.passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _finish(self, report: Mapping[str, Any], *, interrupted: bool) -> Ending:
        # imported here: only the end of a run needs it
        from invarlock.harness.ending.finishing import finish_calibration, finish_run

        if self.calibrates_only:
            models = {null_run.model.id: null_run.model for null_run in self._null_runs_planned}
            return finish_calibration(self.run, list(models.values()))
        return finish_run(self.run, report, interrupted=interrupted, columns=self._columns())

    def _columns(self) -> int | None:
        """Return the width of the terminal, or None if the output is not a terminal."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or not terminal.isatty:
            return None
        return int(self.config.get_terminal_writer().fullwidth)

    def pytest_unconfigure(self) -> None:
        """Release the run directory."""
        self._lock.give_back()
        if self._collected is not None:
            self._collected.remove()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the verdict and the location of the pack below pytest's summary."""
        if self.nothing_selected:
            terminalreporter.write_line("invarlock: no case is selected; list the cases with --collect-only")
        if self.ending is None:
            return
        terminalreporter.section("invarlock")
        columns = self._columns()
        for line in self.ending.lines:
            # commands are not folded, because people copy them
            for part in [line] if line.startswith(COMMANDS) else fit_line(printable(line), columns):
                terminalreporter.write_line(printable(part))
        # imported here: only the end of a run needs it
        from invarlock.harness.ending.job import annotation_lines

        for line in annotation_lines(self.ending):
            terminalreporter.write_line(line)

    def _cases(self, node_ids: Sequence[str]) -> list[Case]:
        return self.catalog.planned([parameter_id(node) for node in node_ids])

    def _planned_null_runs(self, node_ids: Sequence[str]) -> list[PlannedNullRun]:
        wanted = {parameter_id(node) for node in node_ids}
        return [null_run for null_run in self._null_runs() if null_run.id in wanted]

    def _plan(self, node_ids: Sequence[str]) -> None:
        if self.planned or self._null_runs_planned or shows_only(self.config.option):
            return
        cases = [] if self.calibrates_only else self._cases(node_ids)
        null_runs = self._planned_null_runs(node_ids) if self.calibrates_only else []
        self._check_sentinels(node_ids)
        if not cases and not null_runs:
            return
        # imported here: collecting needs none of it, nor does a worker
        from invarlock.harness.planning.beginning import plan_calibration, plan_run

        terminal = self.config.pluginmanager.getplugin("terminalreporter")

        def show(line: str) -> None:
            if terminal is not None:
                terminal.write_line(printable(f"invarlock: {line}"), flush=True)

        try:
            self._lock.take()
            whole = self.whole if self._collected is None else self.catalog.planned(self._collected.read())
            lines = plan_calibration(self.run, null_runs, show) if null_runs else plan_run(self.run, cases, show, whole)
        except BaseException as error:  # including Ctrl-C: a session that does not begin must not keep the lock
            self._lock.give_up()
            if isinstance(error, InvarLockError):
                raise pytest.UsageError(printable_lines(error.coded_text)) from None
            if isinstance(error, OSError):
                raise pytest.UsageError(printable(disk_refuses(error))) from None
            raise
        self.planned, self._null_runs_planned = cases, null_runs
        self._pressure.start()
        for line in lines:
            show(line)
        if cases and self.settings.fleet is None:
            # imported here: collecting needs none of it, nor does a worker
            from invarlock.harness.planning.estimating import run_estimate

            show(run_estimate(self.run, cases))

    def _check_sentinels(self, node_ids: Sequence[str]) -> None:
        """Refuse sentinels whose run or subjects are missing, before the first one runs."""
        names = [name for name in SENTINELS if any(node.endswith(f"::test_sentinel[{name}]") for node in node_ids)]
        found = sentinel_problems(self.run, names) if names else []
        if found:
            error = UsageError.listing(found, code=Code.RUN_DIRECTORY_UNUSABLE)
            raise pytest.UsageError(printable_lines(error.coded_text))


def shows_only(option: argparse.Namespace) -> bool:
    """Return whether pytest only shows something and runs no test."""
    return bool(option.collectonly or option.showfixtures or option.show_fixtures_per_test or option.setupplan)


def newest_run(folder: Path, suite: str, part: str = "") -> str | None:
    """Return a suite's newest run directory in a folder, by the time in its name; the name must end with ``part``."""
    time = f"{'[0-9]' * 8}_{'[0-9]' * 6}"
    runs = sorted((folder / "evidence_pack_runs").glob(f"{suite}_{time}{part}"))
    return str(runs[-1].relative_to(folder)) if runs else None


def case_of(item: pytest.Item) -> Case | None:
    """Return the case that an item runs, or None for any other test."""
    return _parameter(item, Case)


def timed_id(item: pytest.Item) -> str | None:
    """Return the id of an item's case or null run, or None for any other test."""
    timed = _parameter(item, Case) or _parameter(item, PlannedNullRun)
    return None if timed is None else timed.id


Parameter = TypeVar("Parameter")


def _parameter(item: pytest.Item, kind: type[Parameter]) -> Parameter | None:
    """Return an item's parameter of a type, or None if it has none."""
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec is not None else ()
    return next((value for value in values if isinstance(value, kind)), None)
