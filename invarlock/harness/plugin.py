"""The entry of the pytest plugin: it adds the options, and wakes up only for a suites folder.

A suites folder is one that holds ``models.toml`` and ``scenarios.json``. For any other path on pytest's command line
the plugin does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from invarlock.errors import InvarLockError, printable, printable_lines
from invarlock.settings import SETTINGS

# the hook that runs the command line in a container
pytest_plugins = ["invarlock.harness.container_run"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("invarlock", "InvarLock: pytest suites")
    for setting in SETTINGS:
        if setting.option is None:
            continue
        variables = f" [{', '.join(setting.variables)}]" if setting.variables else ""
        # argparse takes % for a placeholder
        text = (setting.help + variables).replace("%", "%%")
        destination = f"invarlock_{setting.name}"
        if setting.flag:
            group.addoption(setting.option, action="store_true", default=False, dest=destination, help=text)
        else:
            name = setting.option.removeprefix("--").replace("-", "_").upper()
            action = "append" if setting.many else "store"
            group.addoption(setting.option, action=action, default=None, dest=destination, metavar=name, help=text)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Take ``--dist worksteal`` where workers are asked for and not how they share cases; xdist takes ``load``."""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist == "no" and find_suites_folder(config) is not None:
        option.dist = "worksteal"
    return (yield)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a suites folder that pytest comes across while it collects something else: it runs when it is named."""
    session = config.pluginmanager.getplugin("invarlock-session")
    asked = None if session is None else session.folder
    return True if is_suites_folder(collection_path) and collection_path.resolve() != asked else None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    folder = find_suites_folder(config)
    if folder is None:
        return
    # imported here: pytest in any other folder does without
    from invarlock.harness import fixtures
    from invarlock.harness.container_run import given_settings
    from invarlock.harness.given_names import GivenNames
    from invarlock.harness.session import Controller, SuiteSession, Worker, shows_only, timed_id

    session: SuiteSession
    process = "controller" if _is_distributing(config) else "worker_0"
    try:
        settings = given_settings(config)
        _keep_off_the_network(online=settings.net and not hasattr(config, "workerinput"))
        if hasattr(config, "workerinput"):
            session = Worker(folder, settings, config)
            process = f"worker_{session.run.worker}"
        else:
            session = Controller(folder, settings, config)
    except InvarLockError as error:
        raise pytest.UsageError(printable_lines(str(error))) from None
    config.pluginmanager.register(session, "invarlock-session")
    config.pluginmanager.register(fixtures, "invarlock-fixtures")
    if isinstance(session, Controller):
        names = GivenNames(session.catalog, session.settings, config)
        config.pluginmanager.register(names, "invarlock-given-names")
    if shows_only(config.option):
        return
    from invarlock.harness.case_clock import CaseClock, lone_alarms, worker_alarms
    from invarlock.harness.interrupting import Interruption
    from invarlock.harness.logs import Logs
    from invarlock.harness.progress import Progress

    timeout = session.settings.case_timeout
    alarms = worker_alarms(timeout) if isinstance(session, Worker) else lone_alarms(timeout)
    config.pluginmanager.register(CaseClock(session.run.directory, alarms, timed_id), "invarlock-clock")
    config.pluginmanager.register(Logs(session.run, process), "invarlock-logs")
    if isinstance(session, Controller):
        config.pluginmanager.register(Progress(session), "invarlock-progress")
        config.pluginmanager.register(Interruption(config), "invarlock-interruption")


def _is_distributing(config: pytest.Config) -> bool:
    return getattr(config.option, "dist", "no") != "no"


def _keep_off_the_network(*, online: bool) -> None:
    """Let the hub's client make no connection; only the process that plans a run may, and only with ``--net 1``.

    The client reads its variables when it is imported, which nothing has done yet, and workers inherit them.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"


def find_suites_folder(config: pytest.Config) -> Path | None:
    """Return the suites folder that pytest's arguments lie in, or None.

    Raises:
        pytest.UsageError: when they lie in several.
    """
    found: dict[Path, None] = {}
    for argument in config.args:
        path = config.invocation_params.dir / argument.partition("::")[0].partition("[")[0]
        nearest = next((folder for folder in _upwards(path.resolve()) if is_suites_folder(folder)), None)
        found |= {} if nearest is None else {nearest: None}
    if len(found) > 1:
        raise pytest.UsageError(printable(f"{' and '.join(map(str, found))} are suites folders; a run has one"))
    return next(iter(found), None)


def is_suites_folder(path: Path) -> bool:
    """Tell whether a folder holds models and scenarios; one that may not be looked into holds none."""
    try:
        return (path / "models.toml").is_file() and (path / "scenarios.json").is_file()
    except PermissionError:
        return False


def _upwards(path: Path) -> Iterable[Path]:
    return (path, *path.parents)
