"""The entry point of the pytest plugin: options, the choice of a container, and the session over a suites folder.

The plugin does nothing for paths outside a suites folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from invarlock.errors import InvarLockError, printable_lines
from invarlock.harness.selection.suites_folder import find_suites_folder, is_suites_folder
from invarlock.machine_limits import usable_cores
from invarlock.settings import SETTINGS
from invarlock.settings.page import option_help

if TYPE_CHECKING:
    from invarlock.harness.session import SuiteSession

CONTAINER = "container"
# Options with which pytest runs no tests.
SHOWING = (
    "collectonly", "help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow", "setuponly",
    "setupplan",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for each setting that has one."""
    group = parser.getgroup("invarlock", "InvarLock: pytest suites")
    for setting in SETTINGS:
        if setting.option is None:
            continue
        # argparse treats % as a placeholder
        text = option_help(setting).replace("%", "%%")
        destination = f"invarlock_{setting.name}"
        if setting.flag:
            group.addoption(setting.option, action="store_true", default=False, dest=destination, help=text)
        else:
            name = setting.option.removeprefix("--").replace("-", "_").upper()
            action = "append" if setting.many else "store"
            group.addoption(setting.option, action=action, default=None, dest=destination, metavar=name, help=text)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """In the execution mode ``container``, run the command line in the runtime image and return its exit code."""
    if find_suites_folder(config) is None:
        return None
    _prefer_worksteal(config)
    if hasattr(config, "workerinput") or any(getattr(config.option, name, False) for name in SHOWING):
        return None
    # imported here: pytest in any other folder does not need it
    from invarlock.harness.opening import OPEN_SUITE, open_suite

    with _as_usage_errors():
        suite = open_suite(config)
        on_host = suite.settings.execution_mode != CONTAINER or suite.settings.fleet is not None
        if suite.handover is not None or on_host:
            return None
        # imported here: a run on the host does not need it
        from invarlock.harness.container.delegation import run_in_container

        ended = run_in_container(config, suite)
    if isinstance(ended, int):
        return ended
    config.stash[OPEN_SUITE] = replace(suite, launch_problems=ended)
    return None


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the number of workers of ``-n auto``: the cores that this process may use; None outside of suites."""
    if find_suites_folder(config) is None or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return usable_cores()


def _prefer_worksteal(config: pytest.Config) -> None:
    """Use ``--dist worksteal`` unless the command line names another distribution.

    xdist's own hook, which may run before this one, sets ``load``; the user's choice is read from the known arguments.
    """
    option, given = config.option, getattr(config.known_args_namespace, "dist", None)
    if getattr(option, "numprocesses", None) and given == "no" and not option.distload:
        option.dist = "worksteal"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore a suites folder that was not named, since pytest may find one while it collects something else."""
    if not is_suites_folder(collection_path):
        return None
    return None if collection_path.resolve() == find_suites_folder(config) else True


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if find_suites_folder(config) is None:
        return
    # imported here: pytest in any other folder does not need it
    from invarlock.harness import fixtures
    from invarlock.harness.opening import open_suite
    from invarlock.harness.selection.given_names import GivenNames
    from invarlock.harness.session import SESSION, Controller, Worker, shows_only, timed_id

    session: SuiteSession
    process = "controller" if _is_distributing(config) else "worker_0"
    with _as_usage_errors():
        suite = open_suite(config)
        is_worker = hasattr(config, "workerinput")
        _keep_off_the_network(online=suite.settings.net and not is_worker)
        if is_worker:
            session = Worker(suite, config)
            process = f"worker_{session.run.worker}"
        else:
            session = Controller(suite, config)
    config.stash[SESSION] = session
    config.pluginmanager.register(session, "invarlock-session")
    config.pluginmanager.register(fixtures, "invarlock-fixtures")
    if isinstance(session, Controller):
        names = GivenNames(session.catalog, session.settings, config)
        config.pluginmanager.register(names, "invarlock-given-names")
    if shows_only(config.option):
        return
    _join_fleet(session, config)
    # imported here: a session that runs no case does not need it
    from invarlock.harness.stopping.case_clock import CLOCK, CaseClock, lone_alarms, worker_alarms
    from invarlock.harness.stopping.interrupting import Interruption
    from invarlock.harness.terminal.logs import Logs
    from invarlock.harness.terminal.progress import Progress
    from invarlock.harness.terminal.worker_stages import WorkerStage, stages_folder

    timeout = session.settings.case_timeout
    alarms = worker_alarms(timeout) if isinstance(session, Worker) else lone_alarms(timeout)
    config.stash[CLOCK] = CaseClock(session.run.directory, alarms, timed_id)
    config.pluginmanager.register(config.stash[CLOCK], "invarlock-clock")
    config.pluginmanager.register(Logs(session.run, process), "invarlock-logs")
    if isinstance(session, Worker):
        path = stages_folder(session.run.directory) / f"{process}.json"
        config.pluginmanager.register(WorkerStage(path), "invarlock-worker-stage")
    if isinstance(session, Controller):
        config.pluginmanager.register(Progress(session), "invarlock-progress")
        config.pluginmanager.register(Interruption(config), "invarlock-interruption")


def _join_fleet(session: SuiteSession, config: pytest.Config) -> None:
    """Make this session the controller or a node of a fleet, depending on its settings."""
    if session.settings.piece is not None:
        # imported here: only a node of a fleet needs it
        from invarlock.harness.fleet.node import OUTCOMES
        from invarlock.harness.fleet.piece_session import PieceOutcomes
        from invarlock.harness.state.leftovers import die_with_parent

        die_with_parent()
        outcomes = PieceOutcomes(session.run.directory.state / OUTCOMES, config)
        config.pluginmanager.register(outcomes, "invarlock-piece-outcomes")
    if session.settings.fleet is None:
        return
    # imported here: a run on one machine does not need it
    from invarlock.harness.fleet.loop import FleetLoop
    from invarlock.harness.fleet.ray_cluster import check_ray_installed
    from invarlock.harness.fleet.slurm_cluster import check_submitit_installed
    from invarlock.harness.session import Controller

    with _as_usage_errors():
        if session.settings.fleet == "slurm":
            check_submitit_installed()
        else:
            check_ray_installed(session.settings.fleet)
    if _is_distributing(config):
        raise pytest.UsageError("--fleet and -n cannot be combined: the cluster places the cases; drop -n")
    assert isinstance(session, Controller)
    config.pluginmanager.register(FleetLoop(session), "invarlock-fleet")


def _is_distributing(config: pytest.Config) -> bool:
    return getattr(config.option, "dist", "no") != "no"


def _keep_off_the_network(*, online: bool) -> None:
    """Prevent the hub's client from making connections, except in the process that plans a run with ``--net 1``.

    This must be called before the client is imported, since it reads its variables then. Workers inherit the variables.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def _as_usage_errors() -> Iterator[None]:
    """Report an InvarLock error the way pytest reports a wrong command line: one line and no traceback."""
    try:
        yield
    except InvarLockError as error:
        raise pytest.UsageError(printable_lines(error.coded_text)) from None
